"""Whatever a user gets wrong: one sentence on stderr, exit code 2, no traceback, nothing lost and nothing left behind."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cli_helpers import QUICK, TINY, Cli
from PIL import Image

from objectwise.training import callbacks
from objectwise.training.callbacks import checkpoint_files
from objectwise.training.fitting import finished_steps


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("trian dair-digits", "there is no command 'trian'; did you mean 'train'?"),
        ("train dair-digit", "there is no recipe 'dair-digit'; did you mean 'dair-digits'?"),
        ("train", "train needs a recipe (`objectwise recipes` lists them) or --config FILE"),
        ("train dair --data foldr", "there is no dataset 'foldr'; did you mean 'folder'?"),
        ("train dair --data", "--data needs a value"),
        ("show ari", "there is no recipe 'ari'; did you mean 'air'?"),
        ("show", "show needs a recipe; `objectwise recipes` lists them"),
        ("data digts", "there is no dataset 'digts'; did you mean 'digits'?"),
        ("data digits", "data needs --out DIR, a folder for the results, or --show"),
        ("data digits --out o --count 99999999", "split 'train' has 60000 samples; cannot write 99999999"),
        ("data digits --out o --count many", "--count: expected a whole number, not 'many'"),
        ("fetch mnits", "there is no download 'mnits'; did you mean 'mnist'?"),
        ("fetch", "fetch needs: Name of the dataset"),
        ("recipes extra", "cannot make sense of: extra"),
        ("models --jsn", "there is no option --jsn; did you mean '--json'?"),
        # overrides
        ("train dair-digits --model.num-stpes 4", "there is no option --model.num-stpes; did you mean '--model.num-steps'?"),
        ("train dair-digits --max-steps 4", "there is no option --max-steps; did you mean '--training.max-steps'?"),
        ("train dair-digits --model.num-steps four", "--model.num-steps: expected a whole number, not 'four'"),
        ("train dair-digits --training.learning-rate fast", "--training.learning-rate: expected a number, not 'fast'"),
        ("train dair-digits --model.num-steps 2.5", "--model.num-steps: expected a whole number, not '2.5'"),
        ("train dair-digits --model.num-steps 0", "model: num_steps = 0: input should be greater than or equal to 1"),
        ("train dair-digits --training.learning-rate -1", "training: learning_rate = -1.0: input should be greater than 0"),
        ("train dair-digits --training.optimizer adm", "invalid choice 'adm' for argument '--training.optimizer'"),
        ("train dair-digits --training.max-steps", "Missing value for argument '--training.max-steps'"),
        ("train dair-digits --training.batch-size 15 --training.devices 2",
         "batch_size 15 must be a multiple of devices 2"),
        ("train dair-digits --data.image-size 9", "digit_size (19, 24) must satisfy 4 <= smallest <= largest <= 9"),
        ("train dair-digits spare words", "cannot make sense of: spare, words"),
        ("train dair-digits --seed -1", "seed = -1: input should be greater than or equal to 0"),
        # presets
        ("train monet --preset papre", "monet has no preset 'papre'; did you mean 'paper'?"),
        ("train vae --preset paper", "vae has no presets"),
        ("train objectwise.models.vae:VAE --data digits --preset paper", "a model of your own has no presets"),
        ("show monet --preset", "--preset needs a value"),
        # what does not fit together
        ("train monet-two-shapes --model.num-slots 2",
         "the data have up to 2 objects but the model finds at most 1; give it room with --model.num-slots"),
        ("train monet-two-shapes --data.image-size 50 --model.unet-widths 8 8 8",
         "but 50x50 pixels can be halved only 1 times; use at most 2 blocks"),
        ("train dair-digits --data.source bundled --data.counts 0 1 2 3 4 5 --model.num-steps 3",
         "the data have up to 5 objects but the model finds at most 3; give it room with --model.num-steps"),
        ("train dair-digits --data.source bundled --model.image-shape 1 20 20",
         "the model is for images of shape (1, 20, 20) (channels, height, width), but the data have (1, 50, 50)"),
        ("train dair-digits --data.source bundled --training.group-learning-rates baseline 0.1",
         "the model has no parameter group 'baseline'; there is default"),
        ("train dair-digits --data.source mnist --data.digits-root nowhere", "no MNIST files in nowhere"),
        # studies
        ("reproduce ball", "there is no study 'ball'; did you mean 'balls'?"),
        ("reproduce balls --jobs 0", "--jobs 0: there must be at least one"),
        ("reproduce balls --seeds 0", "--seeds 0: there must be at least one"),
        ("reproduce balls --first-seed -1", "--first-seed -1: seeds start at 0"),
        ("reproduce balls --first-seed 1", "balls starts at seed 0 (those of the validation follow the fresh ones), not at"),
        # data folders
        ("train dair --data folder", "the folder dataset needs a folder with images; give it with --data.root DIR"),
        ("train dair --data folder --data.root nowhere", "there is no folder nowhere"),
        # run folders
        ("resume nowhere", "there is no run folder nowhere"),
        ("resume .", ". is not a run folder: it has no config.yaml"),
        ("resume", "resume needs: Run folder"),
        ("evaluate nowhere", "there is no run or model folder 'nowhere'"),
        ("evaluate .", ". holds no model: model.json is missing"),
        ("figures nowhere", "there is no run or model folder 'nowhere'"),
        ("decompose nowhere --out o", "decompose needs at least one image or folder"),
        ("decompose nowhere nothing.png --out o", "there is no image or folder nothing.png"),
        ("decompose run x.png", "decompose needs: --out STR Folder for the results"),
        # files and import paths
        ("train --config nowhere.yaml", "there is no file nowhere.yaml"),
        ("train nomodule:Model --data digits", "cannot import 'nomodule': No module named 'nomodule'"),
        ("train objectwise.core:Nothing --data digits", "module 'objectwise.core' has no 'Nothing'"),
        ("train objectwise.core:Batch --data digits", "'objectwise.core:Batch' has no Config"),
        ("train objectwise.models.air:AIR", "say what 'objectwise.models.air:AIR' is to be trained on with --data NAME"),
        ("train dair --data objectwise.core:Batch", "'objectwise.core:Batch' is not a configuration of data"),
        ("demo --steps 0", "max_steps = 0: input should be greater than or equal to 1"),
    ],
)  # fmt: skip
def test_words(cli: Cli, tmp_path: Path, words: str, sentence: str) -> None:
    assert sentence in cli(*words.split()).refused()
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "cache"}
    assert not list((tmp_path / "runs").iterdir() if (tmp_path / "runs").exists() else [])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("evaluate run --split tset", "the data have no split 'tset'; did you mean 'test'?"),
        ("evaluate run --batch-size 0", "must be at least 1"),
        ("evaluate run --metrics segmentatoin", "no metric group 'segmentatoin'; did you mean 'segmentation'?"),
        ("evaluate run --metrics properties --limit 10", "need at least 26 images, not 10"),
        ("evaluate run --data.image-size 40", "images of shape (1, 30, 30) (channels, height, width), but the data have"),
        ("evaluate run --data.imagesize 40", "there is no option --data.imagesize"),
        ("evaluate run --model.num-stpes 5", "there is no option --model.num-stpes; did you mean '--model.num-steps'?"),
        ("evaluate run --model.num-steps five", "--model.num-steps: expected a whole number, not 'five'"),
        ("evaluate run --model.what-size 9", "is of another model than this AIR: "),
        ("evaluate run --data sprites", "but the data have (3, 50, 50)"),
        ("evaluate run --data.counts 7", "up to 7 objects but the model finds at most 3"),
        ("evaluate run/model", "say what to score it on with --data NAME"),
        ("evaluate run --model-class objectwise.core:Batch", "is not a model class"),
        ("figures run --split tset", "no split 'tset'"),
        ("resume run --max-steps 3", "run has done 20 steps already, more than max_steps 3"),
        ("decompose run run/config.yaml --out o", "run/config.yaml is not a readable image"),
        ("decompose run run/model --out o", "run/model holds no images"),
        ("demo --out run", "run exists and is not an earlier demo's; choose another --out"),
        ("data digits --source bundled --out run", "run already exists and is not an empty folder; choose another"),
        ("data digits --source bundled --show --out run/config.yaml", "cannot create run/config.yaml: File exists"),
    ],
)  # fmt: skip
def test_words_about_a_run(cli: Cli, run: Path, words: str, sentence: str) -> None:
    before = snapshot(run)
    assert sentence in cli(*words.split()).refused()
    assert snapshot(run) == before


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- data folders -------------------------------------------------------------------------------------------------


def picture(path: Path, size: tuple[int, int] = (16, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0]), 90, np.uint8)).save(path)


def _empty(root: Path) -> None:
    for path in root.glob("*.png"):
        path.unlink()


def _corrupt(root: Path) -> None:
    (root / "3.png").write_bytes(b"no image")


def _mixed(root: Path) -> None:
    picture(root / "9.png", (20, 10))


def _lone_mask(root: Path) -> None:
    picture(root / "masks" / "77.png")


def _crowded(root: Path) -> None:
    """Masks of four objects, one more than the model has steps."""
    for number in range(6):
        ids = np.zeros((16, 16), np.uint8)
        ids[::4, ::4] = np.arange(16).reshape(4, 4) % 5
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(ids).save(root / "masks" / f"{number}.png")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_empty, "pictures holds no images"),
        (_corrupt, "pictures/3.png is not a readable image"),
        (_mixed, "9.png is 20x10; set --data.image-size N, or --data.resize"),
        (_lone_mask, "mask pictures/masks/77.png has no image"),
        (_crowded, "the data have up to 4 objects but the model finds at most 3; give it room with --model.num-steps"),
    ],
)
def test_data_folders(cli: Cli, tmp_path: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    root = tmp_path / "pictures"
    for number in range(6):
        picture(root / f"{number}.png")
    spoil(root)
    before = snapshot(root)
    refusal = cli("train", "dair", "--data", "folder", "--data.root", "pictures", *QUICK, "--out", "run").refused()
    assert sentence in refusal
    assert snapshot(root) == before
    assert not (tmp_path / "run").exists()


# -- run folders --------------------------------------------------------------------------------------------------


def test_an_existing_output_folder_is_never_touched(cli: Cli, run: Path, tmp_path: Path) -> None:
    before = snapshot(run)
    refusal = cli("train", "dair-digits", *TINY, "--out", run).refused()
    assert refusal == f"{run} exists already; choose another --out, or resume it: objectwise resume {run}"
    (tmp_path / "file").write_text("x")
    assert "file exists already" in cli("train", "dair-digits", *TINY, "--out", "file").refused()
    assert "cannot create the run folder" in cli("train", "dair-digits", *TINY, "--out", "file/below").refused()
    assert snapshot(run) == before


def changed_config(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = yaml.safe_load((run / "config.yaml").read_text())
    change(values)
    (run / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"a: [1, 2\nb: }", "config.yaml is not YAML"),
        (b"\x00\xff\xfe garbage", "cannot read"),
        (b"- 1\n- 2\n", "must be a mapping of names to values, not list"),
        (b"", "must be a mapping of names to values, not NoneType"),
        (b"1: 2\n", "1 is not the name of a setting"),
        (b"model_name: 5\ndata_name: digits\n", "model_name must be a name, not 5"),
        (b"name: x\n", "lacks model_name and data_name"),
        (b"model_name: airr\ndata_name: digits\n", "there is no model 'airr'; did you mean 'air'?"),
    ],
)
def test_a_damaged_config(cli: Cli, run: Path, text: bytes, sentence: str) -> None:
    (run / "config.yaml").write_bytes(text)
    before = snapshot(run)
    for verb in ("resume", "figures"):
        refusal = cli(verb, run).refused()
        assert sentence in refusal
        assert "config.yaml" in refusal
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda v: v["training"].update(max_stps=3), "TrainingConfig has no 'max_stps'; did you mean 'max_steps'?"),
        (lambda v: v["model"].update(num_step=3), "AIRConfig has no 'num_step'; did you mean 'num_steps'?"),
        (lambda v: v["data"].update(image_sise=3), "DigitsConfig has no 'image_sise'; did you mean 'image_size'?"),
        (lambda v: v.update(trainin={}), "Experiment has no 'trainin'; did you mean 'training'?"),
        (lambda v: v["model"].update(num_steps="three"), "num_steps = 'three': input should be a valid integer"),
        (lambda v: v.update(training=3), "training must be a mapping of names to values, not int"),
        (lambda v: v.update(model_name="nomodule:Model"), "cannot import 'nomodule'"),
    ],
)
def test_misspelt_yaml(cli: Cli, run: Path, change: Callable[[dict[str, Any]], object], sentence: str) -> None:
    changed_config(run, change)
    assert sentence in cli("train", "--config", run / "config.yaml", "--out", "new").refused()
    assert sentence in cli("resume", run).refused()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("recipe: dair-digit\n", "there is no recipe 'dair-digit'; did you mean 'dair-digits'?"),
        ("recipe: dair-digits\ntrainin: {}\n", "Experiment has no 'trainin'; did you mean 'training'?"),
        (
            "recipe: dair-digits\ntraining: {max_stps: 3}\n",
            "TrainingConfig has no 'max_stps'; did you mean 'max_steps'?",
        ),
        ("recipe: dair-digits\ntraining: 3\n", "training = 3: input should be a valid dictionary"),
        ("recipe: dair-digits\n3: 3\n", "3 is not the name of a setting"),
        ("recipe: [a]\n", "recipe must be a name, not ['a']"),
        ("recipe: dair-digits\ndata: {counts: [0, 7], source: bundled}\n", "the data have up to 7 objects"),
    ],
)
def test_misspelt_recipe_files(cli: Cli, tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert sentence in cli("train", "--config", "mine.yaml").refused()


def test_checkpoints_of_another_model(cli: Cli, run: Path) -> None:
    changed_config(run, lambda v: (v["model"].update(hidden_size=99), v["training"].update(max_steps=30)))
    before = snapshot(run / "checkpoints")
    assert "is a checkpoint of another model than this AIR" in cli("resume", run).refused()
    assert snapshot(run / "checkpoints") == before


def _other_model(run: Path) -> None:
    path = run / "model" / "model.json"
    described = json.loads(path.read_text())
    described["config"]["kind"] = "air"
    path.write_text(json.dumps(described))


def _other_size(run: Path) -> None:
    path = run / "model" / "model.json"
    described = json.loads(path.read_text())
    described["config"]["what_size"] = 7
    path.write_text(json.dumps(described))


def _cut_weights(run: Path) -> None:
    path = run / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _no_weights(run: Path) -> None:
    (run / "model" / "model.safetensors").unlink()


def _no_model(run: Path) -> None:
    shutil.rmtree(run / "model")


def _odd_json(run: Path) -> None:
    (run / "model" / "model.json").write_text("[1]")


def _cut_json(run: Path) -> None:
    (run / "model" / "model.json").write_text('{"format": 1, "mod')


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_other_model, "is of another model than AIR"),
        (_other_size, "is of another model than this AIR"),
        (_cut_weights, "model.safetensors is damaged"),
        (_no_weights, "holds no weights: model.safetensors is missing"),
        (_no_model, "holds no model: model.json is missing"),
        (_odd_json, "does not describe an objectwise model"),
        (_cut_json, "model.json is damaged"),
    ],
)
def test_weights(cli: Cli, run: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    spoil(run)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(run.parent / "x.png")
    for words in (["evaluate", run], ["figures", run], ["decompose", run, "x.png", "--out", "o"]):
        assert sentence in cli(*words).refused()
    assert not (run.parent / "o").exists()


def test_all_checkpoints_damaged(cli: Cli, run: Path) -> None:
    for path in checkpoint_files(run):
        path.write_bytes(b"")
    assert "none of the 2 checkpoints" in cli("resume", run, "--max-steps", 30).refused()
    assert yaml.safe_load((run / "config.yaml").read_text())["training"]["max_steps"] == 20


# -- a full disk --------------------------------------------------------------------------------------------------


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("what", ["checkpoint", "weights", "metrics", "results"])
def test_a_full_disk(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Lengthening a run fails in one sentence, the last good checkpoint loads, and with room again it goes on."""
    from objectwise.core import weights

    with monkeypatch.context() as patched:
        if what == "checkpoint":
            import lightning

            plain = lightning.Trainer.save_checkpoint

            def save(self: lightning.Trainer, path: Path, **options: Any) -> None:
                plain(self, path, **options)
                if self.lightning_module.step > 20:
                    Path(path).write_bytes(Path(path).read_bytes()[:100])
                    full()

            patched.setattr(lightning.Trainer, "save_checkpoint", save)
        elif what == "weights":
            patched.setattr(weights.safetensors.torch, "save", full)
        elif what == "metrics":
            patched.setattr(callbacks.Records, "_write", _failing_write)
        else:
            plain_text = Path.write_text
            patched.setattr(
                Path,
                "write_text",
                lambda self, *a, **k: full() if "results" in self.name else plain_text(self, *a, **k),
            )
        refusal = cli("resume", run, "--max-steps", 40)
    assert refusal.code == 2
    assert refusal.err.splitlines()[-1].endswith("No space left on device")
    assert "Traceback" not in refusal.err
    assert refusal.out == ""
    assert finished_steps(run) >= 20
    assert cli("resume", run).code == 0
    assert json.loads((run / "results.json").read_text())["steps"] == 40


def _failing_write(self: callbacks.Records, *_: object) -> None:
    with self._clear_errors():
        full()


def test_a_run_that_never_began_leaves_no_folder(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning

    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", full)
    refusal = cli("train", "dair-digits", *TINY, "--out", "run").refused()
    assert "step-000000000.ckpt: No space left on device" in refusal
    assert not (tmp_path / "run").exists()
