"""Whole shapes of objects that others hide; overlap and left-out combinations of the two shapes; padded Tetrominoes."""

from __future__ import annotations

import pytest
import torch
from data_helpers import assert_labels_match_pixels, same

from objectwise.core import UserError, check_dataset
from objectwise.data.digits import DigitsConfig
from objectwise.data.multi_dsprites import MultiDspritesConfig
from objectwise.data.occlusion import full_shapes
from objectwise.data.tetrominoes import SIZE, TetrominoesConfig
from objectwise.data.two_shapes import COMBINATIONS, TwoShapesConfig, disc, has_combination


@pytest.mark.parametrize(
    "config",
    [
        TwoShapesConfig(overlap=True, counts=(0, 3), colors="different", leave_out=("aqua circle", "red square")),
        TwoShapesConfig(leave_out=("red circle",), mode="faithful"),
        TetrominoesConfig(image_size=40),
    ],
    ids=["overlap", "left out", "padded"],
)
def test_contract(config: TwoShapesConfig | TetrominoesConfig) -> None:
    check_dataset(config.build())


def test_overlapping_shapes_hide_earlier_ones() -> None:
    data = TwoShapesConfig(overlap=True).build()
    batch = data.batch("train", range(1_000))
    assert_labels_match_pixels(batch.select(slice(30)))
    full = full_shapes(data, "train", range(1_000))
    assert batch.instances is not None
    area = full.flatten(2).sum(dim=2)
    seen = torch.stack([(batch.instances == e).flatten(1).sum(dim=1) for e in range(3)], dim=1)
    assert torch.equal(seen[:, 2], area[:, 2])  # the last object is in front
    assert 0.1 < (seen[:, 1] < area[:, 1]).float().mean() < 0.5
    assert not full[:, 0].any()
    sides = batch.factors["size"][:, 1].long() + 1
    discs = torch.tensor([0, *(int(disc(s).sum()) for s in range(1, 21))])[sides - 1]
    assert torch.equal(area[:, 1], torch.where(batch.factors["shape"][:, 1] == 0, sides**2, discs))
    shown = torch.zeros_like(batch.instances)
    for entity in (1, 2):
        shown[full[:, entity]] = entity
    assert torch.equal(shown, batch.instances)


def test_whole_shapes_of_sprites_in_front_of_each_other() -> None:
    """Painting the whole shapes one over the other gives the id map; three sprites, as many as colour channels."""
    data = MultiDspritesConfig(counts=(1, 3)).build()
    batch, full = data.batch("test", range(50)), full_shapes(data, "test", range(50))
    assert batch.instances is not None
    assert full.shape == (50, 4, 64, 64)
    shown = torch.zeros_like(batch.instances)
    for entity in (1, 2, 3):
        shown[full[:, entity]] = entity
    assert torch.equal(shown, batch.instances)
    assert batch.counts is not None
    assert torch.equal(full.flatten(2).any(dim=2).sum(dim=1), batch.counts)


def test_only_generators_know_whole_shapes() -> None:
    with pytest.raises(UserError, match="does not know"):
        full_shapes(DigitsConfig().build(), "test", [0])


def test_nothing_left_out_and_no_overlap_change_no_byte() -> None:
    base = TwoShapesConfig().build().batch("val", range(64))
    assert same(base, TwoShapesConfig(overlap=False, leave_out=()).build().batch("val", range(64)))
    left = TwoShapesConfig(leave_out=("aqua circle",)).build().batch("val", range(64))
    assert torch.equal(base.factors["color"], left.factors["color"])


def test_left_out_combinations_never_come_and_the_others_are_as_likely() -> None:
    left_out = ("aqua circle", "red square")
    config = TwoShapesConfig(leave_out=left_out, counts=(1, 2))
    batch = config.build().batch("train", range(4_000))
    assert not has_combination(batch, left_out).any()
    with_every = TwoShapesConfig(counts=(1, 2)).build().batch("train", range(4_000))
    found = has_combination(with_every, ["aqua circle"])
    present = with_every.object_present
    assert present is not None
    codes = with_every.factors["color"] * 2 + with_every.factors["shape"]
    expected = ((codes == COMBINATIONS.index("aqua circle")) & present).any(dim=1)
    assert torch.equal(found, expected)
    assert 0.15 < found.float().mean() < 0.33  # 1/6 of the single objects, 1 - (5/6)² of the pairs
    green = (batch.factors["color"] == 1) & batch.object_present
    share = batch.factors["shape"][green].float().mean()
    assert abs(float(share) - 0.5) < 0.05


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"overlap": True, "mode": "faithful"}, "overlap needs mode corrected"),
        ({"leave_out": ("blue circle",)}, "'blue circle' is none of"),
        ({"leave_out": ("red circle", "red square")}, "no shape that could be red"),
    ],
)
def test_impossible_settings(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        TwoShapesConfig.parse(values)


def test_overlap_leaves_room_for_many() -> None:
    TwoShapesConfig(counts=(12,), overlap=True).build().batch("train", range(4))
    with pytest.raises(UserError, match="do not surely fit"):
        TwoShapesConfig.parse({"counts": (12,)})


def test_padding_adds_black_and_nothing_else() -> None:
    plain = TetrominoesConfig().build().batch("train", range(20))
    padded = TetrominoesConfig(image_size=40).build().batch("train", range(20))
    assert padded.images.shape == (20, 3, 40, 40)
    assert padded.instances is not None
    assert plain.instances is not None
    assert torch.equal(padded.images[..., :SIZE, :SIZE], plain.images)
    assert torch.equal(padded.instances[:, :SIZE, :SIZE], plain.instances)
    assert float(padded.images[:, :, SIZE:].sum() + padded.images[..., SIZE:].sum()) == 0.0
    for name, values in plain.factors.items():
        assert torch.equal(values, padded.factors[name])
    assert padded.boxes is not None
    assert plain.boxes is not None
    assert torch.equal(padded.boxes[:, 1:], plain.boxes[:, 1:])
