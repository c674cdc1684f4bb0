"""The IDX format of the MNIST files (LeCun, Cortes, Burges)."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from objectwise.core import UserError


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped or not.

    Args:
        path: the file.

    Returns:
        uint8 array of the shape the header declares.

    Raises:
        UserError: if the file is missing, damaged, truncated, or not of bytes.
    """
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a complete gzip file ({error}); fetch it again") from None
    if len(data) < 4 or data[:2] != b"\0\0":
        raise UserError(f"{path} is not an IDX file: it does not begin with two zero bytes")
    if data[2] != 8:
        raise UserError(f"{path} holds IDX type 0x{data[2]:02x}; only unsigned bytes (0x08) are read")
    dimensions = data[3]
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise UserError(f"{path} ends inside its header; it is truncated or damaged")
    shape = tuple(int(n) for n in np.frombuffer(data[4:start], dtype=">u4"))
    if len(data) - start != math.prod(shape):
        raise UserError(
            f"{path} declares {shape} but holds {len(data) - start} bytes of data; it is truncated or damaged"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
