"""What each part of IODINE is worth, on small scenes of sprites: one setting is changed at a time, every seed is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from objectwise import figures
from objectwise.data.multi_dsprites import MultiDspritesConfig
from objectwise.figures import Section, Table
from objectwise.models.iodine_config import PAPER_INPUTS
from objectwise.recipes.experiment import Experiment
from objectwise.recipes.iodine import iodine_multi_dsprites
from objectwise.recipes.runs import load, run_experiment
from objectwise.studies import scene_scores as scenes
from objectwise.studies.iodine_decomposition import iodine_settings, scores_by_step, sigma_schedule, step_curves
from objectwise.studies.scene_scores import shown
from objectwise.studies.study import Account, Settings, Trial

TEST_IMAGES = 320
BASE = "whole model"
_FLAT = ("dzp", "zp")


def _without(name: str) -> dict[str, Any]:
    """All inputs but one."""
    return {"spatial_inputs": tuple(one for one in PAPER_INPUTS if one != name)}


VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "without the image": ("inputs", _without("image")),
    "without dL/dmean pictures": ("inputs", _without("dcomponents")),
    "without dL/dmask": ("inputs", _without("dmask")),
    "without leave-one-out": ("inputs", _without("counterfactual")),
    "without dL/dposterior": ("inputs", {"flat_inputs": ("zp",)}),
    "image and dL/dposterior alone": ("inputs", {"spatial_inputs": ("coordinates", "image"), "flat_inputs": _FLAT}),
    "no layer norm": ("inputs", {"layer_norm": "off"}),
    "sigma 0.1": ("likelihood", {"sigma": 0.1}),
    "sigma 0.2": ("likelihood", {"sigma": 0.2}),
    "sigma from 0.3 to 0.1": ("likelihood", {"sigma_start": 0.3, "sigma": 0.1}),
    "sigma from 0.3 to 0.05": ("likelihood", {"sigma_start": 0.3, "sigma": 0.05}),
    "learned sigma": ("likelihood", {"learned_sigma": True}),
    "mixture per channel": ("likelihood", {"likelihood": "per_channel"}),
    "logistic, s 0.03": ("likelihood", {"density": "logistic", "sigma_start": 0.1, "sigma": 0.03}),
    "gradients everywhere": ("training", {"gradient_scope": "none"}),
    "some inputs differentiated": ("training", {"gradient_scope": "partial"}),
    "steps cut apart": ("training", {"gradient_scope": "all", "initial_posterior": "fixed"}),
    "last step's loss alone": ("training", {"loss_weights": "last"}),
    "uniform loss weights": ("training", {"loss_weights": "uniform"}),
    "decreasing loss weights": ("training", {"loss_weights": "decreasing"}),
    "LSTM": ("update", {"recurrent_cell": "lstm"}),
    "gated update": ("update", {"update": "gated"}),
    "three refinement steps": ("update", {"refinement_steps": 3}),
    "mean over pixels": ("network", {"encoder_pooling": "mean"}),
    "decoder at full size": ("network", {"decoder_doublings": 0, "decoder_widths": (32,) * 3}),
}
"""Name -> what it is about, and the settings that differ from the whole model. With the steps cut apart the loss of the last
step alone reaches the last update alone, so that nothing trains the initial posterior, which is then fixed."""

QUICK = ("without the image", "without dL/dposterior", "no layer norm", "sigma 0.1", "sigma from 0.3 to 0.1",
         "learned sigma", "some inputs differentiated", "last step's loss alone", "gated update")  # fmt: skip
"""Variants of ``quick``: those of the port's log."""
QUICK_STEPS, FULL_STEPS = 3_000, 20_000
SMALLER: Mapping[str, Any] = {
    "encoder_hidden": (128,),
    "latent_size": 16,
    "num_slots": 4,
    "recurrent_cell": "none",
    "gradient_scope": "inputs",
    "sigma_start": None,
    "sigma": 0.3,
}
"""In what the model of all trials differs from ``tuned``, so that three seeds of every variant fit into hours. σ stays
wide: thousands of steps are too few for slots to part and σ to fall."""


class IodineAblations:
    """Held-out foreground ARI, squared error and bound of the whole model and of each variant."""

    name = "iodine-ablations"
    title = "What the parts of IODINE are worth"

    def trials(self, settings: Settings) -> list[Trial]:
        """The whole model and every variant of the scale, seed by seed."""
        seeds = settings.seeds_or(1 if settings.scale == "smoke" else 3)
        names = QUICK if settings.scale == "quick" else tuple(VARIANTS)
        return [self._trial(name, seed, settings.scale) for seed in seeds for name in (BASE, *names)]

    def _trial(self, name: str, seed: int, scale: str) -> Trial:
        model, training = iodine_settings(iodine_multi_dsprites, "smoke" if scale == "smoke" else "quick", 1)
        values = dict(SMALLER)
        if scale == "smoke":
            values |= {"encoder_hidden": (16,), "latent_size": 4}
        else:
            steps = QUICK_STEPS if scale == "quick" else FULL_STEPS
            training = training.replaced(**scenes.budget(steps), batch_size=8 if scale == "quick" else 32)
        values |= {**sigma_schedule(training.max_steps), "gradient_scale": 1.0 / training.batch_size}
        values |= {} if name == BASE else VARIANTS[name][1]
        data = MultiDspritesConfig(image_size=24, counts=(2, 3), seed=seed, eval_size=12 if scale == "smoke" else 2_000)
        experiment = Experiment.of(
            "iodine-ablations",
            "iodine",
            "multi_dsprites",
            model=model.replaced(**values),
            data=data,
            training=training,
            seed=seed,
        )
        return Trial(f"{_key(name)}-seed{seed}", experiment, name)

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Every seed's scores, and differences from the whole model seed by seed."""
        limit = 6 if settings.scale == "smoke" else TEST_IMAGES
        records = [self._record(trial, runs[trial.key], limit) for trial in trials]
        found = differences(records)
        sections = [self._differences(found), self._scores(records), self._curves(trials, runs, records)]
        results = {"test_images": limit, "differences": found, "trials": records}
        return Account(results, sections, summary=summary_text(records, found))

    def _record(self, trial: Trial, run: Path, limit: int) -> dict[str, Any]:
        model, dataset = load(run), run_experiment(run).build_data()
        found = scenes.scene_scores(model, dataset, limit=limit).summary()
        by_step = scores_by_step(model, dataset, limit=min(limit, 64))
        return {**scenes.run_record(trial, run), **found, "by_step": by_step}

    def _differences(self, found: Sequence[Mapping[str, Any]]) -> Section:
        header = [
            "about",
            "variant",
            "foreground ARI less than the whole model, median",
            "seeds",
            "worse in",
            "MSE more, median",
        ]
        rows = [
            [
                row["about"],
                row["variant"],
                shown(row["foreground_ari"]["median"]),
                ", ".join(shown(value) for value in row["foreground_ari"]["differences"]),
                f"{row['worse']} of {row['seeds']}",
                shown(row["mse"]["median"], 5),
            ]
            for row in found
        ]
        text = (
            "One setting is changed at a time; seed by seed, the whole model's held-out foreground ARI less the variant's: "
            "positive where the part helps. Seeds of one number share their data and their order, not their weights where the "
            "network differs. Bounds are not compared: they depend on σ and on the density."
        )
        return Section("What each part is worth", text=text, table=Table(header, rows))

    def _scores(self, records: Sequence[Mapping[str, Any]]) -> Section:
        header = ["variant", "seed", "steps", "scored", "foreground ARI", "full ARI", "mBO", "MSE", "training, minutes"]
        rows = [
            [
                record["group"],
                record["seed"],
                f"{record['steps']:,}",
                record["scored"],
                *(shown(record[name]) for name in ("foreground_ari", "ari", "mbo")),
                shown(record["mse"], 5),
                f"{record['training_minutes']:.1f}",
            ]
            for record in records
        ]
        drawn = []
        for about, names in _parts(records):
            scores = {
                name: {"": scenes.numbers([r["foreground_ari"] for r in records if r["group"] == name])}
                for name in names
            }
            if any(value == value for part in scores.values() for value in part[""]):
                figure = figures.seed_scores_figure(scores, "foreground ARI", limits=scenes.UNIT)
                drawn.append((figure, f"{about}: a dot per seed"))
        return Section("Every seed", table=Table(header, rows), figures=drawn)

    def _curves(
        self, trials: Sequence[Trial], runs: Mapping[str, Path], records: Sequence[Mapping[str, Any]]
    ) -> Section:
        drawn = []
        for about, names in _parts(records):
            part = [trial for trial in trials if trial.group in names]
            figure, caption = scenes.curve_figure(part, runs, "foreground_ari", "foreground ARI")
            drawn.append((figure, f"{about}: {caption}"))
            curves = step_curves([record for record in records if record["group"] in names], "mse")
            figure = figures.seeds_figure(curves, "squared error", steps="refinement steps")
            drawn.append((figure, f"{about}: squared error after each refinement step, a line per seed"))
        return Section("Over training, and step by step", figures=drawn)


def differences(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each part wins, seed by seed: foreground ARI of the whole model less the variant's, and the variant's error less its.

    Seeds without a score on either side are left out.
    """
    whole = {record["seed"]: record for record in records if record["group"] == BASE}
    found = []
    for variant in dict.fromkeys(record["group"] for record in records if record["group"] != BASE):
        part = [record for record in records if record["group"] == variant and record["seed"] in whole]
        row: dict[str, Any] = {"variant": variant, "about": VARIANTS[variant][0]}
        for name, sign in (("foreground_ari", 1.0), ("mse", -1.0)):
            values = [
                sign * (whole[record["seed"]][name] - record[name])
                for record in part
                if whole[record["seed"]][name] is not None and record[name] is not None
            ]
            row[name] = {"differences": values, "median": float(np.median(values)) if values else None}
        scores = row["foreground_ari"]["differences"]
        row |= {"seeds": len(scores), "worse": sum(value > 0.0 for value in scores)}
        found.append(row)
    return found


def summary_text(records: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> str:
    """The whole model's score of each seed, and the parts that every seed misses."""
    base = ", ".join(shown(record["foreground_ari"]) for record in records if record["group"] == BASE)
    missed = [
        f"{row['variant']} ({-row['foreground_ari']['median']:+.3f})"
        for row in found
        if row["seeds"] and row["worse"] == row["seeds"]
    ]
    text = ", ".join(missed) if missed else "none"
    return f"Foreground ARI of the whole model, a number per seed: {base}. Worse in every seed, with the median change: {text}."


def _parts(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """What variants are about, and the groups to show together, the whole model first."""
    groups = list(dict.fromkeys(record["group"] for record in records))
    abouts = dict.fromkeys(VARIANTS[name][0] for name in groups if name != BASE)
    return [(a, [BASE, *(name for name in groups if name != BASE and VARIANTS[name][0] == a)]) for a in abouts]


def _key(name: str) -> str:
    plain = name.lower().replace("'s", "s").replace("/", "-").replace(",", "").replace(" ", "-")
    return plain
