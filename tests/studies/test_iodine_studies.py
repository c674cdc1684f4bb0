"""The IODINE studies: what their tables are made of, on untrained models and on ones whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_studies import account_of, cells, fake_run
from torch import Tensor, nn

from objectwise.core import Decomposition, FactorSpec, Posterior, presence_from_masks
from objectwise.data.clevr_like import ClevrLikeConfig
from objectwise.data.multi_dsprites import MultiDspritesConfig
from objectwise.metrics.properties import matched_slots, property_data
from objectwise.recipes.experiment import experiment_text
from objectwise.rendering.primitives3d import Look
from objectwise.studies import named_study
from objectwise.studies.iodine_ablations import BASE, QUICK, VARIANTS, differences
from objectwise.studies.iodine_decomposition import PUBLISHED, SETS, IodineDecomposition, scores_by_step
from objectwise.studies.iodine_disentanglement import (
    CODE,
    HEADS,
    KINDS,
    RANGE,
    SCALES,
    SLOT,
    Slots,
    factor_classes,
    heads_of,
    latent_ranks,
    parts_of,
    recombined,
    traversals,
)
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
    assert {name: row[8] for name, row in rows.items()} == {
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
        assert record["longer"]["refinement_steps"] == 4
        assert record["longer"]["mse"] != pytest.approx(record["mse"], rel=1e-6), "other steps, another answer"


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


def test_the_three_studies_share_their_trainings() -> None:
    for scale in ("smoke", "quick"):
        settings = Settings(scale, seeds=2)
        first = [experiment_text(trial.experiment) for trial in IodineDecomposition().trials(settings)]
        for name, shared in (("iodine-generalization", 4), ("iodine-disentanglement", 6)):
            texts = [experiment_text(trial.experiment) for trial in named_study(name).trials(settings)]
            assert len(set(texts) & set(first)) == shared, name


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
    clevr, flat, doubled = account.results["trials"]
    assert set(doubled["shifts"]) == set(SHIFTS)
    assert [(row["objects"], row["slots"], row["trained"]) for row in clevr["counts"]] == [
        (3, 7, True), (3, 11, True), (10, 7, False), (10, 11, False),
    ]  # fmt: skip
    assert [(row["objects"], row["slots"]) for row in flat["counts"]] == [(2, 6), (2, 8), (7, 6), (7, 8)]
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


# -- disentanglement --------------------------------------------------------------------------------------------------


def known_slots(count: int = 3) -> Slots:
    """Two objects an image; the second one of the first image cannot be seen. Slot 1 has the first, slot 0 the second."""
    ids = torch.zeros(count, 4, 4, dtype=torch.long)
    ids[:, 0], ids[:, 1] = 1, 2
    ids[0, 1] = 0
    masks = torch.stack([ids == 2, ids == 1, ids == 0], dim=1).float()
    vectors = torch.arange(count * 3 * 2, dtype=torch.float32).view(count, 3, 2)
    factors = {"x": torch.rand(count, 3), "shape": torch.tensor([[0, 1, 2]] * count)}
    data = property_data(vectors, factors, ids, masks=masks)
    pixels = torch.stack([(ids == entity).sum(dim=(1, 2)) for entity in range(3)], dim=1)
    return Slots(data, torch.ones(count, 3, 2), matched_slots(data), pixels)


def test_objects_get_the_slot_of_their_mask_and_unseen_ones_none() -> None:
    slots = known_slots()
    assert slots.slot.tolist() == [[-1, 1, -1], [-1, 1, 0], [-1, 1, 0]]
    image, entity, slot = slots.objects
    assert (image.tolist(), entity.tolist(), slot.tolist()) == ([0, 1, 1, 2, 2], [1, 1, 2, 1, 2], [1, 1, 0, 1, 0])
    assert slots.codes[0].tolist() == [[2, 3], [8, 9], [6, 7], [14, 15], [12, 13]]
    specs = {"x": FactorSpec("share"), "shape": FactorSpec("class", "categorical", categories=("none", "a", "b"))}
    classes, names = factor_classes(slots, specs)
    assert names == ("x", "shape")
    assert classes[:, 1].tolist() == [1, 1, 2, 1, 2]


def test_latents_are_ranked_over_objects_and_against_the_prior() -> None:
    slots = known_slots()
    found = latent_ranks(slots, 4.0)
    mean = slots.codes[0].double()
    expected = 0.5 * ((mean.square() + 1.0) / 4.0 - 1.0 - np.log(0.25)).mean(dim=0)
    np.testing.assert_allclose(found["kl"], expected)
    np.testing.assert_allclose(found["variance"], mean.numpy().var(axis=0))


class Sum(nn.Module):
    """A scene is the sum of its slots: one pixel per latent."""

    def decode(self, slots: Tensor, presence: Tensor | None = None) -> Any:
        shares = torch.ones(slots.shape[:2]) if presence is None else presence
        whole = (slots * shares.unsqueeze(2)).sum(dim=1)
        return type("Drawn", (), {"reconstruction": whole[:, None, None, :]})()


def test_one_latent_of_one_slot_moves() -> None:
    moved = traversals(Sum(), torch.zeros(3, 2), 1)
    assert moved.shape == (2, len(RANGE), 1, 1, 2)
    np.testing.assert_allclose(moved[0, :, 0, 0, 0], np.clip(RANGE, 0.0, 1.0), atol=1e-6)
    assert not moved[0, :, 0, 0, 1].any()


def test_recombined_scenes_have_each_others_object() -> None:
    slots = known_slots(4)
    slots = replace(slots, data=replace(slots.data, slots=slots.data.slots / 100.0))
    found = recombined(Sum(), sprites(8), slots, 8)
    values = slots.data.slots
    a, b = values[0], values[1]
    first = {name: picture[0, 0, 0] for name, picture in found.items() if name not in ("A", "B")}
    torch.testing.assert_close(first["A with\nB's object"], a.sum(dim=0) - a[1] + b[1])
    torch.testing.assert_close(first["B with\nA's object"], b.sum(dim=0) - b[1] + a[1])
    torch.testing.assert_close(first["A and\nB's object"], a.sum(dim=0) + b[1])
    torch.testing.assert_close(first["A without\nits object"], a[0] + a[2])
    assert len(found["A"]) == 2


def test_disentanglement_reads_every_factor_with_both_heads(tmp_path: Path) -> None:
    account = account_of("iodine-disentanglement", SMOKE, tmp_path, {})
    records = dict(zip(KINDS, account.results["trials"], strict=True))
    sprites_record = records["sprites"]
    for key, record in records.items():
        names = KINDS[key][2]
        assert all(set(found["factors"]) == set(names) for found in record["heads"].values())
        assert 0.0 <= record["dci"]["informativeness"]["value"] <= 1.0
        assert all(kl >= 0.0 for kl in record["latents"]["kl"])
        assert {source: set(heads) for source, heads in record["largest"].items()} == {
            SLOT: set(HEADS),
            CODE: set(HEADS),
        }
        for found in (found for heads in record["largest"].values() for found in heads.values()):
            assert set(found["factors"]) == set(names)
            assert (found["objects"], found["unmatched"]) == (8, 0)  # one object per image, and one slot or code for it
    assert sprites_record["dci"]["factors"] == ["shape", "scale", "x", "y", "color 0", "color 1", "color 2"]
    assert not any("VAE" in str(row[0]) for row in cells(account))


def test_the_vae_sees_the_same_scenes_with_a_code_as_long_as_a_slot() -> None:
    for scale in ("smoke", "quick", "full"):
        trials = named_study("iodine-disentanglement").trials(Settings(scale, seeds=2))
        by_key: dict[str, Any] = {trial.key: trial.experiment for trial in trials}
        assert len(by_key) == len(trials) == 4 * len(KINDS)
        for key in KINDS:
            for seed in range(2):
                slots, whole = by_key[f"{key}-seed{seed}"], by_key[f"{key}-vae-seed{seed}"]
                assert (slots.model_name, whole.model_name) == ("iodine", "vae")
                assert whole.data == slots.data
                assert (whole.seed, whole.model.latent_size) == (seed, slots.model.latent_size)


def test_the_largest_object_is_the_one_with_the_most_visible_pixels() -> None:
    slots = known_slots()
    slots.pixels[1, 2] = 9
    chosen = slots.largest
    assert chosen.selected.tolist() == [[False, True, False], [False, False, True], [False, True, False]]
    hidden = replace(slots, data=replace(slots.data, selected=torch.zeros(3, 3, dtype=torch.bool)))
    assert not hidden.largest.selected.any()


class Codes(nn.Module):
    """One code per image: the horizontal place of its largest object."""

    def __init__(self, dataset: Any, split_images: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        batches = [dataset.batch(split, np.arange(split_images)) for split in ("train", "val", "test")]
        self.images = torch.cat([batch.images for batch in batches])
        ids = torch.cat([batch.instances for batch in batches])
        pixels = nn.functional.one_hot(ids.long(), 4)[..., 1:].sum(dim=(1, 2))
        places = torch.cat([batch.factors["x"] for batch in batches])[:, 1:]
        self.codes = places.gather(1, pixels.argmax(dim=1, keepdim=True))

    def forward(self, images: Tensor) -> Decomposition:
        rows = [int((self.images - image).abs().flatten(1).sum(dim=1).argmin()) for image in images]
        code = self.codes[rows].unsqueeze(1)
        return Decomposition(
            loss=torch.zeros(len(images)),
            terms={},
            reconstruction=images,
            components=images.unsqueeze(1),
            masks=torch.ones(len(images), 1, *images.shape[2:]),
            slots=code,
            presence=torch.ones(len(images), 1),
            posterior=Posterior(code, torch.ones_like(code)),
        )


def test_a_code_that_knows_the_largest_object_is_read_without_error() -> None:
    """And is of little use for an object of another rule."""
    data = sprites(120)
    scale = replace(SCALES["smoke"], images=(120, 60, 60))
    parts = parts_of(Codes(data, 120), data, scale, ("x",))
    specs = {"x": data.factor_specs["x"]}
    found = heads_of([part.largest for part in parts], specs=specs, seed=0, max_steps=1_500)
    assert found["linear"]["factors"]["x"]["value"] > 0.98
    smallest = [replace(part, pixels=1_000 - part.pixels).largest for part in parts]
    assert heads_of(smallest, specs=specs, seed=0, max_steps=500)["linear"]["factors"]["x"]["value"] < 0.5


# -- ablations --------------------------------------------------------------------------------------------------------


def test_one_part_changes_at_a_time() -> None:
    trials = named_study("iodine-ablations").trials(SMOKE)
    models: dict[str, Any] = {trial.group: trial.experiment.model.model_dump() for trial in trials}
    assert set(models) == {BASE, *VARIANTS}
    several = {"logistic, s 0.03": 3, "sigma from 0.3 to 0.1": 2, "sigma from 0.3 to 0.05": 2}
    several |= {"steps cut apart": 2, "decoder at full size": 2}
    for group, model in models.items():
        differing = {name for name, value in model.items() if value != models[BASE][name]}
        assert len(differing) == (0 if group == BASE else several.get(group, 1)), (group, differing)
    assert set(QUICK) <= set(VARIANTS)


def test_differences_are_of_the_same_seed() -> None:
    def record(group: str, seed: int, ari: float | None, error: float) -> dict[str, Any]:
        return {"group": group, "seed": seed, "foreground_ari": ari, "mse": error}

    records = [record(BASE, 0, 0.9, 0.01), record(BASE, 1, 0.5, 0.02), record(BASE, 2, None, 0.03)]
    records += [record("LSTM", 0, 0.6, 0.04), record("LSTM", 1, 0.7, 0.01), record("LSTM", 2, 0.1, 0.03)]
    (found,) = differences(records)
    assert found["foreground_ari"]["differences"] == pytest.approx([0.3, -0.2])
    assert (found["worse"], found["seeds"], found["about"]) == (1, 2, "update")
    assert found["mse"]["median"] == pytest.approx(0.0)
    assert found["mse"]["differences"] == pytest.approx([0.03, -0.01, 0.0])


def test_ablations_tell_every_seed_and_what_each_part_is_about(tmp_path: Path) -> None:
    study = named_study("iodine-ablations")
    chosen = (BASE, "without the image", "LSTM")
    trials = [trial for trial in study.trials(SMOKE) if trial.group in chosen]
    runs = {trial.key: tmp_path / trial.key for trial in trials}
    for trial in trials:
        fake_run(trial, runs[trial.key], [0.4, 0.5])
    account = study.account(SMOKE, runs, trials)
    assert [record["group"] for record in account.results["trials"]] == list(chosen)
    assert [row[:2] for row in cells(account)[:2]] == [["inputs", "without the image"], ["update", "LSTM"]]
    assert all(len(record["by_step"]["mse"]) == 3 for record in account.results["trials"])
