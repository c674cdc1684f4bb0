from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objectwise.core import UserError
from objectwise.data.idx import read_idx


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=4), zipped=st.booleans())
def test_reads_what_was_written(tmp_path: Path, shape: list[int], zipped: bool) -> None:
    array = (np.arange(np.prod(shape)) % 256).astype(np.uint8).reshape(shape)
    path = tmp_path / "x.idx"
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    assert np.array_equal(read_idx(path), array)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-1], "truncated or damaged"),
        (lambda raw: raw + b"\0", "truncated or damaged"),
        (lambda raw: raw[:7], "truncated or damaged"),
        (lambda raw: raw[:2], "not an IDX file"),
        (lambda raw: b"", "not an IDX file"),
        (lambda raw: b"\1" + raw[1:], "not an IDX file"),
        (lambda raw: raw[:2] + b"\x0d" + raw[3:], "IDX type 0x0d; only unsigned bytes"),
        (lambda raw: raw[:4] + b"\xff" * 4 + raw[8:], "truncated or damaged"),
        (lambda raw: gzip.compress(raw)[:-9], "not a complete gzip file.*fetch it again"),
        (lambda raw: gzip.compress(raw)[:5], "not a complete gzip file"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "digits.idx"
    path.write_bytes(damage(idx_bytes(np.zeros((3, 4, 4), np.uint8))))
    with pytest.raises(UserError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_any_flipped_byte_of_a_gzip_is_found(tmp_path: Path) -> None:
    """The checksum of the format catches every flip in the data; flips in the header's time stamp change nothing."""
    array = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    raw = gzip.compress(idx_bytes(array))
    for position in range(len(raw)):
        flipped = bytearray(raw)
        flipped[position] ^= 0x10
        path = tmp_path / "x.gz"
        path.write_bytes(bytes(flipped))
        try:
            found = read_idx(path)
        except UserError:
            continue
        assert np.array_equal(found, array)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_idx(tmp_path / "none.gz")


def test_real_files(shared_data: Path) -> None:
    images = read_idx(shared_data / "mnist" / "t10k-images-idx3-ubyte.gz")
    labels = read_idx(shared_data / "mnist" / "train-labels-idx1-ubyte.gz")
    assert images.shape == (10_000, 28, 28)
    assert labels.shape == (60_000,)
    assert np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
