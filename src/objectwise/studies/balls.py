"""The ball recreation's 18 experiments as numbers, and what changes when β is in the papers' good band (Higgins et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from objectwise import figures
from objectwise.figures import Section, Table
from objectwise.metrics import axis_alignment, dci, wilson_interval
from objectwise.recipes.beta_vae import beta_vae_balls
from objectwise.recipes.codes import cached_codes
from objectwise.recipes.latents import Latents, sampled_terms, traversals
from objectwise.recipes.runs import load
from objectwise.recipes.sliders import write_slider_page
from objectwise.studies.running import read_results
from objectwise.studies.study import Account, Settings, Trial

Recreated = Literal["fc", "conv", "all_conv"]
ARCHITECTURES: dict[Recreated, str] = {
    "fc": "fully connected",
    "conv": "convolutional",
    "all_conv": "all-convolutional",
}
BALLS = (1, 2)
BETAS = (0.1, 0.5, 1.0)
GOOD_BAND = (0.01, 0.1)
"""β_norm of the paper's good ridge for ten latents, read off its map."""
CANDIDATES = (0.025, 0.05, 0.1)
"""β_norm of the corrected arm, all in the band; the validation seeds choose one. β = 2.6, 5.1 and 10.2 with ten latents."""

REPORTED: dict[tuple[Recreated, int], tuple[float, float, float]] = {
    ("fc", 1): (0.3, 0.9, 1.5),
    ("conv", 1): (0.3, 1.0, 1.8),
    ("all_conv", 1): (0.3, 1.1, 2.4),
    ("fc", 2): (1.1, 2.8, 4.8),
    ("conv", 2): (1.5, 4.3, 6.9),
    ("all_conv", 2): (2.0, 4.7, 5.8),
}
"""The recreation's reconstruction error above the entropy floor in nats for β = 0.1, 0.5 and 1; read off its plots, ±0.02."""
STOPS = (-3.0, -1.5, 0.0, 1.5, 3.0)
"""Where the recreation's traversals stop by."""
ROWS = 10
"""Latents it shows."""


class _Scale(NamedTuple):
    """Steps of the 18 runs and of the corrected arm, its fresh and its validation seeds, scored frames, and trees of DCI."""

    steps: int
    corrected_steps: int
    seeds: int
    validation_seeds: int
    frames: int
    trees: int


_SCALES = {
    "smoke": _Scale(10, 10, 1, 0, 384, 3),
    "quick": _Scale(10_000, 8_000, 5, 2, 4_096, 50),
    "full": _Scale(100_000, 30_000, 5, 2, 4_096, 100),
}


class Balls:
    """The recreation's 3 architectures × 1 and 2 balls × β, and one ball in the paper's good band over five fresh seeds."""

    name = "balls"
    title = "Balls: which latents a β-VAE uses, and what for"

    def trials(self, settings: Settings) -> list[Trial]:
        """The corrected arm first, its validation seeds after the fresh ones, then the 18 cells, seed by seed."""
        settings.from_seed_zero(self.name, "those of the validation follow the fresh ones")
        scale = _SCALES[settings.scale]
        seeds = range(len(settings.seeds_or(scale.seeds)) + scale.validation_seeds)
        corrected = [self._corrected(norm, seed, scale, settings) for seed in seeds for norm in CANDIDATES]
        cells = [
            self._cell(architecture, balls, beta, seed, scale, settings)
            for seed in settings.seeds_or(1 if settings.scale != "full" else 3)
            for architecture in ARCHITECTURES
            for balls in BALLS
            for beta in BETAS
        ]
        return corrected + cells

    def _cell(
        self, architecture: Recreated, balls: int, beta: float, seed: int, scale: _Scale, settings: Settings
    ) -> Trial:
        base = beta_vae_balls("faithful", architecture=architecture, balls=balls)
        model: Any = base.model
        experiment = self._sized(base.replaced(model=model.replaced(beta=beta)), seed, scale.steps, settings)
        key = f"{architecture.replace('_', '-')}-{balls}-beta{beta:g}-seed{seed}"
        return Trial(key, experiment, cell_name(architecture, balls, beta))

    def _corrected(self, norm: float, seed: int, scale: _Scale, settings: Settings) -> Trial:
        base = beta_vae_balls("corrected")
        model: Any = base.model
        weighted = base.replaced(model=model.replaced(beta_norm=norm))
        experiment = self._sized(weighted, seed, scale.corrected_steps, settings)
        return Trial(f"corrected-norm{norm:g}-seed{seed}", experiment, corrected_name(norm))

    @staticmethod
    def _sized(base: Any, seed: int, steps: int, settings: Settings) -> Any:
        every = max(1, min(1_000, steps // 2))
        training = base.training.replaced(max_steps=steps, validate_every=every, threads=1, checkpoint_every=2_000)
        small = {"eval_size": 384} if settings.scale == "smoke" else {}
        return base.replaced(seed=seed, data=base.data.replaced(seed=seed, **small), training=training)

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Every figure and table of the recreation, and its remarks as numbers."""
        scale = _SCALES[settings.scale]
        records, pictures = [], []
        for trial in trials:
            model = load(runs[trial.key])
            record, latents = measured(trial, model, runs[trial.key], scale.frames, scale.trees)
            records.append(record)
            pictures.append(self._traversal(trial, model, latents))
            self._page(trial, model, runs[trial.key], latents)
        faithful = [trial.experiment.data.mode == "faithful" for trial in trials]  # type: ignore[attr-defined]
        cells = [record for record, recreated in zip(records, faithful, strict=True) if recreated]
        candidates = [record for record, recreated in zip(records, faithful, strict=True) if not recreated]
        fresh = len(settings.seeds_or(scale.seeds))
        norm = chosen_norm(candidates, fresh)
        corrected = [r for r in candidates if r["group"] == corrected_name(norm) and r["seed"] < fresh]
        succeeded = sum(record["succeeds"] for record in corrected)
        low, high = wilson_interval(succeeded, len(corrected))
        first = pictures[[trial.key for trial in trials].index(corrected[0]["key"])]
        sections = [
            self._band(candidates, norm, fresh),
            Section(
                "One ball in the paper's good band",
                text="Independent frames, the 2017 paper's convolutional network, ten latents, "
                f"β_norm = {norm:g} (β = {corrected[0]['beta']:.1f}), {scale.corrected_steps:,} steps, the fresh seeds. A run "
                "succeeds if exactly two latents are in use and each follows one axis of position: |correlation| at least "
                f"0.95 with it and below 0.2 with the other. {succeeded} of {len(corrected)} seeds do (95 % interval of the "
                f"share {low:.2f} to {high:.2f}).",
                table=_corrected_table(corrected),
                figures=[first, *self._corrected_figures(corrected)],
            ),
            self._reconstruction(cells),
            self._remarks(cells),
            self._spread(cells),
            Section(
                "Traversals of the recreation's runs",
                text="Rows are the ten latents with the smallest posterior standard deviation σ, columns −3 to 3. From the "
                "posterior mean of the first test frame, on one scale, x to the right and y downwards; the recreation "
                "starts from a sample, stretches every picture's contrast and turns the y axis around.",
                figures=[
                    p
                    for p, trial in zip(pictures, trials, strict=True)
                    if trial.group in {record["group"] for record in cells} and trial.experiment.seed == 0
                ],
            ),
        ]
        result = {
            "trials": records,
            "corrected": {
                "beta_norm": norm,
                "chosen_on_seeds": sorted({r["seed"] for r in _validation(candidates, fresh)}),
                "succeeded": succeeded,
                "seeds": len(corrected),
                "interval": [low, high],
            },
            "remarks": remarks(cells),
            "published_excess_nats": {
                cell_name(architecture, balls, beta): value
                for (architecture, balls), values in REPORTED.items()
                for beta, value in zip(BETAS, values, strict=True)
            },
        }
        worse = [r for r in cells if r["excess_nats"] > r["published_excess_nats"] + 0.1]
        summary = (
            f"One ball in the paper's good band: {succeeded} of {len(corrected)} fresh seeds use exactly two latents, one per "
            f"axis (β_norm {norm:g}, chosen on other seeds). "
            f"Of the recreation's 18 settings (β at most 1, {scale.steps:,} steps here, 100,000 there), "
            f"{len(cells) - len(worse)} of {len(cells)} runs reconstruct as well as theirs (excess nats at most theirs + 0.1)."
        )
        return Account(result, sections, summary=summary)

    @staticmethod
    def _band(candidates: Sequence[dict[str, Any]], chosen: float, fresh: int) -> Section:
        """The choice of β_norm, and what it would have meant for the fresh seeds."""
        rows = []
        for norm in CANDIDATES:
            runs = [r for r in candidates if r["group"] == corrected_name(norm)]
            cells: list[object] = [f"{norm:g}" + (" (chosen)" if norm == chosen else ""), f"{runs[0]['beta']:.2f}"]
            for part in (_validation(runs, fresh), [r for r in runs if r["seed"] < fresh]):
                succeeded = sum(r["succeeds"] for r in part)
                used = ", ".join(str(r["in_use"]) for r in part)
                scores = f"{np.mean([r['axis_score'] for r in part]):.2f}"
                cells += [f"{succeeded} of {len(part)}", used, scores]
            rows.append(cells)
        header = ["β_norm", "β", "validation seeds", "in use", "axis score", "fresh seeds", "in use", "axis score"]
        series = {"one ball": [(r["beta_norm"], r["axis_score"]) for r in candidates]}
        drawn = figures.beta_figure(series, "axis score", across="β_norm", band=GOOD_BAND)
        return Section(
            "Which β_norm",
            text=f"The paper's map is good from {GOOD_BAND[0]:g} to {GOOD_BAND[1]:g} with ten latents; the recreation's β of at "
            "most 1 touches its lower edge. Of three values inside, the one with most successes on the validation seeds is "
            "taken, then the one with the largest axis score there; the fresh seeds had no say.",
            table=Table(header, rows),
            figures=[(drawn, "axis score of every run of the corrected arm")],
        )

    def _reconstruction(self, cells: Sequence[dict[str, Any]]) -> Section:
        drawn = []
        for balls in BALLS:
            series: dict[str, list[tuple[float, float]]] = {}
            told = {}
            rates: dict[str, list[tuple[float, float, str]]] = {}
            for architecture, label in ARCHITECTURES.items():
                chosen = [r for r in cells if (r["architecture"], r["balls"]) == (architecture, balls)]
                series[label] = [(r["beta"], r["excess_nats"]) for r in chosen]
                rates[label] = [(r["kl"], r["excess_nats"], f"β = {r['beta']:g}") for r in chosen if r["seed"] == 0]
                told[label] = list(zip(BETAS, REPORTED[architecture, balls], strict=True))
            name = "one ball" if balls == 1 else "two balls"
            drawn.append(
                (
                    figures.beta_figure(
                        series, "excess, nats per image", reference=told, reference_label="recreation, read off"
                    ),
                    f"{name}: reconstruction error above the entropy floor",
                )
            )
            drawn.append((figures.rate_distortion_figure(rates), f"{name}: rate and distortion"))
        rows = [
            [
                r["group"],
                r["seed"],
                f"{r['beta_norm']:.4f}",
                f"{r['excess_nats']:.2f}",
                f"{r['published_excess_nats']:.1f}",
                f"{r['excess_nats'] - r['published_excess_nats']:+.2f}",
                f"{r['excess_nats_at_means']:.2f}",
                f"{r['kl']:.1f}",
            ]
            for r in cells
        ]
        header = ["", "seed", "β_norm", "excess, nats", "recreation", "difference", "at posterior means", "KL, nats"]
        return Section(
            "Reconstruction",
            text="Cross-entropy minus the entropy of the soft targets, nats per image, with sampled codes on fresh frames. The "
            "recreation's numbers are read off its plots (±0.02) after 100,000 steps of one run each.",
            table=Table(header, rows),
            figures=drawn,
        )

    def _remarks(self, cells: Sequence[dict[str, Any]]) -> Section:
        rows = [
            [
                r["group"],
                r["seed"],
                f"{r['in_use']} of {r['latents']}",
                f"{r['axis_score']:.2f}",
                f"{r['dci_disentanglement']:.2f}",
                f"{r['dci_completeness']:.2f}",
                ", ".join(f"{value:.2f}" for value in r["sorted_std"][:6]),
            ]
            for r in cells
        ]
        header = ["", "seed", "latents in use", "axis score", "DCI D", "DCI C", "smallest σ"]
        found = remarks(cells)
        text = (
            "Axis score: each position coordinate is given the latent that correlates with it most, one to one; the mean of "
            "|correlation| with its own coordinate minus the largest with another (1: one latent per axis). DCI: from the "
            "importances of boosted trees, coordinates in 20 bins. In use: KL at least 0.01 nats and mean posterior variance "
            "at most 0.9. Two balls are put in order (by x): a code of the whole image cannot know which is the first.\n\n"
            f"The recreation's remarks as numbers. Two balls more entangled: axis score {found['axis_score_by_balls']['1']:.2f} "
            f"with one ball and {found['axis_score_by_balls']['2']:.2f} with two. Higher β uses fewer latents: "
            + ", ".join(f"{value:.1f} at β = {beta}" for beta, value in found["in_use_by_beta"].items())
            + " on average. All-convolutional: "
            f"{100 * found['share_in_use_by_architecture']['all_conv']:.0f} % of its latents are in use (fully connected "
            f"{100 * found['share_in_use_by_architecture']['fc']:.0f} %), axis score "
            f"{found['axis_score_by_architecture']['all_conv']:.2f} (fully connected "
            f"{found['axis_score_by_architecture']['fc']:.2f})."
        )
        return Section("Latents in use", text=text, table=Table(header, rows))

    def _spread(self, cells: Sequence[dict[str, Any]]) -> Section:
        drawn = []
        for architecture, label in ARCHITECTURES.items():
            for balls in BALLS:
                series = {
                    f"β = {beta:g}": [
                        np.array(r["sorted_std"]) for r in cells if r["group"] == cell_name(architecture, balls, beta)
                    ]
                    for beta in BETAS
                }
                title = f"{label}, {balls} ball{'s' if balls > 1 else ''}"
                drawn.append(
                    (
                        figures.posterior_std_figure(series, title=title),
                        f"{title}: sorted posterior standard deviations",
                    )
                )
        return Section("Posterior standard deviations", figures=drawn)

    @staticmethod
    def _corrected_figures(records: Sequence[dict[str, Any]]) -> list[tuple[Any, str]]:
        series = {f"β_norm = {records[0]['beta_norm']:g}": [np.array(r["sorted_std"]) for r in records]}
        return [(figures.posterior_std_figure(series), "sorted posterior standard deviations, a line per seed")]

    @staticmethod
    def _traversal(trial: Trial, model: Any, latents: Latents) -> tuple[Any, str]:
        images = trial.experiment.build_data().batch("test", [0]).images
        drawn = figures.traversal_figure(
            traversals(model, torch.from_numpy(latents.means[0]), STOPS),
            STOPS,
            latents.spread,
            dead=latents.dead,
            origin=images[0],
            max_rows=ROWS,
        )
        return drawn, f"{trial.group}, seed {trial.experiment.seed}"

    @staticmethod
    def _page(trial: Trial, model: Any, run: Path, latents: Latents) -> None:
        if not (run / "sliders.html").is_file():
            images = trial.experiment.build_data().batch("test", np.arange(8)).images
            write_slider_page(model, images, run / "sliders.html", trial.key, means=latents.means, stds=latents.stds)


def cell_name(architecture: Recreated, balls: int, beta: float) -> str:
    """How a cell of the recreation is called."""
    return f"{ARCHITECTURES[architecture]}, {balls} ball{'s' if balls > 1 else ''}, β = {beta:g}"


def corrected_name(norm: float) -> str:
    """How the runs of the corrected arm with one β_norm are called."""
    return f"corrected, β_norm = {norm:g}"


def chosen_norm(candidates: Sequence[Mapping[str, Any]], fresh: int) -> float:
    """The β_norm that succeeds most often on the validation seeds, then that with the largest axis score there.

    Args:
        candidates: records of the corrected arm.
        fresh: seeds below this one are not looked at, unless there are no others.
    """

    def worth(norm: float) -> tuple[float, float]:
        runs = [r for r in _validation(candidates, fresh) if r["group"] == corrected_name(norm)]
        return float(np.mean([r["succeeds"] for r in runs])), float(np.mean([r["axis_score"] for r in runs]))

    return max(CANDIDATES, key=worth)


def _validation(candidates: Sequence[Mapping[str, Any]], fresh: int) -> list[Mapping[str, Any]]:
    """The runs of validation seeds; all of them in a smoke run, which has none."""
    return [r for r in candidates if r["seed"] >= fresh] or list(candidates)


def measured(trial: Trial, model: Any, run: Path, frames: int, trees: int) -> tuple[dict[str, Any], Latents]:
    """What is told of one run, and how it uses its latents."""
    config: Any = trial.experiment.model
    data: Any = trial.experiment.data
    dataset = trial.experiment.build_data()
    codes = cached_codes(run, model, dataset, "test", limit=frames)
    latents = Latents(codes.means, codes.stds)
    used = [d for d in range(codes.means.shape[1]) if d not in latents.dead]
    values = np.stack([np.asarray(column, np.float64) for column in codes.values.values()], axis=1)
    aligned = axis_alignment(codes.means[:, used], values)
    trees_found = dci(codes.means, codes.factors, names=codes.names, trees=trees, draws=0, nulls=0)
    terms = sampled_terms(model, dataset, "test", frames)
    found = read_results(run)
    faithful = data.mode == "faithful"
    record = {
        "key": trial.key,
        "group": trial.group,
        "seed": trial.experiment.seed,
        "architecture": config.architecture,
        "balls": data.balls,
        "beta": float(model.config.kl_weight),
        "beta_norm": float(model.config.kl_weight_norm),
        "steps": found["steps"],
        "training_minutes": found["training_minutes"],
        "latents": codes.means.shape[1],
        "in_use": len(used),
        "sorted_std": sorted(round(float(value), 4) for value in latents.spread),
        "axis_score": aligned.score,
        "own_correlation": aligned.own.tolist(),
        "other_correlation": aligned.other.tolist(),
        "dci_disentanglement": trees_found.disentanglement.value,
        "dci_completeness": trees_found.completeness.value,
        "excess_nats": terms["excess_nats"],
        "excess_nats_at_means": found.get("excess_nats"),
        "kl": terms["kl"],
    }
    if faithful:
        record["published_excess_nats"] = REPORTED[config.architecture, data.balls][BETAS.index(config.beta)]
    else:
        record["succeeds"] = bool(len(used) == 2 and aligned.own.min() >= 0.95 and aligned.other.max() < 0.2)
    return record, latents


def remarks(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The recreation's remarks as numbers: means over the cells."""

    def mean(quantity: str, **where: object) -> float:
        chosen = [r for r in cells if all(r[name] == value for name, value in where.items())]
        return float(np.mean([r["in_use"] / r["latents"] if quantity == "share" else r[quantity] for r in chosen]))

    return {
        "axis_score_by_balls": {str(balls): mean("axis_score", balls=balls) for balls in BALLS},
        "dci_by_balls": {str(balls): mean("dci_disentanglement", balls=balls) for balls in BALLS},
        "in_use_by_beta": {f"{beta:g}": mean("in_use", beta=beta) for beta in BETAS},
        "axis_score_by_architecture": {name: mean("axis_score", architecture=name) for name in ARCHITECTURES},
        "share_in_use_by_architecture": {name: mean("share", architecture=name) for name in ARCHITECTURES},
    }


def _corrected_table(records: Sequence[dict[str, Any]]) -> Table:
    rows = [
        [
            r["seed"],
            r["in_use"],
            ", ".join(f"{value:.3f}" for value in r["own_correlation"]),
            ", ".join(f"{value:.3f}" for value in r["other_correlation"]),
            f"{r['dci_disentanglement']:.2f}",
            f"{r['excess_nats']:.2f}",
            f"{r['kl']:.1f}",
            "yes" if r["succeeds"] else "no",
        ]
        for r in records
    ]
    header = [
        "seed",
        "latents in use",
        "|correlation| with x, y",
        "with the other",
        "DCI D",
        "excess, nats",
        "KL, nats",
        "succeeds",
    ]
    return Table(header, rows)
