"""Scores of codes under interventions on factors: images that share a factor, or differ in one alone.

They index a table of codes (n, D) and integer factors (n, K) that was encoded once, instead of rendering anew: the next image is
another row of the table that has the wanted factors. Any table will do for scores that hold one factor fixed; the
changed-factor score needs rows that differ in one factor alone, such as a grid.

* :func:`beta_vae_score`: Higgins et al. 2017 (ICLR), section 3: a factor is held *fixed*.
* :func:`factor_change_score`: Higgins et al. 2016, arXiv:1606.05579: a factor alone *changes*.
* :func:`factor_vae_score`: Kim, Mnih 2018, arXiv:1802.05983, section 4.

Settings are those of google-research/disentanglement_lib where it has them. All stay high for codes that mix factors by a
rotation; read them beside the mutual information gap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from objectwise.core import UserError, seed_for
from objectwise.metrics.disentanglement import Array, CodeScore, _Settled, _unconverged
from objectwise.metrics.information import Table
from objectwise.metrics.resampling import bootstrap_interval

_POINTS, _NULL, _BOOTSTRAP = 10, 11, 12
_CHUNK = 1 << 21


def beta_vae_score(
    codes: Array,
    factors: Array,
    *,
    names: Sequence[str] | None = None,
    pairs: int = 64,
    train: int = 10_000,
    test: int = 5_000,
    nulls: int = 1,
    seed: int = 0,
) -> CodeScore:
    """The β-VAE score of 2017: which factor do two images *share*? Accuracy of a linear classifier.

    Each point: a factor is drawn, then ``pairs`` pairs of rows that share its value and are otherwise independent; the mean of
    |z₁ − z₂| over them goes to a logistic regression.

    Args:
        codes: (n, D).
        factors: (n, K) integers; choose the columns to choose the variant.
        names: of the factors.
        pairs: L, pairs behind a point.
        train: points that train the classifier.
        test: points that are scored; the interval is a bootstrap over them.
        nulls: permutations of the labels.
        seed: of everything.

    Raises:
        UserError: for arrays that do not fit.
    """
    table = Table.checked(codes, factors, names)
    shared = [_Rows(column) for column in table.factors.T]

    def points(part: Table, groups: list[_Rows], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        labels = generator.integers(len(groups), size=train + test)
        features = np.empty((len(labels), part.codes.shape[1]))
        for k, rows in enumerate(groups):
            places = np.flatnonzero(labels == k)
            for some in _chunks(places, pairs * part.codes.shape[1]):
                first = generator.integers(len(part.codes), size=(len(some), pairs))
                features[some] = np.abs(part.codes[first] - part.codes[rows.others(first, generator)]).mean(axis=1)
        return features, labels

    settled = _Settled(1_000, nulls, seed)
    found = _classified(*points(table, shared, settled.generator(_POINTS)), train)
    null = _nulls(
        lambda part, g: _classified(*points(part, [_Rows(c) for c in part.factors.T], g), train).mean(), table, settled
    )
    policy: dict[str, object] = {"held": "one factor fixed", "pairs": pairs, "train": train, "test": test}
    return _answered(table, found, null, settled, policy)


def factor_change_score(
    codes: Array,
    factors: Array,
    *,
    names: Sequence[str] | None = None,
    pairs: int = 1,
    train: int = 10_000,
    test: int = 5_000,
    nulls: int = 1,
    seed: int = 0,
) -> CodeScore:
    """The score of 2016: in which factor alone do two images *differ*? Accuracy of a linear classifier on |z₁ − z₂|.

    Codes may be anything, raw pixels as well. Rows with equal factors count once. Arguments as of :func:`beta_vae_score`.

    Raises:
        UserError: for arrays that do not fit, or a table in which no two rows differ in some factor alone.
    """
    table = Table.checked(codes, factors, names)
    once = np.unique(table.factors, axis=0, return_index=True)[1]
    table = table.rows(np.sort(once))
    groups = [_Rows(_others_joined(table.factors, k)) for k in range(len(table.names))]
    for name, rows in zip(table.names, groups, strict=True):
        if len(rows.paired) == 0:
            raise UserError(f"no two rows differ in '{name}' alone; encode images of a grid of factors")
    settled = _Settled(1_000, nulls, seed)

    def points(part: Table, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        labels = generator.integers(len(groups), size=train + test)
        features = np.empty((len(labels), part.codes.shape[1]), part.codes.dtype)
        for k, rows in enumerate(groups):
            places = np.flatnonzero(labels == k)
            for some in _chunks(places, pairs * part.codes.shape[1]):
                first = rows.paired[generator.integers(len(rows.paired), size=(len(some), pairs))]
                features[some] = np.abs(part.codes[first] - part.codes[rows.others(first, generator)]).mean(axis=1)
        return features, labels

    def blind(part: Table, generator: np.random.Generator) -> float:
        # Factors stay a set of unique rows when they are permuted; the pairs are the same, of other codes.
        moved = replace(part, codes=part.codes[generator.permutation(len(part.codes))])
        return float(_classified(*points(moved, generator), train).mean())

    found = _classified(*points(table, settled.generator(_POINTS)), train)
    null = math.nan
    if nulls:
        null = float(np.mean([blind(table, settled.generator(_NULL, number)) for number in range(nulls)]))
    policy: dict[str, object] = {"held": "all factors but one fixed", "pairs": pairs, "train": train, "test": test}
    return _answered(table, found, null, settled, policy)


def factor_vae_score(
    codes: Array,
    factors: Array,
    *,
    names: Sequence[str] | None = None,
    batch: int = 64,
    train: int = 10_000,
    test: int = 5_000,
    least_std: float = 0.05,
    nulls: int = 1,
    seed: int = 0,
) -> CodeScore:
    """The FactorVAE score: which factor is held fixed, by the dimension that varies least? Accuracy of a majority vote.

    Each vote: rows that share a value of one factor; the dimension with the smallest variance among them, relative to that over
    the whole table. Dimensions with a standard deviation below ``least_std`` do not vote; if none is left the score is 0.

    Args:
        codes: (n, D).
        factors: (n, K) integers; choose the columns to choose the variant.
        names: of the factors.
        batch: L, rows behind a vote, drawn with replacement.
        train: votes that tell which factor a dimension stands for.
        test: votes that are scored; the interval is a bootstrap over them.
        least_std: smallest standard deviation of a dimension that votes.
        nulls: permutations of the labels.
        seed: of everything.

    Raises:
        UserError: for arrays that do not fit, or a factor whose values all occur once.
    """
    table = Table.checked(codes, factors, names)
    active = table.codes.std(axis=0) >= least_std
    settled = _Settled(1_000, nulls, seed)
    policy: dict[str, object] = {
        "batch": batch,
        "train": train,
        "test": test,
        "least_std": least_std,
        "active": int(active.sum()),
        "chance": 1.0 / len(table.names),
    }
    if not active.any():
        return _answered(table, np.zeros(test), 0.0 if nulls else math.nan, settled, policy)
    for name, column in zip(table.names, table.factors.T, strict=True):
        if np.bincount(column).max() < 2:
            raise UserError(f"every value of factor '{name}' occurs once: no two images share it")

    def votes(part: Table, generator: np.random.Generator) -> np.ndarray:
        z = part.codes[:, active] / part.codes[:, active].std(axis=0)
        labels = generator.integers(len(part.names), size=train + test)
        winners = np.empty(len(labels), np.int64)
        for k, column in enumerate(part.factors.T):
            rows = _Rows(column)
            places = np.flatnonzero(labels == k)
            for some in _chunks(places, batch * z.shape[1]):
                first = rows.paired[generator.integers(len(rows.paired), size=len(some))]
                winners[some] = z[rows.like(first, batch, generator)].var(axis=1).argmin(axis=1)
        counted = np.zeros((z.shape[1], len(part.names)), np.int64)
        np.add.at(counted, (winners[:train], labels[:train]), 1)
        return np.asarray(counted.argmax(axis=1)[winners[train:]] == labels[train:])

    found = votes(table, settled.generator(_POINTS))
    null = _nulls(lambda part, generator: votes(part, generator).mean(), table, settled)
    return _answered(table, found, null, settled, policy)


# -- rows that agree -------------------------------------------------------------------------------------------------


class _Rows:
    """Rows of a table by the value of a key.

    Attributes:
        order: (n,) rows sorted by key.
        place: (n,) where each row is in ``order``.
        start: (n,) where the rows with the same key begin.
        count: (n,) how many there are.
        paired: rows whose key others have too.
    """

    def __init__(self, key: np.ndarray) -> None:
        _, label, number = np.unique(key, return_inverse=True, return_counts=True)
        self.order = np.argsort(label, kind="stable")
        self.place = np.empty(len(key), np.int64)
        self.place[self.order] = np.arange(len(key))
        self.start = (np.cumsum(number) - number)[label]
        self.count = number[label]
        self.paired = np.flatnonzero(self.count > 1)

    def others(self, rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Another row with the same key for each of some rows; a row without any is its own partner."""
        step = 1 + (generator.random(rows.shape) * (self.count[rows] - 1)).astype(np.int64)
        offset = (self.place[rows] - self.start[rows] + step) % self.count[rows]
        return np.asarray(self.order[self.start[rows] + offset])

    def like(self, rows: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
        """(len(rows), size) rows with the same key, drawn with replacement."""
        draws = generator.random((len(rows), size))
        offset = (draws * self.count[rows][:, None]).astype(np.int64)
        return np.asarray(self.order[self.start[rows][:, None] + offset])


def _others_joined(factors: np.ndarray, k: int) -> np.ndarray:
    """(n,) one class per combination of all factors but the k-th."""
    rest = np.delete(factors, k, axis=1)
    joined = np.zeros(len(factors), np.int64)
    for column in rest.T:  # numbered anew each time, so that many factors do not overflow
        joined = np.unique(joined * (int(column.max()) + 1) + column, return_inverse=True)[1]
    return joined


def _chunks(places: np.ndarray, width: int) -> list[np.ndarray]:
    """Places in parts whose arrays stay small."""
    return np.array_split(places, max(1, -(-len(places) * width // _CHUNK)))


def _classified(features: np.ndarray, labels: np.ndarray, train: int) -> np.ndarray:
    """(test,) bool: which points after the first ``train`` a logistic regression on those gets right."""
    model = LogisticRegression(max_iter=300)
    with _unconverged():
        model.fit(features[:train], labels[:train])
    return np.asarray(model.predict(features[train:]) == labels[train:])


def _nulls(measure, table: Table, settled: _Settled) -> float:  # type: ignore[no-untyped-def]
    """Mean of a measure of (table with permuted labels, generator); NaN for none."""
    found = []
    for number in range(settled.nulls):
        generator = settled.generator(_NULL, number)
        found.append(float(measure(table.permuted(generator), generator)))
    return float(np.mean(found)) if found else math.nan


def _answered(table: Table, right: np.ndarray, null: float, settled: _Settled, policy: dict[str, object]) -> CodeScore:
    generator = torch.Generator().manual_seed(seed_for(settled.seed, _BOOTSTRAP))
    shared = {
        "factors": table.names,
        "rows": len(table.codes),
        "dimensions": table.codes.shape[1],
        "interval": "95 % bootstrap over test points",
        "nulls": settled.nulls,
        "seed": settled.seed,
    }
    if table.constant:
        shared["constant"] = table.constant
    interval = bootstrap_interval(right.astype(np.float64), generator=generator, draws=settled.draws)
    return CodeScore(float(right.mean()), interval, null, policy={**shared, **policy})
