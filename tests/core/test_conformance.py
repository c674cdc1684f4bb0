"""The public checks pass what keeps the contract and name the promise that is broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_models import GOOD, OneSlotVAE, SharedStatistics, SlotMixture, WithBaseline

from objectwise.core import (
    Batch,
    Config,
    ContractError,
    Decoded,
    Decomposition,
    FactorSpec,
    MetricResult,
    boxes_from_instances,
    check_dataset,
    check_metric,
    check_model,
    uniforms,
)


@pytest.mark.parametrize("cls", GOOD)
def test_every_kind_of_model_fits(cls: type[nn.Module]) -> None:
    model = cls()
    check_model(model)
    check_model(model, torch.rand(2, 3, 6, 8), seed=3)
    assert model.training
    check_model(model.eval())
    assert not model.training


def test_a_trained_model_with_gradients_left_by_its_trainer_passes() -> None:
    model = SlotMixture()
    model(torch.rand(2, 3, 6, 8)).loss.mean().backward()
    check_model(model)


class Broken(SlotMixture):
    """Forward with something spoilt afterwards."""

    def forward(self, images: Tensor, **rest: Any) -> Decomposition:  # type: ignore[override]
        return self.spoil(super().forward(images, **rest), images, **rest)

    # The check reads the signature.
    forward.__signature__ = __import__("inspect").signature(SlotMixture.forward)  # type: ignore[attr-defined]

    def spoil(self, out: Decomposition, images: Tensor, **rest: Any) -> Decomposition:
        raise NotImplementedError


class LeavesState(Broken):
    def spoil(self, out, images, **rest):
        self.last = out.slots
        return out


class LeavesPrivateState(Broken):
    def spoil(self, out, images, **rest):
        self._hidden = out.slots
        return out


class CollectsState(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.history: list[Tensor] = []

    def spoil(self, out, images, **rest):
        self.history.append(out.loss.detach())
        return out


class CountsCalls(Broken):
    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def spoil(self, out, images, **rest):
        self.seen += 1
        return out


class StateOnlyWithTrajectory(Broken):
    def spoil(self, out, images, **rest):
        if rest.get("trajectory"):
            self.steps = out
        return out


class LeavesGradient(Broken):
    def spoil(self, out, images, **rest):
        if out.loss.requires_grad:
            out.loss.sum().backward(retain_graph=True)
        return out


class SwitchesMode(Broken):
    def spoil(self, out, images, **rest):
        self.decoder.train(not self.decoder.training)
        return out


class GlobalGenerator(Broken):
    def spoil(self, out, images, **rest):
        return replace(out, slots=out.slots + torch.randn_like(out.slots))


class GlobalNumpy(Broken):
    def spoil(self, out, images, **rest):
        np.random.rand()
        return out


class RandomWithoutGenerator(Broken):
    def spoil(self, out, images, **rest):
        if rest["generator"] is None:
            with torch.random.fork_rng():
                torch.seed()
                return replace(out, slots=out.slots + torch.randn_like(out.slots))
        return out


class RandomDespiteGenerator(Broken):
    def spoil(self, out, images, **rest):
        generator = torch.Generator()
        generator.seed()
        return replace(out, loss=out.loss + torch.rand(len(images), generator=generator))


class MasksOverPixels(Broken):
    def spoil(self, out, images, **rest):
        return replace(out, masks=out.masks / out.masks.sum(dim=(2, 3), keepdim=True))


class DecodedMasksOverPixels(Broken):
    def spoil(self, out, images, **rest):
        return replace(out, decoded_masks=out.masks / out.masks.sum(dim=(2, 3), keepdim=True))


class NegativeMasks(Broken):
    def spoil(self, out, images, **rest):
        masks = out.masks.clone()
        masks[:, 0] -= 1
        masks[:, 1] += 1
        return replace(out, masks=masks)


class MeanLoss(Broken):
    def spoil(self, out, images, **rest):
        return replace(out, loss=out.loss.mean())


class InfiniteLoss(Broken):
    def spoil(self, out, images, **rest):
        return replace(out, loss=out.loss / 0)


class BatchStatistics(Broken):
    def spoil(self, out, images, **rest):
        centred = out.slots - out.slots.mean(dim=0)
        return replace(out, loss=out.loss + centred.square().sum(dim=(1, 2)))


class BatchNorm(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, affine=False)

    def spoil(self, out, images, **rest):
        return replace(out, loss=out.loss + self.norm(out.slots).square().sum(dim=(1, 2)))


class DeadParameter(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(2))

    def spoil(self, out, images, **rest):
        return out


class NoReparameterisation(Broken):
    """The width of the posterior gets no gradient: ``sample`` where ``rsample`` was meant, and no KL to hide it."""

    def explain(self, images, mean, std, generator):
        out = super().explain(images, mean, std.detach(), generator)
        return replace(out, loss=out.terms["error"])

    def spoil(self, out, images, **rest):
        return out

    def __init__(self) -> None:
        super().__init__()
        pixels = self.encoder.in_features
        self.spread = nn.Linear(pixels, self.config.num_slots * self.config.slot_size)

    def forward(self, images: Tensor, *, generator=None, step=None, trajectory=False):
        mean = self.encoder(images.flatten(1)).unflatten(1, self.slot_shape).chunk(2, dim=2)[0]
        std = nn.functional.softplus(self.spread(images.flatten(1)).view_as(mean))
        return self.explain(images, mean, std, generator)


class BaselineInTheWrongLoss(WithBaseline):
    def forward(self, images: Tensor, *, generator=None, step=None, trajectory=False):
        out = super().forward(images, generator=generator, step=step, trajectory=trajectory)
        moved = out.auxiliary_losses["baseline"]
        return replace(out, loss=out.loss + moved, auxiliary_losses={"baseline": out.terms["error"]})


class DifferentWithoutGradients(Broken):
    def spoil(self, out, images, **rest):
        return out if torch.is_grad_enabled() else replace(out, loss=out.loss + 1)


class WrongShapeOfComponents(Broken):
    def spoil(self, out, images, **rest):
        return replace(out, components=out.components[:, :-1])


class WrongShapeOfTerms(Broken):
    def spoil(self, out, images, **rest):
        return replace(out, terms={"kl": out.terms["kl"].mean()})


class NothingForMasks(Broken):
    def spoil(self, out, images, **rest):
        return replace(out, masks=None)


class AttachedTrajectory(Broken):
    def spoil(self, out, images, **rest):
        return replace(out, trajectory=(replace(out, trajectory=None),)) if rest.get("trajectory") else out


class AttachedMasksInTrajectory(Broken):
    def spoil(self, out, images, **rest):
        step = replace(out.detach(), trajectory=None, masks=out.masks)
        return replace(out, trajectory=(step,)) if rest.get("trajectory") else out


class UnaskedTrajectory(Broken):
    def spoil(self, out, images, **rest):
        return replace(out, trajectory=(out.detach(),))


class PresenceBeyondOne(Broken):
    def spoil(self, out, images, **rest):
        return replace(out, presence=out.presence + 1)


class UnknownBackground(Broken):
    def spoil(self, out, images, **rest):
        return replace(out, background=(3,))


class CountsThatDoNotSumToOne(Broken):
    def spoil(self, out, images, **rest):
        return replace(out, count_probs=torch.full((len(images), 4), 0.3))


class FactorsOfTheImage(Broken):
    def spoil(self, out, images, **rest):
        return replace(out, factors={"x": torch.zeros(len(images))})


class EndlessFactors(Broken):
    def spoil(self, out, images, **rest):
        return replace(out, factors={"x": torch.full(out.presence.shape, float("inf"))})


class DetachedLoss(Broken):
    def spoil(self, out, images, **rest):
        return out.detach()


class NotADecomposition(Broken):
    def spoil(self, out, images, **rest):
        return out.loss


class DecodesAnotherShape(SlotMixture):
    def decode(self, slots, presence=None):
        decoded = super().decode(slots, presence)
        if torch.is_grad_enabled():
            return decoded
        return Decoded(decoded.components, decoded.masks, decoded.reconstruction[:, :1])

    def explain(self, images, mean, std, generator):
        with torch.enable_grad():
            return super().explain(images, mean, std, generator)


class DecodesOtherMasks(DecodesAnotherShape):
    def decode(self, slots, presence=None):
        decoded = SlotMixture.decode(self, slots, presence)
        return decoded if torch.is_grad_enabled() else decoded._replace(masks=decoded.masks * 0.5)


class NoKeywords(SlotMixture):
    def forward(self, images):
        return super().forward(images)


BROKEN = [
    (LeavesState, "forward leaves an attribute 'last'"),
    (LeavesPrivateState, "forward leaves an attribute '_hidden'"),
    (CollectsState, "forward changes the attribute 'history'"),
    (CountsCalls, "forward changes 'seen'"),
    (StateOnlyWithTrajectory, "forward leaves an attribute 'steps'"),
    (LeavesGradient, "forward leaves a gradient on encoder.weight"),
    (SwitchesMode, "forward switches between training and evaluation mode"),
    (GlobalGenerator, "draws from a global random generator"),
    (GlobalNumpy, "draws from a global random generator"),
    (RandomWithoutGenerator, "without a generator two runs give different slots"),
    (RandomDespiteGenerator, "equal seeds give different losses"),
    (MasksOverPixels, "masks do not sum to one over slots"),
    (DecodedMasksOverPixels, "decoded_masks do not sum to one over slots"),
    (NegativeMasks, "masks has negative values"),
    (MeanLoss, r"loss has shape \(\), the contract says \(3,\)"),
    (InfiniteLoss, "loss is not finite"),
    (BatchStatistics, "the loss of image 0 depends on the other images"),
    (BatchNorm, "forward changes 'norm.running_mean'"),
    (DeadParameter, "no gradient reaches unused"),
    (NoReparameterisation, "no gradient reaches spread.weight"),
    (BaselineInTheWrongLoss, "no gradient reaches baseline.weight"),
    (DifferentWithoutGradients, "the loss differs under no_grad"),
    (WrongShapeOfComponents, "components has shape"),
    (WrongShapeOfTerms, r"kl has shape \(\), not one number per image"),
    (NothingForMasks, "masks is a NoneType, not a tensor"),
    (AttachedTrajectory, "the trajectory is not detached"),
    (AttachedMasksInTrajectory, "the trajectory is not detached"),
    (UnaskedTrajectory, "a trajectory without being asked"),
    (PresenceBeyondOne, "presence leaves"),
    (UnknownBackground, "names slots beyond 3"),
    (CountsThatDoNotSumToOne, "count_probs do not sum to one"),
    (FactorsOfTheImage, r"factor x has shape \(3,\), not one row per slot"),
    (EndlessFactors, "factor x is not finite"),
    (DetachedLoss, "'loss' depends on no parameter"),
    (NotADecomposition, "forward returned Tensor, not a Decomposition"),
    (DecodesAnotherShape, "decode gives reconstruction of shape"),
    (DecodesOtherMasks, "decode's masks do not sum to one"),
    (NoKeywords, "forward has no keyword 'generator'"),
]


@pytest.mark.parametrize(("cls", "message"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_every_broken_model_is_named(cls: type[nn.Module], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_model(cls())


def test_batch_norm_is_found_in_evaluation_mode_too() -> None:
    """A model as ``load`` returns it is in evaluation mode; its training mode is checked all the same."""
    with pytest.raises(ContractError, match=r"forward changes 'norm\.running_mean'"):
        check_model(BatchNorm().eval())


def test_batchwise_alone_excuses_images_that_see_each_other() -> None:
    model = SharedStatistics()
    check_model(model)
    SharedStatistics.batchwise = False
    try:
        with pytest.raises(ContractError, match="depends on the other images"):
            check_model(model)
    finally:
        SharedStatistics.batchwise = True


def test_what_check_model_asks_for() -> None:
    with pytest.raises(ContractError, match="image_shape is missing"):
        check_model(nn.Linear(2, 2))
    with pytest.raises(ContractError, match="at least two images"):
        check_model(OneSlotVAE(), torch.rand(1, 3, 6, 8))


# -- datasets ---------------------------------------------------------------------------------------------------------


class Blobs:
    """One square per image, or none; everything a pure function of (split, index)."""

    config = Config()
    splits = {"train": 20, "val": 8, "test": 8}  # noqa: RUF012
    image_shape = (1, 8, 8)
    max_objects: int | None = 1
    shuffle = False

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        draws = uniforms(0, (list(self.splits).index(split), 0), indices, 4)
        instances = torch.zeros(len(indices), 8, 8, dtype=torch.int64)
        for row, (used, y, x, _) in enumerate(draws):
            if used < 0.7:
                instances[row, int(y * 6) :, int(x * 6) :][:2, :2] = 1
        boxes, visible = boxes_from_instances(instances, 2)
        level = torch.from_numpy(draws[:, 3]).float()
        images = (instances * level[:, None, None]).unsqueeze(1)
        present = torch.stack([torch.ones(len(draws), dtype=torch.bool), torch.from_numpy(draws[:, 0] < 0.7)], dim=1)
        factors = {"level": torch.stack([torch.zeros_like(level), level], dim=1) * present}
        return Batch(
            index=torch.as_tensor(np.asarray(indices)),
            images=images,
            instances=instances,
            factors=factors,
            factor_specs={"level": FactorSpec("intensity", low=0, high=1)},
            present=present,
            visible_pixels=visible,
            boxes=boxes,
        )


def spoilt(change: Any) -> Blobs:
    class Spoilt(Blobs):
        def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
            return change(super().batch(split, indices))

    return Spoilt()


def test_a_good_dataset_passes() -> None:
    check_dataset(Blobs())  # type: ignore[arg-type]


def _global_draw(batch: Batch) -> Batch:
    torch.rand(1)
    return batch


BROKEN_DATA = [
    (lambda b: replace(b, images=b.images.double()), "images are torch.float64"),
    (lambda b: replace(b, images=b.images[:, :, :-1]), "image_shape says"),
    (lambda b: replace(b, images=b.images * 255), "images leave"),
    (lambda b: replace(b, index=b.index + 1), "index is not what was asked for"),
    (lambda b: replace(b, instances=b.instances[:, 1:]), "instances are not"),
    (lambda b: replace(b, instances=b.instances - 1), "instances has negative ids"),
    (lambda b: replace(b, instances=b.instances * 2), "without a row in present"),
    (lambda b: replace(b, present=b.present & False), "a background row is not present"),
    (lambda b: replace(b, visible_pixels=b.visible_pixels + 1), "visible_pixels disagrees"),
    (lambda b: replace(b, present=b.present & torch.tensor([True, False])), "an absent entity has pixels"),
    (lambda b: replace(b, factor_specs={}), "factor 'level' has no unit"),
    (lambda b: replace(b, factors={"level": b.factors["level"] * 9}), "factor 'level' exceeds its range"),
    (lambda b: replace(b, factors={"level": b.factors["level"] / 0}), "factor 'level' is not finite"),
    (lambda b: replace(b, images=b.images / b.images.max().clamp_min(0.1)), "images of split 'train' depends on"),
    (lambda b: replace(b, images=b.images * 0 + torch.rand(1).item()), "depends on the batch it is asked in"),
    (_global_draw, "draws from a global random generator"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN_DATA, ids=[message for _, message in BROKEN_DATA])
def test_every_broken_dataset_is_named(change: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_dataset(spoilt(change))  # type: ignore[arg-type]


def test_splits_that_share_samples_and_crowded_scenes() -> None:
    class OneStream(Blobs):
        def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
            return super().batch("train", indices)

    with pytest.raises(ContractError, match="splits 'train' and 'val' share a sample"):
        check_dataset(OneStream())  # type: ignore[arg-type]
    crowded = Blobs()
    crowded.max_objects = 0
    with pytest.raises(ContractError, match="more objects than max_objects"):
        check_dataset(crowded)  # type: ignore[arg-type]


# -- metrics ----------------------------------------------------------------------------------------------------------


def rand_index(truth: Tensor, masks: Tensor) -> MetricResult:
    """Share of pixel pairs on which two partitions agree; by the definition."""
    labels = masks.argmax(dim=1)
    scores = []
    for true, found in zip(truth.flatten(1), labels.flatten(1), strict=True):
        agree = (true[:, None] == true[None]) == (found[:, None] == found[None])
        scores.append(agree.double().mean().item())
    return MetricResult.over_images(np.array(scores))


def test_a_good_metric_passes() -> None:
    check_metric(rand_index)


def _by_name(truth: Tensor, masks: Tensor) -> MetricResult:
    return MetricResult.over_images((masks.argmax(dim=1) == truth).double().flatten(1).mean(dim=1))


def _counts_slots(truth: Tensor, masks: Tensor) -> MetricResult:
    good = rand_index(truth, masks)
    return MetricResult.over_images(good.per_image - 0.01 * (masks.shape[1] - 4))


def _pooled(truth: Tensor, masks: Tensor) -> MetricResult:
    return MetricResult.over_images(rand_index(truth, masks).per_image ** (1 + 0.1 * (len(truth) > 1)))


def _nan_on_background(truth: Tensor, masks: Tensor) -> MetricResult:
    good = rand_index(truth, masks)
    return good if truth.any() else replace(good, per_image=np.full(1, np.nan))


BROKEN_METRICS = [
    (lambda t, m: MetricResult.over_images(1 - rand_index(t, m).per_image), "a perfect prediction scores 0.0, not 1.0"),
    (_by_name, "the order of the slots changes the score"),
    (_counts_slots, "empty extra slots change the score"),
    (_pooled, "not the mean over its images"),
    (_nan_on_background, "scored as NaN"),
]


@pytest.mark.parametrize(("metric", "message"), BROKEN_METRICS, ids=[message for _, message in BROKEN_METRICS])
def test_every_broken_metric_is_named(metric: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_metric(metric)


def test_a_metric_may_leave_out_background_only_images() -> None:
    check_metric(
        lambda t, m: MetricResult.over_images(np.where(t.flatten(1).any(1), rand_index(t, m).per_image, np.nan))
    )


def test_best_may_be_zero() -> None:
    check_metric(lambda t, m: MetricResult.over_images(1 - rand_index(t, m).per_image), best=0.0)
