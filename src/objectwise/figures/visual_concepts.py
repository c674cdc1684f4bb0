"""The figures of "Early Visual Concept Learning" (Higgins et al. 2016) as functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator
from torch import Tensor

from objectwise.core import UserError
from objectwise.figures import style


def mean_response_figure(
    position: np.ndarray,
    curves: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    kl: np.ndarray,
    *,
    order: Sequence[int] | None = None,
    max_rows: int = 10,
    example: str = "",
) -> Figure:
    """Figure 2 of the paper: how each latent's mean responds to position, and to other factors for each shape.

    A row per latent, the one with the largest KL first: a map of the mean over all images at each position, and a panel per
    factor with a line per shape. All on one scale, so that unused latents are flat.

    Args:
        position: (D, rows, columns) mean response over the other factors.
        curves: factor -> shape -> (values (V,), responses (D, V)).
        kl: (D,) mean KL in nats.
        order: rows; None: by ``kl``, the largest first.
        max_rows: how many latents at most.
        example: said at the top left, e.g. "β = 4".
    """
    rows = list(np.argsort(-np.asarray(kl), kind="stable") if order is None else order)[:max_rows]
    reach = [np.abs(position[rows]).max()]
    reach += [np.abs(found[rows]).max() for lines in curves.values() for _, found in lines.values()]
    limit = float(max(1.0, np.ceil(2.0 * max(reach)) / 2.0))
    panels = 1 + len(curves)
    height = 0.62 * len(rows) + 1.05
    figure = Figure(figsize=(1.5 + 1.9 * len(curves) + 0.9, height), facecolor=style.PAPER, layout="constrained")
    grid = figure.subplots(len(rows), panels, squeeze=False, width_ratios=[0.42, *[1.0] * len(curves)])
    for row, latent in enumerate(rows):
        axes = grid[row, 0]
        image = axes.imshow(position[latent], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_edgecolor(style.RULE)
        axes.set_ylabel(
            f"z{latent}\n{kl[latent]:.2f}", size=8, color=style.INK, rotation=0, ha="right", va="center", labelpad=4
        )
        for column, (factor, lines) in enumerate(curves.items(), 1):
            axes = style.dressed(grid[row, column], "", "")
            for number, (shape, (values, response)) in enumerate(lines.items()):
                label = shape if row == 0 and column == 1 else None
                axes.plot(values, response[latent], color=style.step_colour(number), linewidth=1.3, label=label)
            axes.set_ylim(-limit, limit)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
            axes.tick_params(labelsize=7)
            axes.yaxis.tick_right()
            axes.spines["right"].set_color(style.RULE)
            if column < len(curves):
                axes.yaxis.set_major_formatter(NullFormatter())
            if row < len(rows) - 1:
                axes.xaxis.set_major_formatter(NullFormatter())
            if row == 0:
                axes.set_title(factor, size=9, color=style.INK)
    grid[0, 0].set_title("position", size=9, color=style.INK)
    bar = figure.colorbar(
        image, ax=grid[:, 0], location="bottom", shrink=0.9, aspect=12, pad=0.02, ticks=[-limit, 0, limit]
    )
    bar.ax.tick_params(labelsize=7, colors=style.MUTED, length=2)
    bar.outline.set_edgecolor(style.RULE)
    bar.set_label("mean", size=7.5, color=style.MUTED, labelpad=0)
    title = "latent and its KL in nats" + (f"; {example}" if example else "")
    figure.suptitle(title, x=0.01, ha="left", size=9, color=style.MUTED)
    figure.legend(frameon=False, fontsize=8, loc="outside lower right", ncols=4, labelcolor=style.INK)
    return style.settled(figure)


def beta_size_map_figure(
    scores: Mapping[tuple[float, int], float], quantity: str, *, line: Sequence[tuple[float, int]] = ()
) -> Figure:
    """A score over β_norm (across, logarithmic) and the number of latents (up), a cell per pair; what was not run stays empty.

    Args:
        scores: (β_norm, number of latents) -> score.
        quantity: what the shades mean.
        line: (β_norm, number of latents) of a curve to draw over it, e.g. of the unnormalised β = 1.
    """
    if not scores:
        raise UserError("a map needs at least one run")
    betas = sorted({beta for beta, _ in scores})
    sizes = sorted({size for _, size in scores})
    table = np.full((len(sizes), len(betas)), np.nan)
    for (beta, size), value in scores.items():
        table[sizes.index(size), betas.index(beta)] = value
    figure = Figure(
        figsize=(2.2 + 0.62 * len(betas), 1.3 + 0.42 * len(sizes)), facecolor=style.PAPER, layout="constrained"
    )
    axes = figure.add_subplot(facecolor=style.PAPER)
    image = axes.imshow(table, origin="lower", cmap="viridis", aspect="auto")
    low, high = float(np.nanmin(table)), float(np.nanmax(table))
    for row, column in np.ndindex(*table.shape):
        shade = float(table[row, column])
        if not np.isnan(shade):
            bright = shade > low + 0.6 * (high - low)
            axes.text(
                column, row, f"{shade:.2f}", ha="center", va="center", size=8, color="black" if bright else "white"
            )
    if len(line) > 1 and len(betas) > 1:
        places = np.interp(np.log([beta for beta, _ in line]), np.log(betas), range(len(betas)))
        heights = np.interp([size for _, size in line], sizes, range(len(sizes)))
        axes.plot(places, heights, color="white", linewidth=1.6, linestyle=(0, (4, 2)))
        axes.set_title("dashed: unnormalised β = 1", size=8, loc="left", color=style.MUTED)
    axes.set_xticks(range(len(betas)), [f"{beta:.2g}" for beta in betas], size=8)
    axes.set_yticks(range(len(sizes)), [str(size) for size in sizes], size=8)
    axes.set_xlabel("β_norm = β · latents / pixels", size=9, color=style.MUTED)
    axes.set_ylabel("latents", size=9, color=style.MUTED)
    axes.tick_params(colors=style.MUTED, length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.9)
    bar.set_label(quantity, size=8, color=style.MUTED)
    bar.ax.tick_params(labelsize=7, colors=style.MUTED)
    bar.outline.set_visible(False)
    return style.settled(figure)


def density_figure(
    series: Mapping[str, Sequence[tuple[float, float]]], *, chance: float | None = None, quantity: str = "accuracy"
) -> Figure:
    """Accuracy against how far apart neighbouring training images are, a line per level of pixel noise.

    Args:
        series: label of the noise -> (mean Hamming distance of neighbours in pixels, accuracy) of each run.
        chance: drawn as a dashed line.
        quantity: label of the vertical axis.
    """
    figure = Figure(figsize=(6.2, 3.3), facecolor=style.PAPER, layout="constrained")
    axes = style.dressed(
        figure.add_subplot(), "pixels that change between neighbouring training images (dense to sparse)", quantity
    )
    for number, (label, points) in enumerate(series.items()):
        found = np.array(sorted(points), dtype=np.float64).reshape(-1, 2)
        places = np.unique(found[:, 0])
        middle = [np.median(found[found[:, 0] == place, 1]) for place in places]
        colour = style.step_colour(number)
        axes.plot(found[:, 0], found[:, 1], "o", ms=4, color=colour, alpha=0.6)
        axes.plot(places, middle, "-", lw=1.6, color=colour, label=label)
    if chance is not None:
        axes.axhline(chance, color=style.MUTED, linewidth=0.8, linestyle=(0, (3, 3)), label="chance")
    axes.set_ylim(0.0, 1.03)
    figure.legend(frameon=False, fontsize=8, loc="outside right upper", labelcolor=style.INK)
    return style.settled(figure)


def recombination_figure(
    seen: tuple[Tensor | np.ndarray, Tensor | np.ndarray],
    unseen: tuple[Tensor | np.ndarray, Tensor | np.ndarray],
    errors: np.ndarray,
    held_out: np.ndarray,
    *,
    names: tuple[str, str],
    quantity: str = "excess, nats",
) -> Figure:
    """Zero-shot recombination: images of trained and of held-out combinations with their reconstructions, and the error's map.

    Args:
        seen: (n, C, H, W) images of combinations in training, and reconstructions.
        unseen: the same of combinations that were held out.
        errors: (rows, columns) mean error over the plane of two factors, NaN where unknown; row 0 at the top.
        held_out: (rows, columns) bool, what training never saw.
        names: of the two factors: down, across.
        quantity: what the shades mean.
    """
    shown = max(1, min(len(seen[0]), len(unseen[0]), 6))
    figure = Figure(figsize=(7.6, 3.3), facecolor=style.PAPER)
    blocks = (("trained combinations", seen), ("held-out combinations", unseen))
    cell, left = 0.62, 0.72
    for block, (title, pair) in enumerate(blocks):
        bottom = 1.78 - 1.62 * block
        figure.text(left / 7.6, (bottom + 2 * cell + 0.1) / 3.3, title, size=9, color=style.INK)
        for row, (label, images) in enumerate(zip(("image", "decoded"), pair, strict=True)):
            y = bottom + (1 - row) * (cell + 0.03)
            figure.text(
                (left - 0.06) / 7.6, (y + cell / 2) / 3.3, label, size=8, ha="right", va="center", color=style.MUTED
            )
            for column, image in enumerate(style.as_array(images)[:shown]):
                axes = figure.add_axes(((left + column * (cell + 0.04)) / 7.6, y / 3.3, cell / 7.6, cell / 3.3))
                style.show(axes, style.picture(image))
    axes = figure.add_axes((5.25 / 7.6, 0.62 / 3.3, 1.9 / 7.6, 1.9 / 3.3))
    image = axes.imshow(errors, cmap="magma", vmin=0.0, interpolation="nearest", aspect="auto")
    axes.contour(held_out.astype(float), levels=[0.5], colors=["white"], linewidths=1.4)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(f"{names[1]} →", size=8.5, color=style.MUTED)
    axes.set_ylabel(f"← {names[0]}", size=8.5, color=style.MUTED)
    axes.set_title(quantity, size=9, color=style.INK)
    axes.spines[:].set_edgecolor(style.RULE)
    figure.text(5.25 / 7.6, 0.22 / 3.3, "white line: never in training", size=8, color=style.MUTED)
    strip = figure.add_axes((7.22 / 7.6, 0.62 / 3.3, 0.08 / 7.6, 1.9 / 3.3))
    bar = figure.colorbar(image, cax=strip)
    bar.ax.tick_params(labelsize=7, colors=style.MUTED, length=2)
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.outline.set_visible(False)
    return style.settled(figure)
