# mypy: allow-untyped-defs
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
    shape = (len(scene.kind), settings.height, settings.width)
    images, ids, depth = np.empty((shape[0], 3, *shape[1:])), np.empty(shape, np.int64), np.empty(shape)
    _render(*_pack(scene, settings), images, ids, depth)
    return Rendered(_tensor(images, scene), torch.from_numpy(ids), _tensor(depth, scene))


def render_layers(scene: Scene, settings: RenderSettings) -> Layers:
    """See :func:`objectwise.rendering.primitives3d.render_layers`."""
    batch, number = scene.kind.shape
    coarse = (settings.height, settings.width)
    fine = (settings.height * settings.samples, settings.width * settings.samples)
    color, depth = np.zeros((batch, number, 3, *fine)), np.full((batch, number, *fine), np.inf)
    shade = np.ones((batch, number, *coarse))
    ground, ground_depth = np.empty((batch, 3, *coarse)), np.empty((batch, *coarse))
    _layers(*_pack(scene, settings), color, depth, shade, ground, ground_depth)
    return Layers(*(_tensor(array, scene) for array in (color, depth, shade, ground, ground_depth)))


def _tensor(array: np.ndarray, scene: Scene) -> torch.Tensor:
    return torch.from_numpy(array).to(scene.position.dtype)


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
def _ray(camera, b, u, v):
    return (
        camera[b, AHEAD_X] + u * camera[b, RIGHT_X] + v * camera[b, UP_X],
        camera[b, AHEAD_Y] + u * camera[b, RIGHT_Y] + v * camera[b, UP_Y],
        camera[b, AHEAD_Z] + u * camera[b, RIGHT_Z] + v * camera[b, UP_Z],
    )


@part
def _slab(origin, direction):
    safe = TINY if abs(direction) < TINY else direction
    first, second = (-1.0 - origin) / safe, (1.0 - origin) / safe
    return min(first, second), max(first, second)


@part
def _enter(kind, ox, oy, oz, dx, dy, dz):
    """Where a ray enters a unit solid, infinite where it misses; without branches, so that loops can be vectorised."""
    cube, sphere = kind == CUBE, kind == SPHERE
    near_x, far_x = _slab(ox, dx)
    near_y, far_y = _slab(oy, dy)
    near_z, far_z = _slab(oz, dz)
    upright = 1.0 if sphere else 0.0
    a = max(dx * dx + dy * dy + upright * dz * dz, TINY)
    b = ox * dx + oy * dy + upright * oz * dz
    inside = b * b - a * (ox * ox + oy * oy + upright * oz * oz - 1.0)
    root = math.sqrt(max(inside, 0.0))
    near_round, far_round = (-b - root) / a, (-b + root) / a
    near = max(near_x, near_y) if cube else near_round
    far = min(far_x, far_y) if cube else far_round
    near, far = near if sphere else max(near, near_z), far if sphere else min(far, far_z)
    far = far if (inside > 0.0) | cube else -math.inf
    return near if (near < far) & (near > 0.0) else math.inf


@part
def _arrival(x, y, z, lamp, reach):
    """Unit vector from a point to a lamp, and the share of its power that arrives; ``reach`` is 1 / |lamp|."""
    lx, ly, lz = lamp[0] - x, lamp[1] - y, lamp[2] - z
    inverse = 1.0 / math.sqrt(max(lx * lx + ly * ly + lz * lz, TINY))
    facing = max((lx * lamp[0] + ly * lamp[1] + lz * lamp[2]) * inverse * reach, 0.0)
    return lx * inverse, ly * inverse, lz * inverse, facing * inverse * inverse


@part
def _edge_of_ellipse(x, y, sx, sy, tilt):
    part, across = x * sx + y * sy, x * sy - y * sx
    return math.sqrt(part * part * tilt + across * across + TINY) - 1.0


@part
def _edge_of_square(x, y, sx, sy, inverse):
    side = (abs(x * sy - y * sx) - abs(sx) - abs(sy)) * inverse
    edge_x = max(x - 1.0 - max(sx, 0.0), -x - 1.0 + min(sx, 0.0))
    edge_y = max(y - 1.0 - max(sy, 0.0), -y - 1.0 + min(sy, 0.0))
    return max(max(edge_x, edge_y), side)


@part
def _edge_of_disc(x, y, sx, sy, along):
    x, y = x - along * sx, y - along * sy
    return math.sqrt(x * x + y * y + TINY) - 1.0


@part
def _hidden(edge, rise, softness):
    share = min(max(0.5 - edge / (0.16 + 2.0 * softness * rise), 0.0), 1.0)
    return share * share * (3.0 - 2.0 * share)


@part
def _along(x, y, sx, sy, inverse):
    return min(max((x * sx + y * sy) * inverse * inverse, 0.0), 1.0)


@part
def _extent(across, ahead, radius, scale, middle, length):
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
def _window(camera, b, x, y, z, radius, samples, tangent, height, width):
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
def _cast(things, camera, b, m, samples, tangent, code, depth, owner):
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
        distances, owners = depth[row, left:right], owner[row, left:right]
        start, step = (2.0 * ((left + 0.5) / samples) - width) / short * tangent, 2.0 / samples / short * tangent
        ray = _ray(camera, b, start, v)
        shift = (step * camera[b, RIGHT_X], step * camera[b, RIGHT_Y], step * camera[b, RIGHT_Z])
        for i in range(distances.shape[0]):
            dx, dy, dz = ray[0] + i * shift[0], ray[1] + i * shift[1], ray[2] + i * shift[2]
            wx, wy = (cosine * dx + sine * dy) / size, (cosine * dy - sine * dx) / size
            t = _enter(kind, ox, oy, oz, wx, wy, dz / size)
            before, who = distances[i], owners[i]
            distances[i], owners[i] = t if t < before else before, code if t < before else who
    return top, bottom, left, right


@part
def _power(value, doublings):
    for step in range(MOST_GLOSS):  # a fixed number of steps, so that the loop around can be vectorised
        value = value * value if step < doublings else value
    return value


@part
def _sign(value):
    return 1.0 if value > 0.0 else -1.0


@part
def _normal(kind, x, y, z):
    """Outward unit normal of a unit solid; every kind is worked out, so that loops around this can be vectorised."""
    ax, ay, az = abs(x), abs(y), abs(z)
    on_x = ax >= max(ay, az)
    on_z = (not on_x) and az > ay
    inverse = 1.0 / math.sqrt(max(x * x + y * y, TINY))
    cap = az * inverse >= 1.0
    box_x, box_y, box_z = _sign(x) if on_x else 0.0, 0.0 if on_x or on_z else _sign(y), _sign(z) if on_z else 0.0
    tube_x, tube_y, tube_z = 0.0 if cap else x * inverse, 0.0 if cap else y * inverse, _sign(z) if cap else 0.0
    x = box_x if kind == CUBE else (tube_x if kind == CYLINDER else x)
    y = box_y if kind == CUBE else (tube_y if kind == CYLINDER else y)
    z = box_z if kind == CUBE else (tube_z if kind == CYLINDER else z)
    return x, y, z


@kernel
def _surface_pass(things, camera, lamps, look, gloss, samples, tangent, b, m, row, left, right, near, light):
    """Linear RGB, into the first columns of ``light`` (3, S·W), of a row of points of object m at distances ``near``.

    Light is linear in the lamps, so that each adds its part in one loop that the compiler vectorises: it reads and writes few
    arrays, takes no branch, and rather works out the geometry again than keeps it.
    """
    height, width = near.shape[0] // samples, near.shape[1] // samples
    short = min(height, width)
    v = (height - 2.0 * ((row + 0.5) / samples)) / short * tangent
    start, step = ((2.0 * ((left + 0.5) / samples) - width) / short * tangent), 2.0 / samples / short * tangent
    eye = (camera[b, EYE_X], camera[b, EYE_Y], camera[b, EYE_Z])
    ray = _ray(camera, b, start, v)
    shift = (step * camera[b, RIGHT_X], step * camera[b, RIGHT_Y], step * camera[b, RIGHT_Z])
    thing = (
        int(things[b, m, KIND]),
        things[b, m, X],
        things[b, m, Y],
        things[b, m, Z],
        1.0 / things[b, m, SIZE],
        things[b, m, COSINE],
        things[b, m, SINE],
    )
    colors = (things[b, m, RED], things[b, m, GREEN], things[b, m, BLUE])
    ground = (look[GROUND_R], look[GROUND_G], look[GROUND_B])
    sky = (look[SKY_R], look[SKY_G], look[SKY_B])
    metal, exposure = things[b, m, METAL], look[EXPOSURE]
    scales = (look[AMBIENT], exposure * (1.0 - metal), exposure * metal, look[DULL], look[BRIGHT])
    distances, red, green, blue = near[row, left:right], light[0], light[1], light[2]
    _ambient_part(eye, ray, shift, thing, colors, ground, sky, scales, distances, red, green, blue)
    for index in range(lamps.shape[1]):
        lamp = (lamps[b, index, LAMP_X], lamps[b, index, LAMP_Y], lamps[b, index, LAMP_Z])
        tint = (lamps[b, index, TINT_R], lamps[b, index, TINT_G], lamps[b, index, TINT_B])
        power, reach = lamps[b, index, POWER], 1.0 / lamps[b, index, REACH_OF_LAMP]
        _lamp_part(
            eye,
            ray,
            shift,
            thing,
            colors,
            ground,
            scales,
            gloss,
            lamp,
            tint,
            power,
            reach,
            distances,
            red,
            green,
            blue,
        )


@part
def _geometry(eye, ray, shift, thing, i, t):
    """Point, normal and mirrored direction at distance t along ray i of a row."""
    kind, cx, cy, cz, inverse, cosine, sine = thing
    dx, dy, dz = ray[0] + i * shift[0], ray[1] + i * shift[1], ray[2] + i * shift[2]
    x, y, z = eye[0] + t * dx, eye[1] + t * dy, eye[2] + t * dz
    wx, wy = (x - cx) * inverse, (y - cy) * inverse
    ux, uy, nz = _normal(kind, cosine * wx + sine * wy, cosine * wy - sine * wx, (z - cz) * inverse)
    nx, ny = cosine * ux - sine * uy, sine * ux + cosine * uy
    unit = -1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
    vx, vy, vz = dx * unit, dy * unit, dz * unit
    twice = 2.0 * (nx * vx + ny * vy + nz * vz)
    return x, y, z, nx, ny, nz, twice * nx - vx, twice * ny - vy, twice * nz - vz


@part
def _mirrored(z, rz):
    """How far a mirrored ray meets the ground, and the shares of ground and sky seen there."""
    distance = max(z, 0.0) / max(-rz, 0.05)
    up = min(max(0.5 + 3.0 * rz, 0.0), 1.0)
    return distance, (1.0 - up) * (distance * distance / (0.1 + distance * distance)), up


@kernel
def _ambient_part(eye, ray, shift, thing, colors, ground, sky, scales, distances, red, green, blue):
    """The part of a row's light that no lamp gives."""
    ambient, rubber, metal, _, _ = scales
    for i in range(distances.shape[0]):
        _, _, z, _, _, nz, _, _, rz = _geometry(eye, ray, shift, thing, i, distances[i])
        _, seen, up = _mirrored(z, rz)
        dull, seen, up = rubber * ambient * (0.65 + 0.35 * nz), MIRROR * metal * seen * ambient, MIRROR * metal * up
        red[i] = colors[0] * (dull + seen * ground[0] + up * sky[0])
        green[i] = colors[1] * (dull + seen * ground[1] + up * sky[1])
        blue[i] = colors[2] * (dull + seen * ground[2] + up * sky[2])


@kernel
def _lamp_part(
    eye,
    ray,
    shift,
    thing,
    colors,
    ground,
    scales,
    gloss,
    lamp,
    tint,
    power,
    reach,
    distances,
    red,
    green,
    blue,
):
    """Add one lamp's part to a row's light: Lambert, both highlights, and the mirrored ground."""
    _, rubber, metal, dull_highlight, bright_highlight = scales
    white = (0.3 + 0.7 * colors[0], 0.3 + 0.7 * colors[1], 0.3 + 0.7 * colors[2])
    mirror = (MIRROR * ground[0] * colors[0], MIRROR * ground[1] * colors[1], MIRROR * ground[2] * colors[2])
    for i in range(distances.shape[0]):
        x, y, z, nx, ny, nz, rx, ry, rz = _geometry(eye, ray, shift, thing, i, distances[i])
        lx, ly, lz, arrives = _arrival(x, y, z, lamp, reach)
        aligned = max(rx * lx + ry * ly + rz * lz, 0.0)
        dull = dull_highlight * _power(aligned, gloss[0]) * rubber
        bright = bright_highlight * _power(aligned, gloss[1]) * metal
        lambert = max(nx * lx + ny * ly + nz * lz, 0.0) * rubber
        distance, seen, _ = _mirrored(z, rz)
        _, _, up, below = _arrival(x + distance * rx, y + distance * ry, 0.0, lamp, reach)
        seen *= metal * up * below * power
        arrives *= power
        red[i] += tint[0] * (arrives * (colors[0] * lambert + dull + white[0] * bright) + mirror[0] * seen)
        green[i] += tint[1] * (arrives * (colors[1] * lambert + dull + white[1] * bright) + mirror[1] * seen)
        blue[i] += tint[2] * (arrives * (colors[2] * lambert + dull + white[2] * bright) + mirror[2] * seen)


@kernel
def _ground_pass(camera, lamps, look, tangent, b, ground, light):
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
            lamp = (lamps[b, index, LAMP_X], lamps[b, index, LAMP_Y], lamps[b, index, LAMP_Z])
            reach = 1.0 / lamps[b, index, REACH_OF_LAMP]
            for column in range(width):
                _, _, up, arrives = _arrival(light[0, row, column], light[1, row, column], 0.0, lamp, reach)
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
def _shadow_window(camera, b, kind, cx, cy, size, wx, wy, low, high, tall, base, softness, tangent, height, width):
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
def _cast_shadow(
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
        xs, ys, part_of, sum_of = (
            at_x[row, left:right],
            at_y[row, left:right],
            light[row, left:right],
            taken[row, left:right],
        )
        if kind == SPHERE:
            for i in range(xs.shape[0]):
                x = x0 + c * xs[i] + s * ys[i]
                y = y0 + c * ys[i] - s * xs[i]
                edge = _edge_of_ellipse(x, y, ux, uy, tilt)
                sum_of[i] += part_of[i] * _hidden(edge, base + 1.0, softness)
        elif kind == CUBE:
            for i in range(xs.shape[0]):
                x = x0 + c * xs[i] + s * ys[i]
                y = y0 + c * ys[i] - s * xs[i]
                rise = base + 2.0 * _along(x, y, sx, sy, inverse)
                edge = _edge_of_square(x, y, sx, sy, inverse)
                sum_of[i] += part_of[i] * _hidden(edge, rise, softness)
        else:
            for i in range(xs.shape[0]):
                x = x0 + c * xs[i] + s * ys[i]
                y = y0 + c * ys[i] - s * xs[i]
                along = _along(x, y, sx, sy, inverse)
                edge = _edge_of_disc(x, y, sx, sy, along)
                sum_of[i] += part_of[i] * _hidden(edge, base + 2.0 * along, softness)


@kernel
def _shade_pass(things, camera, lamps, look, tangent, b, m, light, taken, shade):
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
def _resolve(row, column, samples, owner, near, count):
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
def _display(linear):
    return math.sqrt(min(max(linear, TINY), 1.0))


@kernel
def _paint(things, camera, lamps, look, gloss, samples, tangent, b, windows, near, owner, row_light, color):
    """Linear RGB, into ``color`` (3, S·H, S·W), of every ray that hits an object."""
    for m in range(things.shape[1]):
        top, bottom, left, right = windows[m, 0], windows[m, 1], windows[m, 2], windows[m, 3]
        for row in range(top, bottom):
            _surface_pass(things, camera, lamps, look, gloss, samples, tangent, b, m, row, left, right, near, row_light)
            owners = owner[row, left:right]
            for c in range(3):
                source, target = row_light[c], color[c, row, left:right]
                for i in range(owners.shape[0]):
                    kept = target[i]
                    target[i] = source[i] if owners[i] == m + 1 else kept


@part
def _union(windows, samples, height, width):
    """The window, in pixels, that holds all windows, which are in rays."""
    top, bottom, left, right = height, 0, width, 0
    for m in range(windows.shape[0]):
        if windows[m, 1] > windows[m, 0]:
            top, bottom = min(top, windows[m, 0] // samples), max(bottom, (windows[m, 1] - 1) // samples + 1)
            left, right = min(left, windows[m, 2] // samples), max(right, (windows[m, 3] - 1) // samples + 1)
    return top, bottom, left, right


@kernel
def _finish(samples, windows, ground, light, near, owner, color, count, image, ids, depth):
    """Pixels from rays: image (3, H, W), ids and depth (H, W) of one scene."""
    height, width = ids.shape
    for c in range(3):
        for row in range(height):
            for column in range(width):
                image[c, row, column] = _display(ground[c, row, column])
    ids[:], depth[:] = 0, light[2]
    top, bottom, left, right = _union(windows, samples, height, width)
    for row in range(top, bottom):
        for column in range(left, right):
            best, distance = _resolve(row, column, samples, owner, near, count)
            if count[0] < samples * samples:
                for c in range(3):
                    linear = count[0] * ground[c, row, column] + _hits(row, column, samples, owner, color[c])
                    image[c, row, column] = _display(linear / (samples * samples))
                if best > 0:
                    ids[row, column], depth[row, column] = best, distance


@part
def _hits(row, column, samples, owner, values):
    """Sum of the values of a pixel's rays that hit an object."""
    total = 0.0
    for i in range(row * samples, (row + 1) * samples):
        for j in range(column * samples, (column + 1) * samples):
            total += values[i, j] if owner[i, j] > 0 else 0.0
    return total


@kernel
def _render(things, camera, lamps, look, gloss, samples, tangent, images, ids, depths):
    batch, height, width = ids.shape
    number = things.shape[1]
    near, owner = np.empty((height * samples, width * samples)), np.empty((height * samples, width * samples), np.int64)
    ground, light = np.empty((3, height, width)), np.empty((4 + lamps.shape[1], height, width))
    taken, shade = np.empty((height, width)), np.empty((height, width))
    color, row_light = np.zeros((3, height * samples, width * samples)), np.empty((3, width * samples))
    count, windows = np.zeros(number + 1, np.int64), np.zeros((number, 4), np.int64)
    for b in range(batch):
        _ground_pass(camera, lamps, look, tangent, b, ground, light)
        owner[:], windows[:] = 0, 0
        for row in range(height * samples):  # objects below the ground are hidden by it
            for i in range(samples):
                near[row, i::samples] = light[2, row // samples]
        for m in range(number):
            if things[b, m, PRESENT] > 0.0:
                _shade_pass(things, camera, lamps, look, tangent, b, m, light, taken, shade)
                for c in range(3):
                    ground[c] *= shade
                top, bottom, left, right = _cast(things, camera, b, m, samples, tangent, m + 1, near, owner)
                windows[m, 0], windows[m, 1], windows[m, 2], windows[m, 3] = top, bottom, left, right
        _paint(things, camera, lamps, look, gloss, samples, tangent, b, windows, near, owner, row_light, color)
        _finish(samples, windows, ground, light, near, owner, color, count, images[b], ids[b], depths[b])


@kernel
def _layers(things, camera, lamps, look, gloss, samples, tangent, color, depth, shade, ground, ground_depth):
    batch, height, width = ground_depth.shape
    number = things.shape[1]
    row_light = np.empty((3, width * samples))
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
                    row_light,
                )
                for column in range(left, right):
                    if owner[row, column] > 0:
                        depth[b, m, row, column] = near[row, column]
                        for c in range(3):
                            color[b, m, c, row, column] = row_light[c, column - left]
