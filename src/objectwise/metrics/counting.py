"""How often the number of objects is right, and how it is wrong.

An accuracy alone hides collapse: 33 % on scenes of 0 to 2 objects is "always 0" or "always 2", and only the confusion matrix
says which. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927, for the interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from objectwise.core import UserError

_Z_95 = 1.959963984540054
_COLLAPSE_SHARE = 0.95


@dataclass(frozen=True)
class CountScores:
    """How well counts were predicted on n images.

    Attributes:
        accuracy: share of images with the right count, in [0, 1].
        accuracy_interval: 95 % Wilson interval of the accuracy.
        mean_absolute_error: mean |predicted − true|, in objects.
        confusion: (M+1, M+1) int64, images by true (row) and predicted (column) count.
        accuracy_per_count: (M+1,) share of right counts among images of each true count, NaN where there are none.
        base_rate: share of the most frequent true count: what always answering it would score.
        n: number of images.
    """

    accuracy: float
    accuracy_interval: tuple[float, float]
    mean_absolute_error: float
    confusion: np.ndarray
    accuracy_per_count: np.ndarray
    base_rate: float
    n: int


def count_scores(
    true_counts: Tensor | np.ndarray, predicted_counts: Tensor | np.ndarray, max_count: int | None = None
) -> CountScores:
    """Score predicted numbers of objects.

    Args:
        true_counts: (n,) non-negative integers.
        predicted_counts: (n,) non-negative integers.
        max_count: M, the largest count of the confusion matrix; None: the largest that occurs.

    Raises:
        UserError: for no images, unlike shapes, anything but non-negative integers, or a count above ``max_count``.
    """
    true, predicted = _counts(true_counts, "true counts"), _counts(predicted_counts, "predicted counts")
    if true.shape != predicted.shape:
        raise UserError(f"{len(true)} true counts and {len(predicted)} predicted ones; there must be as many")
    if len(true) == 0:
        raise UserError("there are no images to count objects on")
    largest = int(max(true.max(), predicted.max()))
    if max_count is not None and largest > max_count:
        raise UserError(f"a count of {largest} occurs, above max_count = {max_count}")
    size = (largest if max_count is None else max_count) + 1
    confusion = np.bincount(true * size + predicted, minlength=size * size).reshape(size, size)
    per_true = confusion.sum(axis=1)
    right = np.diagonal(confusion)
    accuracy_per_count = np.divide(right, per_true, out=np.full(size, np.nan), where=per_true > 0)
    return CountScores(
        accuracy=float(right.sum() / len(true)),
        accuracy_interval=wilson_interval(int(right.sum()), len(true)),
        mean_absolute_error=float(np.abs(predicted - true).mean()),
        confusion=confusion,
        accuracy_per_count=accuracy_per_count,
        base_rate=float(per_true.max() / len(true)),
        n=len(true),
    )


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share; unlike the normal one it stays in [0, 1] and is right near 0 and 1.

    Args:
        successes: how many of the trials succeeded.
        trials: at least 1.
    """
    share, z2 = successes / trials, _Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z_95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    # At 0 and 1 the bounds are exact; rounding must not leave them outside.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def collapse(confusion: np.ndarray) -> str | None:
    """One sentence where nearly every image gets the same count though the true counts differ; None otherwise.

    Args:
        confusion: (M+1, M+1) images by true (row) and predicted (column) count.
    """
    total = int(confusion.sum())
    if total == 0 or (confusion.sum(axis=1) > 0).sum() < 2:
        return None
    per_predicted = confusion.sum(axis=0)
    answer = int(per_predicted.argmax())
    share = per_predicted[answer] / total
    # A truth that is itself this one-sided makes the same answer right, not collapsed.
    if share < _COLLAPSE_SHARE or confusion.sum(axis=1)[answer] / total >= _COLLAPSE_SHARE:
        return None
    said = f'the model says "always {answer}" ({share:.0%} of {total} images)'
    right = confusion[answer, answer] / total
    if answer == 0:
        cause = (
            "an object costs more than it explains; make objects cheaper in the prior or start with presence likelier"
        )
    elif answer == len(confusion) - 1:
        cause = "unused steps cost nothing; make objects dearer in the prior or start with presence less likely"
    else:
        cause = "the count has not been learned yet; train longer or try another seed"
    return f"{said}, so an accuracy of {right:.0%} is no skill: {cause}."


def _counts(values: Tensor | np.ndarray, name: str) -> np.ndarray:
    counts = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if counts.ndim != 1:
        raise UserError(f"{name} must be one number per image, not of shape {counts.shape}")
    if len(counts) == 0:
        return counts.astype(np.int64)
    if not np.issubdtype(counts.dtype, np.integer) or counts.min() < 0:
        raise UserError(f"{name} must be non-negative integers")
    return counts.astype(np.int64)
