"""Table-ware-like meshes, made in code: surfaces of revolution, one with a handle.

A mesh lies around the origin of its unit frame; z = −1 is the table. Each vertex carries its normal; vertices where the surface
has an edge are doubled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

SEGMENTS = 16
"""Pieces into which a turn is divided."""


class Mesh(NamedTuple):
    """A triangle mesh.

    Attributes:
        vertices: (V, 3) float64.
        normals: (V, 3) float64 unit vectors, outward.
        faces: (T, 3) int64, counter-clockwise from outside.
    """

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray


def revolved(profile: Sequence[tuple[float, float]], segments: int = SEGMENTS) -> Mesh:
    """The surface that a line of (radius, z) points sweeps about the vertical; outward is to its right.

    Args:
        profile: P points; from the middle of the base outwards, up the outside, over the rim and down the inside.
        segments: pieces of a turn.
    """
    vertices, normals, faces = list[tuple[float, float, float]](), list[tuple[float, float, float]](), list[list[int]]()
    for (r0, z0), (r1, z1) in itertools.pairwise(profile):
        length = math.hypot(r1 - r0, z1 - z0)
        across, upward = (z1 - z0) / length, -(r1 - r0) / length
        start = len(vertices)
        for step in range(segments):
            c, s = math.cos(2 * math.pi * step / segments), math.sin(2 * math.pi * step / segments)
            vertices += [(r0 * c, r0 * s, z0), (r1 * c, r1 * s, z1)]
            normals += [(across * c, across * s, upward)] * 2
        for step in range(segments):
            low, high = start + 2 * step, start + 2 * step + 1
            next_low, next_high = start + 2 * ((step + 1) % segments), start + 2 * ((step + 1) % segments) + 1
            if r0 > 0:
                faces.append([low, next_low, next_high if r1 > 0 else high])
            if r1 > 0:
                faces.append([low, next_high, high])
    return Mesh(np.array(vertices), np.array(normals), np.array(faces, dtype=np.int64))


def tube(path: np.ndarray, radius: float, sides: int = 6) -> Mesh:
    """A tube along a line in the plane y = 0; its ends are open.

    Args:
        path: (P, 2) x and z of its middle.
        radius: of the tube.
        sides: of its cross-section.
    """
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    outward = np.stack([tangent[:, 1], np.zeros(len(path)), -tangent[:, 0]], axis=1)
    sideways = np.array([0.0, 1.0, 0.0])
    angle = 2 * np.pi * np.arange(sides) / sides
    normals = np.cos(angle)[None, :, None] * outward[:, None] + np.sin(angle)[None, :, None] * sideways
    middle = np.stack([path[:, 0], np.zeros(len(path)), path[:, 1]], axis=1)
    vertices = middle[:, None] + radius * normals
    faces = []
    for ring in range(len(path) - 1):
        for side in range(sides):
            a, b = ring * sides + side, ring * sides + (side + 1) % sides
            faces += [[a, b, b + sides], [a, b + sides, a + sides]]
    return Mesh(vertices.reshape(-1, 3), normals.reshape(-1, 3), np.array(faces, dtype=np.int64))


def joined(*meshes: Mesh) -> Mesh:
    """Several meshes as one."""
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts[:-1], strict=True)]),
    )


def mug() -> Mesh:
    """A cup with a handle on the side of +x."""
    body = revolved([(0.0, -1.0), (0.62, -1.0), (0.7, 0.7), (0.6, 0.7), (0.52, -0.85), (0.0, -0.85)])
    turn = np.linspace(-math.pi / 2, math.pi / 2, 8)
    handle = tube(np.stack([0.66 + 0.6 * np.cos(turn), -0.1 + 0.5 * np.sin(turn)], axis=1), 0.14)
    return joined(body, handle)


def bowl() -> Mesh:
    """A shallow open bowl on a foot."""
    outside = [(0.0, -1.0), (0.35, -1.0), (0.4, -0.9), (0.75, -0.65), (0.95, -0.3)]
    return revolved([*outside, (0.87, -0.3), (0.68, -0.58), (0.35, -0.8), (0.0, -0.82)])


def bottle() -> Mesh:
    """A tall bottle with a thin neck."""
    return revolved([(0.0, -1.0), (0.75, -1.0), (0.75, 0.6), (0.32, 1.2), (0.28, 1.8), (0.0, 1.8)])


MESHES: dict[str, Callable[[], Mesh]] = {"mug": mug, "bowl": bowl, "bottle": bottle}
"""Name -> function."""
