"""What AIR in 3D adds to the command line: inferred scenes as JSON, seen from elsewhere, and their scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import Cli
from PIL import Image

from objectwise.core import save_weights
from objectwise.models.air_3d import AIR3D, AIR3DConfig
from objectwise.rendering.tabletop import numba_is_there

needs_numba = pytest.mark.skipif(not numba_is_there(), reason="slow without numba")

SMALL = ["--model.widths", "6", "6", "--model.embedding-size", "12", "--model.hidden-size", "12", "--model.window", "8"]
SMALL += ["--data.renderer.height", "16", "--data.renderer.width", "16", "--data.eval-size", "40"]
SMALL += ["--training.batch-size", "8", "--training.threads", "1", "--training.precision", "float32"]


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A model that sees a sphere, and behind it a cube, in whatever it is shown."""
    torch.manual_seed(0)
    sizes = {"widths": (4,), "embedding_size": 6, "hidden_size": 6, "num_steps": 2}
    model = AIR3D(AIR3DConfig(image_shape=(3, 16, 20), scene={"backend": "torch"}, **sizes))  # type: ignore[arg-type]
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias[0] = 4.0
        model.head.bias[1:3] = torch.tensor([0.5, -0.5])
        model.head.bias[8:] = torch.tensor([0.0, 3.0, 0.0])
    save_weights(model, "air_3d", tmp_path / "model")
    return tmp_path / "model"


def test_decompose_writes_the_scene(cli: Cli, model_folder: Path, tmp_path: Path) -> None:
    Image.effect_noise((40, 32), 80).convert("RGB").save(tmp_path / "one.png")
    done = cli("decompose", model_folder, "one.png", "--out", "out", "--json")
    assert done.code == 0, done.err
    folder = tmp_path / "out" / "one.png"
    scene = json.loads((folder / "scene.json").read_text())
    assert scene["count"] == len(scene["objects"]) == json.loads(done.out)[0]["count"] == 2
    assert scene["camera_degrees"] == {"azimuth": -90.0, "elevation": 50.0}
    for item in scene["objects"]:
        assert item["kind"] == "sphere"
        assert item["probability"] == pytest.approx(np.exp(3) / (np.exp(3) + 2), abs=1e-3)
        assert (item["x"], item["y"]) == (pytest.approx(0.5744, abs=1e-3), pytest.approx(-0.5744, abs=1e-3))
        assert item["yaw_degrees"] == pytest.approx(0.0, abs=0.1)
    views = np.asarray(Image.open(folder / "views.png"))
    assert views.shape == (16, 6 * 20, 3)
    own = np.asarray(objectwise_reconstruction(model_folder))
    assert np.abs(views[:, :20].astype(int) - own).max() <= 1
    assert np.abs(views[:, 60:80].astype(int) - own).max() > 50  # from behind


def objectwise_reconstruction(model_folder: Path) -> np.ndarray:
    """What the model draws, whatever the picture, as bytes."""
    import objectwise

    out = objectwise.load(model_folder).decompose(torch.zeros(1, 3, 16, 20))
    found: np.ndarray = (255 * out.reconstruction[0].movedim(0, -1)).round().numpy().astype(int)
    return found


def test_no_scene_from_a_model_without_one(cli: Cli, run: Path, tmp_path: Path) -> None:
    Image.new("L", (30, 30)).save(tmp_path / "x.png")
    assert cli("decompose", run, "x.png", "--out", "out").code == 0
    names = {path.name for path in (tmp_path / "out" / "x.png").iterdir()}
    assert "objects.json" in names
    assert not names & {"scene.json", "views.png"}


@needs_numba
def test_train_and_evaluate_poses(cli: Cli, tmp_path: Path) -> None:
    done = cli("train", "air-3d-single", *SMALL, "--training.max-steps", 3, "--out", "run")
    assert done.code == 0, done.err
    assert "gone round" in (tmp_path / "run" / "report.html").read_text()
    assert (tmp_path / "run" / "figures" / "scenes-1.png").stat().st_size > 1_000
    words = ["evaluate", "run", "--metrics", "poses", "--limit", 30]
    record = json.loads(cli(*words, "--json").out)
    scenes = record["metrics"]["poses"]["scenes"]
    assert list(scenes) == ["count_accuracy", "f1", "class_accuracy", "position_error"]
    assert scenes["count_accuracy"]["value"] == record["count_accuracy"]
    assert 0.0 < scenes["position_error"]["value"] < 1.0
    assert scenes["class_accuracy"]["n_scored"] == 30
    rotation = record["metrics"]["poses"]["rotation"]
    assert list(rotation) == [f"{kind}_{how}" for kind in ("cube", "sphere", "cylinder") for how in ("median", "mean")]
    told = cli(*words)
    assert "poses: scenes" in told.out
    assert "degrees up to symmetry (cube)" in told.out


def test_other_data_or_models_have_no_poses(cli: Cli, run: Path) -> None:
    assert "the data do not tell the objects' kind" in cli("evaluate", run, "--metrics", "poses").refused()
