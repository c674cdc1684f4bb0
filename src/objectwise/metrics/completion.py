"""Completion of hidden objects: does the picture of a slot go on behind what hides its object?

An object that another one hides in part is *completed* if its slot draws the whole shape. A slot's picture is not constrained
where its mask is zero, so that a slot that paints the whole image in the object's colour "finds" every hidden pixel: the overlap
with the true shape (IoU) punishes that, and the share of hidden pixels alone does not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from objectwise.core import MetricResult, UserError


class CompletionScores(NamedTuple):
    """Scores of N hidden objects.

    Attributes:
        iou: overlap of the drawn shape with the whole one (intersection over union).
        seen_iou: the same for the visible part of the object: what a perfect segmentation without completion reaches.
        hidden_drawn: share of the hidden pixels that are drawn; NaN where nothing is hidden.
        outside: drawn pixels outside the whole shape, as a share of it.
    """

    iou: MetricResult
    seen_iou: MetricResult
    hidden_drawn: MetricResult
    outside: MetricResult


def completion_scores(full: Tensor, visible: Tensor, drawn: Tensor) -> CompletionScores:
    """Compare drawn shapes with whole ones.

    Args:
        full: (N, H, W) bool, the whole shape of each object, not empty.
        visible: (N, H, W) bool, the part of it that can be seen.
        drawn: (N, H, W) bool, the shape that the object's slot draws.

    Raises:
        UserError: for shapes that are not alike, empty ones, or visible pixels outside the whole shape.
    """
    if full.ndim != 3 or full.shape != visible.shape or full.shape != drawn.shape:
        raise UserError(
            f"full, visible and drawn must be alike (objects, height, width), not {tuple(full.shape)}, "
            f"{tuple(visible.shape)} and {tuple(drawn.shape)}"
        )
    full, visible, drawn = full.bool(), visible.bool(), drawn.bool()
    if bool((visible & ~full).any()) or not bool(full.flatten(1).any(dim=1).all()):
        raise UserError("whole shapes must not be empty, and must hold the visible pixels")
    area, hidden = _count(full), _count(full & ~visible)
    drawn_hidden = np.where(hidden > 0, _count(drawn & full & ~visible) / np.maximum(hidden, 1.0), np.nan)
    return CompletionScores(
        MetricResult.over_images(_count(drawn & full) / _count(drawn | full), metric="completion_iou"),
        MetricResult.over_images(_count(visible) / area, metric="seen_iou"),
        MetricResult.over_images(drawn_hidden, metric="hidden_drawn"),
        MetricResult.over_images(_count(drawn & ~full) / area, metric="outside"),
    )


def shape_by_colour(pictures: Tensor, colours: Tensor, own: Tensor) -> Tensor:
    """Where a picture is nearer to its object's colour than to any other colour of the scene.

    Args:
        pictures: (N, C, H, W), a slot's picture each.
        colours: (N, E, C) colours in the scene, the background's among them; NaN for those that are not in it.
        own: (N,) int64, which of the colours is the object's.

    Returns:
        (N, H, W) bool.
    """
    distance = (pictures.unsqueeze(1) - colours[..., None, None]).square().sum(dim=2)
    return distance.nan_to_num(nan=torch.inf).argmin(dim=1) == own.view(-1, 1, 1)


def entity_colours(images: Tensor, instances: Tensor, entities: int) -> Tensor:
    """(B, E, C) the median colour of the pixels of each entity, NaN for those of which nothing can be seen.

    Args:
        images: (B, C, H, W).
        instances: (B, H, W) entity ids.
        entities: E.
    """
    pixels = images.flatten(2).unsqueeze(1)  # (B, 1, C, H·W)
    found = [
        pixels.masked_fill((instances != entity).flatten(1)[:, None, None], torch.nan).nanmedian(dim=3).values
        for entity in range(entities)
    ]
    return torch.cat(found, dim=1)


def best_slots(visible: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The slot whose pixels overlap each object best, and by how much.

    Args:
        visible: (N, H, W) bool, the part of each object that can be seen.
        masks: (N, K, H, W), the masks of its image; a pixel belongs to the slot whose mask is largest.

    Returns:
        (N,) int64 slots and (N,) float64 intersections over unions; 0 where nothing can be seen.
    """
    slots = masks.shape[1]
    won = torch.nn.functional.one_hot(masks.float().argmax(dim=1), slots).movedim(-1, 1).bool()
    both = (won & visible.unsqueeze(1)).flatten(2).sum(dim=2).double()
    either = (won | visible.unsqueeze(1)).flatten(2).sum(dim=2).double()
    best = (both / either.clamp_min(1.0)).max(dim=1)
    return best.indices, best.values


def _count(shapes: Tensor) -> np.ndarray:
    return shapes.flatten(1).sum(dim=1).double().numpy()
