"""The β-VAE family (Higgins et al. 2016, 2017), with the settings of the ball recreation, of the paper, or our own.

``--model.beta`` and ``--model.beta-norm`` are two scales of one weight; whichever is given counts, and both are printed.

Balls, ``--preset NAME``:

* ``faithful``: the recreation's: trajectories as batches of 128, Adam with 5e-5 (fully connected) or 1e-3 (``--model.architecture
  conv`` or ``all_conv``, then with ``--training.learning-rate 1e-3``), no clipping, 100,000 steps, β = 1 (also 0.1 and 0.5).
* ``corrected``: independent frames, the convolutional network of the 2017 paper, ten latents, β = 8 (β_norm 0.078, inside the
  paper's good band), batches of 64, Adam 1e-3. The fully connected network (``--model.architecture fc``) learns too, but spreads
  position over four to seven latents; a broadcast decoder needs two, at whatever angle they began
  (docs/notes/0009-which-axes.md).

dSprites, generated (``--data dsprites_official`` for the official file), ten latents, β = 4 (β_norm 0.0098):

* ``paper``: the fully connected network of 2016, Adagrad 1e-2, no clipping. Batch size and steps are not published: 64 and
  300,000 here.
* ``tuned``: the convolutional network of Burgess et al. 2018, Adam 5e-4, 50,000 steps.
"""

from __future__ import annotations

from typing import Any, Literal

from objectwise.core import UserError, nearest
from objectwise.models.beta_vae_networks import Architecture
from objectwise.recipes.experiment import Experiment

_RECREATED_RATES: dict[str, float] = {"fc": 5e-5, "conv": 1e-3, "all_conv": 1e-3}
"""Learning rate of each architecture in the recreation."""

_BALLS: dict[str, dict[str, Any]] = {
    "faithful": {
        "model": {"beta": 1.0},
        "data": {"mode": "faithful"},
        "training": {"gradient_clip": None, "max_steps": 100_000},
    },
    "corrected": {
        "model": {"beta": 8.0, "init": "scaled"},
        "data": {"mode": "corrected"},
        "training": {"learning_rate": 1e-3, "max_steps": 20_000},
    },
}

_DSPRITES: dict[str, dict[str, Any]] = {
    "paper": {
        "model": {"architecture": "paper_fc", "beta": 4.0},
        "training": {"optimizer": "adagrad", "learning_rate": 1e-2, "gradient_clip": None, "max_steps": 300_000},
    },
    "tuned": {
        "model": {"architecture": "burgess", "beta": 4.0},
        "training": {"learning_rate": 5e-4, "max_steps": 50_000},
    },
}


def beta_vae_balls(
    preset: Literal["faithful", "corrected"] = "corrected", *, architecture: Architecture | None = None, balls: int = 1
) -> Experiment:
    """A β-VAE on bouncing balls, 32×32: position from pixels alone.

    Args:
        preset: faithful, the recreation's settings; or corrected.
        architecture: None: fc when faithful, conv64 when corrected. It also sets the recreation's learning rate, and ten latents
            when corrected (16 for all_conv).
        balls: number of balls.
    """
    parts = _preset("beta-vae-balls", preset, _BALLS)
    architecture = architecture or ("fc" if preset == "faithful" else "conv64")
    if preset == "faithful":
        parts["training"]["learning_rate"] = _RECREATED_RATES.get(architecture, 1e-3)
    elif architecture != "all_conv":
        parts["model"]["latent_size"] = 10
    parts["model"]["architecture"] = architecture
    parts["data"]["balls"] = balls
    parts["training"]["batch_size"] = 128 if preset == "faithful" else 64
    return Experiment.of("beta-vae-balls", "beta_vae", "balls", **parts)


def beta_vae_dsprites(preset: Literal["paper", "tuned"] = "tuned") -> Experiment:
    """A β-VAE on single squares, ellipses and hearts, 64×64: shape, scale, rotation and position.

    Args:
        preset: paper, the 2016 settings; or tuned, ours.
    """
    parts = _preset("beta-vae-dsprites", preset, _DSPRITES)
    parts["training"]["batch_size"] = 64
    return Experiment.of("beta-vae-dsprites", "beta_vae", "dsprites", **parts)


def beta_vae() -> Experiment:
    """A β-VAE with the 2017 paper's convolutional network, β = 4, for any data whose sides are multiples of 16."""
    return Experiment.of(
        "beta-vae", "beta_vae", "balls", model={"architecture": "conv64", "beta": 4.0}, training={"max_steps": 50_000}
    )


def _preset(name: str, preset: str, presets: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    if preset not in presets:
        raise UserError(f"{name} has no preset '{preset}'{nearest(preset, presets)}")
    return {part: dict(values) for part, values in presets[preset].items()}
