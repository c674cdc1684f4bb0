"""The 2D-shapes figures of "Early Visual Concept Learning" (Higgins et al. 2016): what β and dense data do for a code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA

from objectwise import figures
from objectwise.figures import Section, Table
from objectwise.metrics import CodeScore, beta_vae_score, factor_change_score, mig
from objectwise.recipes.beta_vae import beta_vae_dsprites
from objectwise.recipes.codes import cached_codes
from objectwise.recipes.latents import VALUES, Latents, latents_of, sampled_terms, traversals
from objectwise.recipes.runs import initial_model, load
from objectwise.recipes.sliders import write_slider_page
from objectwise.studies.running import read_results
from objectwise.studies.shapes_of_codes import (
    CHANGE_GRID,
    combinations,
    grid_codes,
    grid_pixels,
    held_out_positions,
    mean_response,
    position_errors,
)
from objectwise.studies.study import Account, Settings, Trial

PIXELS, PRINCIPAL, UNTRAINED = "raw pixels", "PCA, 10 components", "untrained"
BETA_VAE, VAE = "β-VAE, β = 4", "VAE, β = 1"
REPORTED = {
    "the factors themselves": 100,
    BETA_VAE: 96,
    PRINCIPAL: 65,
    VAE: 61,
    "VAE, β = 0": 56,
    "ICA, 10 components": 50,
    PIXELS: 41,
    UNTRAINED: 35,
}
"""Accuracy of the changed-factor score in %, read off the paper's figure, ±2."""
ANNEALED = "capacity annealing"
ZERO_SHOT = "zero-shot, corner held out"


class _Scale(NamedTuple):
    """Steps of the paper's network, seeds, steps of the other runs, strides and noise of the density grid, points, snapshots."""

    steps: int
    seeds: int
    small_steps: int
    strides: tuple[tuple[int, int, int, int], ...]
    noise: tuple[float, ...]
    points: int
    snapshots: int


_SPARSE = ((1, 1, 1, 1), (1, 2, 2, 2), (1, 4, 4, 4))
_SCALES = {
    "smoke": _Scale(10, 1, 10, _SPARSE[::2], (0.0, 0.1), 100, 2),
    "quick": _Scale(30_000, 3, 5_000, _SPARSE, (0.0, 0.1), 5_000, 5),
    "full": _Scale(300_000, 5, 50_000, (*_SPARSE, (2, 8, 8, 8)), (0.0, 0.01, 0.1, 0.3, 0.5), 10_000, 10),
}
_BATCH_OF_SCORED = 2_000


class EarlyConcepts:
    """β-VAE, VAE and pixels on 64×64 shapes; mean responses; density and noise; zero-shot; capacity annealing."""

    name = "early-concepts"
    title = "Early visual concepts: the 2D shapes of Higgins et al. 2016"

    def trials(self, settings: Settings) -> list[Trial]:
        """The paper's network with β = 4 and β = 1, then the convolutional one on the variants of the data."""
        scale = _SCALES[settings.scale]
        found = []
        for seed in settings.seeds_or(scale.seeds):
            for name, beta in ((BETA_VAE, 4.0), (VAE, 1.0)):
                found.append(self._trial(f"fc-beta{beta:g}-seed{seed}", name, seed, scale.steps, settings, beta=beta))
        for strides in scale.strides:
            for noise in scale.noise:
                key = f"density-{'-'.join(map(str, strides))}-noise{noise:g}"
                data: dict[str, Any] = {"strides": strides, "noise": noise}
                found.append(
                    self._trial(key, density_name(strides, noise), 0, scale.small_steps, settings, small=True, **data)
                )
        found.append(
            self._trial("zero-shot", ZERO_SHOT, 0, 2 * scale.small_steps, settings, small=True, held_out="corner")
        )
        for number in range(1, scale.snapshots + 1):
            found.append(self._snapshot(number, scale, settings))
        return found

    def _trial(
        self,
        key: str,
        group: str,
        seed: int,
        steps: int,
        settings: Settings,
        *,
        beta: float = 4.0,
        small: bool = False,
        **data: Any,
    ) -> Trial:
        base = beta_vae_dsprites("tuned")
        model: Any = base.model
        model = model.replaced(beta=beta) if small else model.replaced(beta=beta, architecture="paper_fc")
        experiment = base.replaced(
            seed=seed,
            model=model,
            data=base.data.replaced(seed=seed, **({"eval_size": 400} if settings.scale == "smoke" else {}), **data),
            training=base.training.replaced(
                max_steps=steps, validate_every=max(1, min(1_000, steps // 2)), threads=1, checkpoint_every=2_000
            ),
        )
        return Trial(key, experiment, group)

    def _snapshot(self, number: int, scale: _Scale, settings: Settings) -> Trial:
        """The same training, stopped earlier: exactly its prefix, because training is a pure function of seed and step."""
        whole, steps = scale.small_steps, max(1, scale.small_steps * number // scale.snapshots)
        trial = self._trial(f"capacity-{steps}", f"{ANNEALED}, {steps} steps", 0, steps, settings, small=True)
        model: Any = trial.experiment.model
        annealed = {"objective": "capacity", "beta": None, "gamma": 100.0, "capacity": 20.0, "capacity_steps": whole}
        return Trial(trial.key, trial.experiment.replaced(model=model.replaced(**annealed)), trial.group)

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """The metric of 2016 on all representations, and the figures."""
        scale = _SCALES[settings.scale]
        main = [trial for trial in trials if trial.group in (BETA_VAE, VAE)]
        records = [self._scored(trial, runs[trial.key], scale) for trial in main]
        baselines = self._baselines(main[0], scale)
        sections = [self._ordering(records, baselines), self._responses(main, runs)]
        density, density_records = self._density(trials, runs, scale)
        recombined, recombination = self._recombination(trials, runs)
        switched, kls = self._switching(trials, runs)
        sections += [density, recombined, switched]
        medians = {
            group: float(np.median([r["changed_2016"] for r in records if r["group"] == group]))
            for group in (BETA_VAE, VAE)
        }
        reached = baselines[PIXELS] < medians[VAE] < medians[BETA_VAE]
        results = {
            "trials": records,
            "baselines_2016": baselines,
            "ordering_pixels_vae_beta_vae": reached,
            "density": density_records,
            "zero_shot": recombination,
            "capacity": kls,
            "published_2016": {"percent": REPORTED, "source": "read off the paper's figure, ±2"},
        }
        summary = (
            f"Changed-factor score of 2016, medians over seeds: raw pixels {100 * baselines[PIXELS]:.0f} %, VAE "
            f"{100 * medians[VAE]:.0f} %, β-VAE {100 * medians[BETA_VAE]:.0f} %; the paper's order "
            f"{'holds' if reached else 'does not hold'}."
        )
        return Account(results, sections, summary=summary)

    def _scored(self, trial: Trial, run: Path, scale: _Scale) -> dict[str, Any]:
        model, dataset = load(run), _data(trial)
        points: dict[str, Any] = {"train": 2 * scale.points, "test": scale.points}
        factors = combinations(*CHANGE_GRID)
        changed = factor_change_score(grid_codes(model, dataset, factors).means, factors, **points)
        codes = cached_codes(run, model, dataset, "test")
        latents = Latents(codes.means, codes.stds)
        fixed = beta_vae_score(codes.means, codes.factors, names=codes.names, **points)
        gap = mig(codes.means, codes.factors, names=codes.names, draws=100, nulls=5)
        terms = sampled_terms(model, dataset, "test", _BATCH_OF_SCORED)
        return {
            "key": trial.key,
            "group": trial.group,
            "seed": trial.experiment.seed,
            "steps": read_results(run)["steps"],
            "training_minutes": read_results(run)["training_minutes"],
            "changed_2016": changed.value,
            "changed_2016_interval": list(changed.interval),
            "changed_2016_null": changed.null,
            "fixed_2017": fixed.value,
            "mig_five_factors": gap.value,
            "in_use": codes.means.shape[1] - len(latents.dead),
            "excess_nats": terms["excess_nats"],
            "kl": terms["kl"],
        }

    def _baselines(self, trial: Trial, scale: _Scale) -> dict[str, float]:
        """The score of 2016 of pixels, principal components and an untrained encoder."""
        dataset, factors = _data(trial), combinations(*CHANGE_GRID)
        pixels = grid_pixels(dataset, factors)
        untrained = initial_model(trial.experiment.resolved(dataset)).eval()
        representations = {
            PIXELS: pixels,
            PRINCIPAL: PCA(10, random_state=0).fit_transform(pixels),
            UNTRAINED: grid_codes(untrained, dataset, factors).means,
        }
        points: dict[str, Any] = {"train": scale.points, "test": scale.points // 2, "nulls": 0}
        return {name: factor_change_score(z, factors, **points).value for name, z in representations.items()}

    def _ordering(self, records: Sequence[dict[str, Any]], baselines: dict[str, float]) -> Section:
        rows: list[list[object]] = []
        for group in (BETA_VAE, VAE):
            for r in (r for r in records if r["group"] == group):
                low, high = r["changed_2016_interval"]
                rows.append(
                    [
                        group,
                        r["seed"],
                        f"{100 * r['changed_2016']:.1f} % ({100 * low:.1f} to {100 * high:.1f})",
                        f"{REPORTED[group]} %",
                        f"{r['fixed_2017']:.3f}",
                        f"{r['mig_five_factors']:.3f}",
                        f"{r['in_use']} of 10",
                        f"{r['excess_nats']:.1f}",
                        f"{r['kl']:.1f}",
                    ]
                )
        rows += [
            [name, "", f"{100 * value:.1f} %", f"{REPORTED[name]} %", "", "", "", "", ""]
            for name, value in baselines.items()
        ]
        text = (
            "2016: two images that differ in one of five factors (shape, scale, orientation, x, y); a linear classifier on "
            "|z − z'| says in which; one pair per point, over 5,760 combinations; chance 20 %. The paper's numbers are read "
            "off its figure (±2). 2017: one factor is shared. Network: 1200-1200 ReLU and "
            "three times 1200 tanh, ten latents, β_norm 0.0098 and 0.0024, as in the paper; Adam at 5e-4, not its Adagrad. "
            "Excess and KL in nats per image, with sampled codes."
        )
        header = ["", "seed", "score of 2016", "paper", "score of 2017", "MIG, five factors", "in use", "excess", "KL"]
        return Section("Which factor changed", text=text, table=Table(header, rows))

    def _responses(self, main: Sequence[Trial], runs: dict[str, Path]) -> Section:
        drawn: list[tuple[Any, str]] = []
        for trial in (t for t in main if t.experiment.seed == 0):
            model, dataset = load(runs[trial.key]), _data(trial)
            latents = latents_of(model, dataset, "test", _BATCH_OF_SCORED)
            response = mean_response(model, dataset)
            drawn.append(
                (
                    figures.mean_response_figure(response.position, response.curves, latents.kl, example=trial.group),
                    f"{trial.group}: mean response of each latent to position, scale and rotation",
                )
            )
            images = dataset.batch("test", np.arange(8)).images
            moved = traversals(model, torch.from_numpy(latents.means[0]))
            drawn.append(
                (
                    figures.traversal_figure(moved, VALUES, latents.spread, dead=latents.dead, origin=images[0]),
                    f"{trial.group}: traversals from the code of the first test image",
                )
            )
            write_slider_page(
                model, images, runs[trial.key] / "sliders.html", trial.group, means=latents.means, stds=latents.stds
            )
        text = (
            "Posterior means averaged over a coarse grid of the other factors, ordered by KL; figure 2 of the paper. It "
            "reports, for β = 4, one latent each for y, x and scale, two for rotation, and five that stay flat; all ten "
            "respond to everything at β = 0. sliders.html in each run's folder has a slider for every latent."
        )
        return Section("What latents respond to", text=text, figures=drawn)

    def _density(
        self, trials: Sequence[Trial], runs: dict[str, Path], scale: _Scale
    ) -> tuple[Section, list[dict[str, Any]]]:
        """Score of 2016 over how sparse the training factors are, by noise."""
        factors = combinations(*CHANGE_GRID)
        points: dict[str, Any] = {"train": 2 * scale.points, "test": scale.points, "nulls": 0}
        series: dict[str, list[tuple[float, float]]] = {}
        records = []
        for trial in (t for t in trials if t.group.startswith("density")):
            dataset, data = _data(trial), trial.experiment.data
            found: CodeScore = factor_change_score(
                grid_codes(load(runs[trial.key]), dataset, factors).means, factors, **points
            )
            distance, noise = dataset.neighbour_distance(), float(data.noise)  # type: ignore[attr-defined]
            series.setdefault(f"noise {noise:g}", []).append((distance, found.value))
            records.append(
                {"key": trial.key, "pixels_to_neighbour": distance, "noise": noise, "changed_2016": found.value}
            )
        text = (
            "Score of 2016 after training on every n-th value of the factors (pixels that differ between neighbouring images, "
            "mean over factors), with pixels flipped. The same test images, dense and clean, for all. The convolutional "
            f"network, β = 4, {scale.small_steps:,} steps, one seed. The paper, read off its figure: about 95 % at the "
            "densest, 42 to 45 % at the sparsest; at noise 0.5 from 44 % to 28 to 31 %. Its horizontal axis is a normalised "
            "distance, whose normalisation is not given."
        )
        drawn = [
            (figures.density_figure(series, chance=0.2), "score of 2016 against the density of the training factors")
        ]
        return Section("Density and noise", text=text, figures=drawn), records

    def _recombination(self, trials: Sequence[Trial], runs: dict[str, Path]) -> tuple[Section, dict[str, float]]:
        """Reconstruction of combinations of factors that training never had."""
        (trial,) = (t for t in trials if t.group == ZERO_SHOT)
        model, dataset = load(runs[trial.key]), _data(trial)
        errors, held_out = position_errors(model, dataset), held_out_positions(dataset)
        inside, outside = float(errors[~held_out].mean()), float(errors[held_out].mean())
        pairs = []
        for split in ("val", "test"):
            images = dataset.batch(split, np.arange(6)).images
            with torch.no_grad():
                pairs.append((images, model(images).reconstruction))
        drawn = figures.recombination_figure(pairs[0], pairs[1], errors, held_out, names=("y", "x"))
        text = (
            f"Training never saw large x together with large y; each alone it did. Excess nats at posterior means: {inside:.1f} "
            f"where it trained, {outside:.1f} in the corner it did not. The paper calls this generalising well and gives "
            "no numbers."
        )
        found = {"excess_nats_trained": inside, "excess_nats_held_out": outside}
        return Section("Zero-shot recombination", text=text, figures=[(drawn, "held-out combinations")]), found

    def _switching(self, trials: Sequence[Trial], runs: dict[str, Path]) -> tuple[Section, list[dict[str, Any]]]:
        """KL of each latent while the capacity rises."""
        chosen = [t for t in trials if t.group.startswith(ANNEALED)]
        records = []
        for trial in chosen:
            model, dataset, steps = load(runs[trial.key]), _data(trial), trial.experiment.training.max_steps
            latents = latents_of(model, dataset, "test", _BATCH_OF_SCORED)
            excess = sampled_terms(model, dataset, "test", _BATCH_OF_SCORED)["excess_nats"]
            capacity = model.config.capacity_at(steps)
            records.append({"steps": steps, "kl": latents.kl.tolist(), "capacity": capacity, "excess_nats": excess})
        moments, kl, aims, errors = (
            np.array([r[name] for r in records]) for name in ("steps", "kl", "capacity", "excess_nats")
        )
        text = (
            "One training with γ |KL − C|, C rising linearly to 20 nats (Burgess et al. 2018), looked at several times: each "
            "point is a run of its own that stops there, which is exactly the longer run's beginning."
        )
        drawn = [(figures.capacity_figure(moments, kl, aims, excess=errors), "KL of each latent as the capacity rises")]
        return Section("Latents switching on", text=text, figures=drawn), records


def density_name(strides: tuple[int, int, int, int], noise: float) -> str:
    """How a run of the density grid is called."""
    return f"density, strides {' '.join(map(str, strides))}, noise {noise:g}"


def _data(trial: Trial) -> Any:
    """The trial's data."""
    return trial.experiment.build_data()
