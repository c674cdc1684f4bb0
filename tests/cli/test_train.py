from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from cli_helpers import DATA, QUICK, TINY, Cli

import objectwise
from objectwise.training.callbacks import checkpoint_files, read_metrics


def test_what_a_run_folder_holds(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    assert names == {
        "config.yaml",
        "checkpoints",
        "model",
        "metrics.jsonl",
        "tensorboard",
        "results.json",
        "report.html",
        "figures",
    }
    assert [path.name for path in checkpoint_files(finished_run)] == ["step-000000010.ckpt", "step-000000020.ckpt"]
    results = json.loads((finished_run / "results.json").read_text())
    assert results["steps"] == 20
    assert results["images"] == 50
    assert results["split"] == "test"
    assert results["precision"] == "float32"
    assert 0.0 <= results["count_accuracy"] <= 1.0
    assert {"loss", "elbo", "mse", "foreground_ari", "details", "versions", "hardware", "seed"} <= results.keys()
    rows = read_metrics(finished_run / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "train"] == [5, 10, 15, 20]
    assert {"loss", "elbo", "gradient_norm", "wait_share", "seconds_per_step"} <= rows[0].keys()
    assert {row["split"] for row in rows} == {"train", "val"}


def test_the_stored_configuration_is_complete(finished_run: Path) -> None:
    values = yaml.safe_load((finished_run / "config.yaml").read_text())
    assert values["model"]["image_shape"] == [1, 30, 30]
    assert values["data"]["source"] == "bundled"
    assert values["training"]["max_steps"] == 20
    assert set(values) == {"name", "model_name", "data_name", "seed", "out", "model", "data", "training"}


def test_tensorboard_has_scalars_and_pictures(finished_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished_run / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/elbo", "val/count_accuracy", "val/loss"} <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [5, 10, 15, 20]
    assert tags["images"] == ["val/decompositions"]
    assert events.Images("val/decompositions")[0].width > 100


def test_the_report_is_self_contained(finished_run: Path) -> None:
    page = (finished_run / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert len(sources) >= 4
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "count accuracy" in page
    assert "max_steps: 20" in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_trained_model_loads_in_python(finished_run: Path) -> None:
    model = objectwise.load(finished_run)
    found = model.decompose(torch.rand(2, 1, 30, 30))
    assert found.counts().shape == (2,)
    assert objectwise.load(finished_run, num_steps=5).decompose(torch.rand(1, 1, 30, 30)).num_slots == 6
    assert objectwise.load(finished_run / "model").config == model.config


@pytest.mark.usefixtures("no_figures")
def test_train_prints_the_run_folder_alone(cli: Cli, tmp_path: Path) -> None:
    """And without --out takes the next free number below runs/."""
    (tmp_path / "runs" / "dair-digits-1").mkdir(parents=True)
    done = cli("train", "dair-digits", *TINY, "--training.max-steps", 2)
    assert done.code == 0
    assert done.out == "runs/dair-digits-2\n"
    assert "report: runs/dair-digits-2/report.html" in done.err
    assert "step 2/2" in done.err
    assert list((tmp_path / "runs" / "dair-digits-1").iterdir()) == []


@pytest.mark.usefixtures("no_figures")
def test_show_to_file_to_train(cli: Cli, tmp_path: Path) -> None:
    """What `show` prints is what --config takes, and overrides still work."""
    shown = cli("show", "dair-digits")
    assert shown.code == 0
    (tmp_path / "mine.yaml").write_text(shown.out)
    done = cli("train", "--config", "mine.yaml", *TINY, "--training.max-steps", 2, "--out", "a")
    assert done.code == 0, done.err
    stored = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    shown_values = yaml.safe_load(shown.out)
    assert stored["model"] == {**shown_values["model"], "image_shape": [1, 30, 30]}
    again = cli("train", "--config", "a/config.yaml", "--out", "b")
    assert again.code == 0, again.err
    one, two = (torch.load(checkpoint_files(tmp_path / name)[-1], weights_only=True) for name in "ab")
    assert all(torch.equal(one["state_dict"][key], two["state_dict"][key]) for key in one["state_dict"])
    assert (tmp_path / "a" / "config.yaml").read_text() == (tmp_path / "b" / "config.yaml").read_text()


@pytest.mark.usefixtures("no_figures")
def test_a_file_that_begins_with_a_recipe(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "recipe: dair-digits\nname: mine\ntraining: {max_steps: 2, batch_size: 4, learning_rate: 1e-3}\n"
        "data: {source: bundled, image_size: 30, digit_size: [10, 14], eval_size: 10}\nmodel: {what_size: 7}\n"
    )
    done = cli("train", "--config", "mine.yaml", "--training.threads", 1)
    assert done.code == 0, done.err
    values = yaml.safe_load((tmp_path / "runs" / "mine-1" / "config.yaml").read_text())
    assert (values["model"]["what_size"], values["model"]["kind"]) == (7, "dair")
    assert values["training"]["learning_rate"] == 1e-3


@pytest.mark.usefixtures("no_figures")
def test_other_data_for_a_recipe(cli: Cli, tmp_path: Path) -> None:
    flags = [flag.replace("--data.", "--") for flag in DATA]
    assert cli("data", "digits", *flags, "--count", 20, "--out", "pictures").out == "pictures\n"
    assert (
        cli("data", "digits", *DATA, "--count", 20, "--out", "prefixed").code == 0
    )  # the flags of `train` will do too
    done = cli("train", "air", "--data", "folder", "--data.root", "pictures", *QUICK, "--training.max-steps", 2)
    assert done.code == 0, done.err
    values = yaml.safe_load((tmp_path / "runs" / "air-1" / "config.yaml").read_text())
    assert values["data_name"] == "folder"
    assert values["model"]["image_shape"] == [1, 30, 30]


@pytest.mark.usefixtures("no_figures")
def test_resume_a_finished_run_changes_no_result(cli: Cli, run: Path) -> None:
    before = json.loads((run / "results.json").read_text())
    weights = (run / "model" / "model.safetensors").read_bytes()
    done = cli("resume", run)
    assert (done.code, done.out) == (0, f"{run}\n")
    after = json.loads((run / "results.json").read_text())
    assert after == before
    assert (run / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.usefixtures("no_figures")
def test_resume_for_longer_is_one_long_run(cli: Cli, run: Path, tmp_path: Path) -> None:
    """20 steps, then 10 more, against 30 at once, bitwise: weights and optimiser."""
    assert cli("resume", run, "--max-steps", 30).code == 0
    assert cli("train", "dair-digits", *TINY, "--training.max-steps", 30, "--out", "whole").code == 0
    one, two = (torch.load(checkpoint_files(where)[-1], weights_only=True) for where in (run, tmp_path / "whole"))
    assert all(torch.equal(one["state_dict"][key], two["state_dict"][key]) for key in one["state_dict"])
    states = [content["optimizer_states"][0]["state"] for content in (one, two)]
    assert all(torch.equal(states[0][i]["exp_avg"], states[1][i]["exp_avg"]) for i in states[0])
    assert json.loads((run / "results.json").read_text())["steps"] == 30
    assert yaml.safe_load((run / "config.yaml").read_text())["training"]["max_steps"] == 30


def test_figures_again(cli: Cli, run: Path) -> None:
    shutil.rmtree(run / "figures")
    (run / "report.html").unlink()
    done = cli("figures", run, "--limit", 20)
    assert (done.code, done.out) == (0, f"{run / 'report.html'}\n")
    assert (run / "report.html").exists()
    assert len(list((run / "figures").iterdir())) >= 4
    assert "Segmentation: masks" not in (run / "report.html").read_text()
    assert cli("figures", run, "--limit", 20, "--metrics", "segmentation", "diagnosis").code == 0
    page = (run / "report.html").read_text()
    assert "Segmentation: masks" in page
    assert "miou_fg_matched_with_bg" in page
    assert "Diagnosis: masks" in page


@pytest.mark.usefixtures("no_figures")
def test_demo_twice(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from objectwise.recipes.experiment import Experiment

    plain = Experiment.replaced

    def smaller(self: Experiment, **changes: object) -> Experiment:
        """The demo on fewer held-out scenes, for speed."""
        return plain(self, **changes, data=self.data.replaced(eval_size=20, source="bundled"))

    monkeypatch.setattr(Experiment, "replaced", smaller)
    for steps in (2, 3):
        done = cli("demo", "--steps", steps)
        assert done.code == 0, done.err
        assert done.out == "runs/demo\n"
        assert (tmp_path / "runs" / "demo" / "report.html").exists()
        assert json.loads((tmp_path / "runs" / "demo" / "results.json").read_text())["steps"] == steps
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    assert "not an earlier demo's" in cli("demo", "--out", "precious").refused()
    assert (tmp_path / "precious" / "file").read_text() == "x"


OWN = Path(__file__).resolve().parents[1] / "training" / "toys.py"


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own in the current folder."""
    shutil.copy(OWN, tmp_path / "my_module.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "my_module", raising=False)
    return "my_module"


def test_own_model_and_data(cli: Cli, own_module: str, tmp_path: Path) -> None:
    words = ["train", f"{own_module}:Toy", "--data", f"{own_module}:ToyDataConfig", *QUICK]
    done = cli(*words, "--training.max-steps", 3, "--model.width", 6, "--data.size", 40, "--out", "run")
    assert done.code == 0, done.err
    values = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert values["model_name"] == "my_module:Toy"
    assert values["model"]["width"] == 6
    assert values["name"] == "toy"
    classes = ("--model-class", f"{own_module}:Toy", "--data-class", values["data_name"])
    assert "names a class of its own" in cli("evaluate", "run", *classes[:2]).refused()
    scored = cli("evaluate", "run", *classes, "--json")
    assert scored.code == 0, scored.err
    assert json.loads(scored.out)["images"] == 7
    for verb in (["evaluate", "run"], ["figures", "run"], ["decompose", "run", "my_module.py", "--out", "o"]):
        assert "class of its own, 'my_module:Toy'" in cli(*verb).refused()
    assert cli("figures", "run", *classes).code == 0
    assert cli("resume", "run", "--max-steps", 4).code == 0
    wrong = cli("evaluate", "run", "--model-class", "objectwise.models.air:AIR").refused()
    assert "is a 'my_module:Toy', not the objectwise.models.air:AIR" in wrong


def test_a_strangers_model_runs_no_code(cli: Cli, run: Path, tmp_path: Path) -> None:
    (tmp_path / "stranger.py").write_text("from pathlib import Path\nPath('exploded').touch()\n")
    path = run / "model" / "model.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, "model": "stranger:Model"}))
    values = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**values, "model_name": "stranger:Model"}))
    for verb in (["evaluate", run], ["figures", run], ["decompose", run, run / "figures", "--out", "o"]):
        assert "pass that class to load it" in cli(*verb).refused()
    path.write_text(json.dumps(described))
    (run / "config.yaml").write_text(yaml.safe_dump({**values, "data_name": "stranger:Data"}))
    for verb in (["evaluate", run], ["figures", run]):
        assert "names a class of its own, 'stranger:Data'" in cli(*verb).refused()
    assert not (tmp_path / "exploded").exists()
