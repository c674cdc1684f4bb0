from __future__ import annotations

import functools
import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cli_helpers import Cli
from PIL import Image

import objectwise
from objectwise.data import DATASETS
from objectwise.data.digits import DigitsConfig
from objectwise.data.download import DOWNLOADS, Download, RemoteFile
from objectwise.data.folder import FolderConfig
from objectwise.models import MODELS
from objectwise.recipes import RECIPES, preset_names

SMALL = ["--source", "bundled", "--image-size", "30", "--digit-size", "10", "14", "--eval-size", "50"]


# -- evaluate -----------------------------------------------------------------------------------------------------


def test_evaluate_repeats_the_results_of_training(cli: Cli, finished_run: Path) -> None:
    done = cli("evaluate", finished_run, "--json")
    assert done.code == 0
    found = json.loads(done.out)  # stdout holds JSON and nothing else
    results = json.loads((finished_run / "results.json").read_text())
    for name in ("split", "images", "loss", "mse", "count_accuracy", "details"):
        assert found[name] == pytest.approx(results[name], rel=1e-6) if name == "loss" else found[name] == results[name]


def test_evaluate_on_other_settings_and_data(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    """--data.* alone changes the run's own data; --data NAME takes others."""
    few = json.loads(cli("evaluate", finished_run, "--data.counts", 2, "--limit", 30, "--json").out)
    assert few["images"] == 30
    assert np.array(few["details"]["count_accuracy"]["confusion"])[2].sum() == 30
    assert cli("data", "digits", *SMALL, "--split", "test", "--count", 40, "--out", "pictures").code == 0
    words = ["evaluate", finished_run, "--data", "folder", "--data.root", "pictures", "--split", "train", "--json"]
    other = json.loads(cli(*words).out)
    assert other["images"] == FolderConfig(root=tmp_path / "pictures").build().splits["train"]
    assert {"foreground_ari", "count_accuracy", "mse"} <= other.keys()


def test_evaluate_with_other_settings_of_the_model(cli: Cli, finished_run: Path) -> None:
    """More steps than in training, in counts and codes; what was changed is told; the run is left as it was."""
    before = (finished_run / "model" / "model.json").read_bytes()
    words = ["evaluate", finished_run, "--data.counts", 5, "--data.overlap", "allowed", "--limit", 20, "--json"]
    done = cli(*words, "--model.num-steps", 5)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["model"] == {"num_steps": 5}
    assert len(found["details"]["count_accuracy"]["confusion"][0]) == 6
    same = json.loads(cli("evaluate", finished_run, "--limit", 20, "--model.num-steps", 3, "--json").out)
    assert "model" not in same, "three steps are what it was trained with"
    assert (finished_run / "model" / "model.json").read_bytes() == before


def test_evaluate_for_people(cli: Cli, finished_run: Path) -> None:
    done = cli("evaluate", finished_run, "--split", "val", "--limit", 10)
    assert done.code == 0
    assert "count_accuracy" in done.out
    assert "confusion" in done.out
    assert done.err == "10 images of the val split\n"


def test_evaluate_metric_groups(cli: Cli, finished_run: Path) -> None:
    words = ["evaluate", finished_run, "--limit", 40, "--metrics", "segmentation", "diagnosis", "--degenerate", "one"]
    done = cli(*words, "--json")
    assert done.code == 0, done.err

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    record = json.loads(done.out, parse_constant=refuse)
    rows = record["metrics"]["segmentation"]["masks"]
    assert rows["foreground_ari"]["policy"]["degenerate"] == "one"
    assert rows["foreground_ari"]["n_scored"] == 40
    assert sum(part["n_scored"] for part in rows["ari"]["by_count"].values()) == 40
    assert rows["ari"]["interval"][0] <= rows["ari"]["value"] <= rows["ari"]["interval"][1]
    assert record["metrics"]["segmentation"]["reconstruction"]["mse"]["value"] == pytest.approx(record["mse"])
    assert record["metrics"]["diagnosis"]["masks"]["stripes"]["threshold"] == 0.6
    plain = json.loads(cli("evaluate", finished_run, "--limit", 40, "--json").out)
    assert {name: value for name, value in record.items() if name != "metrics"} == plain
    told = cli(*words)
    assert "segmentation: masks" in told.out
    assert "2 objects" in told.out
    assert f"{rows['mbo_i']['value']:.4f}" in told.out
    assert "diagnosis: masks" in told.out
    assert "foreground ARI: " in told.err
    fires = [line for line in told.out.splitlines() if " FIRES " in line]
    assert len(fires) == sum("masks: " in line for line in told.err.splitlines())


def test_evaluate_a_bare_model(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run / "model", tmp_path / "bare")
    flags = [flag.replace("--", "--data.") if flag.startswith("--") else flag for flag in SMALL]
    found = json.loads(cli("evaluate", "bare", "--data", "digits", *flags, "--json").out)
    assert found["count_accuracy"] == json.loads((finished_run / "results.json").read_text())["count_accuracy"]


def test_a_model_of_one_slot_is_told_not_to_count(cli: Cli, tmp_path: Path) -> None:
    """No count accuracy of "always one", neither as scores nor in the report, and a word on why."""
    small = [*SMALL, "--eval-size", "20"]
    flags = [flag.replace("--", "--data.") if flag.startswith("--") else flag for flag in small]
    words = ["--model.channels", 2, "--model.hidden-size", 8, "--model.latent-size", 3, "--training.max-steps", 1]
    assert cli("train", "vae-digits", *flags, *words, "--out", "whole").code == 0
    record = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert "count_accuracy" not in record
    assert "one slot" in record["details"]["count_accuracy"]["left_out"]
    page = (tmp_path / "whole" / "report.html").read_text(encoding="utf-8")
    assert "count accuracy" not in page
    assert "Counts are not scored: the model has one slot" in page
    done = cli("evaluate", "whole", "--limit", 5)
    assert done.code == 0
    assert "count" not in done.out
    assert "counts are not scored: the model has one slot" in done.err


# -- decompose ----------------------------------------------------------------------------------------------------


def pictures(folder: Path) -> dict[str, tuple[int, int]]:
    """Real scenes as files of several kinds and sizes; returns their (height, width)."""
    scenes = DigitsConfig(source="bundled", image_size=60, digit_size=(20, 28)).build().batch("test", range(4)).images
    grey = [(scene[0] * 255).byte().numpy() for scene in scenes]
    (folder / "deep" / "er").mkdir(parents=True)
    Image.fromarray(grey[0]).save(folder / "grey.png")
    Image.fromarray(grey[1]).convert("RGB").resize((90, 45)).save(folder / "wide.jpg")
    alpha = Image.fromarray(grey[2]).convert("RGBA")
    alpha.save(folder / "deep" / "rgba.png")
    Image.fromarray(grey[3]).resize((17, 33)).save(folder / "deep" / "er" / "small.png")
    return {"grey.png": (60, 60), "wide.jpg": (45, 90), "deep/rgba.png": (60, 60), "deep/er/small.png": (33, 17)}


def finder(run: Path) -> Path:
    """The run's model, made to see two objects in whatever it is shown: an untrained one might find none."""
    from objectwise.core import save_weights

    model = objectwise.load(run)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([8.0, 0, 0, 0, -5, -5, -5]))
        model.decoder[2].bias.fill_(3.0)
    save_weights(model.reconfigured(num_steps=2), "air", run / "model")
    return run


def test_decompose_a_folder(cli: Cli, run: Path, tmp_path: Path) -> None:
    sizes = pictures(tmp_path / "in")
    done = cli("decompose", finder(run), "in", "--out", "out", "--json")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert {item["image"] for item in summary} == {f"in/{name}" for name in sizes}
    assert done.err.count("\n") == 4
    for name, (height, width) in sizes.items():
        folder = tmp_path / "out" / name
        record = json.loads((folder / "objects.json").read_text())
        assert (record["image"], record["height"], record["width"]) == (f"in/{name}", height, width)
        assert record["count"] == len(record["objects"]) == 2
        assert sum(record["count_probs"]) == pytest.approx(1.0, abs=1e-4)
        mask = Image.open(folder / "mask.png")
        assert (mask.mode, mask.size) == ("P", (width, height))
        assert Image.open(folder / "overlay.png").size == (width, height)
        check_objects(folder, record, np.array(mask))


def check_objects(folder: Path, record: dict, ids: np.ndarray) -> None:  # type: ignore[type-arg]
    """The palette mask, the record and the cut-outs say the same."""
    assert set(np.unique(ids)) <= set(range(record["count"] + 1))
    for number, item in enumerate(record["objects"], 1):
        assert item["id"] == number
        assert item["area"] == (ids == number).sum()
        assert 0.5 < item["presence"] <= 1.0
        assert len(item["slot"]) == 53
        assert len(item["window"]) == 4
        cut = Image.open(folder / item["file"])
        assert cut.mode == "RGBA"
        rows, columns = np.nonzero(ids == number)
        if len(rows) == 0:
            assert item["box"] == [0, 0, 0, 0]
            assert cut.size == (1, 1)
            continue
        x0, y0, x1, y1 = item["box"]
        assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert cut.size == (x1 - x0, y1 - y0)
        assert np.array_equal(np.array(cut)[..., 3] > 0, ids[y0:y1, x0:x1] == number)
    assert any(item["area"] for item in record["objects"])


def test_decompose_files_by_name_and_overwrite(cli: Cli, run: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "in")
    words = ["decompose", run, "in/grey.png", "in/deep/rgba.png", "--out", "out"]
    assert cli(*words).code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["grey.png", "rgba.png"]
    (tmp_path / "out" / "grey.png" / "object-9.png").write_text("stale")
    before = (tmp_path / "out" / "grey.png" / "objects.json").read_text()
    (tmp_path / "out" / "grey.png" / "objects.json").write_text("mine")
    assert "out/grey.png exists already; choose another --out, or pass --overwrite" in cli(*words).refused()
    assert (tmp_path / "out" / "grey.png" / "objects.json").read_text() == "mine"
    assert cli(*words, "--overwrite").code == 0
    assert (tmp_path / "out" / "grey.png" / "objects.json").read_text() == before
    assert not (tmp_path / "out" / "grey.png" / "object-9.png").exists()


def test_decompose_leaves_masks_out_and_batches_do_not_matter(cli: Cli, run: Path, tmp_path: Path) -> None:
    assert cli("data", "digits", *SMALL, "--count", 5, "--out", "in").code == 0
    assert cli("decompose", finder(run), "in", "--out", "a", "--batch-size", 2).code == 0
    assert cli("decompose", run, "in", "--out", "b").code == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [f"{n:06d}.png" for n in range(5)]
    for path in (tmp_path / "a").rglob("mask.png"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_decompose_two_images_of_one_name(cli: Cli, run: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "in")
    shutil.copy(tmp_path / "in" / "grey.png", tmp_path / "in" / "deep" / "grey.png")
    refusal = cli("decompose", run, "in/grey.png", "in/deep/grey.png", "--out", "out").refused()
    assert "would both be written to out/grey.png" in refusal
    assert not (tmp_path / "out").exists()


def test_decompose_a_corrupt_image(cli: Cli, run: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "in")
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    assert "in/bad.png is not a readable image" in cli("decompose", run, "in", "--out", "out").refused()


# -- data and fetch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "sprites"])
def test_data_is_written_and_read_back(cli: Cli, tmp_path: Path, name: str) -> None:
    settings = SMALL if name == "digits" else []
    done = cli("data", name, *settings, "--out", "d", "--count", 12, "--split", "val")
    assert (done.code, done.out) == (0, "d\n"), done.err
    read = FolderConfig(root=tmp_path / "d").build()
    assert sum(read.splits.values()) == 12
    kind = {"digits": DigitsConfig(source="bundled", image_size=30, digit_size=(10, 14), eval_size=50)}
    original = kind[name].build() if name in kind else default_config(name).build()
    for split, files in read.files.items():
        for position, file in enumerate(files):
            there = original.batch("val", [int(Path(file).stem)])
            here = read.batch(split, [position])
            assert torch.allclose(here.images, there.images, atol=0.5 / 255)
            assert here.counts.item() == there.counts.item()  # type: ignore[union-attr]


def default_config(name: str):  # type: ignore[no-untyped-def]
    from objectwise.data import config_class

    return config_class(name)()


NEED_FILES = {
    "clevr",
    "clevr_with_masks",
    "dsprites_official",
    "folder",
    "multi_dsprites_official",
    "objects_room",
    "omniglot",
    "tetrominoes_official",
}


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_data_show(cli: Cli, tmp_path: Path, name: str) -> None:
    done = cli("data", name, "--show", *(SMALL if name == "digits" else []))
    if name in NEED_FILES:
        assert "--data.root" in done.refused()
        return
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == f"{name}-sheet.png"
    assert "objects per image" in done.out
    assert Image.open(tmp_path / f"{name}-sheet.png").width > 200


def test_data_help_names_what_there_is(cli: Cli) -> None:
    done = cli("data", "--help")
    assert done.code == 0
    assert all(name in done.out for name in DATASETS)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A local file server with a small stand-in for MNIST."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.gz").write_bytes(b"digits" * 1000)
    file = RemoteFile("a.gz", 6000, hashlib.md5(b"digits" * 1000).hexdigest())
    monkeypatch.setitem(DOWNLOADS, "mnist", Download((file,), ("http://127.0.0.1:9/",)))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "served"))
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_fetch(cli: Cli, mirror: str, tmp_path: Path) -> None:
    done = cli("fetch", "mnist", "--base-url", mirror, "--json")
    assert done.code == 0, done.err
    where = tmp_path / "cache" / "mnist"
    assert json.loads(done.out) == {"name": "mnist", "folder": str(where), "files": ["a.gz"]}
    assert (where / "a.gz").read_bytes() == b"digits" * 1000
    plain = cli("fetch", "mnist", "--base-url", mirror, "--out", "here")
    assert plain.out == "here\n"
    assert (tmp_path / "here" / "a.gz").exists()


def test_fetch_from_a_server_without_the_file(cli: Cli, mirror: str, tmp_path: Path) -> None:
    (tmp_path / "served" / "a.gz").unlink()
    done = cli("fetch", "mnist", "--base-url", mirror)
    assert done.code == 2
    assert "a.gz cannot be had (HTTP 404)" in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


# -- listings -----------------------------------------------------------------------------------------------------


def test_listings(cli: Cli) -> None:
    for verb, table in (("recipes", RECIPES), ("models", MODELS)):
        done = cli(verb)
        assert [line.split()[0] for line in done.out.splitlines()] == list(table)
        found = json.loads(cli(verb, "--json").out)
        assert list(found) == list(table)
        assert all(found.values())


def test_listed_presets_are_those_there_are(cli: Cli) -> None:
    texts = json.loads(cli("recipes", "--json").out)
    for name, text in texts.items():
        assert ("Presets: " in text) == bool(preset_names(name))
        shown = {preset: cli("show", name, "--preset", preset).out for preset in preset_names(name)}
        assert len(set(shown.values())) == len(shown)
        assert not shown or next(iter(shown.values())) == cli("show", name).out
        assert all(preset in text for preset in shown)
    assert preset_names("iodine") == ("published", "paper", "port", "port-first", "tuned")
    assert preset_names("monet-clevr6")[0] == "paper"


def test_show(cli: Cli) -> None:
    for name in RECIPES:
        shown = yaml.safe_load(cli("show", name).out)
        assert shown == json.loads(cli("show", name, "--json").out)
        assert {"model", "data", "training", "seed"} <= shown.keys()
    assert yaml.safe_load(cli("show", "air", "--data", "sprites").out)["data_name"] == "sprites"
    blog = yaml.safe_load(cli("show", "monet", "--data", "sprites", "--preset", "blog").out)
    assert (blog["data_name"], blog["model"]["likelihood"]) == ("sprites", "simplified")


def test_help_and_version(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    from objectwise.cli.main import VERBS

    assert cli("--version").out == f"{objectwise.__version__}\n"
    assert all(verb in cli("--help").out for verb in VERBS)
    assert cli().code == 0


@pytest.mark.parametrize("words", [["train", "dair-digits"], ["resume"], ["evaluate"], ["decompose"], ["figures"],
                                   ["data", "digits"], ["fetch"], ["demo"], ["show", "air"], ["recipes"]])  # fmt: skip
def test_every_verb_has_help(cli: Cli, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli(*words, "--help")
    assert stopped.value.code in (0, None)
    text = capsys.readouterr().out
    assert "usage" in text.lower()
    if words[0] == "train":
        assert "--training.learning-rate" in text
        assert "Learning rate of every parameter group" in text
