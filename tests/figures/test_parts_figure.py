from __future__ import annotations

from dataclasses import replace

import made_up
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from test_figures import texts_overlap

from objectwise.core import UserError
from objectwise.figures import figure_png, parts_figure, style
from objectwise.figures.parts import matched_colours

DARK = style.SCENE_BACKGROUND


def colours(axes: object) -> set[str]:
    array = np.asarray(axes.images[0].get_array())  # type: ignore[attr-defined]
    return {to_hex(colour) for colour in np.unique(array.reshape(-1, 3), axis=0)}


def test_parts_take_the_colour_of_their_stroke() -> None:
    """Slots found in another order have the strokes' colours all the same, in the map and on their boxes."""
    scenes, out = made_up.batch(), made_up.additive()
    swap = [0, 2, 1]
    out = replace(
        out,
        masks=out.masks[:, swap],
        components=out.components[:, swap],
        presence=torch.ones(3, 3),
        boxes=out.boxes[:, swap],  # type: ignore[index]
    )
    figure = parts_figure(scenes, out)
    axes = np.array(figure.axes).reshape(3, 4)
    strokes, parts = (np.asarray(axes[0, column].images[0].get_array()) for column in (1, 2))
    assert np.array_equal(strokes, parts)
    assert colours(axes[0, 1]) == {DARK, *style.STEP_COLOURS[:2]}
    edges = [to_hex(patch.get_edgecolor()) for patch in axes[0, 3].patches if isinstance(patch, Rectangle)]
    assert edges == [style.STEP_COLOURS[1], style.STEP_COLOURS[0]]
    assert [axes[0, column].get_xlabel() for column in (1, 2, 3)] == ["2 strokes", axes[0, 2].get_xlabel(), "2 steps"]
    assert axes[0, 2].get_xlabel().startswith("ARI 1.00 (chance ")
    assert axes[1, 2].get_xlabel() == "not scored"
    assert axes[1, 1].get_xlabel() == "1 stroke"
    assert colours(axes[2, 2]) == {DARK}
    assert texts_overlap(figure) == []


def test_absent_steps_have_no_box() -> None:
    figure = parts_figure(made_up.batch(), made_up.additive(), max_images=2)
    axes = np.array(figure.axes).reshape(2, 4)
    assert len(axes[0, 3].patches) == 2
    assert len(axes[1, 3].patches) == 0
    assert axes[1, 3].get_xlabel() == "0 steps"


def test_same_bytes_and_no_boxes() -> None:
    scenes, out = made_up.batch(), replace(made_up.additive(), boxes=None)
    assert figure_png(parts_figure(scenes, out)) == figure_png(parts_figure(scenes, out))


def test_match_is_one_to_one_and_best() -> None:
    """Stroke 1 overlaps part 7 by 3 and part 8 by 2, stroke 2 part 7 by 4: the best match is 1-8, 2-7; part 9 is left over."""
    strokes = torch.tensor([[[1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0]]])
    parts = torch.tensor([[[7, 7, 7, 8, 8, 7, 7, 7, 7, 9, 6]]])
    assert matched_colours(strokes, parts) == [{7: 1, 8: 0, 9: 2}]
    assert matched_colours(torch.zeros_like(strokes), parts) == [{}]


def test_needs_strokes() -> None:
    with pytest.raises(UserError, match="needs a batch with instances"):
        parts_figure(replace(made_up.batch(), instances=None), made_up.additive())
