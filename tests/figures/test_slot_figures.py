"""The figures of slot models: what each pixel, colour and note says."""

from __future__ import annotations

from dataclasses import replace

import made_up
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from test_figures import pixels, texts_overlap

from objectwise.core import Batch, Decomposition, UserError
from objectwise.figures import (
    GalleryPanel,
    completion_figure,
    component_vae_figure,
    failures_figure,
    figure_png,
    gallery_caption,
    masks_figure,
    seed_scores_figure,
    slots_figure,
    style,
    worst_rows,
)
from objectwise.figures.completion import COMPLETED, INVENTED, MISSED, SEEN, compared
from objectwise.figures.masks import mask_scopes
from objectwise.figures.slots import UNMATCHED, mask_entropy

SIDE = made_up.SIDE


def stripes() -> Batch:
    """Two images whose true segments are the stripes of ``made_up.mixture``, named in another order, but for the last two."""
    ids = (torch.arange(SIDE) * 4 // SIDE).clamp(max=2)
    names = torch.tensor([2, 0, 1])[ids].expand(2, SIDE, SIDE)
    return Batch(torch.arange(2), made_up.mixture().reconstruction, names.clone())


def attentive() -> Decomposition:
    """``made_up.mixture`` with decoded masks: a half for each of the first two slots, everywhere."""
    out = made_up.mixture()
    decoded = torch.zeros_like(out.masks)
    decoded[:, :2] = 0.5
    return replace(out, decoded_masks=decoded)


def grid(figure: Figure, rows: int) -> np.ndarray:
    return np.array(figure.axes).reshape(rows, -1)


def row_names(place: Axes) -> list[str]:
    return [text.get_text() for text in place.texts]


def frame(axes: Axes) -> str:
    return to_hex(axes.spines["top"].get_edgecolor())


# -- slots ------------------------------------------------------------------------------------------------------------


def test_slots_figure_has_a_column_per_image_and_a_row_per_slot() -> None:
    out = made_up.mixture()
    out = replace(out, presence=torch.tensor([[1.0, 1.0, 0.0, 1.0], [1.0] * 4]), components=out.components * 4.0 - 1.0)
    figure = slots_figure(stripes(), out, notes=["ARI 0.50", "not scored"], heading="two made-up images")
    axes = grid(figure, 8)
    assert [row_names(place)[-1] for place in axes[:, 0]] == [
        "data", "reconstruction", "true segments", "segments", "slot 1", "slot 2", "slot 3", "slot 4",
    ]  # fmt: skip
    assert row_names(axes[0, 0])[0] == "two made-up images"
    assert [place.get_xlabel() for place in axes[-1]] == ["ARI 0.50", "not scored"]
    np.testing.assert_allclose(pixels(axes[0, 1]), pixels(axes[1, 1]), atol=1e-6)
    assert [frame(place) for place in axes[4:, 0]] == [
        *style.STEP_COLOURS[:2], style.RULE, style.STEP_COLOURS[3],
    ]  # fmt: skip
    assert frame(axes[6, 1]) == style.STEP_COLOURS[2]
    assert [text.get_color() for place in axes[4:, 0] for text in place.texts] == list(style.STEP_COLOURS[:4])
    shown = pixels(axes[7, 0])
    assert (shown.min(), shown.max()) == (0.0, 1.0)  # clipped: the values went from -1 to beyond 2
    assert texts_overlap(figure) == []


def test_true_segments_have_the_colours_of_their_slots_or_grey() -> None:
    """The last true segment is two stripes: one slot is matched with it, the other slot's colour does not occur."""
    figure = slots_figure(stripes(), made_up.mixture())
    axes = grid(figure, 8)
    true, found = pixels(axes[2, 0]), pixels(axes[3, 0])
    np.testing.assert_allclose(true[:, : SIDE // 2], found[:, : SIDE // 2])
    halves = {to_hex(colour) for colour in true[0, SIDE // 2 :]}
    assert len(halves) == 1
    assert halves < set(style.STEP_COLOURS[2:4])
    one = Batch(torch.arange(1), torch.zeros(1, 3, SIDE, SIDE), torch.arange(SIDE).repeat(1, SIDE, 1) % 6)
    greys = {to_hex(colour) for colour in pixels(grid(slots_figure(one, made_up.mixture()), 8)[2, 0])[0]}
    assert set(UNMATCHED[:2]) < greys  # six segments, four slots
    assert len(greys) == 6


def test_slots_figure_without_truth_and_its_refusals() -> None:
    out = made_up.mixture()
    assert len(slots_figure(out.reconstruction, out).axes) == 2 * 7
    with pytest.raises(UserError, match="1 notes do not fit 2 images"):
        slots_figure(out.reconstruction, out, notes=["one"])
    with pytest.raises(UserError, match="at least one image"):
        slots_figure(torch.zeros(0, 3, 4, 4), out)


def test_eleven_slots_have_eleven_colours() -> None:
    assert len({style.step_colour(slot) for slot in range(11)}) == 11


# -- component VAE ----------------------------------------------------------------------------------------------------


def test_component_vae_shows_both_kinds_of_masks_on_white() -> None:
    out = attentive()
    figure = component_vae_figure(out.reconstruction, out)
    axes = grid(figure, 5)
    assert [place.get_title() for place in axes[0]] == ["data", "mixture", "segmentation"] * 2
    assert [place.get_title() for place in axes[1]] == ["unmasked", "attention mask", "decoded mask"] * 2
    colour = out.components[0, 0, :, 0, 0].numpy()
    unmasked, attention, decoded = (pixels(place) for place in axes[1, :3])
    np.testing.assert_allclose(unmasked[0, -1], colour, atol=1e-6)
    np.testing.assert_allclose(attention[0, 0], colour, atol=1e-6)
    np.testing.assert_allclose(attention[0, -1], 1.0)
    np.testing.assert_allclose(decoded[0, -1], 0.5 * colour + 0.5, atol=1e-6)
    np.testing.assert_allclose(pixels(axes[3, 2]), 1.0)
    assert texts_overlap(figure) == []


def test_component_vae_needs_decoded_masks() -> None:
    out = made_up.mixture()
    with pytest.raises(UserError, match="needs decoded masks"):
        component_vae_figure(out.reconstruction, out)
    assert len(component_vae_figure(out.reconstruction, out, decoded_masks=out.masks, max_images=1).axes) == 15


def test_component_vae_of_a_model_that_is_scored_by_decoded_masks() -> None:
    """Slot Attention's side of the contract: masks are decoded, attention's beside them."""
    out = attentive()
    other = replace(out, masks=out.decoded_masks, attention_masks=out.masks, decoded_masks=None)
    first, second = (component_vae_figure(out.reconstruction, one) for one in (out, other))
    for a, b in zip(grid(first, 5)[1:].flat, grid(second, 5)[1:].flat, strict=True):
        np.testing.assert_array_equal(pixels(a), pixels(b))


# -- masks and scopes -------------------------------------------------------------------------------------------------


def test_scopes_are_what_earlier_slots_left() -> None:
    masks = np.array([0.5, 0.25, 0.2, 0.05]).reshape(1, 4, 1, 1)
    np.testing.assert_allclose(mask_scopes(masks).flatten(), [1.0, 0.5, 0.25, 0.05], atol=1e-12)


def test_mask_entropy_is_one_where_nothing_is_decided() -> None:
    masks = torch.tensor([[0.25, 1.0], [0.25, 0.0], [0.25, 0.0], [0.25, 0.0]]).view(1, 4, 1, 2)
    np.testing.assert_allclose(mask_entropy(masks).flatten(), [1.0, 0.0], atol=1e-12)
    assert mask_entropy(torch.ones(1, 1, 2, 2)).max() == 0.0


def test_masks_figure_shows_masks_over_their_scopes() -> None:
    out = attentive()
    figure = masks_figure(out.reconstruction, out, max_images=1)
    axes = grid(figure, 2)
    assert [place.get_title() for place in axes[0]] == ["data", "slot 1", "slot 2", "slot 3", "slot 4", "undecided"]
    assert (row_names(axes[0, 1]), row_names(axes[1, 1])) == (["mask"], ["scope"])
    np.testing.assert_array_equal(pixels(axes[0, 2])[..., 0], out.masks[0, 1])
    np.testing.assert_array_equal(pixels(axes[1, 1]), 1.0)
    np.testing.assert_array_equal(pixels(axes[1, 4]), pixels(axes[0, 4]))  # the last slot takes all that is left
    assert axes[0, 5].get_xlabel() == "mean 0.00"
    assert texts_overlap(figure) == []
    together = masks_figure(out.reconstruction, out, scopes=False)
    assert len(together.axes) == 2 * 7
    assert texts_overlap(together) == []
    beside = replace(out, masks=out.decoded_masks, attention_masks=out.masks, decoded_masks=None)
    shown = grid(masks_figure(out.reconstruction, beside, max_images=1), 2)
    np.testing.assert_array_equal(pixels(shown[0, 2])[..., 0], out.masks[0, 1])


# -- failures ---------------------------------------------------------------------------------------------------------


def test_worst_rows_are_the_worst_and_nothing_else() -> None:
    scores = np.array([0.5, np.nan, 0.1, 0.9, 0.1, -0.2])
    assert worst_rows(scores, 3).tolist() == [5, 2, 4]
    assert worst_rows(scores, 9).tolist() == [5, 2, 4, 0, 3]
    assert worst_rows(torch.tensor([0.5, 0.1, 0.9]), 2, high_is_bad=True).tolist() == [2, 0]
    assert worst_rows(np.array([np.nan]), 2, high_is_bad=True).tolist() == []


def test_the_gallery_says_which_images_it_holds() -> None:
    scenes, out = stripes(), made_up.mixture()
    worst = GalleryPanel("the worst", scenes.select(slice(1)), out.select(slice(1)), ["-0.20"])
    figure = failures_figure([worst, GalleryPanel("the first", scenes, out, ["0.10", "not scored"])])
    axes = grid(figure, 8)
    assert [text for place in axes[:, 0] for text in row_names(place)] == [
        "the worst", "data", "reconstruction", "true segments", "segments",
        "the first", "data", "reconstruction", "true segments", "segments",
    ]  # fmt: skip
    assert [axes[3, 0].get_xlabel(), axes[7, 0].get_xlabel(), axes[7, 1].get_xlabel()] == [
        "-0.20",
        "0.10",
        "not scored",
    ]
    assert not axes[0, 1].axison
    assert texts_overlap(figure) == []
    caption = gallery_caption("foreground ARI", shown=1, scored=5, searched=6)
    assert "1 worst of 5 images" in caption
    assert "6 images were looked at, 1 of which have no foreground ARI" in caption
    assert "none was picked" in caption
    with pytest.raises(UserError, match="at least one panel"):
        failures_figure([])
    with pytest.raises(UserError, match="1 notes do not fit 2 images"):
        failures_figure([GalleryPanel("", scenes, out, ["one"])])


# -- completion -------------------------------------------------------------------------------------------------------


def strip(bits: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in bits]])


def test_drawn_shapes_are_compared_pixel_by_pixel() -> None:
    picture = compared(strip("####..."), strip("##....."), strip("#.#..#."))
    assert [to_hex(colour) for colour in picture[0]] == [
        SEEN, MISSED, COMPLETED, MISSED, style.SCENE_BACKGROUND, INVENTED, style.SCENE_BACKGROUND,
    ]  # fmt: skip


def test_completion_figure_has_a_row_per_way_of_telling() -> None:
    full, visible = np.stack([strip("####...")] * 5), np.stack([strip("##.....")] * 5)
    images = torch.zeros(5, 3, 1, 7)
    drawn = {"by colour": full, "by mask": visible}
    figure = completion_figure(images, full, visible, images + 0.5, drawn, notes=["0.50: 1.00"] * 5)
    axes = grid(figure, 5)
    assert [row_names(place)[0] for place in axes[:, 0]] == [
        "data", "whole shape", "slot, unmasked", "by colour", "by mask",
    ]  # fmt: skip
    assert [to_hex(colour) for colour in pixels(axes[1, 0])[0, 1:4]] == [SEEN, MISSED, MISSED]
    assert to_hex(pixels(axes[3, 4])[0, 3]) == COMPLETED
    assert to_hex(pixels(axes[4, 4])[0, 3]) == MISSED
    np.testing.assert_allclose(pixels(axes[2, 0]), 0.5)
    assert axes[4, 0].get_xlabel() == "0.50: 1.00"
    assert len(figure.legends[0].get_texts()) == 4
    with pytest.raises(UserError, match="as many and as large"):
        completion_figure(images, full[:, :, :5], visible, images, drawn)
    with pytest.raises(UserError, match="1 notes do not fit 5 objects"):
        completion_figure(images, full, visible, images, drawn, notes=["one"])


# -- scores of seeds --------------------------------------------------------------------------------------------------


def test_every_seed_is_a_dot_and_medians_are_lines() -> None:
    nan = float("nan")
    scores = {"mixture loss": {"different": [0.9, 0.7, 0.8], "same": [0.1]}, "other": {"different": [0.5, nan]}}
    figure = seed_scores_figure(scores, "foreground ARI", published={"other": 0.6}, limits=(0.0, 1.0))
    axes = figure.axes[0]
    dots = sorted(y for line in axes.get_lines() if line.get_marker() == "o" for y in line.get_ydata())
    assert dots == [0.1, 0.5, 0.7, 0.8, 0.9]
    levels = sorted(float(line.get_ydata()[0]) for line in axes.get_lines() if line.get_marker() == "None")
    assert levels == [0.1, 0.5, 0.6, 0.8]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["different", "same", "published"]
    assert axes.get_ylim() == (0.0, 1.0)
    long = {f"a rather long name of the method number {number}": [0.5] for number in range(4)}
    named = seed_scores_figure({"one": long, "two": long}, "score")
    assert named.legends[0].get_window_extent().x1 <= named.bbox.x1
    wider = seed_scores_figure({"one": {"": [-0.3, 2.0]}}, "score", limits=(0.0, 1.0)).axes[0]
    assert wider.get_ylim() == (-0.3, 2.0)
    assert seed_scores_figure({"one": {"": [1e-3, 1e-2]}}, "error", log=True).axes[0].get_yscale() == "log"
    assert texts_overlap(figure) == []
    with pytest.raises(UserError, match="at least one score"):
        seed_scores_figure({"one": {"": [nan]}}, "score")


def test_scores_in_few_characters() -> None:
    texts = [style.score_text(value) for value in (0.0, -0.001, 0.987, float("nan"))]
    assert texts == ["0.00", "0.00", "0.99", "not scored"]
    assert style.score_text(0.00123, 4) == "0.0012"


def test_the_same_figure_gives_the_same_bytes_and_suits_dark_paper() -> None:
    out = attentive()
    for draw in (slots_figure, component_vae_figure, masks_figure):
        light = figure_png(draw(out.reconstruction, out, max_images=1), dpi=50)
        assert light == figure_png(draw(out.reconstruction, out, max_images=1), dpi=50)
        figure = draw(out.reconstruction, out, max_images=1)
        assert figure_png(figure, dpi=50, theme="dark") != light
        assert figure_png(figure, dpi=50) == light


def test_background_slots_are_dark() -> None:
    out = replace(attentive(), background=(0,))
    axes = grid(slots_figure(out.reconstruction, out), 7)
    assert [row_names(place)[0] for place in axes[3:, 0]] == ["background", "slot 1", "slot 2", "slot 3"]
    np.testing.assert_allclose(pixels(axes[2, 0])[0, 0], to_rgb(style.SCENE_BACKGROUND))
