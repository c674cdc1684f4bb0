from __future__ import annotations

import contextlib
import errno
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import assert_labels_match_pixels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from objectwise.core import Batch, UserError, check_dataset
from objectwise.data import config_class, pictures
from objectwise.data.digits import DigitsConfig
from objectwise.data.folder import FolderConfig, FolderImages, _renumbered, natural_key, split_files, write_folder
from objectwise.data.sprites import SpritesConfig

RNG = np.random.Generator(np.random.PCG64(0))


def picture(height: int = 12, width: int = 12, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


def fill(root: Path, count: int = 12, **size: int) -> Path:
    for number in range(count):
        save(root / f"{number}.png", picture(**size))
    return root


def build(root: Path | None, **values: object) -> FolderImages:
    return FolderConfig.parse({"root": root, **values}).build()


def only(dataset: FolderImages, name: str) -> Batch:
    """The sample of one file, in whatever split it is."""
    split = next(split for split, files in dataset.files.items() if name in files)
    return dataset.batch(split, [dataset.files[split].index(name)])


def test_images_without_masks(tmp_path: Path) -> None:
    fill(tmp_path)
    save(tmp_path / "deeper" / "x.JPG", picture())
    save(tmp_path / ".hidden" / "y.png", picture())
    (tmp_path / "notes.txt").write_text("no image")
    dataset = build(tmp_path)
    check_dataset(dataset)
    assert sum(dataset.splits.values()) == 13
    assert dataset.image_shape == (3, 12, 12)
    assert dataset.max_objects is None
    assert dataset.shuffle
    batch = only(dataset, "3.png")
    assert batch.instances is None
    assert batch.counts is None
    expected = np.asarray(Image.open(tmp_path / "3.png")).transpose(2, 0, 1)
    assert np.array_equal((batch.images[0] * 255).numpy(), expected)
    assert config_class("folder") is FolderConfig


@pytest.mark.parametrize("memory_mb", [2048, 0])
def test_kept_and_decoded_again_give_the_same(tmp_path: Path, memory_mb: int) -> None:
    write_folder(SpritesConfig().build(), "test", 12, tmp_path / "out")
    dataset = build(tmp_path / "out", memory_mb=memory_mb)
    assert (dataset._pixels is None) == (memory_mb == 0)
    check_dataset(dataset)
    assert_labels_match_pixels(dataset.batch("train", range(5)))


@pytest.mark.parametrize(
    ("source", "split"),
    [
        (SpritesConfig(counts=(0, 1, 3)), "train"),
        (SpritesConfig(color="grey", background="noise"), "test"),
        (DigitsConfig(source="bundled"), "val"),
        (DigitsConfig(source="bundled", color="random", overlap="allowed", counts=(0, 40), image_size=24), "train"),
    ],
)
def test_round_trip(tmp_path: Path, source: SpritesConfig | DigitsConfig, split: str) -> None:
    """What is written is read back to the last bit: images, ids, boxes, presence (also of hidden objects), factors."""
    original = source.build()
    steps: list[tuple[int, int]] = []
    write_folder(original, split, 40, tmp_path, batch_size=16, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(16, 40), (32, 40), (40, 40)]
    dataset = build(tmp_path)
    assert dataset.max_objects == original.max_objects
    assert dataset.image_shape == original.image_shape
    assert dict(dataset.factor_specs) == dict(original.factor_specs)
    for part, files in dataset.files.items():
        found = dataset.batch(part, range(len(files)))
        expected = original.batch(split, [int(Path(name).stem) for name in files])
        for name in ("images", "instances", "present", "visible_pixels", "boxes"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
        assert found.factors.keys() == expected.factors.keys()
        for name in expected.factors:
            assert torch.equal(found.factors[name], expected.factors[name]), name
            assert found.factors[name].dtype == expected.factors[name].dtype


def test_hidden_objects_are_written_and_read(tmp_path: Path) -> None:
    source = DigitsConfig(source="bundled", overlap="allowed", counts=(40,), image_size=24).build()
    write_folder(source, "train", 8, tmp_path)
    dataset = build(tmp_path)
    batch = dataset.batch("train", range(3))
    assert batch.counts.tolist() == [40] * 3
    hidden = batch.present & (batch.visible_pixels == 0)
    assert hidden.any()
    assert (batch.factors["size"][hidden] > 0).all()


def test_several_backgrounds_become_one(tmp_path: Path) -> None:
    """Ids 0 and 2 are background, 1 is absent, 3 and 4 are objects: they are written as 0 and 1, 2."""
    instances = torch.tensor([[[0, 2], [4, 3]]])
    present = torch.tensor([[True, False, True, True, True]])
    batch = Batch(torch.zeros(1), torch.zeros(1, 1, 2, 2), instances, background_ids=(0, 2), present=present)
    assert _renumbered(batch, 0).tolist() == [[0, 0], [2, 1]]


def test_files_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    for size in (3, 8):
        write_folder(SpritesConfig().build(), "val", 8, tmp_path / str(size), batch_size=size)
    for path in sorted((tmp_path / "3").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "8" / path.relative_to(tmp_path / "3")).read_bytes()


def test_write_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = SpritesConfig(eval_size=5).build()
    with pytest.raises(UserError, match="has 5 samples; cannot write 6"):
        write_folder(dataset, "val", 6, tmp_path / "new")
    with pytest.raises(UserError, match="no split 'dev'"):
        write_folder(dataset, "dev", 1, tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    with pytest.raises(UserError, match="not an empty folder; choose another"):
        write_folder(dataset, "val", 1, tmp_path / "full")

    def disk_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pictures, "write_image", disk_full)
    with pytest.raises(UserError, match=r"cannot write into .*No space left"):
        write_folder(dataset, "val", 1, tmp_path / "new")


@pytest.mark.parametrize("name", ["masks/1.png", "masks/deep/1.png", "deep/masks/1.png", "1_mask.png", "1_flat.png"])
@pytest.mark.parametrize("kind", ["L", "P", "I;16", "RGB"])
def test_masks_are_found_and_never_converted(tmp_path: Path, name: str, kind: str) -> None:
    """Ids 0, 2, 7 (whose palette colours are all black) become 0, 1, 2; colours are numbered in their order."""
    image = "deep/1.png" if "deep" in name else "1.png"
    for stem in ("0", image.removesuffix(".png"), "2", "3"):
        save(tmp_path / f"{stem}.png", picture(6, 9))
    ids = RNG.choice([0, 2, 7], size=(6, 9))
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "P":
        mask = Image.fromarray(ids.astype(np.uint8))
        mask.putpalette([0] * 768)
    elif kind == "RGB":
        mask = Image.fromarray(np.array([[0, 0, 0]] * 2 + [[0, 9, 200]] + [[1, 0, 0]] * 5, np.uint8)[ids])
    else:
        mask = Image.fromarray(ids.astype(np.uint16 if kind == "I;16" else np.uint8))
    mask.save(path)
    assert Image.open(path).mode == kind
    dataset = build(tmp_path)
    batch = only(dataset, image)
    assert np.array_equal(batch.instances[0].numpy(), np.searchsorted([0, 2, 7], ids))
    assert batch.present is None  # the other images have no masks, so nothing is claimed about them
    assert dataset.max_objects is None
    assert not only(dataset, "2.png").instances.any()
    check_dataset(dataset)


def masked(root: Path, count: int = 6, side: int = 16) -> Path:
    fill(root, count, height=side, width=side)
    for number in range(count):
        ids = np.zeros((side, side), np.uint8)
        ids[2:6, 3:9] = 10
        ids[8:9, 1:2] = 200 if number % 2 else 0
        save(root / "masks" / f"{number}.png", ids)
    return root


def test_ids_are_compacted_per_image(tmp_path: Path) -> None:
    dataset = build(masked(tmp_path))
    assert dataset.max_objects == 2
    check_dataset(dataset)
    one, two = only(dataset, "0.png"), only(dataset, "1.png")
    assert (one.counts.item(), two.counts.item()) == (1, 2)
    assert one.present.tolist() == [[True, True, False]]
    assert one.visible_pixels.tolist() == [[256 - 24, 24, 0]]
    assert two.boxes[0, 2].tolist() == [1, 8, 2, 9]


def test_masks_are_resized_to_nearest_and_vanished_objects_are_absent(tmp_path: Path) -> None:
    dataset = build(masked(tmp_path, side=16), image_size=4)
    assert dataset.image_shape == (3, 4, 4)
    assert set(only(dataset, "1.png").instances.unique().tolist()) == {0, 1}
    assert dataset.max_objects == 1
    check_dataset(dataset)


def test_image_and_mask_are_cropped_alike(tmp_path: Path) -> None:
    for number in range(4):
        array = np.zeros((10, 30, 3), np.uint8)
        array[2:7, 12:17] = 255
        save(tmp_path / f"{number}.png", array)
        save(tmp_path / f"{number}_mask.png", array[..., 0] // 255)
    for fit in ("crop", "stretch"):
        batch = build(tmp_path, image_size=20, fit=fit).batch("train", [0])
        inside = batch.instances[0] == 1
        assert batch.images[0, 0][inside].min() > 0.4
        assert batch.images[0, 0][~inside].max() < 0.6
    assert build(tmp_path, image_size=10, fit="crop").batch("train", [0]).boxes[0, 1].tolist() == [2, 2, 7, 7]


def test_mask_settings(tmp_path: Path) -> None:
    masked(tmp_path)
    assert build(tmp_path, masks="none").batch("train", [0]).instances is None
    (tmp_path / "masks" / "3.png").unlink()
    with pytest.raises(UserError, match=r"3\.png has no mask"):
        build(tmp_path, masks="required")


def test_many_colours_warn(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    ids = np.zeros((12, 12, 3), np.uint8)
    ids[..., 0] = np.arange(144).reshape(12, 12)
    save(tmp_path / "1_mask.png", ids)
    with pytest.warns(UserWarning, match="143 colours; are its edges blurred"):
        build(tmp_path)


def gradient_modes(tmp_path: Path) -> dict[str, Path]:
    base = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    files = {}
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
        suffix = "jpg" if mode == "CMYK" else "png"
        files[mode] = save(tmp_path / f"{mode}.{suffix}", base, mode)
    files["I;16"] = save(tmp_path / "I16.png", base.astype(np.uint16) * 257)
    return files


def test_every_mode_is_read(tmp_path: Path) -> None:
    files = gradient_modes(tmp_path)
    base = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    for mode, path in files.items():
        for channels in (1, 3):
            array = pictures.read_image(path, channels, (8, 8), "stretch").astype(int)
            assert array.shape == (channels, 8, 8)
            if mode not in ("1", "CMYK"):
                assert np.abs(array - base.astype(int)).max() <= 1, mode
    with pytest.warns(UserWarning, match=r"2 images of .* have an alpha channel; they are laid over black"):
        dataset = build(tmp_path)
    assert dataset.image_shape == (3, 8, 8)


def test_grey_folders_have_one_channel(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"{number}.png", picture(channels=1))
    assert build(tmp_path).image_shape == (1, 12, 12)
    assert build(tmp_path, channels=3).image_shape == (3, 12, 12)


def test_alpha_is_laid_over_black(tmp_path: Path) -> None:
    rgba = np.full((4, 4, 4), 200, np.uint8)
    rgba[:2, :, 3] = 0
    rgba[2:, :, 3] = 255
    array = pictures.read_image(save(tmp_path / "x.png", rgba), 3, (4, 4), "stretch")
    assert array[:, :2].max() == 0
    assert array[:, 2:].min() == 200


def test_orientation_is_applied(tmp_path: Path) -> None:
    array = np.zeros((8, 16, 3), np.uint8)
    array[:, :4] = 255  # bright left edge; orientation 6 turns it to the top
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(3):
        Image.fromarray(array).save(tmp_path / f"{number}.jpg", exif=exif, quality=95)
        save(tmp_path / "masks" / f"{number}.png", np.zeros((16, 8), np.uint8))
    dataset = build(tmp_path)
    assert dataset.image_shape == (3, 16, 8)
    image = dataset.batch("train", [0]).images[0]
    assert image[:, :3].min() > 0.9
    assert image[:, 6:].max() < 0.1


def test_mixed_sizes(tmp_path: Path) -> None:
    fill(tmp_path, 4)
    save(tmp_path / "10.png", picture(6, 20))
    with pytest.raises(
        UserError, match=r"0\.png is 12x12, 10\.png is 20x6; set --data\.image-size N, or --data\.resize"
    ):
        build(tmp_path)
    assert build(tmp_path, image_size=9).image_shape == (3, 9, 9)
    assert build(tmp_path, resize=True).image_shape == (3, 12, 12)
    check_dataset(build(tmp_path, resize=True))


def _orphan_mask(root: Path) -> None:
    save(root / "masks" / "77.png", picture(channels=1))


def _two_owners(root: Path) -> None:
    save(root / "3.jpg", picture(20, 20))
    save(root / "3_mask.png", picture(20, 20, 1))


def _wrong_mask_size(root: Path) -> None:
    save(root / "3_mask.png", picture(5, 7, 1))


def _jpeg_mask(root: Path) -> None:
    save(root / "masks" / "3.jpg", picture(channels=1))


def _crowded_mask(root: Path) -> None:
    save(root / "3_mask.png", np.arange(400).reshape(20, 20).astype(np.uint16))


def _corrupt(root: Path) -> None:
    (root / "3.png").write_bytes(b"this is no PNG")


def _cut(root: Path) -> None:
    raw = (root / "3.png").read_bytes()
    (root / "3.png").write_bytes(raw[: len(raw) // 2])


def _cut_mask(root: Path) -> None:
    path = save(root / "masks" / "3.png", picture(20, 20, 1))
    path.write_bytes(path.read_bytes()[:100])


def _broken_factors(root: Path) -> None:
    masked(root, 6, 20)
    (root / "factors.jsonl").write_text('{"file": "0.png", "objects": []}\n{"file": 3\n')


def _missing_factors(root: Path) -> None:
    masked(root, 6, 20)
    (root / "factors.jsonl").write_text('{"file": "0.png", "objects": []}\n')


def _too_few_factors(root: Path) -> None:
    masked(root, 6, 20)
    lines = [json.dumps({"file": f"{n}.png", "objects": [{"x": 1}]}) for n in range(6)]
    (root / "factors.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_orphan_mask, r"mask .*masks/77\.png has no image"),
        (_two_owners, r"mask .*3_mask\.png could belong to 3\.jpg or to 3\.png; rename one"),
        (_wrong_mask_size, r"mask .*3_mask\.png is 7x5 but its image .*3\.png is 20x20"),
        (_jpeg_mask, r"masks/3\.jpg is a JPEG"),
        (_crowded_mask, r"3_mask\.png holds 399 entities; at most 255"),
        (_corrupt, r"3\.png is not a readable image \(unknown or damaged format\)"),
        (_cut, r"3\.png is not a readable image"),
        (_cut_mask, r"masks/3\.png is not a readable image"),
        (_broken_factors, r"factors\.jsonl line 2 is not"),
        (_missing_factors, r"has no line for 1\.png"),
        (_too_few_factors, r"masks/\d\.png holds id \d+ but factors\.jsonl lists 1 objects"),
    ],
)
def test_bad_folders(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    fill(tmp_path, 6, height=20, width=20)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        build(tmp_path)
    assert "\n" not in str(caught.value)


def test_bad_roots(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data\.root DIR"):
        build(None)
    with pytest.raises(UserError, match="there is no folder"):
        build(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no images"):
        build(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        build(tmp_path / "file")
    fill(tmp_path, 2)
    with pytest.raises(UserError, match="2 images to share out between train, val, test; at least 3"):
        build(tmp_path)


def test_a_damaged_image_is_named_when_decoded_late(tmp_path: Path) -> None:
    fill(tmp_path, 5)
    _cut(tmp_path)
    dataset = build(tmp_path, memory_mb=0)
    with pytest.raises(UserError, match=r"3\.png is not a readable image"):
        only(dataset, "3.png")


@settings(max_examples=30, deadline=None)
@given(names=st.sets(st.text("abc0123456789/", min_size=1, max_size=12), min_size=3, max_size=60))
def test_splits_cover_and_never_overlap(names: set[str]) -> None:
    files = split_files(sorted(names), "x")
    assert sorted(sum(files.values(), ())) == sorted(names)
    assert all(files.values())
    assert files == split_files(sorted(names), "elsewhere")


def test_split_shares_and_stability() -> None:
    names = [f"{n}.png" for n in range(3000)]
    files = split_files(names, "x")
    assert [len(files[split]) / 3000 for split in ("train", "val", "test")] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    more = split_files([f"{n}.png" for n in range(4000)], "x")
    assert all(set(files[split]) <= set(more[split]) for split in files)


def test_split_folders(tmp_path: Path) -> None:
    for split, count in {"train": 5, "val": 2, "test": 3}.items():
        write_folder(SpritesConfig().build(), split, count, tmp_path / split)
    dataset = build(tmp_path)
    assert dict(dataset.splits) == {"train": 5, "val": 2, "test": 3}
    assert dataset.files["val"] == ("val/000000.png", "val/000001.png")
    expected = SpritesConfig().build().batch("test", range(3))
    found = dataset.batch("test", range(3))
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.factors["x"][:, : expected.factors["x"].shape[1]], expected.factors["x"])
    save(tmp_path / "stray.png", picture(50, 50))
    with pytest.warns(UserWarning, match=r"1 images of .* are in none of train, val, test"):
        build(tmp_path, masks="none")


def test_missing_split_folders_are_taken_from_train() -> None:
    names = [f"train/{n}.png" for n in range(50)] + [f"test/{n}.png" for n in range(4)]
    files = split_files(names, "x")
    assert len(files["test"]) == 4
    assert files["val"]
    assert len(files["val"]) + len(files["train"]) == 50


def test_partial_and_odd_factors_are_skipped(tmp_path: Path) -> None:
    masked(tmp_path)
    objects = [
        {"x": 1, "color": "red", "odd": None, "box": [1, 2]},
        {"x": 2.5, "color": "blue", "odd": 3, "box": [3, 4]},
    ]
    lines = [json.dumps({"file": f"{n}.png", "objects": objects}) for n in range(6)]
    for n in range(6):
        save(tmp_path / "masks" / f"{n}.png", np.arange(256, dtype=np.uint8).reshape(16, 16) % 2 * 2)
    (tmp_path / "factors.jsonl").write_text("\n".join(lines))
    dataset = build(tmp_path)
    check_dataset(dataset)
    batch = dataset.batch("train", [0])
    assert set(batch.factors) == {"x", "color", "box"}
    assert batch.factors["x"].tolist() == [[0, 1, 2.5]]
    assert batch.factor_specs["color"].categories == ("blue", "red")
    assert batch.factors["color"].tolist() == [[0, 1, 0]]
    assert batch.counts.tolist() == [2]  # object 1 is hidden, yet present
    assert batch.visible_pixels.tolist() == [[128, 0, 128]]


def test_natural_order() -> None:
    names = ["a10", "a2", "a1b10", "a1b9", "b", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a1b9", "a1b10", "a2", "a10", "b"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1), value=st.integers(0, 255), suffix=st.sampled_from(["png", "jpg", "webp", "bmp"]))
def test_damaged_bytes_give_an_image_or_one_sentence(tmp_path: Path, position: float, value: int, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.tile(np.arange(16, dtype=np.uint8), (16, 1))).convert("RGB").save(path)
    raw = bytearray(path.read_bytes())
    raw[int(position * (len(raw) - 1))] = value
    path.write_bytes(bytes(raw))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(UserError):
            assert pictures.read_image(path, 3, (16, 16), "stretch").shape == (3, 16, 16)


def test_real_renders(shared_data: Path) -> None:
    folder = shared_data / "clevr_renders"
    dataset = build(folder, image_size=64, fit="crop", masks="required")
    check_dataset(dataset)
    assert dataset.max_objects is not None
    assert 3 <= dataset.max_objects <= 10
