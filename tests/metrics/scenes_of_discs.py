"""Scenes whose right decomposition is known: coloured discs on grey, one slot each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

SIDE = 64
COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.9], [0.8, 0.8, 0.1]])


@dataclass
class Discs:
    """B scenes.

    Attributes:
        images: (B, 3, 64, 64).
        ids: (B, 64, 64), 0 the background.
        colours: (B, E) index into :data:`COLOURS` of every id; the background's means nothing.
    """

    images: Tensor
    ids: Tensor
    colours: Tensor

    def masks(self, labels: Tensor | None = None, slots: int = 4) -> Tensor:
        """Hard masks of labels; by default one slot per id."""
        return one_hot(self.ids if labels is None else labels, slots).movedim(-1, 1).float()


def discs(number: int = 24, objects: int = 3, radius: int = 8, seed: int = 0, *, one_colour: bool = False) -> Discs:
    """Discs that do not overlap: one in each of ``objects`` random quarters of the image; colours free, or one per image."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(number, SIDE, SIDE, dtype=torch.int64)
    colours = torch.randint(len(COLOURS), (number, objects + 1), generator=generator)
    if one_colour:
        colours = colours[:, :1].expand(-1, objects + 1)
    grid = torch.arange(SIDE)
    for image in ids:
        quarters = torch.randperm(4, generator=generator)[:objects].tolist()
        for name, quarter in enumerate(quarters, 1):
            slack = SIDE // 2 - 2 * radius - 2
            y, x = (torch.randint(slack + 1, (2,), generator=generator) + radius + 1).tolist()
            y, x = y + SIDE // 2 * (quarter // 2), x + SIDE // 2 * (quarter % 2)
            image[(grid[:, None] - y) ** 2 + (grid[None] - x) ** 2 <= radius**2] = name
    painted = torch.where((ids > 0).unsqueeze(3), COLOURS[colours.gather(1, ids.flatten(1)).view_as(ids)], 0.5)
    return Discs(painted.movedim(-1, 1).contiguous(), ids, colours)


def stripes_of(number: int, slots: int = 4, *, vertical: bool = True) -> Tensor:
    """(B, K, 64, 64) equal slabs, the same in every image."""
    labels = (torch.arange(SIDE) * slots // SIDE).expand(number, SIDE, SIDE)
    return one_hot(labels if vertical else labels.transpose(1, 2), slots).movedim(-1, 1).float()
