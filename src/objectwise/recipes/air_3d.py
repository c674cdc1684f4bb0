"""AIR in 3D (Eslami et al. 2016, section on 3D scenes)."""

from __future__ import annotations

from typing import Any

from objectwise.core import UserError
from objectwise.recipes.experiment import Experiment

_TRAINING = {
    "max_steps": 20_000,
    "learning_rate": 5e-4,
    "schedule": "cosine",
    "gradient_clip": 1000.0,
    "validate_every": 500,
}

_START = {"blur_start": 1.0}
"""Slow waves first: they draw objects to their places from afar."""
_COUNT = {"count_prior_start": 1e60, "count_prior_steps": 5_000}
"""Objects are switched off last."""


def air_3d_single() -> Experiment:
    """AIR in 3D on one cube, sphere or cylinder, 32×32: class, position and rotation through a black-box renderer.

    One step that the prior demands and that attends to a place, kinds collapsed, central finite differences. Only cubes can be
    seen to turn, so that a yaw is known up to quarter turns.
    """
    return Experiment.of(
        "air-3d-single",
        "air_3d",
        "air_3d_single",
        model={
            "num_steps": 1,
            "identity": "collapsed",
            "attention": True,
            "window": 16,
            "rotation_fold": 4,
            "rotation_spread": 0.15,
            "pose_std": 0.2,
            "count_prior": 1e100,
            "blur_start": 1.0,
            "blur_steps": 300,
        },
        training={**_TRAINING, "max_steps": 2_000, "learning_rate": 1e-3},
    )


def air_3d_table(preset: str = "primitives") -> Experiment:
    """AIR in 3D on none to three objects on a table, 32×32; presets: primitives, tableware, camera (inferred as well).

    Three steps, the count summed exactly, kinds by local expectation, central finite differences.
    """
    presets: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "primitives": ({}, {}),
        "tableware": ({"scene": {"family": "tableware"}}, {"renderer": {"family": "tableware", "samples": 4}}),
        "camera": ({"camera": "inferred"}, {"camera": "varied"}),
    }
    if preset not in presets:
        raise UserError(f"air-3d-table has no preset '{preset}'; there are {', '.join(presets)}")
    model, data = presets[preset]
    return Experiment.of(
        "air-3d-table",
        "air_3d",
        "air_3d_table",
        model={"num_steps": 3, **_START, **_COUNT, **model},
        data=data,
        training=_TRAINING,
    )
