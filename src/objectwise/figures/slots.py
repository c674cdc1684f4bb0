"""Reconstruction and decomposition, an image per column: the figure of the slot papers (MONet, figure 7)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from objectwise.core import Batch, Decomposition, UserError
from objectwise.figures import style
from objectwise.figures.decomposition import segmentation_pictures, slot_colours, slot_names
from objectwise.metrics import contingency, labels_from_masks

UNMATCHED = ("#e4e6ea", "#b9bec8", "#7f8794", "#565d69")
"""Greys of true segments that no slot has to itself, one after the other."""


def slots_figure(
    scenes: Batch | Tensor | np.ndarray,
    decomposition: Decomposition,
    *,
    max_images: int = 8,
    notes: Sequence[str] = (),
    heading: str = "",
) -> Figure:
    """Columns are images; rows are data, reconstruction, true segmentation where known, segmentation, and every slot's picture.

    A slot has one colour in its name, in the segmentation and around its pictures; the frame is grey where the slot is
    not present. A true segment has the colour of the slot that it is matched with (one to one, largest overlap in all), and is
    grey without one, so that a right segmentation looks like the true one. Slots' pictures are not masked; values outside
    [0, 1] are clipped.

    Args:
        scenes: a batch, or images (B, C, H, W) in [0, 1].
        decomposition: of the same images, from any model.
        max_images: how many columns at most.
        notes: a few characters below each column, such as a score; as many as columns, or none.
        heading: what the images have in common, above the first; kept in the figure, whatever page it is put on.

    Raises:
        UserError: for no images, or another number of notes than columns.
    """
    images = style.scene_images(scenes, max_images)
    count, slots = len(images), decomposition.num_slots
    if notes and len(notes) != count:
        raise UserError(f"{len(notes)} notes do not fit {count} images")
    components = style.as_array(decomposition.components[:count])
    presence = style.as_array(decomposition.presence[:count])
    colours, names = slot_colours(decomposition), slot_names(decomposition)
    rows = scene_rows(scenes, decomposition, images)
    aspect = images.shape[2] / images.shape[3]
    figure, axes = style.image_grid(
        len(rows) + slots,
        count,
        aspect,
        cell=1.0,
        left=1.1,
        header=0.3 if heading else 0.0,
        footer=0.2 if notes else 0.0,
        row_gaps={len(rows): 0.12},
    )
    if heading:
        style.heading(axes[0, 0], heading)
    for place, (name, pictures) in zip(axes, rows.items(), strict=False):
        style.row_name(place[0], name)
        for column in range(count):
            style.show(place[column], pictures[column])
    for slot, (place, colour, name) in enumerate(zip(axes[len(rows) :], colours, names, strict=True)):
        style.row_name(place[0], name, style.INK if colour is None else colour, bold=True)
        for column in range(count):
            there = presence[column, slot] > 0.5
            frame = (colour or style.MUTED) if there else style.RULE
            style.show(place[column], style.picture(components[column, slot]), frame, 1.8 if there else 0.8)
    for place, note in zip(axes[-1], notes, strict=False):
        place.set_xlabel(note, fontsize=8.5, labelpad=3, color=style.INK)
    return figure


def scene_rows(
    scenes: Batch | Tensor | np.ndarray, decomposition: Decomposition, images: np.ndarray
) -> dict[str, Sequence[np.ndarray]]:
    """Name -> a picture per image: data, reconstruction, true segmentation where known, segmentation.

    Args:
        scenes: where the true segments are, if anywhere.
        decomposition: of the same images.
        images: (B, C, H, W), the first ones.
    """
    count = len(images)
    rows: dict[str, Sequence[np.ndarray]] = {
        "data": [style.picture(image) for image in images],
        "reconstruction": [style.picture(image) for image in decomposition.reconstruction[:count]],
    }
    truth = scenes.instances if isinstance(scenes, Batch) else None
    if truth is not None:
        rows["true segments"] = list(true_segmentation_pictures(truth[:count], decomposition))
    rows["segments"] = list(segmentation_pictures(decomposition, count))
    return rows


def true_segmentation_pictures(instances: Tensor, decomposition: Decomposition) -> np.ndarray:
    """(B, H, W, 3) true segments in the colours of the slots that they are matched with, greys where there is none.

    Args:
        instances: (B, H, W) integer ids of the first images, background included.
        decomposition: of at least as many images.
    """
    ids = instances.cpu()
    counts, true_ids, slot_ids = contingency(ids, labels_from_masks(decomposition.masks[: len(ids)]).cpu())
    palette = [to_rgb(colour or style.SCENE_BACKGROUND) for colour in slot_colours(decomposition)]
    pictures = np.zeros((*ids.shape, 3))
    for picture, image, overlap in zip(pictures, ids.numpy(), counts.numpy(), strict=True):
        matched = matched_segments(overlap)
        grey = 0
        for row in np.flatnonzero(overlap.sum(axis=1)):
            colour = to_rgb(UNMATCHED[grey % len(UNMATCHED)])
            if row in matched:
                colour = palette[int(slot_ids[matched[int(row)]])]
            else:
                grey += 1
            picture[image == int(true_ids[row])] = colour
    return pictures


def matched_segments(overlap: np.ndarray) -> dict[int, int]:
    """True segment -> slot, one to one, for the largest overlap in all; pairs that share no pixel are left out.

    Args:
        overlap: (E, K) pixels of each pair.
    """
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True) if overlap[row, column] > 0}


def mask_entropy(masks: Tensor) -> np.ndarray:
    """(B, H, W) entropy of the masks (B, K, H, W) at each pixel over log K: 0 decided, 1 undecided; zeros with one slot.

    Args:
        masks: non-negative, summing to 1 over K.
    """
    shares = masks.detach().double().cpu()
    if shares.shape[1] < 2:
        return np.zeros((shares.shape[0], *shares.shape[2:]))
    return np.asarray(torch.special.entr(shares).sum(dim=1) / np.log(shares.shape[1]))
