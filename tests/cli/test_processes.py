"""What only another process can show: kill -9 at any moment, Ctrl-C, and several processes training together."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from cli_helpers import DATA, QUICK, TINY, Cli, finish, start, wait_for

from objectwise.training.callbacks import checkpoint_files, read_metrics
from objectwise.training.fitting import finished_steps

pytestmark = pytest.mark.usefixtures("no_figures")


def same_state(first: Path, second: Path) -> bool:
    """Whether the newest checkpoints of two runs hold the same weights and optimiser state, bitwise."""
    one, two = (torch.load(checkpoint_files(run)[-1], weights_only=True) for run in (first, second))
    states = [content["optimizer_states"][0]["state"] for content in (one, two)]
    return (
        one["objectwise"] == two["objectwise"]
        and one["state_dict"].keys() == two["state_dict"].keys()
        and all(torch.equal(one["state_dict"][key], two["state_dict"][key]) for key in one["state_dict"])
        and states[0].keys() == states[1].keys()
        and all(torch.equal(states[0][i][key], states[1][i][key]) for i in states[0] for key in states[0][i])
    )


def kill_and_resume(cli: Cli, folder: Path, steps: int, times: int, seed: int) -> None:
    """Train in one go; train again, killed at random moments; the end is the same."""
    chance = random.Random(seed)
    words = [*TINY, "--training.max-steps", steps, "--training.checkpoint-every", 3, "--training.log-every", 1]
    assert cli("train", "dair-digits", *words, "--out", "whole").code == 0
    run = folder / "killed"
    process = start(["train", "dair-digits", *words, "--out", "killed"], folder)
    wait_for(lambda: len(checkpoint_files(run)) > 0, process)
    reached = []
    for _ in range(times):
        time.sleep(chance.uniform(0.0, 0.4))
        os.killpg(process.pid, signal.SIGKILL)
        finish(process)
        reached.append(finished_steps(run))  # raises if none can be read
        if len(reached) < times:
            process = start(["resume", "killed"], folder)
            before = (run / "metrics.jsonl").stat().st_ino
            wait_for(lambda before=before: (run / "metrics.jsonl").stat().st_ino != before, process)  # type: ignore[misc]
    assert reached == sorted(reached)
    assert cli("resume", "killed").code == 0
    assert same_state(run, folder / "whole")
    losses = [
        [(row["step"], row["loss"]) for row in read_metrics(where / "metrics.jsonl") if row["split"] == "train"]
        for where in (run, folder / "whole")
    ]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == list(range(1, steps + 1))


def test_kill_and_resume_once(cli: Cli, tmp_path: Path) -> None:
    kill_and_resume(cli, tmp_path, steps=60, times=1, seed=time.time_ns())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kill_and_resume_twenty_times(cli: Cli, tmp_path: Path) -> None:
    kill_and_resume(cli, tmp_path, steps=600, times=20, seed=1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(cli: Cli, tmp_path: Path, number: int, code: int) -> None:
    words = [*TINY, "--training.max-steps", 5000, "--training.log-every", 1]
    process = start(["train", "dair-digits", *words, "--out", "run"], tmp_path)
    log = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: log.exists() and len(read_metrics(log)) > 5, process)
    process.send_signal(number)
    done = finish(process)
    assert done.code == code
    assert done.out == ""
    assert "Traceback" not in done.err
    found = re.fullmatch(
        r"objectwise: stopped after step (\d+); go on with: objectwise resume run", done.err.splitlines()[-1]
    )
    assert found, done.err
    step = int(found[1])
    assert finished_steps(tmp_path / "run") == step
    if number == signal.SIGINT:
        assert cli("resume", "run", "--max-steps", step + 3).code == 0
        assert finished_steps(tmp_path / "run") == step + 3


def test_ctrl_c_before_the_first_step(cli: Cli, tmp_path: Path) -> None:
    """As soon as the run folder is there; nothing is broken, and the run can be begun by resuming it."""
    process = start(["train", "dair-digits", *TINY, "--training.max-steps", 5000, "--out", "run"], tmp_path)
    wait_for(lambda: (tmp_path / "run" / "config.yaml").exists(), process)
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.code == 130, done
    assert "Traceback" not in done.err
    assert re.search(r"stopped after step \d+; go on with: objectwise resume run$", done.err.strip()), done.err
    step = finished_steps(tmp_path / "run")
    assert cli("resume", "run", "--max-steps", step + 2).code == 0


def test_ctrl_c_while_importing(tmp_path: Path) -> None:
    process = start(["train", "dair-digits", *TINY, "--out", "run"], tmp_path)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.code == 130
    assert done.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_two_processes_train_like_one(cli: Cli, tmp_path: Path) -> None:
    """The losses of two processes (gloo) are those of one on the same global batch, and so are the weights."""
    words = [*DATA, *QUICK, "--training.max-steps", 8, "--training.log-every", 1, "--training.accelerator", "cpu"]
    pair = start(["train", "dair-digits", *words, "--training.devices", 2, "--out", "two"], tmp_path)
    assert cli("train", "dair-digits", *words, "--out", "one").code == 0
    done = finish(pair)
    assert done.code == 0, done.err
    assert done.out == "two\n"
    rows = [
        [row for row in read_metrics(tmp_path / name / "metrics.jsonl") if row["split"] == "train"]
        for name in ("one", "two")
    ]
    assert [row["step"] for row in rows[1]] == list(range(1, 9))
    for one, two in zip(*rows, strict=True):
        for name in ("loss", "elbo", "kl_what", "gradient_norm"):
            assert two[name] == pytest.approx(one[name], rel=1e-5 if name in ("loss", "elbo") else 1e-4), one["step"]
    weights = [
        torch.load(checkpoint_files(tmp_path / name)[-1], weights_only=True)["state_dict"] for name in ("one", "two")
    ]
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-5) for key in weights[0])


@pytest.mark.slow
def test_ctrl_c_stops_two_processes_after_the_same_step(cli: Cli, tmp_path: Path) -> None:
    words = [*DATA, *QUICK, "--training.max-steps", 5000, "--training.log-every", 1, "--training.accelerator", "cpu"]
    pair = start(["train", "dair-digits", *words, "--training.devices", 2, "--out", "two"], tmp_path)
    log = tmp_path / "two" / "metrics.jsonl"
    wait_for(lambda: log.exists() and len(read_metrics(log)) > 5, pair)
    os.killpg(pair.pid, signal.SIGINT)  # a terminal sends it to all of them
    done = finish(pair)
    assert done.code == 130, done
    assert "go on with: objectwise resume two" in done.err
    assert "Traceback" not in done.err
    assert finished_steps(tmp_path / "two") > 5
