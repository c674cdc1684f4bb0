from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from objectwise import metrics
from objectwise.core import ContractError, MetricResult, UserError, check_metric

Score = Callable[..., MetricResult]

# Reference values worked out by hand in exact fractions: 16 pixels, background 8, object A 4, object B 4.
TRUTH = [0] * 8 + [1] * 4 + [2] * 4
COLUMNS = (
    "sc", "sc_fg", "msc", "mbo_i", "miou_gt", "miou_fg", "miou_fg_matched_with_bg", "miou_pairs", "pq", "pq_fg",
)  # fmt: skip
TABLE = {
    "1 perfect": (TRUTH, "1 1 1 1 1 1 1 1 1 1"),
    "2 everything in one slot": ([0] * 16, "3/8 1/4 1/3 1/4 1/6 1/8 0 1/6 0 0"),
    "3 A and B in one slot": ([0] * 8 + [1] * 8, "3/4 1/2 2/3 1/2 1/2 1/4 1/4 1/2 2/5 0"),
    "4 A halved": ([0] * 8 + [1, 1, 2, 2] + [3] * 4, "7/8 3/4 5/6 3/4 5/6 3/4 1/2 5/8 4/7 2/5"),
    "5 background halved": ([0] * 4 + [1] * 4 + [2] * 4 + [3] * 4, "3/4 1 5/6 1 5/6 1 2/3 5/8 4/7 1"),
    "6 background and A in one slot": ([0] * 12 + [1] * 4, "2/3 2/3 2/3 2/3 5/9 2/3 1/2 5/9 2/3 2/3"),
    "7 A takes 2 background pixels": (
        [0] * 6 + [1] * 6 + [2] * 4,
        "19/24 5/6 29/36 5/6 29/36 5/6 5/6 29/36 29/36 5/6",
    ),
    "8 A and B swap one pixel each": (
        [0] * 8 + [1, 1, 1, 2] + [2, 2, 2, 1],
        "4/5 3/5 11/15 3/5 11/15 3/5 3/5 11/15 11/15 3/5",
    ),
    "9 two half-planes": ([0] * 4 + [1] * 4 + [0] * 4 + [1] * 4, "5/12 1/2 4/9 1/2 1/3 1/2 1/2 1/3 0 0"),
    "10 every pixel its own slot": (list(range(16)), "3/16 1/4 5/24 1/4 5/24 1/4 1/30 5/128 0 0"),
    "11 A and B mixed": ([0] * 8 + [1, 1, 2, 2] * 2, "2/3 1/3 5/9 1/3 5/9 1/3 1/3 5/9 1/3 0"),
}


def ids(*rows: list[int]) -> torch.Tensor:
    """One image per row of ids, one pixel high."""
    return torch.tensor(rows).unsqueeze(1)


def masks_of(labels: torch.Tensor, slots: int) -> torch.Tensor:
    return one_hot(labels, slots).movedim(-1, 1).float()


def scenes(seed: int, images: int = 30, objects: int = 3, slots: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids and labels that agree on most pixels; not every id and slot in every image."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, objects + 1, (images, 4, 5), generator=generator)
    truth = torch.minimum(truth, torch.randint(0, objects + 1, (images, 1, 1), generator=generator))
    names = torch.rand(images, slots, generator=generator).argsort(dim=1)
    labels = names.gather(1, truth.flatten(1)).view_as(truth)
    noise = torch.randint(0, slots, truth.shape, generator=generator)
    return truth, torch.where(torch.rand(truth.shape, generator=generator) < 0.4, noise, labels)


# -- by the book: sets of pixels, exact fractions, every assignment tried ------------------------------------------------


def segments(labels: list[int]) -> dict[int, set[int]]:
    return {name: {i for i, other in enumerate(labels) if other == name} for name in set(labels)}


def iou(first: set[int], second: set[int]) -> Fraction:
    return Fraction(len(first & second), len(first | second))


def assignments(rows: list[set[int]], columns: list[set[int]]) -> list[list[tuple[int, int]]]:
    """Every one-to-one assignment of as many pairs as there can be."""
    if len(rows) <= len(columns):
        return [list(enumerate(chosen)) for chosen in permutations(range(len(columns)), len(rows))]
    return [[(r, c) for c, r in enumerate(chosen)] for chosen in permutations(range(len(rows)), len(columns))]


def best_assignments(rows: list[set[int]], columns: list[set[int]]) -> list[list[tuple[int, int]]]:
    found = assignments(rows, columns)
    totals = [sum(iou(rows[r], columns[c]) for r, c in pairs) for pairs in found]
    return [pairs for pairs, total in zip(found, totals, strict=True) if total == max(totals)]


def by_the_book(name: str, truth: list[int], labels: list[int]) -> Fraction | None:
    """The definitions, one image."""
    true, found = segments(truth), list(segments(labels).values())
    objects = {k: v for k, v in true.items() if k != 0}
    foreground = name.endswith("_fg") or name in ("mbo_i", "miou_fg_matched_with_bg", "recovery_rate")
    if foreground and not objects:
        return None
    wanted = list((objects if foreground else true).values())
    best = [max(iou(g, p) for p in found) for g in wanted]
    if name in ("sc", "sc_fg"):
        return sum(len(g) * b for g, b in zip(wanted, best, strict=True)) / Fraction(sum(map(len, wanted)))
    if name in ("msc", "msc_fg", "mbo_i"):
        return sum(best, Fraction(0)) / len(best)
    if name == "recovery_rate":
        return Fraction(sum(b > Fraction(1, 2) for b in best), len(best))
    if name.startswith("dice"):
        return max(
            sum(Fraction(2 * len(wanted[r] & found[c]), len(wanted[r]) + len(found[c])) for r, c in pairs)
            for pairs in best_assignments(wanted, found)
        ) / Fraction(len(wanted))
    if name == "miou_fg_matched_with_bg":
        rows = list(true.values())
        background = [i for i, k in enumerate(true) if k == 0]
        total = min(
            sum((iou(rows[r], found[c]) for r, c in pairs if r not in background), Fraction(0))
            for pairs in best_assignments(rows, found)
        )
        return total / (max(len(rows), len(found)) - len(background))
    pairs = best_assignments(wanted, found)[0]
    total = sum((iou(wanted[r], found[c]) for r, c in pairs), Fraction(0))
    return total / (max(len(wanted), len(found)) if name == "miou_pairs" else len(wanted))


SCORES: dict[str, Score] = {
    "sc": metrics.sc,
    "sc_fg": metrics.sc_fg,
    "msc": metrics.msc,
    "msc_fg": metrics.msc_fg,
    "mbo_i": metrics.mbo_i,
    "recovery_rate": metrics.recovery_rate,
    "miou_gt": metrics.miou_gt,
    "miou_pairs": metrics.miou_pairs,
    "miou_fg": metrics.miou_fg,
    "miou_fg_matched_with_bg": metrics.miou_fg_matched_with_bg,
    "dice": metrics.dice,
    "dice_fg": lambda truth, masks, **more: metrics.dice(truth, masks, foreground=True, **more),
    "pq": metrics.pq,
    "pq_fg": metrics.pq_fg,
}


@pytest.mark.parametrize("row", TABLE)
def test_hand_values(row: str) -> None:
    predicted, values = TABLE[row]
    generator = torch.Generator().manual_seed(len(row))
    names, order = torch.randperm(16, generator=generator), torch.randperm(16, generator=generator)
    renamed = names[torch.tensor(predicted)]
    for name, value in zip(COLUMNS, values.split(), strict=True):
        expected = pytest.approx(float(Fraction(value)), abs=1e-15)
        assert SCORES[name](ids(TRUTH), ids(predicted)).value == expected, name
        assert SCORES[name](ids(TRUTH), masks_of(ids(predicted), 16)).value == expected, name
        # The names of the slots and the order of the pixels do not matter.
        moved = SCORES[name](torch.tensor(TRUTH)[order].view(1, 4, 4), renamed[order].view(1, 4, 4))
        assert moved.value == expected, name


@pytest.mark.parametrize("name", [name for name in SCORES if not name.startswith("pq")])
def test_agrees_with_the_definition_with_every_assignment_tried(name: str) -> None:
    truth, labels = scenes(1)
    result = SCORES[name](truth, labels)
    expected = [
        by_the_book(name, t.flatten().tolist(), p.flatten().tolist()) for t, p in zip(truth, labels, strict=True)
    ]
    np.testing.assert_allclose(result.per_image, [np.nan if e is None else float(e) for e in expected], atol=1e-7)
    assert result.n_skipped == expected.count(None)
    assert (result.n_skipped == 0) == (name in ("sc", "msc", "miou_gt", "miou_pairs", "dice"))
    assert result.policy["metric"] == name
    assert result.policy["background_ids"] == (0,)


def panoptic_by_the_book(truth: list[int], labels: list[int], *, foreground: bool) -> tuple[Fraction | None, ...]:
    true, found = segments(truth), list(segments(labels).values())
    background = true.get(0, set())
    wanted = [g for name, g in true.items() if not (foreground and name == 0)]
    pairs = [(g, p) for g in wanted for p in found if iou(g, p) > Fraction(1, 2)]
    unmatched = [p for p in found if all(p is not other for _, other in pairs)]
    if foreground:
        unmatched = [p for p in unmatched if Fraction(len(p & background), len(p)) <= Fraction(1, 2)]
    total = len(pairs) + Fraction(len(unmatched) + len(wanted) - len(pairs), 2)
    overlap = sum((iou(*pair) for pair in pairs), Fraction(0))
    if total == 0:
        return None, None, None
    return overlap / total, overlap / len(pairs) if pairs else None, len(pairs) / total


@pytest.mark.parametrize("foreground", [False, True])
def test_panoptic_quality_agrees_with_the_definition(foreground: bool) -> None:
    truth, labels = scenes(2, images=60)
    scores = metrics.panoptic_quality(truth, labels, foreground=foreground)
    rows = [
        panoptic_by_the_book(t.flatten().tolist(), p.flatten().tolist(), foreground=foreground)
        for t, p in zip(truth, labels, strict=True)
    ]
    found = {"pq": scores.pq, "sq": scores.sq, "rq": scores.rq}
    for (name, result), expected in zip(found.items(), zip(*rows, strict=True), strict=True):
        numbers = [np.nan if e is None else float(e) for e in expected]
        np.testing.assert_allclose(result.per_image, numbers, atol=1e-15)
        assert result.policy["metric"] == name + "_fg" * foreground
        assert result.n_skipped == expected.count(None)
    assert 0.1 < scores.pq.value < 0.9
    np.testing.assert_allclose(
        np.nan_to_num(scores.sq.per_image) * scores.rq.per_image, scores.pq.per_image, atol=1e-15
    )
    assert (np.nan_to_num(scores.pq.per_image) <= np.nan_to_num(scores.rq.per_image)).all()


def test_small_predicted_segments_need_not_exist() -> None:
    truth, labels = ids([0] * 8 + [1] * 8), ids([0] * 7 + [2] + [1] * 8)
    assert metrics.pq_fg(truth, labels).value == 1.0
    assert metrics.pq(truth, labels).value == pytest.approx((7 / 8 + 1) / 2.5)
    raised = metrics.pq(truth, labels, min_pixels=2)
    assert raised.value == pytest.approx((7 / 8 + 1) / 2)
    assert raised.policy["min_pixels"] == 2
    with pytest.raises(UserError, match="min_pixels = 0"):
        metrics.pq(truth, labels, min_pixels=0)


@pytest.mark.parametrize("name", SCORES)
def test_contract(name: str) -> None:
    check_metric(SCORES[name])


@pytest.mark.parametrize("name", SCORES)
def test_no_nan_but_where_the_policy_says_so(name: str) -> None:
    """One object, all background, one pixel, one slot."""
    truths = ids([1, 1, 1, 1]), ids([0, 0, 0, 0]), ids([0]), ids([3]), ids([0, 0, 5, 5])
    for truth in truths:
        for labels in (truth, torch.zeros_like(truth), torch.arange(truth.numel()).view(truth.shape)):
            result = SCORES[name](truth, labels)
            assert result.n_scored + result.n_skipped == 1
            if result.n_scored:
                assert 0.0 <= result.value <= 1.0
            else:
                assert not truth.any()  # only where there is no object
                assert name in ("sc_fg", "msc_fg", "mbo_i", "recovery_rate", "dice_fg", "pq_fg") or "miou_fg" in name
    perfect = SCORES[name](truths[-1], truths[-1])
    assert perfect.value == 1.0


def test_laws_between_scores() -> None:
    truth, labels = scenes(3, images=200)
    value = {name: SCORES[name](truth, labels).per_image for name in SCORES}
    objects = ~np.isnan(value["mbo_i"])
    for name, scores in value.items():
        assert (scores[objects] >= 0.0).all(), name
        assert (scores[objects] <= 1.0).all(), name
    np.testing.assert_array_equal(value["mbo_i"], value["msc_fg"])
    assert (value["miou_fg"][objects] <= value["mbo_i"][objects] + 1e-12).all()
    assert (value["miou_gt"] <= value["msc"] + 1e-12).all()
    assert (value["miou_pairs"] <= value["miou_gt"] + 1e-12).all()
    assert (value["miou_gt"] <= value["dice"] + 1e-12).all()
    assert (value["miou_fg"] < value["mbo_i"])[objects].any()  # a slot that is best for two


def test_ties_of_the_matching_do_not_depend_on_the_order_of_the_slots() -> None:
    """Two matchings of Σ IoU 1/2: g2 alone (0 + 2/4), or both (1/3 + 1/6), whose Dice are 0 + 2/3 and 1/2 + 2/7."""
    truth, labels = [1, 2, 2, 2, 0, 0, 0], [1, 0, 1, 1, 0, 0, 0]
    for predicted in (labels, [1 - label for label in labels]):
        assert SCORES["miou_fg"](ids(truth), ids(predicted)).value == pytest.approx(1 / 4)
        assert SCORES["dice_fg"](ids(truth), ids(predicted)).value == pytest.approx(11 / 28)
    # One slot covers background and object alike: it is the background's.
    assert SCORES["miou_fg_matched_with_bg"](ids([0, 0, 1, 1]), ids([3, 3, 3, 3])).value == 0.0
    assert SCORES["miou_fg_matched_with_bg"](ids([5, 5, 1, 1]), ids([3] * 4), background_ids=(5,)).value == 0.0


def test_splitting_the_slot_that_covers_an_object_lowers_the_covering() -> None:
    truth = ids(TRUTH)
    for name in ("sc", "msc", "sc_fg", "mbo_i", "miou_gt", "miou_fg"):
        whole, halved = SCORES[name](truth, truth), SCORES[name](truth, ids(TABLE["4 A halved"][0]))
        assert halved.value < whole.value == 1.0


def test_several_backgrounds_are_left_out_of_the_foreground_scores() -> None:
    """Four background ids as in Objects Room; two objects."""
    truth = ids([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 5])
    merged = ids([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    for name in ("sc_fg", "mbo_i", "miou_fg", "miou_fg_matched_with_bg", "pq_fg", "recovery_rate"):
        assert SCORES[name](truth, merged, background_ids=(0, 1, 2, 3)).value == 1.0, name
        assert SCORES[name](truth, merged).value < 1.0, name
    assert metrics.msc(truth, merged, background_ids=(0, 1, 2, 3)).value == pytest.approx((4 * 0.25 + 2) / 6)


def test_classes_merge_the_objects_of_an_image() -> None:
    """A and B of one class in one slot: found as a class, not as instances."""
    truth, labels = ids(TRUTH, TRUTH), ids(TABLE["3 A and B in one slot"][0], TRUTH)
    same, different = torch.tensor([[7, 0, 0]] * 2), torch.tensor([[0, 0, 5]] * 2)
    assert metrics.mbo_i(truth, labels).per_image.tolist() == [0.5, 1.0]
    assert metrics.mbo_c(truth, labels, same).per_image.tolist() == [1.0, 0.5]
    assert metrics.mbo_c(truth, labels, different).per_image.tolist() == [0.5, 1.0]
    assert metrics.mbo_c(truth, labels, same).policy["metric"] == "mbo_c"
    check_metric(lambda t, m: metrics.mbo_c(t, m, torch.arange(5).expand(len(t), 5)))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (torch.tensor([[0, 1]]), "classes cover 2"),
        (torch.tensor([[0, -1, 1]]), "not be negative"),
        (torch.tensor([[0.0, 1.0, 1.0]]), "integers"),
        (torch.tensor([0, 1, 1]), "integers"),
        (torch.tensor([[0, 1, 1]] * 2), "for 1 images"),
    ],
)
def test_classes_that_cannot_work(classes: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        metrics.mbo_c(ids(TRUTH), ids(TRUTH), classes)


def test_recovery_needs_more_than_the_threshold() -> None:
    truth, labels = ids(TRUTH), ids([0] * 8 + [1, 1, 3, 3] + [2, 2, 2, 0])
    assert metrics.recovery_rate(truth, labels).value == 0.5  # IoU exactly one half is no recovery
    assert metrics.recovery_rate(truth, labels, threshold=0.49).value == 1.0
    assert metrics.recovery_rate(truth, labels, threshold=0.75).value == 0.0


def test_masks_of_another_size_are_resized_first() -> None:
    truth = torch.zeros(1, 8, 8, dtype=torch.int64)
    truth[:, :, 4:] = 1
    truth[:, 4:, 4:] = 2
    result = metrics.mbo_i(truth, masks_of(truth[:, ::2, ::2], 3))
    assert result.value == 1.0
    assert "from (4, 4)" in str(result.policy["labels"])
    with pytest.raises(UserError, match="integer map"):
        metrics.sc(truth, torch.zeros(1, 8, 8))


def test_the_contract_check_sees_what_depends_on_the_order_of_pixels() -> None:
    def left_half(truth: torch.Tensor, masks: torch.Tensor) -> MetricResult:
        return metrics.msc(truth[:, :, : truth.shape[2] // 2], masks[..., : truth.shape[2] // 2])

    with pytest.raises(ContractError, match="order of the pixels"):
        check_metric(left_half)
