"""What every model says about a batch of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor


class Posterior(NamedTuple):
    """Mean and standard deviation of the slots, each (B, K, D)."""

    mean: Tensor
    std: Tensor


class Decoded(NamedTuple):
    """What slots alone imply.

    Attributes:
        components: (B, K, C, H, W), each slot's picture, not masked.
        masks: (B, K, H, W), non-negative, summing to 1 over K.
        reconstruction: (B, C, H, W).
    """

    components: Tensor
    masks: Tensor
    reconstruction: Tensor


_BACKGROUND_SHARE = 1 / 3
"""Of the pixels; a floating background wins more."""


@dataclass(frozen=True)
class Decomposition:
    """A batch of B images split into K slots of width D.

    Attributes:
        loss: (B,) what training minimises, one number per image.
        terms: name -> (B,) reported parts of the loss (``elbo``, ``kl``, ...).
        reconstruction: (B, C, H, W).
        components: (B, K, C, H, W) each slot's picture, not masked.
        masks: (B, K, H, W) non-negative, summing to 1 over K; those of the model's reconstruction, by which it is scored.
        slots: (B, K, D) the vectors that ``model.decode`` takes.
        presence: (B, K) in [0, 1], how sure the model is that the slot holds something. Slot models that have no
            presence of their own use :func:`presence_from_masks`.
        background: slot indices that are background; may be empty.
        floating_background: slots are exchangeable and one of them may be the background, not always the same: the present one
            that wins the most pixels, if that is more than a third of them.
        posterior: mean and std of the slots, where the model has one.
        attention_masks: (B, K, H, W), where the model has some and ``masks`` are decoded ones.
        decoded_masks: (B, K, H, W), what ``model.decode`` gives, where ``masks`` are attention's.
        boxes: (B, K, 4) ``x0 y0 x1 y1`` in pixels, where the model has them.
        count_probs: (B, N+1) probability of 0..N objects, where the model has it.
        factors: name -> (B, K, ...), what the model says of each slot in the words and units of ``Batch.factors``, where it
            infers factors that have names; background rows are zeros.
        trajectory: detached decompositions over refinement steps, only when asked for.
        auxiliary_losses: parameter group -> (B,), each minimised over its own group only.
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    reconstruction: Tensor
    components: Tensor
    masks: Tensor
    slots: Tensor
    presence: Tensor
    background: tuple[int, ...] = ()
    floating_background: bool = False
    posterior: Posterior | None = None
    attention_masks: Tensor | None = None
    decoded_masks: Tensor | None = None
    boxes: Tensor | None = None
    count_probs: Tensor | None = None
    trajectory: tuple[Decomposition, ...] | None = None
    auxiliary_losses: Mapping[str, Tensor] = field(default_factory=dict)
    factors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def num_slots(self) -> int:
        """K."""
        return self.slots.shape[1]

    @property
    def object_slots(self) -> list[int]:
        """Slot indices that are not background."""
        return [k for k in range(self.num_slots) if k not in self.background]

    def mask_kinds(self) -> dict[str, Tensor]:
        """Every kind of masks by name, ``masks`` first: ``attention`` and ``decoded`` where both exist, else ``masks``."""
        if self.decoded_masks is not None:
            return {"attention": self.masks, "decoded": self.decoded_masks}
        if self.attention_masks is not None:
            return {"decoded": self.masks, "attention": self.attention_masks}
        return {"masks": self.masks}

    def counts(self) -> Tensor:
        """(B,) int64 number of objects found.

        The most probable count where the model has ``count_probs``; otherwise the number of non-background slots
        with presence above one half.
        """
        if self.count_probs is not None:
            return self.count_probs.argmax(dim=1)
        return (self._object_presence() > 0.5).sum(dim=1)

    def found_slots(self) -> list[list[int]]:
        """For each image the slots that hold its objects: the most present ones, as many as :meth:`counts` says, in order."""
        slots = torch.tensor(self.object_slots, dtype=torch.int64)
        order = self._object_presence().argsort(dim=1, descending=True, stable=True).cpu()
        return [sorted(slots[row[:n]].tolist()) for row, n in zip(order, self.counts().tolist(), strict=True)]

    def _object_presence(self) -> Tensor:
        """(B, number of object slots) presence, without that of a floating background."""
        presence = self.presence[:, self.object_slots]
        if not self.floating_background:
            return presence
        won = _pixels_won(self.masks)[:, self.object_slots].masked_fill(presence <= 0.5, 0)
        most, slot = won.max(dim=1, keepdim=True)
        wide = most > _BACKGROUND_SHARE * self.masks[0, 0].numel()
        return presence.scatter(1, slot, torch.where(wide, -1.0, presence.gather(1, slot)))

    def segmentation(self) -> Tensor:
        """(B, H, W) int64: the slot with the largest mask at each pixel, the first one on ties."""
        return _winners(self.masks)

    def detach(self) -> Self:
        """The same decomposition without autograd history."""
        return self.map(torch.Tensor.detach)

    def to(self, device: torch.device | str) -> Self:
        """The same decomposition on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def select(self, rows: slice | Tensor) -> Self:
        """The decomposition of some of the images."""
        return self.map(lambda tensor: tensor[rows])

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to every tensor; the first axis of each is the batch."""
        changed: dict[str, object] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changed[item.name] = change(value)
            elif isinstance(value, Posterior):
                changed[item.name] = Posterior(change(value.mean), change(value.std))
            elif item.name in ("terms", "auxiliary_losses", "factors"):
                changed[item.name] = {name: change(part) for name, part in value.items()}
            elif item.name == "trajectory" and value is not None:
                changed[item.name] = tuple(step.map(change) for step in value)
        return replace(self, **changed)  # type: ignore[arg-type]


def presence_from_masks(masks: Tensor, minimum_share: float = 0.001) -> Tensor:
    """The documented presence rule of slot models that have no presence variable.

    A slot is present (1) if it wins at least ``minimum_share`` of the pixels after argmax over slots, else absent (0).

    Args:
        masks: (B, K, H, W) summing to 1 over K.
        minimum_share: smallest share of the image that counts as something, in [0, 1].

    Returns:
        (B, K) float32, zeros and ones.
    """
    return (_pixels_won(masks) >= minimum_share * masks[0, 0].numel()).float()


def _pixels_won(masks: Tensor) -> Tensor:
    """(B, K, H, W) -> (B, K) int64."""
    winners = _winners(masks).flatten(1)
    return torch.stack([(winners == k).sum(dim=1) for k in range(masks.shape[1])], dim=1)


def _winners(masks: Tensor) -> Tensor:
    """(B, K, H, W) -> (B, H, W) int64, the first largest; argmax over an axis that is not innermost is many times slower."""
    best = masks[:, 0].float()
    winners = torch.zeros_like(best, dtype=torch.int64)
    for k in range(1, masks.shape[1]):
        here = masks[:, k].float()
        winners.masked_fill_(here > best, k)
        best = torch.maximum(best, here)
    return winners
