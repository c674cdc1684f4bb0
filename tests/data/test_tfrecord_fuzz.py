"""The reader under mutated records: a UserError, or exactly what the oracle reads; never a crash, a hang or wrong data."""

from __future__ import annotations

import gzip
import io
import re
import struct

import crc32c
import numpy as np
import pytest
import tfrecord_encoder as enc

from objectwise.core import FactorSpec, UserError
from objectwise.data import multi_object_schemas as schemas
from objectwise.data.tfrecord import Feature, Record, RecordReader

HEIGHT, WIDTH, ENTITIES = 2, 3, 3


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A set small enough that mutations hit its structure, with every way of storing."""
    factors = {
        "x": schemas.StoredFactor(FactorSpec("pixels")),
        "rgb": schemas.StoredFactor(FactorSpec("rgb"), width=2),
        "kind": schemas.StoredFactor(FactorSpec("class", "categorical", categories=("a", "b", "c")), stored="bytes"),
        "form": schemas.StoredFactor(FactorSpec("class", "categorical", categories=("a", "b", "c", "d"))),
    }
    layout = schemas.OfficialSet("tiny", (HEIGHT, WIDTH, 1), ENTITIES, factors)
    monkeypatch.setattr(schemas, "OFFICIAL_SETS", {"tiny": layout})


def scene(rng):
    """A record of the tiny set, stored in a random one of the ways that the format allows."""
    ids = rng.integers(0, ENTITIES, (HEIGHT, WIDTH))
    packed = bool(rng.integers(2))
    features = {
        "image": enc.bytes_feature(rng.integers(0, 256, HEIGHT * WIDTH)),
        "mask": enc.bytes_feature((ids == np.arange(ENTITIES)[:, None, None]) * 255),
        "visibility": enc.float_feature(np.ones(ENTITIES), packed),
        "x": enc.float_feature(rng.standard_normal(ENTITIES), packed),
        "rgb": enc.float_feature(rng.random((ENTITIES, 2)), packed),
        "kind": enc.bytes_feature(rng.integers(0, 3, ENTITIES)),
        "form": enc.float_feature(rng.integers(0, 4, ENTITIES), packed),
        "extra": enc.int_feature(rng.integers(-9, 9, 3), packed),
    }
    if rng.integers(4) == 0:
        raw = rng.integers(0, 256, HEIGHT * WIDTH).astype(np.uint8).tobytes()
        features["image"] = enc.message(1, enc.message(1, raw))
    return enc.example(features, list(rng.permutation(list(features))))


def mutated(data: bytes, other: bytes, rng) -> bytes:
    """One to three bit flips, byte changes, truncations, insertions, deletions, splices or changed lengths."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        if not out:
            return bytes(out)
        at, what = int(rng.integers(len(out))), rng.integers(8)
        span = int(rng.integers(1, 9))
        if what == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif what == 1:
            out[at] = int(rng.integers(256))
        elif what == 2:
            del out[at:]
        elif what == 3:
            out[at:at] = rng.integers(0, 256, span).astype(np.uint8).tobytes()
        elif what == 4:
            del out[at : at + span]
        elif what == 5:
            start = int(rng.integers(len(other)))
            out[at : at + span] = other[start : start + span * 4]
        elif what == 6:
            out[at] = (out[at] + int(rng.choice([-1, 1, 3, 128]))) % 256  # lengths, tags and counts off by a little
        else:
            out[at:at] = out[at : at + span * 4]
    return bytes(out)


def as_lists(features: dict[str, Feature], expected: dict) -> dict:
    """Our reading of each feature, with as many values as the oracle found; those refused are left out."""
    found = {}
    for name, feature in features.items():
        kind, values = expected[name]
        assert (feature.kind or "nothing") == kind
        if values is None:
            for count in range(0, 12):
                with pytest.raises(UserError):
                    {"bytes": feature.as_bytes, "float": feature.as_floats, "int64": feature.as_ints}[kind](count)
            continue
        try:
            if kind == "bytes":
                total = sum(map(len, values))
                found[name] = feature.as_bytes(total).tobytes(), b"".join(values)
            elif kind == "float":
                found[name] = feature.as_floats(len(values)).tobytes(), b"".join(values)
            elif kind == "int64":
                found[name] = feature.as_ints(len(values)).astype("<u8").tolist(), values
        except UserError:
            continue
    return found


def check_sentence(error: UserError) -> None:
    assert re.match(r"FUZZ: record \d+ at byte \d+ of the uncompressed stream: .", str(error))
    assert "\n" not in str(error)


def check_scene(record: Record, expected: dict) -> bool:
    """Decode the scene and compare with plain loops over the oracle's values; whether it decoded."""
    try:
        arrays = schemas.decode_record(record, "tiny", None)
    except UserError as error:
        check_sentence(error)
        return False
    values = {name: b"".join(v) for name, (kind, v) in expected.items() if v is not None and kind in ("bytes", "float")}
    numbers = {
        name: struct.unpack(f"<{len(values[name]) // 4}f", values[name]) for name in ("x", "rgb", "form", "visibility")
    }
    size = HEIGHT * WIDTH
    owners = [[e for e in range(ENTITIES) if values["mask"][e * size + i] == 255] for i in range(size)]
    assert all(len(owner) == 1 for owner in owners)
    assert arrays["instances"].ravel().tolist() == [owner[0] for owner in owners]
    assert arrays["images"].tobytes() == values["image"]
    assert arrays["present"].tolist() == [v == 1 for v in numbers["visibility"]]
    assert arrays["factor_kind"].tolist() == list(values["kind"])
    assert arrays["factor_form"].tolist() == list(numbers["form"])
    assert arrays["factor_x"].tobytes() == values["x"]
    assert arrays["factor_rgb"].tobytes() == values["rgb"]
    return True


def fuzz_payloads(count: int, seed: int) -> dict[str, int]:
    """Mutated payloads with their checksums made right, so that the parser itself is reached."""
    rng = np.random.default_rng(seed)
    tally = {"refused": 0, "parsed": 0, "decoded": 0}
    scenes = [scene(rng) for _ in range(40)]
    for _ in range(count):
        first, second = rng.integers(len(scenes), size=2)
        payload = mutated(scenes[first], scenes[second], rng)
        (record,) = RecordReader(io.BytesIO(enc.frame(payload, crc32c.crc32c)), "FUZZ")
        assert record.payload == payload
        try:
            features = record.features()
        except UserError as error:
            check_sentence(error)
            tally["refused"] += 1
            continue
        expected = enc.oracle(payload)  # what we accept, the oracle must be able to read
        assert set(features) == set(expected)
        for found, wanted in as_lists(features, expected).values():
            assert found == wanted
        tally["parsed"] += 1
        tally["decoded"] += check_scene(record, expected)
    return tally


def fuzz_streams(count: int, seed: int) -> dict[str, int]:
    """Mutated files, plain and GZIP, checksums as they fall: only records that were written may come out."""
    rng = np.random.default_rng(seed)
    tally = {"refused": 0, "read": 0}
    payloads = [scene(rng) for _ in range(4)]
    whole = b"".join(enc.frame(payload, crc32c.crc32c) for payload in payloads)
    forms = [
        whole,
        gzip.compress(whole),
        gzip.compress(whole, 1),
        gzip.compress(whole[:50]) + gzip.compress(whole[50:]),
    ]
    genuine = set(payloads)
    for _ in range(count):
        data = forms[int(rng.integers(len(forms)))]
        data = mutated(data, whole, rng)
        try:
            for record in RecordReader(io.BytesIO(data), "FUZZ"):
                assert record.payload in genuine
            tally["read"] += 1
        except UserError as error:
            check_sentence(error)
            tally["refused"] += 1
    return tally


def test_the_tiny_set_decodes_when_left_alone():
    rng = np.random.default_rng(0)
    for _ in range(50):
        payload = scene(rng)
        assert check_scene(Record("FUZZ", 0, 12, payload), enc.oracle(payload))


@pytest.mark.parametrize("count", [2_000, pytest.param(120_000, marks=pytest.mark.slow)])
def test_mutated_payloads(count):
    tally = fuzz_payloads(count, seed=count)
    assert sum((tally["refused"], tally["parsed"])) == count
    assert min(tally.values()) > count / 50, tally  # the parser is reached, and some mutations are harmless


@pytest.mark.parametrize("count", [1_000, pytest.param(40_000, marks=pytest.mark.slow)])
def test_mutated_streams(count):
    tally = fuzz_streams(count, seed=count)
    assert tally["refused"] > count / 2, tally
