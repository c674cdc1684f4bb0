"""Gradients of black boxes: exact where they must be, unbiased where they claim it, and a renderer's against the exact one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from objectwise.nn import black_box
from objectwise.nn.black_box import Method, jacobian, one_at_a_time, with_gradient
from objectwise.rendering.scene_errors import scene_errors
from objectwise.rendering.tabletop import Tabletop, TabletopConfig, numba_is_there, table_scene

METHODS: tuple[Method, ...] = ("finite-difference", "spsa", "evolution")


def points(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quadratic(z: Tensor) -> Tensor:
    """(B, 3, 4) -> (B, 2), coupled between blocks."""
    return torch.stack([(z[:, 0] * z[:, 1]).sum(1) + z[:, 2].square().sum(1), z.sum(dim=(1, 2)).square()], dim=1)


def exact(z: Tensor) -> Tensor:
    rows = [torch.autograd.functional.jacobian(lambda p: quadratic(p.unsqueeze(0))[0], row) for row in z]
    return torch.stack(rows).movedim(1, -1)


@pytest.mark.parametrize("method", METHODS)
def test_unbiased_on_a_quadratic(method: Method) -> None:
    """Two-sided differences of a quadratic have no bias at any step: the mean over many draws is the derivative, by a z-test."""
    z, generator = points(), torch.Generator().manual_seed(1)
    changed, steps = one_at_a_time(quadratic, z), torch.tensor([0.5, 1.0, 0.3, 2.0], dtype=torch.float64)
    many = 1 if method == "finite-difference" else 400
    draws = torch.stack([jacobian(changed, z, steps, method, pairs=2, generator=generator) for _ in range(many)])
    difference = (draws.mean(0) - exact(z)).abs()
    if method == "finite-difference":
        assert difference.max() < 1e-9
    else:
        assert (difference / (draws.std(0) / math.sqrt(many) + 1e-9)).max() < 4.5
        assert difference.mean() < 0.25 * exact(z).abs().mean()


def test_more_pairs_less_noise() -> None:
    z, generator = points(), torch.Generator().manual_seed(1)
    changed, steps = one_at_a_time(quadratic, z), torch.full((4,), 0.1, dtype=torch.float64)
    for method in ("spsa", "evolution"):
        spread = [
            torch.stack([jacobian(changed, z, steps, method, pairs=n, generator=generator) for _ in range(60)])
            .var(0)
            .mean()
            for n in (1, 8)
        ]
        assert spread[1] / spread[0] == pytest.approx(1 / 8, rel=0.35)


def test_without_a_generator_nothing_is_random() -> None:
    z = points()
    first, second = (jacobian(one_at_a_time(quadratic, z), z, torch.ones(4).double(), "spsa") for _ in range(2))
    assert torch.equal(first, second)


def test_one_at_a_time_changes_one_block() -> None:
    z = points()
    other = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    found = one_at_a_time(quadratic, z)(other)
    for b, n, a in ((0, 0, 0), (1, 2, 4), (1, 0, 3)):
        whole = z[b].clone()
        whole[n] = other[b, n, a]
        torch.testing.assert_close(found[b, n, a], quadratic(whole.unsqueeze(0))[0])


def test_with_gradient_keeps_the_values() -> None:
    z = points().requires_grad_()
    values, slopes = quadratic(z.detach()), exact(z.detach())
    out = with_gradient(values, z, slopes)
    assert torch.equal(out, values)
    (gradient,) = torch.autograd.grad(out[:, 0].sum() + 2 * out[:, 1].sum(), z)
    torch.testing.assert_close(gradient, slopes[..., 0] + 2 * slopes[..., 1])


# -- through the renderer ---------------------------------------------------------------------------------------------


def slopes(look: TabletopConfig, kind: Tensor, pose: Tensor, images: Tensor, **settings: Any) -> Tensor:
    errors, scene = scene_errors(Tabletop(look)), table_scene(kind, pose, look)

    def changed(alternatives: Tensor) -> Tensor:
        return errors.changed(images, scene, kind.unsqueeze(2).expand(-1, -1, alternatives.shape[2]), alternatives)[1]

    h = settings.pop("pixels", 0.4) * look.pixel
    return jacobian(changed, pose, torch.tensor([h, h, h / 0.5], dtype=pose.dtype), **settings)[..., -1]


@pytest.mark.skipif(not numba_is_there(), reason="numba is not installed")
def test_finite_differences_through_the_renderer_within_five_percent() -> None:
    """At 4×4 samples and steps of 0.2 pixels, against finer ones: 32×32 samples and a tenth of a pixel."""
    look = TabletopConfig(samples=4)
    generator = torch.Generator().manual_seed(4)
    kind = torch.arange(24).remainder(3).view(24, 1)
    pose = torch.cat(
        [2.4 * torch.rand(24, 1, 2, generator=generator) - 1.2, 6 * torch.rand(24, 1, 1, generator=generator)], 2
    )
    pose = pose.double()
    moved = pose + torch.tensor([0.15, -0.12, 0.2]).double()
    images = Tabletop(look.replaced(samples=8))(table_scene(kind, moved, look))
    reference = slopes(look.replaced(samples=32), kind, pose, images, pixels=0.1)
    found = slopes(look, kind, pose, images, pixels=0.2)
    error = (found - reference).norm() / reference.norm()
    coarse = (slopes(look.replaced(samples=1), kind, pose, images, pixels=0.2) - reference).norm() / reference.norm()
    assert error < 0.05
    assert coarse > 2 * error


@pytest.mark.skipif(not numba_is_there(), reason="numba is not installed")
@pytest.mark.parametrize("method", ["spsa", "evolution"])
def test_noisy_estimators_agree_with_finite_differences(method: Method) -> None:
    look, generator = TabletopConfig(samples=4), torch.Generator().manual_seed(0)
    kind, pose = torch.tensor([[0, 1]]), torch.tensor([[[-0.6, 0.1, 0.3], [0.7, -0.3, 0.0]]], dtype=torch.float64)
    images = Tabletop(look)(table_scene(kind, pose + 0.15, look))
    exact_ = slopes(look, kind, pose, images)
    many = slopes(look, kind, pose, images, method=method, pairs=600, generator=generator)
    assert (many - exact_).norm() / exact_.norm() < 0.2
    assert black_box.two_sided(pose, torch.zeros(1, 2, 5, 3)).shape == (1, 2, 10, 3)
