"""Initial weights."""

from __future__ import annotations

import math

from torch import nn


def truncated_normal(module: nn.Module) -> None:
    """Weights of every convolution and linear layer from N(0, 1/fan_in) cut at two standard deviations; biases zero.

    The fan-in of a transposed convolution is the number of inputs that a pixel of its output sees on average, kernel over stride.
    Normalisation layers stay at weight one and bias zero. Draws from the global generator, as PyTorch's own layers do.

    Args:
        module: changed in place, with everything inside it.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            std = _fan_in(layer) ** -0.5
            nn.init.trunc_normal_(layer.weight, std=std, a=-2.0 * std, b=2.0 * std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _fan_in(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> float:
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.weight[:, 0].numel() / math.prod(layer.stride)
    return layer.weight[0].numel()
