"""Renders CLEVR scenes with masks through Blender: ``objectwise data clevr --render N --out DIR``.

Blender's Python package ``bpy`` (374 MB, GPL, Python 3.11 and numpy < 2 only) is never imported here. It lives in a virtual
environment of its own, and a worker script in a process of its own renders into ``DIR``, which
:mod:`objectwise.data.clevr_folder` reads. The scenes and materials are those of the official generator, which the user fetches.
Image i depends on the settings and i alone, so an interrupted run goes on where it stopped and a finished one can be enlarged.

The scene law is that of the released script (cubes are not shrunk, although it means to), except that objects of a scene that
starts over are all drawn afresh, and that quality is set for a two-core machine: see :class:`BlenderSettings`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from objectwise.core import Config, UserError
from objectwise.core.files import write_text
from objectwise.data.cache import cache_folder

REQUIREMENTS = ("bpy==5.0.1", "numpy<2")
"""What Blender's environment holds."""
ASSETS_REPOSITORY = "facebookresearch/clevr-dataset-gen"
"""Where the assets come from: files of ``ASSETS_FOLDER`` on GitHub."""
ASSETS_FOLDER = "image_generation/data"
ASSET_FILES = (
    "base_scene.blend",
    "properties.json",
    "materials/MyMetal.blend",
    "materials/Rubber.blend",
    "shapes/SmoothCube_v2.blend",
    "shapes/SmoothCylinder.blend",
    "shapes/Sphere.blend",
)
"""The files that are needed, below ``ASSETS_FOLDER``."""
WORKER = Path(__file__).with_name("blender_worker.py")
MANIFEST = "manifest.json"


class BlenderSettings(Config):
    """Everything that decides what image i looks like; stored in the manifest."""

    seed: int = Field(0, ge=0)
    """Seed of the scenes and of the renderer's noise."""
    objects: tuple[int, int] = (3, 10)
    """Smallest and largest number of objects, all equally likely (CLEVR6: 3 6)."""
    resolution: tuple[int, int] = (320, 240)
    """Width and height of the whole picture in pixels."""
    crop: tuple[int, int, int, int] | None = None
    """Top, left, height and width of the window to render (the published one: 29 64 192 192); None: all."""
    samples: int = Field(16, ge=1, le=4096)
    """Rays per pixel; CLEVR's own is 512, without denoiser."""
    denoise: bool = True
    """Clean the noise with OpenImageDenoise (fast quality)."""
    max_bounces: int = Field(4, ge=0, le=64)
    """Reflections that are followed; CLEVR's own is 8."""
    blur_glossy: float = Field(2.0, ge=0)
    """Cycles' filter against fireflies."""
    camera_jitter: float = Field(0.5, ge=0)
    """The camera moves by up to this along each axis."""
    lamp_jitter: float = Field(1.0, ge=0)
    """Each of the three lamps moves by up to this along each axis."""
    spread: float = Field(3.0, gt=0)
    """Positions are uniform on [-spread, spread] in x and y."""
    gap: float = Field(0.25, ge=0)
    """Smallest distance between the outlines of two objects."""
    margin: float = Field(0.4, ge=0)
    """Smallest offset between two objects along the camera's left and depth."""
    min_visible: int | None = Field(None, ge=0)
    """Pixels every object shows at least; None: 200 at 320x240, by area at other sizes, and 0 with a crop."""
    shrink_cubes: bool = False
    """Divide the cubes' size by the square root of 2, as the released script means to and does not."""
    threads: int = Field(0, ge=0)
    """Threads of the renderer; 0: all cores."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not 1 <= self.objects[0] <= self.objects[1] <= 255:
            raise ValueError(f"objects {self.objects} must satisfy 1 <= smallest <= largest <= 255")
        if min(self.resolution) < 16:
            raise ValueError(f"resolution {self.resolution} is below 16 pixels")
        if self.crop is not None:
            top, left, height, width = self.crop
            inside = top + height <= self.resolution[1] and left + width <= self.resolution[0]
            if min(top, left) < 0 or min(height, width) < 1 or not inside:
                raise ValueError(f"crop {self.crop} (top, left, height, width) leaves the picture {self.resolution}")
        return self

    def resolved(self) -> dict[str, Any]:
        """Plain values with everything decided, for the worker and the manifest."""
        width, height = self.resolution
        least = round(200 * width * height / (320 * 240)) if self.crop is None else 0
        values = self.model_dump(mode="json")
        values["crop"] = list(self.crop or (0, 0, height, width))
        values["min_visible"] = least if self.min_visible is None else self.min_visible
        return values


def render_clevr(
    out: Path,
    count: int,
    assets: Path,
    settings: BlenderSettings | None = None,
    *,
    python: Path | None = None,
    install: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Render images 0 to count - 1 that are not there yet.

    Args:
        out: the folder; made if absent. Ends up with ``CLEVR_N.png``, ``_mask.png``, ``.json`` and ``manifest.json``.
        count: how many images the folder shall hold.
        assets: the official generator's ``image_generation/data``, or a folder that contains it.
        settings: what to render; must be that of the manifest where the folder has one.
        python: interpreter that has ``bpy``; None: that of the environment in the download cache.
        install: make that environment, if absent, with pip.
        progress: called with images done and ``count`` after each.

    Returns:
        how many images were rendered now.

    Raises:
        UserError: for missing assets or interpreter, other settings than before, or a worker that fails.
    """
    settings = settings or BlenderSettings()
    if count < 1:
        raise UserError(f"--render {count}: the number of images must be at least 1")
    folder = find_assets(assets)
    interpreter = _interpreter(python, install)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror}") from None
    manifest = _manifest(out, settings, folder)
    missing = [index for index in range(count) if not _complete(out, index)]
    if not missing:
        return 0
    done = count - len(missing)
    job = {
        "settings": settings.resolved(),
        "assets": str(folder.resolve()),
        "out": str(out.resolve()),
        "indices": missing,
    }
    for message in _run(interpreter, job):
        if "bpy" in message:
            _write_manifest(out, {**manifest, "bpy": message["bpy"]})
        if "done" in message:
            done += 1
            if progress is not None:
                progress(done, count)
    absent = [index for index in missing if not _complete(out, index)]
    if absent:
        raise UserError(f"Blender ended without rendering image {absent[0]} into {out}; run the command again")
    return len(missing)


def find_assets(folder: Path) -> Path:
    """The folder that holds ``base_scene.blend`` at or below the one given.

    Raises:
        UserError: naming the first file that is missing.
    """
    for candidate in (folder, folder / "data", folder / ASSETS_FOLDER):
        if (candidate / ASSET_FILES[0]).is_file():
            absent = [name for name in ASSET_FILES if not (candidate / name).is_file()]
            if absent:
                raise UserError(f"the CLEVR assets in {candidate} lack {absent[0]}; `objectwise fetch clevr-assets`")
            return candidate
    raise UserError(
        f"no CLEVR assets in {folder}: `objectwise fetch clevr-assets` gets {ASSETS_FOLDER} of {ASSETS_REPOSITORY}"
    )


def environment_folder() -> Path:
    """Where Blender's environment is made."""
    return cache_folder() / "bpy-environment"


def make_environment(folder: Path) -> Path:
    """Make Blender's virtual environment and return its interpreter; about 400 MB are fetched, 1 GB is used.

    Raises:
        UserError: without Python 3.11, network or disk.
    """
    base = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if base is None:
        raise UserError(
            "bpy needs Python 3.11, which is not here; install it, or pass --python of an environment with bpy"
        )
    interpreter = folder / "bin" / "python"
    steps = ([base, "-m", "venv", str(folder)], [str(interpreter), "-m", "pip", "install", "--quiet", *REQUIREMENTS])
    for step in steps:
        result = subprocess.run(step, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(f"could not make Blender's environment in {folder}: {_last_line(result.stderr)}")
    return interpreter


def _interpreter(python: Path | None, install: bool) -> Path:
    if python is not None:
        found = shutil.which(str(python))
        if found is None:
            raise UserError(f"there is no Python interpreter {python}")
        return Path(found)
    interpreter = environment_folder() / "bin" / "python"
    if interpreter.is_file():
        return interpreter
    if not install:
        raise UserError(
            f"no Blender environment in {environment_folder()}; allow its installation (--install, about 400 MB) or pass --python"
        )
    return make_environment(environment_folder())


def _complete(out: Path, index: int) -> bool:
    return all((out / f"CLEVR_{index:06d}{end}").is_file() for end in (".png", "_mask.png", ".json"))


def _manifest(out: Path, settings: BlenderSettings, assets: Path) -> dict[str, Any]:
    """Write the folder's manifest, or check that it says the same as now."""
    hashes = {name: hashlib.sha256((assets / name).read_bytes()).hexdigest() for name in ASSET_FILES}
    now: dict[str, Any] = {"format": 1, "settings": settings.resolved(), "assets": hashes}
    path = out / MANIFEST
    if not path.is_file():
        _write_manifest(out, now)
        return now
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        pairs = [
            (name, before[part].get(name), value)
            for part in ("settings", "assets")
            for name, value in now[part].items()
        ]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{path} is damaged; render into another folder") from None
    for name, old, new in pairs:
        if old != new and name != "threads":
            raise UserError(f"{out} was rendered with {name} = {old}, not {new}; use the same or another folder")
    return now


def _write_manifest(out: Path, manifest: dict[str, Any]) -> None:
    write_text(out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def _run(interpreter: Path, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run the worker and give its messages as they come.

    Raises:
        UserError: if it cannot be started or fails; with the last line it said.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        try:
            process = subprocess.Popen(
                [str(interpreter), str(WORKER), str(path)], stdout=subprocess.PIPE, stderr=errors, text=True
            )
        except OSError as error:
            raise UserError(f"cannot start {interpreter}: {error.strerror}") from None
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("@"):
                    yield json.loads(line[1:])
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        if code != 0:
            raise UserError(f"Blender failed (exit code {code}): {_last_line(errors.read())}")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
