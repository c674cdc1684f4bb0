"""AIR and DAIR: promises, laws, a by-the-book ELBO, and that they learn to count."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal

from objectwise.core import Decomposition, UserError, check_model
from objectwise.data.digits import DigitsConfig
from objectwise.models import MODELS, model_class
from objectwise.models.air import AIR, AIRConfig, log_count_weights

KINDS = ("air", "dair")


def tiny(kind: str = "air", shape: tuple[int, int, int] = (1, 8, 10), *, spread: float = 0.5, **settings: Any) -> AIR:
    """A small model whose steps depend visibly on what they see."""
    torch.manual_seed(0)
    sizes = {"glimpse_size": 4, "what_size": 3, "embedding_size": 12, "hidden_size": 12, "what_hidden": 10}
    model = AIR(AIRConfig(kind=kind, image_shape=shape, **{**sizes, "presence_bias": 0.3, **settings}))  # type: ignore[arg-type]
    torch.nn.init.normal_(model.head.weight, std=spread)
    return model


def pictures(model: AIR, batch: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(batch, *model.config.image_shape, generator=torch.Generator().manual_seed(seed))


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- promises ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 9, 14)], ids=["grey", "colour, not square"])
def test_every_model_of_the_table_keeps_the_contract(name: str, shape: tuple[int, int, int]) -> None:
    cls = model_class(name)
    check_model(cls(cls.Config(image_shape=shape)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 13)], ids=["grey", "colour, not square"])
@pytest.mark.parametrize("steps", [2, 4])
def test_contract(kind: str, shape: tuple[int, int, int], steps: int) -> None:
    check_model(tiny(kind, shape, num_steps=steps))


def test_contract_with_one_step() -> None:
    """AIR is left out: its LSTM's recurrent weights multiply the zero state, so nothing can train them."""
    check_model(tiny("dair", num_steps=1))


def test_unknown_model_and_missing_shape() -> None:
    with pytest.raises(UserError, match="there is no model 'ari'; did you mean 'air'"):
        model_class("ari")
    with pytest.raises(UserError, match="AIR needs image_shape"):
        AIR(AIRConfig())


# -- counts -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(logits=st.lists(st.floats(-30, 30), min_size=1, max_size=8))
def test_count_weights_sum_to_one(logits: list[float]) -> None:
    weights = log_count_weights(torch.tensor([logits])).exp()
    assert weights.shape == (1, len(logits) + 1)
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)


def test_count_weights_by_hand() -> None:
    """p = 1/2, 1/4, 1/5: w_0 = 1/2, w_1 = 1/2 · 3/4, w_2 = 1/2 · 1/4 · 4/5, w_3 = 1/2 · 1/4 · 1/5."""
    weights = log_count_weights(torch.tensor([[0.5, 0.25, 0.2]]).logit()).exp()
    assert weights[0].tolist() == pytest.approx([0.5, 0.375, 0.1, 0.025], rel=1e-5)


def test_count_prior_by_hand() -> None:
    """k = 1/2, N = 2: p(n) = 4/7, 2/7, 1/7; ρ_1 = 3/7 (odds 3/4), ρ_2 = p(2) / p(n ≥ 1) = 1/3 (odds 1/2)."""
    model = tiny(num_steps=2, count_prior=0.5)
    odds = model.count_prior_logits(torch.device("cpu")).exp()
    assert odds.tolist() == pytest.approx([3 / 4, 1 / 2], rel=1e-6)


@pytest.mark.parametrize("k", [0.9, 0.01, 1e-5, 1e-15, 1e-300])
def test_count_prior_of_any_size(k: float) -> None:
    """The weights of the prior's chain are k^n over their sum, also where k^N underflows."""
    model = tiny(num_steps=32, count_prior=k)
    log_prior = log_count_weights(model.count_prior_logits(torch.device("cpu")).double().unsqueeze(0))[0]
    assert log_prior.exp().sum().item() == pytest.approx(1)
    differences = log_prior[1:] - log_prior[:-1]
    assert differences.tolist() == pytest.approx([math.log(k)] * 32, rel=1e-5, abs=1e-5)


# -- the objective ----------------------------------------------------------------------------------------------------


def by_the_book(model: AIR, image: Tensor, row: int, chain: list[Any]) -> dict[str, float]:
    """Form A of the ELBO in Python floats and loops, from the paper: average over n of log joint minus log posterior.

    p(n) ∝ k^n for n ≤ N; q(n) = p_1 ... p_n (1 − p_{n+1}), never more than N; pixels N(c_n, σ²); latents N(0, 1).
    """
    k, sigma, most = model.config.count_prior, model.config.likelihood_std, len(chain)
    prior_total = sum(k**n for n in range(most + 1))
    used = [1 / (1 + math.exp(-step.logit[row].item())) for step in chain]
    canvas = [0.0] * image.numel()
    divergences = {"kl_where": 0.0, "kl_what": 0.0}
    out = dict.fromkeys(("elbo", "log_likelihood", "kl_count", "kl_where", "kl_what"), 0.0)
    alive = 1.0
    for n in range(most + 1):
        if n > 0:
            step = chain[n - 1]
            alive *= used[n - 1]
            canvas = [c + y for c, y in zip(canvas, step.layer[row].flatten().tolist(), strict=True)]
            for name, means, stds in (
                ("kl_where", step.where_mean, step.where_std),
                ("kl_what", step.what_mean, step.what_std),
            ):
                for m, s in zip(means[row].tolist(), stds[row].tolist(), strict=True):
                    divergences[name] += -math.log(s) + (s * s + m * m) / 2 - 0.5
        weight = alive * (1 - used[n]) if n < most else alive
        log_pixels = 0.0
        for x, c in zip(image.flatten().tolist(), canvas, strict=True):
            log_pixels += -((x - c) ** 2) / (2 * sigma**2) - math.log(sigma) - 0.5 * math.log(2 * math.pi)
        surprise = math.log(weight) - math.log(k**n / prior_total)
        out["log_likelihood"] += weight * log_pixels
        out["kl_count"] += weight * surprise
        out["kl_where"] += weight * divergences["kl_where"]
        out["kl_what"] += weight * divergences["kl_what"]
        out["elbo"] += weight * (log_pixels - surprise - divergences["kl_where"] - divergences["kl_what"])
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 9)], ids=["grey", "colour, not square"])
@pytest.mark.parametrize("prior", [0.3, 1e-5])
def test_objective_by_the_book(kind: str, shape: tuple[int, int, int], prior: float) -> None:
    model = tiny(kind, shape, count_prior=prior, num_steps=4, likelihood_std=0.25)
    images = pictures(model)
    with torch.no_grad():
        chain = model.infer(images, noise())
        out = model(images, generator=noise())
    for row in range(len(images)):
        expected = by_the_book(model, images[row], row, chain)
        for name, value in expected.items():
            assert out.terms[name][row].item() == pytest.approx(value, rel=2e-5, abs=2e-5), name
    assert torch.equal(out.loss, -out.terms["elbo"])


@settings(max_examples=40, deadline=None)
@given(
    logits=st.lists(st.floats(-8, 8), min_size=3, max_size=3),
    costs=st.lists(st.floats(0, 50), min_size=3, max_size=3),
)
def test_forms_a_and_b_agree(logits: list[float], costs: list[float]) -> None:
    """Σ w_n (log w_n − log p(n)) = Σ S_{i−1} KL_i and Σ_n w_n Σ_{i≤n} a_i = Σ_i S_i a_i, for the functions the model uses."""
    model = tiny(count_prior=0.2)
    prior = model.count_prior_logits(torch.device("cpu")).double()
    chain = torch.tensor([logits], dtype=torch.float64)
    log_w, log_p = log_count_weights(chain)[0], log_count_weights(prior.unsqueeze(0))[0]
    survival = [1.0, *chain[0].sigmoid().cumprod(0).tolist()]
    p, rho = chain[0].sigmoid().tolist(), prior.sigmoid().tolist()
    divergence = [a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b)) for a, b in zip(p, rho, strict=True)]
    form_a = (log_w.exp() * (log_w - log_p)).sum().item()
    assert form_a == pytest.approx(sum(s * d for s, d in zip(survival, divergence, strict=False)), rel=1e-6, abs=1e-9)
    so_far = [sum(costs[:n]) for n in range(4)]
    weighted = sum(w * a for w, a in zip(log_w.exp().tolist(), so_far, strict=True))
    assert weighted == pytest.approx(sum(s * a for s, a in zip(survival[1:], costs, strict=True)), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_marginal_objective_is_the_mean_over_sampled_counts(kind: str) -> None:
    """The paper's own estimator, with n drawn step by step and sampled log ratios, has the same mean: a z-test."""
    model = tiny(kind, (1, 6, 6), count_prior=0.3, what_size=2, likelihood_std=1.0)
    copies = 40_000
    images = pictures(model, 1).expand(copies, -1, -1, -1)
    with torch.no_grad():
        marginal = model(images, generator=noise(1)).terms["elbo"].double()
        chain = model.infer(images, noise(2))
    coins = torch.rand(copies, len(chain), generator=noise(3))
    alive = torch.ones(copies, dtype=torch.bool)
    count = torch.zeros(copies, dtype=torch.int64)
    log_ratio = torch.zeros(copies, dtype=torch.float64)
    canvas = torch.zeros(copies, 1, 6, 6)
    for step, coin in zip(chain, coins.T, strict=True):
        p = step.logit.double().sigmoid()
        goes_on = alive & (coin < p)
        log_ratio -= torch.where(alive, torch.where(goes_on, p.log(), (1 - p).log()), 0.0)
        mean, std = (
            torch.cat(parts, 1) for parts in ((step.where_mean, step.what_mean), (step.where_std, step.what_std))
        )
        ratio = (Normal(0.0, 1.0).log_prob(step.slot) - Normal(mean, std).log_prob(step.slot)).sum(1).double()
        log_ratio += torch.where(goes_on, ratio, 0.0)
        canvas = canvas + step.layer * goes_on[:, None, None, None]
        count, alive = count + goes_on, goes_on
    log_prior = torch.tensor([0.3**n for n in range(len(chain) + 1)], dtype=torch.float64)
    log_prior = (log_prior / log_prior.sum()).log()
    log_pixels = Normal(canvas, 1.0).log_prob(images).sum(dim=(1, 2, 3)).double()
    sampled = log_pixels + log_prior[count] + log_ratio
    error = math.sqrt(marginal.var().item() / copies + sampled.var().item() / copies)
    assert len(count.unique()) == 4
    assert abs(marginal.mean() - sampled.mean()).item() / error < 4
    assert error < 0.05
    assert marginal.var() < sampled.var()


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_that_of_the_objective_at_fixed_noise(kind: str) -> None:
    """No stop-gradient anywhere: entry by entry, autograd agrees with central differences at the same noise.

    The biases of the heads feed presence, pose and appearance, means and widths alike, and through them every later step.
    """
    model = tiny(kind, (1, 8, 8), num_steps=3, likelihood_std=0.2, decoder_bias=0.0, presence_bias=2.0)
    torch.nn.init.constant_(model.head.bias[4:].data, 0.5)
    images = pictures(model, 8)

    def loss() -> Tensor:
        return model(images, generator=noise()).loss.double().mean()

    last = model.encoder[3]
    assert isinstance(last, torch.nn.Linear)
    for bias in (model.head.bias, last.bias):
        (gradient,) = torch.autograd.grad(loss(), bias)
        differences, step = [], 2e-3
        for entry in range(len(bias)):
            ends = []
            for shift in (step, -2 * step, step):
                with torch.no_grad():
                    bias[entry] += shift
                    ends.append(loss().item())
            differences.append((ends[0] - ends[1]) / (2 * step))
        tolerance = 0.02 * gradient.abs().max().item()
        assert gradient.tolist() == pytest.approx(differences, rel=0.03, abs=tolerance)


def test_likelihood_has_the_published_ceiling() -> None:
    """A perfect reconstruction of 50×50 pixels at σ = 0.3 scores 2500 · (−ln 0.3 − ln √(2π)) = 712.6 nats."""
    model = tiny(shape=(1, 50, 50), decoder_bias=-100.0)
    with torch.no_grad():
        out = model(torch.zeros(1, 1, 50, 50))
    assert out.terms["log_likelihood"].item() == pytest.approx(712.6, abs=0.1)


# -- the chain --------------------------------------------------------------------------------------------------------


def test_dair_sees_only_the_difference() -> None:
    """Without recurrence, step i on x is step 1 on x − c_{i−1}; what was explained away cannot matter otherwise."""
    model = tiny("dair", num_steps=4)
    images = pictures(model)
    with torch.no_grad():
        chain = model.infer(images, None)
        canvas = torch.zeros_like(images)
        for step in chain:
            fresh = model.infer(images - canvas, None)[0]
            for found, expected in zip(step, fresh, strict=True):
                assert torch.allclose(found, expected, atol=1e-5)
            canvas = canvas + step.layer
    assert not torch.allclose(chain[0].logit, chain[1].logit, atol=1e-3)


def test_air_sees_the_image_and_remembers() -> None:
    """A second step that saw only x − c_1, or nothing of z_1, would not be AIR."""
    model = tiny("air")
    images = pictures(model)
    with torch.no_grad():
        chain = model.infer(images, None)
        fresh = model.infer(images - chain[0].layer, None)[0]
    assert not torch.allclose(chain[1].logit, fresh.logit, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_later_steps_depend_on_the_samples_before_them(kind: str) -> None:
    model = tiny(kind)
    images = pictures(model)
    with torch.no_grad():
        first, second = model.infer(images, noise(1)), model.infer(images, noise(2))
    assert torch.equal(first[0].logit, second[0].logit)
    assert torch.equal(first[0].where_mean, second[0].where_mean)
    assert not torch.equal(first[1].logit, second[1].logit)


@pytest.mark.parametrize("kind", KINDS)
def test_more_steps_keep_the_weights_and_the_first_steps(kind: str) -> None:
    model = tiny(kind).eval()
    images = pictures(model)
    longer = model.reconfigured(num_steps=5)
    assert longer.config.num_steps == longer.config.max_objects == 5
    assert not longer.training
    for name, value in model.state_dict().items():
        assert torch.equal(longer.state_dict()[name], value)
    with torch.no_grad():
        short, long = model(images, generator=noise()), longer(images, generator=noise())
    assert torch.equal(long.slots[:, :4], short.slots)
    assert torch.equal(long.presence[:, :4], short.presence)
    assert long.slots.shape[1] == 6
    assert model.config.num_steps == 3
    with pytest.raises(UserError, match="AIRConfig has no 'num_slots'"):
        model.reconfigured(num_slots=5)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_generator_slots_are_posterior_means(kind: str) -> None:
    model = tiny(kind)
    with torch.no_grad():
        out, sampled = model(pictures(model)), model(pictures(model), generator=noise())
    assert out.posterior is not None
    assert torch.equal(out.slots, out.posterior.mean)
    assert sampled.posterior is not None
    z = ((sampled.slots - sampled.posterior.mean) / sampled.posterior.std)[:, 1:]
    assert 0.5 < z.std().item() < 1.5


def test_sampled_slots_have_the_posteriors_width() -> None:
    model = tiny(num_steps=1)
    with torch.no_grad():
        out = model(pictures(model, 1).expand(20_000, -1, -1, -1), generator=noise())
    assert out.posterior is not None
    where, std = out.slots[:, 1, :3], out.posterior.std[0, 1, :3]
    assert torch.allclose(where.mean(0), out.posterior.mean[0, 1, :3], atol=0.02)
    assert torch.allclose(where.std(0), std, rtol=0.03)


# -- what a decomposition says ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 13)], ids=["grey", "colour, not square"])
def test_decode_reproduces_forward(kind: str, shape: tuple[int, int, int]) -> None:
    model = tiny(kind, shape)
    with torch.no_grad():
        out = model(pictures(model), generator=noise())
        decoded = model.decode(out.slots, out.presence)
        everything = model.decode(out.slots)
    for name in ("components", "masks", "reconstruction"):
        assert torch.allclose(getattr(decoded, name), getattr(out, name), atol=1e-5), name
    assert torch.allclose(everything.reconstruction, out.components.sum(dim=1), atol=1e-5)


def test_presence_counts_and_background() -> None:
    """Presence is S_i, its differences are q(n), and q(n)'s mean is Σ S_i."""
    model = tiny(num_steps=4)
    with torch.no_grad():
        out = model(pictures(model))
    assert out.count_probs is not None
    assert out.boxes is not None
    assert out.background == (0,)
    survival = out.presence[:, 1:]
    tails = out.count_probs.flip(1).cumsum(1).flip(1)[:, 1:]
    assert torch.allclose(tails, survival, atol=1e-6)
    mean_count = (out.count_probs * torch.arange(5)).sum(1)
    assert torch.allclose(mean_count, survival.sum(1), atol=1e-5)
    assert torch.equal(out.counts(), out.count_probs.argmax(1))
    assert torch.equal(out.boxes[:, 0], torch.tensor([[0.0, 0.0, 10.0, 8.0]]).expand(3, -1))
    assert not out.components[:, 0].any()


def test_absent_steps_hold_no_pixels() -> None:
    model = tiny()
    with torch.no_grad():
        out = model(pictures(model))
        decoded = model.decode(out.slots, torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(3, -1))
    assert not decoded.masks[:, 2:].any()
    assert torch.allclose(decoded.reconstruction, out.components[:, 1], atol=1e-6)


def test_boxes_hold_the_layers_ink() -> None:
    model = tiny(shape=(1, 40, 60), spread=0.05, decoder_bias=4.0)
    with torch.no_grad():
        out = model(pictures(model))
    assert out.boxes is not None
    y, x = torch.meshgrid(torch.arange(40.0) + 0.5, torch.arange(60.0) + 0.5, indexing="ij")
    for row in range(3):
        for slot in range(1, 4):
            x0, y0, x1, y1 = out.boxes[row, slot]
            # The bilinear skirt of a patch pixel is half a patch pixel wide.
            skirt_x, skirt_y = (x1 - x0) / 8, (y1 - y0) / 8
            inside = (x > x0 - skirt_x) & (x < x1 + skirt_x) & (y > y0 - skirt_y) & (y < y1 + skirt_y)
            layer = out.components[row, slot, 0]
            assert not layer[~inside].any()
            ink = layer > 0.5 * layer.max()
            assert (x[ink].min() - x0).abs() < 3
            assert (y[ink].max() + 1 - y1).abs() < 3


@pytest.mark.parametrize("kind", KINDS)
def test_trajectory_holds_the_prefix_canvases(kind: str) -> None:
    model = tiny(kind)
    with torch.no_grad():
        out = model(pictures(model), trajectory=True)
    steps = out.trajectory
    assert steps is not None
    assert len(steps) == 3
    weighted = out.presence[:, :, None, None, None] * out.components
    for n, step in enumerate(steps, start=1):
        assert torch.allclose(step.reconstruction, weighted[:, : n + 1].sum(1), atol=1e-5)
        assert (step.counts() <= n).all()
    assert torch.allclose(steps[-1].loss, out.loss, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_autocast_changes_the_loss_by_less_than_a_percent(kind: str) -> None:
    model = tiny(kind, (1, 24, 24), spread=0.1, glimpse_size=8, what_size=8, embedding_size=64, hidden_size=64)
    images = pictures(model, 8)
    with torch.no_grad():
        exact = model(images, generator=noise())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fast = model(images, generator=noise())
    assert fast.loss.dtype == fast.slots.dtype == fast.masks.dtype == torch.float32
    assert torch.allclose(fast.loss, exact.loss, rtol=0.01)
    assert torch.allclose(fast.count_probs, exact.count_probs, atol=0.03)  # type: ignore[arg-type]


def test_pictures_of_any_kind_can_be_decomposed() -> None:
    """``decompose`` takes what people have, leaves the model's mode alone, and survives what it cannot take."""
    model = tiny(shape=(1, 8, 8))
    found = model.decompose(torch.randint(0, 256, (2, 20, 30, 3), dtype=torch.uint8).numpy(), trajectory=True)
    assert found.reconstruction.shape == (2, 1, 8, 8)
    assert found.trajectory is not None
    assert not found.loss.requires_grad
    assert model.training
    with pytest.raises(UserError, match="float images must lie in"):
        model.decompose(torch.full((1, 1, 8, 8), 2.0))
    assert model.training


# -- learning ---------------------------------------------------------------------------------------------------------


def train(kind: str, steps: int, presence_bias: float) -> tuple[Decomposition, Tensor]:
    """Train on 32×32 scenes of 0 to 2 of scikit-learn's digits; what is found in scenes of unseen digits, and the truth."""
    data = DigitsConfig(source="bundled", image_size=32, digit_size=(12, 15)).build()
    sizes = {"glimpse_size": 14, "what_size": 16, "embedding_size": 128, "hidden_size": 128, "what_hidden": 100}
    torch.manual_seed(0)
    model = AIR(AIRConfig(kind=kind, image_shape=(1, 32, 32), presence_bias=presence_bias, **sizes))  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(steps):
        images = data.batch("train", range(64 * step, 64 * (step + 1))).images
        optimizer.zero_grad()
        model(images, generator=noise(step), step=step).loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 50.0)
        optimizer.step()
    held_out = data.batch("test", range(500))
    assert held_out.counts is not None
    return model.decompose(held_out.images), held_out.counts


def assert_counts_well(found: Decomposition, truth: Tensor, accuracy: float) -> None:
    right = found.counts() == truth
    base_rate = torch.bincount(truth).max().item() / len(truth)
    assert base_rate < 0.4
    assert right.float().mean().item() >= accuracy
    for count in range(3):
        assert right[truth == count].float().mean().item() >= accuracy - 0.15


def test_dair_learns_to_count() -> None:
    """600 steps: about 0.99 when this was written; base rate 1/3."""
    found, truth = train("dair", 600, 1.0)
    assert_counts_well(found, truth, 0.9)
    # An ELBO near the ceiling of 1024 · (−ln 0.3 − ln √(2π)) = 291.9 nats, not that of a blank guess.
    assert found.terms["elbo"].mean() > 200
