"""The disentanglement scores of a split: ``evaluate --metrics disentanglement``, and the same on plain arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from objectwise.core import Batch, Decomposition, FactorSpec, UserError, seed_for
from objectwise.metrics.disentanglement import (
    CodeScore,
    dci,
    dead_dimensions,
    explicitness,
    gaussian_total_correlation,
    irs,
    mig,
    modularity,
    sap,
)
from objectwise.metrics.groups import GroupScores, GroupSettings, ScoreRow
from objectwise.metrics.information import factor_bins
from objectwise.metrics.interventions import beta_vae_score, factor_change_score, factor_vae_score

MOST_VALUES = 64
"""Factors with more values than this are numbers, and are put into bins."""
FACTOR_BINS = 20
"""As many bins, of equal width."""

_LEAST_ROWS = 300
_SAMPLES = 20
_COUNTED = {3: "three", 4: "four", 5: "five", 6: "six"}


def factor_classes(values: Mapping[str, np.ndarray], specs: Mapping[str, FactorSpec] | None = None) -> np.ndarray:
    """Factors as integer classes: 20 equal bins where there are more than 64 different numbers.

    Args:
        values: name -> (n,) numbers or classes.
        specs: name -> range of a numerical factor, which the bins share out; without one, that of the values.

    Returns:
        (n, K) int64.
    """
    columns = []
    for name, column in values.items():
        distinct, classes = np.unique(column, return_inverse=True)
        if len(distinct) > MOST_VALUES and not np.issubdtype(column.dtype, np.integer):
            spec = (specs or {}).get(name)
            ends = (None, None) if spec is None else (spec.low, spec.high)
            classes = factor_bins(column, FACTOR_BINS, *ends)
        columns.append(classes)
    return np.stack(columns, axis=1).astype(np.int64)


def object_factors(batch: Batch) -> dict[str, np.ndarray]:
    """The factors of a batch's objects as one column each: name -> (B,).

    With several objects, these are put in the order of their factors ("first x", "second x", ... by x, then y), because a code of
    the whole image cannot know which of two equal objects is called the first.

    Raises:
        UserError: where there are no factors, or the number of objects changes.
    """
    if not batch.factors:
        raise UserError("the data have no factors, which the metrics 'disentanglement' compare codes with")
    present = batch.object_present
    entities = next(iter(batch.factors.values())).shape[1]
    objects = [entity for entity in range(entities) if entity not in batch.background_ids]
    if present is not None and not bool(present[:, objects].all()):
        raise UserError(
            "the metrics 'disentanglement' need images with as many objects each; these data change the number"
        )
    columns = {name: values[:, objects].numpy() for name, values in batch.factors.items() if values.ndim == 2}
    if not columns:
        raise UserError(
            "the data have no factor that is a single number, which the metrics 'disentanglement' compare with"
        )
    if len(objects) == 1:
        return {name: values[:, 0] for name, values in columns.items()}
    order = np.lexsort([values for values in reversed(list(columns.values()))], axis=1)
    ordered = {name: np.take_along_axis(values, order, axis=1) for name, values in columns.items()}
    words = ("first", "second", "third", "fourth")
    named = [words[place] if place < len(words) else f"{place + 1}th" for place in range(len(objects))]
    return {f"{word} {name}": values[:, place] for place, word in enumerate(named) for name, values in ordered.items()}


def disentanglement_scores(
    codes: Tensor | np.ndarray,
    factors: Tensor | np.ndarray,
    names: Sequence[str],
    *,
    stds: Tensor | np.ndarray | None = None,
    train: int = 10_000,
    test: int = 5_000,
    trees: int = 100,
    seed: int = 0,
) -> dict[str, CodeScore]:
    """All scores of a code, from one table.

    Args:
        codes: (n, D) posterior means.
        factors: (n, K) integers.
        names: of the factors; with one called "shape" the variants without it are scored besides.
        stds: (n, D) posterior standard deviations, for the scores of sampled codes and of the dimensions in use.
        train: points or votes that the scores under interventions train on.
        test: points or votes that they score.
        trees: per class, of DCI.
        seed: of everything.

    Returns:
        label -> score. Labels name what is unusual: ``mig``, ``mig_four_factors_without_shape``, ``mig_sampled_codes``, ...
        The changed-factor score is left out if the table has no pairs for it, modularity if only one factor changes.

    Raises:
        UserError: for arrays that do not fit.
    """
    z, v = (np.asarray(part.detach().cpu() if isinstance(part, Tensor) else part) for part in (codes, factors))
    given: dict[str, Any] = {"names": tuple(names), "seed": seed}
    points: dict[str, Any] = {"train": train, "test": test}
    found = {"beta_vae_2017": beta_vae_score(z, v, **given, **points)}
    with suppress(UserError):  # where no two rows differ in some factor alone
        found["beta_vae_2016"] = factor_change_score(z, v, **given, **points)
    found["factor_vae"] = factor_vae_score(z, v, **given, **points)
    found["mig"] = mig(z, v, **given)
    found |= dict(zip(_DCI, dci(z, v, trees=trees, **given), strict=True))
    found["sap"] = sap(z, v, **given)
    found["sap_r2"] = sap(z, v, kind="r2", **given)
    if v.shape[1] > 1:
        found["modularity"] = modularity(z, v, **given)
    found["explicitness"] = explicitness(z, v, **given)
    found["irs"] = irs(z, v, **given)
    if "shape" in names and v.shape[1] > 2:
        kept = [k for k, name in enumerate(names) if name != "shape"]
        label = f"{_COUNTED.get(len(kept), len(kept))}_factors_without_shape"
        fewer: dict[str, Any] = {"names": tuple(names[k] for k in kept), "seed": seed}
        found[f"beta_vae_2017_{label}"] = beta_vae_score(z, v[:, kept], **fewer, **points)
        found[f"mig_{label}"] = mig(z, v[:, kept], **fewer)
        found[f"sap_{label}"] = sap(z, v[:, kept], **fewer)
    if stds is not None:
        spread = np.asarray(stds.detach().cpu() if isinstance(stds, Tensor) else stds)
        noise = np.random.Generator(np.random.PCG64(seed_for(seed, _SAMPLES))).standard_normal(z.shape)
        found["mig_sampled_codes"] = mig(z + spread * noise, v, **given)
        used = ~dead_dimensions(z, spread)
        if used.any() and not used.all() and v.shape[1] > 1:
            found["modularity_dimensions_in_use"] = modularity(z[:, used], v, **given)
    return found


_DCI = ("dci_disentanglement", "dci_completeness", "dci_informativeness")


class DisentanglementGroup:
    """Whether the numbers of one code for the image mean one thing each; see :mod:`objectwise.metrics.disentanglement`.

    Every image is encoded once; all scores index that table, whose arrays come with the scores. Rows are images, intervals as
    each row's policy says, and notes give what the same code scores with permuted labels.
    """

    def __init__(self, settings: GroupSettings) -> None:
        self.settings = settings
        self.means: list[Tensor] = []
        self.stds: list[Tensor] = []
        self.factors: list[dict[str, np.ndarray]] = []
        self.specs: Mapping[str, FactorSpec] = {}

    def add(self, batch: Batch, out: Decomposition, masks: Mapping[str, Tensor]) -> None:
        """See :class:`~objectwise.metrics.groups.MetricGroup`."""
        mean = out.slots if out.posterior is None else out.posterior.mean
        if mean.shape[1] != 1:
            raise UserError(
                f"the metrics 'disentanglement' are of one code per image, but the model has {mean.shape[1]} slots; see "
                "'properties' for what slots know"
            )
        self.factors.append(object_factors(batch))
        self.specs = batch.factor_specs
        self.means.append(mean[:, 0].float())
        if out.posterior is not None:
            self.stds.append(out.posterior.std[:, 0].float())

    def scores(self) -> GroupScores:
        """See :class:`~objectwise.metrics.groups.MetricGroup`."""
        means = torch.cat(self.means).numpy()
        stds = torch.cat(self.stds).numpy() if self.stds else None
        if len(means) < _LEAST_ROWS:
            raise UserError(f"the metrics 'disentanglement' need at least {_LEAST_ROWS} images, not {len(means)}")
        values = {name: np.concatenate([part[name] for part in self.factors]) for name in self.factors[0]}
        classes = factor_classes(values, self.specs)
        found = disentanglement_scores(means, classes, tuple(values), stds=stds, seed=self.settings.seed)
        rows = {label: _row(score) for label, score in found.items()}
        rows["total_correlation"] = ScoreRow(
            gaussian_total_correlation(means),
            len(means),
            note="nats, of a normal distribution with the codes' covariance",
        )
        policy: dict[str, object] = {"codes": "posterior means", "factors": tuple(values), "seed": self.settings.seed}
        binned = [name for name, column in values.items() if len(np.unique(column)) > MOST_VALUES]
        if binned:
            policy["binned"] = {"factors": binned, "bins": FACTOR_BINS}
        arrays = {"means": means, "factors": classes, "names": np.array(list(values))}
        arrays |= {f"factor {name}": column for name, column in values.items()}
        advice = []
        if stds is not None:
            dead = dead_dimensions(means, stds)
            arrays["stds"] = stds
            rows["dimensions_in_use"] = ScoreRow(
                float((~dead).sum()),
                len(means),
                note=f"of {len(dead)}; KL at least 0.01 nats, mean variance at most 0.9",
            )
            policy["dead_dimensions"] = np.flatnonzero(dead).tolist()
            if dead.sum() >= len(dead) - 1:
                advice.append("fewer than two latents are in use: beta is too large, or training too short")
        arrays |= {f"matrix {label}": s.matrix for label, s in found.items() if s.matrix is not None}
        return GroupScores({"codes": rows}, tuple(advice), policy, arrays)


def _row(score: CodeScore) -> ScoreRow:
    policy = {**score.policy, "null": score.null}
    if score.per_factor:
        policy["per_factor"] = dict(score.per_factor)
    notes = [] if math.isnan(score.null) else [f"permuted labels {score.null:.3f}"]
    if "ceiling" in score.policy:
        notes.append(f"at most {score.policy['ceiling']:.3f} here")
    if "constant" in score.policy:
        notes.append("constant: " + ", ".join(map(str, score.policy["constant"])))  # type: ignore[call-overload]
    interval = None if math.isnan(score.interval[0]) else score.interval
    return ScoreRow(score.value, int(str(score.policy["rows"])), 0, interval, policy=policy, note="; ".join(notes))
