"""What every dataset gives: a batch of images, with labels that only evaluation sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class FactorSpec:
    """What one ground-truth factor means.

    Attributes:
        unit: e.g. ``"pixels"``, ``"radians"``, ``"class"``, ``"rgb"``.
        kind: ``"numerical"`` or ``"categorical"``.
        low: smallest possible value (numerical).
        high: largest possible value (numerical).
        categories: names of the classes 0, 1, ... (categorical).
    """

    unit: str
    kind: Literal["numerical", "categorical"] = "numerical"
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """A batch of B images of C channels and H×W pixels.

    Labels have one row per *entity id*: row e describes the entity whose id is e in ``instances``. Rows of
    background ids are filled with zeros. A label that a dataset cannot give is absent, never faked.

    Attributes:
        index: (B,) int64, the identity of each sample inside its split.
        images: (B, C, H, W) float32 in [0, 1].
        instances: (B, H, W) int64 entity id of each pixel, or None.
        background_ids: which ids are background: ``(0,)``, or four of them in Objects Room.
        factors: name -> (B, E) or (B, E, d) float32 (numerical) or int64 (categorical).
        factor_specs: name -> unit, kind and range of each factor.
        present: (B, E) bool, entities that are in the scene (background rows are True), or None.
        visible_pixels: (B, E) int64, how many pixels of each entity can be seen, or None.
        boxes: (B, E, 4) float32 ``x0 y0 x1 y1`` in pixels, half-open, zeros where nothing is visible, or None.
    """

    index: Tensor
    images: Tensor
    instances: Tensor | None = None
    background_ids: tuple[int, ...] = (0,)
    factors: Mapping[str, Tensor] = field(default_factory=dict)
    factor_specs: Mapping[str, FactorSpec] = field(default_factory=dict)
    present: Tensor | None = None
    visible_pixels: Tensor | None = None
    boxes: Tensor | None = None

    def __len__(self) -> int:
        return self.index.shape[0]

    @property
    def object_present(self) -> Tensor | None:
        """(B, E) bool: present entities that are not background, or None without labels."""
        if self.present is None:
            return None
        objects = self.present.clone()
        objects[:, list(self.background_ids)] = False
        return objects

    @property
    def counts(self) -> Tensor | None:
        """(B,) int64: how many objects (not background) are present, or None without labels."""
        objects = self.object_present
        return None if objects is None else objects.sum(dim=1)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def select(self, rows: slice | Tensor) -> Self:
        """The batch made of some rows of this one."""
        return self._map(lambda tensor: tensor[rows])

    def _map(self, change) -> Self:  # type: ignore[no-untyped-def]
        changed = {
            item.name: change(value) for item in fields(self) if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, factors={name: change(value) for name, value in self.factors.items()}, **changed)


def boxes_from_instances(instances: Tensor, num_entities: int) -> tuple[Tensor, Tensor]:
    """Tight boxes and pixel counts of every entity of an id map.

    Args:
        instances: (B, H, W) int64 ids below ``num_entities``.
        num_entities: E.

    Returns:
        boxes (B, E, 4) float32 ``x0 y0 x1 y1`` half-open in pixels (zeros for an empty entity), and
        visible pixels (B, E) int64.
    """
    one_hot = instances.unsqueeze(1) == torch.arange(num_entities, device=instances.device).view(1, -1, 1, 1)
    pixels = one_hot.sum(dim=(2, 3))
    columns, rows = one_hot.any(dim=2), one_hot.any(dim=3)
    x0, x1 = _extent(columns)
    y0, y1 = _extent(rows)
    boxes = torch.stack([x0, y0, x1, y1], dim=-1).float()
    return boxes * (pixels > 0).unsqueeze(-1), pixels


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First occupied position and one past the last, along the final axis of a boolean tensor."""
    size = occupied.shape[-1]
    flags = occupied.to(torch.uint8)
    return flags.argmax(dim=-1), size - flags.flip(-1).argmax(dim=-1)
