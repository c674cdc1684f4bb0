"""The CLEVR-like scenes keep their law."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from objectwise.core import UserError, check_dataset
from objectwise.data import config_class
from objectwise.data.clevr_like import SIZES, ClevrLikeConfig
from objectwise.rendering.primitives3d import numba_is_there, render_layers


def test_it_keeps_the_contract() -> None:
    check_dataset(ClevrLikeConfig(image_size=32).build())
    check_dataset(ClevrLikeConfig(image_size=24, counts=(0, 2), backend="torch", samples=1).build(), samples=4)


def test_it_is_in_the_table() -> None:
    assert config_class("clevr_like") is ClevrLikeConfig


def test_objects_keep_gap_margin_and_visibility() -> None:
    config = ClevrLikeConfig(image_size=32)
    dataset = config.build()
    indices = np.arange(120)
    factors, batch = dataset.sample_factors("train", indices), dataset.batch("train", indices)
    ahead = np.array([0.25, -0.22]) - factors.eye[:, :2]
    for scene, number in enumerate(factors.number):
        depth = ahead[scene] / np.linalg.norm(ahead[scene])
        left = np.array([-depth[1], depth[0]])
        radius = np.array(list(SIZES.values()))[factors.size[scene]]
        for i in range(number):
            assert np.abs(factors.position[scene, i]).max() <= 3
            for j in range(i):
                offset = factors.position[scene, i] - factors.position[scene, j]
                assert math.hypot(*offset) - radius[i] - radius[j] >= 0.25
                assert min(abs(offset @ depth), abs(offset @ left)) >= 0.4
    assert batch.present is not None
    assert batch.visible_pixels is not None
    assert (batch.visible_pixels[:, 1:][batch.present[:, 1:]] >= config.visible).all()
    assert config.visible == 5
    assert torch.equal(batch.counts, torch.from_numpy(factors.number))
    assert set(factors.number) == {3, 4, 5, 6}


def test_pixel_coords_lie_in_the_visible_part_of_unhidden_objects() -> None:
    dataset = ClevrLikeConfig(counts=(1,), margin=0.0, min_visible=60, sizes=("small",)).build()
    batch = dataset.batch("val", range(20))
    assert batch.boxes is not None
    assert batch.instances is not None
    place = batch.factors["pixel_coords"][:, 1]
    boxes = batch.boxes[:, 1]
    inside = (boxes > 1).all(dim=1) & (boxes < 63).all(dim=1)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert inside.sum() > 5
    assert (place[inside, :2] - middle[inside]).abs().max() < 2.5
    assert ((place[:, 2] > 4) & (place[:, 2] < 18)).all()


def test_the_nearest_object_is_in_front() -> None:
    dataset = ClevrLikeConfig(image_size=32, counts=(6,), samples=1).build()
    factors = dataset.sample_factors("train", range(30))
    scene, settings = dataset.scene(factors), dataset.config.settings
    nearest, first = render_layers(scene, settings).depth.min(dim=1)
    rendered = dataset.render(factors)
    hit = nearest < math.inf
    assert hit.float().mean() > 0.05
    assert torch.equal(rendered.ids, torch.where(hit, first + 1, 0))
    assert torch.equal(rendered.depth[hit], nearest[hit])


def test_scenes_of_fewer_objects_share_the_first() -> None:
    three, four = (ClevrLikeConfig(counts=(n,), image_size=24, min_visible=0).build() for n in (3, 4))
    first, second = (dataset.sample_factors("train", range(40)) for dataset in (three, four))
    assert np.array_equal(first.lamps, second.lamps)
    assert np.array_equal(first.number + 1, second.number)


def test_choices_narrow_the_factors() -> None:
    config = ClevrLikeConfig(
        image_size=24, shapes=("sphere",), colors=("yellow", "red"), materials=("metal",), counts=(3,)
    )
    factors = config.build().sample_factors("test", range(20))
    assert set(factors.shape.flat) == {1}
    assert set(factors.color.flat) == {1, 7}
    assert set(factors.material.flat) == {1}


def test_jitter_moves_camera_and_lamps_within_bounds() -> None:
    still = ClevrLikeConfig(image_size=24, camera_jitter=0, lamp_jitter=0).build().sample_factors("train", range(4))
    assert np.ptp(still.eye, axis=0).max() == 0
    assert np.ptp(still.lamps, axis=0).max() == 0
    moved = ClevrLikeConfig(image_size=24).build().sample_factors("train", range(50))
    assert 0.8 < np.ptp(moved.eye, axis=0).min() <= np.ptp(moved.eye, axis=0).max() <= 1.0
    assert 1.6 < np.ptp(moved.lamps, axis=0).min() <= np.ptp(moved.lamps, axis=0).max() <= 2.0


@pytest.mark.skipif(not numba_is_there(), reason="numba is not installed")
def test_backends_give_the_same_scenes() -> None:
    ours, theirs = (
        ClevrLikeConfig(image_size=32, backend=name).build().batch("train", range(12)) for name in ("numba", "torch")
    )
    assert (ours.images - theirs.images).abs().max() <= 1 / 255 + 1e-6
    assert torch.equal(ours.instances, theirs.instances)


def test_objects_that_cannot_be_placed_are_replaced_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten objects: seen to end with a sentence where nearly all of them are large. The scene is the same in any batch."""
    data = ClevrLikeConfig(image_size=32, counts=(10,), samples=1).build()
    found = data.sample_factors("test", [143, 144])
    assert (found.number == 10).all()
    assert np.array_equal(data.sample_factors("test", [144, 3]).size[0], found.size[1])
    first = data._without_places("test", np.array([143, 144]))
    assert [np.array_equal(found.size[row], first.size[row]) for row in range(2)] == [True, False]
    assert np.array_equal(found.eye, first.eye)
    monkeypatch.setattr("objectwise.data.clevr_like.ROUNDS", 1)
    with pytest.raises(UserError, match=r"scene 144 \(400 starts\)"):
        data.sample_factors("test", [143, 144])


def test_impossible_scenes_are_one_sentence() -> None:
    with pytest.raises(UserError, match="placed apart"):
        ClevrLikeConfig(image_size=16, counts=(12,), spread=1.0, samples=1).build().batch("train", [0])
    with pytest.raises(UserError, match="no split 'valid'"):
        ClevrLikeConfig().build().batch("valid", [0])
    with pytest.raises(UserError, match="do not fit"):
        ClevrLikeConfig.parse({"min_visible": 5000})
    with pytest.raises(UserError, match="'pink' is none of"):
        ClevrLikeConfig.parse({"colors": ["pink"]})
