"""dSprites without a download: one square, ellipse or heart on black, from the indices of the official factor grid.

Grid and order of the factors are those of ``deepmind/dsprites-dataset``: shape 3, scale 6, orientation 40, x 32, y 32, the last
changing fastest (the official set's constant colour is left out). The pictures are drawn by formula ("compatible": a few border
pixels differ). As in the official set the orientations run from 0 to 2π *inclusive*, so that index 39 repeats index 0; the two
are never in different splits.

Splits share out the cells of the grid by ``seed``. Training samples are drawn from its cells with replacement; validation and
test hold each of theirs once, in random order. Variants of the β-VAE papers' experiments: a coarser grid (``strides``), flipped
pixels (``noise``), and regions of the factor grid that only the test split has (``held_out``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from objectwise.core import SPLITS, Batch, Config, FactorSpec, boxes_from_ids, seed_for, uniforms
from objectwise.data.labels import checked_indices, whole_numbers
from objectwise.rendering import dsprites

FACTORS = ("shape", "scale", "orientation", "x", "y")
"""Names of the factors, in the order of the columns everywhere."""
SIZES = (3, 6, 40, 32, 32)
"""How many values each has in the official grid."""
VALUES: dict[str, np.ndarray] = {
    "shape": np.arange(1.0, 4.0),
    "scale": np.linspace(0.5, 1.0, 6),
    "orientation": np.linspace(0.0, 2.0 * math.pi, 40),
    "x": np.linspace(0.0, 1.0, 32),
    "y": np.linspace(0.0, 1.0, 32),
}
"""The values of the official grid."""
SPECS = {
    "shape": FactorSpec("class", "categorical", categories=("none", *dsprites.SHAPES)),
    "scale": FactorSpec("of dSprites' largest", low=0.5, high=1.0),
    "orientation": FactorSpec("radians, counter-clockwise", low=0.0, high=2.0 * math.pi),
    "x": FactorSpec("from 1/4 to 3/4 of the width", low=0.0, high=1.0),
    "y": FactorSpec("from 1/4 to 3/4 of the height, downwards", low=0.0, high=1.0),
}

FactorName = Literal["shape", "scale", "orientation", "x", "y"]

_FACTORS, _NOISE = 0, 1  # purposes of the random streams
_COLUMNS = 5
_EVAL_SHARE = 10
_ENDS = np.array([False, True, False, True, True])  # scale, x and y have a last value; orientation turns around


class DspritesConfig(Config):
    """Settings of the generated dSprites."""

    image_size: int = Field(64, ge=16, le=256)
    """Side of the canvas in pixels; the sprites grow with it."""
    strides: tuple[int, int, int, int] = (1, 1, 1, 1)
    """Keep every n-th value of scale, orientation, x and y: a less dense set of factors."""
    noise: float = Field(0.0, ge=0.0, le=0.5)
    """Probability with which each pixel is flipped."""
    held_out: Literal["none", "corner", "L"] = "none"
    """What only the test split has. corner: both held_out_factors large; L: at least one of them large."""
    held_out_factors: tuple[FactorName, FactorName] = ("x", "y")
    """The two factors whose plane has a region held out."""
    held_out_share: float = Field(1 / 3, gt=0.0, lt=1.0)
    """Which share of the values of either counts as large."""
    seed: int = Field(0, ge=0)
    """Seed of the splits and of the samples."""
    train_size: int = Field(20_000_000, ge=1)
    """Number of training samples, drawn with replacement."""
    eval_size: int = Field(10_000, ge=1)
    """Number of cells in the validation and in the test split, at most a tenth of the cells each."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if any(not 1 <= stride < size for stride, size in zip(self.strides, SIZES[1:], strict=True)):
            raise ValueError(f"strides {self.strides} must be from 1 to {tuple(size - 1 for size in SIZES[1:])}")
        first, second = self.held_out_factors
        if first == second:
            raise ValueError(f"held_out_factors {self.held_out_factors} must be two different ones")
        return self

    def build(self) -> Dsprites:
        """The dataset."""
        return Dsprites(self)


class Dsprites:
    """The dataset; see :class:`objectwise.core.dataset.Dataset`.

    Attributes:
        kept: (5,) arrays of the grid indices that are in use.
    """

    shuffle = False
    factor_specs = SPECS

    def __init__(self, config: DspritesConfig) -> None:
        self.config = config
        self.image_shape = (1, config.image_size, config.image_size)
        self.max_objects: int | None = 1
        self.kept = tuple(np.arange(0, size, stride) for size, stride in zip(SIZES, (1, *config.strides), strict=True))
        self._cells = self._share_out()
        self.splits: Mapping[str, int] = {
            "train": config.train_size,
            "val": len(self._cells["val"]),
            "test": len(self._cells["test"]),
        }

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The samples with these indices; see :class:`objectwise.core.dataset.Dataset`."""
        wanted = np.asarray(indices, np.int64)
        found = self.render(self.sample_factors(split, wanted), wanted)
        if self.config.noise > 0.0:
            draws = uniforms(self.config.seed, (SPLITS.index(split), _NOISE), wanted, found.images[0].numel())
            flips = torch.from_numpy(draws < self.config.noise).view(found.images.shape)
            found.images[flips] = 1.0 - found.images[flips]
        return found

    def sample_factors(self, split: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(B, 5) int64 grid indices of the factors in the order of :data:`FACTORS`.

        Raises:
            UserError: for an unknown split or index.
        """
        wanted = checked_indices("dsprites", self.splits, split, indices)
        cells = self._cells[split]
        if split == "train":
            draws = uniforms(self.config.seed, (SPLITS.index(split), _FACTORS), wanted, 1)
            wanted = whole_numbers(draws[:, 0], 0, len(cells) - 1)
        return np.stack(np.unravel_index(cells[wanted], SIZES), axis=1)

    def cells(self, split: str) -> np.ndarray:
        """(N,) int64 numbers of the grid cells that a split is drawn from: rows of the official set."""
        return self._cells[split]

    def render(self, factors: np.ndarray, indices: np.ndarray | None = None) -> Batch:
        """The images, without noise, and labels of these grid indices.

        Args:
            factors: (B, 5) grid indices, drawn or made up, of the whole grid.
            indices: (B,) what to call the samples; None: 0, 1, ...
        """
        values = grid_values(factors)
        size = self.config.image_size
        lit = dsprites.draw(
            factors[:, 0] + 1, values["scale"], values["orientation"], values["x"], values["y"], size=size
        )
        return sprite_batch(np.arange(len(factors)) if indices is None else indices, lit, values)

    def neighbour_distance(self, samples: int = 500) -> float:
        """How many pixels, on average, an image differs in from one with the next value in use of one factor.

        The density of the training factors (Higgins et al. 2016): small where the manifold is densely sampled. Shape has no next
        value, orientation turns around.

        Args:
            samples: number of pairs; which, is a function of the seed.
        """
        draws = uniforms(self.config.seed, (len(SPLITS), _FACTORS), np.arange(samples), 1 + _COLUMNS)
        which = whole_numbers(draws[:, 0], 1, _COLUMNS - 1)
        last = np.array([len(kept) - 1 for kept in self.kept]) - ((which[:, None] == np.arange(_COLUMNS)) & _ENDS)
        place = whole_numbers(draws[:, 1:], 0, last)
        moved = place.copy()
        moved[np.arange(samples), which] += 1
        moved[:, 2] %= len(self.kept[2])
        pictures = []
        for places in (place, moved):
            factors = np.stack([self.kept[k][places[:, k]] for k in range(_COLUMNS)], axis=1)
            pictures.append(self.render(factors).images)
        return float((pictures[0] != pictures[1]).flatten(1).sum(dim=1).double().mean())

    def _share_out(self) -> dict[str, np.ndarray]:
        """Split -> its grid cells."""
        grid: np.ndarray = np.stack(np.meshgrid(*self.kept, indexing="ij"), axis=-1).reshape(-1, _COLUMNS)
        cells = np.ravel_multi_index(tuple(grid.T), SIZES)
        if self.config.held_out == "none":
            rows = shared_out(same_picture(grid), self.config.eval_size, self.config.seed)
            return {split: cells[rows[split]] for split in SPLITS}
        outside = self._held_out(grid)
        rows = shared_out(same_picture(grid[~outside]), self.config.eval_size, self.config.seed, held=("val",))
        order = np.random.Generator(np.random.PCG64(seed_for(self.config.seed, 1))).permutation(int(outside.sum()))
        inside = cells[~outside]
        test = cells[outside][order[: self.config.eval_size]]
        return {"train": inside[rows["train"]], "val": inside[rows["val"]], "test": test}

    def _held_out(self, grid: np.ndarray) -> np.ndarray:
        """(N,) bool: cells (N, 5) of the region that only the test split has."""
        large = []
        for name in self.config.held_out_factors:
            kept = self.kept[FACTORS.index(name)]
            count = min(max(1, round(self.config.held_out_share * len(kept))), len(kept) - 1)
            large.append(grid[:, FACTORS.index(name)] >= kept[-count])
        return large[0] & large[1] if self.config.held_out == "corner" else large[0] | large[1]


def grid_values(factors: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> (B,) float64 values of grid indices (B, 5); shape as 1, 2, 3."""
    return {name: VALUES[name][factors[:, column]] for column, name in enumerate(FACTORS)}


def same_picture(factors: np.ndarray) -> np.ndarray:
    """(N,) int64, equal for cells (N, 5) that the grid's inclusive end makes the same picture."""
    first = factors.copy()
    first[:, 2] %= SIZES[2] - 1
    return np.ravel_multi_index(tuple(first.T), SIZES)


def shared_out(
    groups: np.ndarray, eval_size: int, seed: int, held: Sequence[str] = ("val", "test")
) -> dict[str, np.ndarray]:
    """Split -> rows; rows of one group never come into different splits.

    Args:
        groups: (N,) the group of each row.
        eval_size: groups in each split of ``held``, at most a tenth of all; one row of each is used.
        seed: of the choice.
        held: the splits besides ``train``.
    """
    names, first = np.unique(groups, return_index=True)
    order = np.random.Generator(np.random.PCG64(seed_for(seed, 0))).permutation(len(names))
    count = max(1, min(eval_size, len(names) // _EVAL_SHARE))
    taken = np.zeros(len(names), bool)
    taken[order[: len(held) * count]] = True
    rows = {"train": np.flatnonzero(~taken[np.searchsorted(names, groups)])}
    return rows | {split: first[order[k * count : (k + 1) * count]] for k, split in enumerate(held)}


def sprite_batch(indices: np.ndarray, lit: np.ndarray, values: Mapping[str, np.ndarray]) -> Batch:
    """The labelled batch of single white sprites on black.

    Args:
        indices: (B,) sample indices.
        lit: (B, H, W) bool.
        values: name -> (B,), as :data:`VALUES` has them.
    """
    ids = lit.view(np.uint8)
    boxes, visible = boxes_from_ids(ids, 2)
    factors = {name: torch.from_numpy(np.stack([np.zeros_like(row), row], axis=1)) for name, row in values.items()}
    return Batch(
        index=torch.from_numpy(np.asarray(indices, np.int64)),
        images=torch.from_numpy(ids).unsqueeze(1).float(),
        instances=torch.from_numpy(ids).long(),
        factors={name: rows.long() if name == "shape" else rows.float() for name, rows in factors.items()},
        factor_specs=SPECS,
        present=torch.ones(len(ids), 2, dtype=torch.bool),
        visible_pixels=torch.from_numpy(visible),
        boxes=torch.from_numpy(boxes),
    )
