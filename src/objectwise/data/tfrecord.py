"""The TFRecord container, read without TensorFlow and without protobuf.

A file is one GZIP stream (or plain bytes) of records; a record is its length, the length's checksum, a serialised
``tf.train.Example`` and that payload's checksum. Checksums are masked CRC-32C, both always verified, natively. Reading streams:
no more than one record is held, and no length is believed before its checksum agrees.

Every complaint is one sentence naming the file, the record (counted from 0) and the byte of the uncompressed stream.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

import numpy as np

from objectwise.core import UserError

MAX_RECORD_BYTES = 1 << 26
"""Longest payload that is read (64 MiB); the longest official one has 3.2 MB."""
CHUNK = 1 << 18
"""Bytes read from the file at a time."""
INFLATED = 1 << 20
"""Bytes inflated at a time where a record does not ask for more."""

GZIP_MAGIC = b"\x1f\x8b"
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf."""
Kind = Literal["bytes", "float", "int64"]
KINDS: dict[int, Kind] = {1: "bytes", 2: "float", 3: "int64"}
"""Field number of a Feature's list -> what it lists."""


class RecordError(UserError):
    """A record that cannot be read; the message names file, record and byte."""


class _DamageError(Exception):
    """What is wrong, and at which byte of the data at hand."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message, self.position = message, position


@dataclass(frozen=True)
class Record:
    """One record.

    Attributes:
        source: name of the file.
        number: position in the file, from 0.
        offset: where the payload begins in the uncompressed stream, in bytes.
        payload: a serialised ``tf.train.Example``.
    """

    source: str
    number: int
    offset: int
    payload: bytes

    def fail(self, message: str, position: int = 0) -> NoReturn:
        """Complain about byte ``position`` of the payload.

        Raises:
            RecordError: always.
        """
        raise _located(self.source, self.number, self.offset + position, message)

    def features(self) -> dict[str, Feature]:
        """The features by name, in whatever order they are stored.

        Raises:
            RecordError: if the payload is not a ``tf.train.Example``.
        """
        try:
            return {name: Feature(self, name, *where) for name, where in _example(self.payload).items()}
        except _DamageError as damage:
            self.fail(damage.message, damage.position)


@dataclass(frozen=True)
class Feature:
    """One feature of a record, not yet decoded: its list lies at ``start:end`` of the payload.

    Attributes:
        record: whose it is.
        name: its key.
        kind: what it lists, or None for an empty feature.
        start: first byte of the list in the payload.
        end: one past its last byte.
    """

    record: Record
    name: str
    kind: Kind | None
    start: int
    end: int

    def as_bytes(self, count: int) -> np.ndarray:
        """The ``count`` bytes of a list of one-byte strings, or of one string of that length.

        Returns:
            (count,) uint8.

        Raises:
            RecordError: if it is anything else.
        """
        self._must_be("bytes")
        if self.end - self.start == 3 * count:
            rows = np.frombuffer(self.record.payload, np.uint8, 3 * count, self.start).reshape(count, 3)
            if (rows[:, 0] == 0x0A).all() and (rows[:, 1] == 1).all():
                return rows[:, 2].copy()
        return self._decoded(_strings, count, "<u1")

    def as_floats(self, count: int) -> np.ndarray:
        """The ``count`` numbers of a float list, packed or not: (count,) float32.

        Raises:
            RecordError: if it holds another kind or number of values.
        """
        self._must_be("float")
        return self._decoded(_floats, count, "<f4")

    def as_ints(self, count: int) -> np.ndarray:
        """The ``count`` numbers of an integer list, packed or not: (count,) int64.

        Raises:
            RecordError: if it holds another kind or number of values.
        """
        self._must_be("int64")
        return self._decoded(_ints, count, "<i8")

    def _must_be(self, kind: Kind) -> None:
        if self.kind != kind:
            self.record.fail(
                f"feature {quoted(self.name)} is a list of {self.kind or 'nothing'}, not of {kind}", self.start
            )

    def _decoded(self, decode: Callable[[bytes, int, int, int], bytes], count: int, dtype: str) -> np.ndarray:
        try:
            raw = decode(self.record.payload, self.start, self.end, count)
        except _DamageError as damage:
            self.record.fail(f"feature {quoted(self.name)}: {damage.message}", damage.position)
        return np.frombuffer(raw, dtype).copy()


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file, one after the other, with both checksums of each verified.

    Args:
        path: a TFRecord file, gzipped or not.

    Raises:
        RecordError: at the first record that is damaged, or if there is none.
        UserError: if the file cannot be opened.
    """
    with open_source(path) as stream:
        yield from RecordReader(stream, str(path))


def open_source(path: Path) -> BinaryIO:
    """Open a file for :class:`RecordReader`.

    Raises:
        UserError: if that is not possible.
    """
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


class RecordReader:
    """Iterates over the records of a stream.

    Args:
        stream: a binary stream at its beginning.
        name: what to call it in complaints.

    Attributes:
        consumed: bytes of the stream read so far, for progress.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._name = name
        self._crc32c = native_crc32c()
        try:
            self._bytes = _Inflated(stream)
        except _DamageError as damage:
            raise _located(name, 0, 0, damage.message) from None

    @property
    def consumed(self) -> int:
        """Bytes of the (compressed) stream read so far."""
        return self._bytes.consumed

    def __iter__(self) -> Iterator[Record]:
        """Yield records until the stream ends.

        Raises:
            RecordError: at the first damage.
        """
        number = 0
        while True:
            offset = self._bytes.offset
            try:
                payload = self._next()
            except _DamageError as damage:
                raise _located(self._name, number, damage.position, damage.message) from None
            if payload is None:
                if number == 0:
                    raise _located(self._name, 0, 0, "the file is empty" if self.consumed == 0 else "holds no record")
                return
            yield Record(self._name, number, offset + 12, payload)
            number += 1

    def _next(self) -> bytes | None:
        start = self._bytes.offset
        header = self._bytes.read(12)
        if not header:
            return None
        if len(header) < 12:
            raise _DamageError(f"truncated: {len(header)} of the 12 bytes of a record's header", start)
        length, check = struct.unpack("<QI", header)
        if masked(self._crc32c(header[:8])) != check:
            plain = start == 0 and not self._bytes.gzip
            hint = "; this is neither a GZIP nor a TFRecord file" if plain else ""
            raise _DamageError(f"the checksum of the record's length does not match{hint}", start)
        if length > MAX_RECORD_BYTES:
            raise _DamageError(f"the record claims {length:,} bytes; at most {MAX_RECORD_BYTES:,} are read", start)
        body = self._bytes.read(length + 4)
        if len(body) < length + 4:
            raise _DamageError(f"truncated: {len(body):,} of {length + 4:,} bytes of the record are there", start + 12)
        payload = body[:length]
        if masked(self._crc32c(payload)) != int.from_bytes(body[length:], "little"):
            raise _DamageError("the checksum of the record's payload does not match", start + 12)
        return payload


class _Inflated:
    """The uncompressed bytes of a stream; GZIP is recognised by its first two bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._raw = self._read_raw(0)
        self.gzip = self._raw[:2] == GZIP_MAGIC
        self._inflater = zlib.decompressobj(31)
        self._fresh = True  # the inflater has not been fed yet
        self._ready, self._position = b"", 0
        self._failure: str | None = None
        self.offset = 0

    consumed = 0

    def read(self, count: int) -> bytes:
        """``count`` bytes, or fewer where the stream ends; memory grows only with what is really there."""
        parts, missing = [], count
        while missing:
            if self._position == len(self._ready):
                self._ready, self._position = self._more(missing), 0
                if not self._ready:
                    break
            part = self._ready[self._position : self._position + missing]
            self._position += len(part)
            self.offset += len(part)
            missing -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_raw(self, offset: int) -> bytes:
        try:
            data = self._stream.read(CHUNK)
        except OSError as error:
            raise _DamageError(f"cannot be read ({error.strerror or error})", offset) from None
        self.consumed += len(data)
        return data

    def _more(self, wanted: int) -> bytes:
        if not self.gzip:
            data, self._raw = self._raw, b""
            return data or self._read_raw(self.offset)
        while True:
            if self._failure:
                raise _DamageError(self._failure, self.offset)
            if self._inflater.eof and not self._next_member():
                return b""
            if not self._raw:
                self._raw = self._read_raw(self.offset)
            if not self._raw and not self._fresh:
                raise _DamageError("truncated: the GZIP stream ends early", self.offset)
            data = self._inflate(max(wanted, INFLATED))
            if data:
                return data

    def _inflate(self, limit: int) -> bytes:
        saved = self._inflater.copy()
        self._fresh = False
        try:
            data = self._inflater.decompress(self._raw, limit)
        except zlib.error as error:
            self._failure = f"the GZIP stream is damaged ({error})"
            return _before_damage(saved, self._raw)
        self._raw = self._inflater.unconsumed_tail or self._inflater.unused_data
        return data

    def _next_member(self) -> bool:
        """Whether another GZIP member follows; zero padding is allowed, as gzip does."""
        self._raw = self._raw.lstrip(b"\0")
        while len(self._raw) < 2:
            more = self._read_raw(self.offset)
            if not more:
                break
            self._raw = (self._raw + more).lstrip(b"\0")
        if not self._raw:
            return False
        if self._raw[:2] != GZIP_MAGIC:
            raise _DamageError("bytes that are not GZIP follow the GZIP stream", self.offset)
        self._inflater = zlib.decompressobj(31)
        return True


def _before_damage(inflater: zlib._Decompress, raw: bytes) -> bytes:
    """What can still be inflated, byte by byte, so that the complaint names the right record."""
    parts = []
    try:
        for position in range(len(raw)):
            parts.append(inflater.decompress(raw[position : position + 1]))
    except zlib.error:
        pass
    return b"".join(parts)


def native_crc32c() -> Callable[[bytes], int]:
    """The CRC-32C of the ``crc32c`` package.

    Raises:
        UserError: if it is not installed.
    """
    try:
        from crc32c import crc32c
    except ImportError:
        raise UserError("reading TFRecord files needs the package crc32c: `pip install crc32c`") from None
    return crc32c


def quoted(name: str) -> str:
    """A name from a file, fit for a message: on one line, without control characters, and not too long."""
    return repr(name if len(name) <= 40 else name[:37] + "...")


def masked(crc: int) -> int:
    """The checksum as stored: rotated right by 15 bits, plus a constant, modulo 2^32."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _located(source: str, number: int, offset: int, message: str) -> RecordError:
    return RecordError(f"{source}: record {number} at byte {offset} of the uncompressed stream: {message}")


# --- protobuf -----------------------------------------------------------------------------------------------------


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """An unsigned 64-bit varint and the position after it."""
    if position < end and data[position] < 0x80:  # most of them
        return data[position], position + 1
    start, value, shift = position, 0, 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                raise _DamageError("a varint exceeds 64 bits", start)
            return value, position
        shift += 7
        if shift > 63:
            raise _DamageError("a varint is longer than 10 bytes", start)
    raise _DamageError("a varint ends early", start)


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, wire type, and where the content lies."""
    position = start
    while position < end:
        at = position
        tag, position = _varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        if not 1 <= number < 1 << 29:
            raise _DamageError(f"{number} is not a protobuf field number", at)
        if wire == DELIMITED:
            length, position = _varint(data, position, end)
        elif wire == VARINT:
            length = _varint(data, position, end)[1] - position
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise _DamageError(f"{wire} is not a protobuf wire type of tf.train.Example", at)
        if length > end - position:
            raise _DamageError(f"a field claims {length:,} bytes where {end - position:,} are left", at)
        yield number, wire, position, position + length
        position += length


def _messages(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The length-delimited fields 1, 2 and 3 of a message; later additions to the format are passed over."""
    for number, wire, first, last in _fields(data, start, end):
        if number <= 3:
            if wire != DELIMITED:
                raise _DamageError(f"field {number} has wire type {wire}, not {DELIMITED}", first)
            yield number, first, last


def _example(data: bytes) -> dict[str, tuple[Kind | None, int, int]]:
    """Feature name -> kind and place of its list."""
    found: dict[str, tuple[Kind | None, int, int]] = {}
    for number, start, end in _messages(data, 0, len(data)):
        if number != 1:
            continue
        for kind, first, last in _messages(data, start, end):
            if kind != 1:
                continue
            name, place = _entry(data, first, last)
            if name in found:
                raise _DamageError(f"feature {quoted(name)} occurs twice", first)
            found[name] = place
    return found


def _entry(data: bytes, start: int, end: int) -> tuple[str, tuple[Kind | None, int, int]]:
    """One entry of the map: the key and where its list lies."""
    parts: dict[int, tuple[int, int]] = {}
    for number, first, last in _messages(data, start, end):
        if number in parts:
            raise _DamageError("a feature has two keys or two values", first)
        parts[number] = first, last
    if 1 not in parts or 2 not in parts:
        raise _DamageError("a feature has no key or no value", start)
    try:
        name = data[slice(*parts[1])].decode("utf-8")
    except UnicodeDecodeError:
        raise _DamageError("a feature's key is not UTF-8", parts[1][0]) from None
    lists = list(_messages(data, *parts[2]))
    if len(lists) > 1:
        raise _DamageError(f"feature {quoted(name)} holds more than one list", parts[2][0])
    if not lists:
        return name, (None, *parts[2])
    number, first, last = lists[0]
    return name, (KINDS[number], first, last)


def _strings(data: bytes, start: int, end: int, count: int) -> bytes:
    """The generic walk over a BytesList: ``count`` one-byte strings, or one string of ``count`` bytes."""
    parts: list[bytes] = []
    for number, wire, first, last in _fields(data, start, end):
        if number != 1 or wire != DELIMITED:
            raise _DamageError(f"field {number} of wire type {wire} in a list of bytes", first)
        parts.append(data[first:last])
        if len(parts) > max(count, 1):
            raise _DamageError(f"{count} values are expected and more are there", first)
    single = len(parts) == 1 and len(parts[0]) == count
    if not single and not (len(parts) == count and all(len(part) == 1 for part in parts)):
        total = sum(map(len, parts))
        raise _DamageError(
            f"{count} one-byte values are expected, found {total} bytes in {len(parts)} strings",
            start,
        )
    return b"".join(parts)


def _floats(data: bytes, start: int, end: int, count: int) -> bytes:
    """The generic walk over a FloatList of ``count`` numbers; packed ones are usually one field."""
    size = 4 * count
    if end - start == size + 2 and data[start] == 0x0A and data[start + 1] == size < 0x80:
        return data[start + 2 : end]
    parts = []
    for number, wire, first, last in _fields(data, start, end):
        if number != 1 or wire not in (DELIMITED, FIXED32):
            raise _DamageError(f"field {number} of wire type {wire} in a list of floats", first)
        if (last - first) % 4:
            raise _DamageError(f"{last - first} bytes are no whole number of floats", first)
        parts.append(data[first:last])
    raw = b"".join(parts)
    if len(raw) != size:
        raise _DamageError(f"{count} floats are expected, found {len(raw) // 4}", start)
    return raw


def _ints(data: bytes, start: int, end: int, count: int) -> bytes:
    """The generic walk over an Int64List of ``count`` numbers."""
    values: list[int] = []
    for number, wire, first, last in _fields(data, start, end):
        if number != 1 or wire not in (DELIMITED, VARINT):
            raise _DamageError(f"field {number} of wire type {wire} in a list of integers", first)
        position = first
        while position < last:
            value, position = _varint(data, position, last)
            values.append(value)
            if len(values) > count:
                raise _DamageError(f"{count} integers are expected and more are there", first)
    if len(values) != count:
        raise _DamageError(f"{count} integers are expected, found {len(values)}", start)
    return struct.pack(f"<{count}Q", *values)
