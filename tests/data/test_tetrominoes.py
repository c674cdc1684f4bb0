"""Tetrominoes: the official scenes to the byte, and the contract."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from objectwise.core import UserError, check_dataset
from objectwise.data.tetrominoes import PIECES, SIZE, Scene, TetrominoesConfig


def _fields(data: bytes):
    """(field number, value) of a protobuf message: bytes for length-delimited fields, else an integer or raw bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        kind = tag & 7
        length = {0: 0, 1: 8, 2: -1, 5: 4}[kind]
        if kind == 0:
            yield tag >> 3, varint()
            continue
        if length < 0:
            length = varint()
        yield tag >> 3, data[at : at + length]
        at += length


def _official(file: Path) -> list[dict[str, np.ndarray]]:
    stream = gzip.decompress(file.read_bytes())
    records, at = [], 0
    while at < len(stream):
        (length,) = struct.unpack_from("<Q", stream, at)
        record = {}
        for _, features in _fields(stream[at + 12 : at + 12 + length]):
            for _, entry in _fields(features):
                parts = dict(_fields(entry))
                ((kind, values),) = _fields(parts[2])
                items = [value for _, value in _fields(values)]
                raw = b"".join(items)
                record[parts[1].decode()] = np.frombuffer(raw, np.uint8 if kind == 1 else "<f4")
        records.append(record)
        at += length + 16
    return records


def test_official_scenes_to_the_byte(shared_data: Path) -> None:
    records = _official(shared_data / "multi_object_datasets" / "tetrominoes_mini.tfrecords")
    assert len(records) == 10
    columns = {name: np.stack([record[name] for record in records]) for name in records[0]}
    scene = Scene(
        number=np.full(10, 3),
        shape=columns["shape"][:, 1:].astype(np.int64),
        x=columns["x"][:, 1:].astype(np.int64),
        y=columns["y"][:, 1:].astype(np.int64),
        color=columns["color"].reshape(10, 4, 3)[:, 1:],
    )
    data = TetrominoesConfig().build()
    batch = data.render(scene)
    images = (batch.images * 255).round().to(torch.uint8).movedim(1, -1).numpy()
    assert images.tobytes() == columns["image"].tobytes()
    masks = columns["mask"].reshape(10, 4, SIZE, SIZE)
    assert batch.instances is not None
    assert np.array_equal(batch.instances, masks.argmax(axis=1))
    for name in ("shape", "x", "y"):
        assert np.array_equal(batch.factors[name], columns[name])
    assert np.array_equal(batch.factors["color"].flatten(1), columns["color"])


@pytest.mark.parametrize("counts", [(3,), (0, 1, 2), (5,), (0,)])
def test_contract(counts: tuple[int, ...]) -> None:
    check_dataset(TetrominoesConfig(counts=counts).build())


def test_the_nineteen_pieces() -> None:
    """Four connected tiles each, all different, and every fixed tetromino is among them."""
    cells = {
        frozenset((i, j) for i, row in enumerate(p.split("/")) for j, tile in enumerate(row) if tile == "#")
        for p in PIECES
    }
    assert len(cells) == 19
    for piece in cells:
        assert len(piece) == 4
        assert min(i for i, _ in piece) == min(j for _, j in piece) == 0
        turned = {(j, -i) for i, j in piece}
        left = min(j for _, j in turned)
        assert frozenset((i, j - left) for i, j in turned) in cells


def test_scenes_obey_the_law() -> None:
    batch = TetrominoesConfig().build().batch("train", range(2000))
    assert batch.visible_pixels is not None
    assert batch.boxes is not None
    assert batch.object_present is not None
    assert (batch.visible_pixels == torch.tensor([925, 100, 100, 100])).all()
    corner = torch.stack([batch.factors["y"], batch.factors["x"]], dim=-1)[:, 1:]
    assert torch.equal(batch.boxes[:, 1:, :2], corner)  # x is the row, y the column
    shapes = torch.bincount(batch.factors["shape"][batch.object_present], minlength=20)
    assert shapes[0] == 0
    assert shapes[1:].min() > 0.7 * 6000 / 19
    color = batch.factors["color"][batch.object_present].long() @ torch.tensor([4, 2, 1])
    assert torch.bincount(color, minlength=8)[1:7].min() > 0.85 * 1000
    assert torch.bincount(color, minlength=8)[[0, 7]].sum() == 0
    # The first piece is uniform over all its places; touching borders happens, so does sharing a colour.
    first = batch.factors["x"][:, 1][batch.factors["shape"][:, 1] == 1]
    assert first.min() == 0
    assert first.max() == 30
    assert first.mean().item() == pytest.approx(15, abs=3)
    same = (batch.factors["color"][:, 1] == batch.factors["color"][:, 2]).all(dim=-1)
    assert same.float().mean().item() == pytest.approx(1 / 6, abs=0.03)


def test_pieces_in_turn_are_uniform_over_the_free_places() -> None:
    """The second piece's row is drawn as if by plain rejection: compared with an independent simulation."""
    scene = TetrominoesConfig(counts=(2,)).build().sample_factors("train", np.arange(4000))
    both = (np.abs(scene.x[:, 0] - scene.x[:, 1]) < 5).mean()
    rng = np.random.default_rng(0)
    cells = [
        [(i, j) for i, row in enumerate(p.split("/")) for j, tile in enumerate(row) if tile == "#"] for p in PIECES
    ]
    size = [(5 * (max(i for i, _ in c) + 1), 5 * (max(j for _, j in c) + 1)) for c in cells]
    hits = 0
    for _ in range(4000):
        a, b = rng.integers(0, 19, 2)
        pa = [rng.integers(0, 36 - s) for s in size[a]]
        while True:
            pb = [rng.integers(0, 36 - s) for s in size[b]]
            if not any(
                abs(pa[0] + 5 * i - pb[0] - 5 * k) < 5 and abs(pa[1] + 5 * j - pb[1] - 5 * m) < 5
                for i, j in cells[a]
                for k, m in cells[b]
            ):
                break
        hits += abs(pa[0] - pb[0]) < 5
    assert both == pytest.approx(hits / 4000, abs=0.04)


def test_seeds_differ_and_sizes_do_not_matter() -> None:
    images = TetrominoesConfig().build().batch("train", range(6)).images
    assert not torch.equal(TetrominoesConfig(seed=5).build().batch("train", range(6)).images, images)
    assert torch.equal(TetrominoesConfig(train_size=6).build().batch("train", [4]).images[0], images[4])


def test_pieces_that_cannot_be() -> None:
    data = TetrominoesConfig().build()
    scene = data.sample_factors("train", np.arange(1))
    with pytest.raises(UserError, match="no piece 20"):
        data.render(scene._replace(shape=np.array([[20, 1, 1]])))
    with pytest.raises(UserError, match="leaves the 35x35 canvas"):
        data.render(scene._replace(x=np.array([[33, 1, 1]])))
    with pytest.raises(UserError, match="0 to 5"):
        TetrominoesConfig.parse({"counts": [6]})


def test_a_full_canvas_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectwise.data.labels.MAX_ROUNDS", 1)
    with pytest.raises(UserError, match="5 pieces find no place on 35x35"):
        TetrominoesConfig(counts=(5,)).build().batch("train", range(20))
