from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from objectwise.core import UserError
from objectwise.metrics import bootstrap_interval


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_agrees_with_all_resamples_of_three_images() -> None:
    scores = np.array([0.0, 0.5, 1.0])
    means = [np.mean(drawn) for drawn in product(scores, repeat=3)]
    for level in (0.5, 0.8):
        expected = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
        found = bootstrap_interval(scores, generator=generator(), draws=50_000, level=level)
        assert found == pytest.approx(tuple(expected), abs=1e-12)


def test_width_is_that_of_the_normal_interval() -> None:
    scores = torch.randn(400, generator=generator(1)).double().numpy()
    low, high = bootstrap_interval(scores, generator=generator(), draws=4_000)
    half = 1.96 * scores.std() / 20
    assert low == pytest.approx(scores.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(scores.mean() + half, abs=0.15 * half)


def test_skipped_images_are_not_drawn() -> None:
    scores = np.array([0.1, np.nan, 0.4, 0.7, np.nan])
    kept = scores[~np.isnan(scores)]
    assert bootstrap_interval(scores, generator=generator()) == bootstrap_interval(kept, generator=generator())


def test_infinite_scores_have_infinite_bounds() -> None:
    low, high = bootstrap_interval(np.array([0.0, 1.0, np.inf]), generator=generator())
    assert low == 0.0
    assert high == np.inf


def test_one_seed_one_interval() -> None:
    scores = np.arange(50.0)
    assert bootstrap_interval(scores, generator=generator(3)) == bootstrap_interval(scores, generator=generator(3))
    assert bootstrap_interval(scores, generator=generator(3)) != bootstrap_interval(scores, generator=generator(4))
    state = torch.get_rng_state()
    bootstrap_interval(scores, generator=generator())
    assert torch.equal(torch.get_rng_state(), state)


def test_chunks_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.arange(50.0)
    whole = bootstrap_interval(scores, generator=generator(), draws=100)
    monkeypatch.setattr("objectwise.metrics.resampling._CHUNK", 150)
    assert bootstrap_interval(scores, generator=generator(), draws=100) == whole


@pytest.mark.parametrize("scores", [[], [0.3], [0.3, float("nan")]])
def test_fewer_than_two_images_have_no_interval(scores: list[float]) -> None:
    assert np.isnan(bootstrap_interval(np.array(scores), generator=generator())).all()


@pytest.mark.parametrize("wrong", [{"level": 1.0}, {"level": 0.0}, {"draws": 0}])
def test_what_cannot_work_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="at least 1"):
        bootstrap_interval(np.zeros(3), generator=generator(), **wrong)  # type: ignore[arg-type]
