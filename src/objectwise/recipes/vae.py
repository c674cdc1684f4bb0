"""A plain VAE (Kingma and Welling 2014), the baseline of the probes."""

from __future__ import annotations

from objectwise.recipes.experiment import Experiment


def vae_digits() -> Experiment:
    """A plain VAE on scenes of 0 to 2 handwritten digits, 50×50: the baseline without objects."""
    return Experiment.of("vae-digits", "vae", "digits", training={"max_steps": 5_000})


def vae() -> Experiment:
    """A plain VAE with the settings of vae-digits, for any data."""
    return vae_digits().replaced(name="vae")
