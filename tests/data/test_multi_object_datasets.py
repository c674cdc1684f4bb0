"""The official sets: what decoding gives, and the datasets that read it."""

from __future__ import annotations

import pickle
import tracemalloc

import crc32c
import numpy as np
import pytest
import tfrecord_encoder as enc
import torch
from torch.nn import functional

from objectwise.core import UserError, check_dataset
from objectwise.data import DATASETS, config_class, decoded_cache
from objectwise.data import multi_object_datasets as mod
from objectwise.data import multi_object_schemas as schemas
from objectwise.data.decoded_cache import decode, open_cache
from objectwise.data.multi_object_schemas import Crop

NAMES = tuple(enc.LAYOUTS)


def write(path, name, count=3, seed=0, packed=True, visible=None):
    """An official-looking file and the scenes in it."""
    rng = np.random.default_rng(seed)
    made = [enc.shuffled_record(name, rng, packed, None if visible is None else visible[i]) for i in range(count)]
    enc.write(path, [payload for _, payload in made], crc=crc32c.crc32c)
    return [values for values, _ in made]


@pytest.fixture
def mini(shared_data, tmp_path):
    """The ten official Tetrominoes scenes, decoded."""
    source = shared_data / "multi_object_datasets" / "tetrominoes_mini.tfrecords"
    decode(source, "tetrominoes", tmp_path / "mini")
    return tmp_path / "mini"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packed", [True, False])
def test_every_layout_comes_back_as_it_was_encoded(tmp_path, name, packed):
    scenes = write(tmp_path / "f", name, count=2, packed=packed)
    manifest = decode(tmp_path / "f", name, tmp_path / "c", crop=None)
    assert manifest.records == 2
    arrays = open_cache(tmp_path / "c", full=True).arrays
    for i, scene in enumerate(scenes):
        np.testing.assert_array_equal(arrays["images"][i], np.moveaxis(scene["image"], 2, 0))
        np.testing.assert_array_equal(arrays["instances"][i], scene["ids"])
        counts = [(scene["ids"] == e).sum() for e in range(arrays["present"].shape[1])]
        np.testing.assert_array_equal(arrays["visible_pixels"][i], counts)
        if "visibility" in scene:
            np.testing.assert_array_equal(arrays["present"][i], scene["visibility"] == 1)
        for factor in set(scene) - {"image", "ids", "mask", "visibility"}:
            np.testing.assert_array_equal(arrays[f"factor_{factor}"][i], scene[factor])
    extra = {"images", "instances", "present", "visible_pixels", "displaced"}
    stored = {"image", "ids", "mask", "visibility"}
    assert {a.removeprefix("factor_") for a in set(arrays) - extra} == set(scenes[0]) - stored


def test_height_width_and_entities_are_not_confused(tmp_path, monkeypatch):
    """With H ≠ W ≠ E, entity axis in third place."""
    layout = schemas.OfficialSet("x", (3, 7, 3), 4, mask_last=True, visibility=False)
    monkeypatch.setitem(schemas.OFFICIAL_SETS, "odd", layout)
    rng = np.random.default_rng(0)
    ids, image = rng.integers(0, 4, (3, 7)), rng.integers(0, 256, (3, 7, 3))
    mask = (ids[:, :, None] == np.arange(4)) * 255
    payload = enc.example({"image": enc.bytes_feature(image), "mask": enc.bytes_feature(mask)})
    enc.write(tmp_path / "f", [payload])
    decode(tmp_path / "f", "odd", tmp_path / "c")
    arrays = open_cache(tmp_path / "c").arrays
    np.testing.assert_array_equal(arrays["instances"][0], ids)
    np.testing.assert_array_equal(arrays["images"][0], image.transpose(2, 0, 1))


def test_the_ten_official_scenes(mini):
    cache = open_cache(mini, full=True)
    arrays = cache.arrays
    assert cache.manifest.records == 10
    assert cache.manifest.source.size == 3715
    assert cache.manifest.source.sha256 == "d0583e6a9e8d0f8bcc0241e759672f8e31623bd4977a55e981bd9e536ffc3722"
    assert arrays["images"].shape == (10, 3, 35, 35)
    assert arrays["visible_pixels"].tolist() == [[925, 100, 100, 100]] * 10
    assert arrays["present"].all()
    assert (arrays["images"].transpose(0, 2, 3, 1)[arrays["instances"] == 0] == 0).all()
    for name in ("x", "y", "shape", "color"):
        assert (arrays[f"factor_{name}"][:, 0] == 0).all()
    assert set(np.unique(arrays["factor_color"])) == {0, 1}
    for i in range(10):
        for e in (1, 2, 3):
            rows, columns = np.nonzero(arrays["instances"][i] == e)
            assert arrays["factor_x"][i, e] == rows.min()  # x is the top row, y the left column
            assert arrays["factor_y"][i, e] == columns.min()
            brightest = arrays["images"][i][:, rows, columns].max(axis=1)
            np.testing.assert_array_equal(brightest > 0, arrays["factor_color"][i, e] == 1)


@pytest.mark.parametrize("asked", NAMES)
def test_a_file_of_another_set_is_recognised(tmp_path, asked):
    other = "tetrominoes" if asked != "tetrominoes" else "objects_room_train"
    write(tmp_path / "f", other, count=1)
    with pytest.raises(UserError, match=f"f: record 0 at byte .*{asked}.* this looks like {other}"):
        decode(tmp_path / "f", asked, tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "f"] or [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_family_name_finds_its_variant(tmp_path):
    for name in ("multi_dsprites_colored_on_colored", "objects_room_train", "tetrominoes"):
        write(tmp_path / name, name, count=1)
        family = "_".join(name.split("_")[:2])
        assert decode(tmp_path / name, family, tmp_path / "out" / name).set_name == name
    write(tmp_path / "six", "objects_room_six_objects", count=1)
    with pytest.raises(UserError, match="name one of objects_room_six_objects, objects_room_identical_color"):
        decode(tmp_path / "six", "objects_room", tmp_path / "c")
    with pytest.raises(UserError, match="did you mean 'tetrominoes'"):
        decode(tmp_path / "six", "tetromino_s", tmp_path / "c")


def corrupt(name, change, **kwargs):
    rng = np.random.default_rng(0)
    values = enc.scene(name, rng, **kwargs)
    change(values)
    return enc.payload(values, rng)


def put(name, index, value):
    def change(values):
        values[name][index] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "tetrominoes",
            lambda v: v.pop("shape"),
            "feature 'shape' of tetrominoes is missing; there is 'color', 'image'",
        ),
        ("tetrominoes", put("mask", (0, 3, 4), 7), "values other than 0 and 255"),
        ("tetrominoes", put("mask", (slice(None), 3, 4), 255), r"pixel \(row 3, column 4\) belongs to 4 masks"),
        ("tetrominoes", put("mask", (slice(None), 3, 4), 0), r"pixel \(row 3, column 4\) belongs to 0 masks"),
        ("tetrominoes", put("visibility", 1, 0.5), "not zeros and ones"),
        ("tetrominoes", put("visibility", 1, np.nan), "not zeros and ones"),
        ("tetrominoes", put("visibility", 0, 0), "there is no background"),
        ("tetrominoes", put("visibility", 2, 0), "entity 2 has pixels in the mask but its visibility is 0"),
        ("tetrominoes", put("shape", 1, 20), "not codes from 0 to 19"),
        ("tetrominoes", put("shape", 1, 2.5), "not codes from 0 to 19"),
        ("tetrominoes", put("shape", 1, -1), "not codes from 0 to 19"),
        ("tetrominoes", put("shape", 1, 3e38), "not codes from 0 to 19"),
        ("tetrominoes", put("shape", 1, np.nan), "not codes from 0 to 19"),
        ("tetrominoes", put("x", 1, np.inf), "feature 'x' holds a number that is not finite"),
        ("multi_dsprites_binarized", put("shape", 1, 4), "not codes from 0 to 3"),
        ("clevr_with_masks", put("color", 1, 9), "not codes from 0 to 8"),
    ],
)
def test_records_that_contradict_themselves(tmp_path, name, change, message):
    entities = {"tetrominoes": 4, "multi_dsprites_binarized": 4, "clevr_with_masks": 11}[name]
    rng = np.random.default_rng(1)
    good = enc.shuffled_record(name, rng)[1]
    enc.write(tmp_path / "f", [good, corrupt(name, change, visible=np.ones(entities))], crc=crc32c.crc32c)
    with pytest.raises(UserError, match=f"f: record 1 at byte .*{message}") as caught:
        decode(tmp_path / "f", name, tmp_path / "c")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c").exists()
    assert not (tmp_path / "c.partial").exists()


# --- crop and resize --------------------------------------------------------------------------------------------------


def test_the_published_crop_of_clevr(tmp_path):
    scenes = write(tmp_path / "f", "clevr_with_masks", count=2)
    manifest = decode(tmp_path / "f", "clevr_with_masks", tmp_path / "c")
    assert manifest.crop == Crop(rows=(29, 221), columns=(64, 256), size=(128, 128))
    arrays = open_cache(tmp_path / "c").arrays
    for i, scene in enumerate(scenes):
        window = scene["image"][29:221, 64:256].astype(float)
        ids = scene["ids"][29:221, 64:256]
        for row, column in ((0, 0), (1, 0), (0, 1), (5, 8), (77, 101), (127, 127)):  # by the book: position 1.5 · i
            r, c = int(1.5 * row), int(1.5 * column)
            fr, fc = 1.5 * row - r, 1.5 * column - c
            r1, c1 = min(r + 1, 191), min(c + 1, 191)
            value = (1 - fr) * ((1 - fc) * window[r, c] + fc * window[r, c1])
            value += fr * ((1 - fc) * window[r1, c] + fc * window[r1, c1])
            assert np.abs(arrays["images"][i][:, row, column] - value).max() <= 0.5
            assert arrays["instances"][i][row, column] == ids[r, c]
        counted = np.bincount(arrays["instances"][i].ravel(), minlength=11)
        np.testing.assert_array_equal(arrays["visible_pixels"][i], counted)
        expected = scene["pixel_coords"] * [1, 1, 1]
        expected[:, 0] = (expected[:, 0] - 64) / 1.5
        expected[:, 1] = (expected[:, 1] - 29) / 1.5
        np.testing.assert_allclose(arrays["factor_pixel_coords"][i], expected, rtol=1e-5, atol=1e-4)


def test_resizing_ids_agrees_with_torch_and_never_invents_one():
    ids = np.random.default_rng(0).choice([0, 3, 9], (20, 31)).astype(np.uint8)
    for size in ((20, 31), (7, 9), (40, 33), (1, 1)):
        expected = functional.interpolate(torch.from_numpy(ids)[None, None].float(), size=size, mode="nearest")
        np.testing.assert_array_equal(schemas.resize_ids(ids, size), expected[0, 0].numpy())


def test_resizing_keeps_a_constant_and_halves_a_ramp():
    flat = np.full((3, 10, 12), 77, np.uint8)
    assert (schemas.resize_image(flat, (4, 5)) == 77).all()
    ramp = np.broadcast_to(np.arange(0, 200, 10, dtype=np.uint8), (1, 4, 20))
    np.testing.assert_array_equal(schemas.resize_image(ramp, (4, 10))[0, 0], np.arange(0, 200, 20))
    np.testing.assert_array_equal(schemas.resize_image(ramp, (4, 40))[0, 0][:6], [0, 5, 10, 15, 20, 25])


def test_an_object_outside_the_window_is_present_and_not_visible(tmp_path):
    rng = np.random.default_rng(0)
    values = enc.scene("clevr_with_masks", rng, visible=[1] + [0] * 10)
    values["mask"][:] = 0
    values["mask"][0] = 255
    values["mask"][0, :20, :20], values["mask"][1, :20, :20] = 0, 255
    values["visibility"][1] = 1
    enc.write(tmp_path / "f", [enc.payload(values, rng)], crc=crc32c.crc32c)
    decode(tmp_path / "f", "clevr_with_masks", tmp_path / "c")
    batch = mod.ClevrWithMasksConfig(root=tmp_path / "c").build().batch("train", [0])
    assert batch.present[0, :3].tolist() == [True, True, False]
    assert batch.visible_pixels[0, :2].tolist() == [128 * 128, 0]
    assert batch.boxes[0, 1].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("rows", "columns"), [((29, 241), (64, 256)), ((64, 256), (29, 321))])
def test_a_crop_outside_the_image_is_refused(tmp_path, rows, columns):
    write(tmp_path / "f", "clevr_with_masks", count=1)
    with pytest.raises(UserError, match="leaves the 240x320 images of clevr_with_masks"):
        decode(tmp_path / "f", "clevr_with_masks", tmp_path / "c", crop=Crop(rows=rows, columns=columns))


@pytest.mark.parametrize(
    "values", [{"rows": (5, 5)}, {"rows": (-1, 5)}, {"rows": (6, 5)}, {"columns": (3, 2)}, {"size": (0, 5)}]
)
def test_an_impossible_crop_is_refused(values):
    with pytest.raises(UserError, match="crop"):
        Crop.parse({"rows": (0, 5), "columns": (0, 5), **values})


# --- datasets ---------------------------------------------------------------------------------------------------------


def fake_cache(tmp_path, monkeypatch, name, present, visible=None, displaced=None, instances=None):
    """A cache of hand-made visibilities, without images of interest."""
    present = np.asarray(present, bool)
    layout = schemas.array_layout(name, None)
    arrays = {key: np.zeros((len(present), *shape), dtype) for key, (dtype, shape) in layout.items()}
    arrays["present"] = present
    arrays["visible_pixels"][:] = present if visible is None else visible
    if displaced is not None:
        arrays["displaced"][:] = displaced
    if instances is not None:
        arrays["instances"][:] = instances
    (tmp_path / "official").write_bytes(b"official")
    source = decoded_cache.fingerprint(tmp_path / "official")
    manifest = decoded_cache.Manifest(
        format=1, set_name=name, crop=None, limit=None, source=source, library="0", records=len(present), arrays={}
    )
    cache = decoded_cache.DecodedCache(tmp_path, manifest, arrays)
    monkeypatch.setattr(mod, "open_cache", lambda root, full: cache)


CLEVR_COUNTS = np.array([3, 5, 6, 7, 10, 6, 4])
CLEVR_PRESENT = np.arange(11) <= CLEVR_COUNTS[:, None]  # the background and so many objects


def test_clevr6_is_at_most_six_objects_and_the_background_is_none(tmp_path, monkeypatch):
    fake_cache(tmp_path, monkeypatch, "clevr_with_masks", CLEVR_PRESENT)
    data = mod.ClevrWithMasksConfig(max_objects=6).build()
    assert data.kept == 5
    assert sorted(np.concatenate([data.records(s) for s in data.splits])) == [0, 1, 2, 5, 6]
    assert data.max_objects == 6
    assert "5 of 7 scenes (of at most 6 objects, the background not counted)" in data.describe()
    assert mod.ClevrWithMasksConfig().build().max_objects == 10
    with pytest.raises(UserError, match="none of the 7 scenes of clevr_with_masks has at most 2 objects"):
        mod.ClevrWithMasksConfig(max_objects=2).build()


def test_objects_in_view_can_be_counted_instead(tmp_path, monkeypatch):
    visible = CLEVR_PRESENT * 9
    visible[4, 3:] = 0  # ten objects, of which two are in view
    fake_cache(tmp_path, monkeypatch, "clevr_with_masks", CLEVR_PRESENT, visible)
    data = mod.ClevrWithMasksConfig(max_objects=6, count_by="visible").build()
    assert data.kept == 6
    assert data.max_objects == 10  # a kept scene still has ten
    check_counts = [data.batch(s, range(n)).counts.max().item() for s, n in data.splits.items()]
    assert max(check_counts) == 10


def test_objects_room_has_four_backgrounds_to_leave_out(tmp_path, monkeypatch):
    present = np.ones((3, 7), bool)
    present[0, 4:] = False
    present[1, 5:] = False
    fake_cache(tmp_path, monkeypatch, "objects_room_train", present, displaced=[False, True, False])
    assert mod.ObjectsRoomConfig(max_objects=0).build().kept == 1
    assert mod.ObjectsRoomConfig(max_objects=1).build().kept == 1  # the second holds two, one with a wall's id
    assert mod.ObjectsRoomConfig(max_objects=2).build().kept == 2
    assert mod.ObjectsRoomConfig().build().batch("train", [0]).background_ids == (0, 1, 2, 3)


def test_the_objectwise_rule_takes_one_in_ten_of_every_beginning():
    parts = mod.objectwise_split(100_000)
    blocks = np.sort(parts.reshape(-1, 10), axis=1)
    assert (blocks == [0] * 8 + [1, 2]).all()
    np.testing.assert_array_equal(mod.objectwise_split(777), parts[:777])
    places = np.argsort(parts.reshape(-1, 10), axis=1)[:, -1]
    assert np.bincount(places, minlength=10).min() > 900  # no place in the block is preferred


def large_cache(tmp_path, monkeypatch, name, total, entities, **kwargs):
    """A cache that claims ``total`` records of no pixels."""
    present = np.ones((total, entities), bool)
    monkeypatch.setattr(
        schemas,
        "array_layout",
        lambda *_: {
            "images": (np.dtype(np.uint8), (3, 1, 1)),
            "present": (np.dtype(bool), (entities,)),
            "visible_pixels": (np.dtype(np.int32), (entities,)),
        },
    )
    fake_cache(tmp_path, monkeypatch, name, kwargs.pop("present", present), **kwargs)


def test_the_iodine_rule(tmp_path, monkeypatch):
    large_cache(tmp_path, monkeypatch, "tetrominoes", 60_400, 4)
    data = mod.TetrominoesOfficialConfig(split_rule="iodine").build()
    assert data.splits == {"train": 60_000, "test": 320}
    assert data.records("test")[[0, -1]].tolist() == [60_000, 60_319]
    present = np.ones((71_000, 11), bool)
    present[::2, 7:] = False  # every other scene has six objects
    large_cache(tmp_path, monkeypatch, "clevr_with_masks", 71_000, 11, present=present)
    data = mod.ClevrWithMasksConfig(split_rule="iodine", max_objects=6).build()
    assert data.splits == {"train": 35_000, "test": 320}
    assert data.records("train").max() < 70_000 <= data.records("test").min()
    assert data.records("test").max() == 70_638
    large_cache(tmp_path, monkeypatch, "objects_room_train", 70_000, 7)
    with pytest.raises(UserError, match="IODINE was not trained on objects_room_train"):
        mod.ObjectsRoomConfig(split_rule="iodine").build()


def test_the_addtt_rule(tmp_path, monkeypatch):
    present = np.arange(4) <= np.arange(100_100)[:, None] % 3 + 1
    large_cache(tmp_path, monkeypatch, "multi_dsprites_binarized", 100_100, 4, present=present)
    config = mod.MultiDSpritesOfficialConfig(variant="binarized", split_rule="addtt")
    data = config.build()
    assert data.splits == {"train": 90_000, "val": 5_000, "test": 5_000}
    assert np.concatenate([data.records(s) for s in data.splits]).tolist() == list(range(100_000))
    with pytest.raises(UserError, match="published for all scenes, and for CLEVR with max_objects 6"):
        config.replaced(max_objects=2).build()
    large_cache(tmp_path, monkeypatch, "clevr_with_masks", 60_000, 11, present=np.tile(np.arange(11) < 7, (60_000, 1)))
    config = mod.ClevrWithMasksConfig(split_rule="addtt", max_objects=6, count_by="visible")
    assert config.build().splits == {"train": 49_483, "val": 2_000, "test": 2_000}
    with pytest.raises(UserError, match="published for all scenes"):
        config.replaced(count_by="present").build()


@pytest.mark.parametrize("rule", ["iodine", "addtt"])
def test_a_cache_too_small_for_a_published_split_says_so(mini, rule):
    with pytest.raises(UserError, match=f"split_rule {rule} .* use split_rule objectwise"):
        mod.TetrominoesOfficialConfig(root=mini, split_rule=rule).build()


@pytest.mark.parametrize("rule", ["objectwise", "iodine", "addtt"])
@pytest.mark.parametrize("limit", [None, 6])
def test_splits_never_overlap(tmp_path, monkeypatch, rule, limit):
    present = np.arange(11) <= np.random.default_rng(0).integers(3, 11, 130_000)[:, None]
    large_cache(tmp_path, monkeypatch, "clevr_with_masks", len(present), 11, present=present)
    by = "visible" if rule == "addtt" else "present"
    data = mod.ClevrWithMasksConfig(split_rule=rule, max_objects=limit, count_by=by).build()
    together = np.concatenate([data.records(split) for split in data.splits])
    assert len(np.unique(together)) == len(together) == sum(data.splits.values())
    assert together.max() < len(present)


def test_the_official_scenes_keep_the_contract(mini):
    data = mod.TetrominoesOfficialConfig(root=mini).build()
    assert data.splits == {"train": 8, "val": 1, "test": 1}
    assert data.shuffle
    check_dataset(data)
    batch = data.batch("train", [3, 0])
    assert batch.counts.tolist() == [3, 3]
    assert batch.factors["shape"].dtype == torch.int64
    record = data.records("train")[3]
    expected = open_cache(mini).arrays["images"][record].astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(batch.images[0].numpy(), expected)
    x0, y0 = batch.boxes[0, 1, 0], batch.boxes[0, 1, 1]
    assert (x0, y0) == (batch.factors["y"][0, 1], batch.factors["x"][0, 1])


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (mod.TetrominoesOfficialConfig(), "tetrominoes"),
        (mod.MultiDSpritesOfficialConfig(variant="binarized"), "multi_dsprites_binarized"),
        (mod.MultiDSpritesOfficialConfig(), "multi_dsprites_colored_on_grayscale"),
        (mod.MultiDSpritesOfficialConfig(variant="colored_on_colored"), "multi_dsprites_colored_on_colored"),
        (mod.ClevrWithMasksConfig(), "clevr_with_masks"),
        (mod.ObjectsRoomConfig(), "objects_room_train"),
        (mod.ObjectsRoomConfig(variant="six_objects"), "objects_room_six_objects"),
        (mod.ObjectsRoomConfig(repair_background=True), "objects_room_train"),
    ],
)
def test_every_set_keeps_the_contract(tmp_path, config, name):
    write(tmp_path / "f", name, count=5 if name.startswith("clevr") else 12)
    decode(tmp_path / "f", name, tmp_path / "c")
    data = config.replaced(root=tmp_path / "c").build()
    assert ("train" in data.splits) == (name != "objects_room_six_objects")
    check_dataset(data)
    assert pickle.loads(pickle.dumps(data)).splits == data.splits
    for split, size in data.splits.items():
        batch = data.batch(split, range(size))
        assert all((values[:, list(batch.background_ids)] == 0).all() for values in batch.factors.values())


def test_bad_requests(mini, tmp_path):
    data = mod.TetrominoesOfficialConfig(root=mini).build()
    with pytest.raises(UserError, match="has no split 'dev'; there is train, val, test"):
        data.batch("dev", [0])
    for index in (8, -1):
        with pytest.raises(UserError, match="has samples 0 to 7"):
            data.batch("train", [index])
    with pytest.raises(UserError, match="holds tetrominoes, not clevr_with_masks"):
        mod.ClevrWithMasksConfig(root=mini).build()
    with pytest.raises(UserError, match="is no decoded cache"):
        mod.ObjectsRoomConfig(root=tmp_path / "nothing").build()
    with pytest.raises(UserError, match="is no decoded cache"):
        mod.ObjectsRoomConfig().build()


def test_the_table_names_them():
    for name in ("tetrominoes_official", "multi_dsprites_official", "clevr_with_masks", "objects_room"):
        assert name in DATASETS
        assert issubclass(config_class(name), mod.OfficialConfig)


def test_opening_a_large_cache_reads_next_to_nothing(tmp_path):
    """A sparse 1.2 GB cache; the headers say a hundred thousand images."""
    records, root = 100_000, tmp_path / "big"
    root.mkdir()
    layout = schemas.array_layout("multi_dsprites_binarized", None)
    stored = {}
    for name, (dtype, shape) in layout.items():
        with (root / f"{name}.npy").open("wb") as stream:
            stream.write(decoded_cache.npy_header(dtype, shape, records))
            stream.truncate(decoded_cache.HEADER_BYTES + records * dtype.itemsize * int(np.prod(shape)))
        stored[name] = decoded_cache.Stored(dtype=dtype.str, shape=(records, *shape), sha256="")
    (tmp_path / "f").write_bytes(b"x")
    manifest = decoded_cache.Manifest(
        format=1,
        set_name="multi_dsprites_binarized",
        crop=None,
        limit=None,
        source=decoded_cache.fingerprint(tmp_path / "f"),
        library="0",
        records=records,
        arrays=stored,
    )
    (root / "manifest.json").write_text(manifest.model_dump_json())
    tracemalloc.start()
    data = mod.MultiDSpritesOfficialConfig(root=root, variant="binarized").build()
    data.batch("train", [0, 50_000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.total == records
    assert peak < 20_000_000
    assert len(pickle.dumps(data)) < 2_000


# --- Objects Room's walls ---------------------------------------------------------------------------------------------


def room(walls=2, thing=None, step=4, mirrored=False):
    """Seen from inside: sky above, floor below, one or two walls that are lowest where they meet, their edges in steps.

    ``step``: columns per pixel, or, negative, pixels per column; ``thing``: an object's rows, columns and id.
    """
    ids = np.zeros((64, 64), np.uint8)
    for column in range(64):
        away = abs(column - 40)
        bottom = min(40 + (away // step if step > 0 else away * -step), 62)
        ids[bottom:, column] = 1
        ids[20:bottom, column] = 2 if column < 40 or walls == 1 else 3
    for rows, columns, entity in [thing] if thing else []:
        ids[slice(*rows), slice(*columns)] = entity
    return ids[:, ::-1] if mirrored else ids


@pytest.mark.parametrize(
    ("ids", "displaced"),
    [
        (room(2), False),
        (room(2, mirrored=True), False),
        (room(2, step=-4), False),  # a steep edge has floor beside the wall, but the wall reaches the border
        (room(2, step=-4, mirrored=True), False),
        (room(1), False),  # nothing has the second wall's id
        (room(2, ((50, 60), (10, 20), 4)), False),
        (room(1, ((30, 60), (10, 20), 3)), True),  # an object before the wall
        (room(1, ((58, 63), (10, 20), 3)), True),  # an object on the floor, far from the wall
        (room(1, ((58, 63), (0, 9), 3)), False),  # the same, cut by the border: the rule cannot tell
        (room(1, ((58, 60), (10, 20), 3)), False),  # too small to say
        (room(2, ((50, 60), (10, 20), 6)), False),  # all ids in use
    ],
)
def test_an_object_with_the_second_walls_id_is_recognised(ids, displaced):
    assert schemas.background_is_displaced(ids, 7) is displaced


def test_repairing_moves_ids_presence_and_counts(tmp_path, monkeypatch):
    ids = np.stack([room(1, ((30, 60), (10, 20), 3)), room(2, ((50, 60), (10, 20), 4))])
    ids[0][50:60, 40:50] = 4
    payloads = [
        enc.example(
            {
                "image": enc.bytes_feature(np.zeros((64, 64, 3))),
                "mask": enc.bytes_feature((one == np.arange(7)[:, None, None]) * 255),
            }
        )
        for one in ids
    ]
    enc.write(tmp_path / "f", payloads, crc=crc32c.crc32c)
    decode(tmp_path / "f", "objects_room_train", tmp_path / "c")
    monkeypatch.setattr(mod.OfficialDataset, "_split", lambda self, keep: {"train": keep})
    plain = mod.ObjectsRoomConfig(root=tmp_path / "c").build()
    fixed = mod.ObjectsRoomConfig(root=tmp_path / "c", repair_background=True).build()
    assert plain.displaced == fixed.displaced == 1
    assert "keep the second wall's id in 1 scenes" in plain.describe()
    assert "are moved in 1 scenes" in fixed.describe()
    before, after = plain.batch("train", [0, 1]), fixed.batch("train", [0, 1])
    assert before.counts.tolist() == [1, 1]
    assert after.counts.tolist() == [2, 1]
    expected = np.where(ids[0] >= 3, ids[0] + 1, ids[0])
    np.testing.assert_array_equal(after.instances[0].numpy(), expected)
    np.testing.assert_array_equal(after.instances[1].numpy(), ids[1])
    assert after.present[0].tolist() == [True] * 6 + [False]
    assert after.visible_pixels[0].tolist() == np.bincount(expected.ravel(), minlength=7).tolist()
