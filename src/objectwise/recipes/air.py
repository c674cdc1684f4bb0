"""AIR and Difference AIR (Eslami et al. 2016)."""

from __future__ import annotations

from objectwise.recipes.experiment import Experiment


def air_digits() -> Experiment:
    """AIR on scenes of 0 to 2 handwritten digits, 50×50, three steps: the paper's first experiment."""
    return Experiment.of(
        "air-digits",
        "air",
        "digits",
        model={"kind": "air", "presence_bias": -1.0},
        training={"max_steps": 5_000},
    )


def dair_digits() -> Experiment:
    """Difference AIR on scenes of 0 to 2 handwritten digits, 50×50, three steps."""
    return Experiment.of(
        "dair-digits",
        "air",
        "digits",
        model={"kind": "dair", "presence_bias": 1.0},
        training={"max_steps": 5_000},
    )


def air() -> Experiment:
    """AIR with the settings of air-digits, for any data."""
    return air_digits().replaced(name="air")


def dair() -> Experiment:
    """Difference AIR with the settings of dair-digits, for any data."""
    return dair_digits().replaced(name="dair")
