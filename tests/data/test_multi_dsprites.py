"""Multi-dSprites: the contract, painting order, colours of the three variants, the constraints."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from objectwise.core import UserError, boxes_from_ids, check_dataset
from objectwise.core.boxes import boxes_by_comparison
from objectwise.data.multi_dsprites import COUNTS, MultiDspritesConfig, Scene, hsv_to_rgb
from objectwise.rendering import dsprites

VARIANTS = ("binarized", "colored_on_grayscale", "colored_on_colored")


@pytest.mark.parametrize(
    "config",
    [
        *(MultiDspritesConfig(variant=variant) for variant in VARIANTS),
        MultiDspritesConfig(no_overlap=True),
        MultiDspritesConfig(min_visible=40, counts=(4,)),
        MultiDspritesConfig(no_overlap=True, min_visible=15, image_size=48),
        MultiDspritesConfig(counts=(0,), image_size=32),
        MultiDspritesConfig(counts=(0,), min_visible=5),
        MultiDspritesConfig(counts=(12,)),
    ],
    ids=lambda config: "-".join(f"{name}={value}" for name, value in config.model_dump(exclude_defaults=True).items()),
)
def test_contract(config: MultiDspritesConfig) -> None:
    check_dataset(config.build())


@pytest.mark.parametrize("variant", VARIANTS)
def test_counts_colors_and_factors(variant: str) -> None:
    data = MultiDspritesConfig(variant=variant).build()
    batch = data.batch("train", range(400))
    assert batch.counts is not None
    assert batch.object_present is not None
    assert batch.instances is not None
    assert sorted(batch.counts.unique().tolist()) == list(COUNTS[variant])
    # Every pixel has the colour of its entity, up to the background's, which is row 0 of no factor.
    color = batch.factors["color"].movedim(2, 1)
    ids = batch.instances.flatten(1).unsqueeze(1).expand(-1, color.shape[1], -1)
    painted = color.gather(2, ids)
    on_objects = (ids > 0).expand_as(painted)
    assert torch.equal(painted[on_objects], batch.images.flatten(2)[on_objects])
    background = batch.images.flatten(2)[(ids == 0).expand_as(painted)]
    if variant == "binarized":
        assert (color[batch.object_present.unsqueeze(1)] == 1).all()
        assert (background == 0).all()
    else:
        assert color[batch.object_present.unsqueeze(1).expand_as(color)].std() > 0.2
        grey = (batch.images.flatten(2)[:, :1] == batch.images.flatten(2)) | (ids > 0)
        assert grey.all() == (variant == "colored_on_grayscale")
    for name in ("scale", "orientation", "x", "y"):
        values, spec = batch.factors[name][batch.object_present], data.factor_specs[name]
        assert values.min() - spec.low < 0.02 * (spec.high - spec.low)
        assert spec.high - values.max() < 0.02 * (spec.high - spec.low)
        assert values.mean().item() == pytest.approx((spec.low + spec.high) / 2, abs=0.06 * (spec.high - spec.low))
    shapes = torch.bincount(batch.factors["shape"][batch.object_present])
    assert shapes[0] == 0
    assert shapes[1:].min() > 0.25 * shapes.sum()


def test_later_sprites_hide_earlier_ones() -> None:
    data = MultiDspritesConfig(counts=(5,)).build()
    scene = data.sample_factors("train", np.arange(30))
    batch = data.batch("train", range(30))
    whole = [
        dsprites.draw(*(values[:, m] for values in (scene.shape, scene.scale, scene.orientation, scene.x, scene.y)))
        for m in range(5)
    ]
    expected = np.zeros((30, 64, 64), np.int64)
    for m in range(5):
        expected[whole[m]] = m + 1
    assert np.array_equal(batch.instances, expected)
    assert (sum(layer.astype(int) for layer in whole) > 1).any()


def test_a_hidden_sprite_stays_present() -> None:
    scene = Scene(
        number=np.array([2]),
        shape=np.array([[3, 1]]),
        scale=np.array([[0.5, 1.0]]),
        orientation=np.zeros((1, 2)),
        x=np.full((1, 2), 0.5),
        y=np.full((1, 2), 0.5),
        color=np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8),
        background=np.array([[7, 7, 7]], np.uint8),
    )
    batch = MultiDspritesConfig().build().render(scene)
    assert batch.present is not None
    assert batch.visible_pixels is not None
    assert batch.boxes is not None
    assert batch.present.tolist() == [[True, True, True]]
    assert batch.visible_pixels.tolist() == [[64 * 64 - 400, 0, 400]]
    assert batch.boxes[0].tolist() == [[0, 0, 64, 64], [0, 0, 0, 0], [22, 22, 42, 42]]


def test_the_labels_give_the_image_back() -> None:
    data = MultiDspritesConfig(variant="binarized", image_size=80).build()
    batch = data.batch("val", range(20))
    factors = {name: values[:, 1:].numpy() for name, values in batch.factors.items()}
    assert batch.counts is not None
    again = data.render(
        Scene(
            number=batch.counts.numpy(),
            color=(factors.pop("color") * 255).round().astype(np.uint8),
            background=np.zeros((20, 1), np.uint8),
            **factors,
        ),
        np.arange(20),
    )
    assert torch.equal(again.images, batch.images)
    assert torch.equal(again.instances, batch.instances)


def test_constraints_hold_and_change_only_what_breaks_them() -> None:
    free = MultiDspritesConfig(seed=3).build().batch("train", range(150))
    apart = MultiDspritesConfig(seed=3, no_overlap=True).build()
    seen = MultiDspritesConfig(seed=3, min_visible=45).build().batch("train", range(150))
    assert free.visible_pixels is not None
    assert seen.visible_pixels is not None
    assert free.object_present is not None
    enough = ((free.visible_pixels >= 45) | ~free.object_present).all(dim=1)
    assert 0.3 < enough.float().mean() < 0.95
    assert (seen.visible_pixels[seen.object_present] >= 45).all()
    assert torch.equal(seen.images[enough], free.images[enough])
    assert (seen.images[~enough] != free.images[~enough]).flatten(1).any(dim=1).all()
    scene = apart.sample_factors("train", np.arange(150))
    alone = sum(
        dsprites.draw(*(values[:, m] for values in (scene.shape, scene.scale, scene.orientation, scene.x, scene.y)))
        * (scene.number > m)[:, None, None]
        for m in range(5)
    )
    assert alone.max() == 1


def test_seeds_and_prefixes() -> None:
    images = MultiDspritesConfig().build().batch("train", range(8)).images
    assert not (MultiDspritesConfig(seed=1).build().batch("train", range(8)).images == images).all()
    small = MultiDspritesConfig(train_size=10).build().batch("train", [5]).images
    assert torch.equal(small[0], images[5])
    three = MultiDspritesConfig(counts=(3,)).build().sample_factors("train", np.arange(8))
    four = MultiDspritesConfig(counts=(4,)).build().sample_factors("train", np.arange(8))
    for name in ("shape", "scale", "orientation", "x", "y", "color"):
        assert np.array_equal(getattr(three, name), getattr(four, name)[:, :3])


def test_workers_give_the_same_bytes() -> None:
    data = MultiDspritesConfig(no_overlap=True, train_size=12).build()
    loader = torch.utils.data.DataLoader(_Rows(data), batch_size=None, num_workers=2)
    assert torch.equal(torch.stack(list(loader)), data.batch("train", range(12)).images)


class _Rows(torch.utils.data.Dataset):
    def __init__(self, data) -> None:
        self.data = data

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.data.batch("train", [index]).images[0]


@pytest.mark.parametrize("entities", [1, 5, 9, 40, 64])
def test_fast_boxes_are_the_contract_s(entities: int) -> None:
    rng = np.random.default_rng(entities)
    ids = np.zeros((6, 33, 47), np.uint8)
    for image in ids:
        for entity in rng.integers(0, entities, 20):
            y, x = rng.integers(0, 30, 2)
            image[y : y + 7, x : x + 9] = entity
    boxes, visible = boxes_from_ids(ids, entities)
    expected_boxes, expected_visible = boxes_by_comparison(torch.from_numpy(ids.astype(np.int64)), entities)
    assert np.array_equal(boxes, expected_boxes)
    assert np.array_equal(visible, expected_visible)


def test_hsv() -> None:
    import colorsys

    values = np.random.default_rng(0).random((200, 3))
    expected = [colorsys.hsv_to_rgb(*row) for row in values]
    assert np.allclose(hsv_to_rgb(values), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"counts": (40,)}, "0 to 32"),
        ({"counts": ()}, "one or more"),
        ({"min_visible": 300}, "smallest sprite"),
        ({"no_overlap": True, "counts": (7,)}, "at most 6"),
        ({"variant": "colored_on_grey"}, "colored_on_grayscale"),
    ],
)
def test_impossible_settings(values: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        MultiDspritesConfig.parse(values)


def test_an_empty_batch_is_a_batch() -> None:
    for config in (MultiDspritesConfig(), MultiDspritesConfig(no_overlap=True, min_visible=9)):
        batch = config.build().batch("train", [])
        assert batch.images.shape == (0, 3, 64, 64)
        assert len(batch) == 0


def test_bad_requests() -> None:
    data = MultiDspritesConfig(eval_size=5).build()
    with pytest.raises(UserError, match="no split 'dev'"):
        data.batch("dev", [0])
    with pytest.raises(UserError, match="no sample 5 in split 'test'; there are 0 to 4"):
        data.batch("test", [0, 5])
    with pytest.raises(UserError, match="no sample -1"):
        data.batch("test", [-1])


def test_impossible_constraints_end_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectwise.data.labels.MAX_ROUNDS", 6)
    data = MultiDspritesConfig(counts=(32,), min_visible=48).build()
    with pytest.raises(UserError, match="32 sprites cannot meet min_visible 48"):
        data.batch("train", [0])
