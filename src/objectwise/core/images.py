"""Pictures as people have them, made into what a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from objectwise.core.errors import UserError

_OTHER_COLORS = ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
"""Modes of PIL images whose numbers are not grey, red, green and blue."""


def image_batch(images: Tensor | np.ndarray | Sequence[Any], shape: tuple[int, int, int]) -> Tensor:
    """Pictures of any size, grey or colour, as one batch of a model's shape.

    Pictures of another size are resized (bilinear, antialiased; the aspect ratio is not kept); colour becomes grey by the usual
    luminance weights; grey becomes three equal channels.

    Args:
        images: a float tensor (B, C, H, W) or (C, H, W) in [0, 1]; or a uint8 array (B, H, W, C), (B, H, W) or (H, W, 3);
            or a PIL image; or a sequence of single pictures: float tensors (C, H, W), uint8 arrays (H, W) or
            (H, W, C), PIL images.
        shape: (C, H, W) of the model.

    Returns:
        (B, C, H, W) float32 in [0, 1].

    Raises:
        UserError: for anything else, or values outside the range.
    """
    if isinstance(images, Tensor | np.ndarray):
        single = images.ndim == 3 and (isinstance(images, Tensor) or images.shape[-1] in (3, 4))
        images = [images] if single or images.ndim == 2 else list(images)
    elif hasattr(images, "convert"):
        images = [images]
    if len(images) == 0:
        raise UserError("there are no images")
    return torch.stack([_fit(_picture(image), shape) for image in images])


def _picture(image: Any) -> Tensor:
    """One picture as (C, H, W) float32 in [0, 1]."""
    if isinstance(image, Tensor) and image.is_floating_point() and image.ndim == 3:
        # Written so that NaN is refused too.
        if image.numel() and not (float(image.min()) >= 0.0 and float(image.max()) <= 1.0):
            raise UserError(
                f"float images must lie in [0, 1]; these range over [{float(image.min()):.3g}, {float(image.max()):.3g}]"
            )
        return image.float().cpu()
    if getattr(image, "mode", None) in _OTHER_COLORS:
        image = image.convert("RGB")
    array = np.asarray(image)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise UserError(
            f"an image must be a float tensor (C, H, W) or a uint8 array (H, W[, C]); this one is {array.dtype} {array.shape}"
        )
    array = array[:, :, None] if array.ndim == 2 else array
    return torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255.0


def _fit(picture: Tensor, shape: tuple[int, int, int]) -> Tensor:
    channels, height, width = shape
    if picture.shape[0] in (2, 4):
        picture = picture[:-1]
    if picture.shape[0] != channels:
        if {picture.shape[0], channels} != {1, 3}:
            raise UserError(f"an image has {picture.shape[0]} channels, the model takes {channels}")
        weights = picture.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        picture = (picture * weights).sum(dim=0, keepdim=True) if channels == 1 else picture.expand(3, -1, -1)
    if tuple(picture.shape[1:]) != (height, width):
        resized = torch.nn.functional.interpolate(
            picture.unsqueeze(0), (height, width), mode="bilinear", antialias=True, align_corners=False
        )
        picture = resized.squeeze(0).clamp(0.0, 1.0)
    return picture.contiguous()
