"""What each slot holds: input, reconstruction, segmentation, and every slot's picture."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from objectwise.core import Batch, Decomposition
from objectwise.figures import style
from objectwise.metrics import labels_from_masks


def decomposition_figure(
    scenes: Batch | Tensor | np.ndarray, decomposition: Decomposition, *, masked: bool = False, max_images: int = 6
) -> Figure:
    """One row per image: input, reconstruction, segmentation, then each slot's component with its presence below.

    A slot has the same colour in the segmentation and around its component; background slots are dark and grey.

    Args:
        scenes: a batch, or images (B, C, H, W) in [0, 1].
        decomposition: of the same images, from any model.
        masked: show each component only where its mask is, on white; for models whose components fill the image.
        max_images: how many rows at most.

    Raises:
        UserError: for no images.
    """
    images = style.scene_images(scenes, max_images)
    count = len(images)
    reconstructions = style.as_array(decomposition.reconstruction[:count])
    components, masks = style.as_array(decomposition.components[:count]), style.as_array(decomposition.masks[:count])
    presence = style.as_array(decomposition.presence[:count])
    colours, names = slot_colours(decomposition), slot_names(decomposition)
    segmentations = segmentation_pictures(decomposition, count)
    if masked:
        components = components * masks[:, :, None] + 1.0 - masks[:, :, None]
    aspect = images.shape[2] / images.shape[3]
    figure, axes = style.image_grid(count, 3 + len(names), aspect, cell=1.2, below=0.2, header=0.26)
    for row in range(count):
        style.show(axes[row, 0], style.picture(images[row]))
        style.show(axes[row, 1], style.picture(reconstructions[row]))
        style.show(axes[row, 2], segmentations[row])
        for slot, colour in enumerate(colours):
            place, sure = axes[row, 3 + slot], float(presence[row, slot])
            style.show(place, style.picture(components[row, slot]), style.MUTED if colour is None else colour, 1.8)
            absent = sure <= 0.5
            place.set_xlabel(
                style.probability(sure),
                fontsize=8.5,
                labelpad=3,
                color=style.MUTED if absent else style.INK,
                fontstyle="italic" if absent else "normal",
            )
    for place, name in zip(axes[0], ["input", "reconstruction", "segmentation", *names], strict=True):
        place.set_title(name, fontsize=9, pad=5, color=style.INK)
    return figure


def slot_colours(decomposition: Decomposition) -> list[str | None]:
    """The colour of each slot, in slot order; None for the background's."""
    order = decomposition.object_slots
    return [style.step_colour(order.index(slot)) if slot in order else None for slot in range(decomposition.num_slots)]


def slot_names(decomposition: Decomposition) -> list[str]:
    """``background``, ``slot 1``, ``slot 2``, ...: object slots are numbered from 1, as steps are."""
    order, single = decomposition.object_slots, len(decomposition.background) == 1
    backgrounds = iter(range(1, decomposition.num_slots + 1))
    return [
        f"slot {order.index(slot) + 1}"
        if slot in order
        else ("background" if single else f"background {next(backgrounds)}")
        for slot in range(decomposition.num_slots)
    ]


def segmentation_pictures(decomposition: Decomposition, limit: int) -> np.ndarray:
    """(B, H, W, 3) the colour of the slot that wins each pixel; background slots are dark."""
    palette = np.array([to_rgb(colour or style.SCENE_BACKGROUND) for colour in slot_colours(decomposition)])
    return palette[style.as_array(labels_from_masks(decomposition.masks[:limit]))]
