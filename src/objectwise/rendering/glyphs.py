"""Drawing small grey pictures (digits, characters) at any size and place on a canvas, exactly.

All arithmetic is on integers small enough for float32 to hold exactly, so that the result does not depend on the order of
summation: not on the batch, the number of threads or the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

_UNIT = 128
"""Interpolation weights are multiples of 1/128: 255·128·128 < 2^24, exact in float32."""


def place(glyphs: Tensor, top: Tensor, left: Tensor, size: Tensor, height: int, width: int) -> Tensor:
    """Draw each glyph into its own canvas with an antialiased linear filter.

    Args:
        glyphs: (M, S, S) uint8.
        top: (M,) upper edge of the glyph's square in pixels (may be fractional).
        left: (M,) left edge.
        size: (M,) side of the square in pixels, positive.
        height: H of the canvas.
        width: W of the canvas.

    Returns:
        (M, H, W) uint8, zero outside the squares.
    """
    rows = _filter(top.double(), size.double(), glyphs.shape[1], height)
    columns = _filter(left.double(), size.double(), glyphs.shape[2], width)
    drawn = torch.bmm(torch.bmm(rows, glyphs.float()), columns.transpose(1, 2))
    return (drawn / _UNIT**2).round().clamp(0, 255).to(torch.uint8)


def _filter(start: Tensor, size: Tensor, source: int, length: int) -> Tensor:
    """(M, length, source) weights in whole multiples of 1/128 (scaled to integers), as float32."""
    scale = (source / size)[:, None, None]
    pixel = torch.arange(length, dtype=torch.float64, device=start.device)[None, :, None] + 0.5
    tap = torch.arange(source, dtype=torch.float64, device=start.device)[None, None, :] + 0.5
    position = (pixel - start[:, None, None]) * scale
    weights = (1.0 - (position - tap).abs() / scale.clamp_min(1.0)).clamp_min(0.0)
    weights = weights / weights.sum(dim=2, keepdim=True).clamp_min(1e-9)
    inside = (position >= 0.0) & (position < source)
    return (weights * inside * _UNIT).round().float()
