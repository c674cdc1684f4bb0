"""Models from folders: weights and configuration, never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from objectwise.core import UserError, load_weights, read_description
from objectwise.core.imports import import_path_of, is_import_path
from objectwise.models import model_class


def load_model(folder: Path, *, own_class: type[nn.Module] | None = None, **changes: object) -> nn.Module:
    """Build the model a folder describes and fill in its weights.

    Args:
        folder: with ``model.json`` and ``model.safetensors``.
        own_class: the class, where the model is of a class of the user's own. A class named by import path in a file is
            never imported: a stranger's model runs no code.
        changes: run-time settings to change, e.g. ``num_steps=5``; weights stay the same.

    Returns:
        the model in evaluation mode.

    Raises:
        UserError: for anything but a complete model of a known class.
    """
    described = read_description(folder)
    cls = _class_for(str(described["model"]), own_class)
    config = cls.Config.parse(described["config"], where=str(folder / "model.json"))
    if changes:
        config = config.replaced(**changes)
    model: nn.Module = cls(config)
    load_weights(model, folder)
    return model.eval()


def _class_for(name: str, own_class: type[nn.Module] | None) -> Any:
    if own_class is not None:
        if not (isinstance(own_class, type) and issubclass(own_class, nn.Module) and hasattr(own_class, "Config")):
            raise UserError(f"{own_class!r} is not a model class: it must be a torch.nn.Module with a Config")
        if name != import_path_of(own_class) and is_import_path(name):
            raise UserError(f"the model is a '{name}', not the {import_path_of(own_class)} that was passed")
        return own_class
    if is_import_path(name):
        raise UserError(f"the model is of a class of its own, '{name}'; pass that class to load it (model_class=...)")
    return model_class(name)
