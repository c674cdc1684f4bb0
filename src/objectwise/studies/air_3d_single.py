"""AIR in 3D on one object: class, place and turn, beside supervised networks and optimisation of every image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from objectwise import figures
from objectwise.data.table_scenes import TableScenes
from objectwise.figures import Section, Table
from objectwise.models.air_3d import AIR3D
from objectwise.models.air_3d_baselines import Turn, optimise
from objectwise.recipes import recipe
from objectwise.recipes.runs import load
from objectwise.studies import inferred_scenes as scenes
from objectwise.studies.black_box_gradients import gradient_quality, gradient_section
from objectwise.studies.inferred_scenes import Scored, degrees, percent
from objectwise.studies.running import read_results
from objectwise.studies.study import Account, Settings, Trial

AIR = "AIR"
SUPERVISED: Mapping[Turn, str] = {"vector": "supervised, (cos, sin)", "angle": "supervised, radians"}
"""How the yaw is learned -> name in tables."""
TURNING = "cube"
"""The kind that can be seen to turn."""
GOALS = {"class_accuracy": 0.99, "position_error": 0.02, "rotation_degrees": 10.0, "times_faster": 100.0}
"""At least, at most, at most, at least."""


class _Scale(NamedTuple):
    """Steps, seeds, test scenes; budgets (restarts, steps) of direct optimisation, and on how many scenes; gradients' scenes."""

    steps: int
    seeds: int
    images: int
    budgets: tuple[tuple[int, int], ...]
    optimised: int
    gradients: int


_BUDGETS = ((1, 10), (1, 30), (3, 30), (9, 30), (9, 100), (27, 100), (27, 300))
_SCALES = {
    "smoke": _Scale(12, 1, 48, ((1, 2), (3, 6)), 8, 3),
    "quick": _Scale(2_000, 3, 2_000, _BUDGETS, 64, 48),
    "full": _Scale(20_000, 3, 2_000, _BUDGETS, 256, 256),
}


class Air3dSingle:
    """One cube, sphere or cylinder on a table, 32×32, through a black-box renderer."""

    name = "air-3d-single"
    title = "AIR in 3D: one object through a renderer"

    def trials(self, settings: Settings) -> list[Trial]:
        """The recipe, seed by seed."""
        scale = _SCALES[settings.scale]
        base = recipe("air-3d-single")
        training = base.training.replaced(
            max_steps=scale.steps, validate_every=max(1, min(500, scale.steps // 4)), threads=1, checkpoint_every=500
        )
        return [
            Trial(
                f"seed{seed}",
                base.replaced(seed=seed, data=base.data.replaced(seed=seed, **settings.scenes), training=training),
                AIR,
            )
            for seed in settings.seeds_or(scale.seeds)
        ]

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Every method on every seed's test scenes, what it costs, gradients, pictures, and failures."""
        scale = _SCALES[settings.scale]
        records, judged = [], dict[str, Scored]()
        for trial in trials:
            dataset: Any = trial.experiment.build_data()
            model: AIR3D = load(runs[trial.key])
            networks = {AIR: model}
            networks |= {
                name: scenes.supervised(trial, runs[trial.key], turn=turn) for turn, name in SUPERVISED.items()
            }
            batch = dataset.batch("test", np.arange(min(64, scale.images))).images
            for name, network in networks.items():
                scored = scenes.inferred(network, dataset, scale.images)
                if name == AIR:
                    judged[trial.key] = scored
                minutes = read_results(runs[trial.key])["training_minutes"] if name == AIR else None
                facts = {"method": name, "seed": trial.experiment.seed, "training_minutes": minutes}
                records.append({**facts, **one_object(scored), "ms": scenes.milliseconds(network, batch)})
            records += optimised(model, dataset, scale, trial.experiment.seed, judged[trial.key])
        quality, gradients = gradient_section(
            gradient_quality(trials[0].experiment.data.renderer, batch=scale.gradients, draws=scale.gradients)  # type: ignore[attr-defined]
        )
        first, data = load(runs[trials[0].key]), trials[0].experiment.build_data()
        table = self._table(records)
        sections = [
            table,
            self._turns(records),
            self._costs(records),
            quality,
            scenes.views_section("Inferred scenes from elsewhere", first, data),  # type: ignore[arg-type]
            scenes.failures_section(
                "Failures",
                first,
                data,  # type: ignore[arg-type]
                failures(judged[trials[0].key], data),  # type: ignore[arg-type]
                f"another class, off by more than {percent(GOALS['position_error'], 0)} of the width, or a cube turned wrong "
                f"by more than {GOALS['rotation_degrees']:g}° (first seed)",
                scenes.single_note,
            ),
            scenes.curve_section(trials, runs, {"elbo": "ELBO, nats", "mse": "squared error"}),
        ]
        faster = [times_faster(records, record) for record in records if record["method"] == AIR]
        results = {"trials": records, "goals": GOALS, "times_faster": faster, "gradients": gradients}
        return Account(results, sections, summary=summary_text(records, faster))

    def _table(self, records: Sequence[Mapping[str, Any]]) -> Section:
        header = [
            "",
            "seed",
            "scenes",
            "class accuracy",
            "position error",
            f"rotation, {TURNING}s",
            "MSE",
            "ms per image",
        ]
        rows = [
            [
                record["method"],
                record["seed"],
                record["scenes"],
                percent(record["class_accuracy"], 2),
                percent(record["position_error"], 2),
                degrees(record["median_rotation_degrees"][TURNING]),
                f"{record['mse']:.5f}",
                f"{record['ms']:.3f}",
            ]
            for record in records
        ]
        text = (
            "Held-out scenes. Position error: mean distance of found objects, as a share of the range of positions. "
            "Rotation: median over the cubes whose class was found, up to a cube's 24 rotations, of which 22.5° is what "
            "guessing scores; no turn of a sphere or a cylinder about the vertical can be seen. MSE: of the inferred scene "
            "drawn again. Milliseconds: of one processor core, networks in batches of 64. Supervised: the same network, as "
            "many steps on the same scenes with their labels; a yaw is one of four that look alike, whose mean is none of "
            "them. Optimised: no network, Adam on the same black-box gradient, restarts times steps for each image, the best "
            "restart counts."
        )
        return Section("Every seed", text=text, table=Table(header, rows))

    def _turns(self, records: Sequence[Mapping[str, Any]]) -> Section:
        values: dict[str, dict[str, list[float]]] = {}
        largest = [record["restarts"] * record["steps"] for record in records if "restarts" in record]
        for record in records:
            if "restarts" in record and record["restarts"] * record["steps"] < max(largest):
                continue
            if record["median_rotation_degrees"][TURNING] is not None:
                one = values.setdefault(record["method"], {}).setdefault("seeds", [])
                one.append(record["median_rotation_degrees"][TURNING])
        if not values:
            return Section("The turn of a cube", text="No cube's class was found.")
        figure = figures.seed_scores_figure(values, "median error, degrees", limits=(0.0, 46.0))
        caption = (
            "median rotation error of cubes up to symmetry, a dot per seed; guessing scores 22.5°, the most is 45°; of the "
            "budgets of optimisation, the largest"
        )
        return Section("The turn of a cube", figures=[(figure, caption)])

    def _costs(self, records: Sequence[Mapping[str, Any]]) -> Section:
        drawn = []
        for quantity, label in (("mse", "squared error of the scene"), ("position_error", "position error / width")):
            series: dict[str, list[tuple[float, float, str]]] = {AIR: []}
            for record in records:
                if record["method"] == AIR:
                    series[AIR].append((record["ms"], record[quantity], ""))
                elif "restarts" in record:
                    name = f"optimised, seed {record['seed']}"
                    label_ = f"{record['restarts']}×{record['steps']}" if record["seed"] == 0 else ""
                    series.setdefault(name, []).append((record["ms"], record[quantity], label_))
            figure = figures.cost_figure(series, "processor ms per image", label)
            drawn.append((figure, f"{label} against time; beside the points: restarts × steps of optimisation"))
        return Section("What inference costs", text=cost_text(records), figures=drawn)


def optimised(model: AIR3D, dataset: TableScenes, scale: _Scale, seed: int, network: Scored) -> list[dict[str, Any]]:
    """Direct optimisation of the first test scenes, with every budget, and what the network scores on the same scenes."""
    batch = dataset.batch("test", np.arange(scale.optimised))
    same = np.arange(len(network.mse)) < scale.optimised
    found = []
    for restarts, steps in scale.budgets:
        best = optimise(model, batch.images, restarts=restarts, steps=steps, seed=seed)
        with torch.no_grad():
            drawn = model.renderer(best.scene)
        scored = scenes.scored(dataset, batch.images, scenes.objects_of(best.scene), drawn.float())
        facts = {"method": f"optimised, {restarts}×{steps}", "seed": seed, "restarts": restarts, "steps": steps}
        found.append({**facts, **one_object(scored), "ms": 1_000.0 * best.seconds, "network": network.record(same)})
    return found


def one_object(scored: Scored) -> dict[str, Any]:
    """The record of scenes that all have one object: where none was found, its class was not."""
    return {**scored.record(), "class_accuracy": float(np.nan_to_num(scored.scores.class_accuracy.per_image).mean())}


def times_faster(records: Sequence[Mapping[str, Any]], network: Mapping[str, Any]) -> dict[str, Any]:
    """How many times faster than optimisation a network is at equal or better error, on the scenes that both did.

    The budgets in question are those that leave a squared error of no less than the network's; of them, and of times, the largest
    counts. Where some budget is better than the network, the cheapest such budget is told too.

    Returns:
        seed, ``ratio`` (None if every budget is better), ``budget``, ``better_at`` (its ratio; None if none is better).
    """
    own = [r for r in records if "restarts" in r and r["seed"] == network["seed"]]
    worse = [r for r in own if r["mse"] >= r["network"]["mse"]]
    better = [r for r in own if r["mse"] < r["network"]["mse"]]
    slowest = max(worse, key=lambda r: r["ms"], default=None)
    cheapest = min(better, key=lambda r: r["ms"], default=None)
    return {
        "seed": network["seed"],
        "ratio": None if slowest is None else slowest["ms"] / network["ms"],
        "budget": None if slowest is None else slowest["method"],
        "better_at": None if cheapest is None else cheapest["ms"] / network["ms"],
        "better_budget": None if cheapest is None else cheapest["method"],
    }


def cost_text(records: Sequence[Mapping[str, Any]]) -> str:
    """The ratios of :func:`times_faster`, seed by seed."""
    lines = []
    for record in records:
        if record["method"] != AIR:
            continue
        found = times_faster(records, record)
        line = f"Seed {found['seed']}: "
        if found["ratio"] is None:
            line += "every budget of optimisation leaves a smaller squared error than the network; "
        else:
            budget = str(found["budget"]).removeprefix("optimised, ")
            line += f"the network is {found['ratio']:,.0f} times faster than optimisation with {budget}, and no worse; "
        if found["better_at"] is None:
            line += "no budget leaves a smaller squared error."
        else:
            budget = str(found["better_budget"]).removeprefix("optimised, ")
            line += f"{budget} leaves a smaller one and takes {found['better_at']:,.0f} times as long."
        lines.append(line)
    text = (
        "Both on the same scenes, by the squared error of the scene drawn again, which optimisation minimises and the "
        "network does not see at test time. The network's time is what a batch of 64 takes."
    )
    return "\n\n".join([text, *lines])


def failures(scored: Scored, dataset: TableScenes) -> np.ndarray:
    """(M,) bool: which scenes miss a goal."""
    scores, size = scored.scores, len(scored.mse)
    kinds = dataset.scene("test", np.arange(size)).kind[:, 0].numpy()
    wrong = (scores.class_accuracy.per_image < 1.0) | (scores.position_error.per_image > GOALS["position_error"])
    turning = scored.kinds.index(TURNING)
    right = np.flatnonzero((kinds == turning) & (scores.class_accuracy.per_image == 1.0))
    wrong[right] |= scores.rotation_errors[turning] > GOALS["rotation_degrees"]
    return np.asarray(wrong)


def summary_text(records: Sequence[Mapping[str, Any]], faster: Sequence[Mapping[str, Any]]) -> str:
    """The numbers that the goals are about, one per seed."""

    def each(method: str) -> str:
        part = [record for record in records if record["method"] == method]
        accuracy = ", ".join(percent(record["class_accuracy"], 1) for record in part)
        place = ", ".join(percent(record["position_error"], 2) for record in part)
        turn = ", ".join(degrees(record["median_rotation_degrees"][TURNING]) for record in part)
        return f"class {accuracy}; position error {place} of the width; rotation of cubes {turn}"

    others = "; ".join(
        f"{name}: " + ", ".join(degrees(r["median_rotation_degrees"][TURNING]) for r in records if r["method"] == name)
        for name in SUPERVISED.values()
    )
    ratios = ", ".join("-" if one["ratio"] is None else f"{one['ratio']:,.0f}" for one in faster)
    return (
        f"A number per seed. AIR without labels: {each(AIR)}. The same network with labels turns cubes wrong by ({others}). "
        f"Times faster per image than optimisation of no smaller squared error: {ratios}."
    )
