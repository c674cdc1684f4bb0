"""``recipes``, ``models`` and ``show``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro
import yaml

from objectwise.cli.parsing import parse, print_json, take_option
from objectwise.core import UserError


@dataclass
class ListingArguments:
    """List what there is."""

    json: bool = False
    """Print JSON."""


def recipes(arguments: list[str]) -> int:
    """List the recipes with the first line of their docstrings and the names of their presets."""
    from objectwise.recipes import RECIPES, preset_names, recipe_function

    def told(name: str) -> str:
        presets = ", ".join(preset_names(name))
        return _first_line(recipe_function(name)) + (f" Presets: {presets}." if presets else "")

    given = parse(ListingArguments, arguments, program="objectwise recipes", description="List the recipes.")
    _print_table({name: told(name) for name in RECIPES}, as_json=given.json)
    return 0


def models(arguments: list[str]) -> int:
    """List the models with the first line of their docstrings."""
    from objectwise.models import MODELS, model_class

    given = parse(ListingArguments, arguments, program="objectwise models", description="List the models.")
    _print_table({name: _first_line(sys.modules[model_class(name).__module__]) for name in MODELS}, as_json=given.json)
    return 0


@dataclass
class ShowArguments:
    """Print every setting of a recipe as YAML, ready for `train --config`."""

    recipe: Annotated[str, tyro.conf.Positional]
    """Name of the recipe."""
    json: bool = False
    """Print JSON."""


def show(arguments: list[str]) -> int:
    """Print a recipe."""
    from objectwise.recipes import recipe

    words = list(arguments)
    data, preset = take_option(words, "--data"), take_option(words, "--preset")
    if not words:
        raise UserError("show needs a recipe; `objectwise recipes` lists them")
    given = parse(ShowArguments, words, program="objectwise show", description=str(ShowArguments.__doc__))
    values = recipe(given.recipe, data, preset).model_dump(mode="json")
    if given.json:
        print_json(values)
    else:
        yaml.safe_dump(values, sys.stdout, sort_keys=False, allow_unicode=True)
    return 0


def _first_line(thing: object) -> str:
    return str(thing.__doc__).strip().splitlines()[0]


def _print_table(rows: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        json.dump(rows, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    width = max(map(len, rows))
    for name, text in rows.items():
        print(f"{name:<{width}}  {text}")
