"""Omniglot: handwritten characters of 50 alphabets, each drawn by 20 people, with the pen strokes where they are at hand.

Lake, Salakhutdinov, Tenenbaum: "Human-level concept learning through probabilistic program induction", Science 2015; files of
``brendenlake/omniglot`` (MIT), read straight from the zips. One character per image; white ink on black, brought to
``image_size`` by exact area averaging of the 105×105 originals.

Where ``strokes_PART.zip`` lies beside ``images_PART.zip``, the labels of a batch are the **pen strokes**: entity e is the e-th
stroke in the order of drawing, and every pixel with ink belongs to the stroke whose line is nearest to its centre (the first one
drawn on ties). The points of a stroke, ``x,y,t``, lie on the image at column x and row −y (0-based pixel centres). Measured on
300 characters of background_small1: no shift by half a pixel or more fits better; ink is 1.3 pixels from its stroke on average,
2.9 at the 99th percentile, with a pen some 4 pixels wide. Strokes are parts, not objects: a model may well find fewer, so that
``max_objects`` is None.

Splits, per alphabet, from ``seed``: held-out drawers (default; 16, 2 and 2 of 20, so that test characters were seen, but
drawn by others; a drawer's number means another person in every alphabet), held-out characters, or held-out alphabets.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from objectwise.core import SPLITS, Batch, Config, UserError, boxes_from_ids, seed_for
from objectwise.data.cache import cache_folder
from objectwise.data.labels import checked_indices

INK = 64
"""A pixel has ink, and so belongs to a stroke, from this value of 0..255 on: a quarter of its area."""
SIDE = 105
"""Side of the original drawings in pixels."""
_CHUNK = 256
_TIE = 1e-9
_SHARES = (0.1, 0.1)
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    NotImplementedError,
)
_IMAGE_PATH = re.compile(r"images_[^/]+/([^/]+)/([^/]+)/([0-9]+)_([0-9]+)\.png")


class OmniglotConfig(Config):
    """Settings of the Omniglot characters."""

    root: Path | None = None
    """Folder with the zips; None: the download cache (`objectwise fetch omniglot`)."""
    part: Literal["background_small1", "background_small2", "background", "evaluation"] = "background_small1"
    """Which images_PART.zip: a small set of 5 alphabets, or the full sets of 30 and 20."""
    image_size: int = Field(50, ge=8, le=105)
    """Side in pixels that the 105x105 drawings are brought to."""
    held_out: Literal["drawers", "characters", "alphabets"] = "drawers"
    """What val and test have that train has not: other people's drawings, other characters, or other alphabets."""
    strokes: Literal["auto", "required", "none"] = "auto"
    """auto: label pen strokes if strokes_PART.zip is there; required: insist on it; none: no labels."""
    seed: int = Field(0, ge=0)
    """Seed of the choice of what is held out."""

    def build(self) -> OmniglotCharacters:
        """The dataset."""
        return OmniglotCharacters(self)


class Drawing(NamedTuple):
    """One member of the zip of images."""

    member: str
    alphabet: str
    character: str
    drawer: int


class CharacterLabels(NamedTuple):
    """What the N images of a split show; one label per image, which is why no ``Batch`` holds it.

    Attributes:
        alphabet: (N,) int64 index into ``alphabets``.
        character: (N,) int64 index into ``characters``.
        drawer: (N,) int64 number of the drawer, 1 to 20, another person in every alphabet.
        alphabets: names.
        characters: ``alphabet/character`` names.
    """

    alphabet: np.ndarray
    character: np.ndarray
    drawer: np.ndarray
    alphabets: tuple[str, ...]
    characters: tuple[str, ...]


class OmniglotCharacters:
    """The dataset; see :class:`objectwise.core.dataset.Dataset`.

    Attributes:
        drawings: split -> its drawings in the order of the indices.
        has_strokes: whether batches are labelled with pen strokes.
    """

    shuffle = True

    def __init__(self, config: OmniglotConfig) -> None:
        self.config = config
        self.image_shape = (1, config.image_size, config.image_size)
        self.max_objects: int | None = None
        root = (config.root or cache_folder() / "omniglot").expanduser()
        images_zip, strokes_zip = (root / f"{kind}_{config.part}.zip" for kind in ("images", "strokes"))
        if not images_zip.is_file():
            raise UserError(
                f"there is no {images_zip}; `objectwise fetch omniglot` gets it, or say where it is with --data.root DIR"
            )
        if config.strokes == "required" and not strokes_zip.is_file():
            raise UserError(f"there is no {strokes_zip}, and --data.strokes required asks for it")
        self.has_strokes = config.strokes != "none" and strokes_zip.is_file()
        with _Zip(images_zip) as archive:
            self.drawings = split_drawings(_listed(archive), config.held_out, config.seed)
            self._pixels = {split: _decoded(archive, rows, config.image_size) for split, rows in self.drawings.items()}
        self.splits: Mapping[str, int] = {split: len(rows) for split, rows in self.drawings.items()}
        if self.has_strokes:
            with _Zip(strokes_zip) as archive:
                self._label(archive)

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The characters with these indices; see :class:`objectwise.core.dataset.Dataset`."""
        rows = checked_indices("omniglot", self.splits, split, indices)
        index, images = torch.from_numpy(rows), torch.from_numpy(self._pixels[split][rows]).float().unsqueeze(1) / 255.0
        if not self.has_strokes:
            return Batch(index=index, images=images)
        ids, present = self._ids[split][rows], self._present[split][rows]
        boxes, visible = boxes_from_ids(ids, present.shape[1])
        return Batch(
            index=index,
            images=images,
            instances=torch.from_numpy(ids.astype(np.int64)),
            present=torch.from_numpy(present),
            visible_pixels=torch.from_numpy(visible),
            boxes=torch.from_numpy(boxes),
        )

    def labels(self, split: str) -> CharacterLabels:
        """Alphabet, character and drawer of every image of a split, in the order of the indices.

        Raises:
            UserError: for an unknown split.
        """
        checked_indices("omniglot", self.splits, split, [])
        everything = [drawing for rows in self.drawings.values() for drawing in rows]
        alphabets = tuple(sorted({drawing.alphabet for drawing in everything}))
        characters = tuple(sorted({f"{drawing.alphabet}/{drawing.character}" for drawing in everything}))
        rows = self.drawings[split]
        return CharacterLabels(
            np.array([alphabets.index(drawing.alphabet) for drawing in rows], np.int64),
            np.array([characters.index(f"{drawing.alphabet}/{drawing.character}") for drawing in rows], np.int64),
            np.array([drawing.drawer for drawing in rows], np.int64),
            alphabets,
            characters,
        )

    def _label(self, archive: _Zip) -> None:
        """Read all strokes and give every pixel with ink to the nearest."""
        self._ids, counts = {}, {}
        for split, rows in self.drawings.items():
            ids = np.zeros(self._pixels[split].shape, np.uint8)
            counts[split] = np.zeros(len(rows), np.int64)
            for row, drawing in enumerate(rows):
                member = "strokes_" + drawing.member.removeprefix("images_").removesuffix(".png") + ".txt"
                strokes = parse_strokes(archive.read(member), f"{archive.path}: {member}")
                ids[row] = nearest_stroke(self._pixels[split][row] >= INK, strokes)
                counts[split][row] = len(strokes)
            self._ids[split] = ids
        entities = 1 + max(int(count.max()) for count in counts.values())
        self._present = {split: np.arange(entities) <= count[:, None] for split, count in counts.items()}


class _Zip:
    """A zip file whose every damage is one sentence."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Zip:
        try:
            self._zip = zipfile.ZipFile(self.path)
        except _DAMAGE as error:
            raise UserError(f"{self.path} is not a complete zip file ({error}); fetch it again") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def names(self) -> list[str]:
        return self._zip.namelist()

    def read(self, member: str) -> bytes:
        try:
            return self._zip.read(member)
        except KeyError:
            raise UserError(f"{self.path} lacks {member}; it belongs to other images, fetch it again") from None
        except (*_DAMAGE, RuntimeError) as error:
            raise UserError(f"{self.path}: {member} is damaged ({error}); fetch it again") from None


def _listed(archive: _Zip) -> list[Drawing]:
    """Every drawing of a zip, in the order of alphabet, character and drawer; Finder's leftovers do not match."""
    matches = [match for name in archive.names() if (match := _IMAGE_PATH.fullmatch(name))]
    drawings = [Drawing(match[0], match[1], match[2], int(match[4])) for match in matches]
    if not drawings:
        raise UserError(f"{archive.path} holds no drawings named images_PART/ALPHABET/CHARACTER/NUMBER_DRAWER.png")
    return sorted(drawings, key=lambda drawing: (drawing.alphabet, drawing.character, drawing.drawer))


def split_drawings(
    drawings: Sequence[Drawing], held_out: Literal["drawers", "characters", "alphabets"], seed: int
) -> dict[str, tuple[Drawing, ...]]:
    """Share out drawings: about a tenth of the drawers, characters or alphabets to val, as many to test.

    Args:
        drawings: in any order; the order inside a split is theirs.
        held_out: which of the three; drawers and characters are chosen anew in every alphabet.
        seed: of the choice.

    Raises:
        UserError: if there are fewer than three to choose from.
    """
    groups: dict[str, set[str]] = {}
    for drawing in drawings:
        group, unit = _unit(drawing, held_out)
        groups.setdefault(group, set()).add(unit)
    splits = {}
    for number, group in enumerate(sorted(groups)):
        units = sorted(groups[group])
        if len(units) < len(SPLITS):
            where = f" of {group}" if group else ""
            raise UserError(f"{len(units)} {held_out}{where} cannot be shared out between {', '.join(SPLITS)}")
        order = np.random.Generator(np.random.PCG64(seed_for(seed, number))).permutation(len(units))
        val, test = (max(1, round(share * len(units))) for share in _SHARES)
        for place, which in enumerate(order):
            splits[group, units[which]] = "test" if place < test else "val" if place < test + val else "train"
    return {
        split: tuple(drawing for drawing in drawings if splits[_unit(drawing, held_out)] == split) for split in SPLITS
    }


def _unit(drawing: Drawing, held_out: str) -> tuple[str, str]:
    """(group in which one chooses, what is chosen)."""
    if held_out == "alphabets":
        return "", drawing.alphabet
    return drawing.alphabet, drawing.character if held_out == "characters" else f"{drawing.drawer:04d}"


def _decoded(archive: _Zip, drawings: Sequence[Drawing], size: int) -> np.ndarray:
    """(N, size, size) uint8, ink 255."""
    out = np.empty((len(drawings), size, size), np.uint8)
    for start in range(0, len(drawings), _CHUNK):
        part = drawings[start : start + _CHUNK]
        ink = np.stack([_read_ink(archive, drawing.member) for drawing in part])
        out[start : start + _CHUNK] = area_resized(ink, size)
    return out


def _read_ink(archive: _Zip, member: str) -> np.ndarray:
    """(105, 105) bool, True where there is ink (0 in the file)."""
    data = archive.read(member)
    try:
        with Image.open(io.BytesIO(data)) as image:
            ink = ~np.array(image.convert("1"))
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise UserError(f"{archive.path}: {member} is not a readable image ({error})") from None
    if ink.shape != (SIDE, SIDE):
        raise UserError(f"{archive.path}: {member} is {ink.shape[1]}x{ink.shape[0]}, not {SIDE}x{SIDE}")
    return ink


def area_resized(ink: np.ndarray, size: int) -> np.ndarray:
    """The share of each pixel that is covered, times 255: (N, S, S) bool -> (N, size, size) uint8.

    Overlaps are counted in units of 1/size of an original pixel, whole numbers, so that the sums are exact in float32
    (S² < 2²⁴) and the bytes are the same on every machine.
    """
    side = ink.shape[-1]
    here, there = np.arange(size)[:, None], np.arange(side)[None, :]
    overlap = np.minimum((here + 1) * side, (there + 1) * size) - np.maximum(here * side, there * size)
    weights = overlap.clip(0).astype(np.float32)
    covered = weights @ ink.astype(np.float32) @ weights.T
    return np.floor(covered.astype(np.float64) * 255.0 / side**2 + 0.5).astype(np.uint8)


def parse_strokes(text: bytes, where: str) -> list[np.ndarray]:
    """The strokes of one drawing, each (P, 2) float64 column and row in pixels of the 105×105 image.

    Args:
        text: lines ``x,y,t`` after ``START``, with ``BREAK`` after each stroke; y is negative downwards.
        where: for the error message.

    Raises:
        UserError: for a line that is neither, or no points at all.
    """
    strokes = []
    for lines in text.decode("ascii", errors="replace").removeprefix("START").split("BREAK"):
        words = lines.split()
        try:
            points = np.array(list(map(float, ",".join(words).split(",")))).reshape(len(words), 3) if words else None
        except ValueError:
            raise UserError(f"{where} holds a line that is not a point x,y,t") from None
        if points is not None:
            strokes.append(points[:, :2] * (1.0, -1.0))
    if not strokes or not all(np.isfinite(points).all() for points in strokes):
        raise UserError(f"{where} holds {'a point that is not finite' if strokes else 'no strokes'}")
    return strokes


def nearest_stroke(ink: np.ndarray, strokes: Sequence[np.ndarray]) -> np.ndarray:
    """Give every pixel with ink to the stroke whose line is nearest to its centre, the first on ties.

    Args:
        ink: (H, W) bool, at any size.
        strokes: each (P, 2) column and row in pixels of the 105×105 image.

    Returns:
        (H, W) uint8: 0 without ink, e for the e-th stroke.
    """
    rows, columns = np.nonzero(ink)
    centres = (np.stack([columns, rows], axis=1) + 0.5) * (SIDE / np.array(ink.shape[::-1])) - 0.5
    distances = squared_distances(centres, strokes)
    ids = np.zeros(ink.shape, np.uint8)
    nearest = distances.min(axis=1, keepdims=True)
    ids[rows, columns] = 1 + (distances <= nearest + _TIE).argmax(axis=1)
    return ids


def squared_distances(centres: np.ndarray, strokes: Sequence[np.ndarray]) -> np.ndarray:
    """(M, 2) places and E lines through (P, 2) points each -> (M, E) squared distances to the nearest place on each line."""
    # A segment from each point to the next one; the last point of a stroke is a segment of no length.
    start = np.concatenate(strokes)
    along = np.concatenate([np.diff(points, axis=0, append=points[-1:]) for points in strokes])
    x, y = (centres[:, axis, None] - start[:, axis] for axis in (0, 1))
    place = (x * along[:, 0] + y * along[:, 1]) / np.maximum((along**2).sum(axis=1), 1e-12)
    np.clip(place, 0.0, 1.0, out=place)
    squares = (x - place * along[:, 0]) ** 2 + (y - place * along[:, 1]) ** 2
    firsts = np.cumsum([0, *(len(points) for points in strokes[:-1])])
    return np.asarray(np.minimum.reduceat(squares, firsts, axis=1))
