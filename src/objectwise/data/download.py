"""Fetching the original files of public datasets, with checksums.

A broken download leaves ``FILE.part`` behind and goes on from there the next time; a file appears under its own name only
when its MD5 is right.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from objectwise.core import UserError, nearest
from objectwise.data.cache import cache_folder

CHUNK = 1 << 16
"""Bytes read at once."""


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch.

    Attributes:
        name: below each base URL and in the folder; may hold sub-folders, ``materials/Rubber.blend``.
        size: bytes, or None where only the checksum is known.
        md5: of the file as it is served.
    """

    name: str
    size: int | None
    md5: str


@dataclass(frozen=True)
class Download:
    """The files of one dataset, and the places that serve them, the first preferred."""

    files: tuple[RemoteFile, ...]
    base_urls: tuple[str, ...]


DOWNLOADS: dict[str, Download] = {
    "mnist": Download(
        files=(
            RemoteFile("train-images-idx3-ubyte.gz", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            RemoteFile("train-labels-idx1-ubyte.gz", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
            RemoteFile("t10k-images-idx3-ubyte.gz", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
            RemoteFile("t10k-labels-idx1-ubyte.gz", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
        base_urls=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    "omniglot": Download(
        files=(
            RemoteFile("images_background_small1.zip", 1_319_022, "e704a628b5459e08445c13499850abc4"),
            RemoteFile("images_background_small2.zip", 1_580_917, "b75a71a51d3b13f821f212756fe481fd"),
            RemoteFile("strokes_background_small1.zip", 3_056_274, "830eb54f8a9297820a4471fcc4f9d9bc"),
            RemoteFile("images_background.zip", None, "68d2efa1b9178cc56df9314c21c6e718"),
            RemoteFile("images_evaluation.zip", None, "6b91aef0f799c5bb55b94e3f2daec811"),
        ),
        base_urls=("https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",),
    ),
    "dsprites": Download(
        files=(RemoteFile("dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz", None, "7da33b31b13a06f4b04a70402ce90c2e"),),
        base_urls=(
            "https://raw.githubusercontent.com/google-deepmind/dsprites-dataset/master/",
            "https://raw.githubusercontent.com/deepmind/dsprites-dataset/master/",
        ),
    ),
    "clevr-assets": Download(
        files=(
            RemoteFile("base_scene.blend", 512_864, "3c3b7eca6a1fa669aba34c88c041c131"),
            RemoteFile("properties.json", 472, "53d47afa46fa157bfb267503d9fdd973"),
            RemoteFile("materials/MyMetal.blend", 1_822_252, "44cd647309b68d999b67420ffa1a31e0"),
            RemoteFile("materials/Rubber.blend", 1_847_100, "cbe3983495fdd6e6294396ee82fd221b"),
            RemoteFile("shapes/SmoothCube_v2.blend", 750_148, "d053e917e4be917f35931603a9919808"),
            RemoteFile("shapes/SmoothCylinder.blend", 3_434_292, "468cb167fb8580e6c04b87f14bb8a85e"),
            RemoteFile("shapes/Sphere.blend", 1_753_684, "ff8fd4297143490f5693902bd69a44c8"),
        ),
        base_urls=("https://raw.githubusercontent.com/facebookresearch/clevr-dataset-gen/main/image_generation/data/",),
    ),
}
"""Name -> what `objectwise fetch NAME` downloads."""


class _UnreachableError(Exception):
    """The connection could not be made or broke; trying again may help."""


class _RefusedError(Exception):
    """The server answered that it will not give the file; trying again will not help."""


def fetch(
    name: str,
    *,
    folder: Path | None = None,
    base_url: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    rounds: int = 4,
    timeout: float = 20.0,
    wait: Callable[[float], None] = time.sleep,
) -> Path:
    """Download the files of a dataset that are not there yet.

    Args:
        name: one of :data:`DOWNLOADS`.
        folder: where to put them; None: a folder of this name in the cache.
        base_url: the only place to ask, instead of the known ones.
        progress: called with (bytes there, bytes in all) over all files.
        rounds: how often every place is asked before giving up.
        timeout: seconds without an answer after which a connection counts as broken.
        wait: sleeps between rounds: 1, 2, 4, ... seconds.

    Returns:
        The folder with the files.

    Raises:
        UserError: in one sentence: unknown name, no connection, wrong checksum, full disk.
    """
    if name not in DOWNLOADS:
        raise UserError(f"there is no download '{name}'{nearest(name, DOWNLOADS)}")
    bases = DOWNLOADS[name].base_urls if base_url is None else (_checked_url(base_url),)
    files = DOWNLOADS[name].files
    folder = folder or cache_folder() / name
    for below in sorted({(folder / file.name).parent for file in files}):
        try:
            below.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot create the folder {below}: {error.strerror or error}") from None
    total, done = sum(file.size or 0 for file in files), 0
    for file in files:
        _fetch_file(file, folder, bases, _Patience(rounds, timeout, wait), _shifted(progress, done, total))
        size = (folder / file.name).stat().st_size
        done, total = done + size, total + (size if file.size is None else 0)
    return folder


@dataclass(frozen=True)
class _Patience:
    rounds: int
    timeout: float
    wait: Callable[[float], None]


def _checked_url(url: str) -> str:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise UserError(f"base URL '{url}' does not begin with http://, https:// or file://")
    return url if url.endswith("/") else url + "/"


def _shifted(progress: Callable[[int, int], None] | None, done: int, total: int) -> Callable[[int], None]:
    """Progress inside one file as progress over all; a file of unknown size only ever adds to the total."""
    return (
        (lambda here: progress(done + here, max(total, done + here))) if progress is not None else (lambda here: None)
    )


def _fetch_file(
    file: RemoteFile, folder: Path, bases: tuple[str, ...], patience: _Patience, report: Callable[[int], None]
) -> None:
    """Make ``folder / file.name`` complete: nothing if it is, else from the first place that gives the right bytes."""
    target, part = folder / file.name, folder / f"{file.name}.part"
    if target.is_file() and file.size in (None, target.stat().st_size) and _md5(target) == file.md5:
        report(target.stat().st_size)
        return
    open_bases, problem = list(bases), f"{bases[0]} was not asked"
    for attempt in range(patience.rounds):
        if attempt and open_bases:
            patience.wait(2.0 ** (attempt - 1))
        for base in tuple(open_bases):
            try:
                resumed = _receive(base + file.name, part, file.size, patience.timeout, report)
                _accept(part, target, file, base, resumed=resumed)
            except _UnreachableError as reason:
                problem = f"could not reach {base} ({reason})"
            except _RefusedError as reason:
                problem = str(reason)
                open_bases.remove(base)
            else:
                report(target.stat().st_size)
                return
    raise UserError(f"{problem}; try again later, or put {file.name} into {folder} yourself")


def _receive(url: str, part: Path, size: int | None, timeout: float, report: Callable[[int], None]) -> bool:
    """Complete ``part`` from where it ends if the server can do that (returns True), else from the beginning (False)."""
    have = part.stat().st_size if part.is_file() else 0
    if size is not None and have >= size:
        return True
    headers = {"User-Agent": "objectwise", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:
            resumed = answer.status == 206 and _range_start(answer.headers.get("Content-Range")) == have
            if answer.status == 206 and not resumed:
                raise _UnreachableError("it sent another range than was asked for")
            start = have if resumed else 0
            declared = answer.headers.get("Content-Length")
            whole = start + int(declared) if declared else size
            if size is not None and whole != size:
                raise _RefusedError(f"{url} is {whole} bytes long, not {size}; it is not the file wanted")
            with _open_part(part, "ab" if resumed else "wb") as stream:
                _copy(answer, stream, start, whole, report)
            return resumed
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _UnreachableError(f"HTTP {error.code}") from None
        if error.code == 416:
            part.unlink(missing_ok=True)
            raise _UnreachableError("HTTP 416, starting anew") from None
        raise _RefusedError(f"{url} cannot be had (HTTP {error.code})") from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise _UnreachableError(str(reason) or type(error).__name__) from None


def _range_start(header: str | None) -> int | None:
    match = re.match(r"bytes (\d+)-", header or "")
    return int(match[1]) if match else None


def _copy(answer: BinaryIO, stream: BinaryIO, done: int, size: int | None, report: Callable[[int], None]) -> None:
    """Append the answer's bytes; more than ``size`` are never written. None: all there are; the checksum decides."""
    report(done)
    while size is None or done < size:
        data = answer.read(CHUNK if size is None else min(CHUNK, size - done))
        if not data and size is None:
            return
        if not data:
            raise _UnreachableError(f"the connection broke after {done} of {size} bytes")
        try:
            stream.write(data)
            stream.flush()
        except OSError as error:
            raise _disk_error(Path(stream.name), error) from None
        done += len(data)
        report(done)


def _open_part(part: Path, mode: str) -> BinaryIO:
    try:
        return part.open(mode)  # type: ignore[return-value]
    except OSError as error:
        raise _disk_error(part, error) from None


def _disk_error(path: Path, error: OSError) -> UserError:
    if error.errno == errno.ENOSPC:
        return UserError(f"the disk is full; what came so far is in {path}, and fetching again goes on from there")
    return UserError(f"cannot write {path}: {error.strerror or error}")


def _accept(part: Path, target: Path, file: RemoteFile, base: str, *, resumed: bool) -> None:
    """Give a complete download its name, or remove it if its bytes are wrong."""
    found = _md5(part)
    try:
        if found == file.md5:
            part.replace(target)
            return
        part.unlink()
    except OSError as error:
        raise _disk_error(target, error) from None
    if resumed:
        raise _UnreachableError("what an earlier download left was damaged; starting anew")
    raise _RefusedError(f"{base}{file.name} gave bytes with MD5 {found} instead of {file.md5}, which were removed")


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
