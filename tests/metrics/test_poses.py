"""Pose errors respect symmetry, and scenes are sets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from objectwise.core import UserError
from objectwise.metrics.poses import ObjectSet, cube_rotations, rotation_error, score_scenes, yaw_matrix

KINDS = ("cube", "sphere", "axis")


def about(axis: str, degrees: float) -> Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rows = {"z": [[c, -s, 0], [s, c, 0], [0, 0, 1]], "x": [[1, 0, 0], [0, c, -s], [0, s, c]]}[axis]
    return torch.tensor(rows, dtype=torch.float64)


def test_the_cube_has_24_rotations() -> None:
    group = cube_rotations()
    assert group.shape == (24, 3, 3)
    products = (group.unsqueeze(1) @ group.unsqueeze(0)).reshape(-1, 9)
    assert len(torch.unique(products, dim=0)) == 24  # closed
    torch.testing.assert_close(torch.linalg.det(group), torch.ones(24).double())


@pytest.mark.parametrize(
    ("symmetry", "axis", "degrees", "expected"),
    [
        ("none", "z", 100.0, 100.0),
        ("none", "x", 180.0, 180.0),
        ("cube", "z", 100.0, 10.0),
        ("cube", "x", 90.0, 0.0),
        ("cube", "z", 45.0, 45.0),
        ("axis", "z", 100.0, 0.0),
        ("axis", "x", 170.0, 10.0),
        ("spin", "z", 33.0, 0.0),
        ("spin", "x", 170.0, 170.0),
        ("sphere", "x", 77.0, 0.0),
    ],
)
def test_rotation_errors_by_hand(symmetry: str, axis: str, degrees: float, expected: float) -> None:
    start = about("x", 20.0) @ about("z", 50.0)
    found = rotation_error(start, start @ about(axis, degrees), symmetry)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_a_cube_is_never_further_than_62_8_degrees() -> None:
    quaternion = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w, x, y, z = (quaternion / quaternion.norm(dim=1, keepdim=True)).unbind(1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)]
    rows += [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)]
    rows += [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]
    turned = torch.stack(rows, 1).view(-1, 3, 3)
    errors = rotation_error(torch.eye(3).expand(3000, 3, 3), turned, "cube")
    assert 55 < errors.max() < 62.81
    again = rotation_error(torch.eye(3).expand(3000, 3, 3), turned @ cube_rotations()[7], "cube")
    torch.testing.assert_close(errors, again)


def scenes(kind: list[int], places: list[tuple[float, float]], yaw: list[float], present: list[bool]) -> ObjectSet:
    return ObjectSet(
        torch.tensor([kind]), torch.tensor([places]), yaw_matrix(torch.tensor([yaw]).double()), torch.tensor([present])
    )


def test_scores_by_hand() -> None:
    """Two cubes and a cylinder; found: the cubes in the other order, one 0.4 away, and a sphere for the cylinder."""
    true = scenes([0, 0, 2], [(-1, 0), (1, 0), (0, 1)], [0.0, 0.1, 0.0], [True, True, True])
    found = scenes(
        [0, 1, 0, 0], [(1, 0), (0, 1), (-1, 0.4), (9, 9)], [0.1 + math.pi / 2, 0.0, 0.2, 0], [True] * 3 + [False]
    )
    scores = score_scenes(true, found, KINDS, width=4.0, reach=0.05)
    assert scores.count_accuracy.value == 1.0
    assert scores.f1.value == pytest.approx(2 * 1 / 6)
    assert score_scenes(true, found, KINDS, width=4.0, reach=0.11).f1.value == pytest.approx(2 * 2 / 6)
    assert scores.class_accuracy.value == pytest.approx(2 / 3)
    assert scores.position_error.value == pytest.approx(0.1 / 3)
    assert sorted(scores.rotation_errors[0]) == pytest.approx([0.0, math.degrees(0.2)], abs=1e-5)
    assert scores.median_rotation_error(0) == pytest.approx(math.degrees(0.1), abs=1e-5)
    assert [len(scores.rotation_errors[kind]) for kind in (1, 2)] == [0, 0]  # the sphere was a cylinder


def test_a_cylinder_does_not_hide_a_cubes_error() -> None:
    """Kinds apart: two cylinders turned by anything and a cube turned by 20 degrees."""
    places = [(-1.0, 0.0), (1.0, 0.0), (0.0, 1.0)]
    true = scenes([2, 2, 0], places, [0.0, 0.0, 0.0], [True] * 3)
    found = scenes([2, 2, 0], places, [1.0, 2.0, math.radians(20)], [True] * 3)
    scores = score_scenes(true, found, KINDS, width=3.0)
    assert scores.median_rotation_error(0) == pytest.approx(20.0, abs=1e-5)
    assert scores.rotation_errors[2] == pytest.approx([0.0, 0.0], abs=1e-5)
    assert math.isnan(scores.median_rotation_error(1))


def test_nothing_there_and_too_many() -> None:
    none = scenes([0], [(0, 0)], [0.0], [False])
    one = scenes([1], [(0, 0)], [0.0], [True])
    both = score_scenes(none, none, KINDS, width=1.0)
    assert both.count_accuracy.value == 1.0
    assert both.f1.n_scored == 0
    extra = score_scenes(none, one, KINDS, width=1.0)
    assert (extra.count_accuracy.value, extra.f1.value) == (0.0, 0.0)
    assert math.isnan(extra.median_rotation_error(1))
    with pytest.raises(UserError, match="there is no symmetry 'round'"):
        rotation_error(torch.eye(3), torch.eye(3), "round")
