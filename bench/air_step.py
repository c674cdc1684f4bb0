"""AIR at paper sizes (50×50, N = 3, batch 64): time of a training step, trainer overhead, and share of time waiting for data.

Goals: a step of at most 35 ms on 2 cores; the trainer at most 5 ms a step slower than a bare loop; waiting under 2 %.
Prints one JSON line. Needs an otherwise idle machine:

    python bench/air_step.py
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from objectwise.core import ShardedGenerator, TrainingOrder, seed_for
from objectwise.recipes import recipe
from objectwise.recipes.runs import initial_model
from objectwise.training.feeding import StepBatches
from objectwise.training.fitting import fit
from objectwise.training.precision import hardware_class, resolve_precision

STEPS, WARMUP = 120, 20


def bare_loop(kind: str, precision: str) -> tuple[float, float]:
    """Median milliseconds per step of the same work without a trainer, and GFLOP per step."""
    experiment = recipe(f"{kind}-digits")
    dataset = experiment.build_data()
    experiment = experiment.resolved(dataset)
    model = initial_model(experiment)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, fused=True)
    generator = ShardedGenerator("cpu")
    feed = iter(StepBatches(dataset, TrainingOrder(60_000, 64, 0, shuffle=False), 0, STEPS))

    def one_step() -> None:
        step, images = next(feed)
        generator.manual_seed(seed_for(0, 2, step))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            out = model(images, generator=generator, step=step)
        optimizer.zero_grad(set_to_none=True)
        out.loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 50.0)
        optimizer.step()

    times = []
    for step in range(STEPS - 1):
        began = time.perf_counter()
        one_step()
        if step >= WARMUP:
            times.append(1000 * (time.perf_counter() - began))
    with FlopCounterMode(display=False) as counter:
        one_step()
    return statistics.median(times), counter.get_total_flops() / 1e9


def trainer(kind: str, precision: str) -> tuple[float, float]:
    """Milliseconds per step and share of time waiting for data under the trainer, logging every 50 steps."""
    experiment = recipe(f"{kind}-digits")
    dataset = experiment.build_data()
    settings = experiment.training.replaced(
        max_steps=WARMUP + STEPS, validate_every=10_000, log_every=WARMUP, precision=precision, checkpoint_every=10_000
    )
    experiment = experiment.replaced(training=settings).resolved(dataset)
    with tempfile.TemporaryDirectory() as folder:
        fit(initial_model(experiment), dataset, settings, Path(folder), seed=0, model_name="air", progress=False)
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "train" and row["step"] > WARMUP]
    return (
        1000 * statistics.median(row["seconds_per_step"] for row in rows),
        statistics.mean(row["wait_share"] for row in rows),
    )


def main() -> None:
    """Measure AIR and DAIR in the automatic precision and in float32."""
    record: dict[str, object] = {"bench": "air_step", "hardware": hardware_class("cpu")}
    for kind in ("air", "dair"):
        for precision in dict.fromkeys((resolve_precision("auto", "cpu"), "float32")):
            bare, gflop = bare_loop(kind, precision)
            trained, waiting = trainer(kind, precision)
            record[f"{kind}_{precision}"] = {
                "bare_ms": round(bare, 1),
                "trainer_ms": round(trained, 1),
                "overhead_ms": round(trained - bare, 1),
                "wait_share": round(waiting, 4),
                "gflop_per_step": round(gflop, 2),
                "gflop_per_s": round(gflop / (bare / 1000), 1),
            }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
