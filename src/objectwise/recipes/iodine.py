"""IODINE (Greff et al. 2019), with the settings of the released checkpoints, the paper's text, a PyTorch port, or our own.

``--preset NAME`` sets them all at once; each is also a flag of its own, ``--model.*`` and ``--training.*``.

* ``published``: google-deepmind/deepmind-research, ``iodine``: logistic pixels of scale .03, one mixture per pixel, prior
  variance ln 2, eleven pictures and three vectors for the refinement network, layer normalisation, only gradients and
  likelihoods stopped; Adam with β₁ .95, clipping at 5, a rate that falls by ten in a million steps; batch and rate of one GPU.
* ``paper``: the text, as far as it is known: normal pixels of σ .1, prior variance 1, no constant inputs, Adam 3e-4, clipping
  at 5, the batches of eight GPUs together. Its CLEVR encoder has one dense layer less.
* ``port``: zhixuan-lin/IODINE as revised after the paper: a mixture per channel, sigmoid colours, log variances, densities in
  the place of log likelihoods, the gradient of the masks in that of their logits, everything stopped at every step; Adam 3e-4,
  no clipping. It reads updates off the LSTM's cell by accident; here that is ``--model.readout cell``.
* ``port-first``: the same port's first version, written to the text alone: the network sees the image and dL/dλ laid on every
  pixel as a decoded z is, and nothing else; a learned σ from 1; the last step's loss alone. Its normalisation over the batch
  is one over numbers here, because images must not see each other.
* ``tuned``: ours, for an hour or two of one CPU core. The paper's likelihood with a σ that falls from two thirds of what objects
  differ from their background by, so that slots part early (docs/notes/0011-wide-sigma-first.md): .3 to .1, for CLEVR's dull
  colours .14 to .05; five refinement steps; convolutions of 3×3; a decoder that draws on a quarter of
  the sides and doubles twice, a refinement network that keeps the place of what it saw, with an LSTM, 32 latents; batches of
  8, Adam 1e-3, 20,000 steps.

The networks' sizes are those of the data set, but in the ports, whose decoders are their own, and in ``tuned``.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from objectwise.core import UserError, nearest
from objectwise.models.iodine_config import SpatialInput
from objectwise.recipes.experiment import Experiment

Preset = Literal["published", "paper", "port", "port-first", "tuned"]

_ALL_INPUTS = tuple(name for name in get_args(SpatialInput) if name != "dzp")
_SMALL: dict[str, Any] = {
    "decoder_widths": (32, 32, 32, 32),
    "decoder_kernel": 5,
    "encoder_widths": (32, 32, 32),
    "encoder_kernel": 5,
    "encoder_hidden": (128,),
    "coordinates": "cosine",
}
_SIZES: dict[str, dict[str, Any]] = {
    "tetrominoes": {**_SMALL, "num_slots": 4, "latent_size": 32, "recurrent_cell": "none"},
    "multi-dsprites": {**_SMALL, "num_slots": 6, "latent_size": 16, "lstm_size": 128},
    "clevr6": {"num_slots": 7, "latent_size": 64, "encoder_hidden": (256, 256)},
}
_ONE_GPU: dict[str, tuple[int, float]] = {
    "tetrominoes": (128, 3e-4 * 0.5**0.5),
    "multi-dsprites": (16, 3e-4 * 0.125**0.5),
    "clevr6": (4, 1e-3 * 0.125**0.5),
}
"""Batch and learning rate of the released code on one GPU: the rate of eight, times √(batch / batch of eight)."""
_EIGHT_GPUS = {"tetrominoes": 256, "multi-dsprites": 128, "clevr6": 32}

_PUBLISHED: dict[str, Any] = {
    "density": "logistic",
    "sigma": 0.03,
    "prior_variance": math.log(2.0),
    "spatial_inputs": _ALL_INPUTS,
    "flat_inputs": ("dzp", "flat_capacity", "zp"),
    "decoder_constant": 5.0,
    "padding": "tensorflow",
}
_EITHER_PORT: dict[str, Any] = {
    "likelihood": "per_channel",
    "mask_floor": 1e-12,
    "rgb": "sigmoid",
    "posterior_scale": "log_variance",
    "posterior_floor": 0.0,
    "layer_norm": "plain",
    "coordinates": "linear",
    "encoder_kernel": 3,
    "decoder_kernel": 3,
}
_PORT: dict[str, Any] = {
    **_EITHER_PORT,
    "initial_posterior": "zeros",
    "mask_gradient": "masks",
    "likelihood_inputs": "density",
    "gradient_scope": "all",
    "loss_weights": "port",
}
_PORT_FIRST: dict[str, Any] = {
    **_EITHER_PORT,
    "sigma": 1.0,
    "learned_sigma": True,
    "initial_posterior": "fixed",
    "spatial_inputs": ("coordinates", "dzp", "image"),
    "flat_inputs": (),
    "loss_weights": "last",
    "recurrent_cell": "lstm",
    "encoder_hidden": (256, 256),
    "lstm_size": 256,
    "encoder_widths": (64, 64, 64, 64),
    "decoder_widths": (64, 64, 64, 64),
}
_TUNED_BATCH = 8
_TUNED: dict[str, Any] = {
    "padding": "tensorflow",
    "decoder_widths": (64, 32, 32),
    "decoder_kernel": 3,
    "decoder_doublings": 2,
    "encoder_widths": (32, 32, 32),
    "encoder_kernel": 3,
    "encoder_pooling": "none",
    "encoder_hidden": (256, 128),
    "recurrent_cell": "lstm",
    "lstm_size": 128,
    "latent_size": 32,
    "coordinates": "linear",
    "sigma_hold": 5_000,
    "sigma_steps": 9_000,
    "gradient_scale": 1.0 / _TUNED_BATCH,
}
_WIDE_TO_NARROW: dict[str, tuple[float, float]] = {
    "tetrominoes": (0.3, 0.1),
    "multi-dsprites": (0.3, 0.1),
    "clevr6": (0.14, 0.05),
}
"""σ of ``tuned`` at first and at last. Objects differ from their background by .46, .42 and .21 (root mean square)."""
_PRESETS = get_args(Preset)
_STEPS = 1_000_000


def iodine_tetrominoes(preset: Preset = "published") -> Experiment:
    """IODINE on Tetrominoes, made here: 35×35, three pieces on black, four slots; as published without an LSTM."""
    return _iodine("iodine-tetrominoes", "tetrominoes", preset, "tetrominoes")


def iodine_multi_dsprites(preset: Preset = "published") -> Experiment:
    """IODINE on Multi-dSprites, made here: 64×64, two to five sprites in any colour on grey, six slots."""
    data = {"variant": "colored_on_grayscale"}
    return _iodine("iodine-multi-dsprites", "multi_dsprites", preset, "multi-dsprites", data=data)


def iodine_clevr6(preset: Preset = "published") -> Experiment:
    """IODINE on the official CLEVR scenes of at most six objects, 128×128, seven slots."""
    return _iodine("iodine-clevr6", "clevr_with_masks", preset, "clevr6", data={"max_objects": 6})


def iodine(preset: Preset = "published") -> Experiment:
    """IODINE with the network for Multi-dSprites and seven slots, for any data."""
    own = _iodine("iodine", "multi_dsprites", preset, "multi-dsprites")
    return own.replaced(model=own.model.replaced(num_slots=7))


def _iodine(name: str, data_name: str, preset: str, sizes: str, *, data: dict[str, Any] | None = None) -> Experiment:
    if preset not in _PRESETS:
        raise UserError(f"{name} has no preset '{preset}'{nearest(preset, _PRESETS)}")
    model, training = _settings(preset, sizes)
    return Experiment.of(name, "iodine", data_name, model=model, training=training, data=data or {})


def _settings(preset: str, sizes: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the model and of the training."""
    adam = {"learning_rate": 3e-4, "max_steps": _STEPS}
    match preset:
        case "published":
            batch, rate = _ONE_GPU[sizes]
            # Inner gradients of the batch's mean; a factor ten in a million steps.
            model = {**_SIZES[sizes], **_PUBLISHED, "gradient_scale": 1.0 / batch}
            training = {"batch_size": batch, "learning_rate": rate, "beta1": 0.95, "gradient_clip": 5.0}
            schedule = {"schedule": "exponential", "half_life": round(_STEPS * math.log10(2.0))}
            return model, {**adam, **training, **schedule}
        case "paper":
            hidden = {"encoder_hidden": _SIZES[sizes]["encoder_hidden"][:1], "padding": "tensorflow"}
            training = {"batch_size": _EIGHT_GPUS[sizes], "gradient_clip": 5.0}
            return {**_SIZES[sizes], **hidden}, {**adam, **training}
        case "tuned":
            training = {"batch_size": _TUNED_BATCH, "learning_rate": 1e-3, "beta1": 0.95, "gradient_clip": 5.0}
            schedule = {"schedule": "cosine", "warmup_steps": 200, "max_steps": 20_000}
            start, end = _WIDE_TO_NARROW[sizes]
            return {**_SIZES[sizes], **_TUNED, "sigma_start": start, "sigma": end}, {**training, **schedule}
        case "port":
            hidden = {"encoder_hidden": _SIZES[sizes]["encoder_hidden"][:1]}
            if sizes != "clevr6":
                hidden["decoder_widths"] = (32,) * 5
            return {**_SIZES[sizes], **hidden, **_PORT}, {**adam, "batch_size": 32, "gradient_clip": None}
        case _:
            return {**_SIZES[sizes], **_PORT_FIRST}, {**adam, "batch_size": 32, "gradient_clip": None}
