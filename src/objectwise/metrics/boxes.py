"""Found boxes against true ones: CorLoc, precision, recall, F1 and average precision.

A found and a true box match where their IoU exceeds a threshold. CorLoc: Deselaers, Alexe, Ferrari, "Weakly Supervised
Localization and Learning with Generic Knowledge", IJCV 2012. Average precision: Everingham et al., "The PASCAL Visual Object
Classes Challenge", IJCV 2010, in its later form (area under the whole interpolated curve).

Boxes are ``x0 y0 x1 y1`` in pixels, half-open; those without area count as absent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from objectwise.core import MetricResult, UserError


class DetectionScores(NamedTuple):
    """What :func:`detection` found, image by image.

    Attributes:
        precision: share of found boxes that match; 0 where none was found. Images without boxes on either side are skipped.
        recall: share of true boxes that are matched; images without one are skipped.
        f1: 2·matches / (found + true); skipped as ``precision``.
    """

    precision: MetricResult
    recall: MetricResult
    f1: MetricResult


def box_iou(first: Tensor | np.ndarray, second: Tensor | np.ndarray) -> Tensor:
    """(B, M, 4) and (B, N, 4) boxes -> (B, M, N) float64 intersection over union, 0 where either is absent.

    Raises:
        UserError: for other shapes.
    """
    one, two = torch.as_tensor(first).detach().cpu().double(), torch.as_tensor(second).detach().cpu().double()
    if one.ndim != 3 or two.ndim != 3 or one.shape[2] != 4 or two.shape[2] != 4 or len(one) != len(two):
        raise UserError(
            f"boxes must be (images, boxes, 4) for as many images, not {tuple(one.shape)} and {tuple(two.shape)}"
        )
    low = torch.maximum(one[:, :, None, :2], two[:, None, :, :2])
    high = torch.minimum(one[:, :, None, 2:], two[:, None, :, 2:])
    shared = (high - low).clamp_min(0.0).prod(dim=3)
    union = _area(one).unsqueeze(2) + _area(two).unsqueeze(1) - shared
    return torch.where(shared > 0.0, shared / union.clamp_min(1e-300), 0.0)


def corloc(true_boxes: Tensor | np.ndarray, boxes: Tensor | np.ndarray, *, threshold: float = 0.5) -> MetricResult:
    """Share of images in which at least one found box matches a true one; images without a true box are skipped.

    Args:
        true_boxes: (B, M, 4).
        boxes: (B, N, 4).
        threshold: the IoU that must be exceeded.

    Raises:
        UserError: for other shapes.
    """
    hit = (box_iou(true_boxes, boxes) > threshold).flatten(1).any(dim=1)
    scores = np.where(_present(true_boxes).any(dim=1).numpy(), hit.double().numpy(), np.nan)
    return MetricResult.over_images(scores, metric="corloc", threshold=threshold)


def detection(
    true_boxes: Tensor | np.ndarray, boxes: Tensor | np.ndarray, *, threshold: float = 0.5
) -> DetectionScores:
    """Precision, recall and F1 after the one-to-one matching with most matches; arguments as :func:`corloc`."""
    matches = (box_iou(true_boxes, boxes) > threshold).numpy()
    hits = np.array([_most_matches(image) for image in matches])
    true, found = _present(true_boxes).sum(dim=1).numpy(), _present(boxes).sum(dim=1).numpy()
    none = (true == 0) & (found == 0)

    def result(name: str, bottom: np.ndarray, skipped: np.ndarray) -> MetricResult:
        scores = np.where(skipped, np.nan, hits / np.maximum(bottom, 1))
        return MetricResult.over_images(scores, metric=name, threshold=threshold)

    return DetectionScores(
        result("precision", found, none), result("recall", true, true == 0), result("f1", (found + true) / 2.0, none)
    )


def average_precision(
    true_boxes: Tensor | np.ndarray,
    boxes: Tensor | np.ndarray,
    confidence: Tensor | np.ndarray,
    *,
    threshold: float = 0.5,
) -> MetricResult:
    """Area under the interpolated curve of precision over recall, over the boxes of all images together.

    Found boxes, the most confident first (the first image on ties), each take the free true box of their image that they
    overlap most, if they match it.

    Args:
        true_boxes: (B, M, 4).
        boxes: (B, N, 4).
        confidence: (B, N), e.g. the presence of each slot; only its order matters.
        threshold: the IoU that must be exceeded.

    Returns:
        ``value`` in [0, 1], NaN without true boxes; ``per_image`` is empty: the score is no mean over images.

    Raises:
        UserError: for other shapes.
    """
    overlap, present = box_iou(true_boxes, boxes).numpy(), _present(boxes).numpy()
    sure = torch.as_tensor(confidence).detach().cpu().double().numpy()
    if sure.shape != present.shape:
        raise UserError(f"confidence must be one number per box {present.shape}, not {sure.shape}")
    images, slots = np.nonzero(present)
    order = np.argsort(-sure[images, slots], kind="stable")
    free = _present(true_boxes).numpy().copy()
    total = int(free.sum())
    hits = np.zeros(len(order), dtype=bool)
    for rank, (image, slot) in enumerate(zip(images[order], slots[order], strict=True)):
        overlaps = np.where(free[image], overlap[image, :, slot], 0.0)
        if overlaps.max(initial=0.0) > threshold:
            hits[rank] = True
            free[image, overlaps.argmax()] = False
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    # Interpolated: at each recall the best precision from there on.
    best = np.maximum.accumulate(precision[::-1])[::-1]
    value = float(best[hits].sum() / total) if total else float("nan")
    policy = {"metric": "average_precision", "threshold": threshold, "true_boxes": total, "boxes": len(order)}
    return MetricResult(value, np.zeros(0), len(overlap), 0, policy)


def _most_matches(matches: np.ndarray) -> int:
    return int(matches[linear_sum_assignment(matches, maximize=True)].sum())


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0.0).prod(dim=-1)


def _present(boxes: Tensor | np.ndarray) -> Tensor:
    return _area(torch.as_tensor(boxes).detach().cpu().double()) > 0.0
