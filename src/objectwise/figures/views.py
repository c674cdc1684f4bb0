"""Inferred 3D scenes beside their images, and as they look from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from objectwise.core import Batch, UserError
from objectwise.figures import style


def views_figure(
    scenes: Batch | Tensor | np.ndarray,
    reconstruction: Tensor | np.ndarray,
    views: Tensor | np.ndarray,
    turns: Sequence[float],
    *,
    heading: str = "",
    notes: Sequence[str] = (),
    max_images: int = 8,
) -> Figure:
    """A column per image: the image, the inferred scene, and that scene from cameras that have gone round.

    Args:
        scenes: (B, C, H, W) images, or a batch of them.
        reconstruction: (B, C, H, W) the inferred scenes as the camera of the image sees them.
        views: (B, V, C, H, W) from elsewhere.
        turns: degrees by which the V cameras have gone round.
        heading: above the first column.
        notes: a few characters below each image.
        max_images: how many columns at most.

    Raises:
        UserError: for no images, or parts that do not fit each other.
    """
    images = style.scene_images(scenes, max_images)
    found, seen = style.as_array(reconstruction)[:max_images], style.as_array(views)[:max_images]
    if len(found) < len(images) or seen.shape[:2] != (len(images), len(turns)):
        raise UserError(f"{seen.shape[:2]} views do not fit {len(images)} images and {len(turns)} turns")
    if notes and len(notes) < len(images):
        raise UserError(f"{len(notes)} notes do not fit {len(images)} images")
    rows = {"image": images, "inferred": found, **{f"from {turn:+g}°": seen[:, v] for v, turn in enumerate(turns)}}
    figure, axes = style.image_grid(
        len(rows),
        len(images),
        images.shape[2] / images.shape[3],
        cell=1.0,
        left=0.85,
        header=0.3 if heading else 0.0,
        footer=0.42 if notes else 0.0,
        row_gaps={2: 0.12},
    )
    if heading:
        style.heading(axes[0, 0], heading)
    for place, (name, pictures) in zip(axes, rows.items(), strict=True):
        style.row_name(place[0], name)
        for axis, picture in zip(place, pictures, strict=False):
            style.show(axis, style.picture(picture))
    for axis, note in zip(axes[-1], notes, strict=False):
        axis.set_xlabel(note, fontsize=8.0, labelpad=3, color=style.INK)
    return figure
