"""Spheres, cubes and cylinders on a ground plane, by analytic ray casting: from scene parameters to pixels, ids and depth.

World: the ground is z = 0, objects stand or float above it, lengths are in CLEVR's units (a large object has radius 0.7).
A pinhole camera looks from ``eye`` to ``target``. Every solid is its unit solid, [-1, 1]³ or the sphere or cylinder inside it,
scaled by ``size``, turned by ``rotation`` about z and moved to ``position``.

Light is made of independent parts, so that a scene is composited exactly from its objects: an object's colour does not depend
on the other objects, and each darkens the ground by a factor of its own (soft shadow of every lamp, contact shadow). Hence
:func:`render_layers` renders each object once and :func:`composite` and :func:`prefixes` give every subset of them.
Shadows therefore fall on the ground only, and metal mirrors the empty ground and sky.

Two backends compute the same numbers: numba (fast, one core) and torch (batched, any device, differentiable but for silhouettes).
Only elementwise arithmetic is used; an image does not depend on the batch it is rendered in.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from objectwise.core import Config, UserError

KINDS = ("cube", "sphere", "cylinder")
"""Names of the codes in ``Scene.kind``."""
CUBE, SPHERE, CYLINDER = range(3)
REACH = (math.sqrt(3.0), 1.0, math.sqrt(2.0))
"""Radius of each unit solid's bounding sphere."""
TINY = 1e-9
MIRROR = 1.2
"""How much brighter than its colour a metal mirrors."""
MOST_GLOSS = 8
"""Largest exponent in ``Look.gloss``."""
EYE, TARGET = (7.4811, -6.5076, 5.3437), (0.0, 0.0, 0.0)
"""CLEVR's camera."""
LAMPS = ((6.4467, -2.9052, 4.2584), (-4.6711, -4.0136, 3.0112), (-1.1685, 2.6460, 5.8157))
"""CLEVR's key, fill and back lamp."""
CHUNK = 1 << 20
"""Rays times objects that the torch backend holds at once."""

Vector = tuple[Tensor, Tensor, Tensor]
"""x, y and z as tensors that broadcast against each other."""


class Look(Config):
    """Light and materials; the defaults resemble CLEVR's."""

    power: tuple[float, ...] = (9.5, 2.6, 3.9)
    """Strength of each lamp: light on a surface that faces it at distance 1."""
    tints: tuple[tuple[float, float, float], ...] = ((1.0, 0.95, 0.88), (0.82, 0.88, 1.0), (1.0, 1.0, 1.0))
    """Colour of each lamp, linear RGB."""
    softness: float = Field(0.22, gt=0, le=2)
    """Apparent size of the lamps (width over distance): how fast shadows blur with the height that casts them."""
    shadow: float = Field(0.85, ge=0, le=1)
    """How much of a lamp's light a shadow takes away; 0: no cast shadows."""
    contact: float = Field(0.45, ge=0, le=1)
    """Darkening of the ground where an object touches it; 0: none."""
    ambient: float = Field(0.265, ge=0)
    """Light that comes from everywhere."""
    ground: tuple[float, float, float] = (0.62, 0.61, 0.60)
    """Colour of the ground, linear RGB."""
    sky: tuple[float, float, float] = (0.08, 0.08, 0.085)
    """Colour above the horizon and in mirrors, linear RGB."""
    highlight: tuple[float, float] = (0.12, 8.0)
    """Strength of the highlights of rubber and of metal; (0, 0): none."""
    gloss: tuple[int, int] = (4, 5)
    """Narrowness of the highlights of rubber and of metal: cosine to the power 2^n."""
    exposure: float = Field(1.0, gt=0)
    """Factor on all light before it is clipped at white."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.power) != len(self.tints) or not self.power:
            raise ValueError(f"power has {len(self.power)} lamps but tints has {len(self.tints)}")
        if min(self.gloss) < 0 or max(self.gloss) > MOST_GLOSS:
            raise ValueError(f"gloss {self.gloss} must be two numbers from 0 to {MOST_GLOSS}")
        return self


class RenderSettings(Config):
    """Everything about a picture but the scene."""

    height: int = Field(64, ge=4, le=4096)
    """H in pixels."""
    width: int = Field(64, ge=4, le=4096)
    """W in pixels."""
    field_of_view: float = Field(32.0, gt=0, lt=170)
    """Angle, in degrees, that the shorter side of the picture covers."""
    samples: Literal[1, 2, 4] = 2
    """Rays per pixel along each axis."""
    look: Look = Look()
    """Light and materials."""
    backend: Literal["auto", "numba", "torch"] = "auto"
    """auto: numba where it is installed and the scene is on the CPU and needs no gradient."""

    @property
    def tangent(self) -> float:
        """Half the shorter side at distance 1."""
        return math.tan(math.radians(self.field_of_view) / 2)


class Scene(NamedTuple):
    """B scenes of up to M objects under L lamps; floats of one dtype.

    Attributes:
        kind: (B, M) int64, index into ``KINDS``.
        position: (B, M, 3) centres.
        size: (B, M) radius of the sphere and cylinder, half the side of the cube, half the height of both.
        rotation: (B, M) radians about z, counter-clockwise from above.
        color: (B, M, 3) linear RGB in [0, 1].
        metal: (B, M) from 0 (rubber) to 1 (metal).
        present: (B, M) bool; absent objects are not drawn.
        eye: (B, 3) where the camera is.
        target: (B, 3) what it looks at; not straight above or below ``eye``.
        lamps: (B, L, 3) positions; each faces the origin.
    """

    kind: Tensor
    position: Tensor
    size: Tensor
    rotation: Tensor
    color: Tensor
    metal: Tensor
    present: Tensor
    eye: Tensor
    target: Tensor
    lamps: Tensor

    def rows(self, rows: slice | Tensor) -> Scene:
        """The scenes with these rows."""
        return Scene(*(value[rows] for value in self))


class Rendered(NamedTuple):
    """Pictures with their ground truth.

    Attributes:
        images: (B, 3, H, W) in [0, 1], display values (gamma 2), not rounded to bytes.
        ids: (B, H, W) int64: 0 ground or sky, m + 1 for object m: whatever fills most of the pixel (the smaller id on ties).
        depth: (B, H, W) distance along the optical axis of what ``ids`` names (mean over its rays); infinite in the sky.
    """

    images: Tensor
    ids: Tensor
    depth: Tensor


class Layers(NamedTuple):
    """Each object rendered alone, S rays per pixel and axis; see the module's text.

    Attributes:
        color: (B, M, 3, S·H, S·W) linear RGB, zero where the object is not hit.
        depth: (B, M, S·H, S·W) along the optical axis, infinite where it is not hit.
        shade: (B, M, H, W) factor in [0, 1] by which the object darkens the ground.
        ground: (B, 3, H, W) linear RGB of the empty ground and sky.
        ground_depth: (B, H, W), infinite in the sky.
    """

    color: Tensor
    depth: Tensor
    shade: Tensor
    ground: Tensor
    ground_depth: Tensor


def make_scene(
    kind: Tensor,
    position: Tensor,
    size: Tensor,
    color: Tensor,
    *,
    rotation: Tensor | None = None,
    metal: Tensor | None = None,
    present: Tensor | None = None,
    eye: Tensor | None = None,
    target: Tensor | None = None,
    lamps: Tensor | None = None,
) -> Scene:
    """A scene with CLEVR's camera and lamps, rubber and unrotated, where nothing else is said; shapes as in :class:`Scene`."""
    batch = kind.shape[:1]

    def constant(values: Any) -> Tensor:
        tensor = torch.tensor(values, dtype=position.dtype, device=position.device)
        return tensor.expand(*batch, *tensor.shape)

    return Scene(
        kind,
        position,
        size,
        torch.zeros_like(size) if rotation is None else rotation,
        color,
        torch.zeros_like(size) if metal is None else metal,
        torch.ones_like(kind, dtype=torch.bool) if present is None else present,
        constant(EYE) if eye is None else eye,
        constant(TARGET) if target is None else target,
        constant(LAMPS) if lamps is None else lamps,
    )


def numba_is_there() -> bool:
    """Whether the fast backend can be used."""
    return importlib.util.find_spec("numba") is not None


def backend_for(scene: Scene, settings: RenderSettings) -> Literal["numba", "torch"]:
    """Which backend will render a scene.

    Raises:
        UserError: if numba is asked for and absent, or cannot do it.
    """
    differentiable = torch.is_grad_enabled() and any(value.requires_grad for value in scene)
    suits = scene.position.device.type == "cpu" and not differentiable
    if settings.backend == "numba":
        if not numba_is_there():
            raise UserError("backend 'numba' needs the package numba; pip install numba, or use backend 'torch'")
        if not suits:
            raise UserError("backend 'numba' needs a scene on the CPU without gradients; use backend 'torch'")
        return "numba"
    return "numba" if settings.backend == "auto" and suits and numba_is_there() else "torch"


def render(scene: Scene, settings: RenderSettings) -> Rendered:
    """Draw scenes.

    Args:
        scene: B scenes; on any device for the torch backend.
        settings: size, camera angle, light and backend.

    Returns:
        images and depth in the scene's dtype, and ids.

    Raises:
        UserError: if the backend asked for cannot be used, or lamps and ``settings.look`` disagree in number.
    """
    _check(scene, settings)
    if backend_for(scene, settings) == "numba":
        from objectwise.rendering import primitives3d_numba

        return primitives3d_numba.render(scene, settings)
    chunk = _chunk(scene, settings)
    parts = [
        composite(_torch_layers(scene.rows(slice(start, start + chunk)), settings), settings.samples)
        for start in range(0, max(len(scene.kind), 1), chunk)
    ]
    return Rendered(*(torch.cat(values) for values in zip(*parts, strict=True)))


def render_layers(scene: Scene, settings: RenderSettings) -> Layers:
    """Draw every object alone, so that subsets and changes of one object cost no more than a composition.

    Arguments and errors as in :func:`render`; absent objects give empty layers.
    """
    _check(scene, settings)
    if backend_for(scene, settings) == "numba":
        from objectwise.rendering import primitives3d_numba

        return primitives3d_numba.render_layers(scene, settings)
    chunk = _chunk(scene, settings)
    parts = [
        _torch_layers(scene.rows(slice(start, start + chunk)), settings)
        for start in range(0, max(len(scene.kind), 1), chunk)
    ]
    return Layers(*(torch.cat(values) for values in zip(*parts, strict=True)))


def composite(layers: Layers, samples: int, used: Tensor | None = None) -> Rendered:
    """The picture of all objects, or of some.

    Args:
        layers: from :func:`render_layers`.
        samples: S, rays per pixel and axis of the layers.
        used: (B, M) bool, which objects take part; None: all.
    """
    depth, shade = layers.depth, layers.shade
    if used is not None:
        depth = torch.where(used[:, :, None, None], depth, math.inf)
        shade = torch.where(used[:, :, None, None], shade, 1.0)
    ground = layers.ground
    for index in range(shade.shape[1]):  # not prod(), whose order of factors is not ours
        ground = ground * shade[:, index : index + 1]
    if depth.shape[1] == 0:
        ids = torch.zeros(layers.ground_depth.shape, dtype=torch.int64, device=depth.device)
        return Rendered(_display(ground), ids, layers.ground_depth)
    nearest, winner = depth.min(dim=1)
    hit = nearest < _enlarge(layers.ground_depth, samples)
    color = layers.color.gather(1, winner[:, None, None].expand(-1, 1, 3, -1, -1)).squeeze(1)
    fine = torch.where(hit.unsqueeze(1), color, _enlarge(ground, samples))
    ids = torch.where(hit, winner + 1, 0)
    count = torch.stack([_block_sum(ids == entity, samples) for entity in range(depth.shape[1] + 1)], dim=1)
    chosen = count.argmax(dim=1)
    ours = (ids == _enlarge(chosen, samples)) & hit
    mean = _block_sum(torch.where(ours, nearest, 0.0), samples) / _block_sum(ours, samples).clamp_min(1)
    return Rendered(
        _display(_block_sum(fine, samples) / samples**2), chosen, torch.where(chosen > 0, mean, layers.ground_depth)
    )


def prefixes(layers: Layers, samples: int) -> Tensor:
    """The pictures of the first 0, 1, ..., M objects: (B, M + 1, 3, H, W); arguments as in :func:`composite`."""
    number = layers.depth.shape[1]
    order = torch.arange(number, device=layers.depth.device)
    return torch.stack(
        [composite(layers, samples, (order < n).expand(len(layers.depth), -1)).images for n in range(number + 1)], dim=1
    )


def camera_axes(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """The camera's right, up and forward, (B, 3) unit vectors each."""
    fx, fy, fz = _unit(_columns(scene.target - scene.eye))
    rx, ry, _ = _unit((fy, -fx, torch.zeros_like(fx)))
    up = (ry * fz, -rx * fz, rx * fy - ry * fx)
    return torch.stack([rx, ry, torch.zeros_like(rx)], -1), torch.stack(up, -1), torch.stack([fx, fy, fz], -1)


def project(scene: Scene, settings: RenderSettings, points: Tensor) -> Tensor:
    """Where world points (B, N, 3) are in the picture: (B, N, 3) column and row in pixels, and depth."""
    offset = _columns(points - scene.eye.unsqueeze(1))
    right, up, forward = (_dot(offset, _columns(axis.unsqueeze(1))) for axis in camera_axes(scene))
    scale = min(settings.height, settings.width) / 2 / settings.tangent
    return torch.stack(
        [settings.width / 2 + scale * right / forward, settings.height / 2 - scale * up / forward, forward], -1
    )


# --------------------------------------------------------------------------------------------------------------------
# The torch backend. Rays are (B, 1, h, w), objects (B, M, 1, 1); a vector is a tuple of three tensors, because sums over
# an axis may be ordered differently in another batch and elementwise sums may not.


def _torch_layers(scene: Scene, settings: RenderSettings) -> Layers:
    coarse, fine = _rays(scene, settings, 1), _rays(scene, settings, settings.samples)
    eye = _spread(scene.eye)
    point, distance = _ground_points(eye, coarse)
    light = _ground_light(point, scene, settings.look)
    above = torch.isinf(distance)
    sky = torch.tensor(settings.look.sky, dtype=distance.dtype, device=distance.device)
    ground = [
        torch.where(above, sky[c], settings.look.ground[c] * settings.look.exposure * light[c]).squeeze(1)
        for c in range(3)
    ]
    objects = scene.present[:, :, None, None]
    depth, color = _objects(scene, settings, eye, fine)
    shade = torch.where(objects & ~above, _shades(point, scene, settings.look), 1.0)
    return Layers(color, depth, shade, torch.stack(ground, 1), distance.squeeze(1))


def _rays(scene: Scene, settings: RenderSettings, samples: int) -> Vector:
    """Directions (B, 1, S·H, S·W) with unit component along the optical axis."""
    short = min(settings.height, settings.width)
    dtype, device = scene.eye.dtype, scene.eye.device
    column = (torch.arange(settings.width * samples, dtype=dtype, device=device) + 0.5) / samples
    row = (torch.arange(settings.height * samples, dtype=dtype, device=device) + 0.5) / samples
    u = ((2.0 * column - settings.width) / short * settings.tangent).view(1, 1, 1, -1)
    v = ((settings.height - 2.0 * row) / short * settings.tangent).view(1, 1, -1, 1)
    right, up, forward = (_spread(axis) for axis in camera_axes(scene))
    x, y, z = (f + u * r + v * p for r, p, f in zip(right, up, forward, strict=True))
    return x, y, z


def _ground_points(origin: Vector, direction: Vector) -> tuple[Vector, Tensor]:
    """Where rays meet the ground, and the distance along them (infinite above the horizon; the point is then arbitrary)."""
    down = direction[2] < -TINY
    distance = torch.where(down, -origin[2] / torch.where(down, direction[2], -1.0), 0.0)
    point = (origin[0] + distance * direction[0], origin[1] + distance * direction[1], torch.zeros_like(distance))
    return point, torch.where(down, distance, math.inf)


def _lamp(point: Vector, lamp: Vector) -> tuple[Vector, Tensor]:
    """Unit vector from points to a lamp that faces the origin, and how much of its power arrives (unit power)."""
    offset = (lamp[0] - point[0], lamp[1] - point[1], lamp[2] - point[2])
    square = _dot(offset, offset).clamp_min(TINY)
    length = square.sqrt()
    facing = (_dot(offset, lamp) / (length * _dot(lamp, lamp).sqrt())).clamp_min(0.0)
    return (offset[0] / length, offset[1] / length, offset[2] / length), facing / square


def _ground_light(point: Vector, scene: Scene, look: Look) -> Vector:
    """Light on the empty ground, RGB."""
    total = [torch.full_like(point[0], look.ambient) for _ in range(3)]
    for index, (power, tint) in enumerate(zip(look.power, look.tints, strict=True)):
        toward, arrives = _lamp(point, _spread(scene.lamps[:, index]))
        received = power * arrives * toward[2]
        total = [total[c] + tint[c] * received for c in range(3)]
    return total[0], total[1], total[2]


def _shades(point: Vector, scene: Scene, look: Look) -> Tensor:
    """(B, M, H, W): the factor by which each object darkens ground points."""
    cosine, sine = scene.rotation.cos()[:, :, None, None], scene.rotation.sin()[:, :, None, None]
    size, center = scene.size[:, :, None, None], [scene.position[..., axis][:, :, None, None] for axis in range(3)]
    kind = scene.kind[:, :, None, None]
    x, y = (point[0] - center[0]) / size, (point[1] - center[1]) / size
    x, y = cosine * x + sine * y, cosine * y - sine * x
    received, taken = torch.full_like(point[0], look.ambient), torch.zeros_like(x)
    base = center[2] / size - 1.0
    for index, power in enumerate(look.power):
        lamp = _spread(scene.lamps[:, index])
        toward, arrives = _lamp(point, lamp)
        light = power * arrives * toward[2]
        received = received + light
        height = lamp[2] / size
        ex, ey = (center[0] - lamp[0]) / size, (center[1] - lamp[1]) / size
        ex, ey = cosine * ex + sine * ey, cosine * ey - sine * ex
        taken = taken + light * _shadow(kind, x, y, ex, ey, height, base, look.softness)
    near = (1.0 - (x * x + y * y) / 4.0).clamp_min(0.0)
    contact = look.contact * near * near / (1.0 + 4.0 * base * base)
    return (1.0 - look.shadow * taken / received.clamp_min(TINY)) * (1.0 - contact)


def _shadow(
    kind: Tensor, x: Tensor, y: Tensor, ex: Tensor, ey: Tensor, height: Tensor, base: Tensor, softness: float
) -> Tensor:
    """How much of a lamp is hidden, in [0, 1]; everything in the object's frame, lengths in units of its size.

    Cube and cylinder sweep their footprint from its shadow by the bottom face to that by the top face, ``(ex, ey)`` being the
    horizontal offset from lamp to object; the sphere's shadow is an ellipse. The edge blurs with the height that casts it.
    """
    low = base / (height - base).clamp_min(0.1)
    high = (base + 2.0) / (height - base - 2.0).clamp_min(0.1)
    middle = (base + 1.0) / (height - base - 1.0).clamp_min(0.1)
    px, py = x - low * ex, y - low * ey
    sx, sy = (high - low) * ex, (high - low) * ey
    length = (sx * sx + sy * sy).clamp_min(TINY)
    along = ((px * sx + py * sy) / length).clamp(0.0, 1.0)
    qx, qy = px - along * sx, py - along * sy
    cylinder = (qx * qx + qy * qy + TINY).sqrt() - 1.0
    root = length.sqrt()
    side = ((px * sy - py * sx).abs() - sx.abs() - sy.abs()) / root
    square = torch.maximum(
        torch.maximum(px - 1.0 - sx.clamp_min(0.0), -px - 1.0 + sx.clamp_max(0.0)),
        torch.maximum(py - 1.0 - sy.clamp_min(0.0), -py - 1.0 + sy.clamp_max(0.0)),
    )
    cube = torch.maximum(square, side)
    mx, my = x - middle * ex, y - middle * ey
    tilt = middle * middle * (ex * ex + ey * ey)
    part = (mx * sx + my * sy) / root
    across = (mx * sy - my * sx) / root
    sphere = (part * part / (1.0 + tilt) + across * across + TINY).sqrt() - 1.0
    edge = torch.where(kind == CUBE, cube, torch.where(kind == SPHERE, sphere, cylinder))
    rise = base + torch.where(kind == SPHERE, torch.ones_like(along), 2.0 * along)
    share = (0.5 - edge / (2.0 * (0.08 + softness * rise))).clamp(0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


def _objects(scene: Scene, settings: RenderSettings, eye: Vector, rays: Vector) -> tuple[Tensor, Tensor]:
    """Depth (B, M, h, w) and linear colour (B, M, 3, h, w) of each object alone."""
    cosine, sine = scene.rotation.cos()[:, :, None, None], scene.rotation.sin()[:, :, None, None]
    size, kind = scene.size[:, :, None, None], scene.kind[:, :, None, None]
    center = [scene.position[..., axis][:, :, None, None] for axis in range(3)]
    ox, oy, oz = ((eye[axis] - center[axis]) / size for axis in range(3))
    origin = (cosine * ox + sine * oy, cosine * oy - sine * ox, oz)
    direction = (
        (cosine * rays[0] + sine * rays[1]) / size,
        (cosine * rays[1] - sine * rays[0]) / size,
        rays[2] / size,
    )
    enter = _enter(kind, origin, direction)
    hit = torch.isfinite(enter) & scene.present[:, :, None, None]
    depth = torch.where(hit, enter, 1.0)
    local = tuple(o + depth * d for o, d in zip(origin, direction, strict=True))
    nx, ny, nz = _normal(kind, (local[0], local[1], local[2]))
    normal = (cosine * nx - sine * ny, sine * nx + cosine * ny, nz)
    point = (eye[0] + depth * rays[0], eye[1] + depth * rays[1], eye[2] + depth * rays[2])
    view = _unit((-rays[0], -rays[1], -rays[2]))
    color = _shading(point, normal, view, scene, settings.look)
    return torch.where(hit, enter, math.inf), torch.stack([torch.where(hit, c, 0.0) for c in color], dim=2)


def _enter(kind: Tensor, origin: Vector, direction: Vector) -> Tensor:
    """Where rays enter the unit solids; infinite where they miss, or start inside or beyond."""
    near, far = _slab(origin[2], direction[2])
    for axis in (0, 1):
        first, last = _slab(origin[axis], direction[axis])
        cube = kind == CUBE
        near = torch.where(cube, torch.maximum(near, first), near)
        far = torch.where(cube, torch.minimum(far, last), far)
    upright = torch.where(kind == SPHERE, 1.0, 0.0).to(near.dtype)
    a = direction[0] * direction[0] + direction[1] * direction[1] + upright * direction[2] * direction[2]
    b = origin[0] * direction[0] + origin[1] * direction[1] + upright * origin[2] * direction[2]
    c = origin[0] * origin[0] + origin[1] * origin[1] + upright * origin[2] * origin[2] - 1.0
    a = a.clamp_min(TINY)
    inside = b * b - a * c
    met = inside > 0.0
    root = torch.where(met, inside, 1.0).sqrt()
    first, last = (-b - root) / a, (-b + root) / a
    near = torch.where(kind == SPHERE, first, torch.where(kind == CYLINDER, torch.maximum(near, first), near))
    far = torch.where(kind == SPHERE, last, torch.where(kind == CYLINDER, torch.minimum(far, last), far))
    return torch.where((near < far) & (near > 0.0) & (met | (kind == CUBE)), near, math.inf)


def _slab(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    safe = torch.where(direction.abs() < TINY, TINY, direction)
    first, second = (-1.0 - origin) / safe, (1.0 - origin) / safe
    return torch.minimum(first, second), torch.maximum(first, second)


def _normal(kind: Tensor, point: Vector) -> Vector:
    """Outward unit normals at points on the unit solids, in the object's frame."""
    x, y, z = point
    ax, ay, az = x.abs(), y.abs(), z.abs()
    zero = torch.zeros_like(x)
    on_x = (ax >= ay) & (ax >= az)
    on_y = ~on_x & (ay >= az)
    box = (
        torch.where(on_x, x.sign(), zero),
        torch.where(on_y, y.sign(), zero),
        torch.where(on_x | on_y, zero, z.sign()),
    )
    radial = (x * x + y * y).clamp_min(TINY).sqrt()
    cap = az >= radial
    tube = (torch.where(cap, zero, x / radial), torch.where(cap, zero, y / radial), torch.where(cap, z.sign(), zero))
    nx, ny, nz = (
        torch.where(kind == CUBE, b, torch.where(kind == SPHERE, p, t))
        for b, p, t in zip(box, point, tube, strict=True)
    )
    return nx, ny, nz


def _shading(point: Vector, normal: Vector, view: Vector, scene: Scene, look: Look) -> list[Tensor]:
    """Linear RGB of surface points: rubber (Lambert and a faint highlight) blended with metal (mirror and highlights)."""
    albedo = [scene.color[..., c][:, :, None, None] for c in range(3)]
    metal = scene.metal[:, :, None, None]
    twice = 2.0 * _dot(normal, view)
    mirror = (twice * normal[0] - view[0], twice * normal[1] - view[1], twice * normal[2] - view[2])
    diffuse = [look.ambient * (0.65 + 0.35 * normal[2]) for _ in range(3)]
    dull, bright = ([torch.zeros_like(normal[2])] * 3 for _ in range(2))
    for index, (power, tint) in enumerate(zip(look.power, look.tints, strict=True)):
        toward, arrives = _lamp(point, _spread(scene.lamps[:, index]))
        light = power * arrives
        lambert = light * _dot(normal, toward).clamp_min(0.0)
        aligned = _dot(mirror, toward).clamp_min(0.0)
        soft, sharp = light * _power(aligned, look.gloss[0]), light * _power(aligned, look.gloss[1])
        diffuse = [diffuse[c] + tint[c] * lambert for c in range(3)]
        dull = [dull[c] + tint[c] * soft for c in range(3)]
        bright = [bright[c] + tint[c] * sharp for c in range(3)]
    around = _surroundings(point, mirror, scene, look)
    rubber = [albedo[c] * diffuse[c] + look.highlight[0] * dull[c] for c in range(3)]
    steel = [MIRROR * albedo[c] * around[c] + (0.3 + 0.7 * albedo[c]) * look.highlight[1] * bright[c] for c in range(3)]
    return [look.exposure * ((1.0 - metal) * rubber[c] + metal * steel[c]) for c in range(3)]


def _surroundings(point: Vector, mirror: Vector, scene: Scene, look: Look) -> list[Tensor]:
    """What a mirror shows in a direction: the lit ground below, the sky above, a soft horizon between."""
    distance = point[2].clamp_min(0.0) / (-mirror[2]).clamp_min(0.05)
    below = (point[0] + distance * mirror[0], point[1] + distance * mirror[1], torch.zeros_like(distance))
    light = _ground_light(below, scene, look)
    up = (0.5 + 3.0 * mirror[2]).clamp(0.0, 1.0)
    seen = (1.0 - up) * (distance * distance / (0.1 + distance * distance))  # the ground near an object is dark
    return [seen * look.ground[c] * light[c] + up * look.sky[c] for c in range(3)]


def _power(value: Tensor, doublings: int) -> Tensor:
    for _ in range(doublings):
        value = value * value
    return value


def _dot(a: Vector, b: Vector) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(vector: Vector) -> Vector:
    length = _dot(vector, vector).clamp_min(TINY * TINY).sqrt()
    return vector[0] / length, vector[1] / length, vector[2] / length


def _columns(tensor: Tensor) -> Vector:
    return tensor[..., 0], tensor[..., 1], tensor[..., 2]


def _spread(tensor: Tensor) -> Vector:
    """(B, 3) -> x, y, z of shape (B, 1, 1, 1)."""
    x, y, z = _columns(tensor[:, None, None, None, :])
    return x, y, z


def _enlarge(values: Tensor, samples: int) -> Tensor:
    return values.repeat_interleave(samples, -1).repeat_interleave(samples, -2) if samples > 1 else values


def _block_sum(values: Tensor, samples: int) -> Tensor:
    """Sums over S×S blocks of the last two axes, in a fixed order."""
    total = None
    for row in range(samples):
        for column in range(samples):
            part = values[..., row::samples, column::samples]
            part = part.to(torch.int64) if part.dtype == torch.bool else part
            total = part if total is None else total + part
    assert total is not None
    return total


def _display(linear: Tensor) -> Tensor:
    """Linear light -> display values: clipped at white, gamma 2."""
    return linear.clamp(TINY, 1.0).sqrt()


def _chunk(scene: Scene, settings: RenderSettings) -> int:
    rays = settings.height * settings.width * settings.samples**2 * max(scene.kind.shape[1], 1)
    return max(1, CHUNK // rays)


def _check(scene: Scene, settings: RenderSettings) -> None:
    if scene.lamps.shape[1] != len(settings.look.power):
        raise UserError(
            f"the scene has {scene.lamps.shape[1]} lamps but look.power has {len(settings.look.power)} strengths"
        )
