"""What the studies of AIR in 3D share: scores of inferred scenes, the supervised networks, and pictures from elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from objectwise import figures
from objectwise.core import Batch, Decomposition, save_weights
from objectwise.data.table_scenes import TableScenes
from objectwise.figures import Section
from objectwise.metrics import ObjectSet, SceneScores, found_objects, mse, rotation_error, score_scenes, yaw_matrix
from objectwise.models.air_3d import AIR3D
from objectwise.models.air_3d_baselines import Order, Turn, fit_supervised
from objectwise.recipes.runs import initial_model, load
from objectwise.rendering.tabletop import TableScene
from objectwise.studies.counting_tables import validation_curve
from objectwise.studies.study import Trial
from objectwise.training.evaluation import decompositions

TURNS = (60.0, 120.0, 180.0, 240.0, 300.0)
"""Degrees by which the cameras of the pictures from elsewhere have gone round."""
BRIEFLY = (120.0, 240.0)
"""The same below failures."""
SHOWN = 8
"""Images in a figure: the first, never picked."""


@dataclass(frozen=True)
class Scored:
    """Scores of inferred scenes.

    Attributes:
        scores: of the scenes.
        mse: (M,) squared error of the scenes drawn again.
        counts: (M,) how many objects were found.
        kinds: names of the kinds.
    """

    scores: SceneScores
    mse: np.ndarray
    counts: np.ndarray
    kinds: tuple[str, ...]

    def record(self, rows: np.ndarray | None = None) -> dict[str, Any]:
        """Means over some of the scenes, and the median rotation error of each kind over all of them.

        Args:
            rows: (M,) bool; None: all.
        """
        chosen = np.ones(len(self.mse), bool) if rows is None else rows
        found: dict[str, Any] = {"scenes": int(chosen.sum())}
        for name in ("count_accuracy", "f1", "class_accuracy", "position_error"):
            found[name] = _mean(getattr(self.scores, name).per_image[chosen])
        found["mse"] = _mean(self.mse[chosen])
        if rows is None:
            medians = {name: self.scores.median_rotation_error(code) for code, name in enumerate(self.kinds)}
            found["median_rotation_degrees"] = {name: None if m != m else m for name, m in medians.items()}
        return found


def _mean(values: np.ndarray) -> float | None:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


def objects_of(scene: TableScene) -> ObjectSet:
    """True scenes, or those that direct optimisation found, as sets of objects."""
    return ObjectSet(scene.kind, scene.pose[..., :2].double(), yaw_matrix(scene.pose[..., 2].double()), scene.present)


def scored(dataset: TableScenes, images: Tensor, found: ObjectSet, drawn: Tensor) -> Scored:
    """Score what was inferred of the first test scenes.

    Args:
        dataset: of the scenes.
        images: (M, C, H, W) their pictures.
        found: the inferred scenes.
        drawn: (M, C, H, W) the inferred scenes, drawn.
    """
    kinds = dataset.config.renderer.kinds
    truth = objects_of(dataset.scene("test", np.arange(len(images))))
    scores = score_scenes(truth, found, [kind.symmetry for kind in kinds], width=2.0 * dataset.config.extent)
    counts = found.present.sum(dim=1).numpy()
    return Scored(scores, mse(images, drawn).per_image, counts, tuple(kind.name for kind in kinds))


def inferred(model: AIR3D, dataset: TableScenes, limit: int) -> Scored:
    """Score a network on the first test scenes."""
    size = min(limit, dataset.splits["test"])
    source: Any = dataset
    parts = list(decompositions(model, source, "test", np.arange(size)))
    sets = [found_objects(out) for _, out in parts]
    whole = ObjectSet(*(torch.cat([getattr(one, name) for one in sets]) for name in ObjectSet._fields))
    images, drawn = (
        torch.cat(rows) for rows in zip(*((b.images, out.reconstruction) for b, out in parts), strict=True)
    )
    return scored(dataset, images, whole, drawn)


@torch.no_grad()
def milliseconds(model: AIR3D, images: Tensor, *, runs: int = 5) -> float:
    """Processor milliseconds per image of the network alone, which is all that inference takes; the best of several runs."""
    best = float("inf")
    for _ in range(runs + 1):  # the first one warms up
        began = time.process_time()
        model.infer(images, None)
        best = min(best, time.process_time() - began)
    return 1_000.0 * best / len(images)


def supervised(
    trial: Trial, run: Path, *, order: Order = "fixed", turn: Turn = "vector", attention: bool = True
) -> AIR3D:
    """The network of a trial, trained on the labels of the same scenes for as many steps; kept in the run's folder.

    Its yaw may be any (rotation_fold 1, no bound on its spread, which is not used); weights start from the trial's seed.

    Args:
        trial: gives model, data and training.
        run: its run folder.
        order: which object each step is to give.
        turn: how a yaw is learned.
        attention: whether the network attends to places as the trial's does, or is its trunk and LSTM alone.
    """
    folder = run / f"supervised-{order}-{turn}{'' if attention else '-no-attention'}"
    if not (folder / "model.json").is_file():
        experiment = trial.experiment
        dataset: Any = experiment.build_data()
        settings: Any = experiment.model
        sight = {} if attention else {"attention": False, "residual": False}
        experiment = experiment.replaced(model=settings.replaced(rotation_fold=1, **sight)).resolved(dataset)
        training = experiment.training
        model = initial_model(experiment)
        batches = labelled_batches(dataset, training.max_steps, training.batch_size)
        fit_supervised(
            model, batches, order=order, turn=turn, learning_rate=training.learning_rate, steps=training.max_steps
        )
        save_weights(model, "air_3d", folder)
    found: AIR3D = load(folder)
    return found


def labelled_batches(dataset: TableScenes, steps: int, batch: int) -> Iterator[tuple[Tensor, TableScene]]:
    """Training scenes in the order in which training without labels sees them, with their labels."""
    size = dataset.splits["train"]
    for step in range(steps):
        rows = np.arange(step * batch, (step + 1) * batch) % size
        yield dataset.batch("train", rows).images, dataset.scene("train", rows)


# -- pictures ---------------------------------------------------------------------------------------------------------


def views_section(heading: str, model: AIR3D, dataset: TableScenes, *, count: int = SHOWN, text: str = "") -> Section:
    """The first test scenes as inferred, and from elsewhere."""
    rows = np.arange(min(count, dataset.splits["test"]))
    drawn = _views(model, dataset, rows)
    caption = "the first test images; the scene that was inferred from each, and the same scene from around the table"
    return Section(heading, text=text, figures=[(drawn, caption)])


def failures_section(
    heading: str,
    model: AIR3D,
    dataset: TableScenes,
    wrong: np.ndarray,
    rule: str,
    note: Callable[[Batch, Decomposition, TableScene], Sequence[str]],
    *,
    count: int = SHOWN,
) -> Section:
    """The first scenes that went wrong, whatever they look like, and how many did.

    Args:
        heading: of the section.
        model: whose.
        dataset: of the scenes.
        wrong: (M,) bool, of the first M test scenes.
        rule: what wrong means.
        note: what is written below each image.
        count: how many are shown.
    """
    rows = np.flatnonzero(wrong)
    text = f"{len(rows)} of {len(wrong)} test scenes are wrong: {rule}."
    if len(rows) == 0:
        return Section(heading, text=text)
    shown = rows[:count]
    which = f"the first {len(shown)} of them" if len(shown) < len(rows) else "all of them"
    return Section(
        heading, text=text, figures=[(_views(model, dataset, shown, note), f"{which}, in the order of the split")]
    )


def _views(
    model: AIR3D,
    dataset: TableScenes,
    rows: np.ndarray,
    note: Callable[[Batch, Decomposition, TableScene], Sequence[str]] | None = None,
) -> Any:
    source: Any = dataset
    batch, out = next(decompositions(model, source, "test", rows, batch_size=len(rows)))
    notes = () if note is None else note(batch, out, dataset.scene("test", rows))
    turns = TURNS if note is None else BRIEFLY
    views = model.other_views(out, turns)
    return figures.views_figure(batch, out.reconstruction, views, turns, notes=notes)


def count_note(batch: Batch, out: Decomposition, truth: TableScene) -> list[str]:
    """True and found kinds of each scene, initials only."""
    specs = batch.factor_specs["kind"].categories
    lines = []
    for row, slots in enumerate(out.found_slots()):
        true = sorted(specs[kind][:3] for kind in truth.kind[row][truth.present[row]].tolist())
        found = sorted(specs[int(out.factors["kind"][row, slot])][:3] for slot in slots)
        lines.append(f"{' '.join(true) or 'none'}\n→ {' '.join(found) or 'none'}")
    return lines


def single_note(batch: Batch, out: Decomposition, truth: TableScene) -> list[str]:
    """What is wrong with the only object of each scene."""
    spec, lines = batch.factor_specs["kind"], []
    turned = yaw_matrix(truth.pose[:, 0, 2].double()), yaw_matrix(out.factors["yaw"][:, 1].double())
    place = torch.stack([out.factors["x"], out.factors["y"]], dim=2)[:, 1].double() - truth.pose[:, 0, :2].double()
    for row, (true, found) in enumerate(
        zip(truth.kind[:, 0].tolist(), out.factors["kind"][:, 1].tolist(), strict=True)
    ):
        if true != found:
            lines.append(f"{spec.categories[true]}\n→ {spec.categories[found]}")
            continue
        angle = rotation_error(turned[0][row], turned[1][row], spec.symmetries[true])
        lines.append(f"off by {place[row].norm():.2f}\n{float(angle):.0f}°")
    return lines


def curve_section(trials: Sequence[Trial], runs: Mapping[str, Path], quantities: Mapping[str, str]) -> Section:
    """Validation scores over training, a line per seed; quantities that were not logged are left out."""
    drawn = []
    for name, label in quantities.items():
        series: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for trial in trials:
            curve = validation_curve(runs[trial.key], name)
            if len(curve[0]):
                series.setdefault(trial.group, []).append(curve)
        if series:
            drawn.append((figures.seeds_figure(series, label), f"{label} of validation scenes, a line per seed"))
    return Section("Over training", figures=drawn)


def percent(value: float | None, digits: int = 1) -> str:
    """A share as per cent; a dash for None."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def degrees(value: float | None) -> str:
    """Degrees; a dash for None."""
    return "-" if value is None else f"{value:.1f}°"
