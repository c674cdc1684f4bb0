from __future__ import annotations

import pytest
import torch
from torch import nn

from objectwise.nn.broadcast_decoder import SpatialBroadcastDecoder, coordinates


def plain(decoder: SpatialBroadcastDecoder, codes: torch.Tensor) -> torch.Tensor:
    """As the paper draws it: tile the code, append the coordinates, convolve."""
    height, width = decoder.coordinates.shape[2:]
    tiled = codes[:, :, None, None].expand(-1, -1, height, width)
    canvas = torch.cat([tiled, decoder.coordinates.expand(len(codes), -1, -1, -1)], dim=1)
    return decoder.head(decoder.rest(decoder.first(canvas).relu()))


@pytest.mark.parametrize(("widths", "kernel"), [((6, 5, 4, 3), 3), ((4, 5), 5), ((4,), 3)])
def test_equals_convolving_the_broadcast_canvas(widths: tuple[int, ...], kernel: int) -> None:
    torch.manual_seed(0)
    decoder = SpatialBroadcastDecoder(7, 4, (9, 12), widths, kernel)
    codes = torch.randn(3, 7, requires_grad=True)
    found, expected = decoder(codes), plain(decoder, codes)
    assert found.shape == (3, 4, 9, 12)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weights, towards = [codes, *decoder.parameters()], torch.randn_like(expected)
    ours = torch.autograd.grad(found, weights, towards)
    for one, other in zip(ours, torch.autograd.grad(expected, weights, towards), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_it_stays_close() -> None:
    torch.manual_seed(0)
    decoder = SpatialBroadcastDecoder(4, 2, (8, 8), (8, 8))
    codes = torch.randn(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = decoder(codes)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), decoder(codes), rtol=0.05, atol=0.02)


def test_coordinates() -> None:
    columns, rows = coordinates(3, 5)
    assert columns[0].tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert rows[:, 4].tolist() == [-1.0, 0.0, 1.0]
    assert torch.equal(columns[0], columns[2])


def test_a_picture_moves_with_its_coordinates_only() -> None:
    """With the coordinates' weights at zero every pixel is the same."""
    torch.manual_seed(0)
    decoder = SpatialBroadcastDecoder(3, 1, (6, 6), (4, 4))
    nn.init.zeros_(decoder.first.weight[:, 3:].detach())
    picture = decoder(torch.randn(1, 3))
    assert picture.std() < 1e-6
    nn.init.ones_(decoder.first.weight[:, 3:].detach())
    assert decoder(torch.randn(1, 3)).std() > 1e-3
