"""How good each estimator's gradient through the renderer is, and what it costs.

Scenes of one object that is seen whole; the target is the same object a little displaced and turned. The exact gradient is
that of pictures with 32×32 rays per pixel, by central differences of less than a tenth of a pixel: good to 1 % for spheres and
cylinders and to 3 % for cubes, by comparison with 192×192 rays. Spheres are the smooth scenes: nothing about them is a straight
edge, whose crossing of a column of pixels is a kink of the error. Yaws are measured by how far they move an outline, so that
x, y and yaw count alike.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from objectwise import figures
from objectwise.figures import Section, Table
from objectwise.models.air_3d import AIR3DConfig
from objectwise.nn import black_box
from objectwise.rendering.scene_errors import RenderedErrors, scene_errors
from objectwise.rendering.tabletop import TableScene, Tabletop, TabletopConfig, table_scene
from objectwise.rendering.tabletop_soft import SoftTabletop

METHODS: tuple[black_box.Method, ...] = ("finite-difference", "spsa", "evolution")
SAMPLES = (1, 2, 4)
"""Rays per pixel and axis."""
STEPS = (0.1, 0.2, 0.4)
"""h of finite differences in pixels; the others have the model's."""
FINE, FINE_STEPS = 32, (0.05, 0.07)
"""Rays, and steps in pixels, whose mean is taken, of the exact gradient."""
SMOOTH = "sphere"
"""Kind whose error is a smooth function of its pose."""
GOAL = 0.05
"""Largest relative error of finite differences with 4×4 rays on smooth scenes."""


class Quality(NamedTuple):
    """How good an estimator is.

    Attributes:
        method: its name.
        samples: rays per pixel and axis; 0 for soft silhouettes, which need one ray.
        step: h in pixels; 0 for automatic differentiation.
        kind: of the objects.
        error: |estimate − exact| / |exact|, root mean square over scenes and estimates.
        bias: the same of the mean of many estimates; for deterministic ones the same number.
        milliseconds: of the processor per gradient of one image.
    """

    method: str
    samples: int
    step: float
    kind: str
    error: float
    bias: float
    milliseconds: float


def smooth_scenes(kind: int, look: TabletopConfig, batch: int) -> tuple[TableScene, TableScene]:
    """Scenes of one object of a kind, and the scenes that are to be explained, slightly displaced (float64)."""
    generator = torch.Generator().manual_seed(kind)
    place = 2.0 * torch.rand(batch, 1, 2, generator=generator, dtype=torch.float64) - 1.0
    yaw = 6.28 * torch.rand(batch, 1, 1, generator=generator, dtype=torch.float64)
    angle = 6.28 * torch.rand(batch, 1, 1, generator=generator, dtype=torch.float64)
    away = look.pixel * torch.cat([angle.cos(), angle.sin()], dim=2)
    here, kinds = torch.cat([place, yaw], dim=2), torch.full((batch, 1), kind)
    there = torch.cat([place + away, yaw + 0.3], dim=2)
    return table_scene(kinds, here, look), table_scene(kinds, there, look)


def exact_gradient(scene: TableScene, images: Tensor, look: TabletopConfig) -> Tensor:
    """(B, 1, 3) derivative of the squared error."""
    fine = look.replaced(samples=FINE)
    renderer = Tabletop(fine)
    parts = [_estimate(scene, images, renderer, _steps(fine, h), "finite-difference", 1, None) for h in FINE_STEPS]
    return torch.stack(parts).mean(dim=0)


def _steps(look: TabletopConfig, pixels: float) -> Tensor:
    """(3,) h, as :meth:`AIR3D.steps` has it."""
    h = pixels * look.pixel
    return torch.tensor([h, h, h / _radius(look)], dtype=torch.float64)


def _radius(look: TabletopConfig) -> float:
    return sum(kind.size for kind in look.kinds) / len(look.kinds)


def _estimate(
    scene: TableScene,
    images: Tensor,
    renderer: Tabletop,
    steps: Tensor,
    method: black_box.Method,
    pairs: int,
    generator: torch.Generator | None,
) -> Tensor:
    errors = scene_errors(renderer)

    def changed(alternatives: Tensor) -> Tensor:
        same = scene.kind.unsqueeze(2).expand(-1, -1, alternatives.shape[2])
        return errors.changed(images, scene, same, alternatives)[1]

    slopes = black_box.jacobian(changed, scene.pose, steps, method, pairs=pairs, generator=generator)
    return slopes[..., -1]


def _soft_gradient(scene: TableScene, images: Tensor, soft: SoftTabletop) -> Tensor:
    pose = scene.pose.detach().clone().requires_grad_()
    with torch.enable_grad():
        errors = RenderedErrors(soft).prefixes(images, scene._replace(pose=pose))[:, -1]
        (gradient,) = torch.autograd.grad(errors.sum(), pose)
    return gradient


def gradient_quality(look: TabletopConfig, *, batch: int = 32, draws: int = 32) -> list[Quality]:
    """Every estimator, with every number of rays, on every kind.

    Args:
        look: size and kinds of the pictures; ``samples`` is not used.
        batch: scenes of each kind.
        draws: estimates of each that has noise.
    """
    found, config = [], AIR3DConfig()
    for code, kind in enumerate(look.kinds):
        scene, target = smooth_scenes(code, look, batch)
        images = Tabletop(look.replaced(samples=FINE // 2))(target)
        exact = exact_gradient(scene, images, look)
        for method in METHODS:
            plain = method == "finite-difference"
            for samples, pixels in itertools.product(SAMPLES, STEPS if plain else (config.step_pixels,)):
                renderer, generator = Tabletop(look.replaced(samples=samples)), torch.Generator().manual_seed(0)
                settings = (renderer, _steps(look, pixels), method, config.pairs, generator)
                once = partial(_estimate, scene, images, *settings)
                found.append(_quality((method, samples, pixels, kind.name), once, exact, 1 if plain else draws, look))
        softly = partial(_soft_gradient, scene, images, SoftTabletop(look, config.softness))
        found.append(_quality(("autograd", 0, 0.0, kind.name), softly, exact, 1, look))
    return found


def _quality(
    who: tuple[str, int, float, str], once: Callable[[], Tensor], exact: Tensor, draws: int, look: TabletopConfig
) -> Quality:
    once()  # the first call compiles
    milliseconds, estimates = float("inf"), []
    for number in range(max(draws, 3)):
        began = time.process_time()
        estimate = once()
        milliseconds = min(milliseconds, 1_000.0 * (time.process_time() - began) / len(exact))
        if number < draws:
            estimates.append(estimate)
    scale = torch.tensor([1.0, 1.0, 1.0 / _radius(look)], dtype=exact.dtype)
    stacked, truth = torch.stack(estimates) * scale, exact * scale
    norm = truth.square().sum().sqrt()
    error = (stacked - truth).square().sum(dim=(1, 2, 3)).mean().sqrt() / norm
    bias = (stacked.mean(dim=0) - truth).norm() / norm
    return Quality(*who, float(error), float(bias), milliseconds)


def smooth_error(found: Sequence[Quality], samples: int, step: float) -> float:
    """Relative error of finite differences on smooth scenes."""
    wanted = ("finite-difference", samples, step, SMOOTH)
    return next(one.error for one in found if (one.method, one.samples, one.step, one.kind) == wanted)


def gradient_section(found: Sequence[Quality]) -> tuple[Section, dict[str, Any]]:
    """The table, the figure, and what goes into the results."""
    kinds = list(dict.fromkeys(one.kind for one in found))
    rows, series, results = [], dict[str, list[tuple[float, float, str]]](), list[dict[str, Any]]()
    for method, samples, step in dict.fromkeys((one.method, one.samples, one.step) for one in found):
        part = {one.kind: one for one in found if (one.method, one.samples, one.step) == (method, samples, step)}
        rays, milliseconds = f"{samples}×{samples}" if samples else "soft", part[SMOOTH].milliseconds
        errors, biases = ([f"{100 * getattr(part[kind], name):.1f} %" for kind in kinds] for name in ("error", "bias"))
        rows.append(
            [method, rays, f"{step:g}" if step else "-", *errors, biases[kinds.index(SMOOTH)], f"{milliseconds:.3f}"]
        )
        name = f"{method}, h = {step:g}" if method == "finite-difference" else method
        series.setdefault(name, []).append((milliseconds, part[SMOOTH].error, ""))
        results.append({**part[SMOOTH]._asdict(), "kind": SMOOTH, "errors": {kind: part[kind].error for kind in kinds}})
    best = min(STEPS, key=lambda step: smooth_error(found, SAMPLES[-1], step))
    config = AIR3DConfig()
    text = (
        "Relative error of the gradient in the pose of one object, of one estimate, against the exact one; bias: of the mean "
        f"of many estimates, {SMOOTH}s. SPSA and evolution strategies take {config.pairs} pairs of pictures and the model's "
        "h. Spheres are the smooth scenes: on them, finite differences with 4×4 rays are off by "
        f"{100 * smooth_error(found, 4, best):.1f} % with h = {best:g} pixels and by "
        f"{100 * smooth_error(found, 4, config.step_pixels):.1f} % with the model's {config.step_pixels:g} (goal "
        f"{100 * GOAL:g} %). An edge of a cube crosses a column of pixels at once, which is a kink of the error: no h is "
        "small enough for few rays. Autograd goes through soft silhouettes, and does not see where shading jumps, at the "
        "edges between faces. Processor milliseconds per image."
    )
    header = ["", "rays per pixel", "h, pixels", *kinds, f"bias, {SMOOTH}", "ms"]
    figure = figures.cost_figure(series, "processor ms per gradient", f"relative error, {SMOOTH}s", goal=GOAL)
    caption = f"relative error against cost on {SMOOTH}s, from left to right with 1×1, 2×2 and 4×4 rays; dashed: {100 * GOAL:g} %"
    section = Section(
        "Gradients through the renderer", text=text, table=Table(header, rows), figures=[(figure, caption)]
    )
    return section, {"estimators": results, "goal": GOAL, "best_step_pixels": best}
