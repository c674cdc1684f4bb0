from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import assert_labels_match_pixels, same
from hypothesis import given, settings
from hypothesis import strategies as st

from objectwise.core import UserError, check_dataset
from objectwise.data import scenes
from objectwise.data.digits import DigitsConfig, load_digits
from objectwise.rendering import glyphs

BUNDLED = DigitsConfig(source="bundled")


@pytest.mark.parametrize(
    "config",
    [
        BUNDLED,
        BUNDLED.replaced(color="random", overlap="allowed", counts=(0, 4), seed=7),
        BUNDLED.replaced(image_size=33, digit_size=(8, 12), counts=(1, 3)),
        BUNDLED.replaced(counts=(0,)),
    ],
)
def test_contract(config: DigitsConfig) -> None:
    check_dataset(config.build())


def test_labels_match_pixels() -> None:
    assert_labels_match_pixels(BUNDLED.build().batch("train", range(60)))
    assert_labels_match_pixels(BUNDLED.replaced(overlap="allowed", counts=(5,)).build().batch("train", range(20)))


def test_ink_is_inside_its_square() -> None:
    batch = BUNDLED.build().batch("train", range(200))
    objects = batch.object_present
    half = batch.factors["size"][objects] / 2
    for axis, name in enumerate("xy"):
        assert (batch.boxes[objects][:, axis] >= batch.factors[name][objects] - half).all()
        assert (batch.boxes[objects][:, axis + 2] <= batch.factors[name][objects] + half).all()
    assert torch.equal((batch.images[:, 0] > 0), batch.instances > 0)


def test_splits_share_no_glyph() -> None:
    digits = load_digits(BUNDLED)
    glyph_sets = [{picture.tobytes() for picture in digits[split][0].numpy()} for split in ("train", "val", "test")]
    assert sum(map(len, glyph_sets)) == len(set.union(*glyph_sets))
    assert sum(len(digits[split][1]) for split in digits) == 1797


def test_label_is_the_drawn_digit() -> None:
    """Scenes of one digit at its own size show exactly the glyph of the label."""
    dataset = BUNDLED.replaced(counts=(1,), digit_size=(12, 12), image_size=12).build()
    batch = dataset.batch("test", range(50))
    pictures, labels = load_digits(BUNDLED)["test"]
    for row in range(50):
        drawn = (batch.images[row, 0] * 255).round().to(torch.uint8)
        matches = (pictures == drawn).flatten(1).all(dim=1)
        assert labels[matches].tolist() == [batch.factors["label"][row, 1]]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**40), indices=st.lists(st.integers(0, 59_999), min_size=1, max_size=7))
def test_a_scene_depends_on_its_index_alone(seed: int, indices: list[int]) -> None:
    dataset = BUNDLED.replaced(seed=seed, color="random").build()
    whole = dataset.batch("train", indices)
    assert same(whole.select(torch.tensor([0])), dataset.batch("train", indices[:1]))


def test_seed_and_split_matter() -> None:
    first = BUNDLED.build().batch("train", range(8)).images
    assert not torch.equal(first, BUNDLED.replaced(seed=1).build().batch("train", range(8)).images)
    boxes = [BUNDLED.build().batch(split, range(8)).factors["x"] for split in ("train", "val", "test")]
    assert not torch.equal(boxes[0], boxes[1])
    assert not torch.equal(boxes[1], boxes[2])


def test_impossible_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "MAX_TRIES", 5)
    with pytest.raises(UserError, match=r"12 digits of up to 24 pixels do not fit into 24x24.*overlap=allowed"):
        BUNDLED.replaced(counts=(12,), image_size=24).build().batch("train", [0])


def test_overlap_allowed_adds_ink_and_keeps_every_digit_present() -> None:
    batch = BUNDLED.replaced(overlap="allowed", counts=(12,), image_size=24).build().batch("train", range(4))
    assert batch.counts.tolist() == [12] * 4


@settings(max_examples=30, deadline=None)
@given(size=st.integers(4, 40), top=st.integers(-5, 30), left=st.integers(-5, 30), value=st.integers(0, 255))
def test_a_flat_glyph_fills_exactly_its_square(size: int, top: int, left: int, value: int) -> None:
    glyph = torch.full((1, 7, 7), value, dtype=torch.uint8)
    drawn = glyphs.place(glyph, torch.tensor([top]), torch.tensor([left]), torch.tensor([size]), 32, 32)[0]
    expected = torch.zeros(32, 32)
    expected[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = value
    assert (drawn.float() - expected).abs().max() <= 4  # weights are rounded to 1/128 per axis
    assert torch.equal(drawn > 0, expected > 3) or value <= 8


def test_auto_takes_mnist_where_it_is(shared_data: Path, tmp_path: Path) -> None:
    assert DigitsConfig(digits_root=shared_data / "mnist").resolved().source == "mnist"
    assert DigitsConfig(digits_root=tmp_path).resolved().source == "bundled"


def test_real_mnist(shared_data: Path) -> None:
    config = DigitsConfig(source="mnist", digits_root=shared_data / "mnist")
    digits = load_digits(config)
    assert len(digits["test"][1]) == 10_000
    assert digits["test"][1][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert digits["train"][1][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    names = [{picture.tobytes() for picture in pictures.numpy()} for pictures, _ in digits.values()]
    assert sum(map(len, names)) == len(set.union(*names))
    check_dataset(config.build(), samples=6)


def test_missing_mnist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="objectwise fetch mnist"):
        DigitsConfig(source="mnist", digits_root=tmp_path).build()


def test_damaged_npz(tmp_path: Path, shared_data: Path) -> None:
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (tmp_path / name).symlink_to(shared_data / "mnist" / name)
    (tmp_path / "train.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"train\.npz is not an \.npz"):
        DigitsConfig(source="mnist", digits_root=tmp_path).build()
    np.savez(tmp_path / "train.npz", images=np.zeros((3, 28, 28), np.uint8))
    with pytest.raises(UserError, match=r"train\.npz is not an \.npz with arrays"):
        DigitsConfig(source="mnist", digits_root=tmp_path).build()
