"""Discs, squares and diamonds on a black canvas, generated on the fly.

The sprites of SuPAIR (Stelzner et al. 2019): 50×50 pixels, 0 to 2 shapes of 12 to 16 pixels, the colour tied to the kind (red
disc, green square, blue diamond), no pixel shared, and the two corruptions under which AIR was reported to fail. Departures: all
counts are equally likely from the first image on; where shapes overlap, all positions of the scene are redrawn, not only the
last one's, and the kinds stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from objectwise.core import Batch, Config, FactorSpec, UserError, uniforms
from objectwise.data.scenes import CORRUPTION, FACTORS, MAX_TRIES, check_split, labelled, place, stream
from objectwise.rendering import shapes

GRID_STEP = 5
"""Pixels between the lines of the grid corruption."""
GRID_LEVEL = 0.4
"""What the lines are raised to at least."""
NOISE_STD = 0.2
"""Standard deviation of the noise corruption, which also squeezes the image into [0.1, 0.9] first."""


class SpritesConfig(Config):
    """Settings of the scenes of discs, squares and diamonds."""

    image_size: int = Field(50, ge=8, le=512)
    """Side of the canvas in pixels."""
    counts: tuple[int, ...] = (0, 1, 2)
    """Numbers of sprites per scene, all equally likely."""
    sprite_size: tuple[int, int] = (12, 16)
    """Smallest and largest side, in pixels, of the square a sprite is drawn into."""
    color: Literal["grey", "rgb"] = "rgb"
    """rgb: red discs, green squares, blue diamonds; grey: one channel, all sprites white."""
    background: Literal["plain", "noise", "grid"] = "plain"
    """plain: black; noise: less contrast and Gaussian noise everywhere; grid: dim lines every 5 pixels across the image."""
    seed: int = Field(0, ge=0)
    """Seed of the scenes."""
    train_size: int = Field(40_000, ge=1)
    """Number of training scenes."""
    eval_size: int = Field(2_000, ge=1)
    """Number of scenes in the validation and in the test split."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        low, high = self.sprite_size
        if not 4 <= low <= high <= self.image_size:
            raise ValueError(
                f"sprite_size {self.sprite_size} must satisfy 4 <= smallest <= largest <= {self.image_size}"
            )
        if not self.counts or min(self.counts) < 0 or max(self.counts) > 64:
            raise ValueError(f"counts {self.counts} must be one or more numbers from 0 to 64")
        return self

    def build(self) -> SpriteScenes:
        """The dataset."""
        return SpriteScenes(self)


class Scene(NamedTuple):
    """B scenes of up to M sprites; rows at and beyond ``number`` are drawn too but not used.

    Attributes:
        number: (B,) int64 sprites in use.
        shape: (B, M) int64 index into :data:`objectwise.rendering.shapes.SHAPES`.
        grown: (B, M) float64 in [0, 1): where the size lies between the smallest and the largest that fits.
    """

    number: np.ndarray
    shape: np.ndarray
    grown: np.ndarray


class SpriteScenes:
    """The dataset; see :class:`objectwise.core.dataset.Dataset`."""

    shuffle = False

    def __init__(self, config: SpritesConfig) -> None:
        self.config = config
        self.image_shape = (1 if config.color == "grey" else 3, config.image_size, config.image_size)
        self.max_objects: int | None = max(config.counts)
        self.splits: Mapping[str, int] = {
            "train": config.train_size,
            "val": config.eval_size,
            "test": config.eval_size,
        }
        self.factor_specs = {
            "x": FactorSpec("pixels", low=0, high=config.image_size),
            "y": FactorSpec("pixels", low=0, high=config.image_size),
            "size": FactorSpec("pixels", low=config.sprite_size[0], high=config.sprite_size[1]),
            "shape": FactorSpec("class", "categorical", categories=shapes.SHAPES),
            "color": FactorSpec("rgb", low=0, high=1),
        }

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The scenes with these indices; see :class:`objectwise.core.dataset.Dataset`."""
        check_split("sprites", split, self.splits)
        indices = np.asarray(indices, dtype=np.int64)
        scene = self.sample_factors(split, indices)
        layers, (top, left, size) = self._place(split, indices, scene)
        used = torch.arange(layers.shape[1]) < torch.from_numpy(scene.number).unsqueeze(1)
        instances = torch.zeros(len(indices), *self.image_shape[1:], dtype=torch.uint8)
        for entity, layer in enumerate(layers.unbind(dim=1), start=1):
            instances += layer * entity
        colors = self._colors(scene)
        x, y = shapes.centre(torch.from_numpy(scene.shape), *(torch.from_numpy(edge) for edge in (top, left, size)))
        factors = {
            "x": x,
            "y": y,
            "size": torch.from_numpy(size).float(),
            "shape": torch.from_numpy(scene.shape),
            "color": colors,
        }
        images = self._corrupted(self._painted(instances, colors), split, indices)
        return labelled(indices, images, instances.long(), used, factors, self.factor_specs)

    def sample_factors(self, split: str, indices: np.ndarray) -> Scene:
        """Everything about the scenes but the positions, and the sizes they leave room for."""
        most = max(self.config.counts)
        draws = uniforms(self.config.seed, stream(split, FACTORS), indices, 1 + 2 * most)
        number = np.array(self.config.counts)[(draws[:, 0] * len(self.config.counts)).astype(np.int64)]
        kind, grown = np.split(draws[:, 1:], 2, axis=1)
        return Scene(number, (kind * len(shapes.SHAPES)).astype(np.int64), grown)

    def _place(
        self, split: str, indices: np.ndarray, scene: Scene
    ) -> tuple[Tensor, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Layers (B, M, H, W) bool and (top, left, size), each (B, M) int64."""
        side, most = self.config.image_size, scene.shape.shape[1]
        low, high = self.config.sprite_size
        used = np.arange(most) < scene.number[:, None]

        def draw(rows: np.ndarray, numbers: np.ndarray) -> tuple[Tensor, tuple[np.ndarray, ...]]:
            top, left = np.split((numbers * (side - low + 1)).astype(np.int64), 2, axis=1)
            largest = np.minimum(high, side - np.maximum(top, left))
            size = low + (scene.grown[rows] * (largest - low + 1)).astype(np.int64)
            arrays = (scene.shape[rows], top, left, size * used[rows])
            return shapes.draw(*(torch.from_numpy(array) for array in arrays), canvas=(side, side)), (top, left, size)

        placed = place(draw, seed=self.config.seed, split=split, indices=indices, numbers=2 * most)
        if placed is None:
            raise UserError(
                f"{max(self.config.counts)} sprites of at least {low} pixels do not fit into {side}x{side} without "
                f"overlap ({MAX_TRIES} tries); use a larger image_size, a smaller sprite_size or fewer counts"
            )
        layers, (top, left, size) = placed
        return layers, (top, left, size)

    def _colors(self, scene: Scene) -> Tensor:
        """(B, M, 3) float32: the kind's colour, or white."""
        if self.config.color == "grey":
            return torch.ones(*scene.shape.shape, 3)
        return torch.eye(3)[torch.from_numpy(scene.shape)]

    def _painted(self, instances: Tensor, colors: Tensor) -> Tensor:
        """Each pixel in its owner's colour: ids (B, H, W) and (B, M, 3) -> (B, C, H, W) float32."""
        if self.config.color == "grey":
            return (instances != 0).unsqueeze(1).float()
        palette = torch.nn.functional.pad(colors, (0, 0, 1, 0)).transpose(1, 2)
        pixels = instances.flatten(1).long().unsqueeze(1).expand(-1, 3, -1)
        return palette.gather(2, pixels).view(len(instances), *self.image_shape)

    def _corrupted(self, images: Tensor, split: str, indices: np.ndarray) -> Tensor:
        """The images under the background's corruption, still in steps of 1/255; the labels stay those of the clean scene."""
        source = stream(split, CORRUPTION)
        if self.config.background == "grid":
            offsets = (uniforms(self.config.seed, source, indices, 2) * GRID_STEP).astype(np.int64)
            position = torch.arange(self.config.image_size)
            lines = (position - torch.from_numpy(offsets).unsqueeze(-1)) % GRID_STEP == 0
            grid = lines[:, 0, :, None] | lines[:, 1, None, :]
            return torch.maximum(images, grid.unsqueeze(1) * GRID_LEVEL)
        if self.config.background == "noise":
            values = images[0].numel() if len(images) else 0
            numbers = uniforms(self.config.seed, source, indices, -(-values // 3))
            noisy = 0.8 * images + 0.1 + NOISE_STD * _normal(numbers)[:, :values].view_as(images)
            return (noisy.clamp(0.0, 1.0) * 255.0).round() / 255.0
        return images


def _normal(numbers: np.ndarray) -> Tensor:
    """Three standard normal values from 16 bits each of every uniform number: (B, n) -> (B, 3n) float32.

    By table lookup: exact on every machine, whatever the vector unit, and faster than logarithms and cosines.
    """
    bits = (numbers * 2.0**48).astype(np.int64)
    words = np.concatenate([bits & 0xFFFF, (bits >> 16) & 0xFFFF, bits >> 32], axis=1)
    return _normal_quantiles()[torch.from_numpy(words)]


@cache
def _normal_quantiles() -> Tensor:
    """(65536,) float32: the normal quantiles of the middles of as many equal parts of probability."""
    from scipy.special import ndtri

    return torch.from_numpy(ndtri((np.arange(2**16) + 0.5) / 2**16)).float()
