"""Laws of the ray caster, its two backends against each other and against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from objectwise.core import UserError
from objectwise.rendering import primitives3d
from objectwise.rendering.primitives3d import (
    CUBE,
    CYLINDER,
    KINDS,
    SPHERE,
    Look,
    RenderSettings,
    Scene,
    composite,
    make_scene,
    prefixes,
    project,
    render,
    render_layers,
)

NUMBA = primitives3d.numba_is_there()
BACKENDS = ("torch", *(["numba"] if NUMBA else []))


def one(kind: int, position=(0.0, 0.0, 0.7), size=0.7, rotation=0.0, metal=0.0, **changes) -> Scene:
    tensor = lambda value: torch.tensor([[value]], dtype=torch.float64)  # noqa: E731
    return make_scene(
        torch.tensor([[kind]]),
        tensor(position),
        tensor(size),
        tensor((0.7, 0.2, 0.3)),
        rotation=tensor(rotation),
        metal=tensor(metal),
        **{name: torch.tensor([value], dtype=torch.float64) for name, value in changes.items()},
    )


def random_scenes(batch: int, objects: int, dtype=torch.float64, seed: int = 0) -> Scene:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    size = 0.35 + 0.35 * (draw(batch, objects) < 0.5)
    position = torch.cat([6 * draw(batch, objects, 2) - 3, (size + 0.5 * draw(batch, objects)).unsqueeze(-1)], -1)
    scene = make_scene(
        (3 * draw(batch, objects)).long(),
        position,
        size,
        draw(batch, objects, 3),
        rotation=7 * draw(batch, objects),
        metal=draw(batch, objects).round(),
        present=draw(batch, objects) < 0.9,
        eye=torch.tensor(primitives3d.EYE).double() + draw(batch, 3),
        lamps=torch.tensor(primitives3d.LAMPS).double() + draw(batch, 3, 3),
    )
    return Scene(*(value.to(dtype) if value.is_floating_point() else value for value in scene))


@pytest.mark.skipif(not NUMBA, reason="numba is not installed")
@pytest.mark.parametrize(("height", "width", "samples"), [(24, 32, 1), (31, 17, 2), (12, 12, 4)])
def test_numba_and_torch_agree(height: int, width: int, samples: int) -> None:
    scene = random_scenes(6, 4)
    settings = RenderSettings(height=height, width=width, samples=samples, field_of_view=40)
    for draw in (render, render_layers):
        first, second = (draw(scene, settings.replaced(backend=name)) for name in ("torch", "numba"))
        for name, ours, theirs in zip(first._fields, first, second, strict=True):
            torch.testing.assert_close(
                ours, theirs, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("eye", [(5.0, 0.0, 4.0), (-3.0, 6.0, 2.5)])
def test_a_sphere_covers_the_area_of_its_ellipse(backend: str, eye: tuple[float, float, float]) -> None:
    # A sphere of radius r at distance D in the middle of the view is a circle of angular radius asin(r / D).
    scene = one(SPHERE, eye=eye, target=(0.0, 0.0, 0.7))
    settings = RenderSettings(height=128, width=128, samples=4, field_of_view=25, backend=backend)
    distance = math.dist(eye, (0.0, 0.0, 0.7))
    radius = math.tan(math.asin(0.7 / distance)) / settings.tangent * 64
    area = torch.isfinite(render_layers(scene, settings).depth).sum().item() / 16
    assert area == pytest.approx(math.pi * radius**2, rel=0.003)
    assert (render(scene, settings).ids == 1).sum().item() == pytest.approx(area, rel=0.01)


@pytest.mark.parametrize("backend", BACKENDS)
def test_depth_of_the_nearest_points(backend: str) -> None:
    # Seen along -x from (8, 0, 1): the ray through the middle meets every solid of size 0.7 at x = 0.7, that is at depth 7.3.
    settings = RenderSettings(height=33, width=33, samples=1, field_of_view=20, backend=backend)
    for kind in (CUBE, SPHERE, CYLINDER):
        scene = one(kind, position=(0.0, 0.0, 1.0), eye=(8.0, 0.0, 1.0), target=(0.0, 0.0, 1.0))
        rendered = render(scene, settings)
        assert rendered.ids[0, 16, 16] == 1
        assert rendered.depth[0, 16, 16] == pytest.approx(7.3, abs=1e-9)
    corner = one(CUBE, (0.0, 0.0, 1.0), rotation=math.pi / 4, eye=(8.0, 0.0, 1.0), target=(0.0, 0.0, 1.0))
    assert render(corner, settings).depth[0, 16, 16] == pytest.approx(8 - 0.7 * math.sqrt(2), abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cube_face_covers_its_square(backend: str) -> None:
    # Straight in front, the front face (side 1.4 at distance 7.3) hides the rest of the cube.
    settings = RenderSettings(height=64, width=64, samples=4, field_of_view=20, backend=backend)
    scene = one(CUBE, position=(0.0, 0.0, 1.0), eye=(8.0, 0.0, 1.0), target=(0.0, 0.0, 1.0))
    side = 0.7 / 7.3 / settings.tangent * 64
    assert (render(scene, settings).ids == 1).sum().item() == pytest.approx(side**2, rel=0.06)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_nearer_object_hides_the_other(backend: str) -> None:
    toward = torch.tensor([[3.0, 0.0, 0.5], [0.0, 0.0, 0.5]], dtype=torch.float64)
    settings = RenderSettings(height=33, width=33, samples=1, backend=backend)
    for order, winner in (((0, 1), 1), ((1, 0), 2)):
        scene = make_scene(
            torch.tensor([[SPHERE, SPHERE]]),
            toward[list(order)].unsqueeze(0),
            torch.full((1, 2), 0.5, dtype=torch.float64),
            torch.ones(1, 2, 3, dtype=torch.float64) / 2,
            eye=torch.tensor([[9.0, 0.0, 0.5]], dtype=torch.float64),
            target=torch.tensor([[0.0, 0.0, 0.5]], dtype=torch.float64),
        )
        assert render(scene, settings).ids[0, 16, 16] == winner


@pytest.mark.parametrize("backend", BACKENDS)
def test_symmetries(backend: str) -> None:
    settings = RenderSettings(height=32, width=32, backend=backend)
    pictures = {
        kind: [render(one(kind, rotation=0.3 + turn), settings).images for turn in (0.0, math.pi / 2, 0.5)]
        for kind in (CUBE, SPHERE, CYLINDER)
    }
    for kind, (plain, quarter, other) in pictures.items():
        torch.testing.assert_close(plain, quarter, rtol=0, atol=1e-6, msg=f"{KINDS[kind]} by a quarter turn")
        same = torch.allclose(plain, other, rtol=0, atol=1e-6)
        assert same == (kind != CUBE), f"{KINDS[kind]} by half a radian"


def test_turning_the_world_changes_nothing() -> None:
    scene, settings = random_scenes(3, 3), RenderSettings(height=24, width=24, backend="torch")
    angle = 0.7
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    ).double()
    turned = scene._replace(
        rotation=scene.rotation + angle,
        **{name: getattr(scene, name) @ turn.T for name in ("position", "eye", "target", "lamps")},
    )
    before, after = render(scene, settings), render(turned, settings)
    assert (before.ids != after.ids).sum() <= 2
    torch.testing.assert_close(before.images.mean((1, 2, 3)), after.images.mean((1, 2, 3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_samples_converge(backend: str) -> None:
    scene = random_scenes(2, 3)
    sizes = {"height": 24, "width": 24, "backend": backend}
    fine = render(scene, RenderSettings(**{**sizes, "height": 96, "width": 96}, samples=4)).images.square()
    exact = torch.nn.functional.avg_pool2d(fine, 4).sqrt()
    errors = [
        (render(scene, RenderSettings(**sizes, samples=samples)).images - exact).abs().mean().item()
        for samples in (1, 2, 4)
    ]
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] < 0.7 * errors[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_picture_is_composed_of_its_layers(backend: str) -> None:
    scene, settings = random_scenes(3, 3, torch.float32), RenderSettings(height=20, width=28, backend=backend)
    layers = render_layers(scene, settings)
    whole, composed = render(scene, settings), composite(layers, settings.samples)
    torch.testing.assert_close(composed.images, whole.images, rtol=0, atol=1e-5)
    assert torch.equal(composed.ids, whole.ids)
    order = torch.arange(3)
    every = prefixes(layers, settings.samples)
    for count in range(4):
        part = render(scene._replace(present=scene.present & (order < count)), settings)
        torch.testing.assert_close(every[:, count], part.images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bytes_do_not_depend_on_the_batch(backend: str) -> None:
    scene, settings = random_scenes(7, 3, torch.float32), RenderSettings(height=18, width=22, backend=backend)
    whole = render(scene, settings)
    for index in range(7):
        alone = render(scene.rows(slice(index, index + 1)), settings)
        assert all(torch.equal(a, b[index : index + 1]) for a, b in zip(alone, whole, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_object_darkens_the_ground_beside_it_and_not_far_away(backend: str) -> None:
    settings = RenderSettings(height=64, width=64, backend=backend)
    for kind in (CUBE, SPHERE, CYLINDER):
        shade = render_layers(one(kind), settings).shade[0, 0]
        assert shade.min() < 0.7
        assert shade.max() == 1.0
        assert (shade == 1.0).float().mean() > 0.3
    plain = settings.replaced(look=Look(shadow=0.0, contact=0.0))
    assert (render_layers(one(CUBE), plain).shade == 1.0).all()


def test_shadows_fall_away_from_the_lamp() -> None:
    # One lamp at +x: the ground at -x of the object is darker than at +x, as far from it.
    look = Look(power=(20.0,), tints=((1.0, 1.0, 1.0),), contact=0.0)
    settings = RenderSettings(height=65, width=65, look=look, backend="torch")
    for kind in (CUBE, SPHERE, CYLINDER):
        scene = one(kind, eye=(0.0, -0.01, 9.0), target=(0.0, 0.0, 0.0), lamps=((5.0, 0.0, 5.0),))
        shade = render_layers(scene, settings).shade[0, 0]
        places = project(scene, settings, torch.tensor([[[-1.1, 0.0, 0.0], [1.1, 0.0, 0.0]]], dtype=torch.float64))
        column = places[0, :, 0].long()
        assert shade[32, column[0]] < 0.7
        assert shade[32, column[1]] > 0.95


@pytest.mark.parametrize("backend", BACKENDS)
def test_projection_finds_the_centre_of_a_small_sphere(backend: str) -> None:
    settings = RenderSettings(height=48, width=64, samples=1, backend=backend)
    scene = one(SPHERE, position=(0.9, -0.4, 0.2), size=0.2)
    column, row, depth = project(scene, settings, scene.position)[0, 0].tolist()
    rendered = render(scene, settings)
    rows, columns = torch.nonzero(rendered.ids[0] == 1, as_tuple=True)
    assert column == pytest.approx(columns.double().mean().item() + 0.5, abs=0.3)
    assert row == pytest.approx(rows.double().mean().item() + 0.5, abs=0.3)
    assert rendered.depth[0][rendered.ids[0] == 1].min().item() == pytest.approx(depth - 0.2, abs=0.03)


def test_the_field_of_view_is_the_angle_of_the_shorter_side() -> None:
    scene = one(SPHERE, eye=(0.0, 0.0, 1.0), target=(1.0, 0.0, 1.0))
    settings = RenderSettings(height=40, width=60, field_of_view=50)
    edge = math.tan(math.radians(25))
    points = torch.tensor([[[1.0, 0.0, 1.0 + edge], [2.0, 0.0, 1.0 - 2 * edge], [1.0, edge, 1.0]]], dtype=torch.float64)
    places = torch.tensor([[30.0, 0, 1], [30, 40, 2], [10, 20, 1]], dtype=torch.float64)
    torch.testing.assert_close(project(scene, settings, points)[0], places)


def test_colours_have_gradients() -> None:
    scene = one(CYLINDER, metal=0.5)
    color = scene.color.clone().requires_grad_()
    position = scene.position.clone().requires_grad_()
    images = render(scene._replace(color=color, position=position), RenderSettings(height=16, width=16)).images
    gradients = torch.autograd.grad(images.sum(), [color, position])
    assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients)

    def brightness(value: Tensor) -> Tensor:
        return render(scene._replace(color=value), RenderSettings(height=16, width=16, backend="torch")).images.sum()

    step = 1e-5 * torch.tensor([1.0, 0, 0]).double()
    slope = (brightness(scene.color + step) - brightness(scene.color - step)) / 2e-5
    assert gradients[0][0, 0, 0].item() == pytest.approx(slope.item(), rel=1e-5)


def test_no_objects_and_no_scenes() -> None:
    empty = random_scenes(2, 3)
    none = empty._replace(present=torch.zeros_like(empty.present))
    for backend in BACKENDS:
        settings = RenderSettings(height=8, width=8, backend=backend)
        assert (render(none, settings).ids == 0).all()
        assert len(render(empty.rows(slice(0, 0)), settings).images) == 0
        bare = Scene(*(value[:, :0] if name in Scene._fields[:7] else value for name, value in empty._asdict().items()))
        torch.testing.assert_close(render(bare, settings).images, render(none, settings).images)


def test_errors_say_what_would_work(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = random_scenes(1, 1)
    with pytest.raises(UserError, match="3 lamps"):
        render(scene, RenderSettings(look=Look(power=(1.0,), tints=((1, 1, 1),))))
    monkeypatch.setattr(primitives3d, "numba_is_there", lambda: False)
    assert primitives3d.backend_for(scene, RenderSettings()) == "torch"
    with pytest.raises(UserError, match="pip install numba"):
        render(scene, RenderSettings(backend="numba"))
