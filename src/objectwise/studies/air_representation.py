"""What labels can read from AIR's codes: the sum of two digits, and whether they ascend (Eslami et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from objectwise import figures
from objectwise.core import Dataset
from objectwise.data.digits import sum_and_order
from objectwise.figures import Section, Table
from objectwise.metrics import BUDGETS, ProbeResult, catches_up_at, codes_for_probe, probe, probe_images
from objectwise.recipes import recipe
from objectwise.recipes.runs import load
from objectwise.studies.running import read_results
from objectwise.studies.study import Account, Settings, Trial
from objectwise.training.evaluation import decompositions
from objectwise.training.precision import has_bf16

MODELS = {"AIR": "air-digits", "DAIR": "dair-digits", "VAE": "vae-digits"}
"""Representation -> recipe; the VAE is the baseline without objects."""
HEADS: dict[str, dict[str, Any]] = {
    "AIR": {"head": "shared2x256", "objects": 2},
    "DAIR": {"head": "shared2x256", "objects": 2},
    "VAE": {"head": "mlp2x256"},
}
"""Representation -> head. One for both slots: read apart, each place must learn the digits anew (sum 73 % instead of 91 %)."""
PIXELS = "pixels (CNN)"
TASKS = {"sum": "sum of the two digits", "order": "ascending from left to right"}
REPORTED = "about 95 %, with far fewer labels than a convolutional network on pixels needs"
"""On both tasks; second-hand, read off a figure."""


class _Scale(NamedTuple):
    """Trainings, their steps, label budgets, labelled subsets, test scenes, and looks of heads and networks."""

    trainings: int
    steps: int
    budgets: tuple[int, ...]
    draws: int
    test: int
    code_looks: int
    pixel_looks: int


_SCALES = {
    "smoke": _Scale(1, 20, (20, 40), 2, 64, 1, 1),
    "quick": _Scale(1, 10_000, BUDGETS, 5, 2_000, 40, 15),
    "full": _Scale(5, 50_000, BUDGETS, 5, 2_000, 100, 40),
}


class Scenes(NamedTuple):
    """Scenes of exactly two digits.

    Attributes:
        images: (B, 1, H, W).
        labels: task -> (B,) int64.
    """

    images: Tensor
    labels: dict[str, Tensor]


class AirRepresentation:
    """Heads on codes, and a network on pixels, with 100 to 30,000 labels."""

    name = "air-representation"
    title = "What labels can read from codes of scenes"

    def trials(self, settings: Settings) -> list[Trial]:
        """AIR, DAIR and a plain VAE on scenes of 0 to 2 digits, seed by seed."""
        scale = _SCALES[settings.scale]
        return [
            self._trial(n, seed, scale.steps, settings) for seed in settings.seeds_or(scale.trainings) for n in MODELS
        ]

    def _trial(self, name: str, seed: int, steps: int, settings: Settings) -> Trial:
        base = recipe(MODELS[name])
        experiment = base.replaced(
            seed=seed,
            data=base.data.replaced(seed=seed, digits_root=settings.digits_root, **settings.scenes),
            training=base.training.replaced(
                max_steps=steps, validate_every=min(1_000, steps // 2), threads=1, checkpoint_every=1_000
            ),
        )
        return Trial(f"{name.lower()}-seed{seed}", experiment, name)

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Accuracy against labels for every representation, and the budget at which pixels catch up."""
        scale = _SCALES[settings.scale]
        data: Any = trials[0].experiment.data
        dataset: Dataset = data.replaced(seed=0, counts=(2,), train_size=max(scale.budgets)).build()
        train, test = (
            two_digit_scenes(dataset, s, n) for s, n in (("train", max(scale.budgets)), ("test", scale.test))
        )
        results: dict[str, dict[str, ProbeResult]] = {task: {} for task in TASKS}
        for name in MODELS:
            parts: dict[str, list[ProbeResult]] = {task: [] for task in TASKS}
            for trial in (t for t in trials if t.group == name):
                model = load(runs[trial.key])
                known, asked = (
                    codes_of(model, dataset, s, len(part.images)) for s, part in (("train", train), ("test", test))
                )
                for task in TASKS:
                    parts[task].append(
                        probe(
                            known,
                            train.labels[task],
                            asked,
                            test.labels[task],
                            budgets=scale.budgets,
                            seeds=scale.draws,
                            looks=scale.code_looks,
                            **HEADS[name],
                        )
                    )
            for task in TASKS:
                results[task][name] = pooled(parts[task])
        for task in TASKS:
            results[task][PIXELS] = probe_images(
                train.images,
                train.labels[task],
                test.images,
                test.labels[task],
                budgets=scale.budgets,
                seeds=scale.draws,
                looks=scale.pixel_looks,
                bf16=has_bf16("cpu"),
            )
        source = data.build().config.source
        return self._told(results, source, scale, runs, trials)

    def _told(
        self,
        results: Mapping[str, Mapping[str, ProbeResult]],
        source: str,
        scale: _Scale,
        runs: Mapping[str, Path],
        trials: Sequence[Trial],
    ) -> Account:
        overtaken = {
            task: {name: catches_up_at(found[PIXELS], found[name]) for name in MODELS}
            for task, found in results.items()
        }
        text = "; ".join(self._told_of(task, found, overtaken[task]) for task, found in results.items())
        drawn = (
            "Scenes of exactly two digits. Labels are of scenes made of training digits, the test scenes "
            f"({scale.test:,}) of test digits. Bands reach from the worst to the best of {scale.draws} draws of "
            f"the labelled scenes, for codes times {len(trials) // len(MODELS)} training(s) of the model, which saw scenes of "
            "0 to 2 digits and no labels. Codes: two slots from left to right and the count (the VAE: its one code); "
            "heads: two hidden layers of 256 units, the same for both slots, and a third over both; pixels: three "
            "convolutions and two dense layers."
        )
        shown = figures.label_efficiency_figure({TASKS[task]: found for task, found in results.items()})
        sections = [
            Section(
                "Label efficiency", text=drawn, figures=[(shown, "accuracy on test scenes against labelled scenes")]
            ),
            *[Section(TASKS[task].capitalize(), table=_table(found)) for task, found in results.items()],
            Section(
                "Where pixels catch up",
                text="The smallest budget from which on the network on pixels is at least as good on average.",
                table=Table(
                    ["codes of", *TASKS.values()],
                    [[name, *[_overtaking(overtaken[task][name]) for task in TASKS]] for name in MODELS],
                ),
            ),
            Section("The models", text="Scenes of 0 to 2 test digits.", table=_models_table(trials, runs)),
            Section(
                "Reported elsewhere",
                text="The paper shows curves only and does not give its label budgets, heads or numbers.",
                table=Table(
                    ["", *TASKS.values()],
                    [
                        ["AIR, paper", REPORTED, "the same"],
                        *[
                            [
                                f"{name}, ours, {scale.budgets[-1]:,} labels",
                                *[_span(results[t][name], -1) for t in TASKS],
                            ]
                            for name in (*MODELS, PIXELS)
                        ],
                    ],
                ),
            ),
        ]
        record = {
            "digits": source,
            "published": REPORTED,
            "tasks": {task: {name: _plain(one) for name, one in found.items()} for task, found in results.items()},
            "pixels_catch_up_at": overtaken,
            "trainings": {trial.key: _training(runs[trial.key]) for trial in trials},
        }
        return Account(record, sections, summary=f"Digits: {source}. {text}.")

    def _told_of(self, task: str, found: Mapping[str, ProbeResult], overtaken: Mapping[str, int | None]) -> str:
        """A sentence on one task: the best codes at the largest budget beside the pixels."""
        best = max(MODELS, key=lambda name: float(found[name].mean[-1]))
        return (
            f"{TASKS[task].capitalize()}, {found[best].budgets[-1]:,} labels: {best}'s codes "
            f"{100 * found[best].mean[-1]:.1f} %, pixels {100 * found[PIXELS].mean[-1]:.1f} % "
            f"({_overtaking(overtaken[best])})"
        )


def two_digit_scenes(dataset: Dataset, split: str, number: int) -> Scenes:
    """The first scenes of a split of ``counts=(2,)`` with the labels of both tasks."""
    images, sums, orders = [], [], []
    for start in range(0, number, 1_000):
        batch = dataset.batch(split, np.arange(start, min(start + 1_000, number)))
        labels = sum_and_order(batch)
        images.append(batch.images)
        sums.append(labels.sum)
        orders.append(labels.ascending)
    return Scenes(torch.cat(images), {"sum": torch.cat(sums), "order": torch.cat(orders)})


def codes_of(model: torch.nn.Module, dataset: Dataset, split: str, number: int) -> Tensor:
    """(number, D) codes at posterior means of the first scenes of a split."""
    parts = decompositions(model, dataset, split, np.arange(number), batch_size=256)
    return torch.cat([codes_for_probe(out, order="left-to-right") for _, out in parts])


def pooled(parts: Sequence[ProbeResult]) -> ProbeResult:
    """Results of several trainings of one model as those of one, with all their seeds side by side."""
    return replace(
        parts[0],
        accuracy=np.concatenate([part.accuracy for part in parts], axis=1),
        predictions=np.concatenate([part.predictions for part in parts], axis=1),
    )


def _plain(result: ProbeResult) -> dict[str, Any]:
    """A result for JSON: every seed's accuracy."""
    return {
        "budgets": list(result.budgets),
        "accuracy": result.accuracy.tolist(),
        "chance": result.chance,
        "policy": dict(result.policy),
    }


def _training(run: Path) -> dict[str, Any]:
    found = read_results(run)
    names = ("seed", "steps", "elbo", "count_accuracy", "training_minutes", "hardware")
    return {name: found[name] for name in names if name in found}


def _span(result: ProbeResult, row: int) -> str:
    low, high = result.band
    return f"{100 * result.mean[row]:.1f} % ({100 * low[row]:.1f} to {100 * high[row]:.1f})"


def _table(found: Mapping[str, ProbeResult]) -> Table:
    names = list(found)
    budgets = found[names[0]].budgets
    rows: list[list[object]] = [
        [f"{budget:,}", *[_span(found[name], row) for name in names]] for row, budget in enumerate(budgets)
    ]
    rows.append(["chance", *[f"{100 * found[name].chance:.1f} %" for name in names]])
    return Table(["labels", *names], rows)


def _overtaking(budget: int | None) -> str:
    return "pixels never catch up" if budget is None else f"pixels catch up at {budget:,}"


def _models_table(trials: Sequence[Trial], runs: Mapping[str, Path]) -> Table:
    rows = []
    for trial in trials:
        found = read_results(runs[trial.key])
        counted = f"{100 * found['count_accuracy']:.2f} %" if trial.group != "VAE" else "does not count"
        rows.append([trial.group, trial.experiment.seed, found["steps"], counted, f"{found['elbo']:.1f}"])
    return Table(["", "seed", "steps", "count accuracy", "ELBO, nats"], rows)
