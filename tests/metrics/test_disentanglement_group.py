"""The disentanglement scores as a group: factors from batches, names of the variants, and the command line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from objectwise.cli.main import main
from objectwise.core import Batch, Decomposition, FactorSpec, Posterior, UserError, save_weights
from objectwise.data.balls import BallsConfig
from objectwise.metrics import disentanglement_group as module
from objectwise.metrics.disentanglement_group import (
    DisentanglementGroup,
    disentanglement_scores,
    factor_classes,
    object_factors,
)
from objectwise.metrics.groups import GroupSettings
from objectwise.models.beta_vae import BetaVAE, BetaVAEConfig
from objectwise.recipes.codes import cached_codes, codes_path
from objectwise.recipes.experiment import Experiment, save_experiment
from objectwise.recipes.runs import CONFIG

NAMES = ("shape", "scale", "orientation", "x", "y")
FEW = {"train": 300, "test": 200, "trees": 3}


def dsprites_factors(rows: int = 600) -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.stack([generator.integers(0, size, rows) for size in (3, 6, 10, 8, 8)], axis=1)


def one_code(means: np.ndarray, std: float = 0.1) -> Decomposition:
    mean = torch.from_numpy(means.astype(np.float32)).unsqueeze(1)
    empty = torch.zeros(len(mean), 1, 1, 2, 2)
    return Decomposition(
        loss=torch.zeros(len(mean)),
        terms={},
        reconstruction=empty[:, 0],
        components=empty,
        masks=torch.ones(len(mean), 1, 2, 2),
        slots=mean + 1.0,  # a sample, not the mean
        presence=torch.ones(len(mean), 1),
        posterior=Posterior(mean, torch.full_like(mean, std)),
    )


def test_numbers_become_classes_only_where_they_are_many() -> None:
    many, few, kinds = np.linspace(0.5, 1.0, 65), np.repeat([0.5, 0.6, 1.0, 0.7, 0.9], 13), np.arange(65)
    specs = {"many": FactorSpec("m", low=0.0, high=2.0)}
    found = factor_classes({"many": many, "few": few, "kinds": kinds}, specs)
    assert found[:, 0].min() == 5  # 0.5 of 0 to 2 in 20 bins
    assert found[-1, 0] == 10
    assert sorted(set(found[:, 1].tolist())) == [0, 1, 2, 3, 4]
    assert len(set(found[:, 2].tolist())) == 65  # whole numbers are classes, however many
    assert factor_classes({"many": many})[-1, 0] == 19


def test_objects_of_an_image_are_put_in_order() -> None:
    """Two balls have no first: whichever is to the left is called so, and keeps its own y."""
    factors = {
        "x": torch.tensor([[0.0, 7.0, 3.0], [0.0, 2.0, 2.0], [0.0, 1.0, 8.0]]),
        "y": torch.tensor([[0.0, 1.0, 5.0], [0.0, 9.0, 4.0], [0.0, 6.0, 7.0]]),
    }
    batch = Batch(torch.arange(3), torch.zeros(3, 1, 4, 4), factors=factors, present=torch.ones(3, 3, dtype=torch.bool))
    found = object_factors(batch)
    assert list(found) == ["first x", "first y", "second x", "second y"]
    assert found["first x"].tolist() == [3.0, 2.0, 1.0]
    assert found["first y"].tolist() == [5.0, 4.0, 6.0]  # equal x: by y
    assert found["second x"].tolist() == [7.0, 2.0, 8.0]
    assert found["second y"].tolist() == [1.0, 9.0, 7.0]
    missing = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    with pytest.raises(UserError, match="as many objects each"):
        object_factors(replace(batch, present=missing))
    with pytest.raises(UserError, match="no factors"):
        object_factors(replace(batch, factors={}))


def test_variants_are_named() -> None:
    factors = dsprites_factors()
    codes = np.concatenate([factors / factors.std(axis=0), np.zeros((600, 1))], axis=1)
    stds = np.tile([0.1, 0.1, 0.1, 0.1, 0.1, 1.0], (600, 1))
    found = disentanglement_scores(codes, factors, NAMES, stds=stds, **FEW)  # type: ignore[arg-type]
    assert found["mig"].policy["factors"] == NAMES
    for score in ("mig", "sap", "beta_vae_2017"):
        assert found[f"{score}_four_factors_without_shape"].policy["factors"] == NAMES[1:]
    assert found["mig"].value == pytest.approx(np.mean(list(found["mig"].per_factor.values())))
    four = [found["mig"].per_factor[name] for name in NAMES[1:]]
    assert found["mig_four_factors_without_shape"].value == pytest.approx(np.mean(four), abs=1e-9)
    # Samples are noisier than means.
    assert found["mig_sampled_codes"].value < found["mig"].value - 0.02
    assert found["modularity_dimensions_in_use"].value == pytest.approx(6 / 5 * found["modularity"].value)
    assert found["modularity_dimensions_in_use"].policy["dimensions"] == 5
    assert all(not math.isnan(score.null) for score in found.values())
    assert all(score.interval[0] <= score.value <= score.interval[1] for score in found.values())
    without = disentanglement_scores(codes, factors[:, :2], ("scale", "x"), **FEW)  # type: ignore[arg-type]
    assert not any("four" in name or "sampled" in name for name in without)


def test_a_table_without_pairs_has_no_changed_factor_score() -> None:
    factors = np.stack([np.repeat(np.arange(20), 20), np.repeat(np.arange(20), 20) // 2], axis=1)
    found = disentanglement_scores(factors + 0.0, factors, ("a", "b"), **FEW)  # type: ignore[arg-type]
    assert "beta_vae_2016" not in found
    assert found["beta_vae_2017"].value > 0.4


def test_the_group_scores_means_and_names_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "disentanglement_scores", partial(disentanglement_scores, **FEW))  # the rest is as long
    data = BallsConfig(image_size=16, eval_size=400).build()
    group = DisentanglementGroup(GroupSettings())
    batch = data.batch("test", range(400))
    assert batch.factors is not None
    places = np.stack([batch.factors[name][:, 1].numpy() for name in "xy"], axis=1)
    means = np.concatenate([(places - 5.0) / 2.2, np.zeros((400, 1))], axis=1)
    out = one_code(means)
    for part in (slice(0, 250), slice(250, 400)):
        rows = data.batch("test", range(part.start, part.stop))
        group.add(rows, one_code(means[part]), {})
    found = group.scores()
    np.testing.assert_allclose(found.arrays["means"], means, atol=1e-6)
    np.testing.assert_allclose(found.arrays["factor x"], places[:, 0])
    rows = found.sections["codes"]
    assert rows["mig"].value > 0.7
    assert "permuted labels 0.0" in rows["mig"].note
    assert "at most 1.000 here" in rows["mig"].note
    assert found.policy["binned"] == {"factors": ["x", "y"], "bins": 20}
    assert found.arrays["matrix mig"].shape == (3, 2)
    short = DisentanglementGroup(GroupSettings())
    short.add(batch, out, {})
    short.means = [short.means[0][:299]]
    with pytest.raises(UserError, match="at least 300 images, not 299"):
        short.scores()
    two = replace(out, posterior=Posterior(torch.zeros(400, 2, 3), torch.ones(400, 2, 3)))
    with pytest.raises(UserError, match="the model has 2 slots"):
        group.add(batch, two, {})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of an untrained model on balls."""
    torch.manual_seed(0)
    config = BetaVAEConfig(image_shape=(1, 16, 16), architecture="conv", latent_size=3, init="scaled")
    experiment = Experiment.of(
        "balls", "beta_vae", "balls", model=config, data=BallsConfig(image_size=16, eval_size=320)
    )
    folder = tmp_path / "run"
    save_weights(BetaVAE(config), "beta_vae", folder / "model")
    save_experiment(experiment, folder / CONFIG)
    return folder


def test_evaluate_scores_a_run_and_leaves_its_codes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--metrics", "disentanglement", "--json"]) == 0
    said = capsys.readouterr()
    record = json.loads(said.out)["metrics"]["disentanglement"]
    rows = record["codes"]
    for name in ("beta_vae_2017", "factor_vae", "mig", "dci_disentanglement", "sap", "modularity", "explicitness"):
        row = rows[name]
        assert row["interval"][0] <= row["value"] <= row["interval"][1], name
        assert 0.0 <= row["policy"]["null"] <= 1.0
        assert row["policy"]["factors"] == ["x", "y"]
        assert "seed" in row["policy"]
    assert "codes: " in said.err
    assert codes_path(run, "test", 320).is_file()
    # They are the ones that studies read.
    data = BallsConfig(image_size=16, eval_size=320).build()
    assert len(cached_codes(run, None, data, "test").means) == 320


def test_evaluate_refuses_too_few_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--limit", "100", "--metrics", "disentanglement"]) == 2
    assert "at least 300 images, not 100" in capsys.readouterr().err
