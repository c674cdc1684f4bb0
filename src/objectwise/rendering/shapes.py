"""Drawing discs, squares and diamonds by whole pixels, exactly.

The rule is SuPAIR's: a square fills its side; a disc and a diamond have the centre pixel ``edge + size // 2`` and the radius
``size // 2``, with a strict comparison, so that they are symmetric about a pixel. All arithmetic is on integers.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHAPES = ("disc", "square", "diamond")
"""Names of the shapes 0, 1, 2."""
_DISC, _SQUARE = 0, 1
_FAR = 2**20
"""Larger than any squared radius of a canvas."""


def draw(shape: Tensor, top: Tensor, left: Tensor, size: Tensor, *, canvas: tuple[int, int]) -> Tensor:
    """Draw each shape into its own canvas.

    Args:
        shape: (...) int64 index into :data:`SHAPES`.
        top: (...) int64 upper edge of the shape's square in pixels.
        left: (...) int64 left edge.
        size: (...) int64 side of the square; 0 draws nothing.
        canvas: (H, W).

    Returns:
        (..., H, W) bool.
    """
    radius = size // 2
    limit = torch.where(shape == _DISC, radius**2, torch.where(shape == _SQUARE, 1, radius)) * (size > 0)
    rows = _distance(shape, top, size, canvas[0])
    columns = _distance(shape, left, size, canvas[1])
    return rows.unsqueeze(-1) + columns.unsqueeze(-2) < limit.int()[..., None, None]


def _distance(shape: Tensor, edge: Tensor, size: Tensor, length: int) -> Tensor:
    """One axis's share (..., length) int32 of the quantity that must stay below the shape's limit."""
    position = torch.arange(length)
    offset = position - (edge + size // 2).unsqueeze(-1)
    outside = (position < edge.unsqueeze(-1)) | (position >= (edge + size).unsqueeze(-1))
    kind = shape.unsqueeze(-1)
    share = torch.where(kind == _DISC, offset**2, torch.where(kind == _SQUARE, outside * _FAR, offset.abs()))
    return share.int()


def centre(shape: Tensor, top: Tensor, left: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Centres x and y (...) float32 of the drawn pixels, in pixels from the canvas's corner; arguments as in :func:`draw`."""
    half = torch.where(shape == _SQUARE, size / 2.0, size // 2 + 0.5)
    return (left + half).float(), (top + half).float()
