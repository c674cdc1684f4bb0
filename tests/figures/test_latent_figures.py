"""The figures of single latents and of the 2016 paper: what each pixel, line and label says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from test_figures import pixels, texts_overlap

from objectwise import figures
from objectwise.core import UserError
from objectwise.figures import style

STOPS = (-3.0, 0.0, 3.0)
STDS = np.array([0.9, 0.05, 0.3])


def traversed() -> np.ndarray:
    """(3, 3, 1, 4, 6): latent d at its v-th value is uniformly 0.1 (3 d + v)."""
    grey = 0.1 * (3 * np.arange(3)[:, None] + np.arange(3))
    return np.broadcast_to(grey[:, :, None, None, None], (3, 3, 1, 4, 6))


def images(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.images]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def named(axes: Axes) -> dict[str, np.ndarray]:
    """Label -> (points, 2) of every line that has one."""
    return {
        str(line.get_label()): np.asarray(line.get_xydata()) for line in axes.get_lines() if line.get_label()[0] != "_"
    }


# -- single latents ---------------------------------------------------------------------------------------------------


def test_traversals_are_rows_by_posterior_standard_deviation_on_one_scale() -> None:
    figure = figures.traversal_figure(traversed(), STOPS, STDS, dead=[0])
    cells = images(figure)
    shown = np.array([pixels(axes)[0, 0, 0] for axes in cells]).reshape(3, 3)
    np.testing.assert_allclose(shown[:2], [[0.3, 0.4, 0.5], [0.6, 0.7, 0.8]], atol=1e-6)
    # An unused latent is pale: pulled towards a grey, not stretched in contrast.
    assert np.ptp(shown[2]) == pytest.approx(0.35 * 0.2)
    assert {axes.images[0].get_clim() for axes in cells} == {(0.0, 1.0)}
    assert [axes.get_title() for axes in cells[:3]] == ["-3", "0", "+3"]
    assert words(figure) == ["z1\nσ 0.05", "z2\nσ 0.30", "z0  unused\nσ 0.90"]
    first = cells[0].get_position()
    width, height = figure.get_size_inches()
    assert first.width * width / (first.height * height) == pytest.approx(6 / 4, rel=1e-6)


def test_traversals_by_given_order_with_the_encoded_picture_and_what_is_left_out() -> None:
    origin = torch.full((1, 4, 6), 0.25)
    figure = figures.traversal_figure(
        torch.from_numpy(traversed().copy()), STOPS, STDS, order=[2, 0, 1], origin=origin, max_rows=2
    )
    cells = images(figure)
    assert len(cells) == 7
    assert pixels(cells[0])[0, 0, 0] == pytest.approx(0.6)
    assert pixels(cells[6]).mean() == pytest.approx(0.25)
    assert words(figure)[-2:] == ["encoded", "1 more latents are not shown"]
    for bad in (traversed()[:2], traversed()[:, :2], traversed()[:, :, 0]):
        with pytest.raises(UserError, match="traversals need images"):
            figures.traversal_figure(bad, STOPS, STDS)


def test_standard_deviations_are_sorted_and_reach_the_prior() -> None:
    figure = figures.posterior_std_figure({"β = 1": [STDS, STDS[::-1] + 0.01], "β = 4": [np.ones(3)]}, title="one ball")
    (axes,) = figure.axes
    lines = axes.get_lines()
    np.testing.assert_allclose(lines[0].get_ydata(), [0.05, 0.3, 0.9])
    np.testing.assert_allclose(lines[1].get_ydata(), [0.06, 0.31, 0.91])
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert list(named(axes)) == ["β = 1", "β = 4"]
    assert lines[-1].get_ydata() == [1.0, 1.0]  # the prior
    few = figures.posterior_std_figure({"a": [STDS]}, max_latents=2).axes[0].get_lines()[0]
    np.testing.assert_allclose(few.get_ydata(), [0.05, 0.3])


def test_the_matrix_of_codes_says_its_numbers() -> None:
    matrix = np.array([[0.9, 0.0], [0.005, 0.45]])
    figure = figures.code_matrix_figure(matrix, ["x", "y"], quantity="information", dead=[1])
    (axes,) = figure.axes
    np.testing.assert_allclose(pixels(axes), matrix)
    assert axes.images[0].get_clim() == (0.0, 0.9)
    said = {tuple(text.get_position()): text.get_text() for text in axes.texts}
    assert said == {(0, 0): "0.90", (1, 1): "0.45"}  # column k, row d; next to nothing is not written
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y"]
    assert [to_hex(label.get_color()) for label in axes.get_yticklabels()] == [to_hex(style.INK), to_hex(style.MUTED)]


def test_latents_switch_on_as_the_capacity_rises() -> None:
    steps, capacity = np.array([0, 10_000, 20_000]), np.array([0.0, 2.0, 4.0])
    kl = np.array([[0.0, 0.0, 0.01], [0.0, 1.8, 0.0], [1.5, 2.2, 0.0]])
    figure = figures.capacity_figure(steps, kl, capacity, excess=np.array([50.0, 30.0, 10.0]))
    above, below = figure.axes
    shown = named(above)
    assert set(shown) == {"z0", "z1", "sum", "capacity C"}  # the third latent never says anything
    np.testing.assert_allclose(shown["z1"][:, 1], [0.0, 1.8, 2.2])
    np.testing.assert_allclose(shown["sum"][:, 1], [0.01, 1.8, 3.7])
    np.testing.assert_allclose(shown["capacity C"], np.stack([steps, capacity], axis=1))
    np.testing.assert_allclose(below.get_lines()[0].get_ydata(), [50.0, 30.0, 10.0])
    assert len(figures.capacity_figure(steps, kl).axes) == 1


def test_numbers_against_beta_have_lines_through_medians_and_published_diamonds() -> None:
    series = {"fc": [(0.1, 1.0), (1.0, 4.0), (0.1, 3.0), (0.1, 9.0)], "conv": [(1.0, 2.0)]}
    figure = figures.beta_figure(series, "excess", reference={"fc": [(0.1, 0.3)]}, band=(0.01, 0.1))
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    np.testing.assert_allclose(named(axes)["fc"], [[0.1, 3.0], [1.0, 4.0]])
    lines = axes.get_lines()
    np.testing.assert_allclose(np.asarray(lines[0].get_xydata()), [[0.1, 1.0], [0.1, 3.0], [0.1, 9.0], [1.0, 4.0]])
    np.testing.assert_allclose(np.asarray(lines[2].get_xydata()), [[0.1, 0.3]])
    assert lines[2].get_marker() == "D"
    assert lines[2].get_markeredgecolor() == lines[1].get_color()
    (band,) = axes.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((0.01, 0.1))  # type: ignore[attr-defined]


def test_rate_and_distortion_have_a_labelled_point_per_run() -> None:
    figure = figures.rate_distortion_figure({"fc": [(9.0, 1.0, "β = 0.1"), (4.0, 3.0, "β = 1")]})
    (axes,) = figure.axes
    np.testing.assert_allclose(named(axes)["fc"], [[4.0, 3.0], [9.0, 1.0]])
    assert [(text.get_text(), text.xy) for text in axes.texts] == [("β = 1", (4.0, 3.0)), ("β = 0.1", (9.0, 1.0))]  # type: ignore[attr-defined]


# -- the paper's ------------------------------------------------------------------------------------------------------


def responses() -> tuple[np.ndarray, dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], np.ndarray]:
    """Three latents: the second says x, the first a little, the third nothing."""
    position = np.zeros((3, 4, 4))
    position[1] = np.linspace(-1.8, 1.8, 4)
    position[0] = np.linspace(-0.4, 0.4, 4)[:, None]
    values = np.linspace(0.5, 1.0, 6)
    curve = np.stack([np.zeros(6), np.zeros(6), np.linspace(-0.1, 0.1, 6)])
    curves = {
        "scale": {"square": (values, curve), "heart": (values, curve + 0.5)},
        "rotation": {"square": (values, curve)},
    }
    return position, curves, np.array([0.4, 2.5, 0.0])


def test_mean_responses_are_rows_by_kl_on_one_scale() -> None:
    position, curves, kl = responses()
    figure = figures.mean_response_figure(position, curves, kl, example="β = 4")
    maps = [axes for axes in images(figure) if len(axes.images[0].get_array()) == 4]
    for axes, latent in zip(maps, (1, 0, 2), strict=True):
        np.testing.assert_allclose(pixels(axes), position[latent])
        assert axes.images[0].get_clim() == (-2.0, 2.0)
        assert axes.get_ylabel() == f"z{latent}\n{kl[latent]:.2f}"
    panels = [axes for axes in figure.axes if axes.get_lines()]
    assert [axes.get_title() for axes in panels[:2]] == ["scale", "rotation"]
    assert set(named(panels[0])) == {"square", "heart"}
    assert {axes.get_ylim() for axes in panels} == {(-2.0, 2.0)}
    np.testing.assert_allclose(panels[4].get_lines()[1].get_ydata(), np.linspace(-0.1, 0.1, 6) + 0.5)
    assert "β = 4" in figure.get_suptitle()
    assert len(images(figures.mean_response_figure(position, curves, kl, order=[2], max_rows=1))) == 1


def test_the_map_puts_sizes_up_and_norms_across_and_leaves_the_rest_empty() -> None:
    scores = {(0.01, 10): 0.9, (0.1, 10): 0.5, (0.1, 40): 0.7}
    figure = figures.beta_size_map_figure(scores, "score", line=[(0.01, 10), (0.1, 40)])
    axes = images(figure)[0]
    np.testing.assert_allclose(pixels(axes)[0], [0.9, 0.5])
    assert np.isnan(np.ma.filled(pixels(axes)[1].astype(float), np.nan)[0])
    assert axes.images[0].origin == "lower"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.01", "0.1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["10", "40"]
    assert {tuple(text.get_position()): text.get_text() for text in axes.texts} == {
        (0, 0): "0.90", (1, 0): "0.50", (1, 1): "0.70",
    }  # fmt: skip
    np.testing.assert_allclose(np.asarray(axes.get_lines()[0].get_xydata()), [[0.0, 0.0], [1.0, 1.0]])
    with pytest.raises(UserError, match="at least one run"):
        figures.beta_size_map_figure({}, "score")


def test_density_draws_medians_of_runs_and_chance() -> None:
    figure = figures.density_figure({"noise 0": [(20.0, 0.9), (5.0, 0.95), (20.0, 0.7), (20.0, 0.2)]}, chance=0.2)
    shown = named(figure.axes[0])
    np.testing.assert_allclose(shown["noise 0"], [[5.0, 0.95], [20.0, 0.7]])
    assert set(shown["chance"][:, 1]) == {0.2}


def test_recombination_shows_both_kinds_and_marks_what_was_held_out() -> None:
    seen = torch.full((2, 1, 4, 4), 0.2), torch.full((2, 1, 4, 4), 0.3)
    unseen = torch.full((2, 1, 4, 4), 0.6), torch.full((2, 1, 4, 4), 0.8)
    errors = np.arange(9.0).reshape(3, 3)
    held_out = errors >= 8.0
    figure = figures.recombination_figure(seen, unseen, errors, held_out, names=("y", "x"))
    cells = images(figure)
    assert [round(float(pixels(axes).mean()), 2) for axes in cells[:8]] == [0.2, 0.2, 0.3, 0.3, 0.6, 0.6, 0.8, 0.8]
    plane = cells[8]
    np.testing.assert_allclose(pixels(plane), errors)
    assert (plane.get_xlabel(), plane.get_ylabel()) == ("x →", "← y")
    (outline,) = plane.collections
    corner = np.concatenate([path.vertices for path in outline.get_paths()])
    assert corner.min() > 1.0  # around the last cell only
    assert len(corner) > 1


# -- what all share ---------------------------------------------------------------------------------------------------


def many_traversals() -> Figure:
    stops, stds = (-3.0, -1.5, 0.0, 1.5, 3.0), np.linspace(0.05, 1.0, 10)
    return figures.traversal_figure(
        np.zeros((10, 5, 1, 8, 8)), stops, stds, dead=[8, 9], origin=np.zeros((1, 8, 8)), max_rows=8
    )


FIGURES: dict[str, Callable[[], Figure]] = {
    "traversals": many_traversals,
    "standard deviations": lambda: figures.posterior_std_figure({f"β = {b}": [STDS] for b in (1, 4)}, title="one ball"),
    "code matrix": lambda: figures.code_matrix_figure(
        np.random.default_rng(0).random((10, 5)), ("shape", "scale", "orientation", "x", "y"), quantity="information"
    ),
    "capacity": lambda: figures.capacity_figure(
        np.array([0, 20_000]), np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([0.0, 3.0]), excess=np.array([9.0, 1.0])
    ),
    "beta": lambda: figures.beta_figure(
        {"fc": [(b, b) for b in (0.1, 0.5, 1.0)]}, "excess", reference={"fc": [(0.1, 0.3)]}, band=(0.01, 0.1)
    ),
    "mean responses": lambda: figures.mean_response_figure(*responses(), example="β-VAE, β = 4"),
    "map": lambda: figures.beta_size_map_figure(
        {(b, z): b for b in (0.001, 0.01, 0.1) for z in (10, 40)}, "score of 2016", line=[(0.0098, 10), (0.039, 40)]
    ),
    "density": lambda: figures.density_figure({"noise 0": [(5.0, 0.9), (20.0, 0.4)]}, chance=0.2),
    "recombination": lambda: figures.recombination_figure(
        (np.zeros((6, 1, 8, 8)),) * 2, (np.zeros((6, 1, 8, 8)),) * 2, np.ones((4, 4)), np.eye(4) > 0, names=("y", "x")
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_overlaps_or_leaves_the_figure(name: str) -> None:
    assert texts_overlap(FIGURES[name]()) == []
