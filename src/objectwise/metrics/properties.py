"""How much of each object's factors a small head can read from its slot.

Dittadi et al., "Generalization and Robustness Implications in Object-Centric Learning", ICML 2022, arXiv:2107.00637, whose
protocol this is: slots of a frozen model; one head applied to every slot; cross-entropy for categorical factors and squared error
for numerical ones, standardised by the training set, summed over factors and averaged over objects; Adam 1e-3, at most 6,000
steps, early stopping on validation images (patience 3, progress of at least 0.01).

Symbols: B images, K slots of width D, E entities. *Selected* are the entities that are not background and can be seen; others are
in no matching and in no loss. Objects get slots one to one (Hungarian), by one of two costs:

* ``"mask"``: 1 − cosine similarity of true and predicted soft mask. Honest: the segmentation must be right.
* ``"loss"``: the head's own loss, without gradient. Optimistic: the best explanation of the labels wins, so that it is
  usually above ``"mask"``.

Scores are over the concatenation of all selected objects of all test images: accuracy, in which an object without a slot (more
objects than slots) is wrong, and R² of the objects that have one. A factor that is constant there has no R² and no accuracy worth
the name: its score is NaN and it is marked constant.

Departures from the paper's code: slots are standardised before they reach a head, the loss is looked at every 250 steps (batches
of 64 images), the weights with the best validation loss are kept, and MLPs are 256 wide: the paper's are not known here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from objectwise.core import FactorSpec, UserError, nearest, seed_for
from objectwise.metrics.segmentation import resized

Head = Literal["linear", "mlp1", "mlp2", "mlp3"]
Matching = Literal["loss", "mask"]

_LOOK_EVERY, _BATCH, _WIDTH = 250, 64, 256
_WEIGHTS, _BATCHES = 0, 1


@dataclass(frozen=True)
class PropertyData:
    """Slots of B images, and what is known of their entities; made by :func:`property_data`.

    Attributes:
        slots: (B, K, D) float32.
        factors: name -> (B, E) int64 classes, or (B, E) or (B, E, d) float32 numbers.
        selected: (B, E) bool, entities that count.
        similarity: (B, E, K) cosine similarity of true and predicted masks, or None where nothing is matched by masks.
    """

    slots: Tensor
    factors: Mapping[str, Tensor]
    selected: Tensor
    similarity: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[PropertyData]) -> PropertyData:
        """The images of several, which all have similarities or all have none."""
        similarities = [part.similarity for part in parts if part.similarity is not None]
        return cls(
            torch.cat([part.slots for part in parts]),
            {name: torch.cat([part.factors[name] for part in parts]) for name in parts[0].factors},
            torch.cat([part.selected for part in parts]),
            torch.cat(similarities) if similarities else None,
        )

    def select(self, rows: slice | Tensor) -> PropertyData:
        """The same of some of the images."""
        return PropertyData(
            self.slots[rows],
            {name: values[rows] for name, values in self.factors.items()},
            self.selected[rows],
            None if self.similarity is None else self.similarity[rows],
        )


@dataclass(frozen=True)
class PropertyScore:
    """How well one factor was predicted.

    Attributes:
        score: ``"accuracy"`` or ``"r2"``.
        value: NaN where the factor is constant or no object could be scored; R² may be negative.
        constant: whether all selected test objects have one value.
        unit: of the factor.
        chance: accuracy of the most frequent training class; 0 for R², which the mean scores.
    """

    score: Literal["accuracy", "r2"]
    value: float
    constant: bool
    unit: str
    chance: float


@dataclass(frozen=True)
class PropertyScores:
    """What :func:`predict_properties` found on the test images.

    Attributes:
        factors: name -> its score.
        n_objects: selected test objects.
        n_unmatched: of these, how many had no slot.
        n_skipped: test images without a selected object.
        steps: training steps done.
        policy: the settings that produced it.
    """

    factors: dict[str, PropertyScore]
    n_objects: int
    n_unmatched: int
    n_skipped: int
    steps: int
    policy: Mapping[str, object] = field(default_factory=dict)


def property_data(
    slots: Tensor | np.ndarray,
    factors: Mapping[str, Tensor | np.ndarray],
    true_ids: Tensor | np.ndarray,
    *,
    masks: Tensor | np.ndarray | None = None,
    background_ids: Sequence[int] = (0,),
    min_pixels: int = 1,
) -> PropertyData:
    """Slots and factors, with the objects that can be seen selected.

    Args:
        slots: (B, K, D), posterior means.
        factors: name -> (B, E) or (B, E, d); row e describes the entity whose id is e.
        true_ids: (B, H, W) integers from 0 to E − 1.
        masks: (B, K, H, W) soft masks, for matching by masks; resized bilinearly where their size is not the truth's.
        background_ids: every id that is background.
        min_pixels: an object with fewer is not selected; at least 1.

    Raises:
        UserError: for shapes or types that cannot work, or no factors.
    """
    codes, ids = torch.as_tensor(slots).detach().cpu().float(), torch.as_tensor(true_ids).cpu()
    values = {name: _factor(name, torch.as_tensor(value).detach().cpu(), len(codes)) for name, value in factors.items()}
    entities = {value.shape[1] for value in values.values()}
    if codes.ndim != 3 or ids.ndim != 3 or len(ids) != len(codes):
        raise UserError(
            f"slots must be (images, slots, width) and true ids (images, height, width), not {tuple(codes.shape)} and "
            f"{tuple(ids.shape)}"
        )
    if len(entities) != 1:
        raise UserError(f"factors must describe one number of entities, not {sorted(entities)}")
    number = entities.pop()
    if ids.is_floating_point() or (ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < number):
        raise UserError(f"true ids must be integers from 0 to {number - 1}, the entities that factors describe")
    true = nn.functional.one_hot(ids.long(), number).movedim(-1, 1).flatten(2).float()
    pixels = true.sum(dim=2)
    selected = pixels >= max(min_pixels, 1)
    selected[:, list(background_ids)] = False
    similarity = None
    if masks is not None:
        soft = resized(torch.as_tensor(masks).cpu(), ids).float().flatten(2)
        if soft.shape[:2] != codes.shape[:2]:
            raise UserError(f"masks are of {tuple(soft.shape[:2])} images and slots, slots of {tuple(codes.shape[:2])}")
        lengths = pixels.sqrt().unsqueeze(2) * soft.norm(dim=2).unsqueeze(1)
        similarity = torch.bmm(true, soft.transpose(1, 2)) / lengths.clamp_min(1e-12)
    return PropertyData(codes, values, selected, similarity)


def matched_slots(data: PropertyData) -> Tensor:
    """The slot of each selected object by masks, one to one: (B, E) int64; −1 for objects without one and for all others.

    Args:
        data: with similarities.

    Raises:
        UserError: without them.
    """
    if data.similarity is None:
        raise UserError("matching by masks needs masks; give them to property_data")
    chosen = _with_mask_matching(data).similarity
    assert chosen is not None
    return torch.where(chosen.any(dim=2), chosen.argmax(dim=2), -1)


def predict_properties(
    train: PropertyData,
    val: PropertyData,
    test: PropertyData,
    specs: Mapping[str, FactorSpec],
    *,
    head: Head = "linear",
    matching: Matching = "mask",
    seed: int = 0,
    max_steps: int = 6_000,
    learning_rate: float = 1e-3,
    patience: int = 3,
    min_delta: float = 0.01,
) -> PropertyScores:
    """Train a head on some images, stop it by others, and score it on a third part.

    Args:
        train: images that the head learns from.
        val: images that stop it.
        test: images that are scored, of which it sees nothing before.
        specs: name -> kind and unit of each factor to predict.
        head: linear, or an MLP with that many hidden layers.
        matching: how objects get their slots, in training and in the test.
        seed: of the head's weights and of the order of the images.
        max_steps: most steps of 64 images.
        learning_rate: of Adam.
        patience: looks at the validation loss without progress before training stops.
        min_delta: what counts as progress, in the units of the loss.

    Raises:
        UserError: for an unknown head or matching, a factor that is missing, or a part without a selected object.
    """
    for what, name, choices in (("head", head, get_args(Head)), ("matching", matching, get_args(Matching))):
        if name not in choices:
            raise UserError(f"there is no {what} '{name}'{nearest(name, choices)}")
    parts = {"training": train, "validation": val, "test": test}
    for what, part in parts.items():
        if not bool(part.selected.any()):
            raise UserError(f"no object can be seen in the {what} images")
        if matching == "mask" and part.similarity is None:
            raise UserError("matching by masks needs masks; give them, or match by loss")
    targets = _Targets.of(specs, parts)
    if matching == "mask":
        train, val, test = (_with_mask_matching(part) for part in (train, val, test))
    predictor = _Predictor(train, targets, head, seed)
    steps = _fit(predictor, train, val, targets, matching, (max_steps, learning_rate, patience, min_delta), seed)
    with torch.no_grad():
        outputs, objects = _predicted(predictor, test, targets, matching)
    chosen = int(test.selected.sum())
    scores = {name: targets.score(name, outputs, test, train, objects) for name in specs}
    policy = {
        "head": head,
        "matching": matching,
        "images": tuple(len(part.slots) for part in parts.values()),
        "learning_rate": learning_rate,
        "max_steps": max_steps,
        "patience": patience,
        "min_delta": min_delta,
        "seed": seed,
    }
    skipped = int((~test.selected.any(dim=1)).sum())
    return PropertyScores(scores, chosen, chosen - len(outputs), skipped, steps, policy)


# -- targets ---------------------------------------------------------------------------------------------------------

_Objects = tuple[Tensor, Tensor]
"""Image and entity of each of N objects, (N,) each."""


@dataclass(frozen=True)
class _Targets:
    """Where each factor is in a head's output, and how it is scored.

    Attributes:
        specs: kinds and units.
        columns: name -> its columns of the output.
        mean: name -> (d,) training mean of a numerical factor.
        std: name -> (d,) training standard deviation, 1 where there is none.
    """

    specs: Mapping[str, FactorSpec]
    columns: Mapping[str, slice]
    mean: Mapping[str, Tensor]
    std: Mapping[str, Tensor]

    @classmethod
    def of(cls, specs: Mapping[str, FactorSpec], parts: Mapping[str, PropertyData]) -> _Targets:
        """Widths and statistics from the data."""
        columns: dict[str, slice] = {}
        mean, std = {}, {}
        start = 0
        for name, spec in specs.items():
            for what, part in parts.items():
                if name not in part.factors:
                    raise UserError(f"the {what} images have no factor '{name}'{nearest(name, part.factors)}")
            seen = [part.factors[name][part.selected] for part in parts.values()]
            if spec.kind == "categorical":
                if any(values.is_floating_point() or values.ndim != 1 or int(values.min()) < 0 for values in seen):
                    raise UserError(f"factor '{name}' is categorical: it needs one class 0, 1, 2, ... per entity")
                width = max(len(spec.categories), 1 + max(int(values.max()) for values in seen))
            else:
                values = seen[0].double().flatten(1) if seen[0].ndim > 1 else seen[0].double().unsqueeze(1)
                spread, centre = torch.std_mean(values, dim=0, correction=0)
                mean[name] = centre.float()
                std[name] = torch.where(spread > 1e-6 * (1.0 + centre.abs()), spread, 1.0).float()
                width = values.shape[1]
            columns[name] = slice(start, start + width)
            start += width
        if not columns:
            raise UserError("there is no factor to predict")
        return cls(specs, columns, mean, std)

    @property
    def width(self) -> int:
        """Columns of the output."""
        return max(part.stop for part in self.columns.values())

    def standardised(self, name: str, values: Tensor) -> Tensor:
        """(N,) or (N, d) numbers -> (N, d)."""
        return (values.float().view(len(values), -1) - self.mean[name]) / self.std[name]

    def losses(self, outputs: Tensor, data: PropertyData, objects: _Objects) -> Tensor:
        """Loss of outputs (N, ..., columns) for N objects, summed over factors -> (N, ...)."""
        total: Tensor | float = 0.0
        for name, part in self.columns.items():
            given, values = outputs[..., part], data.factors[name][objects]
            if self.specs[name].kind == "categorical":
                index = values.view(-1, *[1] * (given.ndim - 1)).expand(*given.shape[:-1], 1)
                total = total - given.log_softmax(dim=-1).gather(-1, index).squeeze(-1)
            else:
                wanted = self.standardised(name, values)
                wanted = wanted.view(len(wanted), *[1] * (given.ndim - 2), wanted.shape[1])
                total = total + (given - wanted).square().mean(dim=-1)
        assert isinstance(total, Tensor)
        return total

    def score(
        self, name: str, outputs: Tensor, test: PropertyData, train: PropertyData, objects: _Objects
    ) -> PropertyScore:
        """The score of one factor from outputs (N, columns) for the test objects that have a slot."""
        given, spec = outputs[:, self.columns[name]], self.specs[name]
        every, values = test.factors[name][test.selected], test.factors[name][objects]
        constant = bool((every == every[:1]).all())
        if spec.kind == "categorical":
            right = int((given.argmax(dim=1) == values).sum())
            value = float("nan") if constant else right / len(every)
            frequent = torch.bincount(train.factors[name][train.selected]).argmax()
            return PropertyScore("accuracy", value, constant, spec.unit, float((every == frequent).double().mean()))
        wanted = self.standardised(name, values).double()
        rest = (given.double() - wanted).square().sum(dim=0)
        total = (wanted - wanted.mean(dim=0)).square().sum(dim=0)
        varies = total > 1e-9
        value = (
            float((1.0 - rest[varies] / total[varies]).mean()) if bool(varies.any()) and not constant else float("nan")
        )
        return PropertyScore("r2", value, constant, spec.unit, 0.0)


# -- heads -----------------------------------------------------------------------------------------------------------


class _Predictor(nn.Module):
    """One head for every slot; its weights are drawn from the seed, not from the global generator."""

    mean: Tensor
    spread: Tensor

    def __init__(self, train: PropertyData, targets: _Targets, head: Head, seed: int) -> None:
        super().__init__()
        slots = train.slots.flatten(0, 1)
        spread, mean = torch.std_mean(slots.double(), dim=0, correction=0)
        self.register_buffer("mean", mean.float())
        self.register_buffer("spread", torch.where(spread > 1e-6 * (1.0 + mean.abs()), spread, 1.0).float())
        hidden = 0 if head == "linear" else int(head.removeprefix("mlp"))
        sizes = [slots.shape[1], *[_WIDTH] * hidden, targets.width]
        generator = torch.Generator().manual_seed(seed_for(seed, _WEIGHTS))
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -1.0 / math.sqrt(inputs), 1.0 / math.sqrt(inputs), generator=generator)
            layers += [layer, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, slots: Tensor) -> Tensor:
        """(..., D) -> (..., columns)."""
        outputs: Tensor = self.layers((slots - self.mean) / self.spread)
        return outputs


def _assigned(costs: Tensor, images: Tensor) -> Tensor:
    """Slot of each of N objects with costs (N, K), one to one within each image (N,) ascending; -1 for objects beyond K."""
    rows = costs.numpy()
    slots = np.full(len(rows), -1)
    ends = np.flatnonzero(np.diff(images.numpy(), append=-1)) + 1
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        first, slot = linear_sum_assignment(rows[start:end])
        slots[start + first] = slot
    return torch.from_numpy(slots)


def _with_mask_matching(data: PropertyData) -> PropertyData:
    """The same with ``similarity`` 1 for the slot that each selected object is matched to and 0 for all others."""
    assert data.similarity is not None
    objects = _objects(data)
    slots = _assigned(1.0 - data.similarity[objects], objects[0])
    chosen = torch.zeros_like(data.similarity)
    kept = slots >= 0
    chosen[objects[0][kept], objects[1][kept], slots[kept]] = 1.0
    return replace(data, similarity=chosen)


def _objects(data: PropertyData) -> _Objects:
    image, entity = data.selected.nonzero(as_tuple=True)
    return image, entity


def _predicted(
    predictor: _Predictor, data: PropertyData, targets: _Targets, matching: Matching
) -> tuple[Tensor, _Objects]:
    """Outputs (M, columns) for the M objects that have a slot, and which they are."""
    image, entity = _objects(data)
    if matching == "mask":
        assert data.similarity is not None
        chosen = data.similarity[image, entity]
        slots = torch.where(chosen.any(dim=1), chosen.argmax(dim=1), -1)
        kept = slots >= 0
        return predictor(data.slots[image[kept], slots[kept]]), (image[kept], entity[kept])
    outputs = predictor(data.slots)
    costs = targets.losses(outputs[image], data, (image, entity))
    slots = _assigned(costs.detach(), image)
    kept = slots >= 0
    return outputs[image[kept], slots[kept]], (image[kept], entity[kept])


def _loss(predictor: _Predictor, data: PropertyData, targets: _Targets, matching: Matching) -> Tensor:
    """Mean loss of the objects that have a slot."""
    outputs, objects = _predicted(predictor, data, targets, matching)
    return targets.losses(outputs, data, objects).mean()


def _fit(
    predictor: _Predictor,
    train: PropertyData,
    val: PropertyData,
    targets: _Targets,
    matching: Matching,
    training: tuple[int, float, int, float],
    seed: int,
) -> int:
    """Train in place and return the number of steps."""
    max_steps, learning_rate, patience, min_delta = training
    optimiser = torch.optim.Adam(predictor.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(seed_for(seed, _BATCHES))
    useful = train.selected.any(dim=1).nonzero().squeeze(1)
    best, best_weights, reached, bad_looks, step = math.inf, _copy(predictor), math.inf, 0, 0
    order: Tensor = useful[:0]
    while step < max_steps:
        if len(order) < min(_BATCH, len(useful)):
            order = useful[torch.randperm(len(useful), generator=generator)]
        rows, order = order[:_BATCH], order[_BATCH:]
        loss = _loss(predictor, train.select(rows), targets, matching)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        step += 1
        if step % _LOOK_EVERY and step < max_steps:
            continue
        with torch.no_grad():
            held = float(_loss(predictor, val, targets, matching))
        if held < best:
            best, best_weights = held, _copy(predictor)
        if held < reached - min_delta:
            reached, bad_looks = held, 0
        else:
            bad_looks += 1
            if bad_looks >= patience:
                break
    predictor.load_state_dict(best_weights)
    return step


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _factor(name: str, values: Tensor, images: int) -> Tensor:
    if values.ndim not in (2, 3) or len(values) != images:
        raise UserError(
            f"factor '{name}' must be (images, entities) or (images, entities, numbers) for {images} images, "
            f"not {tuple(values.shape)}"
        )
    if not bool(torch.isfinite(values.float()).all()):
        raise UserError(f"factor '{name}' holds values that are not finite")
    return values.float() if values.is_floating_point() else values.long()
