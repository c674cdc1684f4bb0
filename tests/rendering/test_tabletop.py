"""Laws of the table-top renderer, its backends against each other, and the errors of changed scenes against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from objectwise.core import UserError
from objectwise.rendering import meshes, tabletop
from objectwise.rendering.scene_errors import FastErrors, RenderedErrors, scene_errors
from objectwise.rendering.tabletop import Renderer, TableScene, Tabletop, TabletopConfig, project, rendered_prefixes
from objectwise.rendering.tabletop_soft import SoftTabletop

NUMBA = tabletop.numba_is_there()
BACKENDS = ("torch", *(["numba"] if NUMBA else []))
needs_numba = pytest.mark.skipif(not NUMBA, reason="numba is not installed")
CUBE, SPHERE, CYLINDER = range(3)


def config(**changes: object) -> TabletopConfig:
    return TabletopConfig(height=24, width=28).replaced(**changes)


def random_scenes(batch: int, number: int, look: TabletopConfig, seed: int = 0) -> TableScene:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    pose = torch.cat([3 * draw(batch, number, 2) - 1.5, 7 * draw(batch, number, 1)], dim=2)
    camera = torch.tensor(look.fixed_camera).double() + 0.5 * (draw(batch, 2) - 0.5)
    return TableScene((3 * draw(batch, number)).long(), pose, draw(batch, number) < 0.8, camera)


def one(kind: int, look: TabletopConfig, x: float = 0.0, y: float = 0.0, yaw: float = 0.0) -> TableScene:
    return tabletop.table_scene(torch.tensor([[kind]]), torch.tensor([[[x, y, yaw]]], dtype=torch.float64), look)


# -- the picture ------------------------------------------------------------------------------------------------------


@needs_numba
@pytest.mark.parametrize("samples", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_numba_and_torch_agree(samples: int, channels: int) -> None:
    look = config(samples=samples, channels=channels)
    scene = random_scenes(5, 3, look)
    first, second = (Tabletop(look.replaced(backend=name)).view(scene) for name in ("torch", "numba"))
    for name, ours, theirs in zip(first._fields, first, second, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    first, second = (Tabletop(look.replaced(backend=name)).prefixes(scene) for name in ("torch", "numba"))
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_prefixes_are_the_pictures_of_the_first_objects(backend: str) -> None:
    look = config(backend=backend)
    renderer, scene = Tabletop(look), random_scenes(4, 3, look)
    torch.testing.assert_close(renderer.prefixes(scene), rendered_prefixes(renderer, scene), rtol=1e-6, atol=1e-6)
    assert torch.equal(renderer.view(scene).images, renderer(scene))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sphere_covers_the_area_of_its_circle(backend: str) -> None:
    """A sphere of radius r at distance D in the middle of the view is a circle of angular radius asin(r / D)."""
    look = config(height=96, width=96, samples=4, target_height=0.58, backend=backend)
    view = Tabletop(look).view(one(SPHERE, look))
    radius = math.tan(math.asin(0.58 / look.distance)) / look.tangent * 48
    assert view.coverage[0, 1].sum().item() == pytest.approx(math.pi * radius**2, rel=0.003)


@pytest.mark.parametrize("backend", BACKENDS)
def test_depth_of_the_nearest_point(backend: str) -> None:
    """Towards the sphere's centre the ray ends at D − r; the nearer of two objects hides the other whatever their order."""
    look = config(height=33, width=33, samples=1, target_height=0.58, backend=backend, elevation=10.0)
    view = Tabletop(look).view(one(SPHERE, look))
    assert view.depth[0, 16, 16].item() == pytest.approx(look.distance - 0.58, abs=1e-5)
    for front in (0, 1):
        scene = tabletop.table_scene(
            torch.tensor([[SPHERE, SPHERE]]),
            torch.tensor([[[0.0, -1.0 if front == 0 else 1.0, 0.0], [0.0, 1.0 if front == 0 else -1.0, 0.0]]]).double(),
            look,
        )
        assert Tabletop(look).view(scene).ids[0, 18, 16] == front + 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_symmetries_of_the_kinds(backend: str) -> None:
    look = config(backend=backend)
    renderer = Tabletop(look)
    for kind, same_after, other in ((CUBE, math.pi / 2, 0.4), (SPHERE, 0.4, None), (CYLINDER, 0.4, None)):
        plain = renderer(one(kind, look, 0.3, 0.2, 0.1))
        assert torch.allclose(plain, renderer(one(kind, look, 0.3, 0.2, 0.1 + same_after)), atol=1e-5)
        assert other is None or not torch.allclose(plain, renderer(one(kind, look, 0.3, 0.2, 0.1 + other)), atol=1e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_projection_finds_the_object(backend: str) -> None:
    look = config(height=48, width=64, samples=4, backend=backend)
    for x, y in ((-0.8, 0.5), (0.9, -0.7), (0.0, 1.2)):
        scene = one(SPHERE, look, x, y)
        cover = Tabletop(look).view(scene).coverage[0, 1]
        rows, columns = torch.arange(48).double() + 0.5, torch.arange(64).double() + 0.5
        middle = (cover.sum(0) @ columns / cover.sum(), cover.sum(1) @ rows / cover.sum())
        place = project(scene, look, torch.tensor([[[x, y, 0.58]]], dtype=torch.float64))[0, 0]
        assert [float(m) for m in middle] == pytest.approx(place[:2].tolist(), abs=0.15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_does_not_depend_on_its_batch(backend: str) -> None:
    look = config(backend=backend)
    renderer, scene = Tabletop(look), random_scenes(4, 2, look)
    assert torch.equal(renderer(scene)[2:3], renderer(scene.rows(slice(2, 3))))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="backend torch has no tableware"):
        TabletopConfig(family="tableware", backend="torch")
    with pytest.raises(UserError, match="backend moderngl draws meshes only"):
        TabletopConfig(backend="moderngl")
    with pytest.raises(UserError, match="soft silhouettes are for family 'primitives'"):
        SoftTabletop(TabletopConfig(family="tableware"))
    look = config(backend="numba")
    if NUMBA:
        scene = one(CUBE, look)
        with pytest.raises(UserError, match="without gradients"):
            Tabletop(look)(scene._replace(pose=scene.pose.requires_grad_()))


# -- meshes -----------------------------------------------------------------------------------------------------------


def cast(mesh: meshes.Mesh, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Nearest front-facing hit of rays with a mesh, in the plainest way: (R,) parameters, infinite where none is hit."""
    best = np.full(len(directions), np.inf)
    for face in mesh.faces:
        a, b, c = mesh.vertices[face]
        normal = np.cross(b - a, c - a)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (a - origin) @ normal / (directions @ normal)
            point = origin + t[:, None] * directions
            inside = np.ones(len(directions), bool)
            for p, q in ((a, b), (b, c), (c, a)):
                inside &= np.cross(q - p, point - p) @ normal >= 0
        hit = inside & (directions @ normal < 0) & (t > 0)
        best[hit] = np.minimum(best[hit], t[hit])
    return best


@needs_numba
@pytest.mark.parametrize("kind", range(3))
def test_rasterised_meshes_are_where_rays_meet_them(kind: int) -> None:
    look = config(family="tableware", samples=1)
    x, y, yaw = 0.4, -0.3, 0.7
    scene = one(kind, look, x, y, yaw)
    view = Tabletop(look).view(scene)
    eye, right, up, forward = (part[0].numpy() for part in tabletop.camera_frame(scene.camera, look))
    rows, columns = np.meshgrid(np.arange(24) + 0.5, np.arange(28) + 0.5, indexing="ij")
    u, v = (2 * columns - 28) / 24 * look.tangent, (24 - 2 * rows) / 24 * look.tangent
    rays = forward + u[..., None] * right + v[..., None] * up
    size, c, s = look.kinds[kind].size, math.cos(yaw), math.sin(yaw)
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) / size
    origin = turn @ (eye - np.array([x, y, size]))
    depth = cast(meshes.MESHES[look.kinds[kind].solid](), origin, (rays @ turn.T).reshape(-1, 3)).reshape(24, 28)
    found = view.depth[0].numpy()
    both = np.isfinite(depth) & np.isfinite(found)
    assert both.sum() > 15
    assert (np.isfinite(depth) == np.isfinite(found)).mean() > 0.995  # rays through edges may go either way
    np.testing.assert_allclose(found[both], depth[both], atol=1e-4)


@pytest.mark.parametrize("name", meshes.MESHES)
def test_meshes_face_outwards(name: str) -> None:
    mesh = meshes.MESHES[name]()
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    assert (np.linalg.norm(normal, axis=1) > 1e-9).all()
    assert ((normal * mesh.normals[mesh.faces].mean(axis=1)).sum(axis=1) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1.0)
    assert mesh.vertices[:, 2].min() == pytest.approx(-1.0)


def test_opengl_draws_what_numba_draws() -> None:
    pytest.importorskip("moderngl", reason="moderngl is not installed")
    look = config(family="tableware", backend="moderngl")
    try:
        renderer = Tabletop(look)
    except UserError as error:
        pytest.skip(str(error))
    scene = random_scenes(5, 3, look)
    torch.testing.assert_close(renderer(scene), Tabletop(look.replaced(backend="numba"))(scene), rtol=0, atol=1e-3)
    assert isinstance(scene_errors(renderer).prefixes(renderer(scene), scene), Tensor)


# -- errors of changed scenes -----------------------------------------------------------------------------------------


class Plain:
    """A black box: nothing but pictures."""

    def __init__(self, look: TabletopConfig) -> None:
        self.tabletop = Tabletop(look)

    def __call__(self, scene: TableScene) -> Tensor:
        return self.tabletop(scene)


@needs_numba
@pytest.mark.parametrize(("family", "blur"), [("primitives", 0.0), ("tableware", 0.0), ("primitives", 0.7)])
def test_changed_objects_by_brute_force(family: str, blur: float) -> None:
    look = config(family=family)
    scene, other = random_scenes(3, 3, look), random_scenes(3, 15, look, seed=1)
    images = torch.rand(3, 3, 24, 28, generator=torch.Generator().manual_seed(2))
    kind, pose = other.kind.view(3, 3, 5), other.pose.view(3, 3, 5, 3)
    assert isinstance(Plain(look), Renderer)
    assert isinstance(scene_errors(Plain(look)), RenderedErrors)
    slow, fast = RenderedErrors(Plain(look)), FastErrors(Tabletop(look))
    expected, found = (each.changed(images, scene, kind, pose, blur=blur) for each in (slow, fast))
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(fast.prefixes(images, scene, blur=blur), found[0])


# -- soft silhouettes -------------------------------------------------------------------------------------------------


def test_soft_pictures_are_the_hard_ones_but_for_edges() -> None:
    look = config(samples=4)
    scene = random_scenes(6, 3, look)
    soft, hard = SoftTabletop(look), Tabletop(look)
    difference = (soft(scene) - hard(scene)).abs()
    assert difference.mean() < 0.012
    assert (difference.amax(dim=1) > 0.1).double().mean() < 0.03
    torch.testing.assert_close(soft.prefixes(scene)[:, -1], soft(scene))
    inside = hard.view(scene).coverage.amax(dim=1) > 0.999
    assert (difference.amax(dim=1)[inside]).quantile(0.5) < 1e-3


def test_soft_pictures_have_the_right_derivative() -> None:
    """Against differences in double precision, for poses and camera; but for where colours beyond an edge are looked up."""
    look = config(height=12, width=12)
    scene, soft = random_scenes(2, 2, look, seed=3), SoftTabletop(look)
    weights = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def value(pose: Tensor, camera: Tensor) -> Tensor:
        return (soft(scene._replace(pose=pose, camera=camera)) * weights).sum()

    ours, numeric, total = list[float](), list[float](), 0
    for index, start in enumerate((scene.pose, scene.camera)):
        point = start.clone().requires_grad_()
        inputs = [scene.pose, scene.camera]
        inputs[index] = point
        (gradient,) = torch.autograd.grad(value(*inputs), point)
        for entry in range(start.numel()):
            slopes = []
            for step in (1e-3, 2e-3):
                ends = []
                for sign in (1, -1):
                    moved = start.flatten().clone()
                    moved[entry] += sign * step
                    inputs[index] = moved.view_as(start)
                    ends.append(value(*inputs))
                slopes.append(((ends[0] - ends[1]) / (2 * step)).item())
            total += 1
            if slopes[0] == pytest.approx(
                slopes[1], rel=0.02, abs=0.01
            ):  # else a face or the nearer object changes in between
                ours.append(gradient.flatten()[entry].item())
                numeric.append(slopes[0])
    assert len(ours) >= 0.7 * total
    assert torch.dist(torch.tensor(ours), torch.tensor(numeric)) < 0.03 * torch.tensor(numeric).norm()
