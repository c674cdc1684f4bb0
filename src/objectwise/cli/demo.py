"""``demo``: see a model learn objects within minutes."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from objectwise.cli.parsing import parse
from objectwise.core import UserError


@dataclass
class DemoArguments:
    """Train Difference AIR on scenes of 0 to 2 handwritten digits, generated on the fly, and write a report.

    Digits are MNIST's if `objectwise fetch mnist` was run, else scikit-learn's bundled ones: nothing is downloaded. runs/demo is
    replaced.
    """

    out: str = "runs/demo"
    """Folder for the results; replaced if it is an earlier demo's."""
    steps: int = 1_500
    """Training steps."""
    seed: int = 0
    """Seed."""


def demo(arguments: list[str]) -> int:
    """Train, evaluate and report."""
    given = parse(DemoArguments, arguments, program="objectwise demo", description=str(DemoArguments.__doc__))
    out = Path(given.out)
    _clear(out)
    from objectwise.cli.train import finish
    from objectwise.recipes import recipe
    from objectwise.recipes.runs import train

    experiment = recipe("dair-digits")
    experiment = experiment.replaced(
        name="demo",
        seed=given.seed,
        out=out,
        training=experiment.training.replaced(max_steps=given.steps, validate_every=min(100, given.steps)),
    )
    print("Learning to find and count digits, without labels. The held-out scenes use other digits.", file=sys.stderr)
    return finish(lambda: train(experiment))


def _clear(out: Path) -> None:
    """Remove an earlier demo; anything else stays."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    config = out / "config.yaml"
    if not config.is_file() or "name: demo\n" not in config.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{out} exists and is not an earlier demo's; choose another --out")
    shutil.rmtree(out)
