from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectwise.core import ShardedGenerator, TrainingOrder, fixed_normals, normal, seed_for, uniform, uniforms

INDICES = st.lists(st.integers(0, 2**40), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**60), stream=st.tuples(st.integers(0, 3), st.integers(0, 2000)), indices=INDICES)
def test_numbers_depend_on_seed_stream_and_index_alone(seed: int, stream: tuple[int, int], indices: list[int]) -> None:
    whole = uniforms(seed, stream, indices, 5)
    assert ((whole >= 0) & (whole < 1)).all()
    for row, index in enumerate(indices):
        assert np.array_equal(uniforms(seed, stream, [index], 5)[0], whole[row])
    assert np.array_equal(uniforms(seed, stream, indices, 9)[:, :5], whole)


def test_streams_do_not_meet() -> None:
    keys = [(seed, (a, b), i) for seed in (0, 1) for a in (0, 1) for b in (0, 1) for i in (0, 1)]
    draws = {uniforms(seed, stream, [index], 4).tobytes() for seed, stream, index in keys}
    assert len(draws) == len(keys)
    long = uniforms(0, (0, 0), [0], 4096)[0]
    assert not np.isin(long, uniforms(0, (0, 0), range(1, 200), 16)).any()


def test_golden_numbers() -> None:
    """Philox 4x64 never changes, and neither may these: every generated dataset hangs on them."""
    found = uniforms(7, (1, 2), [3], 3)[0]
    bits = np.random.Philox(key=7, counter=[0, 2, 3, 1])
    expected = (bits.random_raw(3) >> np.uint64(11)) * 2.0**-53
    assert np.array_equal(found, expected)


def test_fixed_normals_are_normal_and_keep_the_first_ones() -> None:
    values = fixed_normals(0, (0, 0), range(2000), 8)
    assert abs(float(values.mean())) < 0.03
    assert abs(float(values.var()) - 1.0) < 0.05
    assert abs(float((values**4).mean()) - 3.0) < 0.3
    assert torch.equal(fixed_normals(0, (0, 0), range(2001), 9)[:2000, :8], values)
    assert torch.isfinite(fixed_normals(0, (0, 0), [0], 1)).all()


def test_uniform() -> None:
    values = uniforms(0, (0, 0), range(2000), 8)
    assert abs(values.mean() - 0.5) < 0.01
    assert abs(values.var() - 1 / 12) < 0.01
    assert np.abs(np.corrcoef(values.T) - np.eye(8)).max() < 0.1


def test_seed_for_mixes() -> None:
    seeds = {seed_for(*parts) for parts in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 2), (2, 1, 0)]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(1, 2, 3) == seed_for(1, 2, 3)


def test_shards_are_the_rows_of_one_draw() -> None:
    for draw in (normal, uniform):
        whole = draw((6, 3), torch.Generator().manual_seed(5))
        parts = []
        for rank in range(3):
            generator = ShardedGenerator("cpu", rank, 3)
            generator.manual_seed(5)
            parts.append(draw((2, 3), generator))
        assert torch.equal(torch.cat(parts), whole)


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 40), batch=st.integers(1, 8), seed=st.integers(0, 99), shuffle=st.booleans())
def test_training_order(size: int, batch: int, seed: int, shuffle: bool) -> None:
    """Every epoch visits each sample once; ranks share a step out between them; any step can be asked for first."""
    order = TrainingOrder(size, 2 * batch, seed, shuffle=shuffle)
    visits = np.concatenate([order.indices(step) for step in range(-(-2 * size // (2 * batch)))])
    for epoch in range(2):
        assert sorted(visits[epoch * size : (epoch + 1) * size]) == list(range(size))
    fresh = TrainingOrder(size, 2 * batch, seed, shuffle=shuffle)
    ranks = np.concatenate([fresh.indices(3, rank, 2) for rank in range(2)])
    assert np.array_equal(ranks, order.indices(3))
    if not shuffle:
        assert visits[:size].tolist() == list(range(size))
