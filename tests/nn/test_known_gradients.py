from __future__ import annotations

import torch
from torch import Tensor, nn

from objectwise.nn.known_gradients import one_pass, recomputed, with_gradients


def test_the_known_gradient_is_handed_out() -> None:
    """d/dx of Σ x² row by row, said beforehand; the value's own history is kept beside it."""
    x = torch.randn(3, 2, 4, requires_grad=True)
    other = torch.randn(3, requires_grad=True)
    value = with_gradients(2.0 * other, [x, torch.ones(3, 1)], [2.0 * x, torch.ones(3, 1)])
    assert torch.equal(value, 2.0 * other)
    weights = torch.tensor([1.0, -2.0, 0.5])
    of_x, of_other = torch.autograd.grad((weights * value).sum(), [x, other])
    torch.testing.assert_close(of_x, 2.0 * x * weights.view(3, 1, 1))
    torch.testing.assert_close(of_other, 2.0 * weights)


def networks() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.ELU(inplace=True), nn.Linear(5, 4)).double()
    return net, torch.randn(4, 3, dtype=torch.float64, requires_grad=True)


def scored(picture: Tensor) -> tuple[Tensor, tuple[Tensor]]:
    """−Σ log cosh of each row, and its gradient."""
    return -picture.cosh().log().sum(dim=1), (-picture.tanh(),)


def test_one_pass_equals_two() -> None:
    """Images that weigh the same, weigh differently, weigh nothing; announced as such or not."""
    net, codes = networks()
    plain = -net(codes).cosh().log().sum(dim=1)
    (expected,) = torch.autograd.grad(plain.sum(), codes, retain_graph=True)
    sources = [codes, *net.parameters()]
    for weights in ([0.25] * 4, [0.5, -1.0, 0.0, 2.0], [0.0] * 4):
        upstream = torch.tensor(weights, dtype=torch.float64)
        for weighed in (True, False):
            value, (picture,), inner = one_pass(
                lambda z: (net(z),), scored, codes, list(net.parameters()), weighed=weighed
            )
            assert not picture.requires_grad
            torch.testing.assert_close(value, plain)
            torch.testing.assert_close(inner, expected)
            found = torch.autograd.grad(value, sources, upstream)
            for one, other in zip(found, torch.autograd.grad(plain, sources, upstream, retain_graph=True), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_one_pass_with_frozen_parameters() -> None:
    net, codes = networks()
    net[0].weight.requires_grad_(False)  # type: ignore[union-attr]
    value, _, _ = one_pass(lambda z: (net(z),), scored, codes, list(net.parameters()), weighed=True)
    value.sum().backward()
    assert net[0].weight.grad is None
    assert net[2].weight.grad is not None


def test_recomputed_equals_running_once() -> None:
    """With a gradient taken inside the function, an output that is not used, and one that needs no gradient."""
    net, codes = networks()
    extra = torch.randn(4, 3, dtype=torch.float64)
    runs = []

    def run(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        runs.append(1)
        z = first + second
        z = z if z.requires_grad else z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(net(z).cosh().log().sum(), z, retain_graph=True)
        return net(z + slope.detach()), net(z).square(), slope.detach()

    sources = [codes, *net.parameters()]
    found, _, slope = recomputed(run, [codes, extra], list(net.parameters()))
    assert not slope.requires_grad
    ours = torch.autograd.grad(found.square().sum(), sources)
    assert len(runs) == 2
    plain = run(codes, extra)
    torch.testing.assert_close(found, plain[0])
    for one, other in zip(ours, torch.autograd.grad(plain[0].square().sum(), sources), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_second_run_has_the_first_ones_autocast() -> None:
    net, codes = networks()
    net, codes = net.float(), codes.detach().float().requires_grad_()
    kinds = []

    def run(z: Tensor) -> tuple[Tensor]:
        out = net(z)
        kinds.append(out.dtype)
        return (out.float(),)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = recomputed(run, [codes], list(net.parameters()))
        value, _, _ = one_pass(lambda z: run(z), scored, codes, list(net.parameters()), weighed=False)
    (found.sum() + value.sum()).backward()
    assert kinds == [torch.bfloat16] * 4
