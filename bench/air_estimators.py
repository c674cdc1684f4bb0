"""CPU milliseconds of a training step of every estimator of AIR at paper sizes (50×50, N = 3, batch 64), one thread.

CPU time, and the variants take turns, so that other jobs on the machine disturb little. Prints one JSON line:

    python bench/air_estimators.py
"""

from __future__ import annotations

import json
import statistics
import time

import torch

from objectwise.models.air import AIR, AIRConfig
from objectwise.training.precision import hardware_class, resolve_precision

VARIANTS: dict[str, dict[str, object]] = {
    "marginal": {},
    "collapsed": {"estimator": "collapsed"},
    "score": {"estimator": "score"},
    "score_nvil": {"estimator": "score", "baselines": "nvil"},
    "vimco_5": {"estimator": "vimco"},
    "concrete": {"estimator": "concrete"},
    "marginal_separate": {"pose": "separate"},
    "marginal_rotated": {"pose": "rotated"},
    "marginal_background": {"background": "learned"},
    "marginal_background_over": {"background": "learned", "compose": "over"},
}
ROUNDS, WARMUP = 20, 3


def main() -> None:
    """Measure all variants in turn."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, 1, 50, 50, generator=generator)
    precision = resolve_precision("auto", "cpu")
    runs = []
    for name, settings in VARIANTS.items():
        model = AIR(AIRConfig(image_shape=(1, 50, 50), **settings))
        runs.append((name, model, torch.optim.Adam(model.parameters(), fused=True)))
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for index in range(ROUNDS):
        for name, model, optimizer in runs:
            began = time.process_time()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
                out = model(images, generator=generator, step=index)
            optimizer.zero_grad(set_to_none=True)
            (out.loss.mean() + sum(loss.mean() for loss in out.auxiliary_losses.values())).backward()
            optimizer.step()
            if index >= WARMUP:
                times[name].append(1000.0 * (time.process_time() - began))
    medians = {name: round(statistics.median(values), 1) for name, values in times.items()}
    print(json.dumps({"bench": "air_estimators", "hardware": hardware_class("cpu"), "precision": precision, **medians}))


if __name__ == "__main__":
    main()
