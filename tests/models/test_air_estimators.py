"""AIR's estimators of one objective: what they promise about values, means and variances of gradients."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from torch import Tensor

from objectwise.core import UserError, check_model, parameter_groups, uniform
from objectwise.models import air_estimators
from objectwise.models.air import AIR, AIRConfig
from objectwise.models.air_estimators import Draw
from objectwise.models.air_gradients import fit_baselines, gradient_spread, with_estimator
from objectwise.nn import spatial_transformer
from objectwise.nn.divergences import kl_bernoulli

SMALL = {
    "image_shape": (1, 12, 10),
    "what_size": 4,
    "glimpse_size": 5,
    "embedding_size": 12,
    "hidden_size": 12,
    "what_hidden": 12,
    "background_size": 3,
    "background_hidden": 6,
    "count_prior": 0.1,
}
ESTIMATORS = (
    {"estimator": "marginal"},
    {"estimator": "collapsed"},
    {"estimator": "score"},
    {"estimator": "score", "baselines": "nvil"},
    {"estimator": "vimco", "samples": 3},
    {"estimator": "concrete", "temperature_start": 2.0},
)


def model_of(**settings: object) -> AIR:
    torch.manual_seed(0)
    return AIR(AIRConfig(**{**SMALL, **settings}))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def squares(count: int, seed: int = 5) -> Tensor:
    """Images with none or one bright 4×4 square."""
    generator = seeded(seed)
    images = torch.zeros(count, 1, 12, 10)
    for row in range(count):
        if row % 3:
            top, left = (int(torch.randint(0, high, (), generator=generator)) for high in (9, 7))
            images[row, :, top : top + 4, left : left + 4] = 1.0
    return images


@cache
def partly_trained(kind: str = "dair") -> AIR:
    """A model that has begun to count: some p_i far from 0 and 1."""
    model = model_of(kind=kind, num_steps=2, presence_bias=0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    images, generator = squares(24), seeded(1)
    for _ in range(100):
        optimizer.zero_grad()
        model(images, generator=generator).loss.mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


def made_up_draw(rows: int = 6, steps: int = 3, seed: int = 0) -> Draw:
    g = seeded(seed)
    return Draw(
        logits=torch.randn(rows, steps, generator=g),
        prior_logits=torch.tensor([-0.5, -1.0, -1.5])[:steps],
        log_likelihood=3.0 * torch.randn(rows, steps + 1, generator=g),
        kl=torch.rand(rows, steps + 1, generator=g),
        log_ratio=torch.randn(rows, steps + 1, generator=g),
    )


# -- every combination keeps the contract -------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: "-".join(map(str, e.values())))
@pytest.mark.parametrize("kind", ["air", "dair"])
def test_contract(kind: str, estimator: dict[str, object]) -> None:
    # A bias of 2 and eight images: a sampled count of zero everywhere gives, rightly, no gradient to the encoder.
    images = torch.rand(8, 1, 12, 10, generator=seeded(3))
    rows = (
        ("isotropic", "sum", None, "none"),
        ("separate", "over", "image", "learned"),
        ("rotated", "sum", "both", "learned"),
        ("isotropic", "over", "difference", "none"),
    )
    for pose, compose, glimpse, background in rows:
        choices = {"pose": pose, "compose": compose, "glimpse": glimpse, "background": background}
        check_model(model_of(kind=kind, presence_bias=2.0, **choices, **estimator), images)


def test_nothing_changed_for_the_defaults() -> None:
    # Losses of the model before it had estimators (commit fd12339), same seeds, torch 2.13 on a CPU.
    expected = {"air": [2233.66, 2146.47, 2055.3, 2328.22], "dair": [2235.01, 2145.14, 2055.39, 2327.51]}
    for kind, losses in expected.items():
        torch.manual_seed(0)
        model = AIR(AIRConfig(kind=kind, image_shape=(3, 20, 24)))
        images = torch.rand(4, 3, 20, 24, generator=seeded(1))
        assert model(images, generator=seeded(2)).loss.tolist() == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS[1:], ids=lambda e: "-".join(map(str, e.values())))
def test_without_a_generator_all_are_the_exact_sum(estimator: dict[str, object]) -> None:
    model = partly_trained()
    other = with_estimator(model, **estimator)
    images = squares(6)
    with torch.no_grad():
        plain, found = model(images), other(images)
    assert torch.equal(plain.loss, found.loss)
    assert "bound" not in found.terms
    assert not found.auxiliary_losses


@pytest.mark.parametrize("estimator", ["collapsed", "score", "concrete"])
def test_reported_elbo_is_that_of_the_same_chain(estimator: str) -> None:
    model = partly_trained()
    images = squares(6)
    with torch.no_grad():
        plain = model(images, generator=seeded(4))
        found = with_estimator(model, estimator=estimator)(images, generator=seeded(4))
    assert torch.equal(plain.terms["elbo"], found.terms["elbo"])


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UserError, match='baselines "nvil" need estimator "score"'):
        AIRConfig(baselines="nvil")
    with pytest.raises(UserError, match="background_size 60 must not exceed 53"):
        AIRConfig(background="learned", background_size=60)


# -- collapsed -----------------------------------------------------------------------------------------------------


def elbo_form_a(draw: Draw) -> Tensor:
    """Σ_n w_n (a_n − log w_n), written from air.md 2.2 with loops."""
    total = torch.zeros(len(draw.logits), dtype=torch.float64)
    p, rho = draw.logits.double().sigmoid(), draw.prior_logits.double().sigmoid()
    steps = p.shape[1]
    for n in range(steps + 1):
        weight, prior, ratio = torch.ones_like(total), 1.0, draw.log_ratio[:, 0].double()
        for i in range(n):
            weight, prior, ratio = weight * p[:, i], prior * float(rho[i]), ratio + draw.log_ratio[:, i + 1].double()
        if n < steps:
            weight, prior = weight * (1 - p[:, n]), prior * (1 - float(rho[n]))
        a = draw.log_likelihood[:, n].double() + torch.tensor(prior).log() - ratio
        total = total + weight * (a - weight.log())
    return total


def test_collapsed_bound_is_above_the_elbo_of_the_same_draw() -> None:
    draw = made_up_draw(rows=200)
    gap = air_estimators.collapsed(draw).bound.double() - elbo_form_a(draw)
    assert (gap > 0).all()
    # ... and equal to it where q(n | z) is the posterior: logits solved from w_n ∝ exp a_n.
    a = air_estimators.log_joint(draw).double()
    tails = a.flip(1).logcumsumexp(dim=1).flip(1)
    exact = draw._replace(logits=(tails[:, 1:] - a[:, :-1]).float())
    torch.testing.assert_close(air_estimators.collapsed(exact).bound.double(), elbo_form_a(exact), atol=1e-4, rtol=0)


def test_collapsed_trains_presence_by_the_posterior_only() -> None:
    draw = made_up_draw()
    logits = draw.logits.clone().requires_grad_()
    likelihood = draw.log_likelihood.clone().requires_grad_()
    estimate = air_estimators.collapsed(draw._replace(logits=logits, log_likelihood=likelihood))
    gradients = torch.autograd.grad(estimate.loss.sum(), (logits, likelihood))
    posterior = air_estimators.log_joint(draw).softmax(dim=1)
    # d CE / d l_i = S-weighted: p_i r(n ≥ i−1) − r(n ≥ i); the likelihood sees −L_C alone.
    reach = posterior.flip(1).cumsum(dim=1).flip(1)
    torch.testing.assert_close(gradients[0], draw.logits.sigmoid() * reach[:, :-1] - reach[:, 1:])
    torch.testing.assert_close(gradients[1], -posterior)


# -- sampled estimators: exact means by enumeration of what is sampled -----------------------------------------------


def exact_elbo(draw: Draw) -> Tensor:
    """(B,) form B, with the closed-form KLs."""
    weights = air_estimators.log_count_weights(draw.logits).exp()
    survival = torch.cat([torch.ones(len(weights), 1), draw.logits.sigmoid().cumprod(dim=1)], dim=1)
    kl_count = (survival[:, :-1] * kl_bernoulli(draw.logits, draw.prior_logits)).sum(dim=1)
    return (weights * draw.log_likelihood).sum(dim=1) - kl_count - (survival * draw.kl).sum(dim=1)


@pytest.mark.parametrize("with_baselines", [False, True])
def test_score_function_has_the_exact_gradient_in_mean(with_baselines: bool) -> None:
    draws, one = 60_000, made_up_draw(rows=1)
    baselines = torch.tensor([[2.0, -1.0, 0.5]]).expand(draws, -1) if with_baselines else None
    logits = one.logits.expand(draws, -1).clone().requires_grad_()
    many = Draw(logits, one.prior_logits, *(part.expand(draws, -1) for part in one[2:]))
    estimate = air_estimators.score(many, seeded(7), baselines)
    (gradients,) = torch.autograd.grad(estimate.loss.sum(), logits)
    exact_logits = one.logits.clone().requires_grad_()
    exact = exact_elbo(one._replace(logits=exact_logits))
    (expected,) = torch.autograd.grad(-exact.sum(), exact_logits)
    z = (gradients.mean(dim=0) - expected[0]) / (gradients.std(dim=0) / draws**0.5)
    assert z.abs().max() < 4.0
    z = (estimate.bound.mean() - exact.sum()) / (estimate.bound.std() / draws**0.5)
    assert z.abs() < 4.0
    assert torch.equal(estimate.loss.detach(), -estimate.bound)


def test_a_decision_is_not_charged_with_what_came_before() -> None:
    # The KL of step 1 and of the background cannot be changed by whether step 2 is used.
    draw = made_up_draw(rows=400)
    dearer = draw._replace(kl=draw.kl + torch.tensor([50.0, 70.0, 0.0, 0.0]))

    def gradient(of: Draw) -> Tensor:
        logits = of.logits.clone().requires_grad_()
        loss = air_estimators.score(of._replace(logits=logits), seeded(7)).loss
        return torch.autograd.grad(loss.sum(), logits)[0]

    before, after = gradient(draw), gradient(dearer)
    torch.testing.assert_close(before[:, 1:], after[:, 1:])
    assert not torch.allclose(before[:, 0], after[:, 0])


def test_a_decision_never_reached_has_no_gradient() -> None:
    draw = made_up_draw(rows=50)
    logits = torch.cat([torch.full((50, 1), -30.0), draw.logits[:, 1:]], dim=1).requires_grad_()
    loss = air_estimators.score(draw._replace(logits=logits), seeded(7)).loss
    assert torch.autograd.grad(loss.sum(), logits)[0][:, 1:].abs().max() == 0.0


def test_vimco_gradient_is_that_of_its_bound() -> None:
    """Against a plain score function of log 1/K Σ exp f, whose mean is right without any baseline."""
    draws, samples, one = 40_000, 3, made_up_draw(rows=1, steps=2)
    logits = one.logits.expand(draws * samples, -1).clone().requires_grad_()
    many = Draw(logits, one.prior_logits, *(part.expand(draws * samples, -1) for part in one[2:]))
    estimate = air_estimators.vimco(many, seeded(7), samples)
    (found,) = torch.autograd.grad(estimate.loss.sum(), logits)
    found = found.view(draws, samples, 2).sum(dim=1)
    # Exactly, by enumerating the 3³ counts of the three samples.
    exact_logits = one.logits.clone().requires_grad_()
    log_w = air_estimators.log_count_weights(exact_logits)[0]
    f = air_estimators.log_joint(one)[0] - log_w
    bound = torch.zeros(())
    for counts in itertools.product(range(3), repeat=samples):
        chosen = list(counts)
        bound = bound + log_w[chosen].sum().exp() * (f[chosen].logsumexp(dim=0) - torch.tensor(3.0).log())
    (expected,) = torch.autograd.grad(-bound, exact_logits)
    z = (found.mean(dim=0) - expected[0]) / (found.std(dim=0) / draws**0.5)
    assert z.abs().max() < 4.0
    z = (estimate.bound.mean() - bound.detach()) / (estimate.bound.std() / draws**0.5)
    assert z.abs() < 4.0


def test_more_samples_give_a_tighter_bound() -> None:
    model, images = partly_trained(), squares(12).repeat(60, 1, 1, 1)
    with torch.no_grad():
        elbo = model(images, generator=seeded(3)).terms["elbo"].mean()
        bounds = [
            with_estimator(model, estimator="vimco", samples=k)(images, generator=seeded(3)).terms["bound"].mean()
            for k in (2, 8)
        ]
    assert elbo < bounds[0] < bounds[1]


def test_concrete_becomes_the_sampled_objective_when_cold() -> None:
    logits = torch.randn(500, 3, generator=seeded(1))
    alive = air_estimators.relaxed_alive(logits, 1e-4, seeded(2))
    _, hard = air_estimators.sample_presence(logits, seeded(2))
    assert ((alive - hard).abs() > 1e-3).float().mean() < 0.01
    warm = air_estimators.relaxed_alive(logits, 1.0, seeded(2))
    assert (((warm > 0.01) & (warm < 0.99)).float().mean(dim=0)[1:] > 0.2).all()
    model, images = partly_trained(), squares(24)
    cold = with_estimator(model, estimator="concrete", temperature=1e-4)
    sampled = with_estimator(model, estimator="score")
    with torch.no_grad():
        found, expected = (m(images, generator=seeded(6)).loss for m in (cold, sampled))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0.05)


def test_concrete_temperature_falls_with_the_steps() -> None:
    model = with_estimator(
        partly_trained(), estimator="concrete", temperature=0.1, temperature_start=10.0, temperature_steps=100
    )
    images = squares(6)
    with torch.no_grad():
        losses = [model(images, generator=seeded(6), step=step).loss for step in (0, 50, 100, 500)]
    assert not torch.equal(losses[0], losses[1])
    assert torch.equal(losses[2], losses[3])


# -- the whole model: same mean, smaller variance ----------------------------------------------------------------------


def test_score_function_and_exact_sum_agree_in_mean_on_a_model() -> None:
    model, images = partly_trained(), squares(3).repeat(100, 1, 1, 1)
    exact = gradient_spread(model, images, draws=40, seed=1)
    sampled = gradient_spread(with_estimator(model, estimator="score"), images, draws=100, seed=2)
    z = []
    for name, mean in exact.mean.items():
        error = (exact.variance[name] / exact.draws + sampled.variance[name] / sampled.draws).sqrt()
        z.append(((sampled.mean[name] - mean) / error)[error > 1e-9])
    z_all = torch.cat(z)
    assert z_all.abs().max() < 5.5
    assert 0.5 < float(z_all.square().mean()) < 1.8


@pytest.mark.parametrize("kind", ["air", "dair"])
def test_exact_sum_has_far_less_variance(kind: str) -> None:
    # In the weights p_i comes from. Over all weights of so small a model the noise of where and what, which is in every
    # estimator, hides most of it: factors of 1.1 to 6. Returns are small here, so baselines gain little; see the next test.
    model, images = partly_trained(kind), squares(12)
    reduced = with_estimator(model, estimator="score", baselines="nvil")
    fit_baselines(reduced, images, steps=80, learning_rate=1e-2)
    exact, plain, nvil = (
        gradient_spread(each, images, draws=25) for each in (model, with_estimator(model, estimator="score"), reduced)
    )
    assert plain.presence_variance > 30.0 * exact.presence_variance
    assert nvil.presence_variance > 5.0 * exact.presence_variance
    assert exact.total_variance < plain.total_variance


def test_a_baseline_takes_out_what_is_common_to_all_counts() -> None:
    one = made_up_draw(rows=1)
    one = one._replace(log_likelihood=one.log_likelihood + 400.0)
    many = Draw(one.logits.expand(4000, -1), one.prior_logits, *(part.expand(4000, -1) for part in one[2:]))

    def variance(baselines: Tensor | None) -> float:
        logits = many.logits.clone().requires_grad_()
        loss = air_estimators.score(many._replace(logits=logits), seeded(7), baselines).loss
        return float(torch.autograd.grad(loss.sum(), logits)[0].var(dim=0).sum())

    assert variance(torch.full((4000, 3), 400.0)) < 1e-3 * variance(None)


def test_baselines_learn_only_from_their_own_loss() -> None:
    model = model_of(estimator="score", baselines="nvil")
    out = model(squares(8), generator=seeded(0))
    baselines = parameter_groups(model)["baselines"]
    none = torch.autograd.grad(out.loss.mean(), baselines, retain_graph=True, allow_unused=True)
    assert all(gradient is None for gradient in none)
    others = parameter_groups(model)["default"]
    leaked = torch.autograd.grad(out.auxiliary_losses["baselines"].mean(), others, allow_unused=True)
    assert all(gradient is None for gradient in leaked)
    losses = fit_baselines(model, squares(8), steps=60, learning_rate=1e-2)
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])


def test_baselines_see_only_earlier_steps() -> None:
    model = model_of(estimator="score", baselines="nvil")
    images, canvases = torch.rand(4, 1, 12, 10, generator=seeded(1)), torch.rand(4, 4, 1, 12, 10, generator=seeded(2))
    with torch.no_grad():
        before = model._baselines(images, canvases)
        canvases[:, 2:] += 1.0
        after = model._baselines(images, canvases)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.equal(before[:, 2], after[:, 2])


# -- prior, canvas gradient, poses, composition ------------------------------------------------------------------------


def test_prior_anneals_exponentially() -> None:
    model = model_of(count_prior=1e-4, count_prior_start=0.1, count_prior_steps=300)

    def ratio(step: int | None) -> float:
        """p(n=1)/p(n=0) = k."""
        log_p = air_estimators.log_count_weights(model.count_prior_logits(torch.device("cpu"), step)[None])[0]
        return float((log_p[1] - log_p[0]).exp())

    assert [ratio(step) for step in (0, 100, 200, 300, 1000, None)] == pytest.approx(
        [1e-1, 1e-2, 1e-3, 1e-4, 1e-4, 1e-4], rel=1e-3
    )
    images = squares(4)
    with torch.no_grad():
        early, late, final = (model(images, step=step).terms["kl_count"].mean() for step in (0, 300, None))
    assert early < late
    assert late == final


def test_detached_canvas_changes_the_gradient_not_the_loss() -> None:
    model = partly_trained()
    cut = AIR(model.config.replaced(canvas_gradient=False))
    cut.load_state_dict(model.state_dict())
    images = squares(6)
    losses, gradients = [], []
    for each in (model, cut):
        loss = each(images, generator=seeded(1)).loss.mean()
        losses.append(float(loss.detach()))
        gradients.append(torch.autograd.grad(loss, each.decoder.parameters())[0])
    assert losses[0] == losses[1]
    assert not torch.allclose(*gradients)


def test_rotation_by_zero_is_the_separable_path() -> None:
    images = torch.rand(3, 2, 11, 14, generator=seeded(0))
    scale, shift = uniform((3, 2), seeded(1)) * 0.6 + 0.3, uniform((3, 2), seeded(2)) - 0.5
    zero = torch.zeros(3)
    torch.testing.assert_close(
        spatial_transformer.read(images, scale, shift, 7), spatial_transformer.read(images, scale, shift, 7, zero)
    )
    patches = torch.rand(3, 2, 7, 7, generator=seeded(3))
    torch.testing.assert_close(
        spatial_transformer.write(patches, scale, shift, 11, 14),
        spatial_transformer.write(patches, scale, shift, 11, 14, zero),
    )
    assert torch.equal(
        spatial_transformer.boxes(scale, shift, 11, 14), spatial_transformer.boxes(scale, shift, 11, 14, zero)
    )


def test_a_quarter_turn_is_rot90() -> None:
    patch = torch.rand(1, 1, 8, 8, generator=seeded(0))
    whole, centre, quarter = torch.ones(1, 2), torch.zeros(1, 2), torch.full((1,), torch.pi / 2)
    turned = spatial_transformer.write(patch, whole, centre, 8, 8, quarter)
    torch.testing.assert_close(turned, patch.rot90(1, (2, 3)), atol=1e-5, rtol=0)  # rot90: counter-clockwise as seen


@pytest.mark.parametrize("angle", [None, 0.0, 0.4, -1.1])
def test_reading_undoes_writing(angle: float | None) -> None:
    # A smooth patch, drawn larger than its own pixels so that interpolation is nearly exact, comes back.
    axis = torch.linspace(-1.5, 1.5, 12)
    patch = torch.exp(-(axis[:, None] ** 2) - 2.0 * (axis[None, :] - 0.3) ** 2).view(1, 1, 12, 12)
    scale, shift = torch.tensor([[0.5, 0.35]]), torch.tensor([[0.1, -0.2]])
    turn = None if angle is None else torch.tensor([angle])
    canvas = spatial_transformer.write(patch, scale, shift, 90, 110, turn)
    again = spatial_transformer.read(canvas, scale, shift, 12, turn)
    assert (again - patch)[..., 1:-1, 1:-1].abs().max() < 0.03
    x0, y0, x1, y1 = spatial_transformer.boxes(scale, shift, 90, 110, turn)[0].tolist()
    rows, columns = (canvas[0, 0].amax(dim=d).nonzero().flatten() + 0.5 for d in (1, 0))
    edges = [float(v) for v in (columns.min(), rows.min(), columns.max(), rows.max())]
    assert edges == pytest.approx([x0, y0, x1, y1], abs=2.5)


def test_poses_have_the_freedom_they_say() -> None:
    for pose, size in (("isotropic", 3), ("separate", 4), ("rotated", 5)):
        model = model_of(pose=pose)
        assert model.slot_size == size + SMALL["what_size"]
        scale, _, angle = model._pose(torch.randn(6, size, generator=seeded(0)))
        assert bool((scale[:, 0] == scale[:, 1]).all()) == (pose == "isotropic")
        assert (angle is not None) == (pose == "rotated")


def test_composition_over_covers_what_lies_below() -> None:
    model = model_of(compose="over", background="learned", presence_bias=2.0)
    images = torch.rand(4, 1, 12, 10, generator=seeded(3))
    with torch.no_grad():
        out = model(images)
        slots = out.slots
        decoded = model.decode(slots)
        mixed = (decoded.masks.unsqueeze(2) * decoded.components).sum(dim=1)
        torch.testing.assert_close(mixed, decoded.reconstruction, atol=1e-4, rtol=1e-4)
        # By the book: last step on top.
        canvas = model.background_decoder(slots[:, 0, :3])
        for i in range(1, 4):
            layer = model._draw(slots[:, i])
            canvas = (1 - layer[:, 1:]) * canvas + layer[:, :1]
        torch.testing.assert_close(decoded.reconstruction, canvas)
        none = model.decode(slots, torch.zeros(4, 4))
        torch.testing.assert_close(none.reconstruction, model.background_decoder(slots[:, 0, :3]))


def test_prefix_canvases_start_at_the_background() -> None:
    for compose in ("sum", "over"):
        model = model_of(compose=compose, background="learned")
        images = torch.rand(4, 1, 12, 10, generator=seeded(3))
        with torch.no_grad():
            background = model.infer_background(images, seeded(0))
            chain = model.infer(images, seeded(0), background)
            canvases = model._prefix_canvases(background, chain)
            assert torch.equal(canvases[:, 0], background.picture)
            slots = torch.stack([found.slot for found in chain], dim=1)
            first = torch.nn.functional.pad(background.latent, (0, slots.shape[2] - 3)).unsqueeze(1)
            whole = model.decode(torch.cat([first, slots], dim=1)).reconstruction
            torch.testing.assert_close(canvases[:, -1], whole)
