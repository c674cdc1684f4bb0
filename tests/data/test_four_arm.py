from __future__ import annotations

import numpy as np
import pytest
import torch
from data_helpers import assert_labels_match_pixels

from objectwise.core import check_dataset
from objectwise.data.four_arm import FourArmConfig
from objectwise.rendering import four_arm


@pytest.mark.parametrize("arms", ["paired", "free"])
def test_contract(arms: str) -> None:
    data = FourArmConfig(arms=arms, image_size=32).build()
    check_dataset(data)
    assert_labels_match_pixels(data.batch("val", range(4)))


def reach(image: np.ndarray) -> list[float]:
    """How far the right, upper, left and lower arm reach from the middle, in pixels."""
    row, column = image[32], image[:, 32]
    return [row[32:].sum(), column[:32].sum(), row[:32].sum(), column[32:].sum()]


def test_arms_are_as_long_as_they_should_be() -> None:
    """To a fraction of a pixel, each in its own direction."""
    lengths = np.random.default_rng(0).uniform(*four_arm.LENGTHS, (30, 4))
    for image, wanted in zip(four_arm.draw(lengths), lengths, strict=True):
        np.testing.assert_allclose(reach(image), four_arm.BODY_RADIUS + wanted, atol=1e-9)
        assert image[:3].sum() == image[-3:].sum() == 0
    large = four_arm.draw(lengths, size=128)
    np.testing.assert_allclose(large.sum(axis=(1, 2)), 4 * four_arm.draw(lengths).sum(axis=(1, 2)), rtol=0.03)


def test_two_causes_have_four_effects() -> None:
    paired = FourArmConfig().build()
    images = paired.render(np.array([[5.0, 12.0]])).images[0, 0].double().numpy()
    np.testing.assert_allclose(reach(images), [11, 18, 11, 18])
    free = FourArmConfig(arms="free").build()
    images = free.render(np.array([[5.0, 12.0, 7.0, 20.0]])).images[0, 0].double().numpy()
    np.testing.assert_allclose(reach(images), [11, 18, 13, 26])
    assert list(paired.factor_specs) == ["horizontal", "vertical"]
    assert list(free.factor_specs) == ["right", "up", "left", "down"]


def test_factors_are_uniform_and_independent() -> None:
    lengths = FourArmConfig().build().sample_factors("train", range(3000))
    low, high = four_arm.LENGTHS
    assert low <= lengths.min() < low + 0.1
    assert high - 0.1 < lengths.max() < high
    assert np.abs(np.corrcoef(lengths.T)[0, 1]) < 0.06
    np.testing.assert_allclose(lengths.mean(axis=0), (low + high) / 2, rtol=0.03)
    batch = FourArmConfig().build().batch("train", range(3))
    assert torch.equal(batch.factors["vertical"][:, 1], torch.from_numpy(lengths[:3, 1]).float())
