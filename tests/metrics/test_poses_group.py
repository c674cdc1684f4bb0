"""Poses as a group of scores: from the factors of data and model, kind by kind, by number of objects."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from objectwise.core import Batch, Decomposition, FactorSpec, UserError
from objectwise.metrics import GroupSettings, PosesGroup, found_objects
from objectwise.metrics.poses_group import scene_width

SPECS = {
    "kind": FactorSpec("class", "categorical", categories=("cube", "ball"), symmetries=("cube", "sphere")),
    "x": FactorSpec("world units", low=-2.0, high=2.0),
    "y": FactorSpec("world units", low=-1.0, high=1.0),
    "yaw": FactorSpec("radians"),
}


def factors(kind: list[list[int]], x: list[list[float]], yaw: list[list[float]]) -> dict[str, torch.Tensor]:
    return {"kind": torch.tensor(kind), "x": torch.tensor(x), "y": torch.zeros(len(x), 3), "yaw": torch.tensor(yaw)}


def truth() -> Batch:
    """A cube and a ball; a cube alone; the table alone."""
    present = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    named = factors([[0, 0, 1], [0, 0, 0], [0, 0, 0]], [[0, -1, 1], [0, 1, 0], [0, 0, 0.0]], [[0.0] * 3] * 3)
    return Batch(torch.arange(3), torch.zeros(3, 1, 2, 2), factors=named, factor_specs=SPECS, present=present)


def found() -> Decomposition:
    """The cube 0.4 (a tenth of the width) off and turned by 10° past a quarter, and another cube; a ball; a ghost."""
    quarter = math.pi / 2 + math.radians(10)
    named = factors([[0, 0, 0], [0, 1, 0], [0, 1, 0]], [[0, -1.4, 1], [0, 1, 0], [0, 0, 0.0]], [[0, quarter, 0]] * 3)
    masks = torch.ones(3, 3, 2, 2) / 3
    return Decomposition(
        loss=torch.zeros(3),
        terms={},
        reconstruction=torch.zeros(3, 1, 2, 2),
        components=torch.zeros(3, 3, 1, 2, 2),
        masks=masks,
        slots=torch.zeros(3, 3, 4),
        presence=torch.tensor([[1, 0.9, 0.8], [1, 0.9, 0.2], [1, 0.7, 0.1]]),
        background=(0,),
        factors=named,
    )


def test_scores_by_hand() -> None:
    """Scene by scene in two batches, and all at once: the same, as worked out on paper."""
    whole, parts = PosesGroup(GroupSettings(draws=20)), PosesGroup(GroupSettings(draws=20))
    batch, out = truth(), found()
    whole.add(batch, out, {})
    for rows in (slice(0, 1), slice(1, 3)):
        parts.add(batch.select(rows), out.select(rows), {})
    for group in (whole.scores(), parts.scores()):
        scenes, rotation = group.sections["scenes"], group.sections["rotation"]
        assert scenes["count_accuracy"].value == pytest.approx(2 / 3)
        assert scenes["f1"].value == pytest.approx((2 / 4 + 0 + 0) / 3)
        assert scenes["class_accuracy"].value == pytest.approx((1 / 2 + 0) / 2)
        assert scenes["class_accuracy"].n_skipped == 1
        assert scenes["position_error"].value == pytest.approx((0.05 + 0.0) / 2, abs=1e-6)
        assert scenes["count_accuracy"].by_count[0].value == 0.0
        assert scenes["f1"].by_count[2].value == pytest.approx(0.5)
        assert (rotation["cube_median"].value, rotation["cube_median"].n_scored) == (pytest.approx(10.0, abs=1e-3), 1)
        assert np.isnan(rotation["ball_mean"].value)
    record = whole.scores().record()
    assert record["rotation"]["cube_mean"]["policy"] == {"symmetry": "cube", "unit": "degrees"}


def test_what_it_needs() -> None:
    group, batch, out = PosesGroup(GroupSettings()), truth(), found()
    with pytest.raises(UserError, match="the data do not tell the objects' yaw"):
        group.add(replace(batch, factors={k: v for k, v in batch.factors.items() if k != "yaw"}), out, {})
    with pytest.raises(UserError, match="does not infer the objects' kind"):
        found_objects(replace(out, factors={}))
    plain = {**SPECS, "kind": replace(SPECS["kind"], symmetries=())}
    with pytest.raises(UserError, match="symmetries of their kinds"):
        group.add(replace(batch, factor_specs=plain), out, {})
    with pytest.raises(UserError, match="no range of x and y"):
        scene_width({"x": FactorSpec("pixels")})
    assert scene_width(SPECS) == 4.0
