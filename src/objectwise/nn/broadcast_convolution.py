"""The spatial broadcast decoder with zero padding, as IODINE has it, and its first convolution without the broadcast.

A convolution with zero padding of a picture that is the same everywhere has few distinct outputs: 9 for a 3×3 kernel, 25 for
5×5, by which of the kernel's taps fall outside. So the code's part is one small matrix product per code, laid over the
picture; the coordinates' part is the same for all codes. The sum is exactly the convolution of the broadcast picture
(Greff et al. 2019, arXiv:1903.00450, has the decoder; the shortcut is ours).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from objectwise.nn.broadcast_decoder import coordinates
from objectwise.nn.doubling_convolution import DoublingConvTranspose2d
from objectwise.nn.float32 import float32_island


class PaddedBroadcastDecoder(nn.Module):
    """A code on every pixel, beside its coordinates, and convolutions that keep or double the size, with ELU between them.

    Args:
        latent_size: D, numbers of a code.
        out_channels: channels of the pictures.
        image_size: (H, W) of the pictures; no weight depends on it.
        widths: feature maps of the hidden convolutions.
        kernel: side of every convolution that keeps the size in pixels, odd.
        constant: value of one more input channel, the same everywhere; None: no such channel.
        doublings: how many of the last convolutions are transposed ones that double the sides, 4×4 of stride 2; the code is laid
            on a grid coarser by as much, and what the last one draws beyond the picture, behind it, is cut off.
    """

    def __init__(
        self,
        latent_size: int,
        out_channels: int,
        image_size: tuple[int, int],
        widths: Sequence[int],
        kernel: int = 3,
        constant: float | None = None,
        doublings: int = 0,
    ) -> None:
        super().__init__()
        height, width = image_size
        self.image_size = image_size
        grid = (math.ceil(height / 2**doublings), math.ceil(width / 2**doublings))
        self.first = BroadcastConvolution(latent_size, widths[0], grid, kernel, constant)
        self.rest = nn.ModuleList(
            DoublingConvTranspose2d(before, after)
            if number >= len(widths) - doublings
            else nn.Conv2d(before, after, kernel, padding=kernel // 2)
            for number, (before, after) in enumerate(itertools.pairwise((*widths, out_channels)))
        )

    def forward(self, codes: Tensor, *, tiled: bool = False) -> Tensor:
        """(M, D) codes -> (M, out_channels, H, W).

        Args:
            codes: any number of them.
            tiled: convolve the broadcast picture, as papers draw it, instead of the shortcut.
        """
        if tiled:
            hidden = nn.functional.elu(self.first.of_tiles(codes), inplace=True)
        else:
            hidden = nn.functional.elu(self.first.laid(codes), inplace=True).permute(0, 3, 1, 2)
        for convolution in self.rest[:-1]:
            hidden = nn.functional.elu(convolution(hidden), inplace=True)
        out: Tensor = self.rest[-1](hidden)
        height, width = self.image_size
        return out[:, :, :height, :width]


class BroadcastConvolution(nn.Module):
    """The first convolution, of the code, the constant, and the coordinates (rows, then columns, in [−1, 1]), in this order.

    Args:
        latent_size: D.
        out_channels: feature maps.
        image_size: (H, W).
        kernel: side in pixels, odd.
        constant: as in :class:`PaddedBroadcastDecoder`.
    """

    surroundings: Tensor

    def __init__(
        self,
        latent_size: int,
        out_channels: int,
        image_size: tuple[int, int],
        kernel: int,
        constant: float | None = None,
    ) -> None:
        super().__init__()
        surroundings = coordinates(*image_size).flip(0)
        if constant is not None:
            surroundings = torch.cat([torch.full_like(surroundings[:1], constant), surroundings])
        self.latent_size = latent_size
        self.convolution = nn.Conv2d(latent_size + len(surroundings), out_channels, kernel, padding=kernel // 2)
        self.register_buffer("surroundings", surroundings.unsqueeze(0), persistent=False)
        self.rows, self.columns = (border_classes(side, kernel) for side in image_size)

    def forward(self, codes: Tensor) -> Tensor:
        """(M, D) -> (M, out_channels, H, W)."""
        return self.laid(codes).permute(0, 3, 1, 2)

    def laid(self, codes: Tensor) -> Tensor:
        """The same with channels innermost, (M, H, W, out_channels), as it is computed; in bfloat16 under autocast."""
        weight, bias = self.convolution.weight, self.convolution.bias
        with float32_island(codes.device):
            rows, columns = (weight.new_tensor([inside for _, inside in side]) for side in (self.rows, self.columns))
            own = torch.einsum("odij,ri,cj->rcod", weight[:, : self.latent_size], rows, columns)
            of_code = nn.functional.linear(codes.to(weight.dtype), own.flatten(0, 2)).unflatten(1, own.shape[:3])
            # As a matrix product: PyTorch has no fast gradient of a convolution of so few channels.
            padding = self.convolution.padding
            assert not isinstance(padding, str)
            taps = nn.functional.unfold(self.surroundings, self.convolution.kernel_size, padding=padding)
            of_place = nn.functional.linear(taps[0].T, weight[:, self.latent_size :].flatten(1), bias)
        kind = codes.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        heights, widths = ([size for size, _ in side] for side in (self.rows, self.columns))
        laid: Tensor = _Laid.apply(of_code, of_place.unflatten(0, self.surroundings.shape[2:]), heights, widths, dtype)
        return laid

    def of_tiles(self, codes: Tensor) -> Tensor:
        """The same by convolving the broadcast picture."""
        height, width = self.surroundings.shape[2:]
        tiles = codes[:, :, None, None].expand(-1, -1, height, width)
        out: Tensor = self.convolution(torch.cat([tiles, self.surroundings.expand(len(codes), -1, -1, -1)], dim=1))
        return out


def border_classes(side: int, kernel: int) -> list[tuple[int, tuple[int, ...]]]:
    """Neighbouring positions of a side where the same taps of a padded kernel fall inside.

    Returns:
        (how many positions, 1 for each tap that falls inside and 0 for the others), from the first position to the last.
    """
    reach = kernel // 2
    inside = [tuple(int(0 <= place + tap - reach < side) for tap in range(kernel)) for place in range(side)]
    return [(len(list(group)), taps) for taps, group in itertools.groupby(inside)]


class _Laid(torch.autograd.Function):
    """(M, R, C, O) values by border class and (H, W, O) values by place -> their sum at every place, (M, H, W, O).

    Linear, so that its backward pass, sums over blocks, can itself be differentiated. Sums are of bfloat16 as it comes, which
    PyTorch adds up in float32: converting the picture first would take longer. Whole rows at a time: short pieces are slow.
    """

    @staticmethod
    def forward(
        ctx: Any, of_code: Tensor, of_place: Tensor, heights: list[int], widths: list[int], dtype: torch.dtype
    ) -> Tensor:
        ctx.sizes, ctx.dtype = (heights, widths), of_code.dtype
        lines = torch.cat(
            [of_code[:, :, c : c + 1].expand(-1, -1, width, -1) for c, width in enumerate(widths)], dim=2
        ).flatten(2)
        height, width, channels = of_place.shape
        out = torch.empty(len(of_code), height, width, channels, dtype=dtype, device=of_code.device)
        places, lines = of_place.flatten(1).to(dtype), lines.to(dtype)
        starts = itertools.accumulate(heights, initial=0)
        for r, (start, size) in enumerate(zip(starts, heights, strict=False)):
            block = slice(start, start + size)
            torch.add(lines[:, r : r + 1], places[block], out=out[:, block].flatten(2))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (heights, widths) = gradients, ctx.sizes
        lines = [block.sum(dim=1).to(ctx.dtype) for block in gradient.split(heights, dim=1)]
        blocks = [part.sum(dim=2) for part in torch.stack(lines, dim=1).split(widths, dim=2)]
        return torch.stack(blocks, dim=2), gradient.sum(dim=0).to(ctx.dtype), None, None, None
