"""What single latents draw, how sure the encoder is of each, and what each says about each factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from torch import Tensor

from objectwise.core import UserError
from objectwise.figures import style

_DEAD_OPACITY = 0.35


def traversal_figure(
    images: Tensor | np.ndarray,
    values: Sequence[float],
    stds: Tensor | np.ndarray,
    *,
    order: Sequence[int] | None = None,
    dead: Sequence[int] = (),
    origin: Tensor | np.ndarray | None = None,
    max_rows: int = 16,
) -> Figure:
    """A row per latent: the pictures as it moves and all others stay, on one colour scale; dead latents are pale.

    Rows are ordered by posterior standard deviation, the surest first.

    Args:
        images: (D, V, C, H, W) in [0, 1], latent d at its v-th value.
        values: (V,) of the latents.
        stds: (D,) mean posterior standard deviations.
        order: the latents' rows; None: by ``stds``.
        dead: latents that say nothing.
        origin: (C, H, W) the picture that was encoded, shown beside the title.
        max_rows: how many latents at most; how many are left out is said.

    Raises:
        UserError: for shapes that do not fit.
    """
    pictures, spread = style.as_array(images), style.as_array(stds)
    if pictures.ndim != 5 or pictures.shape[:2] != (len(spread), len(values)) or len(spread) == 0:
        raise UserError(
            f"traversals need images (latents, values, C, H, W) for {len(spread)} latents and {len(values)} values, "
            f"not {pictures.shape}"
        )
    rows = list(np.argsort(spread, kind="stable") if order is None else order)
    shown = rows[:max_rows]
    aspect = pictures.shape[3] / pictures.shape[4]
    left, header = 0.95, 0.34 if origin is None else 0.98
    figure, axes = style.image_grid(len(shown), len(values), aspect, cell=0.78, header=header, footer=0.24)
    figure = _widened(figure, left)
    width, height = figure.get_size_inches()
    for row, latent in enumerate(shown):
        alive = latent not in dead
        for column in range(len(values)):
            axes[row, column].set_axis_on()
            style.show(axes[row, column], _paled(style.picture(pictures[latent, column]), alive))
            if row == 0:
                axes[row, column].set_title(
                    f"{values[column]:+.2g}" if values[column] else "0", size=8, color=style.MUTED, pad=3
                )
        box = axes[row, 0].get_position()
        middle = (box.y0 + box.y1) / 2.0
        figure.text(
            (left - 0.02) / width,
            middle,
            f"z{latent}" + ("" if alive else "  unused") + f"\nσ {spread[latent]:.2f}",
            ha="right",
            va="center",
            size=8,
            color=style.INK if alive else style.MUTED,
        )
    if origin is not None:
        inset = figure.add_axes((left / width + 0.12 / width, 1.0 - 0.74 / height, 0.6 / width, 0.6 * aspect / height))
        style.show(inset, style.picture(origin))
        figure.text(
            (left - 0.02) / width, 1.0 - 0.44 / height, "encoded", ha="right", va="center", size=8, color=style.MUTED
        )
    if len(rows) > len(shown):
        which = "latents with larger σ" if order is None else "more latents"
        left_out = f"{len(rows) - len(shown)} {which} are not shown"
        figure.text(left / width, 0.08 / height, left_out, size=8, color=style.MUTED)
    return style.settled(figure)


def posterior_std_figure(
    series: Mapping[str, Sequence[np.ndarray]], *, title: str = "", max_latents: int | None = None
) -> Figure:
    """Posterior standard deviations, sorted: latents in use lie low, unused ones at 1.

    Args:
        series: label (e.g. "β = 4") -> per seed (D,) mean standard deviations in any order.
        title: of the panel.
        max_latents: how many of the smallest are shown; None: all.
    """
    figure = Figure(figsize=(5.6, 3.2), facecolor=style.PAPER, layout="constrained")
    axes = style.dressed(figure.add_subplot(), "latents, surest first", "posterior standard deviation")
    longest = max(len(one) for runs in series.values() for one in runs)
    for number, (label, runs) in enumerate(series.items()):
        colour = style.step_colour(number)
        for place, one in enumerate(runs):
            curve = np.sort(style.as_array(one))[:max_latents]
            name = label if place == 0 else None
            axes.plot(
                np.arange(1, len(curve) + 1),
                curve,
                "o-",
                ms=3,
                lw=1.3,
                color=colour,
                alpha=0.9 if place == 0 else 0.4,
                label=name,
            )
    axes.axhline(1.0, color=style.MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set(ylim=(0.0, 1.1), xlim=(0.5, min(longest, max_latents or longest) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    if title:
        axes.set_title(title, size=10, loc="left", color=style.INK)
    figure.legend(frameon=False, fontsize=8, loc="outside right upper", labelcolor=style.INK)
    return style.settled(figure)


def code_matrix_figure(
    matrix: np.ndarray, factors: Sequence[str], *, quantity: str, dead: Sequence[int] = (), largest: float | None = None
) -> Figure:
    """What each latent says about each factor, as a table of shades with its numbers.

    Args:
        matrix: (D, K), non-negative.
        factors: (K,) names.
        quantity: what the shades mean, e.g. "mutual information / entropy".
        dead: latents that say nothing; their names are pale.
        largest: value of the darkest shade; None: the largest one.
    """
    rows, columns = matrix.shape
    top = float(largest if largest is not None else max(matrix.max(), 1e-9))
    figure = Figure(figsize=(1.6 + 0.62 * columns, 1.2 + 0.27 * rows), facecolor=style.PAPER, layout="constrained")
    axes = figure.add_subplot(facecolor=style.PAPER)
    axes.imshow(matrix, cmap="Blues", vmin=0.0, vmax=top, aspect="auto")
    for d, k in np.ndindex(rows, columns):
        share = matrix[d, k] / top
        if share > 0.015:
            axes.text(
                k,
                d,
                f"{matrix[d, k]:.2f}",
                ha="center",
                va="center",
                size=7.5,
                color="white" if share > 0.55 else "black",
            )
    axes.set_xticks(
        range(columns),
        list(factors),
        size=8,
        rotation=30 if columns > 5 else 0,
        ha="right" if columns > 5 else "center",
    )
    axes.set_yticks(range(rows), [f"z{d}" for d in range(rows)], size=8)
    for d, label in enumerate(axes.get_yticklabels()):
        label.set_color(style.MUTED if d in dead else style.INK)
    axes.tick_params(length=0, colors=style.INK)
    for d, label in enumerate(axes.get_yticklabels()):
        label.set_color(style.MUTED if d in dead else style.INK)
    axes.spines[:].set_visible(False)
    axes.set_title(quantity, size=9, loc="left", color=style.MUTED)
    return style.settled(figure)


def capacity_figure(
    steps: np.ndarray, kl: np.ndarray, capacity: np.ndarray | None = None, *, excess: np.ndarray | None = None
) -> Figure:
    """Latents switching on while the capacity rises: KL of each over training, the sum against the capacity.

    Args:
        steps: (T,) training steps.
        kl: (T, D) mean KL of each latent in nats.
        capacity: (T,) C in nats, where the objective has one.
        excess: (T,) reconstruction error above its floor, in nats, in a panel of its own.
    """
    panels = 2 if excess is not None else 1
    figure = Figure(figsize=(7.0, 3.1 + 1.6 * (panels - 1)), facecolor=style.PAPER, layout="constrained")
    shown = figure.subplots(panels, 1, sharex=True, squeeze=False, height_ratios=[2.0, 1.0][:panels])[:, 0]
    axes = style.dressed(shown[0], "", "KL, nats")
    final = np.argsort(-kl[-1], kind="stable")
    used = [d for d in final if kl[:, d].max() >= 0.05]
    for d in final[::-1]:
        if d not in used:
            axes.plot(steps, kl[:, d], color=style.RULE, linewidth=1.0)
    for place, d in enumerate(used):
        axes.plot(steps, kl[:, d], color=style.step_colour(place), linewidth=1.6, label=f"z{d}")
    axes.plot(steps, kl.sum(axis=1), color=style.INK, linewidth=1.4, label="sum")
    if capacity is not None:
        axes.plot(steps, capacity, color=style.MUTED, linewidth=1.0, linestyle=(0, (4, 3)), label="capacity C")
    axes.set_ylim(bottom=0.0)
    if excess is not None:
        style.dressed(shown[1], "", "excess, nats").plot(steps, excess, color=style.ACCENT, linewidth=1.5)
        shown[1].set_ylim(bottom=0.0)
    shown[-1].set_xlabel("steps", size=9, color=style.MUTED)
    if steps.max() >= 10_000:
        shown[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}k"))
    figure.legend(frameon=False, fontsize=8, loc="outside right upper", labelcolor=style.INK)
    return style.settled(figure)


def beta_figure(
    series: Mapping[str, Sequence[tuple[float, float]]],
    quantity: str,
    *,
    across: str = "β",
    reference: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    reference_label: str = "published, read off a plot",
    band: tuple[float, float] | None = None,
) -> Figure:
    """A number for every run against its β or β_norm, logarithmic across: points, and lines through the medians.

    Args:
        series: group -> (β, number) of each run, e.g. excess nats.
        quantity: label of the vertical axis.
        across: label of the horizontal axis.
        reference: group -> published points, drawn as open diamonds of the group's colour.
        reference_label: what those are.
        band: a range of β to shade.
    """
    figure = Figure(figsize=(6.4, 3.3), facecolor=style.PAPER, layout="constrained")
    axes = style.dressed(figure.add_subplot(), across, quantity)
    if band is not None:
        axes.axvspan(*band, color=style.RULE, alpha=0.5, linewidth=0, label="the paper's good band")
    for number, (group, points) in enumerate(series.items()):
        colour = style.step_colour(number)
        found = np.array(sorted(points), dtype=np.float64).reshape(-1, 2)
        axes.plot(found[:, 0], found[:, 1], "o", ms=4, color=colour, alpha=0.6)
        betas = np.unique(found[:, 0])
        middle = [np.median(found[found[:, 0] == beta, 1]) for beta in betas]
        axes.plot(betas, middle, "-", lw=1.6, color=colour, label=group)
        told = np.array((reference or {}).get(group, ()), dtype=np.float64).reshape(-1, 2)
        axes.plot(told[:, 0], told[:, 1], "D", ms=6, mfc="none", mec=colour)
    if reference:
        axes.plot([], [], "D", ms=6, mfc="none", mec=style.MUTED, label=reference_label)
    axes.set_xscale("log")
    ticks = sorted({beta for points in series.values() for beta, _ in points})
    if 1 < len(ticks) <= 8:
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(FixedLocator([]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    figure.legend(frameon=False, fontsize=8, loc="outside right upper", labelcolor=style.INK)
    return style.settled(figure)


def rate_distortion_figure(series: Mapping[str, Sequence[tuple[float, float, str]]]) -> Figure:
    """Distortion (nats above the floor) against rate (KL), a point per run with its label.

    Args:
        series: group -> (rate, distortion, label) of each run.
    """
    figure = Figure(figsize=(6.4, 3.6), facecolor=style.PAPER, layout="constrained")
    axes = style.dressed(figure.add_subplot(), "rate: KL, nats per image", "distortion: nats above the floor")
    for number, (group, points) in enumerate(series.items()):
        colour = style.step_colour(number)
        ordered = sorted(points)
        axes.plot([r for r, _, _ in ordered], [d for _, d, _ in ordered], "o-", ms=4, lw=1.2, color=colour, label=group)
        for rate, distortion, label in ordered:
            axes.annotate(
                label, (rate, distortion), xytext=(4, 4), textcoords="offset points", size=7, color=style.MUTED
            )
    axes.margins(x=0.1, y=0.12)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    figure.legend(frameon=False, fontsize=8, loc="outside right upper", labelcolor=style.INK)
    return style.settled(figure)


def _widened(figure: Figure, left: float) -> Figure:
    """Room of ``left`` inches before everything that is drawn so far."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + left, height)
    for axes in figure.axes:
        box = axes.get_position()
        axes.set_position(
            ((box.x0 * width + left) / (width + left), box.y0, box.width * width / (width + left), box.height)
        )
    return figure


def _paled(picture: np.ndarray, alive: bool) -> np.ndarray:
    return picture if alive else _DEAD_OPACITY * picture + (1.0 - _DEAD_OPACITY) * 0.6
