"""Does summing over the count pay? AIR and DAIR trained with six estimators of the same gradient (Eslami et al. 2016 use one)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from objectwise import figures
from objectwise.figures import Section, Table
from objectwise.models.air_gradients import fit_baselines, gradient_spread, with_estimator
from objectwise.recipes import recipe
from objectwise.recipes.runs import load
from objectwise.studies.counting_tables import ms_per_step, seed_records, validation_curve
from objectwise.studies.study import Account, Settings, Trial

KINDS = ("air", "dair")
ESTIMATORS: dict[str, dict[str, str]] = {
    "marginal": {"estimator": "marginal"},
    "collapsed": {"estimator": "collapsed"},
    "score": {"estimator": "score"},
    "score+nvil": {"estimator": "score", "baselines": "nvil"},
    "vimco": {"estimator": "vimco"},
    "concrete": {"estimator": "concrete"},
}
"""Name -> settings of the model."""

COMPARED = ("marginal", "collapsed", "score+nvil")
"""Those that every seed is trained with; the others have one seed below full scale."""

THRESHOLDS = (0.90, 0.95, 0.98)
BASELINE_RATE = 1e-3
"""Learning rate of the score function's baselines, twice that of the rest."""
PARTLY = "partly trained"
"""Group of the short marginal runs at whose weights the variance is measured."""

_ALL, _PRESENCE = "all weights", "presence weights"


class AirEstimators:
    """Equal networks, data and seeds; only the estimator differs."""

    name = "air-estimators"
    title = "Estimators of AIR's gradient: steps, time and variance"

    def trials(self, settings: Settings) -> list[Trial]:
        """Seed by seed, both models with every estimator, and a short marginal run whose weights the variance is measured at."""
        seeds, steps, partly = {"smoke": (1, 20, 10), "quick": (3, 5_000, 500), "full": (5, 20_000, 500)}[
            settings.scale
        ]
        trials = []
        for seed in settings.seeds_or(seeds):
            for kind in KINDS:
                names = ESTIMATORS if seed == 0 or settings.scale == "full" else COMPARED
                trials += [self._trial(kind, name, seed, steps, settings) for name in names]
                trials.append(self._trial(kind, PARTLY, seed, partly, settings))
        return trials

    def _trial(self, kind: str, name: str, seed: int, steps: int, settings: Settings) -> Trial:
        base = recipe(f"{kind}-digits")
        changes = ESTIMATORS.get(name, ESTIMATORS["marginal"])
        rates = {"baselines": BASELINE_RATE} if "baselines" in changes else {}
        experiment = base.replaced(
            seed=seed,
            model=base.model.replaced(**changes),
            data=base.data.replaced(seed=seed, digits_root=settings.digits_root, **settings.scenes),
            training=base.training.replaced(
                max_steps=steps,
                validate_every=min(100, steps // 2),
                validation_images=64 if settings.scale == "smoke" else 500,
                group_learning_rates=rates,
                threads=1,
                checkpoint_every=1_000,
            ),
        )
        return Trial(f"{kind}-{name.replace(' ', '-')}-seed{seed}", experiment, f"{kind.upper()} {name}")

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Steps to each accuracy, curves, time per step, and the variance at the partly trained weights."""
        compared = [t for t in trials if not t.group.endswith(PARTLY)]
        records = seed_records(compared, runs, THRESHOLDS)
        for record in records:
            record["ms_per_step"] = ms_per_step(runs[record["key"]])
        spreads = self._spreads(settings, runs, [t for t in trials if t.group.endswith(PARTLY)])
        ratios = {kind.upper(): self._ratio(kind.upper(), records) for kind in KINDS}
        variance = {kind.upper(): _variance_ratios(spreads[kind.upper()]) for kind in KINDS}
        text = "; ".join(
            f"{model}: " + ", ".join(f"{found['text']} over {name}" for name, found in ratio.items())
            for model, ratio in ratios.items()
        )
        sections = [
            Section(
                "Steps to an accuracy",
                text="Count accuracy on 500 scenes of validation digits, looked at every 100 steps: the first look at which it "
                "is reached. Ratios are of the medians over seeds; where one of the two does not get there in the median, the "
                "steps it was given are a lower bound.",
                table=_steps_table(records, ratios),
            ),
            Section(
                "Accuracy against steps",
                text="Every seed is a thin line. Equal steps are not equal times: see the milliseconds above (VIMCO runs the "
                "chain five times per image).",
                figures=[self._curves(kind, compared, runs) for kind in KINDS],
            ),
            _variance_section(spreads, settings),
            Section("Every seed", text="On 2,000 test scenes made of test digits.", table=_seed_table(records)),
        ]
        results = {
            "trials": records,
            "steps_to_95_of_nvil": ratios,
            "gradient_variance": spreads,
            "presence_variance_over_marginal": variance,
        }
        return Account(results, sections, summary=f"Steps to 95 % of the score function with NVIL baselines: {text}.")

    def _ratio(self, model: str, records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Steps to 95 % of score+nvil over those of the two sums."""
        theirs = _to_95(records, f"{model} score+nvil")
        found = {}
        for name in ("marginal", "collapsed"):
            ours = _to_95(records, f"{model} {name}")
            found[name] = {"steps": ours, "score+nvil": theirs, "text": ratio_text(theirs, ours)}
        return found

    def _curves(self, kind: str, trials: Sequence[Trial], runs: Mapping[str, Path]) -> tuple[Figure, str]:
        series: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for trial in trials:
            model, name = trial.group.split(" ", 1)
            if model == kind.upper():
                series.setdefault(name, []).append(validation_curve(runs[trial.key], "count_accuracy"))
        return figures.seeds_figure(series, "count accuracy"), f"{kind.upper()}: accuracy on validation scenes"

    def _spreads(
        self, settings: Settings, runs: Mapping[str, Path], trials: Sequence[Trial]
    ) -> dict[str, dict[str, dict[str, list[float]]]]:
        """Model -> estimator -> set of weights -> variance of one draw's gradient, a number per seed."""
        images, draws, baseline_steps = {"smoke": (8, 4, 5)}.get(settings.scale, (64, 100, 500))
        spreads: dict[str, dict[str, dict[str, list[float]]]] = {}
        for trial in trials:
            dataset = trial.experiment.build_data()
            batch = dataset.batch("train", np.arange(images)).images
            trained = load(runs[trial.key])
            for name, changes in ESTIMATORS.items():
                model = with_estimator(trained, **changes)
                if "baselines" in changes:
                    fit_baselines(model, batch, steps=baseline_steps, learning_rate=BASELINE_RATE)
                found = gradient_spread(model, batch, draws=draws, seed=trial.experiment.seed)
                row = spreads.setdefault(trial.group.split()[0], {}).setdefault(name, {_ALL: [], _PRESENCE: []})
                row[_ALL].append(found.total_variance)
                row[_PRESENCE].append(found.presence_variance)
        return spreads


def ratio_text(theirs: tuple[float, bool], ours: tuple[float, bool]) -> str:
    """How many times more steps they took; each is (steps, whether the accuracy was reached by then)."""
    if not ours[1]:
        return "not measured"
    return f"{'' if theirs[1] else '>= '}{theirs[0] / ours[0]:.1f}x"


def _to_95(records: Sequence[Mapping[str, Any]], group: str) -> tuple[float, bool]:
    """(median steps to 95 % over seeds, True), or (the steps that were given, False) where the median seed never got there."""
    part = [record for record in records if record["group"] == group]
    steps = float(np.median([record["steps_to"]["0.95"] or np.inf for record in part]))
    return (steps, True) if np.isfinite(steps) else (float(part[0]["steps"]), False)


def _median_steps(part: Sequence[Mapping[str, Any]], threshold: float) -> str:
    found = [record["steps_to"][f"{threshold:g}"] for record in part]
    reached = [steps for steps in found if steps is not None]
    middle = np.median([np.inf if steps is None else steps for steps in found])
    shown = f"{middle:,.0f}" if np.isfinite(middle) else f"> {part[0]['steps']:,}"
    return shown if len(reached) == len(found) else f"{shown} ({len(reached)} of {len(found)} seeds)"


def _steps_table(records: Sequence[Mapping[str, Any]], ratios: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for group in dict.fromkeys(record["group"] for record in records):
        part = [record for record in records if record["group"] == group]
        model, name = group.split(" ", 1)
        accuracies = [100 * record["count_accuracy"] for record in part]
        rows.append(
            [
                group,
                *[_median_steps(part, threshold) for threshold in THRESHOLDS],
                f"{np.median(accuracies):.1f} % ({min(accuracies):.1f} to {max(accuracies):.1f})",
                round(float(np.median([record["ms_per_step"] for record in part]))),
                *[ratio["text"] if name == "score+nvil" else "" for ratio in ratios[model].values()],
            ]
        )
    header = [
        "",
        *[f"steps to {100 * t:g} %" for t in THRESHOLDS],
        "test accuracy",
        "ms/step",
        "to 95 %, over marginal",
        "over collapsed",
    ]
    return Table(header, rows)


def _seed_table(records: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            record["group"],
            record["seed"],
            f"{100 * record['count_accuracy']:.2f} %",
            *[record["steps_to"][f"{t:g}"] or "not reached" for t in THRESHOLDS],
            f"{record['elbo']:.1f}",
            f"{record['training_minutes']:.1f}",
        ]
        for record in records
    ]
    return Table(
        ["", "seed", "accuracy", *[f"to {100 * t:g} %" for t in THRESHOLDS], "ELBO, nats", "minutes"],
        rows,
    )


def _variance_ratios(rows: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """Estimator -> variance in the presence weights over that of the exact sum, median over seeds."""
    own = np.array(rows["marginal"][_PRESENCE])
    return {name: float(np.median(np.array(row[_PRESENCE]) / own)) for name, row in rows.items()}


def _variance_section(
    spreads: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], settings: Settings
) -> Section:
    rows = []
    for model, found in spreads.items():
        for name, row in found.items():
            shown = []
            for weights in (_ALL, _PRESENCE):
                own = np.median(found["marginal"][weights])
                shown += [float(np.median(row[weights])), f"{np.median(row[weights]) / own:.3g}"]
            rows.append([f"{model} {name}", *shown])
    text = (
        "Variance of the gradient of a batch's mean loss over draws of the noise, at the weights of a short "
        "marginal run, with the same images and weights for all estimators (baselines were fitted first, on these "
        "images, which favours them). Over all weights the noise of where and what, which all estimators share, dominates; the "
        "estimators of the count differ in the weights that presence alone comes from.\n\nThe collapsed bound, "
        "VIMCO's (five samples) and concrete's (relaxed) are other objectives than the ELBO: their variances "
        "belong to other means."
    )
    caption = "summed over the weights; bars reach to the median over seeds, dots are seeds"
    header = ["", "all weights", "over marginal", "presence weights", "over marginal"]
    if settings.scale == "smoke":
        text += " (Smoke: a few draws.)"
    return Section(
        "Variance of the gradient",
        text=text,
        table=Table(header, rows),
        figures=[(figures.gradient_variance_figure(spreads), caption)],
    )
