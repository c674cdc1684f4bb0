"""Are AIR's steps on handwritten characters pen strokes? Parts against true and random ones (Eslami et al. 2016, Omniglot)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from objectwise import figures
from objectwise.core import Batch, Decomposition, MetricResult, UserError
from objectwise.figures import Section, Table
from objectwise.metrics import PartScores, part_scores
from objectwise.recipes import recipe
from objectwise.recipes.runs import load, run_experiment
from objectwise.studies.running import read_results
from objectwise.studies.study import Account, Settings, Trial
from objectwise.training.evaluation import decompositions

CHANCES = {"regions": "random regions", "pixels": "random pixels"}


class AirOmniglot:
    """AIR with four small windows; held-out drawers; parts scored on the ink against strokes."""

    name = "air-omniglot"
    title = "AIR on Omniglot: parts against pen strokes"

    def trials(self, settings: Settings) -> list[Trial]:
        """The recipe, seed by seed."""
        seeds, steps = {"smoke": (1, 20), "quick": (3, 10_000), "full": (5, 50_000)}[settings.scale]
        return [self._trial(seed, steps, settings) for seed in settings.seeds_or(seeds)]

    def _trial(self, seed: int, steps: int, settings: Settings) -> Trial:
        base = recipe("air-omniglot")
        experiment = base.replaced(
            seed=seed,
            data=base.data.replaced(root=settings.omniglot_root),
            training=base.training.replaced(
                max_steps=steps,
                validate_every=min(500, steps // 2),
                validation_images=64 if settings.scale == "smoke" else 200,
                threads=1,
                checkpoint_every=1_000,
            ),
        )
        return Trial(f"air-seed{seed}", experiment, "AIR")

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Agreement with strokes, that of chance, the lift with its standard error, and pictures."""
        limit = 32 if settings.scale == "smoke" else None
        sections, records = [], []
        for trial in trials:
            batch, out = held_out(runs[trial.key], limit)
            scores = scored(batch, out)
            records.append(self._record(trial, runs[trial.key], out, scores))
            caption = (
                "every so many-th of the scored characters; a part has the colour of the stroke that it overlaps most"
            )
            sections.append(
                Section(
                    f"Seed {trial.experiment.seed}",
                    figures=[(figures.parts_figure(*shown(batch, out, scores)), caption)],
                )
            )
        lifts = [record["lift_ari"]["regions"] for record in records]
        text = "Lift of the adjusted Rand index over random regions, a number per seed: " + ", ".join(
            f"{lift['mean']:+.3f} ± {lift['standard_error']:.3f}" for lift in lifts
        )
        clear = sum(lift["mean"] > 2 * lift["standard_error"] for lift in lifts)
        verdict = f"{clear} of {len(lifts)} seeds are above chance by more than twice the standard error."
        explained = (
            "Drawings by people whose drawings were not in training, of at least two strokes. Only pixels with "
            "ink count; each goes to the step that explains it best. Every character is also divided at random "
            "into as many parts as were found: into regions around random ink pixels, and pixel by pixel. Any "
            "division into connected pieces agrees with strokes to a degree, so only the lift over random regions "
            "is evidence of strokes. ± is the standard error over characters.\n\nThe paper shows pictures and no "
            "number."
        )
        sections.insert(0, Section("Every seed", text=explained, table=_table(records)))
        drawings = trials[0].experiment.data.model_dump(mode="json", include={"part", "held_out"})
        return Account({"drawings": drawings, "trials": records}, sections, summary=f"{text}. {verdict}")

    def _record(self, trial: Trial, run: Path, out: Decomposition, scores: PartScores) -> dict[str, Any]:
        found = read_results(run)
        return {
            "key": trial.key,
            "seed": trial.experiment.seed,
            "characters": scores.ari.n_scored,
            "parts_found": float(scores.found.mean()),
            "steps_used": float(out.counts().float().mean()),
            "ari": _spread(scores.ari),
            "overlap": _spread(scores.overlap),
            "chance_ari": {kind: _spread(scores.chance_ari[kind]) for kind in CHANCES},
            "chance_overlap": {kind: _spread(scores.chance_overlap[kind]) for kind in CHANCES},
            "lift_ari": {kind: _spread(scores.lift_ari[kind]) for kind in CHANCES},
            "lift_overlap": {kind: _spread(scores.lift_overlap[kind]) for kind in CHANCES},
            "elbo": found["elbo"],
            "mse": found["mse"],
            "steps": found["steps"],
            "training_minutes": found["training_minutes"],
            "hardware": found["hardware"],
        }


def held_out(run: Path, limit: int | None) -> tuple[Batch, Decomposition]:
    """The test characters (or ``limit`` of them, at equal distances) and what the run's model makes of them.

    Raises:
        UserError: for data without strokes.
    """
    dataset = run_experiment(run).build_data()
    size = dataset.splits["test"]
    rows = np.arange(size) if limit is None else np.linspace(0, size - 1, min(limit, size)).round().astype(np.int64)
    batch, out = next(decompositions(load(run), dataset, "test", rows, batch_size=len(rows)))
    if batch.instances is None:
        raise UserError("air-omniglot needs the strokes: `objectwise fetch omniglot` gets them beside the images")
    return batch, out


def scored(batch: Batch, out: Decomposition) -> PartScores:
    """The parts on the ink against strokes; what the background keeps goes to the strongest step."""
    assert batch.instances is not None
    return part_scores(
        batch.instances,
        out.masks,
        generator=torch.Generator().manual_seed(0),
        background_ids=batch.background_ids,
        background_slots=out.background,
    )


def shown(batch: Batch, out: Decomposition, scores: PartScores, number: int = 8) -> tuple[Batch, Decomposition]:
    """Scored characters at equal distances from the first to the last: never picked, and from all alphabets."""
    rows = np.flatnonzero(~np.isnan(scores.ari.per_image))
    if len(rows) == 0:
        rows = np.arange(len(batch))
    chosen = torch.from_numpy(rows[np.linspace(0, len(rows) - 1, min(number, len(rows))).round().astype(np.int64)])
    return batch.select(chosen), out.select(chosen)


def _spread(result: MetricResult) -> dict[str, float]:
    return {"mean": result.value, "standard_error": result.standard_error}


def _shown(spread: dict[str, float], sign: str = "") -> str:
    return f"{spread['mean']:{sign}.3f} ± {spread['standard_error']:.3f}"


def _table(records: Sequence[dict[str, Any]]) -> Table:
    header = [
        "seed",
        "score",
        "found parts",
        *CHANCES.values(),
        "lift over regions",
        "parts",
        "steps used",
        "characters",
    ]
    rows = []
    for record in records:
        for key, name in (("ari", "adjusted Rand index"), ("overlap", "mean best overlap")):
            rows.append(
                [
                    record["seed"],
                    name,
                    _shown(record[key]),
                    *[_shown(record[f"chance_{key}"][kind]) for kind in CHANCES],
                    _shown(record[f"lift_{key}"]["regions"], "+"),
                    f"{record['parts_found']:.2f}",
                    f"{record['steps_used']:.2f}",
                    record["characters"],
                ]
            )
    return Table(header, rows)
