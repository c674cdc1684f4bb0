"""Running a study: what is kept, resumed, refused and told. Training is made up, so that the tests last seconds."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from objectwise.core import UserError
from objectwise.figures import Section, Table
from objectwise.recipes import recipe
from objectwise.studies.running import read_results, reproduce
from objectwise.studies.study import Account, Settings, Trial

TRAINER = """
import json, os, sys, time
from pathlib import Path
words = sys.argv[1:]
run = Path(words[words.index("--out") + 1] if words[0] == "train" else words[1])
home = Path(os.environ["MADE_UP"])
with (home / "calls").open("a") as calls:
    calls.write(f"{words[0]} {run.name} {os.environ['OMP_NUM_THREADS']} {os.getpid()}\\n")
if words[0] == "train":
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("made: up")
    (run / "checkpoints" / "step-000000005.ckpt").write_text("")
    (run / "metrics.jsonl").write_text(json.dumps({"step": 5, "split": "train"}) + "\\n")
(home / f"started-{run.name}").write_text("")
todo = json.loads((home / "todo.json").read_text()).get(run.name, "finish")
if todo == "fail":
    print("objectwise: the disk is full", file=sys.stderr)
    sys.exit(2)
if todo == "hang":
    time.sleep(60)
results = {"training_minutes": 0.5, "elbo": 1.0, "hardware": "a CPU", "resumed": words[0] == "resume"}
(run / "results.json").write_text(json.dumps(results))
"""
"""Stands in for ``objectwise train --config FILE --out RUN`` and ``objectwise resume RUN``."""


class MadeUp:
    """Two trials whose training lasts no time."""

    name = "made-up"
    title = "A made-up study"

    def __init__(self, steps: int = 10) -> None:
        self.steps = steps

    def trials(self, settings: Settings) -> list[Trial]:
        base = recipe("dair-digits")
        training = base.training.replaced(max_steps=self.steps)
        return [
            Trial(key, base.replaced(seed=n, training=training), "DAIR") for n, key in enumerate(("first", "second"))
        ]

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        resumed = {trial.key: read_results(runs[trial.key])["resumed"] for trial in trials}
        return Account(
            {"resumed": resumed}, [Section("Nothing", table=Table(["pi"], [[3.14159]]))], summary="Nothing was learned."
        )


class Workplace:
    """Where the made-up trainer looks up what to do, and notes what it was asked."""

    def __init__(self, home: Path) -> None:
        self.home, self.out = home, home / "study"
        self.plan()

    def plan(self, **todo: str) -> None:
        (self.home / "todo.json").write_text(json.dumps(todo))

    @property
    def calls(self) -> list[list[str]]:
        path = self.home / "calls"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def verbs(self) -> list[tuple[str, ...]]:
        return [tuple(call[:2]) for call in self.calls]

    def go(self, scale: str = "quick", jobs: int = 1, steps: int = 10, **seeds: int) -> dict[str, object]:
        settings = Settings(scale, jobs=jobs, **seeds)  # type: ignore[arg-type]
        report = reproduce(MadeUp(steps), settings, self.out, progress=False)
        assert report == self.out / "report.html"
        found: dict[str, object] = json.loads((self.out / "results.json").read_text())
        return found


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A trainer in the place of ours, in other processes only."""
    package = tmp_path / "trainer" / "objectwise"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(TRAINER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "trainer"))
    monkeypatch.setenv("MADE_UP", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("objectwise.studies.running._POLL_SECONDS", 0.02)
    return Workplace(tmp_path)


def alive(pid: int) -> bool:
    """Whether a process still runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_settings_that_an_earlier_version_did_not_have_are_their_defaults(work: Workplace) -> None:
    work.go()
    for config in (work.out / "trials").glob("*.yaml"):
        kept = [line for line in config.read_text().splitlines() if "keep_freed_memory" not in line]
        config.write_text("\n".join(kept) + "\n")
    before = len(work.calls)
    work.go()
    assert len(work.calls) == before, "finished trials are kept"
    with pytest.raises(UserError, match="has other settings"):
        work.go(steps=20)


def test_results_hold_the_tables_and_the_command(work: Workplace) -> None:
    found = work.go()
    assert found["tables"] == [{"heading": "Nothing", "text": "", "header": ["pi"], "rows": [["3.142"]]}]
    assert (found["command"], found["hardware"]) == ("objectwise reproduce made-up --scale quick", ["a CPU"])
    assert found["summary_text"] == "Nothing was learned."
    assert found["first_seed"] == 0
    again = work.go(seeds=1, first_seed=2)
    assert again["command"] == "objectwise reproduce made-up --scale quick --seeds 1 --first-seed 2"
    assert again["first_seed"] == 2


def test_everything_is_trained_once_with_one_thread_and_told(work: Workplace) -> None:
    found = work.go(jobs=2)
    assert sorted(work.verbs) == [("train", "first"), ("train", "second")]
    assert {call[2] for call in work.calls} == {"1"}
    assert found["training_minutes"] == 1.0
    assert found["meaningless"] is False
    assert "Nothing was learned." in (work.out / "report.html").read_text(encoding="utf-8")
    work.go()
    assert len(work.calls) == 2, "finished trials are kept"


def test_a_training_that_another_study_finished_is_copied_not_repeated(work: Workplace) -> None:
    work.plan(second="fail")
    with pytest.raises(UserError, match="trial second failed"):
        work.go()
    work.plan()
    (work.out / "trials" / "first" / "results.json").write_text(
        json.dumps({"training_minutes": 7.0, "hardware": "elsewhere", "resumed": False})
    )
    work.out = work.home / "another"
    found = work.go()
    assert work.verbs[2:] == [("train", "second")], "an unfinished training is nobody's"
    assert (found["training_minutes"], found["hardware"]) == (7.5, ["a CPU", "elsewhere"])
    assert (work.out / "trials" / "first.yaml").is_file()
    assert not list((work.out / "trials").glob(".*"))
    work.go()
    assert len(work.calls) == 3, "a copied training is kept like one of its own"
    work.out = work.home / "longer"
    work.go(steps=20)
    assert work.verbs[3:] == [("train", "first"), ("train", "second")], "other settings are another training"


def test_smoke_says_that_it_means_nothing(work: Workplace) -> None:
    assert work.go("smoke")["meaningless"] is True
    assert "the numbers mean nothing" in (work.out / "report.html").read_text(encoding="utf-8")


def test_a_failing_trial_is_told_with_its_last_line_and_can_be_repeated(work: Workplace) -> None:
    work.plan(second="fail")
    with pytest.raises(
        UserError, match=r"trial second failed \(objectwise: the disk is full\); its log is .*second.log"
    ):
        work.go()
    assert not (work.out / "results.json").exists()
    work.plan()
    assert work.go()["resumed"] == {"first": False, "second": True}
    assert work.verbs == [("train", "first"), ("train", "second"), ("resume", "second")]


def test_an_attempt_without_a_checkpoint_starts_anew(work: Workplace) -> None:
    work.plan(first="fail")
    with pytest.raises(UserError, match="trial first failed"):
        work.go()
    (work.out / "trials" / "first" / "checkpoints" / "step-000000005.ckpt").unlink()
    work.plan()
    assert work.go()["resumed"] == {"first": False, "second": False}


def test_a_failure_stops_the_others(work: Workplace) -> None:
    work.plan(first="hang", second="fail")
    with pytest.raises(UserError, match="trial second failed"):
        work.go(jobs=2)
    assert not any(alive(int(call[3])) for call in work.calls)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_study_stops_its_trials_and_goes_on_later(work: Workplace, number: signal.Signals) -> None:
    work.plan(second="hang")
    before = signal.getsignal(signal.SIGTERM)
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with Ctrl-C ignored

    def interrupt() -> None:
        end = time.monotonic() + 30.0
        while not (work.home / "started-second").exists() and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        work.go()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
    assert not any(alive(int(call[3])) for call in work.calls), "no trial goes on without its study"
    work.plan()
    assert work.go()["resumed"] == {"first": False, "second": True}
    signal.signal(signal.SIGINT, ctrl_c)


def test_folders_of_others_are_refused(work: Workplace) -> None:
    work.go()
    with pytest.raises(UserError, match="holds another study or scale"):
        work.go("smoke")
    with pytest.raises(UserError, match=r"first.yaml has other settings than the trial has now"):
        work.go(steps=20)
    (work.home / "mine").mkdir()
    (work.home / "mine" / "thesis.txt").write_text("do not touch")
    work.out = work.home / "mine"
    with pytest.raises(UserError, match="is not a study's folder"):
        work.go()
    assert len(work.calls) == 2
