"""Scores of several trainings side by side: every seed a dot, the median a line, published numbers dashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from objectwise.core import UserError
from objectwise.figures import style

_MARK, _LETTER = 0.45, 0.065
"""Inches that a mark and a letter take in the legend."""


def seed_scores_figure(
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    quantity: str,
    *,
    published: Mapping[str, float] | None = None,
    limits: tuple[float, float] | None = None,
    log: bool = False,
) -> Figure:
    """Groups along the horizontal axis, a colour per series; every seed is drawn, its series' median is a short line.

    Args:
        scores: group -> series -> the scores of its seeds; NaN and absent ones are left out.
        quantity: label of the vertical axis.
        published: group -> a published score, drawn dashed.
        limits: of the vertical axis, widened where a score lies outside; None: the scores'.
        log: logarithmic vertical axis.

    Raises:
        UserError: if there is no score at all.
    """
    series = list(dict.fromkeys(name for group in scores.values() for name in group))
    finite = [v for group in scores.values() for values in group.values() for v in values if np.isfinite(v)]
    if not finite:
        raise UserError("a figure of scores needs at least one score")
    figure = Figure(figsize=(max(4.2, 1.2 + 1.15 * len(scores)), 3.4), facecolor=style.PAPER, layout="constrained")
    axes = figure.add_subplot(facecolor=style.PAPER)
    for place, (name, group) in enumerate(scores.items()):
        for number, values in enumerate(group.get(one, ()) for one in series):
            _draw_seeds(axes, np.array(values, np.float64), place, number, len(series))
        if name in (published or {}):
            level, ends = (published or {})[name], [place - 0.42, place + 0.42]
            axes.plot(ends, [level] * 2, color=style.MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_xlim(-0.55, len(scores) - 0.45)
    if limits is not None:
        axes.set_ylim(min(limits[0], *finite), max(limits[1], *finite))
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.set_xticks(range(len(scores)), [_wrapped(name) for name in scores])
    axes.set_ylabel(quantity, size=9, color=style.MUTED)
    axes.tick_params(colors=style.MUTED, labelsize=8)
    axes.tick_params(axis="x", length=0, labelcolor=style.INK)
    axes.grid(axis="y", color=style.RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(style.RULE)
    handles = [
        Line2D([], [], color=style.step_colour(number), marker="o", linestyle="none", markersize=5, label=name)
        for number, name in enumerate(series)
    ]
    if published:
        handles.append(Line2D([], [], color=style.MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label="published"))
    if len(handles) > 1:
        longest = max(len(str(handle.get_label())) for handle in handles)
        across = int(figure.get_figwidth() / (_MARK + _LETTER * longest))
        figure.legend(
            handles=handles,
            loc="outside upper left",
            ncols=min(4, len(handles), max(1, across)),
            frameon=False,
            fontsize=8.5,
            labelcolor=style.INK,
        )
    return style.settled(figure)


def _draw_seeds(axes: Axes, values: np.ndarray, place: int, number: int, of: int) -> None:
    """A dot for every seed of one series of a group, and their median."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return
    step, colour = 0.7 / of, style.step_colour(number)
    middle = place + (number - (of - 1) / 2) * step
    spread = (np.arange(len(values)) - (len(values) - 1) / 2) * min(0.07, 0.5 * step / len(values))
    ends = [middle - 0.36 * step, middle + 0.36 * step]
    axes.plot(ends, [np.median(values)] * 2, color=colour, linewidth=2.2, alpha=0.55)
    axes.plot(middle + spread, values, "o", color=colour, markersize=4.5, markeredgewidth=0)


def _wrapped(name: str) -> str:
    """A long group name on several lines."""
    lines = [""]
    for word in name.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > 14:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
