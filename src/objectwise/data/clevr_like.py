"""Scenes in the manner of CLEVR (Johnson et al. 2017), drawn on the fly by the ray caster: no download, no Blender.

Spheres, cubes and cylinders of two sizes, eight colours and two materials stand on a grey plane under three lamps. Positions
follow the law of the released generator: uniform on a square, a smallest gap between objects, and a margin along the
camera's left and depth, so that "left of" and "behind" are never a matter of opinion; every object shows a smallest number
of pixels. Objects get as many tries as there, then the scene starts over.

Departures from CLEVR: simpler light (soft shadows on the ground only), sharp edges, square pictures with a view
of their own, and restarted scenes keep their objects and redraw only their places, until 400 starts have failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from objectwise.core import Batch, Config, FactorSpec, UserError, boxes_from_instances, uniforms
from objectwise.core.dataset import SPLITS
from objectwise.rendering import primitives3d
from objectwise.rendering.primitives3d import EYE, KINDS, LAMPS, Look, Rendered, RenderSettings, Scene

COLORS: dict[str, tuple[int, int, int]] = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
"""CLEVR's colours, used as linear light, as its generator does."""
SIZES = {"small": 0.35, "large": 0.7}
MATERIALS = ("rubber", "metal")
TARGET = (0.25, -0.22, 0.0)
"""What the camera looks at: the centre of the window that is cut from CLEVR's pictures."""
TRIES = 50
"""Places tried for one object before its scene starts over."""
CHUNK = 16
"""Scenes drawn at once: few enough to stay in the processor's cache."""
RESTARTS = 400
"""Starts of a scene before it is given other objects."""
ROUNDS = 4
"""Sets of objects that a scene is tried with before it is declared impossible."""
_OTHER_OBJECTS = 1_000_000
"""Purpose of the draws of a scene's later sets of objects, away from those of its places."""


class ClevrLikeConfig(Config):
    """Settings of the CLEVR-like scenes."""

    image_size: int = Field(64, ge=16, le=1024)
    """Side of the picture in pixels."""
    counts: tuple[int, ...] = (3, 4, 5, 6)
    """Numbers of objects per scene, all equally likely."""
    shapes: tuple[Literal["cube", "sphere", "cylinder"], ...] = ("cube", "sphere", "cylinder")
    """Shapes to draw from."""
    colors: tuple[str, ...] = tuple(COLORS)
    """Names of CLEVR's colours to draw from."""
    sizes: tuple[Literal["small", "large"], ...] = ("small", "large")
    """Sizes to draw from: radius 0.35 and 0.7."""
    materials: tuple[Literal["rubber", "metal"], ...] = ("rubber", "metal")
    """Materials to draw from."""
    spread: float = Field(3.0, gt=0, le=10)
    """Positions are uniform on [-spread, spread] in x and y."""
    gap: float = Field(0.25, ge=0)
    """Smallest distance between the outlines of two objects (centre distance less both sizes)."""
    margin: float = Field(0.4, ge=0)
    """Smallest offset between two objects along the camera's left, and along its depth."""
    min_visible: int | None = Field(None, ge=0)
    """Pixels every object shows at least; None: 0.5 % of the picture, CLEVR's share of its window."""
    camera_jitter: float = Field(0.5, ge=0, le=3)
    """The camera moves by up to this along each axis."""
    lamp_jitter: float = Field(1.0, ge=0, le=2)
    """Each lamp moves by up to this along each axis."""
    field_of_view: float = Field(34.0, gt=5, lt=120)
    """Degrees that the picture covers; CLEVR's window covers 30.7 and cuts objects off."""
    samples: Literal[1, 2, 4] = 2
    """Rays per pixel along each axis."""
    look: Look = Look()
    """Light and materials."""
    backend: Literal["auto", "numba", "torch"] = "auto"
    """What draws: numba where it is installed, torch otherwise; the pictures agree to rounding."""
    seed: int = Field(0, ge=0)
    """Seed of the scenes."""
    train_size: int = Field(60_000, ge=1)
    """Number of training scenes."""
    eval_size: int = Field(2_000, ge=1)
    """Number of scenes in the validation and in the test split."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.counts or min(self.counts) < 0 or max(self.counts) > 32:
            raise ValueError(f"counts {self.counts} must be one or more numbers from 0 to 32")
        for name in ("shapes", "colors", "sizes", "materials"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one")
        unknown = [name for name in self.colors if name not in COLORS]
        if unknown:
            raise ValueError(f"colors: '{unknown[0]}' is none of {', '.join(COLORS)}")
        if len(self.look.power) != len(LAMPS):
            raise ValueError(f"look.power has {len(self.look.power)} strengths; the scenes have {len(LAMPS)} lamps")
        if self.visible * max(self.counts) > self.image_size**2:
            raise ValueError(f"{max(self.counts)} objects of {self.visible} visible pixels do not fit into the picture")
        return self

    @property
    def visible(self) -> int:
        """``min_visible`` in pixels."""
        return round(0.005 * self.image_size**2) if self.min_visible is None else self.min_visible

    @property
    def settings(self) -> RenderSettings:
        """How the ray caster draws."""
        return RenderSettings(
            height=self.image_size,
            width=self.image_size,
            field_of_view=self.field_of_view,
            samples=self.samples,
            look=self.look,
            backend=self.backend,
        )

    def build(self) -> ClevrLike:
        """The dataset."""
        return ClevrLike(self)


class Factors(NamedTuple):
    """What B scenes of up to M objects are made of; codes index ``KINDS``, ``SIZES``, ``MATERIALS`` and ``COLORS``.

    Rows of a scene at and beyond ``number`` are drawn too, but not used: scenes of 3 and 4 objects share the first 3.

    Attributes:
        number: (B,) int64 objects in use.
        shape: (B, M) int64.
        size: (B, M) int64.
        material: (B, M) int64.
        color: (B, M) int64.
        rotation: (B, M) float64 radians.
        position: (B, M, 2) float64 x and y, in world units.
        eye: (B, 3) float64 where the camera is.
        lamps: (B, L, 3) float64.
    """

    number: np.ndarray
    shape: np.ndarray
    size: np.ndarray
    material: np.ndarray
    color: np.ndarray
    rotation: np.ndarray
    position: np.ndarray
    eye: np.ndarray
    lamps: np.ndarray

    def rows(self, rows: np.ndarray) -> Factors:
        """The factors of some scenes."""
        return Factors(*(values[rows] for values in self))


class ClevrLike:
    """The dataset; see :class:`objectwise.core.dataset.Dataset`."""

    shuffle = False

    def __init__(self, config: ClevrLikeConfig) -> None:
        self.config = config
        size, spread = config.image_size, config.spread
        self.image_shape = (3, size, size)
        self.max_objects: int | None = max(config.counts)
        self.splits: Mapping[str, int] = {
            "train": config.train_size,
            "val": config.eval_size,
            "test": config.eval_size,
        }
        self.factor_specs = {
            "x": FactorSpec("world units", low=-spread, high=spread),
            "y": FactorSpec("world units", low=-spread, high=spread),
            "z": FactorSpec("world units", low=0.0, high=max(SIZES.values())),
            "size": FactorSpec("class", "categorical", categories=tuple(SIZES)),
            "shape": FactorSpec("class", "categorical", categories=KINDS),
            "material": FactorSpec("class", "categorical", categories=MATERIALS),
            "color": FactorSpec("class", "categorical", categories=tuple(COLORS)),
            "rotation": FactorSpec("radians", low=0.0, high=2 * np.pi),
            "pixel_coords": FactorSpec("pixels, pixels, world units"),
        }

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The scenes with these indices; see :class:`objectwise.core.dataset.Dataset`."""
        indices = np.asarray(indices, dtype=np.int64)
        factors, images, ids = self._draw(split, indices)
        return self._label(indices, factors, images, ids)

    def sample_factors(self, split: str, indices: Sequence[int] | np.ndarray) -> Factors:
        """The scenes' factors; places are those of the picture, which is drawn to find out what can be seen."""
        return self._draw(split, np.asarray(indices, dtype=np.int64))[0]

    def render(self, factors: Factors) -> Rendered:
        """Draw any factors; the counterpart of :meth:`sample_factors`. Images are not yet rounded to bytes."""
        return primitives3d.render(self.scene(factors), self.config.settings)

    def scene(self, factors: Factors) -> Scene:
        """The ray caster's description of factors."""
        size = np.array(list(SIZES.values()))[factors.size]
        colors = np.array(list(COLORS.values())) / 255.0
        used = np.arange(factors.shape.shape[1]) < factors.number[:, None]
        return Scene(
            kind=torch.from_numpy(factors.shape),
            position=torch.from_numpy(np.concatenate([factors.position, size[..., None]], axis=-1)),
            size=torch.from_numpy(size),
            rotation=torch.from_numpy(factors.rotation),
            color=torch.from_numpy(colors[factors.color]),
            metal=torch.from_numpy((factors.material == MATERIALS.index("metal")).astype(np.float64)),
            present=torch.from_numpy(used),
            eye=torch.from_numpy(factors.eye),
            target=torch.tensor(TARGET, dtype=torch.float64).expand(len(size), 3),
            lamps=torch.from_numpy(factors.lamps),
        )

    def _draw(self, split: str, indices: np.ndarray) -> tuple[Factors, Tensor, Tensor]:
        """Factors, images as bytes (B, 3, H, W) and ids (B, H, W) of scenes in which every object can be seen."""
        if split not in self.splits:
            raise UserError(f"clevr_like has no split '{split}'; there are {', '.join(self.splits)}")
        factors = self._without_places(split, indices)
        size, most = self.config.image_size, factors.shape.shape[1]
        images = torch.zeros(len(indices), 3, size, size, dtype=torch.uint8)
        ids = torch.zeros(len(indices), size, size, dtype=torch.int64)
        pending, problem = np.arange(len(indices)), ""
        for attempt in range(ROUNDS * RESTARTS):
            if attempt and attempt % RESTARTS == 0:
                other = self._without_places(split, indices[pending], _OTHER_OBJECTS + attempt // RESTARTS)
                for name in ("shape", "size", "material", "color", "rotation"):
                    getattr(factors, name)[pending] = getattr(other, name)
            draws = uniforms(self.config.seed, (SPLITS.index(split), 1 + attempt), indices[pending], 2 * most * TRIES)
            places, found = self._place(factors.rows(pending), draws)
            factors.position[pending[found]] = places[found]
            problem = "" if found.all() else "placed apart"
            trial = pending[found]
            for start in range(0, len(trial), CHUNK):
                rows = trial[start : start + CHUNK]
                picture = self.render(factors.rows(rows))
                images[rows], ids[rows] = (picture.images * 255.0).round().to(torch.uint8), picture.ids
            seen = self._all_seen(ids[trial], factors.number[trial])
            problem = problem or "seen"
            pending = np.sort(np.concatenate([pending[~found], trial[~seen]]))
            if len(pending) == 0:
                return factors, images, ids
        raise UserError(
            f"{max(self.config.counts)} objects cannot all be {problem} in scene {indices[pending[0]]} "
            f"({ROUNDS * RESTARTS} starts); use fewer counts, a smaller gap, margin or min_visible, or a wider field_of_view"
        )

    def _without_places(self, split: str, indices: np.ndarray, purpose: int = 0) -> Factors:
        """All factors but the places, which are zeros."""
        config, most = self.config, max(self.config.counts)
        draws = uniforms(config.seed, (SPLITS.index(split), purpose), indices, 1 + 3 + 3 * len(LAMPS) + 5 * most)
        number, eye, lamps, rest = np.split(draws, [1, 4, 4 + 3 * len(LAMPS)], axis=1)
        shape, size, material, color, turn = rest.reshape(len(indices), most, 5).transpose(2, 0, 1)
        return Factors(
            np.array(config.counts)[(number[:, 0] * len(config.counts)).astype(np.int64)],
            _choose(shape, config.shapes, KINDS),
            _choose(size, config.sizes, tuple(SIZES)),
            _choose(material, config.materials, MATERIALS),
            _choose(color, config.colors, tuple(COLORS)),
            np.ascontiguousarray(turn * 2 * np.pi),
            np.zeros((len(indices), most, 2)),
            np.array(EYE) + config.camera_jitter * (2 * eye - 1),
            np.array(LAMPS) + config.lamp_jitter * (2 * lamps.reshape(-1, len(LAMPS), 3) - 1),
        )

    def _place(self, factors: Factors, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places (B, M, 2), objects in turn at the first of their tries that is free, and whether all found one (B,)."""
        batch, most = factors.shape.shape
        tries = self.config.spread * (2.0 * draws.reshape(batch, most, TRIES, 2) - 1.0)
        radius = np.array(list(SIZES.values()))[factors.size]
        ahead = np.array(TARGET) - factors.eye
        ahead = ahead[:, :2] / np.sqrt(ahead[:, :1] ** 2 + ahead[:, 1:2] ** 2)
        places, found = np.zeros((batch, most, 2)), np.ones(batch, dtype=bool)
        for index in range(most):
            # all tries against the objects before: (B, TRIES, index)
            dx, dy = (tries[:, index, :, None, axis] - places[:, None, :index, axis] for axis in range(2))
            apart = np.sqrt(dx * dx + dy * dy) - radius[:, None, :index] - radius[:, index, None, None]
            depth = np.abs(dx * ahead[:, 0, None, None] + dy * ahead[:, 1, None, None])
            left = np.abs(dx * ahead[:, 1, None, None] - dy * ahead[:, 0, None, None])
            margin = self.config.margin
            free = ((apart >= self.config.gap) & (depth >= margin) & (left >= margin)).all(axis=2)
            places[:, index] = tries[np.arange(batch), index, free.argmax(axis=1)]
            found &= free.any(axis=1) | (index >= factors.number)
        return places, found

    def _all_seen(self, ids: Tensor, number: np.ndarray) -> np.ndarray:
        """(B,) whether each object in use shows the pixels it must."""
        seen = np.ones(len(number), dtype=bool)
        flat = ids.flatten(1).numpy()
        for entity in range(1, int(number.max(initial=0)) + 1):
            seen &= ((flat == entity).sum(axis=1) >= self.config.visible) | (entity > number)
        return seen

    def _label(self, indices: np.ndarray, factors: Factors, images: Tensor, ids: Tensor) -> Batch:
        scene, most = self.scene(factors), factors.shape.shape[1]
        used = scene.present
        boxes, visible = boxes_from_instances(ids, most + 1)
        rows: dict[str, Tensor] = {
            "x": scene.position[..., 0].float(),
            "y": scene.position[..., 1].float(),
            "z": scene.position[..., 2].float(),
            "size": torch.from_numpy(factors.size),
            "shape": torch.from_numpy(factors.shape),
            "material": torch.from_numpy(factors.material),
            "color": torch.from_numpy(factors.color),
            "rotation": scene.rotation.float(),
            "pixel_coords": primitives3d.project(scene, self.config.settings, scene.position).float(),
        }
        return Batch(
            index=torch.from_numpy(indices),
            images=images.float() / 255.0,
            instances=ids,
            factors={name: _rows(values, used) for name, values in rows.items()},
            factor_specs=self.factor_specs,
            present=torch.cat([torch.ones(len(used), 1, dtype=torch.bool), used], dim=1),
            visible_pixels=visible,
            boxes=boxes,
        )


def _choose(draws: np.ndarray, offered: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Codes, in ``names``, of uniformly drawn members of ``offered``."""
    return np.array([names.index(name) for name in offered])[(draws * len(offered)).astype(np.int64)]


def _rows(values: Tensor, used: Tensor) -> Tensor:
    """(B, M, ...) -> (B, M+1, ...): zeros for unused objects and a first row of zeros for the background."""
    mask = used.view(*used.shape, *[1] * (values.ndim - 2))
    values = torch.where(mask, values, torch.zeros((), dtype=values.dtype))
    return torch.cat([values.new_zeros(len(values), 1, *values.shape[2:]), values], dim=1)
