"""The one LightningModule: a training step for every model that keeps the contract."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from objectwise.core import (
    DEFAULT_GROUP,
    Decomposition,
    ShardedGenerator,
    UserError,
    nearest,
    parameter_groups,
    seed_for,
)
from objectwise.training.allocator import keep_freed_memory
from objectwise.training.config import TrainingConfig

_log = logging.getLogger(__name__)

_NOISE = 2
"""Purpose number of the noise seeds; the data's order uses 1."""


class TrainingModule(lightning.LightningModule):
    """Optimises ``loss.mean()``, and each auxiliary loss over its own parameter group.

    Manual optimisation: the step number comes with the batch, the noise of step s is a pure function of (seed, s), and
    a step whose loss or gradient is not finite changes nothing and is counted.

    Args:
        model: keeps the contract of :class:`objectwise.core.Model`.
        config: how to train.
        seed: of the noise.

    Attributes:
        step: the number of finished steps.
        bad_steps: how many of them were skipped because something was not finite.
        seconds: how long all of them took, validation included, over every attempt.
        last: numbers of the last finished step, for logging.
        last_finite: whether that step was done, not skipped.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.settings, self.seed = model, config, seed
        self.step = 0
        self.bad_steps = 0
        self.bad_in_a_row = 0
        self.seconds = 0.0
        self.last: dict[str, Tensor] = {}
        self.last_finite = True
        self.groups = {name: list(parameters) for name, parameters in parameter_groups(model).items()}
        unknown = sorted(set(config.group_learning_rates) - set(self.groups))
        if unknown:
            raise UserError(f"the model has no parameter group '{unknown[0]}'{nearest(unknown[0], self.groups)}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser whose parameter groups are the model's."""
        rates = self.settings.group_learning_rates
        groups = [
            {"params": parameters, "lr": rates.get(name, self.settings.learning_rate), "name": name}
            for name, parameters in self.groups.items()
        ]
        for group in groups:
            group["base_lr"] = group["lr"]
        decay, betas = self.settings.weight_decay, (self.settings.beta1, 0.999)
        match self.settings.optimizer:
            case "adam":
                return torch.optim.Adam(groups, betas=betas, weight_decay=decay, fused=True)
            case "adamw":
                return torch.optim.AdamW(groups, betas=betas, weight_decay=decay, fused=True)
            case "adagrad":
                return torch.optim.Adagrad(groups, weight_decay=decay)
            case "rmsprop":
                return torch.optim.RMSprop(groups, weight_decay=decay)
            case "sgd":
                return torch.optim.SGD(groups, weight_decay=decay, fused=True)

    def on_fit_start(self) -> None:
        """In every process of the training: its memory setting; the first says so once."""
        if self.settings.keep_freed_memory and keep_freed_memory() and self.trainer.is_global_zero:
            _log.info("freed memory is kept for the next step (training.keep_freed_memory)")

    def training_step(self, batch: tuple[int, Tensor], batch_idx: int) -> None:
        """One optimisation step on the images of step ``batch[0]``."""
        step, images = batch
        out = self.model(images, generator=self.noise(step), step=step)
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        optimizer.zero_grad(set_to_none=True)
        self._backward(out)
        norms = self._clip(optimizer)
        finite = bool(torch.isfinite(torch.stack([*norms.values(), self._mean_over_ranks(out.loss.detach())])).all())
        if finite:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * self.settings.rate_factor(step)
            optimizer.step()
        self._count(finite)
        self.step = step + 1
        self.last = {
            "loss": out.loss.detach().mean(),
            **{name: value.detach().mean() for name, value in out.terms.items()},
            **{f"{name}_loss": value.detach().mean() for name, value in out.auxiliary_losses.items()},
            **{"gradient_norm" + ("" if name == DEFAULT_GROUP else f"_{name}"): n for name, n in norms.items()},
        }

    def noise(self, step: int) -> ShardedGenerator:
        """The generator of one step, for this rank's part of the batch."""
        world_size = self.trainer.world_size if self._trainer is not None else 1
        rank = self.trainer.global_rank if self._trainer is not None else 0
        generator = ShardedGenerator(self.device, rank, world_size)
        generator.manual_seed(seed_for(self.seed, _NOISE, step))
        return generator

    def _backward(self, out: Decomposition) -> None:
        """Gradients of the loss for the groups without an auxiliary loss, and of each auxiliary loss for its own."""
        if not out.auxiliary_losses:
            self.manual_backward(out.loss.mean())
            return
        others = [p for name, ps in self.groups.items() if name not in out.auxiliary_losses for p in ps]
        with self._without_ddp_sync():
            out.loss.mean().backward(inputs=others, retain_graph=True)
            for name, loss in out.auxiliary_losses.items():
                loss.mean().backward(inputs=self.groups[name], retain_graph=True)
        self._average_gradients(p for parameters in self.groups.values() for p in parameters)

    def _without_ddp_sync(self) -> contextlib.AbstractContextManager[Any]:
        wrapped = self.trainer.strategy.model
        return wrapped.no_sync() if hasattr(wrapped, "no_sync") else contextlib.nullcontext()

    def _average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        if self.trainer.world_size == 1:
            return
        for parameter in parameters:
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= self.trainer.world_size

    def _mean_over_ranks(self, loss: Tensor) -> Tensor:
        """The mean loss, the same number on every rank, so that all skip a step or none does."""
        mean = loss.mean()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(mean)
        return mean

    def _clip(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Clip each group's gradient; returns the norms before clipping."""
        limit = self.settings.gradient_clip or math.inf
        return {group["name"]: nn.utils.clip_grad_norm_(group["params"], limit) for group in optimizer.param_groups}

    def _count(self, finite: bool) -> None:
        self.bad_in_a_row = 0 if finite else self.bad_in_a_row + 1
        self.bad_steps += not finite
        self.last_finite = finite
        if self.bad_in_a_row >= self.settings.max_bad_steps:
            raise UserError(
                f"the loss or its gradient was not finite for {self.bad_in_a_row} steps in a row (last at step "
                f"{self.step}); try a lower --training.learning-rate, a smaller --training.gradient-clip or "
                "--training.precision float32"
            )

    # Lightning keeps the model and the optimiser in its checkpoints; these are the rest.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the step counters."""
        checkpoint["objectwise"] = {"step": self.step, "bad_steps": self.bad_steps, "bad_in_a_row": self.bad_in_a_row}
        checkpoint["seconds"] = self.seconds  # apart: the one thing that an interruption may change

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the step counters; Lightning's own count of epochs would end a run that is to be lengthened."""
        checkpoint.pop("loops", None)
        self.seconds = checkpoint["seconds"]
        for name, value in checkpoint["objectwise"].items():
            setattr(self, name, value)
