from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from objectwise.core import UserError
from objectwise.metrics import collapse, count_scores, wilson_interval


def test_hand_values() -> None:
    #                 true 0 0 1 1 1 2    right: 0, 1, 1, 2 -> 4 of 6; errors |2-0| + |0-1| = 3
    scores = count_scores(torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([0, 2, 1, 1, 0, 2]), max_count=3)
    assert scores.n == 6
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.mean_absolute_error == pytest.approx(3 / 6)
    assert scores.base_rate == pytest.approx(3 / 6)
    assert scores.confusion.tolist() == [[1, 0, 1, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert scores.confusion.dtype == np.int64
    np.testing.assert_allclose(scores.accuracy_per_count, [1 / 2, 2 / 3, 1, np.nan])


def test_matrix_is_as_large_as_the_largest_count_of_either_side() -> None:
    assert count_scores(np.array([0, 1]), np.array([0, 3])).confusion.shape == (4, 4)
    assert count_scores(np.array([0, 3]), np.array([0, 1])).confusion.shape == (4, 4)


def test_mean_absolute_error_does_not_cancel_or_wrap() -> None:
    true, predicted = np.array([0, 2], dtype=np.uint8), np.array([2, 0], dtype=np.uint8)
    assert count_scores(true, predicted).mean_absolute_error == 2.0


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (7, 10), (973, 1000), (1, 1)])
def test_interval_agrees_with_scipy(successes: int, trials: int) -> None:
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)
    predicted = torch.arange(trials) >= successes
    assert count_scores(torch.zeros(trials).long(), predicted.long()).accuracy_interval == pytest.approx(
        (expected.low, expected.high), abs=1e-12
    )


def test_collapse_names_the_answer() -> None:
    true = torch.tensor([0, 1, 2] * 100)
    always = count_scores(true, torch.zeros(300).long(), max_count=3)
    assert always.accuracy == pytest.approx(1 / 3)
    sentence = collapse(always.confusion)
    assert sentence is not None
    assert "always 0" in sentence
    assert "cheaper" in sentence
    sentence = collapse(count_scores(true, torch.full((300,), 3), max_count=3).confusion)
    assert sentence is not None
    assert "always 3" in sentence
    assert "dearer" in sentence
    sentence = collapse(count_scores(true, torch.ones(300).long(), max_count=3).confusion)
    assert sentence is not None
    assert "always 1" in sentence


def test_no_collapse_where_there_is_none() -> None:
    true = torch.tensor([0, 1, 2] * 100)
    assert collapse(count_scores(true, true).confusion) is None
    assert collapse(count_scores(true, torch.roll(true, 1)).confusion) is None
    assert collapse(count_scores(torch.ones(9).long(), torch.ones(9).long()).confusion) is None
    mostly_one = torch.tensor([1] * 99 + [2])
    assert collapse(count_scores(mostly_one, torch.ones(100).long()).confusion) is None
    assert collapse(np.zeros((3, 3), dtype=np.int64)) is None


@pytest.mark.parametrize(
    ("true", "predicted", "maximum", "message"),
    [
        ([0, 1], [0], None, "as many"),
        ([], [], None, "no images"),
        ([0, -1], [0, 1], None, "non-negative"),
        ([0, 1], [0.0, 1.0], None, "integers"),
        ([0, 4], [0, 1], 3, "count of 4"),
        ([[0]], [[0]], None, "one number per image"),
    ],
)
def test_what_cannot_work_is_refused(true: list, predicted: list, maximum: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        count_scores(np.array(true), np.array(predicted), maximum)
