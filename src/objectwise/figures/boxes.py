"""Scenes with the boxes that were found, in the order in which they were found."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from objectwise.core import Batch, Decomposition, UserError, boxes_from_instances
from objectwise.figures import style
from objectwise.metrics import labels_from_masks

_CELL = 1.9
_LEGEND_ENTRY = 0.85


def boxes_figure(
    scenes: Batch | Tensor | np.ndarray,
    decomposition: Decomposition,
    *,
    true_counts: Tensor | np.ndarray | None = None,
    true_boxes: Tensor | np.ndarray | bool | None = None,
    max_images: int = 12,
    columns: int = 4,
) -> Figure:
    """Draw each scene with its found boxes: red first, then green, blue, and so on; wrong counts are marked.

    Args:
        scenes: a batch, or images (B, C, H, W) in [0, 1].
        decomposition: of the same images; without ``boxes``, they are drawn around each slot's pixels.
        true_counts: (B,); None: the batch's, if it has them.
        true_boxes: (B, E, 4) ``x0 y0 x1 y1`` drawn dashed, empty ones left out; True: the batch's.
        max_images: how many scenes at most.
        columns: scenes per row.

    Raises:
        UserError: for no images, or ``true_boxes=True`` without any in the batch.
    """
    images = style.scene_images(scenes, max_images)
    count = len(images)
    true_counts, true_boxes = _labels(scenes, true_counts, true_boxes, count)
    found = style.as_array(decomposition.counts()[:count])
    probabilities = style.first_rows(decomposition.count_probs, count)
    chosen = decomposition.select(slice(0, count)).found_slots()
    boxes = slot_boxes(decomposition, count)
    columns = min(columns, count)
    slots = decomposition.object_slots
    used = 1 + max((slots.index(slot) for row in chosen for slot in row), default=0)
    legend = _legend_handles(used, "slot" if decomposition.boxes is None else "step", true_boxes is not None)
    per_line = max(1, int(columns * (_CELL + 0.1) / _LEGEND_ENTRY))
    footer = 0.14 + 0.2 * -(-len(legend) // per_line)
    aspect = images.shape[2] / images.shape[3]
    figure, axes = style.image_grid(-(-count // columns), columns, aspect, cell=_CELL, above=0.26, footer=footer)
    for i, place in enumerate(axes.flat[:count]):
        true = None if true_counts is None else int(true_counts[i])
        wrong = true is not None and true != found[i]
        style.show(place, style.picture(images[i]), style.WRONG if wrong else style.RULE, 2.2 if wrong else 0.8)
        for box in () if true_boxes is None else true_boxes[i]:
            if box[2] > box[0] and box[3] > box[1]:
                style.draw_box(place, box, "#ffffff", dashed=True, width=1.1)
        for slot in chosen[i]:
            style.draw_box(place, boxes[i, slot], style.step_colour(slots.index(slot)))
        _title(place, true, int(found[i]), None if probabilities is None else float(probabilities[i, found[i]]))
    _draw_legend(figure, legend, per_line)
    return figure


def slot_boxes(decomposition: Decomposition, limit: int) -> np.ndarray:
    """(B, K, 4) boxes ``x0 y0 x1 y1`` in pixels: the model's, or else around the pixels that each slot wins."""
    if decomposition.boxes is not None:
        return style.as_array(decomposition.boxes[:limit])
    labels = labels_from_masks(decomposition.masks[:limit])
    return style.as_array(boxes_from_instances(labels, decomposition.masks.shape[1])[0])


def _labels(
    scenes: Batch | Tensor | np.ndarray,
    true_counts: Tensor | np.ndarray | None,
    true_boxes: Tensor | np.ndarray | bool | None,
    count: int,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """True counts and boxes from the arguments or else the batch."""
    batch = scenes if isinstance(scenes, Batch) else None
    if true_counts is None and batch is not None:
        true_counts = batch.counts
    if true_boxes is True:
        if batch is None or batch.boxes is None:
            raise UserError("true_boxes=True needs a batch that has boxes")
        true_boxes = batch.boxes
        if batch.object_present is not None:
            true_boxes = true_boxes * batch.object_present.unsqueeze(-1)
    if true_boxes is False:
        true_boxes = None
    counts = None if true_counts is None else style.as_array(true_counts[:count])
    return counts, None if true_boxes is None else style.as_array(true_boxes[:count])


def _title(axes: Axes, true: int | None, found: int, sure: float | None) -> None:
    text = f"found {found}" if true is None else f"true {true}, found {found}"
    if sure is not None:
        text += f" ({style.probability(sure)})"
    wrong = true is not None and true != found
    axes.set_title(
        f"✗ {text}" if wrong else text,
        fontsize=9,
        pad=4,
        color=style.WRONG if wrong else style.INK,
        fontweight="bold" if wrong else "normal",
    )


def _legend_handles(used: int, name: str, dashed: bool) -> list[Patch]:
    """One outline per colour in use, and the dashed one of true boxes."""
    handles = [
        Patch(facecolor="none", edgecolor=style.step_colour(k), linewidth=1.6, label=f"{name} {k + 1}")
        for k in range(min(used, len(style.STEP_COLOURS)))
    ]
    if dashed:
        handles.append(Patch(facecolor="none", edgecolor=style.MUTED, linestyle=(0, (3, 2)), label="true"))
    return handles


def _draw_legend(figure: Figure, handles: list[Patch], per_line: int) -> None:
    """At the bottom left, under the first image."""
    width, height = figure.get_size_inches()
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.12 / width, 0.08 / height),
        ncols=min(per_line, len(handles)),
        frameon=False,
        fontsize=9,
        labelcolor=style.INK,
        handlelength=1.2,
        columnspacing=1.2,
        borderpad=0.0,
        borderaxespad=0.0,
    )
