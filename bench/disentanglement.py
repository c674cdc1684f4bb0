"""All disentanglement scores of a code from 15,000 cached rows (10,000 to train on, 5,000 to score), one thread.

Five factors of dSprites' sizes, ten dimensions: five noisy mixtures of them, five nearly dead. Scored as ``evaluate
--metrics disentanglement`` does, with intervals and permuted labels. Goal: under 5 minutes of CPU time, which other jobs on the
machine disturb little. Prints one JSON line:

    OMP_NUM_THREADS=1 python bench/disentanglement.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from objectwise import metrics
from objectwise.training.precision import hardware_class

ROWS, SIZES = 15_000, np.array([3, 6, 40, 32, 32])
NAMES = ("shape", "scale", "orientation", "x", "y")


def table() -> tuple[np.ndarray, np.ndarray]:
    """Codes (15000, 10) and factors (15000, 5)."""
    generator = np.random.default_rng(0)
    factors = np.stack([generator.integers(0, size, ROWS) for size in SIZES], axis=1)
    mixing = np.eye(5) + 0.2 * generator.normal(size=(5, 5))
    codes = (2.0 * factors / (SIZES - 1) - 1.0) @ mixing + 0.05 * generator.normal(size=(ROWS, 5))
    return np.concatenate([codes, 0.01 * generator.normal(size=(ROWS, 5))], axis=1), factors


def seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    codes, factors = table()
    parts = {
        "beta_vae_2017": metrics.beta_vae_score,
        "beta_vae_2016": metrics.factor_change_score,
        "factor_vae": metrics.factor_vae_score,
        "mig": metrics.mig,
        "dci": metrics.dci,
        "sap": metrics.sap,
        "modularity": metrics.modularity,
        "explicitness": metrics.explicitness,
        "irs": metrics.irs,
    }
    each = {name: round(seconds(lambda score=score: score(codes, factors)), 1) for name, score in parts.items()}
    whole = seconds(lambda: metrics.disentanglement_scores(codes, factors, NAMES, stds=np.full_like(codes, 0.1)))
    line = {
        "bench": "disentanglement",
        "hardware": hardware_class("cpu"),
        "rows": ROWS,
        "threads": 1,
        "cpu_seconds": round(whole, 1),
        "cpu_seconds_each": each,
        "goal": {"cpu_seconds": 300.0},
        "met": bool(whole <= 300.0),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
