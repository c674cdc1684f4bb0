"""Fit a model to a dataset: the one loop."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.utils.data import DataLoader

from objectwise.core import Dataset, TrainingOrder, UserError
from objectwise.training.callbacks import (
    Checkpoints,
    Interrupt,
    PictureMaker,
    Progress,
    Records,
    checkpoint_files,
)
from objectwise.training.config import TrainingConfig
from objectwise.training.feeding import StepBatches
from objectwise.training.module import TrainingModule
from objectwise.training.precision import resolve_precision


@dataclass(frozen=True)
class FitResult:
    """How training ended.

    Attributes:
        step: finished steps.
        signal_number: the signal that stopped it early, or None.
        bad_steps: steps that were skipped because something was not finite.
        seconds: time spent in training, validation included, over every attempt.
        precision: the arithmetic that was used.
    """

    step: int
    signal_number: int | None
    bad_steps: int
    seconds: float
    precision: str


def fit(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    run: Path,
    *,
    seed: int,
    model_name: str,
    resume: bool = False,
    shown: tuple[str, ...] = ("count_accuracy", "foreground_ari"),
    picture: PictureMaker | None = None,
    progress: bool = True,
) -> FitResult:
    """Train, writing checkpoints, weights, ``metrics.jsonl`` and TensorBoard events into the run folder.

    Exact: training 2N steps equals training N, a kill, and resuming for N, bitwise on a CPU in float32.

    Args:
        model: keeps the contract; changed in place.
        dataset: with a ``train`` and a ``val`` split.
        config: how to train.
        run: an existing folder.
        seed: of the order of the data and of the noise.
        model_name: name in the table or import path, stored beside the weights.
        resume: go on from the newest checkpoint that can be read.
        shown: validation scores in the progress bar.
        picture: draws what TensorBoard shows of the validation images.
        progress: show a progress bar on stderr.

    Raises:
        UserError: for data without enough images, a loss that stays non-finite, or a full disk.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    _check_sizes(dataset, config)
    accelerator = "gpu" if _use_gpu(config) else "cpu"
    precision = resolve_precision(config.precision, "cuda" if accelerator == "gpu" else "cpu")
    if precision == "bf16":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module = TrainingModule(model, config, seed)
    checkpoint = _newest_readable(run) if resume else None
    start = checkpoint.step if checkpoint else 0
    if checkpoint:
        _check_same_model(checkpoint, module)
        _set_newer_aside(run, checkpoint)
    order = TrainingOrder(dataset.splits["train"], config.batch_size, seed, shuffle=dataset.shuffle)
    feed = StepBatches(dataset, order, start, config.max_steps)
    interrupt = Interrupt()
    records = Records(run, config, dataset, feed, picture)
    callbacks: list[lightning.Callback] = [interrupt, records]
    if progress:
        callbacks.append(Progress(records, config.max_steps, shown))
    callbacks.append(Checkpoints(run, model_name, config.checkpoint_every))
    with quiet(), interrupt.listening():  # the trainer's set-up too: a KeyboardInterrupt can get lost in it
        trainer = _trainer(config, accelerator, precision, callbacks, run)
        loader = DataLoader(feed, batch_size=None)
        if start < config.max_steps:
            with _plain_errors():
                trainer.fit(module, loader, ckpt_path=checkpoint.path if checkpoint else None, weights_only=True)
        elif checkpoint:
            module.load_state_dict(checkpoint.content["state_dict"])
    stored = torch.load(checkpoint_files(run)[-1], map_location="cpu", weights_only=True)
    counters = stored["objectwise"]
    return FitResult(counters["step"], interrupt.signal_number, counters["bad_steps"], stored["seconds"], precision)


def _trainer(
    config: TrainingConfig, accelerator: str, precision: str, callbacks: list[lightning.Callback], run: Path
) -> lightning.Trainer:
    """Lightning's loop with everything switched off that our callbacks do."""
    return lightning.Trainer(
        accelerator=accelerator,
        devices=config.devices,
        strategy=_strategy(config, accelerator),
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        max_epochs=1,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=run,
    )


def _check_sizes(dataset: Dataset, config: TrainingConfig) -> None:
    for split in ("train", "val"):
        if dataset.splits.get(split, 0) == 0:
            raise UserError(f"the data have no images in the split '{split}'")


def _use_gpu(config: TrainingConfig) -> bool:
    if config.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("training.accelerator is gpu, but PyTorch sees no GPU here; use cpu or auto")
    return config.accelerator != "cpu" and torch.cuda.is_available()


def _strategy(config: TrainingConfig, accelerator: str) -> str | DDPStrategy:
    """One process; our own processes; or those that torchrun or SLURM started."""
    if "LOCAL_RANK" in os.environ or "SLURM_NTASKS" in os.environ:
        return _QuietDDP(process_group_backend="gloo" if accelerator == "cpu" else "nccl")
    if config.devices == 1:
        return "auto"
    backend = "gloo" if accelerator == "cpu" else "nccl"
    return _QuietDDP(process_group_backend=backend, start_method="spawn")


def finished_steps(run: Path) -> int:
    """How many steps the newest checkpoint that can be read has behind it; 0 without one.

    Raises:
        UserError: if there are checkpoints, but none can be read.
    """
    checkpoint = _newest_readable(run)
    return checkpoint.step if checkpoint else 0


class _Stored(NamedTuple):
    """A checkpoint that could be read."""

    path: Path
    step: int
    content: dict[str, Any]


def _newest_readable(run: Path) -> _Stored | None:
    """The newest checkpoint that loads; None if there are none."""
    files = checkpoint_files(run)
    for path in reversed(files):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            return _Stored(path, int(content["objectwise"]["step"]), content)
        except Exception:
            continue
    if files:
        raise UserError(f"none of the {len(files)} checkpoints in {run / 'checkpoints'} can be read")
    return None


def _check_same_model(checkpoint: _Stored, module: TrainingModule) -> None:
    expected = {name: value.shape for name, value in module.state_dict().items()}
    found = {name: value.shape for name, value in checkpoint.content["state_dict"].items()}
    if expected != found:
        name = next(n for n in sorted(expected.keys() | found.keys()) if expected.get(n) != found.get(n))
        raise UserError(
            f"{checkpoint.path} is a checkpoint of another model than this {type(module.model).__name__}: "
            f"they differ in '{name.removeprefix('model.')}'"
        )


def _set_newer_aside(run: Path, checkpoint: _Stored) -> None:
    """Damaged checkpoints newer than the one that is resumed must not pass for the newest again."""
    for path in checkpoint_files(run):
        if path > checkpoint.path:
            path.replace(path.with_name(path.name + ".damaged"))


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Lightning turns Ctrl-C into exit code 1, and errors of other processes come wrapped."""
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    except ProcessRaisedException as error:
        name = f"{UserError.__module__}.{UserError.__qualname__}: "
        if name in str(error):
            raise UserError(str(error).rpartition(name)[2].strip()) from None
        raise


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Lightning's advice on workers, loggers and GPUs does not concern our users."""
    levels = [logger.level for logger in _loggers()]
    with warnings.catch_warnings():
        _hush()
        try:
            yield
        finally:
            for logger, level in zip(_loggers(), levels, strict=True):
                logger.setLevel(level)


def _loggers() -> list[logging.Logger]:
    return [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]


def _hush() -> None:
    warnings.simplefilter("ignore")
    for logger in _loggers():
        logger.setLevel(logging.ERROR)


class _QuietDDP(DDPStrategy):
    """Processes that are spawned begin with Lightning's logging as it is by default."""

    def setup_environment(self) -> None:
        """Hush, then go on."""
        _hush()
        super().setup_environment()
