"""Tetrominoes without a download: three pieces of four shaded tiles on a black 35×35 canvas.

The rendering is exact: from their factors it gives the official scenes back byte for byte. Names and codes of the factors
are the official ones, with the two traps in them: ``x`` is the top row and ``y`` the left column of a piece, and there
are 19 pieces, not 17. How the official set places pieces is not known; here they come in turn, each uniform over
the places where it overlaps no earlier one. As there, pieces may touch and may share a colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from objectwise.core import SPLITS, Batch, Config, FactorSpec, UserError, uniforms
from objectwise.data.labels import checked_indices, labelled_batch, place_in_turn, whole_numbers

SIZE = 35
"""Side of the canvas in pixels, as the official set has it."""
TILE = 5
"""Side of a tile in pixels."""
PIECES = (
    *("####", "#/#/#/#", "###/#..", "#../###", "..#/###", "###/..#", "##/.#/.#", ".#/.#/##", "##/#./#.", "#./#./##"),
    *("##./.##", ".##/##.", ".#/##/#.", "#./##/.#", ".#./###", "###/.#.", ".#/##/.#", "#./##/#.", "##/##"),
)
"""Tiles of the pieces 1 to 19, row by row."""
COLORS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1))
"""Red, green, blue, yellow, magenta, cyan."""
SHADING = (
    (191, 255, 255, 255, 223),
    (127, 159, 159, 159, 191),
    (127, 159, 159, 159, 191),
    (127, 159, 159, 159, 191),
    (95, 63, 63, 63, 127),
)
"""Brightness of a tile's pixels."""


class TetrominoesConfig(Config):
    """Settings of the Tetrominoes scenes."""

    counts: tuple[int, ...] = (3,)
    """Numbers of pieces per scene, all equally likely; the official set has three."""
    image_size: int = Field(SIZE, ge=SIZE, le=128)
    """Side of the picture: 35, or more, with black on the right and below; for networks that halve the sides (40 = 5·8)."""
    seed: int = Field(0, ge=0)
    """Seed of the scenes."""
    train_size: int = Field(60_000, ge=1)
    """Number of training scenes."""
    eval_size: int = Field(2_000, ge=1)
    """Number of scenes in the validation and in the test split."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.counts or min(self.counts) < 0 or max(self.counts) > 5:
            raise ValueError(f"counts {self.counts} must be one or more numbers from 0 to 5")
        return self

    def build(self) -> Tetrominoes:
        """The dataset."""
        return Tetrominoes(self)


class Scene(NamedTuple):
    """Factors of B scenes of up to M pieces; rows at and beyond ``number`` are drawn too but not used.

    Attributes:
        number: (B,) int64 pieces in use.
        shape: (B, M) int64 piece, 1 to 19.
        x: (B, M) int64 top row in pixels.
        y: (B, M) int64 left column in pixels.
        color: (B, M, 3) rgb, each 0 or 1.
    """

    number: np.ndarray
    shape: np.ndarray
    x: np.ndarray
    y: np.ndarray
    color: np.ndarray


class Tetrominoes:
    """The dataset; see :class:`objectwise.core.dataset.Dataset`."""

    shuffle = False

    def __init__(self, config: TetrominoesConfig) -> None:
        self.config = config
        self.image_shape = (3, config.image_size, config.image_size)
        self.max_objects: int | None = max(config.counts)
        self.splits: Mapping[str, int] = {
            "train": config.train_size,
            "val": config.eval_size,
            "test": config.eval_size,
        }
        self.factor_specs = {
            "shape": FactorSpec("class", "categorical", categories=("none", *PIECES)),
            "x": FactorSpec("pixels (top row)", low=0, high=SIZE - TILE),
            "y": FactorSpec("pixels (left column)", low=0, high=SIZE - TILE),
            "color": FactorSpec("rgb", low=0, high=1),
        }
        self._extent, self._corners, self._offsets, self._shades = _tables()

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The scenes with these indices; see :class:`objectwise.core.dataset.Dataset`."""
        return self.render(self.sample_factors(split, indices), np.asarray(indices, np.int64))

    def sample_factors(self, split: str, indices: Sequence[int] | np.ndarray) -> Scene:
        """Everything about the scenes; fixed numbers of draws, those of absent pieces included.

        Raises:
            UserError: for an unknown split or index, or if the pieces of a scene find no place.
        """
        indices = checked_indices("tetrominoes", self.splits, split, indices)
        most = max(self.config.counts)
        draws = uniforms(self.config.seed, (SPLITS.index(split), 0), indices, 1 + 4 * most)
        each = draws[:, 1:].reshape(len(indices), most, 4)
        number = np.array(self.config.counts)[whole_numbers(draws[:, 0], 0, len(self.config.counts) - 1)]
        shape = whole_numbers(each[..., 0], 1, len(PIECES))
        color = np.array(COLORS)[whole_numbers(each[..., 1], 0, len(COLORS) - 1)]
        room = SIZE - self._extent[shape]

        def fits(rows: np.ndarray, m: int, tries: np.ndarray, before: np.ndarray) -> np.ndarray:
            tiles = self._corners[shape[rows, m], None] + whole_numbers(tries, 0, room[rows, m, None])[:, :, None]
            earlier = self._corners[shape[rows, :m]] + whole_numbers(before, 0, room[rows, :m])[:, :, None]
            gap = np.abs(tiles[:, :, :, None] - earlier.reshape(len(rows), 1, 1, 4 * m, 2))
            return ~((gap[..., 0] < TILE) & (gap[..., 1] < TILE)).any(axis=(2, 3))

        place = place_in_turn(
            indices,
            number,
            each[..., 2:],
            fits,
            seed=self.config.seed,
            split=split,
            what=f"{most} pieces find no place on {SIZE}x{SIZE} pixels; use smaller counts",
        )
        top, left = np.moveaxis(whole_numbers(place, 0, room), -1, 0)
        return Scene(number, shape, top, left, color)

    def render(self, scene: Scene, indices: np.ndarray | None = None) -> Batch:
        """The images and labels of these scenes, exact to the byte.

        Args:
            scene: B scenes, drawn or read from the official file.
            indices: (B,) what to call them; None: 0, 1, ...

        Raises:
            UserError: for a piece that leaves the canvas or does not exist.
        """
        batch, most = scene.shape.shape
        self._check(scene)
        ids, shade = np.zeros((batch, SIZE * SIZE), np.uint8), np.zeros((batch, SIZE * SIZE), np.uint8)
        for m in range(most):
            rows = np.flatnonzero(scene.number > m)
            pixel = self._pixels(scene.shape[rows, m], scene.x[rows, m], scene.y[rows, m])
            ids[rows[:, None], pixel] = m + 1
            shade[rows[:, None], pixel] = self._shades
        colors = np.concatenate([np.zeros((batch, 1, 3)), scene.color], axis=1) * 255
        return labelled_batch(
            np.arange(batch) if indices is None else indices,
            self._padded(ids),
            colors.astype(np.uint8),
            scene.number,
            {
                "shape": scene.shape,
                "x": scene.x.astype(float),
                "y": scene.y.astype(float),
                "color": scene.color.astype(float),
            },
            self.factor_specs,
            self._padded(shade),
        )

    def _padded(self, values: np.ndarray) -> np.ndarray:
        """(B, 35·35) -> (B, side, side), zeros on the right and below."""
        rest = self.config.image_size - SIZE
        return np.pad(values.reshape(-1, SIZE, SIZE), ((0, 0), (0, rest), (0, rest)))

    def _check(self, scene: Scene) -> None:
        used = np.arange(scene.shape.shape[1]) < scene.number[:, None]
        shape = scene.shape[used]
        if ((shape < 1) | (shape > len(PIECES))).any():
            raise UserError(f"there is no piece {shape[(shape < 1) | (shape > len(PIECES))][0]}; there are 1 to 19")
        corner = np.stack([scene.x[used], scene.y[used]], axis=-1)
        if ((corner < 0) | (corner + self._extent[shape] > SIZE)).any():
            raise UserError(f"a piece leaves the {SIZE}x{SIZE} canvas; x is its top row and y its left column")

    def _pixels(self, shape: np.ndarray, top: np.ndarray, left: np.ndarray) -> np.ndarray:
        """(n, 100) row·35 + column of n pieces."""
        return (top * SIZE + left)[:, None] + self._offsets[shape]


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """By piece: height and width (20, 2), top left corners of its tiles (20, 4, 2), its pixels as row·35 + column (20, 100).

    The last array is the brightness of those pixels (100,).
    """
    extent, corners = np.zeros((len(PIECES) + 1, 2), np.int64), np.zeros((len(PIECES) + 1, 4, 2), np.int64)
    for number, piece in enumerate(PIECES, start=1):
        rows = piece.split("/")
        extent[number] = TILE * len(rows), TILE * len(rows[0])
        corners[number] = [
            (TILE * i, TILE * j) for i, row in enumerate(rows) for j, tile in enumerate(row) if tile == "#"
        ]
    inside = (np.arange(TILE)[:, None] * SIZE + np.arange(TILE)).ravel()
    offsets = (corners @ np.array([SIZE, 1]))[:, :, None] + inside
    return extent, corners, offsets.reshape(len(corners), -1), np.tile(np.array(SHADING, np.uint8).ravel(), 4)
