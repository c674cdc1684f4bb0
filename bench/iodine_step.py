"""IODINE (64×64, K = 7, T = 5, 64-channel 3×3 decoder, Z = 64, batch 4): a training step with its levers against the plain form.

The plain form is the same maths with every lever off: the likelihood and its gradients by automatic differentiation, one mixture
per left-out slot, the broadcast picture convolved, channels that slots share convolved once per slot; float32, NCHW. It takes
inner gradients with respect to λ alone, unlike public ports, which compute the decoder's weight gradients along at every step,
so that the ratio understates the gain over those. Two scopes: ``port`` (all refinement inputs stopped, as in the PyTorch port:
one pass applies) and ``published`` (gradients and likelihoods stopped, as in the released code: it does not). All under the
same allocator setting, kept memory, each in a process of its own, in turn; loss and gradients of one step are compared first.

Goals on an idle 2-core AMX CPU: float32 at least 1.6 times, ``auto`` at least 7 times as fast as the plain form in float32;
in a memory mode (one pass, or ``checkpoint``) at most half of the plain form's peak. Where other jobs run, CPU time (``cpu_ms``)
is the fairer number. Peaks are of the resident set, less what it was before the first step.

Ceilings are of this machine in the same run: GFLOP a second of processor time that its convolution of 64 to 64 channels alone
reaches, forward and backward, channels innermost, in the precision of the variant. ``of_ceiling`` is the share of it that the
whole step reaches; ``ceiling_speedup`` is what the speed-up over the plain form would be if that were 1. Without AMX a
convolution in bfloat16 is about twice as fast as in float32, with it eight to nine times. Prints one JSON line:

    python bench/iodine_step.py [threads]
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from objectwise.core import ShardedGenerator
from objectwise.models.iodine import IODINE
from objectwise.models.iodine_config import IODINELevers
from objectwise.recipes import recipe
from objectwise.training.allocator import keep_freed_memory
from objectwise.training.precision import hardware_class, resolve_precision

STEPS, WARMUP, ROUNDS = 2, 1, 2
BATCH = 4
PLAIN = {
    "analytic_gradients": False,
    "fast_leave_one_out": False,
    "broadcast_convolution": False,
    "shared_channels": False,
    "one_pass": False,
}
KINDS: dict[str, dict[str, Any]] = {"plain": PLAIN, "float32": {}, "auto": {}, "memory": {"checkpoint": True}}


def model_of(scope: str, kind: str) -> IODINE:
    """The CLEVR network at 64×64 with the levers of a kind; the same weights for all."""
    torch.manual_seed(0)
    config = recipe("iodine-clevr6", preset=scope).model
    return IODINE(config.replaced(image_shape=(3, 64, 64), levers=IODINELevers(**KINDS[kind])))


def ceiling(dtype: torch.dtype) -> float:
    """GFLOP a second of processor time of the decoder's convolution, forward and backward, the best of five."""
    x = torch.randn(7 * BATCH, 64, 64, 64, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    layer = nn.Conv2d(64, 64, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    seconds = []
    for _ in range(6):
        began = time.process_time()
        out = layer(x)
        out.backward(out.detach())
        seconds.append(time.process_time() - began)
    return 3 * 2 * 9 * 64 * x.numel() / 1e9 / min(seconds[1:])


def measure(scope: str, kind: str, threads: int) -> dict[str, float]:
    """Median milliseconds of a training step, of the clock and of the processor; peak memory; GFLOP; loss and gradient norm."""
    torch.set_num_threads(threads)
    if not keep_freed_memory():
        raise SystemExit("the C library is not glibc")
    model = model_of(scope, kind)
    precision = resolve_precision("auto", "cpu") if kind == "auto" else "float32"
    if precision == "bf16":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, fused=True)
    images = torch.rand(BATCH, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    generator = ShardedGenerator("cpu")
    told: list[float] = []

    def one_step(step: int) -> None:
        generator.manual_seed(step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            out = model(images, generator=generator, step=step)
        optimizer.zero_grad(set_to_none=True)
        out.loss.mean().backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        told.extend([out.loss.mean().item(), norm.item()])
        optimizer.step()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock, processor = [], []
    for step in range(WARMUP + STEPS):
        began = time.perf_counter(), time.process_time()
        one_step(step)
        if step >= WARMUP:
            clock.append(1000 * (time.perf_counter() - began[0]))
            processor.append(1000 * (time.process_time() - began[1]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    found: dict[str, float] = {}
    if kind != "memory":  # the counter does not go with gradients that are taken while a step is run again
        with FlopCounterMode(display=False) as counter:
            one_step(0)
        found["gflop"] = counter.get_total_flops() / 1e9
    return found | {
        "ms": statistics.median(clock),
        "cpu_ms": statistics.median(processor),
        "peak_mib": peak / 1024,
        "ceiling": ceiling(torch.bfloat16 if precision == "bf16" else torch.float32),
        "loss": told[0],
        "gradient_norm": told[1],
    }


def main() -> None:
    """Measure the variants in turn, several rounds, and print the best of each."""
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads()
    best: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for scope in ("port", "published"):
            for kind in ("auto", "float32", "memory", "plain"):
                command = [sys.executable, __file__, "--one", scope, kind, str(threads)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout)
                name = f"{scope}_{kind}"
                before = best.get(name, found)
                best[name] = {key: min(value, before[key]) for key, value in found.items()}
                best[name]["ceiling"] = max(found["ceiling"], before["ceiling"])
    record: dict[str, object] = {
        "bench": "iodine_step",
        "hardware": hardware_class("cpu"),
        "threads": threads,
        "precision": resolve_precision("auto", "cpu"),
    }
    record |= {name: {key: round(value, 1) for key, value in row.items()} for name, row in best.items()}
    for scope in ("port", "published"):
        plain = best[f"{scope}_plain"]
        for kind in ("float32", "auto"):
            for key in ("ms", "cpu_ms"):
                record[f"speedup_{scope}_{kind}_{key}"] = round(plain[key] / best[f"{scope}_{kind}"][key], 2)
            ours = best[f"{scope}_{kind}"]
            at_best = 1000 * ours["gflop"] / ours["ceiling"]
            record[f"of_ceiling_{scope}_{kind}"] = round(at_best / ours["cpu_ms"], 2)
            record[f"ceiling_speedup_{scope}_{kind}_cpu_ms"] = round(plain["cpu_ms"] / at_best, 2)
        for kind in ("float32", "auto", "memory"):
            record[f"memory_{scope}_{kind}"] = round(best[f"{scope}_{kind}"]["peak_mib"] / plain["peak_mib"], 2)
        float32 = best[f"{scope}_float32"]
        record[f"loss_off_{scope}"] = abs(float32["loss"] / plain["loss"] - 1.0)
        record[f"gradient_norm_off_{scope}"] = abs(float32["gradient_norm"] / plain["gradient_norm"] - 1.0)
    print(json.dumps(record))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        main()
