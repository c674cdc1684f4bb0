"""The 4×4 transposed convolution of stride 2, faster on a CPU.

Rows of its output are of two kinds, even and odd, and each is made of two rows of the input; columns likewise. So it is one
ordinary 2×2 convolution, with an output channel for each of the four kinds of pixels, whose outputs are then woven together.
In bfloat16 oneDNN takes two to three times as long for the transposed convolution's own backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class DoublingConvTranspose2d(nn.ConvTranspose2d):
    """PyTorch's transposed convolution with a kernel of 4, stride 2 and padding 1: same parameters, same values.

    Args:
        in_channels: C.
        out_channels: C'.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1)

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C', 2 H, 2 W), channels last; other devices than the CPU use PyTorch's own."""
        if maps.device.type != "cpu" or output_size is not None:
            return super().forward(maps, output_size)
        return doubling_convolution(maps, self.weight, self.bias)


def doubling_convolution(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``conv_transpose2d(maps, weight, bias, stride=2, padding=1)``.

    Row 2 i + a of the output sees rows i + a − 1 + d of the input, d = 0, 1, through row 3 − a − 2 d of the kernel.

    Args:
        maps: (B, C, H, W).
        weight: (C, C', 4, 4).
        bias: (C',), or None.

    Returns:
        (B, C', 2 H, 2 W), channels last.
    """
    inputs, outputs = weight.shape[:2]
    taps = weight.flip(2, 3).view(inputs, outputs, 2, 2, 2, 2)  # d, a of rows; d, a of columns
    kernel = taps.permute(3, 5, 1, 0, 2, 4).reshape(4 * outputs, inputs, 2, 2)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    woven: Tensor = _Weave.apply(
        nn.functional.conv2d(maps, kernel, None if bias is None else bias.repeat(4), padding=1)
    )
    return woven


class _Weave(torch.autograd.Function):
    """(B, 4 C, H + 1, W + 1), channels (a, b, c) -> (B, C, 2 H, 2 W): pixel (2 i + a, 2 j + b) from (i + a, j + b)."""

    @staticmethod
    def forward(ctx: FunctionCtx, kinds: Tensor) -> Tensor:
        """Both are kept channels last."""
        batch, four, height, width = kinds.shape
        parts = kinds.permute(0, 2, 3, 1).reshape(batch, height, width, 2, 2, four // 4)
        size = (batch, four // 4, 2 * height - 2, 2 * width - 2)
        # Made as it is returned and filled through a view: what is returned is none, so that it can be changed in place.
        woven = torch.empty(size, dtype=kinds.dtype, device=kinds.device, memory_format=torch.channels_last)
        rows = woven.permute(0, 2, 3, 1).view(batch, height - 1, 2, width - 1, 2, four // 4)
        for a, b in _KINDS:
            rows[:, :, a, :, b] = parts[:, a : a + height - 1, b : b + width - 1, a, b]
        return woven

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Through :class:`_Unweave`, so that it can be differentiated again."""
        unwoven: Tensor = _Unweave.apply(gradients[0])
        return unwoven


class _Unweave(torch.autograd.Function):
    """The adjoint of :class:`_Weave`; what that leaves out becomes zero."""

    @staticmethod
    def forward(ctx: FunctionCtx, woven: Tensor) -> Tensor:
        """(B, C, 2 H, 2 W) -> (B, 4 C, H + 1, W + 1)."""
        batch, channels, height, width = woven.shape[0], woven.shape[1], woven.shape[2] // 2, woven.shape[3] // 2
        parts = woven.permute(0, 2, 3, 1).reshape(batch, height, 2, width, 2, channels)
        kinds = woven.new_zeros(batch, height + 1, width + 1, 2, 2, channels)
        for a, b in _KINDS:
            kinds[:, a : a + height, b : b + width, a, b] = parts[:, :, a, :, b]
        return kinds.view(batch, height + 1, width + 1, 4 * channels).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The adjoint of the adjoint."""
        woven: Tensor = _Weave.apply(gradients[0])
        return woven


_KINDS = ((0, 0), (0, 1), (1, 0), (1, 1))
