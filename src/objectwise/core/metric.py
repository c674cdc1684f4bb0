"""What every metric returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class MetricResult:
    """A score and how it came about.

    Attributes:
        value: mean over the scored images; NaN if none was scored.
        per_image: (B,) float64, NaN for images that were skipped.
        n_scored: how many images the mean is over.
        n_skipped: how many were left out by the policy.
        policy: the settings that produced it, by name.
    """

    value: float
    per_image: np.ndarray
    n_scored: int
    n_skipped: int
    policy: Mapping[str, object] = field(default_factory=dict)

    @property
    def standard_error(self) -> float:
        """Standard error of ``value`` over images; NaN with fewer than two."""
        if self.n_scored < 2:
            return float("nan")
        return float(np.nanstd(self.per_image, ddof=1) / np.sqrt(self.n_scored))

    @classmethod
    def over_images(cls, per_image: np.ndarray | Tensor, **policy: object) -> MetricResult:
        """Average the images that are not NaN.

        Args:
            per_image: (B,) scores, NaN where an image is not scored.
            policy: the settings that produced them.
        """
        scores = np.asarray(per_image, dtype=np.float64)
        scored = ~np.isnan(scores)
        value = float(scores[scored].mean()) if scored.any() else float("nan")
        return cls(value, scores, int(scored.sum()), int((~scored).sum()), policy)
