"""Training batches in step order, made ahead of time in a background thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from objectwise.core import Dataset, TrainingOrder

_AHEAD = 4
"""Batches made in advance."""


class StepBatches(IterableDataset[tuple[int, Tensor]]):
    """Yields (step, images) for the steps of one rank from ``start`` to ``stop``; labels stay behind.

    Args:
        dataset: where images come from.
        order: which samples each step uses.
        start: first step.
        stop: one past the last step.

    Attributes:
        waited: seconds the consumer has spent waiting for data.
    """

    def __init__(self, dataset: Dataset, order: TrainingOrder, start: int, stop: int) -> None:
        self.dataset, self.order, self.start, self.stop = dataset, order, start, stop
        self.waited = 0.0

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Batches in step order; an error while making one is raised here."""
        rank, world_size = _rank_and_world_size()
        ready: queue.Queue[tuple[int, Tensor] | BaseException] = queue.Queue(maxsize=_AHEAD)
        closed = threading.Event()

        def produce() -> None:
            try:
                for step in range(self.start, self.stop):
                    indices = self.order.indices(step, rank, world_size)
                    _put(ready, (step, self.dataset.batch("train", indices).images), closed)
                    if closed.is_set():
                        return
            except BaseException as error:
                _put(ready, error, closed)

        thread = threading.Thread(target=produce, name="objectwise-data", daemon=True)
        thread.start()
        try:
            for _ in range(self.start, self.stop):
                began = time.perf_counter()
                item = ready.get()
                self.waited += time.perf_counter() - began
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            closed.set()
            thread.join(timeout=10.0)


def _put(ready: queue.Queue, item: object, closed: threading.Event) -> None:
    while not closed.is_set():
        try:
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return


def _rank_and_world_size() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
