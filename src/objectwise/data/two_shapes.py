"""Squares and circles in three colours on black: the set of the MONet blog post (borea17), and the set its text promises.

``faithful`` keeps what the post's code does:

* 0, 1 or 2 objects with equal probability, although the text says two: a third of the images is empty, and two thirds
  are degenerate for the foreground ARI;
* "size" s covers s + 1 pixels, because Pillow's end points are inclusive, and circles have Pillow's outline;
* two objects never share a row or a column: the second keeps a distance of more than the larger size in x and, separately,
  in y;
* objects stay within the positions that have room for the largest size.

It follows the post's law, not its random stream. ``corrected`` draws the same shapes and colours, by default two per
image, anywhere on the canvas where they do not overlap. Beyond the post, ``overlap`` lets them hide one another, and
``leave_out`` keeps combinations of colour and shape for tests of generalization.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from objectwise.core import SPLITS, Batch, Config, FactorSpec, uniforms
from objectwise.data.labels import checked_indices, labelled_batch, place_in_turn, whole_numbers

SHAPES = ("square", "circle")
COLORS = {"red": (255, 0, 0), "green": (0, 128, 0), "aqua": (0, 255, 255)}
COMBINATIONS = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
"""What ``leave_out`` names."""


class TwoShapesConfig(Config):
    """Settings of the two-shapes scenes."""

    mode: Literal["faithful", "corrected"] = "corrected"
    """faithful: the blog post's code with its quirks; corrected: what its text promises."""
    image_size: int = Field(64, ge=16, le=512)
    """Side of the canvas in pixels."""
    counts: tuple[int, ...] | None = None
    """Numbers of objects per image, all equally likely; None: 0, 1, 2 when faithful, 2 when corrected."""
    object_size: tuple[int, int] | None = None
    """Smallest and largest size s of an object, which covers s + 1 pixels; None: 12 to 20 on 64 pixels, in proportion on
    other canvases (when faithful at most what leaves the second object a place)."""
    colors: Literal["independent", "different", "same"] = "independent"
    """Whether the objects of an image choose their colours freely, must differ, or share one; nothing else changes."""
    overlap: bool = False
    """Whether a later object may hide earlier ones, wholly even; mode corrected only."""
    leave_out: tuple[str, ...] = ()
    """Combinations that are never drawn, such as `"red circle"`: the shape is then uniform over those its colour has left."""
    seed: int = Field(0, ge=0)
    """Seed of the scenes."""
    train_size: int = Field(50_000, ge=1)
    """Number of training scenes."""
    eval_size: int = Field(2_000, ge=1)
    """Number of scenes in the validation and in the test split."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        most = 2 if self.mode == "faithful" else 16
        low, high = self.sizes
        if self.counts is not None and (not self.counts or min(self.counts) < 0 or max(self.counts) > most):
            raise ValueError(f"counts {self.counts} must be one or more numbers from 0 to {most} in mode {self.mode}")
        if not 1 <= low <= high < self.image_size:
            raise ValueError(f"object_size {(low, high)} must satisfy 1 <= smallest <= largest < {self.image_size}")
        if self.mode == "faithful" and 3 * high + 3 > self.image_size:
            raise ValueError(
                f"object_size {(low, high)} is too large for image_size {self.image_size} in mode faithful, "
                f"which needs three times the largest plus 3; at most {self.image_size // 3 - 1}"
            )
        if self.mode == "faithful" and self.overlap:
            raise ValueError("overlap needs mode corrected: the faithful set keeps its objects apart")
        unknown = [name for name in self.leave_out if name not in COMBINATIONS]
        if unknown:
            raise ValueError(f"leave_out: '{unknown[0]}' is none of {', '.join(COMBINATIONS)}")
        bare = [color for color in COLORS if all(f"{color} {shape}" in self.leave_out for shape in SHAPES)]
        if bare:
            raise ValueError(f"leave_out leaves no shape that could be {bare[0]}")
        if (
            self.mode == "corrected"
            and not self.overlap
            and max(self.numbers) * (high + 1) ** 2 > 0.55 * self.image_size**2
        ):
            raise ValueError(
                f"{max(self.numbers)} objects of up to {high + 1} pixels do not surely fit into "
                f"{self.image_size}x{self.image_size} without overlap; use a smaller object_size or fewer objects"
            )
        if self.colors == "different" and max(self.numbers) > len(COLORS):
            raise ValueError(
                f"{max(self.numbers)} objects cannot all differ in colour; there are {len(COLORS)} colours"
            )
        return self

    @property
    def numbers(self) -> tuple[int, ...]:
        """``counts`` with its default filled in."""
        if self.counts is not None:
            return self.counts
        return (0, 1, 2) if self.mode == "faithful" else (2,)

    @property
    def sizes(self) -> tuple[int, int]:
        """``object_size`` with its default filled in."""
        if self.object_size is not None:
            return self.object_size
        low, high = round(12 * self.image_size / 64), round(20 * self.image_size / 64)
        return low, min(high, self.image_size // 3 - 1) if self.mode == "faithful" else high

    def build(self) -> TwoShapes:
        """The dataset."""
        return TwoShapes(self)


class Scene(NamedTuple):
    """Factors of B scenes of up to M objects; rows at and beyond ``number`` are drawn too but not used.

    Attributes:
        number: (B,) int64 objects in use.
        shape: (B, M) int64 index into :data:`SHAPES`.
        color: (B, M) int64 index into :data:`COLORS`.
        size: (B, M) int64 pixels s; the object covers s + 1.
        x: (B, M) int64 left column.
        y: (B, M) int64 top row.
    """

    number: np.ndarray
    shape: np.ndarray
    color: np.ndarray
    size: np.ndarray
    x: np.ndarray
    y: np.ndarray


class TwoShapes:
    """The dataset; see :class:`objectwise.core.dataset.Dataset`."""

    shuffle = False

    def __init__(self, config: TwoShapesConfig) -> None:
        self.config = config
        side, (low, high) = config.image_size, config.sizes
        self.image_shape = (3, side, side)
        self.max_objects: int | None = max(config.numbers)
        self.splits: Mapping[str, int] = {
            "train": config.train_size,
            "val": config.eval_size,
            "test": config.eval_size,
        }
        self.factor_specs = {
            "shape": FactorSpec("class", "categorical", categories=SHAPES),
            "color": FactorSpec("class", "categorical", categories=tuple(COLORS)),
            "size": FactorSpec("pixels (covers one more)", low=low, high=high),
            "x": FactorSpec("pixels (left column)", low=0, high=side - low - 1),
            "y": FactorSpec("pixels (top row)", low=0, high=side - low - 1),
        }
        self._table = _run_table(low, high).astype(np.uint8 if side <= 256 else np.uint16).reshape(2, -1)

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The scenes with these indices; see :class:`objectwise.core.dataset.Dataset`."""
        return self.render(self.sample_factors(split, indices), np.asarray(indices, np.int64))

    def sample_factors(self, split: str, indices: Sequence[int] | np.ndarray) -> Scene:
        """Everything about the scenes; fixed numbers of draws, those of absent objects included.

        Raises:
            UserError: for an unknown split or index, or if the objects of a scene find no place.
        """
        indices = checked_indices("two_shapes", self.splits, split, indices)
        numbers, (low, high) = self.config.numbers, self.config.sizes
        most = max(numbers)
        draws = uniforms(self.config.seed, (SPLITS.index(split), 0), indices, 1 + 5 * most)
        each = draws[:, 1:].reshape(len(indices), most, 5)
        number = np.array(numbers)[whole_numbers(draws[:, 0], 0, len(numbers) - 1)]
        color = _choose_colors(each[..., 1], self.config.colors)
        shape = _choose_shapes(each[..., 0], color, self.config.leave_out)
        size = whole_numbers(each[..., 2], low, high)
        if self.config.mode == "faithful":
            places = self.config.image_size - high - 1
            x, y = (_bands_apart(each[..., axis], size, places) for axis in (3, 4))
        else:
            x, y = self._place(split, indices, number, shape, size, each[..., 3:])
        return Scene(number, shape, color, size, x, y)

    def render(self, scene: Scene, indices: np.ndarray | None = None) -> Batch:
        """The images and labels of these scenes.

        Args:
            scene: B scenes, drawn or made up; a later object hides an earlier one.
            indices: (B,) what to call them; None: 0, 1, ...
        """
        batch, most = scene.shape.shape
        side = self.config.image_size
        columns, rows = np.arange(side, dtype=self._table.dtype), np.arange(side)
        ids = np.zeros((batch, side, side), np.uint8)
        for m in range(most):
            left, width = self._runs(scene.shape[:, m], scene.size[:, m], rows - scene.y[:, m, None])
            left += scene.x[:, m, None].astype(left.dtype)
            width[scene.number <= m] = 0
            lit = columns - left[:, :, None] < width[:, :, None]  # unsigned: large where the column is further left
            np.maximum(ids, lit.view(np.uint8) * np.uint8(m + 1), out=ids)
        colors = np.zeros((batch, most + 1, 3), np.uint8)
        colors[:, 1:] = np.array(list(COLORS.values()), np.uint8)[scene.color]
        lengths = {name: getattr(scene, name).astype(float) for name in ("size", "x", "y")}
        return labelled_batch(
            np.arange(batch) if indices is None else indices,
            ids,
            colors,
            scene.number,
            {"shape": scene.shape, "color": scene.color, **lengths},
            self.factor_specs,
        )

    def _place(
        self,
        split: str,
        indices: np.ndarray,
        number: np.ndarray,
        shape: np.ndarray,
        size: np.ndarray,
        first: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Left columns and top rows (B, M) without overlap."""
        side = self.config.image_size
        room = side - 1 - size

        def fits(rows: np.ndarray, m: int, tries: np.ndarray, before: np.ndarray) -> np.ndarray:
            good = np.ones(tries.shape[:2], bool)
            if m == 0 or self.config.overlap:
                return good
            here = whole_numbers(tries, 0, room[rows, m, None, None])
            steps = np.arange(self.config.sizes[1] + 1)
            left, width = (part.astype(np.int64) for part in self._runs(shape[rows, m], size[rows, m], steps))
            for entity in range(m):
                there = whole_numbers(before[:, entity], 0, room[rows, entity, None])[:, None]
                row = steps + (here - there)[:, :, 1:]  # of the earlier object, (n, T, S)
                other, length = self._runs(shape[rows, entity, None], size[rows, entity, None], row)
                other = other + (there - here)[:, :, :1]
                apart = (other >= (left + width)[:, None]) | (left[:, None] >= other + length)
                good &= (apart | (length == 0) | (width == 0)[:, None]).all(axis=2)
            return good

        place = place_in_turn(
            indices,
            number,
            first,
            fits,
            seed=self.config.seed,
            split=split,
            what=f"{max(self.config.numbers)} objects find no place on {side}x{side} pixels; use a smaller object_size",
        )
        x, y = np.moveaxis(whole_numbers(place, 0, room[..., None]), -1, 0)
        return x, y

    def _runs(self, shape: np.ndarray, size: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Left column and width of rows (..., R) of objects (...), relative to the object's corner; width 0 outside.

        Unsigned, of the smallest type that holds a column.
        """
        low, high = self.config.sizes
        below = np.minimum(row.view(np.uint64), np.uint64(high + 1)).view(np.int64)  # rows above are huge when unsigned
        index = ((shape * (high - low + 1) + size - low) * (high + 2))[..., None] + below
        return np.take(self._table[0], index), np.take(self._table[1], index)


def share_a_color(batch: Batch) -> Tensor:
    """(B,) bool: which images hold at least two objects of one colour, for results on those alone."""
    color, present = batch.factors["color"], batch.object_present
    assert present is not None
    per_color = torch.stack([((color == code) & present).sum(dim=1) for code in range(len(COLORS))], dim=1)
    return (per_color >= 2).any(dim=1)


def has_combination(batch: Batch, combinations: Sequence[str]) -> Tensor:
    """(B,) bool: which images hold at least one object of these combinations, for results on what was left out."""
    present = batch.object_present
    assert present is not None
    found = torch.zeros_like(present)
    for name in combinations:
        color, _, shape = name.partition(" ")
        code = (list(COLORS).index(color), SHAPES.index(shape))
        found |= (batch.factors["color"] == code[0]) & (batch.factors["shape"] == code[1])
    return (found & present).any(dim=1)


def disc(size: int) -> np.ndarray:
    """The circle that Pillow fills in the box from (0, 0) to (size, size), both corners included.

    In every row the outline takes the pixel whose centre is nearest to the circle, and in every column as well; the disc
    is what they enclose.

    Args:
        size: at least 1.

    Returns:
        (size + 1, size + 1) bool.
    """
    doubled = 2 * np.arange(size + 1) - size  # twice the distance from the centre, a whole number
    right = doubled[doubled >= 0]
    error = np.abs(right[:, None] ** 2 + doubled**2 - size**2)  # (candidate, row)
    reach = right[error.argmin(axis=0)]
    rows = np.abs(doubled) <= reach[:, None]
    return rows | rows.T


def _run_table(low: int, high: int) -> np.ndarray:
    """(2, shapes, sizes, high + 2): left column and width of every row of every object; width 0 below it."""
    table = np.zeros((2, len(SHAPES), high - low + 1, high + 2), np.int64)
    for size in range(low, high + 1):
        for kind, lit in enumerate((np.ones((size + 1, size + 1), bool), disc(size))):
            table[:, kind, size - low, : size + 1] = lit.argmax(axis=1), lit.sum(axis=1)
    return table


def _choose_colors(draws: np.ndarray, rule: str) -> np.ndarray:
    """(B, M) uniforms -> (B, M) int64 colour indices."""
    if rule == "independent":
        return whole_numbers(draws, 0, len(COLORS) - 1)
    if rule == "same":
        return np.repeat(whole_numbers(draws[:, :1], 0, len(COLORS) - 1), draws.shape[1], axis=1)
    left = np.tile(np.arange(len(COLORS)), (len(draws), 1))
    chosen = np.zeros(draws.shape, np.int64)
    for m in range(draws.shape[1]):
        taken = whole_numbers(draws[:, m], 0, len(COLORS) - 1 - m)[:, None]
        chosen[:, m] = np.take_along_axis(left, taken, axis=1)[:, 0]
        left = left[np.arange(left.shape[1]) != taken].reshape(len(left), -1)
    return chosen


def _choose_shapes(draws: np.ndarray, color: np.ndarray, leave_out: Sequence[str]) -> np.ndarray:
    """(B, M) uniforms and colours -> (B, M) int64 shapes, uniform over those that the colour may have."""
    kept = [[k for k, shape in enumerate(SHAPES) if f"{name} {shape}" not in leave_out] for name in COLORS]
    table = np.array([(shapes * len(SHAPES))[: len(SHAPES)] for shapes in kept])
    return np.asarray(table[color, whole_numbers(draws, 0, np.array([len(shapes) for shapes in kept])[color] - 1)])


def _bands_apart(draws: np.ndarray, size: np.ndarray, places: int) -> np.ndarray:
    """Positions along one axis as the post's code draws them.

    Args:
        draws: (B, M ≤ 2) uniforms.
        size: (B, M) sizes.
        places: P; positions are 0 to P − 1.

    Returns:
        (B, M) int64: the first uniform, the second uniform over those further away than the larger size.
    """
    position = whole_numbers(draws, 0, places - 1)
    if draws.shape[1] == 2:
        first, gap = position[:, 0], size.max(axis=1)
        before = np.maximum(first - gap, 0)
        after = np.maximum(places - 1 - (first + gap), 0)
        chosen = whole_numbers(draws[:, 1], 0, before + after - 1)
        position[:, 1] = np.where(chosen < before, chosen, chosen - before + first + gap + 1)
    return position
