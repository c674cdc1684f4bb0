"""How noisy each estimator's gradient is, at fixed weights and on fixed images: for the study of AIR's estimators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from objectwise.core import ShardedGenerator, parameter_groups, seed_for
from objectwise.models.air import AIR


class GradientSpread(NamedTuple):
    """Moments of a gradient over draws of the noise.

    Attributes:
        mean: (P,) of the flattened gradient.
        variance: (P,) unbiased, of a single draw.
        draws: M.
    """

    mean: Tensor
    variance: Tensor
    draws: int

    @property
    def total_variance(self) -> float:
        """Summed over parameters."""
        return float(self.variance.sum())

    @property
    def standard_error(self) -> Tensor:
        """(P,) of the mean."""
        return (self.variance / self.draws).sqrt()


def gradient_spread(
    model: nn.Module,
    images: Tensor,
    *,
    draws: int,
    parameters: Iterable[nn.Parameter] | None = None,
    step: int | None = None,
    seed: int = 0,
) -> GradientSpread:
    """The gradient of ``loss.mean()`` over many draws of the noise, accumulated in float64 without storing them.

    Args:
        model: left as it was; no gradient is put on its parameters.
        images: (B, C, H, W), the same for every draw.
        draws: M, at least 2.
        parameters: with respect to which; None: all that have no auxiliary loss of their own, whose gradients the losses share.
        step: of training, for annealing.
        seed: draw m uses noise that depends on (seed, m) only, so that estimators see the same posterior samples.

    Raises:
        ValueError: for fewer than two draws.
    """
    if draws < 2:
        raise ValueError(f"a variance needs at least 2 draws, not {draws}")
    chosen = list(_shared_parameters(model) if parameters is None else parameters)
    mean = torch.zeros(sum(p.numel() for p in chosen), dtype=torch.float64)
    squares = torch.zeros_like(mean)
    for index in range(draws):
        generator = ShardedGenerator(images.device)
        generator.manual_seed(seed_for(seed, index))
        loss = model(images, generator=generator, step=step).loss.mean()
        parts = torch.autograd.grad(loss, chosen, allow_unused=True, materialize_grads=True)
        gradient = torch.cat([part.flatten() for part in parts]).double().cpu()
        offset = gradient - mean
        mean += offset / (index + 1)
        squares += offset * (gradient - mean)
    return GradientSpread(mean, squares / (draws - 1), draws)


def with_estimator(model: AIR, **changes: object) -> AIR:
    """A copy of a model with the same weights and another estimator; baselines it did not have start untrained.

    Args:
        model: trained or not.
        changes: ``estimator``, ``baselines``, ``samples``, ``temperature``.
    """
    changes = {"baselines": "none", **changes}
    copy = AIR(model.config.replaced(**changes)).to(next(model.parameters()).device)
    known = copy.state_dict().keys()
    copy.load_state_dict({**copy.state_dict(), **{k: v for k, v in model.state_dict().items() if k in known}})
    return copy.train(model.training)


def fit_baselines(model: AIR, images: Tensor, *, steps: int, learning_rate: float = 1e-3, seed: int = 0) -> list[float]:
    """Train only the score function's baselines, in place; returns their loss after every step.

    Args:
        model: with ``baselines="nvil"``.
        images: (B, C, H, W), used whole at every step.
        steps: of Adam.
        learning_rate: of Adam.
        seed: of the noise.
    """
    baselines = parameter_groups(model)["baselines"]
    optimizer = torch.optim.Adam(baselines, lr=learning_rate)
    losses = []
    for index in range(steps):
        generator = ShardedGenerator(images.device)
        generator.manual_seed(seed_for(seed, index, 1))
        loss = model(images, generator=generator).auxiliary_losses["baselines"].mean()
        gradients = torch.autograd.grad(loss, baselines)
        for parameter, gradient in zip(baselines, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        losses.append(float(loss.detach()))
    optimizer.zero_grad(set_to_none=True)
    return losses


def _shared_parameters(model: nn.Module) -> list[nn.Parameter]:
    groups = parameter_groups(model)
    return [p for name, members in groups.items() if name != "baselines" for p in members]
