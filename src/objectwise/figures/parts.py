"""Characters, the strokes they were drawn with, and the parts a model finds."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment

from objectwise.core import Batch, Decomposition, UserError
from objectwise.figures import style
from objectwise.figures.boxes import slot_boxes
from objectwise.metrics.parts import part_labels, part_scores
from objectwise.metrics.segmentation import contingency


def parts_figure(scenes: Batch, decomposition: Decomposition, *, max_images: int = 8) -> Figure:
    """One row per image: character, true strokes, parts found on the ink, and the reconstruction with the boxes of the steps.

    A part has the colour of the stroke that it overlaps most in the best one-to-one match, and its box has the part's colour;
    parts beyond the strokes have further colours. The number below the parts is the adjusted Rand index over the ink, and
    "chance" that of random regions, as many as were found.

    Args:
        scenes: a batch whose instances are strokes.
        decomposition: of the same images; boxes are drawn where it has them.
        max_images: how many rows at most.

    Raises:
        UserError: for no images, or a batch without instances.
    """
    if scenes.instances is None:
        raise UserError("parts_figure needs a batch with instances (true strokes)")
    images = style.scene_images(scenes, max_images)
    count = len(images)
    strokes = scenes.instances[:count]
    masks, background = decomposition.masks[:count], decomposition.background
    parts = part_labels(masks, background_slots=background).cpu()
    ink = ~torch.isin(strokes, torch.tensor(scenes.background_ids))
    order = matched_colours(strokes, parts, scenes.background_ids)
    scores = part_scores(
        strokes,
        masks,
        generator=torch.Generator().manual_seed(0),
        background_ids=scenes.background_ids,
        background_slots=background,
    )
    chance = scores.chance_ari["regions"].per_image
    reconstructions = style.as_array(decomposition.reconstruction[:count])
    found = decomposition.found_slots()
    boxes = None if decomposition.boxes is None else slot_boxes(decomposition, count)
    aspect = images.shape[2] / images.shape[3]
    figure, axes = style.image_grid(count, 4, aspect, cell=1.5, below=0.2, header=0.26)
    for row in range(count):
        style.show(axes[row, 0], style.picture(images[row]))
        ids = {int(stroke): place for place, stroke in enumerate(strokes[row][ink[row]].unique())}
        style.show(axes[row, 1], coloured(strokes[row].numpy(), ink[row].numpy(), ids))
        style.show(axes[row, 2], coloured(parts[row].numpy(), ink[row].numpy(), order[row]))
        style.show(axes[row, 3], style.picture(reconstructions[row]))
        for slot in found[row] if boxes is not None else ():
            colour = style.step_colour(order[row][slot]) if slot in order[row] else style.MUTED
            assert boxes is not None
            style.draw_box(axes[row, 3], boxes[row, slot], colour)
        _below(axes[row, 1], f"{len(ids)} stroke{'s' * (len(ids) != 1)}")
        score = scores.ari.per_image[row]
        _below(axes[row, 2], "not scored" if np.isnan(score) else f"ARI {score:.2f} (chance {chance[row]:.2f})")
        _below(axes[row, 3], f"{len(found[row])} step{'s' * (len(found[row]) != 1)}")
    for place, name in zip(axes[0], ("character", "true strokes", "parts found", "steps"), strict=True):
        place.set_title(name, fontsize=9, pad=5, color=style.INK)
    return figure


def matched_colours(
    strokes: torch.Tensor, parts: torch.Tensor, background_ids: tuple[int, ...] = (0,)
) -> list[dict[int, int]]:
    """For every image: part -> number of its colour, that of the stroke it is matched with.

    Strokes have the colours 0, 1, ... in the order of their ids; the match is one to one and has the largest overlap in all
    (Hungarian); parts that have no stroke to themselves get the colours after the strokes'.

    Args:
        strokes: (B, H, W) integers.
        parts: (B, H, W) integers; only those on strokes are named.
        background_ids: ids that are no strokes.
    """
    counts, stroke_ids, part_ids = contingency(strokes, parts)
    table = counts[:, ~torch.isin(stroke_ids, torch.tensor(background_ids))].numpy()
    found = []
    for overlap in table:
        seen, used = overlap.sum(axis=1) > 0, overlap.sum(axis=0) > 0
        names = part_ids.numpy()[used]
        small = overlap[seen][:, used]
        rows, columns = linear_sum_assignment(small, maximize=True)
        colours = {int(names[column]): int(row) for row, column in zip(rows, columns, strict=True)}
        for name in names:
            colours.setdefault(int(name), max([*colours.values(), len(small) - 1]) + 1)
        found.append(colours)
    return found


def coloured(ids: np.ndarray, ink: np.ndarray, colours: dict[int, int]) -> np.ndarray:
    """(H, W) ids and where there is ink -> (H, W, 3): each id in its colour, dark without ink."""
    out = np.empty((*ids.shape, 3))
    out[:] = to_rgb(style.SCENE_BACKGROUND)
    for name, colour in colours.items():
        out[ink & (ids == name)] = to_rgb(style.step_colour(colour))
    return out


def _below(axes: Axes, text: str) -> None:
    axes.set_xlabel(text, fontsize=8, labelpad=3, color=style.INK)
