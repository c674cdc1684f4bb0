"""MONet on the standard sets: adjusted Rand index beside the published one; generated sets stand in where no official file is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectwise import figures
from objectwise.core import Config
from objectwise.data import config_class
from objectwise.data.cache import cache_folder
from objectwise.figures import Section, Table
from objectwise.recipes.experiment import Experiment
from objectwise.recipes.monet import monet
from objectwise.recipes.reporting import failure_section
from objectwise.recipes.runs import load, run_experiment
from objectwise.studies import scene_scores as scenes
from objectwise.studies.scene_scores import shown
from objectwise.studies.study import Account, Settings, Trial

TEST_IMAGES = 320
"""Images that papers score."""
FULL_STEPS = 1_000_000
"""The paper's budget."""
SMALL: Mapping[str, Any] = {"latent_size": 8, "decoder_width": 16, "unet_width": 16}
"""A small network, for budgets of minutes."""

PUBLISHED: Mapping[str, tuple[float, float]] = {"Multi-dSprites": (0.904, 0.008), "CLEVR6": (0.962, 0.006)}
"""Foreground ARI of MONet and its spread over five seeds, on the official sets (coloured on grey; CLEVR6), as EfficientMORL
(ICML 2021) quotes it: second-hand."""


@dataclass(frozen=True)
class SceneSet:
    """A standard set, and what stands in for it.

    Attributes:
        title: its name in tables.
        slots: K, one more than it has objects (Objects Room: four backgrounds and three objects).
        official: table name of the official set's data, its folder of decoded arrays, and its settings; None: generated only.
        rendered: settings of a folder of rendered CLEVR scenes, where there is one; None: not for this set.
        generated: table name and settings of the generator; None: without the official file the set is left out.
        small_size: side of generated pictures in ``quick`` and ``smoke``.
        quick_steps: steps in ``quick``; 0: in ``full`` only.
    """

    title: str
    slots: int
    official: tuple[str, str, Mapping[str, Any]] | None
    rendered: Mapping[str, Any] | None
    generated: tuple[str, Mapping[str, Any]] | None
    small_size: int
    quick_steps: int


SETS: Mapping[str, SceneSet] = {
    "multi-dsprites": SceneSet(
        "Multi-dSprites",
        6,
        ("multi_dsprites_official", "multi_dsprites_colored_on_grayscale", {"split_rule": "iodine"}),
        None,
        ("multi_dsprites", {"variant": "colored_on_grayscale"}),
        32,
        5_000,
    ),
    "tetrominoes": SceneSet("Tetrominoes", 4, None, None, ("tetrominoes", {}), 40, 4_000),
    "clevr6": SceneSet(
        "CLEVR6",
        7,
        ("clevr_with_masks", "clevr_with_masks", {"split_rule": "iodine", "max_objects": 6}),
        {"max_objects": 6},
        ("clevr_like", {"counts": (3, 4, 5, 6)}),
        32,
        3_000,
    ),
    "objects-room": SceneSet("Objects Room", 7, ("objects_room", "objects_room_train", {}), None, None, 64, 0),
}
"""Key -> set. Tetrominoes is generated always: its rendering is exact to the byte, its law of places is ours, and the 35 pixels
are padded to 40, which a U-Net can halve."""


class MonetDecomposition:
    """Foreground ARI on every set that is at hand; says which data each number is of."""

    name = "monet-decomposition"
    title = "MONet on the standard sets of scene decomposition"

    def trials(self, settings: Settings) -> list[Trial]:
        """Every set at hand, seed by seed."""
        seeds = 1 if settings.scale == "smoke" else 3
        return [
            self._trial(key, *chosen, seed, settings)
            for seed in settings.seeds_or(seeds)
            for key in SETS
            if (chosen := self.data_of(key, settings)) is not None
        ]

    def data_of(self, key: str, settings: Settings) -> tuple[str, Config, str] | None:
        """Data of a set at a scale: table name, settings, and what they are in words; None where the set is left out.

        ``full`` takes the official file where it is decoded, else rendered scenes, else the generator; the smaller scales take
        small generated pictures.
        """
        chosen, size = SETS[key], SETS[key].small_size
        if settings.scale == "full":
            if chosen.official is not None:
                name, folder, values = chosen.official
                root = (settings.official_root or cache_folder() / "decoded") / folder
                if root.is_dir():
                    return name, config_class(name)(root=root, **values), "official file"
            rendered = settings.clevr_root or cache_folder() / "clevr"
            if chosen.rendered is not None and rendered.is_dir():
                config = config_class("clevr")(root=rendered, **chosen.rendered)
                return "clevr", config, "rendered with Blender from the official assets, not the official file"
            size = 40 if key == "tetrominoes" else 64
        elif chosen.quick_steps == 0:
            return None
        if chosen.generated is None:
            return None
        name, values = chosen.generated
        sizes = {"eval_size": 12 if settings.scale == "smoke" else 2_000, "image_size": size}
        return name, config_class(name)(**values, **sizes), f"generated ({name}, {size}x{size}), not the official file"

    def _trial(self, key: str, data_name: str, data: Any, words: str, seed: int, settings: Settings) -> Trial:
        chosen, scale = SETS[key], settings.scale
        base: Any = monet("paper" if scale == "full" else "tuned")
        model = base.model.replaced(num_slots=chosen.slots, **({} if scale == "full" else SMALL))
        if scale == "smoke":
            training = base.training.replaced(**scenes.tiny(2))
        elif scale == "quick":
            training = base.training.replaced(**scenes.budget(chosen.quick_steps))
        else:
            training = base.training.replaced(
                max_steps=FULL_STEPS,
                validate_every=10_000,
                threads=1,
                checkpoint_every=5_000,
                log_every=500,
                pictures_every=50_000,
            )
        if "seed" in type(data).model_fields:
            data = data.replaced(seed=seed)
        experiment = Experiment.of(
            f"monet-{key}", "monet", data_name, model=model, data=data, training=training, seed=seed
        )
        return Trial(f"{key}-seed{seed}", experiment, f"{chosen.title}: {words}")

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Every seed's scores beside the published ones, and pictures of each set."""
        limit = 8 if settings.scale == "smoke" else TEST_IMAGES
        records = [self._record(trial, runs[trial.key], limit) for trial in trials]
        left_out = [SETS[key].title for key in SETS if not any(trial.key.startswith(key) for trial in trials)]
        sections = [self._scores(records, left_out, settings)]
        for group in dict.fromkeys(trial.group for trial in trials):
            first = next(trial for trial in trials if trial.group == group)
            sections += self._pictures(group, runs[first.key], limit, scenes.images_shown(settings))
        sections.append(
            Section("Over training", figures=[scenes.curve_figure(trials, runs, "foreground_ari", "foreground ARI")])
        )
        published = {
            name: {
                "foreground_ari": value,
                "spread": spread,
                "source": "EfficientMORL, ICML 2021, quoting (second-hand)",
            }
            for name, (value, spread) in PUBLISHED.items()
        }
        results = {"test_images": limit, "published": published, "left_out": left_out, "trials": records}
        text = "; ".join(
            f"{group}: " + ", ".join(shown(r["foreground_ari"]) for r in records if r["group"] == group)
            for group in dict.fromkeys(record["group"] for record in records)
        )
        notices = (
            [f"Left out, for want of the official file or of budget at this scale: {', '.join(left_out)}."]
            if left_out
            else []
        )
        return Account(results, sections, summary=f"Foreground ARI, a number per seed. {text}.", notices=notices)

    def _record(self, trial: Trial, run: Path, limit: int) -> dict[str, Any]:
        found = scenes.scene_scores(load(run), run_experiment(run).build_data(), limit=limit).summary()
        title, _, data = trial.group.partition(": ")
        return {**scenes.run_record(trial, run), "set": title, "data": data, **found}

    def _scores(self, records: Sequence[Mapping[str, Any]], left_out: Sequence[str], settings: Settings) -> Section:
        header = ["set", "data", "seed", "steps", "images", "scored", "foreground ARI", "published", "full ARI", "mBO",
                  "foreground ARI, decoded masks", "MSE"]  # fmt: skip
        rows = [
            [
                record["set"],
                record["data"],
                record["seed"],
                f"{record['steps']:,}",
                record["images"],
                record["scored"],
                shown(record["foreground_ari"]),
                _published(record["set"]),
                *(shown(record[name]) for name in ("ari", "mbo", "decoded_foreground_ari")),
                shown(record["mse"], 5),
            ]
            for record in records
        ]
        text = (
            "Attention masks unless said; images with fewer than two visible objects are not scored. Published: MONet's "
            "foreground ARI on the official sets, mean and standard deviation over seeds, as quoted by EfficientMORL (ICML "
            "2021). Beside it, a number of generated or rendered data is for orientation and no reproduction."
        )
        if settings.scale == "quick":
            text += " Small pictures, a small network and thousands of steps, where the paper has a million."
        if left_out:
            text += f" Left out: {', '.join(left_out)}."
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

    def _pictures(self, group: str, run: Path, limit: int, count: int) -> list[Section]:
        model, dataset = load(run), run_experiment(run).build_data()
        count = min(count, dataset.splits["test"])
        rows = scenes.first_rows(dataset, lambda batch: batch.index >= 0, count)
        batch, out = scenes.decomposed(model, dataset, rows)
        figure = figures.slots_figure(batch, out, heading=group, notes=scenes.score_notes(batch, out))
        gallery = failure_section(model, dataset, "test", limit=limit, shown=count)
        caption = f"the first {count} test images of the first seed; foreground ARI below"
        return [Section(group, figures=[(figure, caption), *gallery.figures])]


def _published(title: str) -> str:
    if title not in PUBLISHED:
        return "–"
    value, spread = PUBLISHED[title]
    return f"{value:.3f} ± {spread:.3f}"
