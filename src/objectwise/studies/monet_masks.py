"""MONet's motivation: a component VAE reconstructs better given the masks of the objects than one mask of all, or wrong masks.

The masks come as further channels of the images. A model sees nothing but images, and so training, resuming and the reports of
these runs are those of any other; the price is that true masks, which are labels, reach a loss here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from objectwise import figures
from objectwise.core import (
    Batch,
    Config,
    Dataset,
    Decoded,
    Decomposition,
    Posterior,
    SceneModel,
    UserError,
    normal,
    presence_from_masks,
)
from objectwise.data import config_class
from objectwise.data.cache import cache_folder
from objectwise.figures import Section, Table
from objectwise.models.monet import MONet, MONetConfig
from objectwise.nn.float32 import float32_island
from objectwise.recipes.experiment import Experiment
from objectwise.recipes.runs import load, run_experiment
from objectwise.studies import scene_scores as scenes
from objectwise.studies.study import Account, Settings, Trial
from objectwise.training.evaluation import decompositions

Masks = Literal["true", "all_in_one", "wrong"]
NAMES: Mapping[Masks, str] = {"true": "true masks", "all_in_one": "all in one", "wrong": "wrong masks"}
WORDS = (
    "True masks: one slot per object and one for the background. All in one: the first slot has the whole image. Wrong masks: "
    "those of another scene, so that every slot has pieces of several objects."
)
_FLOOR = 1e-6
"""Smallest mask: its log is about what attention gives a pixel that it is sure of."""


class GivenMaskScenesConfig(Config):
    """Scenes whose masks are further channels of the images: what the component VAE is given here instead of attention's."""

    scenes: str = "multi_dsprites"
    """Table name of the scenes."""
    variant: str | None = None
    """Variant of the scenes, where they have some."""
    root: Path | None = None
    """Folder of the scenes, where they are files."""
    image_size: int | None = None
    """Side of the pictures, where they are generated."""
    masks: Masks = "true"
    """true: of the scene's entities; all_in_one: the first slot has everything; wrong: of the scene with the next index."""
    num_slots: int = Field(5, ge=2)
    """K, channels of masks; at least as many as there are entities, backgrounds included."""
    seed: int = Field(0, ge=0)
    """Seed of generated scenes."""
    eval_size: int = Field(2_000, ge=2)
    """Number of generated scenes in the validation and in the test split."""

    def build(self) -> GivenMaskScenes:
        """The dataset."""
        return GivenMaskScenes(self)


class GivenMaskScenes:
    """The dataset; see :class:`objectwise.core.dataset.Dataset`. Its images have 3 + K channels and it has no labels beside."""

    max_objects: int | None = None

    def __init__(self, config: GivenMaskScenesConfig) -> None:
        self.config = config
        kind = config_class(config.scenes)
        known = {name: getattr(config, name) for name in ("variant", "root", "image_size", "seed", "eval_size")}
        values = {name: value for name, value in known.items() if name in kind.model_fields and value is not None}
        self.scenes: Dataset = kind(**values).build()
        self.splits: Mapping[str, int] = dict(self.scenes.splits)
        self.shuffle = self.scenes.shuffle
        channels, height, width = self.scenes.image_shape
        self.image_shape = (channels + config.num_slots, height, width)

    def batch(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The samples with these indices; see :class:`objectwise.core.dataset.Dataset`."""
        indices = np.asarray(indices, np.int64)
        batch = self.scenes.batch(split, indices)
        if self.config.masks == "all_in_one":
            ids: Tensor = torch.zeros_like(_ids(batch))
        elif self.config.masks == "wrong":
            ids = _ids(self.scenes.batch(split, (indices + 1) % self.splits[split]))
        else:
            ids = _ids(batch)
        if len(ids) and int(ids.max()) >= self.config.num_slots:
            raise UserError(f"scenes of {int(ids.max()) + 1} entities need num_slots {int(ids.max()) + 1} or more")
        masks = nn.functional.one_hot(ids, self.config.num_slots).movedim(-1, 1).to(batch.images.dtype)
        return Batch(index=batch.index, images=torch.cat([batch.images, masks], dim=1))


def _ids(batch: Batch) -> Tensor:
    if batch.instances is None:
        raise UserError("given masks need scenes with true segments")
    return batch.instances


class GivenMasksConfig(Config):
    """Settings of a component VAE whose masks come with the images."""

    image_shape: tuple[int, int, int] | None = None
    """(3 + K, height, width) of the images with their masks; None: taken from the data."""
    component: MONetConfig = MONetConfig()
    """MONet, of which the component VAE and the loss are used; its shape and number of slots come from the images."""


class GivenMasks(SceneModel):
    """MONet without its attention: the masks are the last K channels of the images.

    Decompositions have the images' channels: the masks are reconstructed exactly and components have zeros there, so that the
    error of the picture is ``terms["picture_mse"]``, over its own channels.
    """

    Config = GivenMasksConfig
    config: GivenMasksConfig

    def __init__(self, config: GivenMasksConfig) -> None:
        super().__init__(config)
        if config.image_shape is None:
            raise UserError(
                "GivenMasks needs image_shape (3 + slots, height, width); it is taken from the data when training"
            )
        channels, height, width = config.image_shape
        component = config.component.replaced(image_shape=(3, height, width), num_slots=channels - 3)
        self.monet = MONet(component)
        del self.monet.attention

    def forward(
        self,
        images: Tensor,
        *,
        generator: torch.Generator | None = None,
        step: int | None = None,
        trajectory: bool = False,
    ) -> Decomposition:
        """Encode and decode every slot of images (B, 3 + K, H, W) by its mask.

        Args:
            images: pictures in [0, 1] and masks that sum to one.
            generator: source of the posterior samples; None: posterior means.
            step: unused (no schedule).
            trajectory: unused (no steps).
        """
        del step, trajectory
        pictures, masks = images[:, :3], images[:, 3:]
        log_masks = masks.clamp_min(_FLOOR).log()
        mean, std = self.monet.encode(pictures, log_masks)
        slots = mean if generator is None else mean + std * normal(tuple(mean.shape), generator)
        drawn = self.monet.decode(slots)
        with float32_island(images.device):
            log_decoded = drawn.masks.clamp_min(1e-30).log()
            loss, terms = self.monet.objective(pictures.float(), log_masks, mean, std, drawn.components, log_decoded)
            picture = (masks.unsqueeze(2) * drawn.components).sum(dim=1)
            error = (picture - pictures).square().flatten(1).mean(dim=1)
            return Decomposition(
                loss=loss,
                terms={**terms, "picture_mse": error},
                reconstruction=torch.cat([picture, masks], dim=1),
                components=_with_masks(drawn.components),
                masks=masks,
                slots=slots,
                presence=presence_from_masks(masks),
                posterior=Posterior(mean, std),
                decoded_masks=drawn.masks,
            )

    def decode(self, slots: Tensor, presence: Tensor | None = None) -> Decoded:
        """What slots alone imply; the masks are the decoded ones.

        Args:
            slots: (B, K, D).
            presence: (B, K) in [0, 1]; None: all present.
        """
        drawn = self.monet.decode(slots, presence)
        return Decoded(
            _with_masks(drawn.components), drawn.masks, torch.cat([drawn.reconstruction, drawn.masks], dim=1)
        )


def _with_masks(components: Tensor) -> Tensor:
    """(B, K, 3, H, W) -> (B, K, 3 + K, H, W), zeros in the channels of the masks."""
    return nn.functional.pad(components, (0, 0, 0, 0, 0, components.shape[1]))


class MonetMasks:
    """The same component VAE with three kinds of masks: which is the easiest to reconstruct by?"""

    name = "monet-masks"
    title = "Why segment: reconstruction with true, all-in-one and wrong masks"

    def trials(self, settings: Settings) -> list[Trial]:
        """Every kind of masks, seed by seed."""
        seeds = {"smoke": 1, "quick": 3, "full": 3}[settings.scale]
        return [self._trial(masks, seed, settings) for seed in settings.seeds_or(seeds) for masks in NAMES]

    def _trial(self, masks: Masks, seed: int, settings: Settings) -> Trial:
        scale = settings.scale
        room = (settings.official_root or cache_folder() / "decoded") / "objects_room_train"
        data: dict[str, Any] = {"masks": masks, "seed": seed}
        if scale == "full" and room.is_dir():
            data |= {"scenes": "objects_room", "root": room, "num_slots": 7}
        else:
            data |= {"variant": "colored_on_colored", "image_size": 64 if scale == "full" else 32}
            data |= {"eval_size": 12} if scale == "smoke" else {}
        sizes = {} if scale == "full" else {"decoder_width": 16, "encoder_widths": (32, 32, 64)}
        steps = {"smoke": 2, "quick": 1_500, "full": 30_000}[scale]
        training = scenes.tiny(steps) if scale == "smoke" else scenes.budget(steps)
        experiment = Experiment.of(
            "monet-masks",
            f"{__name__}:GivenMasks",
            f"{__name__}:GivenMaskScenesConfig",
            model={"component": sizes},
            data=data,
            training={**training, "gradient_clip": 1_000.0},
            seed=seed,
        )
        return Trial(f"{masks.replace('_', '-')}-seed{seed}", experiment, NAMES[masks])

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """The error of every seed by the masks it was trained with and by those it is given; curves and pictures."""
        limit, count = 12 if settings.scale == "smoke" else 2_000, scenes.images_shown(settings)
        records = [self._record(trial, runs[trial.key], limit) for trial in trials]
        data: Any = run_experiment(runs[trials[0].key]).data
        source = data.scenes if data.variant is None else f"{data.scenes} ({data.variant})"
        height = data.build().image_shape[1]
        medians = {
            kind: scenes.middle([r["given"][r["group"]] for r in records if r["group"] == kind])
            for kind in NAMES.values()
        }
        lowest = min(medians, key=lambda kind: medians[kind] or 0.0)
        scores = {kind: {"": [r["given"][kind] for r in records if r["group"] == kind]} for kind in NAMES.values()}
        rows = [
            [
                record["group"],
                record["seed"],
                f"{record['steps']:,}",
                *(f"{1_000 * record['given'][kind]:.2f}" for kind in NAMES.values()),
                f"{record['kl']:.1f}",
                f"{record['training_minutes']:.1f}",
            ]
            for record in records
        ]
        header = ["trained with", "seed", "steps", *[f"given {kind}" for kind in NAMES.values()], "KL, nats", "minutes"]
        text = (
            f"Mean squared error of the picture on {records[0]['images']:,} held-out scenes of {source}, {height}x{height}, in "
            f"thousandths, by the masks a component VAE was trained with (rows) and those it is given then (columns). {WORDS} "
            "The same network, loss and budget; only the masks differ. The loss sees the masks as given, and true masks are "
            "labels, which MONet itself never sees: this asks whether segments are worth finding. The paper shows the same "
            "comparison on Objects Room as a figure."
        )
        sections = [
            Section("Every seed", text=text, table=Table(header, rows), figures=[
                (figures.seed_scores_figure(scores, "mean squared error", log=True), "a dot per seed"),
                scenes.curve_figure(trials, runs, "picture_mse", "mean squared error"),
            ]),
            *[self._pictures(k, next(runs[t.key] for t in trials if t.group == k), count) for k in NAMES.values()],
        ]  # fmt: skip
        results = {
            "data": f"{source}, {height}x{height}",
            "median_mse": medians,
            "lowest": lowest,
            "trials": records,
        }
        told = ", ".join(f"{kind} {1_000 * (value or 0.0):.2f}" for kind, value in medians.items())
        summary = f"Mean squared error in thousandths, median over seeds: {told}. Lowest: {lowest}."
        return Account(results, sections, summary=summary)

    def _record(self, trial: Trial, run: Path, limit: int) -> dict[str, Any]:
        model = load(run, model_class=GivenMasks)
        config: Any = run_experiment(run).data
        given: dict[str, float] = {}
        kl: list[np.ndarray] = []
        images = 0
        for masks, name in NAMES.items():
            dataset = config.replaced(masks=masks).build()
            images = min(limit, dataset.splits["test"])
            errors = []
            for _, out in decompositions(model, dataset, "test", np.arange(images)):
                errors.append(out.terms["picture_mse"].numpy())
                if name == trial.group:
                    kl.append(out.terms["kl"].numpy())
            given[name] = float(np.concatenate(errors).mean())
        record = scenes.run_record(trial, run)
        return {**record, "images": images, "given": given, "kl": float(np.concatenate(kl).mean())}

    def _pictures(self, kind: str, run: Path, count: int) -> Section:
        model, dataset = load(run, model_class=GivenMasks), run_experiment(run).build_data()
        batch, out = scenes.decomposed(model, dataset, np.arange(min(count, dataset.splits["test"])))
        error = out.terms["picture_mse"].tolist()
        figure = figures.slots_figure(
            batch.images,
            out,
            heading=f"trained with and given {kind}",
            notes=[f"{1_000 * value:.1f}" for value in error],
        )
        caption = f"{kind}, first seed, the first test images; squared error in thousandths below"
        return Section(f"Pictures: {kind}", figures=[(figure, caption)])
