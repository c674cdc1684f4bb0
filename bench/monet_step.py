"""MONet at the blog's sizes (64×64, K = 3, batch 64): time of a training step, against the same model written plainly in float32.

The plain model has PyTorch's own layers throughout, in float32 and NCHW: instance normalisation, ReLU, nearest-neighbour
resizing, and a broadcast decoder that convolves the whole canvas; weights and loss are the same. Both are measured under the same
allocator setting, kept memory (``training.keep_freed_memory``), and without it, in turn and in processes of their own.

Goal: on 2 idle AMX cores at most 400 ms, at least 3 times as fast as the plain model. Where other jobs run, CPU time
(``cpu_ms``) is the fairer number. Prints one JSON line:

    python bench/monet_step.py [threads]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from objectwise.core import ShardedGenerator
from objectwise.models.monet import MONet
from objectwise.nn.broadcast_decoder import SpatialBroadcastDecoder
from objectwise.nn.instance_norm import InstanceNormReLU
from objectwise.nn.unet import UNet
from objectwise.recipes import recipe
from objectwise.training.allocator import keep_freed_memory
from objectwise.training.precision import hardware_class, resolve_precision

STEPS, WARMUP, ROUNDS = 4, 3, 2


def plain_norm(self: InstanceNormReLU, x: Tensor) -> Tensor:
    """Instance normalisation and ReLU as PyTorch has them."""
    return nn.functional.instance_norm(x, weight=self.weight, bias=self.bias).relu()


def plain_unet(self: UNet, images: Tensor) -> Tensor:
    """The U-Net with PyTorch's own resizing."""
    skips, x = [], images
    for number, block in enumerate(self.down):
        x = block(x if number == 0 else nn.functional.interpolate(x, scale_factor=0.5, mode="nearest"))
        skips.append(x)
    x = self.bottleneck(x)
    for number, block in enumerate(self.up):
        x = x if number == 0 else nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        x = block(torch.cat([x, skips.pop()], dim=1))
    return self.head(x)


def plain_decoder(self: SpatialBroadcastDecoder, codes: Tensor) -> Tensor:
    """The broadcast decoder as its paper draws it."""
    height, width = self.coordinates.shape[2:]
    tiled = codes[:, :, None, None].expand(-1, -1, height, width)
    canvas = torch.cat([tiled, self.coordinates.expand(len(codes), -1, -1, -1)], dim=1)
    return self.head(self.rest(self.first(canvas).relu()))


def measure(kind: str, kept: bool, threads: int) -> dict[str, float]:
    """Median milliseconds of a training step, of the clock and of the processor, and GFLOP per step."""
    torch.set_num_threads(threads)
    if kept and not keep_freed_memory():
        raise SystemExit("the C library is not glibc")
    torch.manual_seed(0)
    experiment = recipe("monet-two-shapes")
    data = experiment.build_data()
    model: MONet = experiment.resolved(data).build_model()
    precision = resolve_precision("auto", "cpu") if kind == "auto" else "float32"
    if kind == "plain":
        InstanceNormReLU.forward, UNet.forward = plain_norm, plain_unet  # type: ignore[method-assign]
        SpatialBroadcastDecoder.forward = plain_decoder  # type: ignore[method-assign]
    if precision == "bf16":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, fused=True)
    images = data.batch("train", range(64)).images
    generator = ShardedGenerator("cpu")

    def one_step(step: int) -> None:
        generator.manual_seed(step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            out = model(images, generator=generator, step=step)
        optimizer.zero_grad(set_to_none=True)
        out.loss.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1000.0)
        optimizer.step()

    clock, processor = [], []
    for step in range(WARMUP + STEPS):
        began = time.perf_counter(), time.process_time()
        one_step(step)
        if step >= WARMUP:
            clock.append(1000 * (time.perf_counter() - began[0]))
            processor.append(1000 * (time.process_time() - began[1]))
    with FlopCounterMode(display=False) as counter:
        one_step(0)
    return {
        "ms": statistics.median(clock),
        "cpu_ms": statistics.median(processor),
        "gflop": counter.get_total_flops() / 1e9,
    }


def main() -> None:
    """Measure the variants in turn, several rounds, and print the best of each."""
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads()
    best: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for allocator in ("kept", "default"):
            for kind in ("auto", "float32", "plain"):
                command = [sys.executable, __file__, "--one", kind, allocator, str(threads)]
                found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                name = f"{kind}_{allocator}"
                before = best.get(name, found)
                best[name] = {key: min(value, before[key]) for key, value in found.items()}
    record: dict[str, object] = {
        "bench": "monet_step",
        "hardware": hardware_class("cpu"),
        "threads": threads,
        "precision": resolve_precision("auto", "cpu"),
    }
    record |= {name: {key: round(value, 1) for key, value in row.items()} for name, row in best.items()}
    for allocator in ("kept", "default"):
        for key in ("ms", "cpu_ms"):
            ratio = best[f"plain_{allocator}"][key] / best[f"auto_{allocator}"][key]
            record[f"speedup_{allocator}_{key}"] = round(ratio, 2)
    record["speedup_of_the_allocator_plain_cpu_ms"] = round(
        best["plain_default"]["cpu_ms"] / best["plain_kept"]["cpu_ms"], 2
    )
    print(json.dumps(record))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3] == "kept", int(sys.argv[4]))))
    else:
        main()
