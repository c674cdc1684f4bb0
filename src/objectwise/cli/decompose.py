"""``decompose``: a user's own images into objects, written as files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from PIL import Image

from objectwise.cli.parsing import parse, print_json
from objectwise.core import Decomposition, UserError, image_batch
from objectwise.core.files import atomic_path, write_text
from objectwise.core.imports import import_class
from objectwise.data import pictures
from objectwise.data.folder import list_folder
from objectwise.figures import figure_png, refinement_figure
from objectwise.figures.style import STEP_COLOURS
from objectwise.recipes.runs import load


@dataclass
class DecomposeArguments:
    """Split images into objects.

    For every image, OUT/<its path below the argument>/ gets mask.png (palette; 0 is background), overlay.png, object-N.png
    (cut-outs with transparency) and objects.json (count, boxes, areas, presence, slot vectors), all at the image's own
    size; models of 3D scenes add scene.json (kinds, places, turns, camera) and views.png (the scene from six sides);
    --trajectory adds a picture of every refinement step. The model sees the image resized to its own size; the aspect ratio
    is not kept.
    """

    run: Annotated[str, tyro.conf.Positional]
    """Run folder or model folder."""
    paths: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Images, and folders that are searched for images; masks in them are left out."""
    out: str
    """Folder for the results."""
    overwrite: bool = False
    """Replace results that are there."""
    model_class: str | None = None
    """package.module:Class, for a model of a class of your own."""
    trajectory: bool = False
    """Also write trajectory.png: the reconstruction, the segmentation and every slot after each refinement step."""
    num_slots: int | None = None
    """Another number of slots than the model was trained with."""
    refinement_steps: int | None = None
    """Another number of refinement steps."""
    batch_size: int = field(default=32)
    """Images at a time."""
    json: bool = False
    """Print a summary as JSON."""


def decompose(arguments: list[str]) -> int:
    """Split a user's images into objects."""
    given = parse(
        DecomposeArguments, arguments, program="objectwise decompose", description=str(DecomposeArguments.__doc__)
    )
    if not given.paths:
        raise UserError("decompose needs at least one image or folder")
    targets = _targets(given.paths, Path(given.out))
    if not given.overwrite:
        taken = next((folder for _, folder in targets if folder.exists()), None)
        if taken is not None:
            raise UserError(f"{taken} exists already; choose another --out, or pass --overwrite")
    changes = {name: getattr(given, name) for name in ("num_slots", "refinement_steps")}
    model = load(
        given.run,
        model_class=import_class(given.model_class) if given.model_class else None,
        **{name: value for name, value in changes.items() if value is not None},
    )
    summary = []
    for start in range(0, len(targets), max(1, given.batch_size)):
        part = targets[start : start + max(1, given.batch_size)]
        originals = [_read(path) for path, _ in part]
        found = model.decompose(originals, trajectory=given.trajectory).to("cpu")
        if given.trajectory and found.trajectory is None:
            raise UserError(f"{given.run} finds its objects without refinement, so it has no --trajectory")
        images = image_batch(originals, model.config.image_shape) if given.trajectory else None
        for row, ((path, folder), original) in enumerate(zip(part, originals, strict=True)):
            one = found.select(slice(row, row + 1))
            record = write_objects(path, original, one, folder)
            write_scene(model, one, folder)
            if images is not None:
                write_trajectory(images, found, row, folder)
            summary.append({"image": str(path), "count": record["count"], "folder": str(folder)})
            print(f"{path}: {record['count']} objects -> {folder}", file=sys.stderr)
    if given.json:
        print_json(summary)
    return 0


def _targets(paths: tuple[str, ...], out: Path) -> list[tuple[Path, Path]]:
    """(image, folder of its results) pairs."""
    targets: dict[Path, Path] = {}
    for name in paths:
        base = Path(name)
        if not base.exists():
            raise UserError(f"there is no image or folder {base}")
        for image in _images(base):
            folder = out / (image.relative_to(base) if base.is_dir() else image.name)
            if folder in targets and targets[folder] != image:
                raise UserError(f"{targets[folder]} and {image} would both be written to {folder}; do them apart")
            targets[folder] = image
    return [(image, folder) for folder, image in targets.items()]


def _images(base: Path) -> Iterator[Path]:
    if base.is_file():
        yield base
        return
    yield from (base / image for image in list_folder(base, with_masks=False).images)


def _read(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    header = pictures.read_header(path)
    return pictures.read_image(path, 3, (header.height, header.width), "stretch").transpose(1, 2, 0)


def write_objects(path: Path, original: np.ndarray, found: Decomposition, folder: Path) -> dict[str, Any]:
    """Write one image's objects.

    Args:
        path: of the image, for the record.
        original: (H, W, 3) uint8.
        found: of this image alone.
        folder: where to; created.

    Returns:
        what ``objects.json`` holds.

    Raises:
        UserError: if the disk is full.
    """
    slots = found.found_slots()[0]
    ids = _ids(found, slots, original.shape[:2])
    objects = [_object(found, slot, number, ids) for number, slot in enumerate(slots, 1)]
    record = {
        "image": str(path),
        "width": original.shape[1],
        "height": original.shape[0],
        "count": len(objects),
        "objects": objects,
    }
    if found.count_probs is not None:
        record["count_probs"] = [round(float(p), 6) for p in found.count_probs[0]]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("object-*.png"):
            old.unlink()
        with atomic_path(folder / "mask.png") as temporary:
            pictures.write_mask(temporary, ids)
        _save(_overlay(original, ids), folder / "overlay.png")
        for item in objects:
            _save(_cut_out(original, ids == item["id"], item["box"]), folder / item["file"])
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}") from None
    write_text(folder / "objects.json", json.dumps(record, indent=2) + "\n")
    return record


def write_scene(model: Any, found: Decomposition, folder: Path) -> None:
    """What a model that infers scenes adds: ``scene.json``, and ``views.png``, the scene seen from around it.

    Args:
        model: one that has ``describe`` and ``other_views``; nothing is written for others.
        found: of one image.
        folder: of its results.
    """
    if not hasattr(model, "describe") or not hasattr(model, "other_views"):
        return
    write_text(folder / "scene.json", json.dumps(model.describe(found)[0], indent=2) + "\n")
    views = model.other_views(found)[0].clamp(0.0, 1.0).mul(255.0).round().byte()
    strip = torch.cat(list(views.expand(-1, 3, -1, -1)), dim=2).permute(1, 2, 0)
    _save(Image.fromarray(strip.cpu().numpy()), folder / "views.png")


def write_trajectory(images: torch.Tensor, found: Decomposition, row: int, folder: Path) -> None:
    """Draw how one of the images was refined, as the model saw it, into ``trajectory.png``.

    Args:
        images: (B, C, H, W).
        found: of all of them, with a trajectory.
        row: which one.
        folder: of its results.
    """
    with atomic_path(folder / "trajectory.png") as temporary:
        temporary.write_bytes(figure_png(refinement_figure(images, found, image=row)))


def _ids(found: Decomposition, slots: list[int], size: tuple[int, ...]) -> np.ndarray:
    """(H, W) uint8: 0 background, i the i-th found object; soft masks are enlarged before the largest wins."""
    masks = found.masks.float()
    if tuple(masks.shape[2:]) != tuple(size):
        masks = torch.nn.functional.interpolate(masks, tuple(size), mode="bilinear", align_corners=False)
    lookup = torch.zeros(masks.shape[1], dtype=torch.uint8)
    for number, slot in enumerate(slots, 1):
        lookup[slot] = number
    return lookup[masks[0].argmax(dim=0)].numpy()


def _object(found: Decomposition, slot: int, number: int, ids: np.ndarray) -> dict[str, Any]:
    rows, columns = np.nonzero(ids == number)
    box = (
        [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        if len(rows)
        else [0, 0, 0, 0]
    )
    record: dict[str, Any] = {
        "id": number,
        "file": f"object-{number}.png",
        "box": box,
        "area": len(rows),
        "presence": round(float(found.presence[0, slot]), 6),
        "slot_index": slot,
        "slot": [round(float(value), 6) for value in found.slots[0, slot]],
    }
    if found.boxes is not None:
        height, width = ids.shape
        scale = np.array([width, height, width, height]) / np.array([*found.masks.shape[:1:-1]] * 2)
        record["window"] = [round(float(v), 2) for v in found.boxes[0, slot].numpy() * scale]
    return record


def _overlay(original: np.ndarray, ids: np.ndarray) -> Image.Image:
    """The image with each object tinted and outlined in its colour."""
    picture = original.astype(np.float32)
    for number in range(1, int(ids.max()) + 1):
        inside = ids == number
        colour = np.array([int(STEP_COLOURS[(number - 1) % len(STEP_COLOURS)][i : i + 2], 16) for i in (1, 3, 5)])
        picture[inside] = 0.6 * picture[inside] + 0.4 * colour
        picture[_outline(inside)] = colour
    return Image.fromarray(picture.round().astype(np.uint8))


def _outline(inside: np.ndarray) -> np.ndarray:
    """Pixels of a region with a neighbour outside it."""
    padded = np.pad(inside, 1)
    around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~around


def _cut_out(original: np.ndarray, inside: np.ndarray, box: list[int]) -> Image.Image:
    """The object alone on transparent ground, cropped to its box; one clear pixel if it won no pixel."""
    x0, y0, x1, y1 = box if inside.any() else (0, 0, 1, 1)
    alpha = np.where(inside, 255, 0).astype(np.uint8)
    return Image.fromarray(np.dstack([original, alpha])[y0:y1, x0:x1])


def _save(picture: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
