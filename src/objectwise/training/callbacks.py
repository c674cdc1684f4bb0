"""What happens around training steps: checkpoints, logs, validation, pictures, the progress bar, and Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from objectwise.core import Batch, Dataset, Decomposition, UserError, save_weights
from objectwise.core.files import atomic_path
from objectwise.training.config import TrainingConfig
from objectwise.training.evaluation import decompositions, evaluate
from objectwise.training.feeding import StepBatches
from objectwise.training.module import TrainingModule

PictureMaker = Callable[[Batch, Decomposition], np.ndarray]
"""(batch, decomposition) -> (H, W, 3) uint8 picture for TensorBoard."""

_KEPT = 2
"""Checkpoints kept: the newest and the one before."""


class Checkpoints(lightning.Callback):
    """Writes ``checkpoints/step-N.ckpt`` atomically, the weights into ``model/``, and keeps the last two."""

    def __init__(self, run: Path, model_name: str, every: int) -> None:
        self.folder, self.weights, self.model_name, self.every = run / "checkpoints", run / "model", model_name, every
        self.saved_step: int | None = None
        self.clock = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The state before the first step, so that a run can be resumed whenever it dies."""
        self.clock = time.perf_counter()
        self.save(trainer, pl_module)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object) -> None:
        """Save every ``every`` steps."""
        if pl_module.step % self.every == 0:
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the last state, also after Ctrl-C."""
        self.save(trainer, pl_module)

    def save(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Write a checkpoint of the finished steps, unless it is there."""
        assert isinstance(module, TrainingModule)
        if self.saved_step == module.step:
            return
        module.seconds += time.perf_counter() - self.clock
        self.clock = time.perf_counter()
        path = self.folder / f"step-{module.step:09d}.ckpt"
        if not trainer.is_global_zero:
            trainer.save_checkpoint(path)  # writes nothing here, but every rank has to take part
        else:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"cannot create {self.folder}: {error.strerror or error}") from None
            with atomic_path(path) as temporary:
                trainer.save_checkpoint(temporary)
            save_weights(module.model, self.model_name, self.weights)
            unfinished = self.folder.glob(".step-*.tmp")  # left where a kill allowed no cleaning up
            for old in (*checkpoint_files(self.folder.parent)[:-_KEPT], *unfinished):
                old.unlink(missing_ok=True)
        self.saved_step = module.step


def checkpoint_files(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*.ckpt"))


class Records(lightning.Callback):
    """Writes ``metrics.jsonl`` and TensorBoard: training numbers, validation scores and pictures."""

    def __init__(
        self, run: Path, config: TrainingConfig, dataset: Dataset, feed: StepBatches, picture: PictureMaker | None
    ) -> None:
        self.run, self.config, self.dataset, self.feed, self.picture = run, config, dataset, feed, picture
        self._start_anew()
        self.began = self.paused = 0.0
        self.validation: dict[str, float] = {}
        self.latest: dict[str, float] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Open the logs; lines of steps that will be done again are dropped."""
        if not trainer.is_global_zero:
            return
        from torch.utils.tensorboard.writer import SummaryWriter

        step = pl_module.step
        path = self.run / "metrics.jsonl"
        with self._clear_errors():
            self.writer = SummaryWriter(str(self.run / "tensorboard"), purge_step=step or None)
            kept = [row for row in read_metrics(path) if row["step"] <= step]
            with atomic_path(path) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            self.file = path.open("a", encoding="utf-8")
        self._restart_clock()

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object) -> None:
        """Sum up, and now and then write."""
        assert isinstance(pl_module, TrainingModule)
        self.steps += 1
        if pl_module.last_finite:
            for name, value in pl_module.last.items():
                self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.summed += 1
        step = pl_module.step
        written = step % self.config.log_every == 0 or step == self.config.max_steps
        if written:
            self._average_over_ranks(trainer.world_size)
        if not trainer.is_global_zero:
            if written:
                self._start_anew()
            return
        if written:
            self._write_training(pl_module)
        if step % self.config.validate_every == 0 or step == self.config.max_steps:
            self._validate(pl_module)
        if self.picture and (step % self.config.pictures_every == 0 or step == self.config.max_steps):
            self._draw(pl_module.model, step)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Close the logs."""
        if trainer.is_global_zero:
            with self._clear_errors():
                self.file.close()
                self.writer.close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Close the logs; what went wrong is said by the exception."""
        if hasattr(self, "file"):
            with contextlib.suppress(UserError):
                self.on_train_end(trainer, pl_module)

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write the logs of {self.run}: {error.strerror or error}") from None

    def _start_anew(self) -> None:
        """Forget the sums; steps that were skipped are counted but not averaged."""
        self.sums: dict[str, Tensor] = {}
        self.steps = self.summed = 0

    def _average_over_ranks(self, world_size: int) -> None:
        """Every rank saw its own part of the batches; what is written is about the whole."""
        if world_size > 1 and self.summed:
            values = torch.stack([value.float() for value in self.sums.values()])
            torch.distributed.all_reduce(values)
            self.sums = dict(zip(self.sums, values / world_size, strict=True))

    def _restart_clock(self) -> None:
        self.began, self.waited_before, self.paused = time.perf_counter(), self.feed.waited, 0.0

    def _write_training(self, module: TrainingModule) -> None:
        seconds = time.perf_counter() - self.began - self.paused
        row = {name: float(value) / self.summed for name, value in self.sums.items()}
        row |= {
            "images_per_second": self.steps * self.config.batch_size / seconds,
            "seconds_per_step": seconds / self.steps,
            "wait_share": (self.feed.waited - self.waited_before) / seconds,
            "bad_steps": float(module.bad_steps),
        }
        self._write("train", module.step, row)
        self.latest = row
        self._start_anew()
        self._restart_clock()

    def _validate(self, module: TrainingModule) -> None:
        began = time.perf_counter()
        found = evaluate(
            module.model,
            self.dataset,
            split="val",
            limit=self.config.validation_images,
            batch_size=min(64, self.config.batch_size),
        )
        self.validation = found.scores
        self._write("val", module.step, found.scores)
        self.paused += time.perf_counter() - began

    def _write(self, split: str, step: int, row: dict[str, float]) -> None:
        with self._clear_errors():
            self.file.write(json.dumps({"step": step, "split": split, **row}) + "\n")
            self.file.flush()
            for name, value in row.items():
                self.writer.add_scalar(f"{split}/{name}", value, step)

    def _draw(self, model: nn.Module, step: int) -> None:
        assert self.picture is not None
        began = time.perf_counter()
        size = min(6, self.dataset.splits["val"])
        batch, out = next(decompositions(model, self.dataset, "val", np.arange(size)))
        with self._clear_errors():
            self.writer.add_image("val/decompositions", self.picture(batch, out), step, dataformats="HWC")
        self.paused += time.perf_counter() - began


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``; an unfinished last line is left out."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


class Progress(lightning.Callback):
    """A progress bar on stderr: loss, held-out scores, time per step, time left.

    Args:
        records: where the numbers come from.
        total: steps of the whole run.
        shown: names of the validation scores to show, if there.
    """

    def __init__(self, records: Records, total: int, shown: tuple[str, ...]) -> None:
        self.records, self.total, self.shown = records, total, shown

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw the empty bar."""
        if not trainer.is_global_zero:
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.console = Console(stderr=True)
        self.live = self.console.is_terminal
        self.bar = Progress(
            TextColumn("[bold]{task.completed}/{task.total}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            refresh_per_second=4,
        )
        self.task = self.bar.add_task("training", total=self.total, completed=pl_module.step, numbers="")
        self.began, self.first, self.printed = time.perf_counter(), pl_module.step, time.perf_counter()
        if self.live:
            self.bar.start()

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object) -> None:
        """Move the bar; without a terminal, print a line every ten seconds."""
        if not trainer.is_global_zero:
            return
        step: int = pl_module.step
        if self.live:
            if step % 5 == 0 or step == self.total:
                self.bar.update(self.task, completed=step, numbers=self._numbers())
        elif time.perf_counter() - self.printed > 10.0 or step == self.total:
            self.printed = time.perf_counter()
            left = (self.printed - self.began) / (step - self.first) * (self.total - step)
            self.console.print(
                f"step {step}/{self.total}  {self._numbers()}  {left:.0f} s left", highlight=False, soft_wrap=True
            )

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Leave the finished bar on the screen."""
        if trainer.is_global_zero and self.live:
            self.bar.stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Leave the terminal as it was."""
        if hasattr(self, "bar"):
            self.on_train_end(trainer, pl_module)

    def _numbers(self) -> str:
        latest, validation = self.records.latest, self.records.validation
        parts = [f"loss {latest['loss']:.1f}"] if "loss" in latest else []
        parts += [
            f"held-out {name.replace('_', ' ')} {validation[name]:.3f}" for name in self.shown if name in validation
        ]
        parts += [f"{1000 * latest['seconds_per_step']:.0f} ms/step"] if latest else []
        return "  ".join(parts)


class Interrupt(lightning.Callback):
    """Ctrl-C (or SIGTERM) ends training after the step in progress; a second one ends it at once.

    Attributes:
        signal_number: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.previous: dict[int, Any] = {}
        self.process = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Listen, in processes of their own too."""
        self._listen()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Note signals from now on, also while other processes do the training; they get and obey the same ones."""
        self._listen()
        before = dict(self.previous)
        try:
            yield
        finally:  # Lightning puts back what it found, which was ours, and ignores SIGINT after a second Ctrl-C
            self.previous = before
            self._restore()

    def _listen(self) -> None:
        """Only the main thread can listen to signals. Lightning's own handler is replaced; an earlier one comes back."""
        if threading.current_thread() is not threading.main_thread() or self.signal_number is not None:
            return
        if self.process != os.getpid():
            self.process, self.previous = os.getpid(), {}
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous.setdefault(number, signal.signal(number, self._on_signal))

    def _on_signal(self, number: int, frame: object) -> None:
        del frame
        self.signal_number = number
        self._restore()

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object) -> None:
        """Ask the loop to stop, all processes after the same step, whichever heard the signal."""
        stop = self.signal_number is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        trainer.should_stop = trainer.should_stop or stop

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Listen no more."""
        self._restore()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Listen no more."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}
