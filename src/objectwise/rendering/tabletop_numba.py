# mypy: allow-untyped-defs
"""The numba backend of :mod:`objectwise.rendering.tabletop`: solids by ray casting, meshes by rasterising, one object at a time.

Besides pictures it gives squared errors of pictures against images, of scenes and of scenes with one object changed, without ever
making those pictures: a changed object is drawn alone and touches only the pixels of its window. Imported only when it is used.
Layers are kept in single precision; geometry and sums are in double precision without reordering.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from objectwise.rendering.meshes import MESHES
from objectwise.rendering.primitives3d import KINDS as SOLIDS
from objectwise.rendering.primitives3d import SPHERE, TINY
from objectwise.rendering.primitives3d_numba import (
    AHEAD_X,
    AHEAD_Y,
    AHEAD_Z,
    EYE_X,
    EYE_Y,
    EYE_Z,
    RIGHT_X,
    RIGHT_Y,
    RIGHT_Z,
    UP_X,
    UP_Y,
    UP_Z,
    _enter,
    _normal,
    _ray,
    _window,
    kernel,
    part,
)
from objectwise.rendering.tabletop import (
    AMBIENT,
    LIGHT,
    TableScene,
    TabletopConfig,
    TableView,
    camera_frame,
    kind_colors,
    waves,
)

LIGHT_X, LIGHT_Y, LIGHT_Z = LIGHT
INFINITE = np.float32(np.inf)


def view(scene: TableScene, config: TabletopConfig) -> TableView:
    """See :meth:`objectwise.rendering.tabletop.Tabletop.view`."""
    (batch, number), (height, width) = scene.kind.shape, (config.height, config.width)
    images = np.empty((batch, config.channels, height, width))
    ids, depth = np.zeros((batch, height, width), np.int64), np.empty((batch, height, width))
    coverage = np.zeros((batch, number + 1, height, width))
    _view(*_scene(scene, config), *_fixed(config), images, ids, depth, coverage)
    return TableView(_like(images, scene), torch.from_numpy(ids), _like(depth, scene), _like(coverage, scene))


def prefixes(scene: TableScene, config: TabletopConfig) -> Tensor:
    """See :meth:`objectwise.rendering.tabletop.Tabletop.prefixes`."""
    batch, number = scene.kind.shape
    images = np.empty((batch, number + 1, config.channels, config.height, config.width))
    _prefixes(*_scene(scene, config), *_fixed(config), images)
    return _like(images, scene)


def errors(
    images: Tensor,
    scene: TableScene,
    config: TabletopConfig,
    kind: Tensor | None = None,
    pose: Tensor | None = None,
    *,
    blur: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Squared errors of the prefixes (B, M + 1), and of those with one object changed (B, M, A, M + 1).

    Args:
        images: (B, C, H, W).
        scene: B scenes of M objects.
        config: of the renderer.
        kind: (B, M, A) what object m is in alternative a; None: no alternatives.
        pose: (B, M, A, 3) where it is.
        blur: share of the slow waves' error; see :class:`objectwise.rendering.scene_errors.SceneErrors`.
    """
    batch, number = scene.kind.shape
    if kind is None or pose is None:
        kind, pose = scene.kind.new_zeros(batch, number, 0), scene.pose.new_zeros(batch, number, 0, 3)
    base, changed = np.empty((batch, number + 1)), np.empty((batch, number, kind.shape[2], number + 1))
    _errors(
        *_scene(scene, config),
        *_fixed(config),
        images.detach().float().contiguous().numpy(),
        kind.contiguous().numpy(),
        pose.detach().double().contiguous().numpy(),
        waves(config.height).numpy(),
        waves(config.width).T.contiguous().numpy(),
        blur,
        base,
        changed,
    )
    return torch.from_numpy(base), torch.from_numpy(changed)


def _like(array: np.ndarray, scene: TableScene) -> Tensor:
    return torch.from_numpy(array).to(scene.pose.dtype)


def _scene(scene: TableScene, config: TabletopConfig) -> tuple[Any, ...]:
    """Kinds, poses, presence and cameras (B, 12) as plain arrays."""
    camera = torch.cat(camera_frame(scene.camera.detach().double(), config), dim=-1)
    return (
        scene.kind.contiguous().numpy(),
        scene.pose.detach().double().contiguous().numpy(),
        scene.present.contiguous().numpy(),
        camera.contiguous().numpy(),
    )


@functools.lru_cache(maxsize=16)
def _fixed(config: TabletopConfig) -> tuple[Any, ...]:
    """What no scene changes: solids and sizes of the kinds, their meshes, colours, and how to look.

    ``solids`` (K, 5): code of the solid, or 3 for a mesh; its vertices' and faces' first and last + 1.
    """
    solids, sizes = np.zeros((len(config.kinds), 5), np.int64), np.array([kind.size for kind in config.kinds])
    vertices, normals, faces = [np.zeros((0, 3))], [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)]
    for index, kind in enumerate(config.kinds):
        if kind.solid in SOLIDS:
            solids[index, 0] = SOLIDS.index(kind.solid)
            continue
        mesh = MESHES[kind.solid]()
        first, face = sum(len(part) for part in vertices), sum(len(part) for part in faces)
        solids[index] = 3, first, first + len(mesh.vertices), face, face + len(mesh.faces)
        vertices.append(mesh.vertices)
        normals.append(mesh.normals)
        faces.append(mesh.faces + first)
    colors, ground = kind_colors(config)
    return (
        solids,
        sizes,
        np.concatenate(vertices),
        np.concatenate(normals),
        np.concatenate(faces),
        colors.numpy().astype(np.float32),
        ground.numpy().astype(np.float32),
        config.table,
        config.tangent,
        config.samples,
    )


# --------------------------------------------------------------------------------------------------------------------
# One object into a layer: depth and brightness of every ray in its window (top, bottom, left, right; half-open, in rays).


@part
def _ground(camera, b, ground, table, tangent, samples, color):
    """The ground (C, S·H, S·W) under one camera."""
    channels, rows, columns = color.shape
    short = min(rows, columns)
    for row in range(rows):
        v = (rows - 2.0 * (row + 0.5)) / short * tangent
        for column in range(columns):
            dx, dy, dz = _ray(camera, b, (2.0 * (column + 0.5) - columns) / short * tangent, v)
            t = -camera[b, EYE_Z] / min(dz, -TINY)
            x, y = camera[b, EYE_X] + t * dx, camera[b, EYE_Y] + t * dy
            which = 0 if (dz < -TINY) & (abs(x) <= table) & (abs(y) <= table) else 1
            for c in range(channels):
                color[c, row, column] = ground[which, c]


@part
def _light(nx, ny, nz):
    return AMBIENT + (1.0 - AMBIENT) * max(nx * LIGHT_X + ny * LIGHT_Y + nz * LIGHT_Z, 0.0)


@part
def _box_window(camera, b, x, y, size, cosine, sine, tangent, rows, columns):
    """The window that holds the picture of a cube of half side ``size`` on the table."""
    scale = min(rows, columns) / (2.0 * tangent)
    top, bottom, left, right = rows + 0.0, 0.0, columns + 0.0, 0.0
    for corner in range(8):
        fx, fy = size if corner & 1 else -size, size if corner & 2 else -size
        wx, wy = x + cosine * fx - sine * fy - camera[b, EYE_X], y + sine * fx + cosine * fy - camera[b, EYE_Y]
        wz = (2.0 * size if corner & 4 else 0.0) - camera[b, EYE_Z]
        ahead = wx * camera[b, AHEAD_X] + wy * camera[b, AHEAD_Y] + wz * camera[b, AHEAD_Z]
        if ahead < 0.01:
            return 0, rows, 0, columns
        column = scale * (wx * camera[b, RIGHT_X] + wy * camera[b, RIGHT_Y] + wz * camera[b, RIGHT_Z]) / ahead
        row = -scale * (wx * camera[b, UP_X] + wy * camera[b, UP_Y] + wz * camera[b, UP_Z]) / ahead
        column, row = columns / 2.0 + min(max(column, -1e6), 1e6), rows / 2.0 + min(max(row, -1e6), 1e6)
        top, bottom, left, right = min(top, row), max(bottom, row), min(left, column), max(right, column)
    return _clipped(top, bottom, left, right, rows, columns)


@part
def _clipped(top, bottom, left, right, rows, columns):
    first_row, first_column = max(math.floor(top), 0), max(math.floor(left), 0)
    last_row, last_column = min(math.ceil(bottom) + 1, rows), min(math.ceil(right) + 1, columns)
    return first_row, max(last_row, first_row), first_column, max(last_column, first_column)


@kernel
def _cast_solid(camera, b, solid, size, x, y, yaw, tangent, depth, shade):
    rows, columns = depth.shape
    short = min(rows, columns)
    cosine, sine = math.cos(yaw), math.sin(yaw)
    if solid == SPHERE:
        top, bottom, left, right = _window(camera, b, x, y, size, 1.00001 * size, 1, tangent, rows, columns)
        bottom, right = max(bottom, top), max(right, left)
    else:
        top, bottom, left, right = _box_window(camera, b, x, y, size, cosine, sine, tangent, rows, columns)
    wx, wy = (camera[b, EYE_X] - x) / size, (camera[b, EYE_Y] - y) / size
    ox, oy, oz = cosine * wx + sine * wy, cosine * wy - sine * wx, (camera[b, EYE_Z] - size) / size
    start, step = (2.0 * (left + 0.5) - columns) / short * tangent, 2.0 / short * tangent
    for row in range(top, bottom):
        ray = _ray(camera, b, start, (rows - 2.0 * (row + 0.5)) / short * tangent)
        shift = (step * camera[b, RIGHT_X], step * camera[b, RIGHT_Y], step * camera[b, RIGHT_Z])
        depths, shades = depth[row, left:right], shade[row, left:right]
        for i in range(depths.shape[0]):
            dx, dy, dz = ray[0] + i * shift[0], ray[1] + i * shift[1], ray[2] + i * shift[2]
            lx, ly, lz = (cosine * dx + sine * dy) / size, (cosine * dy - sine * dx) / size, dz / size
            t = _enter(solid, ox, oy, oz, lx, ly, lz)
            depths[i] = t
            t = t if t < math.inf else 1.0
            nx, ny, nz = _normal(solid, ox + t * lx, oy + t * ly, oz + t * lz)
            shades[i] = _light(cosine * nx - sine * ny, sine * nx + cosine * ny, nz)
    return top, bottom, left, right


@kernel
def _cast_mesh(camera, b, ranges, size, x, y, yaw, vertices, normals, faces, seen, tangent, depth, shade):
    """Rasterise a mesh; ``seen`` (V, 4) is scratch: column, row, 1 / distance and brightness of its vertices."""
    rows, columns = depth.shape
    cosine, sine = math.cos(yaw), math.sin(yaw)
    scale = min(rows, columns) / (2.0 * tangent)
    first, last = ranges[1], ranges[2]
    high, low, west, east = rows + 0.0, 0.0, columns + 0.0, 0.0
    for v in range(first, last):
        fx, fy, fz = size * vertices[v, 0], size * vertices[v, 1], size * vertices[v, 2] + size
        wx, wy = x + cosine * fx - sine * fy - camera[b, EYE_X], y + sine * fx + cosine * fy - camera[b, EYE_Y]
        wz = fz - camera[b, EYE_Z]
        ahead = wx * camera[b, AHEAD_X] + wy * camera[b, AHEAD_Y] + wz * camera[b, AHEAD_Z]
        if ahead < 0.01:
            return 0, 0, 0, 0  # not drawn so near the camera
        column = scale * (wx * camera[b, RIGHT_X] + wy * camera[b, RIGHT_Y] + wz * camera[b, RIGHT_Z]) / ahead
        row = -scale * (wx * camera[b, UP_X] + wy * camera[b, UP_Y] + wz * camera[b, UP_Z]) / ahead
        seen[v, 0], seen[v, 1], seen[v, 2] = columns / 2.0 + column, rows / 2.0 + row, 1.0 / ahead
        nx, ny = cosine * normals[v, 0] - sine * normals[v, 1], sine * normals[v, 0] + cosine * normals[v, 1]
        seen[v, 3] = _light(nx, ny, normals[v, 2])
        high, low = min(high, seen[v, 1]), max(low, seen[v, 1])
        west, east = min(west, seen[v, 0]), max(east, seen[v, 0])
    top, bottom, left, right = _clipped(high, low, west, east, rows, columns)
    depth[top:bottom, left:right] = INFINITE
    for face in range(ranges[3], ranges[4]):
        p, q, r = faces[face, 0], faces[face, 1], faces[face, 2]
        px, py, qx, qy, rx, ry = seen[p, 0], seen[p, 1], seen[q, 0], seen[q, 1], seen[r, 0], seen[r, 1]
        area = (qx - px) * (ry - py) - (qy - py) * (rx - px)
        if area >= 0.0:  # rows count downwards: a face seen from outside runs clockwise in rows and columns
            continue
        up, down = max(math.ceil(min(py, qy, ry) - 0.5), 0), min(math.floor(max(py, qy, ry) - 0.5), rows - 1)
        near, far = (
            max(math.ceil(min(px, qx, rx) - 0.5), 0),
            min(math.floor(max(px, qx, rx) - 0.5), columns - 1),
        )
        inverse = 1.0 / area
        ax, ay, bx, by = (qy - ry) * inverse, (rx - qx) * inverse, (ry - py) * inverse, (px - rx) * inverse
        for row in range(up, down + 1):
            for column in range(near, far + 1):
                cx, cy = column + 0.5 - rx, row + 0.5 - ry
                alpha, beta = ax * cx + ay * cy, bx * cx + by * cy
                gamma = 1.0 - alpha - beta
                if (alpha >= 0.0) & (beta >= 0.0) & (gamma >= 0.0):
                    wp, wq, wr = alpha * seen[p, 2], beta * seen[q, 2], gamma * seen[r, 2]
                    t = 1.0 / (wp + wq + wr)
                    if t < depth[row, column]:
                        depth[row, column] = t
                        shade[row, column] = t * (wp * seen[p, 3] + wq * seen[q, 3] + wr * seen[r, 3])
    return top, bottom, left, right


@part
def _cast(camera, b, kind, solids, sizes, x, y, yaw, vertices, normals, faces, seen, tangent, depth, shade):
    """One object alone; returns its window, whose depths are infinite where it is not."""
    if solids[kind, 0] == 3:
        return _cast_mesh(
            camera, b, solids[kind], sizes[kind], x, y, yaw, vertices, normals, faces, seen, tangent, depth, shade
        )
    return _cast_solid(camera, b, solids[kind, 0], sizes[kind], x, y, yaw, tangent, depth, shade)


# --------------------------------------------------------------------------------------------------------------------
# A state is a composition so far: depth ``near`` (S·H, S·W), ``fine`` (C, S·H, S·W) and its pixels ``coarse`` (C, H, W).


@kernel
def _shrink(fine, samples, top, bottom, left, right, coarse):
    """The pixels of a window (half-open) from their rays."""
    for c in range(coarse.shape[0]):
        for row in range(top, bottom):
            for column in range(left, right):
                total = 0.0
                for i in range(samples):
                    for j in range(samples):
                        total += fine[c, row * samples + i, column * samples + j]
                coarse[c, row, column] = total / (samples * samples)


@kernel
def _empty(camera, b, ground, table, tangent, samples, fine, coarse):
    """The empty table under one camera."""
    _ground(camera, b, ground, table, tangent, samples, fine)
    _shrink(fine, samples, 0, coarse.shape[1], 0, coarse.shape[2], coarse)


@kernel
def _merge(near, fine, coarse, samples, top, bottom, left, right, depth, shade, color):
    """Put a layer into a state."""
    if (bottom <= top) | (right <= left):
        return
    for row in range(top, bottom):
        for column in range(left, right):
            if depth[row, column] < near[row, column]:
                near[row, column] = depth[row, column]
                for c in range(fine.shape[0]):
                    fine[c, row, column] = color[c] * shade[row, column]
    rows, columns = (top // samples, (bottom - 1) // samples + 1), (left // samples, (right - 1) // samples + 1)
    _shrink(fine, samples, rows[0], rows[1], columns[0], columns[1], coarse)


@kernel
def _project(values, top, bottom, left, right, down, across, line, result):
    """Amplitudes (C, F, F) of slow waves in pixels (C, H, W) that are zero outside a window; ``line`` (F,) is scratch."""
    channels, number = values.shape[0], down.shape[0]
    result[:] = 0.0
    for c in range(channels):
        for row in range(top, bottom):
            line[:] = 0.0
            for column in range(left, right):
                value = values[c, row, column]
                for k in range(number):
                    line[k] += value * across[column, k]
            for i in range(number):
                for j in range(number):
                    result[c, i, j] += down[i, row] * line[j]


@kernel
def _measure(coarse, image, down, across, blur, gap, line, slow):
    """Error of a state's pixels; leaves in ``slow`` the amplitudes of its residual, where they count."""
    channels, height, width = coarse.shape
    total = 0.0
    for c in range(channels):
        for row in range(height):
            for column in range(width):
                gap[c, row, column] = coarse[c, row, column] - image[c, row, column]
                total += gap[c, row, column] * gap[c, row, column]
    if blur == 0.0:
        return total
    _project(gap, 0, height, 0, width, down, across, line, slow)
    return (1.0 - blur) * total + blur * (slow * slow).sum()


@part
def _pixel_change(near, fine, samples, top, bottom, left, right, depth, shade, color, share, row, column, gap):
    """Fill ``gap`` (C, H, W) at one pixel with what a layer changes there; whether it changes anything."""
    low, high = max(row * samples, top), min((row + 1) * samples, bottom)
    west, east = max(column * samples, left), min((column + 1) * samples, right)
    covered = False
    for c in range(fine.shape[0]):
        change = 0.0
        for i in range(low, high):
            for j in range(west, east):
                if depth[i, j] < near[i, j]:
                    change += color[c] * shade[i, j] - fine[c, i, j]
                    covered = True
        gap[c, row, column] = change * share
        if not covered:
            break
    return covered


@kernel
def _error_with(
    near,
    fine,
    coarse,
    image,
    samples,
    top,
    bottom,
    left,
    right,
    depth,
    shade,
    color,
    down,
    across,
    blur,
    gap,
    line,
    slow,
    more,
):
    """How much the error changes by a layer that is put over or behind a state, which stays as it is.

    ``slow`` are the amplitudes of the state's residual; ``gap``, ``line`` and ``more`` are scratch.
    """
    channels, total, share = fine.shape[0], 0.0, 1.0 / (samples * samples)
    if (bottom <= top) | (right <= left):
        return total
    first_row, last_row = top // samples, (bottom - 1) // samples + 1
    first_column, last_column = left // samples, (right - 1) // samples + 1
    for row in range(first_row, last_row):
        for column in range(first_column, last_column):
            if _pixel_change(
                near, fine, samples, top, bottom, left, right, depth, shade, color, share, row, column, gap
            ):
                for c in range(channels):
                    change = gap[c, row, column]
                    total += change * (change + 2.0 * (coarse[c, row, column] - image[c, row, column]))
            else:
                gap[:, row, column] = 0.0
    if blur == 0.0:
        return total
    _project(gap, first_row, last_row, first_column, last_column, down, across, line, more)
    return (1.0 - blur) * total + blur * (more * (more + 2.0 * slow)).sum()


@kernel
def _states_without(
    m,
    kinds,
    near,
    fine,
    coarse,
    samples,
    windows,
    depths,
    shades,
    colors,
    image,
    down,
    across,
    blur,
    gap,
    line,
    near_without,
    fine_without,
    coarse_without,
    errors_without,
    slow_without,
):
    """The prefixes n > m without object m, and their errors, into entries m + 1, ..., M of the last five."""
    near_without[m + 1], fine_without[m + 1], coarse_without[m + 1] = near[m], fine[m], coarse[m]
    for n in range(m + 1, near.shape[0]):
        if n > m + 1:
            near_without[n], fine_without[n] = near_without[n - 1], fine_without[n - 1]
            coarse_without[n] = coarse_without[n - 1]
            w = windows[n - 1]
            _merge(
                near_without[n],
                fine_without[n],
                coarse_without[n],
                samples,
                w[0],
                w[1],
                w[2],
                w[3],
                depths[n - 1],
                shades[n - 1],
                colors[kinds[n - 1]],
            )
        errors_without[n] = _measure(coarse_without[n], image, down, across, blur, gap, line, slow_without[n])


@part
def _same_camera(camera, b):
    same = b > 0
    for column in range(camera.shape[1]):
        same &= camera[b, column] == camera[max(b - 1, 0), column]
    return same


@kernel
def _errors(
    kinds,
    poses,
    present,
    camera,
    solids,
    sizes,
    vertices,
    normals,
    faces,
    colors,
    ground,
    table,
    tangent,
    samples,
    images,
    other_kinds,
    other_poses,
    down,
    across,
    blur,
    base,
    changed,
):
    batch, number = kinds.shape
    channels, height, width = images.shape[1:]
    rows, columns, alternatives = height * samples, width * samples, other_kinds.shape[2]
    seen = np.empty((vertices.shape[0], 4))
    floor, floor_coarse = (
        np.empty((channels, rows, columns), np.float32),
        np.empty((channels, height, width), np.float32),
    )
    depths, shades = np.empty((number, rows, columns), np.float32), np.empty((number, rows, columns), np.float32)
    windows = np.zeros((number, 4), np.int64)
    depth, shade = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.float32)
    # States 0..M are the prefixes; without[n] is prefix n without the object that is being changed.
    near = np.empty((number + 1, rows, columns), np.float32)
    fine = np.empty((number + 1, channels, rows, columns), np.float32)
    coarse = np.empty((number + 1, channels, height, width), np.float32)
    near_without, fine_without, coarse_without = np.empty_like(near), np.empty_like(fine), np.empty_like(coarse)
    errors_without = np.empty(number + 1)
    waves_number = down.shape[0]
    gap, line = np.zeros((channels, height, width)), np.empty(waves_number)
    slow = np.empty((number + 1, channels, waves_number, waves_number))
    slow_without, more = np.empty_like(slow), np.empty((channels, waves_number, waves_number))
    for b in range(batch):
        image = images[b]
        if not _same_camera(camera, b):
            _empty(camera, b, ground, table, tangent, samples, floor, floor_coarse)
        near[0], fine[0], coarse[0] = INFINITE, floor, floor_coarse
        base[b, 0] = _measure(coarse[0], image, down, across, blur, gap, line, slow[0])
        for m in range(number):
            windows[m] = 0
            if present[b, m]:
                top, bottom, left, right = _cast(
                    camera,
                    b,
                    kinds[b, m],
                    solids,
                    sizes,
                    poses[b, m, 0],
                    poses[b, m, 1],
                    poses[b, m, 2],
                    vertices,
                    normals,
                    faces,
                    seen,
                    tangent,
                    depths[m],
                    shades[m],
                )
                windows[m, 0], windows[m, 1], windows[m, 2], windows[m, 3] = top, bottom, left, right
            near[m + 1], fine[m + 1], coarse[m + 1] = near[m], fine[m], coarse[m]
            w = windows[m]
            color = colors[kinds[b, m]]
            _merge(
                near[m + 1], fine[m + 1], coarse[m + 1], samples, w[0], w[1], w[2], w[3], depths[m], shades[m], color
            )
            base[b, m + 1] = _measure(coarse[m + 1], image, down, across, blur, gap, line, slow[m + 1])
        for m in range(number if alternatives else 0):
            _states_without(
                m,
                kinds[b],
                near,
                fine,
                coarse,
                samples,
                windows,
                depths,
                shades,
                colors,
                image,
                down,
                across,
                blur,
                gap,
                line,
                near_without,
                fine_without,
                coarse_without,
                errors_without,
                slow_without,
            )
            for a in range(alternatives):
                kind = other_kinds[b, m, a]
                top, bottom, left, right = _cast(
                    camera,
                    b,
                    kind,
                    solids,
                    sizes,
                    other_poses[b, m, a, 0],
                    other_poses[b, m, a, 1],
                    other_poses[b, m, a, 2],
                    vertices,
                    normals,
                    faces,
                    seen,
                    tangent,
                    depth,
                    shade,
                )
                for n in range(m + 1):
                    changed[b, m, a, n] = base[b, n]
                for n in range(m + 1, number + 1):
                    changed[b, m, a, n] = errors_without[n] + _error_with(
                        near_without[n],
                        fine_without[n],
                        coarse_without[n],
                        image,
                        samples,
                        top,
                        bottom,
                        left,
                        right,
                        depth,
                        shade,
                        colors[kind],
                        down,
                        across,
                        blur,
                        gap,
                        line,
                        slow_without[n],
                        more,
                    )


@kernel
def _prefixes(
    kinds,
    poses,
    present,
    camera,
    solids,
    sizes,
    vertices,
    normals,
    faces,
    colors,
    ground,
    table,
    tangent,
    samples,
    images,
):
    batch, number = kinds.shape
    channels, height, width = images.shape[2:]
    rows, columns = height * samples, width * samples
    seen = np.empty((vertices.shape[0], 4))
    floor, floor_coarse = (
        np.empty((channels, rows, columns), np.float32),
        np.empty((channels, height, width), np.float32),
    )
    near, fine = np.empty((rows, columns), np.float32), np.empty((channels, rows, columns), np.float32)
    coarse = np.empty((channels, height, width), np.float32)
    depth, shade = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.float32)
    for b in range(batch):
        if not _same_camera(camera, b):
            _empty(camera, b, ground, table, tangent, samples, floor, floor_coarse)
        near[:], fine[:], coarse[:] = INFINITE, floor, floor_coarse
        images[b, 0] = coarse
        for m in range(number):
            if present[b, m]:
                top, bottom, left, right = _cast(
                    camera,
                    b,
                    kinds[b, m],
                    solids,
                    sizes,
                    poses[b, m, 0],
                    poses[b, m, 1],
                    poses[b, m, 2],
                    vertices,
                    normals,
                    faces,
                    seen,
                    tangent,
                    depth,
                    shade,
                )
                color = colors[kinds[b, m]]
                _merge(near, fine, coarse, samples, top, bottom, left, right, depth, shade, color)
            images[b, m + 1] = coarse


@kernel
def _view(
    kinds,
    poses,
    present,
    camera,
    solids,
    sizes,
    vertices,
    normals,
    faces,
    colors,
    ground,
    table,
    tangent,
    samples,
    images,
    ids,
    distances,
    coverage,
):
    batch, number = kinds.shape
    channels, height, width = images.shape[1:]
    rows, columns = height * samples, width * samples
    seen = np.empty((vertices.shape[0], 4))
    floor, floor_coarse = (
        np.empty((channels, rows, columns), np.float32),
        np.empty((channels, height, width), np.float32),
    )
    near, fine = np.empty((rows, columns), np.float32), np.empty((channels, rows, columns), np.float32)
    coarse, owner = np.empty((channels, height, width), np.float32), np.empty((rows, columns), np.int64)
    depth, shade = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.float32)
    for b in range(batch):
        if not _same_camera(camera, b):
            _empty(camera, b, ground, table, tangent, samples, floor, floor_coarse)
        near[:], fine[:], coarse[:], owner[:] = INFINITE, floor, floor_coarse, 0
        for m in range(number):
            if not present[b, m]:
                continue
            top, bottom, left, right = _cast(
                camera,
                b,
                kinds[b, m],
                solids,
                sizes,
                poses[b, m, 0],
                poses[b, m, 1],
                poses[b, m, 2],
                vertices,
                normals,
                faces,
                seen,
                tangent,
                depth,
                shade,
            )
            for row in range(top, bottom):
                for column in range(left, right):
                    if depth[row, column] < near[row, column]:
                        owner[row, column] = m + 1
            color = colors[kinds[b, m]]
            _merge(near, fine, coarse, samples, top, bottom, left, right, depth, shade, color)
        images[b] = coarse
        for row in range(height):
            for column in range(width):
                _count(b, row, column, samples, owner, near, ids, distances, coverage)


@part
def _count(b, row, column, samples, owner, near, ids, distances, coverage):
    """What fills a pixel, how far that is, and the shares of all ids."""
    share, best, total = 1.0 / (samples * samples), 0, 0.0
    for i in range(row * samples, (row + 1) * samples):
        for j in range(column * samples, (column + 1) * samples):
            coverage[b, owner[i, j], row, column] += 1.0
    for entity in range(1, coverage.shape[1]):
        if coverage[b, entity, row, column] > coverage[b, best, row, column]:
            best = entity
    for i in range(row * samples, (row + 1) * samples):
        for j in range(column * samples, (column + 1) * samples):
            total += near[i, j] if (owner[i, j] == best) & (best > 0) else 0.0
    ids[b, row, column] = best
    distances[b, row, column] = total / coverage[b, best, row, column] if best > 0 else math.inf
    for entity in range(coverage.shape[1]):
        coverage[b, entity, row, column] *= share
