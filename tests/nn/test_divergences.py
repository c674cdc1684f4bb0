from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions as D

from objectwise.nn.divergences import kl_bernoulli, kl_normal

MEANS = st.floats(-5, 5)
WIDTHS = st.floats(0.05, 5)
LOGITS = st.floats(-12, 12)


@settings(max_examples=50, deadline=None)
@given(mean=MEANS, std=WIDTHS, prior_std=WIDTHS)
def test_normal_against_torch(mean: float, std: float, prior_std: float) -> None:
    mean_, std_, prior_ = (torch.tensor(value, dtype=torch.float64) for value in (mean, std, prior_std))
    expected = D.kl_divergence(D.Normal(mean_, std_), D.Normal(torch.zeros_like(mean_), prior_))
    assert kl_normal(mean_, std_, prior_).item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)


def test_normal_by_hand() -> None:
    """KL(N(1, 2²) || N(0, 1)) = (4 + 1 − 1 − ln 4) / 2 = 2 − ln 2; zero at the prior."""
    assert kl_normal(torch.tensor(1.0), torch.tensor(2.0)).item() == pytest.approx(2 - math.log(2), rel=1e-6)
    assert kl_normal(torch.tensor(0.0), torch.tensor(3.0), 3.0).item() == 0


def test_normal_by_numerical_integration() -> None:
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    q, p = D.Normal(x.new_tensor(0.7), 0.4), D.Normal(x.new_tensor(0.0), 1.3)
    integral = torch.trapezoid(q.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x)), x)
    assert kl_normal(x.new_tensor(0.7), x.new_tensor(0.4), 1.3).item() == pytest.approx(integral.item(), rel=1e-8)


@settings(max_examples=50, deadline=None)
@given(logit=LOGITS, prior=LOGITS)
def test_bernoulli_against_torch(logit: float, prior: float) -> None:
    logit_, prior_ = torch.tensor(logit, dtype=torch.float64), torch.tensor(prior, dtype=torch.float64)
    expected = D.kl_divergence(D.Bernoulli(logits=logit_), D.Bernoulli(logits=prior_))
    assert kl_bernoulli(logit_, prior_).item() == pytest.approx(expected.item(), rel=1e-7, abs=1e-10)
    assert kl_bernoulli(logit_.float(), prior_.float()).item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(("logit", "prior"), [(30.0, -30.0), (-30.0, 30.0), (30.0, 30.0), (-30.0, -30.0), (30.0, 0.0)])
def test_bernoulli_is_stable_at_both_ends(logit: float, prior: float) -> None:
    """At ±30 a probability is 1 to float32; the divergence is then |log of the other side's probability|."""
    expected = {(30.0, -30.0): 30.0, (-30.0, 30.0): 30.0, (30.0, 0.0): math.log(2)}.get((logit, prior), 0.0)
    leaf = torch.tensor(logit, requires_grad=True)
    value = kl_bernoulli(leaf, torch.tensor(prior))
    assert value.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert torch.isfinite(gradient)


def test_bernoulli_is_zero_at_the_prior_and_not_negative() -> None:
    logits = torch.linspace(-30, 30, 601)
    assert torch.equal(kl_bernoulli(logits, logits), torch.zeros_like(logits))
    near = kl_bernoulli(logits, logits + 1e-3)
    assert near.min() > -1e-6
