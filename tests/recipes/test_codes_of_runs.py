"""Codes kept with a run, and what latents show: read where they fit, encoded anew where weights or data changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from objectwise.core import UserError, save_weights
from objectwise.data.balls import BallsConfig
from objectwise.data.dsprites import DspritesConfig
from objectwise.models.beta_vae import BetaVAE, BetaVAEConfig
from objectwise.models.monet import MONet, MONetConfig
from objectwise.recipes import codes as room
from objectwise.recipes.codes import Codes, cached_codes, codes_path, encoded, keep_codes
from objectwise.recipes.latents import Latents, has_one_code, latents_of, sampled_terms, traversals
from objectwise.studies.shapes_of_codes import (
    combinations,
    grid_codes,
    grid_pixels,
    held_out_positions,
    mean_response,
    position_errors,
)

DATA = BallsConfig(image_size=16, eval_size=300)


def made(seed: int = 0, **settings: Any) -> BetaVAE:
    torch.manual_seed(seed)
    sizes = {"image_shape": (1, 16, 16), "architecture": "conv", "latent_size": 4, "init": "scaled"}
    return BetaVAE(BetaVAEConfig(**{**sizes, **settings})).eval()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the weights of ``made()``."""
    save_weights(made(), "beta_vae", tmp_path / "run" / "model")
    return tmp_path / "run"


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for every time that images are really encoded."""
    told: list[str] = []

    def spied(model: Any, dataset: Any, split: str, indices: np.ndarray, **more: Any) -> Codes:
        told.append(f"{split} {len(indices)}")
        return encoded(model, dataset, split, indices, **more)

    monkeypatch.setattr(room, "encoded", spied)
    return told


def test_codes_are_the_posteriors_in_order_beside_their_factors() -> None:
    model, dataset = made(), DATA.build()
    found = encoded(model, dataset, "test", np.arange(70), batch_size=32)
    batch = dataset.batch("test", range(70))
    posterior = model.decompose(batch.images).posterior
    assert posterior is not None
    np.testing.assert_allclose(found.means, posterior.mean[:, 0], atol=1e-5)
    np.testing.assert_allclose(found.stds, posterior.std[:, 0], atol=1e-5)
    assert found.names == ("x", "y")
    assert batch.factors is not None
    np.testing.assert_array_equal(found.values["y"], batch.factors["y"][:, 1])
    assert found.factors.shape == (70, 2)
    # 70 different numbers are put into 20 bins over the range of the factor, not of the sample.
    np.testing.assert_array_equal(found.factors[:, 0], np.clip(found.values["x"] * 2.0, 0, 19).astype(int))


def test_codes_are_encoded_once(run: Path, encodings: list[str]) -> None:
    first = cached_codes(run, made(), DATA.build(), "test", limit=50)
    assert codes_path(run, "test", 50).is_file()
    second = cached_codes(run, made(), DATA.build(), "test", limit=50)
    assert encodings == ["test 50"]
    for name in ("means", "stds", "factors"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert second.names == ("x", "y")
    np.testing.assert_array_equal(first.values["x"], second.values["x"])
    assert cached_codes(run, made(), DATA.build(), "test", limit=40).means.shape == (40, 4)
    cached_codes(run, made(), DATA.build(), "val", limit=50)
    assert len(cached_codes(run, made(), DATA.build(), "test").means) == 300  # no limit: all
    assert encodings == ["test 50", "test 40", "val 50", "test 300"]


def test_codes_of_other_weights_or_data_are_not_taken(run: Path, encodings: list[str]) -> None:
    before = cached_codes(run, made(), DATA.build(), "test", limit=50)
    save_weights(made(1), "beta_vae", run / "model")
    after = cached_codes(run, made(1), DATA.build(), "test", limit=50)
    assert np.abs(before.means - after.means).max() > 0.1
    other = cached_codes(run, made(1), DATA.replaced(seed=1).build(), "test", limit=50)
    assert np.abs(other.values["x"] - after.values["x"]).max() > 1.0
    assert encodings == ["test 50"] * 3


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive", None])
def test_a_damaged_file_of_codes_is_replaced(run: Path, encodings: list[str], damage: bytes | None) -> None:
    before = cached_codes(run, made(), DATA.build(), "test", limit=30)
    path = codes_path(run, "test", 30)
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    after = cached_codes(run, made(), DATA.build(), "test", limit=30)
    np.testing.assert_array_equal(before.means, after.means)
    cached_codes(run, made(), DATA.build(), "test", limit=30)
    assert encodings == ["test 30"] * 2


def test_a_run_that_cannot_be_written_is_encoded_each_time(run: Path, encodings: list[str]) -> None:
    (run / "codes").write_text("in the way")
    for _ in range(2):
        assert len(cached_codes(run, made(), DATA.build(), "test", limit=20).means) == 20
    assert encodings == ["test 20"] * 2
    codes = encoded(made(), DATA.build(), "test", np.arange(20))
    assert keep_codes(run, DATA.build(), "test", codes) is None


def test_several_slots_have_no_code_of_the_image() -> None:
    model = MONet(MONetConfig(image_shape=(1, 16, 16), num_slots=2, unet_width=4, unet_blocks=2, encoder_widths=(4, 4)))
    with pytest.raises(UserError, match="models with one slot, not 2"):
        encoded(model, DATA.build(), "test", np.arange(2))
    assert not has_one_code(model, DATA.build().batch("test", [0]).images)
    assert has_one_code(made(), DATA.build().batch("test", [0]).images)


# -- latents ----------------------------------------------------------------------------------------------------------


def test_latents_tell_spread_divergence_and_which_are_dead() -> None:
    means = np.stack([np.linspace(-2.0, 2.0, 9), np.zeros(9)], axis=1)
    stds = np.tile([0.5, 1.0], (9, 1))
    found = Latents(means, stds)
    np.testing.assert_allclose(found.spread, [0.5, 1.0])
    expected = 0.5 * (np.mean(means[:, 0] ** 2) + 0.25 - 1.0 - np.log(0.25))
    np.testing.assert_allclose(found.kl, [expected, 0.0], atol=1e-12)
    assert found.dead == [1]


def test_latents_of_the_first_images() -> None:
    model, dataset = made(), DATA.build()
    found = latents_of(model, dataset, "test", 40)
    kept = encoded(model, dataset, "test", np.arange(40))
    np.testing.assert_allclose(found.means, kept.means, atol=1e-6)
    np.testing.assert_allclose(found.stds, kept.stds, atol=1e-6)
    assert len(latents_of(model, dataset, "test", 10_000).means) == 300


def test_a_traversal_moves_one_latent_at_a_time() -> None:
    model, code = made(), torch.tensor([0.3, -0.2, 0.1, 0.7])
    found = traversals(model, code, (-3.0, 3.0))
    assert found.shape == (4, 2, 1, 16, 16)
    for latent in range(4):
        for place, value in enumerate((-3.0, 3.0)):
            moved = code.clone()
            moved[latent] = value
            with torch.no_grad():
                wanted = model.decode(moved.view(1, 1, 4)).reconstruction[0]
            np.testing.assert_allclose(found[latent, place], wanted, atol=1e-5)


def test_terms_with_sampled_codes_are_worse_than_at_means_and_repeat() -> None:
    model, dataset = made(), DATA.build()
    sampled = sampled_terms(model, dataset, "test", 290)
    assert sampled == sampled_terms(model, dataset, "test", 290)
    assert sampled != sampled_terms(model, dataset, "test", 290, seed=1)
    images = dataset.batch("test", range(290)).images
    at_means = model.decompose(images)
    assert sampled["kl"] == pytest.approx(float(at_means.terms["kl"].mean()), rel=1e-5)
    assert sampled["excess_nats"] > float(at_means.terms["excess_nats"].mean()) + 0.5


# -- grids of dSprites ------------------------------------------------------------------------------------------------


class Oracle:
    """A model whose code is the centroid of the image and how much of it is lit; its error is the centroid's column."""

    def __call__(self, images: torch.Tensor) -> Any:
        side = images.shape[-1]
        place = (torch.arange(side) + 0.5) / side
        mass = images.sum(dim=(1, 2, 3))
        x = (images.sum(dim=(1, 2)) @ place) / mass
        y = (images.sum(dim=(1, 3)) @ place) / mass
        codes = torch.stack([x, y, mass / 1000.0], dim=1)
        return SimpleNamespace(
            posterior=(codes[:, None], 0.1 * torch.ones_like(codes)[:, None]), terms={"excess_nats": x}
        )


def test_mean_responses_follow_position_and_scale() -> None:
    dataset = DspritesConfig().build()
    factors = combinations((0, 1), (5,), (0,), (3, 9), (4,))
    np.testing.assert_array_equal(factors[:, [0, 3]], [[0, 3], [0, 9], [1, 3], [1, 9]])
    assert grid_pixels(dataset, factors).shape == (4, 4096)
    assert grid_codes(Oracle(), dataset, factors).stds.max() == pytest.approx(0.1)
    found = mean_response(Oracle(), dataset)
    assert found.position.shape == (3, 16, 16)
    # Columns are x and rows y, each from 1/4 to 3/4 of the side.
    assert np.ptp(found.position[0], axis=0).max() < 0.01
    assert np.ptp(found.position[1], axis=1).max() < 0.01
    np.testing.assert_allclose(found.position[0][0], 0.25 + 0.5 * np.arange(0, 32, 2) / 31, atol=0.01)
    np.testing.assert_allclose(found.position[1][:, 0], 0.25 + 0.5 * np.arange(0, 32, 2) / 31, atol=0.01)
    assert set(found.curves) == {"scale", "rotation"}
    values, square = found.curves["scale"]["square"]
    np.testing.assert_allclose(values, np.linspace(0.5, 1.0, 6))
    np.testing.assert_allclose(square[2], (square[2, 0] / 0.25) * values**2, rtol=0.06)  # area by scale squared
    angles, turned = found.curves["rotation"]["heart"]
    assert angles[-1] == pytest.approx(2.0 * np.pi)
    assert turned.shape == (3, 40)
    assert turned[2, 0] == turned[2, -1]


def test_errors_by_position_have_rows_of_y_and_the_held_out_corner() -> None:
    dataset = DspritesConfig(held_out="corner", image_size=16).build()
    errors = position_errors(Oracle(), dataset)
    assert errors.shape == (16, 16)
    assert (np.diff(errors.mean(axis=0)) > 0.02).all()
    assert np.ptp(errors, axis=0).max() < 0.02
    held = held_out_positions(dataset)
    # A third of 32 values is 11, from index 21 on: of every other position those from the eleventh on.
    np.testing.assert_array_equal(held, np.outer(np.arange(16) >= 11, np.arange(16) >= 11))
    assert not held_out_positions(DspritesConfig(image_size=16).build()).any()
