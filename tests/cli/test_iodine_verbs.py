"""What IODINE adds to the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import Cli, finish, start
from PIL import Image

from objectwise.core import save_weights
from objectwise.data.tetrominoes import TetrominoesConfig
from objectwise.models.iodine import IODINE
from objectwise.models.iodine_config import IODINEConfig
from objectwise.models.monet import MONet, MONetConfig
from objectwise.recipes import reporting
from objectwise.training.callbacks import checkpoint_files, read_metrics

SMALL = ["--model.refinement-steps", "2", "--model.decoder-widths", "6", "6", "--model.encoder-widths", "6", "6"]
SMALL += ["--model.latent-size", "4", "--model.decoder-kernel", "3", "--model.encoder-kernel", "3"]
QUICK = ["--data.eval-size", "8", "--data.train-size", "64", "--training.batch-size", "4", "--training.threads", "1"]
QUICK += ["--training.precision", "float32", "--training.accelerator", "cpu", "--training.log-every", "1"]


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"num_slots": 3, "refinement_steps": 2, "latent_size": 4, "encoder_hidden": (6,), "lstm_size": 6}
    model = IODINE(
        IODINEConfig(image_shape=(3, 12, 16), decoder_widths=(6,), encoder_widths=(6,), **sizes)  # type: ignore[arg-type]
    )
    save_weights(model, "iodine", tmp_path / "model")
    return tmp_path / "model"


def test_decompose_with_a_trajectory(cli: Cli, model_folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        Image.effect_noise((40, 30), 80).convert("RGB").save(tmp_path / f"{name}.png")
    words = ["decompose", model_folder, "one.png", "two.png", "--json"]
    done = cli(*words, "--out", "plain")
    assert done.code == 0, done.err
    counts = [item["count"] for item in json.loads(done.out)]
    assert not (tmp_path / "plain" / "one.png" / "trajectory.png").exists()
    done = cli(*words, "--out", "out", "--trajectory")
    assert done.code == 0, done.err
    assert [item["count"] for item in json.loads(done.out)] == counts
    sizes = {name: Image.open(tmp_path / "out" / f"{name}.png" / "trajectory.png").size for name in ("one", "two")}
    assert sizes["one"] == sizes["two"]
    more = cli(*words, "--out", "more", "--trajectory", "--num-slots", 5, "--refinement-steps", 4)
    assert more.code == 0, more.err
    larger = Image.open(tmp_path / "more" / "one.png" / "trajectory.png").size
    # Two more columns, of steps, and two more rows, of slots; cells of one inch at 144 dots, gaps of a tenth.
    assert larger[0] - sizes["one"][0] == pytest.approx(2 * 1.1 * 144, abs=2)
    assert larger[1] - sizes["one"][1] == pytest.approx(2 * (0.75 + 0.1) * 144, abs=2)


def test_no_trajectory_without_refinement(cli: Cli, run: Path, tmp_path: Path) -> None:
    Image.new("L", (30, 30)).save(tmp_path / "x.png")
    refusal = cli("decompose", run, "x.png", "--out", "out", "--num-slots", 3).refused()
    assert "has no 'num_slots'; did you mean 'num_steps'" in refusal


@pytest.mark.usefixtures("no_figures")
def test_train_tetrominoes(cli: Cli, tmp_path: Path) -> None:
    """A few steps of a small network."""
    done = cli("train", "iodine-tetrominoes", *SMALL, *QUICK, "--training.max-steps", 2, "--out", "run")
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["split"] == "test"
    assert {"foreground_ari", "elbo", "gain", "kl", "nll"} <= results.keys()


def test_the_report_shows_the_refinement(tmp_path: Path) -> None:
    """Every step of the first held-out images; nothing of it for a model that does not refine."""
    data = TetrominoesConfig(eval_size=3).build()
    torch.manual_seed(0)
    sizes = {"num_slots": 4, "refinement_steps": 2, "latent_size": 4, "encoder_hidden": (6,), "lstm_size": 6}
    config = IODINEConfig(image_shape=(3, 35, 35), decoder_widths=(6,), encoder_widths=(6,), **sizes)  # type: ignore[arg-type]
    (section,) = reporting._refinement_sections(IODINE(config), data, "test")
    assert len(section.figures) == 3
    titles = [axes.get_title() for axes in section.figures[0][0].axes[:4]]
    assert titles == ["input", "start", "step 1", "step 2"]
    shown = np.asarray(section.figures[1][0].axes[0].images[0].get_array())
    np.testing.assert_allclose(shown, data.batch("test", [1]).images[0].movedim(0, -1).numpy(), atol=1e-6)
    monet = MONet(MONetConfig(image_shape=(3, 35, 35), unet_blocks=1, unet_width=4))
    assert reporting._refinement_sections(monet, data, "test") == []


@pytest.mark.slow
def test_two_processes_train_like_one(cli: Cli, tmp_path: Path) -> None:
    """The losses of two processes (gloo) are those of one on the same global batch, and so are the weights."""
    for preset in ("published", "port"):
        words = ["train", "iodine-tetrominoes", "--preset", preset, *SMALL, *QUICK, "--training.max-steps", 4]
        pair = start([*words, "--training.devices", 2, "--out", f"two-{preset}"], tmp_path)
        assert cli(*words, "--out", f"one-{preset}").code == 0
        done = finish(pair, 300.0)
        assert done.code == 0, done.err
        runs = [tmp_path / f"{name}-{preset}" for name in ("one", "two")]
        rows = [[row for row in read_metrics(run / "metrics.jsonl") if row["split"] == "train"] for run in runs]
        for one, two in zip(*rows, strict=True):
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
            assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-3)
        weights = [torch.load(checkpoint_files(run)[-1], weights_only=True)["state_dict"] for run in runs]
        for state in weights:
            # The mask logits' common bias changes no mask: its gradient is rounding, which Adam makes steps of full length of.
            state["model.decoder.rest.1.bias"][0] = 0.0
        for key, value in weights[0].items():
            torch.testing.assert_close(weights[1][key], value, rtol=1e-5, atol=2e-5, msg=lambda m, k=key: f"{k}: {m}")
