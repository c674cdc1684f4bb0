from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from objectwise.core import UserError, image_batch

RED = np.zeros((4, 6, 3), dtype=np.uint8)
RED[..., 0] = 255


def test_float_tensors_pass_unchanged() -> None:
    images = torch.rand(2, 3, 4, 6)
    assert torch.equal(image_batch(images, (3, 4, 6)), images)
    assert torch.equal(image_batch(images[0], (3, 4, 6)), images[:1])
    assert torch.equal(image_batch(list(images), (3, 4, 6)), images)


def test_bytes_of_every_layout() -> None:
    expected = torch.zeros(1, 3, 4, 6)
    expected[:, 0] = 1
    for images in (RED, RED[None], [RED], Image.fromarray(RED), [Image.fromarray(RED)]):
        assert torch.equal(image_batch(images, (3, 4, 6)), expected)
    grey = np.full((2, 4, 6), 51, dtype=np.uint8)
    assert torch.allclose(image_batch(grey, (1, 4, 6)), torch.full((2, 1, 4, 6), 0.2))
    assert torch.allclose(image_batch(grey[0], (1, 4, 6)), torch.full((1, 1, 4, 6), 0.2))
    assert torch.equal(image_batch(grey[0] > 0, (1, 4, 6)), torch.ones(1, 1, 4, 6))


def test_grey_and_colour() -> None:
    """Red has the luminance 0.299."""
    assert torch.allclose(image_batch(RED, (1, 4, 6)), torch.full((1, 1, 4, 6), 0.299))
    grey = torch.rand(1, 1, 4, 6)
    assert torch.equal(image_batch(grey, (3, 4, 6)), grey.expand(1, 3, 4, 6))
    alpha = np.concatenate([RED, np.full((4, 6, 1), 7, dtype=np.uint8)], axis=2)
    assert torch.equal(image_batch(alpha, (3, 4, 6)), image_batch(RED, (3, 4, 6)))


@pytest.mark.parametrize("mode", ["P", "CMYK", "RGBA"])
def test_pil_images_whose_numbers_are_not_colours(mode: str) -> None:
    """A palette image's numbers are indices and CMYK's are inks; both are red here."""
    picture = Image.fromarray(RED).convert(mode)
    assert torch.allclose(image_batch([picture], (3, 4, 6)), image_batch(RED, (3, 4, 6)), atol=0.02)


def test_other_sizes_are_resized_without_aliasing() -> None:
    checks = torch.zeros(1, 1, 64, 64)
    checks[..., ::2, ::2] = checks[..., 1::2, 1::2] = 1
    small = image_batch(checks, (1, 8, 8))
    assert (small - 0.5).abs().max() < 0.05
    mixed = image_batch([torch.full((1, 9, 5), 0.25), torch.full((1, 3, 30), 0.75)], (1, 8, 8))
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), torch.tensor([0.25, 0.75]))


BAD = [
    ([], "there are no images"),
    (torch.full((1, 1, 4, 4), 1.5), r"float images must lie in \[0, 1\]; these range over \[1.5, 1.5\]"),
    (torch.full((1, 1, 4, 4), -0.1), r"float images must lie in \[0, 1\]"),
    (torch.full((1, 1, 4, 4), float("nan")), r"float images must lie in \[0, 1\]"),
    (np.zeros((2, 4, 4), dtype=np.float32), "an image must be a float tensor"),
    (np.zeros((2, 4, 4), dtype=np.int64), "an image must be a float tensor"),
    (["picture.png"], "an image must be a float tensor"),
    (torch.zeros(1, 5, 4, 4), "an image has 5 channels, the model takes 1"),
]


@pytest.mark.parametrize(("images", "message"), BAD)
def test_what_cannot_be_an_image(images: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        image_batch(images, (1, 4, 4))  # type: ignore[arg-type]
