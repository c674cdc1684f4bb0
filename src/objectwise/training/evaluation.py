"""Scores of a model on a split of a dataset, by the fields that both have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from objectwise.core import Batch, Dataset, Decomposition, UserError, nearest
from objectwise.metrics.counting import CountScores, count_scores
from objectwise.metrics.groups import GroupScores, GroupSettings, metric_group
from objectwise.metrics.reconstruction import mse
from objectwise.metrics.segmentation import foreground_ari

CANNOT_COUNT = "the model has one slot for the whole image and cannot count"
"""Why there are no count scores."""
_SAME_MASK = 1e-3
"""Masks that differ by no more than this everywhere are one kind."""


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        split: which split.
        images: number of images.
        scores: name -> number; NaN values are left out.
        details: policies, numbers of images scored and skipped, confusion matrix, by name of the score.
        counts: the count scores, where the data have counts and the model can count.
        groups: metric group -> what it found, for the groups that were asked for.
    """

    split: str
    images: int
    scores: dict[str, float]
    details: dict[str, Any]
    counts: CountScores | None
    groups: dict[str, GroupScores] = field(default_factory=dict)


@torch.no_grad()
def decompositions(
    model: nn.Module,
    dataset: Dataset,
    split: str,
    indices: np.ndarray,
    batch_size: int = 64,
    *,
    trajectory: bool = False,
) -> Iterator[tuple[Batch, Decomposition]]:
    """Decompose samples with posterior means, batch by batch; both parts come back on the CPU.

    Args:
        model: keeps the contract.
        dataset: where the images come from.
        split: which split.
        indices: (M,) sample indices.
        batch_size: images at a time.
        trajectory: also ask for the refinement steps.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    wanted = {"trajectory": True} if trajectory else {}
    try:
        for start in range(0, len(indices), batch_size):
            batch = dataset.batch(split, indices[start : start + batch_size])
            yield batch, model(batch.images.to(device), **wanted).to("cpu")
    finally:
        model.train(was_training)


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    *,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 64,
    metrics: Sequence[str] = (),
    settings: GroupSettings | None = None,
) -> Evaluation:
    """Score a model on the first ``limit`` samples of a split.

    Loss and terms always; the mean number of objects found where the model counts; count accuracy where the data have counts
    and the model more than one slot, or a probability of each count; foreground ARI where the data have masks.

    Args:
        model: keeps the contract.
        dataset: with or without labels.
        split: which split.
        limit: number of images; None: all.
        batch_size: images at a time.
        metrics: names of :data:`~objectwise.metrics.groups.METRIC_GROUPS`, computed besides.
        settings: of those groups.

    Raises:
        UserError: for an unknown or empty split, an unknown group, or data that lack what a group needs.
    """
    groups = _Groups(model, metrics, settings)
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
            if out.num_slots > 1 or out.count_probs is not None:
                found_counts.append(out.counts().numpy())
        groups.add(batch, out)
    summary = _summary(split, size, columns, true_counts, found_counts)
    return replace(summary, groups=groups.scores())


class _Groups:
    """The metric groups that were asked for, fed batch by batch."""

    def __init__(self, model: Any, names: Sequence[str], settings: GroupSettings | None) -> None:
        self.model = model
        self.groups = {name: metric_group(name, settings) for name in names}
        self.kinds: tuple[str, ...] | None = None

    def add(self, batch: Batch, out: Decomposition) -> None:
        if not self.groups:
            return
        masks = self._masks(out)
        for group in self.groups.values():
            group.add(batch, out, masks)

    def scores(self) -> dict[str, GroupScores]:
        return {name: group.scores() for name, group in self.groups.items()}

    def _masks(self, out: Decomposition) -> dict[str, Tensor]:
        """The model's masks; its attention masks and those its slots decode to, where these are others (in the first batch)."""
        device = next(self.model.parameters()).device
        decoded = self.model.decode(out.slots.to(device), out.presence.to(device)).masks.cpu()
        kinds = {"masks": out.masks, "attention_masks": out.attention_masks, "decoded_masks": decoded}
        found = {kind: masks for kind, masks in kinds.items() if masks is not None}
        if self.kinds is None:
            names = list(found)
            self.kinds = tuple(
                kind
                for position, kind in enumerate(names)
                if not any(_same_masks(found[kind], found[other]) for other in names[:position])
            )
        return {kind: found[kind] for kind in self.kinds}


def _same_masks(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.allclose(first.float(), second.float(), atol=_SAME_MASK)


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
    if true_counts and not found_counts:
        details["count_accuracy"] = {"left_out": CANNOT_COUNT}
    elif true_counts:
        counts = count_scores(np.concatenate(true_counts), np.concatenate(found_counts))
        scores["count_accuracy"] = counts.accuracy
        scores["count_mean_absolute_error"] = counts.mean_absolute_error
        details["count_accuracy"] = {
            "estimator": "most probable count",
            "confusion": counts.confusion.tolist(),
            "base_rate": counts.base_rate,
        }
    return Evaluation(split, size, scores, details, counts)
