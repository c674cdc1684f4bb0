"""What the dSprites studies measure on a trained model: mean responses, tables of codes over grids, and errors over positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from objectwise.data.dsprites import FACTORS, SIZES, Dsprites, grid_values
from objectwise.recipes.latents import Latents
from objectwise.rendering.dsprites import SHAPES

CHANGE_GRID = ((0, 1, 2), (0, 2, 4), tuple(range(0, 39, 4)), tuple(range(0, 32, 4)), tuple(range(0, 32, 4)))
"""Values of each factor whose 5,760 combinations the changed-factor score is over; orientation 39 repeats 0 and is left out."""
_COARSE = ((0, 1, 2), (0, 2, 5), tuple(range(0, 39, 8)), tuple(range(0, 32, 4)), tuple(range(0, 32, 4)))
_POSITIONS = tuple(range(0, 32, 2))
_BATCH = 256


class Response(NamedTuple):
    """Mean responses of D latents.

    Attributes:
        position: (D, rows, columns) over shape, scale and orientation.
        curves: factor -> shape -> (values (V,), responses (D, V)) over the others.
    """

    position: np.ndarray
    curves: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]


def combinations(*values: tuple[int, ...]) -> np.ndarray:
    """(N, 5) all combinations of some grid indices of each factor, the last changing fastest."""
    return np.stack([axis.ravel() for axis in np.meshgrid(*values, indexing="ij")], axis=1).astype(np.int64)


@torch.no_grad()
def rendered(dataset: Dsprites, factors: np.ndarray, look: Callable[[Tensor], Any]) -> list[Any]:
    """What a function says of the images of grid indices (N, 5), batch by batch."""
    return [look(dataset.render(factors[start : start + _BATCH]).images) for start in range(0, len(factors), _BATCH)]


def grid_codes(model: Any, dataset: Dsprites, factors: np.ndarray) -> Latents:
    """The codes of the images of grid indices (N, 5)."""
    parts = rendered(dataset, factors, lambda images: model(images).posterior)
    means, stds = (torch.cat([part[field][:, 0].float() for part in parts]).numpy() for field in (0, 1))
    return Latents(means, stds)


def grid_pixels(dataset: Dsprites, factors: np.ndarray) -> np.ndarray:
    """(N, H·W) float32 images of grid indices (N, 5)."""
    return np.asarray(torch.cat(rendered(dataset, factors, lambda images: images.flatten(1))).numpy())


def mean_response(model: Any, dataset: Dsprites) -> Response:
    """Figure 2 of the paper: posterior means averaged over a coarse grid of the other factors."""
    over = combinations(*_COARSE[:2], _COARSE[2], _POSITIONS, _POSITIONS)
    side = len(_POSITIONS)
    found = grid_codes(model, dataset, over).means
    position = found.reshape(-1, side, side, found.shape[1]).mean(axis=0)  # x, then y
    curves: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for name in ("scale", "orientation"):
        column = FACTORS.index(name)
        every = tuple(range(SIZES[column]))
        values = [every if k == column else part for k, part in enumerate(_COARSE)]
        factors = combinations(*values)
        means = grid_codes(model, dataset, factors).means
        axis = grid_values(np.repeat(np.arange(SIZES[column])[:, None], len(FACTORS), axis=1) % np.array(SIZES))[name]
        curves["rotation" if name == "orientation" else name] = {
            shape: (axis, _averaged(means[factors[:, 0] == code], factors[factors[:, 0] == code, column], len(every)))
            for code, shape in enumerate(SHAPES)
        }
    return Response(np.moveaxis(position, 2, 0).swapaxes(1, 2), curves)


def position_errors(model: Any, dataset: Dsprites) -> np.ndarray:
    """(rows, columns) excess nats at posterior means over positions, averaged over a coarse grid of the other factors."""
    factors = combinations(*_COARSE[:3], _POSITIONS, _POSITIONS)
    found = torch.cat(rendered(dataset, factors, lambda images: model(images).terms["excess_nats"])).double().numpy()
    return np.asarray(found.reshape(-1, len(_POSITIONS), len(_POSITIONS)).mean(axis=0).T)


def held_out_positions(dataset: Dsprites) -> np.ndarray:
    """(rows, columns) bool: which of the positions of :func:`position_errors` training never saw."""
    seen = np.zeros(SIZES, bool)
    seen[np.unravel_index(dataset.cells("train"), SIZES)] = True
    trained: np.ndarray = np.any(seen, axis=(0, 1, 2))
    return ~trained[np.ix_(_POSITIONS, _POSITIONS)].T


def _averaged(means: np.ndarray, classes: np.ndarray, size: int) -> np.ndarray:
    """(D, size) mean of the rows (N, D) of each class."""
    return np.stack([means[classes == value].mean(axis=0) for value in range(size)], axis=1)
