"""Foreground ARI of 320 images of 128×128 pixels with 7 soft slots, against argmax + scikit-learn, one image at a time.

Goal: at least 4 times as fast, equal to 1e-9. One thread. Prints one JSON line:

    OMP_NUM_THREADS=1 python bench/foreground_ari.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score

from objectwise.metrics import foreground_ari, labels_from_masks

IMAGES, SLOTS, SIDE, OBJECTS = 320, 7, 128, 6
REPEATS = 5


def scenes() -> tuple[torch.Tensor, torch.Tensor]:
    """Squares on a background, and soft masks that agree with them on most pixels."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(IMAGES, SIDE, SIDE, dtype=torch.int64)
    corners = torch.randint(0, SIDE - 40, (IMAGES, OBJECTS, 2), generator=generator).tolist()
    for image, places in zip(truth, corners, strict=True):
        for number, (y, x) in enumerate(places, start=1):
            image[y : y + 40, x : x + 40] = number
    logits = torch.randn(IMAGES, SLOTS, SIDE, SIDE, generator=generator)
    logits.scatter_add_(1, truth.unsqueeze(1), torch.full((IMAGES, 1, SIDE, SIDE), 3.0))
    return truth, logits.softmax(dim=1)


def by_scikit_learn(truth: torch.Tensor, masks: torch.Tensor) -> np.ndarray:
    labels = masks.argmax(dim=1).flatten(1).numpy()
    ids = truth.flatten(1).numpy()
    return np.array([adjusted_rand_score(t[t != 0], p[t != 0]) for t, p in zip(ids, labels, strict=True)])


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall-clock time of one call, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


def main() -> None:
    torch.set_num_threads(1)
    truth, masks = scenes()
    ours = seconds(lambda: foreground_ari(truth, masks), REPEATS)
    theirs = seconds(lambda: by_scikit_learn(truth, masks), 3)
    labels = seconds(lambda: labels_from_masks(masks), REPEATS)
    argmax = seconds(lambda: masks.argmax(dim=1), 3)
    difference = np.abs(foreground_ari(truth, masks).per_image - by_scikit_learn(truth, masks)).max()
    line = {
        "bench": "foreground_ari",
        "shape": [IMAGES, SLOTS, SIDE, SIDE],
        "threads": 1,
        "seconds": round(ours, 4),
        "seconds_argmax_and_sklearn": round(theirs, 4),
        "ratio": round(theirs / ours, 2),
        "max_difference": float(difference),
        "seconds_labels": round(labels, 4),
        "seconds_argmax": round(argmax, 4),
        "goal": {"ratio": 4.0, "max_difference": 1e-9},
        "met": bool(theirs / ours >= 4.0 and difference <= 1e-9),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
