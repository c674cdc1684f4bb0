"""The IODINE studies: what their tables are made of, on untrained models and on ones whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_studies import account_of, cells
from torch import Tensor, nn

from objectwise.core import Decomposition, presence_from_masks
from objectwise.data.clevr_like import ClevrLikeConfig
from objectwise.data.multi_dsprites import MultiDspritesConfig
from objectwise.rendering.primitives3d import Look
from objectwise.studies.iodine_decomposition import PUBLISHED, SETS, IodineDecomposition, scores_by_step
from objectwise.studies.iodine_generalization import SHIFTS, UNCHANGED, loss, shifted, worst_shift
from objectwise.studies.study import Settings

SMOKE = Settings("smoke")


class Refiner(nn.Module):
    """Sees one blob at first and all true segments after the last of its T steps, which may be changed like IODINE's."""

    def __init__(self, dataset: Any, count: int, steps: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.scenes = dataset.batch("test", np.arange(count))
        self.config: Any = type("Given", (), {"refinement_steps": steps})()
        self.dataset = dataset

    def reconfigured(self, *, refinement_steps: int) -> Refiner:
        return Refiner(self.dataset, len(self.scenes.images), refinement_steps)

    def forward(self, images: Tensor, *, trajectory: bool = False) -> Decomposition:
        rows = [int((self.scenes.images - image).abs().flatten(1).sum(dim=1).argmin()) for image in images]
        assert self.scenes.instances is not None
        ids = self.scenes.instances[torch.tensor(rows)]
        masks = nn.functional.one_hot(ids, 6).movedim(-1, 1).float()
        blob = torch.zeros_like(masks)
        blob[:, 0] = 1.0
        found = Decomposition(
            loss=torch.zeros(len(images)),
            terms={},
            reconstruction=images,
            components=images.unsqueeze(1).expand(-1, 6, -1, -1, -1),
            masks=masks,
            slots=torch.zeros(len(images), 6, 2),
            presence=presence_from_masks(masks),
        )
        start = replace(found, masks=blob, presence=presence_from_masks(blob), reconstruction=0.0 * images)
        steps = self.config.refinement_steps
        return replace(found, trajectory=(*[start] * steps, found)) if trajectory else found


def sprites(count: int) -> Any:
    return MultiDspritesConfig(image_size=16, eval_size=count, counts=(2, 3), min_visible=2).build()


# -- decomposition ----------------------------------------------------------------------------------------------------


def test_every_step_is_scored_on_the_same_test_images() -> None:
    data = sprites(20)
    found = scores_by_step(Refiner(data, 20), data, limit=18)
    assert found["foreground_ari"] == [0.0, 0.0, 1.0]
    power = float(data.batch("test", np.arange(18)).images.square().flatten(1).mean(dim=1).mean())
    assert found["mse"][2] == 0.0
    assert found["mse"][0] == pytest.approx(power, rel=1e-5)
    more = scores_by_step(Refiner(data, 20), data, limit=18, steps=4)
    assert more["foreground_ari"] == [0.0, 0.0, 0.0, 0.0, 1.0]


def test_decomposition_puts_second_hand_numbers_beside_named_data(tmp_path: Path) -> None:
    account = account_of("iodine-decomposition", SMOKE, tmp_path, {})
    rows = {row[0]: row for row in cells(account)}
    assert {name: row[7] for name, row in rows.items()} == {
        "Tetrominoes": "0.992 ± 0.004",
        "Multi-dSprites": "0.767 ± 0.056",
        "CLEVR6": "0.988 ± 0.000",
    }
    assert all("not the official file" in row[1] for row in rows.values())
    assert all("second-hand" in part["source"] for part in account.results["published"].values())
    assert {record["set"] for record in account.results["trials"]} == set(PUBLISHED)
    for record in account.results["trials"]:
        assert len(record["by_step"]["mse"]) == 3  # before the first and after two
        assert record["by_step"]["mse"][-1] == pytest.approx(record["mse"], rel=1e-4)


def test_clevr_is_rendered_where_there_are_renders_and_of_64_pixels(tmp_path: Path) -> None:
    study = IodineDecomposition()
    full = Settings("full", official_root=tmp_path, clevr_root=tmp_path / "clevr")
    name, config, words = study.data_of("clevr6", full)
    assert (name, config.image_size, "64x64" in words) == ("clevr_like", 64, True)  # type: ignore[attr-defined]
    (tmp_path / "clevr").mkdir()
    (tmp_path / "tetrominoes").mkdir()
    name, config, words = study.data_of("clevr6", full)
    assert (name, config.image_size, config.max_objects) == ("clevr", 64, 6)  # type: ignore[attr-defined]
    assert "not the official file" in words
    assert study.data_of("clevr6", replace(full, scale="quick"))[1].image_size == 32  # type: ignore[attr-defined]
    name, config, words = study.data_of("tetrominoes", full)
    assert (name, words, config.split_rule) == ("tetrominoes_official", "official file", "iodine")  # type: ignore[attr-defined]
    assert study.data_of("tetrominoes", replace(full, scale="quick"))[0] == "tetrominoes"


def test_full_is_the_published_recipe() -> None:
    for trial in IodineDecomposition().trials(Settings("full", official_root=Path("nowhere"), seeds=1)):
        model: Any = trial.experiment.model
        training = trial.experiment.training
        assert training.max_steps == 1_000_000
        assert (training.beta1, training.gradient_clip, model.density) == (0.95, 5.0, "logistic")
        assert model.gradient_scale == 1.0 / training.batch_size
        assert model.num_slots == SETS[trial.key.rpartition("-")[0]].slots
    for trial in IodineDecomposition().trials(Settings("quick", seeds=1)):
        assert trial.experiment.model.gradient_scale == 1.0 / trial.experiment.training.batch_size  # type: ignore[attr-defined]


# -- generalization ---------------------------------------------------------------------------------------------------


def test_a_shift_changes_one_thing_and_keeps_the_objects() -> None:
    config = ClevrLikeConfig(image_size=16, eval_size=4, counts=(2,), look=Look(ambient=0.3))
    usual = config.build()
    images = usual.batch("test", np.arange(2)).images
    assert shifted(config, UNCHANGED) == config
    for name in SHIFTS:
        found = shifted(config, name)
        differing = {key for key, value in found.model_dump().items() if value != config.model_dump()[key]}
        assert len(differing) == (name != UNCHANGED), name
        if name in ("dimmer light", "no shadows", "one ray per pixel"):
            batch = found.build().batch("test", np.arange(2))
            assert torch.equal(batch.factors["color"], usual.batch("test", np.arange(2)).factors["color"])
            assert not torch.equal(batch.images, images), name
    assert shifted(config, "dimmer light").look == config.look.replaced(exposure=0.7)


def test_generalization_tells_new_counts_more_slots_and_shifts(tmp_path: Path) -> None:
    account = account_of("iodine-generalization", SMOKE, tmp_path, {})
    clevr, flat = account.results["trials"]
    assert [(row["objects"], row["slots"], row["trained"]) for row in clevr["counts"]] == [
        (3, 7, True), (3, 11, True), (10, 7, False), (10, 11, False),
    ]  # fmt: skip
    assert [(row["objects"], row["slots"]) for row in flat["counts"]] == [(2, 4), (2, 6), (5, 4), (5, 6)]
    assert list(clevr["shifts"]) == list(SHIFTS)
    assert flat["shifts"] == {}
    assert len(clevr["by_step"]["foreground_ari"]) == 21
    assert all(len(record["counts"]) == 4 for record in account.results["trials"])


def test_the_costliest_shift_is_the_one_with_the_lowest_score() -> None:
    def record(**scores: float | None) -> dict[str, Any]:
        return {"shifts": {name: {"foreground_ari": score} for name, score in scores.items()}}

    found = record(**{UNCHANGED: 0.8, "no shadows": 0.7, "dimmer light": 0.2, "wider view": None})
    assert worst_shift(found) == "dimmer light"
    assert loss(found, "dimmer light") == pytest.approx(0.6)
    assert worst_shift(record(**{UNCHANGED: None, "no shadows": 0.7})) is None
    assert worst_shift(record()) is None
