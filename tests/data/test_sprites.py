from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from data_helpers import assert_labels_match_pixels, same
from hypothesis import given, settings
from hypothesis import strategies as st

from objectwise.core import Config, UserError, check_dataset
from objectwise.data import scenes
from objectwise.data.sprites import SpritesConfig

COLORS = {"disc": (1, 0, 0), "square": (0, 1, 0), "diamond": (0, 0, 1)}


@pytest.mark.parametrize(
    "config",
    [
        SpritesConfig(),
        SpritesConfig(color="grey", seed=3),
        SpritesConfig(background="noise"),
        SpritesConfig(background="grid", image_size=37, sprite_size=(5, 9), counts=(3,)),
        SpritesConfig(counts=(0,)),
    ],
)
def test_contract(config: SpritesConfig) -> None:
    check_dataset(config.build())


def test_labels_match_pixels() -> None:
    assert_labels_match_pixels(SpritesConfig().build().batch("train", range(60)))


def test_factors_describe_the_pixels() -> None:
    """Redraw every scene from its factors alone, pixel by pixel, as the rule of the source says it."""
    batch = SpritesConfig().build().batch("test", range(40))
    names = batch.factor_specs["shape"].categories
    seen = set()
    for row in range(len(batch)):
        expected = torch.zeros(3, 50, 50)
        for e in batch.object_present[row].nonzero().flatten().tolist():
            name = names[batch.factors["shape"][row, e]]
            x, y, size = (float(batch.factors[key][row, e]) for key in ("x", "y", "size"))
            assert batch.factors["color"][row, e].tolist() == list(COLORS[name])
            for i in range(50):
                for j in range(50):
                    dy, dx, radius = i + 0.5 - y, j + 0.5 - x, size // 2
                    inside = {
                        "disc": dx**2 + dy**2 < radius**2,
                        "square": max(abs(dx), abs(dy)) < size / 2,
                        "diamond": abs(dx) + abs(dy) < radius,
                    }[name]
                    if inside:
                        expected[:, i, j] += torch.tensor(COLORS[name])
            seen.add(name)
        assert torch.equal(batch.images[row], expected)
    assert seen == set(names)


def test_box_centre_is_the_position() -> None:
    batch = SpritesConfig().build().batch("val", range(100))
    objects = batch.object_present
    centre = (batch.boxes[..., :2] + batch.boxes[..., 2:]) / 2
    assert torch.equal(centre[..., 0][objects], batch.factors["x"][objects])
    assert torch.equal(centre[..., 1][objects], batch.factors["y"][objects])


def test_statistics() -> None:
    batch = SpritesConfig().build().batch("train", range(3000))
    counts = torch.bincount(batch.counts, minlength=3) / 3000
    assert (counts - 1 / 3).abs().max() < 0.03
    objects = batch.object_present
    kinds = torch.bincount(batch.factors["shape"][objects], minlength=3) / objects.sum()
    assert (kinds - 1 / 3).abs().max() < 0.03
    assert set(batch.factors["size"][objects].tolist()) == {12, 13, 14, 15, 16}
    assert batch.boxes[objects][:, :2].min() == 0
    assert batch.boxes[objects][:, 2:].max() == 50


def test_no_pixel_is_shared() -> None:
    """The area of each sprite is what its factors say, so nothing was hidden under another."""
    batch = SpritesConfig(counts=(4,), color="grey").build().batch("train", range(100))
    squares = batch.object_present & (batch.factors["shape"] == 1)
    assert torch.equal(batch.visible_pixels[squares], batch.factors["size"][squares].long() ** 2)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    indices=st.lists(st.integers(0, 39_999), min_size=1, max_size=9),
    background=st.sampled_from(["plain", "noise", "grid"]),
)
def test_a_scene_depends_on_its_index_alone(seed: int, indices: list[int], background: str) -> None:
    dataset = SpritesConfig(seed=seed, background=background).build()
    whole = dataset.batch("train", indices)
    assert same(whole.select(torch.tensor([-1])), dataset.batch("train", indices[-1:]))


def test_redrawn_scenes_depend_on_their_index_alone() -> None:
    dataset = SpritesConfig(counts=(2,)).build()  # about a quarter of the first placements overlap
    whole = dataset.batch("train", range(100, 164))
    for row in range(64):
        assert same(whole.select(torch.tensor([row])), dataset.batch("train", [100 + row]))


def test_size_of_the_split_changes_nothing() -> None:
    small, large = (SpritesConfig(train_size=size).build().batch("train", [5]) for size in (10, 10_000))
    assert same(small, large)


def _batch(config: Config, split: str, indices: list[int]):  # type: ignore[no-untyped-def]
    batch = config.build().batch(split, indices)  # type: ignore[attr-defined]
    return batch.images.numpy(), batch.instances.numpy()


def test_same_bytes_in_worker_processes() -> None:
    config = SpritesConfig(background="noise")
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        halves = [pool.submit(_batch, config, "train", indices) for indices in ([0, 1, 2], [3, 4])]
        parts = [half.result() for half in halves]
    images, instances = _batch(config, "train", [0, 1, 2, 3, 4])
    assert np.array_equal(np.concatenate([part[0] for part in parts]), images)
    assert np.array_equal(np.concatenate([part[1] for part in parts]), instances)


def test_corruptions_leave_the_scene_as_it_is() -> None:
    plain, noise, grid = (
        SpritesConfig(background=name).build().batch("test", range(300)) for name in ("plain", "noise", "grid")
    )
    assert torch.equal(plain.instances, noise.instances)
    assert torch.equal(plain.instances, grid.instances)
    unclipped = 0.8 * plain.images + 0.1
    assert abs(float((noise.images - unclipped).abs().median()) - 0.6745 * 0.2) < 0.035  # a tail is clipped at 0 and 1
    lines = grid.images[plain.counts == 0]
    levels = lines.unique()
    assert levels.tolist() == pytest.approx([0.0, 0.4])
    assert float((lines > 0).float().mean()) == pytest.approx(1 - 0.8**2, abs=1e-6)
    assert torch.equal(torch.maximum(grid.images, plain.images), grid.images)


def test_noise_is_normal() -> None:
    from objectwise.data.sprites import _normal

    values = _normal(np.random.Generator(np.random.PCG64(0)).random((10, 3000)))
    assert values.shape == (10, 9000)
    assert abs(float(values.mean())) < 0.01
    assert abs(float(values.std()) - 1) < 0.01
    assert abs(float((values.abs() < 1).float().mean()) - 0.6827) < 0.01


def test_impossible_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "MAX_TRIES", 5)
    with pytest.raises(UserError, match=r"9 sprites of at least 20 pixels do not fit into 24x24.*larger image_size"):
        SpritesConfig(counts=(9,), image_size=24, sprite_size=(20, 20)).build().batch("train", [0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sprite_size": (12, 60)}, "smallest <= largest <= 50"),
        ({"counts": ()}, "one or more numbers"),
        ({"counts": (-1,)}, "one or more numbers"),
        ({"sprite_sise": (3, 4)}, "did you mean 'sprite_size'"),
    ],
)
def test_bad_settings(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SpritesConfig.parse(values)


def test_unknown_split() -> None:
    with pytest.raises(UserError, match="no split 'valid'; there are train, val, test"):
        SpritesConfig().build().batch("valid", [0])
