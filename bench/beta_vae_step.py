"""β-VAE: time of a training step in ``auto`` precision against plain float32, and of drawing its images.

Plain: float32, NCHW, PyTorch's own transposed convolutions, Adam one parameter after the other, the loss from sigmoids with
PyTorch's own ``binary_cross_entropy``. ``own_transposed``: ``auto`` but for those transposed convolutions. All under the same
allocator setting, kept memory (``training.keep_freed_memory``), in turn and in processes of their own. Balls: the recreation's
fully connected and its convolutional network, batches of 128 of 32×32; 64×64: the network of Burgess et al. 2018, batches of 64.

Goal on AMX cores: twice as fast for the fully connected network, 1.8 times for the 64×64 one; dSprites at least 20,000 images a
second on one core. Where other jobs run, CPU time (``cpu_ms``) is the fairer number. Prints one JSON line:

    python bench/beta_vae_step.py [threads]
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from objectwise.core import ShardedGenerator
from objectwise.data.dsprites import DspritesConfig
from objectwise.models.beta_vae import BetaVAE
from objectwise.models.beta_vae_networks import SameConvTranspose2d
from objectwise.recipes.beta_vae import beta_vae_balls, beta_vae_dsprites
from objectwise.recipes.experiment import Experiment
from objectwise.training.allocator import keep_freed_memory
from objectwise.training.precision import hardware_class, resolve_precision

STEPS, WARMUP, ROUNDS = 12, 4, 2
EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    "fc_32": lambda: beta_vae_balls("faithful"),
    "conv_64": lambda: beta_vae_dsprites("tuned"),
    "conv_32": lambda: beta_vae_balls("faithful", architecture="conv"),
}
GOALS = {"fc_32": 2.0, "conv_64": 1.8}
"""The third has none."""


def plain_loss(model: BetaVAE, images: Tensor, generator: torch.Generator) -> Tensor:
    """The same objective as one writes it first."""
    mean, log_variance = model.encoder(images).chunk(2, dim=1)
    code = mean + torch.exp(0.5 * log_variance) * torch.randn(mean.shape, generator=generator)
    picture = torch.sigmoid(model.decoder(code))
    error = nn.functional.binary_cross_entropy(picture, images, reduction="sum")
    kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
    return (error + model.config.kl_weight * kl) / len(images)


def use_pytorchs_own(model: BetaVAE) -> None:
    """Compute transposed convolutions as PyTorch does."""
    for layer in model.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            cut = slice(None, -1) if isinstance(layer, SameConvTranspose2d) else slice(None)
            own = partial(nn.ConvTranspose2d.forward, layer)
            layer.forward = lambda maps, own=own, cut=cut: own(maps)[..., cut, cut]  # type: ignore[method-assign]


def measure(name: str, kind: str, threads: int) -> dict[str, float]:
    """Median milliseconds of a training step, of the clock and of the processor, and GFLOP per step."""
    torch.set_num_threads(threads)
    if not keep_freed_memory():
        raise SystemExit("the C library is not glibc")
    torch.manual_seed(0)
    experiment = EXPERIMENTS[name]()
    data = experiment.build_data()
    model: BetaVAE = experiment.resolved(data).build_model()
    if kind in ("plain", "own_transposed"):
        use_pytorchs_own(model)
    precision = resolve_precision("auto", "cpu") if kind in ("auto", "own_transposed") else "float32"
    if precision == "bf16":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, fused=kind != "plain", foreach=False)
    images = data.batch("train", range(experiment.training.batch_size)).images
    generator = ShardedGenerator("cpu")

    def one_step(step: int) -> None:
        generator.manual_seed(step)
        if kind == "plain":
            loss = plain_loss(model, images, generator)
        else:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
                loss = model(images, generator=generator, step=step).loss.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), math.inf)
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


def sprites_per_second() -> float:
    """Labelled dSprites of 64×64 per second of one core, the best of several batches."""
    data, best = DspritesConfig().build(), math.inf
    for step in range(20):
        began = time.process_time()
        data.batch("train", range(256 * step, 256 * step + 256))
        best = min(best, time.process_time() - began)
    return 256 / best


def main() -> None:
    """Measure in turn, several rounds, and print the best of each."""
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads()
    torch.set_num_threads(threads)
    record: dict[str, object] = {
        "bench": "beta_vae_step",
        "hardware": hardware_class("cpu"),
        "threads": threads,
        "precision": resolve_precision("auto", "cpu"),
    }
    for name in EXPERIMENTS:
        best: dict[str, dict[str, float]] = {}
        for _ in range(ROUNDS):
            for kind in ("auto", "own_transposed", "float32", "plain"):
                command = [sys.executable, __file__, "--one", name, kind, str(threads)]
                found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                before = best.get(kind, found)
                best[kind] = {key: min(value, before[key]) for key, value in found.items()}
        record |= {f"{name}_{kind}": {key: round(v, 2) for key, v in row.items()} for kind, row in best.items()}
        for key in ("ms", "cpu_ms"):
            record[f"{name}_speedup_{key}"] = round(best["plain"][key] / best["auto"][key], 2)
        if name in GOALS:
            record[f"{name}_goal"] = GOALS[name]
    record["dsprites_per_s"] = round(sprites_per_second())
    record["dsprites_goal"] = 20_000
    print(json.dumps(record))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        main()
