"""Random numbers that depend on nothing but what they are asked for.

Data: :func:`uniforms` gives sample i of a stream the same numbers whatever the batch, worker or order.
Models: every draw comes from a passed ``torch.Generator``; :func:`normal` and :func:`uniform` make the draw. Without one, a model
that cannot do without noise takes :func:`fixed_normals`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor


def uniforms(seed: int, stream: tuple[int, int], indices: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """Independent uniform numbers for each sample, a pure function of (seed, stream, index).

    Counter-based (Philox 4x64): the key is the seed, the counter holds the stream and the index, so that no two
    (seed, stream, index) share numbers. Only 53-bit uniforms are drawn, whose arithmetic NumPy keeps stable.

    Args:
        seed: the dataset's seed, non-negative.
        stream: two small integers naming what is drawn: (split, purpose).
        indices: (B,) sample indices, non-negative.
        count: how many numbers each sample needs.

    Returns:
        (B, count) float64 in [0, 1).
    """
    bits = np.random.Philox(key=seed)
    generator = np.random.Generator(bits)
    state = bits.state
    out = np.empty((len(indices), count))
    for row, index in enumerate(indices):
        state["state"]["counter"][:] = (0, stream[1], int(index), stream[0])
        state["buffer_pos"] = 4
        bits.state = state
        out[row] = generator.random(count)
    return out


def fixed_normals(seed: int, stream: tuple[int, int], indices: Sequence[int] | np.ndarray, count: int) -> Tensor:
    """Standard normal numbers that depend on nothing but (seed, stream, index), for what must be the same at every use.

    Args:
        seed: as for :func:`uniforms`.
        stream: as for :func:`uniforms`.
        indices: (B,) rows; more rows, or more numbers in each, keep the first ones.
        count: how many numbers each row needs.

    Returns:
        (B, count) float64 on the CPU.
    """
    return torch.special.ndtri(torch.from_numpy(uniforms(seed, stream, indices, count)) + 2.0**-54)


def seed_for(*parts: int) -> int:
    """One 63-bit seed from several integers, e.g. (seed, purpose, step); well mixed and stable across versions."""
    # Fixed-width words and the number of parts: SeedSequence itself takes (1,) and (1, 0) for the same.
    halves = [word for part in parts for word in (int(part) & 0xFFFFFFFF, int(part) >> 32)]
    words = np.random.SeedSequence([len(parts), *halves]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


class ShardedGenerator(torch.Generator):
    """A generator for one rank's part of a global batch.

    :func:`normal` and :func:`uniform` draw for the whole global batch and keep this rank's rows, so that R processes
    see exactly the noise that one process would have given the same images.
    """

    rank: int
    world_size: int

    def __new__(cls, device: torch.device | str = "cpu", rank: int = 0, world_size: int = 1) -> Self:
        """Set the two numbers that __init__ could not, because torch.Generator has no __init__ of its own."""
        self = super().__new__(cls, device=device)  # type: ignore[call-arg]
        self.rank, self.world_size = rank, world_size
        return self

    def __init__(self, device: torch.device | str = "cpu", rank: int = 0, world_size: int = 1) -> None:
        """Args: device, this process's rank, and the number of processes."""


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal noise on the generator's device.

    Args:
        shape: the first axis is the batch.
        generator: the only source of randomness.

    Returns:
        float32 tensor of that shape.
    """
    return _draw(torch.randn, shape, generator)


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform noise in [0, 1) on the generator's device; arguments as in :func:`normal`."""
    return _draw(torch.rand, shape, generator)


def _draw(sampler, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:  # type: ignore[no-untyped-def]
    rank, world_size = getattr(generator, "rank", 0), getattr(generator, "world_size", 1)
    whole = sampler((shape[0] * world_size, *shape[1:]), generator=generator, device=generator.device)
    return whole[rank * shape[0] : (rank + 1) * shape[0]]
