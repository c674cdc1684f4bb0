"""Scores of codes whose value is known: the table of oracle codes, laws, exact enumeration, and what happens at the edges."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier

from objectwise import metrics
from objectwise.core import UserError
from objectwise.metrics.boosting import boosted_classes
from objectwise.metrics.information import (
    bin_ceiling,
    discretised,
    entropy,
    factor_bins,
    information_matrix,
    joint_counts,
    mutual_information,
)
from objectwise.metrics.interventions import _Rows

SIZES = np.array([3, 6, 10, 8, 8])
FEW = {"draws": 0, "nulls": 0}
POINTS = {"train": 1_500, "test": 800, "nulls": 0}

Encoder = Callable[[np.ndarray], np.ndarray]


def rows(number: int = 9_000, seed: int = 0) -> np.ndarray:
    """(number, 5) independent uniform factors: no complete grid."""
    generator = np.random.default_rng(seed)
    return np.stack([generator.integers(0, size, number) for size in SIZES], axis=1)


def grid() -> np.ndarray:
    """(11520, 5) all combinations."""
    return np.stack([axis.ravel() for axis in np.meshgrid(*map(np.arange, SIZES), indexing="ij")], axis=1)


def identity(factors: np.ndarray) -> np.ndarray:
    return np.asarray(2.0 * factors / (SIZES - 1) - 1.0)


def noise(seed: int, width: int = 5) -> Callable[[np.ndarray], np.ndarray]:
    return lambda factors: np.random.default_rng(seed).normal(size=(len(factors), width))


def two_rotated(factors: np.ndarray) -> np.ndarray:
    codes = identity(factors)
    first, second = codes[:, 3].copy(), codes[:, 4].copy()
    codes[:, 3], codes[:, 4] = (first - second) / math.sqrt(2.0), (first + second) / math.sqrt(2.0)
    return codes


CODES: dict[str, Encoder] = {
    "identity": identity,
    "dead": lambda v: np.concatenate([identity(v), 0.001 * noise(1)(v)], axis=1),
    "twice": lambda v: np.repeat(identity(v), 2, axis=1),
    "noisy": lambda v: identity(v) + 0.1 * noise(2)(v),
    "rotated": two_rotated,
    "noise": noise(3),
    "constant": lambda v: np.zeros((len(v), 5)),
}
# BetaVAE'17, BetaVAE'16, FactorVAE, MIG, D, C, I, SAP (R2), SAP (SVC), modularity, explicitness
EXPECTED = {
    "identity": (1.00, 1.00, 1.00, 0.997, 1.00, 1.00, 1.00, 1.00, 0.29, 1.00, 1.00),
    "dead": (1.00, 1.00, 1.00, 0.994, 1.00, 1.00, 1.00, 1.00, 0.29, 0.78, 1.00),
    "twice": (1.00, 1.00, 1.00, 0.000, 1.00, 0.70, 1.00, 0.00, 0.00, 1.00, 1.00),
    "noisy": (1.00, 0.95, 1.00, 0.854, 0.90, 0.90, 0.88, 0.98, 0.31, 1.00, 0.99),
    "rotated": (0.81, 0.82, 0.83, 0.598, 0.83, 0.83, 1.00, 0.60, 0.25, 0.90, 1.00),
    "noise": (0.22, 0.21, 0.21, 0.000, 0.00, 0.00, 0.17, 0.00, 0.00, 0.55, 0.50),
    "constant": (0.19, 0.19, 0.00, 0.000, 0.00, 0.00, 0.17, 0.00, 0.00, 0.00, 0.50),
}


@pytest.mark.parametrize("name", CODES)
def test_oracle_codes_score_what_the_reference_table_says(name: str) -> None:
    factors = rows()
    codes = CODES[name](factors)
    found = (
        metrics.beta_vae_score(codes, factors, **POINTS).value,
        metrics.factor_change_score(CODES[name](grid()), grid(), **POINTS).value,
        metrics.factor_vae_score(codes, factors, **POINTS).value,
        metrics.mig(codes, factors, **FEW).value,
        *(part.value for part in metrics.dci(codes[:3_000], factors[:3_000], trees=50, **FEW)),
        metrics.sap(codes, factors, kind="r2", **FEW).value,
        metrics.sap(codes, factors, **FEW).value,
        modular(name, codes, factors),
        metrics.explicitness(codes, factors, **FEW).value,
    )
    tolerance = 0.055 if name in ("noise", "constant") else 0.035
    assert found == pytest.approx(EXPECTED[name], abs=tolerance)


def modular(name: str, codes: np.ndarray, factors: np.ndarray) -> float:
    """Modularity; of noise, where it is a number drawn anew for every code, the mean over ten."""
    if name != "noise":
        return metrics.modularity(codes, factors, **FEW).value
    part = factors[:6_000]
    return float(np.mean([metrics.modularity(noise(seed)(part), part, **FEW).value for seed in range(10)]))


def test_a_mixture_of_all_factors_is_seen_by_mig_and_dci_and_missed_by_the_others() -> None:
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    factors = rows()
    codes = identity(factors) @ rotation
    assert metrics.beta_vae_score(codes, factors, **POINTS).value > 0.8
    assert metrics.factor_change_score(identity(grid()) @ rotation, grid(), **POINTS).value > 0.95
    assert metrics.explicitness(codes, factors, **FEW).value > 0.95
    assert metrics.mig(codes, factors, **FEW).value < 0.4
    d, c, _ = metrics.dci(codes[:3_000], factors[:3_000], trees=50, **FEW)
    assert max(d.value, c.value) < 0.6


def test_completeness_of_duplicates_is_exact_and_disentanglement_untouched() -> None:
    factors = rows(3_000)
    d, c, _ = metrics.dci(CODES["twice"](factors), factors, trees=50, **FEW)
    assert d.value == pytest.approx(1.0, abs=1e-6)
    assert c.value == pytest.approx(1.0 - math.log(2.0) / math.log(10.0), abs=0.01)


# -- laws ------------------------------------------------------------------------------------------------------------

SCORES: dict[str, Callable[..., metrics.CodeScore]] = {
    "beta_vae": lambda z, v, **k: metrics.beta_vae_score(z, v, train=600, test=400, nulls=k["nulls"], seed=k["seed"]),
    "factor_change": lambda z, v, **k: metrics.factor_change_score(
        z, v, train=600, test=400, nulls=k["nulls"], seed=k["seed"]
    ),
    "factor_vae": lambda z, v, **k: metrics.factor_vae_score(
        z, v, train=600, test=400, nulls=k["nulls"], seed=k["seed"]
    ),
    "mig": metrics.mig,
    "dci": lambda z, v, **k: metrics.dci(z, v, trees=10, **k).disentanglement,
    "sap_svc": metrics.sap,
    "sap_r2": lambda z, v, **k: metrics.sap(z, v, kind="r2", **k),
    "modularity": metrics.modularity,
    "explicitness": metrics.explicitness,
    "irs": metrics.irs,
}


def small_grid() -> np.ndarray:
    return np.stack([axis.ravel() for axis in np.meshgrid(np.arange(3), np.arange(6), np.arange(20))], axis=1)


def blurred(factors: np.ndarray, seed: int = 4) -> np.ndarray:
    """A code that mixes its factors a little, so that no score is at an end of its range."""
    generator = np.random.default_rng(seed)
    half = math.sqrt(0.5)
    mixed = factors / factors.std(axis=0) @ np.array([[1.0, 0.0, 0.0], [0.0, half, half], [0.0, -half, half]])
    return np.asarray(mixed + 0.4 * generator.normal(size=mixed.shape))


@pytest.mark.parametrize("name", SCORES)
def test_order_and_sign_of_the_dimensions_shifts_and_names_of_the_classes_change_nothing(name: str) -> None:
    factors = small_grid()
    codes = blurred(factors)
    settings = {"draws": 0, "nulls": 0, "seed": 1}
    value = SCORES[name](codes, factors, **settings).value
    assert 0.02 < value < 1.0
    near = 0.03 if name in ("beta_vae", "factor_change", "sap_svc", "explicitness", "dci") else 1e-9
    assert SCORES[name](codes[:, [2, 0, 1]], factors, **settings).value == pytest.approx(value, abs=near)
    if name != "mig":  # equal-width bins are half-open: a value on an edge changes sides
        assert SCORES[name](-codes, factors, **settings).value == pytest.approx(value, abs=max(near, 0.02))
    assert SCORES[name](codes + 3.0, factors, **settings).value == pytest.approx(value, abs=max(near, 0.03))
    assert SCORES[name](codes, 5 * factors - 7, **settings).value == pytest.approx(value, abs=1e-9)
    assert SCORES[name](torch.from_numpy(codes), torch.from_numpy(factors), **settings).value == value


@pytest.mark.parametrize("name", SCORES)
def test_a_constant_dimension_changes_modularity_only(name: str) -> None:
    factors = small_grid()
    codes = blurred(factors)
    wider = np.concatenate([codes, np.full((len(codes), 1), 0.3)], axis=1)
    settings = {"draws": 0, "nulls": 0, "seed": 1}
    before, after = (SCORES[name](z, factors, **settings).value for z in (codes, wider))
    if name == "modularity":
        assert after == pytest.approx(0.75 * before)
    else:
        assert after == pytest.approx(before, abs=0.02 if name == "dci" else 1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_permuted_labels_score_what_chance_gives_and_one_seed_gives_one_result(name: str) -> None:
    factors = small_grid()
    codes = blurred(factors)
    draws = 2 if name == "dci" else 10
    first, again = (SCORES[name](codes, factors, draws=draws, nulls=1, seed=2) for _ in range(2))
    assert (first.value, first.interval, first.null) == (again.value, again.interval, again.null)
    chance = {"beta_vae": 1 / 3, "factor_change": 1 / 3, "factor_vae": 1 / 3, "explicitness": 0.5}.get(name, 0.0)
    margin = {"modularity": 1.0, "dci": 0.25, "irs": 0.6}.get(name, 0.13)
    assert first.null == pytest.approx(chance, abs=margin)
    assert first.null < first.value or name == "modularity"
    low, high = first.interval
    assert 0.0 <= low <= first.value <= high <= 1.0
    assert low < high
    assert first.policy["factors"] == ("factor 0", "factor 1", "factor 2")


def test_intervals_narrow_with_more_rows() -> None:
    def width(number: int) -> float:
        factors = rows(number)
        low, high = metrics.mig(CODES["noisy"](factors), factors, draws=60, nulls=0).interval
        return high - low

    assert width(6_000) < 0.7 * width(1_500)


def test_the_interval_holds_the_value_of_new_rows() -> None:
    """Resampling biases informations upwards once more; the interval must be around the value all the same."""
    low, high = metrics.mig(CODES["noisy"](rows(2_000)), rows(2_000), draws=200, nulls=0).interval
    fresh = [metrics.mig(CODES["noisy"](v), v, **FEW).value for v in (rows(2_000, seed) for seed in range(1, 21))]
    assert sum(low <= value <= high for value in fresh) >= 14


def test_scaling_a_dimension_changes_no_score_of_information_or_trees() -> None:
    factors = rows(2_000)
    codes = CODES["noisy"](factors)
    scaled = codes * np.array([1_000.0, 0.001, 1.0, 7.0, 1.0])
    assert metrics.mig(scaled, factors, **FEW).value == pytest.approx(
        metrics.mig(codes, factors, **FEW).value, abs=0.01
    )
    first, second = (metrics.dci(z, factors, trees=10, **FEW)[0].value for z in (codes, scaled))
    assert first == pytest.approx(second, abs=1e-6)
    assert metrics.sap(scaled, factors, kind="r2", **FEW).value == pytest.approx(
        metrics.sap(codes, factors, kind="r2", **FEW).value
    )


# -- entropies -------------------------------------------------------------------------------------------------------


def test_informations_of_a_small_grid_are_those_of_exact_enumeration() -> None:
    """H and I in fractions over all cells of a 4×3 grid, for a code that is one factor, the sum of both, and a constant."""
    factors = np.stack([axis.ravel() for axis in np.meshgrid(np.arange(4), np.arange(3), indexing="ij")], axis=1)
    codes = np.stack([factors[:, 0], factors.sum(axis=1), np.zeros(12, np.int64)], axis=1)

    def share(events: list[tuple[int, ...]]) -> float:
        total = len(events)
        odds = [Fraction(events.count(event), total) for event in set(events)]
        return -sum(float(p) * math.log(p) for p in odds)

    expected = np.array(
        [
            [
                share([(int(z),) for z in codes[:, d]])
                + share([(int(v),) for v in factors[:, k]])
                - share([(int(z), int(v)) for z, v in zip(codes[:, d], factors[:, k], strict=True)])
                for k in range(2)
            ]
            for d in range(3)
        ]
    )
    assert expected[0, 0] == pytest.approx(math.log(4.0))
    for binned in (codes, discretised(codes.astype(np.float64), "unique"), discretised(codes.astype(np.float64), 6)):
        assert information_matrix(binned, factors) == pytest.approx(expected, abs=1e-12)
    assert entropy(np.array([[1, 1], [1, 1]])) == pytest.approx(math.log(4.0))


def test_the_reshape_for_transpose_bug_would_show() -> None:
    """An estimator elsewhere reshapes (n, D) where it must transpose, and gives MIG 0.001 in place of 0.5."""
    factors = rows(4_000)
    codes = CODES["noisy"](factors)
    assert metrics.mig(codes, factors, **FEW).value > 0.8
    wrong = codes.reshape(5, -1).T
    assert metrics.mig(wrong, factors, **FEW).value < 0.05


def test_mutual_information_is_symmetric_and_at_most_the_entropies() -> None:
    generator = np.random.default_rng(5)
    for _ in range(20):
        counts = generator.integers(0, 5, (4, 6))
        counts[0, 0] += 1
        value = mutual_information(counts)
        assert value == pytest.approx(mutual_information(counts.T))
        assert 0.0 <= value <= min(entropy(counts.sum(axis=0)), entropy(counts.sum(axis=1))) + 1e-12


def test_weights_count_rows() -> None:
    generator = np.random.default_rng(6)
    first, second = generator.integers(0, 4, 50), generator.integers(0, 3, 50)
    weights = generator.integers(0, 3, 50)
    repeated = np.repeat(np.arange(50), weights)
    assert joint_counts(first, second, weights, (4, 3)) == pytest.approx(
        joint_counts(first[repeated], second[repeated], None, (4, 3))
    )


def test_ceiling_of_twenty_bins_on_dsprites() -> None:
    sizes = (3, 6, 40, 32, 32)
    factors = np.stack([np.arange(3 * 5 * 32 * 8) % size for size in sizes], axis=1)
    assert bin_ceiling(factors, 20) == pytest.approx([1.0, 1.0, 0.812, 0.850, 0.850], abs=1e-3)
    assert metrics.mig(factors, factors, **FEW).policy["ceiling"] == pytest.approx(0.902, abs=1e-3)
    # The sizes are not coprime, so that these factors tell of each other; independent ones reach the ceiling.
    factors = np.stack([np.random.default_rng(k).integers(0, size, 40_000) for k, size in enumerate(sizes)], axis=1)
    found = metrics.mig(factors, factors, **FEW)
    assert found.value == pytest.approx(0.902, abs=0.01)
    assert metrics.mig(factors, factors, bins="unique", **FEW).value == pytest.approx(1.0, abs=0.02)
    assert metrics.mig(factors[:, 1:], factors[:, 1:], **FEW).value == pytest.approx(0.878, abs=0.01)
    assert metrics.mig(factors, factors, bins=5, **FEW).value < 0.75


def test_factor_bins_share_out_a_range() -> None:
    values = np.array([0.0, 0.49, 0.5, 0.99, 1.0])
    assert factor_bins(values, 2).tolist() == [0, 0, 1, 1, 1]
    assert factor_bins(values, 4, low=-1.0, high=1.0).tolist() == [2, 2, 3, 3, 3]
    assert factor_bins(np.ones(3), 4).tolist() == [0, 0, 0]


# -- boosting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_trees_and_importances_are_those_of_scikit_learn(classes: int) -> None:
    generator = np.random.default_rng(classes)
    train, test = (generator.integers(0, 12, (number, 4)).astype(float) for number in (500, 300))
    labels = (train[:, 0] * 2 + train[:, 1] + generator.normal(0.0, 2.0, 500)) / 36.0 * classes
    labels = labels.astype(np.int64).clip(0, classes - 1)
    found = boosted_classes(train, labels, test, generator=generator, trees=15)
    model = GradientBoostingClassifier(random_state=0, n_estimators=15).fit(train, labels)
    assert found.importance == pytest.approx(model.feature_importances_, abs=1e-9)
    assert (found.predicted == model.predict(test)).mean() > 0.99  # sums that are equal but for rounding


def test_quantile_thresholds_lose_little() -> None:
    generator = np.random.default_rng(8)
    train = generator.normal(size=(1_500, 3))
    labels = np.digitize(train[:, 0], [-1.0, 0.0, 1.0])
    found = boosted_classes(train[:1_000], labels[:1_000], train[1_000:], generator=generator, trees=20, bins=64)
    model = GradientBoostingClassifier(random_state=0, n_estimators=20).fit(train[:1_000], labels[:1_000])
    assert found.importance == pytest.approx(model.feature_importances_, abs=0.02)
    assert (found.predicted == labels[1_000:]).mean() > (model.predict(train[1_000:]) == labels[1_000:]).mean() - 0.02


def test_labels_of_one_class_or_with_gaps() -> None:
    generator = np.random.default_rng(9)
    inputs = generator.normal(size=(60, 2))
    alone = boosted_classes(inputs, np.full(60, 4), inputs, generator=generator, trees=3)
    assert alone.predicted.tolist() == [4] * 60
    assert alone.importance.tolist() == [0.0, 0.0]
    gap = boosted_classes(inputs, 5 * (inputs[:, 1] > 0.0), inputs, generator=generator, trees=3)
    assert (gap.predicted == 5 * (inputs[:, 1] > 0.0)).all()
    assert gap.importance.argmax() == 1


# -- edges -----------------------------------------------------------------------------------------------------------


def test_a_factor_that_never_changes_is_left_out_and_named() -> None:
    factors = rows(1_500)
    codes = CODES["noisy"](factors)
    fixed = factors.copy()
    fixed[:, 1] = 4
    names = ("a", "b", "c", "d", "e")
    found = metrics.mig(codes, fixed, names=names, **FEW)
    assert found.policy["constant"] == ("b",)
    assert list(found.per_factor) == ["a", "c", "d", "e"]
    assert found.value == pytest.approx(metrics.mig(codes, factors[:, [0, 2, 3, 4]], **FEW).value)
    assert metrics.beta_vae_score(codes, fixed, names=names, **POINTS).policy["constant"] == ("b",)


def test_gaps_need_two_dimensions() -> None:
    factors = rows(1_500)
    for score in (metrics.mig, metrics.sap, lambda *a, **k: metrics.sap(*a, kind="r2", **k)):
        assert score(identity(factors)[:, :1], factors, **FEW).value == 0.0


def test_a_dead_dimension_is_no_second_best_to_divide_by() -> None:
    """Zero variance: no NaN anywhere, and the votes of FactorVAE ignore it."""
    factors = rows(1_500)
    codes = np.concatenate([identity(factors), np.zeros((1_500, 2))], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.factor_vae_score(codes, factors, **POINTS)
        assert metrics.irs(codes, factors, **FEW).value == pytest.approx(1.0, abs=0.01)
    assert found.value == 1.0
    assert found.policy["active"] == 5
    assert metrics.factor_vae_score(0.01 * codes, factors, **POINTS).value == 0.0


def test_values_that_occur_once_are_no_interventions() -> None:
    codes = np.random.default_rng(10).normal(size=(400, 3))
    factors = np.stack([np.arange(400), np.arange(400) % 4], axis=1)
    with pytest.raises(UserError, match="every value of factor 'factor 0' occurs once"):
        metrics.factor_vae_score(codes, factors, **POINTS)
    with pytest.raises(UserError, match="no two rows differ in 'factor 1' alone"):
        metrics.factor_change_score(codes, factors, **POINTS)


def test_pairs_differ_in_one_factor_alone_even_without_a_grid() -> None:
    """On a patchy table a code that is the factors themselves is read perfectly: no pair changes two factors."""
    factors = grid()[np.random.default_rng(11).random(len(grid())) < 0.3]
    doubled = np.concatenate([factors, factors[:500]])  # equal rows are no pairs
    assert metrics.factor_change_score(np.eye(5)[0] + identity(doubled), doubled, **POINTS).value > 0.99


def test_votes_and_points_that_train_are_not_scored() -> None:
    """A code of noise so wide that every training point can be learnt by heart knows nothing of new ones."""
    factors = rows(1_000)
    codes = noise(13, 300)(factors)
    points = {"train": 400, "test": 100, "nulls": 0}
    assert metrics.beta_vae_score(codes, factors, pairs=1, **points).value < 0.4
    assert metrics.factor_vae_score(codes, factors, batch=4, **points).value < 0.4
    assert metrics.dci(codes[:, :20], factors[:, 2:3], trees=10, **FEW).informativeness.value < 0.25


def test_votes_do_not_depend_on_the_scale_of_a_dimension() -> None:
    factors = rows(2_000)
    codes = CODES["noisy"](factors)
    scaled = codes * np.array([1.0, 100.0, 3.0, 0.4, 20.0])
    assert metrics.factor_vae_score(scaled, factors, **POINTS).value == pytest.approx(1.0, abs=0.01)


def test_another_row_is_never_the_same_one() -> None:
    key = np.array([4, 4, 7, 7, 7, 9])
    found = _Rows(key)
    assert found.paired.tolist() == [0, 1, 2, 3, 4]
    asked = np.tile(found.paired, (200, 1))
    others = found.others(asked, np.random.default_rng(0))
    assert (others != asked).all()
    assert (key[others] == key[asked]).all()
    assert {tuple(pair) for pair in np.stack([asked[:, 2], others[:, 2]], axis=1)} == {(2, 3), (2, 4)}
    like = found.like(np.array([3]), 100, np.random.default_rng(0))
    assert set(like.ravel().tolist()) == {2, 3, 4}


def test_axes_are_assigned_one_to_one() -> None:
    generator = np.random.default_rng(14)
    values = generator.normal(size=(5_000, 2))
    mixed = values @ np.array([1.0, 0.8]) + 0.1 * generator.normal(size=5_000)
    weak = 0.5 * values[:, 1] + generator.normal(size=5_000)
    found = metrics.axis_alignment(np.stack([np.zeros(5_000), weak, mixed], axis=1), values)
    assert found.dimension.tolist() == [2, 1]  # the mixture follows both factors best, and can stand for one only
    assert found.correlation[0].tolist() == [0.0, 0.0]
    assert found.own == pytest.approx([0.78, 0.45], abs=0.03)
    assert found.other == pytest.approx([0.62, 0.0], abs=0.04)
    assert found.score == pytest.approx(float((found.own - found.other).mean()))
    perfect = metrics.axis_alignment(-values[:, ::-1], values)
    assert perfect.dimension.tolist() == [1, 0]
    assert perfect.score > 0.95
    alone = metrics.axis_alignment(values[:, :1], values)
    assert alone.dimension.tolist() == [0, -1]
    assert alone.own[1] == alone.other[1] == 0.0
    assert metrics.axis_alignment(np.zeros((10, 0)), np.ones((10, 2))).score == 0.0
    with pytest.raises(UserError, match="are needed"):
        metrics.axis_alignment(values[:5], values)


def test_wrong_arrays_are_refused_in_one_sentence() -> None:
    factors = rows(50)
    codes = identity(factors)
    for bad_codes, bad_factors, message in (
        (codes[:40], factors, "at least 2 rows"),
        (codes[:, 0], factors, "at least 2 rows"),
        (codes, factors.astype(float), "integer classes"),
        (np.where(codes > 0.9, np.nan, codes), factors, "not finite"),
        (codes, np.zeros_like(factors), "no factor changes"),
    ):
        for score in (metrics.mig, metrics.dci, metrics.beta_vae_score):
            with pytest.raises(UserError, match=message):
                score(bad_codes, bad_factors)
    with pytest.raises(UserError, match="2 names do not fit 5 factors"):
        metrics.mig(codes, factors, names=("a", "b"))
    with pytest.raises(UserError, match="only one of them changes"):
        metrics.modularity(codes, factors[:, :1])
    with pytest.raises(UserError, match="no SAP of kind"):
        metrics.sap(codes, factors, kind="lasso")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least 2, or 'unique'"):
        metrics.mig(codes, factors, bins=1)


def test_total_correlation_of_a_correlated_pair() -> None:
    generator = np.random.default_rng(12)
    first = generator.normal(size=20_000)
    second = 0.8 * first + 0.6 * generator.normal(size=20_000)
    codes = np.stack([first, 5.0 * second, np.ones_like(first), generator.normal(size=20_000)], axis=1)
    assert metrics.gaussian_total_correlation(codes) == pytest.approx(-0.5 * math.log(1.0 - 0.64), abs=0.02)
    assert metrics.gaussian_total_correlation(np.stack([first, 2.0 * first], axis=1)) == math.inf
    assert metrics.gaussian_total_correlation(codes[:, 2:3]) == 0.0


def test_dead_dimensions_by_divergence_and_by_variance() -> None:
    means = np.zeros((100, 4))
    means[:, 0] = np.linspace(-2.0, 2.0, 100)
    means[:, 3] = np.linspace(-1.0, 1.0, 100)
    stds = np.tile([0.1, 1.0, 0.3, 0.97], (100, 1))
    # The third's posterior never moves but is narrow: it costs nats; the fourth is as wide as the prior.
    assert metrics.dead_dimensions(means, stds).tolist() == [False, True, False, True]
    with pytest.raises(UserError, match="positive standard deviations"):
        metrics.dead_dimensions(means, stds[:, :2])
