"""AIR in 3D (Eslami et al. 2016, section on 3D scenes)."""

from __future__ import annotations

from typing import Any, Literal

from objectwise.core import UserError
from objectwise.recipes.experiment import Experiment

Preset = Literal["primitives", "tableware", "camera"]

_TRAINING = {
    "max_steps": 5_000,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "gradient_clip": 1000.0,
    "validate_every": 500,
}

_SIGHT = {"attention": True, "window": 16, "rotation_spread": 0.15, "pose_std": 0.2, "blur_start": 1.0}
"""Steps that attend to a place; yaws that are never spread so wide that they leave no gradient; slow waves first."""
_COUNT = {"count_prior_start": 1e20, "count_prior_steps": 200}
"""No object is switched off before the network knows where to put it, which takes some hundred steps."""


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
            "rotation_fold": 4,
            "count_prior": 1e100,
            **_SIGHT,
            "blur_steps": 300,
        },
        training={**_TRAINING, "max_steps": 2_000, "learning_rate": 1e-3},
    )


def air_3d_table(preset: Preset = "primitives") -> Experiment:
    """AIR in 3D on none to three objects on a table, 32×32: solids or tableware, the camera known or inferred as well.

    Three steps, each of which attends to what those before it leave unexplained; the count summed inside the logarithm, kinds by
    local expectation, central finite differences.
    """
    presets: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "primitives": ({"rotation_fold": 4}, {}),
        "tableware": ({"scene": {"family": "tableware"}}, {"renderer": {"family": "tableware", "samples": 4}}),
        "camera": ({"rotation_fold": 4, "camera": "inferred"}, {"camera": "varied"}),
    }
    if preset not in presets:
        raise UserError(f"air-3d-table has no preset '{preset}'; there are {', '.join(presets)}")
    model, data = presets[preset]
    return Experiment.of(
        "air-3d-table",
        "air_3d",
        "air_3d_table",
        model={
            "num_steps": 3,
            "estimator": "collapsed",
            "residual": True,
            **_SIGHT,
            "blur_steps": 200,
            **_COUNT,
            **model,
        },
        data=data,
        training=_TRAINING,
    )
