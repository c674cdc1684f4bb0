"""Single dSprites, generated and official: the grid, splits, held-out regions, noise, and a file that is never unpickled."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import assert_labels_match_pixels

from objectwise.core import UserError, check_dataset
from objectwise.data.download import DOWNLOADS
from objectwise.data.dsprites import FACTORS, SIZES, Dsprites, DspritesConfig, grid_values, shared_out
from objectwise.data.dsprites_official import FILE, DspritesOfficial, DspritesOfficialConfig


@pytest.fixture(scope="module")
def whole() -> Dsprites:
    return DspritesConfig().build()


def factors_of(cells: np.ndarray) -> np.ndarray:
    return np.stack(np.unravel_index(cells, SIZES), axis=1)


@pytest.mark.parametrize(
    "settings",
    [
        {"strides": (1, 3, 4, 4)},
        {"noise": 0.2, "strides": (1, 3, 4, 4), "image_size": 32},
        {"held_out": "corner", "strides": (1, 2, 2, 2)},
        {"held_out": "L", "strides": (1, 2, 2, 2), "held_out_factors": ("shape", "scale")},
    ],
    ids=["plain", "noise", "corner", "L"],
)
def test_contract(settings: dict[str, Any]) -> None:
    check_dataset(DspritesConfig(**settings).build())


def test_contract_of_the_whole_grid(whole: Dsprites) -> None:
    check_dataset(whole)
    batch = whole.batch("test", range(6))
    assert_labels_match_pixels(batch)
    assert torch.equal(batch.images[:, 0] > 0, batch.instances == 1)
    assert batch.counts is not None
    assert batch.counts.tolist() == [1] * 6


def test_grid_is_the_official_one(whole: Dsprites) -> None:
    """Last factor fastest, both ends included, shapes 1 to 3; row 0 is a small upright square at the top left."""
    corners = whole.render(factors_of(np.array([0, 1, 32, 737_279])))
    values = {name: rows[:, 1].tolist() for name, rows in corners.factors.items()}
    assert values["shape"] == [1, 1, 1, 3]
    assert values["scale"] == [0.5, 0.5, 0.5, 1.0]
    assert values["orientation"] == [0.0, 0.0, 0.0, pytest.approx(2 * np.pi)]
    assert values["x"] == [0.0, 0.0, pytest.approx(1 / 31), 1.0]
    assert values["y"] == [0.0, pytest.approx(1 / 31), 0.0, 1.0]
    rows, columns = np.nonzero(corners.images[0, 0].numpy())
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == (16.0, 16.0)
    assert len(rows) == 100
    assert corners.factor_specs["shape"].categories == ("none", "square", "ellipse", "heart")
    assert np.prod(SIZES) == 737_280


def test_training_is_uniform_over_its_cells(whole: Dsprites) -> None:
    factors = whole.sample_factors("train", range(20_000))
    for column, size in enumerate(SIZES):
        counts = np.bincount(factors[:, column], minlength=size)
        assert np.abs(counts - 20_000 / size).max() < 5 * np.sqrt(20_000 / size)
    cells = np.ravel_multi_index(tuple(factors.T), SIZES)
    assert np.isin(cells, whole.cells("train")).all()
    assert whole.splits == {"train": 20_000_000, "val": 10_000, "test": 10_000}


def test_splits_share_no_picture_of_the_grid(whole: Dsprites) -> None:
    """No cell, and no cell that the inclusive end of the orientations makes the same; together they are the grid."""
    cells = {split: factors_of(whole.cells(split)) for split in whole.splits}
    for rows in cells.values():
        rows[:, 2] %= 39
    keys = {split: np.unique(np.ravel_multi_index(tuple(rows.T), SIZES)) for split, rows in cells.items()}
    assert sum(len(key) for key in keys.values()) == len(np.unique(np.concatenate(list(keys.values())))) == 718_848
    assert len(keys["val"]) == len(keys["test"]) == 10_000
    same = whole.render(np.array([[2, 3, 0, 5, 6], [2, 3, 39, 5, 6]])).images
    assert torch.equal(same[0], same[1])
    other = DspritesConfig(seed=1).build()
    assert not np.array_equal(np.sort(other.cells("val")), np.sort(whole.cells("val")))


def test_groups_are_shared_out_whole() -> None:
    rows = shared_out(np.repeat(np.arange(50), 3), 4, seed=2)
    assert [len(rows[split]) for split in ("train", "val", "test")] == [126, 4, 4]
    groups = [set((part // 3).tolist()) for part in rows.values()]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    assert [len(part) for part in shared_out(np.arange(20), 1000, seed=0).values()] == [16, 2, 2]


@pytest.mark.parametrize(("region", "share"), [("corner", 1 / 9), ("L", 5 / 9)])
def test_held_out_region(region: str, share: float) -> None:
    """Only the test split has it: x and scale both among their largest, or at least one of them."""
    data = DspritesConfig(
        held_out=region, held_out_factors=("x", "scale"), strides=(1, 4, 1, 4), eval_size=10**6
    ).build()
    tests = data.sample_factors("test", range(data.splits["test"]))
    trained = np.concatenate([factors_of(data.cells("train")), factors_of(data.cells("val"))])

    def large(rows: np.ndarray) -> np.ndarray:
        first, second = rows[:, 3] >= 32 - 11, rows[:, 1] >= 4
        return first & second if region == "corner" else first | second

    assert large(tests).all()
    assert not large(trained).any()
    assert len(tests) + len(trained) == 3 * 6 * 10 * 32 * 8  # every cell is somewhere
    assert len(tests) / (len(tests) + len(trained)) == pytest.approx(share, abs=0.02)
    # Each factor alone is seen in training whole (corner), or the two of them only small (L).
    assert (trained[:, 3].max() == 31) == (region == "corner")


def test_strides_thin_the_grid_and_neighbours_drift_apart() -> None:
    data = DspritesConfig(strides=(5, 8, 4, 2)).build()
    factors = data.sample_factors("train", range(3000))
    assert [np.unique(factors[:, column]).tolist() for column in range(5)] == [
        [0, 1, 2],
        [0, 5],
        [0, 8, 16, 24, 32],
        list(range(0, 32, 4)),
        list(range(0, 32, 2)),
    ]
    dense, thin = (DspritesConfig(strides=(1, k, k, k)).build() for k in (1, 4))
    assert thin.neighbour_distance() > 2 * dense.neighbour_distance() > 20
    assert dense.neighbour_distance() == dense.neighbour_distance()


def test_neighbour_distance_by_hand() -> None:
    """All pairs of neighbours of a grid small enough to list."""
    data = DspritesConfig(strides=(5, 20, 31, 31), image_size=32).build()
    kept = [[0, 1, 2], [0, 5], [0, 20], [0, 31], [0, 31]]
    found = []
    for factor in range(1, 5):
        pairs = []
        for row in np.stack(np.meshgrid(*kept, indexing="ij"), axis=-1).reshape(-1, 5):
            place = kept[factor].index(row[factor])
            if place == 1 and factor != 2:
                continue
            after = row.copy()
            after[factor] = kept[factor][1 - place]
            images = data.render(np.stack([row, after])).images
            pairs.append(float((images[0] != images[1]).sum()))
        found.append(np.mean(pairs))
    assert data.neighbour_distance(4000) == pytest.approx(np.mean(found), rel=0.03)


def test_noise_flips_pixels_and_nothing_else() -> None:
    config = DspritesConfig(strides=(1, 3, 4, 4))
    plain, noisy = (config.replaced(noise=noise).build().batch("train", range(40)) for noise in (0.0, 0.3))
    assert set(noisy.images.unique().tolist()) == {0.0, 1.0}
    flipped = (plain.images != noisy.images).float()
    assert flipped.mean().item() == pytest.approx(0.3, abs=0.005)
    for value in (0.0, 1.0):
        assert flipped[plain.images == value].mean().item() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(plain.instances, noisy.instances)
    assert not torch.equal(flipped[0], flipped[1])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"strides": [1, 1, 32, 1]}, "strides"),
        ({"strides": [0, 1, 1, 1]}, "strides"),
        ({"held_out_factors": ["x", "x"]}, "two different"),
        ({"held_out_share": 1.0}, "less than 1"),
        ({"noise": 0.6}, "less than or equal to 0.5"),
    ],
)
def test_impossible_settings(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        DspritesConfig.parse(values)


# -- the official file --------------------------------------------------------------------------------------------

ROWS = 400


class Evil:
    """Unpickled, it leaves a mark."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["OBJECTWISE_TEST_MARK"],)


@pytest.fixture
def arrays(whole: Dsprites) -> dict[str, np.ndarray]:
    """The four arrays of a small official file: some rows of the grid, in its order."""
    cells = np.sort(np.random.default_rng(0).choice(737_280, ROWS, replace=False))
    factors = factors_of(cells)
    values = grid_values(factors)
    return {
        "metadata": np.array({"title": "dSprites"}, dtype=object),
        "imgs": whole.render(factors).images[:, 0].numpy().astype(np.uint8),
        "latents_classes": np.concatenate([np.zeros((ROWS, 1), np.int64), factors], axis=1),
        "latents_values": np.stack([np.ones(ROWS), *(values[name] for name in FACTORS)], axis=1),
    }


def official(folder: Path, arrays: dict[str, Any]) -> DspritesOfficial:
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / FILE, **arrays)
    return DspritesOfficialConfig(root=folder, eval_size=30).build()


def test_official_file(tmp_path: Path, arrays: dict[str, np.ndarray], whole: Dsprites) -> None:
    data = official(tmp_path / "here", arrays)
    check_dataset(data)
    assert data.splits == {"train": ROWS - 60, "val": 30, "test": 30}
    assert data.shuffle
    found = data.batch("test", range(30))
    drawn = whole.render(data.sample_factors("test", range(30)))
    assert torch.equal(found.images, drawn.images)
    assert found.factors.keys() == drawn.factors.keys()
    for name, rows in drawn.factors.items():
        assert torch.equal(found.factors[name], rows), name
    seen = np.concatenate([data.sample_factors(split, range(size)) for split, size in data.splits.items()])
    assert len(np.unique(seen, axis=0)) == ROWS


def test_the_pickled_object_is_never_opened(
    tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setenv("OBJECTWISE_TEST_MARK", str(mark))
    evil = np.array(Evil(), dtype=object)
    official(tmp_path / "metadata", {**arrays, "metadata": evil})
    for name in ("imgs", "latents_classes", "latents_values"):
        with pytest.raises(UserError, match=f"{name} is object"):
            official(tmp_path / name, {**arrays, name: evil})
    assert not mark.exists()
    np.load(tmp_path / "metadata" / FILE, allow_pickle=True)["metadata"]
    assert mark.is_dir()  # the trap works


def test_decoding_is_done_once(tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    first = official(tmp_path / "here", arrays).batch("train", range(20)).images
    monkeypatch.setattr("objectwise.data.dsprites_official._decode", None)
    again = DspritesOfficialConfig(root=tmp_path / "here", eval_size=30).build()
    assert torch.equal(again.batch("train", range(20)).images, first)
    cache = Path(os.environ["OBJECTWISE_CACHE"]) / "dsprites_official"
    (folder,) = cache.iterdir()
    assert (folder / "bits.npy").stat().st_size == 128 + ROWS * 512
    (folder / "bits.npy").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"is damaged .* delete it"):
        DspritesOfficialConfig(root=tmp_path / "here").build()
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("imgs", lambda a: a * 255, "imgs holds 255, not only 0 and 1"),
        ("imgs", lambda a: a[:, :32], "imgs is uint8"),
        ("imgs", lambda a: a[:-1], "imgs is uint8"),
        ("imgs", lambda a: a.astype(np.float32), "imgs is float32"),
        ("latents_classes", lambda a: a[:, 1:], "latents_classes is int64"),
        ("latents_classes", lambda a: a + 1, "leave dSprites' grid"),
        ("latents_values", lambda a: a * np.nan, "leave dSprites' grid"),
        ("latents_values", lambda a: np.asfortranarray(a), "column by column"),
        ("imgs", None, "has no array 'imgs'"),
    ],
)
def test_another_file_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], name: str, change: Any, words: str
) -> None:
    changed = {key: value for key, value in arrays.items() if key != name or change is not None}
    if change is not None:
        changed[name] = change(arrays[name])
    with pytest.raises(UserError, match=words):
        official(tmp_path / "here", changed)
    assert not list((Path(os.environ["OBJECTWISE_CACHE"]) / "dsprites_official").iterdir())


def test_damage_is_one_sentence(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    official(tmp_path / "here", arrays)
    path = tmp_path / "here" / FILE
    good = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        middle = archive.getinfo("imgs.npy").header_offset + 2000
    for bad in (good[: len(good) // 2], b"", good[:middle] + b"\0" * 40 + good[middle + 40 :]):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"is damaged|ends too early"):
            DspritesOfficialConfig(root=tmp_path / "here").build()


def test_where_the_file_comes_from(tmp_path: Path) -> None:
    (file,) = DOWNLOADS["dsprites"].files
    assert file.name == FILE
    assert all(url.endswith("deepmind/dsprites-dataset/master/") for url in DOWNLOADS["dsprites"].base_urls)
    with pytest.raises(UserError, match=r"objectwise fetch dsprites.*--data\.root"):
        DspritesOfficialConfig(root=tmp_path).build()
