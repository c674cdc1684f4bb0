"""IODINE on Tetrominoes, Multi-dSprites and CLEVR6: adjusted Rand index beside the published one, a number per seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from objectwise import figures
from objectwise.core import Config
from objectwise.data import config_class
from objectwise.data.cache import cache_folder
from objectwise.figures import Section, Table
from objectwise.recipes.experiment import Experiment
from objectwise.recipes.iodine import Preset, iodine_clevr6, iodine_multi_dsprites, iodine_tetrominoes
from objectwise.recipes.reporting import failure_section, refinement_inputs
from objectwise.recipes.runs import load, run_experiment
from objectwise.studies import scene_scores as scenes
from objectwise.studies.monet_decomposition import SceneSet
from objectwise.studies.scene_scores import shown
from objectwise.studies.study import Account, Settings, Trial
from objectwise.training.evaluation import decompositions

TEST_IMAGES = 320
"""Images that the paper scores."""

PUBLISHED: Mapping[str, tuple[float, float]] = {
    "Tetrominoes": (0.992, 0.004),
    "Multi-dSprites": (0.767, 0.056),
    "CLEVR6": (0.988, 0.000),
}
"""Foreground ARI of IODINE and its spread over five seeds, on the official sets (coloured on grey), as EfficientMORL (ICML 2021)
quotes it: second-hand."""

SETS: Mapping[str, SceneSet] = {
    "tetrominoes": SceneSet(
        "Tetrominoes",
        4,
        ("tetrominoes_official", "tetrominoes", {"split_rule": "iodine"}),
        None,
        ("tetrominoes", {}),
        35,
        20_000,
    ),
    "multi-dsprites": SceneSet(
        "Multi-dSprites",
        6,
        ("multi_dsprites_official", "multi_dsprites_colored_on_grayscale", {"split_rule": "iodine"}),
        None,
        ("multi_dsprites", {"variant": "colored_on_grayscale"}),
        32,
        4_000,
    ),
    "clevr6": SceneSet(
        "CLEVR6",
        7,
        None,
        {"max_objects": 6},
        ("clevr_like", {"counts": (3, 4, 5, 6)}),
        32,
        4_000,
    ),
}
"""Key -> set. CLEVR6 has no official entry: its pictures are of 64×64 pixels here, the published ones of 128×128."""

RECIPES: Mapping[str, Callable[[Preset], Experiment]] = {
    "tetrominoes": iodine_tetrominoes,
    "multi-dsprites": iodine_multi_dsprites,
    "clevr6": iodine_clevr6,
}
TINY: Mapping[str, Any] = {
    "decoder_widths": (8, 8),
    "encoder_widths": (8, 8),
    "encoder_hidden": (16,),
    "lstm_size": 16,
    "latent_size": 8,
    "refinement_steps": 2,
}
"""A network for smoke runs."""


def iodine_settings(recipe: Callable[[Preset], Experiment], scale: str, steps: int) -> tuple[Any, Any]:
    """Model and training of a recipe at a scale: as published in ``full``, else ``tuned``, its network smaller yet in ``smoke``.

    Args:
        recipe: by its preset.
        scale: of the study.
        steps: of the training in ``quick``.
    """
    base = recipe("published" if scale == "full" else "tuned")
    model, training = base.model, base.training
    if scale == "full":
        longer = {"validate_every": 10_000, "checkpoint_every": 1_000, "log_every": 500, "pictures_every": 50_000}
        return model, training.replaced(threads=1, **longer)
    if scale == "smoke":
        return model.replaced(**TINY, gradient_scale=0.25), training.replaced(**scenes.tiny(2))
    shorter = model.replaced(**sigma_schedule(steps))
    return shorter, training.replaced(**{**scenes.budget(steps), "validation_images": 128})


def sigma_schedule(steps: int) -> dict[str, int]:
    """As in ``tuned``: wide for the first quarter of the training, then falling for not quite half of it."""
    return {"sigma_hold": steps // 4, "sigma_steps": max(1, 9 * steps // 20)}


def generated(key: str, settings: Settings) -> tuple[str, Any]:
    """Data of a set as they are made here, at a scale: table name and settings, of the first seed."""
    made = SETS[key].generated
    assert made is not None
    name, values = made
    sizes = {"eval_size": 12 if settings.scale == "smoke" else 2_000, "image_size": _side(key, settings)}
    return name, config_class(name)(**values, **sizes)


def _side(key: str, settings: Settings) -> int:
    """Of a set's pictures at a scale, in pixels."""
    return SETS[key].small_size if key == "tetrominoes" or settings.scale != "full" else 64


def scene_training(key: str, name: str, data: Any, seed: int, settings: Settings) -> Experiment:
    """The training on a set, the same in every study of IODINE, so that it is done once for all of them.

    Args:
        key: of the set.
        name: of the data in the table.
        data: their settings.
        seed: of the training.
        settings: the scale.
    """
    model, training = iodine_settings(RECIPES[key], settings.scale, SETS[key].quick_steps)
    return Experiment.of(f"iodine-{key}", "iodine", name, model=model, data=data, training=training, seed=seed)


class IodineDecomposition:
    """Foreground ARI on three sets; says which data each number is of."""

    name = "iodine-decomposition"
    title = "IODINE on the standard sets of scene decomposition"

    def trials(self, settings: Settings) -> list[Trial]:
        """Every set, seed by seed."""
        seeds = settings.seeds_or(1 if settings.scale == "smoke" else 3)
        return [self._trial(key, seed, settings) for seed in seeds for key in SETS]

    def data_of(self, key: str, settings: Settings) -> tuple[str, Config, str]:
        """Data of a set at a scale: table name, settings, and what they are in words.

        ``full`` takes the official file where it is decoded. CLEVR6 takes rendered scenes where there are any (asked for by
        ``clevr_root`` below ``full``), made as large as the scale has it. All others are generated.
        """
        chosen, full, size = SETS[key], settings.scale == "full", _side(key, settings)
        if full and chosen.official is not None:
            name, folder, values = chosen.official
            root = (settings.official_root or cache_folder() / "decoded") / folder
            if root.is_dir():
                return name, config_class(name)(root=root, **values), "official file"
        rendered = settings.clevr_root or (cache_folder() / "clevr" if full else None)
        if chosen.rendered is not None and rendered is not None and rendered.is_dir():
            config = config_class("clevr")(root=rendered, image_size=size, **chosen.rendered)
            return (
                "clevr",
                config,
                f"rendered with Blender from the official assets, {size}x{size}, not the official file",
            )
        name, config = generated(key, settings)
        return name, config, f"generated ({name}, {size}x{size}), not the official file"

    def _trial(self, key: str, seed: int, settings: Settings) -> Trial:
        name, found, words = self.data_of(key, settings)
        data: Any = found.replaced(seed=seed) if "seed" in type(found).model_fields else found
        experiment = scene_training(key, name, data, seed, settings)
        return Trial(f"{key}-seed{seed}", experiment, f"{SETS[key].title}: {words}")

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Every seed's scores beside the published ones, scores by refinement step, and pictures of each set."""
        limit = 8 if settings.scale == "smoke" else TEST_IMAGES
        records = [self._record(trial, runs[trial.key], limit) for trial in trials]
        sections = [self._scores(records, settings), self._steps(records)]
        for group in dict.fromkeys(trial.group for trial in trials):
            first = next(trial for trial in trials if trial.group == group)
            sections.append(self._pictures(group, runs[first.key], limit, scenes.images_shown(settings)))
        curves = [
            scenes.curve_figure(trials, runs, "foreground_ari", "foreground ARI"),
            scenes.curve_figure(trials, runs, "mse", "squared error"),
        ]
        sections.append(Section("Over training", figures=curves))
        published = {
            name: {
                "foreground_ari": value,
                "spread": spread,
                "source": "EfficientMORL, ICML 2021, quoting (second-hand)",
            }
            for name, (value, spread) in PUBLISHED.items()
        }
        results = {"test_images": limit, "published": published, "trials": records}
        text = "; ".join(
            f"{group}: " + ", ".join(shown(r["foreground_ari"]) for r in records if r["group"] == group)
            for group in dict.fromkeys(record["group"] for record in records)
        )
        return Account(results, sections, summary=f"Foreground ARI, a number per seed. {text}.")

    def _record(self, trial: Trial, run: Path, limit: int) -> dict[str, Any]:
        model: Any = load(run)
        dataset, twice = run_experiment(run).build_data(), 2 * model.config.refinement_steps
        longer = scenes.scene_scores(model.reconfigured(refinement_steps=twice), dataset, limit=limit).summary()
        title, _, data = trial.group.partition(": ")
        return {
            **scenes.run_record(trial, run),
            "set": title,
            "data": data,
            **scenes.scene_scores(model, dataset, limit=limit).summary(),
            "by_step": scores_by_step(model, dataset, limit=limit),
            "longer": {"refinement_steps": twice, **longer},
        }

    def _scores(self, records: Sequence[Mapping[str, Any]], settings: Settings) -> Section:
        header = ["set", "data", "seed", "steps", "images", "scored", "foreground ARI", "after twice the refinement",
                  "published", "full ARI", "mBO", "MSE", "training, minutes"]  # fmt: skip
        rows = [
            [
                record["set"],
                record["data"],
                record["seed"],
                f"{record['steps']:,}",
                record["images"],
                record["scored"],
                shown(record["foreground_ari"]),
                shown(record["longer"]["foreground_ari"]),
                "{:.3f} ± {:.3f}".format(*PUBLISHED[record["set"]]),
                *(shown(record[name]) for name in ("ari", "mbo")),
                shown(record["mse"], 5),
                f"{record['training_minutes']:.0f}",
            ]
            for record in records
        ]
        text = (
            "Images with fewer than two visible objects are not scored. Published: IODINE's foreground ARI on 320 held-out "
            "images of the official sets, mean and standard deviation over five seeds, as quoted by EfficientMORL (ICML 2021). "
            "Beside it, a number of generated or rendered data is for orientation and no reproduction. Twice the refinement: "
            "twice the steps of the training, when testing."
        )
        if settings.scale == "quick":
            text += (
                " Small pictures, a narrow network, five refinement steps, a σ that falls from 0.3 to 0.1 (CLEVR6: 0.14 to "
                "0.05), and thousands of steps of eight images, where the paper has a million of 32 to 256."
            )
        scores = {
            title: {"ours": scenes.numbers([r["foreground_ari"] for r in records if r["set"] == title])}
            for title in dict.fromkeys(record["set"] for record in records)
        }
        drawn = []
        if any(value == value for part in scores.values() for value in part["ours"]):
            published = {name: value for name, (value, _) in PUBLISHED.items()}
            figure = figures.seed_scores_figure(scores, "foreground ARI", published=published, limits=scenes.UNIT)
            drawn.append((figure, "a dot per seed; dashed: published on the official sets (second-hand)"))
        return Section("Every seed", text=text, table=Table(header, rows), figures=drawn)

    def _steps(self, records: Sequence[Mapping[str, Any]]) -> Section:
        drawn = []
        for name, label in (("foreground_ari", "foreground ARI"), ("mse", "squared error")):
            figure = figures.seeds_figure(step_curves(records, name), label, steps="refinement steps")
            drawn.append((figure, f"{label} after each refinement step, a line per seed; 0: before the first"))
        text = (
            "Steps before the last are scored on one sample of the posterior with noise that is the same for all images, the "
            "last one on posterior means."
        )
        return Section("Step by step", text=text, figures=drawn)

    def _pictures(self, group: str, run: Path, limit: int, count: int) -> Section:
        model, dataset = load(run), run_experiment(run).build_data()
        count = min(count, dataset.splits["test"])
        batch, out = scenes.decomposed(model, dataset, np.arange(count))
        figure = figures.slots_figure(batch, out, heading=group, notes=scenes.score_notes(batch, out))
        caption = f"the first {count} test images of the first seed; foreground ARI below"
        gallery = failure_section(model, dataset, "test", limit=limit, shown=count)
        one, steps = next(decompositions(model, dataset, "test", np.arange(1), trajectory=True))
        refined = (figures.refinement_figure(one, steps), "refinement of the first test image, first seed")
        seen = refinement_inputs(model, one, steps)
        return Section(group, figures=[(figure, caption), refined, *seen, *gallery.figures])


def scores_by_step(model: Any, dataset: Any, *, limit: int, steps: int | None = None) -> dict[str, list[float | None]]:
    """Mean foreground ARI and squared error of the first test images before the first and after every refinement step.

    Args:
        model: IODINE.
        dataset: with instances.
        limit: how many images at most.
        steps: T; None: the model's own.
    """
    chosen = model if steps in (None, model.config.refinement_steps) else model.reconfigured(refinement_steps=steps)
    columns: dict[str, list[list[np.ndarray]]] = {"foreground_ari": [], "mse": []}
    rows = np.arange(min(limit, dataset.splits["test"]))
    for batch, out in decompositions(chosen, dataset, "test", rows, 16, trajectory=True):
        for number, step in enumerate(out.trajectory or ()):
            found = scenes.image_scores(batch, step)
            for name, parts in columns.items():
                if len(parts) <= number:
                    parts.append([])
                parts[number].append(found[name])
    return {name: [scenes.mean(np.concatenate(part)) for part in parts] for name, parts in columns.items()}


def step_curves(records: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Group -> (steps, scores) per seed, from the ``by_step`` of :func:`scores_by_step` in each record."""
    curves: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for record in records:
        values = np.array(scenes.numbers(record["by_step"][name]))
        curves.setdefault(record["group"], []).append((np.arange(len(values)), values))
    return curves
