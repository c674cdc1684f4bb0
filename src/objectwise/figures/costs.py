"""What a quantity costs: points on two logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from objectwise.core import UserError
from objectwise.figures import style


def cost_figure(
    series: Mapping[str, Sequence[tuple[float, float, str]]], cost: str, quantity: str, *, goal: float | None = None
) -> Figure:
    """A colour per series, its points joined in their order; both axes are logarithmic.

    Args:
        series: name -> (cost, value, label) of each point; points that have no logarithm are left out, labels may be empty.
        cost: label of the horizontal axis.
        quantity: label of the vertical axis.
        goal: a value that is drawn as a dashed line.

    Raises:
        UserError: where there is nothing to draw.
    """
    shown = {name: [p for p in points if _positive(p[0]) and _positive(p[1])] for name, points in series.items()}
    if not any(shown.values()):
        raise UserError("a figure of costs needs at least one point with positive cost and value")
    figure = Figure(figsize=(7.4, 3.9), facecolor=style.PAPER, layout="constrained")
    axes = figure.add_subplot(facecolor=style.PAPER)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for number, (name, points) in enumerate(shown.items()):
        colour = style.step_colour(number)
        x, y = [p[0] for p in points], [p[1] for p in points]
        axes.plot(x, y, color=colour, linewidth=1.0, alpha=0.45)
        axes.plot(x, y, "o", color=colour, markersize=5.0, markeredgewidth=0, label=name)
        for across, up, label in points:
            if label:
                axes.annotate(label, (across, up), (5, 4), textcoords="offset points", fontsize=7.5, color=style.MUTED)
    if goal is not None:
        axes.axhline(goal, color=style.MUTED, linewidth=1.0, linestyle=(0, (4, 3)), label="goal")
    axes.margins(x=0.09, y=0.12)
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 300.0 * low else (1.0,), numticks=12))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.set_xlabel(cost, size=9, color=style.MUTED)
    axes.set_ylabel(quantity, size=9, color=style.MUTED)
    axes.tick_params(colors=style.MUTED, labelsize=8)
    axes.grid(color=style.RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(style.RULE)
    figure.legend(loc="outside upper left", ncols=5, frameon=False, fontsize=8.5, labelcolor=style.INK)
    return style.settled(figure)


def _positive(value: float) -> bool:
    return bool(np.isfinite(value) and value > 0.0)
