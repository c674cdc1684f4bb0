"""CLEVR scenes rendered with Blender, from a folder.

Two layouts are read. *Arrays*: parts ``train/`` and ``test/``, each with ``images.npy`` (N, H, W, 3) and ``masks.npy`` (N, H, W),
both uint8 and memory-mapped, and ``objects.jsonl`` with one list of objects per scene. *Pictures*: ``NAME.png``,
``NAME_mask.png`` (the pixel's value is the object's number, 0 the background) and ``NAME.json`` (``{"objects": [...]}``), as
``objectwise data clevr --render`` writes them; again in parts ``train/`` and ``test/`` or all in one folder.

The published crop and any smaller size are options; visible pixels and boxes are always counted on the picture given out, so
that an object outside the crop is present with no visible pixel.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from pydantic import Field, model_validator

from objectwise.core import Batch, Config, FactorSpec, UserError, boxes_from_instances
from objectwise.data.cache import cache_folder
from objectwise.data.clevr_like import COLORS, MATERIALS, SIZES
from objectwise.rendering.primitives3d import KINDS

CLEVR_CROP = (29, 64, 192, 192)
"""Top, left, height and width of the window IODINE, MONet and Slot Attention cut from 320×240 pictures."""
CODES: Mapping[str, tuple[str, ...]] = {
    "size": tuple(SIZES),
    "shape": KINDS,
    "material": MATERIALS,
    "color": tuple(COLORS),
}
"""Categorical factors and the names of their classes."""


class ClevrFolderConfig(Config):
    """Settings of CLEVR read from a folder."""

    root: Path | None = None
    """The folder; None: `clevr` in the download cache."""
    crop: Literal["none", "clevr"] | tuple[int, int, int, int] = "none"
    """Window cut out first: `clevr` is the published one of 320x240 pictures, or top, left, height and width in pixels."""
    image_size: int | None = Field(None, ge=8, le=2048)
    """Side in pixels to shrink square pictures to, each pixel the mean of those it covers; None: as stored."""
    max_objects: int | None = Field(None, ge=0)
    """Keep scenes of at most so many objects, the background not counted (CLEVR6: 6); None: all."""
    val_share: float = Field(0.1, ge=0, lt=1)
    """Share of the training part, chosen by a hash, that is for validation."""
    test_share: float = Field(0.1, ge=0, lt=1)
    """The same for testing, where the folder has no test part."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not isinstance(self.crop, str) and (min(self.crop[:2]) < 0 or min(self.crop[2:]) < 1):
            raise ValueError(f"crop {self.crop} must be top and left from 0, height and width from 1")
        if self.val_share + self.test_share >= 1:
            raise ValueError(f"val_share and test_share leave no training scenes ({self.val_share}, {self.test_share})")
        return self

    def build(self) -> ClevrFolder:
        """The dataset.

        Raises:
            UserError: if the folder is absent, damaged, or keeps no scene.
        """
        return ClevrFolder(self)


class ClevrFolder:
    """The dataset; see :class:`objectwise.core.dataset.Dataset`.

    Attributes:
        kept: split -> scenes that passed the filter on the number of objects, and scenes before it.
    """

    shuffle = True

    def __init__(self, config: ClevrFolderConfig) -> None:
        self.config = config
        root = config.root or cache_folder() / "clevr"
        members = _members(root, config)
        self._members: dict[str, list[tuple[_Source, int]]] = {}
        self.kept: dict[str, tuple[int, int]] = {}
        for split, scenes in members.items():
            most = config.max_objects
            passing = [(source, row) for source, row in scenes if most is None or len(source.objects[row]) <= most]
            self.kept[split] = (len(passing), len(scenes))
            if passing:
                self._members[split] = passing
        if "train" not in self._members:
            raise UserError(f"{root} keeps no training scene: {self.describe()}; raise max_objects or lower the shares")
        self.splits: Mapping[str, int] = {split: len(scenes) for split, scenes in self._members.items()}
        counts = (len(source.objects[row]) for scenes in self._members.values() for source, row in scenes)
        self.max_objects: int | None = max(counts)
        self._window = _window(config, {source.shape for scenes in members.values() for source, _ in scenes}, root)
        height, width = self._window[2:] if config.image_size is None else (config.image_size, config.image_size)
        self.image_shape = (3, height, width)
        self.factor_specs = {
            **{axis: FactorSpec("world units") for axis in "xyz"},
            **{name: FactorSpec("class", "categorical", categories=names) for name, names in CODES.items()},
            "rotation": FactorSpec("radians", low=0.0, high=2 * np.pi),
        }

    def describe(self) -> str:
        """What the filter kept, e.g. ``train 800 of 1602, val 90 of 178``."""
        return ", ".join(f"{split} {kept} of {total}" for split, (kept, total) in self.kept.items())

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The scenes with these indices; see :class:`objectwise.core.dataset.Dataset`.

        Raises:
            UserError: for an unknown split, or a file that is damaged or does not fit its mask.
        """
        if split not in self.splits:
            raise UserError(f"clevr has no split '{split}'; there are {', '.join(self.splits)}")
        scenes = [self._members[split][int(index)] for index in indices]
        size = self.image_shape[1:]
        images = np.zeros((len(scenes), *size, 3), np.uint8)
        masks = np.zeros((len(scenes), *size), np.int64)
        for place, (source, row) in enumerate(scenes):
            images[place], masks[place] = self._picture(source, row)
        return self._label(np.asarray(indices, np.int64), scenes, images, masks)

    def _picture(self, source: _Source, row: int) -> tuple[np.ndarray, np.ndarray]:
        top, left, height, width = self._window
        image, mask = source.read(row)
        if int(mask.max(initial=0)) > len(source.objects[row]):
            raise UserError(
                f"{source.name(row)}: the mask has object {int(mask.max())} but the scene has {len(source.objects[row])}"
            )
        image, mask = (values[top : top + height, left : left + width] for values in (image, mask))
        size = self.image_shape[1:]
        if image.shape[:2] != size:
            image = _shrunk(image, *size)
            rows, columns = (
                ((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(size, mask.shape, strict=True)
            )
            mask = mask[rows][:, columns]
        return image, mask

    def _label(
        self, indices: np.ndarray, scenes: list[tuple[_Source, int]], images: np.ndarray, masks: np.ndarray
    ) -> Batch:
        most = self.max_objects or 0
        instances = torch.from_numpy(masks)
        boxes, visible = boxes_from_instances(instances, most + 1)
        present = torch.zeros(len(scenes), most + 1, dtype=torch.bool)
        present[:, 0] = True
        factors = {
            name: torch.zeros(len(scenes), most + 1, dtype=torch.int64 if name in CODES else torch.float32)
            for name in self.factor_specs
        }
        for place, (source, row) in enumerate(scenes):
            for entity, thing in enumerate(source.objects[row], start=1):
                present[place, entity] = True
                for name, value in thing.items():
                    factors[name][place, entity] = value
        return Batch(
            index=torch.from_numpy(indices),
            images=torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0,
            instances=instances,
            factors=factors,
            factor_specs=self.factor_specs,
            present=present,
            visible_pixels=visible,
            boxes=boxes,
        )


class _Source(Protocol):
    """Scenes of one folder: pictures of one shape (H, W), and factors by name for every object."""

    shape: tuple[int, int]
    objects: list[list[dict[str, float]]]

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) and mask (H, W), uint8."""
        ...

    def name(self, row: int) -> str:
        """What to call a scene in an error."""
        ...

    def key(self, row: int) -> str:
        """What decides the scene's split."""
        ...


class _Arrays:
    """A part of the array layout."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._images, self._masks = (_mapped(folder / f"{name}.npy") for name in ("images", "masks"))
        shape = self._images.shape
        if len(shape) != 4 or shape[3] != 3 or self._masks.shape != shape[:3]:
            raise UserError(
                f"{folder}: images.npy has shape {shape} and masks.npy {self._masks.shape}, not (N, H, W, 3) and (N, H, W)"
            )
        self.shape = (shape[1], shape[2])
        lines = _text(folder / "objects.jsonl").splitlines()
        if len(lines) != shape[0]:
            raise UserError(f"{folder}: objects.jsonl has {len(lines)} lines for {shape[0]} images")
        self.objects = [_objects(line, f"{folder / 'objects.jsonl'} line {n}") for n, line in enumerate(lines, start=1)]

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self._images[row]), np.asarray(self._masks[row])

    def name(self, row: int) -> str:
        return f"{self._folder} scene {row}"

    def key(self, row: int) -> str:
        return str(row)


class _Pictures:
    """A folder of PNGs."""

    def __init__(self, folder: Path) -> None:
        masks = sorted(folder.glob("*_mask.png"))
        self._stems = [path.with_name(path.name.removesuffix("_mask.png")) for path in masks]
        self.objects = []
        for stem in self._stems:
            path = stem.with_name(stem.name + ".json")
            self.objects.append(_objects(_text(path), str(path)))
        self.shape = _picture(masks[0]).shape[:2]

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        stem = self._stems[row]
        image = _picture(stem.with_name(stem.name + ".png"), "RGB")
        mask = _picture(stem.with_name(stem.name + "_mask.png"))
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise UserError(f"{stem}_mask.png is not a picture of 8-bit object numbers")
        if mask.shape != self.shape or image.shape[:2] != self.shape:
            raise UserError(
                f"{stem}.png is {image.shape[:2]} and its mask {mask.shape} (height, width); the folder began with {self.shape}"
            )
        return image, mask

    def name(self, row: int) -> str:
        return str(self._stems[row])

    def key(self, row: int) -> str:
        return self._stems[row].name


class _Cut(NamedTuple):
    """Shares of scenes that a hash sends to validation and to testing."""

    val: float
    test: float

    def split(self, key: str) -> str:
        position = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / 2**64
        return "val" if position < self.val else "test" if position < self.val + self.test else "train"


def _members(root: Path, config: ClevrFolderConfig) -> dict[str, list[tuple[_Source, int]]]:
    """Split -> its scenes, before any filter."""
    if not root.is_dir():
        raise UserError(
            f"there is no folder {root}; `objectwise data clevr --render N --out DIR` makes one, --data.root DIR names it"
        )
    if (root / "train").is_dir():
        sources = [(_source(root / "train"), _Cut(config.val_share, 0.0))]
        if (root / "test").is_dir():
            sources.append((_source(root / "test"), _Cut(0.0, 1.0)))
    else:
        sources = [(_source(root), _Cut(config.val_share, config.test_share))]
    members: dict[str, list[tuple[_Source, int]]] = {"train": [], "val": [], "test": []}
    for source, cut in sources:
        for row in range(len(source.objects)):
            members[cut.split(source.key(row))].append((source, row))
    return members


def _source(folder: Path) -> _Source:
    if (folder / "images.npy").is_file():
        return _Arrays(folder)
    if any(folder.glob("*_mask.png")):
        return _Pictures(folder)
    raise UserError(f"{folder} holds neither images.npy nor *_mask.png; it is not a folder of CLEVR scenes")


def _window(config: ClevrFolderConfig, shapes: Iterable[tuple[int, int]], root: Path) -> tuple[int, int, int, int]:
    """Top, left, height, width of what is cut from the stored pictures."""
    found = sorted(set(shapes))
    if len(found) != 1:
        raise UserError(f"{root}: the parts hold pictures of different sizes {found}")
    height, width = found[0]
    crop = CLEVR_CROP if config.crop == "clevr" else config.crop
    if config.crop == "clevr" and (height, width) != (240, 320):
        raise UserError(
            f"crop 'clevr' is meant for pictures 320 wide and 240 high; those in {root} are {width}x{height}"
        )
    window = (0, 0, height, width) if isinstance(crop, str) else crop
    if window[0] + window[2] > height or window[1] + window[3] > width:
        raise UserError(f"crop {window} (top, left, height, width) leaves the {width}x{height} pictures in {root}")
    if config.image_size is not None and window[2] != window[3]:
        raise UserError(f"image_size needs square pictures, these are {window[3]}x{window[2]}; set crop, e.g. 'clevr'")
    if config.image_size is not None and config.image_size > window[2]:
        raise UserError(
            f"image_size {config.image_size} is larger than the pictures ({window[2]}); nothing is enlarged"
        )
    return window


def _shrunk(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Every pixel the mean of those it covers, rounded; Pillow's box filter, off by one at most, where they do not divide."""
    rows, row_rest = divmod(image.shape[0], height)
    columns, column_rest = divmod(image.shape[1], width)
    if row_rest or column_rest:
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
    total = image.reshape(height, rows, width, columns, 3).sum(axis=(1, 3), dtype=np.uint32)
    return ((2 * total + rows * columns) // (2 * rows * columns)).astype(np.uint8)


def _objects(text: str, where: str) -> list[dict[str, float]]:
    """Factors of the objects of one scene, with codes for names."""
    try:
        scene = json.loads(text)
        things = scene["objects"] if isinstance(scene, dict) else scene
        return [_factors(thing) for thing in things]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where} does not describe CLEVR objects ({type(error).__name__}: {error})") from None


def _factors(thing: Mapping[str, Any]) -> dict[str, float]:
    x, y, z = (float(value) for value in thing["coords"])
    codes = {name: float(names.index(thing[name])) for name, names in CODES.items()}
    return {"x": x, "y": y, "z": z, "rotation": float(thing["rotation"]) % (2 * np.pi), **codes}


def _mapped(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is missing or damaged ({error})") from None
    if array.dtype != np.uint8:
        raise UserError(f"{path} holds {array.dtype}, not uint8")
    return array


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is missing or unreadable ({error})") from None


def _picture(path: Path, mode: str | None = None) -> np.ndarray:
    """A picture as bytes; without ``mode`` as stored, palette numbers included."""
    try:
        with Image.open(path) as image:
            return np.asarray(image if mode is None else image.convert(mode))
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise UserError(f"{path} is missing or damaged ({error})") from None
