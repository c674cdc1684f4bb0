"""How a reconstruction comes about, step by step."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from objectwise.core import Batch, Decomposition
from objectwise.figures import style
from objectwise.figures.boxes import slot_boxes


def steps_figure(
    scenes: Batch | Tensor | np.ndarray, decomposition: Decomposition, *, max_images: int = 6, max_steps: int = 8
) -> Figure:
    """One row per image: the input, then the canvas after each step with the boxes it has by then.

    With a ``trajectory`` the canvases are its reconstructions. Without one, slots are added in order: the background first,
    then each object's component times its presence, or times its mask where that is what gives the reconstruction.

    Args:
        scenes: a batch, or images (B, C, H, W) in [0, 1].
        decomposition: of the same images; boxes are drawn where it has them.
        max_images: how many rows at most.
        max_steps: how many steps at most; more are thinned out, the last one kept.

    Raises:
        UserError: for no images.
    """
    images = style.scene_images(scenes, max_images)
    canvases = step_canvases(decomposition, len(images))
    steps = np.unique(np.linspace(0, len(canvases) - 1, min(max_steps, len(canvases))).round().astype(int))
    slots = decomposition.object_slots
    presence = style.as_array(decomposition.presence[: len(images)])[:, slots]
    # A refinement step changes every slot; only where a step adds one object does it have a box and a probability.
    added = decomposition.boxes is not None and len(canvases) == len(slots)
    one_by_one = decomposition.trajectory is None or added
    boxes = slot_boxes(decomposition, len(images))[:, slots] if decomposition.boxes is not None else None
    aspect = images.shape[2] / images.shape[3]
    below = 0.2 if one_by_one else 0.0
    figure, axes = style.image_grid(len(images), 1 + len(steps), aspect, cell=1.3, below=below, header=0.26)
    for row, image in enumerate(images):
        style.show(axes[row, 0], style.picture(image))
        for place, step in zip(axes[row, 1:], steps, strict=True):
            style.show(place, style.picture(canvases[step][row]))
            if not one_by_one:
                continue
            present = presence[row] > 0.5
            for k in range(step + 1):
                if boxes is not None and present[k]:
                    newest = k == step
                    style.draw_box(place, boxes[row, k], style.step_colour(k), width=1.8 if newest else 0.8)
            colour, slant = (style.INK, "normal") if present[step] else (style.MUTED, "italic")
            text = style.probability(float(presence[row, step]))
            place.set_xlabel(text, fontsize=8.5, labelpad=3, color=colour, fontstyle=slant)
    for place, name in zip(axes[0], ["input", *(f"after step {step + 1}" for step in steps)], strict=True):
        place.set_title(name, fontsize=9, pad=5, color=style.INK)
    return figure


def step_canvases(decomposition: Decomposition, limit: int) -> list[np.ndarray]:
    """The canvas (B, C, H, W) after each step, as :func:`steps_figure` describes it."""
    if decomposition.trajectory is not None:
        return [style.as_array(step.reconstruction[:limit]) for step in decomposition.trajectory]
    components = style.as_array(decomposition.components[:limit])
    whole = style.as_array(decomposition.reconstruction[:limit])
    layers = components * style.as_array(decomposition.presence[:limit])[:, :, None, None, None]
    shares = components * style.as_array(decomposition.masks[:limit])[:, :, None]
    if np.abs(shares.sum(axis=1) - whole).mean() < np.abs(layers.sum(axis=1) - whole).mean():
        layers = shares
    canvas = layers[:, list(decomposition.background)].sum(axis=1)
    canvases = []
    for slot in decomposition.object_slots:
        canvas = canvas + layers[:, slot]
        canvases.append(canvas)
    return canvases
