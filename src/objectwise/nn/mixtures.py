"""Pixels as mixtures of slots: log-likelihoods in float32 and log space, with all constants, in nats.

Call them inside a float32 island. Symbols: B images, K slots, C channels; m the mixing weights, μ the slots' means, σ_k.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def joint_mixture(images: Tensor, means: Tensor, log_masks: Tensor, std: Tensor) -> Tensor:
    """Log Σ_k m_k Π_c N(x_c; μ_kc, σ_k²): a slot explains a pixel in all its channels, as in MONet, equation 3, and IODINE.

    Args:
        images: (B, C, H, W).
        means: (B, K, C, H, W).
        log_masks: (B, K, H, W), log m, which sum to one over K.
        std: (K,) σ_k.

    Returns:
        (B, H, W).
    """
    return torch.logsumexp(log_masks + normal_log_density(images, means, std).sum(dim=2), dim=1)


def per_channel_mixture(images: Tensor, means: Tensor, log_masks: Tensor, std: Tensor) -> Tensor:
    """Σ_c log Σ_k m_k N(x_c; μ_kc, σ_k²): each channel chooses its slot by itself, as many public ports have it.

    Arguments and result as in :func:`joint_mixture`.
    """
    return torch.logsumexp(log_masks.unsqueeze(2) + normal_log_density(images, means, std), dim=1).sum(dim=1)


def weighted_squares(images: Tensor, means: Tensor, log_masks: Tensor, std: Tensor) -> Tensor:
    """−Σ_k m_k Σ_c (x_c − μ_kc)² / (2 σ_k²): the MONet blog's simplification, not the log of a density.

    By Jensen's inequality Σ_k m_k log N_k bounds the mixture from below; here its constants and, with them, −C log σ_k are
    left out, which reverses which slot is preferred where several explain a pixel equally well.

    Arguments and result as in :func:`joint_mixture`.
    """
    squares = (images.unsqueeze(1) - means).square().sum(dim=2)
    return -(log_masks.exp() * squares / (2.0 * std.square())[:, None, None]).sum(dim=1)


def normal_log_density(images: Tensor, means: Tensor, std: Tensor) -> Tensor:
    """Log N(x; μ_k, σ_k²), elementwise: (B, C, H, W), (B, K, C, H, W) and (K,) -> (B, K, C, H, W)."""
    scaled = (images.unsqueeze(1) - means) / std[:, None, None, None]
    return -0.5 * scaled.square() - (std.log() + 0.5 * math.log(2.0 * math.pi))[:, None, None, None]
