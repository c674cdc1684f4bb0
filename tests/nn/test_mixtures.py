from __future__ import annotations

import itertools
import math

import pytest
import torch

from objectwise.nn.mixtures import (
    joint_mixture,
    leave_one_out,
    log_mask_weights,
    log_prob_without,
    logistic_log_density,
    mixture_terms,
    normal_log_density,
    per_channel_mixture,
    weighted_squares,
)

SIGMA = (0.09, 0.11, 0.11)


def scene(channels: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (2, C, 3, 4), means (2, 3, C, 3, 4), log masks (2, 3, 3, 4), float64."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, channels, 3, 4, generator=generator, dtype=torch.float64)
    means = images.unsqueeze(1) + 0.15 * torch.randn(2, 3, channels, 3, 4, generator=generator, dtype=torch.float64)
    masks = torch.randn(2, 3, 3, 4, generator=generator, dtype=torch.float64).log_softmax(dim=1)
    return images, means, masks


def density(x: float, mean: float, sigma: float) -> float:
    return math.exp(-((x - mean) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))


def by_the_book(images: torch.Tensor, means: torch.Tensor, log_masks: torch.Tensor, *, joint: bool) -> torch.Tensor:
    """The sums and products as the papers write them, in Python's floats."""
    batch, channels, height, width = images.shape
    found = torch.zeros(batch, height, width, dtype=torch.float64)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                each = [
                    [density(float(images[b, c, i, j]), float(means[b, k, c, i, j]), SIGMA[k]) for c in range(channels)]
                    for k in range(3)
                ]
                weights = [math.exp(float(log_masks[b, k, i, j])) for k in range(3)]
                if joint:
                    value = math.log(sum(m * math.prod(row) for m, row in zip(weights, each, strict=True)))
                else:
                    value = sum(math.log(sum(weights[k] * each[k][c] for k in range(3))) for c in range(channels))
                found[b, i, j] = value
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_by_the_book(channels: int) -> None:
    images, means, masks = scene(channels)
    sigma = torch.tensor(SIGMA, dtype=torch.float64)
    for function, joint in ((joint_mixture, True), (per_channel_mixture, False)):
        expected = by_the_book(images, means, masks, joint=joint)
        torch.testing.assert_close(function(images, means, masks, sigma), expected, rtol=1e-9, atol=1e-9)
        single = function(images.float(), means.float(), masks.float(), sigma.float())
        torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)


def test_joint_and_per_channel_are_the_same_for_one_channel_only() -> None:
    sigma = torch.tensor(SIGMA, dtype=torch.float64)
    grey, colour = scene(1), scene(3)
    torch.testing.assert_close(joint_mixture(*grey, sigma), per_channel_mixture(*grey, sigma))
    # Choosing a slot per channel can only explain more, when all slots weigh the same.
    equal = torch.full_like(colour[2], -math.log(3))
    gain = per_channel_mixture(colour[0], colour[1], equal, sigma) - joint_mixture(colour[0], colour[1], equal, sigma)
    assert gain.min() > -3 * math.log(3)
    assert gain.abs().mean() > 0.1


def test_the_density_integrates_to_one() -> None:
    """In one dimension, and with two channels over the plane."""
    sigma = torch.tensor(SIGMA, dtype=torch.float64)
    line = torch.linspace(-1.5, 2.5, 4_001, dtype=torch.float64)
    means = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    log_masks = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
    images = line.view(1, 1, 1, -1)
    values = joint_mixture(
        images, means.view(1, 3, 1, 1, 1).expand(1, 3, 1, 1, 4_001), log_masks.view(1, 3, 1, 1), sigma
    )
    assert torch.trapezoid(values.exp().flatten(), line).item() == pytest.approx(1.0, abs=1e-9)
    line = torch.linspace(-1.0, 2.0, 401, dtype=torch.float64)
    plane = torch.stack(torch.meshgrid(line, line, indexing="ij")).unsqueeze(0)
    both = torch.stack([means, means.flip(0)], dim=1).view(1, 3, 2, 1, 1).expand(1, 3, 2, 401, 401)
    values = joint_mixture(plane, both, log_masks.view(1, 3, 1, 1), sigma)[0].exp()
    assert torch.trapezoid(torch.trapezoid(values, line), line).item() == pytest.approx(1.0, abs=1e-9)


def test_where_both_explain_a_pixel_the_sharper_slot_is_preferred() -> None:
    """By 3 ln(.11/.09) = 0.602 nats in three channels, which the term −C log σ gives; the simplification reverses it."""
    images = torch.full((1, 3, 1, 1), 0.4, dtype=torch.float64)
    means = images.expand(1, 2, 3, 1, 1)
    sigma = torch.tensor([0.09, 0.11], dtype=torch.float64)
    first, second = torch.tensor([0.0, -60.0]).double(), torch.tensor([-60.0, 0.0]).double()
    for function in (joint_mixture, per_channel_mixture):
        found = [function(images, means, masks.view(1, 2, 1, 1), sigma).item() for masks in (first, second)]
        assert found[0] - found[1] == pytest.approx(3 * math.log(0.11 / 0.09), rel=1e-9)
        assert found[0] - found[1] == pytest.approx(0.602, abs=5e-4)
    off = means + 0.05
    simple = [weighted_squares(images, off, masks.view(1, 2, 1, 1), sigma).item() for masks in (first, second)]
    assert simple[0] < simple[1]


def test_simplification_by_hand() -> None:
    """One pixel, one channel: .25·(.1²)/(2·.09²) + .75·(.2²)/(2·.11²)."""
    images = torch.tensor(0.5, dtype=torch.float64).view(1, 1, 1, 1)
    means = torch.tensor([0.4, 0.7], dtype=torch.float64).view(1, 2, 1, 1, 1)
    masks = torch.tensor([0.25, 0.75], dtype=torch.float64).log().view(1, 2, 1, 1)
    found = weighted_squares(images, means, masks, torch.tensor([0.09, 0.11], dtype=torch.float64))
    assert found.item() == pytest.approx(-(0.25 * 0.01 / 0.0162 + 0.75 * 0.04 / 0.0242), rel=1e-12)


def test_far_off_means_stay_finite_in_float32() -> None:
    images, means, masks = (part.float() for part in scene())
    sigma = torch.tensor(SIGMA)
    far = (means + 100.0).requires_grad_()
    for function in (joint_mixture, per_channel_mixture):
        value = function(images, far, masks - 200.0 * torch.eye(3)[0].view(1, 3, 1, 1), sigma).sum()
        (gradient,) = torch.autograd.grad(value, far)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


# -- the logistic density, gradients in closed form, mixtures without one slot ------------------------------------------


def test_the_logistic_density() -> None:
    """Against its distribution function 1/(1 + e^−u), which it is the slope of; and far out in float32."""
    line = torch.linspace(-0.5, 1.5, 20_001, dtype=torch.float64).view(1, 1, 1, -1)
    means, scale = torch.full((1, 2, 1, 1, 20_001), 0.4, dtype=torch.float64), torch.tensor([0.03, 0.2]).double()
    density = logistic_log_density(line, means, scale).exp().view(2, -1)
    for each, s in zip(density, scale, strict=True):
        ends = torch.sigmoid((line.flatten()[[0, -1]] - 0.4) / s)
        assert torch.trapezoid(each, line.flatten()).item() == pytest.approx((ends[1] - ends[0]).item(), abs=1e-7)
        spread = math.pi * s.item() / math.sqrt(3.0)
        if s < 0.1:
            variance = torch.trapezoid(each * (line.flatten() - 0.4).square(), line.flatten()).item()
            assert variance == pytest.approx(spread**2, rel=1e-3)
    far = torch.tensor([-40.0, 40.0]).view(1, 1, 1, 2)
    found = logistic_log_density(far, torch.zeros(1, 1, 1, 1, 2), torch.tensor([0.03]))
    assert torch.equal(found.flatten()[0], found.flatten()[1])
    assert found.flatten()[0].item() == pytest.approx(-40.0 / 0.03 - math.log(0.03), rel=1e-6)


COMBINATIONS = list(itertools.product([True, False], [True, False], [0.0, 1e-3]))


@pytest.mark.parametrize(("joint", "logistic", "floor"), COMBINATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_in_closed_form(joint: bool, logistic: bool, floor: float, dtype: torch.dtype) -> None:
    """Against automatic differentiation of the mixture as it is written: of μ, of m, of π taken as free, and of σ."""
    images, means, logits = (part.to(dtype) for part in scene())
    logits = 2.0 * logits + 1.0  # logits, not log masks
    means.requires_grad_()
    logits.requires_grad_()
    scale = torch.tensor([0.11, 0.09], dtype=dtype).requires_grad_()  # one per image, to see that images stay apart
    total, masks = 0.0, logits.softmax(dim=1)
    mixture, density = (
        joint_mixture if joint else per_channel_mixture,
        logistic_log_density if logistic else normal_log_density,
    )
    for b in range(2):
        rows = slice(b, b + 1)
        one = mixture(images[rows], means[rows], (masks[rows] + floor).log(), scale[b].expand(3), density)
        total = total - one.sum()
    of_means, of_logits, of_masks, of_scale = torch.autograd.grad(total, [means, logits, masks, scale])
    for b in range(2):
        rows = slice(b, b + 1)
        found = mixture_terms(
            images[rows], means[rows], logits[rows], scale[b], joint=joint, logistic=logistic, floor=floor
        )
        tight = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
        expected = mixture(
            images[rows], means[rows], log_mask_weights(logits[rows], floor), scale[b].expand(3), density
        )
        torch.testing.assert_close(found.log_prob, expected, **tight)
        torch.testing.assert_close(found.of_means, of_means[rows], **tight)
        torch.testing.assert_close(found.of_logits, of_logits[rows], **tight)
        torch.testing.assert_close(found.of_masks, of_masks[rows], **tight)
        torch.testing.assert_close(found.of_scale, of_scale[rows], **tight)


def test_closed_forms_stay_finite_far_off() -> None:
    images, means, logits = (part.float() for part in scene())
    for joint, logistic in itertools.product([True, False], repeat=2):
        found = mixture_terms(images, means + 100.0, 200.0 * logits, torch.tensor(0.03), joint=joint, logistic=logistic)
        for name in ("log_prob", "of_means", "of_logits", "of_scale"):
            assert torch.isfinite(getattr(found, name)).all(), name
        torch.testing.assert_close(found.of_logits.sum(dim=1), torch.zeros(2, 3, 4), rtol=0, atol=1e-4)


@pytest.mark.parametrize("slots", [2, 3, 7])
def test_mixtures_without_one_slot(slots: int) -> None:
    """Against mixtures of the others, whose masks are their logits' own softmax; sums over all but one against logsumexp."""
    generator = torch.Generator().manual_seed(slots)
    images = torch.rand(2, 3, 2, 4, generator=generator, dtype=torch.float64)
    means = images.unsqueeze(1) + 0.2 * torch.randn(2, slots, 3, 2, 4, generator=generator, dtype=torch.float64)
    logits = 3.0 * torch.randn(2, slots, 2, 4, generator=generator, dtype=torch.float64)
    logits[:, 0] += 30.0  # one slot has nearly everything: what is left without it must not drown
    density = normal_log_density(images, means, torch.tensor(0.1).double().expand(slots))
    for joint, mixture in ((True, joint_mixture), (False, per_channel_mixture)):
        found = log_prob_without(logits.log_softmax(dim=1), density, joint=joint)
        for k in range(slots):
            others = [j for j in range(slots) if j != k]
            expected = mixture(
                images,
                means[:, others],
                logits[:, others].log_softmax(dim=1),
                torch.tensor(0.1).double().expand(len(others)),
            )
            torch.testing.assert_close(found[:, k], expected, rtol=1e-10, atol=1e-9)
    for k in range(slots):
        others = [j for j in range(slots) if j != k]
        torch.testing.assert_close(
            leave_one_out(logits)[:, k], logits[:, others].logsumexp(dim=1), rtol=1e-12, atol=1e-12
        )
