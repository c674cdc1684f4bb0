"""The recipes of AIR in 3D: complete, sound together, and they learn."""

from __future__ import annotations

import pytest
import torch

from objectwise.core import UserError, check_model
from objectwise.metrics import GroupSettings
from objectwise.recipes import recipe
from objectwise.recipes.air_3d import air_3d_single, air_3d_table
from objectwise.recipes.runs import initial_model
from objectwise.rendering.tabletop import numba_is_there
from objectwise.training.evaluation import evaluate

needs_numba = pytest.mark.skipif(not numba_is_there(), reason="slow without numba")


@needs_numba
@pytest.mark.parametrize("preset", [None, "primitives", "tableware", "camera"])
def test_recipes_are_sound(preset: str | None) -> None:
    """The model keeps its promises on the recipe's own data, and both are about the same objects."""
    experiment = air_3d_single() if preset is None else air_3d_table(preset)
    dataset = experiment.build_data()
    experiment = experiment.resolved(dataset)
    model = initial_model(experiment)
    assert model.look.family == dataset.config.renderer.family  # type: ignore[attr-defined]
    inferred = dataset.config.camera == "varied"  # type: ignore[attr-defined]
    assert model.config.camera == ("inferred" if inferred else "fixed")
    batch = dataset.batch("val", range(3))
    check_model(model, batch.images)
    assert model.config.max_objects >= int(batch.counts.max())  # type: ignore[union-attr]
    found = evaluate(model, dataset, split="val", limit=8, metrics=["poses"], settings=GroupSettings(draws=5))
    scored = found.groups["poses"].sections["scenes"]["count_accuracy"]
    assert set(scored.by_count) <= set(dataset.config.counts)  # type: ignore[attr-defined]
    assert scored.value == pytest.approx(found.scores["count_accuracy"])


def test_an_unknown_preset() -> None:
    with pytest.raises(UserError, match="has no preset 'crockery'; there are primitives, tableware, camera"):
        air_3d_table("crockery")
    assert recipe("air-3d-table").name == "air-3d-table"


def trained(steps: int) -> tuple[float, float, float]:
    """Class accuracy, position error and the median turn of a cube of a small AIR in 3D before and after some steps."""
    base = air_3d_single()
    look = base.data.renderer.replaced(height=20, width=20, samples=2)  # type: ignore[attr-defined]
    model_settings = base.model.replaced(blur_steps=60, window=12)  # type: ignore[attr-defined]
    experiment = base.replaced(data=base.data.replaced(renderer=look), model=model_settings)
    dataset = experiment.build_data()
    model = initial_model(experiment.resolved(dataset))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        images = dataset.batch("train", range(32 * step, 32 * step + 32)).images
        loss = model(images, generator=generator, step=step).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1000.0)
        optimizer.step()
    found = evaluate(model, dataset, split="val", limit=200, metrics=["poses"], settings=GroupSettings(draws=5))
    scores = found.groups["poses"].sections
    return (
        scores["scenes"]["class_accuracy"].value,
        scores["scenes"]["position_error"].value,
        scores["rotation"]["cube_median"].value,
    )


@needs_numba
def test_it_learns_class_and_place_of_one_object() -> None:
    """Without labels and through a black box: from chance to nearly all classes in 130 steps."""
    before, after = trained(0), trained(130)
    assert before[0] < 0.5
    assert after[0] > 0.9
    assert after[1] < 0.6 * before[1]


@needs_numba
@pytest.mark.slow
def test_it_learns_how_a_cube_is_turned() -> None:
    """Later than the rest: guessing scores 22.5 degrees."""
    accuracy, place, turn = trained(700)
    assert accuracy > 0.95
    assert place < 0.02
    assert turn < 12.0
