"""Caches of decoded files: complete or not there, continued after a kill, and true to their source."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import crc32c
import numpy as np
import pytest
import tfrecord_encoder as enc

from objectwise.core import UserError
from objectwise.data import decoded_cache
from objectwise.data.decoded_cache import HEADER_BYTES, decode, npy_header, open_cache

COUNT = 25


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    payloads = [enc.shuffled_record("tetrominoes", rng)[1] for _ in range(COUNT)]
    enc.write(tmp_path / "f", payloads, crc=crc32c.crc32c)
    return tmp_path / "f"


@pytest.fixture
def small_blocks(monkeypatch):
    """Write after every other record, checkpoint at every record."""
    monkeypatch.setattr(decoded_cache, "BLOCK_BYTES", 2 * 5_100)
    monkeypatch.setattr(decoded_cache, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power cut is to be survived here


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


class Stop(BaseException):
    """Stands for a kill: nothing in the library catches it."""


def interrupted(source, out, at, monkeypatch, error=Stop, **kwargs):
    """Decode until record ``at`` is parsed, then fail."""
    real = decoded_cache.decode_record
    with monkeypatch.context() as patched:

        def failing(record, *rest):
            if record.number == at:
                raise error
            return real(record, *rest)

        patched.setattr(decoded_cache, "decode_record", failing)
        with pytest.raises(error):
            decode(source, "tetrominoes", out, **kwargs)


@pytest.mark.parametrize("at", [0, 1, 7, 24])
def test_an_interrupted_decode_continues_and_gives_the_same_bytes(source, tmp_path, monkeypatch, small_blocks, at):
    decode(source, "tetrominoes", tmp_path / "once")
    interrupted(source, tmp_path / "c", at, monkeypatch)
    assert not (tmp_path / "c").exists()
    assert (tmp_path / "c.partial").is_dir()
    with pytest.raises(UserError, match=r"no decoded cache .*interrupted; give the same command again"):
        open_cache(tmp_path / "c")
    with pytest.raises(UserError, match="no decoded cache"):
        open_cache(tmp_path / "c.partial")
    seen = []
    real = decoded_cache.decode_record
    monkeypatch.setattr(decoded_cache, "decode_record", lambda r, *a: seen.append(r.number) or real(r, *a))
    decode(source, "tetrominoes", tmp_path / "c")
    assert seen[0] == at
    assert contents(tmp_path / "c") == contents(tmp_path / "once")
    assert not (tmp_path / "c.partial").exists()


def test_a_second_interruption_and_half_written_rows_do_no_harm(source, tmp_path, monkeypatch, small_blocks):
    decode(source, "tetrominoes", tmp_path / "once")
    interrupted(source, tmp_path / "c", 5, monkeypatch)
    with (tmp_path / "c.partial" / "images.npy").open("ab") as stream:
        stream.write(b"half a row that no checkpoint knows")
    interrupted(source, tmp_path / "c", 13, monkeypatch)
    decode(source, "tetrominoes", tmp_path / "c")
    assert contents(tmp_path / "c") == contents(tmp_path / "once")
    open_cache(tmp_path / "c", full=True)


def test_interrupted_between_the_last_record_and_the_name(source, tmp_path, monkeypatch, small_blocks):
    decode(source, "tetrominoes", tmp_path / "once")
    with monkeypatch.context() as patched:

        def fail(*_):
            raise Stop

        patched.setattr(Path, "replace", fail)
        with pytest.raises(Stop):
            decode(source, "tetrominoes", tmp_path / "c")
    decode(source, "tetrominoes", tmp_path / "c")
    assert contents(tmp_path / "c") == contents(tmp_path / "once")


def test_killed_for_real(tmp_path):
    """SIGKILL in the middle, in another process."""
    rng = np.random.default_rng(0)
    payloads = [enc.shuffled_record("objects_room_train", rng)[1] for _ in range(4)] * 100
    enc.write(tmp_path / "f", payloads, crc=crc32c.crc32c)
    code = (
        "import sys, pathlib; from objectwise.data import decoded_cache as d; d.CHECKPOINT_SECONDS = 0.0\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "d.decode(root / 'f', 'objects_room_train', root / 'c', progress=lambda n, share: print(n, flush=True))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, env={**os.environ})
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "c").exists()
    done = json.loads((tmp_path / "c.partial" / "progress.json").read_text())["records"]
    assert done >= 18
    assert decode(tmp_path / "f", "objects_room_train", tmp_path / "c").records == 400
    decode(tmp_path / "f", "objects_room_train", tmp_path / "once")
    assert contents(tmp_path / "c") == contents(tmp_path / "once")


def test_a_source_that_changed_since_the_interruption_is_noticed(source, tmp_path, monkeypatch, small_blocks):
    interrupted(source, tmp_path / "c", 9, monkeypatch)
    enc.write(source, [enc.shuffled_record("tetrominoes", np.random.default_rng(5))[1]] * 12, crc=crc32c.crc32c)
    with pytest.raises(UserError, match=r"is not what it was when the decode in .* was interrupted"):
        decode(source, "tetrominoes", tmp_path / "c")
    assert decode(source, "tetrominoes", tmp_path / "c", restart=True).records == 12
    open_cache(tmp_path / "c", full=True)


def test_a_touched_source_does_not_continue(source, tmp_path, monkeypatch, small_blocks):
    interrupted(source, tmp_path / "c", 9, monkeypatch)
    os.utime(source, ns=(1, 1))
    with pytest.raises(UserError, match="is not what it was"):
        decode(source, "tetrominoes", tmp_path / "c")


def test_other_settings_do_not_continue(source, tmp_path, monkeypatch, small_blocks):
    interrupted(source, tmp_path / "c", 9, monkeypatch)
    with pytest.raises(UserError, match="was begun with other settings"):
        decode(source, "tetrominoes", tmp_path / "c", limit=20)
    assert decode(source, "tetrominoes", tmp_path / "c", limit=20, restart=True).records == 20


def test_a_damaged_or_shortened_attempt(source, tmp_path, monkeypatch, small_blocks):
    interrupted(source, tmp_path / "c", 9, monkeypatch)
    os.truncate(tmp_path / "c.partial" / "images.npy", 1000)
    with pytest.raises(UserError, match=r"images.npy is shorter than the interrupted decode left it"):
        decode(source, "tetrominoes", tmp_path / "c")
    (tmp_path / "c.partial" / "progress.json").write_text("{no")
    (tmp_path / "c.partial" / "factor_other.npy").write_text("from another set")
    decode(source, "tetrominoes", tmp_path / "c")  # nothing to continue: from the beginning
    assert not (tmp_path / "c" / "factor_other.npy").exists()
    open_cache(tmp_path / "c", full=True)


def test_a_source_that_changes_while_it_is_decoded(source, tmp_path, monkeypatch):
    real = decoded_cache.decode_record

    def touching(record, *rest):
        os.utime(source, ns=(1, record.number))
        return real(record, *rest)

    monkeypatch.setattr(decoded_cache, "decode_record", touching)
    with pytest.raises(UserError, match="changed while it was being decoded"):
        decode(source, "tetrominoes", tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["f"]


def test_a_damaged_source_leaves_nothing_behind(source, tmp_path, small_blocks):
    data = source.read_bytes()
    source.write_bytes(data[:-20])
    with pytest.raises(UserError, match=r"f: record \d+ at byte \d+ of the uncompressed stream: truncated"):
        decode(source, "tetrominoes", tmp_path / "c")
    assert not (tmp_path / "c").exists()
    assert not (tmp_path / "c.partial").exists()


@pytest.mark.parametrize("after", [0, 3, 40, 90])
def test_a_full_disk(source, tmp_path, monkeypatch, small_blocks, after):
    """One sentence; nothing poses as a cache; continues when there is room."""
    decode(source, "tetrominoes", tmp_path / "once")
    real, calls = decoded_cache.write_all, []

    def filling(stream, data):
        calls.append(1)
        if len(calls) > after:
            stream.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(stream, data)

    monkeypatch.setattr(decoded_cache, "write_all", filling)
    with pytest.raises(UserError, match="No space left on device; make room and give the same command") as caught:
        decode(source, "tetrominoes", tmp_path / "c")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c").exists()
    with pytest.raises(UserError, match="no decoded cache"):
        open_cache(tmp_path / "c.partial")
    monkeypatch.setattr(decoded_cache, "write_all", real)
    decode(source, "tetrominoes", tmp_path / "c")
    assert contents(tmp_path / "c") == contents(tmp_path / "once")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_device_that_is_really_full(source, tmp_path, monkeypatch, small_blocks):
    monkeypatch.setattr(decoded_cache, "_open_for_update", lambda path: _unseekable(Path("/dev/full")))
    with pytest.raises(UserError, match=r"cannot write .*/c: "):
        decode(source, "tetrominoes", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def _unseekable(path):
    return path.open("r+b", buffering=0)


def test_a_manifest_that_cannot_be_written(source, tmp_path, monkeypatch):
    real = decoded_cache.write_text

    def failing(path, text):
        if path.name == "manifest.json":
            raise UserError(f"cannot write {path}: No space left on device")
        real(path, text)

    monkeypatch.setattr(decoded_cache, "write_text", failing)
    with pytest.raises(UserError, match="No space left"):
        decode(source, "tetrominoes", tmp_path / "c")
    assert not (tmp_path / "c").exists()


# --- opening ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(source, tmp_path):
    decode(source, "tetrominoes", tmp_path / "c")
    return tmp_path / "c"


def test_the_manifest_says_what_it_is(cache, source):
    manifest = json.loads((cache / "manifest.json").read_text())
    assert manifest["records"] == COUNT
    assert manifest["source"]["size"] == source.stat().st_size
    assert len(manifest["source"]["sha256"]) == 64
    assert set(manifest["arrays"]) == {p.stem for p in cache.glob("*.npy")}
    assert sorted(p.name for p in cache.iterdir() if p.suffix != ".npy") == ["manifest.json"]
    assert np.load(cache / "images.npy").shape == (COUNT, 3, 35, 35)


def test_decoding_again_does_nothing(cache, source):
    before = (cache / "images.npy").stat().st_mtime_ns
    decode(source, "tetrominoes", cache)
    assert (cache / "images.npy").stat().st_mtime_ns == before


def test_a_folder_in_use_is_not_touched(cache, source, tmp_path):
    with pytest.raises(UserError, match="already holds a cache decoded with other settings"):
        decode(source, "tetrominoes", cache, limit=3)
    enc.write(source, [enc.shuffled_record("tetrominoes", np.random.default_rng(5))[1]], crc=crc32c.crc32c)
    with pytest.raises(UserError, match="already holds a cache decoded with another file, or this file before"):
        decode(source, "tetrominoes", cache)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="exists and is no decoded cache"):
        decode(source, "tetrominoes", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    assert decode(source, "tetrominoes", tmp_path / "empty").records == 1


def test_a_changed_source_is_noticed_on_opening(cache, source):
    open_cache(cache)
    data, before = source.read_bytes(), source.stat()
    os.utime(source, ns=(1, 1))
    open_cache(cache)  # touched, but the same bytes
    changes = {
        "shorter": data[:-1],
        "edge": bytes([data[0] ^ 1]) + data[1:],
        "middle": data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
    }
    for changed in changes.values():
        source.write_bytes(changed)
        with pytest.raises(UserError, match=r"f has changed since .*c was decoded from it"):
            open_cache(cache)
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(UserError, match="has changed"):
            open_cache(cache)
    source.unlink()
    open_cache(cache, full=True)  # gone is fine: the cache is all one needs


def test_a_change_deep_inside_a_large_source(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded_cache, "EDGE_BYTES", 64)
    rng = np.random.default_rng(0)
    path = tmp_path / "f"
    enc.write(path, [enc.shuffled_record("tetrominoes", rng)[1]], crc=crc32c.crc32c)
    decode(path, "tetrominoes", tmp_path / "c")
    data, before = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    open_cache(tmp_path / "c")  # same size, time and edges: not noticed at a glance ...
    with pytest.raises(UserError, match="has changed"):
        open_cache(tmp_path / "c", full=True)  # ... but on request
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match="has changed"):
        open_cache(tmp_path / "c")  # and where its time tells to look closer


def test_damaged_caches(cache, tmp_path):
    whole = contents(cache)

    def broken(name, data, message, full=False):
        (cache / name).write_bytes(data)
        with pytest.raises(UserError, match=message) as caught:
            open_cache(cache, full=full)
        assert "\n" not in str(caught.value)
        (cache / name).write_bytes(whole[name])

    broken("manifest.json", b"{", "cannot be read")
    broken("manifest.json", b"[]", "cache format None")
    broken("manifest.json", b'{"format": 2}', "cache format 2, this version of objectwise reads 1")
    broken("manifest.json", b'{"format": 1}', r"manifest.json: Manifest needs 'set_name'")
    broken(
        "manifest.json", whole["manifest.json"].replace(b"tetrominoes", b"tetrominous"), "did you mean 'tetrominoes'"
    )
    broken("manifest.json", whole["manifest.json"].replace(b'"records": 25', b'"records": 26'), "the manifest says")
    broken("images.npy", whole["images.npy"][:-1], "images.npy is damaged")
    broken("images.npy", b"", "images.npy is damaged")
    broken("images.npy", b"nonsense" * 100, "images.npy is damaged")
    broken("present.npy", npy_header(np.dtype("f8"), (4,), 25) + bytes(800), "holds float64")
    flipped = bytearray(whole["images.npy"])
    flipped[HEADER_BYTES + 99] ^= 1
    broken("images.npy", bytes(flipped), "images.npy is damaged: its checksum", full=True)
    (cache / "factor_x.npy").unlink()
    with pytest.raises(UserError, match=r"factor_x.npy is missing"):
        open_cache(cache)


def test_two_processes_do_not_decode_into_one_folder(source, tmp_path):
    (tmp_path / "c.partial").mkdir()
    with decoded_cache._locked(tmp_path / "c.partial"), pytest.raises(UserError, match="another process is decoding"):
        decode(source, "tetrominoes", tmp_path / "c")
    assert decode(source, "tetrominoes", tmp_path / "c").records == COUNT


def test_limit_and_progress(source, tmp_path, small_blocks):
    told = []
    manifest = decode(
        source, "tetrominoes", tmp_path / "c", limit=7, progress=lambda *values: told.append((*values, time.time()))
    )
    assert manifest.records == 7
    assert [n for n, _, _ in told] == [1, 2, 3, 4, 5, 6, 7, 7]
    assert all(0 < share <= 1 for _, share, _ in told)
    with pytest.raises(UserError, match="limit = 0"):
        decode(source, "tetrominoes", tmp_path / "d", limit=0)


def test_sources_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        decode(tmp_path / "nothing", "tetrominoes", tmp_path / "c")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty: record 0 at byte 0 .*the file is empty"):
        decode(tmp_path / "empty", "tetrominoes", tmp_path / "c")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot write"):
        decode(tmp_path / "empty", "tetrominoes", tmp_path / "file" / "c")
    assert not (tmp_path / "c.partial").exists()
