"""Image and mask files: reading any common mode into plain arrays, resizing, and writing."""

from __future__ import annotations

import colorsys
import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from objectwise.core import UserError

MAX_ENTITIES = 255
"""The most objects that one mask may hold."""
MANY_COLOURS = 64
"""A colour mask with more colours probably has blurred edges."""
_GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")
_ORIENTATION = 0x0112
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError),
    *(Image.DecompressionBombError, struct.error, zlib.error),
)
"""What Pillow is known to raise on damaged files."""

Fit = Literal["stretch", "crop"]


class Header(NamedTuple):
    """What the header of an image says, after EXIF orientation."""

    height: int
    width: int
    grey: bool
    alpha: bool


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file, with every way in which Pillow fails turned into one sentence."""
    try:
        with Image.open(path) as image:
            yield image
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{path} is too large for the memory of this machine") from None
    except _DAMAGE as error:
        reason = "unknown or damaged format" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"{path} is not a readable image ({reason})") from None


def _is_turned(image: Image.Image) -> bool:
    """Whether EXIF in the header (later EXIF is not looked for) swaps width and height."""
    return "exif" in image.info and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)


def read_header(path: Path) -> Header:
    """Size and kind of an image, without decoding it.

    Raises:
        UserError: if it is not an image.
    """
    with _opened(path) as image:
        width, height = image.size
        if _is_turned(image):
            width, height = height, width
        alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
        return Header(height, width, image.mode in _GREY_MODES, alpha)


def read_image(path: Path, channels: int, size: tuple[int, int], fit: Fit) -> np.ndarray:
    """Read an image of any mode.

    Args:
        path: the file.
        channels: 1 (grey) or 3.
        size: (H, W) it is brought to, with Pillow's bilinear filter, which averages when it shrinks.
        fit: how another shape is brought to that size.

    Returns:
        (channels, H, W) uint8.

    Raises:
        UserError: if the file cannot be decoded.
    """
    with _opened(path) as opened:
        image = ImageOps.exif_transpose(opened) if "exif" in opened.info else opened
        image = _flat(image).convert("L" if channels == 1 else "RGB")
        if image.size != (size[1], size[0]):
            box = _window(image.size, (size[1], size[0]), fit)
            image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
        array = np.array(image)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _flat(image: Image.Image) -> Image.Image:
    """The image in 8 bits and without transparency: 16-bit grey is scaled, alpha is laid over black."""
    if image.mode.startswith("I") or image.mode == "F":
        wide = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.clip(np.round(wide / 257.0), 0, 255).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        clear = image.convert("RGBA")
        black = Image.new("RGBA", clear.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, clear).convert("RGB")
    return image


def _window(old: tuple[int, int], new: tuple[int, int], fit: Fit) -> tuple[float, float, float, float]:
    """The part of an image of (W, H) ``old`` that is resized to ``new``."""
    if fit == "stretch":
        return 0.0, 0.0, float(old[0]), float(old[1])
    scale = min(old[0] / new[0], old[1] / new[1])
    x, y = (old[0] - new[0] * scale) / 2, (old[1] - new[1] * scale) / 2
    return x, y, x + new[0] * scale, y + new[1] * scale


def read_mask(path: Path) -> np.ndarray:
    """Read a mask: the ids of a single-channel or palette file, or one id per colour of a colour file.

    Returns:
        (H, W) int64; 0 is background (black in a colour file).

    Raises:
        UserError: if the file cannot be decoded or has a mode that holds no ids.
    """
    with _opened(path) as image:
        if image.mode in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
            return np.array(image).astype(np.int64)
        if image.mode in ("LA", "PA"):
            return np.array(image.getchannel(0)).astype(np.int64)
        if image.mode not in ("RGB", "RGBA"):
            raise UserError(f"mask {path} has mode {image.mode}; ids are read from grey, palette or RGB images")
        rgb = np.array(image.convert("RGB")).astype(np.int64)
    code = (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
    ids = compacted(code)
    if ids.max() > MANY_COLOURS:
        warnings.warn(f"mask {path} holds {ids.max()} colours; are its edges blurred?", stacklevel=2)
    return ids


def compacted(ids: np.ndarray) -> np.ndarray:
    """Renumber the ids of a map to 0..E-1 in their order; 0 stays 0 and is background even where no pixel has it."""
    names = np.union1d(ids, [0])
    return np.searchsorted(names, ids)


def resize_ids(ids: np.ndarray, size: tuple[int, ...], fit: Fit) -> np.ndarray:
    """Bring an id map (H, W) to another size by taking the nearest pixel."""
    height, width = ids.shape
    if (height, width) == tuple(size):
        return ids
    left, upper, right, lower = _window((width, height), (size[1], size[0]), fit)
    rows = np.floor(upper + (np.arange(size[0]) + 0.5) * (lower - upper) / size[0]).astype(np.int64)
    columns = np.floor(left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]).astype(np.int64)
    return ids[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]


def write_image(path: Path, image: np.ndarray) -> None:
    """Write (1 or 3, H, W) uint8 as a grey or colour PNG."""
    array = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    Image.fromarray(array).save(path, format="PNG")


def write_mask(path: Path, ids: np.ndarray) -> None:
    """Write (H, W) uint8 ids as a palette PNG: the index is the id, the colours are for people."""
    image = Image.fromarray(ids)
    image.putpalette(PALETTE)
    image.save(path, format="PNG")


def _palette() -> list[int]:
    """256 colours: black, then hues a golden angle apart in three strengths."""
    colours = [(0.0, 0.0, 0.0)]
    for entity in range(1, 256):
        colours.append(
            colorsys.hsv_to_rgb(entity * 0.618034 % 1.0, (1.0, 0.6, 0.8)[entity % 3], (1.0, 0.9, 0.7)[entity % 3])
        )
    return [round(255 * part) for colour in colours for part in colour]


PALETTE = _palette()
"""Red, green and blue of the 256 ids in mask files."""
