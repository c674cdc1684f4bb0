"""Where IODINE's slots carry on: more objects with more slots, other numbers of refinement steps, and shifted rendering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from objectwise import figures
from objectwise.figures import Section, Table
from objectwise.recipes.runs import load, run_experiment
from objectwise.studies import scene_scores as scenes
from objectwise.studies.iodine_decomposition import generated, scene_training, scores_by_step, step_curves
from objectwise.studies.monet_generalization import reslotted
from objectwise.studies.scene_scores import shown
from objectwise.studies.study import Account, Settings, Trial

TEST_IMAGES = 320
MOST_STEPS = 20
"""Refinement steps at test time, from one to this."""
UNCHANGED = "as trained"
SHIFTS: Mapping[str, Mapping[str, Any]] = {
    UNCHANGED: {},
    "dimmer light": {"look": {"exposure": 0.7}},
    "brighter light": {"look": {"exposure": 1.4}},
    "light from everywhere": {"look": {"ambient": 0.6}},
    "no shadows": {"look": {"shadow": 0.0, "contact": 0.0}},
    "sharp shadows": {"look": {"softness": 0.02}},
    "lamps move twice as far": {"lamp_jitter": 2.0},
    "camera moves three times as far": {"camera_jitter": 1.5},
    "narrower view": {"field_of_view": 30.7},
    "wider view": {"field_of_view": 40.0},
    "one ray per pixel": {"samples": 1},
    "16 rays per pixel": {"samples": 4},
}
"""Name -> changed settings of the CLEVR-like scenes; ``look`` is changed field by field. The training has 4 rays a pixel."""


@dataclass(frozen=True)
class Kind:
    """A training.

    Attributes:
        title: its name in tables.
        key: its set in ``iodine-decomposition``.
        trained: numbers of objects in training.
        tested: numbers of objects in the tests; the largest is what K is raised for.
        rendered: whether the rendering can be shifted.
        doubled: whether its pictures have twice the sides of ``iodine-decomposition``'s; below ``full`` with one seed.
    """

    title: str
    key: str
    trained: tuple[int, ...]
    tested: tuple[int, ...]
    rendered: bool = False
    doubled: bool = False


_CLEVR = ("clevr6", (3, 4, 5, 6), tuple(range(3, 11)))
KINDS: Mapping[str, Kind] = {
    "clevr": Kind("CLEVR-like", *_CLEVR, rendered=True),
    "sprites": Kind("Multi-dSprites, generated", "multi-dsprites", (2, 3, 4, 5), (2, 3, 4, 5, 6, 7)),
    "clevr-doubled": Kind("CLEVR-like, twice the sides", *_CLEVR, rendered=True, doubled=True),
}


class IodineGeneralization:
    """A training of each kind of scenes, three questions, and the first kind again at twice the resolution."""

    name = "iodine-generalization"
    title = "IODINE with more objects, more steps and shifted rendering"

    def trials(self, settings: Settings) -> list[Trial]:
        """Every kind, seed by seed; last what takes longest."""
        seeds = settings.seeds_or(1 if settings.scale == "smoke" else 3)
        usual = [(key, seed) for seed in seeds for key, kind in KINDS.items() if not kind.doubled]
        few = [seed for seed in seeds if seed == 0 or settings.scale == "full"]
        doubled = [(key, seed) for seed in few for key, kind in KINDS.items() if kind.doubled]
        return [self._trial(key, seed, settings) for key, seed in usual + doubled]

    def _trial(self, key: str, seed: int, settings: Settings) -> Trial:
        kind = KINDS[key]
        name, data = generated(kind.key, settings)
        data = data.replaced(seed=seed, image_size=data.image_size * (1 + kind.doubled))
        experiment = scene_training(kind.key, name, data, seed, settings)
        return Trial(f"{key}-seed{seed}", experiment, kind.title)

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Scores by number of objects and slots, by refinement step, and by shift of the rendering."""
        limit = 4 if settings.scale == "smoke" else TEST_IMAGES
        records: list[dict[str, Any]] = []
        pictures: dict[str, Section] = {}
        for trial in trials:
            kind = next(kind for kind in KINDS.values() if kind.title == trial.group)
            model: Any = load(runs[trial.key])
            config: Any = run_experiment(runs[trial.key]).data
            tested = kind.tested if settings.scale != "smoke" else (kind.tested[0], kind.tested[-1])
            shifts = SHIFTS if kind.rendered else {}
            records.append(
                {
                    **scenes.run_record(trial, runs[trial.key]),
                    "counts": by_count(model, config, kind.trained, tested, limit),
                    "by_step": scores_by_step(model, config.build(), limit=limit, steps=MOST_STEPS),
                    "trained_steps": model.config.refinement_steps,
                    "shifts": {
                        name: scenes.scene_scores(model, shifted(config, name).build(), limit=limit).summary()
                        for name in shifts
                    },
                }
            )
            if trial.group not in pictures:
                pictures[trial.group] = self._pictures(trial.group, model, config, tested, records[-1], settings)
        sections = [
            self._counts(records),
            self._steps(records),
            self._shifts(records),
            *pictures.values(),
            Section("Over training", figures=[scenes.curve_figure(trials, runs, "foreground_ari", "foreground ARI")]),
        ]
        return Account({"test_images": limit, "trials": records}, sections, summary=summary_text(records))

    def _counts(self, records: Sequence[Mapping[str, Any]]) -> Section:
        header = ["", "seed", "objects", "", "K", "scored", "foreground ARI", "full ARI", "mBO", "MSE"]
        rows = [
            [
                record["group"],
                record["seed"],
                row["objects"],
                "trained" if row["trained"] else "new",
                row["slots"],
                row["scored"],
                *(shown(row[name]) for name in ("foreground_ari", "ari", "mbo")),
                shown(row["mse"], 5),
            ]
            for record in records
            for row in record["counts"]
        ]
        text = (
            "Held-out scenes that all have so many objects, with the K of the training and with one that has a slot for each of "
            "the most objects and one more, which needs no training. Objects may be hidden; foreground ARI needs two to be seen."
        )
        drawn = []
        for group in dict.fromkeys(record["group"] for record in records):
            scores: dict[str, dict[str, list[float]]] = {}
            for row in (row for record in records if record["group"] == group for row in record["counts"]):
                name = f"{row['objects']}" if row["trained"] else f"{row['objects']} (new)"
                scores.setdefault(name, {}).setdefault(f"K = {row['slots']}", []).extend(
                    scenes.numbers([row["foreground_ari"]])
                )
            if any(value == value for kinds in scores.values() for values in kinds.values() for value in values):
                figure = figures.seed_scores_figure(scores, "foreground ARI", limits=scenes.UNIT)
                drawn.append((figure, f"{group}: foreground ARI by number of objects and slots, a dot per seed"))
        return Section("More objects", text=text, table=Table(header, rows), figures=drawn)

    def _steps(self, records: Sequence[Mapping[str, Any]]) -> Section:
        chosen = sorted({1, 2, 3, 5, 10, MOST_STEPS})
        header = ["", "seed", *(f"{step} steps" if step > 1 else "1 step" for step in chosen)]
        rows = [
            [record["group"], record["seed"], *(shown(record["by_step"]["foreground_ari"][step]) for step in chosen)]
            for record in records
        ]
        trained = ", ".join(str(steps) for steps in sorted({record["trained_steps"] for record in records}))
        text = (
            f"Trained with {trained} refinement steps. One pass of {MOST_STEPS} steps, scored after each: on one sample of the "
            "posterior with noise that is the same for all images, after the last one on posterior means."
        )
        drawn = []
        for name, label in (("foreground_ari", "foreground ARI"), ("mse", "squared error")):
            figure = figures.seeds_figure(step_curves(records, name), label, steps="refinement steps")
            drawn.append((figure, f"{label} after each refinement step, a line per seed; 0: before the first"))
        return Section("More refinement steps", text=text, table=Table(header, rows), figures=drawn)

    def _shifts(self, records: Sequence[Mapping[str, Any]]) -> Section:
        header = ["", "seed", "rendering", "scored", "foreground ARI", "less than as trained", "mBO", "MSE"]
        rows = [
            [
                record["group"],
                record["seed"],
                name,
                found["scored"],
                shown(found["foreground_ari"]),
                shown(loss(record, name)),
                shown(found["mbo"]),
                shown(found["mse"], 5),
            ]
            for record in records
            for name, found in record["shifts"].items()
        ]
        text = (
            "Held-out scenes of the numbers of objects of the training, drawn by the same laws with one thing about rendering "
            "changed; nothing is trained again. The log of a public port suspects that such a shift breaks a trained model."
        )
        drawn = []
        for group in dict.fromkeys(record["group"] for record in records if record["shifts"]):
            part = [record for record in records if record["group"] == group]
            scores = {
                name: {"foreground ARI": scenes.numbers([record["shifts"][name]["foreground_ari"] for record in part])}
                for name in part[0]["shifts"]
            }
            if any(value == value for kinds in scores.values() for value in kinds["foreground ARI"]):
                figure = figures.seed_scores_figure(scores, "foreground ARI", limits=scenes.UNIT)
                drawn.append((figure, f"{group}: a dot per seed"))
        return Section("Shifted rendering", text=text, table=Table(header, rows), figures=drawn)

    def _pictures(
        self, group: str, model: Any, config: Any, tested: Sequence[int], record: Mapping[str, Any], settings: Settings
    ) -> Section:
        most, count = max(tested), scenes.images_shown(settings)
        drawn = [
            self._first(
                reslotted(model, slots),
                config.replaced(counts=(most,)),
                count,
                f"{most} objects, never so many in training; K = {slots}",
            )
            for slots in slots_for(model, most)
        ]
        worst = worst_shift(record)
        if worst is not None:
            drawn += [self._first(model, shifted(config, name), count, name) for name in (UNCHANGED, worst)]
        caption = f"{group}: the first test scenes, first seed; foreground ARI below"
        note = "" if worst is None else f" Of the shifts, the one that costs this seed most is shown: {worst}."
        text = f"The first scenes of the split, failures among them.{note}"
        return Section(f"Pictures: {group}", text=text, figures=[(figure, caption) for figure in drawn])

    def _first(self, model: nn.Module, config: Any, count: int, heading: str) -> Any:
        dataset = config.build()
        batch, out = scenes.decomposed(model, dataset, np.arange(min(count, dataset.splits["test"])))
        return figures.slots_figure(batch, out, heading=heading, notes=scenes.score_notes(batch, out))


def slots_for(model: Any, objects: int) -> list[int]:
    """The K of the training, and the K that so many objects need, if it is larger."""
    own = int(model.config.num_slots)
    return [own] if objects < own else [own, objects + 1]


def by_count(
    model: Any, config: Any, trained: Sequence[int], counts: Sequence[int], limit: int
) -> list[dict[str, Any]]:
    """Scores of the first test scenes that all have so many objects, with each K of :func:`slots_for`.

    Args:
        model: whose K may be changed.
        config: of the training's data, with ``counts``.
        trained: numbers of objects in training.
        counts: numbers of objects; the largest decides on the larger K.
        limit: scenes of each.
    """
    rows = []
    for count in counts:
        dataset = config.replaced(counts=(count,)).build()
        for slots in slots_for(model, max(counts)):
            found = scenes.scene_scores(reslotted(model, slots), dataset, limit=limit).summary()
            rows.append({"objects": count, "trained": count in trained, "slots": slots, **found})
    return rows


def shifted(config: Any, name: str) -> Any:
    """The settings of CLEVR-like data with one of :data:`SHIFTS`."""
    changes = dict(SHIFTS[name])
    look = changes.pop("look", None)
    if look is not None:
        changes["look"] = config.look.replaced(**look)
    return config.replaced(**changes)


def loss(record: Mapping[str, Any], name: str) -> float | None:
    """How much foreground ARI a shift costs; None where it or the unshifted scenes have none."""
    usual, found = (record["shifts"][key]["foreground_ari"] for key in (UNCHANGED, name))
    return None if usual is None or found is None else usual - found


def worst_shift(record: Mapping[str, Any]) -> str | None:
    """The shift with the largest :func:`loss`; None where nothing was scored."""
    costs = {name: cost for name in record["shifts"] if name != UNCHANGED and (cost := loss(record, name)) is not None}
    return max(costs, key=costs.__getitem__) if costs else None


def summary_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Scores with the most objects and the larger K, and the costliest shift, a number per seed."""
    parts = []
    for group in dict.fromkeys(record["group"] for record in records):
        part = [record for record in records if record["group"] == group]
        last = [record["counts"][-1] for record in part]
        known = [
            scenes.mean(scenes.numbers([row["foreground_ari"] for row in record["counts"] if row["trained"]]))
            for record in part
        ]
        text = (
            f"{group}: {', '.join(shown(value) for value in known)} on the numbers of objects of the training, "
            f"{', '.join(shown(row['foreground_ari']) for row in last)} on {last[0]['objects']} with K = {last[0]['slots']}"
        )
        shifts = [
            (worst, cost)
            for record in part
            if (worst := worst_shift(record)) is not None and (cost := loss(record, worst)) is not None
        ]
        if shifts:
            text += "; costliest shift " + ", ".join(f"{name} ({-cost:+.3f})" for name, cost in shifts)
        parts.append(text)
    return f"Foreground ARI, a number per seed. {'. '.join(parts)}."
