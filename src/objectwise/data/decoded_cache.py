"""Official TFRecord files decoded once, into arrays that open in an instant.

A cache is a folder with one ``.npy`` per array, opened memory-mapped, and a ``manifest.json`` that says what it is, what it
came from and what its bytes should be. It is made in a folder ``NAME.partial`` beside it, which an interruption leaves behind
for the next attempt to continue, and which gets its real name only when complete: a folder with the real name is never half
a cache.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from objectwise.core import Config, UserError
from objectwise.core.files import write_text
from objectwise.data.multi_object_schemas import (
    OFFICIAL_SETS,
    Crop,
    array_layout,
    check_crop,
    decode_record,
    fitting_sets,
    official_set,
)
from objectwise.data.tfrecord import RecordError, RecordReader, open_source, read_records

FORMAT = 1
"""Version of the cache's layout."""
MANIFEST = "manifest.json"
PROGRESS = "progress.json"
HEADER_BYTES = 128
"""Length of the header of every array file."""
BLOCK_BYTES = 8 << 20
"""Arrays are appended to in blocks of about this size."""
CHECKPOINT_SECONDS = 5.0
"""How much work an interruption can cost."""
EDGE_BYTES = 1 << 20
"""How much of the beginning and of the end of a source its fingerprint covers."""

Progress = Callable[[int, float], None]
"""Called with the number of records decoded and the share of the source read, in [0, 1]."""


class Source(Config):
    """The file a cache was decoded from."""

    path: str
    """Where it was."""
    size: int
    """Bytes."""
    modified: int
    """Time of its last change, in nanoseconds."""
    fingerprint: str
    """SHA-256 of its first and last mebibyte."""
    sha256: str = ""
    """SHA-256 of all of it; empty while decoding."""


class Job(Config):
    """What is being decoded, from what."""

    format: int
    """Version of the cache's layout."""
    set_name: str
    """The official set."""
    crop: Crop | None
    """Window kept of each image, and its size after resizing."""
    limit: int | None
    """Most records to decode."""
    source: Source
    """The official file."""


class Stored(Config):
    """One array of a cache."""

    dtype: str
    """NumPy's name of the type of its numbers."""
    shape: tuple[int, ...]
    """Its shape; the first axis counts records."""
    sha256: str
    """Of the file, header included."""


class Manifest(Job):
    """What a complete cache says of itself."""

    library: str
    """Version of objectwise that wrote it."""
    records: int
    """Number of scenes."""
    arrays: dict[str, Stored]
    """Array name -> what its file holds."""


class _Checkpoint(Config):
    """How far an unfinished decode got."""

    job: Job
    """What it was about."""
    records: int
    """Records safely on disk."""


@dataclass(frozen=True)
class DecodedCache:
    """An opened cache.

    Attributes:
        root: its folder.
        manifest: what it says of itself.
        arrays: name -> memory-mapped array, read-only; see ``array_layout``.
    """

    root: Path
    manifest: Manifest
    arrays: Mapping[str, np.ndarray]


def decode(
    source_tfrecords: Path,
    set_name: str,
    out_dir: Path,
    *,
    progress: Progress | None = None,
    limit: int | None = None,
    crop: Crop | Literal["published"] | None = "published",
    restart: bool = False,
) -> Manifest:
    """Decode an official file into a cache, continuing where an interrupted attempt stopped.

    A complete cache of the same file and settings is left as it is.

    Args:
        source_tfrecords: the official file.
        set_name: a name of ``OFFICIAL_SETS``; a beginning such as ``multi_dsprites`` will do where the file tells the rest.
        out_dir: folder of the cache; it must not exist yet, or be empty.
        progress: told now and then how far it is.
        limit: most records to decode; None: all, which also verifies the end of the GZIP stream.
        crop: window to keep; ``"published"``: the one papers use for this set, where there is one.
        restart: throw away what an interrupted attempt left.

    Returns:
        the manifest.

    Raises:
        UserError: if the file is damaged or of another set (nothing is left behind), has changed since an interrupted attempt,
            or cannot be written in full (what is there can be continued); ``out_dir`` then does not exist.
    """
    source_tfrecords, out_dir = Path(source_tfrecords), Path(out_dir)
    if limit is not None and limit < 1:
        raise UserError(f"limit = {limit}: at least one record must be decoded")
    source = fingerprint(source_tfrecords)
    set_name = _resolve(source_tfrecords, set_name)
    window = OFFICIAL_SETS[set_name].crop if crop == "published" else crop
    check_crop(set_name, window)
    job = Job(format=FORMAT, set_name=set_name, crop=window, limit=limit, source=source)
    if out_dir.exists() and not (out_dir.is_dir() and not any(out_dir.iterdir())):
        return _already_there(out_dir, job)
    partial = out_dir.with_name(out_dir.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with _locked(partial):
            if restart:
                _empty(partial)
            try:
                manifest = _decode_into(partial, job, progress)
            except RecordError:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            partial.replace(out_dir)
            (out_dir / PROGRESS).unlink(missing_ok=True)
    except OSError as error:
        free = "; make room and give the same command again to continue" if error.errno == errno.ENOSPC else ""
        raise UserError(f"cannot write {out_dir}: {error.strerror or error}{free}") from error
    return manifest


def open_cache(root: Path, *, full: bool = False) -> DecodedCache:
    """Open a cache; only headers are read.

    If the file it was decoded from is still where it was, it is checked that it has not changed.

    Args:
        root: the folder.
        full: also verify every byte of the arrays and of the source.

    Raises:
        UserError: if there is no complete cache, its files are not those of its manifest, or its source has changed.
    """
    root = Path(root)
    manifest = _manifest(root)
    layout = array_layout(manifest.set_name, manifest.crop)
    arrays = {name: _array(root, name, manifest, *expected) for name, expected in layout.items()}
    _check_source(root, manifest, full)
    if full:
        for name in layout:
            if _sha256(root / f"{name}.npy") != manifest.arrays[name].sha256:
                raise UserError(f"{root / name}.npy is damaged: its checksum is not the manifest's; decode it again")
    return DecodedCache(root, manifest, arrays)


def fingerprint(path: Path) -> Source:
    """Size, time and the edges of a file: enough to notice that it changed, without reading all of it.

    Raises:
        UserError: if it cannot be read.
    """
    with open_source(path) as stream:
        try:
            status = os.fstat(stream.fileno())
            digest = hashlib.sha256(stream.read(EDGE_BYTES))
            stream.seek(max(0, status.st_size - EDGE_BYTES))
            digest.update(stream.read(EDGE_BYTES))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    return Source(
        path=str(path.resolve()),
        size=status.st_size,
        modified=status.st_mtime_ns,
        fingerprint=digest.hexdigest(),
    )


def _resolve(source: Path, set_name: str) -> str:
    """The set of a family, e.g. ``multi_dsprites``, that the first record belongs to."""
    family = [name for name in OFFICIAL_SETS if name.startswith(set_name)] if set_name else []
    if set_name in OFFICIAL_SETS or not family:
        official_set(set_name)
        return set_name
    if len(family) == 1:
        return family[0]
    first = next(read_records(source))
    fitting = [name for name in fitting_sets(first) if name in family]
    if len(fitting) != 1:
        found = " or ".join(fitting or fitting_sets(first)) or "no official set"
        first.fail(f"this looks like {found}; name one of {', '.join(fitting or family)}")
    return fitting[0]


def _already_there(out_dir: Path, job: Job) -> Manifest:
    """The manifest of a complete cache of this very job."""
    try:
        found = _manifest(out_dir)
    except UserError:
        raise UserError(f"{out_dir} exists and is no decoded cache; choose a folder that does not exist") from None
    same_settings = all(getattr(found, name) == getattr(job, name) for name in ("set_name", "crop", "limit"))
    if same_settings and _same_content(found.source, job.source):
        return found
    different = "other settings" if not same_settings else "another file, or this file before it changed"
    raise UserError(f"{out_dir} already holds a cache decoded with {different}; delete it or choose another folder")


def _same_content(first: Source, second: Source) -> bool:
    return (first.size, first.fingerprint) == (second.size, second.fingerprint)


def _decode_into(partial: Path, job: Job, progress: Progress | None) -> Manifest:
    done = _continued(partial, job)
    if done == 0:
        _empty(partial)
    (partial / MANIFEST).unlink(missing_ok=True)
    path = Path(job.source.path)
    with _ArrayFiles(partial, array_layout(job.set_name, job.crop), done) as files, open_source(path) as stream:
        reader = RecordReader(stream, str(path))
        try:
            for record in reader:
                if record.number >= done:
                    files.append(decode_record(record, job.set_name, job.crop))
                if files.due():
                    _checkpoint(partial, job, files)
                    if progress:
                        progress(files.records, reader.consumed / max(job.source.size, 1))
                if record.number + 1 == job.limit:
                    break
            files.flush()
        finally:
            with contextlib.suppress(OSError, UserError):
                _checkpoint(partial, job, files)
        files.finish()
        records = files.records
    if progress:
        progress(records, 1.0)
    return _finish(partial, job, records)


def _finish(partial: Path, job: Job, records: int) -> Manifest:
    """Write the manifest of arrays that are all there."""
    from objectwise import __version__

    path = Path(job.source.path)
    whole = _sha256(path)
    now = fingerprint(path)
    if not _same_content(now, job.source) or now.modified != job.source.modified:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"{path} changed while it was being decoded; decode it again")
    arrays = {
        name: Stored(dtype=dtype.str, shape=(records, *shape), sha256=_sha256(partial / f"{name}.npy"))
        for name, (dtype, shape) in array_layout(job.set_name, job.crop).items()
    }
    source = job.source.replaced(sha256=whole)
    manifest = Manifest(**{**dict(job), "source": source}, library=__version__, records=records, arrays=arrays)
    write_text(partial / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def _continued(partial: Path, job: Job) -> int:
    """How many records an interrupted attempt at the same job has left; 0 for a fresh start."""
    try:
        text = (partial / PROGRESS).read_text(encoding="utf-8")
    except FileNotFoundError:
        return 0
    try:
        before = _Checkpoint.parse(json.loads(text))
    except ValueError:
        return 0
    old, new = before.job.source, job.source
    if not _same_content(old, new) or (old.path == new.path and old.modified != new.modified):
        raise UserError(
            f"{new.path} is not what it was when the decode in {partial} was interrupted; "
            "delete that folder, or restart, to begin anew"
        )
    if before.job.replaced(source=new) != job:
        raise UserError(f"{partial} was begun with other settings; delete it, or restart, to begin anew")
    return before.records


def _empty(partial: Path) -> None:
    for path in partial.iterdir():
        path.unlink()


def _checkpoint(partial: Path, job: Job, files: _ArrayFiles) -> None:
    files.sync()
    write_text(partial / PROGRESS, _Checkpoint(job=job, records=files.records).model_dump_json())


class _ArrayFiles:
    """The array files of a cache being written: they grow by blocks, all by the same number of records.

    Args:
        folder: where.
        layout: array name -> dtype and shape of one record.
        records: how many are there already; what lies beyond is cut off.
    """

    def __init__(self, folder: Path, layout: Mapping[str, tuple[np.dtype, tuple[int, ...]]], records: int) -> None:
        self._layout, self.records = layout, records
        self._pending: list[Mapping[str, np.ndarray]] = []
        self._row_bytes = {
            name: dtype.itemsize * int(np.prod(shape, dtype=np.int64)) for name, (dtype, shape) in layout.items()
        }
        self._block = max(1, BLOCK_BYTES // sum(self._row_bytes.values()))
        self._checked = time.monotonic()
        self._streams: dict[str, BinaryIO] = {}
        for name, row_bytes in self._row_bytes.items():
            stream = self._streams[name] = _open_for_update(folder / f"{name}.npy")
            if stream.seek(0, os.SEEK_END) < HEADER_BYTES + records * row_bytes and records:
                raise UserError(f"{folder / name}.npy is shorter than the interrupted decode left it; delete {folder}")
            stream.seek(0)
            stream.write(npy_header(*layout[name], 0))
            stream.truncate(HEADER_BYTES + records * row_bytes)
            stream.seek(0, os.SEEK_END)

    def __enter__(self) -> _ArrayFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._streams.values():
            with contextlib.suppress(OSError):
                stream.close()

    def append(self, scene: Mapping[str, np.ndarray]) -> None:
        """Add one record."""
        self._pending.append(scene)
        if len(self._pending) >= self._block:
            self.flush()

    def flush(self) -> None:
        """Write the records that wait; they count only when all arrays have them."""
        if not self._pending:
            return
        for name, (dtype, _) in self._layout.items():
            block = np.stack([scene[name] for scene in self._pending]).astype(dtype, copy=False)
            write_all(self._streams[name], block.tobytes())
        self.records += len(self._pending)
        self._pending = []

    def due(self) -> bool:
        """Whether it is time for a checkpoint; if so, everything waiting is written."""
        if time.monotonic() - self._checked < CHECKPOINT_SECONDS:
            return False
        self._checked = time.monotonic()
        self.flush()
        return True

    def sync(self) -> None:
        """Make sure that what was written survives a power cut."""
        for stream in self._streams.values():
            stream.flush()
            os.fsync(stream.fileno())

    def finish(self) -> None:
        """Write the true shapes into the headers."""
        for name, stream in self._streams.items():
            stream.seek(0)
            write_all(stream, npy_header(*self._layout[name], self.records))
        self.sync()


def write_all(stream: BinaryIO, data: bytes) -> None:
    """Write all of it; a function of its own so that tests can fill the disk."""
    stream.write(data)


def npy_header(dtype: np.dtype, shape: tuple[int, ...], records: int) -> bytes:
    """A version-1 ``.npy`` header for ``records`` rows, always ``HEADER_BYTES`` long so that it can be rewritten in place."""
    text = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {(records, *shape)}, }}"
    room = HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + text.ljust(room - 1).encode("ascii") + b"\n"


def _open_for_update(path: Path) -> BinaryIO:
    path.touch()
    return path.open("r+b")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Nobody else decodes into this folder meanwhile; a killed process holds no lock."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system: no lock
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another process is decoding into {folder}") from None
        yield
    finally:
        os.close(descriptor)


def _manifest(root: Path) -> Manifest:
    path = root / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        unfinished = root.with_name(root.name + ".partial").exists()
        hint = (
            "decode an official file (objectwise data NAME --tfrecords FILE --out DIR) and name it with --data.root DIR"
        )
        if unfinished:
            hint = "its decode was interrupted; give the same command again"
        raise UserError(f"{root} is no decoded cache ({MANIFEST} is missing): {hint}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); decode the official file again") from None
    version = values.get("format") if isinstance(values, dict) else None
    if version != FORMAT:
        raise UserError(f"{path} has cache format {version}, this version of objectwise reads {FORMAT}; decode again")
    manifest = Manifest.parse(values, where=str(path))
    official_set(manifest.set_name)
    return manifest


def _array(root: Path, name: str, manifest: Manifest, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    path = root / f"{name}.npy"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; decode the official file again") from None
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise UserError(f"{path} is damaged ({error}); decode the official file again") from None
    if name not in manifest.arrays or array.dtype != dtype or array.shape != (manifest.records, *shape):
        raise UserError(
            f"{path} holds {array.dtype} {array.shape}, the manifest says {dtype} {(manifest.records, *shape)}; "
            "decode the official file again"
        )
    return array


def _check_source(root: Path, manifest: Manifest, full: bool) -> None:
    """Refuse a cache whose source is there but is not what was decoded."""
    source, path = manifest.source, Path(manifest.source.path)
    if not os.access(path, os.R_OK):
        return
    now = fingerprint(path)
    changed = not _same_content(now, source)
    if not changed and (full or now.modified != source.modified):
        changed = _sha256(path) != source.sha256
    if changed:
        raise UserError(f"{path} has changed since {root} was decoded from it; delete {root} and decode it again")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_source(path) as stream:
        while block := stream.read(EDGE_BYTES):
            digest.update(block)
    return digest.hexdigest()
