"""Curves of several runs, a line per seed and a colour per group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from objectwise.figures import style


def seeds_figure(
    series: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]], quantity: str, *, steps: str = "steps"
) -> Figure:
    """A line for every seed, none left out; where seeds share their steps, their median is thicker and they lie on a band.

    Args:
        series: group -> (steps, values) of each seed.
        quantity: label of the vertical axis.
        steps: label of the horizontal axis.
    """
    figure = Figure(figsize=(7.4, 3.4), facecolor=style.PAPER, layout="constrained")
    axes = figure.add_subplot(facecolor=style.PAPER)
    for number, (group, curves) in enumerate(series.items()):
        colour = style.step_colour(number)
        for x, y in curves:
            axes.plot(x, y, color=colour, linewidth=0.9, alpha=0.45)
        if curves and all(np.array_equal(x, curves[0][0]) for x, _ in curves):
            values = np.stack([y for _, y in curves])
            axes.fill_between(
                curves[0][0], values.min(axis=0), values.max(axis=0), color=colour, alpha=0.12, linewidth=0
            )
            axes.plot(
                curves[0][0], np.median(values, axis=0), color=colour, linewidth=2.0, label=f"{group} ({len(curves)})"
            )
        else:
            axes.plot([], [], color=colour, linewidth=2.0, label=f"{group} ({len(curves)})")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_xlabel(steps, size=9, color=style.MUTED)
    axes.set_ylabel(quantity, size=9, color=style.MUTED)
    axes.tick_params(colors=style.MUTED, labelsize=8)
    axes.grid(color=style.RULE, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(style.RULE)
    figure.legend(frameon=False, fontsize=8, loc="outside right upper", labelcolor=style.INK)
    return style.settled(figure)
