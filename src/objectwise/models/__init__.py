"""Models: one file per paper; this table names them all.

Adding one: its file, its test, and its line here.
"""

from __future__ import annotations

from typing import Any

from objectwise.core.imports import from_table

MODELS: dict[str, str] = {
    "air": "objectwise.models.air:AIR",
    "air_3d": "objectwise.models.air_3d:AIR3D",
    "beta_vae": "objectwise.models.beta_vae:BetaVAE",
    "iodine": "objectwise.models.iodine:IODINE",
    "iterative_vae": "objectwise.models.iterative_vae:IterativeVAE",
    "monet": "objectwise.models.monet:MONet",
    "vae": "objectwise.models.vae:VAE",
}
"""Name -> model class, which has its configuration class as ``Config``."""


def model_class(name: str) -> Any:
    """The class of a model of the table.

    Raises:
        UserError: for an unknown name, with the nearest right one.
    """
    return from_table("model", name, MODELS)
