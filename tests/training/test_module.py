from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from toys import data, settings, stored, toy, trained

from objectwise.core import ShardedGenerator, TrainingOrder, UserError, seed_for
from objectwise.training.callbacks import checkpoint_files, read_metrics
from objectwise.training.config import TrainingConfig
from objectwise.training.module import TrainingModule

SGD = {"optimizer": "sgd", "gradient_clip": None, "learning_rate": 0.1}


def first_step(model, seed: int = 5):  # type: ignore[no-untyped-def]
    """What the model says of the first training batch, computed by hand from the documented rules."""
    images = data().batch("train", TrainingOrder(50, 8, seed, shuffle=True).indices(0)).images
    generator = ShardedGenerator("cpu", 0, 1)
    generator.manual_seed(seed_for(seed, 2, 0))
    return model(images, generator=generator, step=0)


def test_one_sgd_step_by_hand(tmp_path: Path) -> None:
    by_hand = toy()
    first_step(by_hand).loss.mean().backward()
    model, _ = trained(tmp_path / "run", settings(1, **SGD))
    for before, after in zip(by_hand.parameters(), model.parameters(), strict=True):
        assert torch.allclose(after, before - 0.1 * before.grad, atol=1e-7)


def test_auxiliary_losses_move_only_their_own_group(tmp_path: Path) -> None:
    """The loss contains the critic's opinion and the critic's loss the encoder's code; neither gradient may cross."""
    by_hand = toy(critic=True)
    out = first_step(by_hand)
    own = torch.autograd.grad(out.auxiliary_losses["critic"].mean(), by_hand.critic.weight, retain_graph=True)[0]
    others = torch.autograd.grad(out.loss.mean(), [by_hand.encode.weight, by_hand.decoder.weight])
    model, _ = trained(tmp_path / "run", settings(1, **SGD), toy(critic=True))
    assert torch.allclose(model.critic.weight, by_hand.critic.weight - 0.1 * own, atol=1e-7)
    assert torch.allclose(model.encode.weight, by_hand.encode.weight - 0.1 * others[0], atol=1e-7)
    assert torch.allclose(model.decoder.weight, by_hand.decoder.weight - 0.1 * others[1], atol=1e-7)
    row = read_metrics(tmp_path / "run" / "metrics.jsonl")[0]
    assert {"critic_loss", "gradient_norm", "gradient_norm_critic"} <= row.keys()


def test_group_learning_rates(tmp_path: Path) -> None:
    rates = settings(1, **SGD, group_learning_rates={"critic": 0.3})
    slow, _ = trained(tmp_path / "slow", settings(1, **SGD), toy(critic=True))
    fast, _ = trained(tmp_path / "fast", rates, toy(critic=True))
    start = toy(critic=True)
    ratio = (fast.critic.weight - start.critic.weight) / (slow.critic.weight - start.critic.weight)
    assert torch.allclose(ratio, torch.full_like(ratio, 3.0), rtol=1e-3)
    assert torch.equal(fast.encode.weight, slow.encode.weight)


def test_an_unknown_group_is_named() -> None:
    with pytest.raises(UserError, match="no parameter group 'critc'; did you mean 'critic'"):
        TrainingModule(toy(critic=True), settings(1, group_learning_rates={"critc": 0.1}), 0)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    for optimizer in ("adam", "sgd"):
        run = tmp_path / optimizer
        model, result = trained(run, settings(5, optimizer=optimizer, checkpoint_every=1), toy(poison=(4,)))
        before, after = checkpoint_files(run)
        one, two = stored(before), stored(after)
        assert (one["objectwise"]["step"], two["objectwise"]["step"]) == (4, 5)
        assert all(torch.equal(one["state_dict"][name], two["state_dict"][name]) for name in one["state_dict"])
        assert result.bad_steps == 1
        assert result.step == 5
        assert all(bool(torch.isfinite(value).all()) for value in model.parameters())


def test_skipped_steps_are_left_out_of_the_averages(tmp_path: Path) -> None:
    trained(tmp_path / "run", settings(6, log_every=3), toy(poison=(1, 4)))
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["split"] == "train"]
    assert [row["bad_steps"] for row in rows] == [1.0, 2.0]
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_training_stops_after_a_run_of_bad_steps(tmp_path: Path) -> None:
    run = tmp_path / "run"
    poison = (1, 3, 4, 5, 6)
    with pytest.raises(
        UserError, match=r"not finite for 3 steps in a row \(last at step 5\); try a lower --training\.learning-rate"
    ):
        trained(run, settings(20, max_bad_steps=3, checkpoint_every=2), toy(poison=poison))
    assert stored(checkpoint_files(run)[-1])["objectwise"]["step"] == 4
    assert trained(tmp_path / "patient", settings(20, max_bad_steps=5), toy(poison=poison))[1].bad_steps == 5


def test_bad_steps_in_a_row_survive_a_resume(tmp_path: Path) -> None:
    trained(tmp_path / "run", settings(4, max_bad_steps=3), toy(poison=(2, 3)))
    with pytest.raises(UserError, match="3 steps in a row"):
        trained(tmp_path / "run", settings(8, max_bad_steps=3), toy(poison=(4, 5)), resume=True)


def test_each_group_is_clipped_by_its_own_norm(tmp_path: Path) -> None:
    changes = {**SGD, "gradient_clip": 0.5}
    model, _ = trained(tmp_path / "run", settings(1, **changes), toy(critic=True))
    start = toy(critic=True)
    row = read_metrics(tmp_path / "run" / "metrics.jsonl")[0]
    moved = [(new - old).detach() for new, old in zip(model.parameters(), start.parameters(), strict=True)]
    for norm, parts in ((row["gradient_norm"], moved[:4]), (row["gradient_norm_critic"], moved[4:])):
        length = math.sqrt(sum(float(part.square().sum()) for part in parts))
        assert length == pytest.approx(0.1 * min(0.5, norm), rel=1e-4)
    assert row["gradient_norm"] > 0.5


@pytest.mark.parametrize(
    ("changes", "factors"),
    [
        ({}, {0: 1.0, 99: 1.0}),
        ({"warmup_steps": 4}, {0: 0.25, 1: 0.5, 3: 1.0, 50: 1.0}),
        ({"schedule": "cosine"}, {0: 1.0, 50: 0.5, 100: 0.0, 25: 0.5 + 0.5 * math.sqrt(0.5)}),
        ({"schedule": "exponential", "half_life": 10}, {0: 1.0, 10: 0.5, 30: 0.125}),
        ({"schedule": "exponential", "half_life": 10, "warmup_steps": 20}, {9: 0.5 * 0.5**0.9, 30: 0.125}),
    ],
)
def test_schedules(changes: dict[str, object], factors: dict[int, float]) -> None:
    config = TrainingConfig(max_steps=100, **changes)  # type: ignore[arg-type]
    for step, factor in factors.items():
        assert config.rate_factor(step) == pytest.approx(factor, abs=1e-12)


def test_the_schedule_reaches_the_optimiser(tmp_path: Path) -> None:
    """The first step under a warmup of 4 steps moves the weights a quarter as far."""
    whole, _ = trained(tmp_path / "whole", settings(1, **SGD))
    quarter, _ = trained(tmp_path / "quarter", settings(1, **SGD, warmup_steps=4))
    start = toy()
    expected = start.encode.weight + 0.25 * (whole.encode.weight - start.encode.weight)
    assert torch.allclose(quarter.encode.weight, expected, atol=1e-7)


def test_noise_depends_on_seed_and_step() -> None:
    module = TrainingModule(toy(), settings(1), 5)
    draws = {step: torch.randn(4, generator=module.noise(step)) for step in (0, 1)}
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(draws[1], torch.randn(4, generator=module.noise(1)))
    assert not torch.equal(draws[1], torch.randn(4, generator=TrainingModule(toy(), settings(1), 6).noise(1)))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adagrad", "rmsprop", "sgd"])
def test_every_optimiser_learns(tmp_path: Path, optimizer: str) -> None:
    config = settings(40, optimizer=optimizer, weight_decay=1e-4, learning_rate=0.005)
    trained(tmp_path / "run", config)
    losses = [row["loss"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["split"] == "train"]
    assert losses[-1] < 0.8 * losses[0]
