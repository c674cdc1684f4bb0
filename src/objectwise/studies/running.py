"""Training the trials of a study in parallel processes, resumably, and writing its account."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from objectwise.core import UserError
from objectwise.core.files import write_text
from objectwise.figures import Section, write_report
from objectwise.figures.report import cell_text
from objectwise.recipes.experiment import experiment_text, load_experiment, save_experiment
from objectwise.recipes.runs import CONFIG, RESULTS
from objectwise.studies.study import Settings, Study, Trial
from objectwise.training.callbacks import checkpoint_files, read_metrics

_POLL_SECONDS = 0.5


def reproduce(study: Study, settings: Settings, out: Path, *, progress: bool = True) -> Path:
    """Train what is not trained yet, and write ``results.json`` and ``report.html``.

    Finished trials are kept and unfinished ones are resumed, so that the same call goes on where it stopped. A training that
    another study beside ``out`` has finished with exactly the same settings is copied, not repeated.

    Args:
        study: which.
        settings: its scale, where data are, and how many processes there may be.
        out: folder of the study; may hold an earlier, unfinished attempt at the same scale.
        progress: print a table of what is going on to stderr.

    Returns:
        the report's path.

    Raises:
        UserError: if the folder is another study's or holds trials of other settings, or a trial fails.
    """
    trials = study.trials(settings)
    _claim(study, settings, out)
    _same_settings(trials, out)
    runs = {trial.key: out / "trials" / trial.key for trial in trials}
    began = time.perf_counter()
    copied = _copy_finished(trials, runs, out)
    if progress and copied:
        told = "; ".join(f"{key} from {source}" for key, source in copied.items())
        Console(stderr=True).print(f"the same trainings, done before: {told}", highlight=False, soft_wrap=True)
    with _stopping():
        _run_all(trials, runs, out, settings.jobs, progress)
    if progress:
        Console(stderr=True).print(f"all {len(trials)} trials are trained; computing tables and figures")
    account = study.account(settings, runs, trials)
    command = f"objectwise reproduce {study.name} --scale {settings.scale}"
    if settings.seeds is not None:
        command += f" --seeds {settings.seeds}"
    if settings.first_seed:
        command += f" --first-seed {settings.first_seed}"
    records = [read_results(run) for run in runs.values()]
    results = {
        "study": study.name,
        "title": study.title,
        "scale": settings.scale,
        "first_seed": settings.first_seed,
        "command": command,
        "hardware": sorted({record["hardware"] for record in records}),
        "meaningless": settings.scale == "smoke",
        "minutes_now": round((time.perf_counter() - began) / 60, 2),
        "training_minutes": round(sum(record["training_minutes"] for record in records), 2),
        **account.results,
        "summary_text": account.summary,
        "tables": [_plain_table(section) for section in account.sections if section.table is not None],
    }
    write_text(out / RESULTS, json.dumps(results, indent=2) + "\n")
    notices = list(account.notices)
    if settings.scale == "smoke":
        notices.insert(0, "Smoke run: every code path, a few steps each; the numbers mean nothing.")
    return write_report(
        out / "report.html",
        study.title,
        account.sections,
        summary=account.summary,
        notices=notices,
        config=yaml.safe_dump({t.key: t.experiment.model_dump(mode="json") for t in trials}, sort_keys=False),
        command=command,
    )


def _plain_table(section: Section) -> dict[str, Any]:
    """A section's table for JSON, as the report shows it."""
    assert section.table is not None
    rows = [[cell_text(value) for value in row] for row in section.table.rows]
    return {"heading": section.heading, "text": section.text, "header": list(section.table.header), "rows": rows}


def read_results(run: Path) -> dict[str, Any]:
    """The ``results.json`` of a finished run."""
    record: dict[str, Any] = json.loads((run / RESULTS).read_text(encoding="utf-8"))
    return record


def _claim(study: Study, settings: Settings, out: Path) -> None:
    """Mark the folder as this study's at this scale."""
    mark = out / "study.json"
    own = {"study": study.name, "scale": settings.scale}
    if mark.is_file():
        if json.loads(mark.read_text(encoding="utf-8")) != own:
            raise UserError(f"{out} holds another study or scale; choose another --out")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not a study's folder; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_text(mark, json.dumps(own) + "\n")


def _same_settings(trials: Sequence[Trial], out: Path) -> None:
    """Refuse to put trials of an earlier call beside ones of other settings, such as other digits.

    A setting that the earlier file does not name, because the program did not have it then, is its default.
    """
    for trial in trials:
        config = out / "trials" / f"{trial.key}.yaml"
        wanted = trial.experiment.model_dump(mode="json")
        if config.is_file() and load_experiment(config).model_dump(mode="json") != wanted:
            raise UserError(f"{config} has other settings than the trial has now (other data?); choose another --out")


def _copy_finished(trials: Sequence[Trial], runs: dict[str, Path], out: Path) -> dict[str, Path]:
    """Copy finished trainings of exactly the same settings from the folders of studies beside this one.

    Returns:
        key of each copied trial -> where it comes from.
    """
    finished = {
        config.read_text(encoding="utf-8"): config.with_suffix("")
        for study in sorted(out.parent.glob("*/study.json"))
        for config in sorted((study.parent / "trials").glob("*.yaml"))
        if study.parent != out and (config.with_suffix("") / RESULTS).is_file()
    }
    copied = {}
    for trial in trials:
        run, text = runs[trial.key], experiment_text(trial.experiment)
        if text not in finished or run.exists():
            continue
        half = run.with_name(f".{run.name}.copy")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(finished[text], half)
        write_text(out / "trials" / f"{trial.key}.yaml", text)
        half.rename(run)
        copied[trial.key] = finished[text]
    return copied


@contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM ends the block like Ctrl-C does, so that the trials are stopped too; they are in sessions of their own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class _Job:
    trial: Trial
    run: Path
    process: subprocess.Popen[bytes] | None = None
    log: Any = field(default=None, repr=False)

    @property
    def step(self) -> int:
        rows = read_metrics(self.run / "metrics.jsonl") if self.run.is_dir() else []
        return int(rows[-1]["step"]) if rows else 0


def _run_all(trials: Sequence[Trial], runs: dict[str, Path], out: Path, jobs: int, progress: bool) -> None:
    waiting = [_Job(t, runs[t.key]) for t in trials if not (runs[t.key] / RESULTS).is_file()]
    running: list[_Job] = []
    console = Console(stderr=True)
    began, total, printed = time.perf_counter(), sum(j.trial.experiment.training.max_steps for j in waiting), 0.0
    before = sum(job.step for job in waiting)
    everything = list(waiting)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                job = waiting.pop(0)
                _start(job, out)
                running.append(job)
            time.sleep(_POLL_SECONDS)
            for job in [job for job in running if job.process is not None and job.process.poll() is not None]:
                running.remove(job)
                _finished(job, out)
                if progress:
                    console.print(_line(job), highlight=False, soft_wrap=True)
            if progress and time.perf_counter() - printed > 30.0 and running:
                printed = time.perf_counter()
                done = sum(job.step for job in everything) - before
                left = f"{(printed - began) / done * (total - before - done) / 60:.0f} min left" if done else "starting"
                states = ", ".join(
                    f"{job.trial.key} {job.step}/{job.trial.experiment.training.max_steps}" for job in running
                )
                console.print(f"{states}; {len(waiting)} waiting; {left}", highlight=False, soft_wrap=True)
    finally:
        for job in running:
            if job.process is not None and job.process.poll() is None:
                job.process.terminate()
        for job in running:
            if job.process is not None:
                job.process.wait(timeout=60)


def _start(job: _Job, out: Path) -> None:
    """Train or resume in a process of its own, with one thread."""
    job.run.parent.mkdir(parents=True, exist_ok=True)
    if (job.run / CONFIG).is_file() and checkpoint_files(job.run):
        words = ["resume", str(job.run)]
    else:
        config = out / "trials" / f"{job.trial.key}.yaml"
        save_experiment(job.trial.experiment, config)
        shutil.rmtree(job.run, ignore_errors=True)  # an attempt that ended before its first checkpoint
        words = ["train", "--config", str(config), "--out", str(job.run)]
    job.log = (out / "trials" / f"{job.trial.key}.log").open("ab")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    job.process = subprocess.Popen(
        [sys.executable, "-m", "objectwise", *words],
        stdout=job.log,
        stderr=job.log,
        env=environment,
        start_new_session=True,
    )


def _finished(job: _Job, out: Path) -> None:
    assert job.process is not None
    job.log.close()
    if job.process.returncode != 0 or not (job.run / RESULTS).is_file():
        log = out / "trials" / f"{job.trial.key}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise UserError(f"trial {job.trial.key} failed ({lines[-1] if lines else 'no output'}); its log is {log}")


def _line(job: _Job) -> str:
    record = read_results(job.run)
    names = [name for name in ("count_accuracy", "foreground_ari", "elbo") if name in record]
    shown = [f"{name.replace('_', ' ')} {record[name]:.4f}" for name in names]
    return f"{job.trial.key}: {', '.join(shown)} ({record['training_minutes']:.1f} min)"
