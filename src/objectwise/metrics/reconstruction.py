"""How near a reconstruction is to its image.

A squared error means little without the range of the images, its reduction, and which pixels it is over; the policy of each
result names all three. At 128×128×3 a sum of 23 is a mean of 4.7e-4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from objectwise.core import MetricResult, UserError

_RANGE = "[0, 1]"


def mse(images: Tensor | np.ndarray, reconstructions: Tensor | np.ndarray) -> MetricResult:
    """Mean squared error over pixels and channels of each image, then the mean over images.

    Args:
        images: (B, C, H, W) in [0, 1].
        reconstructions: (B, C, H, W). A value that is not finite makes the score NaN or infinite, never a skipped image.

    Raises:
        UserError: where the two have unlike shapes.
    """
    return _result(_squares(images, reconstructions).mean(dim=(1, 2, 3)), "mean over pixels and channels")


def sse(images: Tensor | np.ndarray, reconstructions: Tensor | np.ndarray) -> MetricResult:
    """Sum of squared errors over pixels and channels of each image, then the mean over images.

    The clevrtex tables call this "MSE". Arguments and errors as :func:`mse`.
    """
    return _result(_squares(images, reconstructions).sum(dim=(1, 2, 3)), "sum over pixels and channels")


def foreground_mse(
    images: Tensor | np.ndarray,
    reconstructions: Tensor | np.ndarray,
    true_ids: Tensor | np.ndarray,
    *,
    background_ids: Sequence[int] = (0,),
) -> MetricResult:
    """Mean squared error over the channels of the pixels whose truth is foreground; images without any are skipped.

    Args:
        images: (B, C, H, W) in [0, 1].
        reconstructions: (B, C, H, W).
        true_ids: (B, H, W) integer id of each pixel.
        background_ids: every id that is background.

    Raises:
        UserError: for unlike shapes.
    """
    squares = _squares(images, reconstructions)
    ids = torch.as_tensor(true_ids).to(squares.device)
    if ids.shape != squares[:, 0].shape:
        raise UserError(f"true ids are {tuple(ids.shape)}, the images' pixels {tuple(squares[:, 0].shape)}")
    inside = ~torch.isin(ids, ids.new_tensor(background_ids))
    pixels = inside.sum(dim=(1, 2))
    # Selected, not multiplied: a background pixel that is not finite must not reach the sum as inf·0.
    total = torch.where(inside.unsqueeze(1), squares, 0.0).sum(dim=(1, 2, 3))
    means = total / (pixels * squares.shape[1])
    return _result(means, "mean over foreground pixels and channels", (pixels > 0).cpu().numpy())


def psnr(images: Tensor | np.ndarray, reconstructions: Tensor | np.ndarray) -> MetricResult:
    """Peak signal-to-noise ratio in decibels, −10·log10(mse), of each image, then the mean over images.

    Infinite for a perfect reconstruction. Arguments and errors as :func:`mse`.
    """
    means = _squares(images, reconstructions).mean(dim=(1, 2, 3))
    return _result(-10.0 * torch.log10(means), "decibels of the mean over pixels and channels, peak 1")


def _squares(images: Tensor | np.ndarray, reconstructions: Tensor | np.ndarray) -> Tensor:
    """(B, C, H, W) squared differences; reduced in float64 by the callers."""
    first, second = torch.as_tensor(images).detach(), torch.as_tensor(reconstructions).detach()
    if first.shape != second.shape or first.ndim != 4:
        raise UserError(
            f"images are {tuple(first.shape)} and reconstructions {tuple(second.shape)}; "
            "both must be (images, channels, height, width)"
        )
    return (first.double() - second.double().to(first.device)).square()


def _result(per_image: Tensor, reduction: str, scored: np.ndarray | None = None) -> MetricResult:
    scores = per_image.cpu().numpy()
    kept = np.ones(len(scores), dtype=bool) if scored is None else scored
    # Not MetricResult.over_images: a NaN here is a broken reconstruction, which must not vanish from the mean.
    value = float(scores[kept].mean()) if kept.any() else float("nan")
    policy = {"reduction": f"{reduction}, then mean over images", "range": _RANGE}
    return MetricResult(value, scores, int(kept.sum()), int((~kept).sum()), policy)
