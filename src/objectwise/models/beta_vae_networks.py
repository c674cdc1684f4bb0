"""The β-VAE's encoders and decoders, layer by layer as their sources have them.

An encoder maps images (B, C, H, W) to (B, 2 D), means and log variances; a decoder maps codes (B, D) to the logits of the pixels.
Sizes below are for the images of the source; others change what depends on them.

* ``fc``, ``conv``, ``all_conv``: the ball recreation, 32×32. ELU; TensorFlow's SAME padding (a stride of 2 on an even side pads
  after the last pixel only); truncated normal weights (σ 0.01 for convolutions and all of ``fc``, 0.1 for ``conv``'s dense
  layers), biases equal to σ. The code of ``all_conv`` is a map of 4×4 cells, h numbers each.
* ``paper_fc``: Higgins et al. 2016, 64×64: 1200-1200 ReLU, and three times 1200 tanh.
* ``conv64``: Higgins et al. 2017, 64×64: 4×4 convolutions of stride 2, 32-32-64-64 maps, a dense layer of 256, and the reverse.
* ``burgess``: Burgess et al. 2018, 64×64: the same with 32 maps throughout and two dense layers of 256.

Their initial weights are not published for the last three: truncated normal, variance 1 / fan-in, biases zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from objectwise.nn.broadcast_decoder import SpatialBroadcastDecoder
from objectwise.nn.doubling_convolution import DoublingConvTranspose2d, doubling_convolution
from objectwise.nn.initialise import truncated_normal

Architecture = Literal["fc", "conv", "all_conv", "paper_fc", "conv64", "burgess"]
Shape = tuple[int, int, int]

HALVINGS: dict[Architecture, int] = {"fc": 0, "conv": 2, "all_conv": 3, "paper_fc": 0, "conv64": 4, "burgess": 4}
"""How often an architecture halves the image, whose sides must be divisible by two as often."""
LATENTS: dict[Architecture, int] = {"fc": 10, "conv": 32, "all_conv": 1, "paper_fc": 10, "conv64": 10, "burgess": 10}
"""D of the sources; for ``all_conv`` the numbers h of a cell."""

_CONV_STD = 0.01
_FC_STD = 0.01
_CONV_DENSE_STD = 0.1
_WIDE = 1200
_DENSE = 256
_MAPS = {"conv64": (32, 32, 64, 64), "burgess": (32, 32, 32, 32)}
_DENSE_LAYERS = {"conv64": 1, "burgess": 2}


class SameConv2d(nn.Conv2d):
    """A convolution of stride 2 with TensorFlow's SAME padding on even sides: nothing before, one zero after."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / 2, W / 2)."""
        return super().forward(nn.functional.pad(images, (0, 1, 0, 1)))


class SameConvTranspose2d(nn.ConvTranspose2d):
    """The transpose of :class:`SameConv2d` with a kernel of 3."""

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C', 2 H, 2 W)."""
        if maps.device.type != "cpu" or output_size is not None:
            return super().forward(maps, output_size)[..., :-1, :-1]
        # Padding 1 with a kernel of 4 whose first row and column are zero is no padding with one of 3, less what is cut off.
        return doubling_convolution(maps, nn.functional.pad(self.weight, (1, 0, 1, 0)), self.bias)


def cells(architecture: Architecture, shape: Shape) -> int:
    """How many cells a code is made of: H/8 · W/8 for ``all_conv``, else 1; D is a multiple of it."""
    _, height, width = shape
    return (height // 8) * (width // 8) if architecture == "all_conv" else 1


def encoder(architecture: Architecture, shape: Shape, latents: int) -> nn.Sequential:
    """The encoder: (B, C, H, W) -> (B, 2 D), with its initial weights.

    Args:
        architecture: which.
        shape: (C, H, W), divisible by :data:`HALVINGS`.
        latents: D.
    """
    colours, height, width = shape
    match architecture:
        case "fc":
            layers = _dense((math.prod(shape), _WIDE, _WIDE, 2 * latents), nn.ELU)
            return _recreated(nn.Sequential(nn.Flatten(), *layers), _FC_STD)
        case "conv":
            layers = [SameConv2d(colours, 8, 3, 2), nn.ELU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ELU()]
            layers += [SameConv2d(8, 8, 3, 2), nn.ELU(), nn.Conv2d(8, 4, 1), nn.ELU(), nn.Flatten()]
            layers += _dense((height * width // 4, 128, 2 * latents), nn.ELU)
            return _recreated(nn.Sequential(*layers), _CONV_DENSE_STD)
        case "all_conv":
            layers = [SameConv2d(colours, 8, 3, 2), nn.ELU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ELU()]
            layers += [SameConv2d(8, 16, 3, 2), nn.ELU(), nn.Conv2d(16, 8, 3, 1, 1), nn.ELU()]
            layers += [nn.Conv2d(8, 8, 3, 1, 1), nn.ELU()]
            layers += [SameConv2d(8, 2 * latents // cells(architecture, shape), 3, 2), nn.Flatten()]
            return _recreated(nn.Sequential(*layers), _CONV_STD)
        case "paper_fc":
            layers = _dense((math.prod(shape), _WIDE, _WIDE, 2 * latents), nn.ReLU)
            return _scaled(nn.Sequential(nn.Flatten(), *layers))
    maps, flat = _MAPS[architecture], height * width * _MAPS[architecture][-1] // 256
    layers = []
    for before, after in itertools.pairwise((colours, *maps)):
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.ReLU()]
    dense = _dense((flat, *(_DENSE,) * _DENSE_LAYERS[architecture], 2 * latents), nn.ReLU)
    return _scaled(nn.Sequential(*layers, nn.Flatten(), *dense))


def decoder(architecture: Architecture, shape: Shape, latents: int) -> nn.Sequential:
    """The decoder: (B, D) -> (B, C, H, W) logits; arguments as in :func:`encoder`."""
    colours, height, width = shape
    match architecture:
        case "fc":
            layers = _dense((latents, _WIDE, _WIDE, _WIDE, math.prod(shape)), nn.ELU)
            return _recreated(nn.Sequential(*layers, nn.Unflatten(1, shape)), _FC_STD)
        case "conv":
            layers = [*_dense((latents, 128, height * width // 4), nn.ELU), nn.ELU()]
            layers += [nn.Unflatten(1, (4, height // 4, width // 4)), nn.ConvTranspose2d(4, 8, 1), nn.ELU()]
            layers += [SameConvTranspose2d(8, 8, 3, 2), nn.ELU(), nn.ConvTranspose2d(8, 8, 3, 1, 1), nn.ELU()]
            layers += [SameConvTranspose2d(8, colours, 3, 2)]
            return _recreated(nn.Sequential(*layers), _CONV_DENSE_STD)
        case "all_conv":
            size = (latents // cells(architecture, shape), height // 8, width // 8)
            layers = [nn.Unflatten(1, size), SameConvTranspose2d(size[0], 8, 3, 2), nn.ELU()]
            layers += [nn.ConvTranspose2d(8, 8, 3, 1, 1), nn.ELU(), nn.ConvTranspose2d(8, 16, 3, 1, 1), nn.ELU()]
            layers += [SameConvTranspose2d(16, 8, 3, 2), nn.ELU(), nn.ConvTranspose2d(8, 8, 3, 1, 1), nn.ELU()]
            layers += [SameConvTranspose2d(8, colours, 3, 2)]
            return _recreated(nn.Sequential(*layers), _CONV_STD)
        case "paper_fc":
            layers = _dense((latents, _WIDE, _WIDE, _WIDE, math.prod(shape)), nn.Tanh)
            return _scaled(nn.Sequential(*layers, nn.Unflatten(1, shape)))
    maps, rows, columns = _MAPS[architecture][::-1], height // 16, width // 16
    dense = _dense((latents, *(_DENSE,) * _DENSE_LAYERS[architecture], maps[0] * rows * columns), nn.ReLU)
    layers = [*dense, nn.ReLU(), nn.Unflatten(1, (maps[0], rows, columns))]
    for before, after in itertools.pairwise((*maps, colours)):
        layers += [DoublingConvTranspose2d(before, after), nn.ReLU()]
    return _scaled(nn.Sequential(*layers[:-1]))


def broadcast_decoder(shape: Shape, latents: int, widths: tuple[int, ...]) -> SpatialBroadcastDecoder:
    """The spatial broadcast decoder (Watters et al. 2019), here with a last convolution of 1×1: (B, D) -> (B, C, H, W) logits."""
    drawn = SpatialBroadcastDecoder(latents, shape[0], shape[1:], widths)
    truncated_normal(drawn)
    return drawn


def discriminator(latents: int, width: int = 1000, layers: int = 6) -> nn.Sequential:
    """FactorVAE's: (B, D) codes -> (B, 1) logits of "drawn from q(z)" against "from the product of its marginals"."""
    drawn = nn.Sequential(*_dense((latents, *(width,) * layers, 1), lambda: nn.LeakyReLU(0.2)))
    truncated_normal(drawn)
    return drawn


def _dense(sizes: tuple[int, ...], activation: Callable[[], nn.Module]) -> list[nn.Module]:
    """Linear layers from size to size, with activations between them but not after the last."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    return layers[:-1]


def _recreated(module: nn.Sequential, dense_std: float) -> nn.Sequential:
    """The recreation's initial weights: truncated normal, biases equal to its σ."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            std = dense_std if isinstance(layer, nn.Linear) else _CONV_STD
            nn.init.trunc_normal_(layer.weight, std=std, a=-2.0 * std, b=2.0 * std)
            assert layer.bias is not None
            nn.init.constant_(layer.bias, std)
    return module


def _scaled(module: nn.Sequential) -> nn.Sequential:
    truncated_normal(module)
    return module
