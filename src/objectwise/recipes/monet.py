"""MONet (Burgess et al. 2019), with the settings of the paper, of the MONet blog, or our own.

``--preset NAME`` sets them all at once; each is also a flag of its own: ``--model.likelihood``, ``--model.rgb``,
``--model.mask-input``, ``--model.sigma-background``, ``--model.sigma-foreground``, ``--model.beta``, ``--model.gamma``, the sizes
(``--model.unet-widths``, ``--model.latent-size``, ``--model.decoder-width``, ...), and ``--training.*``.

* ``paper``: joint mixture likelihood, σ .09 and .11, β = γ = .5, log masks as input, D = 16, RMSProp 1e-4, batches of 64,
  a million steps. PyTorch's RMSProp has other defaults than TensorFlow's (decay .99, ε outside the root).
* ``blog``: borea17's post: weighted squares for a likelihood, |·| for colours, masks as they are for input, a smaller network
  (attention 16-32-64-64-64, D = 8, decoder 16), RMSProp 1e-4, clipping at 2, 7,800 steps. Its σ, β and γ are the paper's.
* ``tuned``: the paper's loss, Adam 5e-4 with clipping: what learned fastest on two_shapes, the only data it was tried on.
"""

from __future__ import annotations

from typing import Any, Literal

from objectwise.core import UserError, nearest
from objectwise.recipes.experiment import Experiment

Preset = Literal["tuned", "paper", "blog"]

_SMALL: dict[str, Any] = {"unet_widths": (16, 32, 64, 64, 64), "latent_size": 8, "decoder_width": 16}
_RMSPROP: dict[str, Any] = {"optimizer": "rmsprop", "learning_rate": 1e-4, "batch_size": 64}

_MODELS: dict[str, dict[str, Any]] = {
    "tuned": {},
    "paper": {},
    "blog": {**_SMALL, "likelihood": "simplified", "rgb": "abs", "mask_input": "linear"},
}
_TRAININGS: dict[str, dict[str, Any]] = {
    "tuned": {"learning_rate": 5e-4, "gradient_clip": 1000.0, "max_steps": 100_000},
    "paper": {**_RMSPROP, "gradient_clip": None, "max_steps": 1_000_000},
    "blog": {**_RMSPROP, "gradient_clip": 2.0, "max_steps": 7_800},
}


def monet_two_shapes(preset: Preset = "tuned") -> Experiment:
    """MONet on two squares or circles in three colours on black, 64×64, three slots: the MONet blog's set, corrected.

    The default preset has the blog's small network. The blog's own images are ``--data.mode faithful``.
    """
    own = {
        **(_SMALL if preset == "tuned" else {}),
        "background_slot": 0,
    }  # in both runs so far, docs/notes/0006
    steps = {"max_steps": 8_000} if preset == "tuned" else {}
    return _monet("monet-two-shapes", "two_shapes", preset, 3, model=own, training=steps)


def monet_multi_dsprites(preset: Preset = "paper") -> Experiment:
    """MONet on Multi-dSprites, made here: 64×64, one to four sprites in any colour on any colour, five slots."""
    return _monet("monet-multi-dsprites", "multi_dsprites", preset, 5, data={"variant": "colored_on_colored"})


def monet_objects_room(preset: Preset = "paper") -> Experiment:
    """MONet on the official Objects Room, 64×64, seven slots."""
    return _monet("monet-objects-room", "objects_room", preset, 7)


def monet_clevr6(preset: Preset = "paper") -> Experiment:
    """MONet on the official CLEVR scenes of at most six objects, 128×128, seven slots."""
    return _monet("monet-clevr6", "clevr_with_masks", preset, 7, data={"max_objects": 6})


def monet(preset: Preset = "tuned") -> Experiment:
    """MONet with the paper's network and five slots, for any data."""
    return _monet("monet", "two_shapes", preset, 5)


def _monet(
    name: str,
    data_name: str,
    preset: str,
    slots: int,
    *,
    model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
) -> Experiment:
    if preset not in _MODELS:
        raise UserError(f"{name} has no preset '{preset}'{nearest(preset, _MODELS)}")
    return Experiment.of(
        name,
        "monet",
        data_name,
        model={**_MODELS[preset], **(model or {}), "num_slots": slots},
        training={**_TRAININGS[preset], **(training or {})},
        data=data or {},
    )
