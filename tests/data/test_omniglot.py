from __future__ import annotations

import io
import itertools
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_helpers import assert_labels_match_pixels, same
from PIL import Image
from scipy.ndimage import distance_transform_edt

from objectwise.core import SPLITS, UserError, check_dataset
from objectwise.data import omniglot
from objectwise.data.omniglot import OmniglotCharacters, OmniglotConfig

ALPHABETS = ("Alpha", "Beta", "Gamma")
CHARACTERS = 3
DRAWERS = 10
PART = "background_small1"


def drawing(number: int) -> tuple[np.ndarray, str]:
    """Two strokes on 105×105 pixels, a row and a column, and a picture of them with a pen of 3 pixels; all drawings differ."""
    row, column = 20 + number % 40, 70 + number // 40 * 4
    ink = np.zeros((105, 105), bool)
    ink[row - 1 : row + 2, 10:51] = True
    ink[30:91, column - 1 : column + 2] = True
    text = f"START\n10.0,{-row}.0,0\n50.0,{-row}.0,9\nBREAK\n{column}.0,-30.0,20\n{column}.0,-90.0,30\nBREAK\n"
    return ink, text


def png(ink: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(~ink).save(stream, format="PNG")
    return stream.getvalue()


def write_zips(folder: Path, *, strokes: bool = True, drawers: int = DRAWERS) -> Path:
    """Tiny zips laid out like the official ones, with what macOS leaves in them; members in reverse order."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(folder / f"images_{PART}.zip", "w", zipfile.ZIP_DEFLATED) as images,
        zipfile.ZipFile(folder / f"strokes_{PART}.zip", "w", zipfile.ZIP_DEFLATED) as lines,
    ):
        images.writestr(f"images_{PART}/.DS_Store", b"\0\0")
        images.writestr(f"__MACOSX/images_{PART}/Alpha/character01/._0001_01.png", b"junk")
        images.writestr(f"images_{PART}/Alpha/", b"")
        number = 0
        for a, alphabet in reversed(list(enumerate(ALPHABETS))):
            for c in range(CHARACTERS):
                for d in range(1, drawers + 1):
                    ink, text = drawing(number)
                    stem = f"_{PART}/{alphabet}/character{c + 1:02d}/{a * CHARACTERS + c + 1:04d}_{d:02d}"
                    images.writestr(f"images{stem}.png", png(ink))
                    lines.writestr(f"strokes{stem}.txt", text)
                    number += 1
    if not strokes:
        (folder / f"strokes_{PART}.zip").unlink()
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zips(tmp_path_factory.mktemp("omniglot"))


@pytest.fixture(scope="module")
def built(tiny: Path) -> OmniglotCharacters:
    return OmniglotConfig(root=tiny, image_size=50).build()


@pytest.fixture(scope="module")
def real(shared_data: Path) -> OmniglotCharacters:
    if not (shared_data / "omniglot" / f"strokes_{PART}.zip").is_file():
        pytest.skip("no Omniglot strokes at hand")
    return OmniglotConfig(root=shared_data / "omniglot", image_size=28).build()


def test_contract(built: OmniglotCharacters) -> None:
    check_dataset(built)
    assert built.shuffle
    assert list(built.splits) == list(SPLITS)
    assert sum(built.splits.values()) == len(ALPHABETS) * CHARACTERS * DRAWERS


def test_ink_is_white_and_strokes_are_the_labels(built: OmniglotCharacters) -> None:
    batch = built.batch("train", [0, 5])
    assert_labels_match_pixels(batch)
    assert batch.images[:, :, 0].max() == 0
    assert batch.images.max() == 1
    assert batch.counts is not None
    assert batch.counts.tolist() == [2, 2]
    assert batch.boxes is not None
    # The first stroke is the horizontal one, from column 10 to 50 of 105, the second the vertical one to its right.
    first, second = batch.boxes[0, 1], batch.boxes[0, 2]
    assert first[2] - first[0] > 5 * (first[3] - first[1])
    assert second[3] - second[1] > 5 * (second[2] - second[0])
    assert abs(float(first[0]) - 10 * 50 / 105) < 1
    assert abs(float(first[2]) - 51 * 50 / 105) <= 1
    assert second[0] > first[2]


def test_area_averages_by_the_book() -> None:
    """Against a loop over every pair of pixels, at a size that does not divide."""
    ink = np.random.default_rng(0).random((1, 105, 105)) < 0.3
    found = omniglot.area_resized(ink, 8)[0]
    for row in range(0, 8, 3):
        for column in range(8):
            covered = 0.0
            for y in range(105):
                high = max(0.0, min((row + 1) * 105 / 8, y + 1) - max(row * 105 / 8, y))
                if high:
                    for x in range(105):
                        wide = max(0.0, min((column + 1) * 105 / 8, x + 1) - max(column * 105 / 8, x))
                        covered += high * wide * ink[0, y, x]
            assert abs(found[row, column] - 255 * covered / (105 / 8) ** 2) <= 0.5 + 1e-9
    assert np.array_equal(omniglot.area_resized(ink, 105), ink * np.uint8(255))


def test_nearest_stroke_by_the_book() -> None:
    """Against dense points along each line; crossing lines, a single point, and ties to the first."""
    strokes = [np.array([[10.0, 10.0], [80.0, 90.0]]), np.array([[90.0, 5.0], [50.0, 60.0], [20.0, 70.0]])]
    strokes.append(np.array([[100.0, 100.0]]))
    found = omniglot.nearest_stroke(np.ones((21, 21), bool), strokes)
    dense = [
        np.concatenate([p + (q - p) * np.linspace(0, 1, 4000)[:, None] for p, q in itertools.pairwise(s)])
        for s in strokes[:2]
    ] + [strokes[2]]
    for row in range(21):
        for column in range(21):
            centre = np.array([column * 5 + 2.0, row * 5 + 2.0])
            distance = [float(np.sqrt(((centre - points) ** 2).sum(axis=1)).min()) for points in dense]
            chosen = distance[found[row, column] - 1]
            assert chosen <= min(distance) + 0.02
    same_line = omniglot.nearest_stroke(np.ones((5, 5), bool), [strokes[0], strokes[0][::-1], strokes[0]])
    assert set(same_line.flatten()) == {1}


def test_strokes_may_be_absent(tmp_path: Path, tiny: Path) -> None:
    root = write_zips(tmp_path, strokes=False)
    plain = OmniglotConfig(root=root, image_size=50).build()
    check_dataset(plain, samples=4)
    batch = plain.batch("test", [0])
    assert batch.instances is None
    assert batch.counts is None
    with pytest.raises(UserError, match=r"there is no .*strokes_background_small1.zip, and --data.strokes required"):
        OmniglotConfig(root=root, strokes="required").build()
    assert not OmniglotConfig(root=tiny, strokes="none").build().has_strokes


@pytest.mark.parametrize("held_out", ["drawers", "characters", "alphabets"])
def test_splits_hold_out_what_they_say(tiny: Path, held_out: str) -> None:
    dataset = OmniglotConfig(root=tiny, image_size=8, held_out=held_out, strokes="none").build()
    units = {}
    for split in SPLITS:
        labels = dataset.labels(split)
        assert len(labels.character) == dataset.splits[split] > 0
        alphabet, character = labels.alphabet.tolist(), labels.character.tolist()
        assert [labels.characters[c].partition("/")[0] for c in character] == [labels.alphabets[a] for a in alphabet]
        unit = {
            "drawers": list(zip(alphabet, labels.drawer.tolist(), strict=True)),
            "characters": character,
            "alphabets": alphabet,
        }
        units[split] = set(unit[held_out])
        if held_out == "drawers":
            assert set(character) == set(range(len(ALPHABETS) * CHARACTERS))
    assert not units["train"] & units["test"]
    assert not units["train"] & units["val"]
    assert not units["val"] & units["test"]


def test_drawers_are_chosen_by_seed_and_alphabet(tiny: Path) -> None:
    def held(seed: int) -> dict[str, set[int]]:
        dataset = OmniglotConfig(root=tiny, image_size=8, seed=seed, strokes="none").build()
        chosen: dict[str, set[int]] = {}
        for one in dataset.drawings["test"]:
            chosen.setdefault(one.alphabet, set()).add(one.drawer)
        return chosen

    choices = [held(seed) for seed in range(4)]
    assert choices[0] == held(0)
    assert any(choice != choices[0] for choice in choices)
    assert all(len(drawers) == 1 for choice in choices for drawers in choice.values())
    assert any(len({tuple(drawers) for drawers in choice.values()}) > 1 for choice in choices)


def test_order_inside_the_zip_does_not_matter(tmp_path: Path, tiny: Path, built: OmniglotCharacters) -> None:
    for kind in ("images", "strokes"):
        with (
            zipfile.ZipFile(tiny / f"{kind}_{PART}.zip") as old,
            zipfile.ZipFile(tmp_path / f"{kind}_{PART}.zip", "w") as new,
        ):
            for name in reversed(old.namelist()):
                new.writestr(name, old.read(name))
    again = OmniglotConfig(root=tmp_path, image_size=50).build()
    assert same(again.batch("val", [0, 3]), built.batch("val", [0, 3]))


def damaged(tmp_path: Path, change: dict[str, bytes | None], kind: str = "images") -> Path:
    """Tiny zips in which members that end so were replaced, or removed with None."""
    source = write_zips(tmp_path / "whole", drawers=3)
    for name in ("images", "strokes"):
        old = zipfile.ZipFile(source / f"{name}_{PART}.zip")
        with zipfile.ZipFile(tmp_path / f"{name}_{PART}.zip", "w") as new:
            for member in old.namelist():
                ends = [end for end in change if member.endswith(end) and name == kind and "__MACOSX" not in member]
                data = change[ends[0]] if ends else old.read(member)
                if data is not None:
                    new.writestr(member, data)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("images", {"0001_01.png": b"\x89PNG no"}, r"0001_01\.png is not a readable image"),
        ("images", {"0001_01.png": png(np.zeros((20, 30), bool))}, r"0001_01\.png is 30x20, not 105x105"),
        ("images", {".png": None}, r"holds no drawings named images_PART"),
        ("strokes", {"0001_01.txt": None}, r"lacks strokes_background_small1/Alpha/character01/0001_01\.txt"),
        ("strokes", {"0001_01.txt": b"START\n1,2\nBREAK"}, r"0001_01\.txt holds a line that is not a point x,y,t"),
        ("strokes", {"0001_01.txt": b"START\n1,\xff,2\nBREAK"}, r"0001_01\.txt holds a line that is not a point"),
        ("strokes", {"0001_01.txt": b"START\nBREAK"}, r"0001_01\.txt holds no strokes"),
        ("strokes", {"0001_01.txt": b"START\nnan,-2,3\nBREAK"}, r"0001_01\.txt holds a point that is not finite"),
    ],
)
def test_damaged_members(tmp_path: Path, kind: str, change: dict[str, bytes | None], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        OmniglotConfig(root=damaged(tmp_path, change, kind), image_size=8).build()
    assert "\n" not in str(caught.value)


def test_damaged_zips(tmp_path: Path) -> None:
    """Cut anywhere, or with a byte changed anywhere: one sentence, or what was changed was not read."""
    whole = (write_zips(tmp_path / "whole", drawers=3) / f"images_{PART}.zip").read_bytes()
    target = tmp_path / f"images_{PART}.zip"
    generator = np.random.default_rng(0)
    refused = 0
    for attempt in range(40):
        place = int(generator.integers(len(whole)))
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        target.write_bytes(whole[:place] if attempt % 4 == 0 else bytes(changed))
        try:
            OmniglotConfig(root=tmp_path, image_size=8).build()
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert attempt % 4 != 0
    assert refused >= 20


def test_absent_zip(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*images_evaluation\.zip; `objectwise fetch omniglot` gets it"):
        OmniglotConfig(root=tmp_path, part="evaluation").build()
    with pytest.raises(UserError, match="2 drawers of Alpha cannot be shared out between train, val, test"):
        OmniglotConfig(root=write_zips(tmp_path, drawers=2)).build()


def test_unknown_split_and_index(built: OmniglotCharacters) -> None:
    with pytest.raises(UserError, match="no split 'tets'"):
        built.batch("tets", [0])
    with pytest.raises(UserError, match="no split 'tets'"):
        built.labels("tets")
    with pytest.raises(UserError, match="no sample"):
        built.batch("test", [10_000])


def test_real_drawings(real: OmniglotCharacters) -> None:
    check_dataset(real)
    assert real.splits == {"train": 136 * 16, "val": 136 * 2, "test": 136 * 2}
    labels = real.labels("test")
    assert labels.alphabets == ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin")
    assert len(labels.characters) == 136
    assert np.bincount(labels.character).tolist() == [2] * 136
    batch = real.batch("test", range(64))
    assert_labels_match_pixels(batch.select(slice(0, 6)))
    assert batch.object_present is not None
    assert batch.counts is not None
    assert int(batch.counts.min()) >= 1
    assert 0.03 < float((batch.images > 0.5).float().mean()) < 0.12


def test_real_strokes_lie_on_the_ink(shared_data: Path, real: OmniglotCharacters) -> None:
    """Column = x, row = −y: every point of the strokes is on ink or beside it, and a shift by one pixel fits worse."""
    root = shared_data / "omniglot"
    residual: dict[tuple[int, int], list[float]] = {}
    with zipfile.ZipFile(root / f"images_{PART}.zip") as images, zipfile.ZipFile(root / f"strokes_{PART}.zip") as lines:
        for one in real.drawings["test"][:60:2]:
            ink = ~np.array(Image.open(io.BytesIO(images.read(one.member))))
            stem = one.member.removeprefix("images_").removesuffix(".png")
            strokes = omniglot.parse_strokes(lines.read(f"strokes_{stem}.txt"), stem)
            rows, columns = np.nonzero(ink)
            for shift in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
                moved = [points + np.array(shift) for points in strokes]
                squares = omniglot.squared_distances(np.stack([columns, rows], axis=1).astype(float), moved).min(axis=1)
                residual.setdefault(shift, []).append(float(np.sqrt(squares).mean()))
            points = np.concatenate(strokes).round().astype(int).clip(0, 104)
            assert np.quantile(distance_transform_edt(~ink)[points[:, 1], points[:, 0]], 0.9) <= 2.0
    mean = {shift: math.fsum(values) / len(values) for shift, values in residual.items()}
    assert mean[0, 0] < 1.5
    assert min(mean, key=mean.__getitem__) == (0, 0)
