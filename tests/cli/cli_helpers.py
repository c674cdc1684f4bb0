"""Running the command line, in this process and in others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).resolve().parents[2] / "src"

DATA = [
    "--data.source",
    "bundled",
    "--data.image-size",
    "30",
    "--data.digit-size",
    "10",
    "14",
    "--data.eval-size",
    "50",
]
QUICK = ["--training.batch-size", "16", "--training.precision", "float32", "--training.threads", "1"]
QUICK += ["--training.schedule", "constant"]  # cosine looks ahead to max_steps, which some tests change
TINY = [*DATA, *QUICK, "--training.max-steps", "20"]
"""Twenty steps of DAIR on small scenes: a second of training."""


class Result(NamedTuple):
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    def refused(self) -> str:
        """The one sentence of a refusal: exit code 2, nothing on stdout, one line on stderr, no traceback."""
        assert self.code == 2, self
        assert self.out == "", self
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("objectwise: "), self.err
        assert "Traceback" not in self.err
        return self.err.removeprefix("objectwise: ").strip()


Cli = Callable[..., Result]


def environment(cache: Path) -> dict[str, str]:
    """The environment of another process: our source, one thread, no shared cache."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return {**kept, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "OBJECTWISE_CACHE": str(cache)}


def start(words: Sequence[object], folder: Path) -> subprocess.Popen[str]:
    """Start the command line in another process, in a folder; it has a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "objectwise", *map(str, words)],
        cwd=folder,
        env=environment(folder / "cache"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 120.0) -> Result:
    """Wait for a process."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Result(process.returncode, out, err)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], timeout: float = 60.0) -> None:
    """Wait until something has happened in a process that still runs."""
    end = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"the process ended early: {process.communicate()}")
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.01)
