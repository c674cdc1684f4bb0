"""Two shapes: Pillow's pixels without Pillow, the blog's quirks, and the corrected set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from objectwise.core import UserError, check_dataset
from objectwise.data.two_shapes import COLORS, SHAPES, TwoShapesConfig, disc, share_a_color


def _pillow(kind: str, box: tuple[int, int, int, int], color: tuple[int, int, int], image: Image.Image) -> None:
    draw = ImageDraw.Draw(image)
    (draw.rectangle if kind == "square" else draw.ellipse)(box, fill=color)


def test_discs_are_pillow_s() -> None:
    for size in range(1, 200):
        image = Image.new("RGB", (size + 5, size + 4))
        _pillow("circle", (2, 1, 2 + size, 1 + size), (1, 1, 1), image)
        expected = np.zeros((size + 4, size + 5), bool)
        expected[1 : size + 2, 2 : size + 3] = disc(size)
        assert np.array_equal(np.array(image)[..., 0] > 0, expected), size


@pytest.mark.parametrize(("mode", "image_size"), [("faithful", 64), ("corrected", 64), ("corrected", 32)])
def test_images_are_pillow_s(mode: str, image_size: int) -> None:
    batch = TwoShapesConfig(mode=mode, image_size=image_size, eval_size=300).build().batch("test", range(300))
    assert batch.counts is not None
    seen = set()
    for b in range(300):
        image = Image.new("RGB", (image_size, image_size))
        for m in range(1, int(batch.counts[b]) + 1):
            kind, color = SHAPES[batch.factors["shape"][b, m]], list(COLORS.values())[batch.factors["color"][b, m]]
            x, y, size = (int(batch.factors[name][b, m]) for name in ("x", "y", "size"))
            _pillow(kind, (x, y, x + size, y + size), color, image)
            seen.add((kind, size))
        assert np.array_equal((batch.images[b] * 255).round().movedim(0, -1), np.array(image))
    assert len(seen) == (18 if image_size == 64 else 10)  # every size of both shapes


@pytest.mark.parametrize(
    "config",
    [
        TwoShapesConfig(),
        TwoShapesConfig(mode="faithful"),
        TwoShapesConfig(mode="faithful", image_size=32),
        TwoShapesConfig(image_size=32),
        TwoShapesConfig(mode="faithful", counts=(1,)),
        TwoShapesConfig(counts=(0, 3), colors="different"),
        TwoShapesConfig(counts=(5,), colors="same", object_size=(5, 9)),
        TwoShapesConfig(counts=(0,)),
    ],
    ids=lambda config: "-".join(f"{name}={value}" for name, value in config.model_dump(exclude_defaults=True).items()),
)
def test_contract(config: TwoShapesConfig) -> None:
    check_dataset(config.build())


def _boxes(batch, m: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return batch.factors["x"][:, m], batch.factors["y"][:, m], batch.factors["size"][:, m]


def test_faithful_keeps_the_quirks() -> None:
    data = TwoShapesConfig(mode="faithful").build()
    assert data.splits["train"] == 50_000
    batch = data.batch("train", range(6000))
    assert batch.counts is not None
    assert batch.object_present is not None
    assert batch.visible_pixels is not None
    shares = torch.bincount(batch.counts) / 6000
    assert torch.allclose(shares, torch.full((3,), 1 / 3), atol=0.03)
    two = batch.select(batch.counts == 2)
    (x1, y1, s1), (x2, y2, s2) = _boxes(two, 1), _boxes(two, 2)
    gap = torch.maximum(s1, s2) + 1
    dx, dy = (x1 - x2).abs(), (y1 - y2).abs()
    assert (dx >= gap).all()
    assert (dy >= gap).all()
    assert (dx == gap).any()
    assert (dy == gap).any()
    for position in (batch.factors["x"], batch.factors["y"]):
        values = position[:, 1][batch.object_present[:, 1]]
        assert values.min() == 0
        assert values.max() == 42
        assert torch.bincount(values.long()).min() > 40  # about 93 each
    for shape, smallest, largest in ((0, 169, 441), (1, 129, 349)):
        pixels = batch.visible_pixels[(batch.factors["shape"] == shape) & batch.object_present]
        assert (pixels.min(), pixels.max()) == (smallest, largest)


def test_the_second_position_is_uniform_over_what_is_left() -> None:
    """All positions that the post's candidate list would hold, equally often."""
    data = TwoShapesConfig(mode="faithful", counts=(2,), image_size=16, object_size=(2, 3)).build()
    batch = data.batch("train", range(6000))
    (x1, _, s1), (x2, _, s2) = _boxes(batch, 1), _boxes(batch, 2)
    for first in (0, 5, 11):
        for gap in (2, 3):
            rows = (x1 == first) & (torch.maximum(s1, s2) == gap)
            expected = [p for p in range(12) if abs(p - first) > gap]
            found = torch.bincount(x2[rows].long(), minlength=12)
            assert found.nonzero().flatten().tolist() == expected
            mean = int(rows.sum()) / len(expected)
            assert (found[expected] - mean).abs().max() < 5 * mean**0.5


def test_corrected_objects_never_overlap_and_use_the_whole_canvas() -> None:
    batch = TwoShapesConfig().build().batch("train", range(3000))
    assert batch.counts is not None
    assert batch.visible_pixels is not None
    assert (batch.counts == 2).all()
    alone = torch.zeros(3000, 2, dtype=torch.int64)
    for m in (1, 2):
        sides = batch.factors["size"][:, m].long() + 1
        area = torch.tensor([0, *(int(disc(s).sum()) for s in range(1, 21))])[sides - 1]
        alone[:, m - 1] = torch.where(batch.factors["shape"][:, m] == 0, sides**2, area)
    assert torch.equal(batch.visible_pixels[:, 1:], alone)
    (x1, y1, s1), (x2, y2, _) = _boxes(batch, 1), _boxes(batch, 2)
    assert ((x1 - x2).abs() < 5).any()  # what the post's code never draws: above each other
    assert ((y1 - y2).abs() < 5).any()
    assert (x1 + s1).max() == 63
    assert y2.min() == 0


def test_colors_can_be_controlled() -> None:
    free, same, different = (
        TwoShapesConfig(colors=rule).build().batch("train", range(900)) for rule in ("independent", "same", "different")
    )
    assert torch.equal(free.instances, same.instances)
    assert torch.equal(free.instances, different.instances)
    assert share_a_color(free).float().mean().item() == pytest.approx(1 / 3, abs=0.05)
    assert share_a_color(same).all()
    assert not share_a_color(different).any()
    pairs = different.factors["color"][:, 1] * 3 + different.factors["color"][:, 2]
    assert torch.bincount(pairs, minlength=9)[[1, 2, 3, 5, 6, 7]].min() > 110  # 150 each
    one = TwoShapesConfig(counts=(1,)).build().batch("train", range(50))
    assert not share_a_color(one).any()


def test_seeds_and_prefixes() -> None:
    images = TwoShapesConfig().build().batch("train", range(6)).images
    assert not torch.equal(TwoShapesConfig(seed=2).build().batch("train", range(6)).images, images)
    assert torch.equal(TwoShapesConfig(train_size=6).build().batch("train", [4]).images[0], images[4])
    two, three = (TwoShapesConfig(counts=(n,)).build().sample_factors("train", np.arange(50)) for n in (2, 3))
    for name in ("shape", "size", "color"):
        assert np.array_equal(getattr(two, name), getattr(three, name)[:, :2])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mode": "faithful", "counts": [3]}, "0 to 2"),
        ({"mode": "faithful", "object_size": [12, 21]}, "at most 20"),
        ({"object_size": [20, 12]}, "smallest <= largest"),
        ({"counts": [9]}, "do not surely fit"),
        ({"counts": [4], "colors": "different"}, "3 colours"),
        ({"colours": "same"}, "colors"),
    ],
)
def test_impossible_settings(values: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        TwoShapesConfig.parse(values)
