from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import Toy, ToyConfig, data, same_training_state, settings, stored, toy, trained

from objectwise.core import UserError
from objectwise.core.weights import load_weights, read_description
from objectwise.training import callbacks
from objectwise.training.callbacks import checkpoint_files, read_metrics
from objectwise.training.fitting import finished_steps


def names(run: Path) -> list[str]:
    return [path.name for path in checkpoint_files(run)]


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    trained(tmp_path / "run", settings(7, checkpoint_every=2))
    assert names(tmp_path / "run") == ["step-000000006.ckpt", "step-000000007.ckpt"]
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == set(names(tmp_path / "run"))


def test_what_a_kill_left_half_written_is_cleaned_up(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    trained(tmp_path / "run", settings(4, checkpoint_every=2))
    (folder / ".step-000000005.ckpt.4711.tmp").write_bytes(b"half")
    (folder / "notes.tmp").write_text("the user's")
    trained(tmp_path / "run", settings(6, checkpoint_every=2), resume=True)
    assert {path.name for path in folder.iterdir()} == {*names(tmp_path / "run"), "notes.tmp"}


def test_a_checkpoint_holds_no_code_and_everything_needed(tmp_path: Path) -> None:
    trained(tmp_path / "run", settings(2))
    content = stored(checkpoint_files(tmp_path / "run")[-1])
    assert content["objectwise"] == {"step": 2, "bad_steps": 0, "bad_in_a_row": 0}
    assert len(content["optimizer_states"]) == 1
    assert "model.encode.weight" in content["state_dict"]


def test_weights_beside_the_checkpoint_are_the_model(tmp_path: Path) -> None:
    model, _ = trained(tmp_path / "run", settings(3))
    described = read_description(tmp_path / "run" / "model")
    assert described["model"] == "toys:Toy"
    again = Toy(ToyConfig.parse(described["config"]))
    load_weights(again, tmp_path / "run" / "model")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def break_replacing(monkeypatch: pytest.MonkeyPatch, error: BaseException, from_step: int) -> None:
    """Everything is written, but the move into place fails from a checkpoint on, as if the process died there."""
    plain = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if "step-" in self.name and int(self.name.split("step-")[1][:9]) >= from_step:
            raise error
        return plain(self, target)

    monkeypatch.setattr(Path, "replace", replace)


def test_a_crash_between_writing_and_renaming_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    trained(tmp_path / "whole", settings(8))
    with monkeypatch.context() as patched:
        break_replacing(patched, RuntimeError("crash"), from_step=6)
        with pytest.raises(RuntimeError, match="crash"):
            trained(run, settings(8, checkpoint_every=2))
    assert finished_steps(run) == 4
    trained(run, settings(8, checkpoint_every=2), resume=True)
    assert same_training_state(checkpoint_files(run)[-1], checkpoint_files(tmp_path / "whole")[-1])


def test_a_crash_while_writing_never_touches_the_final_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the move, only a temporary file of another name exists."""
    seen: list[set[str]] = []
    plain = os.fsync

    def watching(handle: int) -> None:
        seen.append({path.name for path in (tmp_path / "run" / "checkpoints").glob("*3.ckpt*")})
        plain(handle)

    monkeypatch.setattr(os, "fsync", watching)
    trained(tmp_path / "run", settings(3))
    assert set() in seen
    assert names(tmp_path / "run")[-1] == "step-000000003.ckpt"


def spoil_newest(run: Path, how: str) -> None:
    newest = checkpoint_files(run)[-1]
    raw = newest.read_bytes()
    newest.write_bytes({"empty": b"", "cut": raw[: len(raw) // 2], "noise": bytes(range(256)) * 40}[how])


@pytest.mark.parametrize("how", ["empty", "cut", "noise"])
def test_a_damaged_newest_checkpoint_falls_back(tmp_path: Path, how: str) -> None:
    run = tmp_path / "run"
    trained(tmp_path / "whole", settings(10))
    trained(run, settings(6, checkpoint_every=4))
    spoil_newest(run, how)
    assert finished_steps(run) == 4
    _, result = trained(run, settings(10, checkpoint_every=4), resume=True)
    assert result.step == 10
    assert same_training_state(checkpoint_files(run)[-1], checkpoint_files(tmp_path / "whole")[-1])


def test_a_damaged_checkpoint_does_not_outlive_the_good_ones(tmp_path: Path) -> None:
    """Resumed from step 4 and stopped before step 8, whose damaged file would sort as the newest."""
    run = tmp_path / "run"
    trained(run, settings(8, checkpoint_every=4))
    spoil_newest(run, "cut")
    _, result = trained(run, settings(20, checkpoint_every=1), dataset=data(signal_at=2), resume=True)
    assert result.signal_number is not None
    assert finished_steps(run) == result.step
    assert all(stored(path) for path in checkpoint_files(run))
    assert (run / "checkpoints" / "step-000000008.ckpt.damaged").exists()


def test_none_can_be_read(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(run, settings(3))
    for path in checkpoint_files(run):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 2 checkpoints in .* can be read"):
        trained(run, settings(6), resume=True)


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    run, marker = tmp_path / "run", tmp_path / "exploded"
    trained(run, settings(3))
    torch.save({"objectwise": {"step": 9}, "bomb": _Bomb(marker)}, run / "checkpoints" / "step-000000009.ckpt")
    trained(run, settings(5), resume=True)
    assert not marker.exists()


def test_a_checkpoint_of_another_model(tmp_path: Path) -> None:
    trained(tmp_path / "run", settings(3))
    for other in (toy(width=5), toy(critic=True)):
        with pytest.raises(UserError, match=r"is a checkpoint of another model than this Toy: they differ in '\w+"):
            trained(tmp_path / "run", settings(6), other, resume=True)
    assert finished_steps(tmp_path / "run") == 3


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_while_writing_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        break_replacing(patched, OSError(errno.ENOSPC, "No space left on device"), from_step=4)
        with pytest.raises(UserError, match=r"cannot write .*step-000000004\.ckpt: No space left on device"):
            trained(run, settings(8, checkpoint_every=2))
    assert finished_steps(run) == 2
    assert not list((run / "checkpoints").glob(".*")), "a half-written file is left on the full disk"
    assert trained(run, settings(8), resume=True)[1].step == 8


def test_a_full_disk_while_writing_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        plain = json.dumps

        def dumps(row: dict[str, Any], **options: Any) -> str:
            if row.get("step") == 5:
                no_space()
            return plain(row, **options)

        patched.setattr(callbacks.json, "dumps", dumps)
        with pytest.raises(UserError, match=r"cannot write the logs of .*run: No space left on device"):
            trained(run, settings(8, checkpoint_every=2))
    assert finished_steps(run) == 4
    trained(run, settings(8), resume=True)
    rows = [row["step"] for row in read_metrics(run / "metrics.jsonl") if row["split"] == "train"]
    assert rows == [1, 2, 3, 4, 5, 6, 7, 8]


def test_metrics_are_cut_back_to_the_resumed_step(tmp_path: Path) -> None:
    """Lines of steps that are done again are dropped, and an unfinished last line too."""
    run = tmp_path / "run"
    trained(tmp_path / "whole", settings(8))
    trained(run, settings(6, checkpoint_every=4))
    checkpoint_files(run)[-1].unlink()
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 7, "spl')
    trained(run, settings(8, checkpoint_every=4), resume=True)
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2, 3, 4, 5, 6, 7, 8]
    whole = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert [row["loss"] for row in rows if row["split"] == "train"] == [
        row["loss"] for row in whole if row["split"] == "train"
    ]
    assert all(json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
