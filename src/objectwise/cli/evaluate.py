"""``evaluate`` and ``figures``."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from objectwise.cli.parsing import parse, print_json, take_option
from objectwise.core import Config, Dataset, UserError
from objectwise.core.imports import import_class
from objectwise.metrics.groups import GroupScores, GroupSettings, ScoreRow
from objectwise.metrics.segmentation import Degenerate
from objectwise.recipes.codes import Codes, keep_codes
from objectwise.recipes.experiment import Experiment, data_config_class
from objectwise.recipes.reporting import write_figures
from objectwise.recipes.runs import CONFIG, evaluation_record, load, run_experiment
from objectwise.training.evaluation import Evaluation
from objectwise.training.evaluation import evaluate as evaluate_model
from objectwise.training.precision import hardware_class


@dataclass
class EvaluateArguments:
    """Score a run on held-out data: objectwise evaluate RUN [--data NAME] [--data.* ...] [--model.* ...] [--metrics GROUP ...].

    Without --data the run's own data are used, whose settings --data.* changes. --model.* changes settings of the model that its
    weights do not depend on, such as --model.num-slots 11, --model.refinement-steps 10 or --model.num-steps 5.
    """

    run: Annotated[str, tyro.conf.Positional]
    """Run folder."""
    split: str = "test"
    """Split of the data: train, val or test."""
    limit: int | None = None
    """Number of images; all if not given."""
    batch_size: int = 64
    """Images at a time."""
    metrics: tuple[str, ...] = ()
    """Groups of scores besides the usual ones: segmentation, diagnosis, properties, disentanglement, poses."""
    degenerate: Degenerate = "skip"
    """What adjusted Rand indices do with images of fewer than two objects: skip them; one: as scikit-learn, 1 where they are
    0/0; reference: as DeepMind's code, NaN there."""
    model_class: str | None = None
    """package.module:Class, for a model of a class of your own."""
    data_class: str | None = None
    """package.module:Config, for data of a class of your own; a class that only the run's files name is not imported."""
    json: bool = False
    """Print JSON on stdout."""


def evaluate(arguments: list[str]) -> int:
    """Score a run."""
    words = list(arguments)
    data_name = take_option(words, "--data")
    data_flags, model_flags = _take_flags(words, "--data."), _take_flags(words, "--model.")
    given = parse(EvaluateArguments, words, program="objectwise evaluate", description=str(EvaluateArguments.__doc__))
    model = _load(given.run, given.model_class)
    changes = _changes(model.config, model_flags)
    if changes:
        model = _load(given.run, given.model_class, **changes)
    dataset = _dataset(given, data_name, data_flags, model)
    found = evaluate_model(
        model,
        dataset,
        split=given.split,
        limit=given.limit,
        batch_size=given.batch_size,
        metrics=given.metrics,
        settings=GroupSettings(degenerate=given.degenerate),
    )
    _keep_codes(Path(given.run), dataset, found)
    changed = {"model": changes} if changes else {}
    record = {"run": given.run, "hardware": hardware_class("cpu"), **changed, **evaluation_record(found)}
    if given.json:
        print_json(record)
    else:
        _print_scores(found)
    return 0


@dataclass
class FiguresArguments:
    """Draw a run's figures and report again."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder."""
    split: str = "test"
    """Split of the data that is shown."""
    limit: int | None = None
    """Number of images behind the numbers; all if not given."""
    metrics: tuple[str, ...] = ()
    """Groups of scores to show besides: segmentation, diagnosis, properties, disentanglement, poses."""
    model_class: str | None = None
    """package.module:Class, for a model of a class of your own."""
    data_class: str | None = None
    """package.module:Config, for data of a class of your own; a class that only the run's files name is not imported."""


def figures(arguments: list[str]) -> int:
    """Draw a run's figures and report again."""
    given = parse(FiguresArguments, arguments, program="objectwise figures", description=str(FiguresArguments.__doc__))
    run = Path(given.run)
    model = _load(given.run, given.model_class)  # first: it refuses a class that the user did not pass
    experiment = run_experiment(run, allowed=(given.model_class, given.data_class))
    dataset = experiment.build_data()
    found = evaluate_model(model, dataset, split=given.split, limit=given.limit, metrics=given.metrics)
    command = " ".join(["objectwise figures", *arguments])
    print(write_figures(model, dataset, run, experiment, found, command=command))
    return 0


def _keep_codes(run: Path, dataset: Dataset, found: Evaluation) -> None:
    """Leave the codes behind the scores in the run folder, where they are found again."""
    arrays = {} if "disentanglement" not in found.groups else found.groups["disentanglement"].arrays
    if not arrays:
        return
    values = {name.removeprefix("factor "): part for name, part in arrays.items() if name.startswith("factor ")}
    stds = arrays.get("stds", arrays["means"][:, :0])
    path = keep_codes(run, dataset, found.split, Codes(arrays["means"], stds, values, arrays["factors"]))
    if path is not None:
        print(f"codes: {path}", file=sys.stderr)


def _load(run: str, model_class: str | None, **changes: Any) -> Any:
    return load(run, model_class=import_class(model_class) if model_class else None, **changes)


def _changes(config: Config, flags: list[str]) -> dict[str, Any]:
    """The fields that ``--model.*`` flags change, with their new values."""
    changed = _overridden(config, flags, "--model.").model_dump()
    return {name: value for name, value in changed.items() if value != config.model_dump()[name]}


def _overridden(config: Config, flags: list[str], prefix: str) -> Any:
    """Settings with flags such as ``--data.image-size 64`` taken in."""
    bare = ["--" + flag.removeprefix(prefix) if flag.startswith(prefix) else flag for flag in flags]
    try:
        return parse(type(config), bare, program="objectwise evaluate RUN", default=config)
    except UserError as error:
        raise UserError(str(error).replace("--", prefix)) from None


def _take_flags(words: list[str], prefix: str) -> list[str]:
    """Remove ``--data.* ...`` flags (or of another prefix) and their values from the words and return them."""
    taken: list[str] = []
    position = 0
    while position < len(words):
        if words[position].startswith(prefix):
            end = position + 1
            while end < len(words) and not words[end].startswith("--"):
                end += 1
            taken += words[position:end]
            del words[position:end]
        else:
            position += 1
    return taken


def _dataset(given: EvaluateArguments, data_name: str | None, flags: list[str], model: Any) -> Dataset:
    """The run's own data or other ones, with overrides, checked against the model."""
    run = Path(given.run)
    has_experiment = (run / CONFIG).is_file()
    if data_name is None and not has_experiment:
        raise UserError(f"{run} is a model without its experiment; say what to score it on with --data NAME")
    allowed = (given.model_class, given.data_class, data_name)
    own = run_experiment(run, allowed=allowed) if has_experiment else None
    if own is not None and data_name in (None, own.data_name):
        data: Any = own.data
    else:
        data = data_config_class(str(data_name))()
    dataset: Dataset = _overridden(data, flags, "--data.").build()
    Experiment.check_fit(model.config, dataset)
    return dataset


def _print_scores(found: Evaluation) -> None:
    print(f"{found.images} images of the {found.split} split", file=sys.stderr)
    width = max(map(len, found.scores))
    for name, value in found.scores.items():
        print(f"{name:<{width}}  {value:.4f}")
    left_out = found.details.get("count_accuracy", {}).get("left_out")
    if left_out:
        print(f"counts are not scored: {left_out}", file=sys.stderr)
    if found.counts is not None:
        print(f"{'confusion':<{width}}  {json.dumps(found.counts.confusion.tolist())}  (rows: true count)")
    for name, group in found.groups.items():
        _print_group(name, group)


def _print_group(name: str, group: GroupScores) -> None:
    """A group's tables on stdout, its advice on stderr."""
    for section, rows in group.sections.items():
        print(f"\n{name}: {section}")
        width = max(map(len, rows))
        counts = sorted({count for row in rows.values() for count in row.by_count})
        title = f"{'':<{width}}  {'value':>8}  {'95 % interval':<18}  {'scored':<16}"
        print((title + "".join(f"  {_objects(count):>9}" for count in counts)).rstrip())
        for label, row in rows.items():
            print(f"{label:<{width}}  {_row_text(row, counts)}".rstrip())
    for sentence in group.advice:
        print(sentence, file=sys.stderr)


def _objects(count: int) -> str:
    return "1 object" if count == 1 else f"{count} objects"


def _row_text(row: ScoreRow, counts: list[int]) -> str:
    low, high = row.interval or (float("nan"), float("nan"))
    interval = "" if math.isnan(low) else f"{low:.4f} to {high:.4f}"
    images = f"{row.n_scored}" + (f" ({row.n_skipped} skipped)" if row.n_skipped else "")
    text = f"{_number(row.value):>8}  {interval:<18}  {images:<16}"
    for count in counts:
        text += f"  {_number(row.by_count[count].value) if count in row.by_count else '':>9}"
    if row.threshold is not None:
        text += f"  {'FIRES' if row.advice else 'ok':<5} (threshold {row.threshold:g})"
    return f"{text}  {row.note}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
