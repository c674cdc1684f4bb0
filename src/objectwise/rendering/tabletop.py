"""A few solids on a table: the scenes that AIR in 3D infers, and what it asks of a renderer.

World: the table top is the square |x|, |y| ≤ ``table`` at z = 0, an object of kind k stands on it at (x, y), turned by its yaw
about the vertical, with the kind's size and colour. The camera looks at a point above the table's middle from a fixed distance;
its azimuth and elevation may vary. One lamp far away; light does not depend on the other objects and there are no shadows,
so that
a scene is composited exactly from its objects by depth: the pictures of the first 0, 1, ..., M objects cost one rendering of each
object, and a changed object costs one more (:mod:`objectwise.rendering.scene_errors`).

:class:`Renderer` is all that the model asks: parameters in, images out. :class:`Tabletop` is ours, with three backends that draw
the same picture: numba (solids and meshes), torch (solids; any device, differentiable but for silhouettes) and moderngl
(meshes). :mod:`objectwise.rendering.tabletop_soft` has silhouettes that are differentiable too.

The solids are those of :mod:`objectwise.rendering.primitives3d`, which also gives the intersections.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import torch
from pydantic import Field, model_validator
from torch import Tensor

from objectwise.core import Config, UserError
from objectwise.rendering.primitives3d import KINDS as SOLIDS
from objectwise.rendering.primitives3d import TINY, Vector, _block_sum, _enter, _normal

LIGHT = tuple(part / math.sqrt(0.35**2 + 0.6**2 + 0.75**2) for part in (0.35, -0.6, 0.75))
"""Unit vector towards the lamp."""
AMBIENT = 0.35
"""Brightness of a surface turned away from the lamp; one that faces it has brightness 1."""
WAVES = 6
"""Slow waves along each side, by which blurred errors are measured: at 32 pixels, wavelengths of 13 pixels and more."""
POSE = ("x", "y", "yaw")
"""Columns of ``TableScene.pose``: world units, world units, radians counter-clockwise from above."""
CAMERA = ("azimuth", "elevation")
"""Columns of ``TableScene.camera`` in radians."""


class Kind(NamedTuple):
    """What an object can be.

    Attributes:
        name: for people.
        solid: a name of ``primitives3d.KINDS``, or of :data:`objectwise.rendering.meshes.MESHES`.
        size: scale in world units; a solid has twice this height.
        color: RGB in [0, 1] of a surface that faces the lamp.
        symmetry: rotations that change nothing: ``cube`` (24), ``axis`` (any about the vertical, and turning over), ``spin`` (any
            about the vertical), ``sphere`` (all) or ``none``.
    """

    name: str
    solid: str
    size: float
    color: tuple[float, float, float]
    symmetry: Literal["cube", "axis", "spin", "sphere", "none"]


FAMILIES: dict[str, tuple[Kind, ...]] = {
    "primitives": (
        Kind("cube", "cube", 0.5, (0.95, 0.25, 0.2), "cube"),
        Kind("sphere", "sphere", 0.58, (0.25, 0.4, 1.0), "sphere"),
        Kind("cylinder", "cylinder", 0.53, (0.95, 0.8, 0.2), "axis"),
    ),
    "tableware": (
        Kind("mug", "mug", 0.5, (0.95, 0.3, 0.25), "none"),
        Kind("bowl", "bowl", 0.7, (0.3, 0.5, 1.0), "spin"),
        Kind("bottle", "bottle", 0.42, (0.35, 0.85, 0.4), "spin"),
    ),
}
"""Sets of kinds by name; the index of a kind in its set is its code. Tops differ in height, so that no two kinds ever tie
in depth."""


class TabletopConfig(Config):
    """Settings of the renderer."""

    height: int = Field(32, ge=4, le=1024)
    """H in pixels."""
    width: int = Field(32, ge=4, le=1024)
    """W in pixels."""
    channels: Literal[1, 3] = 3
    """Colour, or the mean of the three."""
    family: Literal["primitives", "tableware"] = "primitives"
    """What the objects can be: cube, sphere and cylinder, or mug, bowl and bottle."""
    samples: int = Field(2, ge=1, le=32)
    """Rays per pixel along each axis."""
    field_of_view: float = Field(32.0, gt=0, lt=170)
    """Angle, in degrees, that the shorter side of the picture covers."""
    distance: float = Field(8.0, gt=0)
    """From the camera to the point it looks at, world units."""
    target_height: float = Field(0.35, ge=0)
    """Height of that point above the table's middle."""
    azimuth: float = -90.0
    """Where a fixed camera stands, degrees counter-clockwise from the x axis: from −90, x is to the right and y is away."""
    elevation: float = Field(50.0, gt=0, lt=90)
    """How high a fixed camera stands, degrees above the horizon."""
    table: float = Field(2.4, gt=0)
    """Half the side of the table top."""
    table_color: tuple[float, float, float] = (0.55, 0.5, 0.45)
    """RGB of the table top."""
    floor_color: tuple[float, float, float] = (0.12, 0.13, 0.16)
    """RGB of everything else."""
    backend: Literal["auto", "numba", "torch", "moderngl"] = "auto"
    """auto: numba where it is installed and nothing needs a gradient, else torch."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name in ("table_color", "floor_color"):
            if not all(0.0 <= part <= 1.0 for part in getattr(self, name)):
                raise ValueError(f"{name} {getattr(self, name)} must lie in [0, 1]")
        if self.family == "tableware" and self.backend == "torch":
            raise ValueError("backend torch has no tableware; use numba or moderngl, or family primitives")
        if self.family == "primitives" and self.backend == "moderngl":
            raise ValueError("backend moderngl draws meshes only; use family tableware, or another backend")
        return self

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The family's kinds."""
        return FAMILIES[self.family]

    @property
    def tangent(self) -> float:
        """Half the shorter side at distance 1."""
        return math.tan(math.radians(self.field_of_view) / 2)

    @property
    def pixel(self) -> float:
        """World units that a pixel covers at the point the camera looks at."""
        return 2.0 * self.tangent * self.distance / min(self.height, self.width)

    @property
    def fixed_camera(self) -> tuple[float, float]:
        """Azimuth and elevation in radians."""
        return math.radians(self.azimuth), math.radians(self.elevation)


class TableScene(NamedTuple):
    """B scenes of up to M objects.

    Attributes:
        kind: (B, M) int64 codes.
        pose: (B, M, 3) float; see :data:`POSE`.
        present: (B, M) bool; absent objects are not drawn.
        camera: (B, 2) float; see :data:`CAMERA`.
    """

    kind: Tensor
    pose: Tensor
    present: Tensor
    camera: Tensor

    def rows(self, rows: slice | Tensor) -> TableScene:
        """The scenes with these rows."""
        return TableScene(*(value[rows] for value in self))

    def repeated(self, times: int) -> TableScene:
        """Every scene this often, copies beside each other."""
        return TableScene(*(value.repeat_interleave(times, dim=0) for value in self))


@runtime_checkable
class Renderer(Protocol):
    """What AIR in 3D asks of a renderer; nothing else.

    It may be a black box. The same scenes must give the same images, and a scene's image must not depend on its batch.
    """

    def __call__(self, scene: TableScene) -> Tensor:
        """(B, C, H, W) images in [0, 1] of B scenes."""
        ...


class TableView(NamedTuple):
    """Pictures with their ground truth.

    Attributes:
        images: (B, C, H, W) in [0, 1].
        ids: (B, H, W) int64: 0 table or floor, m + 1 for object m: whatever fills most of the pixel (the smaller id on ties).
        depth: (B, H, W) distance along the optical axis of the object that ``ids`` names, infinite for id 0.
        coverage: (B, M + 1, H, W) share of the pixel that each id fills, which sums to 1.
    """

    images: Tensor
    ids: Tensor
    depth: Tensor
    coverage: Tensor


def table_scene(
    kind: Tensor, pose: Tensor, config: TabletopConfig, *, present: Tensor | None = None, camera: Tensor | None = None
) -> TableScene:
    """A scene with all objects present under the fixed camera, where nothing else is said; shapes as in :class:`TableScene`."""
    if camera is None:
        camera = torch.tensor(config.fixed_camera, dtype=pose.dtype, device=pose.device).expand(len(kind), 2)
    return TableScene(kind, pose, torch.ones_like(kind, dtype=torch.bool) if present is None else present, camera)


def numba_is_there() -> bool:
    """Whether the fast backend can be used."""
    return importlib.util.find_spec("numba") is not None


class Tabletop:
    """The renderer.

    Args:
        config: frozen settings.

    Raises:
        UserError: if the backend asked for is not installed.
    """

    def __init__(self, config: TabletopConfig) -> None:
        self.config = config
        if config.backend == "numba" and not numba_is_there():
            raise UserError("backend 'numba' needs the package numba; pip install numba, or use backend 'torch'")
        if config.family == "tableware" and config.backend == "auto" and not numba_is_there():
            raise UserError("tableware needs the package numba, or moderngl with backend 'moderngl'; pip install numba")
        self._gl: Any = None
        if config.backend == "moderngl":
            from objectwise.rendering import tabletop_gl

            self._gl = tabletop_gl.MeshAtlas(config)

    def __call__(self, scene: TableScene) -> Tensor:
        """(B, C, H, W) images in [0, 1]; see :class:`Renderer`."""
        if self._gl is not None:
            images: Tensor = self._gl(scene)
            return images
        return self.view(scene).images

    def fast(self, scene: TableScene) -> bool:
        """Whether numba draws this scene.

        Raises:
            UserError: if numba is asked for and cannot.
        """
        wants_gradient = torch.is_grad_enabled() and (scene.pose.requires_grad or scene.camera.requires_grad)
        suits = scene.pose.device.type == "cpu" and not wants_gradient
        if self.config.backend == "numba" and not suits:
            raise UserError("backend 'numba' needs a scene on the CPU without gradients; use backend 'torch'")
        return self.config.backend in ("auto", "numba") and suits and numba_is_there()

    def view(self, scene: TableScene) -> TableView:
        """Pictures with masks and depth.

        Args:
            scene: B scenes; on the CPU without gradients for numba.

        Returns:
            floats in the dtype of ``scene.pose``.

        Raises:
            UserError: if no backend can do it.
        """
        if self.fast(scene):
            from objectwise.rendering import tabletop_numba

            return tabletop_numba.view(scene, self.config)
        self._only_solids()
        color, depth, ground = torch_layers(scene, self.config)
        return composite(color, depth, ground, self.config.samples)

    def prefixes(self, scene: TableScene) -> Tensor:
        """(B, M + 1, C, H, W): the pictures of the first 0, 1, ..., M objects, absent ones left out."""
        if self._gl is None and self.fast(scene):
            from objectwise.rendering import tabletop_numba

            return tabletop_numba.prefixes(scene, self.config)
        if self._gl is not None:
            return rendered_prefixes(self, scene)
        self._only_solids()
        color, depth, ground = torch_layers(scene, self.config)
        order = range(depth.shape[1] + 1)
        return torch.stack(
            [composite(color[:, :n], depth[:, :n], ground, self.config.samples).images for n in order], 1
        )

    def _only_solids(self) -> None:
        if self.config.family != "primitives":
            raise UserError("the torch backend has no tableware: it needs numba, a scene on the CPU and no gradients")


def rendered_prefixes(renderer: Renderer, scene: TableScene) -> Tensor:
    """The same as :meth:`Tabletop.prefixes` for any renderer, by drawing M + 1 scenes."""
    number = scene.kind.shape[1]
    many = scene.repeated(number + 1)
    used = torch.ones(number + 1, number, dtype=torch.bool, device=scene.kind.device).tril(-1)
    images = renderer(many._replace(present=many.present & used.repeat(len(scene.kind), 1)))
    return images.unflatten(0, (len(scene.kind), number + 1))


def kind_colors(config: TabletopConfig) -> tuple[Tensor, Tensor]:
    """Float64 colours (K, C) of the kinds, and (2, C) of table and floor."""
    kinds = torch.tensor([kind.color for kind in config.kinds], dtype=torch.float64)
    ground = torch.tensor([config.table_color, config.floor_color], dtype=torch.float64)
    if config.channels == 1:
        return kinds.mean(1, keepdim=True), ground.mean(1, keepdim=True)
    return kinds, ground


def waves(length: int, number: int = WAVES) -> Tensor:
    """(F, length) float64: the slowest cosines over a row of pixels, orthonormal, the constant first; F ≤ ``number``."""
    place = (torch.arange(length, dtype=torch.float64) + 0.5) / length
    frequency = torch.arange(min(number, length), dtype=torch.float64).unsqueeze(1)
    scale = torch.where(frequency == 0, math.sqrt(1.0 / length), math.sqrt(2.0 / length))
    return scale * torch.cos(math.pi * frequency * place)


def camera_frame(camera: Tensor, config: TabletopConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(B, 2) azimuth and elevation -> eye, right, up and forward, (B, 3) each."""
    azimuth, elevation = camera.unbind(-1)
    ca, sa, ce, se = azimuth.cos(), azimuth.sin(), elevation.cos(), elevation.sin()
    zero = torch.zeros_like(ca)
    outward = torch.stack([ce * ca, ce * sa, se], -1)
    eye = config.distance * outward + torch.stack([zero, zero, zero + config.target_height], -1)
    return eye, torch.stack([-sa, ca, zero], -1), torch.stack([-se * ca, -se * sa, ce], -1), -outward


def project(scene: TableScene, config: TabletopConfig, points: Tensor) -> Tensor:
    """Where world points (B, P, 3) are in the picture: (B, P, 3) column and row in pixels, and depth."""
    eye, right, up, forward = (part.unsqueeze(1) for part in camera_frame(scene.camera, config))
    offset = points - eye
    ahead = (offset * forward).sum(-1)
    scale = min(config.height, config.width) / 2 / config.tangent
    column = config.width / 2 + scale * (offset * right).sum(-1) / ahead
    row = config.height / 2 - scale * (offset * up).sum(-1) / ahead
    return torch.stack([column, row, ahead], -1)


class Sight(NamedTuple):
    """Rays (broadcast over (B, 1, h, w)) and where they start: what a layer is made from."""

    eye: Vector
    rays: Vector


def sight(camera: Tensor, config: TabletopConfig, samples: int) -> Sight:
    """The rays through the middles of a pixel's S×S cells, with unit component along the optical axis."""
    frame = [tuple(part[:, None, None, None, axis] for axis in range(3)) for part in camera_frame(camera, config)]
    eye, right, up, forward = frame
    short = min(config.height, config.width)
    grid = {"dtype": camera.dtype, "device": camera.device}
    column = (torch.arange(config.width * samples, **grid) + 0.5) / samples  # type: ignore[call-overload]
    row = (torch.arange(config.height * samples, **grid) + 0.5) / samples  # type: ignore[call-overload]
    u = ((2.0 * column - config.width) / short * config.tangent).view(1, 1, 1, -1)
    v = ((config.height - 2.0 * row) / short * config.tangent).view(1, 1, -1, 1)
    rays = [forward[axis] + u * right[axis] + v * up[axis] for axis in range(3)]
    return Sight((eye[0], eye[1], eye[2]), (rays[0], rays[1], rays[2]))


class Local(NamedTuple):
    """Rays in the frames of the objects, lengths in units of their sizes; (B, M, h, w) after broadcasting.

    Attributes:
        kind: (B, M, 1, 1) code of the solid, as in ``primitives3d``.
        origin: of the rays.
        direction: of the rays; parameters along them are depths.
        cosine: (B, M, 1, 1) of the yaw.
        sine: (B, M, 1, 1).
        size: (B, M, 1, 1).
    """

    kind: Tensor
    origin: Vector
    direction: Vector
    cosine: Tensor
    sine: Tensor
    size: Tensor


def local_rays(scene: TableScene, seen: Sight, config: TabletopConfig) -> Local:
    """The rays as the objects see them."""
    device, dtype = scene.pose.device, scene.pose.dtype
    solids = torch.tensor([SOLIDS.index(kind.solid) for kind in config.kinds], device=device)[scene.kind]
    sizes = torch.tensor([kind.size for kind in config.kinds], dtype=dtype, device=device)[scene.kind]
    x, y, yaw = (scene.pose[..., column][:, :, None, None] for column in range(3))
    cosine, sine, size = yaw.cos(), yaw.sin(), sizes[:, :, None, None]
    wx, wy, wz = (seen.eye[0] - x) / size, (seen.eye[1] - y) / size, (seen.eye[2] - size) / size
    dx, dy, dz = seen.rays[0] / size, seen.rays[1] / size, seen.rays[2] / size
    return Local(
        solids[:, :, None, None],
        (cosine * wx + sine * wy, cosine * wy - sine * wx, wz),
        (cosine * dx + sine * dy, cosine * dy - sine * dx, dz),
        cosine,
        sine,
        size,
    )


def brightness(local: Local, point: Vector) -> Tensor:
    """How bright the surface is at points in the objects' frames."""
    nx, ny, nz = _normal(local.kind, point)
    wx, wy = local.cosine * nx - local.sine * ny, local.sine * nx + local.cosine * ny
    facing = wx * LIGHT[0] + wy * LIGHT[1] + nz * LIGHT[2]
    return AMBIENT + (1.0 - AMBIENT) * facing.clamp_min(0.0)


def torch_layers(scene: TableScene, config: TabletopConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Every object alone, S rays per pixel and axis: colour (B, M, C, S·H, S·W), depth (B, M, S·H, S·W), ground (B, C, S·H, S·W).

    Depth is infinite where the object is not hit; colour is arbitrary there.
    """
    seen = sight(scene.camera, config, config.samples)
    local = local_rays(scene, seen, config)
    enter = _enter(local.kind, local.origin, local.direction)
    hit = torch.isfinite(enter) & scene.present[:, :, None, None]
    depth = torch.where(hit, enter, 1.0)
    point = [o + depth * d for o, d in zip(local.origin, local.direction, strict=True)]
    shade = brightness(local, (point[0], point[1], point[2]))
    colors, _ = kind_colors(config)
    color = colors.to(shade)[scene.kind][..., None, None] * shade.unsqueeze(2)
    return color, torch.where(hit, enter, math.inf), ground_layer(seen, config)


def ground_layer(seen: Sight, config: TabletopConfig) -> Tensor:
    """(B, C, h, w): the table where a ray meets it, else the floor."""
    down = seen.rays[2].clamp_max(-TINY)
    t = -seen.eye[2] / down
    x, y = seen.eye[0] + t * seen.rays[0], seen.eye[1] + t * seen.rays[1]
    on_table = (seen.rays[2] < -TINY) & (x.abs() <= config.table) & (y.abs() <= config.table)
    _, ground = kind_colors(config)
    table, floor = ground.to(seen.rays[2])[:, None, :, None, None].unbind(0)
    return torch.where(on_table, table, floor)


def composite(color: Tensor, depth: Tensor, ground: Tensor, samples: int) -> TableView:
    """The picture of layers, the nearest object winning every ray; shapes as in :func:`torch_layers`."""
    if depth.shape[1] == 0:
        images = _block_sum(ground, samples) / samples**2
        empty = torch.zeros_like(images[:, 0])
        return TableView(images, empty.long(), empty + math.inf, torch.ones_like(images[:, :1]))
    nearest, winner = depth.min(dim=1)
    hit = torch.isfinite(nearest)
    chosen = color.gather(1, winner[:, None, None].expand(-1, 1, color.shape[2], -1, -1)).squeeze(1)
    fine = torch.where(hit.unsqueeze(1), chosen, ground)
    owner = torch.where(hit, winner + 1, 0)
    count = torch.stack([_block_sum(owner == entity, samples) for entity in range(depth.shape[1] + 1)], dim=1)
    ids = count.argmax(dim=1)
    fine_ids = ids.repeat_interleave(samples, -1).repeat_interleave(samples, -2)
    ours = (owner == fine_ids) & hit
    mean = _block_sum(torch.where(ours, nearest, 0.0), samples) / _block_sum(ours, samples).clamp_min(1)
    coverage = count.to(color.dtype) / samples**2
    return TableView(
        _block_sum(fine, samples) / samples**2,
        ids,
        torch.where(ids > 0, mean, torch.full_like(mean, math.inf)),
        coverage,
    )
