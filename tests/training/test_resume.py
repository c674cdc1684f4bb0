from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import data, same_training_state, settings, toy, trained

from objectwise.training import fitting
from objectwise.training.callbacks import checkpoint_files


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "rmsprop"])
@pytest.mark.parametrize("critic", [False, True])
def test_n_and_n_more_are_2n_bitwise(tmp_path: Path, optimizer: str, critic: bool) -> None:
    """Weights, optimiser state and counters, from a model that was built anew."""
    changes = {"optimizer": optimizer, "warmup_steps": 10, "schedule": "exponential", "half_life": 7}
    whole, _ = trained(tmp_path / "whole", settings(14, **changes), toy(critic=critic))
    trained(tmp_path / "parts", settings(7, **changes), toy(critic=critic))
    parts, result = trained(tmp_path / "parts", settings(14, **changes), toy(seed=9, critic=critic), resume=True)
    assert result.step == 14
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    assert same_training_state(checkpoint_files(tmp_path / "whole")[-1], checkpoint_files(tmp_path / "parts")[-1])


def test_interrupted_anywhere_and_resumed_is_the_same(tmp_path: Path) -> None:
    """Ctrl-C at several moments, the cosine schedule included, whose length is that of the whole run."""
    config = settings(40, schedule="cosine")
    trained(tmp_path / "whole", config)
    last = checkpoint_files(tmp_path / "whole")[-1]
    for moment in (1, 6, 20):
        run = tmp_path / f"at-{moment}"
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        _, result = trained(run, config, dataset=data(signal_at=moment))
        assert result.signal_number == signal.SIGINT
        assert result.step < 40
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        trained(run, config, resume=True)
        assert same_training_state(checkpoint_files(run)[-1], last)


def test_ctrl_c_while_lightning_sets_itself_up_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries may swallow a KeyboardInterrupt in their set-up; training stops after the first step all the same."""
    real = fitting._trainer

    def interrupted(*arguments: Any) -> Any:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(fitting, "_trainer", interrupted)
    before = signal.getsignal(signal.SIGINT)
    _, result = trained(tmp_path / "run", settings(40))
    assert (result.signal_number, result.step) == (signal.SIGINT, 1)
    assert signal.getsignal(signal.SIGINT) == before


def test_resuming_a_finished_run_gives_its_model(tmp_path: Path) -> None:
    """No step is left to do, but the weights are the trained ones, not fresh ones."""
    whole, _ = trained(tmp_path / "run", settings(5))
    again, result = trained(tmp_path / "run", settings(5), toy(seed=9), resume=True)
    assert result.step == 5
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_resuming_before_the_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    trained(tmp_path / "whole", settings(4))
    trained(tmp_path / "run", settings(4), resume=True)
    assert same_training_state(checkpoint_files(tmp_path / "run")[-1], checkpoint_files(tmp_path / "whole")[-1])


def test_validation_and_logging_leave_training_as_it_was(tmp_path: Path) -> None:
    often, _ = trained(tmp_path / "often", settings(6, validate_every=1, log_every=1, checkpoint_every=1))
    never, _ = trained(tmp_path / "never", settings(6, validate_every=99, log_every=99, checkpoint_every=99))
    assert all(torch.equal(a, b) for a, b in zip(often.parameters(), never.parameters(), strict=True))


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    one, _ = trained(tmp_path / "one", settings(3), seed=1)
    two, _ = trained(tmp_path / "two", settings(3), seed=2)
    assert not torch.equal(one.encode.weight, two.encode.weight)
