"""Objects on a table top, drawn on the fly: the scenes of AIR in 3D (Eslami et al. 2016, section on 3D scenes).

``air_3d_single``: one object, a cube, sphere or cylinder, anywhere on the table and turned by any angle. ``air_3d_table``:
none to
three, of one kind or several; with primitives or table-ware-like meshes, under a fixed or a varied camera. Labels are exact.

Departures from the paper, which gives few settings: objects stand upright, so that a rotation is about the vertical; the cylinder
has no texture and table-ware no colour of its own; nothing is random but what is inferred.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from objectwise.core import SPLITS, Batch, Config, FactorSpec, uniforms
from objectwise.data.labels import checked_indices, place_in_turn
from objectwise.data.scenes import labelled
from objectwise.rendering.tabletop import Kind, TableScene, Tabletop, TabletopConfig

FACTORS = 10_000
"""Purpose of the random stream of everything but places; the placement's rounds have the numbers from 0."""
CHUNK = 64
"""Scenes drawn at once."""


class TableScenesConfig(Config):
    """Settings of the table-top scenes."""

    renderer: TabletopConfig = TabletopConfig(samples=4)
    """Size, kinds of objects, camera and colours of the pictures."""
    counts: tuple[int, ...] = (0, 1, 2, 3)
    """Numbers of objects per scene, all equally likely."""
    repeats: bool = True
    """Whether a scene may have several objects of one kind."""
    camera: Literal["fixed", "varied"] = "fixed"
    """varied: uniform within the spreads about the fixed camera."""
    azimuth_spread: float = Field(20.0, ge=0, lt=45)
    """Degrees by which a varied camera goes round, to either side."""
    elevation_spread: float = Field(6.0, ge=0, lt=45)
    """Degrees by which it goes up and down."""
    extent: float = Field(1.5, gt=0)
    """Positions are uniform on [-extent, extent] in x and y."""
    gap: float = Field(0.1, ge=0)
    """Smallest distance between the circles around two objects."""
    seed: int = Field(0, ge=0)
    """Seed of the scenes."""
    train_size: int = Field(1_000_000, ge=1)
    """Number of training scenes."""
    eval_size: int = Field(2_000, ge=1)
    """Number of scenes in the validation and in the test split."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.counts or min(self.counts) < 0 or not 1 <= max(self.counts) <= 16:
            raise ValueError(f"counts {self.counts} must be numbers from 0 to 16, one of them at least 1")
        kinds = len(self.renderer.kinds)
        if not self.repeats and max(self.counts) > kinds:
            raise ValueError(f"{max(self.counts)} objects cannot all differ: there are {kinds} kinds; allow repeats")
        return self

    def build(self) -> TableScenes:
        """The dataset."""
        return TableScenes(self)


class SingleObjectConfig(TableScenesConfig):
    """Settings of the scenes of one object."""

    counts: tuple[int, ...] = (1,)
    """Numbers of objects per scene, all equally likely."""


class TableScenes:
    """The dataset; see :class:`objectwise.core.dataset.Dataset`."""

    shuffle = False

    def __init__(self, config: TableScenesConfig) -> None:
        self.config = config
        self.renderer = Tabletop(config.renderer)
        look, extent = config.renderer, config.extent
        self.image_shape = (look.channels, look.height, look.width)
        self.max_objects: int | None = max(config.counts)
        self.splits: Mapping[str, int] = {
            "train": config.train_size,
            "val": config.eval_size,
            "test": config.eval_size,
        }
        self.factor_specs = {
            "kind": FactorSpec(
                "class",
                "categorical",
                categories=tuple(kind.name for kind in look.kinds),
                symmetries=tuple(kind.symmetry for kind in look.kinds),
            ),
            "x": FactorSpec("world units", low=-extent, high=extent),
            "y": FactorSpec("world units", low=-extent, high=extent),
            "yaw": FactorSpec("radians", low=0.0, high=2 * math.pi),
        }

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The scenes with these indices; see :class:`objectwise.core.dataset.Dataset`."""
        scene = self.scene(split, indices)
        views = [
            self.renderer.view(scene.rows(slice(start, start + CHUNK)))
            for start in range(0, max(len(scene.kind), 1), CHUNK)
        ]
        images = torch.cat([(view.images * 255.0).round() for view in views]).float() / 255.0
        factors = {name: scene.pose[..., column].float() for column, name in enumerate(("x", "y", "yaw"))}
        return labelled(
            np.asarray(indices, dtype=np.int64),
            images,
            torch.cat([view.ids for view in views]),
            scene.present,
            {"kind": scene.kind, **factors},
            self.factor_specs,
        )

    def scene(self, split: str, indices: Sequence[int] | np.ndarray) -> TableScene:
        """The true scenes (float64), objects of a scene in random order.

        Raises:
            UserError: for an unknown split or an index outside it, or objects that find no place.
        """
        config = self.config
        rows = checked_indices("table scenes", self.splits, split, indices)
        most, kinds = max(config.counts), config.renderer.kinds
        draws = uniforms(config.seed, (SPLITS.index(split), FACTORS), rows, 3 + 4 * most + len(kinds))
        number = np.array(config.counts)[(draws[:, 0] * len(config.counts)).astype(np.int64)]
        which, yaw, first, order = np.split(draws[:, 3:], [most, 2 * most, 4 * most], axis=1)
        kind = (which * len(kinds)).astype(np.int64)
        if not config.repeats:
            kind = np.argsort(order, axis=1, kind="stable")[:, :most]
        radius = np.array([_footprint(each) for each in kinds])[kind]

        def fits(scenes: np.ndarray, m: int, tries: np.ndarray, before: np.ndarray) -> np.ndarray:
            offset = 2.0 * config.extent * (tries[:, :, None] - before[:, None])
            distance = np.sqrt(offset[..., 0] * offset[..., 0] + offset[..., 1] * offset[..., 1])
            free = distance >= radius[scenes, None, :m] + radius[scenes, None, m : m + 1] + config.gap
            return free.all(axis=2)

        placed = place_in_turn(
            rows,
            number,
            first.reshape(len(rows), most, 2),
            fits,
            seed=config.seed,
            split=split,
            what=f"{most} objects find no place on a table of extent {config.extent:g}",
        )
        pose = np.concatenate([config.extent * (2.0 * placed - 1.0), 2.0 * math.pi * yaw[..., None]], axis=2)
        camera = np.tile(np.array(config.renderer.fixed_camera), (len(rows), 1))
        if config.camera == "varied":
            spread = np.radians([config.azimuth_spread, config.elevation_spread])
            camera = camera + spread * (2.0 * draws[:, 1:3] - 1.0)
        used = np.arange(most) < number[:, None]
        return TableScene(
            torch.from_numpy(np.ascontiguousarray(kind)),
            torch.from_numpy(pose),
            torch.from_numpy(used),
            torch.from_numpy(camera),
        )


def _footprint(kind: Kind) -> float:
    """Radius of the circle about the vertical that holds an object."""
    return kind.size * (math.sqrt(2.0) if kind.solid == "cube" else 1.0)
