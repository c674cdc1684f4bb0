"""Completion scores on shapes small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from objectwise.core import UserError
from objectwise.metrics.completion import best_slots, completion_scores, entity_colours, shape_by_colour


def shape(*rows: str) -> torch.Tensor:
    return torch.tensor([[[letter == "#" for letter in row] for row in rows]])


FULL, VISIBLE = shape("####....", "####...."), shape("##......", "##......")


@pytest.mark.parametrize(
    ("drawn", "iou", "hidden", "outside"),
    [
        (FULL, 1.0, 1.0, 0.0),
        (VISIBLE, 0.5, 0.0, 0.0),
        (torch.ones(1, 2, 8, dtype=torch.bool), 0.5, 1.0, 1.0),
        (torch.zeros(1, 2, 8, dtype=torch.bool), 0.0, 0.0, 0.0),
        (shape("###.....", "##...#.."), 5 / 9, 0.25, 1 / 8),
    ],
    ids=["whole", "visible", "everything", "nothing", "some"],
)
def test_scores_by_hand(drawn: torch.Tensor, iou: float, hidden: float, outside: float) -> None:
    """Painting everything draws all hidden pixels, and is told from completion by the overlap."""
    scores = completion_scores(FULL, VISIBLE, drawn)
    assert scores.iou.value == pytest.approx(iou)
    assert scores.seen_iou.value == pytest.approx(0.5)
    assert scores.hidden_drawn.value == pytest.approx(hidden)
    assert scores.outside.value == pytest.approx(outside)


def test_objects_in_full_view_have_no_hidden_share() -> None:
    scores = completion_scores(FULL, FULL, FULL)
    assert (scores.iou.value, scores.hidden_drawn.n_scored) == (1.0, 0)


def test_a_batch_is_its_objects_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    full = torch.rand(20, 6, 6, generator=generator) < 0.6
    visible, drawn = (full & (torch.rand(20, 6, 6, generator=generator) < 0.5) for _ in range(2))
    whole = completion_scores(full, visible, drawn)
    for n in range(20):
        one = completion_scores(full[n : n + 1], visible[n : n + 1], drawn[n : n + 1])
        assert [part.per_image[0] for part in one] == pytest.approx([part.per_image[n] for part in whole], nan_ok=True)
        a, b = full[n].numpy(), drawn[n].numpy()
        assert one.iou.value == pytest.approx(np.sum(a & b) / np.sum(a | b))


def test_refusals() -> None:
    with pytest.raises(UserError, match="must be alike"):
        completion_scores(FULL, VISIBLE, FULL[:, :1])
    with pytest.raises(UserError, match="must hold the visible pixels"):
        completion_scores(VISIBLE, FULL, FULL)
    with pytest.raises(UserError, match="must not be empty"):
        completion_scores(FULL & ~FULL, FULL & ~FULL, FULL)


def test_shapes_by_colour_take_the_nearest_colour_of_the_scene() -> None:
    """Red is the object, black the background, green is hidden entirely and cannot win."""
    images = torch.zeros(1, 3, 1, 4)
    images[0, 0, 0, 1:3] = 1.0
    instances = torch.tensor([[[0, 2, 2, 0]]])
    colours = entity_colours(images, instances, 3)
    assert torch.equal(colours[0, 0], torch.zeros(3))
    assert torch.equal(colours[0, 2], torch.tensor([1.0, 0.0, 0.0]))
    assert colours[0, 1].isnan().all()
    picture = torch.tensor([[[[0.4, 0.6, 0.9, 0.0]], [[0.0, 0.0, 0.2, 0.9]], [[0.0, 0.0, 0.0, 0.0]]]])
    assert shape_by_colour(picture, colours, torch.tensor([2])).tolist() == [[[False, True, True, False]]]


def test_the_colour_of_an_entity_is_the_median_of_its_pixels() -> None:
    images = torch.tensor([[[[0.1, 0.2, 0.9, 0.5]]]])
    assert entity_colours(images, torch.tensor([[[1, 1, 1, 0]]]), 2)[0].flatten().tolist() == pytest.approx([0.5, 0.2])


def test_the_best_slot_of_an_object() -> None:
    """Slot 1 has three of the four pixels and one beside, slot 2 has one of them alone."""
    labels = torch.tensor([[[1, 1, 1, 2, 1, 0]]])
    masks = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    visible = shape("####..")
    slots, overlap = best_slots(
        visible.expand(2, -1, -1) & torch.tensor([True, False]).view(2, 1, 1), masks.expand(2, -1, -1, -1)
    )
    assert slots[0] == 1
    assert overlap.tolist() == pytest.approx([3 / 5, 0.0])
