"""What the figures share: colours, image grids in inches, and how a figure becomes bytes.

Figures are plain ``matplotlib.figure.Figure`` objects: no pyplot, no backend, no global settings. Every neutral colour is one of
the names below, so that a figure can be drawn on light and on dark paper.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Text
from matplotlib.typing import ColorType
from torch import Tensor

from objectwise.core import Batch, UserError

INK = "#1f2430"
MUTED = "#676e7b"
RULE = "#d9dce3"
PAPER = "#ffffff"
WRONG = "#d6303a"
ACCENT = "#2563c9"
SECOND = "#d9730d"
DARK = {INK: "#e7e9ee", MUTED: "#a0a7b4", RULE: "#3a404c", PAPER: "#171a21", WRONG: "#ff6b70", ACCENT: "#6ea8ff"}
"""Light colour -> its counterpart on dark paper; colours that are not here suit both."""

STEP_COLOURS = (
    "#f0434a",
    "#2fb765",
    "#3f8cff",
    "#f7b032",
    "#b06cf5",
    "#19c3cf",
    "#f26fb6",
    "#a3c52b",
    "#c08457",
    "#8fa3bf",
    "#0c8574",
    "#a81e5b",
)
"""Colour of step or slot 1, 2, 3, ...: red, green, blue, then more; all visible on black and on white."""

SCENE_BACKGROUND = "#14161b"
"""Background pixels of a segmentation."""

MARGIN = 0.12
"""Inches of paper around a grid of images."""

Theme = Literal["light", "dark"]


def step_colour(step: int) -> str:
    """The colour of a step or object slot, counted from 0; after the last colour they start again."""
    return STEP_COLOURS[step % len(STEP_COLOURS)]


def as_array(values: Tensor | np.ndarray) -> np.ndarray:
    """A tensor on any device and in any precision as a NumPy array (bfloat16 becomes float32)."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def scene_images(scenes: Batch | Tensor | np.ndarray, limit: int) -> np.ndarray:
    """The first images of a batch or an array, (B, C, H, W).

    Raises:
        UserError: where there are none, or they are not images.
    """
    images = as_array((scenes.images if isinstance(scenes, Batch) else scenes)[:limit])
    if images.ndim != 4 or len(images) == 0:
        raise UserError(f"a figure needs at least one image (images, channels, height, width), not {images.shape}")
    return images


def picture(image: Tensor | np.ndarray) -> np.ndarray:
    """A (C, H, W) image in [0, 1] as (H, W, 3); one channel is grey, two are red and green, values outside are clipped."""
    array = np.clip(np.nan_to_num(as_array(image).astype(np.float64)), 0.0, 1.0)
    if array.shape[0] == 1:
        array = array.repeat(3, axis=0)
    elif array.shape[0] == 2:
        array = np.concatenate([array, np.zeros_like(array[:1])])
    return np.moveaxis(array[:3], 0, -1)


def probability(value: float) -> str:
    """A probability in few characters: ``p=.98``, ``p=1``, and ``p>.99`` or ``p<.01`` where rounding would claim more."""
    if value in (0.0, 1.0):
        return f"p={value:.0f}"
    if value >= 0.995:
        return "p>.99"
    if value < 0.005:
        return "p<.01"
    return f"p={value:.2f}".replace("0.", ".")


def score_text(value: float, digits: int = 2) -> str:
    """A score in few characters, without a minus before zero; ``not scored`` for NaN."""
    return "not scored" if np.isnan(value) else f"{round(float(value), digits) + 0.0:.{digits}f}"


def image_grid(
    rows: int,
    columns: int,
    aspect: float,
    *,
    cell: float,
    above: float = 0.0,
    below: float = 0.0,
    header: float = 0.0,
    footer: float = 0.0,
    left: float = 0.0,
    row_gaps: Mapping[int, float] | None = None,
    column_gaps: Mapping[int, float] | None = None,
) -> tuple[Figure, np.ndarray]:
    """A figure of equal image cells at exact places, so that titles cannot collide.

    Args:
        rows: number of rows of images.
        columns: number of columns of images.
        aspect: height over width of an image.
        cell: width of an image in inches.
        above: inches kept above every image, for its title.
        below: inches kept below every image, for a number.
        header: inches kept at the top of the figure.
        footer: inches kept at the bottom of the figure, for a legend.
        left: inches kept at the left of the figure, for the names of the rows.
        row_gaps: row -> inches kept above it besides, to set blocks apart or for their headings.
        column_gaps: column -> inches kept left of it besides.

    Returns:
        the figure, and its axes (rows, columns).
    """
    gap, tall = 0.1, cell * aspect
    down = [above + sum((row_gaps or {}).get(r, 0.0) for r in range(row + 1)) for row in range(rows)]
    across = [sum((column_gaps or {}).get(c, 0.0) for c in range(column + 1)) for column in range(columns)]
    width = 2 * MARGIN + left + columns * cell + (columns - 1) * gap + across[-1]
    height = 2 * MARGIN + header + footer + rows * (above + tall + below) + (rows - 1) * gap + down[-1] - above
    figure = Figure(figsize=(width, height), facecolor=PAPER)
    axes = np.empty((rows, columns), dtype=object)
    for row in range(rows):
        bottom = height - MARGIN - header - row * (above + tall + below + gap) - down[row] - tall
        for column in range(columns):
            start = MARGIN + left + column * (cell + gap) + across[column]
            axes[row, column] = figure.add_axes((start / width, bottom / height, cell / width, tall / height))
            axes[row, column].set_axis_off()
    return figure, axes


def row_name(axes: Axes, name: str, colour: str = INK, *, bold: bool = False) -> None:
    """Name a row of images at the left of its first cell."""
    weight = "bold" if bold else "normal"
    axes.annotate(
        name,
        (0.0, 0.5),
        (-7.0, 0.0),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=9,
        color=colour,
        fontweight=weight,
        annotation_clip=False,
    )


def heading(axes: Axes, text: str, *, lift: float = 6.0) -> None:
    """A heading that starts at the left edge of a cell, so many points above it."""
    axes.annotate(
        text,
        (0.0, 1.0),
        (0.0, lift),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=9.5,
        color=INK,
        fontweight="bold",
        annotation_clip=False,
    )


def show(axes: Axes, image: np.ndarray, frame: str = RULE, width: float = 0.8) -> None:
    """Draw an (H, W, 3) picture pixel by pixel, with a thin frame."""
    axes.imshow(image, interpolation="nearest", vmin=0.0, vmax=1.0)
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(edgecolor=frame, linewidth=width)


def draw_box(axes: Axes, box: np.ndarray, colour: str, *, dashed: bool = False, width: float = 1.6) -> None:
    """Outline a half-open box ``x0 y0 x1 y1`` in pixels; the axes keep the image's limits."""
    x0, y0, x1, y1 = (float(edge) - 0.5 for edge in box)
    limits = axes.get_xlim(), axes.get_ylim()
    outline = Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor="none", edgecolor=colour, linewidth=width)
    outline.set(linestyle=(0, (3, 2)) if dashed else "-", zorder=3 if dashed else 4)
    axes.add_patch(outline)
    axes.set(xlim=limits[0], ylim=limits[1])


def settled(figure: Figure) -> Figure:
    """The figure with its layout computed once and kept; constrained layout moves a little with every further drawing."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def figure_png(figure: Figure, *, dpi: int = 144, theme: Theme = "light") -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes.

    Args:
        figure: is left as it was.
        dpi: pixels per inch.
        theme: on white or on dark paper.
    """
    stream = io.BytesIO()
    with _drawn_on(figure, theme):
        figure.savefig(stream, format="png", dpi=dpi, facecolor=figure.get_facecolor(), metadata={"Software": None})
    return stream.getvalue()


def figure_rgb(figure: Figure, *, dpi: int = 100) -> np.ndarray:
    """The figure as (H, W, 3) uint8 pixels, e.g. for TensorBoard's ``add_image(..., dataformats="HWC")``."""
    before = figure.dpi
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    figure.set_dpi(before)
    return pixels


@contextlib.contextmanager
def _drawn_on(figure: Figure, theme: Theme) -> Iterator[None]:
    """Neutral colours replaced by the theme's inside the block."""
    undo: list[tuple[Callable[[object], None], object]] = []
    if theme == "dark":
        for artist in figure.findobj():
            kinds = ("color",) if isinstance(artist, Text | Line2D) else ("facecolor", "edgecolor")
            for kind in kinds if isinstance(artist, Text | Line2D | Patch) else ():
                colour = getattr(artist, f"get_{kind}")()
                replacement = _on_dark(colour, kind)
                if replacement is not None:
                    change = getattr(artist, f"set_{kind}")
                    undo.append((change, colour))
                    change(replacement)
    try:
        yield
    finally:
        for restore, colour in undo:
            restore(colour)


def _on_dark(colour: ColorType, kind: str) -> str | None:
    """The dark counterpart of a neutral colour; white is paper only where it fills, and ink on a picture elsewhere."""
    if to_rgba(colour)[3] < 1.0 or (to_hex(colour) == PAPER and kind != "facecolor"):
        return None
    return DARK.get(to_hex(colour))


def first_rows(values: Tensor | None, limit: int) -> np.ndarray | None:
    """The first rows of an optional tensor as an array."""
    return None if values is None else as_array(values[:limit])


def dressed(axes: Axes, across: str, up: str) -> Axes:
    """Quiet axes with two labels: a light grid, no frame above and to the right."""
    axes.set_facecolor(PAPER)
    axes.set_xlabel(across, size=9, color=MUTED)
    axes.set_ylabel(up, size=9, color=MUTED)
    axes.tick_params(colors=MUTED, labelsize=8, length=2.5, which="both")
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    return axes
