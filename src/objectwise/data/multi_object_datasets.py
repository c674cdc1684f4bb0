"""The official sets of DeepMind's ``multi_object_datasets``: Tetrominoes, Multi-dSprites, CLEVR with masks, Objects Room.

Each reads a folder that :func:`objectwise.data.decoded_cache.decode` made from the official TFRecord file. Nobody published
splits, so papers made their own: ``split_rule`` names whose to use, and splits are made of record numbers that are disjoint by
construction. ``max_objects`` counts objects, not the background: CLEVR6 is ``max_objects=6``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from objectwise.core import Batch, Config, FactorSpec, UserError, boxes_from_instances
from objectwise.data.cache import cache_folder
from objectwise.data.decoded_cache import DecodedCache, open_cache
from objectwise.data.multi_object_schemas import OFFICIAL_SETS, WALL

SplitRule = Literal["objectwise", "iodine", "addtt"]
IODINE_TRAIN = {"clevr_with_masks": 70_000, "multi_dsprites": 60_000, "tetrominoes": 60_000}
"""Records IODINE trained on, by the beginning of the set's name."""
IODINE_TEST = 320
"""Images it was tested on, right after those."""
ADDTT_ALL = (90_000, 5_000, 5_000)
"""Train, validation and test images of addtt/object-centric-library, in file order."""
ADDTT_CLEVR6 = (49_483, 2_000, 2_000)
"""The same for CLEVR scenes with at most six objects in view."""
BLOCK = 10
"""The objectwise rule takes one validation and one test record out of every ten."""


class OfficialConfig(Config):
    """Settings that the official sets share."""

    root: Path | None = None
    """Folder of the decoded arrays (`objectwise data NAME --tfrecords FILE --out DIR`); None: its place in the cache."""
    split_rule: SplitRule = "objectwise"
    """objectwise: one record of every ten for validation and one for test; iodine: the first 60,000 (CLEVR 70,000) and the next
    320; addtt: 90,000, 5,000 and 5,000 in file order (CLEVR6: 49,483, 2,000 and 2,000)."""
    max_objects: int | None = Field(None, ge=0)
    """Keep scenes of at most this many objects, the background not counted; None: all."""
    count_by: Literal["present", "visible"] = "present"
    """What max_objects counts: objects in the scene, or those of which at least one pixel can be seen (as addtt does)."""
    verify: bool = False
    """Verify every byte of the arrays, and of the official file if it is there, on opening."""

    @abstractmethod
    def set_name(self) -> str:
        """The official set."""

    def build(self) -> OfficialDataset:
        """The dataset."""
        return OfficialDataset(self)


class TetrominoesOfficialConfig(OfficialConfig):
    """Tetrominoes: three pieces of four tiles on black, 35×35, one million images."""

    def set_name(self) -> str:
        """The official set."""
        return "tetrominoes"


class MultiDSpritesOfficialConfig(OfficialConfig):
    """Multi-dSprites: overlapping sprites, 64×64, one million images per variant."""

    variant: Literal["binarized", "colored_on_grayscale", "colored_on_colored"] = "colored_on_grayscale"
    """White on black, coloured on grey, or coloured on coloured; print it beside every number."""

    def set_name(self) -> str:
        """The official set."""
        return f"multi_dsprites_{self.variant}"


class ClevrWithMasksConfig(OfficialConfig):
    """CLEVR with masks: three to ten objects, cropped and resized to 128×128 on decoding, 100,000 images."""

    def set_name(self) -> str:
        """The official set."""
        return "clevr_with_masks"


class ObjectsRoomConfig(OfficialConfig):
    """Objects Room: sky, floor and two walls, which are all background, and up to three objects, 64×64."""

    variant: Literal["train", "six_objects", "identical_color", "empty_room"] = "train"
    """The training file, or one of the three test files, which have a test split only."""
    repair_background: bool = False
    """Where only one wall is in view, an object has the second wall's id; move it and those after it up by one."""

    def set_name(self) -> str:
        """The official set."""
        return f"objects_room_{self.variant}"


class OfficialDataset:
    """One official set; see :class:`objectwise.core.dataset.Dataset`.

    Attributes:
        kept: how many records pass the filter.
        total: how many records the cache holds.
        displaced: how many Objects Room scenes have an object with the second wall's id (repaired or not).
    """

    shuffle = True

    def __init__(self, config: OfficialConfig) -> None:
        self.config = config
        self.set_name = config.set_name()
        root = config.root or cache_folder() / "decoded" / self.set_name
        self._cache = open_cache(root, full=config.verify)
        self._layout = OFFICIAL_SETS[self.set_name]
        found = self._cache.manifest.set_name
        if found != self.set_name:
            raise UserError(f"{root} holds {found}, not {self.set_name}")
        self.total = self._cache.manifest.records
        images = self._cache.arrays["images"]
        self.image_shape: tuple[int, int, int] = (images.shape[1], images.shape[2], images.shape[3])
        self.factor_specs: dict[str, FactorSpec] = {name: item.spec for name, item in self._layout.factors.items()}
        displaced = self._cache.arrays.get("displaced")
        self.displaced = 0 if displaced is None else int(np.count_nonzero(displaced))
        keep = self._kept()
        self.kept = len(keep)
        self.max_objects: int | None = self._most(keep)
        self._records = self._split(keep)
        self.splits: Mapping[str, int] = {name: len(records) for name, records in self._records.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.config,)  # a worker process maps the files again instead of receiving them

    def describe(self) -> str:
        """What is kept and how it is split, for people to read."""
        config = self.config
        what = "of any number of objects"
        if config.max_objects is not None:
            seen = " in view" if config.count_by == "visible" else ""
            what = f"of at most {config.max_objects} objects{seen}, the background not counted"
        parts = ", ".join(f"{size:,} {name}" for name, size in self.splits.items())
        text = f"{self.set_name}: {self.kept:,} of {self.total:,} scenes ({what}); {parts} (rule {config.split_rule})"
        if len(self._layout.background_ids) > 1:
            done = "are moved" if self._repairs else "keep the second wall's id"
            text += f"; objects {done} in {self.displaced:,} scenes with one wall"
        return text

    def records(self, split: str) -> np.ndarray:
        """(splits[split],) int64: which record of the official file each sample is.

        Raises:
            UserError: for an unknown split.
        """
        if split not in self._records:
            raise UserError(f"{self.set_name} has no split '{split}'; there is {', '.join(self._records)}")
        return self._records[split]

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The samples with these indices; see :class:`objectwise.core.dataset.Dataset`."""
        numbers = self.records(split)
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(numbers)):
            raise UserError(f"split '{split}' of {self.set_name} has samples 0 to {len(numbers) - 1}, not {indices}")
        rows = numbers[indices]
        images = self._take("images", rows).float() / 255.0
        instances, present = self._take("instances", rows).long(), self._take("present", rows)
        if self._repairs:
            instances, present = repaired(instances, present, self._take("displaced", rows))
        boxes, visible = boxes_from_instances(instances, self._layout.entities)
        return Batch(
            index=torch.from_numpy(indices),
            images=images,
            instances=instances,
            background_ids=self._layout.background_ids,
            factors={name: self._factor(name, rows, present) for name in self._layout.factors},
            factor_specs=self.factor_specs,
            present=present,
            visible_pixels=visible,
            boxes=boxes,
        )

    @property
    def _repairs(self) -> bool:
        return isinstance(self.config, ObjectsRoomConfig) and self.config.repair_background

    def _take(self, name: str, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self._cache.arrays[name][rows])

    def _factor(self, name: str, rows: np.ndarray, present: Tensor) -> Tensor:
        values = self._take(f"factor_{name}", rows)
        if self.factor_specs[name].kind == "categorical":
            values = values.long()
        values[:, list(self._layout.background_ids)] = 0
        return values

    def _kept(self) -> np.ndarray:
        """Numbers of the records that pass the filter, in file order."""
        if self.config.max_objects is None:
            return np.arange(self.total)
        keep = np.flatnonzero(count_objects(self._cache, self.config.count_by) <= self.config.max_objects)
        if len(keep) == 0:
            raise UserError(
                f"none of the {self.total:,} scenes of {self.set_name} has at most {self.config.max_objects} objects"
            )
        return keep

    def _most(self, keep: np.ndarray) -> int:
        """The most objects present in a kept scene."""
        limit, most = self.config.max_objects, self._layout.max_objects
        if limit is not None and self.config.count_by == "visible":
            return int(count_objects(self._cache, "present")[keep].max())
        return most if limit is None else min(limit, most)

    def _split(self, keep: np.ndarray) -> dict[str, np.ndarray]:
        """Split name -> record numbers."""
        if isinstance(self.config, ObjectsRoomConfig) and self.config.variant != "train":
            return {"test": keep}
        rule = self.config.split_rule
        if rule == "iodine":
            return self._iodine(keep)
        if rule == "addtt":
            return self._addtt(keep)
        parts = objectwise_split(self.total)[keep]
        splits = {name: keep[parts == code] for code, name in enumerate(("train", "val", "test"))}
        return {name: numbers for name, numbers in splits.items() if len(numbers)}

    def _iodine(self, keep: np.ndarray) -> dict[str, np.ndarray]:
        first = next((count for name, count in IODINE_TRAIN.items() if self.set_name.startswith(name)), None)
        if first is None:
            raise UserError(f"IODINE was not trained on {self.set_name}; use split_rule objectwise")
        train, test = keep[keep < first], keep[keep >= first][:IODINE_TEST]
        if len(test) < IODINE_TEST or len(train) == 0:
            raise UserError(
                f"split_rule iodine trains on the first {first:,} records and tests on {IODINE_TEST} kept ones after "
                f"them; this cache of {self.total:,} has {len(test)}; use split_rule objectwise"
            )
        return {"train": train, "test": test}

    def _addtt(self, keep: np.ndarray) -> dict[str, np.ndarray]:
        config, sizes = self.config, ADDTT_ALL
        if config.max_objects is not None and config.max_objects < self._layout.max_objects:
            if (self.set_name, config.max_objects, config.count_by) != ("clevr_with_masks", 6, "visible"):
                raise UserError(
                    "split_rule addtt was published for all scenes, and for CLEVR with max_objects 6 and count_by visible"
                )
            sizes = ADDTT_CLEVR6
        if len(keep) < sum(sizes):
            raise UserError(
                f"split_rule addtt needs {sum(sizes):,} scenes, {len(keep):,} are here; use split_rule objectwise"
            )
        edges = np.cumsum((0, *sizes))
        return {name: keep[edges[i] : edges[i + 1]] for i, name in enumerate(("train", "val", "test"))}


def count_objects(cache: DecodedCache, by: Literal["present", "visible"]) -> np.ndarray:
    """(N,) int64: how many objects each scene of a cache holds, or shows; backgrounds are not counted.

    A displaced Objects Room scene counts the object that has the second wall's id.
    """
    layout = OFFICIAL_SETS[cache.manifest.set_name]
    objects = np.setdiff1d(np.arange(layout.entities), layout.background_ids)
    flags = cache.arrays["present"] if by == "present" else cache.arrays["visible_pixels"]
    counts = np.count_nonzero(flags[:, objects], axis=1).astype(np.int64)
    return counts + cache.arrays["displaced"] if "displaced" in cache.arrays else counts


def objectwise_split(total: int) -> np.ndarray:
    """(total,) int64: 0 train, 1 validation, 2 test.

    In every block of ten records a hash of the block's number chooses one for validation and another for test, so that
    any beginning of the file has all three in proportion.
    """
    block, place = np.divmod(np.arange(total, dtype=np.uint64), np.uint64(BLOCK))
    bits = _mixed(block)
    val = bits % np.uint64(BLOCK)
    test = (val + 1 + (bits >> np.uint64(32)) % np.uint64(BLOCK - 1)) % np.uint64(BLOCK)
    return (place == val) * 1 + (place == test) * 2


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64 of uint64 numbers."""
    z = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def repaired(instances: Tensor, present: Tensor, displaced: Tensor) -> tuple[Tensor, Tensor]:
    """Objects Room with every object beyond the four backgrounds.

    Args:
        instances: (B, H, W) int64 ids.
        present: (B, E) bool.
        displaced: (B,) bool, scenes whose second wall's id is an object.

    Returns:
        the same two, with ids from the second wall's on moved up by one in displaced scenes.
    """
    second_wall = WALL + 1
    moved = instances + ((instances >= second_wall) & displaced.view(-1, 1, 1)).long()
    shifted = present.clone()
    shifted[:, second_wall + 1 :] = present[:, second_wall:-1]
    return moved, torch.where(displaced.view(-1, 1), shifted, present)
