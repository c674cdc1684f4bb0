"""AIR in 3D: promises, the objective by the book, gradients of kinds and poses against brute force, and baselines."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from objectwise.core import UserError, check_model
from objectwise.data.table_scenes import SingleObjectConfig, TableScenesConfig
from objectwise.models import air_3d, air_estimators
from objectwise.models.air_3d import AIR3D, AIR3DConfig
from objectwise.models.air_3d_attention import on_table
from objectwise.models.air_3d_baselines import fit_supervised, in_order, optimise, supervised_loss
from objectwise.models.air_estimators import Draw, count_prior_logits, log_count_weights, log_joint
from objectwise.rendering.tabletop import (
    Renderer,
    TableScene,
    Tabletop,
    TabletopConfig,
    numba_is_there,
    project,
    table_scene,
)

needs_numba = pytest.mark.skipif(not numba_is_there(), reason="numba is not installed")


def tiny(shape: tuple[int, int, int] = (3, 12, 12), **settings: Any) -> AIR3D:
    torch.manual_seed(0)
    sizes = {"widths": (6, 6), "embedding_size": 12, "hidden_size": 12, "presence_bias": 0.3}
    model = AIR3D(AIR3DConfig(image_shape=shape, **{**sizes, **settings}))
    torch.nn.init.normal_(model.head.weight, std=0.3)
    return model


def pictures(model: AIR3D, batch: int = 2) -> Tensor:
    look, number = model.look, model.config.num_steps
    generator = torch.Generator().manual_seed(5)
    pose = torch.cat([torch.rand(batch, number, 2, generator=generator) * 2 - 1, torch.rand(batch, number, 1)], dim=2)
    kind = torch.randint(0, 3, (batch, number), generator=generator)
    return Tabletop(look)(table_scene(kind, pose, look)).float()


SETTINGS: list[dict[str, Any]] = [
    {"identity": "local-expectation"},
    {"identity": "enumeration", "num_steps": 2},
    {"identity": "enumeration", "num_steps": 2, "estimator": "collapsed"},
    {"identity": "score", "estimator": "score", "gradient": "spsa"},
    {"identity": "collapsed", "num_steps": 2, "attention": True},
    {"identity": "collapsed", "num_steps": 3, "estimator": "collapsed"},
    {"num_steps": 3, "estimator": "collapsed"},
    {"gradient": "evolution", "camera": "inferred", "num_steps": 2, "attention": True},
    {"gradient": "autograd", "camera": "inferred", "num_steps": 2},
    {"num_steps": 3, "attention": True, "residual": True},
    {"num_steps": 2, "attention": True, "residual": True, "camera": "inferred"},
    {"identity": "collapsed", "num_steps": 1},
    {"identity": "enumeration", "num_steps": 1, "attention": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: "-".join(map(str, each.values())))
def test_contract(settings: dict[str, Any]) -> None:
    if settings.get("gradient") != "autograd" and not numba_is_there():
        pytest.skip("slow without numba")
    check_model(tiny((1, 9, 14), **settings))


def test_one_step_can_become_more() -> None:
    """The recurrence, which a single step does not train, is there and is trained with more steps."""
    one = tiny(num_steps=1, scene=TabletopConfig(backend="torch"))
    more = one.reconfigured(num_steps=2)
    assert not one.recurrent.weight_hh.requires_grad
    assert more.recurrent.weight_hh.requires_grad
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(more.infer(images, None)[1][0].mean, one.infer(images, None)[1][0].mean)


class BlackBoxAIR(AIR3D):
    """With a renderer that offers nothing but pictures."""

    def build_renderer(self, look: TabletopConfig) -> Renderer:
        ours = Tabletop(look)
        return _Plain(ours)


class _Plain:
    def __init__(self, ours: Tabletop) -> None:
        self.ours = ours

    def __call__(self, scene: TableScene) -> Tensor:
        return self.ours(scene)


@needs_numba
def test_a_renderer_of_ones_own_needs_only_pictures() -> None:
    model = tiny(num_steps=2)
    box = BlackBoxAIR(model.config)
    box.load_state_dict(model.state_dict())
    check_model(box)
    images = pictures(model)
    first, second = (m(images, generator=torch.Generator().manual_seed(1)) for m in (model, box))
    torch.testing.assert_close(first.loss, second.loss, rtol=1e-4, atol=1e-2)
    gradients = [torch.autograd.grad(out.loss.mean(), m.head.weight)[0] for out, m in ((first, model), (second, box))]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-2, atol=0.05)


# -- the objective ----------------------------------------------------------------------------------------------------


def test_count_prior_of_any_size() -> None:
    for k in (1e-300, 1e-3, 0.5, 1.0, 7.0, 1e200):
        log_prior = log_count_weights(torch.tensor([count_prior_logits(4, k)], dtype=torch.float64))[0]
        assert (log_prior[1:] - log_prior[:-1]).tolist() == pytest.approx([math.log(k)] * 4, rel=1e-5, abs=1e-9)


def by_the_book(model: AIR3D, image: Tensor, row: int, chain: list[Any]) -> float:
    """−ELBO at the means in Python loops: Σ_n q(n) [E_k log p(x | x_n) + log p(n) − log q(n) − Σ_{i≤n} KL_i], kinds summed."""
    config, k, sigma = model.config, model.config.count_prior, model.config.likelihood_std
    most, kinds = config.num_steps, len(model.look.kinds)
    used = [1 / (1 + math.exp(-step.logit[row].item())) for step in chain]
    prior = [k**n / sum(k**m for m in range(most + 1)) for n in range(most + 1)]
    pose = torch.stack([model.pose(step.latent[row]) for step in chain]).detach()
    total, alive, divergence = 0.0, 1.0, 0.0
    for n in range(most + 1):
        if n > 0:
            step = chain[n - 1]
            alive *= used[n - 1]
            for mean, std in zip(step.mean[row].tolist(), step.std[row].tolist(), strict=True):
                divergence += 0.5 * (std**2 + mean**2 - 1) - math.log(std)
            for log_q in step.kinds[row].tolist():
                divergence += math.exp(log_q) * (log_q + math.log(kinds))
        weight = alive * (1 - used[n] if n < most else 1.0)
        likelihood = 0.0
        for combination in itertools.product(range(kinds), repeat=n):
            share = math.prod(math.exp(chain[i].kinds[row, kind].item()) for i, kind in enumerate(combination))
            scene = table_scene(
                torch.tensor([combination], dtype=torch.int64).view(1, n), pose[:n].unsqueeze(0), model.look
            )
            error = (Tabletop(model.look)(scene)[0] - image).square().sum().item()
            density = -error / (2 * sigma**2) - image.numel() * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
            likelihood += share * density
        total += weight * (likelihood + math.log(prior[n]) - math.log(weight) - divergence)
    return -total


@needs_numba
def test_the_loss_by_the_book() -> None:
    model = tiny(num_steps=2, identity="enumeration")
    with torch.no_grad():  # so sure of the first kind that the divergence of the kinds cannot hide in the tolerance
        model.head.bias[8] = 4.0
    images = pictures(model)
    out = model(images)
    _, chain = model.infer(images, None)
    for row in range(2):
        assert out.loss[row].item() == pytest.approx(by_the_book(model, images[row], row, chain), rel=1e-4)


@needs_numba
def test_collapsed_kinds_by_the_book() -> None:
    """Loss = −Σ_n q(n) [log Σ_k p(k) p(x | x_n) + log p(n) − log q(n) − Σ_{i≤n} KL_i] + Σ_n q(n) cross-entropy, in loops."""
    model = tiny(num_steps=2, identity="collapsed", likelihood_std=0.5)
    images = pictures(model)
    out = model(images)
    _, chain = model.infer(images, None)
    for row in range(2):
        used = [1 / (1 + math.exp(-step.logit[row].item())) for step in chain]
        weights = [1 - used[0], used[0] * (1 - used[1]), used[0] * used[1]]
        prior = [model.config.count_prior**n for n in range(3)]
        total, imitation, divergence = 0.0, 0.0, 0.0
        for n, weight in enumerate(weights):
            if n > 0:
                mean, std = (getattr(chain[n - 1], name)[row] for name in ("mean", "std"))
                divergence += (0.5 * (std**2 + mean**2 - 1) - std.log()).sum().item()
            density, log_q = list[float](), list[float]()
            for combination in itertools.product(range(3), repeat=n):
                pose = torch.stack([model.pose(step.latent[row]) for step in chain])[:n].detach().unsqueeze(0)
                scene = table_scene(torch.tensor([combination], dtype=torch.int64).view(1, n), pose, model.look)
                error = (Tabletop(model.look)(scene)[0] - images[row]).square().sum().item()
                density.append(-error / 0.5 - images[row].numel() * math.log(0.5 * math.sqrt(2 * math.pi)))
                log_q.append(sum(chain[i].kinds[row, kind].item() for i, kind in enumerate(combination)))
            evidence = max(density) + math.log(sum(math.exp(each - max(density)) for each in density) / 3**n)
            share = [math.exp(each - evidence) / 3**n for each in density]
            imitation -= weight * sum(r * q for r, q in zip(share, log_q, strict=True))
            total += weight * (evidence + math.log(prior[n] / sum(prior)) - math.log(weight) - divergence)
        assert out.terms["kinds"][row].item() == pytest.approx(imitation, rel=1e-3)
        assert out.loss[row].item() == pytest.approx(imitation - total, rel=1e-5)


def head_gradient(model: AIR3D, images: Tensor, seed: int) -> Tensor:
    """Of the loss in the head's biases at posterior samples that are the same at every call."""
    view, chain = model.infer(images, torch.Generator().manual_seed(3))
    draw, imitation = model._draw(images, view, chain, torch.Generator().manual_seed(seed), None)
    assert imitation is not None
    loss = imitation - (log_count_weights(draw.logits).exp() * draw.log_likelihood).sum(dim=1)
    (gradient,) = torch.autograd.grad(loss.mean(), model.head.bias)
    return gradient


@needs_numba
def test_a_despaired_kind_comes_back() -> None:
    """Whatever q(k): the same gradient in the pose, and in the logits of the kinds q − r, which does not vanish."""
    gradients = []
    for bias in (0.0, 15.0):
        model = tiny(num_steps=1, identity="collapsed", likelihood_std=0.5)
        with torch.no_grad():
            model.head.weight[8:] = 0.0
            model.head.bias[8:] = torch.tensor([bias, 0.0, 0.0])
        gradients.append(head_gradient(model, pictures(model), 0))
    torch.testing.assert_close(gradients[0][1:8], gradients[1][1:8], rtol=1e-4, atol=1e-5)
    assert gradients[0][1:3].abs().max() > 0.1
    used = torch.sigmoid(torch.tensor(0.3))
    assert gradients[1][8] > 0.1 * used
    assert (gradients[1][8:] - gradients[0][8:])[0] == pytest.approx(2 / 3 * used.item(), rel=0.3)


@needs_numba
def test_poses_of_a_drawn_combination_are_unbiased(monkeypatch: pytest.MonkeyPatch) -> None:
    """One combination drawn from r per count, against all of them, by a z-test."""
    model = tiny(num_steps=2, identity="collapsed", likelihood_std=1.0)
    images = pictures(model)
    exact = head_gradient(model, images, 0)
    monkeypatch.setattr(air_3d, "_EXACT", 1)
    draws = torch.stack([head_gradient(model, images, seed) for seed in range(300)])
    z = (draws.mean(0) - exact).abs() / (draws.std(0) / math.sqrt(300) + 1e-4)
    assert z.max() < 4
    assert draws.std(0)[1:3].min() > 1e-3


def test_a_collapsed_count_with_sampled_kinds_by_brute_force() -> None:
    """The gradient, averaged over all combinations, is that of the exact mean of the bound over kinds."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scores, place = random(1, 2, 3).requires_grad_(), random(1, 3).requires_grad_()
    table, prior, ratio = 2.0 * random(3, 3, 3), random(2), random(1, 3)
    table[..., 0], table[..., 1] = table[0, 0, 0], table[:, :1, 1]  # of the first n kinds alone
    kinds, logits = scores.log_softmax(dim=2), torch.zeros(1, 2, dtype=torch.float64)
    exact, estimated = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    gradients: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for first, second in itertools.product(range(3), repeat=2):
        chosen = torch.tensor([[first, second]])
        alternatives = torch.stack([table[:, second], table[first]]).unsqueeze(0)
        likelihood = table[first, second].unsqueeze(0) + place
        draw = Draw(logits, prior, likelihood, ratio, ratio)
        weight = kinds[0, 0, first].exp() * kinds[0, 1, second].exp()
        own = torch.stack([torch.zeros(()), kinds[0, 0, first], kinds[0, 1, second]]) + math.log(3.0)
        own = own * torch.tensor([0.0, 1.0, 1.0])
        exact = exact + weight * log_joint(draw._replace(log_ratio=ratio + own)).logsumexp(dim=1).sum()
        alone = (alternatives + place.detach()).expand(1, 2, 3, 3)
        given = air_3d._with_sampled_kinds(draw, ratio, kinds, chosen, alone)
        estimated = estimated + weight.detach() * air_estimators.collapsed(given).bound.sum()
        joint = log_joint(given).logsumexp(dim=1).sum()
        for total, part in zip(gradients, torch.autograd.grad(joint, (scores, place), retain_graph=True), strict=True):
            total.append(weight.detach() * part)
    torch.testing.assert_close(estimated, exact.detach())
    for total, wanted in zip(gradients, torch.autograd.grad(exact, (scores, place)), strict=True):
        torch.testing.assert_close(torch.stack(total).sum(dim=0), wanted)


# -- attention --------------------------------------------------------------------------------------------------------


def test_pixels_and_the_table() -> None:
    look = TabletopConfig(width=40, height=28)
    generator = torch.Generator().manual_seed(0)
    point = torch.cat([torch.rand(5, 2, generator=generator) * 3 - 1.5, torch.full((5, 1), 0.4)], dim=1)
    camera = torch.tensor(look.fixed_camera) + 0.2 * torch.rand(5, 2, generator=generator)
    nothing = torch.zeros(5, 0, dtype=torch.int64)
    scene = TableScene(nothing, torch.zeros(5, 0, 3), nothing.bool(), camera)
    seen = project(scene, look, point.unsqueeze(1))[:, 0, :2]
    torch.testing.assert_close(on_table(seen, camera, look, 0.4), point[:, :2], atol=1e-4, rtol=0)


def test_attention_finds_an_object_before_any_training() -> None:
    torch.manual_seed(0)
    model = AIR3D(AIR3DConfig(image_shape=(3, 32, 32), num_steps=1, attention=True))
    with torch.no_grad():
        model.head.weight.zero_()
    place = torch.tensor([[0.9, 0.0], [-0.9, 0.3], [0.0, -0.9], [0.2, 1.0]])
    look = model.look.replaced(backend="torch")
    pose = torch.cat([place, torch.zeros(4, 1)], dim=1).unsqueeze(1)
    images = Tabletop(look)(table_scene(torch.tensor([[0], [1], [2], [1]]), pose, look)).float()
    _, chain = model.infer(images, None)
    assert (model.pose(chain[0].mean)[:, :2] - place).norm(dim=1).max() < 0.3


def test_of_objects_alike_every_step_looks_at_one_that_is_not_explained_yet() -> None:
    torch.manual_seed(0)
    model = AIR3D(AIR3DConfig(image_shape=(3, 32, 32), num_steps=3, attention=True, residual=True, camera="inferred"))
    with torch.no_grad():
        model.head.weight.zero_()
        model.camera_head.weight.zero_()
        model.head.bias[-2] = 5.0  # a sphere
    place = torch.tensor([[-0.9, 0.2], [0.8, -0.7], [0.5, 0.9]])
    look = model.look.replaced(backend="torch")
    pose = torch.cat([place, torch.zeros(3, 1)], dim=1).unsqueeze(0)
    images = Tabletop(look)(table_scene(torch.ones(1, 3, dtype=torch.int64), pose, look)).float()
    _, chain = model.infer(images, None)
    found = torch.cat([model.pose(step.mean)[:, :2] for step in chain])
    nearest = (found.unsqueeze(1) - place).norm(dim=2).min(dim=1)
    assert sorted(nearest.indices.tolist()) == [0, 1, 2]
    assert nearest.values.max() < 0.25


def test_residuals_need_attention() -> None:
    with pytest.raises(ValueError, match="residual needs attention"):
        AIR3DConfig(residual=True)


def test_the_yaw_is_never_spread_wider_than_allowed() -> None:
    free, bound = (tiny(num_steps=1, pose_std=2.0, rotation_spread=spread) for spread in (None, 0.15))
    images = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    stds = [model.infer(images, None)[1][0].std * model.config.rotation_std for model in (free, bound)]
    assert stds[0][:, 2].min() > 0.5
    assert 0.1 < stds[1][:, 2].min() <= stds[1][:, 2].max() <= 0.15 + 1e-6
    torch.testing.assert_close(stds[0][:, :2], stds[1][:, :2])


def logit_gradient(model: AIR3D, images: Tensor, generator: torch.Generator, fixed: int = 3) -> Tensor:
    """The gradient in the biases of presence and kinds, the poses' noise being the same at every call."""
    view, chain = model.infer(images, torch.Generator().manual_seed(fixed))
    draw, _ = model._draw(images, view, chain, generator, None)
    loss = -(log_count_weights(draw.logits).exp() * draw.log_likelihood).sum(dim=1)
    (gradient,) = torch.autograd.grad(loss.mean(), model.head.bias)
    return torch.cat([gradient[:1], gradient[8:]])


@needs_numba
@pytest.mark.parametrize("identity", ["local-expectation", "score"])
def test_sampled_kinds_are_unbiased(identity: str) -> None:
    """Against the sum over all combinations, by a z-test; the local expectation varies less than the score function."""
    settings = {"num_steps": 2, "likelihood_std": 1.0}
    images = pictures(tiny(**settings))
    exact = logit_gradient(tiny(identity="enumeration", **settings), images, torch.Generator())
    model, generator = tiny(identity=identity, **settings), torch.Generator().manual_seed(0)
    draws = torch.stack([logit_gradient(model, images, generator) for _ in range(150)])
    z = (draws.mean(0) - exact).abs() / (draws.std(0) / math.sqrt(150) + 1e-4)
    assert z.max() < 4
    if identity == "local-expectation":
        assert (draws.mean(0) - exact).norm() < 0.1 * exact.norm()


@needs_numba
@pytest.mark.parametrize("identity", ["local-expectation", "score"])
def test_sampled_kinds_by_brute_force(identity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every combination in turn, weighted by how often it is drawn: the gradient of the sum over all combinations, exactly."""
    settings = {"num_steps": 2, "likelihood_std": 1.0}
    images = pictures(tiny(**settings))
    exact = logit_gradient(tiny(identity="enumeration", **settings), images, torch.Generator())
    model = tiny(identity=identity, **settings)
    view, chain = model.infer(images, torch.Generator().manual_seed(3))
    total = torch.zeros(())
    for combination in itertools.product(range(3), repeat=2):
        drawn = torch.tensor(combination).expand(len(images), 2)
        monkeypatch.setattr(air_3d, "_choose", lambda *_, drawn=drawn: drawn)
        log_q = torch.stack([step.kinds[:, kind] for step, kind in zip(chain, combination, strict=True)]).sum(dim=0)
        draw, _ = model._draw(images, view, chain, torch.Generator(), None)
        each = (log_count_weights(draw.logits).exp() * draw.log_likelihood).sum(dim=1)
        total = total - (log_q.exp().detach() * each).mean()
    (gradient,) = torch.autograd.grad(total, model.head.bias)
    found = torch.cat([gradient[:1], gradient[8:]])
    assert (found - exact).norm() < 1e-3 * exact.norm()


@needs_numba
def test_the_gradient_in_poses_is_that_of_the_loss() -> None:
    """Finite differences inside against finite differences of the whole loss in a bias of the network, fine samples for both."""
    # Turned, because the edges of a cube that is aligned with the pixels cross all samples of a row at once.
    model = tiny((3, 16, 16), num_steps=1, identity="enumeration", scene=TabletopConfig(samples=8))
    with torch.no_grad():
        model.head.bias[4] = 0.5
    images = pictures(model)
    out = model(images)
    (gradient,) = torch.autograd.grad(out.loss.mean(), model.head.bias)
    slopes = []
    for entry in (1, 2):  # the two places
        ends = []
        for sign in (1, -1):
            moved = tiny((3, 16, 16), num_steps=1, identity="enumeration", scene=TabletopConfig(samples=8))
            with torch.no_grad():
                moved.head.bias[4] = 0.5
                moved.head.bias[entry] += sign * 0.06
                ends.append(moved(images).loss.mean().item())
        slopes.append((ends[0] - ends[1]) / 0.12)
    expected = torch.tensor(slopes)
    assert (gradient[1:3] - expected).norm() < 0.25 * expected.norm()


def test_impossible_settings() -> None:
    with pytest.raises(UserError, match="use identity local-expectation"):
        AIR3DConfig(identity="enumeration", num_steps=5)
    with pytest.raises(UserError, match="collapsed needs identity local-expectation"):
        AIR3DConfig(estimator="collapsed", identity="score")
    with pytest.raises(UserError, match="autograd needs family primitives"):
        AIR3DConfig(gradient="autograd", scene=TabletopConfig(family="tableware"))
    with pytest.raises(UserError, match="1 or 3 channels, not 2"):
        AIR3D(AIR3DConfig(image_shape=(2, 8, 8)))


# -- what it says -----------------------------------------------------------------------------------------------------


def test_the_scene_in_words_and_from_elsewhere() -> None:
    model = tiny(num_steps=2, presence_bias=4.0, scene=TabletopConfig(backend="torch"))
    found = model.decompose(pictures(model))
    rows = model.describe(found)
    assert [row["count"] for row in rows] == found.counts().tolist()
    scene = model.scene(found.slots)
    torch.testing.assert_close(found.factors["yaw"][:, 1:], scene.pose[:, :, 2])
    torch.testing.assert_close(found.factors["kind"][:, 1:], scene.kind)
    first = rows[0]["objects"][0]
    assert first["kind"] == model.look.kinds[int(scene.kind[0, 0])].name
    assert first["x"] == pytest.approx(scene.pose[0, 0, 0].item(), abs=1e-3)
    assert 0 <= first["yaw_degrees"] < 360
    assert rows[0]["camera_degrees"] == {"azimuth": -90.0, "elevation": 50.0}
    views = model.other_views(found, (0.0, 90.0))
    assert views.shape == (2, 2, 3, 12, 12)
    torch.testing.assert_close(views[:, 0], found.reconstruction)
    assert not torch.allclose(views[:, 0], views[:, 1], atol=0.05)


def test_decoding_slots_by_hand() -> None:
    model = tiny((3, 24, 24), num_steps=2, scene=TabletopConfig(backend="torch"))
    slots = torch.zeros(1, 3, 6)
    slots[0, 1] = torch.tensor([0.5, -0.4, 0.3, 0.1, 0.8, 0.1])
    slots[0, 2, 3] = 1.0
    decoded = model.decode(slots, torch.tensor([[1.0, 0.9, 0.2]]))
    pose = torch.tensor([[[1.5 * math.erf(0.5 / math.sqrt(2)), 1.5 * math.erf(-0.4 / math.sqrt(2)), 0.54]]])
    expected = Tabletop(model.look).view(table_scene(torch.tensor([[1]]), pose, model.look))
    torch.testing.assert_close(decoded.reconstruction, expected.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(decoded.masks[:, 1], expected.coverage[:, 1], atol=1e-5, rtol=0)
    assert decoded.masks[:, 2].max() == 0


# -- baselines --------------------------------------------------------------------------------------------------------


def test_order_matters_only_to_the_fixed_one() -> None:
    model = tiny(num_steps=3, scene=TabletopConfig(backend="torch"))
    truth = TableScenesConfig(counts=(2, 3), renderer=TabletopConfig(backend="torch")).build().scene("val", range(6))
    images = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    shuffled = TableScene(truth.kind.flip(1), truth.pose.flip(1), truth.present.flip(1), truth.camera)
    for order in ("fixed", "matched"):
        torch.testing.assert_close(*(supervised_loss(model, images, each, order) for each in (truth, shuffled)))
    fixed, matched = (supervised_loss(model, images, truth, order) for order in ("fixed", "matched"))
    assert (matched <= fixed + 1e-5).all()
    assert (matched < fixed - 1e-3).any()
    kinds = in_order(truth).kind
    for row, n in enumerate(truth.present.sum(dim=1).tolist()):
        assert (kinds[row, : n - 1] <= kinds[row, 1:n]).all()
        assert in_order(truth).present[row, :n].all()


def test_yaws_as_vectors_and_as_angles() -> None:
    """The part of the loss that is about the yaw, by hand: 2 − 2 cos and the square of the wrapped difference."""
    model = tiny(num_steps=1, scene=TabletopConfig(backend="torch"))
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    yaw = model.pose(model.infer(images, None)[1][0].latent)[:, 2].detach()
    kind, place = torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1, 2)
    away = torch.tensor([0.3, 2.0])  # then 2π are added, which changes nothing
    scenes = [
        table_scene(kind, torch.cat([place, (yaw + turn).view(2, 1, 1)], dim=2), model.look)
        for turn in (torch.zeros(2), away + 2.0 * math.pi)
    ]
    vector, angle = ([supervised_loss(model, images, s, "fixed", t) for s in scenes] for t in ("vector", "angle"))  # type: ignore[arg-type]
    torch.testing.assert_close(vector[1] - vector[0], 2.0 - 2.0 * away.cos(), atol=1e-4, rtol=0)
    wrapped = torch.remainder(yaw + away + math.pi, 2.0 * math.pi) - math.pi
    start = torch.remainder(yaw + math.pi, 2.0 * math.pi) - math.pi
    torch.testing.assert_close(angle[1] - angle[0], (yaw - wrapped) ** 2 - (yaw - start) ** 2, atol=1e-4, rtol=0)
    assert (wrapped.abs() <= math.pi).all()


def test_the_supervised_network_learns_from_labels() -> None:
    model = tiny(num_steps=1, scene=TabletopConfig(backend="torch"), likelihood_std=0.3)
    data = SingleObjectConfig(renderer=TabletopConfig(height=12, width=12, backend="torch")).build()
    batches = iter([(data.batch("train", range(16)).images, data.scene("train", range(16)))] * 60)
    losses = fit_supervised(model, batches, learning_rate=1e-2, steps=60)
    assert len(losses) == 60
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@needs_numba
def test_direct_optimisation_finds_a_sphere() -> None:
    model = tiny((3, 24, 24), num_steps=1, scene=TabletopConfig(), count_prior=0.5)
    images = Tabletop(model.look)(
        table_scene(torch.tensor([[1], [1]]), torch.tensor([[[0.4, -0.3, 0.0]], [[-0.5, 0.6, 0.0]]]), model.look)
    )
    found = optimise(model, images, restarts=9, steps=60)
    assert found.scene.kind[:, 0].tolist() == [1, 1]
    assert (found.scene.pose[:, 0, :2] - torch.tensor([[0.4, -0.3], [-0.5, 0.6]])).abs().max() < 0.06
    assert found.scene.present.all()
    assert found.seconds > 0
    with pytest.raises(UserError, match="needs a fixed camera"):
        optimise(tiny(camera="inferred", num_steps=1), images[:, :, :12, :12])
