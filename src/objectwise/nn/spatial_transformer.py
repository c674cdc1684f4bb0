"""Reading a window from an image and writing a patch into one, differentiable in scale and shift.

Spatial transformer of Jaderberg et al. 2015 restricted to scale, translation and rotation, in the convention in which ``scale``
is the share of the image that the window covers and ``shift`` its centre (Eslami et al. 2016, as implemented by
most later work): no division by a learned number occurs in reading. Without rotation the bilinear sampling
grid separates into rows and columns, so that both directions are two small batched matrix products; with rotation
(``angle``) the same weights come from ``grid_sample``.

Geometry: pixel i covers [i, i+1) and has its centre at i + 0.5; the image spans [-1, 1] in ``shift`` units
(``align_corners=False``); outside the source everything is zero. Windows turn in pixels, counter-clockwise as seen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from objectwise.nn.float32 import float32_island


def read(images: Tensor, scale: Tensor, shift: Tensor, size: int, angle: Tensor | None = None) -> Tensor:
    """Sample a square window bilinearly.

    Args:
        images: (B, C, H, W).
        scale: (B, 2) share of the image covered, (vertical, horizontal), positive.
        shift: (B, 2) centre of the window in [-1, 1], (vertical, horizontal).
        size: g, side of the glimpse in pixels.
        angle: (B,) rotation of the window in radians; None: upright.

    Returns:
        (B, C, g, g) float32.
    """
    with float32_island(images.device):
        images, scale, shift = images.float(), scale.float(), shift.float()
        if angle is not None:
            return _read_rotated(images, scale, shift, size, angle.float())
        rows, columns = (
            _weights(
                _window_to_image(scale[:, axis], shift[:, axis], size, images.shape[2 + axis]), images.shape[2 + axis]
            )
            for axis in (0, 1)
        )
        return torch.matmul(torch.matmul(rows.unsqueeze(1), images), columns.unsqueeze(1).transpose(2, 3))


def write(
    patches: Tensor, scale: Tensor, shift: Tensor, height: int, width: int, angle: Tensor | None = None
) -> Tensor:
    """Draw a patch into an empty canvas, the inverse placement of :func:`read`.

    Args:
        patches: (B, C, g, g).
        scale: (B, 2) share of the canvas covered, (vertical, horizontal), positive.
        shift: (B, 2) centre of the patch in [-1, 1], (vertical, horizontal).
        height: H of the canvas.
        width: W of the canvas.
        angle: (B,) rotation of the patch in radians; None: upright.

    Returns:
        (B, C, H, W) float32, zero outside the patch.
    """
    with float32_island(patches.device):
        patches, scale, shift = patches.float(), scale.float(), shift.float()
        if angle is not None:
            return _write_rotated(patches, scale, shift, (height, width), angle.float())
        size = patches.shape[-1]
        rows, columns = (
            _weights(_image_to_window(scale[:, axis], shift[:, axis], size, length), size)
            for axis, length in ((0, height), (1, width))
        )
        return torch.matmul(torch.matmul(rows.unsqueeze(1), patches), columns.unsqueeze(1).transpose(2, 3))


def boxes(scale: Tensor, shift: Tensor, height: int, width: int, angle: Tensor | None = None) -> Tensor:
    """The window as a box in pixels; of a turned window, the upright box around it.

    Args:
        scale: (..., 2) as in :func:`read`.
        shift: (..., 2).
        height: H.
        width: W.
        angle: (...,) in radians; None: upright.

    Returns:
        (..., 4) ``x0 y0 x1 y1`` in pixels, not clipped to the image.
    """
    centre = (shift + 1.0) / 2.0 * shift.new_tensor([height, width])
    half = scale / 2.0 * scale.new_tensor([height, width])
    if angle is not None:
        half = angle.cos().abs().unsqueeze(-1) * half + angle.sin().abs().unsqueeze(-1) * half.flip(-1)
    low, high = centre - half, centre + half
    return torch.stack([low[..., 1], low[..., 0], high[..., 1], high[..., 0]], dim=-1)


def _read_rotated(images: Tensor, scale: Tensor, shift: Tensor, size: int, angle: Tensor) -> Tensor:
    """:func:`read` for a window turned by ``angle``."""
    extent = scale.new_tensor(images.shape[2:])
    grid = _centres(size, size, scale.device) * (scale * extent)[:, None, None]
    positions = shift[:, None, None] + _rotated(grid, angle) / extent
    return torch.nn.functional.grid_sample(images, positions.flip(-1), align_corners=False)


def _write_rotated(patches: Tensor, scale: Tensor, shift: Tensor, canvas: tuple[int, int], angle: Tensor) -> Tensor:
    """:func:`write` for a patch turned by ``angle``."""
    extent = scale.new_tensor(canvas)
    offsets = (_centres(*canvas, scale.device) - shift[:, None, None]) * extent
    positions = _rotated(offsets, -angle) / (scale * extent)[:, None, None]
    return torch.nn.functional.grid_sample(patches, positions.flip(-1), align_corners=False)


def _centres(height: int, width: int, device: torch.device) -> Tensor:
    """(height, width, 2) pixel centres in [-1, 1], (vertical, horizontal)."""
    axes = [(torch.arange(length, device=device) + 0.5) / length * 2.0 - 1.0 for length in (height, width)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def _rotated(points: Tensor, angle: Tensor) -> Tensor:
    """Points (B, H, W, 2), (down, right), turned counter-clockwise as seen about the origin by (B,) radians."""
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    down, right = points.expand(len(angle), -1, -1, -1).unbind(dim=-1)
    return torch.stack([cos * down - sin * right, sin * down + cos * right], dim=-1)


def _window_to_image(scale: Tensor, shift: Tensor, size: int, length: int) -> Tensor:
    """(B, size) positions of the window's pixel centres, in image pixels."""
    grid = (torch.arange(size, device=scale.device) + 0.5) / size * 2.0 - 1.0
    return ((shift.unsqueeze(1) + scale.unsqueeze(1) * grid) + 1.0) / 2.0 * length


def _image_to_window(scale: Tensor, shift: Tensor, size: int, length: int) -> Tensor:
    """(B, length) positions of the canvas's pixel centres, in patch pixels."""
    grid = (torch.arange(length, device=scale.device) + 0.5) / length * 2.0 - 1.0
    return ((grid - shift.unsqueeze(1)) / scale.unsqueeze(1) + 1.0) / 2.0 * size


def _weights(positions: Tensor, length: int) -> Tensor:
    """(B, P, length) bilinear weights of source pixel centres for each position; zero beyond the source."""
    weights: Tensor = _Tent.apply(positions, length)
    return weights


class _Tent(torch.autograd.Function):
    """max(0, 1 − |position − centre|) in one buffer; autograd's own form takes twice the time and four buffers."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, length: int) -> Tensor:
        """See :func:`_weights`."""
        centres = torch.arange(length, device=positions.device, dtype=positions.dtype) + 0.5
        offsets = positions.unsqueeze(2) - centres
        weights = offsets.abs().neg_().add_(1.0).clamp_min_(0.0)
        ctx.save_for_backward(offsets, weights)
        return weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The slope is −sign(position − centre) where the weight is positive, else zero."""
        offsets, weights = ctx.saved_tensors
        slopes = offsets.sign().mul_(weights > 0)
        return slopes.mul_(gradients[0]).sum(dim=2).neg_(), None
