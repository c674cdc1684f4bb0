"""The official dSprites file, ``dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz`` (deepmind/dsprites-dataset, Apache-2.0).

737,280 binary images of 64×64 and the grid they come from. The file also holds a pickled object, ``metadata``; it is never
opened, because unpickling runs code. The images are decompressed once, a piece at a time, into a bit-packed array of 378 MB in
the cache (3 GB as bytes), which is then opened memory-mapped.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic import Field

from objectwise.core import Batch, Config, UserError
from objectwise.data.cache import cache_folder
from objectwise.data.dsprites import FACTORS, SIZES, SPECS, same_picture, shared_out, sprite_batch
from objectwise.data.labels import checked_indices

FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
"""Name of the official file."""
SIDE = 64
"""Side of the images in pixels."""

_COLUMNS = ("color", *FACTORS)
_CHUNK = 4096
_EDGE_BYTES = 1 << 20
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)


class DspritesOfficialConfig(Config):
    """Settings of the official dSprites."""

    root: Path | None = None
    """Folder with the npz file; None: the download cache (`objectwise fetch dsprites`)."""
    seed: int = Field(0, ge=0)
    """Seed of the splits."""
    eval_size: int = Field(10_000, ge=1)
    """Number of images in the validation and in the test split, at most a tenth of all each."""

    def build(self) -> DspritesOfficial:
        """The dataset."""
        return DspritesOfficial(self)


class DspritesOfficial:
    """The dataset; see :class:`objectwise.core.dataset.Dataset`. Splits as those of the generated set."""

    shuffle = True
    factor_specs = SPECS
    image_shape = (1, SIDE, SIDE)

    def __init__(self, config: DspritesOfficialConfig) -> None:
        self.config = config
        self.max_objects: int | None = 1
        path = (config.root or cache_folder() / "dsprites").expanduser() / FILE
        if not path.is_file():
            raise UserError(
                f"there is no {path}; `objectwise fetch dsprites` gets it, or say where it is with --data.root DIR"
            )
        self._bits, self._classes, self._values = _opened(path)
        self._rows = shared_out(same_picture(self._classes[:, 1:]), config.eval_size, config.seed)
        self.splits: Mapping[str, int] = {split: len(rows) for split, rows in self._rows.items()}

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The images with these indices; see :class:`objectwise.core.dataset.Dataset`."""
        wanted = checked_indices("dsprites_official", self.splits, split, indices)
        rows = self._rows[split][wanted]
        lit = np.unpackbits(self._bits[rows], axis=1).reshape(-1, SIDE, SIDE).view(bool)
        return sprite_batch(wanted, lit, dict(zip(FACTORS, self._values[rows, 1:].T, strict=True)))

    def sample_factors(self, split: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(B, 5) int64 grid indices of the factors; see :meth:`objectwise.data.dsprites.Dsprites.sample_factors`."""
        wanted = checked_indices("dsprites_official", self.splits, split, indices)
        return self._classes[self._rows[split][wanted], 1:]


def _opened(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bits (N, 512) uint8, memory-mapped; classes (N, 6) int64 and values (N, 6) float64. Decodes the file if need be."""
    folder = cache_folder() / "dsprites_official" / _fingerprint(path)
    if not folder.is_dir():
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            _decode(path, partial)
            partial.replace(folder)
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    try:
        bits = np.load(folder / "bits.npy", mmap_mode="r", allow_pickle=False)
        return (
            bits,
            np.load(folder / "classes.npy", allow_pickle=False),
            np.load(folder / "values.npy", allow_pickle=False),
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is damaged ({error}); delete it, and it is made again") from None


def _fingerprint(path: Path) -> str:
    """Of the size, the beginning and the end of a file; its end holds the zip's checksums of everything."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        digest = hashlib.sha256(size.to_bytes(8, "little") + stream.read(_EDGE_BYTES))
        stream.seek(max(0, size - _EDGE_BYTES))
        digest.update(stream.read())
    return digest.hexdigest()[:32]


def _decode(path: Path, folder: Path) -> None:
    with _archive(path) as archive:
        classes = _array(archive, path, "latents_classes", np.dtype(np.int64))
        values = _array(archive, path, "latents_values", np.dtype(np.float64))
        limits = np.array([1, *SIZES])
        if not ((classes >= 0) & (classes < limits)).all() or not np.isfinite(values).all():
            raise UserError(f"{path}: latents_classes or latents_values leave dSprites' grid of 1x3x6x40x32x32")
        with _member(archive, path, "imgs") as stream:
            shape, dtype = _header(stream, path, "imgs")
            if dtype != np.uint8 or shape != (len(classes), SIDE, SIDE):
                raise UserError(f"{path}: imgs is {dtype} {shape}, not uint8 ({len(classes)}, {SIDE}, {SIDE})")
            bits = np.lib.format.open_memmap(
                folder / "bits.npy", mode="w+", dtype=np.uint8, shape=(len(classes), SIDE * SIDE // 8)
            )
            for start in range(0, len(classes), _CHUNK):
                count = min(_CHUNK, len(classes) - start)
                pixels = np.frombuffer(_exactly(stream, count * SIDE * SIDE, path), np.uint8)
                if pixels.max(initial=0) > 1:
                    raise UserError(f"{path}: imgs holds {pixels.max()}, not only 0 and 1")
                bits[start : start + count] = np.packbits(pixels.reshape(count, -1), axis=1)
            if stream.read(1):  # also checks the checksum, which is looked at where a member ends
                raise UserError(f"{path}: imgs is longer than its header says")
            bits.flush()
    np.save(folder / "classes.npy", classes, allow_pickle=False)
    np.save(folder / "values.npy", values, allow_pickle=False)


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file whose every damage is one sentence."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _DAMAGE as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged ({error}); fetch it again") from None


@contextlib.contextmanager
def _member(archive: zipfile.ZipFile, path: Path, name: str) -> Iterator[IO[bytes]]:
    try:
        stream = archive.open(f"{name}.npy")
    except KeyError:
        raise UserError(f"{path} has no array '{name}'; it is not the dSprites file") from None
    with stream:
        yield stream


def _array(archive: zipfile.ZipFile, path: Path, name: str, dtype: np.dtype[Any]) -> np.ndarray:
    """(N, 6) of this type; nothing in it is unpickled."""
    with _member(archive, path, name) as stream:
        shape, found = _header(stream, path, name)
        if found != dtype or len(shape) != 2 or shape[1] != len(_COLUMNS):
            raise UserError(f"{path}: {name} is {found} {shape}, not {dtype} (N, {len(_COLUMNS)})")
        data = _exactly(stream, shape[0] * shape[1] * dtype.itemsize, path)
        stream.read(1)
        return np.frombuffer(data, dtype).reshape(shape).copy()


def _header(stream: IO[bytes], path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if fortran:
        raise UserError(f"{path}: {name} is stored column by column, which dSprites' file is not")
    return shape, dtype


def _exactly(stream: IO[bytes], count: int, path: Path) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise UserError(f"{path} ends too early; fetch it again")
    return data
