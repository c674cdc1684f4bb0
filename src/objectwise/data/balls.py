"""Bouncing balls, the set of the β-VAE recreation: soft discs in a 10×10 box, as trajectories or as independent frames.

loliverhennigh, "Early Visual Concept Learning: Recreation of Some Results"; its physics is Sutskever's RTRBM generator.

World: 10×10 units on ``image_size`` pixels a side, balls of radius r = 1.2 and mass 1, no gravity, no drag. A frame is two
sub-steps of half the velocity; after each, a ball beyond a wall moves inward, and two balls nearer than 2r exchange the parts
of their velocities along the line between their centres. A ball is drawn as exp(−(d/r)⁸) at the pixels' centres; balls add up,
at most to 1. x is the column, y the row.

* ``faithful``: frames of trajectories, in order: sample i is frame i mod 128 of trajectory i div 128, so that a batch of 128 in
  index order is one trajectory, as in the recreation. Centres start uniformly in [2, 8.8] (the recreation draws from [2, 10] and
  redraws what sticks out), without overlap.
* ``corrected``: independent frames, centres uniform over the whole box, without overlap.

Departures: the recreation has no splits and no seed, and repeats the update of every 2000th batch by accident; here splits
are trajectories (or frames) of their own, and nothing is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field

from objectwise.core import SPLITS, Batch, Config, FactorSpec, UserError, boxes_from_ids, uniforms
from objectwise.data.labels import checked_indices

WORLD = 10.0
"""Side of the box in world units."""
RADIUS = 1.2
"""Of a ball, in world units."""
SPEED = 0.5
"""Norm of all velocities together, in world units per frame."""
SUBSTEPS = 2
"""Steps per frame."""
FRAMES = 128
"""Frames of a trajectory."""

_START_LOW = 2.0
_AHEAD = 16
_TRIES, _ROUNDS = 16, 200
_PLACES, _VELOCITIES = 0, 1_000_000  # purposes of the random streams; redrawn places use 1, 2, ...
_NEGLIGIBLE = 80.0  # exp(−80) is nothing; smaller numbers are slow to multiply


class BallsConfig(Config):
    """Settings of the ball frames."""

    mode: Literal["faithful", "corrected"] = "corrected"
    """faithful: frames of trajectories in order, 128 each; corrected: independent frames."""
    balls: int = Field(1, ge=1, le=4)
    """Number of balls in every frame."""
    image_size: int = Field(32, ge=8, le=256)
    """Side of the canvas in pixels; the balls grow with it."""
    seed: int = Field(0, ge=0)
    """Seed of the frames."""
    train_size: int = Field(12_800_000, ge=1)
    """Number of training frames: as many as 100,000 steps of 128 see once."""
    eval_size: int = Field(4_096, ge=1)
    """Number of frames in the validation and in the test split."""

    def build(self) -> Balls:
        """The dataset."""
        return Balls(self)


class State(NamedTuple):
    """Balls at one moment; arrays of any equal leading shape.

    Attributes:
        position: (..., n, 2) float64 centres x, y in world units.
        velocity: (..., n, 2) float64 in world units per frame.
    """

    position: np.ndarray
    velocity: np.ndarray


class Balls:
    """The dataset; see :class:`objectwise.core.dataset.Dataset`."""

    shuffle = False

    def __init__(self, config: BallsConfig) -> None:
        self.config = config
        self.image_shape = (1, config.image_size, config.image_size)
        self.max_objects: int | None = config.balls
        self.splits: Mapping[str, int] = {
            "train": config.train_size,
            "val": config.eval_size,
            "test": config.eval_size,
        }
        self.factor_specs = {
            "x": FactorSpec("world units, 10 to the width, to the right", low=0.0, high=WORLD),
            "y": FactorSpec("world units, 10 to the height, downwards", low=0.0, high=WORLD),
        }
        self._recent: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The frames with these indices; see :class:`objectwise.core.dataset.Dataset`."""
        return self.render(self.sample_factors(split, indices), np.asarray(indices, np.int64))

    def sample_factors(self, split: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(B, n, 2) float64 centres x, y of the balls in world units.

        Raises:
            UserError: for an unknown split or index.
        """
        wanted = checked_indices("balls", self.splits, split, indices)
        if self.config.mode == "corrected":
            return self._places(split, wanted, RADIUS)
        trajectory, frame = np.divmod(wanted, FRAMES)
        which, row = np.unique(trajectory, return_inverse=True)
        known, frames = self._trajectories(split, which)
        return frames[np.searchsorted(known, which)[row], frame]

    def render(self, position: np.ndarray, indices: np.ndarray | None = None) -> Batch:
        """The images and labels of balls at these places.

        A pixel belongs to the ball whose disc is brightest there, if that is above one half.

        Args:
            position: (B, n, 2) centres x, y in world units, drawn or made up.
            indices: (B,) what to call the frames; None: 0, 1, ...
        """
        batch, balls = position.shape[:2]
        discs = soft_discs(position, self.config.image_size)
        images = np.minimum(_sum_in_order(discs), 1.0).astype(np.float32)
        ids = np.where(discs.max(axis=1) > 0.5, discs.argmax(axis=1) + 1, 0).astype(np.uint8)
        boxes, visible = boxes_from_ids(ids, balls + 1)
        factors = np.zeros((2, batch, balls + 1), np.float32)
        factors[:, :, 1:] = np.moveaxis(position, 2, 0)
        return Batch(
            index=torch.from_numpy(np.arange(batch) if indices is None else indices),
            images=torch.from_numpy(images).unsqueeze(1),
            instances=torch.from_numpy(ids.astype(np.int64)),
            factors={"x": torch.from_numpy(factors[0]), "y": torch.from_numpy(factors[1])},
            factor_specs=self.factor_specs,
            present=torch.ones(batch, balls + 1, dtype=torch.bool),
            visible_pixels=torch.from_numpy(visible),
            boxes=torch.from_numpy(boxes),
        )

    def _trajectories(self, split: str, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Trajectory numbers (T,), ascending, and their frames (T, 128, n, 2); at least those asked for.

        The last ones are kept, and a single trajectory brings the next ones along, because physics takes as long for many as for
        one; what a trajectory is does not depend on it.
        """
        recent = self._recent.get(split)
        if recent is not None and np.isin(which, recent[0], assume_unique=True).all():
            return recent
        if len(which) == 1:
            first = which[0] - which[0] % _AHEAD
            which = np.arange(first, first + _AHEAD)
        frames = simulated(self._start(split, which), FRAMES).position
        self._recent[split] = found = (which, frames)
        return found

    def _start(self, split: str, trajectories: np.ndarray) -> State:
        """The first frame of each trajectory."""
        balls = self.config.balls
        draws = uniforms(self.config.seed, (SPLITS.index(split), _VELOCITIES), trajectories, 2 * balls)
        velocity = _gaussians(draws).reshape(-1, balls, 2)
        norm = np.array([math.sqrt(math.fsum(value * value for value in row.flat)) for row in velocity])
        return State(self._places(split, trajectories, _START_LOW), velocity / norm[:, None, None] * SPEED)

    def _places(self, split: str, indices: np.ndarray, low: float) -> np.ndarray:
        """(B, n, 2) centres uniform in [low, 10 − r]², all of a frame drawn anew while two balls overlap."""
        balls, stream = self.config.balls, SPLITS.index(split)
        draws = uniforms(self.config.seed, (stream, _PLACES), indices, 2 * balls).reshape(-1, 1, balls, 2)
        places, pending = np.empty((len(indices), balls, 2)), np.arange(len(indices))
        for attempt in range(1, _ROUNDS):
            tried = low + (WORLD - RADIUS - low) * draws
            good = ~overlapping(tried)
            found = good.any(axis=1)
            places[pending[found]] = tried[found, good[found].argmax(axis=1)]
            pending = pending[~found]
            if len(pending) == 0:
                return places
            draws = uniforms(self.config.seed, (stream, _PLACES + attempt), indices[pending], 2 * balls * _TRIES)
            draws = draws.reshape(-1, _TRIES, balls, 2)
        raise UserError(f"{balls} balls find no place (frame {indices[pending[0]]} of split '{split}')")


def overlapping(position: np.ndarray) -> np.ndarray:
    """(...) bool: whether any two balls of (..., n, 2) centres are nearer than 2r."""
    clash = np.zeros(position.shape[:-2], bool)
    for i in range(position.shape[-2]):
        for j in range(i):
            apart = position[..., i, :] - position[..., j, :]
            clash |= apart[..., 0] ** 2 + apart[..., 1] ** 2 < (2.0 * RADIUS) ** 2
    return clash


def simulated(start: State, frames: int, *, walls: bool = True) -> State:
    """Balls over time, all trajectories at once.

    Args:
        start: position and velocity (T, n, 2) in frame 0.
        frames: how many frames, the start included.
        walls: whether the box has walls.

    Returns:
        position and velocity (T, frames, n, 2).
    """
    state, positions, velocities = start, [start.position], [start.velocity]
    for _ in range(frames - 1):
        for _ in range(SUBSTEPS):
            state = advanced(state, walls=walls)
        positions.append(state.position)
        velocities.append(state.velocity)
    return State(np.stack(positions, axis=1), np.stack(velocities, axis=1))


def advanced(state: State, *, walls: bool = True) -> State:
    """One sub-step: move, turn around at the walls, collide; pairs in the order (1, 0), (2, 0), (2, 1), ...

    Balls of equal mass exchange the parts of their velocities along the line of centres whenever they are nearer than 2r,
    also when they are already parting, as in the recreation.
    """
    position = state.position + state.velocity / SUBSTEPS
    velocity = state.velocity.copy()
    if walls:
        velocity = np.where(position - RADIUS < 0.0, np.abs(velocity), velocity)
        velocity = np.where(position + RADIUS > WORLD, -np.abs(velocity), velocity)
    for i in range(position.shape[-2]):
        for j in range(i):
            line = position[..., i, :] - position[..., j, :]
            distance = np.sqrt(line[..., 0] ** 2 + line[..., 1] ** 2)
            line = line / np.maximum(distance, 1e-12)[..., None]
            faster = velocity[..., i, :] - velocity[..., j, :]
            exchanged = (faster[..., 0] * line[..., 0] + faster[..., 1] * line[..., 1]) * (distance < 2.0 * RADIUS)
            velocity[..., i, :] -= exchanged[..., None] * line
            velocity[..., j, :] += exchanged[..., None] * line
    return State(position, velocity)


def soft_discs(position: np.ndarray, size: int) -> np.ndarray:
    """exp(−(d/r)⁸) of every ball on its own canvas, d the distance to the pixel's centre.

    Args:
        position: (B, n, 2) centres x, y in world units.
        size: side of the canvas in pixels.

    Returns:
        (B, n, size, size) float64 in [0, 1]; what is below e⁻⁸⁰ is zero.
    """
    centers = (np.arange(size) + 0.5) * (WORLD / size)
    across = ((centers - position[..., 0, None]) / RADIUS) ** 2
    down = ((centers - position[..., 1, None]) / RADIUS) ** 2
    power = across[..., None, :] + down[..., :, None]
    np.multiply(power, power, out=power)
    np.multiply(power, power, out=power)
    far = power > _NEGLIGIBLE
    np.exp(np.negative(power, out=power), out=power)
    power[far] = 0.0
    return power


def _sum_in_order(discs: np.ndarray) -> np.ndarray:
    """The sum over balls, one after the other, so that it does not depend on the layout."""
    total = discs[:, 0].copy()
    for ball in range(1, discs.shape[1]):
        total += discs[:, ball]
    return total


def _gaussians(draws: np.ndarray) -> np.ndarray:
    """(B, 2n) uniforms in [0, 1) -> as many standard normals, by Box and Muller; libm, one result for any batch."""
    out = np.empty_like(draws)
    for row, values in enumerate(draws.tolist()):
        for k in range(0, len(values), 2):
            length, angle = math.sqrt(-2.0 * math.log(1.0 - values[k])), 2.0 * math.pi * values[k + 1]
            out[row, k], out[row, k + 1] = length * math.cos(angle), length * math.sin(angle)
    return out
