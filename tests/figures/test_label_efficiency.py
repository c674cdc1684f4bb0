from __future__ import annotations

import numpy as np
import pytest
from test_figures import texts_overlap

from objectwise.core import UserError
from objectwise.figures import label_efficiency_figure
from objectwise.metrics import BUDGETS, ProbeResult


def made_up(best: float, chance: float, budgets: tuple[int, ...] = BUDGETS, seed: int = 0) -> ProbeResult:
    """Curves that rise with the number of labels."""
    generator = np.random.default_rng(seed)
    rise = 1.0 - np.exp(-np.linspace(0.3, 4.0, len(budgets)))
    accuracy = chance + (best - chance) * rise[:, None] + 0.02 * generator.normal(size=(len(budgets), 5))
    return ProbeResult(budgets, accuracy, np.zeros((len(budgets), 5, 1), dtype=np.int64), chance)


def results() -> dict[str, dict[str, ProbeResult]]:
    return {
        "sum of the digits": {"DAIR": made_up(0.9, 0.1), "VAE": made_up(0.3, 0.1), "pixels": made_up(0.8, 0.1)},
        "ascending order": {"DAIR": made_up(0.95, 0.55), "pixels": made_up(0.9, 0.55, BUDGETS[:4])},
    }


def test_curves_bands_and_chance() -> None:
    given = results()
    figure = label_efficiency_figure(given)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(given)
    for axes, curves in zip(figure.axes, given.values(), strict=True):
        assert axes.get_xscale() == "log"
        lines = {str(line.get_label()): line for line in axes.get_lines()}
        assert list(lines) == [*curves, "chance"]
        for (name, result), band in zip(curves.items(), axes.collections, strict=True):
            np.testing.assert_allclose(lines[name].get_xdata(), result.budgets)
            np.testing.assert_allclose(lines[name].get_ydata(), result.mean)
            heights = band.get_paths()[0].vertices[:, 1]
            assert heights.min() == pytest.approx(result.accuracy.min())
            assert heights.max() == pytest.approx(result.accuracy.max())
        assert lines["chance"].get_ydata()[0] == pytest.approx(next(iter(curves.values())).chance)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["100", "300", "1k", "3k", "10k", "30k"]


def test_a_representation_has_one_colour_and_one_name() -> None:
    figure = label_efficiency_figure(results())
    first, second = ({str(line.get_label()): line.get_color() for line in a.get_lines()} for a in figure.axes)
    assert first["pixels"] == second["pixels"]
    assert len(set(first.values())) == len(first)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["DAIR", "VAE", "pixels", "chance"]


@pytest.mark.parametrize("tasks", [1, 2])
def test_no_text_overlaps(tasks: int) -> None:
    assert texts_overlap(label_efficiency_figure(dict(list(results().items())[:tasks]))) == []


def test_nothing_to_draw_is_refused() -> None:
    for nothing in ({}, {"sum": {}}):
        with pytest.raises(UserError, match="at least one"):
            label_efficiency_figure(nothing)
