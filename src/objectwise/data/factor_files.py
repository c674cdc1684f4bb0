"""Ground-truth factors of a folder of images: ``factors.jsonl``, and ``factors.json`` for their units."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from objectwise.core import Batch, FactorSpec, UserError
from objectwise.data.naming import natural_key

FACTORS_FILE = "factors.jsonl"
"""One JSON object per image: ``{"file": ..., "objects": [{factor: value, ...}, ...]}``."""
SPECS_FILE = "factors.json"
"""Factor -> unit, kind, low, high, categories."""


@dataclass(frozen=True)
class Factors:
    """Ground-truth factors of a folder.

    Attributes:
        counts: image -> number of objects listed.
        values: factor -> image -> (objects,) or (objects, d), float32 or int64.
        specs: factor -> unit, kind and range.
    """

    counts: Mapping[str, int]
    values: Mapping[str, Mapping[str, Tensor]]
    specs: Mapping[str, FactorSpec]


def read_factors(root: Path, images: Sequence[str]) -> Factors:
    """Read ``factors.jsonl`` of a folder and of its sub-folders, if there is one for every image.

    Args:
        root: the folder.
        images: relative paths.

    Raises:
        UserError: for a damaged file or an image without a line; naming file and line.
    """
    records: dict[str, list[dict[str, Any]]] = {}
    specs: dict[str, FactorSpec] = {}
    for path in sorted(root.rglob(FACTORS_FILE)):
        folder = path.parent.relative_to(root)
        records |= {(folder / file).as_posix(): objects for file, objects in _read_lines(path).items()}
        specs |= _read_specs(path.with_name(SPECS_FILE))
    if not records:
        return Factors({}, {}, {})
    missing = next((image for image in images if image not in records), None)
    if missing is not None:
        raise UserError(f"{FACTORS_FILE} in {root} has no line for {missing}")
    objects = [item for image in images for item in records[image]]
    names = [name for name in (objects[0] if objects else {}) if all(name in item for item in objects)]
    values: dict[str, dict[str, Tensor]] = {}
    for name in names:
        column = _column([item[name] for item in objects], specs.get(name))
        if column is not None:
            tensor, specs[name] = column
            counts = [len(records[image]) for image in images]
            values[name] = dict(zip(images, tensor.split(counts), strict=True))
    return Factors({image: len(records[image]) for image in images}, values, {name: specs[name] for name in values})


def _read_lines(path: Path) -> dict[str, list[dict[str, Any]]]:
    records: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            records[str(record["file"])] = [dict(item) for item in record["objects"]]
        except (ValueError, KeyError, TypeError):
            raise UserError(f'{path} line {number} is not {{"file": ..., "objects": [{{...}}]}}') from None
    return records


def _read_specs(path: Path) -> dict[str, FactorSpec]:
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {name: FactorSpec(**{**entry, **{key: tuple(entry.get(key, ())) for key in ("categories", "symmetries")}})
                for name, entry in entries.items()}  # fmt: skip
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{path} does not describe factors by unit, kind, low, high and categories") from None


def _column(values: list[Any], spec: FactorSpec | None) -> tuple[Tensor, FactorSpec] | None:
    """One factor of all objects as a tensor, or None if it is neither numbers nor names."""
    if all(isinstance(value, str) for value in values):
        names = spec.categories if spec is not None else tuple(sorted(set(values), key=natural_key))
        if not set(values) <= set(names):
            return None
        spec = spec or FactorSpec("class", "categorical", categories=names)
        return torch.tensor([names.index(value) for value in values], dtype=torch.int64), spec
    try:
        tensor = torch.tensor(values, dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError):
        return None
    if tensor.ndim > 2 or not torch.isfinite(tensor).all():
        return None
    return tensor, spec or FactorSpec("unknown")


def describe(batch: Batch, row: int) -> list[dict[str, Any]]:
    """The factors of the objects of one sample as plain values; absent objects and backgrounds are left out."""
    objects = batch.object_present
    if objects is None:
        return []
    entities = objects[row].nonzero().flatten().tolist()
    return [
        {name: _plain(values[row, entity], batch.factor_specs[name]) for name, values in batch.factors.items()}
        for entity in entities
    ]


def _plain(value: Tensor, spec: FactorSpec) -> Any:
    if spec.categories and value.ndim == 0:
        return spec.categories[int(value)]
    return value.tolist()


def specs_text(specs: Mapping[str, FactorSpec]) -> str:
    """What :data:`SPECS_FILE` holds."""
    return json.dumps({name: asdict(spec) for name, spec in specs.items()}, indent=1) + "\n"
