"""Gradients of a function that can only be evaluated, block by block: finite differences, SPSA, evolution strategies.

The function maps points (B, N, D), N blocks of D numbers each, to values (B, F). It is asked for many points of which each
differs
from the given one in a single block, so that a renderer need draw only the object that moved. J[b, n, d, f] is the estimate of
∂ values[b, f] / ∂ points[b, n, d]:

* ``finite-difference``: [f(z + h_d e_d) − f(z − h_d e_d)] / 2h_d, 2D evaluations per block; the error is of order h²;
* ``spsa``: [f(z + h∘δ) − f(z − h∘δ)] δ_d / 2h_d with random signs δ (Spall, "Multivariate Stochastic Approximation Using a
  Simultaneous Perturbation Gradient Approximation", 1992), 2 per pair whatever D is; unbiased but for order h²;
* ``evolution``: [f(z + h∘ε) − f(z − h∘ε)] ε_d / 2h_d with ε ~ N(0, I) (Nesterov & Spokoiny, "Random Gradient-Free Minimization of
  Convex Functions", 2017; antithetic as in Salimans et al., "Evolution Strategies as a Scalable Alternative to Reinforcement
  Learning", 2017): unbiased for the function smoothed by N(0, h²).

Perturbing each block by itself takes as many renderings of objects as perturbing all at once, and the other blocks add no noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from objectwise.core import normal, uniform

Method = Literal["finite-difference", "spsa", "evolution"]

Changed = Callable[[Tensor], Tensor]
"""Alternatives (B, N, A, D) for each block, the others staying as they are -> values (B, N, A, F)."""


def perturbations(
    shape: tuple[int, int, int], steps: Tensor, method: Method, pairs: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """What is added to the points, and how differences become derivatives.

    Args:
        shape: (B, N, D).
        steps: (D,) h, in the points' units.
        method: see above.
        pairs: P of ``spsa`` and ``evolution``, per block.
        generator: of their noise; None: a fixed seed, so that evaluation is deterministic.

    Returns:
        offsets (B, N, P, D), to be added and subtracted; and factors (B, N, P, D): J_d = Σ_p (f⁺_p − f⁻_p) factor_pd.
        P is D for finite differences.
    """
    batch, blocks, size = shape
    if method == "finite-difference":
        eye = torch.eye(size, dtype=steps.dtype, device=steps.device)
        return (eye * steps).expand(batch, blocks, -1, -1), (eye / (2.0 * steps)).expand(batch, blocks, -1, -1)
    if generator is None:
        generator = torch.Generator(steps.device).manual_seed(0)
    if method == "spsa":
        noise = (uniform((batch, blocks, pairs, size), generator) < 0.5).to(steps) * 2.0 - 1.0
    else:
        noise = normal((batch, blocks, pairs, size), generator).to(steps)
    return noise * steps, noise / (2.0 * pairs * steps)


def two_sided(points: Tensor, offsets: Tensor) -> Tensor:
    """(B, N, D) and (B, N, P, D) -> alternatives (B, N, 2P, D): first those with the offsets added, then subtracted."""
    middle = points.detach().unsqueeze(2)
    return torch.cat([middle + offsets, middle - offsets], dim=2)


def from_differences(values: Tensor, factors: Tensor) -> Tensor:
    """Values (B, N, 2P, F) at :func:`two_sided` points and factors (B, N, P, D) -> J (B, N, D, F)."""
    above, below = values.chunk(2, dim=2)
    return torch.einsum("bnpf,bnpd->bndf", above - below, factors)


def jacobian(
    changed: Changed,
    points: Tensor,
    steps: Tensor,
    method: Method = "finite-difference",
    *,
    pairs: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """J (B, N, D, F), without autograd history; arguments as in :func:`perturbations`.

    Args:
        changed: the function, one block changed at a time.
        points: (B, N, D).
        steps: (D,).
        method: see above.
        pairs: of noise.
        generator: of noise.
    """
    shape = (points.shape[0], points.shape[1], points.shape[2])
    offsets, factors = perturbations(shape, steps.to(points), method, pairs, generator)
    with torch.no_grad():
        return from_differences(changed(two_sided(points, offsets)), factors)


def with_gradient(values: Tensor, points: Tensor, slopes: Tensor) -> Tensor:
    """The values (B, F), unchanged, with J (B, N, D, F) as their derivative with respect to the points (B, N, D)."""
    return values + torch.einsum("bndf,bnd->bf", slopes.to(points), points - points.detach())


def one_at_a_time(function: Callable[[Tensor], Tensor], points: Tensor) -> Changed:
    """``changed`` for a function of whole points (B, N, D) -> (B, F), which is evaluated for every alternative."""

    def changed(alternatives: Tensor) -> Tensor:
        batch, blocks, number, size = alternatives.shape
        whole = points.detach()[:, None, None].repeat(1, blocks, number, 1, 1)
        for block in range(blocks):
            whole[:, block, :, block] = alternatives[:, block]
        # Rows of one image stay together: function may keep data per image by repeating it.
        return function(whole.reshape(batch * blocks * number, blocks, size)).view(batch, blocks, number, -1)

    return changed
