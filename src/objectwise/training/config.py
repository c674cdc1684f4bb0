"""Settings of a training run."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from objectwise.core import Config


class TrainingConfig(Config):
    """How a model is trained; what it is and on what is said elsewhere."""

    max_steps: int = Field(5_000, ge=1)
    """Optimisation steps."""
    batch_size: int = Field(64, ge=1)
    """Images per step, over all devices together."""
    optimizer: Literal["adam", "adamw", "adagrad", "rmsprop", "sgd"] = "adam"
    """Optimiser."""
    learning_rate: float = Field(5e-4, gt=0.0)
    """Learning rate of every parameter group that group_learning_rates does not name."""
    group_learning_rates: dict[str, float] = Field(default_factory=dict)
    """Learning rates of parameter groups that the model declares, by name."""
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    """Adam's β₁, the decay of its mean gradient."""
    weight_decay: float = Field(0.0, ge=0.0)
    """Weight decay."""
    schedule: Literal["constant", "cosine", "exponential"] = "constant"
    """Learning rate over time: constant, cosine to zero at max_steps, or halved every half_life steps."""
    half_life: int = Field(100_000, ge=1)
    """Steps in which the exponential schedule halves the learning rate."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises linearly from zero."""
    gradient_clip: float | None = Field(50.0, gt=0.0)
    """Largest norm of each parameter group's gradient; None: no clipping."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """auto: bfloat16 where the hardware has it in silicon, else float32."""
    devices: int = Field(1, ge=1)
    """Processes: GPUs, or CPU processes (gloo) where there is no GPU."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: a GPU if there is one."""
    threads: int | None = Field(None, ge=1)
    """CPU threads per process; None: PyTorch's choice. Use 1 beside other jobs."""
    keep_freed_memory: bool = True
    """On Linux with glibc: keep freed memory for the next step instead of returning it to the system; faster on CPUs."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between checkpoints; one is also written at the start, at the end and on Ctrl-C."""
    validate_every: int = Field(250, ge=1)
    """Steps between evaluations on the validation split."""
    validation_images: int = Field(512, ge=1)
    """Images of the validation split that are looked at while training."""
    log_every: int = Field(50, ge=1)
    """Steps between lines of metrics.jsonl and TensorBoard scalars."""
    pictures_every: int = Field(1_000, ge=1)
    """Steps between pictures in TensorBoard."""
    max_bad_steps: int = Field(20, ge=1)
    """Training stops after this many steps in a row with a loss or gradient that is not finite."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.batch_size % self.devices:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of devices {self.devices}")
        return self

    def rate_factor(self, step: int) -> float:
        """What the learning rate is multiplied with at a step: a pure function, so that resuming needs no state."""
        factor = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "cosine":
            factor *= 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / self.max_steps)))
        elif self.schedule == "exponential":
            factor *= 0.5 ** (step / self.half_life)
        return factor
