from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toys import ToyData, ToyDataConfig, data, toy

from objectwise.core import UserError
from objectwise.metrics.segmentation import foreground_ari
from objectwise.training.evaluation import decompositions, evaluate


def test_scores_are_means_over_the_split() -> None:
    model, dataset = toy(), data()
    batch = dataset.batch("test", range(7))
    out = model.decompose(batch.images)
    found = evaluate(model, dataset, split="test")
    assert found.images == 7
    assert found.scores["loss"] == pytest.approx(out.loss.mean().item(), rel=1e-5)
    assert found.scores["mse"] == pytest.approx((out.reconstruction - batch.images).square().mean().item(), rel=1e-5)
    assert found.scores["count_accuracy"] == 1.0  # one slot, always present, and one object
    scored = foreground_ari(batch.instances, out.masks).per_image
    kept = scored[~np.isnan(scored)]
    assert found.details["foreground_ari"]["n_scored"] == len(kept)
    assert found.details["foreground_ari"]["n_skipped"] == 7 - len(kept)
    assert ("foreground_ari" in found.scores) == (len(kept) > 0)


def test_the_batch_size_does_not_matter_and_limit_does() -> None:
    model, dataset = toy(), data()
    whole = evaluate(model, dataset, split="val")
    for batch_size in (1, 2, 100):
        found = evaluate(model, dataset, split="val", batch_size=batch_size)
        assert found.scores.keys() == whole.scores.keys()
        assert list(found.scores.values()) == pytest.approx(list(whole.scores.values()), rel=1e-5)
        assert found.details == whole.details
    few = evaluate(model, dataset, split="val", limit=3)
    assert few.images == 3
    expected = model.decompose(dataset.batch("val", range(3)).images).loss.mean().item()
    assert few.scores["loss"] == pytest.approx(expected, rel=1e-5)


def test_counts_that_are_wrong() -> None:
    dataset = ToyData(ToyDataConfig(objects=3))
    found = evaluate(toy(), dataset, split="val")
    assert found.scores["count_accuracy"] == 0.0
    assert found.scores["count_mean_absolute_error"] == 2.0
    assert np.array(found.details["count_accuracy"]["confusion"])[3, 1] == 9


def test_without_labels_there_are_no_label_scores() -> None:
    dataset = data()
    plain = dataset.batch
    dataset.batch = lambda split, indices: dataclasses.replace(  # type: ignore[method-assign,misc,assignment]
        plain(split, indices), instances=None, present=None
    )
    found = evaluate(toy(), dataset, split="val")
    assert set(found.scores) == {"loss", "error", "mse"}
    assert found.counts is None


def test_the_models_mode_and_gradients_are_untouched() -> None:
    model = toy().train()
    evaluate(model, data(), split="val")
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for _ in decompositions(model, data(), "val", np.arange(4), batch_size=2):
        assert not model.training
        break
    state = torch.get_rng_state()
    evaluate(model, data(), split="val")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tset"}, "no split 'tset'; did you mean 'test'"),
        ({"limit": 0}, "must be at least 1"),
        ({"batch_size": 0}, "must be at least 1"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(toy(), data(), **arguments)  # type: ignore[arg-type]
