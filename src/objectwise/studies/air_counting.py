"""Counting digits: AIR and Difference AIR on scenes of 0 to 2 digits, over seeds (Eslami et al. 2016, first experiment)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from objectwise import figures
from objectwise.figures import Section, Table
from objectwise.recipes import recipe
from objectwise.studies.counting_tables import group_summary, seed_records, seed_table, validation_curve
from objectwise.studies.study import Account, Settings, Trial

THRESHOLDS = (0.90, 0.95, 0.98)

REPORTED = Table(
    ["implementation", "count accuracy", "steps", "runs that succeed", "source"],
    [
        ["Pyro's AIR example", "98.7 % (training set)", "200,000", "not stated", "its tutorial"],
        ["addtt/attend-infer-repeat-pytorch", "98.3 ± 0.15 %", "not stated", "about 80 %", "its README"],
        ["akosiorek/attend_infer_repeat", "about 100 % when it works", "300,000", "1 in 5", "its README"],
        ["aakhundov/tf-attend-infer-repeat (Concrete)", "98 %", "18,000 to 33,000", "10 of 10", "its README"],
        ["GenJAX, enumeration (PLDI 2024 artifact)", "98.4 %", "37,500", "1 run", "its artifact"],
    ],
)


class AirCounting:
    """AIR and DAIR on 50×50 scenes of 0 to 2 digits; test digits are never in training."""

    name = "air-counting"
    title = "Counting digits with AIR and Difference AIR"

    def trials(self, settings: Settings) -> list[Trial]:
        """AIR and DAIR, seed by seed."""
        seeds = settings.seeds_or({"smoke": 1, "quick": 3, "full": 10}[settings.scale])
        steps = {"smoke": 40, "quick": 5_000, "full": 10_000}[settings.scale]
        return [self._trial(kind, seed, steps, settings) for seed in seeds for kind in ("air", "dair")]

    def _trial(self, kind: str, seed: int, steps: int, settings: Settings) -> Trial:
        base = recipe(f"{kind}-digits")
        every = min(250, steps // 2)
        experiment = base.replaced(
            seed=seed,
            data=base.data.replaced(seed=seed, digits_root=settings.digits_root, **settings.scenes),
            training=base.training.replaced(
                max_steps=steps, validate_every=every, validation_images=1_000, threads=1, checkpoint_every=1_000
            ),
        )
        return Trial(f"{kind}-seed{seed}", experiment, kind.upper())

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Every seed, the steps it needed, and how reconstruction and counting develop."""
        records = seed_records(trials, runs, THRESHOLDS)
        summary = group_summary(records, 0.98)
        source = trials[0].experiment.data.build().config.source  # type: ignore[attr-defined]
        text = "; ".join(
            f"{group}: median {100 * s['median']:.1f} % ({100 * s['lowest']:.1f} to {100 * s['highest']:.1f}), "
            f"{s['reached']} of {s['seeds']} seeds reach 98 % on validation scenes"
            for group, s in summary.items()
        )
        sections = [
            Section("Every seed", text="Count accuracy on 2,000 test scenes made of test digits; the steps are "
                    "those of the first validation (every 250 steps, 1,000 scenes of validation digits) at the accuracy.",
                    table=seed_table(records, THRESHOLDS)),
            Section("Over training", figures=[self._curves(trials, runs, name) for name in ("count_accuracy", "mse", "elbo")]),
            self._development(trials, runs),
            *[self._confusion(group, records) for group in summary],
            Section("Reported elsewhere", text="Other digits, sizes and accuracies (often on the training set): read as "
                    "orders of magnitude. The paper gives no number, only a figure.", table=REPORTED),
        ]  # fmt: skip
        results = {"digits": source, "summary": summary, "trials": records}
        return Account(results, sections, summary=f"Digits: {source}. {text}.")

    def _development(self, trials: Sequence[Trial], runs: dict[str, Path]) -> Section:
        """Reconstruction error and number of steps used against training."""
        text = (
            "Mean number of steps used (the most probable count) on validation scenes. The scenes have one digit "
            "on average, so that 1.0 is right; read it beside the reconstruction error (mse) above. The paper "
            "reports that its models first learn to reconstruct with all steps, and then to use fewer."
        )
        counted = [t for t in trials if len(validation_curve(runs[t.key], "mean_count")[0])]
        return Section(
            "How it develops", text=text, figures=[self._curves(counted, runs, "mean_count")] if counted else ()
        )

    def _curves(self, trials: Sequence[Trial], runs: dict[str, Path], name: str) -> tuple[Figure, str]:
        series: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for trial in trials:
            series.setdefault(trial.group, []).append(validation_curve(runs[trial.key], name))
        return figures.seeds_figure(
            series, name.replace("_", " ")
        ), f"{name.replace('_', ' ')} of validation scenes, a line per seed"

    def _confusion(self, group: str, records: Sequence[dict[str, object]]) -> Section:
        matrices = [np.array(r["confusion"]) for r in records if r["group"] == group]
        size = max(len(m) for m in matrices)
        total = np.sum([np.pad(m, (0, size - len(m))) for m in matrices], axis=0)
        return Section(
            f"{group}: confusion over all seeds", figures=[(figures.confusion_figure(total), "true and found counts")]
        )
