"""IODINE's refinement network: from pictures and vectors about each slot to a better posterior.

Greff et al. 2019, arXiv:1903.00450, section 3.2 and appendix; see :mod:`objectwise.models.iodine` for the symbols.

    pictures -> convolutions of stride 2, ELU -> mean over pixels, or all of them -> dense layers
    these and the flat inputs -> LSTM -> λ's change

Pictures are stacked in alphabetical order, as in the released code. Those that all slots share are convolved once per image and
those that never change once per forward pass, which is exact: a convolution is a sum over its input channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from objectwise.models.iodine_config import FIXED_INPUTS, SHARED_INPUTS, IODINEConfig
from objectwise.nn.broadcast_decoder import coordinates
from objectwise.nn.float32 import float32_island, wide

_NORMALISED = ("counterfactual", "dcomponents", "dmask", "log_prob")
_CAPACITY = 0.5
_EPSILON = 1e-5


class State(NamedTuple):
    """What goes from one step to the next.

    Attributes:
        posterior: (B, K, 2 Z) λ: means, then what the scales are made of.
        hidden: (B, K, h) of the LSTM; h is 0 without one.
        cell: (B, K, h).
    """

    posterior: Tensor
    hidden: Tensor
    cell: Tensor

    def detach(self) -> State:
        """The same without history."""
        return State(*(tensor.detach() for tensor in self))


class Refinement(nn.Module):
    """See the module's text.

    Args:
        config: with ``image_shape``.
    """

    surroundings: Tensor

    def __init__(self, config: IODINEConfig) -> None:
        super().__init__()
        assert config.image_shape is not None
        self.config = config
        self.channels: dict[str, int] = {name: _channels(name, config) for name in sorted(config.spatial_inputs)}
        plane = cosine_basis if config.coordinates == "cosine" else coordinates
        self.register_buffer("surroundings", plane(*config.image_shape[1:]).unsqueeze(0), persistent=False)
        learned, twice = config.layer_norm == "learned", 2 * config.latent_size
        names = [name for name in _NORMALISED if name in self.channels] if learned else []
        # Over all of a picture, with one scale and shift per channel: a group norm of one group.
        self.norms = nn.ModuleDict({name: nn.GroupNorm(1, self.channels[name], eps=_EPSILON) for name in names})
        if learned and "dzp" in config.all_inputs:
            self.norms["dzp"] = nn.LayerNorm(twice, eps=_EPSILON)
        kernel, padding = config.encoder_kernel, config.padding
        self.first = Halving(sum(self.channels.values()), config.encoder_widths[0], kernel, padding)
        self.rest = nn.ModuleList(
            Halving(before, after, kernel, padding) for before, after in itertools.pairwise(config.encoder_widths)
        )
        self.pooled = config.encoder_pooling == "mean"
        height, width = (math.ceil(side / 2 ** len(config.encoder_widths)) for side in config.image_shape[1:])
        seen = config.encoder_widths[-1] * (1 if self.pooled else height * width)
        dense = itertools.pairwise((seen, *config.encoder_hidden))
        self.dense = nn.ModuleList(nn.Linear(before, after) for before, after in dense)
        features = config.encoder_hidden[-1] + sum(
            {"zp": twice, "dzp": twice, "flat_capacity": 1}[name] for name in config.flat_inputs
        )
        self.memory = config.lstm_size if config.recurrent_cell == "lstm" else 0
        if self.memory:
            self.gates = nn.Linear(features + self.memory, 4 * self.memory)
        self.head = nn.Linear(self.memory or features, twice)
        if config.update == "gated":
            self.gate = nn.Linear(self.memory or features, twice)

    def fixed(self, images: Tensor) -> Tensor | None:
        """The first convolution of what neither slots nor steps change: (B, C, H, W) -> (B, c, H/2, W/2), or None."""
        names = [name for name in self.channels if name in FIXED_INPUTS]
        if not names or not self.config.levers.shared_channels:
            return None
        stack = torch.cat([self.fixed_input(name, images) for name in names], dim=1)
        return self.first.part(stack, self._kernels(names), None)

    def forward(
        self,
        images: Tensor,
        fixed: Tensor | None,
        pictures: Mapping[str, Tensor],
        vectors: Mapping[str, Tensor],
        state: State,
        base: Tensor,
    ) -> State:
        """One refinement.

        Args:
            images: (B, C, H, W).
            fixed: what :meth:`fixed` made of them.
            pictures: spatial inputs by name that change from step to step: (B, K, c, H, W), or (B, c, H, W) if slots share them.
            vectors: (B, K, 2 Z) each: ``zp``, and ``dzp`` where it is an input.
            state: of the step before.
            base: (B, K, 2 Z) the λ that is changed.
        """
        batch, slots = state.posterior.shape[:2]
        with float32_island(images.device):
            shown = {name: self._normalised(name, picture) for name, picture in pictures.items()}
            flat = dict(vectors)
            if "dzp" in flat:
                flat["dzp"] = self._normalised_gradient(flat["dzp"])
                shown["dzp"] = flat["dzp"][..., None, None].expand(-1, -1, -1, *images.shape[2:])
        hidden = self._first(images, fixed, shown, batch, slots)
        for number, halving in enumerate(self.rest):
            # What the first one says may be a view; changed in place, it would be copied by autograd, layouts mixed up.
            hidden = halving(nn.functional.elu(hidden, inplace=number > 0))
        with float32_island(images.device):
            # ELU here, not in place: it is of the wide values that the mean is taken.
            maps = nn.functional.elu(wide(hidden))
            features = (maps.mean(dim=(2, 3)) if self.pooled else maps.flatten(1)).unflatten(0, (batch, slots))
            for number, layer in enumerate(self.dense):
                features = layer(features if number == 0 else nn.functional.elu(features))
            flat["flat_capacity"] = features.new_full((batch, slots, 1), _CAPACITY)
            features = torch.cat([features, *(flat[name] for name in sorted(self.config.flat_inputs))], dim=2)
            new_hidden, new_cell = self._remember(features, state)
            if self.memory:
                features = new_hidden if self.config.readout == "hidden" else new_cell
            posterior = self.head(features)
            if self.config.update == "gated":
                gate = self.gate(features).sigmoid()
                posterior = gate * base + (1.0 - gate) * posterior
            else:
                posterior = base + posterior
        return State(posterior, new_hidden, new_cell)

    def _remember(self, features: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """An LSTM with one bias and one more on the forget gate: hidden and cell state."""
        if not self.memory:
            return state.hidden, state.cell
        enter, new, forget, leave = self.gates(torch.cat([features, state.hidden], dim=2)).chunk(4, dim=2)
        cell = (forget + 1.0).sigmoid() * state.cell + enter.sigmoid() * new.tanh()
        return leave.sigmoid() * cell.tanh(), cell

    def _first(
        self, images: Tensor, fixed: Tensor | None, shown: Mapping[str, Tensor], batch: int, slots: int
    ) -> Tensor:
        """The first convolution: (B K, c, H/2, W/2)."""
        if not self.config.levers.shared_channels:
            stack = [self.fixed_input(name, images) if name in FIXED_INPUTS else shown[name] for name in self.channels]
            whole = [part if part.ndim == 5 else part.unsqueeze(1).expand(-1, slots, -1, -1, -1) for part in stack]
            alone: Tensor = self.first(torch.cat(whole, dim=2).flatten(0, 1))
            return alone
        own = [name for name in self.channels if name not in SHARED_INPUTS]
        shared = [name for name in self.channels if name in SHARED_INPUTS - FIXED_INPUTS]
        bias = self.first.bias
        assert bias is not None
        if own:
            seen = torch.cat([shown[name] for name in own], dim=2).flatten(0, 1)
            total = self.first.part(seen, self._kernels(own), bias).unflatten(0, (batch, slots))
        else:
            total = bias.view(1, 1, -1, 1, 1).expand(batch, slots, -1, -1, -1)
        if shared:
            seen = torch.cat([shown[name] for name in shared], dim=1)
            total = total + self.first.part(seen, self._kernels(shared), None).unsqueeze(1)
        if fixed is not None:
            total = total + fixed.unsqueeze(1)
        return total.flatten(0, 1)

    def _kernels(self, names: list[str]) -> Tensor:
        """The part of the first convolution's weights that belongs to some inputs."""
        starts = dict(zip(self.channels, itertools.accumulate(self.channels.values(), initial=0), strict=False))
        weight = self.first.weight
        return torch.cat([weight[:, starts[name] : starts[name] + self.channels[name]] for name in names], dim=1)

    def fixed_input(self, name: str, images: Tensor) -> Tensor:
        """One of the pictures that neither slots nor steps change: (B, c, H, W)."""
        match name:
            case "image":
                return images
            case "coordinates":
                return self.surroundings.expand(len(images), -1, -1, -1)
            case _:
                return images.new_full((len(images), 1, *images.shape[2:]), _CAPACITY)

    def _normalised(self, name: str, picture: Tensor) -> Tensor:
        """Layer normalisation over a whole picture, of the inputs that get it."""
        if self.config.layer_norm == "off" or name not in _NORMALISED:
            return picture
        flat = picture.flatten(0, -4)
        if self.config.layer_norm == "plain":
            return nn.functional.group_norm(flat, 1, eps=_EPSILON).view_as(picture)
        normalised: Tensor = self.norms[name](flat)
        return normalised.view_as(picture)

    def _normalised_gradient(self, gradient: Tensor) -> Tensor:
        """Layer normalisation of dL/dλ: over all of it with a learned scale and shift, or over either half."""
        match self.config.layer_norm:
            case "off":
                return gradient
            case "learned":
                normalised: Tensor = self.norms["dzp"](gradient)
                return normalised
            case "plain":
                halves = gradient.unflatten(2, (2, self.config.latent_size))
                return nn.functional.layer_norm(halves, halves.shape[3:], eps=_EPSILON).flatten(2)


class Halving(nn.Conv2d):
    """A convolution of stride 2 that halves the sides, rounded up.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: side in pixels, odd.
        zeros: where they are added: ``symmetric``, or ``tensorflow``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, zeros: str) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=2)
        self.zeros = zeros

    def forward(self, x: Tensor) -> Tensor:
        """(M, in_channels, H, W) -> (M, out_channels, ⌈H/2⌉, ⌈W/2⌉)."""
        return self.part(x, self.weight, self.bias)

    def part(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same for some of the input channels, with their part of the weights."""
        kernel = self.kernel_size[0]
        if self.zeros == "symmetric":
            return nn.functional.conv2d(x, weight, bias, stride=2, padding=kernel // 2)
        return nn.functional.conv2d(nn.functional.pad(x, same_padding(x.shape[2:], kernel)), weight, bias, stride=2)


def _channels(name: str, config: IODINEConfig) -> int:
    colours = (config.image_shape or (0, 0, 0))[0]
    sizes = {"image": colours, "components": colours, "dcomponents": colours, "dzp": 2 * config.latent_size}
    sizes["coordinates"] = 8 if config.coordinates == "cosine" else 2
    return sizes.get(name, 1)


def cosine_basis(height: int, width: int) -> Tensor:
    """(8, H, W): cos(i x) cos(j y) for i, j in 0, 1, 2 without (0, 0), x and y from 0 to π."""
    rows, columns = torch.meshgrid(torch.linspace(0, math.pi, height), torch.linspace(0, math.pi, width), indexing="ij")
    waves = [(i, j) for i in range(3) for j in range(3) if (i, j) != (0, 0)]
    return torch.stack([torch.cos(i * columns) * torch.cos(j * rows) for i, j in waves])


def same_padding(size: torch.Size | tuple[int, ...], kernel: int) -> tuple[int, int, int, int]:
    """TensorFlow's SAME padding for stride 2: left, right, top, bottom."""
    height, width = (max(0, 2 * (-(-side // 2) - 1) + kernel - side) for side in size)
    return width // 2, width - width // 2, height // 2, height - height // 2
