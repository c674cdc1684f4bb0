"""A body with four arms of any lengths, on black; grey only where an arm ends inside a pixel."""

from __future__ import annotations

import numpy as np

REFERENCE_SIZE = 64
"""Side of the canvas, in pixels, that every length refers to."""
ARMS = ("right", "up", "left", "down")
"""The order of the arms."""
BODY_RADIUS = 6.0
"""Of the disc in the middle."""
LENGTHS = (2.0, 22.0)
"""Shortest and longest arm, from the body's edge."""

_HALF_WIDTH = 2.0


def draw(lengths: np.ndarray, size: int = REFERENCE_SIZE) -> np.ndarray:
    """Bodies on canvases of their own.

    Args:
        lengths: (B, 4) of the arms in the order of :data:`ARMS`, in pixels of a 64-pixel canvas.
        size: side of the canvas in pixels; everything grows with it.

    Returns:
        (B, size, size) float64 in [0, 1]: which part of a pixel an arm covers along its axis; nothing else is antialiased.
    """
    zoom = size / REFERENCE_SIZE
    offset = np.arange(size) + 0.5 - size / 2.0  # of the pixels' centres from the middle
    # An arm covers a pixel up to where it ends; the one to the other side begins at the middle.
    ends = (BODY_RADIUS + lengths) * zoom
    after = np.clip(ends[:, :, None] - (offset - 0.5), 0.0, 1.0) * (offset > 0)
    before = np.clip(ends[:, :, None] + (offset + 0.5), 0.0, 1.0) * (offset < 0)
    beam = np.abs(offset) < _HALF_WIDTH * zoom
    across = after[:, 0] + before[:, 2]
    upright = before[:, 1] + after[:, 3]
    body = offset[:, None] ** 2 + offset**2 <= (BODY_RADIUS * zoom) ** 2
    arms = np.maximum(across[:, None, :] * beam[:, None], upright[:, :, None] * beam)
    return np.maximum(arms, body)
