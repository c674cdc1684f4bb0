from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from objectwise.core import UserError, check_model
from objectwise.models import model_class
from objectwise.models.vae import VAE, VAEConfig
from objectwise.recipes import recipe
from objectwise.training.config import TrainingConfig


def small(shape: tuple[int, int, int] = (1, 12, 13)) -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(image_shape=shape, latent_size=6, channels=16, hidden_size=32))


@pytest.mark.parametrize("shape", [(1, 12, 13), (3, 16, 16), (1, 50, 50)])
def test_keeps_the_contract(shape: tuple[int, int, int]) -> None:
    check_model(small(shape), torch.rand(3, *shape, generator=torch.Generator().manual_seed(1)))


def test_one_present_slot_owns_every_pixel() -> None:
    found = small().decompose(torch.rand(2, 1, 12, 13))
    assert found.slots.shape == (2, 1, 6)
    assert found.background == ()
    assert torch.equal(found.presence, torch.ones(2, 1))
    assert torch.equal(found.masks, torch.ones(2, 1, 12, 13))
    assert found.posterior is not None
    assert torch.equal(found.slots, found.posterior.mean)


def test_bound_by_the_book() -> None:
    """-loss = log N(x; Dec(z), σ²) − KL, transcribed in float64."""
    model = small()
    images = torch.rand(3, 1, 12, 13, generator=torch.Generator().manual_seed(2))
    found = model(images, generator=torch.Generator().manual_seed(3))
    assert found.posterior is not None
    mean, std = (part.double() for part in found.posterior)
    noise = torch.randn(3, 6, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found.slots.double(), mean + std * noise.unsqueeze(1), rtol=1e-5, atol=1e-5)
    x, y = images.double().numpy(), found.reconstruction.detach().double().numpy()
    log_likelihood = -0.5 * (((x - y) / 0.3) ** 2 + math.log(2 * math.pi * 0.3**2)).sum(axis=(1, 2, 3))
    kl = -torch.distributions.Normal(mean, std).entropy() + 0.5 * (mean**2 + std**2 + math.log(2 * math.pi))
    expected = log_likelihood - kl.sum(dim=(1, 2)).detach().numpy()
    np.testing.assert_allclose(-found.loss.detach().numpy(), expected, rtol=1e-5)


def squares(count: int, seed: int) -> torch.Tensor:
    """(count, 1, 12, 12): a bright 5×5 square anywhere on black."""
    corners = torch.randint(0, 8, (count, 2), generator=torch.Generator().manual_seed(seed))
    rows, columns = torch.arange(12).view(1, 12, 1), torch.arange(12).view(1, 1, 12)
    top, left = (corner.view(-1, 1, 1) for corner in corners.unbind(dim=1))
    return ((rows >= top) & (rows < top + 5) & (columns >= left) & (columns < left + 5)).float().unsqueeze(1)


def test_learns_where_a_square_is() -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig(image_shape=(1, 12, 12), channels=16, hidden_size=64, likelihood_std=0.2))
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(250):
        loss = model(squares(64, step), generator=torch.Generator().manual_seed(step)).loss.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    held_out = squares(64, 10_000)
    error = (model.decompose(held_out).reconstruction - held_out).square().mean()
    # The mean image is what a code that says nothing would give.
    blind = (held_out.mean(dim=0) - held_out).square().mean()
    assert error < 0.5 * blind
    assert model(held_out).terms["kl"].mean() > 3.0


def test_recipe_and_table() -> None:
    assert model_class("vae") is VAE
    experiment = recipe("vae-digits")
    data = experiment.build_data()
    resolved = experiment.resolved(data)
    assert isinstance(resolved.build_model(), VAE)
    assert resolved.model.image_shape == (1, 50, 50)
    assert isinstance(recipe("vae", "sprites").training, TrainingConfig)


def test_needs_a_shape() -> None:
    with pytest.raises(UserError, match="image_shape"):
        VAE(VAEConfig())
