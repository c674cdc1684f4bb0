"""``reproduce``: a published experiment, end to end."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from objectwise.cli.parsing import parse
from objectwise.core import UserError


@dataclass
class ReproduceArguments:
    """Train everything a published experiment needs, and write its tables and figures beside the published numbers.

    Unfinished trainings are resumed, finished ones kept: the same command goes on where it stopped. Trainings that a study in a
    folder beside this one has finished with the same settings are copied.
    """

    study: Annotated[str, tyro.conf.Positional]
    """Name of the study."""
    scale: Literal["smoke", "quick", "full"] = "quick"
    """smoke: minutes, numbers meaningless; quick: at most two hours on two cores; full: the published budget."""
    out: str | None = None
    """Folder for the study; runs/STUDY-SCALE if not given."""
    jobs: int = os.cpu_count() or 1
    """Processes at a time, one thread each: trainings, and scores that take long."""
    digits_root: str | None = None
    """Folder with the MNIST files; the download cache, or else the bundled digits, if not given."""
    omniglot_root: str | None = None
    """Folder with the Omniglot zips; the download cache if not given."""
    seeds: int | None = None
    """Seeds of every training; as many as the scale asks for if not given. A later call with more seeds goes on from there."""
    first_seed: int = 0
    """First of the seeds, to train a study's seeds in several places. Folders of the parts, put beside one another, are then
    copied from by the call for all seeds."""
    official_root: str | None = None
    """Folder of decoded official sets, a folder each (multi_dsprites_colored_on_grayscale, ...); the cache if not given."""
    clevr_root: str | None = None
    """Folder of rendered CLEVR scenes with masks; the cache if not given."""


def reproduce(arguments: list[str]) -> int:
    """Run a study."""
    from objectwise.studies import STUDIES, named_study
    from objectwise.studies.running import reproduce as reproduce_study
    from objectwise.studies.study import Settings

    description = f"{ReproduceArguments.__doc__}\n\nStudies: {', '.join(STUDIES)}."
    if not arguments:
        raise UserError(f"reproduce needs a study; there is {', '.join(STUDIES)}")
    given = parse(ReproduceArguments, arguments, program="objectwise reproduce", description=description)
    if given.jobs < 1:
        raise UserError(f"--jobs {given.jobs}: there must be at least one")
    if given.seeds is not None and given.seeds < 1:
        raise UserError(f"--seeds {given.seeds}: there must be at least one")
    if given.first_seed < 0:
        raise UserError(f"--first-seed {given.first_seed}: seeds start at 0")
    settings = Settings(
        scale=given.scale,
        digits_root=Path(given.digits_root) if given.digits_root else None,
        omniglot_root=Path(given.omniglot_root) if given.omniglot_root else None,
        seeds=given.seeds,
        first_seed=given.first_seed,
        official_root=Path(given.official_root) if given.official_root else None,
        clevr_root=Path(given.clevr_root) if given.clevr_root else None,
        jobs=given.jobs,
    )
    out = Path(given.out) if given.out else Path("runs") / f"{given.study}-{given.scale}"
    report = reproduce_study(named_study(given.study), settings, out)
    print(f"report: {report}", file=sys.stderr)
    print(out)
    return 0
