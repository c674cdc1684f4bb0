"""How slots come about: one image, step by step, slot by slot."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from objectwise.core import Batch, Decomposition, UserError
from objectwise.figures import style
from objectwise.figures.decomposition import segmentation_pictures, slot_colours, slot_names


def refinement_figure(
    scenes: Batch | Tensor | np.ndarray, decomposition: Decomposition, *, image: int = 0, max_steps: int = 8
) -> Figure:
    """One image's refinement: a column per step, from before the first; rows are reconstruction, segmentation, every slot.

    Slots are shown behind their masks, on white; a slot has one colour in its name, in the segmentations and around its
    pictures, whose frame is grey where the slot is not present. The input is beside the first reconstruction.

    Args:
        scenes: a batch, or images (B, C, H, W) in [0, 1].
        decomposition: of the same images, with a ``trajectory``.
        image: which of them.
        max_steps: how many columns of steps at most; more are thinned out, the first and the last kept.

    Raises:
        UserError: for no images, or without a trajectory.
    """
    if not decomposition.trajectory:
        raise UserError(
            "a figure of the refinement needs a trajectory; decompose with trajectory=True, by a model that refines"
        )
    shown = style.scene_images(scenes, image + 1)[image]
    steps = decomposition.trajectory
    columns = np.unique(np.linspace(0, len(steps) - 1, min(max_steps, len(steps))).round().astype(int))
    colours, names = slot_colours(decomposition), slot_names(decomposition)
    aspect = shown.shape[1] / shown.shape[2]
    figure, axes = style.image_grid(
        2 + len(names),
        1 + len(columns),
        aspect,
        cell=1.0,
        left=1.1,
        header=0.26,
        row_gaps={2: 0.12},
        column_gaps={1: 0.12},
    )
    style.show(axes[0, 0], style.picture(shown))
    for place, name in zip(
        axes[0], ["input", *("start" if step == 0 else f"step {step}" for step in columns)], strict=True
    ):
        place.set_title(name, fontsize=9, pad=5, color=style.INK)
    style.row_name(axes[0, 0], "reconstruction")
    style.row_name(axes[1, 1], "segmentation")
    for row, (name, colour) in enumerate(zip(names, colours, strict=True), 2):
        style.row_name(axes[row, 1], name, style.INK if colour is None else colour, bold=True)
    for column, step in enumerate(columns, 1):
        found = steps[step].select(slice(image, image + 1))
        style.show(axes[0, column], style.picture(found.reconstruction[0]))
        style.show(axes[1, column], segmentation_pictures(found, 1)[0])
        masks, pictures = found.masks[0].unsqueeze(1), found.components[0]
        for slot, colour in enumerate(colours):
            there = bool(found.presence[0, slot] > 0.5)
            behind = pictures[slot] * masks[slot] + 1.0 - masks[slot]
            frame = (colour or style.MUTED) if there else style.RULE
            style.show(axes[2 + slot, column], style.picture(behind), frame, 1.8 if there else 0.8)
    return figure
