"""Panoptic quality: which segments were found, and how well.

Kirillov et al., "Panoptic Segmentation", CVPR 2019, arXiv:1801.00868, section 4. True positives are the pairs of a true and a
predicted segment whose IoU exceeds one half: no segment can be in two of them, so that no assignment is needed. With TP, FP
(unmatched predictions) and FN (unmatched true segments) of one image,

    PQ = Σ_TP IoU / (|TP| + ½|FP| + ½|FN|) = SQ · RQ,    SQ = Σ_TP IoU / |TP|,    RQ = |TP| / (|TP| + ½|FP| + ½|FN|).

Scores are per image, then averaged over images; the original sums TP, FP and FN over a dataset first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from objectwise.core import MetricResult, UserError
from objectwise.metrics.overlap import Map, overlaps


@dataclass(frozen=True)
class PanopticScores:
    """What :func:`panoptic_quality` found; all in [0, 1].

    Attributes:
        pq: panoptic quality; images with nothing to find and nothing predicted are skipped.
        sq: segmentation quality, the mean IoU of what was found; images without a true positive are skipped.
        rq: recognition quality, an F1 score; skipped as ``pq``.
    """

    pq: MetricResult
    sq: MetricResult
    rq: MetricResult


def panoptic_quality(
    true_ids: Map,
    masks: Map,
    *,
    foreground: bool = False,
    background_ids: Sequence[int] = (0,),
    min_pixels: int = 1,
) -> PanopticScores:
    """Panoptic quality with its two factors.

    Args:
        true_ids: (B, H, W) integer id of each pixel.
        masks: (B, K, H, W) masks or (B, H, W) integer labels, as in :func:`~objectwise.metrics.adjusted_rand_index`.
        foreground: False: the background is one more segment (each id of its own). True: only objects are to be found, and an
            unmatched prediction counts as wrong only if at most half of its pixels are background.
        background_ids: every id that is background.
        min_pixels: a predicted segment with fewer does not exist.

    Raises:
        UserError: for shapes or types that cannot work.
    """
    if min_pixels < 1:
        raise UserError(f"min_pixels = {min_pixels} must be at least 1")
    found = overlaps(true_ids, masks, background_ids)
    wanted = found.objects if foreground else found.true_sizes > 0
    predicted = found.sizes >= min_pixels
    pairs = (found.iou > 0.5) & wanted[:, :, None] & predicted[:, None, :]
    wrong = predicted & ~pairs.any(axis=1)
    if foreground:
        on_background = found.shared[:, found.background].sum(axis=1)
        wrong &= 2 * on_background <= found.sizes
    hits = pairs.sum(axis=(1, 2))
    missed = wanted.sum(axis=1) - hits
    total = hits + (wrong.sum(axis=1) + missed) / 2.0
    overlap = (found.iou * pairs).sum(axis=(1, 2))

    def result(name: str, top: np.ndarray, bottom: np.ndarray) -> MetricResult:
        scores = np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), np.nan)
        name = f"{name}_fg" if foreground else name
        return MetricResult.over_images(
            scores, metric=name, **found.policy, min_pixels=min_pixels, nothing_to_score="skip"
        )

    return PanopticScores(result("pq", overlap, total), result("sq", overlap, hits), result("rq", hits, total))


def pq(true_ids: Map, masks: Map, *, background_ids: Sequence[int] = (0,), min_pixels: int = 1) -> MetricResult:
    """Panoptic quality with the background as one more segment; arguments as :func:`panoptic_quality`."""
    return panoptic_quality(true_ids, masks, background_ids=background_ids, min_pixels=min_pixels).pq


def pq_fg(true_ids: Map, masks: Map, *, background_ids: Sequence[int] = (0,), min_pixels: int = 1) -> MetricResult:
    """Panoptic quality of the objects alone; arguments as :func:`panoptic_quality`."""
    scores = panoptic_quality(true_ids, masks, foreground=True, background_ids=background_ids, min_pixels=min_pixels)
    return scores.pq
