"""Balls: the laws of their physics, the recreation's numbers, and the contract."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from data_helpers import assert_labels_match_pixels, same

from objectwise.core import TrainingOrder, UserError, check_dataset
from objectwise.data.balls import (
    FRAMES,
    RADIUS,
    WORLD,
    BallsConfig,
    State,
    advanced,
    overlapping,
    simulated,
    soft_discs,
)
from objectwise.nn.bernoulli import target_entropy


@pytest.mark.parametrize("mode", ["faithful", "corrected"])
@pytest.mark.parametrize("balls", [1, 2, 4])
def test_contract(mode: str, balls: int) -> None:
    data = BallsConfig(mode=mode, balls=balls).build()
    check_dataset(data)
    assert_labels_match_pixels(data.batch("val", range(4)))


def crowd(count: int, balls: int, seed: int = 0) -> State:
    """Balls that do not overlap, each moving towards the middle of the others."""
    random = np.random.default_rng(seed)
    position = random.uniform(0, 4 + 4 * balls, (20 * count, balls, 2))
    position = position[~overlapping(position)][:count]
    assert len(position) == count
    return State(
        position, 0.1 * (position.mean(axis=1, keepdims=True) - position) + random.normal(0, 0.03, position.shape)
    )


# -- physics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balls", [2, 3])
def test_without_walls_energy_and_momentum_are_kept(balls: int) -> None:
    _, velocity = simulated(crowd(50, balls), 60, walls=False)
    momentum, energy = velocity.sum(axis=2), (velocity**2).sum(axis=(2, 3))
    np.testing.assert_allclose(momentum, np.repeat(momentum[:, :1], 60, axis=1), atol=1e-12)
    np.testing.assert_allclose(energy, np.repeat(energy[:, :1], 60, axis=1), rtol=1e-12)
    collided = (velocity[:, -1] != velocity[:, 0]).any(axis=(1, 2))
    assert collided.mean() > 0.5  # or else nothing was tested


def test_walls_keep_the_energy_and_the_balls() -> None:
    data = BallsConfig(mode="faithful", balls=2).build()
    position, velocity = simulated(data._start("train", np.arange(40)), 500)
    np.testing.assert_allclose((velocity**2).sum(axis=(2, 3)), 0.25, rtol=1e-9)
    assert position.min() > RADIUS - 0.26  # a sub-step beyond a wall, no more
    assert position.max() < WORLD - RADIUS + 0.26
    assert position.min() < RADIUS
    assert position.max() > WORLD - RADIUS
    momentum = velocity.sum(axis=2)
    assert np.abs(momentum - momentum[:, :1]).max() > 0.5  # walls push


def test_a_head_on_and_a_glancing_collision_by_hand() -> None:
    """Head on, velocities are exchanged; at 45° only the parts along the line of centres."""
    near = 2 * RADIUS - 0.05  # after the move
    state = advanced(State(np.array([[2.8, 4.95], [3.0 + near, 5.0]]), np.array([[0.4, 0.1], [0.0, 0.0]])))
    np.testing.assert_allclose(state.velocity, [[0.0, 0.1], [0.4, 0.0]], atol=1e-12)
    side = near / math.sqrt(2)
    state = advanced(State(np.array([[2.8, 3.0], [3.0 + side, 3.0 + side]]), np.array([[0.4, 0.0], [0.0, 0.0]])))
    np.testing.assert_allclose(state.velocity, [[0.2, -0.2], [0.2, 0.2]], atol=1e-12)
    np.testing.assert_allclose(state.position[0], [3.0, 3.0])  # half the velocity per sub-step
    apart = 2 * RADIUS + 0.01
    state = advanced(State(np.array([[2.8, 5.0], [3.0 + apart, 5.0]]), np.array([[0.4, 0.0], [0.0, 0.0]])))
    np.testing.assert_allclose(state.velocity, [[0.4, 0.0], [0.0, 0.0]])


def test_a_wall_turns_one_component_inward() -> None:
    state = advanced(State(np.array([[RADIUS + 0.1, 5.0]]), np.array([[-0.4, 0.3]])))
    np.testing.assert_allclose(state.velocity, [[0.4, 0.3]])
    np.testing.assert_allclose(state.position, [[RADIUS - 0.1, 5.15]])
    again = advanced(state)  # still beyond the wall or not, it moves away from it
    np.testing.assert_allclose(again.velocity, [[0.4, 0.3]])
    state = advanced(State(np.array([[5.0, WORLD - RADIUS - 0.1]]), np.array([[0.1, 0.4]])))
    np.testing.assert_allclose(state.velocity, [[0.1, -0.4]])


# -- trajectories -------------------------------------------------------------------------------------------------


def test_a_training_batch_is_one_trajectory() -> None:
    data = BallsConfig(mode="faithful").build()
    order = TrainingOrder(data.splits["train"], FRAMES, seed=3, shuffle=data.shuffle)
    for step in (0, 5):
        factors = data.batch("train", order.indices(step)).factors
        place = torch.stack([factors["x"][:, 1], factors["y"][:, 1]], dim=1)
        assert torch.equal(
            place, torch.from_numpy(data.sample_factors("train", range(step * 128, step * 128 + 128))[:, 0]).float()
        )
        steps = (place[1:] - place[:-1]).norm(dim=1)
        assert steps.max() < 0.5 + 1e-4
        assert (steps > 0.499).float().mean() > 0.8  # the rest turn at a wall between their two sub-steps
    first, second = data.sample_factors("train", [127, 128])
    assert np.abs(first - second).max() > 1.0  # another trajectory begins somewhere else


def test_frames_do_not_depend_on_what_was_asked_before() -> None:
    indices = [1000, 3, 129, 128 * 40 + 7, 127]
    config = BallsConfig(mode="faithful", balls=2)
    data = config.build()
    fresh = data.batch("train", indices)
    for asked in (range(128), range(5 * 128, 6 * 128), [128 * 40], indices[::-1]):
        data.batch("train", asked)
    assert same(data.batch("train", indices), fresh)
    assert same(config.build().batch("train", indices), fresh)
    alone = [config.build().batch("train", [index]) for index in indices]
    assert torch.equal(torch.cat([batch.images for batch in alone]), fresh.images)
    assert torch.equal(config.replaced(train_size=6000).build().batch("train", indices).images, fresh.images)
    assert not torch.equal(config.replaced(seed=1).build().batch("train", indices).images, fresh.images)


@pytest.mark.parametrize("balls", [1, 2])
def test_start_as_documented(balls: int) -> None:
    """Centres in [2, 8.8] without overlap; all velocities together have norm one half, in any direction."""
    position, velocity = BallsConfig(mode="faithful", balls=balls).build()._start("train", np.arange(2000))
    assert not overlapping(position).any()
    assert 2.0 <= position.min() < 2.05
    assert 8.75 < position.max() <= 8.8
    np.testing.assert_allclose((velocity**2).sum(axis=(1, 2)), 0.25)
    assert np.abs(velocity.mean(axis=0)).max() < 0.03
    moments = (velocity**2).mean(axis=0)
    np.testing.assert_allclose(moments, 0.25 / (2 * balls), rtol=0.1)


def test_corrected_centres_are_uniform_and_independent() -> None:
    data = BallsConfig(balls=2).build()
    place = data.sample_factors("train", range(4000))
    assert not overlapping(place).any()
    assert place.min() < RADIUS + 0.05
    assert place.max() > WORLD - RADIUS - 0.05
    one = BallsConfig().build().sample_factors("train", range(4000))[:, 0]
    assert np.abs(np.corrcoef(one[1:, 0], one[:-1, 0])[0, 1]) < 0.06  # frames in a row know nothing of each other
    assert np.abs(np.corrcoef(one.T)[0, 1]) < 0.06
    low, high = RADIUS, WORLD - RADIUS
    counts = np.histogram2d(one[:, 0], one[:, 1], bins=4, range=[(low, high)] * 2)[0]
    assert np.abs(counts - 250).max() < 5 * math.sqrt(250)


# -- pictures -----------------------------------------------------------------------------------------------------


def test_disc_by_the_book() -> None:
    """Exp(−(d/r)⁸) at pixel centres, x to the right, y downwards, summed and cut at one."""
    place = np.array([[[3.1, 6.4], [4.2, 6.9]]])
    found = BallsConfig(balls=2).build().render(place)
    expected = np.zeros((32, 32))
    for row in range(32):
        for column in range(32):
            x, y = (column + 0.5) / 32 * 10, (row + 0.5) / 32 * 10
            expected[row, column] = min(
                1.0, sum(math.exp(-((math.hypot(x - a, y - b) / 1.2) ** 8)) for a, b in place[0])
            )
    np.testing.assert_allclose(found.images[0, 0].numpy(), expected, atol=1e-6)
    assert found.images.max() == 1.0
    assert found.instances is not None
    assert found.instances[0, round(6.4 * 3.2), round(2.5 * 3.2)] == 1
    assert found.instances[0, round(6.9 * 3.2), round(4.9 * 3.2)] == 2
    assert torch.equal(found.instances[0] > 0, torch.from_numpy(soft_discs(place, 32)[0].max(axis=0) > 0.5))
    assert found.factors["x"].tolist() == [[0.0, pytest.approx(3.1), pytest.approx(4.2)]]
    assert found.factors["y"].tolist() == [[0.0, pytest.approx(6.4), pytest.approx(6.9)]]


def test_pixels_of_a_ball_are_those_documented() -> None:
    batch = BallsConfig().build().batch("train", range(500))
    assert (batch.images > 0.5).float().sum(dim=(1, 2, 3)).mean().item() == pytest.approx(42.3, abs=0.3)
    small = batch.images[batch.images > 0].min()
    assert small > 1e-36  # nothing denormal, which would be slow


@pytest.mark.parametrize(
    ("mode", "balls", "floor"),
    [("corrected", 1, 21.19), ("corrected", 2, 42.32), ("faithful", 1, 21.12), ("faithful", 2, 42.19)],
)
def test_entropy_floor_is_the_published_one(mode: str, balls: int, floor: float) -> None:
    """The least cross-entropy of the soft discs, nats per image; on whole trajectories where faithful."""
    data = BallsConfig(mode=mode, balls=balls).build()
    indices = np.arange(60 * FRAMES).reshape(60, FRAMES)
    found = np.mean([target_entropy(data.batch("train", part).images).mean().item() for part in indices])
    assert found == pytest.approx(floor, abs=0.03)


def test_size_scales_the_picture() -> None:
    small, large = (BallsConfig(image_size=size).build().batch("val", range(20)).images for size in (32, 128))
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    assert (shrunk - small).abs().max() < 0.12
    assert (shrunk - small).mean().abs() < 1e-3


def test_impossible_settings() -> None:
    with pytest.raises(UserError, match="balls = 5"):
        BallsConfig(balls=5)
    data = BallsConfig(eval_size=10).build()
    with pytest.raises(UserError, match="no sample 10 in split 'val'"):
        data.batch("val", [10])
    with pytest.raises(UserError, match="no split 'tests'"):
        data.batch("tests", [0])
