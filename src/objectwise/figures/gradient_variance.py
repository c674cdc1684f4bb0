"""How noisy each estimator's gradient is, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from objectwise.core import UserError
from objectwise.figures import style

_COLOURS = (style.ACCENT, style.SECOND, "#2fa05c", "#9a5bd6")


def gradient_variance_figure(
    variances: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], *, quantity: str = "variance of a gradient"
) -> Figure:
    """A panel per model, a group of bars per estimator, a colour per set of weights; a dot per seed, bars to their median.

    Args:
        variances: model -> estimator -> set of weights -> a positive number per seed. Estimators keep their order, and
            the vertical axis is shared.
        quantity: label of the axis of values.

    Raises:
        UserError: where there is nothing to draw, or a number that has no logarithm.
    """
    values = [v for rows in variances.values() for row in rows.values() for each in row.values() for v in each]
    if not values or not all(np.isfinite(values)) or min(values) <= 0.0:
        raise UserError("a figure of gradient variances needs at least one number, and all of them positive and finite")
    estimators = list(dict.fromkeys(name for rows in variances.values() for name in rows))
    sets = list(dict.fromkeys(name for rows in variances.values() for row in rows.values() for name in row))
    height = 0.34 * len(estimators) * max(2, len(sets)) / 2 + 1.2
    figure = Figure(figsize=(3.6 * len(variances) + 1.0, height), facecolor=style.PAPER, layout="constrained")
    panels = figure.subplots(1, len(variances), squeeze=False, sharex=True, sharey=True)
    low, high = 10.0 ** np.floor(np.log10(min(values)) - 0.2), 10.0 ** np.ceil(np.log10(max(values)) + 0.1)
    for axes, (model, rows) in zip(panels.flat, variances.items(), strict=True):
        _bars(axes, rows, estimators, sets, low)
        axes.set_title(model, size=10, loc="left", color=style.INK, pad=5)
        axes.set_xlabel(quantity, size=8.5, color=style.MUTED, labelpad=2)
    panels[0, 0].set_xscale("log")
    panels[0, 0].set_xlim(low, high)
    panels[0, 0].xaxis.set_major_locator(LogLocator(numticks=8))
    panels[0, 0].xaxis.set_minor_locator(NullLocator())
    panels[0, 0].set_yticks(range(len(estimators)), estimators)
    panels[0, 0].set_ylim(len(estimators) - 0.5, -0.5)
    handles = {str(patch.get_label()): patch for axes in figure.axes for patch in axes.containers}
    figure.legend(
        handles=[handles[name] for name in sets],
        loc="outside upper left",
        ncols=len(sets),
        frameon=False,
        fontsize=9,
        labelcolor=style.INK,
    )
    return style.settled(figure)


def _bars(
    axes: Axes,
    rows: Mapping[str, Mapping[str, Sequence[float]]],
    estimators: Sequence[str],
    sets: Sequence[str],
    low: float,
) -> None:
    thick = 0.74 / len(sets)
    for number, name in enumerate(sets):
        places = {e: estimators.index(e) + (number - (len(sets) - 1) / 2) * thick for e in rows if name in rows[e]}
        medians = [float(np.median(rows[e][name])) for e in places]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.barh(
            list(places.values()),
            [m - low for m in medians],
            thick * 0.9,
            left=low,
            color=colour,
            alpha=0.75,
            label=name,
        )
        dots = [(value, place) for e, place in places.items() for value in rows[e][name]]
        axes.plot([v for v, _ in dots], [p for _, p in dots], "o", color=style.INK, markersize=2.6, linestyle="none")
    axes.set_facecolor(style.PAPER)
    axes.tick_params(colors=style.MUTED, labelsize=8, length=2.5)
    axes.tick_params(axis="y", labelcolor=style.INK, labelsize=9, length=0)
    axes.grid(axis="x", color=style.RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(style.RULE)
