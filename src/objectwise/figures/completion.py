"""Objects that others hide: what a slot draws behind them, against the whole shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from objectwise.core import UserError
from objectwise.figures import style

SEEN, COMPLETED, MISSED, INVENTED = "#8fa3bf", "#2fb765", "#f0434a", "#f7b032"
NAMES = {SEEN: "seen and drawn", COMPLETED: "hidden and drawn", MISSED: "not drawn", INVENTED: "drawn outside"}
"""Colours of a drawn shape compared with the true one, and what they mean."""


def completion_figure(
    images: Tensor | np.ndarray,
    full: Tensor | np.ndarray,
    visible: Tensor | np.ndarray,
    components: Tensor | np.ndarray,
    drawn: Mapping[str, Tensor | np.ndarray],
    *,
    notes: Sequence[str] = (),
    max_images: int = 8,
) -> Figure:
    """One column per hidden object: the image, its whole shape with the hidden part, its slot's picture, and the drawn shapes.

    Args:
        images: (N, C, H, W) in [0, 1].
        full: (N, H, W) whether a pixel belongs to the object's whole shape.
        visible: (N, H, W) the part of it that can be seen.
        components: (N, C, H, W) the picture of the object's slot, not masked.
        drawn: name of a row -> (N, H, W) the shape that the slot draws, by one way of telling it.
        notes: a few characters below each column, such as a score; as many as columns, or none.
        max_images: how many columns at most.

    Raises:
        UserError: for no objects, or sizes that do not fit.
    """
    pictures = style.scene_images(images, max_images)
    count, size = len(pictures), pictures.shape[2:]
    whole, seen = (style.as_array(part[:count]).astype(bool) for part in (full, visible))
    shapes = {name: style.as_array(part[:count]).astype(bool) for name, part in drawn.items()}
    slot = style.as_array(components[:count])
    if any(part.shape != (count, *size) for part in (whole, seen, *shapes.values())) or slot.shape[2:] != size:
        raise UserError("shapes and components of a completion figure must be as many and as large as the images")
    if notes and len(notes) < count:
        raise UserError(f"{len(notes)} notes do not fit {count} objects")
    names = ("data", "whole shape", "slot, unmasked", *shapes)
    left = 0.2 + 0.075 * max(map(len, names))
    figure, axes = style.image_grid(
        3 + len(shapes), count, size[0] / size[1], cell=1.0, left=left, footer=0.5 if notes else 0.3
    )
    for place, name in zip(axes, names, strict=True):
        style.row_name(place[0], name)
    for n in range(count):
        style.show(axes[0, n], style.picture(pictures[n]))
        style.show(axes[1, n], _coloured({SEEN: seen[n], MISSED: whole[n] & ~seen[n]}, size))
        style.show(axes[2, n], style.picture(slot[n]))
        for place, shape in zip(axes[3:, n], shapes.values(), strict=True):
            style.show(place, compared(whole[n], seen[n], shape[n]))
        if notes:
            axes[-1, n].set_xlabel(notes[n], fontsize=8, labelpad=3, color=style.INK)
    width, height = figure.get_size_inches()
    figure.legend(
        handles=[Patch(facecolor=colour, label=name) for colour, name in NAMES.items()],
        loc="lower left",
        bbox_to_anchor=(0.12 / width, 0.08 / height),
        ncols=2 if count < 5 else 4,
        frameon=False,
        fontsize=8.5,
        labelcolor=style.INK,
        handlelength=1.0,
        handleheight=0.9,
        columnspacing=1.2,
        borderpad=0.0,
        borderaxespad=0.0,
    )
    return figure


def compared(full: np.ndarray, visible: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(H, W) boolean shapes -> (H, W, 3) the drawn shape against the true one, in the colours of :data:`NAMES`."""
    return _coloured(
        {
            SEEN: drawn & visible,
            COMPLETED: drawn & full & ~visible,
            MISSED: full & ~drawn,
            INVENTED: drawn & ~full,
        },
        drawn.shape,
    )


def _coloured(parts: dict[str, np.ndarray], size: tuple[int, ...]) -> np.ndarray:
    out = np.empty((*size, 3))
    out[:] = to_rgb(style.SCENE_BACKGROUND)
    for colour, where in parts.items():
        out[where] = to_rgb(colour)
    return out
