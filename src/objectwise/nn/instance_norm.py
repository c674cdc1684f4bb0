"""Instance normalisation with learned scale and shift, and a ReLU: one differentiable step.

PyTorch's own kernels for it are written for one memory layout: in channels_last and bfloat16 their backward pass takes several
times as long as the convolution before it. This one is sums and products that are fast in both layouts, with statistics in
float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from objectwise.nn.float32 import wide

_EPSILON = 1e-5


class InstanceNormReLU(nn.Module):
    """max(0, w (x − mean) / std + b) with mean and std over the pixels of one channel of one image.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape and type."""
        out: Tensor = _InstanceNormReLU.apply(x, self.weight, self.bias)
        return out


class _InstanceNormReLU(torch.autograd.Function):
    """With x̂ = (x − mean) / std and N pixels: ∂x = w/std (∂y − Σ∂y/N − x̂ Σ∂y x̂/N), where ∂y is zero below the ReLU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        centred = wide(x)
        mean = centred.mean(dim=(2, 3), keepdim=True)
        centred = centred - mean
        rate = (centred.square().mean(dim=(2, 3), keepdim=True) + _EPSILON).rsqrt()
        y = torch.addcmul(_per_channel(bias), centred, rate * _per_channel(weight)).relu_().to(x.dtype)
        ctx.save_for_backward(x, mean, rate, weight, y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, mean, rate, weight, y = ctx.saved_tensors
        gradient = wide(torch.ops.aten.threshold_backward(gradients[0], y, 0.0))
        centred = wide(x) - mean
        pixels = x.shape[2] * x.shape[3]
        sums = gradient.sum(dim=(2, 3), keepdim=True)
        products = (gradient * centred).sum(dim=(2, 3), keepdim=True) * rate
        scale = rate * _per_channel(weight)
        of_x = torch.addcmul(-scale * sums / pixels, centred, -scale * rate * products / pixels)
        return of_x.addcmul_(gradient, scale).to(x.dtype), products.sum(dim=(0, 2, 3)), sums.sum(dim=(0, 2, 3))


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)
