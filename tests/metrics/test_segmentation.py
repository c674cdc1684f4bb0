from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import one_hot

from objectwise.core import ContractError, UserError, check_metric
from objectwise.metrics import adjusted_rand_index, contingency, degenerate_advice, foreground_ari, labels_from_masks

# Sixteen pixels: background 8, object A 4, object B 4. Fractions worked out by hand: reference/metrics.md, section 6.
TRUTH = [0] * 8 + [1] * 4 + [2] * 4
HAND = {
    "perfect": (TRUTH, "1", "1"),
    "everything in one slot": ([0] * 16, "0", "0"),
    "A and B in one slot": ([0] * 8 + [1] * 8, "8/11", "0"),
    "A halved": ([0] * 8 + [1, 1, 2, 2] + [3] * 4, "12/13", "16/23"),
    "background halved": ([0] * 4 + [1] * 4 + [2] * 4 + [3] * 4, "2/3", "1"),
    "background and A in one slot": ([0] * 12 + [1] * 4, "1/2", "1"),
    "A takes 2 background pixels": ([0] * 6 + [1] * 6 + [2] * 4, "8/13", "1"),
    "A and B swap one pixel each": ([0] * 8 + [1, 1, 1, 2] + [2, 2, 2, 1], "31/40", "1/8"),
    "two half-planes": ([0] * 4 + [1] * 4 + [0] * 4 + [1] * 4, "2/11", "1"),
    "every pixel its own slot": (list(range(16)), "0", "0"),
    "A and B mixed": ([0] * 8 + [1, 1, 2, 2] + [1, 1, 2, 2], "7/10", "-1/6"),
}


def ids(*rows: list[int]) -> torch.Tensor:
    """One image per row of ids, one pixel high."""
    return torch.tensor(rows).unsqueeze(1)


def masks_of(labels: torch.Tensor, slots: int) -> torch.Tensor:
    return one_hot(labels, slots).movedim(-1, 1).float()


def ari_by_the_book(truth: list[int], predicted: list[int]) -> Fraction:
    """Hubert and Arabie's definition by counting unordered pairs of pixels, in exact fractions."""
    pairs = list(combinations(range(len(truth)), 2))
    same_true = sum(truth[i] == truth[j] for i, j in pairs)
    same_predicted = sum(predicted[i] == predicted[j] for i, j in pairs)
    same_both = sum(truth[i] == truth[j] and predicted[i] == predicted[j] for i, j in pairs)
    expected = Fraction(same_true * same_predicted, len(pairs))
    return (same_both - expected) / (Fraction(same_true + same_predicted, 2) - expected)


@pytest.mark.parametrize("name", HAND)
def test_hand_values(name: str) -> None:
    predicted, full, foreground = HAND[name]
    assert adjusted_rand_index(ids(TRUTH), ids(predicted)).value == pytest.approx(float(Fraction(full)), abs=1e-15)
    masks = masks_of(ids(predicted), 16)
    assert foreground_ari(ids(TRUTH), masks).value == pytest.approx(float(Fraction(foreground)), abs=1e-15)


@pytest.mark.parametrize(
    ("truth", "predicted", "value"),
    [
        ("0011", "0101", "-1/2"),
        ("0011", "0012", "4/7"),
        ("0000", "0000", "1"),
        ("0123", "3210", "1"),
        ("0000", "0123", "0"),
    ],
)
def test_hand_values_of_label_strings(truth: str, predicted: str, value: str) -> None:
    result = adjusted_rand_index(ids([*map(int, truth)]), ids([*map(int, predicted)]), degenerate="one")
    assert result.value == pytest.approx(float(Fraction(value)), abs=1e-15)


@pytest.mark.parametrize(("pixels", "value"), [(4, 0.364), (50, 0.492), (100, 0.496)])
def test_two_halved_objects_approach_one_half(pixels: int, value: float) -> None:
    half = pixels // 2
    truth, predicted = [1] * pixels + [2] * pixels, [0] * half + [1] * half + [2] * half + [3] * half
    assert foreground_ari(ids(truth), ids(predicted)).value == pytest.approx(value, abs=5e-4)


def test_two_objects_shared_half_and_half_by_two_slots() -> None:
    for pixels in (4, 10, 100):
        truth, predicted = [1] * pixels + [2] * pixels, ([0] * (pixels // 2) + [1] * (pixels // 2)) * 2
        assert foreground_ari(ids(truth), ids(predicted)).value == pytest.approx(-1 / (2 * pixels - 2), abs=1e-14)


NAN = float("nan")
DEGENERATE = {  # section 2.1: (truth, labels) -> reference, one; all are skipped by default where fewer than two objects
    "one object in one slot, background elsewhere": ([0, 0, 1, 1], [0, 2, 1, 1], NAN, 1.0),
    "one object split in two slots": ([0, 0, 1, 1], [0, 0, 1, 2], 0.0, 0.0),
    "no foreground pixel": ([0, 0, 0, 0], [0, 0, 1, 1], NAN, 1.0),
    "no foreground pixel, constant prediction": ([0, 0, 0, 0], [2, 2, 2, 2], 1.0, 1.0),
    "one object everywhere, constant prediction": ([1, 1, 1, 1], [2, 2, 2, 2], 1.0, 1.0),
    "a second object's id alone with background, constant prediction": ([0, 0, 2, 2], [1, 1, 1, 1], NAN, 1.0),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_images(name: str) -> None:
    truth, predicted, reference, one = DEGENERATE[name]
    skipped = foreground_ari(ids(truth), ids(predicted))
    assert (skipped.n_scored, skipped.n_skipped) == (0, 1)
    assert np.isnan(skipped.value)
    assert foreground_ari(ids(truth), ids(predicted), degenerate="one").value == one
    as_reference = foreground_ari(ids(truth), ids(predicted), degenerate="reference")
    np.testing.assert_equal(as_reference.per_image, [reference])
    assert as_reference.n_skipped == int(np.isnan(reference))


def test_two_objects_in_one_slot_score_zero_under_every_policy() -> None:
    for policy in ("skip", "one", "reference"):
        assert foreground_ari(ids([0, 0, 1, 1, 2, 2]), ids([0, 0, 1, 1, 1, 1]), degenerate=policy).value == 0.0


def test_one_pixel_image_is_nan_only_where_the_policy_says_so() -> None:
    assert foreground_ari(ids([1]), ids([0]), degenerate="one").value == 1.0
    assert foreground_ari(ids([1]), ids([0])).n_skipped == 1


def test_policy_and_counts_are_reported() -> None:
    truth = ids([0, 1, 1, 2], [0, 0, 1, 1], [0, 0, 0, 0])
    result = foreground_ari(truth, masks_of(truth, 3), background_ids=(0,))
    assert (result.value, result.n_scored, result.n_skipped) == (1.0, 1, 2)
    assert result.policy["degenerate"] == "skip"
    assert result.policy["background_ids"] == (0,)
    assert result.policy["n_degenerate"] == 2
    assert result.policy["resolution"] == (1, 4)
    advice = degenerate_advice(result)
    assert advice is not None
    assert advice.startswith("2 of 3 images")
    assert degenerate_advice(foreground_ari(truth[:1], truth[:1])) is None


def test_several_background_ids() -> None:
    truth, predicted = ids([0, 1, 2, 3, 4, 4, 5, 5]), ids([0, 0, 1, 1, 2, 2, 3, 3])
    assert foreground_ari(truth, predicted, background_ids=(0, 1, 2, 3)).value == 1.0
    assert foreground_ari(truth, predicted, background_ids=(0,)).value < 1.0


def test_agrees_with_scikit_learn_and_with_pair_counting() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 4, (20, 5, 7), generator=generator)
    predicted = torch.randint(0, 6, (20, 5, 7), generator=generator)
    full, foreground = adjusted_rand_index(truth, predicted), foreground_ari(truth, predicted)
    for i in range(20):
        t, p = truth[i].flatten().numpy(), predicted[i].flatten().numpy()
        assert full.per_image[i] == pytest.approx(adjusted_rand_score(t, p), abs=1e-12)
        assert foreground.per_image[i] == pytest.approx(adjusted_rand_score(t[t != 0], p[t != 0]), abs=1e-12)
        assert full.per_image[i] == pytest.approx(float(ari_by_the_book(t.tolist(), p.tolist())), abs=1e-13)


def test_large_images_keep_their_digits() -> None:
    """At 512×512 the product of pair counts is near 2^70: beyond int64, and far beyond float32's digits."""
    generator = torch.Generator().manual_seed(1)
    truth = torch.randint(1, 3, (1, 512, 512), generator=generator)
    predicted = torch.where(torch.rand(1, 512, 512, generator=generator) < 0.01, truth, 3 - truth)
    expected = adjusted_rand_score(truth.flatten().numpy(), predicted.flatten().numpy())
    assert foreground_ari(truth, predicted).value == pytest.approx(expected, abs=1e-12)
    noise = torch.randint(0, 4, (1, 512, 512), generator=generator)
    expected = adjusted_rand_score(truth.flatten().numpy(), noise.flatten().numpy())
    assert foreground_ari(truth, noise).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", [adjusted_rand_index, foreground_ari])
@pytest.mark.parametrize("policy", ["skip", "one", "reference"])
def test_contract(metric, policy: str) -> None:  # type: ignore[no-untyped-def]
    check_metric(lambda truth, masks: metric(truth, masks, degenerate=policy))


def test_contract_check_sees_a_metric_that_depends_on_slot_order() -> None:
    def ordered(truth, masks):  # type: ignore[no-untyped-def]
        return adjusted_rand_index(truth, (masks * torch.arange(1, masks.shape[1] + 1).view(1, -1, 1, 1)))

    with pytest.raises(ContractError):
        check_metric(ordered)


def test_symmetric_and_blind_to_names_and_pixel_order() -> None:
    generator = torch.Generator().manual_seed(2)
    truth = torch.randint(0, 4, (6, 6, 6), generator=generator)
    predicted = torch.randint(0, 4, (6, 6, 6), generator=generator)
    scores = adjusted_rand_index(truth, predicted).per_image
    np.testing.assert_allclose(adjusted_rand_index(predicted, truth).per_image, scores, atol=1e-15)
    order = torch.randperm(36, generator=generator)
    moved = [maps.flatten(1)[:, order].view(6, 6, 6) for maps in (truth, predicted)]
    np.testing.assert_array_equal(adjusted_rand_index(*moved).per_image, scores)
    names = torch.tensor([-7, 2**40, 65_793, 3])  # ids as large as colours and hashes
    np.testing.assert_array_equal(adjusted_rand_index(names[truth], names[predicted]).per_image, scores)


def test_random_labels_average_zero() -> None:
    generator = torch.Generator().manual_seed(3)
    truth = torch.randint(0, 5, (400, 8, 8), generator=generator)
    result = foreground_ari(truth, torch.rand(400, 5, 8, 8, generator=generator))
    assert abs(result.value) < 4 * result.standard_error
    assert result.standard_error < 0.005


def test_labels_equal_argmax_with_ties_types_and_layouts() -> None:
    generator = torch.Generator().manual_seed(4)
    coarse = torch.randint(0, 4, (9, 5, 7, 6), generator=generator)  # full of ties
    assert (coarse == coarse.amax(dim=1, keepdim=True)).sum(dim=1).max() > 1
    for masks in (
        coarse.float(),
        coarse.bfloat16(),
        coarse.double(),
        coarse > 1,
        torch.rand(300, 7, 64, 64, generator=generator),  # several chunks
        torch.rand(3, 7, 6, 5, generator=generator).to(memory_format=torch.channels_last),
        -torch.rand(3, 1, 6, 5, generator=generator),
    ):
        assert torch.equal(labels_from_masks(masks), masks.float().argmax(dim=1))
    masks = torch.rand(2, 3, 4, 4, generator=generator)
    assert torch.equal(labels_from_masks(masks.double()), labels_from_masks(masks))
    assert torch.equal(labels_from_masks(masks.numpy()), labels_from_masks(masks))


def test_inputs_are_left_alone() -> None:
    truth, masks = torch.randint(0, 3, (2, 4, 4)), torch.rand(2, 3, 4, 4)
    before = truth.clone(), masks.clone()
    foreground_ari(truth, masks)
    assert torch.equal(truth, before[0])
    assert torch.equal(masks, before[1])


def test_masks_of_another_size_are_resized_before_the_argmax() -> None:
    truth = torch.zeros(1, 8, 8, dtype=torch.int64)
    truth[:, :, 4:] = 1
    truth[:, 4:, 4:] = 2
    coarse = masks_of(truth[:, ::2, ::2], 3)
    result = adjusted_rand_index(truth, coarse)
    assert result.value == 1.0
    assert "from (4, 4)" in str(result.policy["labels"])


def test_contingency_counts_pixels() -> None:
    counts, rows, columns = contingency(ids([0, 0, 1, 1, 1]), ids([0, 2, 2, 2, 0]))
    assert counts.tolist() == [[[1, 0, 1], [1, 0, 2]]]
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [0, 1, 2])


@pytest.mark.parametrize(
    ("truth", "masks", "message"),
    [
        (torch.zeros(1, 4, 4), torch.zeros(1, 4, 4).long(), "integer map"),
        (torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 4), "integer map"),
        (torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 5).long(), "must be alike"),
        (torch.zeros(1, 4, 4).long(), torch.full((1, 2, 4, 4), NAN), "NaN"),
        (torch.zeros(1, 4, 4).long(), torch.zeros(2, 2, 4, 4), "must be alike"),
        (torch.zeros(4, 4).long(), torch.zeros(1, 2, 4, 4), "images, height, width"),
        (torch.zeros(1, 4, 4).long(), torch.zeros(1, 0, 4, 4), "at least one slot"),
    ],
)
def test_what_cannot_work_is_refused(truth: torch.Tensor, masks: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        foreground_ari(truth, masks)


def test_unknown_policy_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'skip'"):
        foreground_ari(ids([1, 2]), ids([1, 2]), degenerate="skipp")  # type: ignore[arg-type]
