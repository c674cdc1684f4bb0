"""The account of iterative inference, from made-up runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objectwise.core import save_weights
from objectwise.figures import write_report
from objectwise.recipes.experiment import save_experiment
from objectwise.recipes.runs import CONFIG, RESULTS, initial_model, load
from objectwise.studies import named_study
from objectwise.studies.iterative_inference import (
    BASE,
    BLIND,
    BLIND_ADDITIVE,
    CLAIMS,
    REFERENCES,
    VARIANTS,
    advised,
    elbo_by_iteration,
    training_curve,
)
from objectwise.studies.study import Settings


def test_one_thing_changes_at_a_time() -> None:
    trials = named_study("iterative-inference").trials(Settings("smoke"))
    models: dict[str, Any] = {trial.group: trial.experiment.model.model_dump() for trial in trials}
    for group, model in models.items():
        differing = {name for name, value in model.items() if value != models[REFERENCES.get(group, BASE)][name]}
        assert len(differing) == (0 if group == BASE else 4 if group == "ordinary VAE" else 1), group
    assert set(CLAIMS) <= set(VARIANTS)


def test_advice_is_base_minus_variant_seed_by_seed() -> None:
    def record(group: str, seed: int, elbo: float) -> dict[str, Any]:
        return {"group": group, "seed": seed, "elbo": elbo}

    records = [record(BASE, 0, -100.0), record(BASE, 1, -104.0), record(BASE, 2, -101.0)]
    records += [record(BLIND, seed, elbo) for seed, elbo in enumerate((-105.0, -105.0, -111.0))]
    records += [record("ReLU", seed, elbo) for seed, elbo in enumerate((-100.5, -103.0, -101.0))]
    records += [record(BLIND_ADDITIVE, 1, -112.0)]
    first, second, third = advised(records)
    assert (third["variant"], third["differences"]) == (BLIND_ADDITIVE, [7.0]), (
        "beside the one that sees no image either"
    )
    assert first["variant"] == BLIND
    assert first["differences"] == [5.0, 1.0, 10.0]
    assert (first["median"], first["better"], first["seeds"]) == (5.0, 2, 3)  # 1 nat is less than the 2 it takes
    assert (second["median"], second["better"]) == (0.0, 1)


def test_training_curve_averages_whole_parts(tmp_path: Path) -> None:
    rows = [{"step": step, "split": "train", "elbo": float(-step)} for step in range(10, 130, 10)]
    rows.append({"step": 50, "split": "val", "elbo": 1e6})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    steps, values = training_curve(tmp_path, 50)
    np.testing.assert_array_equal(steps, [50, 100])
    np.testing.assert_allclose(values, [-30.0, -80.0])


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """A run folder of every trial, untrained."""
    found = {}
    for number, trial in enumerate(named_study("iterative-inference").trials(Settings("smoke"))):
        found[trial.key] = folder = tmp_path / trial.key
        experiment = trial.experiment.replaced(data=trial.experiment.data.replaced(source="bundled"))
        experiment = experiment.resolved(experiment.build_data())
        folder.mkdir()
        torch.manual_seed(number)
        save_weights(initial_model(experiment), experiment.model_name, folder / "model")
        save_experiment(experiment, folder / CONFIG)
        rows = [{"step": step, "split": "train", "elbo": -500.0 - number} for step in (5, 10, 15, 20)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / RESULTS).write_text(json.dumps({"steps": 20, "training_minutes": 0.5}), encoding="utf-8")
    return found


def test_account_of_untrained_runs(runs: dict[str, Path], tmp_path: Path) -> None:
    study, settings = named_study("iterative-inference"), Settings("smoke")
    account = study.account(settings, runs, study.trials(settings))
    json.dumps(account.results, allow_nan=False)
    records = {record["group"]: record for record in account.results["trials"]}
    assert list(records) == list(VARIANTS)
    assert all(-1_000 < r["elbo"] < -300 for r in records.values())
    # Importance sampling is at least as tight, up to the noise of its few samples.
    assert all(r["log_likelihood_importance"] > r["elbo"] - 20.0 for r in records.values())
    assert [len(r["elbo_by_iteration"]) for r in records.values()] == [4] * 11 + [0]
    row = next(row for row in account.results["advice"] if row["variant"] == "ReLU")
    assert row["differences"] == [records[BASE]["elbo"] - records["ReLU"]["elbo"]]
    write_report(tmp_path / "report.html", study.title, account.sections, summary=account.summary)


def test_elbo_by_iteration_is_that_of_the_model_with_as_many_iterations(runs: dict[str, Path]) -> None:
    key = next(iter(runs))
    trial = named_study("iterative-inference").trials(Settings("smoke"))[0]
    dataset = trial.experiment.data.replaced(source="bundled").build()  # type: ignore[attr-defined]
    model = load(runs[key])
    found = elbo_by_iteration(model, dataset, 3, 16)
    images = dataset.batch("test", np.arange(16)).images
    with torch.no_grad():
        whole = model.reconfigured(iterations=3)(images, generator=torch.Generator().manual_seed(0)).terms
    assert found[-1] == pytest.approx(float(whole["elbo"].mean()))
    assert found[1] == pytest.approx(float(whole["elbo_first"].mean()))
