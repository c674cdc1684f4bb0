"""objectwise learns, without labels, what the objects in images are.

In three lines::

    run = objectwise.train(objectwise.recipe("dair-digits"))
    model = objectwise.load(run)
    found = model.decompose(images)  # found.masks, found.boxes, found.counts(), found.slots, ...

Importing the package does nothing but define names; each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Batch": "objectwise.core",
    "Config": "objectwise.core",
    "Decoded": "objectwise.core",
    "Decomposition": "objectwise.core",
    "Experiment": "objectwise.recipes.experiment",
    "SceneModel": "objectwise.core",
    "UserError": "objectwise.core",
    "check_dataset": "objectwise.core",
    "check_metric": "objectwise.core",
    "check_model": "objectwise.core",
    "evaluate": "objectwise.training.evaluation",
    "load": "objectwise.recipes.runs",
    "recipe": "objectwise.recipes",
    "resume": "objectwise.recipes.runs",
    "train": "objectwise.recipes.runs",
}

__all__ = [
    "Batch",
    "Config",
    "Decoded",
    "Decomposition",
    "Experiment",
    "SceneModel",
    "UserError",
    "__version__",
    "check_dataset",
    "check_metric",
    "check_model",
    "evaluate",
    "load",
    "recipe",
    "resume",
    "train",
]

if TYPE_CHECKING:
    from objectwise.core import (
        Batch,
        Config,
        Decoded,
        Decomposition,
        SceneModel,
        UserError,
        check_dataset,
        check_metric,
        check_model,
    )
    from objectwise.recipes import recipe
    from objectwise.recipes.experiment import Experiment
    from objectwise.recipes.runs import load, resume, train
    from objectwise.training.evaluation import evaluate


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'objectwise' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
