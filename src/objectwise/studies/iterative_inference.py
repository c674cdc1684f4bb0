"""Iterative amortized inference on digits: what helps an encoder that corrects itself (Marino et al. 2018; IODINE port's log)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from objectwise import figures
from objectwise.core import Dataset
from objectwise.figures import Section, Table
from objectwise.models.iterative_vae import importance_log_likelihood
from objectwise.recipes.iterative_vae import STANDARD, iterative_vae_mnist
from objectwise.recipes.latents import sampled_terms
from objectwise.recipes.runs import load, run_experiment
from objectwise.studies.running import read_results
from objectwise.studies.study import Account, Settings, Trial
from objectwise.training.callbacks import read_metrics

BASE = "image and gradients, ELU, gated, highway"
BLIND = "without the image"
BLIND_ADDITIVE = "additive update without the image"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    BASE: {},
    BLIND: {"encode_data": False},
    "without gradients": {"gradient_encoding": "none"},
    "gradients without signs": {"gradient_encoding": "log"},
    "normalised gradients": {"gradient_encoding": "layer_norm"},
    "raw gradients": {"gradient_encoding": "raw"},
    "ReLU": {"activation": "relu"},
    "additive update": {"update": "additive"},
    "direct update": {"update": "direct"},
    "no highway": {"highway": False},
    BLIND_ADDITIVE: {"encode_data": False, "update": "additive"},
    "ordinary VAE": STANDARD,
}
"""The port's last model, and what is changed about it, one thing at a time."""
REFERENCES: Mapping[str, str] = {BLIND_ADDITIVE: BLIND}
"""Variant -> what it is compared with, where that is not the whole model. Whether the port's trainings of updates saw the image
cannot be told from its history."""
CLAIMS: Mapping[str, tuple[str, float, str]] = {
    BLIND: ("encode the image as well as gradients", 2.0, "2 to 6 nats at equal steps, smoother"),
    "ReLU": ("ELU rather than ReLU", 0.0, "about 15 nats at 17,000 steps, less at the end"),
    "additive update": ("a gated update", 0.0, "about 8 nats at 30,000 steps"),
    BLIND_ADDITIVE: ("a gated update, of gradients alone", 0.0, "about 8 nats at 30,000 steps"),
}
"""Variant -> (what the port's log advises, the least difference in nats for it to hold here, what its plots show)."""

_ONE_SEED = ("gradients without signs", "normalised gradients", "raw gradients", "direct update")
"""Variants beside the claims: one seed below ``full``."""


class _Scale(NamedTuple):
    """Steps, seeds, steps per point of a curve, scored images, importance samples, and the most iterations when testing."""

    steps: int
    seeds: int
    bin: int
    images: int
    samples: int
    iterations: int


_SCALES = {
    "smoke": _Scale(20, 1, 10, 32, 10, 3),
    "quick": _Scale(6_000, 3, 500, 2_000, 500, 16),
    "full": _Scale(60_000, 5, 2_000, 2_000, 5_000, 16),
}
_WEIGHED = 500


class IterativeInference:
    """One model and ten changes to it, on single digits; test digits are never in training."""

    name = "iterative-inference"
    title = "Iterative amortized inference on digits"

    def trials(self, settings: Settings) -> list[Trial]:
        """Every variant, seed by seed."""
        scale, full = _SCALES[settings.scale], settings.scale == "full"
        return [
            self._trial(group, seed, scale, settings)
            for seed in settings.seeds_or(scale.seeds)
            for group in VARIANTS
            if full or seed == 0 or group not in _ONE_SEED
        ]

    def _trial(self, group: str, seed: int, scale: _Scale, settings: Settings) -> Trial:
        base = iterative_vae_mnist("port")
        model: Any = base.model
        experiment = base.replaced(
            seed=seed,
            model=model.replaced(**VARIANTS[group]),
            data=base.data.replaced(seed=seed, digits_root=settings.digits_root, **settings.scenes),
            training=base.training.replaced(
                max_steps=scale.steps,
                validate_every=max(1, scale.steps // 4),
                log_every=min(10, scale.bin),
                threads=1,
                checkpoint_every=5_000,
            ),
        )
        word = "base" if group == BASE else group.lower().replace(" ", "-")
        return Trial(f"{word}-seed{seed}", experiment, group)

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Bounds of every seed, the port's advice as numbers, curves, and more iterations than in training."""
        scale = _SCALES[settings.scale]
        first = settings.first_seed
        records = [self._record(trial, runs[trial.key], scale, first) for trial in trials]
        advice = advised(records)
        iterated = {
            trial.group: records[number]["elbo_by_iteration"]
            for number, trial in enumerate(trials)
            if trial.experiment.seed == first and trial.group != "ordinary VAE"
        }
        sections = [
            self._advice(advice, scale),
            self._scores(records, scale),
            self._curves(trials, runs, scale),
            self._iterations(iterated, trials),
            self._refining(trials, runs),
        ]
        told = "; ".join(
            f"{row['advice']}: {row['median']:+.1f} nats in the median, better in {row['better']} of {row['seeds']} seeds"
            for row in advice
            if row["variant"] in CLAIMS
        )
        source = trials[0].experiment.data.build().config.source  # type: ignore[attr-defined]
        return Account(
            {"digits": source, "trials": records, "advice": advice}, sections, summary=f"Digits: {source}. {told}."
        )

    def _record(self, trial: Trial, run: Path, scale: _Scale, first: int) -> dict[str, Any]:
        model, dataset, found = load(run), _dataset(run), read_results(run)
        terms = sampled_terms(model, dataset, "test", scale.images)
        images = dataset.batch("test", np.arange(min(_WEIGHED, scale.images))).images
        weighed = importance_log_likelihood(model, images, scale.samples, torch.Generator().manual_seed(0))
        by_iteration: list[float] = []
        if trial.group != "ordinary VAE" and trial.experiment.seed == first:
            by_iteration = elbo_by_iteration(model, dataset, scale.iterations, min(_WEIGHED, scale.images))
        return {
            "key": trial.key,
            "group": trial.group,
            "seed": trial.experiment.seed,
            "steps": found["steps"],
            "training_minutes": found["training_minutes"],
            "elbo": terms["elbo"],
            "elbo_first": terms["elbo_first"],
            "kl": terms["kl"],
            "log_likelihood_importance": float(weighed.mean()),
            "elbo_by_iteration": by_iteration,
        }

    def _advice(self, advice: Sequence[Mapping[str, Any]], scale: _Scale) -> Section:
        rows = [
            [
                row["variant"],
                row["advice"],
                f"{row['median']:+.2f}",
                ", ".join(f"{value:+.2f}" for value in row["differences"]),
                f"{row['better']} of {row['seeds']}",
                row["reported"],
            ]
            for row in advice
        ]
        header = ["instead", "advice", "nats won, median", "each seed", "better in", "the port's plots"]
        text = (
            f"ELBO of the whole model ({BASE}) minus that of the model with one thing changed, on held-out digits with sampled "
            f"codes, after {scale.steps:,} steps of 32, seed by seed. The {BLIND_ADDITIVE} is compared with the gated one. The "
            "port's plots are of single runs of other models, in training; several lost the gradients' signs by accident, "
            "which is a variant of its own here."
        )
        return Section("What helps", text=text, table=Table(header, rows))

    def _scores(self, records: Sequence[Mapping[str, Any]], scale: _Scale) -> Section:
        header = ["", "seed", "ELBO", "after one iteration", "log p(x), importance", "KL", "minutes"]
        rows = [
            [
                r["group"],
                r["seed"],
                f"{r['elbo']:.2f}",
                f"{r['elbo_first']:.2f}",
                f"{r['log_likelihood_importance']:.2f}",
                f"{r['kl']:.1f}",
                f"{r['training_minutes']:.1f}",
            ]
            for r in records
        ]
        text = (
            "Nats per image on held-out grey digits (cross-entropy; not comparable with numbers of binarised digits). "
            f"Importance: {scale.samples:,} samples for {min(_WEIGHED, scale.images)} images."
        )
        return Section("Every seed", text=text, table=Table(header, rows))

    def _curves(self, trials: Sequence[Trial], runs: Mapping[str, Path], scale: _Scale) -> Section:
        drawn = []
        for title, groups in (
            ("what is encoded", [BASE, *list(VARIANTS)[1:6]]),
            ("network and update", [BASE, *(name for name in list(VARIANTS)[6:] if name != BLIND_ADDITIVE)]),
            ("update without the image", [BLIND, BLIND_ADDITIVE]),
        ):
            series = {
                group: [training_curve(runs[t.key], scale.bin) for t in trials if t.group == group] for group in groups
            }
            caption = f"{title}: ELBO of training batches, means of {scale.bin} steps, a line per seed and their median"
            drawn.append((figures.seeds_figure(series, "ELBO, nats"), caption))
        return Section("Over training", figures=drawn)

    def _iterations(self, iterated: Mapping[str, Sequence[float]], trials: Sequence[Trial]) -> Section:
        series = {
            group: [(np.arange(len(values)), np.array(values))] for group, values in iterated.items() if len(values)
        }
        trained = max(t.experiment.model.iterations for t in trials)  # type: ignore[attr-defined]
        whole = iterated[BASE]
        usual, most = min(trained, len(whole) - 1), len(whole) - 1
        text = (
            f"Trained with {trained} iterations, seed {trials[0].experiment.seed}. {BASE[0].upper()}{BASE[1:]}: "
            f"{whole[1]:.1f} nats after one iteration, {whole[usual]:.1f} after {usual}, {whole[most]:.1f} after {most}."
        )
        drawn = figures.seeds_figure(
            {g: [(x[1:], y[1:]) for x, y in c] for g, c in series.items()}, "ELBO, nats", steps="iterations"
        )
        return Section("More iterations when testing", text=text, figures=[(drawn, "held-out digits, sampled codes")])

    def _refining(self, trials: Sequence[Trial], runs: Mapping[str, Path]) -> Section:
        first = next(t for t in trials if t.group == BASE)
        run = runs[first.key]
        batch = _dataset(run).batch("test", np.arange(6))
        out = load(run).decompose(batch.images, trajectory=True)
        drawn = figures.steps_figure(batch, out)
        return Section(
            "How an answer comes about",
            figures=[(drawn, "the first held-out digits; step 1 is the prior, before any look at the image")],
        )


def advised(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each part wins, in nats of held-out ELBO, seed by seed."""
    found = []
    for variant in dict.fromkeys(r["group"] for r in records if r["group"] != BASE):
        whole = {r["seed"]: r["elbo"] for r in records if r["group"] == REFERENCES.get(variant, BASE)}
        differences = [whole[r["seed"]] - r["elbo"] for r in records if r["group"] == variant and r["seed"] in whole]
        advice, least, reported = CLAIMS.get(variant, ("", 0.0, ""))
        found.append(
            {
                "variant": variant,
                "advice": advice,
                "reported": reported,
                "goal": least,
                "median": float(np.median(differences)),
                "differences": differences,
                "better": sum(value > least for value in differences),
                "seeds": len(differences),
            }
        )
    return found


def training_curve(run: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values): the logged ELBO of training batches, averaged over every ``size`` steps; a last part is left out."""
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["split"] == "train" and "elbo" in row]
    parts: dict[int, list[float]] = {}
    for row in rows:
        parts.setdefault((int(row["step"]) - 1) // size, []).append(float(row["elbo"]))
    last = max((int(row["step"]) for row in rows), default=0)
    whole = sorted(number for number in parts if (number + 1) * size <= last)
    return np.array([(number + 1) * size for number in whole]), np.array([np.mean(parts[number]) for number in whole])


@torch.no_grad()
def elbo_by_iteration(model: Any, dataset: Dataset, iterations: int, images: int) -> list[float]:
    """Mean ELBO of λ_0, λ_1, ... λ_T with sampled codes, in nats, for any T."""
    batch = dataset.batch("test", np.arange(images))
    found = model.reconfigured(iterations=iterations)(
        batch.images, generator=torch.Generator().manual_seed(0), trajectory=True
    )
    return [-float(step.loss.mean()) for step in found.trajectory]


def _dataset(run: Path) -> Dataset:
    dataset: Dataset = run_experiment(run).data.build()  # type: ignore[attr-defined]
    return dataset
