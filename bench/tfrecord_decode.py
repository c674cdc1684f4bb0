"""Decoding official TFRecord files: ours, both checksums verified, against a generic pure-Python protobuf walk.

``python bench/tfrecord_decode.py`` prints one JSON line. Goal: ``ratio`` of at least 20 on Tetrominoes and CLEVR alike. The walk
is the oracle of the tests; here it verifies no checksum, which favours it; ``ratio_checked`` lets it verify them natively.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
import time
from pathlib import Path

import crc32c
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "data"))

import tfrecord_encoder as enc

from objectwise.data.multi_object_schemas import decode_record
from objectwise.data.tfrecord import read_records

ROUNDS = 5


def smooth(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The scene with an image and masks that compress as rendered ones do: objects are blocks."""
    entities, height, width = values["mask"].shape[:3]
    ids = np.zeros((height, width), np.int64)
    for entity in range(1, entities):
        top, left = (entity * 37) % (height * 2 // 3), (entity * 53) % (width * 2 // 3)
        ids[top : top + height // 4, left : left + width // 4] = entity
    values["visibility"][:] = 1
    values["mask"] = ((ids == np.arange(entities)[:, None, None]) * 255).astype(np.uint8)[..., None]
    values["image"] = (np.stack([ids * 20, ids * 11, ids * 7], axis=-1) % 256).astype(np.uint8)
    return values


def ours(path: Path, name: str) -> int:
    return sum(1 for record in read_records(path) if decode_record(record, name, None))


def walked(path: Path, crc=None) -> int:
    """Read with the generic walk, up to flat arrays."""
    count = 0
    for payload in enc.unframe(gzip.decompress(path.read_bytes()), crc):
        for kind, values in enc.oracle(payload).values():
            np.frombuffer(b"".join(values), np.uint8 if kind == "bytes" else np.float32)
        count += 1
    return count


def rates(*calls) -> list[float]:
    """Best records per second of each call over some rounds; the calls take turns, so that a busy machine hurts all alike."""
    best = [0.0] * len(calls)
    for _ in range(ROUNDS):
        for i, (function, *args) in enumerate(calls):
            start = time.perf_counter()
            count = function(*args)
            best[i] = max(best[i], count / (time.perf_counter() - start))
    return best


def measure(name: str, count: int, walk_count: int, folder: Path) -> dict[str, float]:
    rng = np.random.default_rng(0)
    payloads = [enc.payload(smooth(enc.scene(name, rng)), rng) for _ in range(count)]
    many, few = folder / f"{name}.tfrecords", folder / f"{name}_few.tfrecords"
    enc.write(many, payloads, crc=crc32c.crc32c)
    enc.write(few, payloads[:walk_count], crc=crc32c.crc32c)
    fast, plain, checked = rates((ours, many, name), (walked, few), (walked, few, crc32c.crc32c))
    return {
        "records_per_s": round(fast, 1),
        "megabytes_per_s": round(fast * len(payloads[0]) / 1e6, 1),
        "walk_records_per_s": round(plain, 2),
        "ratio": round(fast / plain, 1),
        "ratio_checked": round(fast / checked, 1),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "bench": "tfrecord_decode",
            "goal_ratio": 20,
            "crc32c": "native" if crc32c.hardware_based else "software",
            "tetrominoes": measure("tetrominoes", 400, 20, Path(folder)),
            "clevr_with_masks": measure("clevr_with_masks", 8, 2, Path(folder)),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
