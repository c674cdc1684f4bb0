"""How well predicted segments agree with true ones: the adjusted Rand index, full and foreground-only.

Hubert, Arabie: "Comparing partitions", Journal of Classification 1985. Foreground-only use: Greff et al., "Multi-Object
Representation Learning with Iterative Variational Inference" (IODINE), ICML 2019, arXiv:1903.00450.

Symbols: B images of H×W pixels; E true ids; K slots; N[i, j] the number of scored pixels with true id i and label j; a_i and b_j
its row and column sums; n its total. With A = Σ a(a−1), B = Σ b(b−1), R = Σ N(N−1), T = n(n−1),

    ARI = (R − A·B/T) / ((A + B)/2 − A·B/T).

The denominator is zero exactly where both partitions are one segment, or both are single pixels, and then they are the same
partition. Implementations differ on what to say about such images, and on images without a scored pixel;
``degenerate`` chooses (see :func:`adjusted_rand_index`).

A foreground ARI of 1 does not see anything a slot does on the background: report it beside the full one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from objectwise.core import MetricResult, UserError, nearest

Degenerate = Literal["skip", "one", "reference"]
"""What to do with images that have fewer than two true segments with a scored pixel."""

DEGENERATE_WARNING_SHARE = 0.1
"""Above this share of degenerate images the policy decides the score: say so."""

_CHUNK_BYTES = 1 << 20
_MAX_PLAIN_ID = 1024


def labels_from_masks(masks: Tensor | np.ndarray) -> Tensor:
    """The slot with the largest mask at each pixel, the first one on ties.

    Equals ``masks.float().argmax(dim=1)``; a running maximum over slots, a few images at a time, is several times
    faster on a CPU than a reduction over an axis that is not the last.

    Args:
        masks: (B, K, H, W) in any floating, integer or boolean type; compared in float32.

    Returns:
        (B, H, W) int64 in [0, K).

    Raises:
        UserError: for another number of axes, no slots, or a mask that is NaN.
    """
    masks = torch.as_tensor(masks).detach()
    if masks.ndim != 4 or masks.shape[1] == 0:
        raise UserError(f"masks must be (images, slots, height, width) with at least one slot, not {_shape(masks)}")
    batch, slots, height, width = masks.shape
    labels = torch.zeros(batch, height, width, dtype=torch.int64, device=masks.device)
    rows = _images_at_a_time(labels, 4)
    for start in range(0, batch, rows):
        part = masks[start : start + rows]
        label, best = labels[start : start + rows], part[:, 0].float()
        for slot in range(1, slots):
            candidate = part[:, slot].float()
            label.masked_fill_(candidate > best, slot)
            best = torch.maximum(best, candidate)
        if bool(best.isnan().any()):
            raise UserError(f"the masks of images {start} to {start + len(part) - 1} contain NaN")
    return labels


def segment_labels(
    true_ids: Tensor | np.ndarray, masks_or_ids: Tensor | np.ndarray
) -> tuple[Tensor, dict[str, object]]:
    """One predicted label per pixel of the truth, from masks or from labels.

    Args:
        true_ids: (B, H, W), for its size.
        masks_or_ids: (B, K, H, W) masks, of which the largest at each pixel counts (resized bilinearly *before* that where
            their size is not the truth's), or (B, H, W) integer labels, returned as they are.

    Returns:
        (B, H, W) labels, and how they came about: ``labels`` and ``resolution`` of a metric's policy.

    Raises:
        UserError: for a truth or masks of other shapes.
    """
    true_ids, masks_or_ids = torch.as_tensor(true_ids), torch.as_tensor(masks_or_ids)
    if true_ids.ndim != 3:
        raise UserError(f"true ids must be (images, height, width), not {_shape(true_ids)}")
    policy: dict[str, object] = {"labels": "given", "resolution": (true_ids.shape[1], true_ids.shape[2])}
    if masks_or_ids.ndim != 4:
        return masks_or_ids, policy
    policy["labels"] = "largest mask in float32, first on ties"
    if masks_or_ids.shape[2:] != true_ids.shape[1:]:
        policy["labels"] = f"masks resized bilinearly from {tuple(masks_or_ids.shape[2:])}, then largest, first on ties"
    return labels_from_masks(resized(masks_or_ids, true_ids)), policy


def contingency(true_ids: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """How many pixels of each image have each pair of true id and label.

    Args:
        true_ids: (B, H, W) integers, any values.
        labels: (B, H, W) integers, any values.

    Returns:
        counts (B, E, K) int64 on the CPU, the true id of each row (E,), and the label of each column (K,).

    Raises:
        UserError: where the two are not integer maps of one shape.
    """
    true_ids, labels = torch.as_tensor(true_ids), torch.as_tensor(labels)
    for name, ids in (("true ids", true_ids), ("predicted ids", labels)):
        if ids.ndim != 3 or ids.is_floating_point() or ids.is_complex():
            raise UserError(f"{name} must be an integer map (images, height, width), not {ids.dtype} {_shape(ids)}")
    if true_ids.shape != labels.shape:
        raise UserError(f"true ids are {_shape(true_ids)}, predicted ones {_shape(labels)}; they must be alike")
    true_ids, row_ids = _compact(true_ids.long())
    labels, column_ids = _compact(labels.to(true_ids.device).long())
    batch, rows, columns = len(true_ids), len(row_ids), len(column_ids)
    counts = torch.zeros(batch, rows, columns, dtype=torch.int64, device=true_ids.device)
    step = _images_at_a_time(true_ids, 8)
    for start in range(0, batch, step):
        part = slice(start, start + step)
        image = torch.arange(len(true_ids[part]), device=true_ids.device).view(-1, 1, 1) * (rows * columns)
        keys = (true_ids[part] * columns).add_(labels[part]).add_(image).flatten()
        counts[part] = torch.bincount(keys, minlength=len(image) * rows * columns).view(-1, rows, columns)
    return counts.cpu(), row_ids, column_ids


def adjusted_rand_index(
    true_ids: Tensor | np.ndarray,
    masks_or_ids: Tensor | np.ndarray,
    *,
    ignore_ids: Sequence[int] = (),
    degenerate: Degenerate = "skip",
) -> MetricResult:
    """Adjusted Rand index (ARI) of each image: 1 for the same partition, 0 for chance, negative for worse.

    Args:
        true_ids: (B, H, W) integer id of each pixel.
        masks_or_ids: (B, K, H, W) masks, of which the largest at each pixel counts (resized bilinearly *before* that where
            their size is not the truth's), or (B, H, W) integer labels.
        ignore_ids: true ids whose pixels are not scored; nothing else changes.
        degenerate: ``"skip"``: images with fewer than two true segments with a scored pixel are not scored; ``"one"``:
            scikit-learn's and SAVi's answer, 1 wherever the formula is 0/0; ``"reference"``: DeepMind's published code,
            NaN wherever the formula is 0/0, except 1 where truth and labels are constant over *all* pixels, ignored
            ones included and counted as the first id that is not ignored.

    Returns:
        ``value`` and ``per_image`` in [−1, 1] (NaN: not scored); the policy says how the number came about, with
        ``n_degenerate`` images of fewer than two true segments.

    Raises:
        UserError: for shapes, types or names that cannot work.
    """
    return _rand("adjusted_rand_index", true_ids, masks_or_ids, tuple(ignore_ids), "ignore_ids", degenerate)


def foreground_ari(
    true_ids: Tensor | np.ndarray,
    masks: Tensor | np.ndarray,
    *,
    background_ids: Sequence[int] = (0,),
    degenerate: Degenerate = "skip",
) -> MetricResult:
    """ARI over the pixels whose *truth* is not background (ARI-FG); labels on them are all kept.

    Args:
        true_ids: (B, H, W) integer id of each pixel.
        masks: (B, K, H, W) masks or (B, H, W) integer labels, as in :func:`adjusted_rand_index`.
        background_ids: every id that is background (four of them in Objects Room).
        degenerate: as in :func:`adjusted_rand_index`.

    Returns:
        As :func:`adjusted_rand_index`. Blind to what slots do on the background: report the full ARI beside it.

    Raises:
        UserError: for shapes, types or names that cannot work.
    """
    return _rand("foreground_ari", true_ids, masks, tuple(background_ids), "background_ids", degenerate)


def degenerate_advice(result: MetricResult) -> str | None:
    """One sentence where more than a tenth of the images are degenerate, so that the policy decides the score.

    Args:
        result: what :func:`adjusted_rand_index` or :func:`foreground_ari` returned.
    """
    images = result.n_scored + result.n_skipped
    count = int(str(result.policy.get("n_degenerate", 0)))
    if images == 0 or count <= DEGENERATE_WARNING_SHARE * images:
        return None
    told = {
        "skip": f"the score is over the other {result.n_scored}",
        "one": "they score 1 or 0 by convention",
        "reference": "they score NaN, 1 or 0 by convention",
    }[str(result.policy["degenerate"])]
    return f"{count} of {images} images have fewer than two objects to tell apart; {told}"


def _rand(
    metric: str,
    true_ids: Tensor | np.ndarray,
    masks_or_ids: Tensor | np.ndarray,
    ignored: tuple[int, ...],
    ignored_name: str,
    degenerate: Degenerate,
) -> MetricResult:
    if degenerate not in get_args(Degenerate):
        raise UserError(f"there is no degenerate policy '{degenerate}'{nearest(degenerate, get_args(Degenerate))}")
    labels, policy = segment_labels(true_ids, masks_or_ids)
    counts, row_ids, _ = contingency(true_ids, labels)
    scored = counts[:, ~torch.isin(row_ids, row_ids.new_tensor(ignored))].numpy()
    scores, same = _scores(scored)
    single = (scored.sum(axis=2) > 0).sum(axis=1) < 2
    if degenerate == "skip":
        scores[single] = np.nan
    elif degenerate == "reference":
        scores[same] = np.nan
        scores[_constant_everywhere(counts.numpy(), row_ids.numpy(), ignored)] = 1.0
    policy |= {"metric": metric, ignored_name: ignored, "degenerate": degenerate, "n_degenerate": int(single.sum())}
    return MetricResult.over_images(scores, **policy)


def _scores(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, E, K) scored pixel counts -> ARI (B,) float64 with 1 for 0/0, and where the formula was 0/0.

    Float64 throughout: A·B leaves int64 near 55,000 pixels, and float32 loses digits above some 4,000.
    """
    rows, columns, total = table.sum(axis=2), table.sum(axis=1), table.sum(axis=(1, 2))
    pairs = _ordered_pairs(total)
    together = _ordered_pairs(table).sum(axis=(1, 2))
    true_together, label_together = _ordered_pairs(rows).sum(axis=1), _ordered_pairs(columns).sum(axis=1)
    expected = true_together * (label_together / np.maximum(pairs, 1.0))
    numerator, denominator = together - expected, (true_together + label_together) / 2.0 - expected
    same = denominator == 0.0
    return np.where(same, 1.0, numerator / np.where(same, 1.0, denominator)), same


def _ordered_pairs(count: np.ndarray) -> np.ndarray:
    """Ordered pairs of different pixels, n(n−1), in float64."""
    exact = count.astype(np.float64)
    return exact * (exact - 1.0)


def _constant_everywhere(counts: np.ndarray, row_ids: np.ndarray, ignored: tuple[int, ...]) -> np.ndarray:
    """(B,) whether truth and labels are constant over all pixels, the way the reference code tests it.

    It takes the argmax of one-hot truth from which ignored ids were removed, so that their pixels become the first id kept.
    """
    first = next(i for i in range(len(ignored) + 1) if i not in ignored)
    merged = np.where(np.isin(row_ids, ignored), first, row_ids)
    groups = np.stack([counts[:, merged == group].any(axis=(1, 2)) for group in np.unique(merged)], axis=1)
    return np.asarray((groups.sum(axis=1) == 1) & (counts.any(axis=1).sum(axis=1) == 1))


def _images_at_a_time(maps: Tensor, itemsize: int) -> int:
    """So few that temporaries stay in the processor's cache; a GPU has nothing to gain from that."""
    batch, height, width = maps.shape
    return max(1, _CHUNK_BYTES // max(itemsize * height * width, 1)) if maps.device.type == "cpu" else max(batch, 1)


def _compact(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Ids as small non-negative numbers, and which id each number stands for (on the CPU)."""
    if ids.numel() == 0:
        return ids, torch.arange(0)
    low, high = (int(value) for value in ids.aminmax())
    if low >= 0 and high < _MAX_PLAIN_ID:
        return ids, torch.arange(high + 1)
    values, inverse = ids.unique(return_inverse=True)
    return inverse, values.cpu()


def resized(masks: Tensor, true_ids: Tensor) -> Tensor:
    """Masks (B, K, h, w) at the size of the true ids (B, H, W), bilinearly where it is another."""
    if masks.shape[2:] == true_ids.shape[1:]:
        return masks
    size = (true_ids.shape[1], true_ids.shape[2])
    return torch.nn.functional.interpolate(masks.detach().float(), size, mode="bilinear", align_corners=False)


def _shape(tensor: Tensor) -> str:
    return "(" + ", ".join(str(size) for size in tensor.shape) + ")"
