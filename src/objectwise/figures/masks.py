"""Masks step by step, and what each step leaves to the later ones."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from objectwise.core import Batch, Decomposition
from objectwise.figures import style
from objectwise.figures.decomposition import segmentation_pictures, slot_colours, slot_names
from objectwise.figures.slots import mask_entropy

_UNDECIDED = "magma"


def masks_figure(
    scenes: Batch | Tensor | np.ndarray,
    decomposition: Decomposition,
    *,
    scopes: bool = True,
    max_images: int = 4,
) -> Figure:
    """Two rows per image: its masks in the order of the slots, and below each the scope it was cut from; white is 1, black 0.

    The scope of slot k is what the slots before it left, 1 − Σ_{j<k} m_j: all white for the first, and the last slot takes the
    whole of what it finds. The last column shows where the masks are undecided: their entropy over log K, mean below.

    Args:
        scenes: a batch, or images (B, C, H, W) in [0, 1].
        decomposition: of the same images; attention's masks are shown where it has them.
        scopes: draw the second row; off for models whose masks are found together.
        max_images: how many images at most.

    Raises:
        UserError: for no images.
    """
    images = style.scene_images(scenes, max_images)
    count, slots = len(images), decomposition.num_slots
    tensor = decomposition.mask_kinds().get("attention", decomposition.masks)
    masks = style.as_array(tensor[:count]).astype(np.float64)
    left = mask_scopes(masks)
    entropy = mask_entropy(tensor[:count])
    segments = segmentation_pictures(decomposition, count)
    aspect = images.shape[2] / images.shape[3]
    per = 2 if scopes else 1
    extra = 0 if scopes else 1
    figure, axes = style.image_grid(
        per * count,
        slots + 2 + extra,
        aspect,
        cell=1.0,
        header=0.24,
        footer=0.0 if scopes else 0.2,
        row_gaps={per * n: 0.14 for n in range(1, count)},
        column_gaps={1 + extra: 0.55 if scopes else 0.1, slots + 1 + extra: 0.1},
    )
    colours = [colour or style.MUTED for colour in slot_colours(decomposition)]
    for n in range(count):
        upper = axes[per * n]
        style.show(upper[0], style.picture(images[n]))
        style.show(axes[per * n + 1, 0] if scopes else upper[1], segments[n])
        for slot, colour in enumerate(colours):
            style.show(upper[1 + extra + slot], _grey(masks[n, slot]), colour, 1.4)
            if scopes:
                style.show(axes[per * n + 1, 1 + slot], _grey(left[n, slot]))
        if scopes:
            style.row_name(upper[1], "mask")
            style.row_name(axes[per * n + 1, 1], "scope")
        _undecided(upper[-1], entropy[n])
    titles = ["data", *(["segmentation"] if extra else []), *slot_names(decomposition), "undecided"]
    for cell, title in zip(axes[0], titles, strict=True):
        cell.set_title(title, fontsize=9, pad=4, color=style.INK)
    return figure


def mask_scopes(masks: np.ndarray) -> np.ndarray:
    """(B, K, H, W) masks -> scopes of the same shape: what the slots before each one left, in [0, 1]."""
    taken = np.cumsum(masks, axis=1) - masks
    return np.asarray(np.clip(1.0 - taken, 0.0, 1.0))


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(values, 0.0, 1.0)[..., None], 3, axis=-1)


def _undecided(axes: Axes, entropy: np.ndarray) -> None:
    style.show(axes, _grey(entropy))
    axes.images[0].set_data(np.clip(entropy, 0.0, 1.0))
    axes.images[0].set(cmap=_UNDECIDED, clim=(0.0, 1.0))
    axes.set_xlabel(f"mean {entropy.mean():.2f}", fontsize=8.5, labelpad=3, color=style.INK)
