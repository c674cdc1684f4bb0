"""What a refinement network is given: every input of one slot of one image as a picture, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from objectwise.core import UserError
from objectwise.figures import style

_NAMES: Mapping[str, str] = {
    "components": "components\nslot's colours",
    "mask": "mask\nlogits",
    "pred_mask": "pred_mask\nafter the softmax",
    "posterior": "posterior\nshare without mask",
    "dcomponents": "dcomponents\ngradient of colours",
    "dmask": "dmask\ngradient of mask",
    "log_prob": "log_prob\npixels' likelihood",
    "counterfactual": "counterfactual\nleaving the slot out",
    "zp": "zp\nposterior λ",
    "dzp": "dzp\ngradient of λ",
}
"""Rows in this order, with what they are in words; inputs of other names come behind them."""
_UNCHANGED = ("image", "coordinates", "capacity")
"""The same at every step: shown once."""
_SHARES = ("image", "components", "pred_mask", "posterior", "capacity")
"""Shown as they are, from 0 to 1."""
_LEVELS = ("mask", "log_prob")
"""Zero means nothing here: shown from the lowest to the highest value."""
_OUTLIERS = 1.0
"""Per cent of the pixels that may lie beyond either end of a colour scale."""


def refinement_inputs_figure(
    inputs: Sequence[Mapping[str, Tensor | np.ndarray]], *, image: int = 0, slot: int = 0, max_steps: int = 8
) -> Figure:
    """All that a refinement network sees of one slot: what never changes above, then a row per input and a column per step.

    Colours and shares are shown as they are; mask logits and log likelihoods in grey, dark is low; all else with blue below and
    red above zero, or, where it has colours, on grey. Each picture has its own scale, whose ends stand below it; one pixel in a
    hundred may lie beyond. Vectors are bars: their first half in blue, their second half in orange.

    Args:
        inputs: of each step, by name: pictures (B, K, c, H, W), or (B, c, H, W) where slots share them; vectors (B, K, n).
        image: which image.
        slot: which slot.
        max_steps: how many columns at most; more steps are thinned out, the first and the last kept.

    Raises:
        UserError: without a step, or for an image or a slot that is not there.
    """
    if not inputs:
        raise UserError("a figure of refinement inputs needs at least one refinement step")
    steps = np.unique(np.linspace(0, len(inputs) - 1, min(max_steps, len(inputs))).round().astype(int))
    told = [{name: _one(name, values, image, slot) for name, values in inputs[step].items()} for step in steps]
    still = [cell for name in _UNCHANGED if name in told[0] for cell in _channels(name, told[0][name])]
    changing = sorted((name for name in told[0] if name not in _UNCHANGED), key=_place)
    pictures = [values for values in told[0].values() if values.ndim == 3]
    aspect = pictures[0].shape[1] / pictures[0].shape[2] if pictures else 1.0
    columns = max(len(steps), 4)
    above = -(-len(still) // columns)
    figure, axes = style.image_grid(
        above + len(changing),
        columns,
        aspect,
        cell=1.0,
        below=0.17,
        left=1.35,
        header=0.0 if above else 0.3,
        row_gaps={above: 0.42} if above else None,
    )
    for cell, (name, values) in zip(axes[:above].flat, still, strict=False):
        _draw(cell, name.split(" ")[0], values)
        _below(cell, name)
    if above:
        style.row_name(axes[0, 0], "the same\nat every step")
    for row, name in enumerate(changing, above):
        style.row_name(axes[row, 0], _NAMES.get(name, name))
        for column, step in enumerate(told):
            _below(axes[row, column], _draw(axes[row, column], name, step[name]))
    for column, step in enumerate(steps):
        if changing:
            axes[above, column].set_title(f"into step {step + 1}", fontsize=9, pad=5, color=style.INK)
    return figure


def _one(name: str, values: Tensor | np.ndarray, image: int, slot: int) -> np.ndarray:
    """(c, H, W) or (n,) of one image and slot."""
    array = style.as_array(values)
    if array.ndim not in (3, 4, 5) or image >= len(array) or (array.ndim != 4 and slot >= array.shape[1]):
        raise UserError(f"the refinement input '{name}' of shape {array.shape} has no slot {slot} of image {image}")
    chosen: np.ndarray = array[image] if array.ndim == 4 else array[image, slot]
    return chosen.astype(np.float64)


def _place(name: str) -> int:
    order = list(_NAMES)
    return order.index(name) if name in order else len(order)


def _channels(name: str, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """A picture to a cell: coordinates channel by channel."""
    if name != "coordinates":
        return [(name, values)]
    return [(f"{name} {number}", channel[None]) for number, channel in enumerate(values, 1)]


def _draw(axes: Axes, name: str, values: np.ndarray) -> str:
    """Draw one input and say how its scale ends, if that is not 0 and 1."""
    if values.ndim == 1:
        return _bars(axes, values)
    if name in _SHARES:
        style.show(axes, style.picture(values))
        return ""
    low, high = np.percentile(values, (_OUTLIERS, 100.0 - _OUTLIERS))
    if name in _LEVELS:
        spread = high - low
        style.show(axes, style.picture((values - low) / spread if spread > 0.0 else np.full_like(values, 0.5)))
        return f"{low:.2g} to {high:.2g}".replace("-", "−")
    end = max(abs(low), abs(high)) or float(np.abs(values).max()) or 1.0
    scaled = np.clip(0.5 + 0.5 * values / end, 0.0, 1.0)
    shown = colormaps["RdBu_r"](scaled[0])[..., :3] if len(values) == 1 else style.picture(scaled)
    style.show(axes, shown)
    return f"±{end:.2g}"


def _bars(axes: Axes, values: np.ndarray) -> str:
    """A vector as bars around zero."""
    end, half = float(np.abs(values).max()) or 1.0, len(values) // 2
    axes.set_axis_on()
    axes.set_facecolor(style.PAPER)
    colours = [style.ACCENT if place < half else style.SECOND for place in range(len(values))]
    axes.bar(np.arange(len(values)), values, width=1.0, color=colours)
    axes.axhline(0.0, color=style.RULE, linewidth=0.6)
    axes.set(xticks=[], yticks=[], xlim=(-0.5, len(values) - 0.5), ylim=(-1.05 * end, 1.05 * end))
    for spine in axes.spines.values():
        spine.set(edgecolor=style.RULE, linewidth=0.8)
    return f"±{end:.2g}"


def _below(axes: Axes, text: str) -> None:
    axes.annotate(
        text,
        (0.5, 0.0),
        (0.0, -2.5),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=7,
        color=style.MUTED,
        annotation_clip=False,
    )
