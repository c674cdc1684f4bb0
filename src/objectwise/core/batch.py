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
        symmetries: of each class of objects, the rotations that change nothing, a name of
            :data:`objectwise.metrics.poses.SYMMETRIES`; empty where not known.
    """

    unit: str
    kind: Literal["numerical", "categorical"] = "numerical"
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()
    symmetries: tuple[str, ...] = ()


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
