"""How well the parts a model divides a drawing into agree with the true ones (pen strokes), against chance.

Both partitions are of the *ink pixels* alone, those whose true id is not background. Two scores: the adjusted Rand index over
them, and the mean best overlap: for every true part the largest intersection over union with a found part, averaged over the
parts of an image. Neither says much by itself: any division of a line into short pieces that hang together agrees with strokes
to some degree. So every image is also divided into *as many parts as were found* in two ways that know nothing of strokes:
``"pixels"``, every ink pixel at random, and ``"regions"``, the cells around randomly chosen ink pixels (Voronoi). Only the
lift over ``"regions"`` is evidence of strokes.

Images with fewer than two true parts are not scored: there is nothing to divide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from objectwise.core import MetricResult, UserError
from objectwise.metrics.segmentation import contingency, foreground_ari, labels_from_masks

Chance = Literal["regions", "pixels"]


@dataclass(frozen=True)
class PartScores:
    """What :func:`part_scores` found.

    Attributes:
        ari: adjusted Rand index over ink pixels.
        overlap: mean best overlap.
        chance_ari: kind of random partition -> its adjusted Rand index, averaged over draws.
        chance_overlap: kind -> its mean best overlap.
        lift_ari: kind -> found minus random, image by image.
        lift_overlap: kind -> found minus random, image by image.
        found: (B,) number of parts found on the ink of each image.
    """

    ari: MetricResult
    overlap: MetricResult
    chance_ari: dict[str, MetricResult]
    chance_overlap: dict[str, MetricResult]
    lift_ari: dict[str, MetricResult]
    lift_overlap: dict[str, MetricResult]
    found: np.ndarray


def part_scores(
    true_ids: Tensor | np.ndarray,
    parts: Tensor | np.ndarray,
    *,
    generator: torch.Generator,
    draws: int = 10,
    background_ids: Sequence[int] = (0,),
    background_slots: Sequence[int] = (),
) -> PartScores:
    """Score found parts against true ones and against random partitions into as many.

    Args:
        true_ids: (B, H, W) integers, the part of each pixel.
        parts: (B, K, H, W) masks, of which the largest at each pixel counts, or (B, H, W) integer labels.
        generator: of the random partitions.
        draws: how many of each kind are averaged.
        background_ids: true ids that are not ink.
        background_slots: masks that are no parts: each ink pixel goes to the part that explains it best, however weakly.
            Without this, ink left to the background is one part more.

    Raises:
        UserError: for shapes or types that cannot work, or no draws.
    """
    if draws < 1:
        raise UserError(f"draws = {draws} must be at least 1")
    true_ids = torch.as_tensor(true_ids)
    labels = part_labels(parts, background_slots=background_slots)
    ink = _ink(true_ids, background_ids)
    found = number_of_parts(labels, ink)
    ari = foreground_ari(true_ids, labels, background_ids=background_ids)
    overlap = mean_best_overlap(true_ids, labels, background_ids=background_ids)
    chance_ari, chance_overlap = {}, {}
    for kind in ("regions", "pixels"):
        scores = []
        for _ in range(draws):
            drawn = random_partition(ink, found, kind=kind, generator=generator)
            scores.append(
                (
                    foreground_ari(true_ids, drawn, background_ids=background_ids).per_image,
                    mean_best_overlap(true_ids, drawn, background_ids=background_ids).per_image,
                )
            )
        mean = np.mean(scores, axis=0)
        policy = {"partition": kind, "draws": draws}
        chance_ari[kind] = MetricResult.over_images(mean[0], metric="foreground_ari", **policy)
        chance_overlap[kind] = MetricResult.over_images(mean[1], metric="mean_best_overlap", **policy)
    return PartScores(
        ari,
        overlap,
        chance_ari,
        chance_overlap,
        {kind: _lift(ari, chance) for kind, chance in chance_ari.items()},
        {kind: _lift(overlap, chance) for kind, chance in chance_overlap.items()},
        found.numpy(),
    )


def mean_best_overlap(
    true_ids: Tensor | np.ndarray, parts: Tensor | np.ndarray, *, background_ids: Sequence[int] = (0,)
) -> MetricResult:
    """For every true part the best intersection over union with a found one, on ink pixels; averaged over true parts (mBO).

    Args:
        true_ids: (B, H, W) integers.
        parts: (B, K, H, W) masks or (B, H, W) integer labels, as in :func:`part_scores`.
        background_ids: true ids that are not ink.

    Returns:
        ``per_image`` in [0, 1]; NaN where fewer than two true parts can be seen.

    Raises:
        UserError: for shapes or types that cannot work.
    """
    labels = part_labels(parts)
    counts, rows, _ = contingency(true_ids, labels)
    table = counts[:, ~torch.isin(rows, rows.new_tensor(tuple(background_ids)))].numpy().astype(np.float64)
    true_sizes, sizes = table.sum(axis=2), table.sum(axis=1)
    union = true_sizes[:, :, None] + sizes[:, None, :] - table
    best = (table / np.maximum(union, 1.0)).max(axis=2, initial=0.0)
    seen = (true_sizes > 0).sum(axis=1)
    scores = np.where(seen >= 2, best.sum(axis=1) / np.maximum(seen, 1), np.nan)
    return MetricResult.over_images(
        scores, metric="mean_best_overlap", background_ids=tuple(background_ids), fewer_than_two="skip"
    )


def part_labels(parts: Tensor | np.ndarray, *, background_slots: Sequence[int] = ()) -> Tensor:
    """(B, K, H, W) masks -> (B, H, W) int64 slot with the largest one, backgrounds left out; integer labels as they are.

    Args:
        parts: masks or labels.
        background_slots: slots that win nowhere; only masks can have some.

    Raises:
        UserError: for labels with background slots, or masks that are all background.
    """
    parts = torch.as_tensor(parts)
    if parts.ndim != 4:
        if background_slots:
            raise UserError("background_slots are slots of masks (images, slots, height, width), not of labels")
        return parts
    kept = [slot for slot in range(parts.shape[1]) if slot not in background_slots]
    if not kept:
        raise UserError(f"all {parts.shape[1]} masks are background; there is no part to score")
    return torch.tensor(kept, device=parts.device)[labels_from_masks(parts[:, kept])]


def number_of_parts(labels: Tensor, ink: Tensor) -> Tensor:
    """(B, H, W) integer labels and (B, H, W) bool ink -> (B,) int64 different labels on the ink."""
    return torch.tensor([len(label[where].unique()) for label, where in zip(labels, ink, strict=True)])


def random_partition(ink: Tensor, number: Tensor, *, kind: Chance, generator: torch.Generator) -> Tensor:
    """Divide the ink of every image at random.

    Args:
        ink: (B, H, W) bool.
        number: (B,) parts wanted; ``"regions"`` gives exactly as many (unless there are fewer pixels).
        kind: ``"regions"``: every pixel goes to the nearest of as many different ink pixels; ``"pixels"``: to any part.
        generator: on the CPU.

    Returns:
        (B, H, W) int64: 0 without ink, then 1, 2, ...
    """
    out = torch.zeros(ink.shape, dtype=torch.int64)
    for labels, where, parts in zip(out, ink.cpu(), number.tolist(), strict=True):
        places = where.nonzero()
        if len(places) == 0 or parts == 0:
            continue
        if kind == "pixels":
            labels[where] = 1 + torch.randint(parts, (len(places),), generator=generator)
            continue
        seeds = places[torch.randperm(len(places), generator=generator)[:parts]]
        squares = (places[:, None] - seeds[None]).square().sum(dim=2)
        labels[where] = 1 + squares.argmin(dim=1)
    return out


def _ink(true_ids: Tensor, background_ids: Sequence[int]) -> Tensor:
    return ~torch.isin(true_ids, true_ids.new_tensor(tuple(background_ids)))


def _lift(found: MetricResult, chance: MetricResult) -> MetricResult:
    return MetricResult.over_images(found.per_image - chance.per_image, **{**chance.policy, "lift": True})
