from __future__ import annotations

import numpy as np
import pytest
import torch

from objectwise.core import UserError
from objectwise.metrics import average_precision, box_iou, corloc, detection

NONE = [0, 0, 0, 0]
UNIT = [0, 0, 4, 4]
HALF = [0, 0, 4, 2]
SHIFTED = [1, 0, 5, 4]  # IoU with UNIT 12 / 20
FAR = [10, 10, 14, 14]


def boxes(*images: list[list[int]]) -> torch.Tensor:
    return torch.tensor(images, dtype=torch.float32)


def test_overlap_by_hand() -> None:
    found = box_iou(boxes([UNIT, NONE]), boxes([UNIT, HALF, SHIFTED, FAR, NONE]))
    np.testing.assert_allclose(found[0].numpy(), [[1, 0.5, 0.6, 0, 0], [0] * 5], atol=1e-15)
    touching = box_iou(boxes([UNIT]), boxes([[4, 0, 8, 4], [3, 3, 2, 2]]))
    assert touching.abs().sum() == 0.0


def test_overlap_agrees_with_counting_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 9, (20, 3, 2), generator=generator)
    sizes = torch.randint(1, 8, (20, 3, 2), generator=generator)
    drawn = torch.cat([corners, corners + sizes], dim=2)
    grid = torch.arange(16)
    inside = [(grid >= drawn[..., a, None]) & (grid < drawn[..., a + 2, None]) for a in (0, 1)]
    pixels = (inside[0].unsqueeze(2) & inside[1].unsqueeze(3)).flatten(2)
    for i in range(3):
        for j in range(3):
            both, either = pixels[:, i] & pixels[:, j], pixels[:, i] | pixels[:, j]
            expected = both.sum(dim=1) / either.sum(dim=1)
            np.testing.assert_allclose(box_iou(drawn, drawn)[:, i, j].numpy(), expected.numpy(), atol=1e-7)


def test_corloc_is_a_share_of_the_images_that_have_something() -> None:
    true = boxes([UNIT, FAR], [UNIT, NONE], [UNIT, NONE], [NONE, NONE])
    found = boxes([FAR, NONE], [HALF, NONE], [SHIFTED, FAR], [UNIT, NONE])
    result = corloc(true, found)
    np.testing.assert_array_equal(result.per_image, [1, 0, 1, np.nan])  # an IoU of exactly one half is too little
    assert (result.value, result.n_scored, result.n_skipped) == (2 / 3, 3, 1)
    assert corloc(true, found, threshold=0.4).value == 1.0


def test_detection_by_hand() -> None:
    true = boxes([UNIT, FAR], [UNIT, FAR], [NONE, NONE], [NONE, NONE], [UNIT, NONE])
    found = boxes([UNIT, SHIFTED], [UNIT, FAR], [UNIT, NONE], [NONE, NONE], [NONE, NONE])
    scores = detection(true, found)
    np.testing.assert_array_equal(scores.precision.per_image, [0.5, 1, 0, np.nan, 0])  # UNIT is matched once
    np.testing.assert_array_equal(scores.recall.per_image, [0.5, 1, np.nan, np.nan, 0])
    np.testing.assert_array_equal(scores.f1.per_image, [0.5, 1, 0, np.nan, 0])


def test_a_matching_with_more_matches_beats_one_of_larger_overlap() -> None:
    """Taking the best overlap first would leave the second true box without a partner."""
    true, found = boxes([[0, 0, 10, 4], [0, 0, 13, 4]]), boxes([[0, 0, 10, 4], [0, 0, 6, 4]])
    overlap = box_iou(true, found)[0]
    assert overlap[0, 0] == 1.0
    assert overlap[1, 0] > 0.5 > overlap[1, 1]
    assert overlap[0, 1] > 0.5
    assert detection(true, found).recall.value == 1.0


def test_average_precision_by_hand() -> None:
    """Ranked hit, miss, hit of 3 true boxes: precision 1, 1/2, 2/3 -> area (1 + 2/3) / 3."""
    true = boxes([UNIT, FAR], [UNIT, NONE])
    found = boxes([UNIT, SHIFTED], [SHIFTED, NONE])
    sure = torch.tensor([[0.9, 0.8], [0.7, 1.0]])  # the absent box's confidence does not count
    result = average_precision(true, found, sure)
    assert result.value == pytest.approx((1 + 2 / 3) / 3)
    assert (result.policy["true_boxes"], result.policy["boxes"]) == (3, 3)
    assert average_precision(true, found, 1.0 - sure).value == pytest.approx(
        (1 + 1) / 3
    )  # hit, hit, miss: UNIT is taken
    # Miss, hit, hit: precision 0, 1/2, 2/3, of which interpolation takes the best from there on.
    rising = average_precision(boxes([UNIT, FAR]), boxes([[20, 0, 24, 4], UNIT, FAR]), torch.tensor([[3, 2, 1]]))
    assert rising.value == pytest.approx(2 / 3)
    assert average_precision(boxes([UNIT]), boxes([NONE]), torch.ones(1, 1)).value == 0.0
    assert np.isnan(average_precision(boxes([NONE]), boxes([UNIT]), torch.ones(1, 1)).value)
    late = average_precision(boxes([UNIT]), boxes([FAR, UNIT]), torch.tensor([[0.9, 0.1]]))
    assert late.value == 0.5


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UserError, match="as many images"):
        box_iou(boxes([UNIT]), boxes([UNIT], [UNIT]))
    with pytest.raises(UserError, match="as many images"):
        corloc(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(UserError, match="one number per box"):
        average_precision(boxes([UNIT]), boxes([UNIT]), torch.ones(1))
