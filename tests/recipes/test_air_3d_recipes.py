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
