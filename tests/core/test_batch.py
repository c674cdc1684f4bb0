from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectwise.core import Batch, boxes_from_instances


def batch() -> Batch:
    instances = torch.tensor([[[0, 0, 1], [2, 2, 0]], [[0, 0, 0], [0, 1, 0]]])
    boxes, visible = boxes_from_instances(instances, 4)
    return Batch(
        index=torch.tensor([5, 7]),
        images=torch.rand(2, 1, 2, 3),
        instances=instances,
        factors={"x": torch.rand(2, 4, 1)},
        present=torch.tensor([[True, True, True, False], [True, True, False, False]]),
        visible_pixels=visible,
        boxes=boxes,
    )


def test_counts_leave_the_background_out() -> None:
    made = batch()
    assert made.counts is not None
    assert made.counts.tolist() == [2, 1]
    assert made.object_present is not None
    assert not made.object_present[:, 0].any()
    assert made.present is not None
    assert made.present[:, 0].all()
    two = dataclasses.replace(made, background_ids=(0, 1))
    assert two.counts is not None
    assert two.counts.tolist() == [1, 0]
    none = dataclasses.replace(made, background_ids=())
    assert none.counts is not None
    assert none.counts.tolist() == [3, 2]
    assert Batch(made.index, made.images).counts is None


def test_select_and_to_reach_every_tensor() -> None:
    made = batch()
    for rows in (slice(1, 2), torch.tensor([1]), torch.tensor([False, True])):
        part = made.select(rows)
        assert len(part) == 1
        assert part.index.tolist() == [7]
        for field in ("images", "instances", "present", "visible_pixels", "boxes"):
            assert torch.equal(getattr(part, field), getattr(made, field)[1:]), field
        assert torch.equal(part.factors["x"], made.factors["x"][1:])
    assert made.to("meta").factors["x"].device.type == made.to("meta").images.device.type == "meta"
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.images = made.images  # type: ignore[misc]


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 7), width=st.integers(1, 7), entities=st.integers(1, 5), seed=st.integers(0, 999))
def test_boxes_in_the_plainest_way(height: int, width: int, entities: int, seed: int) -> None:
    instances = torch.randint(0, entities, (2, height, width), generator=torch.Generator().manual_seed(seed))
    boxes, pixels = boxes_from_instances(instances, entities + 1)
    for row in range(2):
        for entity in range(entities + 1):
            places = [(y, x) for y in range(height) for x in range(width) if instances[row, y, x] == entity]
            assert pixels[row, entity] == len(places)
            ys, xs = zip(*places, strict=True) if places else ((), ())
            expected = [min(xs), min(ys), max(xs) + 1, max(ys) + 1] if places else [0, 0, 0, 0]
            assert boxes[row, entity].tolist() == expected
