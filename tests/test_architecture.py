"""The rooms keep to the import table of the design, and importing them does nothing."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import objectwise

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "objectwise"

_RECIPES = {"core", "nn", "rendering", "data", "models", "metrics", "training", "figures"}
_TOP = _RECIPES | {"recipes", "studies"}
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "nn": {"core"},
    "rendering": {"core"},
    "data": {"core", "rendering"},
    "models": {"core", "nn", "rendering"},
    "metrics": {"core"},
    "training": {"core", "metrics"},
    "figures": {"core", "metrics"},
    "recipes": _RECIPES,
    "studies": _RECIPES | {"recipes"},
    "studio": _TOP | {"cli"},
    "cli": _TOP | {"studio"},
}
"""Room -> the rooms it may import besides itself."""


def imported_rooms(source: str, room: str) -> list[tuple[int, str]]:
    """(line, room) of everything of ours that a module of a room's top level imports, wherever in the file it stands."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                # Rooms have no sub-rooms: one dot is the room, two are the package.
                base = ".".join(filter(None, ["objectwise", *([room] if node.level == 1 else []), base]))
            names = [base] if base.count(".") else [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value] if re.fullmatch(r"objectwise\.\w[\w.]*(:\w+)?", node.value) else []
        for name in names:
            parts = re.split(r"[.:]", name)
            if parts[0] == "objectwise" and len(parts) > 1:
                found.append((node.lineno, _room_of(parts[1])))
    return found


def _room_of(name: str) -> str:
    """A room, or the room where a name of the package's root lives."""
    home = objectwise._HOMES.get(name)
    return home.split(".")[1] if home else name


def violations(package: Path) -> list[str]:
    """Every import that the table forbids, as ``file:line room imports room``."""
    found = []
    for path in sorted(package.glob("*/**/*.py")):
        room = path.relative_to(package).parts[0]
        for line, other in imported_rooms(path.read_text(encoding="utf-8"), room):
            if other in MAY_IMPORT and other not in MAY_IMPORT[room] | {room}:
                found.append(f"{path.relative_to(package)}:{line} {room} imports {other}")
    return found


def test_every_room_is_in_the_table() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= set(MAY_IMPORT)
    assert {path.name for path in PACKAGE.glob("*.py")} <= {"__init__.py", "__main__.py"}


def test_rooms_import_what_the_table_allows() -> None:
    assert violations(PACKAGE) == []


PLANTED = [
    ("core", "from objectwise.nn import divergences"),
    ("core", "from objectwise import models"),
    ("core", "from objectwise import load"),
    ("nn", "import objectwise.models.air"),
    ("data", "def late():\n    from objectwise.models import MODELS"),
    ("data", "from ..models import MODELS"),
    ("data", "from .. import models"),
    ("models", "from objectwise.data.digits import DigitsConfig"),
    ("metrics", "if True:\n    import objectwise.figures as f"),
    ("training", "import importlib\nimportlib.import_module('objectwise.models.air')"),
    ("figures", "from objectwise.models import air"),
    ("recipes", "from objectwise.cli.main import main"),
    ("studies", "import objectwise.studio"),
]


@pytest.mark.parametrize(("room", "text"), PLANTED)
def test_a_planted_violation_is_found(tmp_path: Path, room: str, text: str) -> None:
    (tmp_path / room).mkdir()
    (tmp_path / room / "planted.py").write_text(text + "\n")
    assert len(violations(tmp_path)) == 1


def test_what_is_allowed_is_not_called_a_violation(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "fine.py").write_text(
        '"""Unlike objectwise.data this is fine."""\n'
        "import torch\nfrom objectwise import Config, __version__\nfrom objectwise.nn import float32\n"
        "from . import air\nfrom .air import AIR\nhome = 'objectwise.models.air:AIR'\n"
    )
    assert violations(tmp_path) == []


# -- importing does nothing -------------------------------------------------------------------------------------------

_WATCH = r"""
import importlib, os, pathlib, random, signal, sys
sys.path.insert(0, sys.argv[1])
before_torch = set(sys.modules)
import objectwise
heavy = {"torch", "numpy", "lightning", "matplotlib", "pydantic"} & (set(sys.modules) - before_torch)
import numpy, torch
def state():
    numpy_state = numpy.random.get_state(legacy=False)
    return {
        "python's random": random.getstate(),
        "numpy's random": str(numpy_state),
        "torch's random": bytes(torch.get_rng_state().tolist()),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cuda": torch.cuda.is_initialized(),
        "gradients": torch.is_grad_enabled(),
        "interrupt": signal.getsignal(signal.SIGINT),
        "files": sorted(map(str, pathlib.Path.cwd().rglob("*"))),
        "folder": os.getcwd(),
    }
if any(name.startswith("objectwise") for name in sys.argv[2:]):
    # What other packages do on import is not ours; they come first.
    import lightning, matplotlib.figure, tyro, yaml, rich, PIL.Image, safetensors.torch, sklearn
complaints = [f"import objectwise loads {name}" for name in sorted(heavy)]
for name in sys.argv[2:]:
    before, environment, printed = state(), dict(os.environ), (sys.stdout, sys.stderr)
    importlib.import_module(name)
    after = state()
    complaints += [f"{name} changes {key}" for key in before if before[key] != after[key]]
    if dict(os.environ) != environment:
        complaints.append(f"{name} changes the environment")
print("|".join(complaints))
"""


def watched_import(folder: Path, source: Path, *modules: str) -> tuple[list[str], str]:
    """Import modules in a fresh process in an empty folder: what changed, and what was printed beside."""
    home = folder / "home"
    home.mkdir()
    environment = {
        **os.environ,
        "HOME": str(home),
        "OBJECTWISE_CACHE": str(home / "cache"),
        "MPLCONFIGDIR": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-c", _WATCH, str(source), *modules]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *printed, complaints = done.stdout.splitlines()
    return [complaint for complaint in complaints.split("|") if complaint], "\n".join(printed) + done.stderr


SCRIPTS = {"blender_worker.py"}
"""Run by another interpreter (Blender's), never imported."""


def test_scripts_are_never_imported() -> None:
    stems = [name.removesuffix(".py") for name in SCRIPTS]
    for path in PACKAGE.rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        imports = [line for line in lines if line.lstrip().startswith(("import ", "from "))]
        assert not [line for line in imports for stem in stems if stem in line], path


def test_importing_does_nothing(tmp_path: Path) -> None:
    """No seeding, no files, no device choice, no output; and the bare package loads nothing heavy."""
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name not in SCRIPTS]
    paths = [path.relative_to(PACKAGE.parent).with_suffix("") for path in files]
    modules = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    assert "objectwise.models.air" in modules
    complaints, printed = watched_import(tmp_path, PACKAGE.parent, *modules)
    assert complaints == []
    assert printed == ""


def test_an_import_that_does_something_is_found(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "seeds.py").write_text("import torch\ntorch.manual_seed(0)\nprint('hello')\n")
    (source / "writes.py").write_text("import os, random\nrandom.seed(0)\nos.mkdir('runs')\nos.environ['A_B'] = '1'\n")
    environment = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(source), environment])
    try:
        complaints, printed = watched_import(tmp_path, PACKAGE.parent, "seeds", "writes")
    finally:
        os.environ["PYTHONPATH"] = environment
    assert complaints == [
        "seeds changes torch's random",
        "writes changes python's random",
        "writes changes files",
        "writes changes the environment",
    ]
    assert printed == "hello"


# -- nothing of this machine ------------------------------------------------------------------------------------------


def committed_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0 or not listed.stdout:
        return [path for part in ("src", "tests") for path in (ROOT / part).rglob("*.py")]
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_committed_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    # Joined here, so that this file does not contain them.
    forbidden = ["/wo" + "rk/", "/tmp/ve" + "nv", "/ro" + "ot/", "/ho" + "me/"]
    home = str(Path.home())
    forbidden += [home + "/"] if len(home) > 2 else []
    found = [
        f"{path.relative_to(ROOT)}: {text}"
        for path in committed_files()
        for text in forbidden
        if text.encode() in path.read_bytes()
    ]
    assert found == []
