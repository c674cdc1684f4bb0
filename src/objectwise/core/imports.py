"""Classes by import path: how a user's own model or data class is named."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objectwise.core.errors import UserError, nearest


def from_table(what: str, name: str, table: Mapping[str, str]) -> Any:
    """Import what a table names, and nothing else of the table.

    Args:
        what: what the table holds, for the error message, e.g. ``"model"``.
        name: a name in the table.
        table: name -> ``package.module:attribute``.

    Raises:
        UserError: for an unknown name, with the nearest right one.
    """
    if name not in table:
        raise UserError(f"there is no {what} '{name}'{nearest(name, table)}")
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def is_import_path(name: str) -> bool:
    """Whether a name has the form ``package.module:Class``."""
    module, _, attribute = name.partition(":")
    return bool(attribute) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def import_class(name: str) -> Any:
    """Import ``package.module:Class``; modules in the current folder are found too.

    Raises:
        UserError: if there is no such module or class.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise UserError(f"cannot import '{module}': {error}") from None
    except AttributeError:
        raise UserError(f"module '{module}' has no '{attribute}'") from None


def import_path_of(cls: type) -> str:
    """The import path of a class."""
    return f"{cls.__module__}:{cls.__qualname__}"
