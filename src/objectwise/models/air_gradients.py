"""How noisy each estimator's gradient is, at fixed weights and on fixed images: for the study of AIR's estimators."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from objectwise.core import ShardedGenerator, parameter_groups, seed_for
from objectwise.models.air import AIR


class GradientSpread(NamedTuple):
    """Moments of a gradient over draws of the noise; rows of ``variance["head.weight"]``: presence, pose means, pose spreads.

    Attributes:
        mean: parameter name -> mean, in its shape.
        variance: parameter name -> unbiased variance of a single draw, in its shape.
        draws: M.
    """

    mean: dict[str, Tensor]
    variance: dict[str, Tensor]
    draws: int

    @property
    def total_variance(self) -> float:
        """Summed over all parameters."""
        return sum(float(each.sum()) for each in self.variance.values())

    @property
    def presence_variance(self) -> float:
        """Summed over the weights that p_i alone comes from, the part that estimators of the count differ in most."""
        return sum(float(self.variance[name][0].sum()) for name in ("head.weight", "head.bias"))


def gradient_spread(
    model: nn.Module, images: Tensor, *, draws: int, step: int | None = None, seed: int = 0
) -> GradientSpread:
    """The gradient of ``loss.mean()`` over many draws of the noise, accumulated in float64 without storing them.

    Args:
        model: left as it was; no gradient is put on its parameters. Those of baselines are left out.
        images: (B, C, H, W), the same for every draw.
        draws: M, at least 2.
        step: of training, for annealing.
        seed: draw m uses noise that depends on (seed, m) only, so that estimators of one chain see the same posterior samples.

    Raises:
        ValueError: for fewer than two draws.
    """
    if draws < 2:
        raise ValueError(f"a variance needs at least 2 draws, not {draws}")
    apart = {id(p) for p in parameter_groups(model).get("baselines", [])}
    chosen = {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) not in apart}
    mean = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in chosen.items()}
    squares = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in chosen.items()}
    for index in range(draws):
        generator = ShardedGenerator(images.device)
        generator.manual_seed(seed_for(seed, index))
        loss = model(images, generator=generator, step=step).loss.mean()
        parts = torch.autograd.grad(loss, list(chosen.values()), allow_unused=True, materialize_grads=True)
        for name, part in zip(chosen, parts, strict=True):
            offset = part.double() - mean[name]
            mean[name] += offset / (index + 1)
            squares[name] += offset * (part.double() - mean[name])
    return GradientSpread(mean, {name: part / (draws - 1) for name, part in squares.items()}, draws)


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
