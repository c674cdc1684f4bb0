"""Which counts are taken for which."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from objectwise.core import UserError
from objectwise.figures import style
from objectwise.metrics import CountScores

_RIGHT, _MISTAKEN, _NOTHING = (0.145, 0.388, 0.788), (0.839, 0.188, 0.227), (0.5, 0.5, 0.5)


def confusion_figure(scores: CountScores | np.ndarray) -> Figure:
    """The confusion matrix of counts: images in each cell, and their share of the row.

    Args:
        scores: what ``count_scores`` returned, whose accuracy becomes the title; or a matrix (M+1, M+1) of numbers of images by
            true (row) and predicted (column) count.

    Raises:
        UserError: for anything but a square matrix.
    """
    matrix = scores.confusion if isinstance(scores, CountScores) else np.asarray(scores)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise UserError(f"a confusion matrix is square, true by predicted counts, not {matrix.shape}")
    size = len(matrix)
    side = max(3.4, 0.82 * size + 1.0)
    figure = Figure(figsize=(side + 0.3, side + 0.6), facecolor=style.PAPER, layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor(style.PAPER)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    for true, predicted in np.ndindex(size, size):
        _cell(
            axes, true, predicted, int(matrix[true, predicted]), float(share[true, predicted]), bool(matrix[true].any())
        )
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xticks=range(size), yticks=range(size), aspect="equal")
    axes.set_xlabel("predicted number of objects", color=style.INK, size=10)
    axes.set_ylabel("true number of objects", color=style.INK, size=10)
    axes.tick_params(length=0, labelcolor=style.INK, labelsize=10)
    axes.spines[:].set_visible(False)
    if isinstance(scores, CountScores):
        low, high = (100 * bound for bound in scores.accuracy_interval)
        title = f"{100 * scores.accuracy:.1f} % right, n = {scores.n}\n95 % interval {low:.1f}–{high:.1f} %"
        axes.set_title(title, size=10.5, color=style.INK, pad=8, linespacing=1.4)
    return style.settled(figure)


def _cell(axes: Axes, true: int, predicted: int, images: int, share: float, row_used: bool) -> None:
    """One cell; its colours are transparent, so that they suit white and dark paper."""
    hue = _NOTHING if not images else _RIGHT if true == predicted else _MISTAKEN
    fill = (*hue, 0.06 if not images else 0.08 + 0.9 * share)
    axes.add_patch(Rectangle((predicted - 0.48, true - 0.48), 0.96, 0.96, facecolor=fill))
    ink = "#ffffff" if share > 0.5 else style.INK if images else style.MUTED
    axes.text(predicted, true - 0.1, str(images), ha="center", va="center", color=ink, size=12)
    if row_used:
        percent = f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"
        axes.text(predicted, true + 0.2, percent, ha="center", va="center", color=ink, size=8.5)
