"""What AIR in 3D is compared with (Eslami et al. 2016): the same network trained on labels, and optimisation image by image.

The supervised network is AIR3D's own inference network, run at its means; its loss knows the true scenes. ``fixed`` order makes
step i give object i of a sorted list (by kind, then from left to right); ``matched`` pairs steps and objects by the Hungarian
method. The count is the unary chain of presences in both. A yaw is learned as a ``vector`` (cos, sin) or as an ``angle`` in
radians; a cube looks the same at four of them, whose mean is none of them.

Direct optimisation starts from random scenes, several per image, and follows the same black-box gradient of the same squared
error by Adam; the best of the restarts counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from objectwise.core import UserError
from objectwise.models.air_3d import AIR3D, Step
from objectwise.nn import black_box
from objectwise.rendering.tabletop import TableScene


def in_order(scene: TableScene) -> TableScene:
    """The same scenes with their objects sorted: present ones first, by kind, then by x."""
    key = scene.kind.double() + 1e3 * (~scene.present).double() + 1e-3 * torch.tanh(scene.pose[..., 0].double())
    order = key.argsort(dim=1, stable=True)
    kind, present = scene.kind.gather(1, order), scene.present.gather(1, order)
    return TableScene(kind, scene.pose.gather(1, order.unsqueeze(2).expand_as(scene.pose)), present, scene.camera)


Order = Literal["fixed", "matched"]
Turn = Literal["vector", "angle"]


def supervised_loss(
    model: AIR3D, images: Tensor, truth: TableScene, order: Order = "fixed", turn: Turn = "vector"
) -> Tensor:
    """(B,) cross-entropies of counts and kinds, squared errors of places (in units of the extent) and of yaws.

    Args:
        model: gives the network; its objective is not used.
        images: (B, C, H, W).
        truth: their scenes, of at most N objects.
        order: which object each step is to give.
        turn: whether a yaw is (cos, sin), or radians in [−π, π); the network must be able to give any (rotation_fold 1).

    Raises:
        UserError: for scenes of more objects than the model has steps.
    """
    truth, steps = in_order(truth), model.config.num_steps
    if int(truth.present.sum(dim=1).max()) > steps:
        raise UserError(f"the scenes have up to {int(truth.present.sum(dim=1).max())} objects, the model {steps} steps")
    _, chain = model.infer(images, None)
    number = truth.present.sum(dim=1)
    costs = _pair_costs(model, chain, truth, turn)
    if order == "fixed":
        pairs = costs.diagonal(dim1=1, dim2=2)
        paired = (pairs * truth.present[:, : pairs.shape[1]]).sum(dim=1)
    else:
        paired = torch.stack([_matched(costs[b, :n, :n]) for b, n in enumerate(number.tolist())])
    logits = torch.stack([found.logit for found in chain], dim=1)
    index = torch.arange(steps, device=images.device)
    used, asked = (index < number.unsqueeze(1)).float(), (index <= number.unsqueeze(1)).float()
    count = nn.functional.binary_cross_entropy_with_logits(logits, used, reduction="none")
    return paired + (asked * count).sum(dim=1)


def _pair_costs(model: AIR3D, chain: list[Step], truth: TableScene, turn: Turn) -> Tensor:
    """(B, N, M) what it costs that step i gives object m."""
    pose = model.pose(torch.stack([found.latent for found in chain], dim=1)).unsqueeze(2)
    true = truth.pose.to(pose).unsqueeze(1)
    place = ((pose[..., :2] - true[..., :2]) / model.config.extent).square().sum(dim=3)
    if turn == "vector":
        yaw = 2.0 - 2.0 * torch.cos(pose[..., 2] - true[..., 2])
    else:
        yaw = (pose[..., 2] - (torch.remainder(true[..., 2] + math.pi, 2.0 * math.pi) - math.pi)).square()
    kinds = torch.stack([found.kinds for found in chain], dim=1)
    wanted = truth.kind.unsqueeze(1).expand(-1, kinds.shape[1], -1)
    return place + yaw - kinds.gather(2, wanted)


def _matched(costs: Tensor) -> Tensor:
    first, second = linear_sum_assignment(costs.detach().cpu().double().numpy())
    return costs[torch.from_numpy(first), torch.from_numpy(second)].sum()


def fit_supervised(
    model: AIR3D,
    batches: Iterator[tuple[Tensor, TableScene]],
    *,
    order: Order = "fixed",
    turn: Turn = "vector",
    learning_rate: float = 5e-4,
    steps: int | None = None,
) -> list[float]:
    """Train a model on labels, in place; returns the mean loss of every step.

    Args:
        model: trained in place.
        batches: of images and their true scenes.
        order: as in :func:`supervised_loss`.
        turn: as there.
        learning_rate: of Adam.
        steps: of the cosine schedule to zero; None: a constant rate.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    losses = []
    for index, (images, truth) in enumerate(batches):
        if steps is not None:
            optimizer.param_groups[0]["lr"] = learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, index / steps)))
        loss = supervised_loss(model, images, truth, order, turn).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


class Optimised(NamedTuple):
    """What :func:`optimise` found.

    Attributes:
        scene: the best scene of every image; objects beyond the best count are absent.
        errors: (B,) its summed squared error.
        seconds: of the processor per image, all restarts together.
    """

    scene: TableScene
    errors: Tensor
    seconds: float


def optimise(
    model: AIR3D, images: Tensor, *, restarts: int = 9, steps: int = 100, learning_rate: float = 0.1, seed: int = 0
) -> Optimised:
    """Fit scenes to images one by one, without a network.

    Kinds are drawn once per restart (the first object's go round) and stay. The count is the prefix of least error plus
    2σ² log(1/k) per object, σ and k being the model's.

    Args:
        model: gives the renderer, the steps of its black-box gradient, N, σ and k; its weights are not used.
        images: (B, C, H, W).
        restarts: random starts per image.
        steps: of Adam.
        learning_rate: of Adam, in prior units.
        seed: of the starts.

    Raises:
        UserError: for an inferred camera, or gradient autograd.
    """
    config = model.config
    if config.camera != "fixed" or config.gradient == "autograd":
        raise UserError("optimise needs a fixed camera and a black-box gradient")
    began = time.process_time()
    generator = torch.Generator().manual_seed(seed)
    batch, kinds = len(images), len(model.look.kinds)
    many = images.repeat_interleave(restarts, dim=0)
    kind = torch.randint(0, kinds, (len(many), config.num_steps), generator=generator)
    kind[:, 0] = torch.arange(restarts).repeat(batch) % kinds
    latent = torch.randn(len(many), config.num_steps, 3, generator=generator)
    camera = model.camera(latent.new_zeros(len(many), 0))
    present = torch.ones_like(kind, dtype=torch.bool)
    h = model.steps(latent)
    mean, square = torch.zeros_like(latent), torch.zeros_like(latent)
    penalty = 2.0 * config.likelihood_std**2 * -math.log(config.count_prior) * torch.arange(config.num_steps + 1)
    for index in range(steps):
        latent.requires_grad_(True)
        pose = model.pose(latent)
        scene = TableScene(kind, pose.detach(), present, camera)

        def changed(alternatives: Tensor, scene: TableScene = scene) -> Tensor:
            same = scene.kind.unsqueeze(2).expand(-1, -1, alternatives.shape[2])
            return model.errors.changed(many, scene, same, alternatives)[1]

        slopes = black_box.jacobian(
            changed,
            pose,
            h,
            config.gradient,
            pairs=config.pairs,
            generator=generator,
        )
        # All objects together: with fewer, those left out would not be drawn to anything.
        whole = black_box.with_gradient(torch.zeros(len(many), config.num_steps + 1), pose, slopes)[:, -1]
        (gradient,) = torch.autograd.grad(whole.sum(), latent)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient.square()
        rate = learning_rate * 0.5 * (1.0 + math.cos(math.pi * index / steps))
        corrected = (square / (1.0 - 0.99 ** (index + 1))).sqrt() + 1e-8
        latent = (latent.detach() - rate * mean / (1.0 - 0.9 ** (index + 1)) / corrected).clamp(-4.0, 4.0)
    with torch.no_grad():
        scene = TableScene(kind, model.pose(latent), present, camera)
        errors = model.errors.prefixes(many, scene)
    best, number = (errors + penalty.to(errors)).min(dim=1)
    row = best.view(batch, restarts).argmin(dim=1) + restarts * torch.arange(batch)
    chosen = scene.rows(row)
    used = torch.arange(config.num_steps) < number[row].unsqueeze(1)
    found = errors[row].gather(1, number[row].unsqueeze(1)).squeeze(1)
    return Optimised(chosen._replace(present=used), found, (time.process_time() - began) / batch)
