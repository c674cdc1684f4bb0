"""A page with a slider for every latent: the decoder itself is inside it, so that it needs no server and no network."""

from __future__ import annotations

import base64
import html
import json
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from objectwise.core import UserError
from objectwise.core.files import write_text

LayerKind = Literal["linear", "elu", "relu", "tanh", "sigmoid", "unflatten", "broadcast", "conv", "transposed"]

_TEMPLATE = Path(__file__).with_name("sliders.html")
_LARGE = 200_000


@dataclass(frozen=True)
class PageLayer:
    """One layer of a decoder, as the page computes it.

    Attributes:
        kind: linear; conv, of stride 1; transposed, a transposed convolution; broadcast, which lays a code and two coordinates
            on a canvas; unflatten; or a function of each number.
        weight: linear: (outputs, inputs); conv: (out, in, h, w); transposed: (in, out, h, w).
        bias: (outputs,).
        settings: conv: padding; transposed: padding, stride, and crop, rows and columns cut off at the end; unflatten: size
            (channels, height, width); broadcast: size (height, width).
    """

    kind: LayerKind
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def write_sliders(
    path: Path | str,
    title: str,
    layers: Sequence[PageLayer],
    image_shape: tuple[int, int, int],
    stds: np.ndarray,
    *,
    dead: Sequence[int] = (),
    codes: np.ndarray | None = None,
    images: np.ndarray | None = None,
    summary: str = "",
    reach: float = 3.0,
) -> Path:
    """Write the page. Dense layers of more than 200,000 weights are kept in 8 bits per weight with a scale per row.

    Args:
        path: the file; its folder must exist.
        title: what the page is about; plain text.
        layers: of the decoder: (D,) code -> at least (C, H, W) pixels in [0, 1]; what sticks out below and right is not shown.
        image_shape: (C, H, W).
        stds: (D,) mean posterior standard deviations, in whose order the sliders stand.
        dead: latents that say nothing; they are folded away.
        codes: (n, D) codes of example images to start from.
        images: (n, C, H, W) in [0, 1], those images.
        summary: a sentence under the title.
        reach: of the sliders.

    Returns:
        the path.

    Raises:
        UserError: where the file cannot be written, or codes do not fit images.
    """
    spread = np.asarray(stds, dtype=np.float64)
    examples = []
    if codes is not None and images is not None:
        if len(codes) != len(images) or codes.shape[1] != len(spread) or images.shape[1:] != tuple(image_shape):
            raise UserError(
                f"examples need codes (n, {len(spread)}) and images (n, {image_shape}), not {codes.shape}, {images.shape}"
            )
        for code, image in zip(codes, images, strict=True):
            shades = np.rint(255.0 * np.clip(image, 0.0, 1.0)).astype(np.uint8)
            examples.append({"code": [round(float(value), 4) for value in code], "image": _encoded(shades)})
    model = {
        "shape": list(image_shape),
        "stds": [round(float(value), 4) for value in spread],
        "order": np.argsort(spread, kind="stable").tolist(),
        "dead": sorted(int(d) for d in dead),
        "reach": reach,
        "examples": examples,
        "layers": [_described(layer) for layer in layers],
    }
    page = string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        summary=html.escape(summary or "Move a slider to see what that latent alone changes; those in use come first."),
        model=json.dumps(model).replace("</", "<\\/"),
    )
    write_text(Path(path), page)
    return Path(path)


def _described(layer: PageLayer) -> dict[str, Any]:
    """A layer as JSON."""
    out: dict[str, Any] = {"kind": layer.kind, **layer.settings}
    if layer.weight is None:
        return out
    weight = np.asarray(layer.weight, dtype=np.float32)
    bias = np.zeros(0) if layer.bias is None else layer.bias
    out["bias"] = _encoded(np.asarray(bias, dtype="<f4"))
    if layer.kind == "linear":
        out["rows"], out["columns"] = weight.shape
    else:
        out["kernel"] = list(weight.shape)
    if layer.kind == "linear" and weight.size > _LARGE:
        scale = np.maximum(np.abs(weight).max(axis=1), 1e-30) / 127.0
        out["weight"] = _encoded(np.rint(weight / scale[:, None]).astype(np.int8))
        out["scale"] = _encoded(scale.astype("<f4"))
    else:
        out["weight"] = _encoded(weight.astype("<f4"))
    return out


def _encoded(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
