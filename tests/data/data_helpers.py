"""Small things the tests of this room share."""

from __future__ import annotations

import torch

from objectwise.core import Batch


def same(first: Batch, second: Batch) -> bool:
    """Whether two batches hold the same bytes."""
    pairs = [(getattr(first, name), getattr(second, name)) for name in ("index", "images", "instances", "present")]
    pairs += [(first.boxes, second.boxes), (first.visible_pixels, second.visible_pixels)]
    pairs += [(first.factors[name], second.factors[name]) for name in first.factors]
    return first.factors.keys() == second.factors.keys() and all(
        (a is None and b is None) or torch.equal(a, b) for a, b in pairs
    )


def assert_labels_match_pixels(batch: Batch) -> None:
    """Boxes and pixel counts are those of the id map, counted here in the plainest way."""
    assert batch.instances is not None
    assert batch.boxes is not None
    assert batch.visible_pixels is not None
    for row in range(len(batch)):
        for entity in range(batch.boxes.shape[1]):
            ys, xs = (batch.instances[row] == entity).nonzero(as_tuple=True)
            assert batch.visible_pixels[row, entity] == len(ys)
            box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(ys) else [0, 0, 0, 0]
            assert batch.boxes[row, entity].tolist() == [float(edge) for edge in box]
