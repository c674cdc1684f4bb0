"""Scenes of several handwritten digits on a black canvas, generated on the fly.

The setting of AIR's first experiment (Eslami et al. 2016): 50×50 pixels, 0 to 2 digits that do not overlap. Unlike the public
recipes it comes with boxes, masks, labels and held-out digits: the splits use different digits, so that "unseen" means
unseen handwriting. Digits are MNIST's where they are at hand, else scikit-learn's bundled 8×8 ones (1,797, enlarged;
they are not MNIST).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from objectwise.core import Batch, Config, FactorSpec, UserError, uniforms
from objectwise.data.cache import cache_folder
from objectwise.data.idx import read_idx
from objectwise.data.scenes import FACTORS, MAX_TRIES, check_split, labelled, place, stream
from objectwise.rendering import glyphs


class DigitsConfig(Config):
    """Settings of the multi-digit scenes."""

    source: Literal["auto", "mnist", "bundled"] = "auto"
    """Where digits come from: MNIST files, scikit-learn's bundled digits, or MNIST if present and bundled otherwise."""
    digits_root: Path | None = None
    """Folder with the MNIST files; None: the download cache (`objectwise fetch mnist`)."""
    image_size: int = Field(50, ge=8, le=512)
    """Side of the canvas in pixels."""
    counts: tuple[int, ...] = (0, 1, 2)
    """Numbers of digits per scene, all equally likely."""
    digit_size: tuple[int, int] = (19, 24)
    """Smallest and largest side, in pixels, of the square a 28×28 digit is drawn into."""
    color: Literal["grey", "random"] = "grey"
    """grey: one channel; random: three channels, each digit with a random hue."""
    overlap: Literal["none", "allowed"] = "none"
    """none: no pixel holds ink of two digits; allowed: placed independently, ink adds up."""
    seed: int = Field(0, ge=0)
    """Seed of the scenes."""
    train_size: int = Field(60_000, ge=1)
    """Number of training scenes."""
    eval_size: int = Field(2_000, ge=1)
    """Number of scenes in the validation and in the test split."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        low, high = self.digit_size
        if not 4 <= low <= high <= self.image_size:
            raise ValueError(f"digit_size {self.digit_size} must satisfy 4 <= smallest <= largest <= {self.image_size}")
        if not self.counts or min(self.counts) < 0 or max(self.counts) > 64:
            raise ValueError(f"counts {self.counts} must be one or more numbers from 0 to 64")
        return self

    def resolved(self) -> Self:
        """The same settings with ``source`` decided."""
        if self.source != "auto":
            return self
        root = self.digits_root or cache_folder() / "mnist"
        return self.replaced(source="mnist" if _mnist_is_there(root) else "bundled")

    def build(self) -> DigitScenes:
        """The dataset."""
        return DigitScenes(self)


class Scene(NamedTuple):
    """Factors of B scenes of up to M digits; rows at and beyond ``number`` are drawn too but not used.

    Attributes:
        number: (B,) int64 digits in use.
        glyph: (B, M) int64 index into the split's digits.
        size: (B, M) int64 pixels.
        hue: (B, M) float64 in [0, 1).
    """

    number: np.ndarray
    glyph: np.ndarray
    size: np.ndarray
    hue: np.ndarray


class DigitScenes:
    """The dataset; see :class:`objectwise.core.dataset.Dataset`."""

    shuffle = False

    def __init__(self, config: DigitsConfig) -> None:
        self.config = config.resolved()
        channels = 1 if config.color == "grey" else 3
        self.image_shape = (channels, config.image_size, config.image_size)
        self.max_objects: int | None = max(config.counts)
        self.splits: Mapping[str, int] = {
            "train": config.train_size,
            "val": config.eval_size,
            "test": config.eval_size,
        }
        self.factor_specs = {
            "x": FactorSpec("pixels", low=0, high=config.image_size),
            "y": FactorSpec("pixels", low=0, high=config.image_size),
            "size": FactorSpec("pixels", low=config.digit_size[0], high=config.digit_size[1]),
            "label": FactorSpec("class", "categorical", categories=tuple("0123456789")),
            "color": FactorSpec("rgb", low=0, high=1),
        }
        self._digits = load_digits(self.config)

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The scenes with these indices; see :class:`objectwise.core.dataset.Dataset`."""
        check_split("digits", split, self.splits)
        indices = np.asarray(indices, dtype=np.int64)
        scene = self.sample_factors(split, indices)
        top, left, layers = self._place(split, indices, scene)
        return self._compose(split, indices, scene, top, left, layers)

    def sample_factors(self, split: str, indices: np.ndarray) -> Scene:
        """Everything about the scenes but the positions."""
        most = max(self.config.counts)
        draws = uniforms(self.config.seed, stream(split, FACTORS), indices, 1 + 3 * most)
        count = np.array(self.config.counts)[(draws[:, 0] * len(self.config.counts)).astype(np.int64)]
        glyph, size, hue = np.split(draws[:, 1:], 3, axis=1)
        low, high = self.config.digit_size
        return Scene(
            count,
            (glyph * len(self._digits[split][0])).astype(np.int64),
            low + (size * (high - low + 1)).astype(np.int64),
            hue,
        )

    def _place(self, split: str, indices: np.ndarray, scene: Scene) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Top and left edges (B, M) and layers (B, M, H, W) uint8; all positions of a scene are redrawn on overlap."""
        most = scene.glyph.shape[1]
        used = np.arange(most) < scene.number[:, None]

        def draw(rows: np.ndarray, numbers: np.ndarray) -> tuple[Tensor, tuple[np.ndarray, ...]]:
            room = self.config.image_size - scene.size[rows] + 1
            top = (numbers[:, :most] * room).astype(np.int64)
            left = (numbers[:, most:] * room).astype(np.int64)
            return self._draw(split, scene, top, left, used, rows), (top, left)

        apart = self.config.overlap == "none"
        placed = place(draw, seed=self.config.seed, split=split, indices=indices, numbers=2 * most, apart=apart)
        if placed is None:
            raise UserError(
                f"{max(self.config.counts)} digits of up to {self.config.digit_size[1]} pixels do not fit into "
                f"{self.config.image_size}x{self.config.image_size} without overlap ({MAX_TRIES} tries); "
                "use a larger image_size, smaller digit_size or overlap=allowed"
            )
        layers, (top, left) = placed
        return top, left, layers

    def _draw(
        self, split: str, scene: Scene, top: np.ndarray, left: np.ndarray, used: np.ndarray, rows: np.ndarray
    ) -> Tensor:
        """Layers (R, M, H, W) uint8 of the scenes ``rows`` (R,), placed at (R, M); unused digits stay empty."""
        layers = torch.zeros(len(rows), used.shape[1], *self.image_shape[1:], dtype=torch.uint8)
        chosen = torch.from_numpy(used[rows])
        pictures = self._digits[split][0][torch.from_numpy(scene.glyph[rows])[chosen]]
        edges = [torch.from_numpy(values)[chosen] for values in (top, left, scene.size[rows])]
        layers[chosen] = glyphs.place(pictures, edges[0], edges[1], edges[2], *self.image_shape[1:])
        return layers

    def _compose(
        self, split: str, indices: np.ndarray, scene: Scene, top: np.ndarray, left: np.ndarray, layers: Tensor
    ) -> Batch:
        batch, most = scene.glyph.shape
        used = torch.from_numpy(np.arange(most) < scene.number[:, None])
        colors = hue_to_rgb(torch.from_numpy(scene.hue)).float() * used.unsqueeze(-1)
        if self.config.color == "grey":
            colors = torch.ones_like(colors) * used.unsqueeze(-1)
            images = layers.sum(dim=1, dtype=torch.int32).clamp_max(255).unsqueeze(1).float() / 255.0
        else:
            images = torch.einsum("bmhw,bmc->bchw", layers.float(), colors).div(255.0).clamp(0.0, 1.0)
            images = (images * 255.0).round() / 255.0
        ink, owner = (
            layers.max(dim=1)
            if most
            else (torch.zeros(batch, *self.image_shape[1:]), torch.zeros(1, dtype=torch.int64))
        )
        instances = torch.where(ink > 0, owner + 1, 0)
        size = torch.from_numpy(scene.size).float()
        factors = {
            "x": torch.from_numpy(left) + size / 2,
            "y": torch.from_numpy(top) + size / 2,
            "size": size,
            "label": self._digits[split][1][torch.from_numpy(scene.glyph)],
            "color": colors,
        }
        return labelled(indices, images, instances, used, factors, self.factor_specs)


class SumAndOrder(NamedTuple):
    """Two questions about scenes of two digits.

    Attributes:
        sum: (B,) int64 sum of the digits, 0 to 18.
        ascending: (B,) int64, 1 where the digits ascend from left to right; two equal digits count as ascending.
    """

    sum: Tensor
    ascending: Tensor


def sum_and_order(batch: Batch) -> SumAndOrder:
    """The labels of AIR's downstream tasks, from scenes with exactly two digits (``counts=(2,)``).

    The left digit is the one whose centre has the smaller x; of two exactly above each other, the upper one counts as left.

    Raises:
        UserError: for data without labels of digits, or scenes with another number of them.
    """
    present = batch.object_present
    if present is None or not {"label", "x", "y"} <= batch.factors.keys():
        raise UserError(
            "sum_and_order needs scenes labelled with the class and the place of each digit (data 'digits')"
        )
    if not (present.sum(dim=1) == 2).all():
        raise UserError("sum_and_order needs scenes of exactly two digits; make them with --data.counts 2")
    label, x, y = (batch.factors[name][present].view(-1, 2) for name in ("label", "x", "y"))
    swapped = (x[:, 1] < x[:, 0]) | ((x[:, 1] == x[:, 0]) & (y[:, 1] < y[:, 0]))
    left, right = torch.where(swapped.unsqueeze(1), label.flip(1), label).unbind(dim=1)
    return SumAndOrder(label.sum(dim=1), (left <= right).to(torch.int64))


def hue_to_rgb(hue: Tensor) -> Tensor:
    """Fully saturated, fully bright colours: hue (...) in [0, 1) -> (..., 3) in [0, 1]."""
    sextant = hue.unsqueeze(-1) * 6.0
    offset = torch.tensor([0.0, 2.0, 4.0], dtype=hue.dtype)
    return ((sextant - offset + 3.0) % 6.0 - 3.0).abs().neg().add(2.0).clamp(0.0, 1.0)


def load_digits(config: DigitsConfig) -> dict[str, tuple[Tensor, Tensor]]:
    """Split -> pictures (G, S, S) uint8 and labels (G,) int64; the splits share no digit.

    MNIST: the last tenth of the training file is for validation, the test file for testing. Bundled digits: in order, 70 %
    for training, 10 % for validation, 20 % for testing.
    """
    if config.source == "bundled":
        pictures, labels = _bundled_digits()
        first, second = int(0.7 * len(labels)), int(0.8 * len(labels))
        parts = {"train": slice(0, first), "val": slice(first, second), "test": slice(second, None)}
        arrays = {split: (pictures[part], labels[part]) for split, part in parts.items()}
    else:
        root = config.digits_root or cache_folder() / "mnist"
        if not _mnist_is_there(root):
            raise UserError(
                f"no MNIST files in {root}; `objectwise fetch mnist` gets them, or set --data.source bundled"
            )
        train, test = _mnist_train(root), _mnist_pair(root, "t10k")
        last = len(train[1]) * 9 // 10
        arrays = {
            "train": (train[0][:last], train[1][:last]),
            "val": (train[0][last:], train[1][last:]),
            "test": test,
        }
    return {
        split: (torch.from_numpy(x.copy()), torch.from_numpy(y.astype(np.int64))) for split, (x, y) in arrays.items()
    }


def _bundled_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 8×8 digits with MNIST's share of margin: (1797, 12, 12) uint8 and labels."""
    from sklearn.datasets import load_digits as load

    pictures, labels = load(return_X_y=True)
    small = np.round(pictures.reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    return np.pad(small, ((0, 0), (2, 2), (2, 2))), labels


def _mnist_is_there(root: Path) -> bool:
    return _find(root, "t10k-images-idx3-ubyte") is not None and (
        _find(root, "train-images-idx3-ubyte") is not None or _train_prefix(root) is not None
    )


def _mnist_train(root: Path) -> tuple[np.ndarray, np.ndarray]:
    prefix = _train_prefix(root)
    if prefix is None or _find(root, "train-images-idx3-ubyte") is not None:
        return _mnist_pair(root, "train")
    try:
        with np.load(prefix, allow_pickle=False) as arrays:
            return arrays["images"], arrays["labels"]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{prefix} is not an .npz with arrays 'images' and 'labels' ({error})") from None


def _mnist_pair(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (_find(root, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    if images is None or labels is None:
        raise UserError(f"{root} lacks MNIST's {part} images or labels; `objectwise fetch mnist` gets them")
    pictures, classes = read_idx(images), read_idx(labels)
    if pictures.ndim != 3 or len(pictures) != len(classes):
        raise UserError(f"{images} has shape {pictures.shape} but {labels} has {len(classes)} labels")
    return pictures, classes


def _find(root: Path, stem: str) -> Path | None:
    return next((root / name for name in (stem + ".gz", stem) if (root / name).is_file()), None)


def _train_prefix(root: Path) -> Path | None:
    """An .npz with the first part of the training digits (``images``, ``labels``), for those who have no more."""
    return next(iter(sorted(root.glob("train*.npz"))), None)
