"""The container: framing, checksums, GZIP, protobuf, and everything that can be wrong with a file."""

from __future__ import annotations

import gzip
import io
import struct
import sys
import tracemalloc

import crc32c
import numpy as np
import pytest
import tfrecord_encoder as enc

from objectwise.core import UserError
from objectwise.data.tfrecord import MAX_RECORD_BYTES, Record, RecordError, RecordReader, read_records


def record(payload: bytes) -> Record:
    return Record("FILE", 7, 1000, payload)


def read(data: bytes) -> list[Record]:
    return list(RecordReader(io.BytesIO(data), "FILE"))


SMALL = enc.example(
    {
        "image": enc.bytes_feature(range(12)),
        "x": enc.float_feature([1.5, -2.0]),
        "n": enc.int_feature([3, -4]),
    }
)
STREAM = enc.frame(SMALL) * 3
SIZE = len(SMALL) + 16


def test_the_encoder_knows_the_published_check_value_of_crc32c():
    assert enc.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("compress", [False, True])
def test_records_come_back_with_their_places(tmp_path, compress):
    enc.write(tmp_path / "a", [b"", SMALL, b"x" * 3_000_000], compress=compress)
    found = list(read_records(tmp_path / "a"))
    assert [r.payload for r in found] == [b"", SMALL, b"x" * 3_000_000]
    assert [r.number for r in found] == [0, 1, 2]
    assert [r.offset for r in found] == [12, 28, 28 + len(SMALL) + 16]


def test_several_gzip_members_and_zero_padding_are_one_stream():
    data = gzip.compress(STREAM[:50]) + gzip.compress(STREAM[50:]) + b"\0" * 600_000
    assert [r.payload for r in read(data)] == [SMALL] * 3


@pytest.mark.parametrize("packed", [True, False])
def test_values_in_any_order_packed_or_not(packed):
    rng = np.random.default_rng(0)
    for _ in range(20):
        pixels = rng.integers(0, 256, 40)
        numbers = rng.standard_normal(6).astype(np.float32)
        integers = rng.integers(-(2**62), 2**62, 5)
        features = {
            "pixels": enc.bytes_feature(pixels),
            "numbers": enc.float_feature(numbers, packed),
            "integers": enc.int_feature(integers, packed),
            "empty": b"",
        }
        found = record(enc.example(features, list(rng.permutation(list(features))))).features()
        np.testing.assert_array_equal(found["pixels"].as_bytes(40), pixels)
        np.testing.assert_array_equal(found["numbers"].as_floats(6), numbers)
        np.testing.assert_array_equal(found["integers"].as_ints(5), integers)
        assert found["empty"].kind is None


def test_the_generic_walk_takes_over_where_the_stride_does_not_fit():
    odd = b"\x0a\x81\x00A" + b"\x0a\x01B"  # a length of one, written in two bytes
    found = record(enc.example({"odd": enc.message(1, odd), "raw": enc.message(1, enc.message(1, b"ABCDEF"))}))
    assert found.features()["odd"].as_bytes(2).tobytes() == b"AB"
    assert found.features()["raw"].as_bytes(6).tobytes() == b"ABCDEF"


def test_bytes_that_only_look_strided_are_walked():
    """Six bytes that are 3 × 2 long, but are one string of four bytes."""
    with pytest.raises(RecordError, match=r"2 one-byte values are expected, found 4 bytes in 1 strings"):
        record(enc.example({"a": enc.message(1, b"\x0a\x04\x01\x02\x03\x04")})).features()["a"].as_bytes(2)


def test_unknown_fields_are_passed_over():
    extra = b"\x20\x05" + b"\x2d\0\0\0\0" + b"\x31" + b"\0" * 8 + b"\x3a\x01z"
    assert set(record(SMALL + extra).features()) == {"image", "x", "n"}


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda f: f["x"].as_bytes(2), "feature 'x' is a list of float, not of bytes"),
        (lambda f: f["image"].as_floats(2), "feature 'image' is a list of bytes, not of float"),
        (lambda f: f["image"].as_bytes(13), "feature 'image': 13 one-byte values are expected, found 12 bytes"),
        (lambda f: f["image"].as_bytes(11), "feature 'image': 11 values are expected and more are there"),
        (lambda f: f["x"].as_floats(3), "feature 'x': 3 floats are expected, found 2"),
        (lambda f: f["n"].as_ints(3), "feature 'n': 3 integers are expected, found 2"),
        (lambda f: f["n"].as_ints(1), "feature 'n': 1 integers are expected and more are there"),
    ],
)
def test_wrong_values_are_named(ask, message):
    with pytest.raises(RecordError, match=message) as caught:
        ask(record(SMALL).features())
    assert str(caught.value).startswith("FILE: record 7 at byte 10")


def entry(content: bytes) -> bytes:
    return enc.message(1, enc.message(1, content))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x0a\x05abc", "a field claims 5 bytes where 3 are left"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "a field claims 18,446,744,073,709,551,615 bytes"),
        (b"\x0a" + b"\xff" * 9 + b"\x7f", "exceeds 64 bits"),
        (b"\x0a" + b"\xff" * 12, "longer than 10 bytes"),
        (b"\x0a\xff", "a varint ends early"),
        (b"\x0b", "3 is not a protobuf wire type"),
        (b"\x02\x00", "0 is not a protobuf field number"),
        (b"\x08\x01", "field 1 has wire type 0"),
        (entry(enc.message(1, b"k")), "no key or no value"),
        (entry(enc.message(2, b"")), "no key or no value"),
        (entry(enc.message(1, b"k") * 2 + enc.message(2, b"")), "two keys or two values"),
        (entry(enc.message(1, b"\xff") + enc.message(2, b"")), "not UTF-8"),
        (entry(enc.message(1, b"k") + enc.message(2, enc.float_feature([1]) * 2)), "more than one list"),
        (SMALL + SMALL, "occurs twice"),
    ],
)
def test_payloads_that_are_no_example(payload, message):
    with pytest.raises(RecordError, match=message) as caught:
        record(payload).features()
    assert "FILE: record 7 at byte 10" in str(caught.value)


def test_a_hostile_name_cannot_reach_the_terminal():
    name = "a\x1b[2J\n" + "b" * 5000
    payload = enc.example({name: enc.float_feature([1.0])})
    with pytest.raises(RecordError) as caught:
        record(payload).features()[name].as_bytes(1)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize(
    ("data", "where", "message"),
    [
        (b"", (0, 0), "the file is empty"),
        (gzip.compress(b"", mtime=0), (0, 0), "holds no record"),
        (b"hello, this is no such file", (0, 0), "neither a GZIP nor a TFRecord file"),
        (b"hello", (0, 0), "truncated: 5 of the 12 bytes"),
        (b"\x1f\x8bgarbage garbage", (0, 0), "GZIP stream is damaged"),
        (b"\x1f\x8b", (0, 0), "GZIP stream ends early"),
        (flipped(STREAM, SIZE), (1, SIZE), "checksum of the record's length does not match"),
        (flipped(STREAM, SIZE + 9), (1, SIZE), "checksum of the record's length does not match"),
        (flipped(STREAM, SIZE + 20), (1, SIZE + 12), "checksum of the record's payload does not match"),
        (flipped(STREAM, 2 * SIZE - 1), (1, SIZE + 12), "checksum of the record's payload does not match"),
        (STREAM[:-1], (2, 2 * SIZE + 12), "truncated"),
        (STREAM[: 2 * SIZE + 5], (2, 2 * SIZE), "truncated: 5 of the 12 bytes"),
        (gzip.compress(STREAM[:-9], mtime=0), (2, 2 * SIZE + 12), "truncated"),
        (gzip.compress(STREAM, mtime=0)[:-3], (3, 3 * SIZE), "GZIP stream ends early"),
        (flipped(gzip.compress(STREAM, mtime=0), -6), (3, 3 * SIZE), "GZIP stream is damaged .*incorrect data check"),
        (gzip.compress(STREAM, mtime=0) + b"more", (3, 3 * SIZE), "not GZIP follow the GZIP stream"),
    ],
)
def test_damaged_files_are_refused_naming_file_record_and_byte(data, where, message):
    with pytest.raises(UserError, match=message) as caught:
        read(data)
    assert str(caught.value).startswith(f"FILE: record {where[0]} at byte {where[1]} of the uncompressed stream: ")
    assert "\n" not in str(caught.value)


def test_a_gzip_stream_damaged_in_the_middle_gives_the_records_before_the_damage():
    rng = np.random.default_rng(0)
    payloads = [rng.integers(0, 256, 5000).astype(np.uint8).tobytes() for _ in range(20)]
    squeezed = bytearray(gzip.compress(b"".join(map(enc.frame, payloads))))
    with pytest.raises(RecordError, match=r"record (9|10) at byte"):
        read(bytes(squeezed[: len(squeezed) // 2]))
    squeezed[len(squeezed) // 2] ^= 0x10
    found = []
    with pytest.raises(RecordError, match=r"record (9|10) at byte"):
        found.extend(RecordReader(io.BytesIO(bytes(squeezed)), "FILE"))  # a list keeps what came before the error
    assert [r.payload for r in found] == payloads[: len(found)]
    assert len(found) in (9, 10)


def test_absurd_lengths_are_refused_without_allocating():
    header = struct.pack("<Q", 1 << 60)
    with pytest.raises(RecordError, match="claims 1,152,921,504,606,846,976 bytes"):
        read(header + struct.pack("<I", enc.masked(enc.crc32c(header))))
    header = struct.pack("<Q", MAX_RECORD_BYTES)
    data = header + struct.pack("<I", enc.masked(enc.crc32c(header))) + b"short"
    tracemalloc.start()
    for stream in (data, gzip.compress(data)):
        with pytest.raises(RecordError, match="truncated: 5 of 67,108,868 bytes"):
            read(stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


def test_a_bomb_is_inflated_piece_by_piece():
    data = gzip.compress(b"\0" * 200_000_000, 9)
    tracemalloc.start()
    with pytest.raises(RecordError, match=r"record 0 at byte 0 .*checksum"):
        read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16_000_000


def test_reading_holds_one_record_at_a_time(tmp_path):
    enc.write(tmp_path / "a", [b"x" * 100_000] * 200, crc=crc32c.crc32c)
    tracemalloc.start()
    assert sum(1 for _ in read_records(tmp_path / "a")) == 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        list(read_records(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"cannot read .*directory"):
        list(read_records(tmp_path))


def test_a_disk_that_fails_while_reading_is_located():
    class Failing(io.BytesIO):
        def read(self, *args):
            if self.tell():
                raise OSError(5, "Input/output error")
            return super().read(20)

    with pytest.raises(RecordError, match=r"record 0 at byte 20 .*Input/output error"):
        list(RecordReader(Failing(STREAM), "FILE"))


def test_without_the_crc32c_package_the_message_says_what_to_install(tmp_path, monkeypatch):
    enc.write(tmp_path / "a", [SMALL])
    monkeypatch.setitem(sys.modules, "crc32c", None)
    with pytest.raises(UserError, match="pip install crc32c"):
        list(read_records(tmp_path / "a"))
