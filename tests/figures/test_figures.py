from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from dataclasses import replace

import made_up
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from objectwise.core import UserError
from objectwise.figures import (
    boxes_figure,
    confusion_figure,
    cost_figure,
    curves_figure,
    decomposition_figure,
    figure_png,
    figure_rgb,
    steps_figure,
    style,
    views_figure,
)
from objectwise.figures.curves import curve_series, running_mean
from objectwise.metrics import count_scores

RED, GREEN, BLUE = style.STEP_COLOURS[:3]


def outlines(axes: Axes) -> list[tuple[str, bool, tuple[float, ...]]]:
    """(colour, dashed, half-open box in pixels) of every rectangle drawn on an image."""
    found = []
    for patch in axes.patches:
        assert isinstance(patch, Rectangle)
        x, y = patch.get_xy()
        box = (x + 0.5, y + 0.5, x + 0.5 + patch.get_width(), y + 0.5 + patch.get_height())
        found.append((to_hex(patch.get_edgecolor()), patch.get_linestyle() != "-", box))
    return found


def pixels(axes: Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def texts_overlap(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes intersect when drawn, and texts that leave the figure."""
    figure_rgb(figure, dpi=100)
    unused = {
        label
        for axes in figure.axes
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, sorted(axes.get_ylim())))
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if not low <= tick.get_loc() <= high or not axes.axison
    }
    texts = [text for text in figure.findobj(Text) if text not in unused and text.get_visible() and text.get_text()]
    drawn = [(text.get_text(), text.get_window_extent()) for text in texts]
    whole = figure.bbox
    bad = [
        (name, "outside")
        for name, box in drawn
        if box.x0 < -1 or box.y0 < -1 or box.x1 > whole.x1 + 1 or box.y1 > whole.y1 + 1
    ]
    for i, (name, box) in enumerate(drawn):
        for other, second in drawn[i + 1 :]:
            width = min(box.x1, second.x1) - max(box.x0, second.x0)
            height = min(box.y1, second.y1) - max(box.y0, second.y0)
            if width > 1 and height > 1:
                bad.append((name, other))
    return bad


# -- boxes --------------------------------------------------------------------------------------------------------


def test_boxes_have_one_colour_per_step_and_wrong_counts_are_marked() -> None:
    figure = boxes_figure(made_up.batch(), made_up.additive())
    first, second, third = figure.axes
    assert outlines(first) == [(RED, False, (1, 1, 4, 5)), (GREEN, False, (6, 7, 11, 10))]
    assert outlines(second) == outlines(third) == []
    assert first.get_title() == "true 2, found 2 (p=.90)"
    assert second.get_title() == "✗ true 1, found 0 (p=.70)"
    assert third.get_title() == "true 0, found 0 (p=.98)"
    assert [to_hex(axes.spines["left"].get_edgecolor()) == style.WRONG for axes in figure.axes] == [False, True, False]
    assert [axes.title.get_color() == style.WRONG for axes in figure.axes] == [False, True, False]
    np.testing.assert_array_equal(pixels(first)[..., 0], made_up.batch().images[0, 0].numpy())


def test_true_boxes_are_dashed_and_only_of_objects() -> None:
    figure = boxes_figure(made_up.batch(), made_up.additive(), true_boxes=True)
    dashed = [[box for _, dash, box in outlines(axes) if dash] for axes in figure.axes]
    assert dashed == [[(1, 1, 4, 5), (6, 7, 11, 10)], [(1, 1, 4, 5)], []]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["step 1", "step 2", "true"]


def test_boxes_keep_the_images_limits() -> None:
    outside = made_up.additive()
    outside = replace(outside, boxes=outside.boxes.clone() + torch.tensor([-5.0, -5.0, 20.0, 20.0]))
    axes = boxes_figure(made_up.batch(), outside).axes[0]
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 11.5), (11.5, -0.5))


def test_boxes_around_masks_where_a_model_has_none() -> None:
    decomposition = made_up.mixture()
    figure = boxes_figure(decomposition.reconstruction, decomposition)
    boxes = [box for _, _, box in outlines(figure.axes[0])]
    assert boxes == [(0, 0, 3, 12), (3, 0, 6, 12), (6, 0, 9, 12), (9, 0, 12, 12)]
    assert figure.axes[0].get_title() == "found 4"


def test_the_most_present_slots_are_drawn_in_their_own_colours() -> None:
    """A slot model may leave its first slots empty."""
    decomposition = replace(made_up.additive(), count_probs=None, presence=torch.tensor([[1.0, 0.2, 0.9]] * 3))
    figure = boxes_figure(made_up.batch(), decomposition)
    assert outlines(figure.axes[0]) == [(GREEN, False, (6, 7, 11, 10))]


def test_boxes_from_numpy_arrays_and_limits() -> None:
    scenes = made_up.batch()
    figure = boxes_figure(scenes.images.numpy(), made_up.additive(), true_counts=np.array([2, 0, 0]), max_images=2)
    assert [axes.get_title() for axes in figure.axes] == ["true 2, found 2 (p=.90)", "true 0, found 0 (p=.70)"]


def test_boxes_refuses_what_cannot_work() -> None:
    with pytest.raises(UserError, match="at least one image"):
        boxes_figure(torch.zeros(0, 1, 4, 4), made_up.additive())
    with pytest.raises(UserError, match="needs a batch"):
        boxes_figure(made_up.batch().images, made_up.additive(), true_boxes=True)


# -- decomposition ------------------------------------------------------------------------------------------------


def test_decomposition_of_an_additive_model() -> None:
    decomposition = made_up.additive()
    figure = decomposition_figure(made_up.batch(), decomposition)
    grid = np.array(figure.axes).reshape(3, 6)
    names = ["input", "reconstruction", "segmentation", "background", "slot 1", "slot 2"]
    assert [axes.get_title() for axes in grid[0]] == names
    assert [axes.get_xlabel() for axes in grid[0, 3:]] == ["p=1", "p=.98", "p=.90"]
    assert [axes.get_xlabel() for axes in grid[2, 3:]] == ["p=1", "p=.02", "p<.01"]
    np.testing.assert_allclose(pixels(grid[0, 1])[..., 0], decomposition.reconstruction[0, 0], atol=1e-6)
    np.testing.assert_allclose(pixels(grid[0, 5])[..., 2], decomposition.components[0, 2, 0], atol=1e-6)
    segmentation = pixels(grid[0, 2])
    assert to_hex(segmentation[0, 0]) == style.SCENE_BACKGROUND
    assert to_hex(segmentation[2, 2]) == RED
    assert to_hex(segmentation[8, 8]) == GREEN
    assert to_hex(grid[0, 4].spines["top"].get_edgecolor()) == RED
    assert to_hex(grid[0, 5].spines["top"].get_edgecolor()) == GREEN


def test_decomposition_of_a_mixture_in_colour() -> None:
    decomposition = made_up.mixture()
    figure = decomposition_figure(decomposition.reconstruction, decomposition)
    grid = np.array(figure.axes).reshape(2, 7)
    assert [axes.get_title() for axes in grid[0, 3:]] == ["slot 1", "slot 2", "slot 3", "slot 4"]
    np.testing.assert_allclose(pixels(grid[1, 3])[0, 0], decomposition.components[1, 0, :, 0, 0], atol=1e-6)
    np.testing.assert_allclose(pixels(grid[0, 2])[5, 11], to_rgb(style.STEP_COLOURS[3]))
    masked = np.array(decomposition_figure(decomposition.reconstruction, decomposition, masked=True).axes).reshape(2, 7)
    np.testing.assert_allclose(pixels(masked[0, 3])[0, 11], 1.0)
    np.testing.assert_allclose(pixels(masked[0, 3])[0, 0], decomposition.components[0, 0, :, 0, 0], atol=1e-6)


def test_background_slots_may_be_anywhere() -> None:
    decomposition = replace(made_up.mixture(), background=(1, 3))
    grid = np.array(decomposition_figure(decomposition.reconstruction, decomposition).axes).reshape(2, 7)
    assert [axes.get_title() for axes in grid[0, 3:]] == ["slot 1", "background 1", "slot 2", "background 2"]
    assert to_hex(pixels(grid[0, 2])[0, 7]) == GREEN
    assert to_hex(pixels(grid[0, 2])[0, 4]) == style.SCENE_BACKGROUND


# -- steps --------------------------------------------------------------------------------------------------------


def test_steps_from_components() -> None:
    decomposition = made_up.additive()
    grid = np.array(steps_figure(made_up.batch(), decomposition).axes).reshape(3, 3)
    assert [axes.get_title() for axes in grid[0]] == ["input", "after step 1", "after step 2"]
    one, two = pixels(grid[0, 1])[..., 0], pixels(grid[0, 2])[..., 0]
    assert (one[2, 2], one[8, 8]) == pytest.approx((0.98, 0.0))
    assert (two[2, 2], two[8, 8]) == pytest.approx((0.98, 0.9))
    assert outlines(grid[0, 0]) == []
    assert [colour for colour, _, _ in outlines(grid[0, 1])] == [RED]
    assert [colour for colour, _, _ in outlines(grid[0, 2])] == [RED, GREEN]
    assert outlines(grid[1, 2]) == []
    assert [axes.get_xlabel() for axes in grid[1, 1:]] == ["p=.30", "p=.10"]


def test_steps_from_a_trajectory() -> None:
    grid = np.array(steps_figure(made_up.batch(), made_up.additive(trajectory=True)).axes).reshape(3, 3)
    np.testing.assert_allclose(pixels(grid[0, 1]), 0.25)
    np.testing.assert_allclose(pixels(grid[0, 2]), 0.5)


def test_steps_of_a_mixture_end_at_its_reconstruction() -> None:
    decomposition = made_up.mixture()
    grid = np.array(steps_figure(decomposition.reconstruction, decomposition).axes).reshape(2, 5)
    np.testing.assert_allclose(
        pixels(grid[0, 4]), np.moveaxis(decomposition.reconstruction[0].numpy(), 0, -1), atol=1e-6
    )
    np.testing.assert_allclose(pixels(grid[0, 1])[:, 3:], 0.0)


@pytest.mark.parametrize("length", [4, 20])  # as many steps as slots, or more
def test_refinement_steps_have_neither_boxes_nor_probabilities(length: int) -> None:
    base = made_up.mixture()
    decomposition = replace(base, trajectory=tuple(base for _ in range(length)))
    grid = np.array(steps_figure(base.reconstruction, decomposition, max_steps=4).axes).reshape(2, 5)
    assert grid[0, -1].get_title() == f"after step {length}"
    assert grid[0, 1].get_title() == "after step 1"
    assert all(axes.get_xlabel() == "" for axes in grid.flat)


# -- confusion ----------------------------------------------------------------------------------------------------


def test_confusion_shows_numbers_and_row_percentages_true_by_predicted() -> None:
    scores = count_scores(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 2, 1, 1]))
    figure = confusion_figure(scores)
    axes = figure.axes[0]
    texts = {
        (
            round(t.get_position()[0]),
            round(t.get_position()[1]),
            t.get_position()[1] > round(t.get_position()[1]),
        ): t.get_text()
        for t in axes.texts
    }
    assert texts[0, 0, False] == "2"
    assert texts[2, 0, False] == "1"  # x is predicted, y is true: one scene without objects was taken for two
    assert texts[0, 2, False] == "0"
    assert texts[2, 0, True] == "33.3 %"
    assert texts[1, 1, True] == "100 %"
    assert (0, 2, True) not in texts  # no scene has two objects: there is no share
    assert axes.get_xlabel().startswith("predicted")
    assert axes.get_ylabel().startswith("true")
    assert axes.get_title().startswith("80.0 % right, n = 5")
    assert axes.yaxis_inverted()
    assert len(axes.patches) == 9


def test_confusion_of_a_plain_matrix() -> None:
    assert confusion_figure(np.eye(3, dtype=int)).axes[0].get_title() == ""
    with pytest.raises(UserError, match="square"):
        confusion_figure(np.zeros((2, 3)))


# -- curves -------------------------------------------------------------------------------------------------------


def rows() -> list[dict[str, object]]:
    train = [{"step": s, "split": "train", "loss": float(100 - s), "kl": 1.0} for s in range(0, 50, 10)]
    held_out = [{"step": s, "split": "val", "loss": 90.0 - s, "count_accuracy": s / 50} for s in (0, 40)]
    odd = [
        {"step": 5, "split": "train", "loss": math.nan, "kl": None, "note": "text", "stopped": True},
        {"step": None, "split": "train", "loss": 3.0},
        {"split": "train", "loss": 3.0},
        {"step": 40, "split": "train", "loss": 1.5},  # logged again after a resume
    ]
    return train + held_out + odd


def test_curves_are_one_panel_per_quantity() -> None:
    figure = curves_figure(rows())
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}
    assert list(panels) == ["loss", "kl", "count accuracy"]
    lines = {line.get_label(): line for line in panels["loss"].get_lines()}
    assert set(lines) == {"train", "val"}
    np.testing.assert_array_equal(lines["train"].get_xdata(), [0, 5, 10, 20, 30, 40])
    np.testing.assert_array_equal(lines["train"].get_ydata(), [100, math.nan, 90, 80, 70, 1.5])
    np.testing.assert_array_equal(lines["val"].get_ydata(), [90, 50])
    assert lines["train"].get_color() != lines["val"].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train", "val"]


def test_curves_choose_quantities_and_survive_nothing() -> None:
    figure = curves_figure(rows(), names=["count_accuracy", "absent"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["count accuracy"]
    assert "no training curves" in curves_figure([]).texts[0].get_text()
    assert curves_figure([{"step": 1, "split": "train", "loss": math.inf}]).axes


def test_series_read_from_json_lines() -> None:
    lines = "\n".join(json.dumps(row) for row in rows())
    series = curve_series(json.loads(line) for line in lines.splitlines())
    assert set(series) == {("loss", "train"), ("kl", "train"), ("loss", "val"), ("count_accuracy", "val")}


def test_long_curves_are_smoothed_without_moving() -> None:
    values = np.arange(200.0)
    values[50] = math.nan
    np.testing.assert_allclose(
        running_mean(values, 5)[3:-3],
        np.where(np.arange(200) == 50, 50, running_mean(np.arange(200.0), 5))[3:-3],
        atol=1.0,
    )
    np.testing.assert_allclose(running_mean(np.arange(200.0), 5)[2:-2], np.arange(2.0, 198.0))
    figure = curves_figure([{"step": s, "split": "train", "loss": float(s)} for s in range(200)])
    assert len(figure.axes[0].get_lines()) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train"]


def test_a_wild_start_does_not_flatten_the_rest() -> None:
    wild = [{"step": s, "split": "train", "loss": 1e4 if s < 3 else s / 100, "kl": float(s)} for s in range(100)]
    loss, kl = curves_figure(wild).axes
    low, high = loss.get_ylim()
    assert low < 0.1
    assert 0.99 < high < 1.2
    assert [text.get_text() for text in loss.texts] == ["start not shown"]
    assert kl.get_ylim()[1] >= 99
    assert not kl.texts


# -- what all share -----------------------------------------------------------------------------------------------

FIGURES = {
    "boxes": lambda: boxes_figure(made_up.batch(), made_up.additive(), true_boxes=True),
    "many boxes": lambda: boxes_figure(made_up.mixture(12).reconstruction, made_up.mixture(12)),
    "one scene": lambda: boxes_figure(made_up.batch(), made_up.additive(), max_images=1),
    "decomposition": lambda: decomposition_figure(made_up.batch(), made_up.additive()),
    "steps": lambda: steps_figure(made_up.batch(), made_up.additive()),
    "confusion": lambda: confusion_figure(count_scores(np.arange(3), np.array([0, 2, 2]))),
    "large confusion": lambda: confusion_figure(np.full((8, 8), 12345)),
    "curves": lambda: curves_figure(rows()),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_overlaps_or_leaves_the_figure(name: str) -> None:
    assert texts_overlap(FIGURES[name]()) == []


def test_overlap_check_sees_an_overlap() -> None:
    figure = Figure(figsize=(2, 2))
    figure.text(0.1, 0.5, "first words")
    figure.text(0.15, 0.5, "second words")
    figure.text(0.9, 0.1, "far too long for it")
    assert len(texts_overlap(figure)) == 2


@pytest.mark.parametrize("name", ["boxes", "curves", "confusion"])
def test_dark_drawing_is_dark_and_leaves_the_figure_alone(name: str) -> None:
    figure = FIGURES[name]()
    light = figure_png(figure)
    dark = np.asarray(Image.open(io.BytesIO(figure_png(figure, theme="dark"))).convert("RGB"))
    assert to_hex(dark[1, 1] / 255.0) == style.DARK[style.PAPER]
    ink = np.abs(dark.astype(int) - np.array([31, 36, 48])).max(axis=-1)  # style.INK
    assert (ink <= 1).mean() < 1e-3, "ink of the light theme on dark paper"
    assert figure_png(figure) == light


def test_png_and_rgb_have_the_asked_resolution() -> None:
    figure = FIGURES["confusion"]()
    width, height = figure.get_size_inches()
    assert Image.open(io.BytesIO(figure_png(figure, dpi=50))).size == pytest.approx((width * 50, height * 50), abs=1)
    rgb = figure_rgb(figure, dpi=80)
    assert rgb.shape == pytest.approx((height * 80, width * 80, 3), abs=1)
    assert rgb.dtype == np.uint8
    assert figure.dpi == 100.0


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "p=0"), (1.0, "p=1"), (0.98, "p=.98"), (0.996, "p>.99"), (0.001, "p<.01"), (0.5, "p=.50")]
)
def test_probabilities_claim_no_certainty(value: float, text: str) -> None:
    assert style.probability(value) == text


def test_pictures_of_any_range_and_type() -> None:
    image = torch.tensor([[[-1.0, 0.5], [2.0, math.nan]]], dtype=torch.bfloat16)
    np.testing.assert_array_equal(style.picture(image)[..., 1], [[0.0, 0.5], [1.0, 0.0]])
    assert style.picture(torch.zeros(3, 4, 5)).shape == (4, 5, 3)


def test_drawing_needs_no_pyplot() -> None:
    code = (
        "import sys, objectwise.figures as f, numpy as np; f.figure_png(f.confusion_figure(np.eye(2)));"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- inferred scenes and costs ----------------------------------------------------------------------------------------


def test_views_figure_shows_every_image_from_everywhere() -> None:
    images, drawn = torch.rand(3, 3, 6, 8), torch.rand(3, 3, 6, 8)
    views = torch.rand(3, 2, 3, 6, 8)
    figure = views_figure(images, drawn, views, (60.0, -90.0), heading="first", notes=["a", "b\nc", "d"], max_images=2)
    axes = np.array(figure.axes).reshape(4, 2)
    names = [[text.get_text() for text in row[0].texts][-1] for row in axes]
    assert names == ["image", "inferred", "from +60°", "from -90°"]
    for row, expected in zip(axes, (images, drawn, views[:, 0], views[:, 1]), strict=True):
        for cell, image in zip(row, expected, strict=False):
            np.testing.assert_allclose(cell.images[0].get_array(), image.movedim(0, -1), atol=1e-6)
    assert [cell.get_xlabel() for cell in axes[-1]] == ["a", "b\nc"]
    with pytest.raises(UserError, match="do not fit 3 images and 1 turns"):
        views_figure(images, drawn, views, (60.0,))
    with pytest.raises(UserError, match="1 notes do not fit 3 images"):
        views_figure(images, drawn, views, (60.0, -90.0), notes=["a"])


def test_cost_figure_has_two_logarithmic_axes_and_no_impossible_points() -> None:
    series = {"a": [(1.0, 0.5, "x"), (10.0, 0.1, ""), (100.0, 0.0, "zero")], "b": [(float("nan"), 1.0, "")]}
    figure = cost_figure(series, "ms", "error", goal=0.2)
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    dots = [line for line in axes.get_lines() if line.get_label() == "a"]
    assert [list(line.get_xdata()) for line in dots] == [[1.0, 10.0]]
    assert [text.get_text() for text in axes.texts] == ["x"]
    with pytest.raises(UserError, match="at least one point"):
        cost_figure({"b": series["b"]}, "ms", "error")
