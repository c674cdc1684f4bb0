from __future__ import annotations

import numpy as np
import pytest
import torch

from objectwise.core import UserError, check_metric
from objectwise.metrics import foreground_ari, mean_best_overlap, part_labels, part_scores, random_partition


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crosses(count: int = 6, side: int = 21) -> torch.Tensor:
    """(B, H, W) a horizontal stroke (1) with a vertical one (2) over it, at different places."""
    ids = torch.zeros(count, side, side, dtype=torch.int64)
    for i in range(count):
        ids[i, 4 + i, 2:19] = 1
        ids[i, 2:19, 5 + i] = 2
    return ids


def test_promises() -> None:
    check_metric(mean_best_overlap)


def test_overlap_by_hand() -> None:
    """Strokes of 4 and 2 pixels; found: 3 of the first, its last with the second: IoU 3/4 and 2/3."""
    truth = torch.tensor([[[1, 1, 1, 1, 0, 2, 2, 0]]])
    found = torch.tensor([[[5, 5, 5, 9, 9, 9, 9, 7]]])
    result = mean_best_overlap(truth, found)
    assert result.value == pytest.approx((3 / 4 + 2 / 3) / 2)
    # What parts do off the ink does not count, and one part may be best for two strokes: 4/6 and 2/6.
    assert mean_best_overlap(truth, torch.ones_like(truth)).value == pytest.approx((4 / 6 + 2 / 6) / 2)


def test_fewer_than_two_strokes_are_not_scored() -> None:
    truth = torch.zeros(2, 4, 4, dtype=torch.int64)
    truth[1, 0] = 3
    result = mean_best_overlap(truth, truth)
    assert result.n_scored == 0
    assert np.isnan(result.value)
    scores = part_scores(truth, truth, generator=generator(), draws=2)
    assert scores.ari.n_scored == scores.overlap.n_scored == 0
    assert scores.found.tolist() == [0, 1]


def test_random_partitions_have_as_many_parts() -> None:
    ink = crosses() > 0
    wanted = torch.tensor([1, 2, 3, 4, 0, 5])
    regions = random_partition(ink, wanted, kind="regions", generator=generator())
    pixels = random_partition(ink, wanted, kind="pixels", generator=generator())
    for part, where, number in zip(regions, ink, wanted.tolist(), strict=True):
        assert part[where].unique().tolist() == (list(range(1, number + 1)) or [0])
    for drawn in (regions, pixels):
        assert int(drawn[~ink].abs().sum()) == 0
        assert int(drawn.max()) == 5
    again = random_partition(ink, wanted, kind="regions", generator=generator())
    assert torch.equal(again, regions)
    few = random_partition(ink[:1] & (torch.arange(21) < 3), torch.tensor([50]), kind="regions", generator=generator())
    assert int(few.max()) == int((ink[0] & (torch.arange(21) < 3)).sum())


def test_regions_hang_together_and_pixels_do_not() -> None:
    """On a straight line of pixels every region is one run; random pixels change far more often."""
    ink = torch.zeros(1, 3, 200, dtype=torch.bool)
    ink[0, 1] = True
    changes = {}
    for kind in ("regions", "pixels"):
        drawn = random_partition(ink, torch.tensor([5]), kind=kind, generator=generator())[0, 1]
        changes[kind] = int((drawn[1:] != drawn[:-1]).sum())
    assert changes["regions"] == 4
    assert changes["pixels"] > 100


def test_perfect_parts_are_lifted_above_chance_and_chance_is_not() -> None:
    truth = crosses()
    scores = part_scores(truth, truth, generator=generator())
    assert scores.ari.value == scores.overlap.value == 1.0
    assert scores.found.tolist() == [2] * 6
    for kind in ("regions", "pixels"):
        assert scores.lift_ari[kind].value == pytest.approx(1.0 - scores.chance_ari[kind].value)
        assert scores.lift_overlap[kind].value > 0.2
    # Random pixels agree by nothing but chance, regions by a good deal.
    assert abs(scores.chance_ari["pixels"].value) < 0.05
    assert scores.chance_ari["regions"].value > 0.1
    chance = random_partition(truth > 0, torch.full((6,), 2), kind="regions", generator=generator(7))
    many = [part_scores(truth, chance, generator=generator(s), draws=20).lift_ari["regions"].value for s in (1, 2)]
    assert many[0] == pytest.approx(many[1], abs=0.1)
    drawn = [
        random_partition(truth > 0, torch.full((6,), 2), kind="regions", generator=generator(s)) for s in range(40)
    ]
    lifts = [part_scores(truth, d, generator=generator(99), draws=20).lift_ari["regions"].value for d in drawn]
    assert abs(float(np.mean(lifts))) < 4 * float(np.std(lifts)) / 40**0.5 + 0.05


def test_lift_is_image_by_image() -> None:
    truth = crosses()
    found = torch.where(torch.arange(6).view(-1, 1, 1) < 3, truth, torch.ones_like(truth))
    scores = part_scores(truth, found, generator=generator(), draws=3)
    expected = scores.ari.per_image - scores.chance_ari["regions"].per_image
    assert np.array_equal(scores.lift_ari["regions"].per_image, expected)
    assert (scores.lift_ari["regions"].per_image[3:] == 0.0).all()
    assert scores.ari.per_image.tolist() == foreground_ari(truth, found).per_image.tolist()


def test_background_slots_win_nowhere() -> None:
    truth = crosses()
    masks = torch.nn.functional.one_hot(truth, 3).movedim(-1, 1).float() * 0.2
    masks[:, 0] = 0.5
    unexplained = part_scores(truth, masks, generator=generator(), draws=1)
    assert unexplained.ari.value == 0.0
    assert unexplained.found.tolist() == [1] * 6
    explained = part_scores(truth, masks, generator=generator(), draws=1, background_slots=(0,))
    assert explained.ari.value == 1.0
    assert part_labels(masks, background_slots=(0,)).unique().tolist() == [1, 2]
    with pytest.raises(UserError, match="all 3 masks are background"):
        part_labels(masks, background_slots=(0, 1, 2))
    with pytest.raises(UserError, match="slots of masks"):
        part_labels(truth, background_slots=(0,))
    with pytest.raises(UserError, match="draws = 0"):
        part_scores(truth, truth, generator=generator(), draws=0)
