"""A model and data small enough to train in milliseconds, and ways to spoil them."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from objectwise.core import Batch, Config, Decoded, Decomposition, SceneModel, normal, uniforms
from objectwise.core.model import Model
from objectwise.training.config import TrainingConfig
from objectwise.training.fitting import FitResult, fit

SIDE = 6


class ToyConfig(Config):
    """Settings of the toy model."""

    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width)."""
    width: int = 4
    """Numbers in the code."""
    critic: bool = False
    """Add a group with a loss of its own, like an adversary."""
    poison: tuple[int, ...] = ()
    """Steps whose loss is not a number."""


class Toy(SceneModel):
    """A noisy linear autoencoder with one object slot and a background slot."""

    Config = ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        assert config.image_shape is not None
        pixels = int(np.prod(config.image_shape))
        self.encode = nn.Linear(pixels, config.width)
        self.decoder = nn.Linear(config.width, pixels)
        if config.critic:
            self.critic = nn.Linear(config.width, 1)

    def parameter_groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """The critic learns by itself."""
        return {"critic": self.critic.parameters()} if self.config.critic else {}

    def forward(
        self,
        images: Tensor,
        *,
        generator: torch.Generator | None = None,
        step: int | None = None,
        trajectory: bool = False,
    ) -> Decomposition:
        code = self.encode(images.flatten(1))
        if generator is not None:
            code = code + 0.1 * normal(tuple(code.shape), generator)
        slots = code.unsqueeze(1)
        decoded = self.decode(slots)
        loss = (decoded.reconstruction - images).square().flatten(1).sum(dim=1).float()
        auxiliary = {}
        if self.config.critic:
            opinion = self.critic(code).squeeze(1).float()
            auxiliary["critic"] = (opinion - 1.0).square()
            loss = loss + opinion
        if step in self.config.poison:
            loss = loss * float("nan")
        return Decomposition(
            loss=loss,
            terms={"error": loss},
            reconstruction=decoded.reconstruction,
            components=decoded.components,
            masks=decoded.masks,
            slots=torch.cat([torch.zeros_like(slots), slots], dim=1),
            presence=torch.ones(len(images), 2),
            background=(0,),
            auxiliary_losses=auxiliary,
        )

    def decode(self, slots: Tensor, presence: Tensor | None = None) -> Decoded:
        shape = self.config.image_shape
        picture = self.decoder(slots[:, -1]).view(len(slots), *shape)
        components = torch.stack([torch.zeros_like(picture), picture], dim=1)
        masks = torch.full((len(slots), 2, *shape[1:]), 0.5)
        return Decoded(components, masks, picture)


class ToyDataConfig(Config):
    """Settings of the toy data."""

    size: int = 50
    """Training images."""
    objects: int = 1
    """Objects claimed per image."""

    def build(self) -> ToyData:
        """The dataset."""
        return ToyData(self)


class ToyData:
    """Noise images, one pure function of the index each."""

    shuffle = True

    def __init__(self, config: ToyDataConfig, signal_at: int | None = None, fail_at: int | None = None) -> None:
        self.config = config
        self.image_shape = (1, SIDE, SIDE)
        self.max_objects: int | None = config.objects
        self.splits: Mapping[str, int] = {"train": config.size, "val": 9, "test": 7}
        self.signal_at, self.fail_at = signal_at, fail_at
        self.calls = 0

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        if split == "train":
            self.calls += 1
            if self.calls == self.fail_at:
                raise OSError("the data are on fire")
            if self.calls == self.signal_at:
                signal.raise_signal(signal.SIGINT)
        values = uniforms(3, (("train", "val", "test").index(split), 0), indices, SIDE * SIDE)
        images = torch.from_numpy(values).float().view(-1, 1, SIDE, SIDE)
        instances = (images[:, 0] > 0.7).long()
        present = torch.ones(len(images), 1 + self.config.objects, dtype=torch.bool)
        return Batch(index=torch.as_tensor(np.asarray(indices)), images=images, instances=instances, present=present)


def toy(seed: int = 0, **settings: Any) -> Toy:
    """A toy model with weights of a seed."""
    torch.manual_seed(seed)
    model = Toy(ToyConfig(image_shape=(1, SIDE, SIDE), **settings))
    assert isinstance(model, Model)
    return model


def data(**spoilt: Any) -> ToyData:
    """The toy data."""
    return ToyData(ToyDataConfig(), **spoilt)


def settings(max_steps: int, **changes: Any) -> TrainingConfig:
    """Quick training settings; losses are logged at every step."""
    values: dict[str, Any] = {
        "batch_size": 8,
        "precision": "float32",
        "accelerator": "cpu",
        "log_every": 1,
        "learning_rate": 0.01,
        **changes,
    }
    return TrainingConfig(max_steps=max_steps, **values)


def trained(
    run: Path,
    config: TrainingConfig,
    model: Toy | None = None,
    dataset: ToyData | None = None,
    *,
    resume: bool = False,
    seed: int = 5,
) -> tuple[Toy, FitResult]:
    """Fit a toy in a run folder."""
    run.mkdir(exist_ok=True)
    model = model or toy()
    dataset = dataset or data()
    return model, fit(model, dataset, config, run, seed=seed, model_name="toys:Toy", resume=resume, progress=False)


def stored(path: Path) -> dict[str, Any]:
    """A checkpoint, read as safely as the library does."""
    return torch.load(path, map_location="cpu", weights_only=True)


def same(first: Any, second: Any) -> bool:
    """Whether two nested states are bitwise equal."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def same_training_state(first: Path, second: Path) -> bool:
    """Whether two checkpoints hold the same weights, optimiser state and counters."""
    one, two = stored(first), stored(second)
    return all(same(one[part], two[part]) for part in ("state_dict", "optimizer_states", "objectwise"))
