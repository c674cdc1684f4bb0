"""Training curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from objectwise.figures import style

_SPLIT_COLOURS = {"train": style.ACCENT, "val": style.SECOND}
_NOT_QUANTITIES = ("step", "epoch", "time", "wall_time")
_SMOOTH_FROM = 120


def curves_figure(
    rows: Iterable[Mapping[str, object]], *, names: Sequence[str] | None = None, columns: int = 3
) -> Figure:
    """Small multiples, one panel per quantity over training steps, training and validation in one panel.

    Long noisy curves are drawn faint with their running mean on top. Values that are missing, not numbers, NaN or infinite
    leave a gap and nothing else. Where the first steps would flatten the rest of a curve, the panel leaves them out and says so.

    Args:
        rows: of ``metrics.jsonl``: ``{"step": int, "split": "train" | "val", name: value, ...}``.
        names: which quantities, in this order; None: all, in order of first appearance.
        columns: panels per row.
    """
    series = curve_series(rows)
    found = list(dict.fromkeys(name for name, _ in series))
    chosen = [name for name in (found if names is None else names) if name in found]
    columns = max(1, min(columns, len(chosen)))
    lines = max(1, -(-len(chosen) // columns))
    figure = Figure(figsize=(2.9 * columns + 0.2, 2.1 * lines + 0.45), facecolor=style.PAPER, layout="constrained")
    if not chosen:
        figure.text(0.5, 0.5, "no training curves yet", ha="center", va="center", color=style.MUTED, size=10)
        return figure
    splits = list(dict.fromkeys(split for name, split in series if name in chosen))
    grid = figure.subplots(lines, columns, squeeze=False).flat
    for axes, name in zip(grid, chosen, strict=False):
        for split in splits:
            if (name, split) in series:
                _draw(axes, *series[name, split], _colour(splits, split), split)
        _dress(axes, name)
        _cut_start(axes, [series[name, split] for split in splits if (name, split) in series])
    for axes in figure.axes[len(chosen) :]:
        axes.set_axis_off()
    handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    legend = {label: line for label, line in handles.items() if not str(label).startswith("_")}
    figure.legend(
        handles=list(legend.values()),
        loc="outside upper left",
        ncols=len(legend),
        frameon=False,
        fontsize=9,
        labelcolor=style.INK,
    )
    return style.settled(figure)


def curve_series(rows: Iterable[Mapping[str, object]]) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Rows of ``metrics.jsonl`` -> (quantity, split) -> steps and values, both (n,), sorted by step.

    A step that was logged twice (after a resume) keeps its last value; a value that is not finite becomes NaN.
    """
    points: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        step = row.get("step")
        if not isinstance(step, int | float) or isinstance(step, bool) or not math.isfinite(step):
            continue
        for name, value in row.items():
            if name in _NOT_QUANTITIES or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            number = float(value) if math.isfinite(value) else math.nan
            points.setdefault((name, str(row.get("split", "train"))), {})[int(step)] = number
    return {
        key: (np.array(sorted(values)), np.array([values[step] for step in sorted(values)]))
        for key, values in points.items()
    }


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Centred mean over ``width`` neighbours, narrower at both ends; NaN counts as missing."""
    known = np.isfinite(values)
    kernel = np.ones(width)
    total = np.convolve(np.where(known, values, 0.0), kernel, mode="same")
    count = np.convolve(known.astype(float), kernel, mode="same")
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def _draw(axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str, split: str) -> None:
    if len(values) >= _SMOOTH_FROM:
        axes.plot(steps, values, color=colour, alpha=0.22, linewidth=0.7, label="_raw")
        values = running_mean(values, max(3, len(values) // 40) | 1)
        axes.plot(steps, values, color=colour, linewidth=1.5, label=split)
        return
    few = np.isfinite(values).sum() <= 12
    axes.plot(steps, values, color=colour, linewidth=1.5, marker="o" if few else None, markersize=3.2, label=split)


def _dress(axes: Axes, name: str) -> None:
    axes.set_facecolor(style.PAPER)
    axes.set_title(name.replace("_", " "), size=10, loc="left", color=style.INK, pad=5)
    axes.tick_params(colors=style.MUTED, labelsize=8, length=2.5)
    axes.grid(color=style.RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(style.RULE)
    axes.margins(x=0.03)
    axes.set_xlabel("step", size=8.5, color=style.MUTED, labelpad=1)
    axes.locator_params(axis="x", nbins=5)
    axes.locator_params(axis="y", nbins=5)


def _cut_start(axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Keep the first steps of training from flattening all the rest: leave them outside, and say so.

    Only where the values after the first tenth of the steps span less than an eighth of the whole range.
    """
    steps, values = (np.concatenate(parts) for parts in zip(*curves, strict=True))
    known = np.isfinite(values)
    late = known & (steps >= steps.min() + 0.1 * (steps.max() - steps.min()))
    if late.sum() < 20:
        return
    low, high = values[late].min(), values[late].max()
    if 0.0 < high - low < np.ptp(values[known]) / 8.0:
        axes.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
        axes.text(
            0.98, 0.96, "start not shown", transform=axes.transAxes, ha="right", va="top", size=7.5, color=style.MUTED
        )


def _colour(splits: Sequence[str], split: str) -> str:
    others = [name for name in splits if name not in _SPLIT_COLOURS]
    return _SPLIT_COLOURS.get(split) or style.step_colour(3 + others.index(split))
