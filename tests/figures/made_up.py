"""Made-up scenes and decompositions whose every number is known."""

from __future__ import annotations

import torch

from objectwise.core import Batch, Decomposition, presence_from_masks

SIDE = 12
BOXES = torch.tensor([[1.0, 1.0, 4.0, 5.0], [6.0, 7.0, 11.0, 10.0]])


def batch(channels: int = 1) -> Batch:
    """Three scenes of 12×12 pixels with 2, 1 and 0 bright rectangles at ``BOXES``."""
    present = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    instances = torch.zeros(3, SIDE, SIDE, dtype=torch.int64)
    boxes = torch.zeros(3, 3, 4)
    for i in range(3):
        for entity in (1, 2):
            if present[i, entity]:
                x0, y0, x1, y1 = BOXES[entity - 1].int().tolist()
                instances[i, y0:y1, x0:x1] = entity
                boxes[i, entity] = BOXES[entity - 1]
    images = (instances > 0).float().unsqueeze(1).repeat(1, channels, 1, 1)
    return Batch(torch.arange(3), images, instances, present=present, boxes=boxes)


def additive(trajectory: bool = False) -> Decomposition:
    """An AIR-like decomposition of ``batch()``: black background, two steps; it overlooks nothing but scene 1's only object."""
    scenes = batch()
    presence = torch.tensor([[1.0, 0.98, 0.9], [1.0, 0.3, 0.1], [1.0, 0.02, 0.001]])
    layers = torch.stack([(scenes.instances == k).float() for k in range(3)], dim=1)
    masks = layers.clone()
    layers[:, 0] = 0.0
    components = layers.unsqueeze(2)
    weighted = components * presence[:, :, None, None, None]
    boxes = torch.cat([torch.tensor([[0.0, 0.0, SIDE, SIDE]]), BOXES]).expand(3, 3, 4)
    counts = torch.tensor([[0.02, 0.08, 0.9], [0.7, 0.2, 0.1], [0.98, 0.019, 0.001]])
    whole = Decomposition(
        loss=torch.zeros(3),
        terms={},
        reconstruction=weighted.sum(dim=1),
        components=components,
        masks=masks,
        slots=torch.zeros(3, 3, 4),
        presence=presence,
        background=(0,),
        boxes=boxes,
        count_probs=counts,
    )
    if not trajectory:
        return whole
    steps = tuple(
        Decomposition(**{**vars(whole), "reconstruction": torch.full_like(whole.reconstruction, 0.25 * (n + 1))})
        for n in range(2)
    )
    return Decomposition(**{**vars(whole), "trajectory": steps})


def mixture(slots: int = 4) -> Decomposition:
    """A MONet-like decomposition of two colour images: vertical stripes, one flat colour per slot, no background, no boxes."""
    stripe = torch.arange(SIDE) * slots // SIDE
    masks = torch.nn.functional.one_hot(stripe, slots).T.float()[None, :, None, :].expand(2, slots, SIDE, SIDE)
    colours = torch.linspace(0.1, 0.9, slots).view(1, slots, 1, 1, 1) * torch.tensor([1.0, 0.5, 0.2]).view(
        1, 1, 3, 1, 1
    )
    components = colours.expand(2, slots, 3, SIDE, SIDE)
    return Decomposition(
        loss=torch.zeros(2),
        terms={},
        reconstruction=(components * masks.unsqueeze(2)).sum(dim=1),
        components=components,
        masks=masks,
        slots=torch.zeros(2, slots, 4),
        presence=presence_from_masks(masks),
    )
