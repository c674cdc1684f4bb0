"""What objects look like without those that hide them: scenes of which the generator knows every shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from objectwise.core import UserError

_OF_THE_SCENE = ("number", "background")
"""Fields of a scene that are not one per object."""


def full_shapes(dataset: Any, split: str, indices: Sequence[int] | np.ndarray) -> Tensor:
    """The whole shape of every object, drawn alone: hidden parts included, parts beyond the canvas not.

    Args:
        dataset: generated scenes (``two_shapes``, ``multi_dsprites``, ``tetrominoes``): ``sample_factors`` gives a scene, and
            ``render`` draws one.
        split: which split.
        indices: (B,) sample indices.

    Returns:
        (B, E, H, W) bool by entity id; rows of the background and of absent objects are empty.

    Raises:
        UserError: for data that do not know their shapes.
    """
    if not hasattr(dataset, "sample_factors") or not hasattr(dataset, "render"):
        raise UserError(f"{type(dataset).__name__} does not know its objects' whole shapes; generated 2D scenes do")
    scene = dataset.sample_factors(split, indices)
    batch, most = scene.shape.shape
    shapes = torch.zeros(batch, most + 1, *dataset.image_shape[1:], dtype=torch.bool)
    for m in range(most):
        one = {name: getattr(scene, name)[:, m : m + 1] for name in scene._fields if name not in _OF_THE_SCENE}
        alone = scene._replace(number=(scene.number > m).astype(np.int64), **one)
        shapes[:, m + 1] = dataset.render(alone).instances == 1
    return shapes
