"""Multi-dSprites without a download: several dSprites shapes on one canvas, later ones hiding earlier ones.

Compatible with the three variants of deepmind/multi_object_datasets in counts and colours; the law of the other factors is not
documented there, and ours is uniform. As in the official set a sprite may be present and entirely hidden, and in
``colored_on_colored`` it may be nearly as the background; say which variant a number was measured on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from objectwise.core import SPLITS, Batch, Config, FactorSpec, uniforms
from objectwise.core.boxes import count_pixels
from objectwise.data.labels import checked_indices, labelled_batch, place_in_turn, whole_numbers
from objectwise.rendering import dsprites

Variant = Literal["binarized", "colored_on_grayscale", "colored_on_colored"]

COUNTS: dict[Variant, tuple[int, ...]] = {
    "binarized": (2, 3),
    "colored_on_grayscale": (2, 3, 4, 5),
    "colored_on_colored": (1, 2, 3, 4),
}
"""Numbers of sprites per scene in the official variants."""


class MultiDspritesConfig(Config):
    """Settings of the Multi-dSprites scenes."""

    variant: Variant = "colored_on_grayscale"
    """binarized: white on black; colored_on_grayscale: random HSV colours on a random grey; colored_on_colored: random
    RGB on random RGB."""
    image_size: int = Field(64, ge=16, le=512)
    """Side of the canvas in pixels; the sprites grow with it."""
    counts: tuple[int, ...] | None = None
    """Numbers of sprites per scene, all equally likely; None: those of the official variant."""
    min_visible: int = Field(0, ge=0)
    """Pixels of each sprite that must stay visible; 0: sprites may be hidden, as in the official set."""
    no_overlap: bool = False
    """Whether sprites must not hide each other; off, as in the official set."""
    seed: int = Field(0, ge=0)
    """Seed of the scenes."""
    train_size: int = Field(60_000, ge=1)
    """Number of training scenes."""
    eval_size: int = Field(2_000, ge=1)
    """Number of scenes in the validation and in the test split."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.counts is not None and (not self.counts or min(self.counts) < 0 or max(self.counts) > 32):
            raise ValueError(f"counts {self.counts} must be one or more numbers from 0 to 32")
        most = max(self.counts or COUNTS[self.variant])
        if self.no_overlap and most > 6:
            raise ValueError(f"no_overlap leaves room for at most 6 sprites, not {most}")
        smallest = 50 * (self.image_size / dsprites.REFERENCE_SIZE) ** 2
        if self.min_visible > smallest:
            raise ValueError(
                f"min_visible {self.min_visible} is more than the smallest sprite has at image_size "
                f"{self.image_size} (about {smallest:.0f} pixels)"
            )
        return self

    def build(self) -> MultiDsprites:
        """The dataset."""
        return MultiDsprites(self)


class Scene(NamedTuple):
    """Factors of B scenes of up to M sprites; rows at and beyond ``number`` are drawn too but not used.

    Attributes:
        number: (B,) int64 sprites in use.
        shape: (B, M) int64 codes 1 square, 2 ellipse, 3 heart.
        scale: (B, M) float32, 0.5 to 1.
        orientation: (B, M) float32 radians, counter-clockwise.
        x: (B, M) float32 in [0, 1], from a quarter to three quarters of the width.
        y: (B, M) float32 in [0, 1], from a quarter to three quarters of the height, downwards.
        color: (B, M, C) uint8.
        background: (B, C) uint8.
    """

    number: np.ndarray
    shape: np.ndarray
    scale: np.ndarray
    orientation: np.ndarray
    x: np.ndarray
    y: np.ndarray
    color: np.ndarray
    background: np.ndarray


class MultiDsprites:
    """The dataset; see :class:`objectwise.core.dataset.Dataset`. Codes and ranges of the factors are the official ones."""

    shuffle = False

    def __init__(self, config: MultiDspritesConfig) -> None:
        self.config = config
        self.counts = COUNTS[config.variant] if config.counts is None else config.counts
        channels = 1 if config.variant == "binarized" else 3
        self.image_shape = (channels, config.image_size, config.image_size)
        self.max_objects: int | None = max(self.counts)
        self.splits: Mapping[str, int] = {
            "train": config.train_size,
            "val": config.eval_size,
            "test": config.eval_size,
        }
        self.factor_specs = {
            "shape": FactorSpec("class", "categorical", categories=("none", *dsprites.SHAPES)),
            "scale": FactorSpec("of dSprites' largest", low=dsprites.SCALES[0], high=dsprites.SCALES[1]),
            "orientation": FactorSpec("radians, counter-clockwise", low=0.0, high=2.0 * math.pi),
            "x": FactorSpec("from 1/4 to 3/4 of the width", low=0.0, high=1.0),
            "y": FactorSpec("from 1/4 to 3/4 of the height, downwards", low=0.0, high=1.0),
            "color": FactorSpec("rgb" if channels == 3 else "grey", low=0.0, high=1.0),
        }

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The scenes with these indices; see :class:`objectwise.core.dataset.Dataset`."""
        return self.render(self.sample_factors(split, indices), np.asarray(indices, np.int64))

    def sample_factors(self, split: str, indices: Sequence[int] | np.ndarray) -> Scene:
        """Everything about the scenes; fixed numbers of draws, those of absent sprites included.

        Raises:
            UserError: for an unknown split or index, or if the constraints ``min_visible`` and ``no_overlap`` cannot be met.
        """
        indices = checked_indices("multi_dsprites", self.splits, split, indices)
        most = max(self.counts)
        draws = uniforms(self.config.seed, (SPLITS.index(split), 0), indices, 4 + 8 * most)
        each = draws[:, 4:].reshape(len(indices), most, 8)
        number = np.array(self.counts)[whole_numbers(draws[:, 0], 0, len(self.counts) - 1)]
        shape = whole_numbers(each[:, :, 0], 1, len(dsprites.SHAPES))
        color, background = _colors(self.config.variant, each[:, :, 1:4], draws[:, 1:4])
        scale, orientation, x, y = np.moveaxis(_pose(each[:, :, 4:]), -1, 0)
        scene = Scene(number, shape, scale, orientation, x, y, color, background)
        if self.config.min_visible or self.config.no_overlap:
            bad = np.flatnonzero(~self._meets_constraints(scene))
            pose = _pose(self._meet_constraints(split, indices[bad], number[bad], shape[bad], each[bad, :, 4:]))
            for column, values in enumerate((scale, orientation, x, y)):
                values[bad] = pose[..., column]
        return scene

    def render(self, scene: Scene, indices: np.ndarray | None = None) -> Batch:
        """The images and labels of these scenes.

        Args:
            scene: B scenes, drawn or made up.
            indices: (B,) what to call them; None: 0, 1, ...
        """
        batch, size = len(scene.number), self.config.image_size
        ids, _ = self._paint(scene)
        factors = {name: getattr(scene, name) for name in self.factor_specs} | {"color": scene.color / 255.0}
        return labelled_batch(
            np.arange(batch) if indices is None else indices,
            ids.reshape(batch, size, size),
            np.concatenate([scene.background[:, None], scene.color], axis=1),
            scene.number,
            factors,
            self.factor_specs,
        )

    def _paint(self, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        """Id maps (B, H·W) uint8, later sprites over earlier ones, and the pixels (B, M) of each sprite without the others."""
        batch, most = scene.shape.shape
        entity, row = np.nonzero(np.arange(most)[:, None] < scene.number)
        pose = [values[row, entity] for values in (scene.scale, scene.orientation, scene.x, scene.y)]
        sprite, pixel = _pixels(scene.shape[row, entity], np.stack(pose, axis=1), self.config.image_size)
        starts = np.searchsorted(sprite, np.searchsorted(entity, np.arange(most + 1)))
        ids = np.zeros((batch, self.config.image_size**2), np.uint8)
        for m in range(most):
            mine = slice(starts[m], starts[m + 1])
            ids[row[sprite[mine]], pixel[mine]] = m + 1
        alone = np.zeros((batch, most), np.int64)
        alone[row, entity] = np.bincount(sprite, minlength=len(row))
        return ids, alone

    def _meets_constraints(self, scene: Scene) -> np.ndarray:
        """(B,) bool."""
        ids, alone = self._paint(scene)
        visible = np.zeros_like(alone)
        for m in range(alone.shape[1]):
            visible[:, m] = count_pixels(ids, m + 1)
        absent = np.arange(alone.shape[1]) >= scene.number[:, None]
        good: np.ndarray = visible >= self.config.min_visible
        if self.config.no_overlap:
            good &= visible == alone
        return np.asarray((good | absent).all(axis=1))

    def _meet_constraints(
        self, split: str, indices: np.ndarray, number: np.ndarray, shape: np.ndarray, first: np.ndarray
    ) -> np.ndarray:
        """New poses for sprites that break a constraint with those before them."""
        size = self.config.image_size

        def fits(rows: np.ndarray, m: int, tries: np.ndarray, before: np.ndarray) -> np.ndarray:
            ids = np.zeros((len(rows), size * size), np.uint8)
            for entity in range(m):
                sprite, pixel = _pixels(shape[rows, entity], _pose(before[:, entity]), size)
                ids[sprite, pixel] = entity + 1
            count = tries.shape[1]
            pose = _pose(tries.reshape(-1, tries.shape[2]))
            sprite, pixel = _pixels(np.repeat(shape[rows, m], count), pose, size)
            good = np.ones(len(pose), bool)
            if self.config.no_overlap:
                good[sprite[ids[sprite // count, pixel] != 0]] = False
            if self.config.min_visible:
                ids = np.repeat(ids, count, axis=0)
                ids[sprite, pixel] = m + 1
                for entity in range(1, m + 2):
                    good &= count_pixels(ids, entity) >= self.config.min_visible
            return good.reshape(len(rows), count)

        wanted = "no_overlap" if self.config.no_overlap else f"min_visible {self.config.min_visible}"
        return place_in_turn(
            indices,
            number,
            first,
            fits,
            seed=self.config.seed,
            split=split,
            what=f"{max(self.counts)} sprites cannot meet {wanted}; use smaller counts or a weaker constraint",
        )


def _pose(draws: np.ndarray) -> np.ndarray:
    """(..., 4) uniforms -> (..., 4) float32 scale, orientation, x, y; float32, so that the labels give the same pixels."""
    low, high = dsprites.SCALES
    return (np.array([low, 0.0, 0.0, 0.0]) + draws * np.array([high - low, 2.0 * math.pi, 1.0, 1.0])).astype(np.float32)


def _pixels(shape: np.ndarray, pose: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lit pixels of sprites with these shapes (n,) and poses (n, 4); see :func:`objectwise.rendering.dsprites.pixels`."""
    return dsprites.pixels(shape, pose[:, 0], pose[:, 1], pose[:, 2], pose[:, 3], size)


def _colors(variant: Variant, sprites: np.ndarray, canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Uniforms (B, M, 3) and (B, 3) -> colours (B, M, C) and backgrounds (B, C), uint8."""
    if variant == "binarized":
        return np.full((*sprites.shape[:2], 1), 255, np.uint8), np.zeros((len(canvas), 1), np.uint8)
    if variant == "colored_on_grayscale":
        grey = np.repeat(whole_numbers(canvas[:, :1], 0, 255), 3, axis=1)
        return np.floor(hsv_to_rgb(sprites) * 255.0 + 0.5).astype(np.uint8), grey.astype(np.uint8)
    return whole_numbers(sprites, 0, 255).astype(np.uint8), whole_numbers(canvas, 0, 255).astype(np.uint8)


def hsv_to_rgb(hsv: np.ndarray) -> np.ndarray:
    """Hue, saturation, value (..., 3) in [0, 1] -> red, green, blue (..., 3) in [0, 1]."""
    distance = np.abs(
        (hsv[..., :1] * 6.0 - np.array([0.0, 2.0, 4.0]) + 3.0) % 6.0 - 3.0
    )  # sextants from red, green, blue
    pure = np.clip(2.0 - distance, 0.0, 1.0)
    return hsv[..., 2:] * (1.0 - hsv[..., 1:2] * (1.0 - pure))
