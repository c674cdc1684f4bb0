"""Model weights on disk: safetensors and JSON, nothing that can run code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from objectwise.core.errors import UserError
from objectwise.core.files import atomic_path, write_text

FORMAT = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def save_weights(model: nn.Module, name: str, folder: Path) -> None:
    """Write a model into a folder, each file atomically.

    Args:
        model: with a ``config``.
        name: the model's name in the table, or the import path ``package.module:Class`` of a class of the user's own.
        folder: created if absent.

    Raises:
        UserError: if the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder}: {error.strerror or error}") from None
    # Cloned: safetensors refuses tensors that share memory, which tied weights do.
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors))
    config: Any = model.config
    described = {"format": FORMAT, "model": name, "config": config.model_dump(mode="json"), "torch": torch.__version__}
    write_text(folder / DESCRIPTION, json.dumps(described, indent=2) + "\n")


def read_description(folder: Path) -> dict[str, Any]:
    """The JSON beside the weights: ``model`` (name) and ``config``.

    Raises:
        UserError: if the folder holds no model of ours.
    """
    path = folder / DESCRIPTION
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no model: {DESCRIPTION} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(described, dict) or not {"format", "model", "config"} <= described.keys():
        raise UserError(f"{path} does not describe an objectwise model")
    if described["format"] != FORMAT:
        raise UserError(f"{path} has format {described['format']}; this version of objectwise reads format {FORMAT}")
    return described


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fill a freshly built model with the weights of a folder.

    Raises:
        UserError: if the file is missing, damaged, or of another architecture.
    """
    path = folder / WEIGHTS
    try:
        tensors = safetensors.torch.load_file(os.fspath(path))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no weights: {WEIGHTS} is missing") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    expected = model.state_dict()
    for key in sorted(expected.keys() | tensors.keys()):
        if key not in tensors or key not in expected:
            lacking = path if key not in tensors else type(model).__name__
            raise UserError(f"{path} is of another model than {type(model).__name__}: {lacking} has no '{key}'")
        if expected[key].shape != tensors[key].shape:
            raise UserError(
                f"{path} is of another model than this {type(model).__name__}: '{key}' has shape "
                f"{tuple(tensors[key].shape)}, not {tuple(expected[key].shape)}"
            )
    model.load_state_dict(tensors)
