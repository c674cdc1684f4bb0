"""One trained run for all, and the command line as a function."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cli_helpers import TINY, Cli, Result

from objectwise.cli.main import main


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Result:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that nobody may change."""
    out = tmp_path_factory.mktemp("finished") / "run"
    more = ["--training.checkpoint-every", "10", "--training.log-every", "5"]
    assert main(["train", "dair-digits", *TINY, *more, "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out drawing, which takes most of a short run's time, where a test does not look at pictures."""
    from objectwise.recipes import runs

    def write_nothing(model: object, dataset: object, run: Path, *_: object, **__: object) -> Path:
        (run / "report.html").write_text("no figures in this test")
        return run / "report.html"

    monkeypatch.setattr(runs, "write_figures", write_nothing)
    monkeypatch.setattr(runs, "training_picture", None)
