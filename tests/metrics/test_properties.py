from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from torch import Tensor

from objectwise.core import FactorSpec, UserError
from objectwise.metrics import PropertyData, PropertyScores, predict_properties, property_data
from objectwise.metrics.properties import _assigned, _objects, _predicted, _Predictor, _Targets, _with_mask_matching

SPECS = {
    "kind": FactorSpec("class", "categorical", categories=("a", "b", "c")),
    "x": FactorSpec("pixels", low=0, high=100),
    "colour": FactorSpec("rgb", low=0, high=1),
}
SIDE = 6


@dataclasses.dataclass
class World:
    """Images of 2 objects on a background; each object's row of 6×6 pixels is its mask."""

    slots: Tensor
    factors: dict[str, Tensor]
    ids: Tensor
    masks: Tensor

    def data(self, **more: object) -> PropertyData:
        return property_data(self.slots, self.factors, self.ids, masks=self.masks, **more)  # type: ignore[arg-type]


def world(
    number: int = 300, seed: int = 0, *, noise: float = 0.0, swapped: bool = False, informed: bool = True
) -> World:
    """Slots that hold their object's factors linearly.

    Args:
        number: of images.
        seed: of everything.
        noise: added to the slots.
        swapped: each object's mask is in the slot that describes the other object.
        informed: else slots say nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(3, (number, 3), generator=generator)
    x = 100.0 * torch.rand(number, 3, generator=generator)
    colour = torch.rand(number, 3, 3, generator=generator)
    ids = torch.zeros(number, SIDE, SIDE, dtype=torch.int64)
    ids[:, 1], ids[:, 4] = 1, 2
    code = torch.cat([torch.nn.functional.one_hot(kind, 3).float(), x.unsqueeze(2) / 50.0 - 1.0, colour], dim=2)
    code[:, 0] = 0.0  # background
    mixing = torch.randn(7, 7, generator=torch.Generator().manual_seed(99))
    slots = code @ mixing if informed else torch.randn(number, 3, 7, generator=generator)
    slots = slots + noise * torch.randn(slots.shape, generator=generator)
    order = torch.rand(number, 3, generator=generator).argsort(dim=1)  # slot k describes entity order[k]
    slots = slots.gather(1, order.unsqueeze(2).expand(-1, -1, 7))
    names = torch.tensor([0, 2, 1])[ids] if swapped else ids
    masks = (order[:, :, None, None] == names[:, None]).float()
    return World(slots, {"kind": kind, "x": x, "colour": colour}, ids, masks)


def parts(**more: object) -> tuple[PropertyData, PropertyData, PropertyData]:
    return tuple(world(size, seed, **more).data() for seed, size in enumerate((300, 60, 100)))  # type: ignore[return-value,arg-type]


def predicted(head: str = "linear", matching: str = "mask", steps: int = 1_000, **more: object) -> PropertyScores:
    return predict_properties(
        *parts(**more),
        SPECS,
        head=head,
        matching=matching,
        max_steps=steps,
        learning_rate=0.01,
        patience=8,
        min_delta=1e-4,
    )  # type: ignore[arg-type]


# -- what goes in ----------------------------------------------------------------------------------------------------


def test_visible_objects_are_selected() -> None:
    some = world(3)
    some.ids[0][some.ids[0] == 2] = 0
    some.ids[1, 4, 1:] = 0
    assert some.data().selected.tolist() == [[False, True, False], [False, True, True], [False, True, True]]
    assert some.data(min_pixels=2).selected[1].tolist() == [False, True, False]
    assert some.data(background_ids=(0, 1)).selected[2].tolist() == [False, False, True]


def test_similarity_is_the_cosine_of_the_masks() -> None:
    some = world(4)
    some.masks = torch.rand(some.masks.shape, generator=torch.Generator().manual_seed(5))
    found = some.data().similarity
    assert found is not None
    for image in range(4):
        for entity in range(3):
            truth = (some.ids[image] == entity).double().flatten()
            for slot in range(3):
                soft = some.masks[image, slot].double().flatten()
                expected = float(truth @ soft / (truth.norm() * soft.norm()))
                assert float(found[image, entity, slot]) == pytest.approx(expected, rel=1e-5)
    half = dataclasses.replace(some, masks=some.masks[..., ::2, ::2]).data().similarity
    assert half is not None
    assert half.shape == found.shape


# -- matching --------------------------------------------------------------------------------------------------------


def test_mask_matching_takes_the_slot_with_the_objects_mask() -> None:
    some = world(20)
    data = some.data()
    targets = _Targets.of(SPECS, {"training": data})
    predictor = _Predictor(data, targets, "linear", 0)
    outputs, (image, entity) = _predicted(predictor, _with_mask_matching(data), targets, "mask")
    assert image.tolist() == sorted([*range(20)] * 2)
    assert entity.tolist() == [1, 2] * 20
    for output, i, e in zip(outputs, image, entity, strict=True):
        slot = next(k for k in range(3) if torch.equal(some.masks[i, k] > 0, some.ids[i] == e))
        torch.testing.assert_close(output, predictor(data.slots[i, slot]))


def test_assignment_has_the_least_cost_and_gives_each_slot_once() -> None:
    costs = torch.tensor([[1.0, 2.0], [0.9, 5.0], [3.0, 4.0], [9.0, 1.0], [8.0, 0.5]])
    images = torch.tensor([2, 2, 5, 7, 7])
    assert _assigned(costs, images).tolist() == [1, 0, 0, 1, 0]  # 2 + 0.9, 3, 1 + 8
    assert sorted(_assigned(costs, torch.zeros(5)).tolist()) == [-1, -1, -1, 0, 1]


def test_loss_matching_agrees_with_trying_every_assignment() -> None:
    data = world(12).data()
    targets = _Targets.of(SPECS, {"training": data})
    outputs = torch.randn(12, 3, targets.width, generator=torch.Generator().manual_seed(1))
    objects = image, entity = _objects(data)
    costs = targets.losses(outputs[image], data, objects)
    slot = _assigned(costs, image)
    for i in range(12):

        def loss(e: int, k: int, i: int = i) -> float:
            """Cross-entropy of the class, and squared errors of what is standardised by the training objects."""
            given, out = outputs[i, k].double(), 0.0
            out += float(given[:3].logsumexp(dim=0) - given[data.factors["kind"][i, e]])
            for name, columns in (("x", slice(3, 4)), ("colour", slice(4, 7))):
                rows = data.factors[name][:, 1:].reshape(24, -1).double()
                wanted = (data.factors[name][i, e].double().reshape(-1) - rows.mean(0)) / rows.std(0, correction=0)
                out += float((given[columns] - wanted).square().mean())
            return out

        best = min((loss(1, a) + loss(2, b), (a, b)) for a in range(3) for b in range(3) if a != b)[1]
        assert slot[image == i].tolist() == list(best)
        assert entity[image == i].tolist() == [1, 2]
        assert costs[image == i][0].tolist() == pytest.approx([loss(1, k) for k in range(3)], rel=1e-4)


def test_objects_beyond_the_slots_are_wrong_but_have_no_squared_error() -> None:
    """Two objects, one slot: half of all objects have none."""
    cut = [
        PropertyData(data.slots[:, :1], data.factors, data.selected, data.similarity[:, :, :1])  # type: ignore[index]
        for data in parts()
    ]
    found = predict_properties(*cut, SPECS, matching="loss", max_steps=500, learning_rate=0.01)
    assert (found.n_objects, found.n_unmatched) == (200, 100)
    assert found.factors["kind"].value <= 0.5
    assert not math.isnan(found.factors["x"].value)


# -- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("matching", ["mask", "loss"])
def test_linear_codes_are_read(matching: str) -> None:
    found = predicted(matching=matching)
    assert found.factors["kind"].value > 0.97
    assert found.factors["x"].value > 0.97
    assert found.factors["colour"].value > 0.95
    assert (found.n_objects, found.n_unmatched, found.n_skipped) == (200, 0, 0)
    assert {name: score.score for name, score in found.factors.items()} == {
        "kind": "accuracy",
        "x": "r2",
        "colour": "r2",
    }
    assert found.factors["x"].unit == "pixels"
    assert found.policy["matching"] == matching
    assert found.policy["images"] == (300, 60, 100)


def test_masks_in_the_wrong_slot_are_seen_by_mask_matching_alone() -> None:
    assert predicted(matching="mask", swapped=True).factors["x"].value < 0.2
    assert predicted(matching="loss", swapped=True).factors["x"].value > 0.95


def test_codes_that_say_nothing_score_chance_and_loss_matching_is_optimistic() -> None:
    honest = predicted(informed=False, steps=500)
    optimistic = predicted(informed=False, steps=500, matching="loss")
    assert honest.factors["x"].value < 0.05
    assert abs(honest.factors["kind"].value - honest.factors["kind"].chance) < 0.12
    assert 0.3 < honest.factors["kind"].chance < 0.5
    assert optimistic.factors["x"].value > honest.factors["x"].value + 0.1


def test_an_mlp_reads_what_a_line_cannot() -> None:
    data = []
    for part in parts():
        x = part.factors["x"] / 50.0 - 1.0
        folded = PropertyData(part.slots, {"x": (x.abs() > 0.5).long()}, part.selected, part.similarity)
        data.append(folded)
    spec = {"x": FactorSpec("class", "categorical", categories=("inside", "outside"))}
    line = predict_properties(*data, spec, head="linear", max_steps=1_000, learning_rate=0.01)
    bent = predict_properties(*data, spec, head="mlp1", max_steps=1_000, learning_rate=0.01)
    assert line.factors["x"].value < 0.7
    assert bent.factors["x"].value > 0.85


def test_r2_agrees_with_scikit_learn() -> None:
    """A linear head trained to the end is least squares; its score is R² over all test objects together."""
    train, val, test = parts(noise=0.7)
    spec = {"x": SPECS["x"]}
    found = predict_properties(train, val, test, spec, max_steps=4_000, learning_rate=0.003, patience=16, min_delta=0.0)
    rows = []
    for part in (train, test):
        assert part.similarity is not None
        slot = part.similarity[:, 1:].argmax(dim=2)
        inputs = part.slots.gather(1, slot.unsqueeze(2).expand(-1, -1, 7)).flatten(0, 1).numpy()
        rows.append((inputs, part.factors["x"][:, 1:].flatten().numpy()))
    model = LinearRegression().fit(*rows[0])
    assert found.factors["x"].value == pytest.approx(r2_score(rows[1][1], model.predict(rows[1][0])), abs=0.02)


def test_score_by_hand() -> None:
    """Chosen outputs: 3 of 4 classes right; R² of known residuals, averaged over what varies."""
    data = world(2).data()
    data.factors["kind"][:, 1:] = torch.tensor([[0, 1], [2, 2]])
    data.factors["colour"][..., 2] = 0.25
    targets = _Targets.of(SPECS, {"training": data})
    objects = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2, 1, 2])
    outputs = torch.zeros(4, targets.width)
    outputs[torch.arange(4), torch.tensor([0, 1, 2, 0])] = 1.0
    accuracy = targets.score("kind", outputs, data, data, objects)
    assert accuracy.value == 0.75
    assert accuracy.chance == 0.5
    outputs[3, :3] = torch.tensor([0.0, 0.0, 1.0])
    assert targets.score("kind", outputs, data, data, objects).value == 1.0
    fewer = targets.score("kind", outputs[:3], data, data, (objects[0][:3], objects[1][:3]))
    assert fewer.value == 0.75  # the object without a slot is wrong
    wanted = targets.standardised("colour", data.factors["colour"][objects])
    outputs[:, targets.columns["colour"]] = wanted + torch.tensor([0.1, 0.0, 5.0])
    # Standardised targets: the total is 4 per varying number, the residual 4 · 0.01; the third number is constant.
    found = targets.score("colour", outputs, data, data, objects)
    assert found.value == pytest.approx(1.0 - 0.01 / 2, abs=1e-5)


def test_constants_are_marked_not_scored() -> None:
    data = parts()
    for part in data:
        part.factors["x"].fill_(7.0)
        part.factors["kind"].fill_(1)
    found = predict_properties(*data, SPECS, max_steps=300)
    for name in ("x", "kind"):
        assert found.factors[name].constant
        assert math.isnan(found.factors[name].value)
    assert not found.factors["colour"].constant
    assert found.factors["colour"].value > 0.0


def test_images_without_objects_are_skipped() -> None:
    train, val, test = parts()
    test.selected[:30] = False
    test.factors["x"][:30] = float("inf")  # rows that are not selected are never looked at
    train.selected[5] = False
    found = predict_properties(train, val, test, SPECS, max_steps=300, learning_rate=0.01)
    assert (found.n_skipped, found.n_objects) == (30, 140)
    assert math.isfinite(found.factors["x"].value)


def test_training_stops_early_and_keeps_the_best_weights() -> None:
    quick = predict_properties(*parts(informed=False), SPECS, head="mlp1", learning_rate=0.01)
    assert quick.steps < 6_000
    assert quick.steps % 250 == 0
    # An MLP that learned noise by heart would score far below the mean.
    assert quick.factors["x"].value > -0.4


def test_one_seed_gives_one_result_and_global_generators_rest() -> None:
    state = torch.get_rng_state()
    first, second = (predicted(steps=100) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    data = parts()
    other = predict_properties(*data, SPECS, max_steps=100, learning_rate=0.01, seed=1)
    assert other.factors["x"].value != first.factors["x"].value


def test_the_test_images_do_not_reach_the_head() -> None:
    train, val, test = parts()
    targets = _Targets.of(SPECS, {"training": train, "test": test})
    shifted = PropertyData(test.slots + 100.0, test.factors, test.selected, test.similarity)
    again = _Targets.of(SPECS, {"training": train, "test": shifted})
    assert torch.equal(targets.mean["x"], again.mean["x"])
    wide = PropertyData(test.slots, {**test.factors, "x": test.factors["x"] * 50.0}, test.selected, test.similarity)
    assert torch.equal(_Targets.of(SPECS, {"training": train, "test": wide}).std["x"], targets.std["x"])
    predictor = _Predictor(train, targets, "linear", 0)
    np.testing.assert_allclose(predictor.mean.numpy(), train.slots.flatten(0, 1).mean(dim=0).numpy(), atol=1e-5)
    assert val.slots.shape == (60, 3, 7)


# -- errors ----------------------------------------------------------------------------------------------------------


def test_what_cannot_work_is_refused() -> None:
    train, val, test = parts()
    with pytest.raises(UserError, match="no head 'lineal'; did you mean 'linear'"):
        predict_properties(train, val, test, SPECS, head="lineal")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no matching 'masks'; did you mean 'mask'"):
        predict_properties(train, val, test, SPECS, matching="masks")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="have no factor 'y'"):
        predict_properties(train, val, test, {"y": SPECS["x"]})
    with pytest.raises(UserError, match="no factor to predict"):
        predict_properties(train, val, test, {})
    with pytest.raises(UserError, match="'x' is categorical"):
        predict_properties(train, val, test, {"x": SPECS["kind"]})
    blind = PropertyData(val.slots, val.factors, torch.zeros_like(val.selected), val.similarity)
    with pytest.raises(UserError, match="no object can be seen in the validation images"):
        predict_properties(train, blind, test, SPECS)
    bare = PropertyData(test.slots, test.factors, test.selected)
    with pytest.raises(UserError, match="needs masks"):
        predict_properties(train, val, bare, SPECS)
    some = world(3)
    for change, message in (
        ({"slots": some.slots[0]}, "images"),
        ({"ids": some.ids + 1}, "from 0 to 2"),
        ({"masks": some.masks[:, :2]}, "images and slots"),
        ({"factors": {"x": some.factors["x"][:, 0]}}, "entities"),
        ({"factors": {"x": some.factors["x"], "kind": some.factors["kind"][:, :2]}}, "one number of entities"),
        ({"factors": {"x": some.factors["x"] * float("nan")}}, "not finite"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(some, **change).data()  # type: ignore[arg-type]
