from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from objectwise.core import Decomposition, Posterior, UserError
from objectwise.data.digits import DigitsConfig, sum_and_order
from objectwise.metrics import ProbeResult, catches_up_at, codes_for_probe, probe, probe_images
from objectwise.metrics.probes import _SharedHead

HEADS = ("mlp2x256", "shared2x256", "linear")
QUICK: dict[str, Any] = {"looks": 15}


def made_up(n: int = 600, classes: int = 3, noise: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, classes + noise) codes that hold the class one-hot beside noise of another scale, and (n,) labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    clutter = 100.0 + 50.0 * torch.randn(n, noise, generator=generator)
    return torch.cat([torch.nn.functional.one_hot(labels, classes) * 1e-2, clutter], dim=1), labels


TRAIN, TEST = made_up(seed=1), made_up(1000, seed=2)


def spoilt(codes: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Codes that say nothing about the labels: other images' codes."""
    return codes[torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed))]


@pytest.mark.parametrize("head", HEADS)
def test_perfect_codes_are_read_perfectly_whatever_their_scale(head: str) -> None:
    result = probe(*TRAIN, *TEST, budgets=(150, 600), seeds=2, head=head, looks=40)
    assert result.accuracy.shape == (2, 2)
    assert result.predictions.shape == (2, 2, 1000)
    assert result.accuracy[0].min() > 0.9
    assert result.accuracy[1].min() > 0.98


@pytest.mark.parametrize("head", HEADS)
def test_random_codes_give_chance(head: str) -> None:
    generator = torch.Generator().manual_seed(7)
    codes, others = torch.randn(300, 5, generator=generator), torch.randn(1000, 5, generator=generator)
    result = probe(codes, TRAIN[1][:300], others, TEST[1], budgets=(300,), seeds=2, head=head, **QUICK)
    # Answers that do not depend on the truth: binomial around 1/3; three standard deviations.
    assert np.abs(result.accuracy - 1 / 3).max() < 3 * np.sqrt(2 / 9 / 1000)


def test_permuted_labels_give_chance() -> None:
    codes, labels = TRAIN
    shares = [
        probe(codes, spoilt(labels, seed), *TEST, budgets=(300,), seeds=1, **QUICK).accuracy[0, 0] for seed in range(4)
    ]
    # Codes of three kinds: one fluke serves a third of the test set, hence the room.
    assert 1 / 3 - 0.1 < np.mean(shares) < 1 / 3 + 0.1


def test_chance_is_the_most_frequent_training_answer_scored_on_the_test_set() -> None:
    codes = torch.zeros(40, 2)
    labels = torch.tensor([2] * 25 + [0] * 15)
    truth = torch.tensor([0] * 28 + [2] * 12)
    result = probe(codes, labels, codes, truth, budgets=(40,), seeds=1, **QUICK)
    assert result.chance == pytest.approx(12 / 40)
    assert result.accuracy[0, 0] == pytest.approx(12 / 40), "constant codes leave nothing but the most frequent answer"


def test_what_needs_both_objects_needs_the_mlp() -> None:
    """Whether two bits differ cannot be told by a linear head; two hidden layers can."""
    bits = torch.randint(0, 2, (1200, 2), generator=torch.Generator().manual_seed(0))
    codes, labels = bits.float(), (bits[:, 0] != bits[:, 1]).long()
    split = codes[:600], labels[:600], codes[600:], labels[600:]
    assert probe(*split, budgets=(600,), seeds=1, **QUICK).accuracy[0, 0] > 0.99
    assert probe(*split, budgets=(600,), seeds=1, head="linear", **QUICK).accuracy[0, 0] < 0.8


def test_shared_head_reads_every_slot_alike() -> None:
    """Exchanging the slots is the same as exchanging what the conclusion makes of them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = _SharedHead(width=9, objects=2, classes=3, hidden=16, dropout=0.0)
    codes = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    first, second, rest = codes.split([4, 4, 1], dim=1)
    before, changed = head(codes), head(torch.cat([second, first, rest], dim=1))
    assert not torch.allclose(before, changed)
    weights = head.conclude[0].weight.data
    a, b, others = weights.clone().split([head.SUMMARY, head.SUMMARY, 1], dim=1)
    weights.copy_(torch.cat([b, a, others], dim=1))
    torch.testing.assert_close(head(torch.cat([second, first, rest], dim=1)), before)


def test_same_call_same_result_and_global_random_state_untouched() -> None:
    states = random.getstate(), str(np.random.get_state(legacy=False)), torch.get_rng_state()
    first = probe(*TRAIN, *TEST, budgets=(50, 200), seeds=2, **QUICK)
    images = TRAIN[0][:60].view(-1, 1, 7, 1).expand(-1, 1, 7, 8).repeat(1, 1, 2, 1)
    probe_images(images, TRAIN[1][:60], images, TRAIN[1][:60], budgets=(60,), seeds=1, looks=2)
    assert (random.getstate(), str(np.random.get_state(legacy=False))) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    torch.manual_seed(123)
    second = probe(*TRAIN, *TEST, budgets=(50, 200), seeds=2, **QUICK)
    np.testing.assert_array_equal(first.predictions, second.predictions)


def test_a_seed_and_a_budget_do_not_depend_on_the_others() -> None:
    whole = probe(*TRAIN, *TEST, budgets=(50, 200), seeds=2, **QUICK)
    part = probe(*TRAIN, *TEST, budgets=(200,), seeds=1, **QUICK)
    np.testing.assert_array_equal(whole.predictions[1, 0], part.predictions[0, 0])
    noisy = probe(spoilt(TRAIN[0]), TRAIN[1], *TEST, budgets=(50,), seeds=2, **QUICK).predictions[0]
    assert (noisy[0] != noisy[1]).any()


def test_nothing_of_the_test_set_reaches_the_heads() -> None:
    """Neither its labels nor, through standardisation, the other test codes."""
    codes, labels = TRAIN
    blurred = codes + 0.5 * codes.std(dim=0) * torch.randn(codes.shape, generator=torch.Generator().manual_seed(5))
    reference = probe(blurred, labels, *TEST, budgets=(100,), seeds=2, **QUICK).predictions
    permuted = probe(blurred, labels, TEST[0], spoilt(TEST[1]), budgets=(100,), seeds=2, **QUICK).predictions
    np.testing.assert_array_equal(reference, permuted)
    shifted = torch.cat([TEST[0][:100], TEST[0][100:] * 1e4])
    beside_others = probe(blurred, labels, shifted, TEST[1], budgets=(100,), seeds=2, **QUICK).predictions
    np.testing.assert_array_equal(reference[..., :100], beside_others[..., :100])


def test_budgets_use_no_more_labels_than_they_say() -> None:
    """Ten labels do not find three useful features among 33; 600 do."""
    train, test = made_up(noise=30, seed=3), made_up(1000, noise=30, seed=4)
    result = probe(*train, *test, budgets=(10, 600), seeds=2, **QUICK)
    assert result.accuracy[0].max() < 0.7
    assert result.accuracy[1].min() > 0.9


def test_network_on_pixels_learns_what_it_sees_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (400,), generator=generator)
    images = 0.1 * torch.rand(400, 1, 9, 10, generator=generator)
    rows = torch.randint(0, 7, (400,), generator=generator)
    for image, row, label in zip(images, rows, labels, strict=True):
        # A short horizontal or vertical bar.
        image[0, row : row + (3 if label else 1), 4 : 4 + (1 if label else 3)] = 1.0
    split = images[:250], labels[:250], images[250:], labels[250:]
    result = probe_images(*split, budgets=(250,), seeds=2, looks=10)
    assert result.accuracy.min() > 0.95
    assert probe_images(*split, budgets=(250,), seeds=1, looks=10, bf16=True).accuracy.min() > 0.95
    assert result.policy["head"] == "conv3+dense2"
    noise = torch.rand(400, 1, 9, 10, generator=generator)
    chance = probe_images(noise[:250], labels[:250], noise[250:], labels[250:], budgets=(250,), seeds=1, looks=4)
    assert abs(chance.accuracy[0, 0] - 0.5) < 3 * 0.5 / np.sqrt(150)


def result(budgets: tuple[int, ...], *rows: tuple[float, ...]) -> ProbeResult:
    return ProbeResult(budgets, np.array(rows), np.zeros((len(rows), len(rows[0]), 1), dtype=np.int64), 0.1)


def test_mean_band_and_catching_up() -> None:
    early = result((10, 100, 1000, 10_000), (0.6, 0.8), (0.7, 0.9), (0.8, 0.8), (0.8, 0.9))
    np.testing.assert_allclose(early.mean, [0.7, 0.8, 0.8, 0.85])
    np.testing.assert_allclose(early.band, [[0.6, 0.7, 0.8, 0.8], [0.8, 0.9, 0.8, 0.9]])
    late = result((10, 100, 1000, 10_000), (0.9, 0.9), (0.2, 0.3), (0.8, 0.8), (0.9, 0.9))
    assert catches_up_at(late, early) == 1000, "being ahead once and falling back is not catching up"
    assert catches_up_at(early, late) is None
    assert catches_up_at(result((100, 1000), (0.9,), (0.9,)), early) == 100, "only shared budgets"
    with pytest.raises(UserError, match="share none"):
        catches_up_at(result((7,), (0.5,)), early)


# -- codes ------------------------------------------------------------------------------------------------------------


def decomposition(presence: list[list[float]], background: tuple[int, ...] = (), **changes: object) -> Decomposition:
    """Slots k hold the vector (k, 10·k); box k starts at 10·(K − k), so that x falls with k."""
    present = torch.tensor(presence)
    batch, count = present.shape
    index = torch.arange(count).float()
    slots = torch.stack([index, 10 * index], dim=1).expand(batch, count, 2)
    left = 10 * (count - index)
    values: dict[str, object] = {
        "loss": torch.zeros(batch),
        "terms": {},
        "reconstruction": torch.zeros(batch, 1, 4, 4),
        "components": torch.zeros(batch, count, 1, 4, 4),
        "masks": torch.full((batch, count, 4, 4), 1 / count),
        "slots": slots,
        "presence": present,
        "background": background,
        "posterior": Posterior(slots, slots),
        "boxes": torch.stack([left, left, left + 5, left + 5], dim=1).expand(batch, count, 4),
    }
    return Decomposition(**{**values, **changes})  # type: ignore[arg-type]


def test_codes_of_air_are_its_first_steps_and_the_count() -> None:
    found = decomposition([[1, 0.9, 0.8, 0.1], [1, 0.9, 0.2, 0.1]], background=(0,))
    expected = torch.tensor([[1, 10, 2, 20, 2], [1, 10, 2, 20, 1]]).float()
    assert torch.equal(codes_for_probe(found), expected)


def test_codes_of_a_slot_model_are_its_most_present_slots_in_its_own_order() -> None:
    found = decomposition([[0, 1, 0, 1], [1, 0, 0, 0], [0.4, 0.2, 0.9, 0.8]])
    expected = torch.tensor([[1, 10, 3, 30, 2], [0, 0, 1, 10, 1], [2, 20, 3, 30, 2]]).float()
    assert torch.equal(codes_for_probe(found), expected)


def test_codes_from_left_to_right() -> None:
    found = decomposition([[1, 0.9, 0.8, 0.1]], background=(0,))
    expected = torch.tensor([[2, 20, 1, 10, 2]]).float()
    assert torch.equal(codes_for_probe(found, order="left-to-right"), expected)
    masks = torch.zeros(1, 4, 4, 4)
    masks[0, 0, :, 0], masks[0, 1, :, 3], masks[0, 2, :, 1], masks[0, 3, :, 2] = 1.0, 1.0, 1.0, 1.0
    unboxed = decomposition([[1, 0.9, 0.8, 0.1]], background=(0,), boxes=None, masks=masks)
    assert torch.equal(codes_for_probe(unboxed, order="left-to-right"), expected)


def test_flat_code_is_taken_whole_and_no_object_is_refused() -> None:
    flat = decomposition([[1.0], [1.0]])
    assert torch.equal(codes_for_probe(flat), torch.tensor([[0.0, 0.0, 1.0]] * 2))
    with pytest.raises(UserError, match="no code"):
        codes_for_probe(decomposition([[1.0]], background=(0,)))


# -- labels -----------------------------------------------------------------------------------------------------------


def test_sum_and_order_of_scenes() -> None:
    scenes = DigitsConfig(source="bundled", counts=(2,)).build().batch("test", range(200))
    found = sum_and_order(scenes)
    label, x, y = (scenes.factors[name][:, 1:].tolist() for name in ("label", "x", "y"))
    for i in range(200):
        (_, _, left), (_, _, right) = sorted(zip(x[i], y[i], label[i], strict=True))
        assert found.sum[i] == left + right
        assert found.ascending[i] == (left <= right)
    assert 0.45 < found.ascending.double().mean() < 0.65, "equal digits count as ascending: 55 %"


@pytest.mark.parametrize("counts", [(1,), (1, 2), (3,)])
def test_other_scenes_have_no_sum_and_order(counts: tuple[int, ...]) -> None:
    scenes = DigitsConfig(source="bundled", counts=counts, image_size=80).build().batch("test", range(8))
    with pytest.raises(UserError, match="exactly two"):
        sum_and_order(scenes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": TRAIN[1][:-1]}, "as many labels"),
        ({"train_labels": TRAIN[1].float()}, "integers"),
        ({"test_labels": TEST[1] - 5}, "classes 0, 1"),
        ({"test_codes": TEST[0][:, :-1]}, "shape"),
        ({"train_codes": TRAIN[0] * float("nan")}, "not finite"),
        ({"train_codes": TRAIN[0].unsqueeze(2)}, "axes"),
        ({"budgets": (601,)}, "600"),
        ({"budgets": (5,)}, "between 10"),
        ({"budgets": ()}, "at least one budget"),
        ({"seeds": 0}, "one seed"),
        ({"head": "mlp"}, "no head 'mlp'"),
        ({"dropout": 1.0}, "share"),
        ({"head": "shared2x256", "objects": 0}, "cannot hold objects=0"),
        ({"head": "shared2x256", "objects": 8}, "cannot hold objects=8"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict, message: str) -> None:
    arguments = {"train_codes": TRAIN[0], "train_labels": TRAIN[1], "test_codes": TEST[0], "test_labels": TEST[1]}
    with pytest.raises(UserError, match=message):
        probe(**{**arguments, "budgets": (50,), "seeds": 1, **changes})


def test_small_images_are_refused() -> None:
    with pytest.raises(UserError, match="too small"):
        probe_images(torch.rand(20, 1, 7, 9), torch.arange(20) % 2, torch.rand(2, 1, 7, 9), torch.arange(2))
