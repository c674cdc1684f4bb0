"""Flags by tyro, errors in one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, Union, get_args, get_origin

import tyro
from pydantic import BaseModel

from objectwise.core.errors import UserError, nearest

T = TypeVar("T")


def parse(kind: type[T], arguments: Sequence[str], *, program: str, description: str = "", default: Any = None) -> T:
    """Parse flags into an object.

    Args:
        kind: a dataclass or a pydantic model; field docstrings are the help texts.
        arguments: the words after the verb.
        program: what to call the program in the help text.
        description: the first lines of the help text.
        default: an object with the values of flags that are not given.

    Raises:
        UserError: for an unknown flag (with the nearest right one), a wrong type or an impossible value.
        SystemExit: after printing the help text.
    """
    wants_help = "-h" in arguments or "--help" in arguments
    if not wants_help:
        _check_names(kind, arguments)
        arguments = _capital_truths(kind, arguments)
    options: dict[str, Any] = {"prog": program, "description": description, "config": (tyro.conf.FlagConversionOff,)}
    if dataclasses.is_dataclass(kind):
        options["config"] = ()
    if default is not None:
        options["default"] = default
    if wants_help:
        return tyro.cli(kind, args=list(arguments), **options)
    captured = io.StringIO()
    try:
        with _wide_terminal(), contextlib.redirect_stderr(captured), contextlib.redirect_stdout(captured):
            return tyro.cli(kind, args=list(arguments), **options)
    except SystemExit:
        raise UserError(_sentence(captured.getvalue())) from None


def flags(kind: Any, prefix: str = "") -> dict[str, Any]:
    """Every flag of a type, nested ones with dots -> the type of its value."""
    names: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {name: (field.annotation, field.metadata) for name, field in kind.model_fields.items()}
    elif dataclasses.is_dataclass(kind):
        hints = __import__("typing").get_type_hints(kind, include_extras=True)
        fields = {field.name: (hints[field.name], ()) for field in dataclasses.fields(kind)}
    for name, (annotation, _) in fields.items():
        flag = f"{prefix}{name.replace('_', '-')}"
        nested = _nested_model(annotation)
        if nested is not None:
            names |= flags(nested, f"{flag}.")
        else:
            names[flag] = annotation
            if annotation is bool and dataclasses.is_dataclass(kind):
                names[f"{prefix}no-{name.replace('_', '-')}"] = bool
    return names


def _nested_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next(filter(None, map(_nested_model, get_args(annotation))), None)
    return None


def _check_names(kind: Any, arguments: Sequence[str]) -> None:
    names = flags(kind)
    for word in arguments:
        if word.startswith("--") and len(word) > 2:
            flag = word[2:].partition("=")[0].replace("_", "-")
            if flag not in names:
                raise UserError(f"there is no option --{flag}{_nearest_flag(flag, list(names))}")


def _capital_truths(kind: Any, arguments: Sequence[str]) -> list[str]:
    """Arguments with ``true`` and ``false``, as YAML has them, the way tyro has them."""
    names = flags(kind)
    capital = {"true": "True", "false": "False"}
    found, truth = [], False
    for word in arguments:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            annotation = names.get(flag[2:].replace("_", "-"))
            truth = annotation is bool or bool in get_args(annotation)
            found.append(flag + equals + capital.get(value, value) if truth else word)
        else:
            found.append(capital.get(word, word) if truth else word)
    return found


def _nearest_flag(flag: str, names: list[str]) -> str:
    """The hint; a flag that only lacks its group (``--max-steps``) is recognised too."""
    ungrouped = [name for name in names if name.rpartition(".")[2] == flag]
    hint = f"; did you mean '{ungrouped[0]}'?" if ungrouped else nearest(flag, names)
    return hint.replace("mean '", "mean '--")


@contextlib.contextmanager
def _wide_terminal() -> Iterator[None]:
    """Keeps messages from being wrapped."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "2000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


_REWORDED = (
    (r"^Missing from (?:objectwise )?([^:]*): (?:STR )?(.*?)\.? \(required\).*$", r"\1 needs: \2"),
    (r"invalid literal for int\(\) with base 10: (.*)", r"expected a whole number, not \1"),
    (r"could not convert string to float: (.*)", r"expected a number, not \1"),
    (r"^Error parsing ", ""),
    (r"^Unrecognized options: ", "cannot make sense of: "),
)


def _sentence(text: str) -> str:
    """The message inside the box that tyro draws: between its heading and the next rule, in box characters or ASCII."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        bare = line.strip(" │")
        if bare.startswith("╭") or (bare and set(bare) <= set("─╰╯-")):
            blocks.append([])
        else:
            blocks[-1].append(bare)
    sentence = " ".join(" ".join(blocks[min(1, len(blocks) - 1)]).split())
    for pattern, replacement in _REWORDED:
        sentence = re.sub(pattern, replacement, sentence)
    return sentence or "these arguments do not fit; see --help"


def take_option(arguments: list[str], name: str) -> str | None:
    """Remove ``--name VALUE`` or ``--name=VALUE`` from the words and return the value.

    Raises:
        UserError: if the value is missing.
    """
    for position, word in enumerate(arguments):
        if word == name:
            if position + 1 >= len(arguments) or arguments[position + 1].startswith("--"):
                raise UserError(f"{name} needs a value")
            value = arguments[position + 1]
            del arguments[position : position + 2]
            return value
        if word.startswith(name + "="):
            del arguments[position]
            return word.partition("=")[2]
    return None


def print_json(record: object) -> None:
    """Machine-readable output on stdout."""
    import json

    json.dump(record, sys.stdout, indent=2)
    sys.stdout.write("\n")
