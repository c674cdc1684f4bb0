"""Plant every mutant of the tables in a copy of the tree; a mutant survives if its test still passes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def load(names: list[str]) -> list[dict[str, str]]:
    """Every mutant of the TOML tables beside this file, or of those named."""
    tables = sorted(Path(__file__).parent.glob("*.toml"))
    chosen = [table for table in tables if not names or table.stem in names]
    return [mutant for table in chosen for mutant in tomllib.loads(table.read_text())["mutant"]]


def survives(mutant: dict[str, str]) -> bool:
    """Whether the mutant's test passes with the bug planted."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("src", "tests", "bench"):
            if (ROOT / part).exists():
                shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        target = copy / mutant["file"]
        text = target.read_text()
        if text.count(mutant["find"]) != 1:
            print(f"STALE    {mutant['file']}: {mutant['find']!r} occurs {text.count(mutant['find'])} times, not once")
            return True
        target.write_text(text.replace(mutant["find"], mutant["replace"]))
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", "", mutant["test"]]
        environment = {
            **os.environ,
            "PYTHONPATH": str(copy / "src"),
            "OBJECTWISE_TEST_DATA": str(ROOT.parent / "shared" / "data"),
        }
        result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        if result.returncode not in (0, 1):
            raise SystemExit(f"{mutant['test']} could not run:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
        return result.returncode == 0


def main() -> int:
    """Print one line per mutant; the exit code is the number of survivors."""
    mutants = load(sys.argv[1:])
    survivors = 0
    for mutant in mutants:
        alive = survives(mutant)
        survivors += alive
        print(f"{'SURVIVED' if alive else 'killed  '} {mutant['file']}: {mutant['why']}", flush=True)
    print(f"{len(mutants) - survivors} of {len(mutants)} mutants killed")
    return survivors


if __name__ == "__main__":
    sys.exit(main())
