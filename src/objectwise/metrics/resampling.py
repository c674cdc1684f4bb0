"""How far a mean over images could have fallen otherwise: percentile bootstrap.

Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 1979. It covers the choice of test images, not the
choice of training run: that varies more, and needs several runs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from objectwise.core import UserError

_CHUNK = 1 << 22


def bootstrap_interval(
    per_image: Tensor | np.ndarray, *, generator: torch.Generator, draws: int = 1_000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean over images.

    Args:
        per_image: (B,) scores; NaN marks images that were not scored and are not drawn.
        generator: of the resamples, on the CPU.
        draws: how many resamples of as many images.
        level: share of the resampled means inside the interval, in (0, 1).

    Returns:
        (low, high); NaN where fewer than two images were scored.

    Raises:
        UserError: for a level or a number of draws out of range.
    """
    if not 0.0 < level < 1.0 or draws < 1:
        raise UserError(f"level = {level} must lie in (0, 1) and draws = {draws} be at least 1")
    scores = np.asarray(per_image, dtype=np.float64)
    scores = scores[~np.isnan(scores)]
    if len(scores) < 2:
        return float("nan"), float("nan")
    rows = max(1, _CHUNK // len(scores))
    means = [
        scores[torch.randint(len(scores), (min(rows, draws - start), len(scores)), generator=generator).numpy()].mean(1)
        for start in range(0, draws, rows)
    ]
    # A score that is infinite (a broken reconstruction) has no interpolated quantiles, but it has these.
    bounds = [(1.0 - level) / 2.0, (1.0 + level) / 2.0]
    low, high = np.quantile(np.concatenate(means), bounds, method="inverted_cdf")
    return float(low), float(high)
