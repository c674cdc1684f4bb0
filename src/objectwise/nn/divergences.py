"""Kullback-Leibler divergences in closed form, in nats."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def kl_normal(mean: Tensor, std: Tensor, prior_std: Tensor | float = 1.0) -> Tensor:
    """KL( N(mean, std²) || N(0, prior_std²) ), elementwise.

    Args:
        mean: any shape.
        std: same shape, positive.
        prior_std: positive, broadcastable.

    Returns:
        non-negative, same shape.
    """
    ratio = (std / prior_std) ** 2
    return 0.5 * (ratio + (mean / prior_std) ** 2 - 1.0 - ratio.log())


def kl_bernoulli(logit: Tensor, prior_logit: Tensor) -> Tensor:
    """KL( Bernoulli(sigmoid(logit)) || Bernoulli(sigmoid(prior_logit)) ), elementwise, stable at both ends.

    Args:
        logit: any shape.
        prior_logit: broadcastable to it.

    Returns:
        non-negative, broadcast shape.
    """
    p = logit.sigmoid()
    on = F.logsigmoid(logit) - F.logsigmoid(prior_logit)
    off = F.logsigmoid(-logit) - F.logsigmoid(-prior_logit)
    return p * on + (1.0 - p) * off
