"""``train`` and ``resume``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from objectwise.cli.parsing import parse, take_option
from objectwise.core import Config, UserError
from objectwise.recipes import RECIPES, recipe
from objectwise.recipes.experiment import Experiment, load_experiment, read_yaml
from objectwise.recipes.runs import Stopped, run_experiment
from objectwise.recipes.runs import resume as resume_run
from objectwise.recipes.runs import train as train_experiment

_DESCRIPTION = """\
Train a recipe: objectwise train RECIPE [--data NAME] [--preset NAME] [--config FILE] [overrides].

--data NAME chooses other data (a name that `objectwise data` lists, or package.module:Config), whose settings are then the
--data.* flags below. --preset NAME chooses one of the recipe's sets of settings (`objectwise recipes` lists them).
--config FILE reads the experiment from YAML: all fields, or `recipe: NAME` and the fields to change.
"""


def train(arguments: list[str]) -> int:
    """Train a recipe or a configuration file, with overrides."""
    experiment = experiment_from(arguments)
    return finish(lambda: train_experiment(experiment, told=lambda text: print(text, file=sys.stderr)))


def experiment_from(arguments: list[str]) -> Experiment:
    """The experiment that ``train``'s arguments describe.

    Raises:
        UserError: if they describe none.
    """
    words = list(arguments)
    config = take_option(words, "--config")
    data = take_option(words, "--data")
    preset = take_option(words, "--preset")
    name = words.pop(0) if words and not words[0].startswith("-") else None
    if name is None and config is None:
        if "--help" in words or "-h" in words:
            name = next(iter(RECIPES))
        else:
            raise UserError("train needs a recipe (`objectwise recipes` lists them) or --config FILE")
    base = _from_file(Path(config), name, data, preset) if config is not None else recipe(str(name), data, preset)
    program = f"objectwise train {name or '--config ' + str(config)}"
    return parse(type(base), words, program=program, description=_DESCRIPTION, default=_made_room(base, words))


def _made_room(base: Experiment, words: list[str]) -> Experiment:
    """The experiment without the settings whose place a flag takes: ``beta`` where ``--model.beta-norm`` is given."""
    changes: dict[str, Config] = {}
    for name in ("model", "data", "training"):
        part: Config = getattr(base, name)
        flags = [word.partition("=")[0] for word in words if word.startswith(f"--{name}.")]
        given = [flag.removeprefix(f"--{name}.").replace("-", "_") for flag in flags]
        changes[name] = part.model_copy(update=part.displaced(given))
    return base.model_copy(update=changes)


def _from_file(path: Path, name: str | None, data: str | None, preset: str | None) -> Experiment:
    values = read_yaml(path)
    base_name = values.pop("recipe", name)
    if base_name is None:
        if data is not None:
            raise UserError("--data goes with a recipe; in a configuration file set data_name and data instead")
        if preset is not None or "preset" in values:
            raise UserError("a preset goes with a recipe; begin the configuration file with `recipe: NAME`")
        return load_experiment(path)
    base = recipe(str(base_name), data or values.pop("data_name", None), preset or values.pop("preset", None))
    try:
        return merged(base, values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def merged(base: Experiment, values: dict[str, Any]) -> Experiment:
    """An experiment with some fields changed, those of its parts too.

    Raises:
        UserError: for misspelt names or impossible values.
    """
    changes: dict[str, Any] = {}
    for key, value in values.items():
        part = getattr(base, key, None)
        changes[key] = part.replaced(**value) if isinstance(part, Config) and isinstance(value, dict) else value
    return base.replaced(**changes)


@dataclass
class ResumeArguments:
    """Go on with a run from its newest checkpoint, exactly as if it had never stopped."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder."""
    max_steps: int | None = None
    """Train up to this many steps in all instead of the run's own number; a cosine schedule is stretched to it from here on."""


def resume(arguments: list[str]) -> int:
    """Go on with a run."""
    given = parse(ResumeArguments, arguments, program="objectwise resume", description=str(ResumeArguments.__doc__))
    changes: dict[str, Any] = {} if given.max_steps is None else {"max_steps": given.max_steps}
    run_experiment(Path(given.run))
    return finish(lambda: resume_run(Path(given.run), **changes))


def finish(work: Callable[[], Path]) -> int:
    """Do the work; say where the results are, or how to go on."""
    try:
        run = work()
    except Stopped as stopped:
        print(f"objectwise: {stopped}", file=sys.stderr)
        return 128 + stopped.signal_number
    print(f"report: {run / 'report.html'}", file=sys.stderr)
    print(run)
    return 0
