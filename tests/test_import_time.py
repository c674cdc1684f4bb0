"""How long it takes until the user sees something; the best of three, since the machine has other things to do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"


def python(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=True)


def best_of_three(*words: str) -> float:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        python(*words)
        times.append(time.perf_counter() - began)
    return min(times)


def test_import_time() -> None:
    assert best_of_three("-c", "import objectwise") < 2.5


def test_help_time() -> None:
    assert best_of_three("-m", "objectwise", "--help") < 1.0


@pytest.mark.parametrize("words", ["import objectwise", "from objectwise.cli.main import main; main(['--help'])"])
def test_nothing_heavy_is_imported(words: str) -> None:
    heavy = "{'torch', 'numpy', 'lightning', 'matplotlib', 'pydantic', 'tyro', 'sklearn'}"
    done = python("-c", f"{words}\nimport sys; print(sorted({heavy} & set(sys.modules)))")
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_names_of_the_package_are_importable(record_property: pytest.RecordProperty) -> None:
    """The time of what users import first is recorded, not limited: it is torch's and Lightning's."""
    began = time.perf_counter()
    done = python("-c", "from objectwise import train, load, recipe, check_model\nimport objectwise\n"
                  "assert all(hasattr(objectwise, name) for name in dir(objectwise)); print('fine')")  # fmt: skip
    seconds = time.perf_counter() - began
    record_property("seconds", round(seconds, 2))
    print(f"from objectwise import train, load: {seconds:.1f} s")
    assert done.stdout == "fine\n"
