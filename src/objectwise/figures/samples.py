"""A contact sheet of a dataset: what the images and their masks look like, before training on them."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from objectwise.core import Batch
from objectwise.figures import style


def samples_figure(batch: Batch, *, max_images: int = 24, columns: int = 8) -> Figure:
    """The first images; below each, where the data have masks, its entities in colours with their boxes.

    Args:
        batch: from any dataset.
        max_images: how many at most.
        columns: images per row.

    Raises:
        UserError: for no images.
    """
    images = style.scene_images(batch, max_images)
    has_masks = batch.instances is not None
    columns = min(columns, len(images))
    bands = -(-len(images) // columns)
    aspect = images.shape[2] / images.shape[3]
    figure, axes = style.image_grid(bands * (2 if has_masks else 1), columns, aspect, cell=1.1, below=0.04)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, image in enumerate(images):
        band, column = divmod(number, columns)
        row = band * (2 if has_masks else 1)
        axes[row, column].set_axis_on()
        style.show(axes[row, column], style.picture(image))
        if has_masks:
            axes[row + 1, column].set_axis_on()
            style.show(axes[row + 1, column], _entities(batch, number))
    return style.settled(figure)


def _entities(batch: Batch, row: int) -> np.ndarray:
    """(H, W, 3) one colour per entity, backgrounds in greys."""
    assert batch.instances is not None
    ids = style.as_array(batch.instances[row])
    colours = np.zeros((int(ids.max()) + 1, 3))
    objects = [entity for entity in range(len(colours)) if entity not in batch.background_ids]
    for place, entity in enumerate(objects):
        colours[entity] = to_rgb(style.step_colour(place))
    for place, entity in enumerate(sorted(set(batch.background_ids) & set(range(len(colours))))):
        colours[entity] = 0.12 + 0.12 * place
    return colours[ids]
