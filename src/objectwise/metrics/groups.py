"""Groups of scores for a whole split: what ``evaluate --metrics NAME`` computes.

A group is fed batch after batch and asked for its rows at the end. Adding one: a class that keeps :class:`MetricGroup`, and its
line in :data:`METRIC_GROUPS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from objectwise.core import Batch, Decomposition, FactorSpec, MetricResult, UserError
from objectwise.core.imports import from_table
from objectwise.metrics.diagnosis import DETECTORS, Detector, Scene
from objectwise.metrics.overlap import (
    mbo_i,
    miou_fg,
    miou_fg_matched_with_bg,
    miou_gt,
    miou_pairs,
    msc,
    recovery_rate,
    sc,
    sc_fg,
)
from objectwise.metrics.panoptic import panoptic_quality
from objectwise.metrics.properties import (
    Head,
    Matching,
    PropertyData,
    PropertyScore,
    PropertyScores,
    predict_properties,
    property_data,
)
from objectwise.metrics.reconstruction import mse
from objectwise.metrics.resampling import bootstrap_interval
from objectwise.metrics.segmentation import (
    Degenerate,
    adjusted_rand_index,
    degenerate_advice,
    foreground_ari,
    segment_labels,
)

METRIC_GROUPS: dict[str, str] = {
    "segmentation": "objectwise.metrics.groups:SegmentationGroup",
    "diagnosis": "objectwise.metrics.groups:DiagnosisGroup",
    "properties": "objectwise.metrics.groups:PropertiesGroup",
    "disentanglement": "objectwise.metrics.disentanglement_group:DisentanglementGroup",
    "poses": "objectwise.metrics.poses_group:PosesGroup",
}
"""Name -> class."""


@dataclass(frozen=True)
class GroupSettings:
    """What a user may choose about groups.

    Attributes:
        degenerate: what the adjusted Rand indices do with images of fewer than two segments.
        draws: resamples behind each interval.
        seed: of the resamples and of everything else that is drawn.
        thresholds: detector -> threshold in place of its own.
    """

    degenerate: Degenerate = "skip"
    draws: int = 1_000
    seed: int = 0
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def generator(self) -> torch.Generator:
        """A fresh generator of the seed."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class CountScore:
    """A score over the images with one number of objects.

    Attributes:
        value: their mean; NaN if none was scored.
        interval: 95 % bootstrap interval.
        n_scored: how many images the mean is over.
    """

    value: float
    interval: tuple[float, float]
    n_scored: int


@dataclass(frozen=True)
class ScoreRow:
    """One score of a group.

    Attributes:
        value: NaN if nothing was scored.
        n_scored: how many images (of property prediction: objects) it is over.
        n_skipped: how many were left out by the policy.
        interval: 95 % bootstrap interval over images, where it is a mean over images.
        by_count: number of objects -> the score over images with as many; empty where not broken down.
        policy: the settings that produced it.
        threshold: of a detector.
        advice: one sentence, where it fired.
        note: what people must know to read the number, e.g. its kind and unit.
    """

    value: float
    n_scored: int
    n_skipped: int = 0
    interval: tuple[float, float] | None = None
    by_count: Mapping[int, CountScore] = field(default_factory=dict)
    policy: Mapping[str, object] = field(default_factory=dict)
    threshold: float | None = None
    advice: str | None = None
    note: str = ""

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what does not apply is left out, NaN is None."""
        out: dict[str, Any] = {"value": _plain(self.value)}
        if self.interval is not None:
            out["interval"] = [_plain(bound) for bound in self.interval]
        out |= {"n_scored": self.n_scored, "n_skipped": self.n_skipped}
        if self.threshold is not None:
            out |= {"threshold": self.threshold, "fires": self.advice is not None, "advice": self.advice}
        if self.by_count:
            out["by_count"] = {
                str(count): {
                    "value": _plain(part.value),
                    "interval": [_plain(bound) for bound in part.interval],
                    "n_scored": part.n_scored,
                }
                for count, part in self.by_count.items()
            }
        if self.policy:
            out["policy"] = {name: _plain(value) for name, value in self.policy.items()}
        return out


@dataclass(frozen=True)
class GroupScores:
    """What a group found.

    Attributes:
        sections: what was scored, e.g. ``masks`` or ``attention_masks`` -> name of the score -> its row.
        advice: sentences for people.
        policy: settings that all rows share.
        arrays: what the rows were computed from, by name, where that is worth keeping (codes, factors, matrices).
    """

    sections: Mapping[str, Mapping[str, ScoreRow]]
    advice: tuple[str, ...] = ()
    policy: Mapping[str, object] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **{section: {name: row.record() for name, row in rows.items()} for section, rows in self.sections.items()},
            "advice": list(self.advice),
            "policy": {name: _plain(value) for name, value in self.policy.items()},
        }


class MetricGroup(Protocol):
    """Scores of a split; built with :class:`GroupSettings`."""

    def add(self, batch: Batch, out: Decomposition, masks: Mapping[str, Tensor]) -> None:
        """Look at a batch.

        Args:
            batch: images and what is known of them.
            out: how the model decomposed them, at posterior means.
            masks: kind -> (B, K, H, W): ``masks`` always; ``attention_masks`` and ``decoded_masks`` where they differ from it.

        Raises:
            UserError: if the data or the model lack what the group needs.
        """

    def scores(self) -> GroupScores:
        """The rows, after the last batch."""


def metric_group(name: str, settings: GroupSettings | None = None) -> MetricGroup:
    """An empty group by name.

    Raises:
        UserError: for an unknown name, with the nearest right one.
    """
    kind: Callable[[GroupSettings], MetricGroup] = from_table("metric group", name, METRIC_GROUPS)
    return kind(settings or GroupSettings())


# -- segmentation ----------------------------------------------------------------------------------------------------


class _Column:
    """One score, image by image, over all batches."""

    def __init__(self) -> None:
        self.parts: list[MetricResult] = []

    def result(self) -> MetricResult:
        """All images together; ``n_degenerate`` is summed."""
        policy = dict(self.parts[0].policy)
        if "n_degenerate" in policy:
            policy["n_degenerate"] = sum(int(str(part.policy["n_degenerate"])) for part in self.parts)
        return MetricResult.over_images(np.concatenate([part.per_image for part in self.parts]), **policy)


class SegmentationGroup:
    """How well masks agree with the true ones, and the error of the reconstruction; by number of objects, with intervals."""

    def __init__(self, settings: GroupSettings) -> None:
        self.settings = settings
        self.columns: dict[str, dict[str, _Column]] = {}
        self.counts: list[np.ndarray] = []

    def add(self, batch: Batch, out: Decomposition, masks: Mapping[str, Tensor]) -> None:
        """See :class:`MetricGroup`."""
        if batch.instances is None:
            raise UserError("the data have no masks of the true objects, which the metrics 'segmentation' compare with")
        background = batch.background_ids
        counts = batch.counts if batch.counts is not None else _visible_objects(batch.instances, background)
        self.counts.append(counts.numpy())
        for kind, soft in masks.items():
            labels, policy = segment_labels(batch.instances, soft)
            for name, result in self._scores(batch.instances, labels, background).items():
                described = MetricResult.over_images(result.per_image, **{**result.policy, **policy, "masks": kind})
                self.columns.setdefault(kind, {}).setdefault(name, _Column()).parts.append(described)
        error = mse(batch.images, out.reconstruction)
        self.columns.setdefault("reconstruction", {}).setdefault("mse", _Column()).parts.append(error)

    def _scores(self, truth: Tensor, labels: Tensor, background: Sequence[int]) -> dict[str, MetricResult]:
        rule = self.settings.degenerate
        panoptic = panoptic_quality(truth, labels, background_ids=background)
        panoptic_fg = panoptic_quality(truth, labels, background_ids=background, foreground=True)
        return {
            "ari": adjusted_rand_index(truth, labels, degenerate=rule),
            "foreground_ari": foreground_ari(truth, labels, background_ids=background, degenerate=rule),
            **{score.__name__: score(truth, labels, background_ids=background) for score in _OVERLAPS},
            "pq": panoptic.pq,
            "sq": panoptic.sq,
            "rq": panoptic.rq,
            "pq_fg": panoptic_fg.pq,
            "sq_fg": panoptic_fg.sq,
            "rq_fg": panoptic_fg.rq,
        }

    def scores(self) -> GroupScores:
        """See :class:`MetricGroup`."""
        counts = np.concatenate(self.counts)
        results = {
            kind: {name: column.result() for name, column in columns.items()} for kind, columns in self.columns.items()
        }
        sections = {
            kind: {name: self._row(result, counts) for name, result in rows.items()} for kind, rows in results.items()
        }
        advice = degenerate_advice(results["masks"]["foreground_ari"])
        shared = {
            "interval": f"95 % percentile bootstrap over images, {self.settings.draws} draws, seed {self.settings.seed}"
        }
        return GroupScores(sections, (f"foreground ARI: {advice}",) if advice else (), shared)

    def _row(self, result: MetricResult, counts: np.ndarray) -> ScoreRow:
        # One generator per row: a row's interval does not depend on which other rows there are.
        generator = self.settings.generator()
        interval = bootstrap_interval(result.per_image, generator=generator, draws=self.settings.draws)
        by_count = {}
        for count in np.unique(counts):
            part = MetricResult.over_images(result.per_image[counts == count])
            bounds = bootstrap_interval(part.per_image, generator=generator, draws=self.settings.draws)
            by_count[int(count)] = CountScore(part.value, bounds, part.n_scored)
        return ScoreRow(result.value, result.n_scored, result.n_skipped, interval, by_count, result.policy)


_OVERLAPS = (sc, msc, sc_fg, mbo_i, miou_gt, miou_fg, miou_fg_matched_with_bg, miou_pairs, recovery_rate)


def _visible_objects(ids: Tensor, background: Sequence[int]) -> Tensor:
    return torch.tensor([int((~torch.isin(image.unique(), torch.tensor(tuple(background)))).sum()) for image in ids])


# -- diagnosis -------------------------------------------------------------------------------------------------------


class DiagnosisGroup:
    """Known failures of decompositions, each as a number with a threshold; see :mod:`objectwise.metrics.diagnosis`.

    Detectors that need what the data or the model do not have (true masks, colours, a posterior) are left out, and the
    advice says so.
    """

    def __init__(self, settings: GroupSettings) -> None:
        unknown = set(settings.thresholds) - set(DETECTORS)
        if unknown:
            raise UserError(f"there is no detector '{min(unknown)}' to set a threshold of")
        self.settings = settings
        self.rows: dict[str, dict[str, list[np.ndarray]]] = {}
        self.before: dict[str, Tensor] = {}
        self.left_out: set[str] = set()

    def add(self, batch: Batch, out: Decomposition, masks: Mapping[str, Tensor]) -> None:
        """See :class:`MetricGroup`."""
        posterior = None if out.posterior is None else (out.posterior.mean, out.posterior.std)
        if posterior is not None and posterior[0].shape[:2] != out.masks.shape[:2]:
            posterior = None  # one code for the image, or none for the background: no slot's
        for kind, soft in masks.items():
            scene = Scene(batch.images, soft, batch.instances, batch.background_ids, posterior, self.before.get(kind))
            for name, detector in DETECTORS.items():
                if detector.fits(scene):
                    rows = detector.collect(scene)
                    self.rows.setdefault(kind, {}).setdefault(name, []).append(rows)
                else:
                    self.left_out.add(name)
            self.before[kind] = soft[-1]

    def scores(self) -> GroupScores:
        """See :class:`MetricGroup`."""
        sections = {
            kind: {name: self._row(DETECTORS[name], name, np.concatenate(parts)) for name, parts in detectors.items()}
            for kind, detectors in self.rows.items()
        }
        advice = [
            f"{kind}: {name} = {row.value:.3g}: {row.advice}"
            for kind, rows in sections.items()
            for name, row in rows.items()
            if row.advice is not None
        ]
        policy: dict[str, object] = {"filled": "at least 0.001 of the pixels"}
        if self.left_out:
            policy["left_out"] = sorted(self.left_out)
        return GroupScores(sections, tuple(advice), policy)

    def _row(self, detector: Detector, name: str, rows: np.ndarray) -> ScoreRow:
        generator = self.settings.generator()
        value = detector.reduce(rows, generator)
        threshold = self.settings.thresholds.get(name, detector.threshold)
        silent = int(np.isnan(rows.reshape(len(rows), -1)).all(axis=1).sum())
        interval = None
        if rows.ndim == 1:
            interval = bootstrap_interval(rows, generator=generator, draws=self.settings.draws)
        fires = detector.fires(value, threshold)
        return ScoreRow(
            value,
            len(rows) - silent,
            silent,
            interval,
            policy={} if threshold is None else {"fires": "above" if detector.above else "below"},
            threshold=threshold,
            advice=detector.advice if fires else None,
        )


# -- properties ------------------------------------------------------------------------------------------------------


class PropertiesGroup:
    """What heads read of each object's factors from its slot; see :mod:`objectwise.metrics.properties`.

    The images of the split are divided in order: ten thirteenths train the heads, one stops them, two are scored (10,000, 1,000
    and 2,000 in the paper). Each row is over objects, not images; those it skips had no slot.
    """

    SHARES = (10, 1, 2)
    HEADS: tuple[Head, ...] = ("linear", "mlp1")
    MAX_STEPS = 6_000

    def __init__(self, settings: GroupSettings) -> None:
        self.settings = settings
        self.parts: list[PropertyData] = []
        self.specs: dict[str, FactorSpec] = {}

    def add(self, batch: Batch, out: Decomposition, masks: Mapping[str, Tensor]) -> None:
        """See :class:`MetricGroup`."""
        self.specs = {name: spec for name, spec in batch.factor_specs.items() if name in batch.factors}
        if batch.instances is None or not self.specs:
            raise UserError("the data lack the objects' masks or factors, which the metrics 'properties' predict")
        factors = {name: batch.factors[name] for name in self.specs}
        ids, background = batch.instances, batch.background_ids
        self.parts.append(property_data(out.slots, factors, ids, masks=masks["masks"], background_ids=background))

    def scores(self) -> GroupScores:
        """See :class:`MetricGroup`."""
        data = PropertyData.joined(self.parts)
        images, whole = len(data.slots), sum(self.SHARES)
        if images < 2 * whole:
            raise UserError(f"the metrics 'properties' train heads and need at least {2 * whole} images, not {images}")
        ends = [images * sum(self.SHARES[:part]) // whole for part in range(4)]
        train, val, test = (data.select(slice(start, end)) for start, end in pairwise(ends))
        sections = {}
        for head in self.HEADS:
            for matching in get_args(Matching):
                found = predict_properties(
                    *(train, val, test, self.specs),
                    head=head,
                    matching=matching,
                    seed=self.settings.seed,
                    max_steps=self.MAX_STEPS,
                )
                sections[f"{head}_{matching}_matching"] = {
                    name: self._row(score, found) for name, score in found.factors.items()
                }
        policy = {"masks": "masks", "images": found.policy["images"], "seed": self.settings.seed}
        return GroupScores(sections, policy=policy)

    @staticmethod
    def _row(score: PropertyScore, found: PropertyScores) -> ScoreRow:
        policy = {"score": score.score, "unit": score.unit, "chance": score.chance, "steps": found.steps}
        kind = f"accuracy, chance {score.chance:.4f}" if score.score == "accuracy" else f"R², {score.unit}"
        if score.constant:
            policy["constant"] = True
            kind = "constant"
        return ScoreRow(score.value, found.n_objects - found.n_unmatched, found.n_unmatched, policy=policy, note=kind)


def _plain(value: object) -> Any:
    """A value as JSON has it: what is not finite is None, tuples are lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
