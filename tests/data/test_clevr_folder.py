"""Folders of rendered CLEVR scenes: tiny ones made here, and the real ones where they are at hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from objectwise.core import UserError, check_dataset
from objectwise.data import config_class
from objectwise.data.clevr_folder import ClevrFolderConfig


def thing(**changes) -> dict:
    return {
        "shape": "cylinder",
        "size": "large",
        "material": "metal",
        "color": "purple",
        "rotation": 7.0,
        "coords": [1.0, -2.0, 0.7],
        **changes,
    }


def write_arrays(folder: Path, counts: list[int], size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Scenes of so many objects, object i a column of two pixels; the last object has none."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(len(counts))
    images = random.integers(0, 256, (len(counts), size, size, 3), dtype=np.uint8)
    masks = np.zeros((len(counts), size, size), np.uint8)
    for scene, count in enumerate(counts):
        for entity in range(1, count):
            masks[scene, 4:8, 2 * entity : 2 * entity + 2] = entity
    np.save(folder / "images.npy", images)
    np.save(folder / "masks.npy", masks)
    (folder / "objects.jsonl").write_text("".join(json.dumps([thing()] * count) + "\n" for count in counts))
    return images, masks


def write_pictures(folder: Path, number: int, size: tuple[int, int] = (12, 16)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for scene in range(number):
        mask = np.zeros(size, np.uint8)
        mask[2:5, 3:9], mask[6:8, 1:3] = 1, 2
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"CLEVR_{scene:03d}.png")
        Image.fromarray(mask).save(folder / f"CLEVR_{scene:03d}_mask.png")
        (folder / f"CLEVR_{scene:03d}.json").write_text(
            json.dumps({"objects": [thing(shape="cube"), thing(color="red")]})
        )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Parts of 40 and 6 scenes of 2 to 5 objects, of which the last can never be seen."""
    write_arrays(tmp_path / "clevr" / "train", [2 + i % 4 for i in range(40)])
    write_arrays(tmp_path / "clevr" / "test", [2, 3, 4, 5, 4, 3])
    return tmp_path / "clevr"


def test_it_keeps_the_contract(root: Path, tmp_path: Path) -> None:
    check_dataset(ClevrFolderConfig(root=root).build())
    check_dataset(ClevrFolderConfig(root=root, image_size=8, max_objects=3).build())
    write_pictures(tmp_path / "png", 12)
    check_dataset(ClevrFolderConfig(root=tmp_path / "png", test_share=0.3).build())
    assert config_class("clevr") is ClevrFolderConfig


def test_the_filter_counts_foreground_objects_up_to_the_number(root: Path) -> None:
    dataset = ClevrFolderConfig(root=root, max_objects=3, val_share=0).build()
    assert dataset.kept == {"train": (20, 40), "val": (0, 0), "test": (3, 6)}
    assert dataset.splits == {"train": 20, "test": 3}
    assert dataset.describe() == "train 20 of 40, val 0 of 0, test 3 of 6"
    assert dataset.max_objects == 3
    assert sorted(set(dataset.batch("train", range(20)).counts.tolist())) == [2, 3]


def test_labels(root: Path) -> None:
    batch = ClevrFolderConfig(root=root, val_share=0).build().batch("train", [1])  # three objects, one unseen
    assert batch.visible_pixels is not None
    assert batch.visible_pixels[0].tolist() == [240, 8, 8, 0, 0, 0]
    assert batch.present is not None
    assert batch.present[0].tolist() == [True, True, True, True, False, False]
    assert batch.boxes is not None
    assert batch.boxes[0, 2].tolist() == [4, 4, 6, 8]
    codes = {name: values[0, 1].item() for name, values in batch.factors.items()}
    assert codes == pytest.approx(
        {"x": 1, "y": -2, "z": 0.7, "rotation": 7 - 2 * np.pi, "shape": 2, "size": 1, "material": 1, "color": 5},
        abs=1e-5,
    )


def test_smaller_pictures_are_means_and_masks_keep_their_ids(root: Path) -> None:
    images = np.load(root / "test" / "images.npy").astype(float)
    dataset = ClevrFolderConfig(root=root, image_size=8).build()
    batch = dataset.batch("test", range(6))
    mean = images.reshape(6, 8, 2, 8, 2, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2)
    assert np.abs(batch.images.numpy() * 255 - mean).max() <= 0.51
    assert batch.instances is not None
    assert batch.instances[3].unique().tolist() == [0, 1, 2, 3, 4]
    assert batch.visible_pixels is not None
    assert batch.visible_pixels[3].tolist() == [56, 2, 2, 2, 2, 0]


def test_a_crop_moves_objects_out_of_sight(root: Path) -> None:
    batch = ClevrFolderConfig(root=root, crop=(2, 4, 8, 8)).build().batch("test", [3])
    assert batch.images.shape == (1, 3, 8, 8)
    assert batch.visible_pixels is not None
    assert batch.visible_pixels[0].tolist() == [40, 0, 8, 8, 8, 0]
    assert batch.object_present is not None
    assert batch.object_present[0, 1]
    assert batch.boxes is not None
    assert batch.boxes[0, 1].tolist() == [0, 0, 0, 0]
    assert batch.boxes[0, 2].tolist() == [0, 2, 2, 6]


def test_validation_comes_from_the_training_part_alone(root: Path) -> None:
    all_of_them = ClevrFolderConfig(root=root, val_share=0).build()
    split = ClevrFolderConfig(root=root, val_share=0.3).build()
    assert split.splits["train"] + split.splits["val"] == all_of_them.splits["train"] == 40
    assert 4 <= split.splits["val"] <= 20
    assert split.splits["test"] == 6
    pieces = torch.cat([split.batch(name, range(split.splits[name])).images for name in ("train", "val")])
    whole = all_of_them.batch("train", range(40)).images
    assert sorted(pieces.sum((1, 2, 3)).tolist()) == pytest.approx(sorted(whole.sum((1, 2, 3)).tolist()))


def test_membership_of_a_picture_does_not_depend_on_the_others(tmp_path: Path) -> None:
    write_pictures(tmp_path / "few", 10)
    write_pictures(tmp_path / "many", 30)
    few, many = (ClevrFolderConfig(root=tmp_path / name, val_share=0.3).build() for name in ("few", "many"))
    small, large = (dataset.batch("val", range(dataset.splits["val"])).images for dataset in (few, many))
    assert len(small) < len(large)
    assert torch.equal(small, large[: len(small)])


def test_palette_masks_keep_their_numbers(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    path = tmp_path / "CLEVR_000_mask.png"
    with Image.open(path) as mask:
        numbers = np.asarray(mask)
    palette = Image.fromarray(numbers)
    palette.putpalette([0, 0, 0, 250, 0, 0, 0, 0, 250])
    palette.save(path)
    batch = ClevrFolderConfig(root=tmp_path, val_share=0, test_share=0).build().batch("train", [0])
    assert np.array_equal(batch.instances[0].numpy(), numbers)


def test_damage_is_one_sentence(root: Path, tmp_path: Path) -> None:
    build = lambda **changes: ClevrFolderConfig(root=root, **changes).build()  # noqa: E731
    with pytest.raises(UserError, match="there is no folder"):
        ClevrFolderConfig(root=tmp_path / "nowhere").build()
    with pytest.raises(UserError, match="there is no folder"):
        ClevrFolderConfig().build()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a folder of CLEVR scenes"):
        ClevrFolderConfig(root=tmp_path / "empty").build()
    with pytest.raises(UserError, match="leaves the 16x16 pictures"):
        build(crop=(0, 10, 8, 8))
    with pytest.raises(UserError, match="320 wide"):
        build(crop="clevr")
    with pytest.raises(UserError, match="nothing is enlarged"):
        build(image_size=32)
    with pytest.raises(UserError, match="square"):
        build(image_size=8, crop=(0, 0, 8, 12))
    with pytest.raises(UserError, match="train 0 of 3"):
        build(max_objects=1)
    with pytest.raises(UserError, match="no split 'valid'"):
        build().batch("valid", [0])


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("objects.jsonl", "[]\n", "1 lines for 40 images"),
        ("objects.jsonl", "[]\n" * 39 + "{broken\n", "line 40 does not describe"),
        ("objects.jsonl", json.dumps([thing(color="pink")]) + "\n" + "[]\n" * 39, "line 1 does not describe"),
        ("images.npy", "not an array", "missing or damaged"),
    ],
)
def test_damaged_arrays(root: Path, name: str, text: str, match: str) -> None:
    (root / "train" / name).write_text(text)
    with pytest.raises(UserError, match=match):
        ClevrFolderConfig(root=root).build()


def test_masks_that_do_not_fit(root: Path, tmp_path: Path) -> None:
    masks = np.load(root / "train" / "masks.npy")
    masks[0, 0, 0] = 9
    np.save(root / "train" / "masks.npy", masks)
    with pytest.raises(UserError, match="scene 0: the mask has object 9 but the scene has 2"):
        ClevrFolderConfig(root=root, val_share=0).build().batch("train", [0])
    np.save(root / "train" / "masks.npy", masks[:, :8])
    with pytest.raises(UserError, match=r"masks.npy \(40, 8, 16\)"):
        ClevrFolderConfig(root=root).build()
    write_pictures(tmp_path / "png", 2)
    Image.new("L", (5, 5)).save(tmp_path / "png" / "CLEVR_001_mask.png")
    dataset = ClevrFolderConfig(root=tmp_path / "png", val_share=0, test_share=0).build()
    with pytest.raises(UserError, match="its mask"):
        dataset.batch("train", [0, 1])
    (tmp_path / "png" / "CLEVR_000.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(UserError, match=r"CLEVR_000.png is missing or damaged"):
        dataset.batch("train", [0])


def test_the_real_arrays(shared_data: Path) -> None:
    dataset = ClevrFolderConfig(root=shared_data / "clevr6_128", image_size=64, max_objects=4).build()
    check_dataset(dataset, samples=6)
    kept, total = (sum(pair[part] for pair in dataset.kept.values()) for part in (0, 1))
    assert total == 1980
    assert 0.4 < kept / total < 0.6  # counts are uniform on 3 to 6
    lines = (shared_data / "clevr6_128" / "test" / "objects.jsonl").read_text().splitlines()
    stored = [[thing["visible_pixels"] for thing in json.loads(line)] for line in lines]
    whole = ClevrFolderConfig(root=shared_data / "clevr6_128").build().batch("test", range(20))
    assert whole.visible_pixels is not None
    for row, pixels in zip(whole.visible_pixels, stored, strict=False):
        assert row[1 : len(pixels) + 1].tolist() == pixels


def test_the_real_pictures(shared_data: Path) -> None:
    dataset = ClevrFolderConfig(root=shared_data / "clevr_renders", crop="clevr", image_size=64).build()
    check_dataset(dataset)
    assert sum(total for _, total in dataset.kept.values()) == 6
