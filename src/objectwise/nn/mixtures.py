"""Pixels as mixtures of slots: log-likelihoods in float32 and log space, with all constants, in nats.

Call them inside a float32 island. Symbols: B images, K slots, C channels; m the mixing weights, μ the slots' means, σ_k.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LogDensity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(B, C, H, W) images, (B, K, C, H, W) means and (K,) scales -> (B, K, C, H, W)."""


def normal_log_density(images: Tensor, means: Tensor, std: Tensor) -> Tensor:
    """Log N(x; μ_k, σ_k²), elementwise: (B, C, H, W), (B, K, C, H, W) and (K,) -> (B, K, C, H, W)."""
    scaled = (images.unsqueeze(1) - means) / std[:, None, None, None]
    return -0.5 * scaled.square() - (std.log() + 0.5 * math.log(2.0 * math.pi))[:, None, None, None]


def logistic_log_density(images: Tensor, means: Tensor, scale: Tensor) -> Tensor:
    """Log of the logistic density with means μ_k and scales s_k (standard deviation s π/√3); arguments as above."""
    scaled = (images.unsqueeze(1) - means) / scale[:, None, None, None]
    # −u − 2 softplus(−u), in the form whose gradient is exact far out as well.
    return 2.0 * torch.nn.functional.logsigmoid(scaled) - scaled - scale.log()[:, None, None, None]


def joint_mixture(
    images: Tensor, means: Tensor, log_masks: Tensor, std: Tensor, density: LogDensity = normal_log_density
) -> Tensor:
    """Log Σ_k m_k Π_c N(x_c; μ_kc, σ_k²): a slot explains a pixel in all its channels, as in MONet, equation 3, and IODINE.

    Args:
        images: (B, C, H, W).
        means: (B, K, C, H, W).
        log_masks: (B, K, H, W), log m, which sum to one over K.
        std: (K,) σ_k.
        density: another one in the place of N.

    Returns:
        (B, H, W).
    """
    return torch.logsumexp(log_masks + density(images, means, std).sum(dim=2), dim=1)


def per_channel_mixture(
    images: Tensor, means: Tensor, log_masks: Tensor, std: Tensor, density: LogDensity = normal_log_density
) -> Tensor:
    """Σ_c log Σ_k m_k N(x_c; μ_kc, σ_k²): each channel chooses its slot by itself, as many public ports have it.

    Arguments and result as in :func:`joint_mixture`.
    """
    return torch.logsumexp(log_masks.unsqueeze(2) + density(images, means, std), dim=1).sum(dim=1)


def weighted_squares(images: Tensor, means: Tensor, log_masks: Tensor, std: Tensor) -> Tensor:
    """−Σ_k m_k Σ_c (x_c − μ_kc)² / (2 σ_k²): the MONet blog's simplification, not the log of a density.

    By Jensen's inequality Σ_k m_k log N_k bounds the mixture from below; here its constants and, with them, −C log σ_k are
    left out, which reverses which slot is preferred where several explain a pixel equally well.

    Arguments and result as in :func:`joint_mixture`.
    """
    squares = (images.unsqueeze(1) - means).square().sum(dim=2)
    return -(log_masks.exp() * squares / (2.0 * std.square())[:, None, None]).sum(dim=1)


class MixtureTerms(NamedTuple):
    """A mixture's log-likelihood and the gradients of L = −Σ_i log p(x_i), in closed form.

    Attributes:
        log_prob: (B, H, W) log p(x_i).
        of_means: (B, K, C, H, W) dL/dμ.
        of_logits: (B, K, H, W) dL/dm, m the mask logits.
        of_masks: (B, K, H, W) dL/dπ, π the masks taken as free.
        of_scale: (B,) dL/ds of each image, s the one scale of all slots.
    """

    log_prob: Tensor
    of_means: Tensor
    of_logits: Tensor
    of_masks: Tensor
    of_scale: Tensor


def mixture_terms(
    images: Tensor, means: Tensor, logits: Tensor, scale: Tensor, *, joint: bool, logistic: bool, floor: float = 0.0
) -> MixtureTerms:
    """The mixture in one go.

    With w = π + floor, π = softmax m, r the share of a slot in explaining a pixel, and u = (x − μ)/s,

        dL/dm = π Σ_j r_j π_j/w_j − r π/w  (= π − r without a floor),  dL/dπ = −r/w,  dL/dμ = −r u/s  (logistic: −r tanh(u/2)/s).

    For one mixture per channel r has channels, and dL/dm and dL/dπ are sums over them.

    Args:
        images: (B, C, H, W).
        means: (B, K, C, H, W).
        logits: (B, K, H, W).
        scale: σ or s, a scalar.
        joint: one mixture per pixel, or one per channel.
        logistic: the logistic density, or the normal one.
        floor: added to the masks.
    """
    slots = means.shape[1]
    scaled = (images.unsqueeze(1) - means) / scale
    density = (logistic_log_density if logistic else normal_log_density)(images, means, scale.expand(slots))
    slope = torch.tanh(0.5 * scaled) if logistic else scaled
    masks = logits.softmax(dim=1)
    log_weights = log_mask_weights(logits, floor)
    if joint:
        parts = log_weights + density.sum(dim=2)
        log_prob = torch.logsumexp(parts, dim=1)
        share = (parts - log_prob.unsqueeze(1)).exp()
        shares, log_shares = share.unsqueeze(2), density.sum(dim=2) - log_prob.unsqueeze(1)
        of_masks = -log_shares.exp()
    else:
        parts = log_weights.unsqueeze(2) + density
        by_channel = torch.logsumexp(parts, dim=1)
        log_prob = by_channel.sum(dim=1)
        shares = (parts - by_channel.unsqueeze(1)).exp()
        share = shares.sum(dim=2)
        of_masks = -(density - by_channel.unsqueeze(1)).exp().sum(dim=2)
    free = share if floor == 0.0 else share * masks / (masks + floor)
    return MixtureTerms(
        log_prob=log_prob,
        of_means=-shares * slope / scale,
        of_logits=masks * free.sum(dim=1, keepdim=True) - free,
        of_masks=of_masks,
        of_scale=(shares * (1.0 - scaled * slope) / scale).flatten(1).sum(dim=1),
    )


def log_mask_weights(logits: Tensor, floor: float = 0.0) -> Tensor:
    """Log (softmax m + floor) over slots, (B, K, H, W); without a floor exact however far apart the logits are."""
    return (logits.softmax(dim=1) + floor).log() if floor else logits.log_softmax(dim=1)


def leave_one_out(values: Tensor) -> Tensor:
    """Log Σ_{j≠k} exp v_j over axis 1 for every k, in K steps: running sums from either end; nothing is subtracted.

    Args:
        values: (B, K, ...), K ≥ 2.
    """
    each = values.unbind(dim=1)
    below, above = [each[0]], [each[-1]]
    for value in each[1:-1]:
        below.append(torch.logaddexp(below[-1], value))
    for value in each[-2:0:-1]:
        above.append(torch.logaddexp(above[-1], value))
    inner = [torch.logaddexp(b, a) for b, a in zip(below[:-1], above[-2::-1], strict=True)]
    return torch.stack([above[-1], *inner, below[-1]], dim=1)


def log_prob_without(
    log_weights: Tensor, density: Tensor, leave_out: Callable[[Tensor], Tensor] = leave_one_out, *, joint: bool
) -> Tensor:
    """Log p(x_i) of the mixture without slot k, for every k: (B, K, H, W); the other slots' weights are scaled to sum to one.

    Args:
        log_weights: (B, K, H, W) log masks, K ≥ 2.
        density: (B, K, C, H, W) log densities.
        leave_out: what sums over all slots but one.
        joint: one mixture per pixel, or one per channel.
    """
    others = leave_out(log_weights)
    if joint:
        return leave_out(log_weights + density.sum(dim=2)) - others
    return leave_out(log_weights.unsqueeze(2) + density).sum(dim=2) - density.shape[2] * others
