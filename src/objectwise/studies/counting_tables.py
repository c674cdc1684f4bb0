"""What the counting studies share: scores per seed, steps until an accuracy is reached, and curves over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from objectwise.figures import Table
from objectwise.studies.running import read_results
from objectwise.studies.study import Trial
from objectwise.training.callbacks import read_metrics


def steps_to(run: Path, accuracy: float) -> int | None:
    """The first validation step at which the count accuracy was reached, or None."""
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["split"] == "val"]
    return next((int(row["step"]) for row in rows if row.get("count_accuracy", 0.0) >= accuracy), None)


def validation_curve(run: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of a validation score over training."""
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["split"] == "val" and name in row]
    return np.array([row["step"] for row in rows]), np.array([row[name] for row in rows])


def ms_per_step(run: Path) -> float:
    """Median milliseconds of a training step, validation and start not counted; NaN where nothing was logged."""
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["split"] == "train" and "seconds_per_step" in row]
    return 1_000.0 * float(np.median([row["seconds_per_step"] for row in rows])) if rows else float("nan")


def seed_records(
    trials: Sequence[Trial], runs: Mapping[str, Path], thresholds: Sequence[float]
) -> list[dict[str, Any]]:
    """One record per trial: group, seed, scores, and the steps to each accuracy."""
    records = []
    for trial in trials:
        found = read_results(runs[trial.key])
        records.append(
            {
                "key": trial.key,
                "group": trial.group,
                "seed": trial.experiment.seed,
                "count_accuracy": found["count_accuracy"],
                "elbo": found["elbo"],
                "foreground_ari": found.get("foreground_ari"),
                "mse": found["mse"],
                "steps": found["steps"],
                "training_minutes": found["training_minutes"],
                "hardware": found["hardware"],
                "precision": found["precision"],
                "steps_to": {f"{t:g}": steps_to(runs[trial.key], t) for t in thresholds},
                "confusion": found["details"]["count_accuracy"]["confusion"],
            }
        )
    return records


def seed_table(records: Sequence[dict[str, Any]], thresholds: Sequence[float]) -> Table:
    """Every seed, a row each."""
    header = ["", "seed", "count accuracy", *[f"steps to {100 * t:g} %" for t in thresholds], "ELBO, nats", "minutes"]
    rows = [
        [
            record["group"],
            record["seed"],
            f"{100 * record['count_accuracy']:.2f} %",
            *[record["steps_to"][f"{t:g}"] or "not reached" for t in thresholds],
            f"{record['elbo']:.1f}",
            f"{record['training_minutes']:.1f}",
        ]
        for record in records
    ]
    return Table(header, rows)


def group_summary(records: Sequence[dict[str, Any]], threshold: float) -> dict[str, dict[str, Any]]:
    """Per group: median and range of the accuracy, and how many seeds reached the threshold in training."""
    summary: dict[str, dict[str, Any]] = {}
    for group in dict.fromkeys(record["group"] for record in records):
        part = [record for record in records if record["group"] == group]
        accuracies = [record["count_accuracy"] for record in part]
        summary[group] = {
            "seeds": len(part),
            "median": float(np.median(accuracies)),
            "lowest": min(accuracies),
            "highest": max(accuracies),
            "reached": sum(record["steps_to"][f"{threshold:g}"] is not None for record in part),
            "threshold": threshold,
        }
    return summary
