from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from toys import data

from objectwise.core import TrainingOrder
from objectwise.training.feeding import StepBatches


@pytest.mark.parametrize("shuffle", [True, False])
def test_order_is_a_pure_function(shuffle: bool) -> None:
    """Asked backwards, twice or by another object: the same samples; another seed: others."""
    order = TrainingOrder(50, 8, 5, shuffle=shuffle)
    forwards = [order.indices(step).tolist() for step in range(20)]
    backwards = [order.indices(step).tolist() for step in reversed(range(20))][::-1]
    assert forwards == backwards
    assert forwards == [TrainingOrder(50, 8, 5, shuffle=shuffle).indices(step).tolist() for step in range(20)]
    other = [TrainingOrder(50, 8, 6, shuffle=shuffle).indices(step).tolist() for step in range(20)]
    assert (forwards != other) is shuffle


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_visits_every_sample_once(shuffle: bool) -> None:
    order = TrainingOrder(50, 8, 5, shuffle=shuffle)
    visited = np.concatenate([order.indices(step) for step in range(25)]).reshape(4, 50)
    assert (np.sort(visited, axis=1) == np.arange(50)).all()
    assert (len({row.tobytes() for row in visited}) == 4) is shuffle


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_partition_the_global_batch(world_size: int) -> None:
    order = TrainingOrder(50, 8, 5, shuffle=True)
    for step in range(10):
        parts = [order.indices(step, rank, world_size) for rank in range(world_size)]
        assert np.concatenate(parts).tolist() == order.indices(step).tolist()


def data_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "objectwise-data"]


def test_batches_come_in_step_order_from_the_start_given() -> None:
    dataset, order = data(), TrainingOrder(50, 8, 5, shuffle=True)
    found = list(StepBatches(dataset, order, 3, 9))
    assert [step for step, _ in found] == [3, 4, 5, 6, 7, 8]
    for step, images in found:
        assert torch.equal(images, dataset.batch("train", order.indices(step)).images)
    assert not data_threads()


def test_an_error_in_the_thread_reaches_the_consumer() -> None:
    feed = iter(StepBatches(data(fail_at=3), TrainingOrder(50, 8, 5, shuffle=True), 0, 100))
    assert [next(feed)[0] for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match="on fire"):
        next(feed)
    assert not data_threads()


def test_no_thread_is_left_when_the_consumer_stops_early() -> None:
    dataset = data()
    feed = iter(StepBatches(dataset, TrainingOrder(50, 8, 5, shuffle=True), 0, 10_000))
    next(feed)
    assert len(data_threads()) == 1
    feed.close()  # type: ignore[attr-defined]
    assert not data_threads()
    assert dataset.calls < 20  # few batches ahead, not all of them


def test_waiting_is_measured() -> None:
    dataset = data()
    plain = dataset.batch

    def slow(split: str, indices: np.ndarray):  # type: ignore[no-untyped-def]
        time.sleep(0.02)
        return plain(split, indices)

    dataset.batch = slow  # type: ignore[method-assign,assignment]
    feed = StepBatches(dataset, TrainingOrder(50, 8, 5, shuffle=True), 0, 5)
    list(feed)
    assert feed.waited > 0.05
