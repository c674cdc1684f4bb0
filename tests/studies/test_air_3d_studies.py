"""The studies of AIR in 3D: what their numbers mean, by hand, and their accounts of made-up runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_studies import account_of, cells

from objectwise.core import MetricResult
from objectwise.metrics import SceneScores
from objectwise.models.air_3d_baselines import supervised_loss
from objectwise.rendering.tabletop import Tabletop, TabletopConfig, numba_is_there
from objectwise.rendering.tabletop_soft import SoftTabletop
from objectwise.studies import inferred_scenes as scenes
from objectwise.studies import named_study
from objectwise.studies.air_3d_single import AIR, GOALS, cost_text, failures, one_object, times_faster
from objectwise.studies.air_3d_table import PRESETS, SUPERVISED, points_over_fixed, split_scenes, turns
from objectwise.studies.black_box_gradients import exact_gradient, gradient_quality, smooth_scenes
from objectwise.studies.study import Settings

needs_numba = pytest.mark.skipif(not numba_is_there(), reason="slow without numba")


# -- gradients --------------------------------------------------------------------------------------------------------


@needs_numba
def test_the_exact_gradient_of_a_sphere_is_that_of_fine_soft_pictures() -> None:
    """By an independent way: automatic differentiation through pictures of 12 times the side, edges a twelfth as soft."""
    look = TabletopConfig()
    scene, target = smooth_scenes(1, look, 3)
    images = Tabletop(look.replaced(samples=16))(target)
    soft, pose = SoftTabletop(look.replaced(height=384, width=384), 0.5), scene.pose.clone().requires_grad_()
    drawn = torch.nn.functional.avg_pool2d(soft(scene._replace(pose=pose)), 12)
    (expected,) = torch.autograd.grad((drawn - images).square().sum(), pose)
    found = exact_gradient(scene, images, look)
    assert (found - expected).norm() < 0.02 * expected.norm()
    assert expected.norm() > 1.0


@needs_numba
def test_estimators_are_ranked_as_theory_has_it() -> None:
    """More rays are better; noise averages out; the goal's estimator is near it on smooth scenes."""
    found = {(q.method, q.samples, q.step, q.kind): q for q in gradient_quality(TabletopConfig(), batch=12, draws=24)}
    fine, coarse = (found["finite-difference", samples, 0.2, "sphere"] for samples in (4, 1))
    assert fine.error < 0.08 < coarse.error
    assert fine.bias == pytest.approx(fine.error)
    for noisy in ("spsa", "evolution"):
        one = found[noisy, 4, 0.4, "sphere"]
        assert one.error > 0.5
        assert one.bias < 0.4 * one.error
    assert found["evolution", 4, 0.4, "sphere"].error > found["spsa", 4, 0.4, "sphere"].error
    assert found["autograd", 0, 0.0, "sphere"].error < 0.2
    assert all(q.milliseconds > 0.0 for q in found.values())


# -- one object -------------------------------------------------------------------------------------------------------


def record(method: str, mse: float, ms: float, network: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"method": method, "seed": 0, "mse": mse, "ms": ms}
    if network is not None:
        found |= {"restarts": 1, "steps": 1, "network": {"mse": network}}
    return found


def test_how_many_times_faster() -> None:
    """The slowest budget that is no better than the network on the scenes both did, not on all test scenes."""
    network = record(AIR, 0.5, 0.2)  # on all scenes; on those of the budgets: 0.03
    budgets = [record("a", 0.09, 4.0, 0.03), record("b", 0.03, 30.0, 0.03), record("c", 0.01, 90.0, 0.03)]
    found = times_faster([network, *budgets, {**record("d", 9.0, 1e6, 0.03), "seed": 1}], network)
    assert found["ratio"] == pytest.approx(150.0)
    assert (found["budget"], found["better_budget"]) == ("b", "c")
    assert found["better_at"] == pytest.approx(450.0)
    never = times_faster([network, budgets[2]], network)
    assert never["ratio"] is None
    assert "leaves a smaller squared error than the network" in cost_text([network, budgets[2]])
    assert "no budget leaves a smaller" in cost_text([network, budgets[0]])


@needs_numba
def test_failures_miss_a_goal() -> None:
    """A wrong class, a place too far off, and a cube turned too far; nothing else."""
    dataset: Any = named_study("air-3d-single").trials(Settings("smoke"))[0].experiment.build_data()
    kinds = dataset.scene("test", np.arange(40)).kind[:, 0].numpy()
    cubes, others = np.flatnonzero(kinds == 0), np.flatnonzero(kinds != 0)
    accuracy, place = np.ones(40), np.full(40, 0.5 * GOALS["position_error"])
    accuracy[[cubes[0], others[0]]] = 0.0
    place[others[1]] = 2.0 * GOALS["position_error"]
    turned = np.zeros(len(cubes) - 1)  # the first cube was taken for something else
    turned[2] = 11.0
    results = [MetricResult.over_images(values) for values in (np.ones(40), accuracy, accuracy, place)]
    scores = SceneScores(*results, {0: turned, 1: np.zeros(0), 2: np.zeros(0)})
    wrong = failures(scenes.Scored(scores, np.zeros(40), np.ones(40), ("cube", "sphere", "cylinder")), dataset)
    assert sorted(np.flatnonzero(wrong)) == sorted([cubes[0], cubes[3], others[0], others[1]])


def test_an_object_that_was_not_found_has_no_right_class() -> None:
    results = [
        MetricResult.over_images(np.array(v)) for v in ([1, 0, 1.0], [1, 0, 0.0], [1, np.nan, 0], [0.1, np.nan, 0.3])
    ]
    scores = SceneScores(*results, {0: np.zeros(0)})
    told = one_object(scenes.Scored(scores, np.zeros(3), np.array([1, 0, 1]), ("cube",)))
    assert told["class_accuracy"] == pytest.approx(1 / 3)
    assert told["position_error"] == pytest.approx(0.2)
    assert told["median_rotation_degrees"] == {"cube": None}


@needs_numba
def test_single_tells_every_method(tmp_path: Path) -> None:
    account = account_of("air-3d-single", Settings("smoke"), tmp_path, {})
    methods = [record["method"] for record in account.results["trials"]]
    assert methods == [AIR, "supervised, (cos, sin)", "supervised, radians", "optimised, 1×2", "optimised, 3×6"]
    network = account.results["trials"][0]
    assert network["scenes"] == 48
    assert network["count_accuracy"] == 1.0
    assert account.results["trials"][3]["scenes"] == account.results["trials"][3]["network"]["scenes"] == 8
    assert account.results["times_faster"][0]["seed"] == 0
    shown = next(row for row in cells(account) if row[0] == AIR)
    assert shown[3] == f"{100 * network['class_accuracy']:.2f} %"
    rays = {(row["method"], row["samples"]) for row in account.results["gradients"]["estimators"]}
    assert {("finite-difference", 4), ("spsa", 2), ("evolution", 1), ("autograd", 0)} <= rays
    headings = [section.heading for section in account.sections]
    assert headings[:4] == [
        "Every seed",
        "The turn of a cube",
        "What inference costs",
        "Gradients through the renderer",
    ]
    assert all(section.figures for section in account.sections if section.heading.startswith("Inferred"))


@needs_numba
def test_supervised_networks_are_kept_and_differ(tmp_path: Path) -> None:
    """Trained once; another yaw loss gives another network; both have learned from the labels."""
    (trial,) = named_study("air-3d-single").trials(Settings("smoke"))
    first = scenes.supervised(trial, tmp_path)
    again = scenes.supervised(trial, tmp_path)
    assert torch.equal(first.head.weight, again.head.weight)
    other = scenes.supervised(trial, tmp_path, turn="angle")
    assert not torch.equal(first.head.weight, other.head.weight)
    plain = scenes.supervised(trial, tmp_path, attention=False)
    assert plain.attention is None
    assert first.attention is not None
    dataset: Any = trial.experiment.build_data()
    images, truth = dataset.batch("val", range(64)).images, dataset.scene("val", range(64))
    untrained = type(first)(first.config)
    for network, turn in ((first, "vector"), (other, "angle")):
        losses = [supervised_loss(one, images, truth, "fixed", turn).mean() for one in (network, untrained)]  # type: ignore[arg-type]
        assert losses[0] < losses[1]
    assert first.config.rotation_fold == 1


# -- a table ----------------------------------------------------------------------------------------------------------


def test_parts_of_the_scenes() -> None:
    kind = np.array([[0, 0, 1], [0, 1, 2], [2, 1, 2], [1, 1, 1], [0, 0, 0]])
    present = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]], bool)
    parts = split_scenes(kind, present)
    assert parts["all"].tolist() == [True] * 5
    assert parts["repeated"].tolist() == [True, False, True, False, False]
    assert parts["different"].tolist() == [False, True, False, False, False]


def test_points_are_of_scenes_with_repeats_seed_by_seed() -> None:
    def one(method: str, seed: int, f1: float, group: str = "primitives") -> dict[str, Any]:
        parts = {"repeated": {"f1": f1, "count_accuracy": None}, "different": {"f1": 0.0, "count_accuracy": 0.0}}
        return {"group": PRESETS[group], "method": method, "seed": seed, "parts": parts}

    fixed, plain, matched = SUPERVISED
    records = [one(AIR, 0, 0.9), one(fixed, 0, 0.7), one(matched, 0, 0.8), one(AIR, 1, 0.5), one(fixed, 1, 0.4)]
    records += [one(plain, 0, 0.1), one(plain, 1, 0.6)]
    found = points_over_fixed([*records, one(AIR, 2, 1.0, "tableware")])
    assert [row["f1"] for row in found] == pytest.approx([20.0, -10.0])
    assert [row["count"] for row in found] == [None, None]


def test_what_can_be_seen_to_turn() -> None:
    assert [turns(kind, PRESETS["primitives"]) for kind in ("cube", "sphere", "cylinder")] == [True, False, False]
    assert [turns(kind, PRESETS["tableware"]) for kind in ("mug", "bowl", "bottle")] == [True, False, False]


@needs_numba
def test_table_tells_every_method_with_and_without_repeats(tmp_path: Path) -> None:
    account = account_of("air-3d-table", Settings("smoke"), tmp_path, {})
    told = [(record["group"], record["method"]) for record in account.results["trials"]]
    main = PRESETS["primitives"]
    assert told == [(main, AIR), *((main, name) for name in SUPERVISED),
                    (PRESETS["camera"], AIR), (PRESETS["tableware"], AIR)]  # fmt: skip
    for record in account.results["trials"]:
        parts, confusion = record["parts"], np.array(record["confusion"])
        assert parts["all"]["scenes"] == record["scenes"] == confusion.sum() == 48
        assert np.trace(confusion) / 48 == pytest.approx(record["count_accuracy"])
        assert 0 < parts["repeated"]["scenes"] < 48
        assert ("camera_error_degrees" in record) == (record["group"] == PRESETS["camera"])
    assert len([row for row in cells(account) if row[0] == "a kind twice or more"]) == 4
    headings = [section.heading for section in account.sections]
    assert {f"Failures: {name}" for name in PRESETS.values()} <= set(headings)
    failed = next(section for section in account.sections if section.heading == f"Failures: {main}")
    assert "of 48 test scenes are wrong" in failed.text
