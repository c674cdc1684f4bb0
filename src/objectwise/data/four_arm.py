"""One body with four arms whose lengths follow two factors: does a model find the two causes or the four effects?

The independence test of Higgins et al. 2016, which says no more than this; sizes and which arms go together are ours:
the horizontal ones follow one factor, the vertical ones the other. ``free`` arms, four factors, are the control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from objectwise.core import SPLITS, Batch, Config, FactorSpec, boxes_from_ids, uniforms
from objectwise.data.labels import checked_indices
from objectwise.rendering import four_arm

_COLUMNS = {"paired": (0, 1, 0, 1), "free": (0, 1, 2, 3)}


class FourArmConfig(Config):
    """Settings of the four-armed bodies."""

    arms: Literal["paired", "free"] = "paired"
    """paired: horizontal arms share a length, and so do vertical ones; free: four lengths."""
    image_size: int = Field(64, ge=16, le=256)
    """Side of the canvas in pixels; the body grows with it."""
    seed: int = Field(0, ge=0)
    """Seed of the samples."""
    train_size: int = Field(20_000_000, ge=1)
    """Number of training samples."""
    eval_size: int = Field(5_000, ge=1)
    """Number of samples in the validation and in the test split."""

    def build(self) -> FourArm:
        """The dataset."""
        return FourArm(self)


class FourArm:
    """The dataset; see :class:`objectwise.core.dataset.Dataset`."""

    shuffle = False

    def __init__(self, config: FourArmConfig) -> None:
        self.config = config
        self.image_shape = (1, config.image_size, config.image_size)
        self.max_objects: int | None = 1
        self.splits: Mapping[str, int] = {
            "train": config.train_size,
            "val": config.eval_size,
            "test": config.eval_size,
        }
        low, high = four_arm.LENGTHS
        names = ("horizontal", "vertical") if config.arms == "paired" else four_arm.ARMS
        self.factor_specs = {name: FactorSpec("pixels of 64 to the width", low=low, high=high) for name in names}

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The bodies with these indices; see :class:`objectwise.core.dataset.Dataset`."""
        return self.render(self.sample_factors(split, indices), np.asarray(indices, np.int64))

    def sample_factors(self, split: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(B, 2) or (B, 4) float64 lengths in the order of ``factor_specs``, uniform.

        Raises:
            UserError: for an unknown split or index.
        """
        wanted = checked_indices("four_arm", self.splits, split, indices)
        low, high = four_arm.LENGTHS
        return low + (high - low) * uniforms(self.config.seed, (SPLITS.index(split), 0), wanted, len(self.factor_specs))

    def render(self, lengths: np.ndarray, indices: np.ndarray | None = None) -> Batch:
        """The images and labels of these lengths.

        Args:
            lengths: (B, 2) or (B, 4), drawn or made up.
            indices: (B,) what to call the samples; None: 0, 1, ...
        """
        images = four_arm.draw(lengths[:, _COLUMNS[self.config.arms]], self.config.image_size)
        ids = (images > 0.5).view(np.uint8)
        boxes, visible = boxes_from_ids(ids, 2)
        rows = np.zeros((len(self.factor_specs), len(images), 2), np.float32)
        rows[:, :, 1] = lengths.T
        return Batch(
            index=torch.from_numpy(np.arange(len(images)) if indices is None else indices),
            images=torch.from_numpy(images).float().unsqueeze(1),
            instances=torch.from_numpy(ids).long(),
            factors=dict(zip(self.factor_specs, torch.from_numpy(rows), strict=True)),
            factor_specs=self.factor_specs,
            present=torch.ones(len(images), 2, dtype=torch.bool),
            visible_pixels=torch.from_numpy(visible),
            boxes=torch.from_numpy(boxes),
        )
