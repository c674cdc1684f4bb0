"""Codes of a split, encoded once and kept with the run: ``RUN/codes/SPLIT-N.npz``."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from objectwise.core import Dataset, UserError
from objectwise.core.files import atomic_path
from objectwise.core.weights import WEIGHTS
from objectwise.metrics.disentanglement_group import factor_classes, object_factors
from objectwise.training.evaluation import decompositions

_FORMAT = 1


@dataclass(frozen=True)
class Codes:
    """Codes of n images beside their factors.

    Attributes:
        means: (n, D) float32 posterior means.
        stds: (n, D) float32 posterior standard deviations; empty (n, 0) for models without.
        values: name -> (n,) the factors as the data give them.
        factors: (n, K) int64 the factors as classes, in the order of ``values``.
    """

    means: np.ndarray
    stds: np.ndarray
    values: Mapping[str, np.ndarray]
    factors: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """Of the factors."""
        return tuple(self.values)


def codes_path(run: Path, split: str, images: int) -> Path:
    """Where the codes of the first images of a split are kept."""
    return run / "codes" / f"{split}-{images}.npz"


def keep_codes(run: Path, dataset: Dataset, split: str, codes: Codes) -> Path | None:
    """Write codes into a run folder; None where that cannot be written.

    Args:
        run: the folder.
        dataset: where the images come from.
        split: which split.
        codes: of its first images.
    """
    path = codes_path(run, split, len(codes.means))
    arrays: dict[str, Any] = {"means": codes.means, "stds": codes.stds, "factors": codes.factors}
    arrays |= {f"factor {name}": column for name, column in codes.values.items()}
    try:
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, mark=np.array(_mark(run, dataset, split)), **arrays)
    except OSError:
        return None
    return path


def cached_codes(
    run: Path, model: Any, dataset: Dataset, split: str = "test", *, limit: int | None = None, batch_size: int = 256
) -> Codes:
    """The codes of the first images of a split: read from the run folder, or encoded and kept there.

    Codes of other weights or other data are not taken.

    Args:
        run: the run folder.
        model: its model, of one slot.
        dataset: where the images come from.
        split: which split.
        limit: number of images; None: all.
        batch_size: images at a time.

    Raises:
        UserError: for a model with several slots or none, or data without factors.
    """
    images = min(dataset.splits[split], limit or dataset.splits[split])
    kept = _kept(codes_path(run, split, images), _mark(run, dataset, split))
    if kept is not None:
        return kept
    codes = encoded(model, dataset, split, np.arange(images), batch_size=batch_size)
    keep_codes(run, dataset, split, codes)
    return codes


def encoded(model: Any, dataset: Dataset, split: str, indices: np.ndarray, *, batch_size: int = 256) -> Codes:
    """The codes of some images of a split at posterior means; arguments as of :func:`cached_codes`."""
    means, stds, values = [], [], []
    specs: Mapping[str, Any] = {}
    for batch, out in decompositions(model, dataset, split, indices, batch_size):
        if out.slots.shape[1] != 1:
            raise UserError(f"codes of whole images come from models with one slot, not {out.slots.shape[1]}")
        posterior = out.posterior
        means.append((out.slots if posterior is None else posterior.mean)[:, 0].float().numpy())
        stds.append(means[-1][:, :0] if posterior is None else posterior.std[:, 0].float().numpy())
        values.append(object_factors(batch))
        specs = batch.factor_specs
    columns = {name: np.concatenate([part[name] for part in values]) for name in values[0]}
    return Codes(np.concatenate(means), np.concatenate(stds), columns, factor_classes(columns, specs))


def _mark(run: Path, dataset: Dataset, split: str) -> str:
    """What the codes depend on: weights, data and split."""
    digest = hashlib.sha256()
    for weights in (run / "model" / WEIGHTS, run / WEIGHTS):
        if weights.is_file():
            digest.update(weights.read_bytes())
    data = json.dumps(dataset.config.model_dump(mode="json"), sort_keys=True)
    digest.update(f"{_FORMAT} {split} {data}".encode())
    return digest.hexdigest()


def _kept(path: Path, mark: str) -> Codes | None:
    """Codes from a file; None if there are none, they cannot be read, or they are of something else."""
    try:
        with np.load(path, allow_pickle=False) as found:
            if str(found["mark"]) != mark:
                return None
            columns = {name.removeprefix("factor "): found[name] for name in found.files if name.startswith("factor ")}
            return Codes(found["means"], found["stds"], columns, found["factors"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return None
