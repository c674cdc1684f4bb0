"""What generated scenes share: asking for samples, placing objects in turn, and turning an id map into a labelled batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from objectwise.core import SPLITS, Batch, FactorSpec, UserError, boxes_from_ids, uniforms

ROUNDS_BEFORE_RESTART = 5
"""Rounds after which a scene that is not complete is placed afresh."""
MAX_ROUNDS = 400
"""Rounds after which a scene is declared impossible: about 6,000 tries for each object."""

Fits = Callable[[np.ndarray, int, np.ndarray, np.ndarray], np.ndarray]


def checked_indices(
    name: str, splits: Mapping[str, int], split: str, indices: Sequence[int] | np.ndarray
) -> np.ndarray:
    """(B,) int64 sample indices of a split.

    Raises:
        UserError: for an unknown split or an index outside it.
    """
    if split not in splits:
        raise UserError(f"{name} has no split '{split}'; there are {', '.join(splits)}")
    wanted = np.asarray(indices, dtype=np.int64)
    outside = wanted[(wanted < 0) | (wanted >= splits[split])]
    if len(outside):
        raise UserError(f"{name} has no sample {outside[0]} in split '{split}'; there are 0 to {splits[split] - 1}")
    return wanted


def whole_numbers(draws: np.ndarray, low: int | np.ndarray, high: int | np.ndarray) -> np.ndarray:
    """Uniform draws in [0, 1) as uniform int64 numbers from ``low`` to ``high``, both included."""
    return low + (draws * (np.asarray(high) - low + 1)).astype(np.int64)


def place_in_turn(
    indices: np.ndarray,
    number: np.ndarray,
    first: np.ndarray,
    fits: Fits,
    *,
    seed: int,
    split: str,
    what: str,
) -> np.ndarray:
    """Place the objects of each scene one after the other; an object that does not fit gets new numbers.

    In round r every unfinished scene has 2^r tries (at most 16) for each of its objects in turn, the first that fits
    counts; an unfinished scene starts over every :data:`ROUNDS_BEFORE_RESTART` rounds. Round 0 takes its numbers from
    ``first``, round r from the stream (split, r), so that scenes depend on nothing but their own index.

    Args:
        indices: (B,) sample indices.
        number: (B,) objects per scene.
        first: (B, M, D) uniform numbers of the first try of each object; D is what one try takes.
        fits: (rows (n,), object m, its tries (n, T, D), numbers of the objects before it (n, m, D)) -> (n, T) bool.
        seed: the dataset's seed.
        split: name of the split.
        what: what cannot be done if this fails, e.g. ``"3 pieces find no place on 35x35 pixels"``.

    Returns:
        (B, M, D) the numbers that fit.

    Raises:
        UserError: if a scene is unfinished after :data:`MAX_ROUNDS` rounds.
    """
    turn = np.zeros(len(indices), np.int64)
    placed = first.copy()
    most, size = first.shape[1:]
    for round_number in range(MAX_ROUNDS):
        pending = np.flatnonzero(turn < number)
        if len(pending) == 0:
            return placed
        if round_number and round_number % ROUNDS_BEFORE_RESTART == 0:
            turn[pending] = 0
        tries = min(2**round_number, 16)
        drawn = first[pending]
        if round_number:
            drawn = uniforms(seed, (SPLITS.index(split), round_number), indices[pending], most * tries * size)
        drawn = drawn.reshape(len(pending), most, tries, size)
        for m in range(int(number[pending].max())):
            here = np.flatnonzero((turn[pending] == m) & (number[pending] > m))
            if len(here) == 0:
                continue
            rows = pending[here]
            good = fits(rows, m, drawn[here, m], placed[rows, :m])
            found = np.flatnonzero(good.any(axis=1))
            placed[rows[found], m] = drawn[here[found], m, good[found].argmax(axis=1)]
            turn[rows[found]] += 1
    raise UserError(f"{what} (scene {indices[turn < number][0]} of split '{split}', {MAX_ROUNDS} rounds of tries)")


def labelled_batch(
    indices: np.ndarray,
    ids: np.ndarray,
    colors: np.ndarray,
    number: np.ndarray,
    factors: Mapping[str, np.ndarray],
    specs: Mapping[str, FactorSpec],
    shade: np.ndarray | None = None,
) -> Batch:
    """The batch of scenes whose every entity has one colour.

    Args:
        indices: (B,) sample indices.
        ids: (B, H, W) uint8, 0 the background, m + 1 the m-th object.
        colors: (B, M + 1, C) uint8 of the background and the objects.
        number: (B,) objects in each scene; rows of factors at and beyond it are set to zero.
        factors: name -> (B, M) or (B, M, d), int64 (categorical) or float64 (numerical).
        specs: name -> unit, kind and range.
        shade: (B, H, W) uint8 brightness, 255 = the colour itself; None: 255 everywhere.
    """
    batch, entities, channels = colors.shape
    instances = torch.from_numpy(ids.astype(np.int64))
    values = torch.from_numpy(np.ascontiguousarray(colors.transpose(0, 2, 1))).float() / 255.0
    owner = instances.flatten(1).unsqueeze(1).expand(-1, channels, -1)
    images = values.gather(2, owner).unflatten(2, ids.shape[1:])
    if shade is not None:
        images *= torch.from_numpy(shade).float().div(255.0).unsqueeze(1)
    used = np.arange(entities - 1) < number[:, None]
    present = np.concatenate([np.ones((batch, 1), bool), used], axis=1)
    boxes, visible = boxes_from_ids(ids, entities)
    return Batch(
        index=torch.from_numpy(indices),
        images=images,
        instances=instances,
        factors={name: torch.from_numpy(_with_background(rows, used)) for name, rows in factors.items()},
        factor_specs=specs,
        present=torch.from_numpy(present),
        visible_pixels=torch.from_numpy(visible),
        boxes=torch.from_numpy(boxes),
    )


def _with_background(rows: np.ndarray, used: np.ndarray) -> np.ndarray:
    """(B, M, ...) -> (B, M + 1, ...): a first row of zeros, zeros where unused, float32 unless whole numbers."""
    kind = np.int64 if np.issubdtype(rows.dtype, np.integer) else np.float32
    out = np.zeros((len(rows), rows.shape[1] + 1, *rows.shape[2:]), kind)
    out[:, 1:] = rows * used.reshape(*used.shape, *[1] * (rows.ndim - 2))
    return out
