"""From a model with one code per image to the page with sliders, where its decoder is made of layers that the page knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from objectwise.figures.sliders import LayerKind, PageLayer, write_sliders
from objectwise.metrics.disentanglement import dead_dimensions
from objectwise.models.beta_vae_networks import SameConvTranspose2d
from objectwise.nn.broadcast_decoder import SpatialBroadcastDecoder

_FUNCTIONS: dict[type[nn.Module], LayerKind] = {
    nn.ELU: "elu",
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
}


def page_layers(model: Any) -> list[PageLayer] | None:
    """The layers of a model's ``decoder`` from a code to pixels in [0, 1]; None if the page cannot compute them.

    A decoder that does not end in a sigmoid gives logits, as those of the β-VAE family do.
    """
    decoder = getattr(model, "decoder", None)
    if isinstance(decoder, SpatialBroadcastDecoder):
        size = list(decoder.coordinates.shape[2:])
        modules = [decoder.first, nn.ReLU(), *decoder.rest, decoder.head]
        layers: list[PageLayer | None] = [PageLayer("broadcast", settings={"size": size})]
    elif isinstance(decoder, nn.Sequential):
        modules, layers = list(decoder), []
    else:
        return None
    layers += [_layer(module) for module in modules]
    known = [layer for layer in layers if layer is not None]
    if len(known) < len(layers):
        return None
    return known if known[-1].kind == "sigmoid" else [*known, PageLayer("sigmoid")]


def write_slider_page(
    model: Any,
    images: Tensor,
    path: Path,
    title: str,
    *,
    summary: str = "",
    means: np.ndarray | None = None,
    stds: np.ndarray | None = None,
) -> Path | None:
    """Write the page of a model with one code per image, or None if there is none for it.

    Args:
        model: keeps the contract; its posterior tells which latents are in use.
        images: (B, C, H, W) held-out images; the first eight to start from.
        path: the file.
        title: of the page.
        summary: a sentence under the title.
        means: (n, D) posterior means of more images, by which latents are called unused; None: those of ``images``.
        stds: (n, D) posterior standard deviations of as many.
    """
    layers = page_layers(model)
    if layers is None:
        return None
    with torch.no_grad():
        out = model(images.to(next(model.parameters()).device))
    if out.posterior is None or out.slots.shape[1] != 1:
        return None
    mean, std = (part[:, 0].float().cpu().numpy() for part in out.posterior)
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    every = (mean, std) if means is None or stds is None else (means, stds)
    dead = np.flatnonzero(dead_dimensions(*every)).tolist()
    shown = {"codes": mean[:8], "images": images[:8].cpu().numpy()}
    return write_sliders(path, title, layers, shape, every[1].mean(axis=0), dead=dead, summary=summary, **shown)


def _layer(module: nn.Module) -> PageLayer | None:
    """One module as the page has it; None if it has not."""
    if isinstance(module, nn.Linear):
        return PageLayer("linear", *_parameters(module))
    if isinstance(module, nn.Unflatten):
        return PageLayer("unflatten", settings={"size": [int(side) for side in module.unflattened_size]})
    if isinstance(module, nn.ConvTranspose2d):
        crop = int(isinstance(module, SameConvTranspose2d))
        stride, padding = module.stride[0], module.padding[0]
        plain = module.groups == 1 and module.dilation == (1, 1) and module.output_padding == (0, 0)
        settings = {"stride": int(stride), "padding": int(padding), "crop": crop}
        return PageLayer("transposed", *_parameters(module), settings) if plain else None
    if isinstance(module, nn.Conv2d) and type(module) is nn.Conv2d:
        plain = module.groups == 1 and module.dilation == (1, 1) and module.stride == (1, 1)
        plain = plain and not isinstance(module.padding, str)
        return PageLayer("conv", *_parameters(module), {"padding": int(module.padding[0])}) if plain else None
    kind = _FUNCTIONS.get(type(module))
    if kind is None or (isinstance(module, nn.ELU) and module.alpha != 1.0):
        return None
    return PageLayer(kind)


def _parameters(module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> tuple[np.ndarray, np.ndarray]:
    weight = module.weight.detach().cpu().float().numpy()
    outputs = weight.shape[1] if isinstance(module, nn.ConvTranspose2d) else weight.shape[0]
    bias = np.zeros(outputs) if module.bias is None else module.bias.detach().cpu().float().numpy()
    return weight, bias
