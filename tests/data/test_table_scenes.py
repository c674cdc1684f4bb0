"""The table-top scenes keep their law."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import assert_labels_match_pixels

from objectwise.core import UserError, check_dataset
from objectwise.data import config_class
from objectwise.data.folder import FolderConfig, write_folder
from objectwise.data.table_scenes import SingleObjectConfig, TableScenesConfig
from objectwise.rendering.tabletop import TabletopConfig, numba_is_there

needs_numba = pytest.mark.skipif(not numba_is_there(), reason="numba is not installed")


def test_they_keep_the_contract() -> None:
    check_dataset(TableScenesConfig().build())
    check_dataset(SingleObjectConfig(camera="varied", renderer=TabletopConfig(backend="torch")).build(), samples=4)
    assert config_class("air_3d_single") is SingleObjectConfig
    assert config_class("air_3d_table") is TableScenesConfig


@needs_numba
def test_tableware_keeps_the_contract() -> None:
    check_dataset(TableScenesConfig(renderer=TabletopConfig(family="tableware", channels=1, width=40)).build())


def test_counts_places_and_gaps() -> None:
    dataset = TableScenesConfig().build()
    scene = dataset.scene("train", range(300))
    number = scene.present.sum(dim=1)
    assert number.bincount().min() > 50
    assert scene.pose[..., :2].abs().max() <= 1.5
    radius = torch.tensor([0.5 * math.sqrt(2), 0.58, 0.53]).double()[scene.kind]
    for row, n in enumerate(number.tolist()):
        for i in range(n):
            for j in range(i):
                distance = (scene.pose[row, i, :2] - scene.pose[row, j, :2]).norm()
                assert distance >= radius[row, i] + radius[row, j] + 0.1 - 1e-9
    batch = dataset.batch("train", range(300))
    assert batch.visible_pixels is not None
    assert batch.visible_pixels[:, 1:][scene.present].min() >= 20
    assert_labels_match_pixels(batch.select(slice(0, 6)))
    assert torch.equal(batch.factors["kind"][:, 1:][scene.present], scene.kind[scene.present])


def test_without_repeats_kinds_differ() -> None:
    scene = TableScenesConfig(repeats=False, counts=(3,)).build().scene("val", range(40))
    assert (scene.kind.sort(dim=1).values == torch.arange(3)).all()
    assert len({tuple(row) for row in scene.kind.tolist()}) == 6
    repeated = TableScenesConfig(counts=(3,)).build().scene("val", range(40))
    assert any(len(set(row)) < 3 for row in repeated.kind.tolist())


def test_a_varied_camera_stays_within_its_spread() -> None:
    camera = np.degrees(TableScenesConfig(camera="varied").build().scene("test", range(200)).camera.numpy())
    assert np.abs(camera[:, 0] + 90).max() <= 20
    assert np.abs(camera[:, 1] - 50).max() <= 6
    assert np.abs(camera[:, 0] + 90).max() > 18


def test_impossible_settings() -> None:
    with pytest.raises(UserError, match="4 objects cannot all differ"):
        TableScenesConfig(repeats=False, counts=(4,))
    with pytest.raises(UserError, match="one of them at least 1"):
        TableScenesConfig(counts=(0,))
    with pytest.raises(UserError, match=r"find no place on a table of extent 0\.3"):
        TableScenesConfig(extent=0.3, counts=(3,)).build().batch("train", [0])


def test_written_as_a_folder_classes_keep_their_symmetries(tmp_path: Path) -> None:
    data = TableScenesConfig(eval_size=24).build()
    write_folder(data, "val", 24, tmp_path / "out")
    read = FolderConfig(root=str(tmp_path / "out")).build()
    assert read.factor_specs["kind"] == data.factor_specs["kind"]
    assert read.factor_specs["kind"].symmetries == ("cube", "sphere", "axis")
