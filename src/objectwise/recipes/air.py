"""AIR and Difference AIR (Eslami et al. 2016)."""

from __future__ import annotations

from objectwise.recipes.experiment import Experiment


def air_digits() -> Experiment:
    """AIR on scenes of 0 to 2 handwritten digits, 50×50, three steps: the paper's first experiment.

    The collapsed bound, which also sums over all counts: with the sum in the ELBO some seeds stay at "always 3" or put two digits
    into one window, whatever the prior (``docs/notes/0002-small-count-prior.md``).
    """
    return Experiment.of(
        "air-digits",
        "air",
        "digits",
        model={"kind": "air", "presence_bias": -1.0, "estimator": "collapsed", "count_prior": 1e-4},
        training={"max_steps": 10_000, "schedule": "cosine"},
    )


def dair_digits() -> Experiment:
    """Difference AIR on scenes of 0 to 2 handwritten digits, 50×50, three steps.

    With the exact sum in the ELBO instead of the collapsed bound it is one percent less right (``--model.estimator marginal``).
    """
    return Experiment.of(
        "dair-digits",
        "air",
        "digits",
        model={"kind": "dair", "presence_bias": 1.0, "estimator": "collapsed", "count_prior": 1e-4},
        training={"max_steps": 10_000, "schedule": "cosine"},
    )


def air_omniglot() -> Experiment:
    """AIR on Omniglot characters, 50×50, four steps with small windows: parts against pen strokes.

    Windows of about a fifth of the image keep a step from taking the whole character. Of the settings tried, this one's parts
    agree best with the strokes: at short budgets about as well as random regions do (``docs/notes/0004-air-omniglot.md``).
    """
    return Experiment.of(
        "air-omniglot",
        "air",
        "omniglot",
        model={
            "kind": "air",
            "num_steps": 4,
            "what_size": 5,
            "glimpse_size": 16,
            "scale_mean": 0.2,
            "scale_std": 0.1,
            "count_prior": 1e-6,
            "presence_bias": 1.0,
        },
        training={"max_steps": 10_000, "batch_size": 32, "learning_rate": 1e-3},
    )


def air_sprites() -> Experiment:
    """AIR on scenes of 0 to 2 grey sprites, 50×50, in front of a learned background: plain, noise or grid.

    The collapsed bound: the exact sum stays at "always N" here (``docs/notes/0005-air-backgrounds-and-estimators.md``).
    """
    return _sprites("air-sprites", {"kind": "air", "presence_bias": -1.0, "estimator": "collapsed"})


def dair_sprites() -> Experiment:
    """Difference AIR on scenes of 0 to 2 grey sprites, 50×50, in front of a learned background: plain, noise or grid."""
    return _sprites("dair-sprites", {"kind": "dair", "presence_bias": 1.0})


def _sprites(name: str, model: dict[str, object]) -> Experiment:
    return Experiment.of(
        name,
        "air",
        "sprites",
        model={**model, "background": "learned"},
        data={"color": "grey"},
        training={"max_steps": 5_000},
    )


def air() -> Experiment:
    """AIR with the settings of air-digits, for any data."""
    return air_digits().replaced(name="air")


def dair() -> Experiment:
    """Difference AIR with the settings of dair-digits, for any data."""
    return dair_digits().replaced(name="dair")
