"""What generated scenes of several objects share: placing objects without overlap, and labelling the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from objectwise.core import Batch, FactorSpec, UserError, boxes_from_instances, uniforms
from objectwise.core.dataset import SPLITS

MAX_TRIES = 1000
"""Placements tried before a scene is declared impossible."""

FACTORS = 0
"""Purpose of the random stream that holds everything about a scene but its positions."""
PLACEMENTS = 1
"""Purpose of the stream of the first placement; the following ones hold the next tries."""
CORRUPTION = PLACEMENTS + MAX_TRIES
"""Purpose of the stream of noise and other corruptions, which never change the scene under them."""


def stream(split: str, purpose: int) -> tuple[int, int]:
    """The random stream of a split for one purpose; no two splits share numbers."""
    return SPLITS.index(split), purpose


def check_split(dataset: str, split: str, splits: Mapping[str, int]) -> None:
    """Refuse an unknown split.

    Raises:
        UserError: naming the splits there are.
    """
    if split not in splits:
        raise UserError(f"{dataset} has no split '{split}'; there are {', '.join(splits)}")


def place(
    draw: Callable[[np.ndarray, np.ndarray], tuple[Tensor, tuple[np.ndarray, ...]]],
    *,
    seed: int,
    split: str,
    indices: np.ndarray,
    numbers: int,
    apart: bool = True,
) -> tuple[Tensor, tuple[np.ndarray, ...]] | None:
    """Place the objects of each scene, and all of them anew while any two share a pixel.

    Each scene consumes only its own random numbers, so that it does not depend on the scenes drawn beside it.

    Args:
        draw: (rows (R,), uniform numbers (R, numbers)) -> layers (R, M, H, W), non-zero where an object is, and
            arrays (R, ...) that describe the placement.
        seed: of the dataset.
        split: names the random streams.
        indices: (B,) sample indices.
        numbers: uniform numbers one try consumes.
        apart: whether a pixel shared by two objects is refused.

    Returns:
        layers (B, M, H, W) and the arrays (B, ...); None if some scene found no place in ``MAX_TRIES`` tries.
    """
    pending = np.arange(len(indices))
    layers, values = draw(pending, uniforms(seed, stream(split, PLACEMENTS), indices, numbers))
    if not apart:
        return layers, values
    drawn = layers
    for attempt in range(1, MAX_TRIES + 1):
        pending = pending[overlapping(drawn).numpy()]
        if len(pending) == 0:
            return layers, values
        if attempt == MAX_TRIES:
            break
        drawn, again = draw(pending, uniforms(seed, stream(split, PLACEMENTS + attempt), indices[pending], numbers))
        layers[torch.from_numpy(pending)] = drawn
        for whole, part in zip(values, again, strict=True):
            whole[pending] = part
    return None


def overlapping(layers: Tensor) -> Tensor:
    """(B, M, H, W), non-zero where an object is -> (B,) bool: whether any pixel belongs to two objects."""
    clash = torch.zeros(len(layers), dtype=torch.bool)
    if layers.shape[1] < 2:
        return clash
    taken = layers[:, 0] != 0
    for layer in layers[:, 1:].unbind(dim=1):
        here = layer != 0
        clash |= (taken & here).flatten(1).any(dim=1)
        taken = taken | here
    return clash


def labelled(
    index: np.ndarray,
    images: Tensor,
    instances: Tensor,
    used: Tensor,
    factors: Mapping[str, Tensor],
    specs: Mapping[str, FactorSpec],
) -> Batch:
    """A batch of scenes over one background, its labels completed from the id map.

    Args:
        index: (B,) sample indices.
        images: (B, C, H, W).
        instances: (B, H, W) int64; id e > 0 is object e - 1.
        used: (B, M) bool, which objects are in the scene.
        factors: name -> (B, M, ...) of the objects; unused rows are zeroed here.
        specs: what the factors mean.
    """
    boxes, visible = boxes_from_instances(instances, used.shape[1] + 1)
    return Batch(
        index=torch.from_numpy(index),
        images=images,
        instances=instances,
        factors={name: _with_background(values, used) for name, values in factors.items()},
        factor_specs=specs,
        present=torch.cat([torch.ones(len(used), 1, dtype=torch.bool), used], dim=1),
        visible_pixels=visible,
        boxes=boxes,
    )


def _with_background(rows: Tensor, used: Tensor) -> Tensor:
    """(B, M, ...) -> (B, M + 1, ...): a first row of zeros, and zeros in place of unused objects."""
    rows = rows * used.view(*used.shape, *[1] * (rows.ndim - 2))
    return torch.cat([rows.new_zeros(len(rows), 1, *rows.shape[2:]), rows], dim=1)
