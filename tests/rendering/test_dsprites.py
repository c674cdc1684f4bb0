"""dSprites-compatible sprites: areas, formulas, symmetries, independence of the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest

from objectwise.rendering import dsprites

SQUARE, ELLIPSE, HEART = 1, 2, 3


def _draw(
    shape: int, scale: float = 1.0, angle: float = 0.0, x: float = 0.5, y: float = 0.5, size: int = 64
) -> np.ndarray:
    return dsprites.draw(*(np.array([value]) for value in (shape, scale, angle, x, y)), size=size)[0]


def _random(count: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 4, count)
    return shape, rng.uniform(0.5, 1, count), rng.uniform(0, 2 * np.pi, count), rng.random(count), rng.random(count)


def _by_the_book(shape: int, scale: float, angle: float, x: float, y: float, size: int) -> np.ndarray:
    """The formulas of reference/datasets.md §8.3 in Python floats; the heart as a polygon of its boundary curve."""
    out = np.zeros((size, size), bool)
    zoom = size / 64
    ts = [2 * math.pi * k / 4000 for k in range(4000)]
    curve = [
        (
            9.6 * math.sin(t) ** 3,
            -0.662 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) - 1.44,
        )
        for t in ts
    ]
    edges = list(zip(curve, curve[1:] + curve[:1], strict=True)) if shape == HEART else []
    for j in range(size):
        for i in range(size):
            dx = ((i + 0.5) / zoom - 16 - 32 * x) / scale
            dy = ((j + 0.5) / zoom - 16 - 32 * y) / scale
            u = math.cos(angle) * dx - math.sin(angle) * dy
            v = math.sin(angle) * dx + math.cos(angle) * dy
            if shape == SQUARE:
                out[j, i] = max(abs(u), abs(v)) <= 9.6
            elif shape == ELLIPSE:
                out[j, i] = (u / 12.77) ** 2 + (v / 7.21) ** 2 <= 1
            elif max(abs(u), abs(v)) < 10:
                crossings = sum(
                    (a[1] > v) != (b[1] > v) and u < a[0] + (v - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) for a, b in edges
                )
                out[j, i] = crossings % 2 == 1
    return out


def test_areas_are_those_of_the_published_set() -> None:
    assert _draw(SQUARE).sum() == 400
    assert _draw(SQUARE, angle=0.6).sum() == pytest.approx(368, abs=6)
    assert _draw(ELLIPSE).sum() == pytest.approx(288, abs=3)
    assert _draw(HEART).sum() == pytest.approx(225, abs=4)
    heart = np.argwhere(_draw(HEART, size=640))  # tenths of a pixel
    assert np.ptp(heart[:, 1]) + 1 == pytest.approx(192, abs=2)
    assert heart[:, 0].min() - 320 == pytest.approx(-93.3, abs=1)
    assert heart[:, 0].max() + 1 - 320 == pytest.approx(98.1, abs=4)  # a cusp, narrower than a pixel at its end


@pytest.mark.parametrize(("shape", "size"), [(SQUARE, 64), (ELLIPSE, 48), (HEART, 64), (HEART, 40)])
def test_agrees_with_the_book(shape: int, size: int) -> None:
    for scale, angle, x, y in ((1.0, 0.0, 0.5, 0.5), (0.73, 2.1, 0.13, 0.91)):
        wrong = _draw(shape, scale, angle, x, y, size) != _by_the_book(shape, scale, angle, x, y, size)
        assert wrong.sum() <= (1 if shape == HEART else 0)  # the polygon is not the curve


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
def test_symmetries(shape: int) -> None:
    """A turn by 360/n degrees leaves the shape as it is, a smaller one does not; θ = 0 is mirror-symmetric."""
    turns = dsprites.SYMMETRY[dsprites.SHAPES[shape - 1]]
    drawn = _draw(shape, 0.9, 0.3)
    assert (drawn ^ _draw(shape, 0.9, 0.3 + 2 * math.pi / turns)).sum() == 0
    assert (drawn ^ _draw(shape, 0.9, 0.3 + math.pi / turns)).sum() > 30
    assert np.array_equal(_draw(shape), _draw(shape)[:, ::-1])
    assert np.array_equal(_draw(shape, angle=math.pi / 2), np.rot90(_draw(shape)))


def test_turns_counter_clockwise_and_moves_right_and_down() -> None:
    rows, columns = np.nonzero(_draw(ELLIPSE, angle=math.pi / 4))
    assert np.corrcoef(rows, columns)[0, 1] < -0.4  # long axis from bottom left to top right
    rows, columns = np.nonzero(_draw(SQUARE, x=1.0, y=0.25))
    assert (rows.mean(), columns.mean()) == (23.5, 47.5)
    rows, _ = np.nonzero(_draw(HEART))
    assert rows.mean() < 31  # upright: the point is below


def test_a_whole_pixel_step_moves_the_picture() -> None:
    shape, scale, angle, x, y = _random(30)
    x, y = np.round(x * 200) / 256, np.round(y * 200) / 256  # exact in binary
    here = dsprites.draw(shape, scale, angle, x, y)
    there = dsprites.draw(shape, scale, angle, x + 3 / 32, y + 1 / 32)
    assert (np.roll(here, (1, 3), axis=(1, 2)) ^ there).sum() <= 2


def test_size_scales_everything() -> None:
    shape, scale, angle, x, y = _random(40)
    small, large = (dsprites.draw(shape, scale, angle, x, y, size) for size in (64, 256))
    assert large.sum() / small.sum() == pytest.approx(16, rel=0.01)
    inside = large.reshape(40, 64, 4, 64, 4).mean(axis=(2, 4))
    assert (small[inside == 1]).all()
    assert not (small[inside == 0]).any()


def test_pixels_do_not_depend_on_the_batch() -> None:
    sprites = _random(70)
    together = dsprites.draw(*sprites)
    for rows in (slice(0, 1), slice(7, 24), slice(30, 70, 3)):
        assert np.array_equal(dsprites.draw(*(values[rows] for values in sprites)), together[rows])
    owner, pixel = dsprites.pixels(*sprites, size=64)
    assert np.array_equal(np.bincount(owner, minlength=70), together.sum(axis=(1, 2)))
    assert (np.diff(owner) >= 0).all()
    assert together.reshape(70, -1)[owner, pixel].all()


def test_windows_hold_the_whole_sprite(monkeypatch: pytest.MonkeyPatch) -> None:
    sprites = _random(120)
    drawn = dsprites.draw(*sprites, size=256)
    monkeypatch.setattr(dsprites, "_REACH", tuple(2 * reach for reach in dsprites._REACH))
    assert np.array_equal(dsprites.draw(*sprites, size=256), drawn)


def test_sprites_are_cut_at_the_border_and_none_is_nothing() -> None:
    assert _draw(SQUARE, x=-0.5, y=0.5).sum() == 200  # centre on the left border
    assert _draw(SQUARE, x=-3.0).sum() == 0
    assert dsprites.draw(*(np.zeros(0, int) for _ in range(5))).shape == (0, 64, 64)
    assert _draw(0).sum() == 0
