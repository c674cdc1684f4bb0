"""The β-VAE family: layers and losses by the book, the two scales of β, capacity, and learning."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import objectwise
from objectwise.cli.train import experiment_from
from objectwise.core import DEFAULT_GROUP, UserError, check_model, is_batchwise, parameter_groups, save_weights
from objectwise.data.balls import BallsConfig
from objectwise.models import model_class
from objectwise.models.beta_vae import (
    BetaVAE,
    BetaVAEConfig,
    beta_from_norm,
    capacity_advice,
    converted_beta,
    norm_from_beta,
    shuffled_codes,
    total_correlation,
)
from objectwise.models.beta_vae_networks import SameConv2d, SameConvTranspose2d
from objectwise.recipes import recipe
from objectwise.recipes.runs import train

ARCHITECTURES = ("fc", "conv", "all_conv", "paper_fc", "conv64", "burgess")
OBJECTIVES = ("beta", "capacity", "tcvae", "factor")


def small(**settings: Any) -> BetaVAE:
    """The recreation's small convolutional network on small images, with weights of ordinary size."""
    torch.manual_seed(0)
    model = BetaVAE(BetaVAEConfig(**{"image_shape": (1, 8, 12), "architecture": "conv", "latent_size": 4, **settings}))
    with torch.no_grad():
        for layer in [*model.encoder.modules(), *model.decoder.modules()]:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
    return model


def pictures(count: int = 3, shape: tuple[int, int, int] = (1, 8, 12), seed: int = 1) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("decoder", ["mirrored", "broadcast"])
def test_keeps_the_contract(objective: str, decoder: str) -> None:
    check_model(small(objective=objective, decoder=decoder, broadcast_widths=(6, 5)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_keeps_the_contract(architecture: str) -> None:
    """With the initial weights of its source, on colour images that are not square."""
    torch.manual_seed(0)
    check_model(BetaVAE(BetaVAEConfig(image_shape=(3, 16, 32), architecture=architecture)))


def test_per_image_capacity_keeps_the_contract() -> None:
    model = small(objective="capacity", capacity_per="image")
    assert not is_batchwise(model)
    check_model(model)
    batchwise = {objective: is_batchwise(small(objective=objective)) for objective in OBJECTIVES}
    assert batchwise == {"beta": False, "capacity": True, "tcvae": True, "factor": True}


# -- architectures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "side", "count"),
    [
        ("fc", 32, 6_820_644),
        ("conv", 32, 80_965),
        ("all_conv", 32, 7_371),
        ("paper_fc", 64, 14_196_516),
        ("burgess", 64, 502_005),
    ],
)
def test_parameter_counts_are_the_published_ones(architecture: str, side: int, count: int) -> None:
    model = BetaVAE(BetaVAEConfig(image_shape=(1, side, side), architecture=architecture))
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert model.config.latents == {"conv": 32, "all_conv": 16}.get(architecture, 10)
    assert isinstance(model.encoder, nn.Sequential)
    activations = {type(layer) for layer in [*model.encoder, *model.decoder.modules()]}
    kinds = activations & {nn.ELU, nn.ReLU, nn.Tanh}
    assert kinds == {"paper_fc": {nn.ReLU, nn.Tanh}, "burgess": {nn.ReLU}}.get(architecture, {nn.ELU})


def test_conv64_by_hand() -> None:
    """32-32-64-64 maps of 4×4 convolutions and 256: biases and weights counted layer by layer."""
    maps, dense = [1, 32, 32, 64, 64], [4 * 4 * 64, 256, 20]
    encoder = sum(16 * a * b + b for a, b in itertools.pairwise(maps))
    encoder += sum(a * b + b for a, b in itertools.pairwise(dense))
    decoder = (10 * 256 + 256) + (256 * 1024 + 1024) + sum(16 * a * b + a for a, b in itertools.pairwise(maps))
    model = BetaVAE(BetaVAEConfig(image_shape=(1, 64, 64), architecture="conv64"))
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder + decoder


def test_same_padding_is_tensorflows() -> None:
    """Stride 2 on an even side: output i sees the inputs 2i, 2i + 1, 2i + 2, and a zero past the end."""
    torch.manual_seed(0)
    layer = SameConv2d(2, 3, 3, 2).double()
    images = torch.randn(1, 2, 6, 8, dtype=torch.float64)
    padded = np.zeros((2, 7, 9))
    padded[:, :6, :8] = images[0]
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()  # type: ignore[union-attr]
    expected = np.array(
        [
            [
                [(padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] * weight[c]).sum() + bias[c] for j in range(4)]
                for i in range(3)
            ]
            for c in range(3)
        ]
    )
    np.testing.assert_allclose(layer(images)[0].detach().numpy(), expected, atol=1e-12)


def test_same_transpose_equals_pytorchs_own() -> None:
    """The interleaved 2×2 convolution against the transposed convolution without its last row and column, with all gradients."""
    torch.manual_seed(0)
    layer = SameConvTranspose2d(3, 2, 3, 2).double()
    maps = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    sources = [maps, *layer.parameters()]
    found, expected = layer(maps), nn.ConvTranspose2d.forward(layer, maps)[..., :-1, :-1]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    towards = torch.randn_like(expected)
    pairs = zip(
        torch.autograd.grad(found, sources, towards), torch.autograd.grad(expected, sources, towards), strict=True
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_transposed_convolution_is_the_transpose() -> None:
    """⟨conv(x), y⟩ = ⟨x, convᵀ(y)⟩ for the same kernel."""
    torch.manual_seed(0)
    forth, back = SameConv2d(2, 3, 3, 2, bias=False), SameConvTranspose2d(3, 2, 3, 2, bias=False)
    back.weight = forth.weight
    x, y = torch.randn(2, 2, 6, 8), torch.randn(2, 3, 3, 4)
    assert back(y).shape == x.shape
    torch.testing.assert_close((forth(x) * y).sum(), (x * back(y)).sum())


@pytest.mark.parametrize(("architecture", "dense"), [("fc", 0.01), ("conv", 0.1), ("all_conv", None)])
def test_initial_weights_are_the_recreations(architecture: str, dense: float | None) -> None:
    torch.manual_seed(0)
    model = BetaVAE(BetaVAEConfig(image_shape=(1, 32, 32), architecture=architecture))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            std = dense if isinstance(layer, nn.Linear) else 0.01
            assert std is not None
            assert layer.bias is not None
            assert torch.equal(layer.bias, torch.full_like(layer.bias, std))
            assert layer.weight.abs().max() <= 2 * std
            if layer.weight.numel() > 1000:  # a normal cut at two standard deviations
                assert layer.weight.std().item() == pytest.approx(0.880 * std, rel=0.05)


@pytest.mark.parametrize("architecture", ["conv", "burgess"])
def test_scaled_weights_keep_the_size_of_signals(architecture: str) -> None:
    """Variance 1/fan-in: each layer alone gives unit noise back with a normal's σ cut at two, 0.88; biases zero."""
    torch.manual_seed(0)
    model = BetaVAE(BetaVAEConfig(image_shape=(1, 32, 32), architecture=architecture, init="scaled"))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            assert layer.bias is not None
            assert not layer.bias.any()
            if layer.weight.numel() > 500:
                size = (layer.in_features,) if isinstance(layer, nn.Linear) else (layer.in_channels, 24, 24)
                found = layer(torch.randn(300 if len(size) == 1 else 6, *size, generator=noise(1))).detach()
                inner = found if found.ndim == 2 else found[..., 3:-3, 3:-3]
                assert inner.std().item() == pytest.approx(0.88, rel=0.1), layer


def test_all_conv_codes_are_maps() -> None:
    """A number of the code changes the picture around its own cell and nowhere far from it."""
    torch.manual_seed(0)
    model = BetaVAE(BetaVAEConfig(image_shape=(1, 64, 64), architecture="all_conv", latent_size=128))
    slots = torch.zeros(1, 1, 128)
    before = model.decode(slots).reconstruction
    slots[0, 0, 64] = 3.0  # the first cell of the second map
    rows, columns = (model.decode(slots).reconstruction != before)[0, 0].nonzero(as_tuple=True)
    assert len(rows)
    assert max(int(rows.max()), int(columns.max())) < 32


# -- losses -------------------------------------------------------------------------------------------------------


def by_the_book(model: BetaVAE, images: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """Cross-entropy, KL per latent, and samples, in float64 and in the plainest way."""
    exact = copy.deepcopy(model).double()
    mean, log_variance = exact.encoder(images.double()).chunk(2, dim=1)
    std = torch.exp(log_variance / 2)
    code = mean + std * torch.randn(mean.shape, generator=noise(seed)).double()
    p = 1 / (1 + torch.exp(-exact.decoder(code)))
    x = images.double()
    error = -(x * torch.log(p) + (1 - x) * torch.log(1 - p)).sum(dim=(1, 2, 3))
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(mean, std), prior).sum(dim=1)
    return {"error": error, "kl": kl, "code": code, "mean": mean, "std": std, "picture": p}


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("architecture", ["conv", "burgess"])
def test_beta_loss_by_the_book(architecture: str) -> None:
    shape = (2, 16, 16)
    model, images = small(beta=3.5, architecture=architecture, image_shape=shape), pictures(4, shape)
    found, book = model(images, generator=noise()), by_the_book(model, images, 3)
    close(found.loss, book["error"] + 3.5 * book["kl"])
    close(found.terms["kl"], book["kl"])
    close(found.terms["elbo"], -book["error"] - book["kl"])
    close(found.terms["log_likelihood"], -book["error"])
    floor = -(images * images.log() + (1 - images) * (1 - images).log()).sum(dim=(1, 2, 3)).double()
    close(found.terms["excess_nats"], book["error"] - floor)
    close(found.reconstruction, book["picture"])
    close(found.slots.squeeze(1), book["code"])
    assert found.posterior is not None
    close(found.posterior.mean.squeeze(1), book["mean"])
    close(found.posterior.std.squeeze(1), book["std"])


def test_no_beta_is_a_vae_and_zero_an_autoencoder() -> None:
    images = pictures()
    plain, none = small()(images, generator=noise()), small(beta=0.0)(images, generator=noise())
    close(plain.loss, -plain.terms["elbo"].double())
    close(none.loss, -none.terms["log_likelihood"].double())


def test_kl_is_exact_where_the_posterior_is_almost_a_point() -> None:
    """No logarithm of a standard deviation that float32 cannot hold."""
    model = small()
    assert isinstance(model.encoder[-1], nn.Linear)
    with torch.no_grad():
        model.encoder[-1].weight.zero_()
        model.encoder[-1].bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0, -300.0, 0.0, 0.0, 2.0]))
    kl = model(pictures()).terms["kl"]
    torch.testing.assert_close(kl, torch.full((3,), 0.5 * (300 - 1 + 1 + math.exp(2) - 2 - 1)))


@pytest.mark.parametrize("per", ["batch", "image"])
def test_capacity_loss_by_the_book(per: str) -> None:
    model = small(objective="capacity", gamma=7.0, capacity=4.0, capacity_steps=200, capacity_per=per)
    images = pictures(5)
    book = by_the_book(model, images, 3)
    for step, aim in ((0, 0.0), (50, 1.0), (200, 4.0), (900, 4.0), (None, 4.0)):
        found = model(images, generator=noise(), step=step)
        held = book["kl"].mean() if per == "batch" else book["kl"]
        close(found.loss, book["error"] + 7.0 * (held - aim).abs())
        assert found.terms["capacity"].tolist() == [aim] * 5
    assert small(objective="capacity").config.gamma_weight == 1000.0


def test_tcvae_loss_by_the_book() -> None:
    """Log q(z) as the mixture of the batch's posteriors, by loops."""
    model, images = small(objective="tcvae", beta=6.0), pictures(5)
    found, book = model(images, generator=noise()), by_the_book(model, images, 3)
    z, mean, std = (book[name].detach().numpy() for name in ("code", "mean", "std"))

    def density(i: int, j: int, d: int) -> float:
        return float(np.exp(-0.5 * ((z[i, d] - mean[j, d]) / std[j, d]) ** 2) / (std[j, d] * math.sqrt(2 * math.pi)))

    correlation = []
    for i in range(5):
        joint = sum(math.prod(density(i, j, d) for d in range(4)) for j in range(5)) / 5
        marginals = [sum(density(i, j, d) for j in range(5)) / 5 for d in range(4)]
        correlation.append(math.log(joint) - sum(map(math.log, marginals)))
    close(found.terms["total_correlation"], torch.tensor(correlation, dtype=torch.float64))
    close(found.loss, book["error"] + book["kl"] + 5.0 * torch.tensor(correlation, dtype=torch.float64))


def test_total_correlation_of_gaussians() -> None:
    """−½ log(1 − ρ²) for two correlated latents, nothing for independent ones."""
    for rho in (0.0, 0.9):
        draws = torch.randn(3000, 2, generator=noise(5))
        mean = torch.stack([draws[:, 0], rho * draws[:, 0] + math.sqrt(1 - rho**2) * draws[:, 1]], dim=1)
        std = 0.3
        code = mean + std * torch.randn(3000, 2, generator=noise(6))
        found = total_correlation(code, mean, torch.full_like(mean, 2 * math.log(std))).mean().item()
        seen = rho / (1 + std**2)
        assert found == pytest.approx(-0.5 * math.log(1 - seen**2), abs=0.05)


def test_factor_loss_by_the_book() -> None:
    model, images = small(objective="factor", gamma=3.0), pictures(5)
    found, book = model(images, generator=noise()), by_the_book(model, images, 3)
    assert model.discriminator is not None
    judge = copy.deepcopy(model.discriminator).double()
    chance = 1 / (1 + torch.exp(-judge(book["code"]).squeeze(1)))
    close(found.loss, book["error"] + book["kl"] + 3.0 * (chance / (1 - chance)).log())
    close(found.terms["total_correlation"], (chance / (1 - chance)).log())
    after = noise()
    torch.randn(5, 4, generator=after)
    mixed = torch.stack([book["code"][row, range(4)] for row in torch.rand(5, 4, generator=after).argsort(dim=0)])
    other = 1 / (1 + torch.exp(-judge(mixed).squeeze(1)))
    close(found.auxiliary_losses["discriminator"], -0.5 * (chance.log() + (1 - other).log()))


def test_the_discriminator_learns_alone() -> None:
    model = small(objective="factor")
    assert model.discriminator is not None
    groups = parameter_groups(model)
    assert set(groups) == {"discriminator", DEFAULT_GROUP}
    assert {id(p) for p in groups["discriminator"]} == {id(p) for p in model.discriminator.parameters()}
    linear = [layer for layer in model.discriminator if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [1000] * 6 + [1]
    out = model(pictures(), generator=noise())
    found = torch.autograd.grad(
        out.auxiliary_losses["discriminator"].sum(), list(model.encoder.parameters()), allow_unused=True
    )
    assert all(gradient is None for gradient in found)


@pytest.mark.parametrize("generator", [None, noise()])
def test_shuffling_keeps_each_latent_and_breaks_their_bond(generator: torch.Generator | None) -> None:
    code = torch.randn(400, 1, generator=noise(1)) + torch.tensor([[0.0, 10.0, 20.0]])
    mixed = shuffled_codes(code, generator)
    assert torch.equal(mixed.sort(dim=0).values, code.sort(dim=0).values)
    assert torch.corrcoef(code.T).min() > 0.99
    assert (torch.corrcoef(mixed.T) - torch.eye(3)).abs().max() < 0.2


def test_evaluation_uses_the_last_capacity_and_the_means() -> None:
    model = small(objective="capacity", capacity=9.0)
    found = model.decompose(pictures())
    assert found.posterior is not None
    assert torch.equal(found.slots, found.posterior.mean)
    assert found.terms["capacity"].tolist() == [9.0] * 3
    shown = model.decode(found.slots)
    torch.testing.assert_close(shown.reconstruction, found.reconstruction)
    assert torch.equal(model.decode(found.slots, torch.zeros(3, 1)).reconstruction, torch.zeros(3, 1, 8, 12))
    assert found.masks.unique().tolist() == [1.0]
    assert found.background == ()


# -- two scales of one weight -------------------------------------------------------------------------------------


def test_beta_and_beta_norm() -> None:
    """The paper's 2D shapes: 4 · 10 / 4096; the recreation: 10 / 1024, 32 / 1024, 16 / 1024 at β = 1."""
    assert norm_from_beta(4.0, 10, 4096) == pytest.approx(0.0098, abs=5e-5)
    for architecture, expected in (("fc", 0.00977), ("conv", 0.03125), ("all_conv", 0.015625)):
        config = BetaVAEConfig(image_shape=(1, 32, 32), architecture=architecture, beta=1.0)
        assert config.kl_weight_norm == pytest.approx(expected, rel=1e-3)
        again = config.replaced(beta_norm=config.kl_weight_norm)
        assert again.beta is None
        assert again.kl_weight == pytest.approx(1.0)
        assert again.described() == config.described()
        assert "beta = 1, beta_norm = 0.0" in config.described()
    assert beta_from_norm(norm_from_beta(0.3, 7, 11), 7, 11) == pytest.approx(0.3)
    images = pictures()
    one, two = (small(**given)(images, generator=noise()) for given in ({"beta": 4.8}, {"beta_norm": 4.8 * 4 / 96}))
    torch.testing.assert_close(one.loss, two.loss)
    assert "gamma = 10" in BetaVAEConfig(image_shape=(1, 8, 8), objective="factor").described()
    assert "C from 0 to 25" in BetaVAEConfig(image_shape=(1, 8, 8), objective="capacity").described()


@pytest.mark.parametrize(
    ("convention", "loss"),
    [
        ({}, lambda bce, kl, se: bce + 0.7 * kl),
        ({"reconstruction": "mean"}, lambda bce, kl, se: bce / 96 + 0.7 * kl),
        ({"reconstruction": "mean", "kl": "mean"}, lambda bce, kl, se: bce / 96 + 0.7 * kl / 4),
        ({"kl": "mean"}, lambda bce, kl, se: bce + 0.7 * kl / 4),
        ({"squared_error_std": 0.3}, lambda bce, kl, se: se + 0.7 * kl),
        ({"squared_error_std": 0.3, "reconstruction": "mean"}, lambda bce, kl, se: se / 96 + 0.7 * kl),
    ],
    ids=["sums", "mean error", "means", "mean kl", "squares", "mean squares"],
)
def test_other_projects_weights(convention: dict[str, Any], loss: Any) -> None:
    """Their loss is ours with the converted β, times a constant (plus one, for the Gaussian's normaliser)."""
    beta = converted_beta(0.7, latents=4, pixels=96, **convention)
    random = np.random.default_rng(0)
    parts = random.uniform(1, 50, (5, 3))  # cross-entropy, KL, squared error of five models
    theirs = np.array([loss(*row) for row in parts])
    nats = parts[:, 2] / (2 * 0.3**2) if "squared_error_std" in convention else parts[:, 0]
    ours = nats + beta * parts[:, 1]
    np.testing.assert_allclose(theirs[1:] / theirs[0], ours[1:] / ours[0])
    if convention == {"reconstruction": "mean", "kl": "mean"}:
        assert norm_from_beta(beta, 4, 96) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"beta": 1.0, "beta_norm": 0.01}, "both given"),
        ({"objective": "factor", "beta": 4.0}, "has no beta"),
        ({"objective": "capacity", "beta_norm": 0.1}, "has no beta"),
        ({"gamma": 5.0}, "has no gamma"),
        ({"broadcast_widths": []}, "broadcast_widths"),
        ({"architecture": "conv", "image_shape": (1, 32, 30)}, "multiples of 4, not 32x30"),
        ({"architecture": "burgess", "image_shape": (1, 50, 64)}, "multiples of 16"),
        ({"architecture": "all_conv", "image_shape": (1, 32, 32), "latent_size": 10}, "16 cells"),
        ({"beta": -1.0}, "greater than or equal to 0"),
    ],
)
def test_impossible_settings(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        BetaVAEConfig.parse(values)
    with pytest.raises(UserError, match="image_shape"):
        BetaVAE(BetaVAEConfig())


def test_flags_take_each_others_place() -> None:
    base = experiment_from(["beta-vae-balls"])
    assert (base.model.beta, base.model.beta_norm) == (8.0, None)  # type: ignore[attr-defined]
    normed = experiment_from(["beta-vae-balls", "--model.beta-norm", "0.02", "--training.max-steps", "7"])
    assert (normed.model.beta, normed.model.beta_norm) == (None, 0.02)  # type: ignore[attr-defined]
    assert normed.training.max_steps == 7
    plain = experiment_from(["beta-vae-dsprites", "--preset=paper", "--model.beta=2"])
    assert (plain.model.beta, plain.model.beta_norm) == (2.0, None)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="both given"):
        experiment_from(["beta-vae-balls", "--model.beta-norm", "0.02", "--model.beta", "3"])


# -- capacity that buys nothing -----------------------------------------------------------------------------------


def run_of(per_nat: float, useful: float = 1e9, share: float = 1.0) -> tuple[list[float], list[float], list[float]]:
    """C from 0 to 25; the KL follows a share of it, and each nat buys ``per_nat`` nats up to ``useful`` of them."""
    aims = np.linspace(0, 25, 60)
    kl = share * aims + 0.05 * np.sin(np.arange(60))
    return aims.tolist(), kl.tolist(), (100 - per_nat * np.minimum(kl, useful)).tolist()


def test_a_pinned_kl_is_told() -> None:
    advice = capacity_advice(*run_of(per_nat=5.0, useful=8.0))
    assert advice is not None
    assert "pinned at C = 25" in advice
    assert "0.00 nats" in advice
    assert capacity_advice(*run_of(per_nat=5.0)) is None
    assert capacity_advice(*run_of(per_nat=1.0)) is None
    told = capacity_advice(*run_of(per_nat=0.3))
    assert told is not None
    assert "0.30 nats" in told


def test_a_collapsed_or_freely_falling_kl_is_told_apart() -> None:
    advice = capacity_advice(*run_of(per_nat=5.0, share=0.01))
    assert advice is not None
    assert "says nothing" in advice
    assert capacity_advice(*run_of(per_nat=0.0, share=0.6)) is None  # not held at C
    with pytest.raises(UserError, match="at least 8"):
        capacity_advice([1.0] * 7, [1.0] * 7, [1.0] * 7)


# -- recipes, weights, learning -----------------------------------------------------------------------------------


def test_recipes_and_table(tmp_path: Path) -> None:
    assert model_class("beta_vae") is BetaVAE
    for preset, architecture, rate in (("faithful", "fc", 5e-5), ("faithful", "conv", 1e-3), ("corrected", "fc", 1e-3)):
        from objectwise.recipes.beta_vae import beta_vae_balls

        experiment = beta_vae_balls(preset, architecture=architecture, balls=2)  # type: ignore[arg-type]
        assert experiment.training.learning_rate == rate
        assert experiment.training.batch_size == (128 if preset == "faithful" else 64)
        assert experiment.data.mode == preset  # type: ignore[attr-defined]
        resolved = experiment.resolved(experiment.build_data())
        assert isinstance(resolved.build_model(), BetaVAE)
    assert recipe("beta-vae-balls").model.architecture == "conv64"  # type: ignore[attr-defined]
    assert recipe("beta-vae-balls", preset="faithful").model.architecture == "fc"  # type: ignore[attr-defined]
    paper = recipe("beta-vae-dsprites", preset="paper")
    assert (paper.training.optimizer, paper.training.learning_rate) == ("adagrad", 1e-2)
    assert paper.model.architecture == "paper_fc"  # type: ignore[attr-defined]
    assert recipe("beta-vae-dsprites").model.beta == 4.0  # type: ignore[attr-defined]
    assert recipe("beta-vae", "dsprites").data_name == "dsprites"
    with pytest.raises(UserError, match="did you mean 'faithful'"):
        recipe("beta-vae-balls", preset="faithfull")
    model = small(beta_norm=0.03)
    save_weights(model, "beta_vae", tmp_path)
    torch.testing.assert_close(objectwise.load(tmp_path).decompose(pictures()).loss, model.decompose(pictures()).loss)


def test_training_says_both_scales(tmp_path: Path) -> None:
    base = recipe("beta-vae-balls", preset="faithful")
    model = base.model.replaced(beta_norm=0.02, architecture="conv", latent_size=10)
    told: list[str] = []
    (tmp_path / "there").touch()
    with pytest.raises(UserError, match="exists"):  # so that nothing is trained
        train(base.replaced(out=tmp_path, model=model), progress=False, told=told.append)
    assert told == ["beta = 2.048, beta_norm = 0.02 (10 latents, 1024 pixels)"]


def trained(steps: int, rate: float = 1e-3, **settings: Any) -> tuple[BetaVAE, Any]:
    """A model that has seen balls on 16×16 pixels."""
    torch.manual_seed(0)
    data = BallsConfig(image_size=16).build()
    sizes = {"image_shape": (1, 16, 16), "latent_size": 5, "init": "scaled"}
    model = BetaVAE(BetaVAEConfig(**{**sizes, **settings}))
    optimiser = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    for step in range(steps):
        images = data.batch("train", range(32 * step, 32 * step + 32)).images
        loss = model(images, generator=torch.Generator().manual_seed(step), step=step).loss.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model, data.batch("test", range(200))


def test_learns_where_the_ball_is() -> None:
    """From its code alone each ball is drawn in its place; the error is far below that of the mean picture."""
    model, held_out = trained(180, architecture="fc")
    found = model.decompose(held_out.images)
    blind = held_out.images.mean(dim=0, keepdim=True).expand_as(held_out.images).clamp(1e-6, 1 - 1e-6)
    error = nn.functional.binary_cross_entropy(blind, held_out.images, reduction="none").flatten(1).sum(dim=1)
    floor = -found.terms["log_likelihood"] - found.terms["excess_nats"]
    assert found.terms["excess_nats"].mean() < 0.4 * (error - floor).mean()
    drawn, pixels = found.reconstruction[:, 0], (torch.arange(16) + 0.5) * 10 / 16
    for name, axis in (("x", 2), ("y", 1)):
        weights = drawn.sum(dim=3 - axis)
        middle = (weights * pixels).sum(dim=1) / weights.sum(dim=1)
        assert torch.corrcoef(torch.stack([middle, held_out.factors[name][:, 1]]))[0, 1] > 0.95, name
    assert found.terms["kl"].mean() > 2.0


def test_a_heavy_kl_silences_the_code() -> None:
    model, held_out = trained(60, architecture="burgess", beta=300.0)
    assert model.decompose(held_out.images).terms["kl"].mean() < 0.05


def test_capacity_holds_the_kl() -> None:
    """Also in a short run: the KL is where γ pushes it."""
    model, held_out = trained(
        150, 2e-3, architecture="burgess", objective="capacity", gamma=100.0, capacity=3.0, capacity_steps=60
    )
    assert model.decompose(held_out.images).terms["kl"].mean().item() == pytest.approx(3.0, abs=1.0)
