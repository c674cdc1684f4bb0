"""Rendering through Blender, with a worker that only pretends: what is resumed, recorded and refused."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from objectwise.core import UserError, check_dataset
from objectwise.data import clevr_blender
from objectwise.data.clevr_blender import ASSET_FILES, BlenderSettings, find_assets, render_clevr
from objectwise.data.clevr_folder import ClevrFolderConfig

PYTHON = Path(sys.executable)
SMALL = BlenderSettings(resolution=(24, 16), seed=3)
WORKER = """
import json, sys, zlib, struct
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
out, settings = Path(job["out"]), job["settings"]
top, left, height, width = settings["crop"]
def png(color, value):
    chunk = lambda n, d: struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d))
    row = b"\\0" + bytes([value % 256]) * width * (3 if color else 1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if color else 0, 0, 0, 0)
    return b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row * height)) + chunk(b"IEND", b"")
print("Blender chatter")
print('@{"bpy": "0.0"}', flush=True)
thing = {"shape": "cube", "size": "small", "material": "rubber", "color": "red", "rotation": 0, "coords": [0, 0, 0.35]}
for index in job["indices"]:
    if index == FAIL:
        print("Error: out of colours", file=sys.stderr)
        sys.exit(7)
    stem = f"CLEVR_{index:06d}"
    (out / f"{stem}.png").write_bytes(png(True, 40 * index + settings["seed"]))
    (out / f"{stem}_mask.png").write_bytes(png(False, 1))
    (out / f"{stem}.json").write_text(json.dumps({"objects": [thing]}))
    print('@{"done": %d}' % index, flush=True)
"""


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    folder = tmp_path / "assets" / "image_generation" / "data"
    for name in ASSET_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return tmp_path / "assets"


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a pretending worker in place that fails at one index."""

    def install(fail: int = -1) -> None:
        path = tmp_path / "worker.py"
        path.write_text(WORKER.replace("FAIL", str(fail)))
        monkeypatch.setattr(clevr_blender, "WORKER", path)

    install()
    return install


def test_it_renders_resumes_and_enlarges(tmp_path: Path, assets: Path, worker) -> None:
    out, seen = tmp_path / "out", []
    worker(fail=3)
    with pytest.raises(UserError, match=r"exit code 7\): Error: out of colours"):
        render_clevr(out, 5, assets, SMALL, python=PYTHON, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 5), (2, 5), (3, 5)]
    before = (out / "CLEVR_000001.png").stat().st_mtime_ns
    worker()
    assert render_clevr(out, 5, assets, SMALL, python=PYTHON) == 2
    assert render_clevr(out, 5, assets, SMALL, python=PYTHON) == 0
    (out / "CLEVR_000002.json").unlink()  # as a kill between the mask and the description leaves it
    assert render_clevr(out, 6, assets, SMALL, python=PYTHON, progress=lambda *state: seen.append(state)) == 2
    assert seen[-2:] == [(5, 6), (6, 6)]
    assert (out / "CLEVR_000001.png").stat().st_mtime_ns == before
    check_dataset(ClevrFolderConfig(root=out, val_share=0, test_share=0).build())


def test_the_manifest_holds_every_setting(tmp_path: Path, assets: Path, worker) -> None:
    out = tmp_path / "out"
    render_clevr(out, 1, assets, SMALL, python=PYTHON)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["bpy"] == "0.0"
    assert set(manifest["assets"]) == set(ASSET_FILES)
    assert set(manifest["settings"]) == set(BlenderSettings.model_fields)
    assert manifest["settings"]["crop"] == [0, 0, 16, 24]
    assert manifest["settings"]["min_visible"] == 1
    assert manifest["settings"]["seed"] == 3


def test_other_settings_or_assets_are_refused(tmp_path: Path, assets: Path, worker) -> None:
    out = tmp_path / "out"
    render_clevr(out, 1, assets, SMALL, python=PYTHON)
    render_clevr(out, 1, assets, SMALL.replaced(threads=1), python=PYTHON)
    with pytest.raises(UserError, match="rendered with seed = 3, not 4"):
        render_clevr(out, 2, assets, SMALL.replaced(seed=4), python=PYTHON)
    (find_assets(assets) / "properties.json").write_text("changed")
    with pytest.raises(UserError, match=r"rendered with properties.json"):
        render_clevr(out, 2, assets, SMALL, python=PYTHON)
    (out / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        render_clevr(out, 2, assets, SMALL, python=PYTHON)


def test_what_is_missing_is_one_sentence(tmp_path: Path, assets: Path, worker, monkeypatch) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match="no CLEVR assets in"):
        render_clevr(out, 1, tmp_path, SMALL, python=PYTHON)
    with pytest.raises(UserError, match="--install"):
        render_clevr(out, 1, assets, SMALL)
    with pytest.raises(UserError, match="no Python interpreter"):
        render_clevr(out, 1, assets, SMALL, python=tmp_path / "python")
    with pytest.raises(UserError, match="at least 1"):
        render_clevr(out, 0, assets, SMALL, python=PYTHON)
    assert not out.exists()
    (find_assets(assets) / "shapes" / "Sphere.blend").unlink()
    with pytest.raises(UserError, match=r"lack shapes/Sphere.blend"):
        render_clevr(out, 1, assets, SMALL, python=PYTHON)
    with pytest.raises(UserError, match="leaves the picture"):
        BlenderSettings.parse({"crop": [29, 64, 240, 192]})


def test_a_failed_installation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python3.11"
    python.write_text('#!/bin/sh\nmkdir -p "$3"\necho "no space left" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    monkeypatch.setattr(clevr_blender.shutil, "which", lambda name: str(python))
    with pytest.raises(UserError, match=r"could not make Blender's environment in .*: no space left"):
        clevr_blender.make_environment(tmp_path / "environment")
    assert not (tmp_path / "environment").exists()
    monkeypatch.setattr(clevr_blender.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"bpy needs Python 3.11"):
        clevr_blender.make_environment(tmp_path / "environment")


def test_a_worker_that_ends_early_is_noticed(tmp_path: Path, assets: Path, worker, monkeypatch) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("")
    monkeypatch.setattr(clevr_blender, "WORKER", empty)
    with pytest.raises(UserError, match="without rendering image 0"):
        render_clevr(tmp_path / "out", 1, assets, SMALL, python=PYTHON)


def test_the_worker_keeps_the_law_and_writes_pngs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of the real worker that need no Blender, with a vector class of ours."""

    class Flat(tuple):
        def __new__(cls, values):
            return super().__new__(cls, values)

        x, y = property(lambda self: self[0]), property(lambda self: self[1])
        length = property(lambda self: float(np.hypot(*self)))

        def __sub__(self, other):
            return Flat(a - b for a, b in zip(self, other, strict=True))

        def dot(self, other):
            return sum(a * b for a, b in zip(self, other, strict=True))

    monkeypatch.setitem(sys.modules, "bpy", types.ModuleType("bpy"))
    mathutils = types.ModuleType("mathutils")
    mathutils.Vector = Flat
    monkeypatch.setitem(sys.modules, "mathutils", mathutils)
    spec = importlib.util.spec_from_file_location(
        "blender_worker", Path(clevr_blender.__file__).with_name("blender_worker.py")
    )
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    properties = {
        "shapes": {"cube": "", "sphere": ""},
        "sizes": {"large": 0.7, "small": 0.35},
        "materials": {"rubber": ""},
        "colors": {"red": [1, 2, 3]},
    }
    axes = [Flat((0.6, 0.8)), Flat((-0.8, 0.6))]
    settings = BlenderSettings(shrink_cubes=True).resolved()
    scenes = [worker.place(worker.random.Random(seed), settings, properties, axes, 5) for seed in range(40)]
    placed = [scene for scene in scenes if scene is not None]
    assert len(placed) > 20
    for scene in placed:
        for i, thing in enumerate(scene):
            expected = {"large": 0.7, "small": 0.35}[thing["size"]] / (2**0.5 if thing["shape"] == "cube" else 1)
            assert thing["coords"][2] == pytest.approx(expected)
            for other in scene[:i]:
                offset = thing["spot"] - other["spot"]
                assert offset.length >= thing["radius"] + other["radius"] + 0.25
                assert all(abs(offset.dot(axis)) >= 0.4 for axis in axes)
    path = tmp_path / "mask.png"
    path.write_bytes(worker.png([[0, 1, 2], [3, 4, 255]]))
    with Image.open(path) as mask:
        assert np.asarray(mask).tolist() == [[0, 1, 2], [3, 4, 255]]
    text = PngInfo()
    text.add_text("RenderTime", "00:01.23")
    Image.new("RGB", (3, 2), (9, 8, 7)).save(path, pnginfo=text)
    stripped = worker.plain(path.read_bytes())
    assert b"RenderTime" in path.read_bytes()
    assert b"RenderTime" not in stripped
    path.write_bytes(stripped)
    with Image.open(path) as picture:
        assert picture.convert("RGB").getpixel((2, 1)) == (9, 8, 7)
