"""What IODINE's slots hold: latents moved one by one, slots swapped between scenes, factors read from slots, and DCI per slot.

Beside the slots stands a plain VAE with one code of the same size for the whole image. A code cannot be matched with one object
among several, so the two are asked for an object that the picture itself names: the one with the most visible pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from objectwise import figures
from objectwise.core import Dataset, FactorSpec
from objectwise.figures import Section, Table
from objectwise.metrics.disentanglement import dci
from objectwise.metrics.information import factor_bins
from objectwise.metrics.properties import (
    Head,
    PropertyData,
    PropertyScores,
    matched_slots,
    predict_properties,
    property_data,
)
from objectwise.nn.divergences import kl_normal
from objectwise.recipes.experiment import Experiment
from objectwise.recipes.runs import load, run_experiment
from objectwise.studies import scene_scores as scenes
from objectwise.studies.iodine_decomposition import generated, scene_training
from objectwise.studies.scene_scores import shown
from objectwise.studies.study import Account, Settings, Trial
from objectwise.training.evaluation import decompositions

HEADS: tuple[Head, ...] = ("linear", "mlp1")
SLOT, CODE = "slot", "VAE"
"""What is read: the slot of an object, or one code of the whole image."""
RANGE = tuple(np.linspace(-1.25, 1.25, 7).tolist())
"""Values that a moved latent takes, the same for all (the range of the released notebook)."""
DEAD_KL = 0.01
"""A latent whose mean KL over objects is below this, in nats, says nothing."""
BINS = 5
"""Bins of a numerical factor, for DCI."""
KINDS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "tetrominoes": ("Tetrominoes", "tetrominoes", ("shape", "x", "y", "color")),
    "sprites": ("Multi-dSprites, generated", "multi-dsprites", ("shape", "scale", "x", "y", "color")),
    "clevr": ("CLEVR-like", "clevr6", ("shape", "size", "material", "color", "x", "y")),
}
"""Key -> title, its set in ``iodine-decomposition``, and the factors that are read. Angles are left out: most shapes look the
same at several."""

CODE_STD = 0.05
"""σ of the VAE's pixels, about the standard deviation of IODINE's logistic ones in ``full``, 0.054: a nat weighs the same in
both. In ``quick`` IODINE's σ ends at 0.1, which asks less of a code than this does."""
CODE_STEPS: Mapping[str, int] = {"smoke": 2, "quick": 2_500, "full": 200_000}
"""Steps of the VAE; of 64 images each but in ``smoke``, so that it sees at least as many as IODINE does in ``quick``."""


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        images: of the training, validation and test split.
        head_steps: most steps of a head.
        trees: of each model of DCI, per class.
        objects: rows that DCI looks at, at most.
    """

    images: tuple[int, int, int]
    head_steps: int
    trees: int
    objects: int


SCALES: Mapping[str, Scale] = {
    "smoke": Scale((16, 8, 8), 20, 2, 40),
    "quick": Scale((1_500, 300, 1_000), 6_000, 50, 2_000),
    "full": Scale((10_000, 1_000, 2_000), 6_000, 100, 5_000),
}


@dataclass(frozen=True)
class Slots:
    """Slots of the first images of a split.

    Attributes:
        data: posterior means, factors, and how slots and objects overlap.
        std: (B, K, Z) posterior standard deviations.
        slot: (B, E) the slot of each visible object, one to one; −1 for all others.
        pixels: (B, E) how many pixels of each entity can be seen.
    """

    data: PropertyData
    std: Tensor
    slot: Tensor
    pixels: Tensor

    @property
    def objects(self) -> tuple[Tensor, Tensor, Tensor]:
        """Image, entity and slot of the N objects that have a slot, (N,) each."""
        image, entity = (self.slot >= 0).nonzero(as_tuple=True)
        return image, entity, self.slot[image, entity]

    @property
    def codes(self) -> tuple[Tensor, Tensor]:
        """(N, Z) posterior means and standard deviations of the slots that hold an object."""
        image, _, slot = self.objects
        return self.data.slots[image, slot], self.std[image, slot]

    @property
    def largest(self) -> PropertyData:
        """The same with one object per image selected: that with the most visible pixels, the first on ties."""
        shown = self.pixels.where(self.data.selected, -1)
        first = nn.functional.one_hot(shown.argmax(dim=1), shown.shape[1]).bool()
        return replace(self.data, selected=first & self.data.selected)


class IodineDisentanglement:
    """A training of each kind of scenes, and what can be read from and done with its slots."""

    name = "iodine-disentanglement"
    title = "What the slots of IODINE hold"

    def trials(self, settings: Settings) -> list[Trial]:
        """All kinds of scenes, seed by seed; and a VAE for each, on the same scenes."""
        seeds = settings.seeds_or(1 if settings.scale == "smoke" else 3)
        slots = [self._trial(key, seed, settings) for seed in seeds for key in KINDS]
        return [*slots, *(self._whole(trial, settings) for trial in slots)]

    def _trial(self, key: str, seed: int, settings: Settings) -> Trial:
        title, chosen, _ = KINDS[key]
        name, data = generated(chosen, settings)
        experiment = scene_training(chosen, name, data.replaced(seed=seed), seed, settings)
        return Trial(f"{key}-seed{seed}", experiment, title)

    def _whole(self, trial: Trial, settings: Settings) -> Trial:
        """A VAE on the scenes of a trial of IODINE, its code as long as one slot."""
        of_slots = trial.experiment
        model = {"latent_size": of_slots.model.latent_size, "likelihood_std": CODE_STD}  # type: ignore[attr-defined]
        steps = CODE_STEPS[settings.scale]
        training = scenes.tiny(steps) if settings.scale == "smoke" else {**scenes.budget(steps), "batch_size": 64}
        experiment = Experiment.of(
            of_slots.name,
            "vae",
            of_slots.data_name,
            model=model,
            data=of_slots.data,
            training=training,
            seed=of_slots.seed,
        )
        return Trial(whole_key(trial.key), experiment, f"{trial.group}, VAE")

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Heads' scores and DCI of every seed, and pictures of the first one of each kind."""
        scale = SCALES[settings.scale]
        records: list[dict[str, Any]] = []
        pictures: dict[str, Section] = {}
        of_slots = [trial for trial in trials if trial.experiment.model_name == "iodine"]
        by_key = {trial.key: trial for trial in trials}
        for trial in of_slots:
            names = next(names for title, _, names in KINDS.values() if title == trial.group)
            model: Any = load(runs[trial.key])
            dataset = run_experiment(runs[trial.key]).build_data()
            parts = parts_of(model, dataset, scale, names)
            whole = by_key[whole_key(trial.key)]
            codes = parts_of(load(runs[whole.key]), dataset, scale, names)
            specs = {name: spec for name, spec in dataset.factor_specs.items() if name in names}  # type: ignore[attr-defined]
            seed = trial.experiment.seed
            asked: dict[str, Any] = {"specs": specs, "seed": seed, "max_steps": scale.head_steps}
            records.append(
                {
                    **scenes.run_record(trial, runs[trial.key]),
                    "foreground_ari": scenes.scene_scores(model, dataset, limit=scale.images[2]).summary()[
                        "foreground_ari"
                    ],
                    "heads": heads_of([part.data for part in parts], **asked),
                    "largest": {
                        SLOT: heads_of([part.largest for part in parts], **asked),
                        CODE: heads_of([part.largest for part in codes], **asked),
                    },
                    "vae": scenes.run_record(whole, runs[whole.key]),
                    "dci": slot_dci(parts[0], specs, scale, seed),
                    "latents": latent_ranks(parts[2], model.config.prior_variance),
                }
            )
            if trial.group not in pictures:
                count = scenes.images_shown(settings)
                pictures[trial.group] = self._pictures(trial.group, model, dataset, parts[2], records[-1], count)
        sections = [
            self._heads(records),
            self._largest(records),
            self._dci(records),
            *pictures.values(),
            Section("Over training", figures=[scenes.curve_figure(of_slots, runs, "foreground_ari", "foreground ARI")]),
        ]
        results = {"range": RANGE, "bins": BINS, "dead_kl": DEAD_KL, "images": scale.images, "trials": records}
        return Account(results, sections, summary=summary_text(records))

    def _heads(self, records: Sequence[Mapping[str, Any]]) -> Section:
        header = ["", "seed", "foreground ARI", "factor", "score", "chance", *HEADS, "objects", "without a slot"]
        rows = []
        for record in records:
            linear = record["heads"][HEADS[0]]
            for name, found in linear["factors"].items():
                values = [shown(record["heads"][head]["factors"][name]["value"]) for head in HEADS]
                kind = "R²" if found["score"] == "r2" else "accuracy"
                rows.append(
                    [
                        record["group"],
                        record["seed"],
                        shown(record["foreground_ari"]),
                        name,
                        kind,
                        shown(found["chance"]),
                        *values,
                        linear["objects"],
                        linear["unmatched"],
                    ]
                )
        text = (
            "A head per training reads all factors of an object from its slot: a linear one, and an MLP with one hidden layer. "
            "Heads learn from slots of training images, are stopped by validation images and scored on test images. Objects get "
            "slots one to one, by the overlap of masks; objects of which no pixel can be seen are left out. Chance: of the most "
            "frequent class; the mean has an R² of 0. Where the segmentation is wrong, so is the slot."
        )
        drawn = []
        for group in dict.fromkeys(record["group"] for record in records):
            part = [record for record in records if record["group"] == group]
            scores: dict[str, dict[str, list[float]]] = {
                name: {
                    str(head): scenes.numbers([r["heads"][head]["factors"][name]["value"] for r in part])
                    for head in HEADS
                }
                for name in part[0]["heads"][HEADS[0]]["factors"]
            }
            if any(value == value for heads in scores.values() for values in heads.values() for value in values):
                figure = figures.seed_scores_figure(scores, "R² or accuracy", limits=scenes.UNIT)
                drawn.append((figure, f"{group}: R² of numbers, accuracy of classes, a dot per seed"))
        return Section("Factors read from slots", text=text, table=Table(header, rows), figures=drawn)

    def _largest(self, records: Sequence[Mapping[str, Any]]) -> Section:
        columns = [f"{source}, {head}" for source in (SLOT, CODE) for head in HEADS]
        header = ["", "seed", "factor", "score", "chance", *columns, "images", "VAE's steps"]
        rows = []
        for record in records:
            for name, found in record["largest"][SLOT][HEADS[0]]["factors"].items():
                values = [
                    record["largest"][source][head]["factors"][name]["value"]
                    for source in (SLOT, CODE)
                    for head in HEADS
                ]
                kind = "R²" if found["score"] == "r2" else "accuracy"
                chance, images = shown(found["chance"]), record["largest"][SLOT][HEADS[0]]["objects"]
                steps = f"{record['vae']['steps']:,}"
                rows.append([record["group"], record["seed"], name, kind, chance, *map(shown, values), images, steps])
        text = (
            "The paper compares slots with a VAE of one code. No matching says for which of several objects a whole image's code "
            "should be read, so both are asked for the object with the most visible pixels, and heads are trained and scored on "
            "it alone: from the slot whose mask is nearest to it, and from the code of a plain VAE, as long as one slot, trained "
            f"on the same scenes with pixels of σ {CODE_STD}. The slot has its mask to say which object is meant; the code has "
            "to describe all objects in as many numbers as the slot has for one."
        )
        drawn = []
        for group in dict.fromkeys(record["group"] for record in records):
            part = [record for record in records if record["group"] == group]
            scores = {
                name: {
                    f"{source}, {head}": scenes.numbers(
                        [record["largest"][source][head]["factors"][name]["value"] for record in part]
                    )
                    for source in (SLOT, CODE)
                    for head in HEADS
                }
                for name in part[0]["largest"][SLOT][HEADS[0]]["factors"]
            }
            if any(value == value for columns in scores.values() for values in columns.values() for value in values):
                figure = figures.seed_scores_figure(scores, "R² or accuracy", limits=scenes.UNIT)
                drawn.append(
                    (figure, f"{group}: of the largest object, R² of numbers, accuracy of classes, a dot per seed")
                )
        return Section(
            "The largest object: a slot, or one code of the whole image",
            text=text,
            table=Table(header, rows),
            figures=drawn,
        )

    def _dci(self, records: Sequence[Mapping[str, Any]]) -> Section:
        header = [
            "",
            "seed",
            "objects",
            "disentanglement",
            "completeness",
            "informativeness",
            "the same with permuted labels",
        ]
        rows = [
            [
                record["group"],
                record["seed"],
                found["objects"],
                *(shown(found[name]["value"]) for name in _DCI),
                ", ".join(shown(found[name]["null"]) for name in _DCI),
            ]
            for record in records
            for found in (record["dci"],)
        ]
        text = (
            f"Rows are objects, codes are the posterior means of their slots; numbers are put into {BINS} bins, colours channel "
            "by channel. One model of boosted trees per factor; two thirds of the objects train, one third is scored."
        )
        return Section("DCI per slot", text=text, table=Table(header, rows))

    def _pictures(
        self, group: str, model: Any, dataset: Dataset, test: Slots, record: Mapping[str, Any], count: int
    ) -> Section:
        drawn: list[tuple[Any, str]] = []
        image, entity, slot = (int(values[0]) for values in test.objects)
        picture = dataset.batch("test", np.array([image])).images[0]
        moved = traversals(model, test.data.slots[image], slot)
        ranks = record["latents"]
        dead = [latent for latent, kl in enumerate(ranks["kl"]) if kl < DEAD_KL]
        for name, words in (
            ("variance", "variance of the posterior means over objects"),
            ("kl", "mean KL over objects"),
        ):
            order = np.argsort(-np.array(ranks[name]), kind="stable").tolist()
            figure = figures.traversal_figure(
                moved, RANGE, test.codes[1].mean(dim=0), order=order, dead=dead, origin=picture, max_rows=12
            )
            drawn.append((figure, f"slot {slot} (object {entity}) of test image {image}, a latent a row, by {words}"))
        drawn.append(
            (figures.swaps_figure(recombined(model, dataset, test, count)), "the first test scenes, two by two")
        )
        text = (
            "First seed; the first scenes of the split that have an object with a slot. All latents take the same values, on one "
            "colour scale; pale ones say nothing. σ: mean posterior standard deviation."
        )
        return Section(f"Pictures: {group}", text=text, figures=drawn)


_DCI = ("disentanglement", "completeness", "informativeness")


def whole_key(key: str) -> str:
    """Key of the VAE that stands beside a trial of IODINE."""
    kind, _, seed = key.rpartition("-")
    return f"{kind}-vae-{seed}"


def parts_of(model: nn.Module, dataset: Dataset, scale: Scale, names: Sequence[str]) -> list[Slots]:
    """Slots of the first images of the training, validation and test split."""
    splits = zip(("train", "val", "test"), scale.images, strict=True)
    return [slots_of(model, dataset, split, images, names) for split, images in splits]


def heads_of(
    data: Sequence[PropertyData], specs: Mapping[str, FactorSpec], seed: int, max_steps: int
) -> dict[str, dict[str, Any]]:
    """What either head reads, trained on the first part, stopped by the second, scored on the third."""
    train, val, test = data
    return {
        head: told(predict_properties(train, val, test, specs, head=head, seed=seed, max_steps=max_steps))
        for head in HEADS
    }


def slots_of(model: nn.Module, dataset: Dataset, split: str, images: int, names: Sequence[str]) -> Slots:
    """Slots of the first images of a split, matched to the objects that can be seen.

    Args:
        model: with ``posterior`` in its decomposition.
        dataset: with instances and factors.
        split: which split.
        images: how many at most.
        names: of the factors to keep.
    """
    parts, stds, pixels = [], [], []
    for batch, out in decompositions(model, dataset, split, np.arange(min(images, dataset.splits[split])), 32):
        assert batch.instances is not None
        assert out.posterior is not None
        factors = {name: batch.factors[name] for name in names}
        parts.append(
            property_data(
                out.posterior.mean, factors, batch.instances, masks=out.masks, background_ids=batch.background_ids
            )
        )
        stds.append(out.posterior.std.float())
        entities = parts[-1].selected.shape[1]
        pixels.append(nn.functional.one_hot(batch.instances.long(), entities).sum(dim=(1, 2)))
    data = PropertyData.joined(parts)
    return Slots(data, torch.cat(stds), matched_slots(data), torch.cat(pixels))


def told(found: PropertyScores) -> dict[str, Any]:
    """The scores of a head, for ``results.json``; None where a factor could not be scored."""
    return {
        "factors": {
            name: {
                "score": score.score,
                "value": None if np.isnan(score.value) else score.value,
                "chance": None if np.isnan(score.chance) else score.chance,
            }
            for name, score in found.factors.items()
        },
        "objects": found.n_objects,
        "unmatched": found.n_unmatched,
        "steps": found.steps,
    }


def factor_classes(slots: Slots, specs: Mapping[str, FactorSpec]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N, F) classes of the objects that have a slot, and their names: numbers in bins, colours channel by channel."""
    image, entity, _ = slots.objects
    columns, names = [], []
    for name, spec in specs.items():
        values = slots.data.factors[name][image, entity]
        if spec.kind == "categorical":
            columns.append(values.numpy().astype(np.int64))
            names.append(name)
            continue
        for number, column in enumerate(values.view(len(values), -1).T):
            columns.append(factor_bins(column, BINS))
            names.append(name if values.ndim == 1 else f"{name} {number}")
    return np.stack(columns, axis=1), tuple(names)


def slot_dci(slots: Slots, specs: Mapping[str, FactorSpec], scale: Scale, seed: int) -> dict[str, Any]:
    """DCI whose rows are objects: codes of their slots, and their factors."""
    classes, names = factor_classes(slots, specs)
    rows = min(len(classes), scale.objects)
    found = dci(slots.codes[0][:rows], classes[:rows], names=names, trees=scale.trees, draws=2, seed=seed)
    scores = {name: {"value": float(s.value), "null": float(s.null)} for name, s in zip(_DCI, found, strict=True)}
    return {"objects": rows, "factors": list(names), **scores}


def latent_ranks(slots: Slots, prior_variance: float) -> dict[str, list[float]]:
    """Of each latent over the slots that hold an object: variance of the posterior means, and mean KL in nats."""
    mean, std = (part.double() for part in slots.codes)
    kl = kl_normal(mean, std, prior_variance**0.5).mean(dim=0)
    return {"variance": mean.var(dim=0, correction=0).tolist(), "kl": kl.tolist()}


@torch.no_grad()
def traversals(model: Any, slots: Tensor, slot: int) -> Tensor:
    """(Z, V, C, H, W): the scene as one latent of one slot takes the values of :data:`RANGE` and all others stay.

    Args:
        model: with ``decode``.
        slots: (K, Z) of one image.
        slot: the one that is moved.
    """
    rows = []
    for latent in range(slots.shape[1]):
        moved = slots.repeat(len(RANGE), 1, 1)
        moved[:, slot, latent] = torch.tensor(RANGE)
        rows.append(model.decode(moved).reconstruction.clamp(0.0, 1.0))
    return torch.stack(rows)


@torch.no_grad()
def recombined(model: Any, dataset: Dataset, slots: Slots, count: int) -> dict[str, Tensor]:
    """Scenes from slots of two: the first object of each in the other's place, or in the other scene besides, or taken away.

    Args:
        model: with ``decode`` for any K.
        dataset: where the test images come from.
        slots: of the test split.
        count: pairs at most.
    """
    image, _, slot = slots.objects
    first = torch.cat([torch.ones(1, dtype=torch.bool), image[1:] != image[:-1]])
    image, slot = image[first], slot[first]
    pairs = min(count, len(image) // 2) or 1
    a, b = torch.arange(pairs) * 2 % len(image), (torch.arange(pairs) * 2 + 1) % len(image)
    rows = torch.arange(pairs)
    one, other = slots.data.slots[image[a]], slots.data.slots[image[b]]
    mine, theirs = one[rows, slot[a]], other[rows, slot[b]]
    swapped, back = one.clone(), other.clone()
    swapped[rows, slot[a]] = theirs
    back[rows, slot[b]] = mine
    without = torch.ones(one.shape[:2])
    without[rows, slot[a]] = 0.0
    pictures = {
        "A": dataset.batch("test", image[a].numpy()).images,
        "B": dataset.batch("test", image[b].numpy()).images,
        "A, rebuilt": model.decode(one).reconstruction,
        "B, rebuilt": model.decode(other).reconstruction,
        "A with\nB's object": model.decode(swapped).reconstruction,
        "B with\nA's object": model.decode(back).reconstruction,
        "A and\nB's object": model.decode(torch.cat([one, theirs.unsqueeze(1)], dim=1)).reconstruction,
        "A without\nits object": model.decode(one, without).reconstruction,
    }
    return {name: picture.clamp(0.0, 1.0) for name, picture in pictures.items()}


def summary_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Medians over seeds of what each head reads, and DCI."""
    parts = []
    for group in dict.fromkeys(record["group"] for record in records):
        part = [record for record in records if record["group"] == group]
        read = "; ".join(
            f"{head}: "
            + ", ".join(
                f"{name} {shown(scenes.middle([r['heads'][head]['factors'][name]['value'] for r in part]), 2)}"
                for name in part[0]["heads"][head]["factors"]
            )
            for head in HEADS
        )
        scores = " / ".join(shown(scenes.middle([r["dci"][name]["value"] for r in part]), 2) for name in _DCI)
        parts.append(f"{group}, medians: {read}; D / C / I {scores}.")
    return " ".join(parts)
