"""The table-top renderer of AIR in 3D: images per second and core, and the cost of gradients through it; one JSON line.

Times are processor seconds of one thread, the best of several runs, at 32×32 with three objects. Goals: 20,000 images a second of
primitives (numba), 5,000 of meshes. ``changed`` counts scenes in which one object is changed, all prefixes of each included.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable

import torch

from objectwise.core import UserError
from objectwise.models.air_3d import AIR3D, AIR3DConfig
from objectwise.rendering.scene_errors import scene_errors
from objectwise.rendering.tabletop import TableScene, Tabletop, TabletopConfig, numba_is_there


def rate(work: Callable[[], object], number: int, runs: int = 5) -> float:
    work()
    best = float("inf")
    for _ in range(runs):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return round(number / best)


def scenes(batch: int, look: TabletopConfig) -> TableScene:
    generator = torch.Generator().manual_seed(0)
    pose = torch.cat([3 * torch.rand(batch, 3, 2, generator=generator) - 1.5, torch.rand(batch, 3, 1) * 6], dim=2)
    kind = torch.randint(0, 3, (batch, 3), generator=generator)
    return TableScene(kind, pose, kind >= 0, torch.tensor(look.fixed_camera).expand(batch, 2))


def main() -> None:
    torch.set_num_threads(1)
    result: dict[str, object] = {
        "bench": "rendering_3d",
        "objects": 3,
        "cpu": platform.processor() or platform.machine(),
    }
    images = torch.rand(256, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for family in ("primitives", "tableware"):
        for samples in (1, 2, 4):
            for backend, batch in (("numba", 256), ("torch", 16), ("moderngl", 256)):
                try:
                    look = TabletopConfig(family=family, samples=samples, backend=backend)
                    renderer, scene = Tabletop(look), scenes(batch, look)
                except UserError:
                    continue
                name = f"{family}_{backend}_{samples}x{samples}"
                result[name] = rate(lambda r=renderer, s=scene: r(s), batch)
                if backend == "numba":
                    errors = scene_errors(renderer)
                    kind = scene.kind.unsqueeze(2).expand(-1, -1, 6)
                    pose = scene.pose.unsqueeze(2) + 0.1 * torch.rand(batch, 3, 6, 3)
                    work = lambda e=errors, s=scene, k=kind, p=pose: e.changed(images, s, k, p)  # noqa: E731
                    result[f"{name}_changed"] = rate(work, batch * 18)
    if numba_is_there():
        for method in ("finite-difference", "spsa", "evolution", "autograd"):
            torch.manual_seed(0)
            model = AIR3D(AIR3DConfig(image_shape=(3, 32, 32), gradient=method))

            def step(model: AIR3D = model) -> None:
                model(images[:64], generator=torch.Generator().manual_seed(0)).loss.mean().backward()

            result[f"step_ms_{method}"] = round(1e6 / rate(step, 1000, runs=2), 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
