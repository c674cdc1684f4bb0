from __future__ import annotations

from dataclasses import replace

import made_up
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from objectwise.core import Decomposition, UserError, presence_from_masks
from objectwise.figures import refinement_figure, style


def refined(steps: int) -> Decomposition:
    """Slots that take turns: before step t every pixel is slot t's."""
    base = made_up.mixture(3)
    told = []
    for t in range(steps):
        masks = base.masks * 0.0
        masks[:, t % 3] = 1.0
        told.append(
            replace(
                base,
                masks=masks,
                presence=presence_from_masks(masks),
                reconstruction=(base.components * masks.unsqueeze(2)).sum(dim=1),
            )
        )
    return replace(base, trajectory=tuple(told))


def pixels(axes: Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def test_a_column_per_step_and_a_row_per_slot() -> None:
    found = refined(3)
    grid = np.array(refinement_figure(found.reconstruction, found, image=1).axes).reshape(5, 4)
    assert [axes.get_title() for axes in grid[0]] == ["input", "start", "step 1", "step 2"]
    np.testing.assert_allclose(pixels(grid[0, 0]), np.moveaxis(found.reconstruction[1].numpy(), 0, -1), atol=1e-6)
    for step in range(3):
        for slot in range(3):
            shown, frame = pixels(grid[2 + slot, 1 + step]), grid[2 + slot, 1 + step].spines["left"].get_edgecolor()
            if slot == step:
                colour = found.components[1, slot, :, 0, 0].numpy()
                np.testing.assert_allclose(shown[3, 3], colour, atol=1e-6)
                np.testing.assert_allclose(pixels(grid[0, 1 + step])[3, 3], colour, atol=1e-6)
                assert to_hex(frame) == style.STEP_COLOURS[slot]
            else:
                np.testing.assert_allclose(shown, 1.0)
                assert to_hex(frame) == style.RULE
        segment = to_hex(pixels(grid[1, 1 + step])[5, 5])
        assert segment == style.STEP_COLOURS[step]


def test_many_steps_are_thinned_out() -> None:
    found = refined(21)
    grid = np.array(refinement_figure(found.reconstruction, found, max_steps=5).axes).reshape(5, 6)
    assert [axes.get_title() for axes in grid[0]] == ["input", "start", "step 5", "step 10", "step 15", "step 20"]


def test_without_a_trajectory_it_is_refused() -> None:
    found = made_up.mixture()
    with pytest.raises(UserError, match="needs a trajectory"):
        refinement_figure(found.reconstruction, found)
