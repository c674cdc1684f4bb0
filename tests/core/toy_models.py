"""Small models of the kinds that the contract must fit: mixture of slots, one slot, scopes, gradients inside inference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from objectwise.core import Config, Decoded, Decomposition, Posterior, SceneModel, normal, presence_from_masks


class ToyConfig(Config):
    image_shape: tuple[int, int, int] | None = (3, 6, 8)
    """Shape of the images."""
    num_slots: int = 3
    """K."""
    slot_size: int = 4
    """D."""
    num_steps: int = 3
    """T of the iterative model."""


class SlotMixture(SceneModel):
    """K slots from one linear map; a softmax over the slots' mask logits; Gaussian pixels."""

    Config = ToyConfig

    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config or ToyConfig())
        channels, height, width = self.config.image_shape
        self.slot_shape = (self.config.num_slots, 2 * self.config.slot_size)
        self.picture_shape = (channels + 1, height, width)
        self.encoder = nn.Linear(channels * height * width, self.slot_shape[0] * self.slot_shape[1])
        self.decoder = nn.Linear(self.config.slot_size, (channels + 1) * height * width)

    def forward(
        self,
        images: Tensor,
        *,
        generator: torch.Generator | None = None,
        step: int | None = None,
        trajectory: bool = False,
    ) -> Decomposition:
        mean, spread = self.encoder(images.flatten(1)).unflatten(1, self.slot_shape).chunk(2, dim=2)
        out = self.explain(images, mean, nn.functional.softplus(spread), generator)
        return replace(out, trajectory=(out.detach(),)) if trajectory else out

    def explain(self, images: Tensor, mean: Tensor, std: Tensor, generator: torch.Generator | None) -> Decomposition:
        slots = mean if generator is None else mean + std * normal(tuple(mean.shape), generator)
        components, masks, reconstruction = self.decode(slots)
        error = (images - reconstruction).square().flatten(1).sum(dim=1)
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).flatten(1).sum(dim=1)
        return Decomposition(
            loss=error + kl,
            terms={"error": error, "kl": kl},
            reconstruction=reconstruction,
            components=components,
            masks=masks,
            slots=slots,
            presence=presence_from_masks(masks),
            posterior=Posterior(mean, std),
        )

    def decode(self, slots: Tensor, presence: Tensor | None = None) -> Decoded:
        drawn = self.decoder(slots).unflatten(2, self.picture_shape)
        components, logits = drawn[:, :, :-1].sigmoid(), drawn[:, :, -1]
        if presence is not None:
            logits = logits + presence.clamp_min(1e-6).log()[:, :, None, None]
        masks = logits.softmax(dim=1)
        return Decoded(components, masks, (masks.unsqueeze(2) * components).sum(dim=1))


class OneSlotVAE(SlotMixture):
    """A β-VAE: one slot, whose mask is everything."""

    def __init__(self) -> None:
        super().__init__(ToyConfig(num_slots=1))
        channels, height, width = self.config.image_shape
        self.decoder = nn.Linear(self.config.slot_size, channels * height * width)

    def decode(self, slots: Tensor, presence: Tensor | None = None) -> Decoded:
        components = self.decoder(slots).unflatten(2, self.config.image_shape).sigmoid()
        return Decoded(components, torch.ones_like(components[:, :, 0]), components.sum(dim=1))


class Scopes(SlotMixture):
    """MONet: each step takes a share of what is left; attention masks differ from the decoded ones."""

    def __init__(self) -> None:
        super().__init__()
        channels, height, width = self.config.image_shape
        self.attention = nn.Linear((channels + 1) * height * width, height * width)

    def forward(self, images: Tensor, *, generator=None, step=None, trajectory=False) -> Decomposition:  # type: ignore[no-untyped-def]
        out = super().forward(images, generator=generator, step=step, trajectory=trajectory)
        scope, attention = torch.ones_like(images[:, 0]), []
        for _ in range(self.config.num_slots - 1):
            seen = torch.cat([images, scope.unsqueeze(1)], dim=1).flatten(1)
            share = self.attention(seen).view_as(scope).sigmoid()
            attention.append(scope * share)
            scope = scope * (1 - share)
        masks = torch.stack([*attention, scope], dim=1)
        divergence = (masks * (masks.clamp_min(1e-9).log() - out.masks.log())).flatten(1).sum(dim=1)
        terms = {**out.terms, "kl_masks": divergence}
        return replace(out, attention_masks=masks, terms=terms, loss=out.loss + divergence)


class Iterative(SlotMixture):
    """IODINE: posterior parameters refined with gradients of the loss, computed inside forward."""

    def __init__(self) -> None:
        super().__init__()
        del self.encoder
        self.start = nn.Parameter(torch.randn(self.slot_shape) * 0.1)
        self.refine = nn.Linear(2 * self.slot_shape[1], self.slot_shape[1])

    def forward(self, images: Tensor, *, generator=None, step=None, trajectory=False) -> Decomposition:  # type: ignore[no-untyped-def]
        outer = torch.is_grad_enabled()
        outs: list[Decomposition] = []
        with torch.enable_grad():
            state = self.start.expand(len(images), *self.slot_shape)
            for t in range(self.config.num_steps):
                mean, spread = state.chunk(2, dim=2)
                outs.append(self.explain(images, mean, nn.functional.softplus(spread), generator))
                if t + 1 < self.config.num_steps:
                    (gradient,) = torch.autograd.grad(outs[-1].loss.sum(), state, retain_graph=True)
                    state = state + self.refine(torch.cat([state, gradient.detach()], dim=2))
        loss = torch.stack([out.loss * (t + 1) / len(outs) for t, out in enumerate(outs)]).sum(dim=0)
        final = replace(outs[-1], loss=loss)
        if trajectory:
            final = replace(final, trajectory=tuple(out.detach() for out in outs))
        return final if outer else final.detach()


class WithBaseline(SlotMixture):
    """A parameter group that only its own auxiliary loss trains, as NVIL baselines and discriminators are."""

    def __init__(self) -> None:
        super().__init__()
        channels, height, width = self.config.image_shape
        self.baseline = nn.Linear(channels * height * width, 1)

    def parameter_groups(self) -> dict[str, Any]:
        return {"baseline": self.baseline.parameters()}

    def forward(self, images: Tensor, *, generator=None, step=None, trajectory=False) -> Decomposition:  # type: ignore[no-untyped-def]
        out = super().forward(images, generator=generator, step=step, trajectory=trajectory)
        guess = self.baseline(images.flatten(1)).squeeze(1)
        return replace(out, auxiliary_losses={"baseline": (out.loss.detach() - guess).square()})


class SharedStatistics(SlotMixture):
    """An objective in which images see each other, and which says so."""

    batchwise = True

    def forward(self, images: Tensor, *, generator=None, step=None, trajectory=False) -> Decomposition:  # type: ignore[no-untyped-def]
        out = super().forward(images, generator=generator, step=step, trajectory=trajectory)
        return replace(out, loss=out.loss + out.slots.mean(dim=0).square().sum())


GOOD = (SlotMixture, OneSlotVAE, Scopes, Iterative, WithBaseline, SharedStatistics)
