"""MONet (Burgess et al. 2019), with the settings of the paper, of the MONet blog, or our own."""

from __future__ import annotations

from typing import Any, Literal

from objectwise.core import UserError, nearest
from objectwise.recipes.experiment import Experiment

Preset = Literal["tuned", "paper", "blog"]
"""tuned: ours; paper: its loss, sizes and optimiser; blog: borea17's post (simplified loss, a small network, 7,800 steps)."""

_SMALL: dict[str, Any] = {"unet_widths": (16, 32, 64, 64, 64), "latent_size": 8, "decoder_width": 16}
_RMSPROP: dict[str, Any] = {"optimizer": "rmsprop", "learning_rate": 1e-4, "batch_size": 64}

_MODELS: dict[str, dict[str, Any]] = {
    "tuned": {},
    "paper": {},
    "blog": {**_SMALL, "likelihood": "simplified", "rgb": "abs", "mask_input": "linear"},
}
_TRAININGS: dict[str, dict[str, Any]] = {
    "tuned": {"learning_rate": 5e-4, "gradient_clip": 1000.0},
    "paper": {**_RMSPROP, "gradient_clip": None, "max_steps": 1_000_000},
    "blog": {**_RMSPROP, "gradient_clip": 2.0, "max_steps": 7_800},
}


def monet_two_shapes(preset: Preset = "tuned") -> Experiment:
    """MONet on two squares or circles in three colours on black, 64×64, three slots: the MONet blog's set, corrected.

    ``--preset tuned`` (default): the blog's small network with the paper's loss, Adam, 8,000 steps; ``paper``: the paper's network
    and optimiser as well; ``blog``: the blog's loss, log-free mask input and optimiser. The blog's own images are
    ``--data.mode faithful``.
    """
    sizes = _SMALL if preset != "paper" else {}
    return _monet("monet-two-shapes", "two_shapes", preset, slots=3, steps=8_000, model=sizes)


def monet_multi_dsprites(preset: Preset = "paper") -> Experiment:
    """MONet on Multi-dSprites (sprites made here: no download), 64×64, five slots."""
    return _monet("monet-multi-dsprites", "multi_dsprites", preset, slots=5, steps=100_000)


def monet_objects_room(preset: Preset = "paper") -> Experiment:
    """MONet on the official Objects Room, 64×64, seven slots."""
    return _monet("monet-objects-room", "objects_room", preset, slots=7, steps=100_000)


def monet_clevr6(preset: Preset = "paper") -> Experiment:
    """MONet on the official CLEVR scenes of at most six objects, 128×128, seven slots."""
    return _monet(
        "monet-clevr6",
        "clevr_with_masks",
        preset,
        slots=7,
        steps=100_000,
        data={"max_objects": 6},
        model={"unet_widths": None},
    )


def monet(preset: Preset = "tuned") -> Experiment:
    """MONet with the paper's network, five slots, for any data."""
    return _monet("monet", "two_shapes", preset, slots=5, steps=100_000)


def _monet(
    name: str, data_name: str, preset: str, *, slots: int, steps: int, model: dict[str, Any] | None = None, **parts: Any
) -> Experiment:
    if preset not in _MODELS:
        raise UserError(f"{name} has no preset '{preset}'{nearest(preset, _MODELS)}")
    return Experiment.of(
        name,
        "monet",
        data_name,
        model={**_MODELS[preset], **(model or {}), "num_slots": slots},
        training={"max_steps": steps, **_TRAININGS[preset]},
        **parts,
    )
