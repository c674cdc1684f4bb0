"""What a model with one code per image shows of its latents: arrays for the figures."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from objectwise.core import Batch, Dataset
from objectwise.metrics.disentanglement import dead_dimensions
from objectwise.training.evaluation import decompositions

VALUES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
"""Where traversals stop by; the recreation's are −3, −1.5, 0, 1.5, 3."""


class Latents(NamedTuple):
    """How an encoder uses its D latents on n images.

    Attributes:
        means: (n, D) posterior means.
        stds: (n, D) posterior standard deviations.
    """

    means: np.ndarray
    stds: np.ndarray

    @property
    def spread(self) -> np.ndarray:
        """(D,) mean posterior standard deviations."""
        return np.asarray(self.stds.mean(axis=0))

    @property
    def kl(self) -> np.ndarray:
        """(D,) mean KL to N(0, 1) of each latent in nats."""
        mean, variance = self.means.astype(np.float64), self.stds.astype(np.float64) ** 2
        return np.asarray((0.5 * (mean**2 + variance - 1.0 - np.log(variance))).mean(axis=0))

    @property
    def dead(self) -> list[int]:
        """Latents that say nothing."""
        return [int(d) for d in np.flatnonzero(dead_dimensions(self.means, self.stds))]


def has_one_code(model: Any, images: Tensor) -> bool:
    """Whether the model has one code for an image, with a posterior."""
    with torch.no_grad():
        out = model(images[:1])
    return out.slots.shape[1] == 1 and out.posterior is not None


def latents_of(model: Any, dataset: Dataset, split: str, images: int) -> Latents:
    """Posterior means and standard deviations of the first images of a split."""
    found = decompositions(model, dataset, split, np.arange(min(images, dataset.splits[split])), 256)
    parts = [out.posterior for _, out in found if out.posterior is not None]
    means, stds = (torch.cat([part[field][:, 0].float() for part in parts]).numpy() for field in (0, 1))
    return Latents(means, stds)


@torch.no_grad()
def traversals(model: Any, code: Tensor, values: tuple[float, ...] = VALUES) -> np.ndarray:
    """Pictures as each latent takes some values while the others stay: (D, V, C, H, W).

    Args:
        model: of one slot.
        code: (D,) where the others stay, a posterior mean.
        values: (V,) of the latent that moves.
    """
    latents = len(code)
    codes = code.float().repeat(latents, len(values), 1)
    every = torch.arange(latents)
    codes[every, :, every] = torch.tensor(values)
    drawn = model.decode(codes.view(-1, 1, latents)).reconstruction
    return np.asarray(drawn.view(latents, len(values), *drawn.shape[1:]).float().cpu().numpy())


@torch.no_grad()
def sampled_terms(model: Any, dataset: Dataset, split: str, images: int, *, seed: int = 0) -> dict[str, float]:
    """Mean terms of the loss over the first images of a split with *sampled* codes, as training sees them.

    Reconstruction errors at posterior means, which evaluation gives, are smaller than published ones, which are of samples.
    """
    generator = torch.Generator().manual_seed(seed)
    totals: dict[str, list[Tensor]] = {}
    indices = np.arange(min(images, dataset.splits[split]))
    for start in range(0, len(indices), 256):
        batch: Batch = dataset.batch(split, indices[start : start + 256])
        for name, values in model(batch.images, generator=generator).terms.items():
            totals.setdefault(name, []).append(values.double())
    return {name: float(torch.cat(parts).mean()) for name, parts in totals.items()}
