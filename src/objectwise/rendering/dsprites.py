"""Squares, ellipses and hearts as in dSprites, by formula: any scale, angle, sub-pixel position and image size.

The formulas are a fit to the published images ("compatible", not identical: a few border pixels differ in some of them).
A pixel is lit if its centre lies inside the shape; there is no antialiasing. Lengths are those of a 64-pixel canvas and grow
with the image. All arithmetic is float64 and elementwise, so that a sprite's pixels do not depend on its batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

SHAPES = ("square", "ellipse", "heart")
"""Names of the shape codes 1, 2, 3; code 0 is no sprite."""
REFERENCE_SIZE = 64
"""Side of the canvas, in pixels, that every length below refers to."""
SCALES = (0.5, 1.0)
"""dSprites' smallest and largest scale."""
SYMMETRY = {"square": 4, "ellipse": 2, "heart": 1}
"""How many rotations leave each shape unchanged."""

_HALF_SIDE = 9.6
_SEMI_AXES = (12.77, 7.21)
_HEART = (9.6, 0.662, 1.44)  # half width, vertical scale, shift upwards
_REACH = (_HALF_SIDE * math.sqrt(2.0), max(_SEMI_AXES), 11.26)
"""Radius of a circle around each shape at scale 1."""


class Windows(NamedTuple):
    """M sprites, each in a square window that holds all of it; a window may stick out of the canvas.

    Attributes:
        top: (M,) int64 row of the window's first pixel.
        left: (M,) int64 column of the window's first pixel.
        lit: (M, S, S) bool, S common to all.
    """

    top: np.ndarray
    left: np.ndarray
    lit: np.ndarray


def centers(position: np.ndarray, size: int) -> np.ndarray:
    """Centres in pixels of positions in [0, 1]: the middle half of an axis of ``size`` pixels."""
    return (16.0 + 32.0 * position) * (size / REFERENCE_SIZE)


def windows(
    shape: np.ndarray, scale: np.ndarray, orientation: np.ndarray, x: np.ndarray, y: np.ndarray, size: int
) -> Windows:
    """The pixels of M sprites, each in its own window.

    Args:
        shape: (M,) codes 1 square, 2 ellipse, 3 heart.
        scale: (M,) positive; dSprites uses 0.5 to 1.
        orientation: (M,) radians, counter-clockwise on the screen.
        x: (M,) horizontal position in [0, 1], growing to the right.
        y: (M,) vertical position in [0, 1], growing downwards.
        size: side of the canvas in pixels.
    """
    unit = np.asarray(scale, np.float64) * (size / REFERENCE_SIZE)
    cx, cy = centers(np.asarray(x, np.float64), size), centers(np.asarray(y, np.float64), size)
    reach = np.array((0.0, *_REACH))[shape] * unit
    top, left = np.floor(cy - reach).astype(np.int64), np.floor(cx - reach).astype(np.int64)
    side = int(np.ceil(2.0 * reach.max(initial=0.0))) + 1
    steps = np.arange(side)
    dx = (left[:, None] + steps + 0.5 - cx[:, None]) / unit[:, None]
    dy = (top[:, None] + steps + 0.5 - cy[:, None]) / unit[:, None]
    angles = np.asarray(orientation, np.float64).tolist()
    cos = np.array([math.cos(angle) for angle in angles])[:, None]  # libm: one result for any batch, unlike SIMD loops
    sin = np.array([math.sin(angle) for angle in angles])[:, None]
    lit = np.zeros((len(top), side, side), bool)
    for code, inside in enumerate((_in_square, _in_ellipse, _in_heart), start=1):
        rows = np.flatnonzero(shape == code)
        u = (cos * dx)[rows, None, :] - (sin * dy)[rows, :, None]
        v = (sin * dx)[rows, None, :] + (cos * dy)[rows, :, None]
        lit[rows] = inside(u, v)
    return Windows(top, left, lit)


def pixels(
    shape: np.ndarray, scale: np.ndarray, orientation: np.ndarray, x: np.ndarray, y: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The lit pixels of M sprites as a list; arguments as in :func:`windows`.

    Returns:
        (L,) int64 which sprite, ascending, and (L,) int64 row·size + column of each lit pixel inside the canvas.
    """
    top, left, lit = windows(shape, scale, orientation, x, y, size)
    side = lit.shape[1]
    found = np.flatnonzero(lit)
    sprite, place = np.divmod(found, max(side * side, 1))
    row, column = np.divmod(place, max(side, 1))
    row += top[sprite]
    column += left[sprite]
    if (top < 0).any() or (left < 0).any() or (top + side > size).any() or (left + side > size).any():
        inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
        sprite, row, column = sprite[inside], row[inside], column[inside]
    return sprite, row * size + column


def draw(
    shape: np.ndarray, scale: np.ndarray, orientation: np.ndarray, x: np.ndarray, y: np.ndarray, size: int = 64
) -> np.ndarray:
    """M sprites, each on its own canvas; arguments as in :func:`windows`.

    Returns:
        (M, size, size) bool.
    """
    canvas = np.zeros((len(shape), size * size), bool)
    sprite, pixel = pixels(shape, scale, orientation, x, y, size)
    canvas[sprite, pixel] = True
    return canvas.reshape(-1, size, size)


def _in_square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (np.abs(u) <= _HALF_SIDE) & (np.abs(v) <= _HALF_SIDE)


def _in_ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u / _SEMI_AXES[0]) ** 2 + (v / _SEMI_AXES[1]) ** 2 <= 1.0


def _in_heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The curve x = 9.6 sin³t, y = −0.662 (13 cos t − 5 cos 2t − 2 cos 3t − cos 4t) − 1.44, y downwards.

    Each |x| below 9.6 belongs to one sin t and two cos t = ±c; the heart lies between the two y. With s² = 1 − c² the sum
    of cosines is an even part 4 − 2c² − 8c⁴ and an odd part c (19 − 8c²).
    """
    ratio = np.abs(u) / _HEART[0]
    s2 = np.cbrt(ratio) ** 2
    c2 = np.maximum(1.0 - s2, 0.0)
    c = np.sqrt(c2)
    even = 4.0 - c2 * (2.0 + 8.0 * c2)
    odd = c * (19.0 - 8.0 * c2)
    middle = (v + _HEART[2]) / -_HEART[1] - even
    return (np.abs(middle) <= odd) & (ratio <= 1.0)
