"""Initial weights."""

from __future__ import annotations

from torch import nn


def truncated_normal(module: nn.Module) -> None:
    """Weights of every convolution and linear layer from N(0, 1/fan_in) cut at two standard deviations; biases zero.

    Normalisation layers stay at weight one and bias zero. Draws from the global generator, as PyTorch's own layers do.

    Args:
        module: changed in place, with everything inside it.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            std = fan_in**-0.5
            nn.init.trunc_normal_(layer.weight, std=std, a=-2.0 * std, b=2.0 * std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
