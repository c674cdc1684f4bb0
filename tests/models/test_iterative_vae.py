from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from objectwise.core import UserError, check_model, fixed_normals
from objectwise.models.iterative_vae import (
    Estimate,
    IterativeVAE,
    IterativeVAEConfig,
    encoded_gradient,
    importance_log_likelihood,
)
from objectwise.recipes import recipe
from objectwise.recipes.iterative_vae import STANDARD

SHAPE = (1, 6, 5)
SMALL: dict[str, Any] = {"image_shape": SHAPE, "latent_size": 4, "widths": (16, 12), "samples": 3, "iterations": 3}


def small(**changes: Any) -> IterativeVAE:
    torch.manual_seed(0)
    return IterativeVAE(IterativeVAEConfig(**{**SMALL, **changes}))


def pictures(count: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def run(model: IterativeVAE, images: torch.Tensor, **rest: Any) -> Any:
    return model(images, generator=torch.Generator().manual_seed(3), **rest)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"update": "additive", "decoder_learns": "all"},
        {"update": "direct", "highway": False, "activation": "relu"},
        {"gradient_encoding": "layer_norm", "weights": "linspace"},
        {"gradient_encoding": "batch_norm", "encode_data": False},
        {"gradient_encoding": "raw", "weights": "last"},
        {"gradient_encoding": "log", "encode_estimate": False},
        dict(STANDARD),
    ],
)
def test_keeps_the_contract(changes: dict[str, Any]) -> None:
    check_model(small(**changes), pictures(4))


class ByTheBook:
    """The equations in float64, an iteration at a time, for the gated update with log-and-sign gradients and highway layers."""

    def __init__(self, model: IterativeVAE) -> None:
        self.w = {name: value.detach().double().clone().requires_grad_() for name, value in model.named_parameters()}

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.elu(self.linear("decoder.0", z))
        hidden = torch.nn.functional.elu(self.linear("decoder.2", hidden))
        return self.linear("decoder.4", hidden).sigmoid()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (0, 1):
            name = f"inference.features.{layer}"
            gate = self.linear(f"{name}.gate", x).sigmoid()
            x = gate * self.linear(f"{name}.through", x) + (1 - gate) * torch.nn.functional.elu(
                self.linear(f"{name}.dense.0", x)
            )
        return x

    def bound(
        self, x: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        total = torch.zeros(len(x), dtype=torch.float64)
        for s in range(noise.shape[1]):
            p = self.decode(mean + (0.5 * log_variance).exp() * noise[:, s])
            total = total + (x * p.log() + (1 - x) * (1 - p).log()).sum(dim=1)
        q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        return total / noise.shape[1] - torch.distributions.kl_divergence(q, prior).sum(dim=1)

    def losses(self, x: torch.Tensor, noise: torch.Tensor) -> list[torch.Tensor]:
        """−ELBO of λ_0, λ_1, ..."""
        mean = torch.zeros(len(x), noise.shape[-1], dtype=torch.float64)
        log_variance, found = torch.zeros_like(mean), []
        for t in range(noise.shape[1]):
            found.append(-self.bound(x, mean, log_variance, noise[:, t]))
            still = [part.detach().clone().requires_grad_() for part in (mean, log_variance)]
            slopes = torch.cat(torch.autograd.grad(-self.bound(x, *still, noise[:, t]).sum(), still), dim=1)
            last = torch.cat(still, dim=1).detach()
            seen = torch.cat([x - 0.5, last, (slopes.abs() + 1e-5).log(), slopes.sign()], dim=1)
            features = self.features(seen)
            gate = self.linear("inference.gate", features).sigmoid()
            mean, log_variance = (gate * last + (1 - gate) * self.linear("inference.new", features)).chunk(2, dim=1)
            log_variance = log_variance.clamp(-15, 15)
        return found


def test_training_step_by_the_book() -> None:
    """Losses and the gradients of both parts: the inference network's of the mean over λ_1.., the decoder's of the last."""
    model, images = small(), pictures()
    noise = torch.randn(3, 4, 3, 4, generator=torch.Generator().manual_seed(3))
    book = ByTheBook(model)
    losses = book.losses(images.flatten(1).double(), noise.double())
    found = run(model, images)
    torch.testing.assert_close(found.loss, losses[-1].to(found.loss), rtol=1e-4, atol=1e-4)
    refined = torch.stack(losses[1:]).mean(dim=0)
    torch.testing.assert_close(found.auxiliary_losses["inference"], refined.to(found.loss), rtol=1e-4, atol=1e-4)
    for group, loss, expected in (
        ("decoder", found.loss.mean(), losses[-1].mean()),
        ("inference", found.auxiliary_losses["inference"].mean(), refined.mean()),
    ):
        names = [name for name, _ in model.named_parameters() if name.startswith(group)]
        ours = torch.autograd.grad(loss, [model.get_parameter(name) for name in names], retain_graph=True)
        theirs = torch.autograd.grad(expected, [book.w[name] for name in names], retain_graph=True)
        for name, mine, other in zip(names, ours, theirs, strict=True):
            torch.testing.assert_close(mine.double(), other, rtol=1e-3, atol=1e-5, msg=name)


def test_the_gradient_that_it_sees_is_that_of_each_images_bound() -> None:
    model, images = small(), pictures()
    estimate = Estimate(*(0.3 * torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(8))))
    noise = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        judged = model._judge(images.flatten(1), estimate, noise, gradient=True)
    assert judged.gradient is not None
    for row in range(3):
        alone = [part[row : row + 1].double().requires_grad_() for part in estimate]
        bound = ByTheBook(model).bound(images[row : row + 1].flatten(1).double(), *alone, noise[row : row + 1].double())
        expected = torch.cat(torch.autograd.grad(-bound.sum(), alone), dim=1)
        torch.testing.assert_close(judged.gradient[row : row + 1].double(), expected, rtol=1e-4, atol=1e-5)


def test_later_losses_send_nothing_through_earlier_estimates() -> None:
    """The last loss reaches the inference network through the last update only: as if λ_{T−1} were given."""
    model, images = small(iterations=2), pictures()
    loss = run(model, images).loss.mean()
    weights = list(model.inference.parameters())
    whole = torch.autograd.grad(loss, weights)
    noise = torch.randn(3, 3, 3, 4, generator=torch.Generator().manual_seed(3))
    flat = images.flatten(1)
    with torch.no_grad():
        start = Estimate(torch.zeros(3, 4), torch.zeros(3, 4))
        middle = model._updated(flat, model._judge(flat, start, noise[:, 0], gradient=True))
        judged = model._judge(flat, middle, noise[:, 1], gradient=True)
    end = model._updated(flat, judged)
    log_likelihood, kl = model._bound(flat, end, noise[:, 2])
    alone = torch.autograd.grad((kl - log_likelihood).mean(), weights)
    for mine, other in zip(whole, alone, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_standard_vae_ignores_estimates_and_gradients() -> None:
    model, images = small(**STANDARD), pictures()
    mean = model(images).posterior.mean[:, 0]
    expected = model.inference["new"](model.inference["features"](images.flatten(1) - 0.5))[:, :4]
    torch.testing.assert_close(mean, expected)


def test_without_a_generator_gradients_on_the_way_are_of_samples_as_in_training() -> None:
    """By hand: fixed noise, the same for every image, at every estimate but the last, which is judged at its mean."""
    model, images = small(), pictures()
    flat, noise = images.flatten(1), fixed_normals(0, (1_000, 1), range(3), 12).float().view(3, 1, 3, 4)
    estimate = Estimate(torch.zeros(3, 4), torch.zeros(3, 4))
    with torch.no_grad():
        for t in range(3):
            estimate = model._updated(flat, model._judge(flat, estimate, noise[t].expand(3, -1, -1), gradient=True))
        expected = model._judge(flat, estimate, None, gradient=False)
        found = model(images, trajectory=True)
    torch.testing.assert_close(found.posterior.mean[:, 0], estimate.mean)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.trajectory[1].slots, found.trajectory[1].posterior.mean)
    other = model.reconfigured(evaluation_seed=1)(images).posterior.mean[:, 0]
    assert not torch.allclose(other, estimate.mean)


@pytest.mark.parametrize(("weights", "shares"), [("uniform", [1, 1, 1]), ("linspace", [1, 2, 3]), ("last", [0, 0, 1])])
def test_shares_of_the_estimates(weights: str, shares: list[int]) -> None:
    model, images = small(weights=weights), pictures()
    found = run(model, images, trajectory=True)
    losses = torch.stack([step.loss for step in found.trajectory[1:]])
    expected = (losses * torch.tensor(shares).unsqueeze(1) / sum(shares)).sum(dim=0)
    torch.testing.assert_close(found.auxiliary_losses["inference"], expected)


def test_trajectory_starts_at_the_prior_and_ends_at_the_answer() -> None:
    found = run(small(), pictures(), trajectory=True)
    assert len(found.trajectory) == 4
    assert torch.equal(found.trajectory[0].posterior.mean, torch.zeros(3, 1, 4))
    assert torch.equal(found.trajectory[0].posterior.std, torch.ones(3, 1, 4))
    assert torch.equal(found.trajectory[-1].reconstruction, found.reconstruction)
    torch.testing.assert_close(found.terms["elbo_first"], -found.trajectory[1].loss)
    torch.testing.assert_close(found.terms["elbo"], -found.trajectory[-1].loss)


def test_more_iterations_after_training() -> None:
    model = small().reconfigured(iterations=7)
    assert len(run(model, pictures(), trajectory=True).trajectory) == 8


def test_encodings() -> None:
    gradient = torch.tensor([[1.0, -100.0, 0.0, 3.0], [2.0, 0.0, 0.0, -3.0]])
    both = encoded_gradient(gradient, "log_sign")
    assert both.shape == (2, 8)
    torch.testing.assert_close(both[0, :2], torch.tensor([math.log(1 + 1e-5), math.log(100 + 1e-5)]))
    assert both[0, 4:].tolist() == [1.0, -1.0, 0.0, 1.0]
    assert torch.equal(encoded_gradient(gradient, "log"), both[:, :4])
    layer = encoded_gradient(gradient, "layer_norm")
    torch.testing.assert_close(layer[0], torch.tensor([1.0, -1.0, -1.0, 1.0]), rtol=1e-3, atol=1e-3)
    batch = encoded_gradient(gradient, "batch_norm")
    torch.testing.assert_close(batch[:, 0], torch.tensor([-1.0, 1.0]), rtol=1e-3, atol=1e-3)
    assert torch.equal(encoded_gradient(gradient, "raw"), gradient)
    with pytest.raises(UserError, match="nothing to encode"):
        encoded_gradient(gradient, "none")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"encode_data": False, "encode_estimate": False, "gradient_encoding": "none"}, "sees nothing"),
        ({"encode_data": False, "gradient_encoding": "none"}, "which image"),
        ({"gradient_encoding": "none", "update": "direct", "encode_estimate": False}, "use 1 iteration"),
        ({"widths": ()}, "widths"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        IterativeVAEConfig(**{**SMALL, **changes})


def test_importance_sampling_is_exact_for_a_code_that_says_nothing_and_tightens_otherwise() -> None:
    model, images = small(), (pictures() > 0.5).float()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
    many = importance_log_likelihood(model, images, 4_000, torch.Generator().manual_seed(0), chunk=999)
    torch.testing.assert_close(many, torch.full((3,), -30 * math.log(2), dtype=torch.float64), rtol=0.01, atol=0.3)
    model = small()
    one, few = (
        torch.stack(
            [
                importance_log_likelihood(model, images, count, torch.Generator().manual_seed(seed), chunk=7).mean()
                for seed in range(20)
            ]
        ).mean()
        for count in (1, 50)
    )
    with torch.no_grad():
        seeds = (torch.Generator().manual_seed(seed) for seed in range(20))
        elbo = torch.stack([model(images, generator=seed).terms["elbo"].mean() for seed in seeds]).mean()
    assert abs(float(one - elbo)) < 1.0
    assert few > one


def test_learns_and_refining_helps() -> None:
    """On bars: the bound rises, and the last estimate is better than the first."""
    torch.manual_seed(0)
    model = IterativeVAE(IterativeVAEConfig(image_shape=(1, 6, 6), latent_size=4, widths=(48, 48), samples=2))
    rows = torch.randint(0, 6, (512,), generator=torch.Generator().manual_seed(5))
    images = torch.nn.functional.one_hot(rows, 6).float().view(-1, 1, 6, 1).expand(-1, 1, 6, 6)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(6)
    before = model(images).terms["elbo"].mean()
    for step in range(150):
        found = model(images[step % 8 * 64 : step % 8 * 64 + 64], generator=generator)
        optimiser.zero_grad()
        found.loss.mean().backward(inputs=list(model.decoder.parameters()), retain_graph=True)
        found.auxiliary_losses["inference"].mean().backward(inputs=list(model.inference.parameters()))
        optimiser.step()
    after = model(images).terms
    assert after["elbo"].mean() > before + 8
    assert after["elbo"].mean() > after["elbo_first"].mean()


def test_recipes() -> None:
    paper, port = recipe("iterative-vae-mnist"), recipe("iterative-vae-mnist", preset="port")
    assert (paper.model.samples, paper.training.batch_size, paper.training.learning_rate) == (10, 64, 2e-4)
    assert (port.model.samples, port.training.batch_size, port.training.weight_decay) == (1, 32, 5e-4)
    standard = recipe("standard-vae-mnist").model
    assert (standard.iterations, standard.update, standard.gradient_encoding) == (1, "direct", "none")
    with pytest.raises(UserError, match="no preset 'papr'"):
        recipe("iterative-vae-mnist", preset="papr")
    data = paper.data.replaced(source="bundled").build()
    assert data.image_shape == (1, 28, 28)
    assert float(data.batch("train", [0]).images.max()) == 1.0
