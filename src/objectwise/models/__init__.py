"""Models: one file per paper; this table names them all.

Adding one: its file, its test, and its line here.
"""

from __future__ import annotations

import importlib
from typing import Any

from objectwise.core import UserError, nearest

MODELS: dict[str, str] = {
    "air": "objectwise.models.air:AIR",
    "vae": "objectwise.models.vae:VAE",
}
"""Name -> model class, which has its configuration class as ``Config``."""


def model_class(name: str) -> Any:
    """The class of a model of the table.

    Raises:
        UserError: for an unknown name, with the nearest right one.
    """
    if name not in MODELS:
        raise UserError(f"there is no model '{name}'{nearest(name, MODELS)}")
    module, attribute = MODELS[name].split(":")
    return getattr(importlib.import_module(module), attribute)
