from __future__ import annotations

import pytest
import torch
from torch import nn

from objectwise.core import UserError
from objectwise.nn.initialise import truncated_normal
from objectwise.nn.instance_norm import InstanceNormReLU
from objectwise.nn.unet import UNet, _Doubled, _Halved, default_blocks, most_blocks

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def plain(net: UNet, images: torch.Tensor) -> torch.Tensor:
    """The same network from PyTorch's own layers."""

    def block(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.conv2d(x, module.conv.weight, padding=1)
        return nn.functional.instance_norm(x, weight=module.norm.weight, bias=module.norm.bias).relu()

    skips, x, last = [], images, len(net.down) - 1
    for number, module in enumerate(net.down):
        x = block(module, x)
        skips.append(x)
        if number < last:
            x = nn.functional.interpolate(x, scale_factor=0.5, mode="nearest")
    x = net.bottleneck(x)
    for number, module in enumerate(net.up):
        x = block(module, torch.cat([x, skips[last - number]], dim=1))
        if number < last:
            x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
    return net.head(x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("size", "widths"), [((8, 16), (3, 4, 5)), ((7, 5), (4,)), ((12, 12), (4, 2))])
def test_against_plain_layers(size: tuple[int, int], widths: tuple[int, ...], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    net = UNet(2, 3, size, widths, bottleneck=6).double()
    for name, parameter in net.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, 0.5)
    images = torch.rand(2, 2, *size, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    found, expected = net(images), plain(net, images)
    assert found.shape == (2, 3, *size)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = [images, *net.parameters()]
    towards = torch.rand_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, weights, towards), torch.autograd.grad(expected, weights, towards), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_widths_of_the_way_up() -> None:
    """As the MONet blog has them: 16, 32, 64, 64, 64 down and 64, 64, 32, 16, 16 up; the dense network ends at 64×4×4."""
    net = UNet(4, 1, (64, 64), (16, 32, 64, 64, 64))
    assert [block.conv.out_channels for block in net.up] == [64, 64, 32, 16, 16]
    assert [block.conv.in_channels for block in net.up] == [128, 128, 128, 64, 32]
    assert net.bottleneck[1].weight.shape == (128, 1024)
    assert net.bottleneck[5].weight.shape == (1024, 128)
    assert all(block.conv.bias is None for block in (*net.down, *net.up))


def test_blocks_from_the_size() -> None:
    assert [default_blocks((side, side)) for side in (16, 32, 64, 128)] == [3, 4, 5, 6]
    assert [default_blocks(size) for size in ((64, 128), (50, 50), (35, 35), (9, 14), (2, 2))] == [5, 2, 1, 1, 1]
    assert most_blocks((64, 96)) == 6
    UNet(1, 1, (64, 96), (2,) * 6)


@pytest.mark.parametrize(
    ("size", "blocks", "most"), [((50, 50), 3, 2), ((64, 36), 4, 3), ((8, 8), 4, 3), ((35, 35), 2, 1)]
)
def test_sizes_that_cannot_be_halved_are_refused(size: tuple[int, int], blocks: int, most: int) -> None:
    with pytest.raises(UserError, match=f"can be halved only {most - 1} times; use at most {most} block"):
        UNet(1, 1, size, (2,) * blocks)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_instance_norm_against_pytorch(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Also far from zero, where E[x²] − E[x]² would lose everything."""
    generator = torch.Generator().manual_seed(0)
    x = (
        torch.randn(3, 5, 6, 8, generator=generator) + torch.tensor([0.0, 1.0, -3.0, 30.0, 300.0]).view(1, 5, 1, 1)
    ).to(dtype)
    x = x.contiguous(memory_format=layout).requires_grad_()
    norm = InstanceNormReLU(5)
    nn.init.normal_(norm.weight, 1.0, generator=generator)
    nn.init.normal_(norm.bias, generator=generator)
    found = norm(x)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=layout)
    exact = x.detach().double().requires_grad_()
    weight, bias = (p.detach().double().requires_grad_() for p in (norm.weight, norm.bias))
    expected = nn.functional.instance_norm(exact, weight=weight, bias=bias).relu()
    near = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 3e-2}
    torch.testing.assert_close(found.double(), expected, **near)
    towards = torch.randn(found.shape, generator=generator)
    ours = torch.autograd.grad(found, [x, norm.weight, norm.bias], towards.to(dtype))
    theirs = torch.autograd.grad(expected, [exact, weight, bias], towards.to(dtype).double())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, **near)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_resizing_keeps_values_and_layout(layout: torch.memory_format) -> None:
    x = (
        torch.arange(2 * 3 * 4 * 6, dtype=torch.float64)
        .view(2, 3, 4, 6)
        .contiguous(memory_format=layout)
        .requires_grad_()
    )
    for function, factor in ((_Halved, 0.5), (_Doubled, 2.0)):
        found, expected = function.apply(x), nn.functional.interpolate(x, scale_factor=factor, mode="nearest")
        assert torch.equal(found, expected)
        towards = torch.rand_like(expected)
        (ours,), (theirs,) = torch.autograd.grad(found, x, towards), torch.autograd.grad(expected, x, towards)
        torch.testing.assert_close(ours, theirs)
        assert ours.is_contiguous(memory_format=layout)


def test_truncated_normal_weights() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 64, 3), nn.Linear(400, 300), InstanceNormReLU(4))
    truncated_normal(net)
    for layer, fan_in in ((net[0], 72), (net[1], 400)):
        scaled = layer.weight * fan_in**0.5
        assert scaled.abs().max() <= 2.0 + 1e-5
        assert scaled.abs().max() > 1.9
        # A standard normal cut at ±2 has a standard deviation of 0.880.
        assert scaled.std().item() == pytest.approx(0.880, abs=0.02)
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
    assert torch.equal(net[2].weight, torch.ones(4))
