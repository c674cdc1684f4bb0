"""Failure gallery: the worst images by a score and the first ones, never picked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from objectwise.core import Batch, Decomposition, UserError
from objectwise.figures import style
from objectwise.figures.slots import scene_rows


class GalleryPanel(NamedTuple):
    """A block of the gallery.

    Attributes:
        heading: which images these are, and by what rule.
        scenes: (B, ...) the images, with true segments where known.
        decomposition: of the same images.
        notes: a few characters below each image, such as its score.
    """

    heading: str
    scenes: Batch
    decomposition: Decomposition
    notes: Sequence[str] = ()


def failures_figure(panels: Sequence[GalleryPanel], *, max_images: int = 8) -> Figure:
    """Blocks of images below one another: data, reconstruction, true segments where known, segments, and a note for each.

    Colours are those of :func:`objectwise.figures.slots_figure`.

    Args:
        panels: the blocks, e.g. of :func:`worst_rows` and the first images.
        max_images: how many columns at most.

    Raises:
        UserError: for no panels, a panel without images, or notes that do not fit.
    """
    if not panels:
        raise UserError("a failure gallery needs at least one panel")
    images = [style.scene_images(panel.scenes, max_images) for panel in panels]
    rows = [scene_rows(panel.scenes, panel.decomposition, shown) for panel, shown in zip(panels, images, strict=True)]
    starts = np.cumsum([0, *(len(block) for block in rows)])
    aspect = images[0].shape[2] / images[0].shape[3]
    columns = max(len(shown) for shown in images)
    gaps = {int(start): 0.5 if block else 0.0 for block, start in enumerate(starts[:-1])}
    figure, axes = style.image_grid(
        int(starts[-1]), columns, aspect, cell=1.0, left=1.1, header=0.3, footer=0.22, row_gaps=gaps
    )
    for panel, shown, block, start in zip(panels, images, rows, starts, strict=False):
        if panel.notes and len(panel.notes) < len(shown):
            raise UserError(f"{len(panel.notes)} notes do not fit {len(shown)} images")
        style.heading(axes[start, 0], panel.heading)
        for place, (name, pictures) in zip(axes[start:], block.items(), strict=False):
            style.row_name(place[0], name)
            for column, picture in enumerate(pictures):
                style.show(place[column], picture)
        for cell, note in zip(axes[start + len(block) - 1, : len(shown)], panel.notes, strict=False):
            cell.set_xlabel(note, fontsize=8.5, labelpad=3, color=style.INK)
    return figure


def worst_rows(scores: Tensor | np.ndarray, count: int, *, high_is_bad: bool = False) -> np.ndarray:
    """Rows of the worst scores, worst first, earlier ones first among equals; rows that are NaN (not scored) are left out.

    Args:
        scores: (B,).
        count: how many at most.
        high_is_bad: for errors.
    """
    values = style.as_array(scores).astype(np.float64)
    order = np.argsort(-values if high_is_bad else values, kind="stable")  # NaN comes last
    return np.asarray(order[: min(count, int((~np.isnan(values)).sum()))])


def gallery_caption(score: str, *, shown: int, scored: int, searched: int) -> str:
    """Which images a gallery of the worst and the first holds, for people to read."""
    left = f", {searched - scored} of which have no {score}" if scored < searched else ""
    return (
        f"above: the {shown} worst of {scored} images by {score}, worst first; below: the first {shown} images; "
        f"{searched} images were looked at{left}; none was picked"
    )
