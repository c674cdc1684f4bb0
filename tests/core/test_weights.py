from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from toy_models import OneSlotVAE, SlotMixture, ToyConfig

from objectwise.core import UserError, load_weights, read_description, save_weights
from objectwise.core.weights import DESCRIPTION, WEIGHTS
from objectwise.models.air import AIR, AIRConfig
from objectwise.models.loading import load_model


def test_round_trip(tmp_path: Path) -> None:
    model, other = SlotMixture(), SlotMixture()
    save_weights(model, "toy", tmp_path / "a" / "b")
    load_weights(other, tmp_path / "a" / "b")
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    described = read_description(tmp_path / "a" / "b")
    assert described["model"] == "toy"
    assert ToyConfig.parse(described["config"]) == model.config
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [DESCRIPTION, WEIGHTS]


def test_tied_weights_can_be_saved(tmp_path: Path) -> None:
    model, other = SlotMixture(), SlotMixture()
    for each in (model, other):
        each.tied = each.decoder
    save_weights(model, "toy", tmp_path)
    load_weights(other, tmp_path)
    assert torch.equal(other.decoder.weight, model.decoder.weight)
    assert other.tied.weight is other.decoder.weight


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_damaged_weights(tmp_path: Path, keep: int) -> None:
    save_weights(SlotMixture(), "toy", tmp_path)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load_weights(SlotMixture(), tmp_path)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    save_weights(SlotMixture(), "toy", tmp_path)
    (tmp_path / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="is damaged"):
        load_weights(SlotMixture(), tmp_path)
    torch.save({"a": Bomb()}, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match="is damaged"):
        load_weights(SlotMixture(), tmp_path)
    assert not (tmp_path / "ran").exists()


def test_missing_files(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"holds no model: model\.json is missing"):
            read_description(folder)
        with pytest.raises(UserError, match=r"holds no weights: model\.safetensors is missing"):
            load_weights(SlotMixture(), folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("\xff", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ("[]", "does not describe an objectwise model"),
        ('{"model": "air"}', "does not describe an objectwise model"),
        ('{"format": 99, "model": "air", "config": {}}', "has format 99; this version of objectwise reads format 1"),
    ],
    ids=["cut", "not utf-8", "nested", "list", "foreign", "newer"],
)
def test_bad_descriptions(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / DESCRIPTION).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        read_description(tmp_path)


def test_weights_of_another_model_change_nothing(tmp_path: Path) -> None:
    save_weights(SlotMixture(), "toy", tmp_path)
    for other, message in (
        (SlotMixture(ToyConfig(num_slots=5)), r"'encoder\.bias' has shape \(24,\), not \(40,\)"),
        (OneSlotVAE(), "is of another model than this OneSlotVAE"),
        (AIR(AIRConfig(image_shape=(1, 8, 8))), r"is of another model than AIR: .* has no 'decoder\.0\.bias'"),
    ):
        before = {name: value.clone() for name, value in other.state_dict().items()}
        with pytest.raises(UserError, match=message):
            load_weights(other, tmp_path)
        assert all(torch.equal(other.state_dict()[name], value) for name, value in before.items())
    tensors = safetensors.torch.load_file(tmp_path / WEIGHTS)
    del tensors["encoder.bias"]
    safetensors.torch.save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=r"model\.safetensors has no 'encoder\.bias'"):
        load_weights(SlotMixture(), tmp_path)


def test_full_disk_keeps_the_old_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SlotMixture()
    save_weights(model, "toy", tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        save_weights(SlotMixture(), "toy", tmp_path)
    monkeypatch.undo()
    load_weights(other := SlotMixture(), tmp_path)
    assert torch.equal(other.encoder.weight, model.encoder.weight)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot create"):
        save_weights(model, "toy", tmp_path / "file" / "model")


def test_load_model(tmp_path: Path) -> None:
    """By name, with run-time settings changed; a class of one's own only when it is passed."""
    model = AIR(AIRConfig(image_shape=(1, 8, 8), glimpse_size=4))
    save_weights(model, "air", tmp_path)
    loaded = load_model(tmp_path, num_steps=5)
    assert isinstance(loaded, AIR)
    assert loaded.config == model.config.replaced(num_steps=5)
    assert not loaded.training
    with pytest.raises(UserError, match="did you mean 'num_steps'"):
        load_model(tmp_path, num_step=5)
    save_weights(SlotMixture(), "toy_models:SlotMixture", tmp_path)
    assert isinstance(load_model(tmp_path, own_class=SlotMixture), SlotMixture)
    with pytest.raises(UserError, match="the model is a 'toy_models:SlotMixture', not the toy_models:OneSlotVAE"):
        load_model(tmp_path, own_class=OneSlotVAE)


def test_a_strangers_class_is_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    save_weights(SlotMixture(), "stranger:Model", tmp_path)
    with pytest.raises(UserError, match="a class of its own, 'stranger:Model'; pass that class"):
        load_model(tmp_path)
    described = json.loads((tmp_path / DESCRIPTION).read_text())
    (tmp_path / DESCRIPTION).write_text(json.dumps({**described, "model": "arr"}))
    with pytest.raises(UserError, match="there is no model 'arr'; did you mean 'air'"):
        load_model(tmp_path)
    assert not (tmp_path / "ran").exists()
