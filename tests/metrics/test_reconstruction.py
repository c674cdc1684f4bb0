from __future__ import annotations

import numpy as np
import pytest
import torch

from objectwise.core import UserError
from objectwise.metrics import foreground_mse, mse, psnr, sse


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images of 2 channels and 2×3 pixels: off by 0.1 everywhere, and by 0.5 in one number of twelve."""
    images = torch.full((2, 2, 2, 3), 0.5)
    reconstructions = images.clone()
    reconstructions[0] += 0.1
    reconstructions[1, 0, 0, 0] += 0.5
    return images, reconstructions


def test_hand_values() -> None:
    images, reconstructions = pair()
    np.testing.assert_allclose(mse(images, reconstructions).per_image, [0.01, 0.25 / 12], rtol=1e-5)
    np.testing.assert_allclose(sse(images, reconstructions).per_image, [0.12, 0.25], rtol=1e-5)
    np.testing.assert_allclose(psnr(images, reconstructions).per_image, [20.0, 10 * np.log10(48)], rtol=1e-5)
    assert mse(images, reconstructions).value == pytest.approx((0.01 + 0.25 / 12) / 2, rel=1e-5)
    assert psnr(images, reconstructions).value == pytest.approx((20.0 + 10 * np.log10(48)) / 2, rel=1e-5)


def test_foreground_only() -> None:
    images, reconstructions = pair()
    ids = torch.zeros(2, 2, 3, dtype=torch.int64)
    ids[1, 0, :2] = 3
    result = foreground_mse(images, reconstructions, ids)
    np.testing.assert_allclose(result.per_image, [np.nan, 0.25 / 4], rtol=1e-5)
    assert (result.n_scored, result.n_skipped) == (1, 1)
    assert np.isnan(foreground_mse(images, reconstructions, ids, background_ids=(0, 3)).value)


def test_published_conversion() -> None:
    """At 128×128×3, a sum of 23 is a mean of 4.7e-4."""
    images = torch.zeros(1, 3, 128, 128)
    wrong = torch.full_like(images, (23 / images.numel()) ** 0.5)
    assert sse(images, wrong).value == pytest.approx(23, rel=1e-5)
    assert mse(images, wrong).value == pytest.approx(4.7e-4, abs=5e-6)


def test_policy_names_reduction_and_range() -> None:
    images, reconstructions = pair()
    assert mse(images, reconstructions).policy["reduction"] == "mean over pixels and channels, then mean over images"
    assert "sum over" in str(sse(images, reconstructions).policy["reduction"])
    assert mse(images, reconstructions).policy["range"] == "[0, 1]"


def test_perfect_and_broken_reconstructions() -> None:
    images, reconstructions = pair()
    assert (mse(images, images).value, psnr(images, images).value) == (0.0, float("inf"))
    reconstructions[0, 0, 0, 0] = float("nan")
    broken = mse(images, reconstructions)
    assert np.isnan(broken.value)  # not the mean of the others
    assert broken.n_skipped == 0


def test_unlike_shapes_are_refused() -> None:
    with pytest.raises(UserError, match="images are"):
        mse(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4))
    with pytest.raises(UserError, match="true ids are"):
        foreground_mse(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 5).long())
