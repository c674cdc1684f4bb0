from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from objectwise.core import UserError
from objectwise.figures import refinement_inputs_figure

SIDE, SLOTS = 12, 3


def inputs(steps: int = 2) -> list[dict[str, Tensor]]:
    """Two images, three slots, every kind of input; each step, image and slot has its own numbers."""
    generator = torch.Generator().manual_seed(0)

    def of_slots(channels: int) -> Tensor:
        return torch.rand(2, SLOTS, channels, SIDE, SIDE, generator=generator)

    still = {
        "image": torch.rand(2, 3, SIDE, SIDE, generator=generator),
        "coordinates": torch.linspace(-1, 1, SIDE).expand(2, 2, SIDE, SIDE),
        "capacity": torch.full((2, 1, SIDE, SIDE), 0.5),
    }
    return [
        still
        | {
            "dzp": torch.randn(2, SLOTS, 8, generator=generator),
            "dmask": of_slots(1) - 0.5,
            "log_prob": 40.0 * torch.rand(2, 1, SIDE, SIDE, generator=generator) - 30.0,
            "dcomponents": of_slots(3) - 0.5,
            "components": of_slots(3),
            "pred_mask": of_slots(1),
        }
        for _ in range(steps)
    ]


def grid(figure: Figure, columns: int = 4) -> np.ndarray:
    return np.array(figure.axes).reshape(-1, columns)


def pixels(axes: Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text()]


def test_a_row_per_input_and_a_column_per_step() -> None:
    told = inputs()
    axes = grid(refinement_inputs_figure(told, image=1, slot=2))
    assert axes.shape == (7, 4)
    assert [words(cell)[0] for cell in axes[0]] == ["image", "coordinates 1", "coordinates 2", "capacity"]
    np.testing.assert_allclose(pixels(axes[0, 0]), told[0]["image"][1].movedim(0, -1).numpy(), atol=1e-6)
    np.testing.assert_allclose(pixels(axes[0, 3]), 0.5)
    rows = [words(row[0])[0].split("\n")[0] for row in axes[1:]]
    assert rows == ["components", "pred_mask", "dcomponents", "dmask", "log_prob", "dzp"]
    assert [cell.get_title() for cell in axes[1]] == ["into step 1", "into step 2", "", ""]
    for step in range(2):
        shown = pixels(axes[1, step])
        np.testing.assert_allclose(shown, told[step]["components"][1, 2].movedim(0, -1).numpy(), atol=1e-6)
        np.testing.assert_allclose(pixels(axes[2, step])[..., 0], told[step]["pred_mask"][1, 2, 0].numpy(), atol=1e-6)
        bars = [bar.get_height() for bar in axes[6, step].patches]
        np.testing.assert_allclose(bars, told[step]["dzp"][1, 2].numpy(), atol=1e-6)
        assert len({bar.get_facecolor() for bar in axes[6, step].patches[:4]}) == 1
        assert axes[6, step].patches[3].get_facecolor() != axes[6, step].patches[4].get_facecolor()
    assert not axes[1, 2].images


def test_scales_have_zero_in_the_middle_or_say_where_they_end() -> None:
    """Gradients: white or grey at zero, red above, blue below; log likelihoods: dark is low; ends are told below."""
    told = inputs(1)
    told[0]["dmask"][0, 0, 0] = torch.linspace(-2.0, 2.0, SIDE * SIDE).view(SIDE, SIDE)
    told[0]["dmask"][0, 0, 0, 3, 3:5] = torch.tensor([0.0, 50.0])  # an outlier does not stretch the scale
    told[0]["dcomponents"][0, 0] = 0.0
    told[0]["dcomponents"][0, 0, 0, 0, 0] = 1.0
    axes = grid(refinement_inputs_figure(told, slot=0))
    signed = pixels(axes[4, 0])
    assert signed[0, 0, 2] > signed[0, 0, 0]
    assert signed[11, 11, 0] > signed[11, 11, 2]
    assert signed[3, 3].min() > 0.95
    assert words(axes[4, 0])[-1] == "±2"
    np.testing.assert_allclose(pixels(axes[3, 0])[1:], 0.5)
    level, likelihood = pixels(axes[5, 0])[..., 0], told[0]["log_prob"][0, 0].numpy()
    assert level[np.unravel_index(likelihood.argmin(), likelihood.shape)] == 0.0
    assert level[np.unravel_index(likelihood.argmax(), likelihood.shape)] == 1.0
    assert 0.4 < level[np.abs(likelihood + 10.0) < 1.0].mean() < 0.6
    assert "−" in words(axes[5, 0])[-1]


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(UserError, match="at least one refinement step"):
        refinement_inputs_figure([])
    with pytest.raises(UserError, match="no slot 3 of image 0"):
        refinement_inputs_figure(inputs(1), slot=3)
    with pytest.raises(UserError, match="no slot 0 of image 2"):
        refinement_inputs_figure(inputs(1), image=2)
    titles = [cell.get_title() for cell in grid(refinement_inputs_figure(inputs(9), max_steps=4))[1]]
    assert titles == ["into step 1", "into step 4", "into step 6", "into step 9"]
