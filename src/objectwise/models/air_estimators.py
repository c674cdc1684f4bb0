"""Estimators of AIR's gradient beside the exact sum over counts, which is on the model's own page (:mod:`objectwise.models.air`).

All share one chain z_1..z_N ~ q̃ that never stops, reparameterised, and differ in what they do with the count n given z:

* :func:`collapsed` sums it out of the model instead of out of the bound: L_C = E[log Σ_n exp a_n] ≥ ELBO;
* :func:`score` samples it, as the paper does: score function, each decision charged only with the costs it can still change,
  less per-step baselines (Mnih & Gregor, "Neural Variational Inference and Learning in Belief Networks", 2014);
* :func:`vimco` samples K pairs (z, n), each the others' baseline (Mnih & Rezende, "Variational Inference for Monte Carlo
  Objectives", 2016);
* :func:`relaxed_alive` makes the presences continuous (Maddison et al., "The Concrete Distribution", 2017).

Each returns an :class:`Estimate`, whose ``loss`` has the value that its docstring states and a gradient that may come from a
surrogate. a_n = log p(x, n, z) − log q̃(z); w_n = q(n | z); both run over n = 0..N.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from objectwise.core import uniform
from objectwise.nn.divergences import kl_bernoulli


class Draw(NamedTuple):
    """What one pass of the chain gives an estimator. Entry 0 of the costs is the background, which is always there.

    Attributes:
        logits: (B, N) of p_i.
        prior_logits: (N,) of ρ_i.
        log_likelihood: (B, N+1) log p(x | z_1:n).
        kl: (B, N+1) KL(q(z_i | z_<i) || p(z_i)) in closed form.
        log_ratio: (B, N+1) log q(z_i | z_<i) − log p(z_i) at the sample, whose mean is ``kl``.
    """

    logits: Tensor
    prior_logits: Tensor
    log_likelihood: Tensor
    kl: Tensor
    log_ratio: Tensor


class Estimate(NamedTuple):
    """What an estimator gives training.

    Attributes:
        loss: (B,) to be minimised.
        bound: (B,) the estimator's own lower bound of log p(x) for this draw, detached.
        baseline_loss: (B,) squared error of the baselines, where there are any.
    """

    loss: Tensor
    bound: Tensor
    baseline_loss: Tensor | None = None


def log_count_weights(logits: Tensor) -> Tensor:
    """Log q(n | z) for n = 0..N from the logits of p_1..p_N: log w_n = Σ_{i≤n} log p_i + log(1 − p_{n+1}).

    Args:
        logits: (B, N).

    Returns:
        (B, N+1), whose exponentials sum to 1.
    """
    start = torch.zeros_like(logits[:, :1])
    go_on = torch.cat([start, logsigmoid(logits).cumsum(dim=1)], dim=1)
    stop = torch.cat([logsigmoid(-logits), start], dim=1)
    return go_on + stop


def log_joint(draw: Draw) -> Tensor:
    """(B, N+1) a_n = log p(x | z_1:n) + log p(n) − Σ_{i≤n} log q(z_i)/p(z_i); log p(n) is the prior's own unary chain."""
    return draw.log_likelihood + log_count_weights(draw.prior_logits.unsqueeze(0)) - draw.log_ratio.cumsum(dim=1)


def count_prior_logits(most: int, k: float) -> list[float]:
    """Logits of ρ_i = p(n ≥ i | n ≥ i−1), i = 1..``most``, under p(n) ∝ k^n, n = 0..``most``."""
    # p(n ≥ i) / p(n = i−1) = k + ... + k^{N−i+1}; factored, because k^N itself underflows for small k and overflows for large.
    logits = []
    for i in range(1, most + 1):
        powers = [j * math.log(k) for j in range(1, most - i + 2)]
        logits.append(max(powers) + math.log(math.fsum(math.exp(power - max(powers)) for power in powers)))
    return logits


def marginal(draw: Draw) -> dict[str, Tensor]:
    """The ELBO (B,) with the count summed exactly, and its parts; KLs in closed form given the steps before."""
    weights = log_count_weights(draw.logits).exp()
    alive = torch.cat([torch.ones_like(weights[:, :1]), logsigmoid(draw.logits).cumsum(dim=1).exp()], dim=1)
    log_likelihood = (weights * draw.log_likelihood).sum(dim=1)
    kl_count = (alive[:, :-1] * kl_bernoulli(draw.logits, draw.prior_logits)).sum(dim=1)
    kl = (alive * draw.kl).sum(dim=1)
    return {"elbo": log_likelihood - kl_count - kl, "log_likelihood": log_likelihood, "kl_count": kl_count, "kl": kl}


def collapsed(draw: Draw) -> Estimate:
    """Loss = −L_C + cross-entropy of q(n | z) to the posterior r = softmax(a) of this draw, which is not differentiated.

    No presence enters L_C, so nothing saturates; p_i learns from the cross-entropy alone. That one also reaches the features p_i
    shares with where and what, and z_<i through the feedback.
    """
    joint = log_joint(draw)
    bound = joint.logsumexp(dim=1)
    posterior = joint.detach().softmax(dim=1)
    cross_entropy = -(posterior * log_count_weights(draw.logits)).sum(dim=1)
    return Estimate(cross_entropy - bound, bound.detach())


def score(draw: Draw, generator: torch.Generator, baselines: Tensor | None = None, unit: float = 1.0) -> Estimate:
    """Loss = −ELBO of one sampled count; its gradient is the score-function estimator.

    KLs are taken in closed form given the steps before, which only lowers the variance.

    Args:
        draw: the chain.
        generator: samples the presences.
        baselines: (B, N) b_i(x, z_<i), not to depend on later draws; None: zero.
        unit: the baselines' error is measured in this many nats.
    """
    on, alive = sample_presence(draw.logits, generator)
    number = alive.sum(dim=1, keepdim=True).long() - 1
    log_likelihood = draw.log_likelihood.gather(1, number).squeeze(1)
    asked = alive[:, :-1]
    kl_count = asked * kl_bernoulli(draw.logits, draw.prior_logits)
    kl = alive * draw.kl
    bound = log_likelihood - kl_count.sum(dim=1) - kl.sum(dim=1)

    def from_here_on(costs: Tensor) -> Tensor:
        return costs.flip(1).cumsum(dim=1).flip(1)

    later = from_here_on(kl[:, 1:]) + from_here_on(kl_count) - kl_count
    returns = (log_likelihood.unsqueeze(1) - later).detach()
    signal = returns if baselines is None else returns - baselines.detach()
    log_q = asked * torch.where(on, logsigmoid(draw.logits), logsigmoid(-draw.logits))
    surrogate = (signal * log_q).sum(dim=1)
    error = None
    if baselines is not None:
        error = (asked * ((returns - baselines) / unit).square()).sum(dim=1) / asked.sum(dim=1)
    return Estimate(_with_gradient(-bound, -surrogate), bound.detach(), error)


def vimco(draw: Draw, generator: torch.Generator, samples: int) -> Estimate:
    """Loss = −log (1/K) Σ_k exp f_k, f = log p(x, n, z) − log q(n, z | x), for K sampled chains and counts per image.

    Args:
        draw: of B·K rows, the K of an image beside each other.
        generator: samples the presences.
        samples: K, at least 2.
    """
    _, alive = sample_presence(draw.logits, generator)
    number = alive.sum(dim=1, keepdim=True).long() - 1
    log_q = log_count_weights(draw.logits).gather(1, number).view(-1, samples)
    f = log_joint(draw).gather(1, number).view(-1, samples) - log_q
    bound = f.logsumexp(dim=1) - math.log(samples)
    # Without sample k: its f is replaced by the mean of the others, their weights' geometric mean.
    others = (f.sum(dim=1, keepdim=True) - f) / (samples - 1)
    replaced = f.unsqueeze(1) + torch.diag_embed(others - f)
    signal = (bound.unsqueeze(1) - replaced.logsumexp(dim=2) + math.log(samples)).detach()
    return Estimate(_with_gradient(-bound, -(signal * log_q).sum(dim=1)), bound.detach())


def concrete(draw: Draw, alive: Tensor, log_likelihood: Tensor) -> Estimate:
    """Loss = −(relaxed ELBO): every cost is weighted with the relaxed S_i, the count's KL is that of the Bernoullis.

    Args:
        draw: the chain.
        alive: (B, N+1) from :func:`relaxed_alive`.
        log_likelihood: (B,) of the canvas on which step i is drawn with strength ``alive[:, i]``.
    """
    kl_count = (alive[:, :-1] * kl_bernoulli(draw.logits, draw.prior_logits)).sum(dim=1)
    bound = log_likelihood - kl_count - (alive * draw.kl).sum(dim=1)
    return Estimate(-bound, bound.detach())


def relaxed_alive(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """(B, N+1) products of relaxed presences, 1 first; in the limit of temperature 0 those of :func:`sample_presence`."""
    on = ((logits + _logistic(logits, generator)) / temperature).sigmoid()
    return _alive(on)


def sample_presence(logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Presences (B, N) bool, drawn for all steps, and (B, N+1) whether steps 0..N are reached and used (0 always is)."""
    on = logits.detach() + _logistic(logits, generator) > 0.0
    return on, _alive(on.float())


def _alive(on: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(on[:, :1]), on.cumprod(dim=1)], dim=1)


def _logistic(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Logistic noise of the logits' shape: sigmoid(l) is the probability that l plus it is positive."""
    return uniform(tuple(logits.shape), generator).clamp(1e-6, 1.0 - 1e-6).logit()


def _with_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value, whose gradient gains that of the surrogate."""
    return value + (surrogate - surrogate.detach())
