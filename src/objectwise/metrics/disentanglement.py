"""How well a code keeps the factors of images apart: scores of plain arrays of codes and factors.

Every function takes codes z (n, D), posterior means unless one asks for samples, and integer factors v (n, K) of the same
images, and gives a :class:`CodeScore`: the value, an interval, what the same code scores when its labels are permuted, and the
matrix behind it. None needs a complete grid of factors. The scores whose definition asks for images with some factors held
fixed are in :mod:`objectwise.metrics.interventions`. Settings are those of google-research/disentanglement_lib unless said.

* MIG: Chen et al. 2018, arXiv:1802.04942, equation 6.
* DCI: Eastwood, Williams: "A Framework for the Quantitative Evaluation of Disentangled Representations", ICLR 2018, section 2.
* SAP: Kumar et al. 2018, arXiv:1711.00848, section 3.
* Modularity and explicitness: Ridgeway, Mozer 2018, arXiv:1802.05312, section 3.
* IRS: Suter et al. 2019, arXiv:1811.00007.

What is done where a definition has nothing to say: factors that never change are left out and named in the policy; a constant
dimension has no information, no importance and no correlation with anything; gaps between the best and the second best
dimension are 0 for a code of one dimension. Names of the factors say which variant of a score it is: a gap over five factors
of dSprites is not one over four.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from scipy.stats import t as student
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import Tensor

from objectwise.core import UserError, seed_for
from objectwise.metrics.boosting import boosted_classes
from objectwise.metrics.information import (
    Bins,
    Table,
    bin_ceiling,
    discretised,
    factor_entropies,
    information_matrix,
)
from objectwise.metrics.resampling import bootstrap_interval

Array = Tensor | np.ndarray

_SPLIT, _DRAWS, _NULL, _FIT = 0, 1, 2, 3
_TRAIN_SHARE = 2.0 / 3.0
_NOTHING = 1e-11
_SPREAD = 1e-9


@dataclass(frozen=True)
class CodeScore:
    """A score of a code.

    Attributes:
        value: the score, usually in [0, 1].
        interval: 95 %; of what, the policy says. NaN where it was not asked for.
        null: the same score with permuted labels, averaged over the permutations: what a code that knows nothing gets from these
            rows. NaN where it was not asked for.
        per_factor: name -> the part of each factor, where the score is a mean over factors.
        matrix: (D, K) what each dimension says about each factor, where the score has such a matrix.
        policy: the settings that produced it, by name.
    """

    value: float
    interval: tuple[float, float]
    null: float
    per_factor: Mapping[str, float] = field(default_factory=dict)
    matrix: np.ndarray | None = None
    policy: Mapping[str, object] = field(default_factory=dict)


class DCIScores(NamedTuple):
    """The three scores of DCI; the importance matrix (D, K) is that of the first two.

    Attributes:
        disentanglement: whether a dimension is important for one factor only.
        completeness: whether one dimension is enough for a factor.
        informativeness: test accuracy, mean over factors.
    """

    disentanglement: CodeScore
    completeness: CodeScore
    informativeness: CodeScore


class _Settled(NamedTuple):
    """What every score is told besides codes and factors."""

    draws: int
    nulls: int
    seed: int

    def generator(self, purpose: int, number: int = 0) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(seed_for(self.seed, purpose, number)))


# -- mutual information ----------------------------------------------------------------------------------------------


def mig(
    codes: Array,
    factors: Array,
    *,
    names: Sequence[str] | None = None,
    bins: Bins = 20,
    draws: int = 200,
    nulls: int = 20,
    seed: int = 0,
) -> CodeScore:
    """Mutual information gap: mean over factors of (I of the best dimension − I of the second best) / H of the factor.

    A code that equals the factors scores 1 only where these have no more values than there are bins; ``policy["ceiling"]`` is
    what it scores here. The matrix is of mutual informations over entropies.

    Args:
        codes: (n, D).
        factors: (n, K) integers; choose the columns to choose the variant.
        names: of the factors.
        bins: of each dimension: equal width between its ends, or "unique" for discrete codes.
        draws: bootstrap resamples of the rows behind the interval: value ± t · their standard deviation.
        nulls: permutations of the labels.
        seed: of both.

    Raises:
        UserError: for arrays that do not fit (:meth:`~objectwise.metrics.information.Table.checked`).
    """
    table = Table.checked(codes, factors, names)
    binned = discretised(table.codes, bins)

    def shares(part: Table, weights: np.ndarray | None) -> np.ndarray:
        return information_matrix(binned, part.factors, weights) / factor_entropies(part.factors, weights)

    matrix = shares(table, None)
    settled = _Settled(draws, nulls, seed)
    interval = _row_interval(float(_gaps(matrix).mean()), lambda w: _gaps(shares(table, w)).mean(), table, settled)
    policy = {"bins": bins, "ceiling": float(bin_ceiling(table.factors, bins).mean())}
    null = _null(lambda part, _: _gaps(shares(part, None)).mean(), table, settled)
    return _scored(table, _gaps(matrix), interval, null, settled, matrix=matrix, policy=policy)


def modularity(
    codes: Array,
    factors: Array,
    *,
    names: Sequence[str] | None = None,
    bins: Bins = 20,
    draws: int = 200,
    nulls: int = 20,
    seed: int = 0,
) -> CodeScore:
    """Modularity: mean over dimensions of 1 − Σ over other factors of I² / ((K − 1) · largest I²).

    A dimension without any information scores 0. That makes it depend on dead dimensions; a dimension of
    pure noise scores about one half, because noise is divided by noise: read ``null``. It does not see duplicates.
    Arguments as of :func:`mig`.

    Raises:
        UserError: for arrays that do not fit, or a single factor that changes.
    """
    table = Table.checked(codes, factors, names)
    count = len(table.names)
    if count < 2:
        raise UserError("modularity compares factors, and only one of them changes")
    binned = discretised(table.codes, bins)

    def per_dimension(part: Table, weights: np.ndarray | None) -> np.ndarray:
        squares = information_matrix(binned, part.factors, weights) ** 2
        best = squares.max(axis=1)
        rest = (squares.sum(axis=1) - best) / ((count - 1) * np.where(best > 0.0, best, 1.0))
        return np.where(best > _SPREAD**2, 1.0 - rest, 0.0)

    settled = _Settled(draws, nulls, seed)
    value = float(per_dimension(table, None).mean())
    interval = _row_interval(value, lambda w: per_dimension(table, w).mean(), table, settled)
    null = _null(lambda part, _: per_dimension(part, None).mean(), table, settled)
    matrix = information_matrix(binned, table.factors)
    return _scored(table, value, interval, null, settled, matrix=matrix, policy={"bins": bins, "unit": "nats"})


# -- predictors ------------------------------------------------------------------------------------------------------


def dci(
    codes: Array,
    factors: Array,
    *,
    names: Sequence[str] | None = None,
    trees: int = 100,
    draws: int = 5,
    nulls: int = 1,
    seed: int = 0,
) -> DCIScores:
    """Disentanglement, completeness and informativeness from the importances of gradient-boosted trees, one model per factor.

    Two thirds of the rows train, one third is scored.

    Args:
        codes: (n, D).
        factors: (n, K) integers; choose the columns to choose the variant.
        names: of the factors.
        trees: of each model, per class, of depth 3 (:func:`~objectwise.metrics.boosting.boosted_classes`).
        draws: trainings on resampled rows behind the intervals of the first two: value ± t · their standard deviation. The third
            has a bootstrap over test rows.
        nulls: permutations of the labels, each a training.
        seed: of everything.

    Raises:
        UserError: for arrays that do not fit.
    """
    table = Table.checked(codes, factors, names)
    settled = _Settled(draws, nulls, seed)
    train, test = _halves(table, settled)
    fit = _boost(train, test, trees, settled.generator(_FIT))
    d, c, i = _disentangled(fit.importance), _complete(fit.importance), float(fit.right.mean())
    resampled = []
    for number in range(draws):
        generator = settled.generator(_DRAWS, number)
        rows = generator.integers(len(train.codes), size=len(train.codes))
        again = _boost(train.rows(rows), test.rows(np.arange(1)), trees, generator)
        resampled.append((_disentangled(again.importance), _complete(again.importance)))
    null: list[tuple[float, float, float]] = []
    for number in range(nulls):
        generator = settled.generator(_NULL, number)
        blind = _boost(train.permuted(generator), test, trees, generator)
        null.append((_disentangled(blind.importance), _complete(blind.importance), float(blind.right.mean())))
    nothing = np.mean(null, axis=0) if null else np.full(3, np.nan)
    spread = np.array(resampled).reshape(draws, 2)
    policy: dict[str, object] = {
        "trees": trees,
        "train": len(train.codes),
        "test": len(test.codes),
        "interval": f"value ± t · standard deviation over {draws} trainings on resampled rows",
    }
    intervals = [_around(value, spread[:, column]) for column, value in enumerate((d, c))]
    intervals.append(_test_interval(fit.right.mean(axis=1), settled))
    inform = {**policy, "interval": "95 % bootstrap over test rows", "score": "accuracy"}
    every = {"matrix": fit.importance}
    return DCIScores(
        _scored(table, d, intervals[0], float(nothing[0]), settled, policy=policy, **every),
        _scored(table, c, intervals[1], float(nothing[1]), settled, policy=policy, **every),
        _scored(table, fit.right.mean(axis=0), intervals[2], float(nothing[2]), settled, policy={**inform, "value": i}),
    )


def sap(
    codes: Array,
    factors: Array,
    *,
    names: Sequence[str] | None = None,
    kind: Literal["svc", "r2"] = "svc",
    draws: int = 200,
    nulls: int = 1,
    seed: int = 0,
) -> CodeScore:
    """Separated attribute predictability: mean over factors of (score of the best single dimension − that of the second best).

    Args:
        codes: (n, D).
        factors: (n, K) integers; choose the columns to choose the variant.
        names: of the factors.
        kind: svc: test accuracy of a linear SVM (C = 0.01, balanced classes), as usually reported; even a perfect code scores
            about 0.3, because one threshold on a line cannot tell the middle classes apart. r2: squared correlation of dimension
            and class number.
        draws: bootstrap resamples (r2: of the rows; svc: of the test rows) behind the interval.
        nulls: permutations of the labels.
        seed: of everything.

    Raises:
        UserError: for arrays that do not fit, or an unknown kind.
    """
    if kind not in ("svc", "r2"):
        raise UserError(f"there is no SAP of kind '{kind}'; there are svc and r2")
    table = Table.checked(codes, factors, names)
    settled = _Settled(draws, nulls, seed)
    if kind == "r2":
        matrix = _squared_correlations(table, None)
        value = float(_gaps(matrix).mean())
        interval = _row_interval(value, lambda w: _gaps(_squared_correlations(table, w)).mean(), table, settled)
        null = _null(lambda part, _: _gaps(_squared_correlations(part, None)).mean(), table, settled)
        return _scored(table, _gaps(matrix), interval, null, settled, matrix=matrix, policy={"kind": kind})
    right = _svc_right(table, settled, settled.seed)
    matrix = right.mean(axis=0)
    value = float(_gaps(matrix, table.moving).mean())

    def redrawn(weights: np.ndarray) -> float:
        return float(_gaps(np.tensordot(weights / weights.sum(), right, axes=1), table.moving).mean())

    interval = _around(value, _weighted(redrawn, len(right), settled))
    null = _null(lambda part, n: _gaps(_svc_right(part, settled, n).mean(axis=0), part.moving).mean(), table, settled)
    policy = {"kind": kind, "C": 0.01, "test": len(right)}
    return _scored(table, _gaps(matrix, table.moving), interval, null, settled, matrix=matrix, policy=policy)


def explicitness(
    codes: Array,
    factors: Array,
    *,
    names: Sequence[str] | None = None,
    draws: int = 50,
    nulls: int = 1,
    seed: int = 0,
) -> CodeScore:
    """Explicitness: mean over factors and their classes of the area under the ROC curve of a logistic regression; chance is ½.

    Codes are standardised by the training rows. Arguments as of :func:`sap`; the interval is over test rows.

    Raises:
        UserError: for arrays that do not fit.
    """
    table = Table.checked(codes, factors, names)
    settled = _Settled(draws, nulls, seed)
    train, test = _halves(table, settled)
    answers = _logistic_answers(train, test)

    def areas(weights: np.ndarray) -> np.ndarray:
        rows = np.repeat(np.arange(len(weights)), weights.astype(np.int64))
        return np.array([_area(answer[rows], test.factors[rows, k]) for k, answer in enumerate(answers)])

    parts = areas(np.ones(len(test.codes)))
    interval = _around(float(parts.mean()), _weighted(lambda w: float(areas(w).mean()), len(test.codes), settled))

    def blind(part: Table, _: int) -> float:
        known, asked = _halves(part, settled)
        found = _logistic_answers(known, asked)
        return float(np.mean([_area(answer, asked.factors[:, k]) for k, answer in enumerate(found)]))

    policy = {"train": len(train.codes), "test": len(test.codes), "chance": 0.5}
    return _scored(table, parts, interval, _null(blind, table, settled), settled, policy=policy)


# -- others ----------------------------------------------------------------------------------------------------------


def irs(
    codes: Array,
    factors: Array,
    *,
    names: Sequence[str] | None = None,
    quantile: float = 0.99,
    draws: int = 50,
    nulls: int = 5,
    seed: int = 0,
) -> CodeScore:
    """Interventional robustness: how little a dimension moves while its best factor keeps its value.

    Per dimension 1 − mean over the factor's values of the quantile of |z − E[z | value]|, over the largest |z − E z|; the best
    factor counts; dimensions are weighted by their largest deviation and constant ones are left out. Arguments as of :func:`mig`.

    Raises:
        UserError: for arrays that do not fit.
    """
    table = Table.checked(codes, factors, names)
    settled = _Settled(draws, nulls, seed)

    def measured(part: Table) -> tuple[float, np.ndarray]:
        span = np.abs(part.codes - part.codes.mean(axis=0)).max(axis=0)
        alive = span > _SPREAD
        robust = np.zeros((part.codes.shape[1], len(part.names)))
        for k, column in enumerate(part.factors.T):
            moved = [
                np.quantile(np.abs(rows - rows.mean(axis=0)), quantile, axis=0)
                for rows in (part.codes[column == value] for value in np.unique(column))
            ]
            robust[alive, k] = np.clip(1.0 - (np.mean(moved, axis=0)[alive] / span[alive]), 0.0, 1.0)
        weight = np.where(alive, span, 0.0)
        total = weight.sum()
        return (float((robust.max(axis=1) * weight).sum() / total) if total > 0.0 else 0.0), robust

    value, matrix = measured(table)
    redrawn = _weighted(
        lambda w: measured(table.rows(np.repeat(np.arange(len(w)), w.astype(np.int64))))[0], len(table.codes), settled
    )
    null = _null(lambda part, _: measured(part)[0], table, settled)
    return _scored(table, value, _around(value, redrawn), null, settled, matrix=matrix, policy={"quantile": quantile})


def gaussian_total_correlation(codes: Array) -> float:
    """Total correlation in nats of a normal distribution with the codes' covariance: ½ (Σ log variances − log det).

    Needs no labels. Dimensions that are constant are left out; infinite where one is a linear function of others.

    Args:
        codes: (n, D).
    """
    z = np.asarray(codes.detach().cpu() if isinstance(codes, Tensor) else codes, dtype=np.float64)
    spread = z.std(axis=0)
    z = z[:, spread > _SPREAD]
    if z.shape[1] < 2:
        return 0.0
    sign, log_determinant = np.linalg.slogdet(np.corrcoef(z.T))
    return float(-0.5 * log_determinant) if sign > 0 and log_determinant > -60.0 else math.inf


class AxisAlignment(NamedTuple):
    """How the dimensions of a code line up with factors, by correlation.

    Attributes:
        correlation: (D, K) absolute correlations; 0 where either is constant.
        dimension: (K,) the dimension assigned to each factor, one to one; −1 where there are fewer dimensions than factors.
        own: (K,) correlation of each factor with its dimension; 0 where it has none.
        other: (K,) largest correlation of that dimension with another factor; 0 where the factor has none.
    """

    correlation: np.ndarray
    dimension: np.ndarray
    own: np.ndarray
    other: np.ndarray

    @property
    def score(self) -> float:
        """Mean over factors of ``own`` − ``other``: 1 if each has a dimension of its own that follows nothing else."""
        return float((self.own - self.other).mean())


def axis_alignment(codes: Array, values: Array) -> AxisAlignment:
    """Give each factor the dimension that follows it, by the assignment with the largest sum of absolute correlations.

    For factors with an order on a line, such as positions; a rotated code correlates with two factors at once.

    Args:
        codes: (n, D), dimensions in use.
        values: (n, K) numbers.
    """
    z, v = (
        np.asarray(part.detach().cpu() if isinstance(part, Tensor) else part, dtype=np.float64)
        for part in (codes, values)
    )
    if z.ndim != 2 or v.ndim != 2 or len(z) != len(v) or v.shape[1] < 1:
        raise UserError(f"codes (n, D) and values (n, K) are needed, not {z.shape} and {v.shape}")
    z, v = z - z.mean(axis=0), v - v.mean(axis=0)
    scale = np.sqrt((z**2).sum(axis=0)[:, None] * (v**2).sum(axis=0))
    correlation = np.abs(np.divide(z.T @ v, scale, out=np.zeros_like(scale), where=scale > _SPREAD))
    dimension = np.full(v.shape[1], -1)
    rows, columns = linear_sum_assignment(-correlation)
    dimension[columns] = rows
    own, other = np.zeros(v.shape[1]), np.zeros(v.shape[1])
    own[columns] = correlation[rows, columns]
    if v.shape[1] > 1:
        other[columns] = [np.delete(correlation[row], column).max() for row, column in zip(rows, columns, strict=True)]
    return AxisAlignment(correlation, dimension, own, other)


def dead_dimensions(means: Array, stds: Array, *, least_kl: float = 0.01, most_variance: float = 0.9) -> np.ndarray:
    """Which dimensions of a normal posterior say nothing: KL below 0.01 nats on average, or mean variance above 0.9.

    Args:
        means: (n, D) posterior means.
        stds: (n, D) posterior standard deviations.
        least_kl: smallest average KL to N(0, 1) in nats of a dimension in use.
        most_variance: largest mean posterior variance of a dimension in use.

    Returns:
        (D,) bool.
    """
    mean, std = (
        np.asarray(part.detach().cpu() if isinstance(part, Tensor) else part, dtype=np.float64)
        for part in (means, stds)
    )
    if mean.shape != std.shape or mean.ndim != 2 or not (std > 0.0).all():
        raise UserError(f"means and positive standard deviations (n, D) are needed, not {mean.shape} and {std.shape}")
    variance = std**2
    kl = 0.5 * (mean**2 + variance - 1.0 - np.log(variance))
    return np.asarray((kl.mean(axis=0) < least_kl) | (variance.mean(axis=0) > most_variance))


# -- what they share -------------------------------------------------------------------------------------------------


def _gaps(matrix: np.ndarray, moving: int | None = None) -> np.ndarray:
    """(K,) best minus second best of the D rows; zero for a code with fewer than two dimensions that change."""
    alive = int((matrix > 0.0).any(axis=1).sum()) if moving is None else moving
    if len(matrix) < 2 or alive < 1:
        return np.zeros(matrix.shape[1])
    ordered = np.sort(matrix, axis=0)
    return np.asarray(ordered[-1] - ordered[-2])


def _scored(
    table: Table,
    parts: np.ndarray | float,
    interval: tuple[float, float],
    null: float,
    settled: _Settled,
    *,
    policy: Mapping[str, object],
    matrix: np.ndarray | None = None,
) -> CodeScore:
    """A score from its parts per factor, or from its value."""
    per_factor = {} if isinstance(parts, float) else dict(zip(table.names, map(float, parts), strict=True))
    value = parts if isinstance(parts, float) else float(parts.mean())
    shared: dict[str, object] = {
        "factors": table.names,
        "rows": len(table.codes),
        "dimensions": table.codes.shape[1],
        "interval": f"value ± t · standard deviation over {settled.draws} resamples",
        "nulls": settled.nulls,
        "seed": settled.seed,
    }
    if table.constant:
        shared["constant"] = table.constant
    return CodeScore(value, interval, null, per_factor, matrix, {**shared, **policy})


def _around(value: float, draws: np.ndarray | Sequence[float]) -> tuple[float, float]:
    """Value ± t · standard deviation of resampled values, kept inside [0, 1].

    Not their quantiles: resampling repeats rows, which biases plug-in informations upwards a second time.
    """
    if len(draws) < 2:
        return math.nan, math.nan
    reach = float(student.ppf(0.975, len(draws) - 1) * np.std(draws, ddof=1))
    return max(0.0, value - reach), min(1.0, value + reach)


def _weighted(measure: Callable[[np.ndarray], float], rows: int, settled: _Settled) -> np.ndarray:
    """(draws,) the measure under bootstrap weights of the rows."""
    generator = settled.generator(_DRAWS)
    even = np.full(rows, 1.0 / rows)
    return np.array([measure(generator.multinomial(rows, even).astype(np.float64)) for _ in range(settled.draws)])


def _row_interval(
    value: float, measure: Callable[[np.ndarray], Any], table: Table, settled: _Settled
) -> tuple[float, float]:
    return _around(value, _weighted(lambda w: float(measure(w)), len(table.codes), settled))


def _null(measure: Callable[[Table, int], Any], table: Table, settled: _Settled) -> float:
    """Mean of the measure over permutations of the labels; NaN for none."""
    if settled.nulls < 1:
        return math.nan
    found = [
        float(measure(table.permuted(settled.generator(_NULL, number)), number)) for number in range(settled.nulls)
    ]
    return float(np.mean(found))


def _halves(table: Table, settled: _Settled) -> tuple[Table, Table]:
    """Two thirds of the rows to train on, and the others."""
    order = settled.generator(_SPLIT).permutation(len(table.codes))
    middle = round(_TRAIN_SHARE * len(order))
    return table.rows(order[:middle]), table.rows(order[middle:])


def _test_interval(right: np.ndarray, settled: _Settled) -> tuple[float, float]:
    """Percentile bootstrap of a mean over test rows."""
    return bootstrap_interval(right, generator=torch.Generator().manual_seed(seed_for(settled.seed, _DRAWS)))


class _Fit(NamedTuple):
    """Importances (D, K), each column summing to 1 (or 0), and which test rows (m, K) were right."""

    importance: np.ndarray
    right: np.ndarray


def _boost(train: Table, test: Table, trees: int, generator: np.random.Generator) -> _Fit:
    columns, right = [], []
    for k in range(len(train.names)):
        found = boosted_classes(train.codes, train.factors[:, k], test.codes, generator=generator, trees=trees)
        columns.append(found.importance)
        right.append(found.predicted == test.factors[:, k])
    return _Fit(np.stack(columns, axis=1), np.stack(right, axis=1))


def _disentangled(importance: np.ndarray) -> float:
    """Σ over dimensions of their share of all importance times 1 − entropy (base K) over factors."""
    if importance.shape[1] < 2:
        return math.nan
    total = importance.sum()
    if total <= 0.0:
        return 0.0
    return float((_purity(importance) * importance.sum(axis=1) / total).sum())


def _complete(importance: np.ndarray) -> float:
    """Σ over factors of their share of all importance times 1 − entropy (base D) over dimensions."""
    if importance.shape[0] < 2:
        return math.nan
    total = importance.sum()
    if total <= 0.0:
        return 0.0
    return float((_purity(importance.T) * importance.sum(axis=0) / total).sum())


def _purity(rows: np.ndarray) -> np.ndarray:
    """1 − entropy of each normalised row, in units of the largest possible one."""
    share = rows + _NOTHING
    share = share / share.sum(axis=1, keepdims=True)
    return np.asarray(1.0 + (share * np.log(share)).sum(axis=1) / math.log(rows.shape[1]))


def _squared_correlations(table: Table, weights: np.ndarray | None) -> np.ndarray:
    """(D, K) squared correlations of dimensions and class numbers; 0 where either is constant."""
    share = np.full(len(table.codes), 1.0) if weights is None else weights
    share = (share / share.sum())[:, None]
    z = table.codes - (share * table.codes).sum(axis=0)
    v = table.factors - (share * table.factors).sum(axis=0)
    cross = (share * z).T @ v
    scale = (share * z**2).sum(axis=0)[:, None] * (share * v**2).sum(axis=0)
    return np.asarray(np.divide(cross**2, scale, out=np.zeros_like(cross), where=scale > _SPREAD**2))


def _svc_right(table: Table, settled: _Settled, seed: int) -> np.ndarray:
    """(m, D, K) which test rows a linear SVM on one dimension gets right; never for a constant dimension."""
    train, test = _halves(table, settled)
    right = np.zeros((len(test.codes), table.codes.shape[1], len(table.names)))
    # LinearSVC shrinks its intercept too: without this a shift of the code would matter.
    known, asked = (part.codes - train.codes.mean(axis=0) for part in (train, test))
    for d in np.flatnonzero(np.ptp(train.codes, axis=0) > _SPREAD):
        for k in range(len(table.names)):
            with _unconverged():
                model = LinearSVC(C=0.01, class_weight="balanced", random_state=seed_for(seed, _FIT) % 2**32)
                model.fit(known[:, d : d + 1], train.factors[:, k])
            right[:, d, k] = model.predict(asked[:, d : d + 1]) == test.factors[:, k]
    return right


def _logistic_answers(train: Table, test: Table) -> list[np.ndarray]:
    """Per factor (m, classes) probabilities of the test rows."""
    mean, spread = train.codes.mean(axis=0), train.codes.std(axis=0)
    spread = np.where(spread > _SPREAD, spread, 1.0)
    known, asked = (train.codes - mean) / spread, (test.codes - mean) / spread
    answers = []
    for k, classes in enumerate(table_values(train, test)):
        model = LogisticRegression(max_iter=200)
        with _unconverged():
            model.fit(known, train.factors[:, k])
        chance = np.zeros((len(asked), classes))
        chance[:, model.classes_] = model.predict_proba(asked)
        answers.append(chance)
    return answers


def table_values(*parts: Table) -> np.ndarray:
    """(K,) number of classes in all parts together."""
    return np.max([part.values for part in parts], axis=0)


def _area(chance: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the classes among the rows of the area under the one-against-rest ROC curve; ties count half."""
    areas = []
    for label in np.unique(truth):
        positive = truth == label
        number = int(positive.sum())
        if number < len(truth):
            ranks = rankdata(chance[:, label])[positive].sum()
            areas.append((ranks - number * (number + 1) / 2.0) / (number * (len(truth) - number)))
    return float(np.mean(areas)) if areas else 0.5


@contextmanager
def _unconverged() -> Iterator[None]:
    """Stopping at the limit of iterations is as good as converging: the score is about the code, not the classifier."""
    with catch_warnings():
        simplefilter("ignore", ConvergenceWarning)
        yield
