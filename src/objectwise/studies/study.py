"""What a study is: trials that are trained, and an account of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from objectwise.core import UserError
from objectwise.figures import Section
from objectwise.recipes.experiment import Experiment

Scale = Literal["smoke", "quick", "full"]


@dataclass(frozen=True)
class Settings:
    """What a user can choose about a study.

    Attributes:
        scale: smoke: every code path in minutes, numbers meaningless; quick: enough for the claimed direction, at most two
            hours on two cores; full: the published budget.
        digits_root: folder with the MNIST files; None: the download cache, or the bundled digits if there are none.
        omniglot_root: folder with the Omniglot zips; None: the download cache.
        seeds: number of seeds of every training; None: as many as the scale asks for.
        first_seed: the first of them, so that a study's seeds can be trained in several places.
        official_root: folder of decoded official sets, one folder each by name; None: their place in the cache.
        clevr_root: folder of rendered CLEVR scenes with masks; None: ``clevr`` in the cache.
        jobs: processes at a time with one thread each, for the trainings and for scores that take long.
    """

    scale: Scale
    digits_root: Path | None = None
    omniglot_root: Path | None = None
    official_root: Path | None = None
    clevr_root: Path | None = None
    seeds: int | None = None
    first_seed: int = 0
    jobs: int = 1

    def seeds_or(self, usual: int) -> range:
        """The seeds to train, one after the other from the first: as many as the user or else the scale asks for."""
        return range(self.first_seed, self.first_seed + (self.seeds or usual))

    def from_seed_zero(self, study: str, why: str) -> None:
        """Refuse another first seed in studies whose seeds differ in what they are for.

        Raises:
            UserError: if the first seed is not 0.
        """
        if self.first_seed:
            raise UserError(f"{study} starts at seed 0 ({why}), not at --first-seed {self.first_seed}")

    @property
    def scenes(self) -> dict[str, int]:
        """Settings of generated data at this scale: a smoke run does not wait for 2,000 scenes to be scored."""
        return {"eval_size": 256} if self.scale == "smoke" else {}


@dataclass(frozen=True)
class Trial:
    """One training of a study.

    Attributes:
        key: name of its folder, unique in the study.
        experiment: what is trained; its ``out`` is ignored.
        group: trials of one group differ in the seed alone.
    """

    key: str
    experiment: Experiment
    group: str


@dataclass(frozen=True)
class Account:
    """What a study found.

    Attributes:
        results: goes into ``results.json``; every seed is in it.
        sections: of the report.
        summary: one or two sentences.
    """

    results: dict[str, Any]
    sections: Sequence[Section]
    summary: str = ""
    notices: Sequence[str] = field(default_factory=tuple)


class Study(Protocol):
    """A published experiment.

    Attributes:
        name: in the table.
        title: of the report.
    """

    name: str
    title: str

    def trials(self, settings: Settings) -> list[Trial]:
        """What has to be trained."""
        ...

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Tables and figures from finished runs.

        Args:
            settings: as for :meth:`trials`.
            runs: key of each trial -> its run folder.
            trials: the trials.
        """
        ...
