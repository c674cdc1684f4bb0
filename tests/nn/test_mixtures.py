from __future__ import annotations

import math

import pytest
import torch

from objectwise.nn.mixtures import joint_mixture, per_channel_mixture, weighted_squares

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
