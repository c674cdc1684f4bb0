"""Scenes put together from slots of others: a row per pair of scenes, a column per recombination."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from objectwise.core import UserError
from objectwise.figures import style


def swaps_figure(pictures: Mapping[str, Tensor | np.ndarray]) -> Figure:
    """A row per pair of scenes and a column per kind of picture; values outside [0, 1] are clipped.

    Args:
        pictures: name of each column -> (N, C, H, W) in [0, 1], one for each pair.

    Raises:
        UserError: for no pictures, or columns of different lengths.
    """
    columns = [style.as_array(values) for values in pictures.values()]
    if not columns or len({part.shape for part in columns}) != 1 or len(columns[0]) == 0:
        raise UserError("a figure of recombinations needs as many pictures of one size in every column")
    aspect = columns[0].shape[2] / columns[0].shape[3]
    figure, axes = style.image_grid(len(columns[0]), len(columns), aspect, cell=1.15, header=0.4)
    for column, (name, part) in enumerate(zip(pictures, columns, strict=True)):
        axes[0, column].set_title(name, fontsize=8.5, pad=5, color=style.INK)
        for row, picture in enumerate(part):
            style.show(axes[row, column], style.picture(picture))
    return figure
