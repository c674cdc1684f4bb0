"""A U-Net: what is where, at full resolution, from a view of the whole.

As MONet describes its attention network (Burgess et al. 2019, arXiv:1901.11390, appendix B.2): blocks of a 3×3 convolution
without bias, instance normalisation with learned scale and shift, ReLU, and nearest-neighbour resizing by two; the last block of
either path does not resize; a dense network joins the two paths; the skip tensors are taken before resizing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from objectwise.core import UserError
from objectwise.nn.instance_norm import InstanceNormReLU


class UNet(nn.Module):
    """See the module's text.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, a 1×1 convolution.
        image_size: (H, W), each divisible by 2^(blocks − 1).
        widths: feature maps of each block on the way down, shallow first; on the way up each block gives as many as the skip
            tensor of the next: (16, 32, 64) goes up as (32, 16, 16).
        bottleneck: hidden width of the dense network's first two layers; its third has the size of the last skip tensor.

    Raises:
        UserError: for sides that cannot be halved as often as there are blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size: tuple[int, int],
        widths: Sequence[int],
        bottleneck: int = 128,
    ) -> None:
        super().__init__()
        check_halvings(image_size, len(widths))
        self.down = nn.ModuleList(Block(a, b) for a, b in zip((in_channels, *widths), widths, strict=False))
        up = (*widths[-2::-1], widths[0])
        self.up = nn.ModuleList(
            Block(below + skip, out) for below, skip, out in zip((widths[-1], *up), widths[::-1], up, strict=False)
        )
        low = tuple(side // 2 ** (len(widths) - 1) for side in image_size)
        flat = widths[-1] * low[0] * low[1]
        self.bottleneck = nn.Sequential(
            nn.Flatten(),
            nn.Linear(flat, bottleneck),
            nn.ReLU(),
            nn.Linear(bottleneck, bottleneck),
            nn.ReLU(),
            nn.Linear(bottleneck, flat),
            nn.ReLU(),
            nn.Unflatten(1, (widths[-1], *low)),
        )
        self.head = nn.Conv2d(up[-1], out_channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        skips: list[Tensor] = []
        x = images
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else _Halved.apply(x))
            skips.append(x)
        x = self.bottleneck(x)
        for number, block in enumerate(self.up):
            x = block(torch.cat([x if number == 0 else _Doubled.apply(x), skips.pop()], dim=1))
        out: Tensor = self.head(x)
        return out


class Block(nn.Module):
    """3×3 convolution without bias, instance normalisation, ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = InstanceNormReLU(out_channels)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        out: Tensor = self.norm(self.conv(images))
        return out


def default_blocks(image_size: tuple[int, int]) -> int:
    """log2 of the shorter side, rounded down, minus one (4, 5 and 6 blocks for 32, 64 and 128 pixels), or as many as fit."""
    return min(max(1, min(image_size).bit_length() - 2), most_blocks(image_size))


def most_blocks(image_size: tuple[int, int]) -> int:
    """The most blocks with which both sides are divisible by 2^(blocks − 1) and 2 pixels are left."""
    blocks = 1
    while all(side % 2**blocks == 0 and side >= 2 ** (blocks + 1) for side in image_size):
        blocks += 1
    return blocks


def check_halvings(image_size: tuple[int, int], blocks: int) -> None:
    """Refuse what a U-Net of so many blocks cannot process.

    Raises:
        UserError: for more than :func:`most_blocks`.
    """
    most, (height, width) = most_blocks(image_size), image_size
    if blocks > most:
        raise UserError(
            f"a U-Net of {blocks} blocks halves images {blocks - 1} times, but {height}x{width} pixels can be halved only "
            f"{most - 1} times; use at most {most} {'block' if most == 1 else 'blocks'} or another image size"
        )


class _Halved(torch.autograd.Function):
    """Nearest neighbour, half the size: every other pixel. The gradient keeps the memory layout, so that adding it is fast."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        return x[:, :, ::2, ::2].contiguous(memory_format=layout)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        batch, channels, height, width = gradient.shape
        layout = (
            torch.channels_last
            if gradient.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format
        )
        shape = (batch, channels, 2 * height, 2 * width)
        spread = torch.empty(shape, dtype=gradient.dtype, device=gradient.device, memory_format=layout).zero_()
        spread[:, :, ::2, ::2] = gradient
        return spread


class _Doubled(torch.autograd.Function):
    """Nearest neighbour, twice the size; PyTorch's own backward pass is slow in channels_last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(gradients[0], 2, divisor_override=1)
