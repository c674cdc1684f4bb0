"""Scores of a model on a split of a dataset, by the fields that both have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from objectwise.core import Batch, Dataset, Decomposition, UserError, nearest
from objectwise.metrics.counting import CountScores, count_scores
from objectwise.metrics.reconstruction import mse
from objectwise.metrics.segmentation import foreground_ari


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        split: which split.
        images: number of images.
        scores: name -> number; NaN values are left out.
        details: policies, numbers of images scored and skipped, confusion matrix, by name of the score.
        counts: the count scores, where the data have counts.
    """

    split: str
    images: int
    scores: dict[str, float]
    details: dict[str, Any]
    counts: CountScores | None


@torch.no_grad()
def decompositions(
    model: nn.Module, dataset: Dataset, split: str, indices: np.ndarray, batch_size: int = 64
) -> Iterator[tuple[Batch, Decomposition]]:
    """Decompose samples with posterior means, batch by batch; both parts come back on the CPU.

    Args:
        model: keeps the contract.
        dataset: where the images come from.
        split: which split.
        indices: (M,) sample indices.
        batch_size: images at a time.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    try:
        for start in range(0, len(indices), batch_size):
            batch = dataset.batch(split, indices[start : start + batch_size])
            yield batch, model(batch.images.to(device)).to("cpu")
    finally:
        model.train(was_training)


def evaluate(
    model: nn.Module, dataset: Dataset, *, split: str = "test", limit: int | None = None, batch_size: int = 64
) -> Evaluation:
    """Score a model on the first ``limit`` samples of a split.

    Loss and terms always; the mean number of objects found where the model counts; count accuracy where the data have counts;
    foreground ARI where they have masks.

    Args:
        model: keeps the contract.
        dataset: with or without labels.
        split: which split.
        limit: number of images; None: all.
        batch_size: images at a time.

    Raises:
        UserError: for an unknown or empty split.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise UserError(f"batch_size {batch_size} and limit {limit} must be at least 1")
    if split not in dataset.splits:
        raise UserError(f"the data have no split '{split}'{nearest(split, dataset.splits)}")
    size = min(dataset.splits[split], limit or dataset.splits[split])
    if size == 0:
        raise UserError(f"the split '{split}' is empty")
    columns: dict[str, list[np.ndarray]] = {}
    true_counts: list[np.ndarray] = []
    found_counts: list[np.ndarray] = []
    for batch, out in decompositions(model, dataset, split, np.arange(size), batch_size):
        rows = {"loss": out.loss, **out.terms}
        if out.count_probs is not None:
            rows["mean_count"] = out.counts()
        rows["mse"] = torch.from_numpy(mse(batch.images, out.reconstruction).per_image)
        if batch.instances is not None:
            scored = foreground_ari(batch.instances, out.masks, background_ids=batch.background_ids)
            rows["foreground_ari"] = torch.from_numpy(scored.per_image)
        for name, values in rows.items():
            columns.setdefault(name, []).append(values.double().numpy())
        if batch.counts is not None:
            true_counts.append(batch.counts.numpy())
            found_counts.append(out.counts().numpy())
    return _summary(split, size, columns, true_counts, found_counts)


def _summary(
    split: str,
    size: int,
    columns: dict[str, list[np.ndarray]],
    true_counts: list[np.ndarray],
    found_counts: list[np.ndarray],
) -> Evaluation:
    scores: dict[str, float] = {}
    details: dict[str, Any] = {"mse": {"reduction": "mean over pixels and channels, images in [0, 1]"}}
    for name, parts in columns.items():
        values = np.concatenate(parts)
        scored = values[~np.isnan(values)]
        if len(scored):
            scores[name] = float(scored.mean())
        if name == "foreground_ari":
            details[name] = {"degenerate": "skip", "n_scored": len(scored), "n_skipped": size - len(scored)}
    counts = None
    if true_counts:
        counts = count_scores(np.concatenate(true_counts), np.concatenate(found_counts))
        scores["count_accuracy"] = counts.accuracy
        scores["count_mean_absolute_error"] = counts.mean_absolute_error
        details["count_accuracy"] = {
            "estimator": "most probable count",
            "confusion": counts.confusion.tolist(),
            "base_rate": counts.base_rate,
        }
    return Evaluation(split, size, scores, details, counts)
