"""Inferred scenes of solid objects as a group of scores: counts, classes, positions and rotations; see :mod:`.poses`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from objectwise.core import Batch, Decomposition, FactorSpec, MetricResult, UserError
from objectwise.metrics.groups import CountScore, GroupScores, GroupSettings, ScoreRow
from objectwise.metrics.poses import ObjectSet, SceneScores, score_scenes, yaw_matrix
from objectwise.metrics.resampling import bootstrap_interval

NEEDED = ("kind", "x", "y", "yaw")
"""Factors of data and model that are compared."""
REACH = 0.1
"""Largest distance of a hit, as a share of the scene's width."""


def true_objects(batch: Batch) -> ObjectSet:
    """The objects of a batch's scenes.

    Raises:
        UserError: if the data do not say what stands where.
    """
    missing = [name for name in NEEDED if name not in batch.factors]
    present = batch.object_present
    if missing or present is None:
        raise UserError(f"the data do not tell the objects' {missing[0] if missing else 'presence'}, as 'poses' needs")
    return _objects(batch.factors, present)


def found_objects(out: Decomposition) -> ObjectSet:
    """The objects that a model found: those of :meth:`Decomposition.found_slots`.

    Raises:
        UserError: if the model does not say what stands where.
    """
    missing = [name for name in NEEDED if name not in out.factors]
    if missing:
        raise UserError(f"the model does not infer the objects' {missing[0]}, which the metrics 'poses' compare")
    present = torch.zeros(out.presence.shape, dtype=torch.bool)
    for row, slots in zip(present, out.found_slots(), strict=True):
        row[slots] = True
    return _objects({name: values.cpu() for name, values in out.factors.items()}, present)


def _objects(factors: Mapping[str, Tensor], present: Tensor) -> ObjectSet:
    place = torch.stack([factors["x"], factors["y"]], dim=2)
    return ObjectSet(factors["kind"], place, yaw_matrix(factors["yaw"].double()), present)


def scene_width(specs: Mapping[str, FactorSpec]) -> float:
    """How wide the range of positions is, world units; the wider one of x and y.

    Raises:
        UserError: if the data give no range.
    """
    bounds = [(specs[name].low, specs[name].high) for name in ("x", "y") if name in specs]
    widths = [high - low for low, high in bounds if low is not None and high is not None]
    if not widths:
        raise UserError("the data give no range of x and y, of which the metrics 'poses' take errors as shares")
    return max(widths)


class PosesGroup:
    """Counts, classes after matching, positions and rotations; by number of objects, with intervals.

    Rotations are told kind by kind, in degrees up to the kind's symmetry, over the objects whose class was found.
    """

    def __init__(self, settings: GroupSettings) -> None:
        self.settings = settings
        self.parts: list[SceneScores] = []
        self.counts: list[np.ndarray] = []
        self.kinds: tuple[tuple[str, str], ...] = ()

    def add(self, batch: Batch, out: Decomposition, masks: Mapping[str, Tensor]) -> None:
        """See :class:`~objectwise.metrics.groups.MetricGroup`."""
        true, found, spec = true_objects(batch), found_objects(out), batch.factor_specs["kind"]
        if not spec.symmetries:
            raise UserError("the data do not tell the symmetries of their kinds, up to which 'poses' compare rotations")
        self.kinds = tuple(zip(spec.categories, spec.symmetries, strict=True))
        width = scene_width(batch.factor_specs)
        self.parts.append(score_scenes(true, found, spec.symmetries, width=width, reach=REACH))
        self.counts.append(true.present.sum(dim=1).numpy())

    def scores(self) -> GroupScores:
        """See :class:`~objectwise.metrics.groups.MetricGroup`."""
        notes = {
            "count_accuracy": "share of scenes",
            "f1": f"right class within {100 * REACH:g} % of the width",
            "class_accuracy": "of matched objects, mean over scenes",
            "position_error": "of matched objects, share of the width",
        }
        scenes = {name: self._row([getattr(part, name) for part in self.parts], note) for name, note in notes.items()}
        rotations = {}
        for kind, (name, symmetry) in enumerate(self.kinds):
            errors = np.concatenate([part.rotation_errors[kind] for part in self.parts])
            for label, reduced in (("median", np.median), ("mean", np.mean)):
                value = float(reduced(errors)) if len(errors) else float("nan")
                policy = {"symmetry": symmetry, "unit": "degrees"}
                note = f"degrees up to symmetry ({symmetry}), over objects"
                rotations[f"{name}_{label}"] = ScoreRow(value, len(errors), policy=policy, note=note)
        shared = {
            "interval": f"95 % percentile bootstrap over images, {self.settings.draws} draws, seed {self.settings.seed}"
        }
        return GroupScores({"scenes": scenes, "rotation": rotations}, policy=shared)

    def _row(self, parts: list[MetricResult], note: str) -> ScoreRow:
        whole = MetricResult.over_images(np.concatenate([part.per_image for part in parts]), **parts[0].policy)
        counts, generator = np.concatenate(self.counts), self.settings.generator()
        interval = bootstrap_interval(whole.per_image, generator=generator, draws=self.settings.draws)
        by_count = {}
        for count in np.unique(counts):
            some = MetricResult.over_images(whole.per_image[counts == count])
            bounds = bootstrap_interval(some.per_image, generator=generator, draws=self.settings.draws)
            by_count[int(count)] = CountScore(some.value, bounds, some.n_scored)
        return ScoreRow(whole.value, whole.n_scored, whole.n_skipped, interval, by_count, whole.policy, note=note)
