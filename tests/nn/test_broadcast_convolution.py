from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from objectwise.nn.broadcast_convolution import PaddedBroadcastDecoder, border_classes

SIZES = [((7, 9), 3, 5.0), ((6, 8), 5, None), ((3, 2), 5, 1.0), ((4, 4), 1, None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "kernel", "constant"), SIZES)
def test_equals_convolving_the_broadcast_picture(
    size: tuple[int, int], kernel: int, constant: float | None, dtype: torch.dtype
) -> None:
    """Values and gradients, also where a side is shorter than the kernel."""
    torch.manual_seed(0)
    decoder = PaddedBroadcastDecoder(4, 3, size, (5, 6), kernel, constant).to(dtype)
    codes = torch.randn(3, 4, dtype=dtype, requires_grad=True)
    found, expected = decoder(codes), decoder(codes, tiled=True)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(found, expected, **tolerance)
    sources, towards = [codes, *decoder.parameters()], torch.randn_like(expected)
    ours = torch.autograd.grad(found, sources, towards)
    for one, other in zip(ours, torch.autograd.grad(expected, sources, towards), strict=True):
        torch.testing.assert_close(one, other, rtol=10 * tolerance["rtol"], atol=10 * tolerance["atol"])


def test_the_first_convolution_by_hand() -> None:
    """Loops over pixels, taps and channels: code, constant, rows, columns; zeros outside."""
    torch.manual_seed(0)
    decoder = PaddedBroadcastDecoder(2, 1, (3, 4), (2,), 3, 5.0).double()
    code = torch.tensor([0.3, -0.7], dtype=torch.float64)
    weight, bias = decoder.first.convolution.weight, decoder.first.convolution.bias
    assert bias is not None
    weight, bias = weight.detach(), bias.detach()
    expected = torch.zeros(2, 3, 4, dtype=torch.float64)
    rows, columns = [-1.0, 0.0, 1.0], torch.linspace(-1, 1, 4).tolist()
    for o in range(2):
        for i in range(3):
            for j in range(4):
                total = float(bias[o])
                for u in range(3):
                    for v in range(3):
                        y, x = i + u - 1, j + v - 1
                        if 0 <= y < 3 and 0 <= x < 4:
                            seen = [*code.tolist(), 5.0, rows[y], columns[x]]
                            total += sum(float(weight[o, c, u, v]) * seen[c] for c in range(5))
                expected[o, i, j] = total
    torch.testing.assert_close(decoder.first(code.unsqueeze(0))[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("size", "doublings"), [((7, 9), 1), ((5, 4), 2), ((35, 35), 3)])
def test_doublings(size: tuple[int, int], doublings: int) -> None:
    """The code on a coarser grid, then transposed convolutions, cut at the picture's sides; and it needs fewer coordinates."""
    torch.manual_seed(0)
    decoder = PaddedBroadcastDecoder(4, 3, size, (5, 6, 7), 3, doublings=doublings).double()
    codes = torch.randn(2, 4, dtype=torch.float64)
    grid = tuple(math.ceil(side / 2**doublings) for side in size)
    assert decoder.first.surroundings.shape[2:] == grid
    hidden = decoder.first(codes)
    assert hidden.shape[2:] == grid
    for number, layer in enumerate(decoder.rest):
        hidden = nn.functional.elu(hidden)
        if number >= 3 - doublings:
            hidden = nn.functional.conv_transpose2d(hidden, layer.weight, layer.bias, stride=2, padding=1)
        else:
            hidden = nn.functional.conv2d(hidden, layer.weight, layer.bias, padding=1)
    found = decoder(codes)
    assert found.shape == (2, 3, *size)
    torch.testing.assert_close(found, hidden[:, :, : size[0], : size[1]], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(decoder(codes, tiled=True), found, rtol=1e-10, atol=1e-10)


def test_it_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    decoder = PaddedBroadcastDecoder(2, 1, (3, 4), (3,), 3).double()
    codes = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(decoder, (codes,))


def test_border_classes() -> None:
    """The first pixel misses the first tap, the last one the last; the wider the kernel, the more classes."""
    assert border_classes(6, 3) == [(1, (0, 1, 1)), (4, (1, 1, 1)), (1, (1, 1, 0))]
    assert [size for size, _ in border_classes(9, 5)] == [1, 1, 5, 1, 1]
    assert border_classes(2, 5) == [(1, (0, 0, 1, 1, 0)), (1, (0, 1, 1, 0, 0))]


def test_in_bfloat16_it_stays_close() -> None:
    torch.manual_seed(0)
    decoder = PaddedBroadcastDecoder(4, 2, (8, 8), (8, 8))
    codes = torch.randn(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = decoder(codes)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), decoder(codes), rtol=0.05, atol=0.03)
