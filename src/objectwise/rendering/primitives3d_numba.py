"""The numba backend of :mod:`objectwise.rendering.primitives3d`: the same formulas, one ray at a time.

Faster than the torch backend because it casts rays only inside the box around an object, shades only what is seen, and works
out shadows only near an object. Imported only when it is used. Arithmetic is in double precision without reordering.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit

from objectwise.rendering.primitives3d import (
    CUBE,
    CYLINDER,
    MIRROR,
    MOST_GLOSS,
    REACH,
    SPHERE,
    TINY,
    Layers,
    Rendered,
    RenderSettings,
    Scene,
    camera_axes,
)

part = njit(cache=True, error_model="numpy", nogil=True, forceinline=True)
kernel = njit(cache=True, error_model="numpy", nogil=True)

# Everything a kernel reads lies in four plain arrays (slices and tuples of arrays cost reference counting in every call):
# things (B, M, 12), camera (B, 12), lamps (B, L, 8), look (14,). These are their columns.
KIND, X, Y, Z, SIZE, COSINE, SINE, RED, GREEN, BLUE, METAL, PRESENT = range(12)
EYE_X, EYE_Y, EYE_Z, RIGHT_X, RIGHT_Y, RIGHT_Z, UP_X, UP_Y, UP_Z, AHEAD_X, AHEAD_Y, AHEAD_Z = range(12)
LAMP_X, LAMP_Y, LAMP_Z, REACH_OF_LAMP, POWER, TINT_R, TINT_G, TINT_B = range(8)
SOFTNESS, SHADOW, CONTACT, AMBIENT, GROUND_R, GROUND_G, GROUND_B, SKY_R, SKY_G, SKY_B, DULL, BRIGHT, EXPOSURE = range(
    13
)


def render(scene: Scene, settings: RenderSettings) -> Rendered:
    """See :func:`objectwise.rendering.primitives3d.render`."""
    dtype, shape = _dtype(scene), (len(scene.kind), settings.height, settings.width)
    images = np.empty((shape[0], 3, *shape[1:]), dtype)
    ids, depth = np.empty(shape, np.int64), np.empty(shape, dtype)
    _render(*_pack(scene, settings), images, ids, depth)
    return Rendered(torch.from_numpy(images), torch.from_numpy(ids), torch.from_numpy(depth))


def render_layers(scene: Scene, settings: RenderSettings) -> Layers:
    """See :func:`objectwise.rendering.primitives3d.render_layers`."""
    dtype, (batch, number) = _dtype(scene), scene.kind.shape
    coarse = (settings.height, settings.width)
    fine = (settings.height * settings.samples, settings.width * settings.samples)
    color, depth = np.zeros((batch, number, 3, *fine), dtype), np.full((batch, number, *fine), np.inf, dtype)
    shade = np.ones((batch, number, *coarse), dtype)
    ground, ground_depth = np.empty((batch, 3, *coarse), dtype), np.empty((batch, *coarse), dtype)
    _layers(*_pack(scene, settings), color, depth, shade, ground, ground_depth)
    return Layers(*(torch.from_numpy(array) for array in (color, depth, shade, ground, ground_depth)))


def _dtype(scene: Scene) -> Any:
    return np.float64 if scene.position.dtype == torch.float64 else np.float32


def _pack(scene: Scene, settings: RenderSettings) -> tuple[Any, ...]:
    """Things, camera, lamps, look, gloss, samples and tangent; see above."""
    scene = Scene(*(value.detach().double() if value.is_floating_point() else value.detach() for value in scene))
    look, (batch, count) = settings.look, scene.lamps.shape[:2]
    columns = [
        scene.kind,
        *scene.position.unbind(-1),
        scene.size,
        scene.rotation.cos(),
        scene.rotation.sin(),
        *scene.color.unbind(-1),
        scene.metal,
        scene.present,
    ]
    things = torch.stack([column.double() for column in columns], dim=-1)
    camera = torch.cat([scene.eye, *camera_axes(scene)], dim=-1)
    x, y, z = scene.lamps.unbind(-1)
    fixed = torch.tensor(
        [[power, *tint] for power, tint in zip(look.power, look.tints, strict=True)], dtype=torch.float64
    )
    lamps = torch.cat(
        [scene.lamps, (x * x + y * y + z * z).sqrt().unsqueeze(-1), fixed.expand(batch, count, 4)], dim=-1
    )
    values = [look.softness, look.shadow, look.contact, look.ambient, *look.ground, *look.sky, *look.highlight]
    return (
        things.contiguous().numpy(),
        camera.contiguous().numpy(),
        lamps.contiguous().numpy(),
        np.array([*values, look.exposure]),
        look.gloss,
        settings.samples,
        settings.tangent,
    )


@part
def _ray(camera, b, u, v):  # type: ignore[no-untyped-def]
    return (
        camera[b, AHEAD_X] + u * camera[b, RIGHT_X] + v * camera[b, UP_X],
        camera[b, AHEAD_Y] + u * camera[b, RIGHT_Y] + v * camera[b, UP_Y],
        camera[b, AHEAD_Z] + u * camera[b, RIGHT_Z] + v * camera[b, UP_Z],
    )


@part
def _slab(origin, direction):  # type: ignore[no-untyped-def]
    safe = TINY if abs(direction) < TINY else direction
    first, second = (-1.0 - origin) / safe, (1.0 - origin) / safe
    return min(first, second), max(first, second)


@part
def _enter(kind, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    if kind == CUBE:
        near, far = _slab(oz, dz)
        first, last = _slab(ox, dx)
        near, far = max(near, first), min(far, last)
        first, last = _slab(oy, dy)
        near, far = max(near, first), min(far, last)
        return near if near < far and near > 0.0 else math.inf
    upright = 1.0 if kind == SPHERE else 0.0
    a = max(dx * dx + dy * dy + upright * dz * dz, TINY)
    b = ox * dx + oy * dy + upright * oz * dz
    inside = b * b - a * (ox * ox + oy * oy + upright * oz * oz - 1.0)
    if inside <= 0.0:
        return math.inf
    root = math.sqrt(inside)
    near, far = (-b - root) / a, (-b + root) / a
    if kind != SPHERE:
        first, last = _slab(oz, dz)
        near, far = max(near, first), min(far, last)
    return near if near < far and near > 0.0 else math.inf


@part
def _lamp(x, y, z, lamps, b, index):  # type: ignore[no-untyped-def]
    """Unit vector from a point to a lamp, and how much of its power arrives there."""
    at_x, at_y, at_z = lamps[b, index, LAMP_X], lamps[b, index, LAMP_Y], lamps[b, index, LAMP_Z]
    lx, ly, lz = at_x - x, at_y - y, at_z - z
    square = max(lx * lx + ly * ly + lz * lz, TINY)
    inverse = 1.0 / math.sqrt(square)
    facing = max((lx * at_x + ly * at_y + lz * at_z) * inverse / lamps[b, index, REACH_OF_LAMP], 0.0)
    return lx * inverse, ly * inverse, lz * inverse, facing * inverse * inverse


@part
def _edge_of_ellipse(x, y, sx, sy, tilt):  # type: ignore[no-untyped-def]
    part, across = x * sx + y * sy, x * sy - y * sx
    return math.sqrt(part * part * tilt + across * across + TINY) - 1.0


@part
def _edge_of_square(x, y, sx, sy, inverse):  # type: ignore[no-untyped-def]
    side = (abs(x * sy - y * sx) - abs(sx) - abs(sy)) * inverse
    edge_x = max(x - 1.0 - max(sx, 0.0), -x - 1.0 + min(sx, 0.0))
    edge_y = max(y - 1.0 - max(sy, 0.0), -y - 1.0 + min(sy, 0.0))
    return max(max(edge_x, edge_y), side)


@part
def _edge_of_disc(x, y, sx, sy, along):  # type: ignore[no-untyped-def]
    x, y = x - along * sx, y - along * sy
    return math.sqrt(x * x + y * y + TINY) - 1.0


@part
def _hidden(edge, rise, softness):  # type: ignore[no-untyped-def]
    share = min(max(0.5 - edge / (0.16 + 2.0 * softness * rise), 0.0), 1.0)
    return share * share * (3.0 - 2.0 * share)


@part
def _along(x, y, sx, sy, inverse):  # type: ignore[no-untyped-def]
    return min(max((x * sx + y * sy) * inverse * inverse, 0.0), 1.0)


@part
def _extent(across, ahead, radius, scale, middle, length):  # type: ignore[no-untyped-def]
    """First and one past the last of ``length`` cells that a sphere's picture can touch along one axis."""
    if ahead <= radius:
        return 0, (length if ahead > -radius else 0)
    root = math.sqrt(across * across + ahead * ahead - radius * radius)
    below = ahead * ahead - radius * radius
    first = (across * ahead - radius * root) / below
    last = (across * ahead + radius * root) / below
    start = math.floor(min(max(middle + scale * first, -1.0), length + 1.0))
    stop = math.ceil(min(max(middle + scale * last, -1.0), length + 1.0))
    return max(start, 0), min(stop + 1, length)


@part
def _window(camera, b, x, y, z, radius, samples, tangent, height, width):  # type: ignore[no-untyped-def]
    """Top, bottom, left and right (half-open, in cells of 1/S pixel) of the box around a sphere's picture."""
    x, y, z = x - camera[b, EYE_X], y - camera[b, EYE_Y], z - camera[b, EYE_Z]
    sideways = x * camera[b, RIGHT_X] + y * camera[b, RIGHT_Y] + z * camera[b, RIGHT_Z]
    upward = x * camera[b, UP_X] + y * camera[b, UP_Y] + z * camera[b, UP_Z]
    ahead = x * camera[b, AHEAD_X] + y * camera[b, AHEAD_Y] + z * camera[b, AHEAD_Z]
    scale = samples * min(height, width) / (2.0 * tangent)
    left, right = _extent(sideways, ahead, radius, scale, samples * width / 2.0, samples * width)
    top, bottom = _extent(-upward, ahead, radius, scale, samples * height / 2.0, samples * height)
    return top, bottom, left, right


@kernel
def _cast(things, camera, b, m, samples, tangent, code, depth, owner):  # type: ignore[no-untyped-def]
    """Enter object m into the depth buffer and the map of owners, both (S·H, S·W); returns the window looked at."""
    height, width = depth.shape[0] // samples, depth.shape[1] // samples
    size, cosine, sine = things[b, m, SIZE], things[b, m, COSINE], things[b, m, SINE]
    kind, short = int(things[b, m, KIND]), min(height, width)
    top, bottom, left, right = _window(
        camera,
        b,
        things[b, m, X],
        things[b, m, Y],
        things[b, m, Z],
        1.00001 * REACH[kind] * size,
        samples,
        tangent,
        height,
        width,
    )
    wx, wy = (camera[b, EYE_X] - things[b, m, X]) / size, (camera[b, EYE_Y] - things[b, m, Y]) / size
    ox, oy, oz = cosine * wx + sine * wy, cosine * wy - sine * wx, (camera[b, EYE_Z] - things[b, m, Z]) / size
    for row in range(top, bottom):
        v = (height - 2.0 * ((row + 0.5) / samples)) / short * tangent
        for column in range(left, right):
            u = (2.0 * ((column + 0.5) / samples) - width) / short * tangent
            dx, dy, dz = _ray(camera, b, u, v)
            wx, wy = (cosine * dx + sine * dy) / size, (cosine * dy - sine * dx) / size
            t = _enter(kind, ox, oy, oz, wx, wy, dz / size)
            if t < depth[row, column]:
                depth[row, column] = t
                owner[row, column] = code
    return top, bottom, left, right


@part
def _power(value, doublings):  # type: ignore[no-untyped-def]
    for step in range(MOST_GLOSS):  # a fixed number of steps, so that the loop around can be vectorised
        value = value * value if step < doublings else value
    return value


@kernel
def _normals(kind, cosine, sine, inverse, x, y, z, points, left, right):  # type: ignore[no-untyped-def]
    """Fill rows 3-5 of ``points`` with the normals at the points in rows 0-2; the solid's centre is x, y, z."""
    for i in range(left, right):
        wx, wy = (points[0, i] - x) * inverse, (points[1, i] - y) * inverse
        points[3, i], points[4, i] = cosine * wx + sine * wy, cosine * wy - sine * wx
        points[5, i] = (points[2, i] - z) * inverse
    if kind == CUBE:
        for i in range(left, right):
            px, py, pz = points[3, i], points[4, i], points[5, i]
            ax, ay, az = abs(px), abs(py), abs(pz)
            on_x = ax >= max(ay, az)
            on_y = (not on_x) and ay >= az
            points[3, i] = (1.0 if px > 0.0 else -1.0) if on_x else 0.0
            points[4, i] = (1.0 if py > 0.0 else -1.0) if on_y else 0.0
            points[5, i] = 0.0 if on_x or on_y else (1.0 if pz > 0.0 else -1.0)
    if kind == CYLINDER:
        for i in range(left, right):
            px, py, pz = points[3, i], points[4, i], points[5, i]
            radial = math.sqrt(max(px * px + py * py, TINY))
            cap = abs(pz) >= radial
            points[3, i] = 0.0 if cap else px / radial
            points[4, i] = 0.0 if cap else py / radial
            points[5, i] = (1.0 if pz > 0.0 else -1.0) if cap else 0.0
    for i in range(left, right):
        ux, uy = points[3, i], points[4, i]
        points[3, i], points[4, i] = cosine * ux - sine * uy, sine * ux + cosine * uy


@kernel
def _surface_pass(things, camera, lamps, look, gloss, samples, tangent, b, m, row, left, right, near, points, light):  # type: ignore[no-untyped-def]
    """Linear RGB, into ``light`` (3, S·W), of a row of points of object m at distances ``near``.

    Light is linear in the lamps, so that each adds its part in one plain loop. ``points`` (12, S·W) is scratch: the point, its
    normal, the mirrored direction, where that meets the ground, and how much of the ground is seen there.
    """
    height, width = near.shape[0] // samples, near.shape[1] // samples
    short = min(height, width)
    v = (height - 2.0 * ((row + 0.5) / samples)) / short * tangent
    for i in range(left, right):
        u = (2.0 * ((i + 0.5) / samples) - width) / short * tangent
        dx, dy, dz = _ray(camera, b, u, v)
        t, inverse = near[row, i], -1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
        points[0, i], points[1, i] = camera[b, EYE_X] + t * dx, camera[b, EYE_Y] + t * dy
        points[2, i] = camera[b, EYE_Z] + t * dz
        points[6, i], points[7, i], points[8, i] = dx * inverse, dy * inverse, dz * inverse
    _normals(
        int(things[b, m, KIND]),
        things[b, m, COSINE],
        things[b, m, SINE],
        1.0 / things[b, m, SIZE],
        things[b, m, X],
        things[b, m, Y],
        things[b, m, Z],
        points,
        left,
        right,
    )
    metal = things[b, m, METAL]
    for i in range(left, right):
        nx, ny, nz = points[3, i], points[4, i], points[5, i]
        twice = 2.0 * (nx * points[6, i] + ny * points[7, i] + nz * points[8, i])
        points[6, i] = twice * nx - points[6, i]
        points[7, i] = twice * ny - points[7, i]
        points[8, i] = twice * nz - points[8, i]
        distance = max(points[2, i], 0.0) / max(-points[8, i], 0.05)
        up = min(max(0.5 + 3.0 * points[8, i], 0.0), 1.0)
        seen = (1.0 - up) * (distance * distance / (0.1 + distance * distance))
        points[9, i], points[10, i] = points[0, i] + distance * points[6, i], points[1, i] + distance * points[7, i]
        points[11, i] = MIRROR * metal * seen
        ambient = look[AMBIENT] * (0.65 + 0.35 * nz) * (1.0 - metal)
        for c in range(3):
            around = points[11, i] * look[GROUND_R + c] * look[AMBIENT] + MIRROR * metal * up * look[SKY_R + c]
            light[c, i] = things[b, m, RED + c] * (ambient + around)
    for index in range(lamps.shape[1]):
        _add_lamp(things, lamps, look, gloss, b, m, index, left, right, points, light)
    for c in range(3):
        for i in range(left, right):
            light[c, i] *= look[EXPOSURE]


@kernel
def _add_lamp(things, lamps, look, gloss, b, m, index, left, right, points, light):  # type: ignore[no-untyped-def]
    """Add one lamp's part to the light of a row of points: Lambert, both highlights, and the mirrored ground."""
    metal, power = things[b, m, METAL], lamps[b, index, POWER]
    for i in range(left, right):
        lx, ly, lz, arrives = _lamp(points[0, i], points[1, i], points[2, i], lamps, b, index)
        lambert = max(points[3, i] * lx + points[4, i] * ly + points[5, i] * lz, 0.0)
        aligned = max(points[6, i] * lx + points[7, i] * ly + points[8, i] * lz, 0.0)
        dull = power * arrives * (1.0 - metal) * look[DULL] * _power(aligned, gloss[0])
        bright = power * arrives * metal * look[BRIGHT] * _power(aligned, gloss[1])
        lambert = power * arrives * (1.0 - metal) * lambert
        for c in range(3):
            albedo = things[b, m, RED + c]
            colored = albedo * lambert + dull + (0.3 + 0.7 * albedo) * bright
            light[c, i] += lamps[b, index, TINT_R + c] * colored
    if metal > 0.0:
        for i in range(left, right):
            _, _, up, arrives = _lamp(points[9, i], points[10, i], 0.0, lamps, b, index)
            mirrored = power * arrives * up * points[11, i]
            for c in range(3):
                tint = lamps[b, index, TINT_R + c] * look[GROUND_R + c]
                light[c, i] += things[b, m, RED + c] * tint * mirrored


@kernel
def _ground_pass(camera, lamps, look, tangent, b, ground, light):  # type: ignore[no-untyped-def]
    """The empty ground: its colour (3, H, W), and x, y, distance, all light and the light of every lamp (4 + L, H, W)."""
    _, height, width = ground.shape
    short = min(height, width)
    for row in range(height):
        v = (height - 2.0 * (row + 0.5)) / short * tangent
        for column in range(width):
            dx, dy, dz = _ray(camera, b, (2.0 * (column + 0.5) - width) / short * tangent, v)
            down = dz < -TINY
            t = -camera[b, EYE_Z] / (dz if down else -1.0)
            light[0, row, column], light[1, row, column] = camera[b, EYE_X] + t * dx, camera[b, EYE_Y] + t * dy
            light[2, row, column] = t if down else math.inf
            light[3, row, column] = look[AMBIENT]
            for c in range(3):
                ground[c, row, column] = look[AMBIENT]
        for index in range(lamps.shape[1]):
            for column in range(width):
                _, _, up, arrives = _lamp(light[0, row, column], light[1, row, column], 0.0, lamps, b, index)
                received = lamps[b, index, POWER] * arrives * up
                light[3, row, column] += received
                light[4 + index, row, column] = received
                ground[0, row, column] += lamps[b, index, TINT_R] * received
                ground[1, row, column] += lamps[b, index, TINT_G] * received
                ground[2, row, column] += lamps[b, index, TINT_B] * received
        for c in range(3):
            for column in range(width):
                lit = look[EXPOSURE] * look[GROUND_R + c] * ground[c, row, column]
                ground[c, row, column] = look[SKY_R + c] if light[2, row, column] == math.inf else lit


@part
def _shadow_window(  # type: ignore[no-untyped-def]
    camera, b, kind, cx, cy, size, wx, wy, low, high, tall, base, softness, tangent, height, width
):
    """Window (half-open, pixels) around a shadow: the box around the picture of a rectangle on the ground that holds it."""
    away = max(math.sqrt(wx * wx + wy * wy), TINY)
    if kind == SPHERE:
        middle = (base + 1.0) / max(tall - base - 1.0, 0.1)
        across = 1.0 + 0.08 + softness * (base + 1.0)
        along = across * math.sqrt(1.0 + middle * middle * away * away)
        first, last = middle * away - along, middle * away + along
    else:
        reach = REACH[CUBE] if kind == CUBE else 1.0
        across = reach * (1.0 + 0.08 + softness * (base + 2.0))
        first, last = low * away - across, high * away + across
    dx, dy = size * wx / away, size * wy / away
    scale = min(height, width) / (2.0 * tangent)
    top, bottom, left, right = height + 0.0, 0.0, width + 0.0, 0.0
    for corner in range(4):
        forth = last if corner % 2 == 1 else first
        side = across if corner // 2 == 1 else -across
        x, y = cx + forth * dx - side * dy - camera[b, EYE_X], cy + forth * dy + side * dx - camera[b, EYE_Y]
        z = -camera[b, EYE_Z]
        ahead = x * camera[b, AHEAD_X] + y * camera[b, AHEAD_Y] + z * camera[b, AHEAD_Z]
        if ahead < 0.01:
            return 0, height, 0, width
        column = scale * (x * camera[b, RIGHT_X] + y * camera[b, RIGHT_Y] + z * camera[b, RIGHT_Z]) / ahead
        row = -scale * (x * camera[b, UP_X] + y * camera[b, UP_Y] + z * camera[b, UP_Z]) / ahead
        column, row = width / 2.0 + min(max(column, -1e6), 1e6), height / 2.0 + min(max(row, -1e6), 1e6)
        top, bottom, left, right = min(top, row), max(bottom, row), min(left, column), max(right, column)
    return (
        max(math.floor(top), 0),
        min(math.ceil(bottom) + 1, height),
        max(math.floor(left), 0),
        min(math.ceil(right) + 1, width),
    )


@kernel
def _cast_shadow(  # type: ignore[no-untyped-def]
    kind,
    cx,
    cy,
    size,
    cosine,
    sine,
    ex,
    ey,
    low,
    high,
    tall,
    base,
    softness,
    top,
    bottom,
    left,
    right,
    at_x,
    at_y,
    light,
    taken,
):
    """Add what one object takes of one lamp's light to ``taken`` inside a window; one plain loop per kind, for speed."""
    sx, sy = (high - low) * ex, (high - low) * ey
    inverse = 1.0 / math.sqrt(max(sx * sx + sy * sy, TINY))
    c, s = cosine / size, sine / size
    middle = (base + 1.0) / max(tall - base - 1.0, 0.1) if kind == SPHERE else low
    x0, y0 = -c * cx - s * cy - middle * ex, -c * cy + s * cx - middle * ey
    ux, uy, tilt = sx * inverse, sy * inverse, 1.0 / (1.0 + middle * middle * (ex * ex + ey * ey))
    for row in range(top, bottom):
        if kind == SPHERE:
            for column in range(left, right):
                x = x0 + c * at_x[row, column] + s * at_y[row, column]
                y = y0 + c * at_y[row, column] - s * at_x[row, column]
                edge = _edge_of_ellipse(x, y, ux, uy, tilt)
                taken[row, column] += light[row, column] * _hidden(edge, base + 1.0, softness)
        elif kind == CUBE:
            for column in range(left, right):
                x = x0 + c * at_x[row, column] + s * at_y[row, column]
                y = y0 + c * at_y[row, column] - s * at_x[row, column]
                rise = base + 2.0 * _along(x, y, sx, sy, inverse)
                edge = _edge_of_square(x, y, sx, sy, inverse)
                taken[row, column] += light[row, column] * _hidden(edge, rise, softness)
        else:
            for column in range(left, right):
                x = x0 + c * at_x[row, column] + s * at_y[row, column]
                y = y0 + c * at_y[row, column] - s * at_x[row, column]
                along = _along(x, y, sx, sy, inverse)
                edge = _edge_of_disc(x, y, sx, sy, along)
                taken[row, column] += light[row, column] * _hidden(edge, base + 2.0 * along, softness)


@kernel
def _shade_pass(things, camera, lamps, look, tangent, b, m, light, taken, shade):  # type: ignore[no-untyped-def]
    """Fill ``shade`` (H, W) with the factor by which object m darkens the ground; ``taken`` is scratch."""
    height, width = shade.shape
    size, cosine, sine = things[b, m, SIZE], things[b, m, COSINE], things[b, m, SINE]
    cx, cy, kind = things[b, m, X], things[b, m, Y], int(things[b, m, KIND])
    base = things[b, m, Z] / size - 1.0
    taken[:], shade[:] = 0.0, 1.0
    top, bottom, left, right = _window(camera, b, cx, cy, 0.0, 2.01 * size, 1, tangent, height, width)
    for index in range(lamps.shape[1]):
        wx, wy = (cx - lamps[b, index, LAMP_X]) / size, (cy - lamps[b, index, LAMP_Y]) / size
        ex, ey = cosine * wx + sine * wy, cosine * wy - sine * wx
        tall = lamps[b, index, LAMP_Z] / size
        low, high = base / max(tall - base, 0.1), (base + 2.0) / max(tall - base - 2.0, 0.1)
        up, down, west, east = _shadow_window(
            camera, b, kind, cx, cy, size, wx, wy, low, high, tall, base, look[SOFTNESS], tangent, height, width
        )
        top, bottom, left, right = min(top, up), max(bottom, down), min(left, west), max(right, east)
        _cast_shadow(
            kind,
            cx,
            cy,
            size,
            cosine,
            sine,
            ex,
            ey,
            low,
            high,
            tall,
            base,
            look[SOFTNESS],
            up,
            down,
            west,
            east,
            light[0],
            light[1],
            light[4 + index],
            taken,
        )
    strength, inverse = look[CONTACT] / (1.0 + 4.0 * base * base), 1.0 / size
    for row in range(top, bottom):
        for column in range(left, right):
            px, py = (light[0, row, column] - cx) * inverse, (light[1, row, column] - cy) * inverse
            near = max(1.0 - (px * px + py * py) * 0.25, 0.0)
            open_share = 1.0 - look[SHADOW] * taken[row, column] / max(light[3, row, column], TINY)
            factor = open_share * (1.0 - strength * near * near)
            shade[row, column] = 1.0 if light[2, row, column] == math.inf else factor


@part
def _resolve(row, column, samples, owner, near, count):  # type: ignore[no-untyped-def]
    """The id that fills most of a pixel, and its mean distance; ``count`` is left with the rays of every id."""
    for entity in range(count.shape[0]):
        count[entity] = 0
    for i in range(row * samples, (row + 1) * samples):
        for j in range(column * samples, (column + 1) * samples):
            count[owner[i, j]] += 1
    best, distance = 0, 0.0
    for entity in range(1, count.shape[0]):
        if count[entity] > count[best]:
            best = entity
    for i in range(row * samples, (row + 1) * samples):
        for j in range(column * samples, (column + 1) * samples):
            distance += near[i, j] if owner[i, j] == best else 0.0
    return best, distance / max(count[best], 1)


@part
def _display(linear):  # type: ignore[no-untyped-def]
    return math.sqrt(min(max(linear, TINY), 1.0))


@kernel
def _render(things, camera, lamps, look, gloss, samples, tangent, images, ids, depths):  # type: ignore[no-untyped-def]
    batch, height, width = ids.shape
    number, share = things.shape[1], 1.0 / (samples * samples)
    near, owner = np.empty((height * samples, width * samples)), np.empty((height * samples, width * samples), np.int64)
    ground, light = np.empty((3, height, width)), np.empty((4 + lamps.shape[1], height, width))
    taken, shade = np.empty((height, width)), np.empty((height, width))
    color, points = np.zeros((3, height * samples, width * samples)), np.empty((12, width * samples))
    row_light, count = np.empty((3, width * samples)), np.zeros(number + 1, np.int64)
    windows = np.zeros((number, 4), np.int64)
    for b in range(batch):
        _ground_pass(camera, lamps, look, tangent, b, ground, light)
        owner[:] = 0
        windows[:] = 0
        top, bottom, left, right = height, 0, width, 0
        for row in range(height * samples):  # objects below the ground are hidden by it
            for i in range(samples):
                near[row, i::samples] = light[2, row // samples]
        for m in range(number):
            if things[b, m, PRESENT] > 0.0:
                _shade_pass(things, camera, lamps, look, tangent, b, m, light, taken, shade)
                for c in range(3):
                    ground[c] *= shade
                up, down, west, east = _cast(things, camera, b, m, samples, tangent, m + 1, near, owner)
                windows[m, 0], windows[m, 1], windows[m, 2], windows[m, 3] = up, down, west, east
                top, bottom = min(top, up // samples), max(bottom, (down + samples - 1) // samples)
                left, right = min(left, west // samples), max(right, (east + samples - 1) // samples)
        for row in range(height):
            for c in range(3):
                for column in range(width):
                    images[b, c, row, column] = _display(ground[c, row, column])
            for column in range(width):
                ids[b, row, column], depths[b, row, column] = 0, light[2, row, column]
        for m in range(number):
            up, down, west, east = windows[m, 0], windows[m, 1], windows[m, 2], windows[m, 3]
            for row in range(up, down):
                _surface_pass(
                    things, camera, lamps, look, gloss, samples, tangent, b, m, row, west, east, near, points, row_light
                )
                for c in range(3):
                    for i in range(west, east):
                        kept = color[c, row, i]
                        color[c, row, i] = row_light[c, i] if owner[row, i] == m + 1 else kept
        for row in range(top, bottom):
            for column in range(left, right):
                best, distance = _resolve(row, column, samples, owner, near, count)
                if count[0] == samples * samples:
                    continue
                for c in range(3):
                    linear = count[0] * ground[c, row, column]
                    for i in range(row * samples, (row + 1) * samples):
                        for j in range(column * samples, (column + 1) * samples):
                            linear += color[c, i, j] if owner[i, j] > 0 else 0.0
                    images[b, c, row, column] = _display(linear * share)
                if best > 0:
                    ids[b, row, column], depths[b, row, column] = best, distance


@kernel
def _layers(  # type: ignore[no-untyped-def]
    things, camera, lamps, look, gloss, samples, tangent, color, depth, shade, ground, ground_depth
):
    batch, height, width = ground_depth.shape
    number = things.shape[1]
    points, row_light = np.empty((12, width * samples)), np.empty((3, width * samples))
    near, owner = np.empty((height * samples, width * samples)), np.empty((height * samples, width * samples), np.int64)
    floor, light = np.empty((3, height, width)), np.empty((4 + lamps.shape[1], height, width))
    taken, factor = np.empty((height, width)), np.empty((height, width))
    for b in range(batch):
        _ground_pass(camera, lamps, look, tangent, b, floor, light)
        ground[b], ground_depth[b] = floor, light[2]
        for m in range(number):
            if things[b, m, PRESENT] == 0.0:
                continue
            _shade_pass(things, camera, lamps, look, tangent, b, m, light, taken, factor)
            shade[b, m] = factor
            near[:], owner[:] = math.inf, 0
            top, bottom, left, right = _cast(things, camera, b, m, samples, tangent, 1, near, owner)
            for row in range(top, bottom):
                _surface_pass(
                    things,
                    camera,
                    lamps,
                    look,
                    gloss,
                    samples,
                    tangent,
                    b,
                    m,
                    row,
                    left,
                    right,
                    near,
                    points,
                    row_light,
                )
                for column in range(left, right):
                    if owner[row, column] > 0:
                        depth[b, m, row, column] = near[row, column]
                        for c in range(3):
                            color[b, m, c, row, column] = row_light[c, column]
