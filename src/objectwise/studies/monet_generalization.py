"""Where MONet's slots carry on: unseen numbers of objects, unseen combinations of colour and shape, and hidden parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from objectwise import figures
from objectwise.core import Batch, Decomposition
from objectwise.data.multi_dsprites import MultiDspritesConfig
from objectwise.data.occlusion import full_shapes
from objectwise.data.two_shapes import TwoShapesConfig, has_combination
from objectwise.figures import Section, Table
from objectwise.metrics.completion import (
    CompletionScores,
    best_slots,
    completion_scores,
    entity_colours,
    shape_by_colour,
)
from objectwise.recipes.experiment import Experiment
from objectwise.recipes.monet import monet, monet_two_shapes
from objectwise.recipes.runs import load, run_experiment
from objectwise.studies import scene_scores as scenes
from objectwise.studies.scene_scores import shown
from objectwise.studies.study import Account, Settings, Trial
from objectwise.training.evaluation import decompositions

LEFT_OUT = ("aqua circle",)
"""Combinations that no training scene has."""
HIDDEN = (0.1, 0.9)
"""Shares of an object that are hidden, for it to count as occluded."""
FOUND_IOU = 0.5
"""An object is found if a slot's pixels overlap what can be seen of it by at least this; completion is of found ones."""
SHAPES, SPRITES = "two shapes", "Multi-dSprites, generated"
TEST_COUNTS: Mapping[str, tuple[int, ...]] = {SHAPES: (1, 2, 3), SPRITES: (1, 2, 3, 4, 5)}
TRAINED_COUNTS: Mapping[str, tuple[int, ...]] = {SHAPES: (1, 2), SPRITES: (2, 3)}


@dataclass(frozen=True)
class Occluded:
    """N occluded objects with the slots that hold them.

    Attributes:
        images: (N, C, H, W).
        full: (N, H, W) whole shapes.
        visible: (N, H, W) what can be seen of them.
        components: (N, C, H, W) their slots' pictures, not masked.
        by_colour: (N, H, W) where the picture has the object's colour rather than another one of the scene.
        by_mask: (N, H, W) where the slot's decoded mask wins once the slots of all other objects are switched off.
        occluded: how many occluded objects were looked at; N of them were found.
    """

    images: Tensor
    full: Tensor
    visible: Tensor
    components: Tensor
    by_colour: Tensor
    by_mask: Tensor
    occluded: int


class MonetGeneralization:
    """One training, three questions; objects overlap and differ in colour, lest MONet's failure on equal colours mix in."""

    name = "monet-generalization"
    title = "Unseen counts, unseen combinations and hidden parts"

    def trials(self, settings: Settings) -> list[Trial]:
        """Two shapes, and in ``full`` Multi-dSprites too, seed by seed."""
        seeds = 1 if settings.scale == "smoke" else 3
        kinds = (SHAPES, SPRITES) if settings.scale == "full" else (SHAPES,)
        return [self._trial(kind, seed, settings) for seed in settings.seeds_or(seeds) for kind in kinds]

    def _trial(self, kind: str, seed: int, settings: Settings) -> Trial:
        scale = settings.scale
        size = {"eval_size": 16, "image_size": 32} if scale == "smoke" else {}
        counts = TRAINED_COUNTS[kind]
        if kind == SHAPES:
            base: Any = monet_two_shapes()
            data: Any = TwoShapesConfig(
                counts=counts, colors="different", overlap=True, leave_out=LEFT_OUT, seed=seed, **size
            )
            model, steps = base.model, {"smoke": 4, "quick": 1_000, "full": 7_800}[scale]
        else:
            base = monet("tuned")
            data = MultiDspritesConfig(counts=counts, seed=seed)
            model, steps = base.model.replaced(num_slots=1 + max(counts)), 50_000
        experiment = Experiment.of(
            "monet-generalization",
            "monet",
            "two_shapes" if kind == SHAPES else "multi_dsprites",
            model=model,
            data=data,
            training=base.training.replaced(**(scenes.tiny(steps) if scale == "smoke" else scenes.budget(steps))),
            seed=seed,
        )
        return Trial(f"{'shapes' if kind == SHAPES else 'sprites'}-seed{seed}", experiment, kind)

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Scores by number of objects and slots, with and without unseen combinations, and of completed shapes."""
        limit = 12 if settings.scale == "smoke" else 1_000
        records = []
        pictures: dict[str, Section] = {}
        for trial in trials:
            model, config = load(runs[trial.key]), run_experiment(runs[trial.key]).data
            occluded = occluded_objects(model, _with_counts(config, max(TRAINED_COUNTS[trial.group])), limit)
            records.append(
                {
                    **scenes.run_record(trial, runs[trial.key]),
                    "counts": _by_count(model, config, trial.group, limit),
                    "combinations": _by_combination(model, config, limit),
                    "completion": _completion(occluded),
                }
            )
            if trial.group not in pictures:
                pictures[trial.group] = self._pictures(
                    trial.group, model, config, occluded, scenes.images_shown(settings)
                )
        sections = [
            self._counts(records),
            self._combinations(records),
            self._completion(records),
            *pictures.values(),
            Section("Over training", figures=[scenes.curve_figure(trials, runs, "foreground_ari", "foreground ARI")]),
        ]
        results = {"left_out": list(LEFT_OUT), "hidden_share": HIDDEN, "found_iou": FOUND_IOU, "trials": records}
        return Account(results, sections, summary=_summary(records))

    def _counts(self, records: Sequence[Mapping[str, Any]]) -> Section:
        rows = [
            [
                record["group"],
                record["seed"],
                row["objects"],
                "trained" if row["trained"] else "new",
                row["slots"],
                row["scored"],
                *(shown(row[name]) for name in ("foreground_ari", "ari", "mbo")),
                shown(row["mse"], 5),
            ]
            for record in records
            for row in record["counts"]
        ]
        header = ["", "seed", "objects", "", "K", "scored", "foreground ARI", "full ARI", "mBO", "MSE"]
        text = (
            "Held-out scenes that all have so many objects, of different colours on two shapes, with the K of the training and "
            "with another K, which needs no training. Foreground ARI needs two visible objects; mBO one."
        )
        drawn = []
        for group in dict.fromkeys(record["group"] for record in records):
            part = [row for record in records if record["group"] == group for row in record["counts"]]
            scores: dict[str, dict[str, list[float]]] = {}
            for row in part:
                name = f"{row['objects']} objects" if row["trained"] else f"{row['objects']} objects (new)"
                series = scores.setdefault(name.replace("1 objects", "1 object"), {}).setdefault(
                    f"K = {row['slots']}", []
                )
                series += scenes.numbers([row["mbo"]])
            if any(value == value for kinds in scores.values() for values in kinds.values() for value in values):
                drawn.append(
                    (
                        figures.seed_scores_figure(scores, "mBO", limits=scenes.UNIT),
                        f"{group}: mBO by number of objects and slots",
                    )
                )
        return Section("Unseen numbers of objects", text=text, table=Table(header, rows), figures=drawn)

    def _combinations(self, records: Sequence[Mapping[str, Any]]) -> Section:
        rows = [
            [
                record["seed"],
                kind,
                part["images"],
                *(shown(part[name]) for name in ("foreground_ari", "mbo")),
                shown(part["mse"], 5),
            ]
            for record in records
            for kind, part in (record["combinations"] or {}).items()
        ]
        text = (
            f"Scenes of two shapes. Training never shows this combination: {', '.join(LEFT_OUT)}, though it shows the colour "
            "and the shape with others. Held-out scenes in which every combination is as likely, by whether they hold it. "
            "Multi-dSprites has no such setting and is not part of this."
        )
        header = ["seed", "scenes", "images", "foreground ARI", "mBO", "MSE"]
        return Section("Unseen combinations", text=text, table=Table(header, rows))

    def _completion(self, records: Sequence[Mapping[str, Any]]) -> Section:
        rows = [
            [
                record["group"],
                record["seed"],
                found["occluded"],
                f"{found['found']}",
                shown(found["seen_iou"]),
                shown(found["by_colour"]["iou"]),
                shown(found["by_colour"]["hidden_drawn"]),
                shown(found["by_colour"]["outside"]),
                shown(found["by_mask"]["iou"]),
                shown(found["by_mask"]["hidden_drawn"]),
            ]
            for record in records
            for found in (record["completion"],)
        ]
        header = ["", "seed", "occluded", "found", "IoU of the visible part", "IoU, picture", "hidden drawn, picture",
                  "outside, picture", "IoU, decoded mask", "hidden drawn, decoded mask"]  # fmt: skip
        low, high = (f"{100 * share:.0f} %" for share in HIDDEN)
        text = (
            f"Objects that others hide by {low} to {high}, in held-out scenes, against their whole shape, which the generator "
            f"knows. An object is found if a slot's pixels overlap its visible part by an IoU of {FOUND_IOU}; the others are not "
            "scored.\n\nPicture: where the slot's unmasked picture is nearer to the object's colour than to any other colour of "
            "the scene. A picture is free outside its mask: one that is painted all over draws every hidden pixel, and has a low "
            "IoU and much outside the shape. Decoded mask: where the slot's decoded mask wins once the slots of all other "
            "objects are switched off. The IoU of the visible part is what a perfect segmentation has: completion "
            "is what lies above it."
        )
        return Section("Hidden parts of objects", text=text, table=Table(header, rows))

    def _pictures(self, group: str, model: nn.Module, config: Any, occluded: Occluded, count: int) -> Section:
        most = max(TEST_COUNTS[group])
        drawn = []
        for slots in _slots_for(model, most):
            dataset = _with_counts(config, most)
            batch, out = scenes.decomposed(
                reslotted(model, slots), dataset, np.arange(min(count, dataset.splits["test"]))
            )
            heading = f"{most} objects, never so many in training; K = {slots}"
            figure = figures.slots_figure(batch, out, heading=heading, notes=scenes.score_notes(batch, out))
            drawn.append((figure, f"{group}: the first test scenes of {most} objects, first seed"))
        if len(occluded.images):
            drawn_shapes = {"drawn, by colour": occluded.by_colour, "drawn, by mask": occluded.by_mask}
            scores = [completion_scores(occluded.full, occluded.visible, shape) for shape in drawn_shapes.values()]
            columns = zip(scores[0].seen_iou.per_image, *(part.iou.per_image for part in scores), strict=True)
            notes = [f"{seen:.2f}: {colour:.2f}, {mask:.2f}" for seen, colour, mask in columns][:count]
            figure = figures.completion_figure(
                occluded.images,
                occluded.full,
                occluded.visible,
                occluded.components,
                drawn_shapes,
                notes=notes,
                max_images=count,
            )
            caption = (
                f"{group}: the first {len(notes)} occluded objects that were found, first seed; below, the IoU of the visible "
                "part, then those of the shapes by colour and by decoded mask"
            )
            drawn.append((figure, caption))
        return Section(f"Pictures: {group}", figures=drawn)


def reslotted(model: Any, slots: int) -> nn.Module:
    """The model with another K at test time."""
    changed: nn.Module = model if model.config.num_slots == slots else model.reconfigured(num_slots=slots)
    return changed


def occluded_objects(model: Any, dataset: Any, limit: int, *, split: str = "test") -> Occluded:
    """The occluded objects of the first scenes that the model finds, scene by scene.

    Args:
        model: with ``decode``.
        dataset: generated scenes (see :func:`objectwise.data.occlusion.full_shapes`).
        limit: scenes looked through.
        split: which split.
    """
    parts: list[Occluded] = []
    for batch, out in decompositions(model, dataset, split, np.arange(min(limit, dataset.splits[split])), 32):
        parts.append(_occluded(model, batch, out, full_shapes(dataset, split, batch.index.numpy())))
    joined = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("images", "full", "visible", "components", "by_colour", "by_mask")
    }
    return Occluded(**joined, occluded=sum(part.occluded for part in parts))


@torch.no_grad()
def _occluded(model: Any, batch: Batch, out: Decomposition, full: Tensor) -> Occluded:
    """The occluded and found objects of one batch; ``full`` (B, E, H, W)."""
    assert batch.instances is not None
    entities = full.shape[1]
    visible = nn.functional.one_hot(batch.instances, entities).movedim(-1, 1).bool()
    area, seen = full.flatten(2).sum(dim=2), (visible & full).flatten(2).sum(dim=2)
    share = 1.0 - seen / area.clamp_min(1)
    hidden = (area > 0) & (share >= HIDDEN[0]) & (share <= HIDDEN[1])
    row, entity = hidden.nonzero(as_tuple=True)
    masks = out.masks[row]
    slot, overlap = best_slots(visible[row, entity], masks)
    kept = overlap >= FOUND_IOU
    row, entity, slot = row[kept], entity[kept], slot[kept]
    colours = entity_colours(batch.images[row], batch.instances[row], entities)
    components = out.components[row, slot]
    by_mask = torch.zeros_like(full[row, entity])
    for n in range(len(row)):
        presence = torch.ones(1, out.num_slots)
        for other in range(entities):
            if other not in (*batch.background_ids, int(entity[n])) and bool(visible[row[n], other].any()):
                presence[0, best_slots(visible[row[n], other][None], out.masks[row[n]][None])[0]] = 0.0
        presence[0, slot[n]] = 1.0
        decoded = model.decode(out.slots[row[n]][None], presence)
        by_mask[n] = decoded.masks[0].argmax(dim=0) == slot[n]
    return Occluded(
        images=batch.images[row],
        full=full[row, entity],
        visible=visible[row, entity],
        components=components,
        by_colour=shape_by_colour(components, colours, entity),
        by_mask=by_mask,
        occluded=int(hidden.sum()),
    )


def _completion(occluded: Occluded) -> dict[str, Any]:
    found: dict[str, Any] = {"occluded": occluded.occluded, "found": len(occluded.images), "seen_iou": None}
    for name in ("by_colour", "by_mask"):
        if len(occluded.images) == 0:
            found[name] = dict.fromkeys(("iou", "hidden_drawn", "outside"))
            continue
        scores: CompletionScores = completion_scores(occluded.full, occluded.visible, getattr(occluded, name))
        found["seen_iou"] = scores.seen_iou.value
        found[name] = {key: getattr(scores, key).value for key in ("iou", "hidden_drawn", "outside")}
    return found


def _with_counts(config: Any, count: int) -> Any:
    """The dataset of a configuration, all of whose scenes have so many objects."""
    return config.replaced(counts=(count,)).build()


def _slots_for(model: Any, objects: int) -> list[int]:
    """The K of the training, and the K that so many objects need, if it is another one."""
    own = int(model.config.num_slots)
    return [own] if objects < own else [own, objects + 1]


def _by_count(model: Any, config: Any, group: str, limit: int) -> list[dict[str, Any]]:
    rows = []
    most = max(TEST_COUNTS[group])
    for count in TEST_COUNTS[group]:
        dataset = _with_counts(config, count)
        for slots in _slots_for(model, most):
            found = scenes.scene_scores(reslotted(model, slots), dataset, limit=limit).summary()
            rows.append({"objects": count, "trained": count in TRAINED_COUNTS[group], "slots": slots, **found})
    return rows


def _by_combination(model: nn.Module, config: Any, limit: int) -> dict[str, dict[str, Any]] | None:
    """Scores with and without a combination that was left out; None where the data cannot leave any out."""
    left_out: tuple[str, ...] = getattr(config, "leave_out", ())
    if not left_out:
        return None
    names = ("with a new combination", "known combinations")

    def groups(batch: Batch) -> dict[str, Tensor]:
        new = has_combination(batch, left_out)
        return dict(zip(names, (new, ~new), strict=True))

    dataset = config.replaced(leave_out=(), counts=(2,)).build()
    found = scenes.scene_scores(model, dataset, limit=limit, groups=groups)
    return {name: found.summary(name) for name in names}


def _summary(records: Sequence[Mapping[str, Any]]) -> str:
    part = [record for record in records if record["group"] == SHAPES]
    new = max(TEST_COUNTS[SHAPES])
    by_count = ", ".join(
        shown(row["foreground_ari"])
        for record in part
        for row in record["counts"]
        if (row["objects"], row["slots"]) == (new, new + 1)
    )
    combos = ", ".join(shown(record["combinations"]["with a new combination"]["foreground_ari"]) for record in part)
    whole = ", ".join(
        f"{shown(found['seen_iou'])}: {shown(found['by_colour']['iou'])}, {shown(found['by_mask']['iou'])}"
        for found in (record["completion"] for record in part)
    )
    return (
        f"Two shapes, a number per seed. Foreground ARI on {new} objects, trained on 1 and 2: {by_count}. On scenes with a "
        f"combination that training never showed ({', '.join(LEFT_OUT)}): {combos}. Hidden objects, IoU of the visible part with "
        f"the whole shape, then of the drawn shape by picture and by decoded mask: {whole}."
    )
