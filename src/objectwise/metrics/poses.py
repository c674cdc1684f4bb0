"""Inferred scenes of solid objects against true ones: counts, classes, positions, and rotations up to symmetry.

Objects are a set: found and true ones are paired so that the summed cost, distance over the scene's width plus one for a wrong
class, is smallest (Hungarian method). A pair is a hit if the class is right and the distance small.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from objectwise.core import MetricResult, UserError

SYMMETRIES = ("none", "spin", "axis", "cube", "sphere")
"""Rotations of an object that change nothing: none, any about its z axis (a bottle), those and turning over (a cylinder), the
24 of a cube, all."""


class ObjectSet(NamedTuple):
    """The objects of B scenes, up to M in each.

    Attributes:
        kind: (B, M) int64.
        position: (B, M, D) in world units, D 2 or 3.
        rotation: (B, M, 3, 3) from the object's frame to the world's.
        present: (B, M) bool.
    """

    kind: Tensor
    position: Tensor
    rotation: Tensor
    present: Tensor


class SceneScores(NamedTuple):
    """What :func:`score_scenes` found, image by image.

    Attributes:
        count_accuracy: 1 where the number is right, else 0.
        f1: 2·hits / (found + true); images without objects on either side are skipped.
        class_accuracy: share of the pairs whose class is right; images without a pair are skipped.
        position_error: mean distance of the pairs as a share of the scene's width; skipped as above.
        rotation_errors: kind -> (P,) degrees, every pair of which both are of this kind; kinds apart, because some cannot be
            seen to turn and would hide the others' errors.
    """

    count_accuracy: MetricResult
    f1: MetricResult
    class_accuracy: MetricResult
    position_error: MetricResult
    rotation_errors: Mapping[int, np.ndarray]

    def median_rotation_error(self, kind: int) -> float:
        """Degrees, over the pairs of one kind; NaN without one."""
        errors = self.rotation_errors[kind]
        return float(np.median(errors)) if len(errors) else float("nan")


def yaw_matrix(yaw: Tensor) -> Tensor:
    """(…) radians about z, counter-clockwise from above -> (…, 3, 3)."""
    c, s, zero, one = yaw.cos(), yaw.sin(), torch.zeros_like(yaw), torch.ones_like(yaw)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], dim=-1).unflatten(-1, (3, 3))


def cube_rotations() -> Tensor:
    """(24, 3, 3) float64: the signed permutation matrices of determinant 1."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = torch.zeros(3, 3, dtype=torch.float64)
            for row, (column, sign) in enumerate(zip(order, signs, strict=True)):
                matrix[row, column] = sign
            if torch.linalg.det(matrix) > 0:
                found.append(matrix)
    return torch.stack(found)


def rotation_error(true: Tensor, found: Tensor, symmetry: str) -> Tensor:
    """Smallest angle, in degrees, that turns one rotation into the other or one that looks the same.

    Args:
        true: (…, 3, 3) rotation matrices from the object's frame to the world's.
        found: (…, 3, 3).
        symmetry: one of :data:`SYMMETRIES`.

    Returns:
        (…) float64 in [0, 180]; at most 62.8 for a cube, 90 for ``axis``, and 0 for a sphere.

    Raises:
        UserError: for an unknown symmetry.
    """
    if symmetry not in SYMMETRIES:
        raise UserError(f"there is no symmetry '{symmetry}'; there are {', '.join(SYMMETRIES)}")
    between = true.double().mT @ found.double()
    if symmetry == "sphere":
        return torch.zeros(between.shape[:-2], dtype=torch.float64)
    if symmetry in ("spin", "axis"):
        return _axis_angle(between, either_way=symmetry == "axis")
    if symmetry == "cube":
        between = cube_rotations().to(between) @ between.unsqueeze(-3)
        return _angle(between).amin(dim=-1)
    return _angle(between)


def _angle(rotation: Tensor) -> Tensor:
    """Angle of rotation matrices in degrees, exact for small ones too."""
    sine = torch.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        dim=-1,
    ).norm(dim=-1)
    cosine = rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1.0
    return torch.rad2deg(torch.atan2(sine, cosine))


def _axis_angle(between: Tensor, *, either_way: bool) -> Tensor:
    cosine = between[..., 2, 2]
    sine = between[..., :2, 2].norm(dim=-1)
    return torch.rad2deg(torch.atan2(sine, cosine.abs() if either_way else cosine))


def score_scenes(
    true: ObjectSet, found: ObjectSet, symmetries: Sequence[str], *, width: float, reach: float = 0.1
) -> SceneScores:
    """Score inferred scenes.

    Args:
        true: of B scenes.
        found: of the same scenes; may have room for another number of objects.
        symmetries: of each kind, by its code.
        width: of the scene, world units.
        reach: largest distance of a hit, as a share of the width.

    Raises:
        UserError: for sets of different scenes.
    """
    if len(true.kind) != len(found.kind):
        raise UserError(f"there are {len(true.kind)} true scenes but {len(found.kind)} found ones")
    rows: dict[str, list[float]] = {name: [] for name in ("count", "f1", "class", "position")}
    rotations: dict[int, list[float]] = {kind: [] for kind in range(len(symmetries))}
    for b in range(len(true.kind)):
        here = [set_.present[b].nonzero().squeeze(1) for set_ in (true, found)]
        rows["count"].append(float(len(here[0]) == len(here[1])))
        kinds = [set_.kind[b, chosen] for set_, chosen in zip((true, found), here, strict=True)]
        places = [set_.position[b, chosen].double() for set_, chosen in zip((true, found), here, strict=True)]
        turns = [set_.rotation[b, chosen] for set_, chosen in zip((true, found), here, strict=True)]
        distance = (places[0].unsqueeze(1) - places[1].unsqueeze(0)).norm(dim=-1) / width
        right = kinds[0].unsqueeze(1) == kinds[1].unsqueeze(0)
        first, second = linear_sum_assignment((distance + (~right).double()).numpy())
        pairs, good = distance[first, second], right[first, second]
        total = len(here[0]) + len(here[1])
        rows["f1"].append(2.0 * int((good & (pairs <= reach)).sum()) / total if total else float("nan"))
        rows["class"].append(float(good.double().mean()) if len(first) else float("nan"))
        rows["position"].append(float(pairs.mean()) if len(first) else float("nan"))
        for i, j in zip(first, second, strict=True):
            if right[i, j]:
                kind = int(kinds[0][i])
                rotations[kind].append(float(rotation_error(turns[0][i], turns[1][j], symmetries[kind])))
    policy = {"width": width, "reach": reach, "matching": "distance / width + wrong class"}
    results = {name: MetricResult.over_images(np.array(values), **policy) for name, values in rows.items()}
    return SceneScores(
        results["count"],
        results["f1"],
        results["class"],
        results["position"],
        {kind: np.array(errors) for kind, errors in rotations.items()},
    )
