from __future__ import annotations

import pytest
import torch
from torch import nn

from objectwise.nn.doubling_convolution import DoublingConvTranspose2d


@pytest.mark.parametrize(("size", "channels"), [((4, 4), (3, 2)), ((1, 5), (2, 1)), ((6, 3), (1, 4))])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_pytorchs_own(size: tuple[int, int], channels: tuple[int, int], layout: torch.memory_format) -> None:
    """Values and all gradients, in float64."""
    torch.manual_seed(0)
    ours = DoublingConvTranspose2d(*channels).double()
    own = nn.ConvTranspose2d(*channels, 4, stride=2, padding=1).double()
    own.load_state_dict(ours.state_dict())
    maps = torch.randn(2, channels[0], *size, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    found, expected = ours(maps), own(maps)
    assert found.shape == (2, channels[1], 2 * size[0], 2 * size[1])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    towards = torch.randn_like(expected)
    gradients = torch.autograd.grad(found, [maps, *ours.parameters()], towards)
    others = torch.autograd.grad(expected, [maps, *own.parameters()], towards)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_it_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    layer = DoublingConvTranspose2d(2, 1).double()
    maps = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x).square(), (maps,))


def test_bfloat16_is_as_exact_as_pytorchs_own() -> None:
    """Under autocast, against float64: at most a quarter worse than the transposed convolution's own error."""
    torch.manual_seed(0)
    layer = DoublingConvTranspose2d(32, 8)
    maps = torch.randn(4, 32, 8, 8)
    exact = nn.functional.conv_transpose2d(
        maps.double(), layer.weight.double(), layer.bias.double(), stride=2, padding=1
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, own = layer(maps), nn.functional.conv_transpose2d(maps, layer.weight, layer.bias, stride=2, padding=1)
    assert found.dtype == torch.bfloat16
    assert (found - exact).abs().max() < 1.25 * (own - exact).abs().max()
