"""The dataset's side of the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from objectwise.core.batch import Batch
from objectwise.core.config import Config
from objectwise.core.randomness import seed_for

SPLITS = ("train", "val", "test")
"""Names of the splits in the order of their stream numbers for :func:`objectwise.core.uniforms`."""


@runtime_checkable
class Dataset(Protocol):
    """What training, evaluation and figures ask of data.

    Sample i of a split is a pure function of (config, split, i): not of the batch, worker or order it is asked in.

    Attributes:
        config: the frozen configuration it was built from.
        splits: split name -> number of samples; splits never share samples.
        image_shape: (C, H, W).
        max_objects: the most objects an image can hold, or None where unknown.
        shuffle: whether training visits samples in random order (stored data), or by index (generated data,
            whose samples are independent, and ordered data such as trajectories).
    """

    config: Config
    splits: Mapping[str, int]
    image_shape: tuple[int, int, int]
    max_objects: int | None
    shuffle: bool

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The samples with these indices.

        Args:
            split: one of ``splits``.
            indices: (B,) integers in [0, splits[split]).
        """
        ...


class TrainingOrder:
    """Which samples training step s uses: a pure function of (seed, step, rank).

    Args:
        size: number of training samples.
        batch_size: images per step over all processes.
        seed: seed of the permutations.
        shuffle: a fresh permutation per epoch, or the order of the indices.
    """

    def __init__(self, size: int, batch_size: int, seed: int, *, shuffle: bool) -> None:
        self.size, self.batch_size, self.seed, self.shuffle = size, batch_size, seed, shuffle
        self._epoch: tuple[int, np.ndarray] | None = None

    def indices(self, step: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """(batch_size / world_size,) sample indices of one rank at one step."""
        local = self.batch_size // world_size
        start = step * self.batch_size + rank * local
        return np.array([self._at(position) for position in range(start, start + local)], dtype=np.int64)

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, self.size)
        return int(self._permutation(epoch)[offset]) if self.shuffle else offset

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._epoch is None or self._epoch[0] != epoch:
            order = np.random.Generator(np.random.PCG64(seed_for(self.seed, 1, epoch))).permutation(self.size)
            self._epoch = (epoch, order)
        return self._epoch[1]
