from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scenes_of_discs import COLOURS, SIDE, Discs, discs, stripes_of
from torch import Tensor
from torch.nn.functional import one_hot

from objectwise import metrics
from objectwise.core import Batch, Decomposition, MetricResult, Posterior, UserError, presence_from_masks
from objectwise.metrics.diagnosis import DETECTORS
from objectwise.metrics.groups import DiagnosisGroup, GroupScores, GroupSettings

TRUTH = [0] * 8 + [1] * 4 + [2] * 4


def ids(*rows: list[int]) -> Tensor:
    return torch.tensor(rows).unsqueeze(1)


# -- with the truth --------------------------------------------------------------------------------------------------


def test_background_split_by_hand() -> None:
    halved = ids([0] * 4 + [1] * 4 + [2] * 4 + [3] * 4)
    assert metrics.background_split(ids(TRUTH), halved).value == 2.0
    assert metrics.background_perplexity(ids(TRUTH), halved).value == pytest.approx(2.0)
    assert metrics.background_split(ids(TRUTH), ids(TRUTH)).value == 1.0
    assert metrics.background_perplexity(ids(TRUTH), ids(TRUTH)).value == pytest.approx(1.0)
    uneven = ids([0] * 6 + [1] * 2 + [2] * 4 + [3] * 4)
    assert metrics.background_split(ids(TRUTH), uneven, share=0.25).value == 1.0  # more than the share, not as much
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert metrics.background_perplexity(ids(TRUTH), uneven).value == pytest.approx(expected)
    assert metrics.background_split(ids([1, 2]), ids([1, 2])).n_skipped == 1
    # Several background ids are one background.
    assert metrics.background_split(ids(TRUTH), ids([5] * 12 + [6] * 4), background_ids=(0, 1)).value == 1.0
    assert metrics.background_split(ids(TRUTH), ids(TRUTH), background_ids=(0, 1)).value == 2.0
    walls, slots = ids([0] * 8 + [1] * 8), ids([0] * 6 + [1] * 2 + [1] * 4 + [0] * 4)  # 10 and 6 of 16
    expected = math.exp(-(10 / 16 * math.log(10 / 16) + 6 / 16 * math.log(6 / 16)))
    assert metrics.background_perplexity(walls, slots, background_ids=(0, 1)).value == pytest.approx(expected)


def test_object_split_and_merge_by_hand() -> None:
    halved, merged = ids([0] * 8 + [1, 1, 2, 2] + [3] * 4), ids([0] * 8 + [1] * 8)
    assert metrics.object_split(ids(TRUTH), halved).value == 1.5
    assert metrics.object_split(ids(TRUTH), merged).value == 1.0
    assert metrics.object_merge(ids(TRUTH), merged).value == 2.0
    assert metrics.object_merge(ids(TRUTH), ids(TRUTH)).value == 1.0
    # Halves are not more than half: no slot holds an object.
    assert metrics.object_merge(ids([1] * 4), ids([0, 0, 1, 1])).n_skipped == 1
    for score in (metrics.object_split, metrics.object_merge):
        assert score(ids([0] * 4), ids([0, 0, 1, 1])).n_skipped == 1


def test_colour_merge_looks_at_pairs() -> None:
    """Three discs, the first two of one colour and in one slot, the third alone."""
    scenes = discs(5)
    scenes.colours[:, 1:] = torch.tensor([2, 2, 0])
    painted = COLOURS[scenes.colours.gather(1, scenes.ids.flatten(1)).view_as(scenes.ids)]
    images = torch.where((scenes.ids > 0).unsqueeze(3), painted, 0.5).movedim(-1, 1)
    merged = torch.tensor([0, 1, 1, 2])[scenes.ids]
    found = metrics.colour_merge(images, scenes.ids, merged)
    assert (found.same.value, found.same.n_scored) == (1.0, 5)
    assert found.other.value == 0.0
    apart = metrics.colour_merge(images, scenes.ids, scenes.ids)
    assert (apart.same.value, apart.other.value) == (0.0, 0.0)
    other = metrics.colour_merge(images, scenes.ids, torch.tensor([0, 1, 2, 2])[scenes.ids])
    assert (other.same.value, other.other.value) == (0.0, 0.5)
    # Names of ids do not matter, nor do objects of which no slot holds more than half.
    named = torch.tensor([0, 70_000, 5, 9])[scenes.ids]
    again = metrics.colour_merge(images, named, merged)
    assert again.same.per_image.tolist() == found.same.per_image.tolist()
    noise = torch.randint(0, 3, scenes.ids.shape, generator=torch.Generator().manual_seed(0))
    assert metrics.colour_merge(images, scenes.ids, noise).same.value == 0.0
    wide = metrics.colour_merge(images, scenes.ids, merged, tolerance=1.0)
    assert wide.other.n_scored == 0
    assert wide.same.value == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="pixels must agree"):
        metrics.colour_merge(images[:, :, :5], scenes.ids, merged)


# -- from masks alone ------------------------------------------------------------------------------------------------


def test_empty_slots() -> None:
    scenes = discs(4)
    assert metrics.empty_slots(scenes.masks(slots=4)).value == 0.0
    assert metrics.empty_slots(scenes.masks(slots=8)).value == 0.5
    everything = torch.zeros(2, 5, 8, 8)
    everything[:, 3] = 1.0
    assert metrics.empty_slots(everything).value == 0.8
    # Held by a hair and everywhere beaten by a hair are not the same.
    close = torch.stack([torch.full((8, 8), 0.51), torch.full((8, 8), 0.49)]).unsqueeze(0)
    assert metrics.filled_slots(close).tolist() == [[True, False]]
    # Four pixels of 64×64 are less than a thousandth, five are more.
    few = torch.zeros(1, SIDE, SIDE, dtype=torch.int64)
    few[0, 0, :4] = 1
    assert metrics.filled_slots(one_hot(few, 2).movedim(-1, 1)).tolist() == [[True, False]]
    few[0, 0, 4] = 1
    assert metrics.filled_slots(one_hot(few, 2).movedim(-1, 1)).tolist() == [[True, True]]


def test_entropy_and_overlap() -> None:
    hard, undecided = discs(2).masks(), torch.full((2, 4, 8, 8), 0.25)
    assert metrics.mask_entropy(hard).value == 0.0
    assert metrics.slot_overlap(hard).value == 0.0
    assert metrics.mask_entropy(undecided).value == pytest.approx(1.0)
    assert metrics.slot_overlap(undecided).value == pytest.approx(0.75)
    assert metrics.mask_entropy(torch.ones(1, 1, 4, 4)).value == 0.0
    two = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    expected = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    assert metrics.mask_entropy(two).value == pytest.approx(expected, rel=1e-6)


def test_stripes() -> None:
    assert metrics.stripes(stripes_of(2)).value == pytest.approx(1.0)
    assert metrics.stripes(stripes_of(2, vertical=False)).value == pytest.approx(1.0)
    one_disc = discs(1, objects=1)
    by_itself = metrics.stripes(one_disc.masks(slots=2)).value
    assert by_itself == pytest.approx(0.17, abs=0.005)
    assert metrics.stripes(discs().masks()).value < 0.3
    assert metrics.stripes(torch.full((1, 2, 4, 4), 0.5)).n_skipped == 1


def test_spread() -> None:
    assert metrics.spread(discs(radius=6).masks()).value < 0.1
    noise = torch.randint(0, 4, (3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    assert metrics.spread(one_hot(noise, 4).movedim(-1, 1)).value == pytest.approx(1.0, abs=0.02)
    # A square of side 12, by hand: (12² − 1) / (64² − 1).
    square = torch.zeros(1, SIDE, SIDE, dtype=torch.int64)
    square[0, 5:17, 40:52] = 1
    assert metrics.spread(one_hot(square, 2).movedim(-1, 1)).value == pytest.approx(143 / 4095)
    assert metrics.spread(torch.ones(1, 1, 8, 8)).n_skipped == 1  # the largest slot is the background


def test_position_only() -> None:
    grid = stripes_of(3)
    result = metrics.position_only(grid)
    np.testing.assert_array_equal(result.per_image, [np.nan, 1.0, 1.0])
    scattered = discs(30)
    assert metrics.position_only(scattered.masks()).value < 0.2
    # By hand: a slot moves by half its width, IoU 1/3; the background is left out.
    labels = torch.zeros(2, 4, 16, dtype=torch.int64)
    labels[0, 0, 0:4] = 1
    labels[1, 0, 2:6] = 1
    masks = one_hot(labels, 2).movedim(-1, 1)
    assert metrics.position_only(masks).per_image[1] == pytest.approx(1 / 3)
    # One batch, or image after image.
    whole = metrics.position_only(scattered.masks()).per_image
    parts = [scattered.masks()[i : i + 1] for i in range(30)]
    single = [metrics.position_only(parts[i], before=parts[i - 1][0]).per_image[0] for i in range(1, 30)]
    np.testing.assert_array_equal(whole[1:], single)


def test_first_step_attention() -> None:
    masks = torch.tensor([0.7, 0.2, 0.1]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    assert metrics.first_step_attention(masks).value == pytest.approx(0.7)


def test_hues() -> None:
    scenes = discs(6)
    hues = metrics.slot_hues(scenes.images, scenes.masks(slots=5))
    assert np.isnan(hues[:, [0, 4]]).all()  # background and a slot without pixels
    angles = np.degrees(np.arctan2(hues[..., 1], hues[..., 0]))[:, 1:4]
    colours = scenes.colours[:, 1:].numpy()
    for colour, hue in enumerate((0.0, 120.0, -127.5, 60.0)):  # red, green, blue (a little green in it), yellow
        assert angles[colours == colour] == pytest.approx(hue, abs=1.0)
    grey = metrics.slot_hues(scenes.images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1), scenes.masks())
    assert np.isnan(grey).all()
    with pytest.raises(UserError, match="hues need images"):
        metrics.slot_hues(scenes.images[:, :1], scenes.masks())


def by_colour(scenes: Discs) -> Tensor:
    """Labels that depend on the colour alone: slot 1 + colour."""
    slots = 1 + scenes.colours
    slots[:, 0] = 0
    return slots.gather(1, scenes.ids.flatten(1)).view_as(scenes.ids)


def test_colour_clusters() -> None:
    scenes = discs(60)
    generator = torch.Generator().manual_seed(0)
    tied = metrics.colour_clusters(
        metrics.slot_hues(scenes.images, scenes.masks(by_colour(scenes), 5)), generator=generator
    )
    assert tied.explained == pytest.approx(1.0)
    assert tied.lift > 0.9
    free = metrics.colour_clusters(metrics.slot_hues(scenes.images, scenes.masks()), generator=generator)
    assert abs(free.lift) < 0.1
    assert 0.0 < free.chance < 0.1
    none = metrics.colour_clusters(np.full((4, 3, 2), np.nan), generator=generator)
    assert np.isnan(none.lift)
    # One object per image: exchanging slots within an image changes nothing, so that nothing is shown.
    alone = np.full((10, 3, 2), np.nan)
    alone[:5, 1], alone[5:, 2] = [1, 0], [0, 1]
    assert metrics.colour_clusters(alone, generator=generator).lift == pytest.approx(0.0)


def test_slot_kl_by_hand() -> None:
    mean, std = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]), torch.tensor([[[1.0, 0.5], [1.0, 1.0]]])
    first = 0.5 * 1.0 + 0.5 * (4.0 + 0.25 - 1.0 - 2 * math.log(0.5))
    both = metrics.slot_kl(mean, std, torch.tensor([[True, True]]))
    assert both.value == pytest.approx(first / 2)
    assert metrics.slot_kl(mean, std, torch.tensor([[True, False]])).value == pytest.approx(first)
    assert metrics.slot_kl(mean, std, torch.tensor([[False, False]])).n_skipped == 1
    std[0, 0, 1] = 0.0
    assert metrics.slot_kl(mean, std, torch.tensor([[True, False]])).value == pytest.approx(0.5)


# -- thresholds: each detector fires for its defect, and is silent for a healthy decomposition ---------------------------


def diagnose(
    scenes: Discs,
    masks: Tensor,
    *,
    posterior: Posterior | None = None,
    truth: bool = True,
    batch: int = 10,
    settings: GroupSettings | None = None,
    kind: str = "masks",
) -> GroupScores:
    group = DiagnosisGroup(settings or GroupSettings())
    for start in range(0, len(masks), batch):
        rows = slice(start, start + batch)
        part = masks[rows]
        zeros = torch.zeros(len(part))
        out = Decomposition(
            loss=zeros,
            terms={},
            reconstruction=scenes.images[rows],
            components=part.unsqueeze(2),
            masks=part,
            slots=torch.zeros(*part.shape[:2], 2),
            presence=presence_from_masks(part),
            posterior=None if posterior is None else Posterior(posterior.mean[rows], posterior.std[rows]),
        )
        index = torch.arange(start, start + len(part))
        given = Batch(index, scenes.images[rows], scenes.ids[rows] if truth else None)
        group.add(given, out, {kind: part})
    return group.scores()


def fired(scores: GroupScores) -> set[str]:
    return {name for rows in scores.sections.values() for name, row in rows.items() if row.advice is not None}


def code(slots: int = 4, *, dead: bool = False, number: int = 24, width: int = 12) -> Posterior:
    mean = torch.randn(number, slots, width, generator=torch.Generator().manual_seed(1))
    return Posterior(mean * 0.0 if dead else mean, torch.full_like(mean, 1.0 if dead else 0.5))


def everything_first(scenes: Discs) -> Tensor:
    masks = torch.full((len(scenes.ids), 4, SIDE, SIDE), 0.001)
    masks[:, 0] = 0.997
    return masks


def noise(scenes: Discs) -> Tensor:
    labels = torch.randint(0, 4, scenes.ids.shape, generator=torch.Generator().manual_seed(2))
    return scenes.masks(labels)


SCENES = discs()
SAME = discs(one_colour=True)
OBJECTS_FIRST = 3 - SCENES.ids
DEFECTS: dict[str, tuple[Discs, Tensor]] = {
    "background_split": (SCENES, SCENES.masks(SCENES.ids + 4 * ((SCENES.ids == 0) & (torch.arange(SIDE) % 2 > 0)), 5)),
    "object_split": (SCENES, SCENES.masks(SCENES.ids + 3 * ((SCENES.ids > 0) & (torch.arange(SIDE) % 2 > 0)), 7)),
    "object_merge": (SCENES, SCENES.masks((SCENES.ids > 0).long())),
    "same_colour_merge": (SAME, SAME.masks(by_colour(SAME), 5)),
    "colour_clusters": (SCENES, SCENES.masks(by_colour(SCENES), 5)),
    "empty_slots": (SCENES, everything_first(SCENES)),
    "dead_slots": (SCENES, SCENES.masks(slots=9)),
    "mask_entropy": (SCENES, SCENES.masks() * 0.1 + 0.9 / 4),
    "slot_overlap": (SCENES, SCENES.masks() * 0.5 + 0.5 / 4),
    "spread": (SCENES, noise(SCENES)),
    "stripes": (SCENES, stripes_of(24)),
    "position_only": (SCENES, stripes_of(24)),
    "first_step_attention": (SCENES, everything_first(SCENES)),
    "first_step_objects": (SCENES, SCENES.masks((SCENES.ids == 0).long(), 2)),
    "slot_kl": (SCENES, SCENES.masks()),
    "dead_dims": (SCENES, SCENES.masks()),
}


def test_every_detector_with_a_threshold_has_a_defect_here() -> None:
    assert set(DEFECTS) == {name for name, detector in DETECTORS.items() if detector.threshold is not None}
    assert all(detector.advice for name, detector in DETECTORS.items() if name in DEFECTS)


def test_a_healthy_decomposition_is_left_in_peace() -> None:
    for scenes in (SCENES, SAME, discs(objects=2), discs(objects=4, radius=5)):
        count = int(scenes.ids.max())
        scores = diagnose(scenes, scenes.masks(slots=count + 1), posterior=code(count + 1))
        assert fired(scores) == set()
        assert set(scores.sections["masks"]) == set(DETECTORS)
        assert scores.advice == ()


@pytest.mark.parametrize("name", DEFECTS)
def test_each_detector_sees_its_defect(name: str) -> None:
    scenes, masks = DEFECTS[name]
    dead = name in ("slot_kl", "dead_dims")
    scores = diagnose(scenes, masks, posterior=code(masks.shape[1], dead=dead))
    assert name in fired(scores)
    row = scores.sections["masks"][name]
    assert row.threshold == DETECTORS[name].threshold
    assert any(f"masks: {name} = " in sentence and DETECTORS[name].advice in sentence for sentence in scores.advice)
    record = row.record()
    assert record["fires"] is True
    assert record["advice"] == DETECTORS[name].advice


def test_single_defects_are_told_apart() -> None:
    """What must not fire beside a defect (a slot that holds several places is spread)."""
    expected = {
        "background_split": {"background_split", "spread"},
        "object_merge": {"object_merge", "same_colour_merge", "spread"},
        "same_colour_merge": {"same_colour_merge", "object_merge", "empty_slots", "colour_clusters", "spread"},
        "colour_clusters": {"colour_clusters", "object_merge", "same_colour_merge", "spread"},
        "dead_slots": {"dead_slots"},
        "mask_entropy": {"mask_entropy", "slot_overlap", "spread"},
        "slot_kl": {"slot_kl", "dead_dims"},
    }
    for name, allowed in expected.items():
        scenes, masks = DEFECTS[name]
        found = fired(diagnose(scenes, masks, posterior=code(masks.shape[1], dead=name == "slot_kl")))
        assert found <= allowed, name


def test_the_batch_size_does_not_matter() -> None:
    one, many = (diagnose(SCENES, noise(SCENES), posterior=code(), batch=size) for size in (1, 24))
    for name, row in one.sections["masks"].items():
        other = many.sections["masks"][name]
        assert row.value == pytest.approx(other.value, abs=1e-12, nan_ok=True), name
        assert (row.n_scored, row.n_skipped) == (other.n_scored, other.n_skipped), name


def test_without_truth_colour_or_posterior_the_rest_is_still_measured() -> None:
    scores = diagnose(SCENES, stripes_of(24), truth=False)
    assert {"stripes", "position_only", "colour_clusters"} <= set(scores.sections["masks"])
    assert {"background_split", "object_merge", "slot_kl"} <= set(scores.policy["left_out"])  # type: ignore[call-overload]
    assert "background_split" not in scores.sections["masks"]
    grey = Discs(SCENES.images[:, :1], SCENES.ids, SCENES.colours)
    assert "colour_clusters" not in diagnose(grey, stripes_of(24)).sections["masks"]


def test_thresholds_can_be_set() -> None:
    strict = GroupSettings(thresholds={"stripes": 0.01})
    assert "stripes" in fired(diagnose(SCENES, SCENES.masks(), settings=strict))
    with pytest.raises(UserError, match="no detector 'stripe'"):
        DiagnosisGroup(GroupSettings(thresholds={"stripe": 0.5}))


def test_results_name_themselves() -> None:
    for score in (metrics.stripes, metrics.spread, metrics.empty_slots, metrics.mask_entropy, metrics.slot_overlap):
        result: MetricResult = score(SCENES.masks())
        assert result.policy["metric"] == score.__name__
        with pytest.raises(UserError, match="images, slots, height, width"):
            score(torch.zeros(3, 4, 4))
