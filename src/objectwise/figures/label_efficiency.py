"""Label efficiency: accuracy of small supervised heads against the number of labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from objectwise.core import UserError
from objectwise.figures import style
from objectwise.metrics import ProbeResult

_COLOURS = (style.ACCENT, style.SECOND, "#2fa05c", "#9a5bd6", "#c0508f", "#0e9aa7", "#8a6d3b")


def label_efficiency_figure(results: Mapping[str, Mapping[str, ProbeResult]]) -> Figure:
    """One panel per task: mean accuracy against the number of labels, with a band from the worst to the best seed.

    Every representation has one colour in all panels; the dashed line is chance, the accuracy
    of always giving the most frequent answer.

    Args:
        results: task -> representation -> result.

    Raises:
        UserError: if there is nothing to draw.
    """
    if not results or not all(results.values()):
        raise UserError("a label-efficiency figure needs at least one task, each with at least one result")
    names = list(dict.fromkeys(name for curves in results.values() for name in curves))
    figure = Figure(figsize=(3.9 * len(results) + 0.4, 3.4), facecolor=style.PAPER, layout="constrained")
    for axes, (task, curves) in zip(figure.subplots(1, len(results), squeeze=False).flat, results.items(), strict=True):
        _panel(axes, task, {name: (result, _colour(names, name)) for name, result in curves.items()})
    handles = {str(line.get_label()): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(
        handles=[handles[name] for name in [*names, "chance"]],
        loc="outside upper left",
        ncols=min(len(names) + 1, 2 * len(results) + 1),
        frameon=False,
        fontsize=9,
        labelcolor=style.INK,
    )
    return style.settled(figure)


def _panel(axes: Axes, task: str, curves: Mapping[str, tuple[ProbeResult, str]]) -> None:
    for name, (result, colour) in curves.items():
        low, high = result.band
        axes.fill_between(result.budgets, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(result.budgets, result.mean, color=colour, linewidth=1.6, marker="o", markersize=3.6, label=name)
    chance = float(np.mean([result.chance for result, _ in curves.values()]))
    axes.axhline(chance, color=style.MUTED, linewidth=1.0, linestyle=(0, (4, 3)), label="chance")
    budgets = sorted({budget for result, _ in curves.values() for budget in result.budgets})
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(budgets))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.set_ylim(min(0.0, chance), 1.02)
    axes.yaxis.set_major_locator(FixedLocator([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.set_xlabel("labelled images", size=8.5, color=style.MUTED, labelpad=2)
    axes.set_title(task, size=10, loc="left", color=style.INK, pad=5)
    axes.set_facecolor(style.PAPER)
    axes.tick_params(colors=style.MUTED, labelsize=8, length=2.5)
    axes.grid(color=style.RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(style.RULE)


def _short(count: float) -> str:
    """A number of labels in few characters: 300, 1k, 30k."""
    return f"{count / 1000:g}k" if count >= 1000 else f"{count:g}"


def _colour(names: list[str], name: str) -> str:
    return _COLOURS[names.index(name) % len(_COLOURS)]
