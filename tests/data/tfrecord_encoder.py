"""An encoder of the official files and a generic protobuf walk, both written from the format and not from our reader."""

from __future__ import annotations

import gzip
import struct

import numpy as np

_TABLE = []
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = (_value >> 1) ^ (0x82F63B78 if _value & 1 else 0)
    _TABLE.append(_value)


def crc32c(data: bytes) -> int:
    """CRC-32C from the polynomial, byte by byte."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) % 2**32 + 0xA282EAD8) % 2**32


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value % 128 + 128)
        value //= 128
    out.append(value)
    return bytes(out)


def message(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number * 8 + 2) + varint(len(content)) + content


def one_byte_strings(values) -> bytes:
    """The content of a BytesList with one string per value."""
    values = np.asarray(values, np.uint8).ravel()
    rows = np.empty((len(values), 3), np.uint8)
    rows[:, 0], rows[:, 1], rows[:, 2] = 10, 1, values
    return rows.tobytes()


def bytes_feature(values) -> bytes:
    return message(1, one_byte_strings(values))


def float_feature(values, packed: bool = True) -> bytes:
    raw = [struct.pack("<f", value) for value in np.asarray(values, np.float32).ravel()]
    return message(2, message(1, b"".join(raw)) if packed else b"".join(b"\x0d" + item for item in raw))


def int_feature(values, packed: bool = True) -> bytes:
    raw = [varint(int(value) % 2**64) for value in values]
    return message(3, message(1, b"".join(raw)) if packed else b"".join(b"\x08" + item for item in raw))


def example(features: dict[str, bytes], order=None) -> bytes:
    """A tf.train.Example of encoded features, in the given order of names."""
    entries = (message(1, message(1, name.encode()) + message(2, features[name])) for name in order or features)
    return message(1, b"".join(entries))


def frame(payload: bytes, crc=crc32c) -> bytes:
    length = struct.pack("<Q", len(payload))
    return length + struct.pack("<I", masked(crc(length))) + payload + struct.pack("<I", masked(crc(payload)))


def write(path, payloads, crc=crc32c, compress: bool = True) -> None:
    data = b"".join(frame(payload, crc) for payload in payloads)
    path.write_bytes(gzip.compress(data, 6, mtime=0) if compress else data)


# --- the official layouts, from the description of the format ---------------------------------------------------------

LAYOUTS = {
    "tetrominoes": {"image": (35, 35, 3), "mask": (4, 35, 35, 1), "floats": {"x": (4,), "y": (4,), "color": (4, 3)}},
    "multi_dsprites_binarized": {"image": (64, 64, 1), "mask": (64, 64, 4, 1), "floats": {"color": (4, 1)}},
    "multi_dsprites_colored_on_grayscale": {"image": (64, 64, 3), "mask": (64, 64, 6, 1), "floats": {"color": (6, 3)}},
    "multi_dsprites_colored_on_colored": {"image": (64, 64, 3), "mask": (64, 64, 5, 1), "floats": {"color": (5, 3)}},
    "clevr_with_masks": {
        "image": (240, 320, 3),
        "mask": (11, 240, 320, 1),
        "floats": {"x": (11,), "y": (11,), "z": (11,), "rotation": (11,), "pixel_coords": (11, 3)},
        "codes": {"size": 2, "material": 2, "shape": 3, "color": 8},
    },
    "objects_room_train": {"image": (64, 64, 3), "mask": (7, 64, 64, 1)},
    "objects_room_six_objects": {"image": (64, 64, 3), "mask": (10, 64, 64, 1)},
    "objects_room_identical_color": {"image": (64, 64, 3), "mask": (10, 64, 64, 1)},
    "objects_room_empty_room": {"image": (64, 64, 3), "mask": (4, 64, 64, 1)},
}


def scene(name: str, rng: np.random.Generator, visible=None) -> dict[str, np.ndarray]:
    """Random values in the stored shapes of a set, consistent with each other.

    visible: (E,) 0/1 for the entities present; by default at random, background included.
    """
    layout = LAYOUTS[name]
    sprites = name.startswith("multi_dsprites")
    entities = layout["mask"][2] if sprites else layout["mask"][0]
    height, width, _ = layout["image"]
    if visible is None:
        visible = rng.integers(0, 2, entities)
        visible[0] = 1
        if name.startswith("objects_room"):
            visible[:4] = 1
    visible = np.asarray(visible, np.float32)
    ids = rng.choice(np.flatnonzero(visible), (height, width))
    masks = np.zeros((entities, height, width), np.uint8)
    for entity in range(entities):
        masks[entity][ids == entity] = 255
    out = {"image": rng.integers(0, 256, layout["image"]).astype(np.uint8), "ids": ids}
    out["mask"] = np.moveaxis(masks, 0, 2)[..., None] if sprites else masks[..., None]
    if name.startswith("objects_room"):
        return out
    out["visibility"] = visible
    for factor, shape in layout.get("floats", {}).items():
        out[factor] = rng.random(shape).astype(np.float32)
    if sprites:
        for factor in ("x", "y", "orientation", "scale"):
            out[factor] = rng.random(entities).astype(np.float32)
    if "codes" not in layout:
        top = 3 if sprites else 19
        out["shape"] = (rng.integers(1, top + 1, entities) * visible).astype(np.float32)
    for factor, top in layout.get("codes", {}).items():
        out[factor] = (rng.integers(1, top + 1, entities) * visible).astype(np.uint8)
    return out


def payload(values: dict[str, np.ndarray], rng: np.random.Generator, packed: bool = True) -> bytes:
    """A record of a scene, features in random order."""
    features = {
        name: bytes_feature(value) if value.dtype == np.uint8 else float_feature(value, packed)
        for name, value in values.items()
        if name != "ids"
    }
    return example(features, list(rng.permutation(list(features))))


def shuffled_record(name: str, rng: np.random.Generator, packed: bool = True, visible=None):
    values = scene(name, rng, visible)
    return values, payload(values, rng, packed)


# --- the oracle: a generic walk over protobuf, one value at a time ---------------------------------------------------


class MalformedError(ValueError):
    """The oracle cannot read this."""


def _read_varint(data: bytes, i: int) -> tuple[int, int]:
    value = 0
    for count in range(10):
        if i >= len(data):
            raise MalformedError
        value += (data[i] & 127) << (7 * count)
        i += 1
        if data[i - 1] < 128:
            if value >= 2**64:
                raise MalformedError
            return value, i
    raise MalformedError


def walk(data: bytes):
    """(number, wire type, value) of each field of a message."""
    i = 0
    while i < len(data):
        tag, i = _read_varint(data, i)
        number, wire = tag // 8, tag % 8
        if not 0 < number < 2**29:
            raise MalformedError
        if wire == 0:
            value, i = _read_varint(data, i)
        elif wire == 2:
            length, i = _read_varint(data, i)
            value, i = data[i : i + length], i + length
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
            value, i = data[i : i + length], i + length
        else:
            raise MalformedError
        if i > len(data):
            raise MalformedError
        yield number, wire, value


def oracle(data: bytes) -> dict[str, tuple[str, list | None]]:
    """Feature name -> kind and list of values (bytes, floats as their 4 bytes, or ints)."""
    out = {}
    for number, wire, features in walk(data):
        if number != 1:
            continue
        if wire != 2:
            raise MalformedError
        for entry_number, entry_wire, entry in walk(features):
            if entry_number != 1:
                continue
            if entry_wire != 2:
                raise MalformedError
            parts = {n: v for n, _, v in walk(entry)}
            out[parts[1].decode()] = _values(parts[2])
    return out


def _values(feature: bytes) -> tuple[str, list | None]:
    """Kind and values; None for a list that cannot be read."""
    kind, values = "nothing", []
    readers = {1: ("bytes", _strings), 2: ("float", _floats), 3: ("int64", _ints)}
    for number, _, content in walk(feature):
        if number in readers:
            kind, reader = readers[number]
            try:
                values += reader(content)
            except MalformedError:
                return kind, None
    return kind, values


def _strings(content: bytes) -> list[bytes]:
    fields = list(walk(content))
    if any(wire != 2 for _, wire, _ in fields):
        raise MalformedError
    return [value for _, _, value in fields]


def _floats(content: bytes) -> list[bytes]:
    values = []
    for _, wire, value in walk(content):
        if wire not in (2, 5) or len(value) % 4:
            raise MalformedError
        values += [value[i : i + 4] for i in range(0, len(value), 4)]
    return values


def _ints(content: bytes) -> list[int]:
    values = []
    for _, wire, value in walk(content):
        if wire == 0:
            values.append(value)
        elif wire == 2:
            i = 0
            while i < len(value):
                item, i = _read_varint(value, i)
                values.append(item)
        else:
            raise MalformedError
    return values


def unframe(data: bytes, crc=None):
    """The payloads of an uncompressed stream; checksums are verified with ``crc`` if one is given."""
    i = 0
    while i < len(data):
        (length,) = struct.unpack_from("<Q", data, i)
        body = data[i + 12 : i + 12 + length]
        if crc:
            stored = struct.unpack_from("<I", data, i + 8)[0], struct.unpack_from("<I", data, i + 12 + length)[0]
            if stored != (masked(crc(data[i : i + 8])), masked(crc(body))):
                raise MalformedError
        yield body
        i += 16 + length
