"""Pixels that are on or off, or something between: the Bernoulli likelihood of an image in [0, 1], from logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def bernoulli_log_likelihood(images: Tensor, logits: Tensor) -> Tensor:
    """Σ x log p + (1 − x) log(1 − p), p = sigmoid(logit), summed over everything but the batch.

    Stable for logits of any size. For binary images it is a log probability; for soft ones it is minus the cross-entropy, whose
    least possible value is :func:`target_entropy`, not zero.

    Args:
        images: (B, ...) in [0, 1].
        logits: same shape.

    Returns:
        (B,), at most minus the target entropy.
    """
    losses = functional.binary_cross_entropy_with_logits(logits, images, reduction="none")
    return -losses.flatten(1).sum(dim=1)


def target_entropy(images: Tensor) -> Tensor:
    """The entropy floor of soft targets: −Σ x log x + (1 − x) log(1 − x), the least cross-entropy that any prediction has.

    Reconstruction errors of soft images are read as excess over it, in nats per image. Zero for binary images.

    Args:
        images: (B, ...) in [0, 1].

    Returns:
        (B,), non-negative.
    """
    return -(torch.xlogy(images, images) + torch.xlogy(1.0 - images, 1.0 - images)).flatten(1).sum(dim=1)
