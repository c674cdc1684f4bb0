from __future__ import annotations

import math

import pytest
import torch

from objectwise.nn.bernoulli import bernoulli_log_likelihood, target_entropy


def test_by_the_book() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    logits = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    expected = [
        sum(
            x * math.log(1 / (1 + math.exp(-a))) + (1 - x) * math.log(1 - 1 / (1 + math.exp(-a)))
            for x, a in zip(image.flatten().tolist(), logit.flatten().tolist(), strict=True)
        )
        for image, logit in zip(images, logits, strict=True)
    ]
    torch.testing.assert_close(bernoulli_log_likelihood(images, logits), torch.tensor(expected, dtype=torch.float64))


def test_far_logits_stay_finite_and_keep_their_gradient() -> None:
    images, logits = torch.tensor([[1.0, 0.0]]), torch.tensor([[-500.0, 500.0]], requires_grad=True)
    found = bernoulli_log_likelihood(images, logits)
    assert found.item() == pytest.approx(-1000.0)
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[1.0, -1.0]]


def test_entropy_is_what_the_best_prediction_leaves() -> None:
    """The cross-entropy of p = x, and no other p is better; whole numbers cost nothing."""
    images = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    floor = target_entropy(images)
    torch.testing.assert_close(-bernoulli_log_likelihood(images, images.logit()), floor)
    for shift in (-0.1, 0.1):
        assert (-bernoulli_log_likelihood(images, images.logit() + shift) > floor).all()
    assert target_entropy((images > 0.5).double()).tolist() == [0.0] * 4
    assert target_entropy(torch.full((1, 6), 0.5)).item() == pytest.approx(6 * math.log(2))
