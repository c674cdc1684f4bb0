"""How well predicted segments cover true ones: covering, best overlap, and the four scores that papers call "mIoU".

Covering: Arbeláez, Maire, Fowlkes, Malik, "Contour Detection and Hierarchical Image Segmentation", PAMI 2011; mSC: Engelcke et
al., GENESIS, ICLR 2020. The variants of mIoU are those of public code: clevrtex's evaluator (its ``mIoU_gt``, ``mIoU`` and
``mIoU_fg`` in the order below) and OCLF (``miou_fg``).

Symbols: g_i true segments with at least one pixel; p_j predicted segments, likewise (the largest mask at each pixel decides);
IoU(g, p) = |g ∩ p| / |g ∪ p| on *whole* segments, never on the foreground alone, so that a slot that leaks into the background
pays for it.

===========================  =======================================  ======================================================
name                         numerator                                denominator
===========================  =======================================  ======================================================
``sc``, ``sc_fg``            Σ_i |g_i| max_j IoU(g_i, p_j)            Σ_i |g_i|
``msc``, ``msc_fg`` = mBO    Σ_i max_j IoU(g_i, p_j)                  number of true segments
``miou_gt``                  matched IoU, background included         number of true segments
``miou_pairs``               same                                     number of pairs, unmatched segments of either side too
``miou_fg_matched_with_bg``  matched IoU of objects only              pairs whose true side is not background
``miou_fg``                  the same, background removed beforehand  number of objects
===========================  =======================================  ======================================================

Coverings let one slot be the best of two objects. Matchings are one to one and maximise Σ IoU (Hungarian); where several do,
``miou_fg_matched_with_bg`` takes the one that gives the objects least, and ``dice`` the one with most Dice, so that no score
depends on the order of the slots. Images without a true segment to score are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from objectwise.core import MetricResult, UserError
from objectwise.metrics.segmentation import contingency, segment_labels

Map = Tensor | np.ndarray

_TIE = 1e-9
"""Weight of the second criterion of a matching: decides ties, changes Σ IoU by less than this."""


class Overlaps(NamedTuple):
    """How the segments of B images overlap; E ids and K labels occur in the batch, not each in every image.

    Attributes:
        iou: (B, E, K) float64 intersection over union, 0 where either is empty.
        shared: (B, E, K) int64 pixels in both.
        true_sizes: (B, E) int64 pixels.
        sizes: (B, K) int64 pixels.
        true_names: (E,) int64 true id of each row, ascending.
        names: (K,) int64 label of each column, ascending.
        background: (E,) bool, which true segments are background.
        policy: how the labels came about.
    """

    iou: np.ndarray
    shared: np.ndarray
    true_sizes: np.ndarray
    sizes: np.ndarray
    true_names: np.ndarray
    names: np.ndarray
    background: np.ndarray
    policy: dict[str, object]

    @property
    def objects(self) -> np.ndarray:
        """(B, E) bool, true segments that can be seen and are not background."""
        return (self.true_sizes > 0) & ~self.background


def overlaps(true_ids: Map, masks_or_ids: Map, background_ids: Sequence[int] = (0,)) -> Overlaps:
    """Intersections over union of all true and predicted segments.

    Args:
        true_ids: (B, H, W) integer id of each pixel.
        masks_or_ids: (B, K, H, W) masks or (B, H, W) integer labels, as in :func:`~objectwise.metrics.adjusted_rand_index`.
        background_ids: every id that is background.

    Raises:
        UserError: for shapes or types that cannot work.
    """
    labels, policy = segment_labels(true_ids, masks_or_ids)
    counts, row_ids, column_ids = contingency(true_ids, labels)
    shared = counts.numpy()
    true_sizes, sizes = shared.sum(axis=2), shared.sum(axis=1)
    union = true_sizes[:, :, None] + sizes[:, None, :] - shared
    iou = shared / np.maximum(union, 1)
    background = torch.isin(row_ids, row_ids.new_tensor(tuple(background_ids))).numpy()
    policy["background_ids"] = tuple(background_ids)
    return Overlaps(iou, shared, true_sizes, sizes, row_ids.numpy(), column_ids.numpy(), background, policy)


# -- covering: many to one -------------------------------------------------------------------------------------------


def sc(true_ids: Map, masks: Map, *, background_ids: Sequence[int] = (0,)) -> MetricResult:
    """Segmentation covering: best IoU of each true segment, background included, weighted by its pixels; in [0, 1].

    Args:
        true_ids: (B, H, W) integer id of each pixel.
        masks: (B, K, H, W) masks or (B, H, W) integer labels.
        background_ids: every id that is background.

    Raises:
        UserError: for shapes or types that cannot work.
    """
    return _covering("sc", true_ids, masks, background_ids, by_area=True, foreground=False)


def msc(true_ids: Map, masks: Map, *, background_ids: Sequence[int] = (0,)) -> MetricResult:
    """Mean segmentation covering: best IoU of each true segment, background included, all alike; arguments as :func:`sc`."""
    return _covering("msc", true_ids, masks, background_ids, by_area=False, foreground=False)


def sc_fg(true_ids: Map, masks: Map, *, background_ids: Sequence[int] = (0,)) -> MetricResult:
    """:func:`sc` over the true segments that are not background; all slots remain candidates."""
    return _covering("sc_fg", true_ids, masks, background_ids, by_area=True, foreground=True)


def msc_fg(true_ids: Map, masks: Map, *, background_ids: Sequence[int] = (0,)) -> MetricResult:
    """:func:`msc` over the true segments that are not background; all slots remain candidates. The same as :func:`mbo_i`."""
    return _covering("msc_fg", true_ids, masks, background_ids, by_area=False, foreground=True)


def mbo_i(true_ids: Map, masks: Map, *, background_ids: Sequence[int] = (0,)) -> MetricResult:
    """Mean best overlap over instances: the best IoU of each object with a slot, averaged over an image's objects.

    Pont-Tuset et al., "Multiscale Combinatorial Grouping", PAMI 2017. One slot may be the best of two objects. Arguments as
    :func:`sc`. (:func:`~objectwise.metrics.mean_best_overlap` is another score, over ink pixels alone.)
    """
    return _covering("mbo_i", true_ids, masks, background_ids, by_area=False, foreground=True)


def mbo_c(true_ids: Map, masks: Map, classes: Map, *, background_ids: Sequence[int] = (0,)) -> MetricResult:
    """Mean best overlap over classes: as :func:`mbo_i` after merging the objects of an image that have the same class.

    Args:
        true_ids: (B, H, W) integers from 0 to E − 1.
        masks: (B, K, H, W) masks or (B, H, W) integer labels.
        classes: (B, E) integers, the class of each id; of background ids any.
        background_ids: every id that is background.

    Raises:
        UserError: for shapes or types that cannot work, or an id without a class.
    """
    true_ids, classes = torch.as_tensor(true_ids), torch.as_tensor(classes)
    if classes.ndim != 2 or classes.is_floating_point() or len(classes) != len(true_ids):
        raise UserError(
            f"classes must be integers (images, ids) for {len(true_ids)} images, not {tuple(classes.shape)}"
        )
    if true_ids.numel() and not 0 <= int(true_ids.min()) <= int(true_ids.max()) < classes.shape[1]:
        raise UserError(
            f"ids reach from {int(true_ids.min())} to {int(true_ids.max())}, classes cover {classes.shape[1]}"
        )
    if classes.numel() and int(classes.min()) < 0:
        raise UserError("classes must not be negative")
    merged = 1 + classes.long().gather(1, true_ids.long().flatten(1)).view_as(true_ids)
    merged[torch.isin(true_ids, true_ids.new_tensor(tuple(background_ids)))] = 0
    return _covering("mbo_c", merged, masks, (0,), by_area=False, foreground=True)


def recovery_rate(
    true_ids: Map, masks: Map, *, threshold: float = 0.5, background_ids: Sequence[int] = (0,)
) -> MetricResult:
    """Share of an image's objects whose best IoU with a slot exceeds the threshold (detection rate); arguments as :func:`sc`.

    Args:
        true_ids: as in :func:`sc`.
        masks: as in :func:`sc`.
        threshold: from 0.5 on no slot can be the best of two objects.
        background_ids: as in :func:`sc`.
    """
    found = overlaps(true_ids, masks, background_ids)
    hit = (found.iou.max(axis=2, initial=0.0) > threshold) & found.objects
    share = _share(hit.sum(axis=1), found.objects.sum(axis=1))
    return MetricResult.over_images(share, **_policy("recovery_rate", found), threshold=threshold)


# -- matching: one to one --------------------------------------------------------------------------------------------


def miou_gt(true_ids: Map, masks: Map, *, background_ids: Sequence[int] = (0,)) -> MetricResult:
    """Matched IoU over the number of true segments, background included; unmatched ones score 0. Arguments as :func:`sc`."""
    found = overlaps(true_ids, masks, background_ids)
    matched = _matched(found, found.true_sizes > 0, found.iou)
    return _matching_result("miou_gt", found, matched.sum(axis=1), (found.true_sizes > 0).sum(axis=1))


def miou_pairs(true_ids: Map, masks: Map, *, background_ids: Sequence[int] = (0,)) -> MetricResult:
    """Matched IoU, background included, over the number of pairs: a slot without a true segment counts as a pair that scores 0.

    Arguments as :func:`sc`.
    """
    found = overlaps(true_ids, masks, background_ids)
    matched = _matched(found, found.true_sizes > 0, found.iou)
    pairs = np.maximum((found.true_sizes > 0).sum(axis=1), (found.sizes > 0).sum(axis=1))
    return _matching_result("miou_pairs", found, matched.sum(axis=1), pairs)


def miou_fg(true_ids: Map, masks: Map, *, background_ids: Sequence[int] = (0,)) -> MetricResult:
    """Matched IoU over the number of objects, with the background removed *before* matching. Arguments as :func:`sc`.

    A slot that covers background and object may so be the object's.
    """
    found = overlaps(true_ids, masks, background_ids)
    matched = _matched(found, found.objects, found.iou)
    return _matching_result("miou_fg", found, matched.sum(axis=1), found.objects.sum(axis=1))


def miou_fg_matched_with_bg(true_ids: Map, masks: Map, *, background_ids: Sequence[int] = (0,)) -> MetricResult:
    """Matched IoU of the objects, over the pairs whose true side is not background. Arguments as :func:`sc`.

    The background takes part in the matching and is left out of the sum.
    """
    found = overlaps(true_ids, masks, background_ids)
    favours_background = found.iou * found.background[:, None]
    matched = _matched(found, found.true_sizes > 0, favours_background)
    seen = found.true_sizes > 0
    pairs = np.maximum(seen.sum(axis=1), (found.sizes > 0).sum(axis=1)) - (seen & found.background).sum(axis=1)
    pairs = np.where(found.objects.any(axis=1), pairs, 0)
    return _matching_result("miou_fg_matched_with_bg", found, (matched * found.objects).sum(axis=1), pairs)


def dice(true_ids: Map, masks: Map, *, foreground: bool = False, background_ids: Sequence[int] = (0,)) -> MetricResult:
    """2|p ∩ g| / (|p| + |g|) after the matching that maximises IoU, over the number of true segments.

    Args:
        true_ids: as in :func:`sc`.
        masks: as in :func:`sc`.
        foreground: remove the background before matching.
        background_ids: as in :func:`sc`.
    """
    found = overlaps(true_ids, masks, background_ids)
    kept = found.objects if foreground else found.true_sizes > 0
    shares = 2.0 * found.iou / (1.0 + found.iou)
    matched = _matched(found, kept, shares, value=shares)
    return _matching_result("dice_fg" if foreground else "dice", found, matched.sum(axis=1), kept.sum(axis=1))


# -- parts -----------------------------------------------------------------------------------------------------------


def _covering(
    name: str, true_ids: Map, masks: Map, background_ids: Sequence[int], *, by_area: bool, foreground: bool
) -> MetricResult:
    found = overlaps(true_ids, masks, background_ids)
    kept = found.objects if foreground else found.true_sizes > 0
    weights = kept * found.true_sizes if by_area else kept
    covered = (weights * found.iou.max(axis=2, initial=0.0)).sum(axis=1)
    return MetricResult.over_images(_share(covered, weights.sum(axis=1)), **_policy(name, found))


def _matched(found: Overlaps, kept: np.ndarray, second: np.ndarray, value: np.ndarray | None = None) -> np.ndarray:
    """(B, E) IoU (or another value) of each kept true segment with its slot, 0 where it has none.

    Args:
        found: of B images.
        kept: (B, E) true segments that are matched.
        second: (B, E, K) what decides between matchings of equal Σ IoU: the more, the better.
        value: (B, E, K) what is returned; None: the IoU.
    """
    weights = found.iou + _TIE * second
    value = found.iou if value is None else value
    out = np.zeros(kept.shape)
    for image, (rows, columns) in enumerate(zip(kept, found.sizes > 0, strict=True)):
        places = np.flatnonzero(rows), np.flatnonzero(columns)
        first, slot = linear_sum_assignment(weights[image][np.ix_(*places)], maximize=True)
        out[image, places[0][first]] = value[image, places[0][first], places[1][slot]]
    return out


def _matching_result(name: str, found: Overlaps, total: np.ndarray, number: np.ndarray) -> MetricResult:
    return MetricResult.over_images(_share(total, number), **_policy(name, found), matching="Hungarian, most IoU")


def _share(total: np.ndarray, number: np.ndarray) -> np.ndarray:
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _policy(name: str, found: Overlaps) -> dict[str, object]:
    return {"metric": name, **found.policy, "nothing_to_score": "skip"}
