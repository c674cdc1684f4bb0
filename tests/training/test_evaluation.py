from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import Toy, ToyConfig, ToyData, ToyDataConfig, data, toy

from objectwise.core import Decoded, Decomposition, UserError
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


class Whole(Toy):
    """The toy without its background slot, and with a probability of each count if it is told one."""

    count_probs: Tensor | None = None

    def forward(self, images: Tensor, **options: Any) -> Decomposition:
        found = super().forward(images, **options)
        keep = found.object_slots
        masks = torch.ones_like(found.masks[:, keep])
        parts = {name: getattr(found, name)[:, keep] for name in ("components", "slots", "presence")}
        probs = None if self.count_probs is None else self.count_probs.expand(len(images), -1)
        return dataclasses.replace(found, masks=masks, background=(), posterior=None, count_probs=probs, **parts)


def test_a_model_of_one_slot_is_not_said_to_count() -> None:
    """Always one object is no answer; with a probability of each count it is."""
    dataset = data()
    model = Whole(toy().config)
    assert model.decompose(dataset.batch("val", range(2)).images).num_slots == 1
    found = evaluate(model, dataset, split="val")
    assert found.counts is None
    assert not any("count" in name for name in found.scores)
    assert "one slot" in found.details["count_accuracy"]["left_out"]
    model.count_probs = torch.tensor([[0.1, 0.9]])
    assert evaluate(model, dataset, split="val").scores["count_accuracy"] == 1.0


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


class Attentive(Toy):
    """The toy with attention masks, and decoded masks other than those of its decompositions."""

    def forward(self, images: Tensor, **more: Any) -> Decomposition:  # type: ignore[override]
        out = super().forward(images, **more)
        bright = (images[:, 0] > 0.7).float()
        seen = torch.stack([1.0 - bright, bright], dim=1)
        return dataclasses.replace(out, masks=out.masks, attention_masks=seen)

    def decode(self, slots: Tensor, presence: Tensor | None = None) -> Decoded:
        decoded = super().decode(slots, presence)
        return decoded._replace(masks=torch.tensor([0.1, 0.9]).view(1, 2, 1, 1).expand_as(decoded.masks))


class Repeating(Toy):
    """Attention masks are the masks."""

    def forward(self, images: Tensor, **more: Any) -> Decomposition:  # type: ignore[override]
        out = super().forward(images, **more)
        return dataclasses.replace(out, attention_masks=out.masks.clone())


def test_metric_groups_score_every_kind_of_masks() -> None:
    torch.manual_seed(0)
    model, dataset = Attentive(ToyConfig(image_shape=(1, 6, 6))), data()
    found = evaluate(model, dataset, split="val", batch_size=4, metrics=("segmentation", "diagnosis"))
    plain = evaluate(model, dataset, split="val", batch_size=4)
    assert found.scores == plain.scores
    assert plain.groups == {}
    assert set(found.groups) == {"segmentation", "diagnosis"}
    segmentation = found.groups["segmentation"].sections
    # Toy's decode is asked by its forward too: masks are the decoded ones, and only the attention masks differ.
    assert set(segmentation) == {"masks", "attention_masks", "reconstruction"}
    assert segmentation["attention_masks"]["ari"].value == 1.0
    assert segmentation["masks"]["ari"].value == 0.0
    assert segmentation["masks"]["ari"].n_scored + segmentation["masks"]["ari"].n_skipped == 9
    assert set(found.groups["diagnosis"].sections) == {"masks", "attention_masks"}
    torch.manual_seed(0)
    same = evaluate(Repeating(ToyConfig(image_shape=(1, 6, 6))), dataset, split="val", metrics=("segmentation",))
    assert set(same.groups["segmentation"].sections) == {"masks", "reconstruction"}


def test_masks_that_slots_alone_imply_are_scored_where_they_are_others() -> None:
    """As MONet: its masks are those of the attention, and the decoder has its own."""

    class Own(Attentive):
        def forward(self, images: Tensor, **more: Any) -> Decomposition:  # type: ignore[override]
            out = super().forward(images, **more)
            assert out.attention_masks is not None
            return dataclasses.replace(out, masks=out.attention_masks)

    torch.manual_seed(0)
    found = evaluate(Own(ToyConfig(image_shape=(1, 6, 6))), data(), split="val", metrics=("segmentation",))
    sections = found.groups["segmentation"].sections
    assert set(sections) == {"masks", "decoded_masks", "reconstruction"}
    assert sections["masks"]["ari"].value == 1.0
    assert sections["decoded_masks"]["ari"].value == 0.0


def test_groups_that_cannot_be_computed_are_refused() -> None:
    with pytest.raises(UserError, match="no metric group 'segment'; did you mean 'segmentation'"):
        evaluate(toy(), data(), metrics=("segment",))
    dataset = data()
    plain = dataset.batch
    dataset.batch = lambda split, indices: dataclasses.replace(  # type: ignore[method-assign,misc,assignment]
        plain(split, indices), instances=None
    )
    with pytest.raises(UserError, match="the data have no masks of the true objects"):
        evaluate(toy(), dataset, metrics=("segmentation",))
    assert "stripes" in evaluate(toy(), dataset, metrics=("diagnosis",)).groups["diagnosis"].sections["masks"]


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
