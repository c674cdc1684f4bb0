"""AIR in 3D on a table top: none to three objects, also of one kind, beside networks that were given the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from objectwise import figures
from objectwise.data.table_scenes import TableScenes
from objectwise.figures import Section, Table
from objectwise.metrics import count_scores
from objectwise.models.air_3d import AIR3D
from objectwise.models.air_3d_baselines import Order
from objectwise.recipes.air_3d import Preset, air_3d_table
from objectwise.recipes.runs import load
from objectwise.studies import inferred_scenes as scenes
from objectwise.studies.inferred_scenes import Scored, degrees, percent
from objectwise.studies.running import read_results
from objectwise.studies.study import Account, Settings, Trial
from objectwise.training.evaluation import decompositions

PRESETS: Mapping[Preset, str] = {
    "primitives": "primitives",
    "camera": "camera inferred",
    "tableware": "table-ware",
}
"""Preset of the recipe -> name in tables."""
MAIN: Preset = "primitives"
"""The preset that the supervised networks are trained for."""
AIR = "AIR"
SUPERVISED: Mapping[str, tuple[Order, bool]] = {
    "supervised, fixed order": ("fixed", True),
    "supervised, fixed order, no attention": ("fixed", False),
    "supervised, Hungarian": ("matched", True),
}
"""Name in tables -> order, and whether the network attends to places as AIR's does."""
FIXED = tuple(name for name, (order, _) in SUPERVISED.items() if order == "fixed")
SPLITS = {"all": "all", "repeated": "a kind twice or more", "different": "two or three, all different"}
"""Parts of the test scenes -> what is said of them."""
GOALS = {"count_accuracy": 0.95, "f1": 0.95, "tableware_count_accuracy": 0.90, "points_over_fixed_order": 10.0}


class _Scale(NamedTuple):
    """Training steps of the main group and of the others, their seeds, and test scenes."""

    steps: int
    other_steps: int
    seeds: int
    other_seeds: int
    images: int


_SCALES = {
    "smoke": _Scale(6, 4, 1, 1, 48),
    "quick": _Scale(2_000, 2_000, 3, 3, 2_000),
    "full": _Scale(20_000, 20_000, 3, 3, 2_000),
}


class Air3dTable:
    """Primitives, the same with the camera inferred, and table-ware; kinds may be repeated."""

    name = "air-3d-table"
    title = "AIR in 3D: a table top"

    def trials(self, settings: Settings) -> list[Trial]:
        """Every preset, seed by seed; the main one first."""
        scale = _SCALES[settings.scale]
        return [
            self._trial(preset, seed, scale, settings)
            for preset in PRESETS
            for seed in settings.seeds_or(scale.seeds if preset == MAIN else scale.other_seeds)
        ]

    def _trial(self, preset: Preset, seed: int, scale: _Scale, settings: Settings) -> Trial:
        base = air_3d_table(preset)
        steps = scale.steps if preset == MAIN else scale.other_steps
        data: Any = base.data
        training = base.training.replaced(
            max_steps=steps, validate_every=max(1, min(500, steps // 2)), threads=1, checkpoint_every=500
        )
        experiment = base.replaced(seed=seed, data=data.replaced(seed=seed, **settings.scenes), training=training)
        return Trial(f"{preset}-seed{seed}", experiment, PRESETS[preset])

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Scores of every method and seed, with and without repeated kinds; pictures, and failures."""
        scale = _SCALES[settings.scale]
        records, pictures = [], list[Section]()
        for trial in trials:
            dataset: Any = trial.experiment.build_data()
            model: AIR3D = load(runs[trial.key])
            networks: dict[str, AIR3D] = {AIR: model}
            if trial.group == PRESETS[MAIN]:
                networks |= {
                    name: scenes.supervised(trial, runs[trial.key], order=order, attention=attends)
                    for name, (order, attends) in SUPERVISED.items()
                }
            for name, network in networks.items():
                scored = scenes.inferred(network, dataset, scale.images)
                records.append(self._record(trial, runs[trial.key], name, network, dataset, scored))
                if name == AIR and trial.experiment.seed == settings.first_seed:
                    pictures += self._pictures(trial.group, network, dataset, scored)
        sections = [
            self._table(records),
            self._repeats(records),
            *self._confusions(records),
            *pictures,
            scenes.curve_section(
                trials,
                runs,
                {"count_accuracy": "count accuracy", "mean_count": "mean number of objects", "mse": "squared error"},
            ),
        ]
        results = {"trials": records, "goals": GOALS, "points_over_fixed_order": points_over_fixed(records)}
        return Account(results, sections, summary=summary_text(records))

    def _record(
        self, trial: Trial, run: Path, name: str, network: AIR3D, dataset: TableScenes, scored: Scored
    ) -> dict[str, Any]:
        size = len(scored.mse)
        truth = dataset.scene("test", np.arange(size))
        parts = split_scenes(truth.kind.numpy(), truth.present.numpy())
        counts = count_scores(truth.present.sum(dim=1).numpy(), scored.counts)
        record = {
            "group": trial.group,
            "method": name,
            "seed": trial.experiment.seed,
            "steps": trial.experiment.training.max_steps,
            "training_minutes": read_results(run)["training_minutes"] if name == AIR else None,
            **scored.record(),
            "parts": {part: scored.record(rows) for part, rows in parts.items()},
            "confusion": counts.confusion.tolist(),
        }
        if network.config.camera == "inferred" and name == AIR:
            record["camera_error_degrees"] = camera_errors(network, dataset, size)
        return record

    def _table(self, records: Sequence[Mapping[str, Any]]) -> Section:
        header = ["", "", "seed", "count", "class F1", "class of pairs", "position error", "rotation", "MSE", "minutes"]
        rows = []
        for record in records:
            medians = record["median_rotation_degrees"]
            turning = [f"{name} {degrees(value)}" for name, value in medians.items() if turns(name, record["group"])]
            minutes = record["training_minutes"]
            rows.append(
                [
                    record["group"],
                    record["method"],
                    record["seed"],
                    percent(record["count_accuracy"]),
                    percent(record["f1"]),
                    percent(record["class_accuracy"]),
                    percent(record["position_error"], 2),
                    ", ".join(turning),
                    f"{record['mse']:.5f}",
                    "-" if minutes is None else f"{minutes:.1f}",
                ]
            )
        text = (
            "Held-out scenes of none to three objects. Count: share of scenes whose number is right. Class F1: objects are "
            "matched with true ones; a hit has the right class and is within 10 % of the table's range of positions. "
            "Position error: mean distance of matched objects as a share of that range. Rotation: median up to symmetry, of "
            "kinds that can be seen to turn. Supervised: the same network, as many steps on the same scenes with their "
            "labels; in a fixed order, step i is to give object i of a list sorted by kind and place, or steps and objects "
            "are matched first. Without attention the network is the trunk and the LSTM alone."
        )
        cameras = [
            f"seed {record['seed']}: {record['camera_error_degrees'][0]:.2f}° and {record['camera_error_degrees'][1]:.2f}°"
            for record in records
            if "camera_error_degrees" in record
        ]
        if cameras:
            text += f"\n\nInferred cameras: mean error of azimuth and elevation, {'; '.join(cameras)}."
        return Section("Every seed", text=text, table=Table(header, rows))

    def _repeats(self, records: Sequence[Mapping[str, Any]]) -> Section:
        main = [record for record in records if record["group"] == PRESETS[MAIN]]
        header = ["test scenes", "", "seed", "scenes", "count", "class F1", "position error"]
        rows = [
            [
                label,
                record["method"],
                record["seed"],
                record["parts"][part]["scenes"],
                percent(record["parts"][part]["count_accuracy"]),
                percent(record["parts"][part]["f1"]),
                percent(record["parts"][part]["position_error"], 2),
            ]
            for part, label in SPLITS.items()
            if part != "all"
            for record in main
        ]
        points = points_over_fixed(records)
        told = ", ".join("-" if one["f1"] is None else f"{one['f1']:+.1f}" for one in points)
        counted = ", ".join("-" if one["count"] is None else f"{one['count']:+.1f}" for one in points)
        text = (
            "Where a kind is repeated, the order of a list says little about which object a step is to give. AIR less the "
            f"better supervised network with fixed order there, in points, a number per seed: class F1 {told}; count {counted}."
        )
        drawn = []
        for quantity, label in (("f1", "class F1"), ("count_accuracy", "count accuracy")):
            scores: dict[str, dict[str, list[float]]] = {}
            for record in main:
                for part, name in SPLITS.items():
                    value = record["parts"][part][quantity]
                    if value is not None:
                        scores.setdefault(name, {}).setdefault(record["method"], []).append(value)
            if scores:
                figure = figures.seed_scores_figure(scores, label, limits=(0.0, 1.02))
                drawn.append((figure, f"{label} by test scenes, a dot per seed"))
        return Section("With and without repeated objects", text=text, table=Table(header, rows), figures=drawn)

    def _confusions(self, records: Sequence[Mapping[str, Any]]) -> list[Section]:
        drawn = []
        for group in dict.fromkeys(record["group"] for record in records):
            matrices = [np.array(r["confusion"]) for r in records if (r["group"], r["method"]) == (group, AIR)]
            size = max(len(one) for one in matrices)
            total = np.sum([np.pad(one, (0, size - len(one))) for one in matrices], axis=0)
            drawn.append(
                (figures.confusion_figure(total), f"{group}: true and found counts of AIR, all seeds together")
            )
        return [Section("Counting", figures=drawn)]

    def _pictures(self, group: str, model: AIR3D, dataset: TableScenes, scored: Scored) -> list[Section]:
        wrong = ~((scored.scores.count_accuracy.per_image == 1.0) & ~(scored.scores.f1.per_image < 1.0))
        rule = "another count, another class, or further off than 10 % of the range of positions (first seed)"
        return [
            scenes.views_section(f"Inferred scenes from elsewhere: {group}", model, dataset),
            scenes.failures_section(f"Failures: {group}", model, dataset, wrong, rule, scenes.count_note),
        ]


def turns(kind: str, group: str) -> bool:
    """Whether a kind of a group's scenes can be seen to turn about the vertical."""
    preset = next(preset for preset, name in PRESETS.items() if name == group)
    model: Any = air_3d_table(preset).model
    symmetry = next(one.symmetry for one in model.scene.kinds if one.name == kind)
    return symmetry in ("cube", "none")


def split_scenes(kind: np.ndarray, present: np.ndarray) -> dict[str, np.ndarray]:
    """Which scenes belong to which part of :data:`SPLITS`, (B,) bool each.

    Args:
        kind: (B, M) codes.
        present: (B, M) bool.
    """
    number = present.sum(axis=1)
    different = np.array([len(set(row[used].tolist())) for row, used in zip(kind, present, strict=True)])
    return {"all": number >= 0, "repeated": different < number, "different": (different == number) & (number >= 2)}


def camera_errors(model: AIR3D, dataset: TableScenes, limit: int) -> list[float]:
    """Mean absolute error of azimuth and elevation, degrees, over the first test scenes."""
    rows = np.arange(limit)
    source: Any = dataset
    truth = dataset.scene("test", rows).camera
    found = torch.cat([model.scene(out.slots).camera for _, out in decompositions(model, source, "test", rows)])
    return [float(error) for error in torch.rad2deg((found.double() - truth.double()).abs()).mean(dim=0)]


def points_over_fixed(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Seed by seed, class F1 and count accuracy of AIR where kinds are repeated, less the better fixed order's, in points."""
    found = []
    main = [record for record in records if record["group"] == PRESETS[MAIN]]
    for record in (record for record in main if record["method"] == AIR):
        others = [r["parts"]["repeated"] for r in main if r["method"] in FIXED and r["seed"] == record["seed"]]
        points: dict[str, float | None] = {}
        for label, name in (("f1", "f1"), ("count", "count_accuracy")):
            ours, theirs = record["parts"]["repeated"][name], [other[name] for other in others]
            known = [value for value in theirs if value is not None]
            points[label] = None if ours is None or not known else 100.0 * (ours - max(known))
        if others:
            found.append({"seed": record["seed"], **points})
    return found


def summary_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Counts and classes of AIR in every group, and its lead where kinds are repeated, a number per seed."""
    parts = []
    for group in dict.fromkeys(record["group"] for record in records):
        part = [record for record in records if (record["group"], record["method"]) == (group, AIR)]
        count = ", ".join(percent(record["count_accuracy"]) for record in part)
        f1 = ", ".join(percent(record["f1"]) for record in part)
        parts.append(f"{group}: count {count}, class F1 {f1}")
    lead = ", ".join("-" if one["f1"] is None else f"{one['f1']:+.1f}" for one in points_over_fixed(records))
    return (
        f"A number per seed. AIR without labels: {'; '.join(parts)}. Class F1 over the better supervised network with fixed "
        f"order where a kind is repeated: {lead} points."
    )
