"""Runs: from an experiment to a folder with weights, numbers and pictures, and back."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import objectwise
from objectwise.core import Config, Dataset, UserError, seed_for
from objectwise.core.files import write_text
from objectwise.models.loading import load_model
from objectwise.recipes.experiment import Experiment, load_experiment, save_experiment
from objectwise.recipes.reporting import training_picture, write_figures
from objectwise.training.callbacks import checkpoint_files
from objectwise.training.evaluation import Evaluation, evaluate
from objectwise.training.fitting import FitResult, finished_steps, fit
from objectwise.training.precision import hardware_class

_WEIGHTS = 3
"""Purpose number of the seed of the initial weights."""

CONFIG, RESULTS = "config.yaml", "results.json"


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """Training was stopped by a signal after saving.

    Attributes:
        run: the run folder, to resume from.
        step: finished steps.
        signal_number: the signal.
    """

    def __init__(self, run: Path, step: int, signal_number: int) -> None:
        super().__init__(f"stopped after step {step}; go on with: objectwise resume {run}")
        self.run, self.step, self.signal_number = run, step, signal_number


def train(experiment: Experiment, *, progress: bool = True, told: Callable[[str], None] | None = None) -> Path:
    """Train from scratch, evaluate on the test split, and write figures and a report.

    Args:
        experiment: what to do.
        progress: show a progress bar on stderr.
        told: called with what the data and the model's settings say of themselves before training, e.g. how many images a
            filter kept.

    Returns:
        the run folder.

    Raises:
        UserError: for an impossible experiment, or an output folder that exists.
        Stopped: on Ctrl-C or SIGTERM, after saving.
    """
    dataset = experiment.build_data()
    if told is not None and hasattr(dataset, "describe"):
        told(dataset.describe())
    experiment = experiment.resolved(dataset)
    if told is not None and hasattr(experiment.model, "described"):
        told(experiment.model.described())
    model = initial_model(experiment)
    run = _new_run_folder(experiment)
    experiment = experiment.model_copy(update={"out": None})
    try:
        save_experiment(experiment, run / CONFIG)
        return _train(experiment, dataset, model, run, resume_run=False, progress=progress)
    except UserError:
        if not checkpoint_files(run):  # nothing was learned: the next attempt may use the same folder
            shutil.rmtree(run, ignore_errors=True)
        raise


def resume(run: Path, *, progress: bool = True, **training: object) -> Path:
    """Go on with a run from its newest checkpoint, exactly as if it had never stopped.

    Args:
        run: the run folder.
        progress: show a progress bar on stderr.
        training: training settings to change, e.g. ``max_steps``.

    Returns:
        the run folder.

    Raises:
        UserError: if the folder holds no run, or no checkpoint can be read.
        Stopped: on Ctrl-C or SIGTERM, after saving.
    """
    experiment = run_experiment(run)
    if training:
        experiment = experiment.replaced(training=experiment.training.replaced(**training))
    if finished_steps(run) > experiment.training.max_steps:
        raise UserError(
            f"{run} has done {finished_steps(run)} steps already, more than max_steps {experiment.training.max_steps}"
        )
    dataset = experiment.build_data()
    experiment = experiment.resolved(dataset)
    model = initial_model(experiment)
    if training:
        save_experiment(experiment, run / CONFIG)
    return _train(experiment, dataset, model, run, resume_run=True, progress=progress)


def run_experiment(run: Path, *, allowed: Collection[str | None] | None = None) -> Experiment:
    """The resolved experiment of a run folder.

    Args:
        run: the folder.
        allowed: import paths of classes of the user's own that may be imported; None: all, for one's own runs.

    Raises:
        UserError: if there is no such folder, it is not a run of ours, or it names a class that is not allowed.
    """
    if not run.is_dir():
        raise UserError(f"there is no run folder {run}")
    if not (run / CONFIG).is_file():
        raise UserError(f"{run} is not a run folder: it has no {CONFIG}")
    return load_experiment(run / CONFIG, allowed=allowed)


def initial_model(experiment: Experiment) -> Any:
    """The untrained model: initial weights are a pure function of the seed, and global generators stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(experiment.seed, _WEIGHTS))
        return experiment.build_model()


def _new_run_folder(experiment: Experiment) -> Path:
    try:
        if experiment.out is not None:
            out = experiment.out
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise UserError(f"{out} exists already; choose another --out, or resume it: objectwise resume {out}")
            out.mkdir(parents=True, exist_ok=True)
            return out
        parent = Path("runs")
        parent.mkdir(exist_ok=True)
        number = 1
        while True:
            try:
                (parent / f"{experiment.name}-{number}").mkdir()
                return parent / f"{experiment.name}-{number}"
            except FileExistsError:
                number += 1
    except OSError as error:
        raise UserError(f"cannot create the run folder: {error}") from None


def _train(
    experiment: Experiment, dataset: Dataset, model: nn.Module, run: Path, *, resume_run: bool, progress: bool
) -> Path:
    try:
        return _fit_and_report(experiment, dataset, model, run, resume_run=resume_run, progress=progress)
    except KeyboardInterrupt:
        raise Stopped(run, finished_steps(run), signal.SIGINT) from None


def _fit_and_report(
    experiment: Experiment, dataset: Dataset, model: nn.Module, run: Path, *, resume_run: bool, progress: bool
) -> Path:
    result = fit(
        model,
        dataset,
        experiment.training,
        run,
        seed=experiment.seed,
        model_name=experiment.model_name,
        resume=resume_run,
        picture=training_picture,
        progress=progress,
    )
    if result.signal_number is not None and result.step < experiment.training.max_steps:
        raise Stopped(run, result.step, result.signal_number)
    split = "test" if dataset.splits.get("test", 0) else "val"
    found = evaluate(model, dataset, split=split)
    write_text(run / RESULTS, json.dumps(_results(experiment, found, result), indent=2) + "\n")
    command = f"objectwise train --config {run / CONFIG}"
    write_figures(model, dataset, run, experiment, found, command=command)
    return run


def _results(experiment: Experiment, found: Evaluation, result: FitResult) -> dict[str, Any]:
    return {
        "name": experiment.name,
        "model": experiment.model_name,
        "data": experiment.data_name,
        "seed": experiment.seed,
        "steps": result.step,
        "batch_size": experiment.training.batch_size,
        "training_minutes": round(result.seconds / 60.0, 3),
        "hardware": hardware_class("cuda" if torch.cuda.is_available() else "cpu"),
        "precision": result.precision,
        "bad_steps": result.bad_steps,
        **evaluation_record(found),
        "settings": _settings(experiment),
        "versions": {"objectwise": objectwise.__version__, "torch": torch.__version__, "numpy": np.__version__},
    }


def _settings(experiment: Experiment) -> dict[str, Any]:
    """What differs from the defaults, without folders: those differ between machines and are in config.yaml."""
    settings: dict[str, Any] = {}
    for part in ("model", "data", "training"):
        config: Config = getattr(experiment, part)
        changed = config.model_dump(exclude_defaults=True)
        kept = {name for name, value in changed.items() if not isinstance(value, Path)}
        settings[part] = config.model_dump(mode="json", include=kept)
    return settings


def evaluation_record(found: Evaluation) -> dict[str, Any]:
    """An evaluation as plain values for JSON."""
    record = {"split": found.split, "images": found.images, **found.scores, "details": found.details}
    if found.groups:
        record["metrics"] = {name: group.record() for name, group in found.groups.items()}
    return record


def load(where: str | Path, *, model_class: type[nn.Module] | None = None, **changes: object) -> Any:
    """A trained model.

    Args:
        where: a run folder, or a folder with ``model.json`` and ``model.safetensors``.
        model_class: the class, for a model of a class of your own.
        changes: run-time settings to change, e.g. ``num_steps=5``.

    Returns:
        the model in evaluation mode; ``model.decompose(images)`` runs it on pictures.

    Raises:
        UserError: if there is no such model, or it is of a class that was not passed.
    """
    folder = Path(where)
    if not folder.is_dir():
        raise UserError(f"there is no run or model folder '{where}'")
    return load_model(folder / "model" if (folder / "model").is_dir() else folder, own_class=model_class, **changes)


__all__ = [
    "CONFIG",
    "RESULTS",
    "Stopped",
    "evaluation_record",
    "load",
    "resume",
    "run_experiment",
    "train",
]
