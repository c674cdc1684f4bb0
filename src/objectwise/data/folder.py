"""A folder of images, with or without masks: the format for people's own pictures.

Images are every .png, .jpg, .jpeg, .webp and .bmp below the folder, in natural order (2 before 10). Transparent images are laid
over black, 16-bit grey is scaled to 8 bits, EXIF orientation is applied.

Masks are optional, and found by name, for ``a/7.jpg``: ``masks/a/7.png`` or ``a/masks/7.png``, else ``a/7_mask.png``, else
``a/7_flat.png``. A single-channel or palette mask holds entity ids (0 is background) and is never converted; in a colour mask
every colour is one entity, numbered in the order of (R, G, B), and black is background. Ids are compacted per image to
0..E-1, after resizing. Where only some images have masks, the id map of the others is all background (metrics skip those)
and no counts, boxes or factors are given.

``factors.jsonl`` is optional: one ``{"file": ..., "objects": [{...}, ...]}`` per image; object i, counted from 1, is id i of the
mask (ids are then kept as they are, so that a hidden object stays present). Factors that every object of the folder has as
a number, a list of numbers or a name are read; others are skipped. ``factors.json`` may give their units. Factors need masks.

Splits: sub-folders ``train``, ``val``, ``test`` if there is a ``train``; a split without its own folder is taken from ``train``.
Without them a hash of the relative path assigns about 80, 10 and 10 %, so that adding images leaves the others where
they are; only if that leaves a split empty (a handful of images) does it take one image of the largest. Fewer than
three images are refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from objectwise.core import Batch, Config, Dataset, UserError, boxes_from_instances
from objectwise.core.dataset import SPLITS
from objectwise.data import pictures
from objectwise.data.factor_files import FACTORS_FILE, SPECS_FILE, Factors, describe, read_factors, specs_text
from objectwise.data.naming import natural_key
from objectwise.data.scenes import check_split

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MASK_FOLDER = "masks"
MASK_SUFFIXES = ("_mask", "_flat")
_TRAIN_SHARE, _VAL_SHARE = 0.8, 0.1


class FolderConfig(Config):
    """Settings of a folder of images."""

    root: Path | None = None
    """Folder with the images; required."""
    image_size: int | None = Field(None, ge=4, le=4096)
    """Side in pixels of the square that every image is resized to; None: the size of the files."""
    resize: bool = False
    """Resize images to the size of the first where sizes differ, instead of refusing them."""
    fit: Literal["stretch", "crop"] = "stretch"
    """How an image of another shape is resized: stretched, or its centre cropped to the right shape first."""
    channels: Literal["auto", 1, 3] = "auto"
    """1: grey; 3: colour; auto: grey if every file is grey."""
    masks: Literal["auto", "required", "none"] = "auto"
    """auto: use the masks there are; required: every image must have one; none: leave them unread."""
    memory_mb: int = Field(2048, ge=0)
    """Images are decoded once and kept if they fit into this much memory, else decoded again at each use."""

    def build(self) -> FolderImages:
        """The dataset."""
        return FolderImages(self)


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        images: paths relative to the root, as strings with ``/``, in natural order.
        masks: image -> path of its mask.
    """

    images: tuple[str, ...]
    masks: Mapping[str, Path]


class Shown(NamedTuple):
    """What one mask shows, for e = objects + 1 entities.

    Attributes:
        objects: how many are present; not all need be visible.
        boxes: (e, 4) float32 ``x0 y0 x1 y1``.
        visible: (e,) int64 pixels.
    """

    objects: int
    boxes: Tensor
    visible: Tensor


class Labels(NamedTuple):
    """Labels of the N images of a split, as in :class:`objectwise.core.Batch`.

    Attributes:
        present: (N, E) bool.
        visible: (N, E) int64 pixels.
        boxes: (N, E, 4) float32.
        factors: name -> (N, E, ...).
    """

    present: Tensor
    visible: Tensor
    boxes: Tensor
    factors: Mapping[str, Tensor]


class FolderImages:
    """The dataset; see :class:`objectwise.core.dataset.Dataset`.

    Attributes:
        files: split -> paths relative to the root, in the order of the indices.
    """

    shuffle = True

    def __init__(self, config: FolderConfig) -> None:
        self.config = config
        self.root = _checked_root(config.root)
        listing = list_folder(self.root, with_masks=config.masks != "none")
        self._masks = listing.masks
        self._require_masks(listing)
        self.files = split_files(listing.images, str(self.root))
        self.splits: Mapping[str, int] = {split: len(files) for split, files in self.files.items()}
        kept = [file for files in self.files.values() for file in files]
        self.image_shape = self._find_shape(sorted(kept, key=natural_key))
        self._labelled = bool(self._masks) and all(file in self._masks for file in kept)
        described = read_factors(self.root, kept) if self._labelled else Factors({}, {}, {})
        self.factor_specs = described.specs
        keep = len(kept) * math.prod(self.image_shape[1:]) * (self.image_shape[0] + 1) <= config.memory_mb * 2**20
        self._listed = described.counts
        self._pixels: dict[str, Tensor] | None = {file: self._decode(file) for file in kept} if keep else None
        shown, self._ids = self._scan_masks(kept, keep)
        self.max_objects: int | None = max(one.objects for one in shown.values()) if self._labelled else None
        self._labels: dict[str, Labels] = {}
        if self.max_objects is not None:
            for split, files in self.files.items():
                factors = {name: [values[file] for file in files] for name, values in described.values.items()}
                self._labels[split] = _labels([shown[file] for file in files], factors, self.max_objects + 1)

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The images with these indices; see :class:`objectwise.core.dataset.Dataset`."""
        check_split("the folder", split, self.splits)
        files = [self.files[split][int(index)] for index in indices]
        index = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        pixels = torch.stack([self._pixels[file] if self._pixels is not None else self._decode(file) for file in files])
        images = pixels.float() / 255.0
        if not self._masks:
            return Batch(index=index, images=images)
        instances = torch.stack([self._instances(file) for file in files]).long()
        if self.max_objects is None:
            return Batch(index=index, images=images, instances=instances)
        labels = self._labels[split]
        return Batch(
            index=index,
            images=images,
            instances=instances,
            factors={name: values[index] for name, values in labels.factors.items()},
            factor_specs=self.factor_specs,
            present=labels.present[index],
            visible_pixels=labels.visible[index],
            boxes=labels.boxes[index],
        )

    def _require_masks(self, listing: Listing) -> None:
        bare = next((file for file in listing.images if file not in listing.masks), None)
        if self.config.masks == "required" and bare is not None:
            raise UserError(f"{self.root / bare} has no mask, and --data.masks required asks for one")

    def _find_shape(self, files: Sequence[str]) -> tuple[int, int, int]:
        """(C, H, W) of the dataset, from the headers of all files."""
        headers = [pictures.read_header(self.root / file) for file in files]
        first = headers[0]
        channels = self.config.channels
        if channels == "auto":
            channels = 1 if all(header.grey for header in headers) else 3
        for file, header in zip(files, headers, strict=True):
            mixed = (header.height, header.width) != (first.height, first.width)
            if mixed and not self.config.resize and self.config.image_size is None:
                raise UserError(
                    f"images of {self.root} differ in size: {files[0]} is {first.width}x{first.height}, {file} is "
                    f"{header.width}x{header.height}; set --data.image-size N, or --data.resize to take the first size"
                )
        clear = sum(header.alpha for header in headers)
        if clear:
            warnings.warn(
                f"{clear} images of {self.root} have an alpha channel; they are laid over black", stacklevel=4
            )
        if self.config.image_size is not None:
            return channels, self.config.image_size, self.config.image_size
        return channels, first.height, first.width

    def _decode(self, file: str) -> Tensor:
        """(C, H, W) uint8 of one image at the dataset's size."""
        channels, height, width = self.image_shape
        return torch.from_numpy(pictures.read_image(self.root / file, channels, (height, width), self.config.fit))

    def _scan_masks(self, files: Sequence[str], keep: bool) -> tuple[dict[str, Shown], dict[str, Tensor] | None]:
        """What every mask shows, and the id maps where they are kept.

        Every mask is read once, whatever the memory: the number of entities must be known before the first batch.
        """
        shown: dict[str, Shown] = {}
        maps: dict[str, Tensor] = {}
        for file in files:
            if file not in self._masks:
                continue
            ids = self._read_ids(file)
            objects = self._listed.get(file, int(ids.max()))
            boxes, visible = boxes_from_instances(ids.unsqueeze(0), objects + 1)
            shown[file] = Shown(objects, boxes[0], visible[0])
            if keep:
                maps[file] = ids
        return shown, maps if keep else None

    def _instances(self, file: str) -> Tensor:
        """(H, W) uint8 ids of one image, zeros where it has no mask."""
        if file not in self._masks:
            return torch.zeros(self.image_shape[1:], dtype=torch.uint8)
        return self._ids[file] if self._ids is not None else self._read_ids(file)

    def _read_ids(self, file: str) -> Tensor:
        path, image = self._masks[file], pictures.read_header(self.root / file)
        raw = pictures.read_mask(path)
        if raw.shape != (image.height, image.width):
            raise UserError(
                f"mask {path} is {raw.shape[1]}x{raw.shape[0]} but its image {self.root / file} is "
                f"{image.width}x{image.height}"
            )
        ids = pictures.resize_ids(raw, self.image_shape[1:], self.config.fit)
        listed = self._listed.get(file)
        if listed is None:
            ids = pictures.compacted(ids)
        elif raw.max() > listed:
            raise UserError(f"mask {path} holds id {raw.max()} but {FACTORS_FILE} lists {listed} objects for {file}")
        if ids.max() > pictures.MAX_ENTITIES:
            raise UserError(f"mask {path} holds {ids.max()} entities; at most {pictures.MAX_ENTITIES} are read")
        return torch.from_numpy(ids.astype(np.uint8))


def _labels(shown: list[Shown], factors: Mapping[str, list[Tensor]], entities: int) -> Labels:
    """The tables of one split.

    Args:
        shown: what the mask of each of its N images shows.
        factors: name -> (objects, ...) of each image.
        entities: E.
    """
    objects = torch.tensor([one.objects for one in shown])
    return Labels(
        present=torch.arange(entities) <= objects.unsqueeze(1),
        visible=_padded([one.visible for one in shown], entities),
        boxes=_padded([one.boxes for one in shown], entities),
        factors={name: _padded(values, entities, first=1) for name, values in factors.items()},
    )


def _padded(rows: list[Tensor], entities: int, first: int = 0) -> Tensor:
    """N tensors (e, ...) -> (N, E, ...): each from entity ``first`` on, zeros elsewhere."""
    whole = rows[0].new_zeros(len(rows), entities, *rows[0].shape[1:])
    for target, row in zip(whole, rows, strict=True):
        target[first : first + len(row)] = row
    return whole


def _checked_root(root: Path | None) -> Path:
    if root is None:
        raise UserError("the folder dataset needs a folder with images; give it with --data.root DIR")
    root = root.expanduser()
    if not root.exists():
        raise UserError(f"there is no folder {root}")
    if not root.is_dir():
        raise UserError(f"{root} is a file, not a folder with images")
    return root


def list_folder(root: Path, *, with_masks: bool = True) -> Listing:
    """Find the images below a folder and the masks that belong to them.

    Args:
        root: an existing folder.
        with_masks: whether masks are matched; they are never taken for images.

    Raises:
        UserError: if there is no image, or a mask has none.
    """
    found = (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    files = sorted((path for path in found if not _hidden(path)), key=lambda path: natural_key(path.as_posix()))
    ranks = {path: _mask_rank(path) for path in files}
    images = tuple(path.as_posix() for path, rank in ranks.items() if rank is None)
    if not images:
        raise UserError(f"{root} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    if not with_masks:
        return Listing(images, {})
    by_stem: dict[Path, list[str]] = {}
    for image in images:
        by_stem.setdefault(Path(image).with_suffix(""), []).append(image)
    best: dict[str, tuple[int, Path]] = {}
    for path, rank in ranks.items():
        if rank is None:
            continue
        owners = next((by_stem[stem] for stem in _image_stems(path) if stem in by_stem), [])
        if not owners:
            raise UserError(f"mask {root / path} has no image; remove it or add its image, or set --data.masks none")
        if len(owners) > 1:
            raise UserError(f"mask {root / path} could belong to {' or to '.join(owners)}; rename one of them")
        if path.suffix.lower() in (".jpg", ".jpeg"):
            raise UserError(f"mask {root / path} is a JPEG, which blurs ids; save masks as PNG")
        best[owners[0]] = min(best.get(owners[0], (rank, path)), (rank, path))
    return Listing(images, {image: root / path for image, (_, path) in best.items()})


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _mask_rank(path: Path) -> int | None:
    """0, 1, 2 by how a file is marked as a mask (the lower is preferred), None for an image."""
    if MASK_FOLDER in path.parts[:-1]:
        return 0
    return next((rank for rank, suffix in enumerate(MASK_SUFFIXES, 1) if path.stem.endswith(suffix)), None)


def _image_stems(mask: Path) -> list[Path]:
    """Paths without suffix that the image of a mask may have."""
    parts = list(mask.parts[:-1])
    if MASK_FOLDER in parts:
        parts.remove(MASK_FOLDER)
    names = [mask.stem, *(mask.stem.removesuffix(suffix) for suffix in MASK_SUFFIXES)]
    return [Path(*parts, name) for name in names if name]


def split_files(images: Sequence[str], root: str) -> dict[str, tuple[str, ...]]:
    """Assign images to train, val and test by the rule of the module's docstring.

    Args:
        images: relative paths in natural order.
        root: for the error message.

    Raises:
        UserError: if there are too few images for three splits.
    """
    first = {image: image.partition("/")[0] if "/" in image else "" for image in images}
    own = {split: [image for image in images if first[image] == split] for split in SPLITS}
    if not own["train"]:
        return _hashed(images, SPLITS, root)
    outside = len(images) - sum(map(len, own.values()))
    if outside:
        warnings.warn(f"{outside} images of {root} are in none of {', '.join(SPLITS)} and are left out", stacklevel=5)
    missing = [split for split in SPLITS if not own[split]]
    carved = _hashed(own["train"], ("train", *missing), root) if missing else {}
    return {split: carved.get(split, tuple(own[split])) for split in SPLITS}


def _hashed(images: Sequence[str], splits: Sequence[str], root: str) -> dict[str, tuple[str, ...]]:
    if len(images) < len(splits):
        raise UserError(
            f"{root} holds {len(images)} image{'s' * (len(images) != 1)} to share out between "
            f"{', '.join(splits)}; at least {len(splits)} are needed"
        )
    shares = {image: _hash_share(image) for image in images}
    wish = {image: "train" if s < _TRAIN_SHARE else "val" if s < _TRAIN_SHARE + _VAL_SHARE else "test"
            for image, s in shares.items()}  # fmt: skip
    chosen = {split: [image for image in images if wish[image] == split] for split in splits}
    chosen["train"] += [image for image in images if wish[image] not in splits]
    for split in splits:
        if not chosen[split]:
            largest = max(splits, key=lambda name: len(chosen[name]))
            moved = max(chosen[largest], key=lambda image: (shares[image], image))
            chosen[largest].remove(moved)
            chosen[split].append(moved)
    return {split: tuple(sorted(chosen[split], key=natural_key)) for split in splits}


def _hash_share(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def write_folder(
    dataset: Dataset,
    split: str,
    count: int,
    out: Path,
    *,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the first samples of a split as PNG files in the format this module reads.

    ``out`` gets ``000000.png``, ...; with labels ``masks/000000.png`` (palette; 0 is background, also where the
    dataset knows several), and with factors ``factors.jsonl`` and ``factors.json``. Pixels are rounded to 8 bits.

    Args:
        dataset: any dataset.
        split: one of its splits.
        count: how many samples.
        out: a folder that does not exist or is empty.
        batch_size: samples drawn at once; the files do not depend on it.
        progress: called with (samples written, samples in all).

    Raises:
        UserError: if the split has fewer samples, ``out`` is not empty, or the disk is full.
    """
    check_split("the dataset", split, dataset.splits)
    if not 1 <= count <= dataset.splits[split]:
        raise UserError(f"split '{split}' has {dataset.splits[split]} samples; cannot write {count}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} already exists and is not an empty folder; choose another")
    lines: list[str] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for start in range(0, count, batch_size):
            batch = dataset.batch(split, list(range(start, min(start + batch_size, count))))
            lines += [_write_sample(batch, row, start + row, out) for row in range(len(batch))]
            if progress is not None:
                progress(len(lines), count)
        if batch.present is not None and batch.instances is not None:
            (out / FACTORS_FILE).write_text("".join(lines), encoding="utf-8")
            (out / SPECS_FILE).write_text(specs_text(batch.factor_specs), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write into {out}: {error.strerror or error}") from None


def _write_sample(batch: Batch, row: int, number: int, out: Path) -> str:
    """Write one sample's files; returns its line of factors."""
    name = f"{number:06d}.png"
    pictures.write_image(out / name, (batch.images[row] * 255.0).round().to(torch.uint8).numpy())
    if batch.instances is not None:
        (out / MASK_FOLDER).mkdir(exist_ok=True)
        ids = _renumbered(batch, row)
        pictures.write_mask(out / MASK_FOLDER / name, ids)
    return json.dumps({"file": name, "objects": describe(batch, row)}) + "\n"


def _renumbered(batch: Batch, row: int) -> np.ndarray:
    """(H, W) uint8 ids of one sample: backgrounds become 0 and the present objects 1, 2, ... in their order."""
    assert batch.instances is not None
    ids = batch.instances[row]
    objects = batch.object_present
    names = ids.unique() if objects is None else objects[row].nonzero().flatten()
    names = names[~torch.isin(names, torch.tensor(batch.background_ids))]
    if len(names) > pictures.MAX_ENTITIES:
        raise UserError(f"a sample holds {len(names)} objects; a mask file can hold {pictures.MAX_ENTITIES}")
    new = torch.zeros(int(torch.cat([names, ids.flatten()]).max()) + 1, dtype=torch.uint8)
    new[names] = torch.arange(1, len(names) + 1, dtype=torch.uint8)
    return new[ids].numpy()
