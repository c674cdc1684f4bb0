"""What is in the files of DeepMind's ``multi_object_datasets``: a table of the official sets, and how one record becomes arrays.

Image, masks and CLEVR's codes are lists of one-byte strings, factors are floats, every feature has a fixed length. A mask is 255
where its entity is seen and 0 elsewhere; here the masks of a record become one map of entity ids, which says the same in a
fraction of the room because they are exclusive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Literal, NoReturn, Self

import numpy as np
from pydantic import model_validator

from objectwise.core import Config, FactorSpec, UserError, nearest
from objectwise.data.tfrecord import Feature, Record, RecordError, quoted

WALL = 2
"""Entity id of Objects Room's first wall; the second is 3."""
MIN_TOUCH = 3
"""Pixels along which an object must touch what a wall never touches, to be told from one."""


class Crop(Config):
    """A window of the image, and the size it is brought to."""

    rows: tuple[int, int]
    """First row and one past the last."""
    columns: tuple[int, int]
    """First column and one past the last."""
    size: tuple[int, int] | None = None
    """Height and width after resizing; None: those of the window."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name, (first, last) in {"rows": self.rows, "columns": self.columns}.items():
            if not 0 <= first < last:
                raise ValueError(f"{name} {first}:{last} of the crop must satisfy 0 <= first < last")
        if self.size is not None and not 1 <= min(self.size) <= max(self.size) <= 4096:
            raise ValueError(f"the crop's size {self.size} must be two numbers from 1 to 4096")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the result."""
        return self.size or (self.rows[1] - self.rows[0], self.columns[1] - self.columns[0])


@dataclass(frozen=True)
class StoredFactor:
    """One factor as a file stores it.

    Attributes:
        spec: unit, kind and range.
        width: numbers per entity; 0: one number, without an axis of its own.
        stored: ``"float"``, or ``"bytes"`` for codes of one byte.
    """

    spec: FactorSpec
    width: int = 0
    stored: Literal["float", "bytes"] = "float"


@dataclass(frozen=True)
class OfficialSet:
    """One official set.

    Attributes:
        file: its path below the bucket ``multi-object-datasets``.
        image: height, width and channels.
        entities: E, how many masks there are, the background's included.
        factors: name -> factor, visibility not included.
        mask_last: the entity axis of the stored mask comes third (H, W, E) and not first (E, H, W).
        visibility: whether the file says which entities are in the scene.
        background_ids: which entities are background.
        crop: the window that papers use, if any.
    """

    file: str
    image: tuple[int, int, int]
    entities: int
    factors: Mapping[str, StoredFactor] = field(default_factory=dict)
    mask_last: bool = False
    visibility: bool = True
    background_ids: tuple[int, ...] = (0,)
    crop: Crop | None = None

    @property
    def max_objects(self) -> int:
        """The most objects a scene can hold."""
        return self.entities - len(self.background_ids)

    @cached_property
    def lengths(self) -> dict[str, tuple[Literal["float", "bytes"], int]]:
        """Feature name -> how it is stored and how many values it has."""
        height, width, channels = self.image
        out: dict[str, tuple[Literal["float", "bytes"], int]] = {
            "image": ("bytes", height * width * channels),
            "mask": ("bytes", height * width * self.entities),
        }
        if self.visibility:
            out["visibility"] = ("float", self.entities)
        for name, factor in self.factors.items():
            out[name] = (factor.stored, self.entities * max(factor.width, 1))
        return out


def _classes(what: str, count: int) -> FactorSpec:
    """Codes 0 (background) to ``count`` whose names are not documented."""
    return FactorSpec("class", "categorical", categories=("background", *(f"{what} {i + 1}" for i in range(count))))


def _sprites(variant: str, channels: int, entities: int) -> OfficialSet:
    factors = {
        "x": StoredFactor(FactorSpec("position, scale undocumented")),
        "y": StoredFactor(FactorSpec("position, scale undocumented")),
        "shape": StoredFactor(_classes("shape", 3)),
        "color": StoredFactor(FactorSpec("rgb"), width=channels),
        "orientation": StoredFactor(FactorSpec("radians")),
        "scale": StoredFactor(FactorSpec("share of full size")),
    }
    return OfficialSet(
        f"multi_dsprites/multi_dsprites_{variant}.tfrecords", (64, 64, channels), entities, factors, mask_last=True
    )


def _room(part: str, entities: int) -> OfficialSet:
    return OfficialSet(
        f"objects_room/objects_room_{part}.tfrecords",
        (64, 64, 3),
        entities,
        visibility=False,
        background_ids=(0, 1, 2, 3),
    )


_WORLD = StoredFactor(FactorSpec("world units", low=-3.0, high=3.0))

OFFICIAL_SETS: dict[str, OfficialSet] = {
    "tetrominoes": OfficialSet(
        "tetrominoes/tetrominoes_train.tfrecords",
        (35, 35, 3),
        4,
        {
            "x": StoredFactor(FactorSpec("pixels (top row)", low=0, high=35)),
            "y": StoredFactor(FactorSpec("pixels (left column)", low=0, high=35)),
            "shape": StoredFactor(_classes("piece", 19)),
            "color": StoredFactor(FactorSpec("rgb", low=0, high=1), width=3),
        },
    ),
    "multi_dsprites_binarized": _sprites("binarized", 1, 4),
    "multi_dsprites_colored_on_grayscale": _sprites("colored_on_grayscale", 3, 6),
    "multi_dsprites_colored_on_colored": _sprites("colored_on_colored", 3, 5),
    "clevr_with_masks": OfficialSet(
        "clevr_with_masks/clevr_with_masks_train.tfrecords",
        (240, 320, 3),
        11,
        {
            "x": _WORLD,
            "y": _WORLD,
            "z": _WORLD,
            "pixel_coords": StoredFactor(FactorSpec("column and row in pixels of the decoded image, depth"), width=3),
            "rotation": StoredFactor(FactorSpec("degrees", low=0, high=360)),
            "size": StoredFactor(_classes("size", 2), stored="bytes"),
            "material": StoredFactor(_classes("material", 2), stored="bytes"),
            "shape": StoredFactor(_classes("shape", 3), stored="bytes"),
            "color": StoredFactor(_classes("color", 8), stored="bytes"),
        },
        crop=Crop(rows=(29, 221), columns=(64, 256), size=(128, 128)),
    ),
    "objects_room_train": _room("train", 7),
    "objects_room_six_objects": _room("test_six_objects", 10),
    "objects_room_identical_color": _room("test_identical_color", 10),
    "objects_room_empty_room": _room("test_empty_room", 4),
}
"""Name -> layout. `shape` codes of Multi-dSprites, and CLEVR's codes, are not documented; they are numbered, not named."""


def official_set(name: str) -> OfficialSet:
    """The layout of a set.

    Raises:
        UserError: for an unknown name, with the nearest right one.
    """
    if name not in OFFICIAL_SETS:
        raise UserError(f"there is no official set '{name}'{nearest(name, OFFICIAL_SETS)}")
    return OFFICIAL_SETS[name]


def fitting_sets(record: Record) -> list[str]:
    """Names of the official sets whose layout a record has.

    Raises:
        RecordError: if the payload is not a ``tf.train.Example``.
    """
    features = record.features()
    return [name for name, layout in OFFICIAL_SETS.items() if _fits(features, layout)]


def _fits(features: Mapping[str, Feature], layout: OfficialSet) -> bool:
    try:
        _values(features, layout)
    except (RecordError, KeyError):
        return False
    return True


def _values(features: Mapping[str, Feature], layout: OfficialSet) -> dict[str, np.ndarray]:
    """The values of every feature of a layout, flat."""
    return {
        name: features[name].as_bytes(count) if stored == "bytes" else features[name].as_floats(count)
        for name, (stored, count) in layout.lengths.items()
    }


def check_crop(name: str, crop: Crop | None) -> None:
    """Refuse a window that leaves the image.

    Raises:
        UserError: naming window and image.
    """
    height, width, _ = official_set(name).image
    if crop is not None and (crop.rows[1] > height or crop.columns[1] > width):
        raise UserError(
            f"the crop, rows {crop.rows[0]}:{crop.rows[1]} and columns {crop.columns[0]}:{crop.columns[1]}, "
            f"leaves the {height}x{width} images of {name}"
        )


def array_layout(name: str, crop: Crop | None) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """What :func:`decode_record` gives for a set: array name -> dtype and shape."""
    layout = official_set(name)
    height, width, channels = layout.image
    size = crop.shape if crop else (height, width)
    count = layout.entities
    arrays: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
        "images": (np.dtype(np.uint8), (channels, *size)),
        "instances": (np.dtype(np.uint8), size),
        "present": (np.dtype(np.bool_), (count,)),
        "visible_pixels": (np.dtype(np.int32), (count,)),
    }
    for factor_name, factor in layout.factors.items():
        dtype = np.dtype(np.uint8 if factor.spec.kind == "categorical" else "<f4")
        arrays[f"factor_{factor_name}"] = (dtype, (count, factor.width) if factor.width else (count,))
    if len(layout.background_ids) > 1:
        arrays["displaced"] = (np.dtype(np.bool_), ())
    return arrays


def decode_record(record: Record, name: str, crop: Crop | None) -> dict[str, np.ndarray]:
    """One scene.

    Args:
        record: as read.
        name: of the official set it is from.
        crop: window to keep; pixels are counted after it.

    Returns:
        arrays as :func:`array_layout` describes. ``displaced`` marks an Objects Room scene whose fourth background is missing, so
        that an object has its id.

    Raises:
        RecordError: if the record has another layout (saying whose) or contradicts itself.
    """
    layout = OFFICIAL_SETS[name]
    features = record.features()
    try:
        values = _values(features, layout)
    except (RecordError, KeyError) as problem:
        _explain(record, features, name, problem)
    height, width, channels = layout.image
    image = values["image"].reshape(height, width, channels).transpose(2, 0, 1)
    instances = _instances(record, features["mask"], values["mask"], layout)
    present = _present(record, features, values, instances, layout)
    if crop is not None:
        image, instances = resize_image(_window(image, crop), crop.shape), _window(instances, crop)
        instances = resize_ids(instances, crop.shape)
    visible = np.bincount(instances.ravel(), minlength=layout.entities).astype(np.int32)
    out = {"images": image, "instances": instances, "present": present, "visible_pixels": visible}
    for factor_name, factor in layout.factors.items():
        rows = _factor(features[factor_name], values[factor_name], factor, layout)
        out[f"factor_{factor_name}"] = _moved(rows, crop) if factor_name == "pixel_coords" else rows
    if len(layout.background_ids) > 1:
        out["displaced"] = np.asarray(background_is_displaced(instances, layout.entities))
    return out


def _explain(record: Record, features: Mapping[str, Feature], name: str, problem: Exception) -> NoReturn:
    others = [other for other, layout in OFFICIAL_SETS.items() if _fits(features, layout)]
    if isinstance(problem, KeyError):
        found = ", ".join(map(quoted, sorted(features)[:12])) or "none"
        message = f"feature {problem} of {name} is missing; there is {found}"
    else:
        message = str(problem).split("uncompressed stream: ", 1)[-1]
        message = f"this is no record of {name}: {message}"
    record.fail(message + (f"; this looks like {' or '.join(others)}" if others else ""))


def _instances(record: Record, feature: Feature, stored: np.ndarray, layout: OfficialSet) -> np.ndarray:
    """The id map (H, W) uint8 of exclusive masks that cover the image."""
    height, width, _ = layout.image
    if layout.mask_last:
        masks = stored.reshape(height, width, layout.entities).transpose(2, 0, 1)
    else:
        masks = stored.reshape(layout.entities, height, width)
    ones = masks & 1
    if not np.array_equal(ones * np.uint8(255), masks):
        record.fail("the mask holds values other than 0 and 255", feature.start)
    owners = ones.sum(axis=0, dtype=np.uint8)
    if not (owners == 1).all():
        row, column = np.argwhere(owners != 1)[0]
        record.fail(
            f"pixel (row {row}, column {column}) belongs to {owners[row, column]} masks, not to one", feature.start
        )
    return (ones * np.arange(layout.entities, dtype=np.uint8)[:, None, None]).sum(axis=0, dtype=np.uint8)


def _present(
    record: Record,
    features: Mapping[str, Feature],
    values: Mapping[str, np.ndarray],
    instances: np.ndarray,
    layout: OfficialSet,
) -> np.ndarray:
    """Which entities (E,) are in the scene: as the file says, else those that are seen; backgrounds always."""
    seen = np.bincount(instances.ravel(), minlength=layout.entities) > 0
    if not layout.visibility:
        seen[list(layout.background_ids)] = True
        return seen
    visibility, start = values["visibility"], features["visibility"].start
    if not ((visibility == 0) | (visibility == 1)).all():
        record.fail(f"feature 'visibility' holds {visibility.tolist()}, not zeros and ones", start)
    present = visibility > 0
    if not present[list(layout.background_ids)].all():
        record.fail("feature 'visibility' says that there is no background", start)
    if (seen & ~present).any():
        entity = int(np.argmax(seen & ~present))
        record.fail(f"entity {entity} has pixels in the mask but its visibility is 0", start)
    return present


def _factor(feature: Feature, values: np.ndarray, factor: StoredFactor, layout: OfficialSet) -> np.ndarray:
    if factor.spec.kind == "categorical":
        most = len(factor.spec.categories) - 1
        if not ((values >= 0) & (values <= most) & (values == np.floor(values))).all():
            feature.record.fail(
                f"feature '{feature.name}' holds {values.tolist()}, not codes from 0 to {most}", feature.start
            )
        return values.astype(np.uint8)
    if not np.isfinite(values).all():
        feature.record.fail(f"feature '{feature.name}' holds a number that is not finite", feature.start)
    return values.reshape(layout.entities, factor.width) if factor.width else values


def _window(array: np.ndarray, crop: Crop) -> np.ndarray:
    return array[..., slice(*crop.rows), slice(*crop.columns)]


def _moved(coordinates: np.ndarray, crop: Crop | None) -> np.ndarray:
    """Pixel coordinates (E, 3: column, row, depth) in the cropped and resized image."""
    if crop is None:
        return coordinates
    moved = coordinates.copy()
    for axis, (first, last), size in ((0, crop.columns, crop.shape[1]), (1, crop.rows, crop.shape[0])):
        moved[:, axis] = (coordinates[:, axis] - first) * (size / (last - first))
    return moved


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, as the published preparation does it: no antialiasing, output pixel i at input position i · in/out.

    ``torch.nn.functional.interpolate`` cannot say this: it takes half-pixel centres, which shifts the image against the
    nearest-neighbour masks. Hence two taps per axis here.

    Args:
        image: (C, H, W) uint8.
        size: height and width of the result.

    Returns:
        (C, *size) uint8, rounded to the nearest.
    """
    if image.shape[1:] == tuple(size):
        return image
    out = image.astype(np.float32)
    for axis in (1, 2):
        low, high, share = _taps(image.shape[axis], size[axis - 1])
        share = share[:, None] if axis == 1 else share
        lower = np.take(out, low, axis)
        out = lower + (np.take(out, high, axis) - lower) * share
    return np.rint(out).astype(np.uint8)


@cache
def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper input position of each output position, and the upper one's weight."""
    exact = np.arange(new) * old / new
    low = np.floor(exact).astype(np.int64)
    return low, np.minimum(low + 1, old - 1), (exact - low).astype(np.float32)


def resize_ids(instances: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest neighbour: an id map never gains an id."""
    if instances.shape == tuple(size):
        return instances
    rows, columns = (np.arange(new) * old // new for old, new in zip(instances.shape, size, strict=True))
    return instances[rows[:, None], columns]


def background_is_displaced(instances: np.ndarray, entities: int) -> bool:
    """Whether id 3 of an Objects Room scene is an object, because only one wall is in view.

    A second wall meets the first along a vertical line and goes on to the left or right border of the image. So id 3 is an
    object if the first wall is right above or below it, or if it has floor or sky on both sides, or on one side without
    reaching the border on the other; each along three pixels or more. With a wall missing, the last id is unused as well.
    (A rule of thumb after ``addtt/object-centric-library``; nobody published the truth.)

    Args:
        instances: (H, W) ids.
        entities: E; the last id is E − 1.
    """
    if entities <= WALL + 2 or (instances == entities - 1).any():
        return False
    mine = instances == WALL + 1
    wall, ground = instances == WALL, instances < WALL
    stacked = (mine[:-1] & wall[1:]).sum() + (mine[1:] & wall[:-1]).sum()
    if stacked >= MIN_TOUCH:
        return True
    on_left = _three_in_a_column(mine[:, 1:] & ground[:, :-1])
    on_right = _three_in_a_column(mine[:, :-1] & ground[:, 1:])
    reaches_left, reaches_right = bool(mine[:, 0].any()), bool(mine[:, -1].any())
    return (on_left and on_right) or (on_right and not reaches_left) or (on_left and not reaches_right)


def _three_in_a_column(flags: np.ndarray) -> bool:
    return bool((flags[:-2] & flags[1:-1] & flags[2:]).any())
