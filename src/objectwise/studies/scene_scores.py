"""What the studies of scene decomposition share: scores per image of a trained model, and their summaries by group of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

from objectwise import figures
from objectwise.core import Batch, Dataset, Decomposition
from objectwise.metrics import adjusted_rand_index, foreground_ari, mbo_i, mse
from objectwise.studies.counting_tables import validation_curve
from objectwise.studies.running import read_results
from objectwise.studies.study import Settings, Trial
from objectwise.training.evaluation import decompositions

SCORES = ("foreground_ari", "ari", "mbo", "decoded_foreground_ari", "mse")
"""Scores of :func:`scene_scores`: of the masks of the reconstruction (MONet: attention's), and one of the decoded masks."""

Groups = Callable[[Batch], Mapping[str, Tensor]]


@dataclass(frozen=True)
class SceneScores:
    """Scores of the first images of a split.

    Attributes:
        per_image: score -> (N,) float64; NaN where the image is not scored (fewer than two objects, or no object).
        groups: name -> (N,) bool.
    """

    per_image: Mapping[str, np.ndarray]
    groups: Mapping[str, np.ndarray]

    def summary(self, group: str | None = None) -> dict[str, Any]:
        """Means over a group's scored images, None where there is none; ``images`` in the group and ``scored`` by foreground ARI.

        Args:
            group: name of the group; None: all images.
        """
        rows = np.ones(len(self.per_image["mse"]), bool) if group is None else self.groups[group]
        found: dict[str, Any] = {name: mean(values[rows]) for name, values in self.per_image.items()}
        scored = int(np.isfinite(self.per_image["foreground_ari"][rows]).sum())
        return {"images": int(rows.sum()), "scored": scored, **found}


def mean(values: np.ndarray | Sequence[float]) -> float | None:
    """Mean of the values that are not NaN; None if there is none."""
    numbers = np.asarray(values, np.float64)
    numbers = numbers[~np.isnan(numbers)]
    return float(numbers.mean()) if len(numbers) else None


UNIT = (-0.05, 1.02)
"""Limits of the axis of a score that is 1 at best and about 0 by chance."""


def images_shown(settings: Settings) -> int:
    """How many images a figure has: few in a smoke run."""
    return 2 if settings.scale == "smoke" else 8


def scene_scores(
    model: nn.Module, dataset: Dataset, *, limit: int, split: str = "test", groups: Groups | None = None
) -> SceneScores:
    """Score the first images of a split by their true segments.

    Args:
        model: keeps the contract.
        dataset: with instances.
        limit: how many images at most.
        split: which split.
        groups: batch -> name -> (B,) bool.
    """
    columns: dict[str, list[np.ndarray]] = {}
    members: dict[str, list[np.ndarray]] = {}
    for batch, out in decompositions(model, dataset, split, np.arange(min(limit, dataset.splits[split]))):
        for name, values in image_scores(batch, out).items():
            columns.setdefault(name, []).append(values)
        for name, rows in (groups(batch) if groups is not None else {}).items():
            members.setdefault(name, []).append(rows.numpy())
    return SceneScores(
        {name: np.concatenate(parts) for name, parts in columns.items()},
        {name: np.concatenate(parts) for name, parts in members.items()},
    )


def image_scores(batch: Batch, out: Decomposition) -> dict[str, np.ndarray]:
    """Score -> (B,) of one batch with instances; foreground ARI and mBO need two and one visible objects."""
    assert batch.instances is not None
    truth, background = batch.instances, batch.background_ids
    found = {
        "foreground_ari": foreground_ari(truth, out.masks, background_ids=background).per_image,
        "ari": adjusted_rand_index(truth, out.masks).per_image,
        "mbo": mbo_i(truth, out.masks, background_ids=background).per_image,
        "mse": mse(batch.images, out.reconstruction).per_image,
    }
    decoded = out.mask_kinds().get("decoded")
    if decoded is not None:
        found["decoded_foreground_ari"] = foreground_ari(truth, decoded, background_ids=background).per_image
    return found


def run_record(trial: Trial, run: Path) -> dict[str, Any]:
    """What every table says of a training: key, group, seed, steps, minutes, hardware, precision."""
    found = read_results(run)
    return {
        "key": trial.key,
        "group": trial.group,
        "seed": trial.experiment.seed,
        **{name: found[name] for name in ("steps", "training_minutes", "hardware", "precision")},
    }


def first_rows(dataset: Dataset, wanted: Callable[[Batch], Tensor], count: int, *, split: str = "test") -> np.ndarray:
    """Indices of the first samples of a kind: the first, never picked.

    Args:
        dataset: with labels.
        wanted: batch -> (B,) bool.
        count: how many at most.
        split: which split.
    """
    found: list[int] = []
    for start in range(0, dataset.splits[split], 64):
        batch = dataset.batch(split, np.arange(start, min(start + 64, dataset.splits[split])))
        found += batch.index[wanted(batch)].tolist()
        if len(found) >= count:
            break
    return np.array(found[:count], np.int64)


def decomposed(
    model: nn.Module, dataset: Dataset, rows: np.ndarray, *, split: str = "test"
) -> tuple[Batch, Decomposition]:
    """A few samples and what the model says of them."""
    return next(decompositions(model, dataset, split, rows, batch_size=max(1, len(rows))))


def score_notes(batch: Batch, out: Decomposition) -> list[str]:
    """Foreground ARI of each image in a few characters, for below a picture."""
    assert batch.instances is not None
    scores = foreground_ari(batch.instances, out.masks, background_ids=batch.background_ids).per_image
    return ["not scored" if np.isnan(score) else f"ARI {figures.style.score_text(score)}" for score in scores]


def curve_figure(trials: Sequence[Trial], runs: Mapping[str, Path], name: str, label: str) -> tuple[Figure, str]:
    """A validation score over training, a line per seed."""
    series: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for trial in trials:
        series.setdefault(trial.group, []).append(validation_curve(runs[trial.key], name))
    return figures.seeds_figure(series, label), f"{label} of validation images, a line per seed"


def shown(value: float | None, digits: int = 3) -> str:
    """A score in a table; a dash where nothing was scored."""
    return "–" if value is None else f"{value:.{digits}f}"


def middle(values: Sequence[float | None]) -> float | None:
    """The median of the values that are there; None if there is none."""
    there = [value for value in values if value is not None]
    return float(np.median(there)) if there else None


def numbers(values: Sequence[float | None]) -> list[float]:
    """Scores for a figure: NaN where nothing was scored."""
    return [float("nan") if value is None else value for value in values]


def tiny(steps: int) -> dict[str, Any]:
    """Training settings of a smoke run: every code path in seconds."""
    return {
        "max_steps": steps,
        "batch_size": 4,
        "validate_every": max(1, steps // 2),
        "validation_images": 8,
        "log_every": 1,
        "threads": 1,
        "checkpoint_every": 1_000,
    }


def budget(steps: int) -> dict[str, Any]:
    """Training settings of a budget of so many steps, with ten validations or more."""
    return {
        "max_steps": steps,
        "validate_every": max(1, min(500, steps // 10)),
        "validation_images": 256,
        "threads": 1,
        "checkpoint_every": 500,
    }
