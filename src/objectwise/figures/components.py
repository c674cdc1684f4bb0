"""What a component VAE has learned: each slot's picture as it is, behind its attention mask, and behind its own mask."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from objectwise.core import Batch, Decomposition, UserError
from objectwise.figures import style
from objectwise.figures.decomposition import segmentation_pictures, slot_colours, slot_names

COLUMNS = ("unmasked", "attention mask", "decoded mask")


def component_vae_figure(
    scenes: Batch | Tensor | np.ndarray,
    decomposition: Decomposition,
    *,
    decoded_masks: Tensor | None = None,
    max_images: int = 3,
) -> Figure:
    """Three columns per image (MONet, figure 3). Above: data, mixture, segmentation. Below, a row per slot: its picture unmasked,
    behind the attention mask, and behind the mask that the component VAE decodes itself, both on white.

    Where the last two differ, the component VAE does not reproduce the attention's masks.

    Args:
        scenes: a batch, or images (B, C, H, W) in [0, 1].
        decomposition: of the same images, from a model that has attention masks.
        decoded_masks: (B, K, H, W) what the slots alone imply; None: the decomposition's.
        max_images: how many images at most.

    Raises:
        UserError: for no images, or no decoded masks.
    """
    images = style.scene_images(scenes, max_images)
    count, slots = len(images), decomposition.num_slots
    kinds = decomposition.mask_kinds()
    attention = kinds.get("attention", decomposition.masks)
    if decoded_masks is None and "decoded" not in kinds:
        raise UserError("the component VAE figure needs decoded masks beside the attention's; pass decoded_masks")
    decoded = kinds["decoded"] if decoded_masks is None else decoded_masks
    pictures = np.stack(
        [[style.picture(image) for image in row] for row in decomposition.components[:count]]
    )  # (B, K, H, W, 3)
    behind = [on_white(pictures, masks[:count]) for masks in (attention, decoded)]
    segments = segmentation_pictures(decomposition, count)
    aspect = images.shape[2] / images.shape[3]
    figure, axes = style.image_grid(
        1 + slots,
        3 * count,
        aspect,
        cell=1.0,
        left=0.2 + 0.075 * max(map(len, slot_names(decomposition))),
        header=0.24,
        row_gaps={1: 0.3},
        column_gaps={3 * n: 0.2 for n in range(1, count)},
    )
    for n in range(count):
        place = axes[:, 3 * n : 3 * n + 3]
        upper = (style.picture(images[n]), style.picture(decomposition.reconstruction[n]), segments[n])
        for cell, picture, name in zip(place[0], upper, ("data", "mixture", "segmentation"), strict=True):
            style.show(cell, picture)
            cell.set_title(name, fontsize=9, pad=4, color=style.INK)
        for slot, colour in enumerate(slot_colours(decomposition)):
            frame = colour or style.MUTED
            for cell, picture in zip(
                place[1 + slot], (pictures[n, slot], behind[0][n, slot], behind[1][n, slot]), strict=True
            ):
                style.show(cell, picture, frame, 1.4)
        for cell, name in zip(place[1], COLUMNS, strict=True):
            cell.set_title(name, fontsize=9, pad=4, color=style.INK)
    for cell, colour, name in zip(axes[1:, 0], slot_colours(decomposition), slot_names(decomposition), strict=True):
        style.row_name(cell, name, style.INK if colour is None else colour, bold=True)
    return figure


def on_white(pictures: np.ndarray, masks: Tensor | np.ndarray) -> np.ndarray:
    """Pictures (..., H, W, 3) where their masks (..., H, W) are 1, white paper where they are 0."""
    shares = np.clip(style.as_array(masks).astype(np.float64), 0.0, 1.0)[..., None]
    return pictures * shares + 1.0 - shares
