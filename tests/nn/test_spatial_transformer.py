from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectwise.nn import spatial_transformer as transformer


def poses(*rows: tuple[float, float, float, float]) -> tuple[Tensor, Tensor]:
    """(vertical scale, horizontal scale, vertical shift, horizontal shift) per row -> scale, shift."""
    values = torch.tensor(rows)
    return values[:, :2], values[:, 2:]


def smooth(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Slowly varying pictures that vanish at the border."""
    y = torch.linspace(0, torch.pi, height).sin().view(1, 1, -1, 1)
    x = torch.linspace(0, torch.pi, width).sin().view(1, 1, 1, -1)
    return y * x * (0.3 + torch.arange(1, batch * channels + 1).view(batch, channels, 1, 1) / 10)


def by_grid_sample(source: Tensor, scale: Tensor, shift: Tensor, height: int, width: int) -> Tensor:
    """Output pixel at normalised position g sees the source at shift + scale · g."""
    theta = torch.zeros(len(source), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale[:, 1], scale[:, 0]
    theta[:, 0, 2], theta[:, 1, 2] = shift[:, 1], shift[:, 0]
    grid = F.affine_grid(theta, [len(source), source.shape[1], height, width], align_corners=False)
    return F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


NUMBERS = st.floats(-1.5, 1.5)
SCALES = st.floats(0.125, 1.6)


@settings(max_examples=40, deadline=None)
@given(sy=SCALES, sx=SCALES, ty=NUMBERS, tx=NUMBERS, height=st.integers(3, 12), width=st.integers(3, 12))
def test_agrees_with_grid_sample(sy: float, sx: float, ty: float, tx: float, height: int, width: int) -> None:
    """PyTorch's own sampler, which shares nothing with two matrix products, on rectangular canvases."""
    scale, shift = poses((sy, sx, ty, tx), (sx, sy, tx, ty))
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    read = transformer.read(images, scale, shift, 7)
    assert torch.allclose(read, by_grid_sample(images, scale, shift, 7, 7), atol=2e-5)
    patches = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    written = transformer.write(patches, scale, shift, height, width)
    assert torch.allclose(written, by_grid_sample(patches, 1 / scale, -shift / scale, height, width), atol=5e-5)


def test_full_window_at_native_size_is_the_identity() -> None:
    images = torch.rand(2, 3, 9, 9)
    scale, shift = poses((1, 1, 0, 0), (1, 1, 0, 0))
    assert torch.allclose(transformer.read(images, scale, shift, 9), images, atol=1e-5)
    assert torch.allclose(transformer.write(images, scale, shift, 9, 9), images, atol=1e-5)


def test_whole_pixel_windows_are_crops() -> None:
    """A 4×4 window of an 8×12 image whose corner is row 3, column 6: centre (5, 8), i.e. 2·5/8 − 1 and 2·8/12 − 1."""
    images = torch.rand(1, 1, 8, 12)
    scale, shift = poses((4 / 8, 4 / 12, 2 * 5 / 8 - 1, 2 * 8 / 12 - 1))
    crop = images[:, :, 3:7, 6:10]
    assert torch.allclose(transformer.read(images, scale, shift, 4), crop, atol=1e-5)
    canvas = transformer.write(crop, scale, shift, 8, 12)
    assert torch.allclose(canvas[:, :, 3:7, 6:10], crop, atol=1e-5)
    assert canvas.sum() == pytest.approx(crop.sum().item(), rel=1e-4)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (30, 52)])
def test_reading_what_was_written_recovers_a_smooth_patch(height: int, width: int) -> None:
    patch = smooth(2, 2, 16, 16)
    scale, shift = poses((0.5, 0.5, 0.2, -0.3), (0.6, 0.4, -0.1, 0.25))
    back = transformer.read(transformer.write(patch, scale, shift, height, width), scale, shift, 16)
    assert (back - patch).abs().max() < 0.06 * patch.max()


def test_boxes_are_where_the_ink_is() -> None:
    height, width = 30, 50
    scale, shift = poses((0.4, 0.3, 0.25, -0.4), (0.2, 0.5, -0.5, 0.3))
    canvas = transformer.write(torch.ones(2, 1, 20, 20), scale, shift, height, width)[:, 0]
    for ink, box in zip(canvas, transformer.boxes(scale, shift, height, width).tolist(), strict=True):
        rows, columns = (ink > 0.5).nonzero(as_tuple=True)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box == pytest.approx([float(edge) for edge in found], abs=1.0)


def test_box_by_hand() -> None:
    """Scale (.5, .25) of 40×80 is 20×20 pixels; shift (0, .5) is the centre (20, 60)."""
    scale, shift = poses((0.5, 0.25, 0.0, 0.5))
    assert transformer.boxes(scale, shift, 40, 80)[0].tolist() == pytest.approx([50, 10, 70, 30])


def test_far_away_is_empty_and_has_finite_gradients() -> None:
    scale, shift = poses((0.02, 0.3, 5.0, 0.0))
    scale.requires_grad_()
    shift.requires_grad_()
    patches = torch.rand(1, 1, 8, 8, requires_grad=True)
    canvas = transformer.write(patches, scale, shift, 16, 16)
    assert canvas.abs().max() == 0
    gradients = torch.autograd.grad(canvas.sum(), (patches, scale, shift))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("direction", ["read", "write"])
def test_gradients_by_finite_differences(direction: str) -> None:
    """Both directions are piecewise linear in the pixels and smooth between grid points in the pose."""
    source = smooth(1, 2, 12, 12)
    weights = smooth(1, 2, 10, 14 if direction == "write" else 10)

    def value(scale: Tensor, shift: Tensor, pixels: Tensor) -> Tensor:
        if direction == "read":
            out = transformer.read(pixels, scale, shift, 10)
        else:
            out = transformer.write(pixels, scale, shift, 10, 14)
        return (out.double() * weights).sum()

    scale, shift = poses((0.61, 0.47, 0.11, -0.17))
    inputs = [scale, shift, source]
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    gradients = torch.autograd.grad(value(*leaves), leaves)
    for place, gradient in enumerate(gradients):
        direction_of_change = torch.ones_like(gradient) if place == 2 else torch.tensor([[1.0, -0.7]])
        step = 1e-3
        ends = [
            value(*[t + sign * step * direction_of_change if i == place else t for i, t in enumerate(inputs)])
            for sign in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / (2 * step)
        assert (gradient * direction_of_change).sum().item() == pytest.approx(expected.item(), rel=0.03)


def test_float32_inside_bfloat16_autocast() -> None:
    images = torch.rand(1, 1, 20, 20)
    scale, shift = poses((0.5, 0.5, 0.1, 0.1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = transformer.read(images, scale, shift, 8)
        written = transformer.write(images.bfloat16(), scale, shift, 9, 9)
    assert inside.dtype == written.dtype == torch.float32
    assert torch.equal(inside, transformer.read(images, scale, shift, 8))
