"""The MONet blog's training on two squares or circles, with the paper's loss and the blog's: its figures and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from objectwise import figures
from objectwise.core import Batch, Dataset
from objectwise.data.two_shapes import share_a_color
from objectwise.figures import Section, Table
from objectwise.recipes.monet import monet_two_shapes
from objectwise.recipes.reporting import failure_section
from objectwise.recipes.runs import load, run_experiment
from objectwise.studies import scene_scores as scenes
from objectwise.studies.counting_tables import validation_curve
from objectwise.studies.scene_scores import shown
from objectwise.studies.study import Account, Settings, Trial

STEPS = {"smoke": 4, "quick": 1_000, "full": 7_800}
"""Steps of 64 images; the blog trains for ten epochs of 50,000, 7,800 steps."""
LOSSES: Mapping[str, Mapping[str, Any]] = {
    "mixture loss": {"likelihood": "joint"},
    "simplified loss": {"likelihood": "simplified"},
}
"""The two losses in one setting: the blog's network, the paper's mask input and colours, the recipe's optimiser."""
IDEAS: Mapping[str, Mapping[str, Any]] = {
    "small slots": {"latent_size": 4},
    "small slots, masks weigh more": {"latent_size": 4, "gamma": 2.0},
    "wide sigma": {"sigma_background": 0.27, "sigma_foreground": 0.33},
    "trained on same-colour pairs": {},
}
"""What could separate two objects of one colour, each with the mixture loss; :data:`WHY` says why."""
WHY = (
    "One slot explains two objects of one colour as well as one: its picture is that colour, and only its decoded mask has to "
    "know of two shapes. Small slots (4 numbers; a shape needs position, size and kind) leave no room for two shapes in one "
    "code, a larger weight of the masks' KL makes that cost more, a three times wider sigma makes the codes and masks weigh more "
    "against the pixels, and on same-colour pairs alone colour tells nothing."
)
LONGER, LONGER_STEPS = "mixture loss, longer", 3_000
"""Where ``quick`` trains the mixture loss beyond the others' steps: after 1,000 some seeds leave the darkest colour, green, to
the background's slot."""
CANDIDATES = (*LOSSES, "wide sigma", LONGER)
"""What the better loss is chosen from: both losses, the mixture loss with a wider sigma, and trained longer."""
SEEDS = {
    "smoke": {"mixture loss": 1, "simplified loss": 1},
    "quick": {"mixture loss": 3, "simplified loss": 3, **dict.fromkeys(IDEAS, 1), "wide sigma": 3, LONGER: 3},
    "full": {"mixture loss": 3, "simplified loss": 3, "the blog's settings": 3, **dict.fromkeys(IDEAS, 3)},
}
"""Scale -> group -> seeds."""
GOAL = {"foreground_ari": 0.95, "mbo": 0.90}
"""What the better loss is to reach on pairs of different colours."""
DIFFERENT, SAME = "different colours", "same colour"


class MonetTwoShapes:
    """The blog's set, corrected: two objects in every image; pairs of one colour are reported on their own."""

    name = "monet-two-shapes"
    title = "MONet on two squares or circles"

    def trials(self, settings: Settings) -> list[Trial]:
        """Both losses and ideas for pairs of one colour, seed by seed; in ``full`` also the blog's own settings."""
        wanted = SEEDS[settings.scale]
        return [
            self._trial(group, seed, settings)
            for seed in settings.seeds_or(max(wanted.values()))
            for group, seeds in wanted.items()
            if seed < settings.first_seed + (settings.seeds or seeds)
        ]

    def _trial(self, group: str, seed: int, settings: Settings) -> Trial:
        base: Any = monet_two_shapes("blog" if group == "the blog's settings" else "tuned")
        steps, smoke = LONGER_STEPS if group == LONGER else STEPS[settings.scale], settings.scale == "smoke"
        changes = {**LOSSES, **IDEAS, LONGER: LOSSES["mixture loss"]}.get(group, {})
        data: dict[str, Any] = {"seed": seed, **({"eval_size": 16, "image_size": 32} if smoke else {})}
        if group == "trained on same-colour pairs":
            data["colors"] = "same"
        experiment = base.replaced(
            seed=seed,
            model=base.model.replaced(**changes),
            data=base.data.replaced(**data),
            training=base.training.replaced(**(scenes.tiny(steps) if smoke else scenes.budget(steps))),
        )
        word = "".join(letter if letter.isalnum() else "-" for letter in group.lower()).replace("--", "-")
        return Trial(f"{word}-seed{seed}", experiment, group)

    def account(self, settings: Settings, runs: dict[str, Path], trials: Sequence[Trial]) -> Account:
        """Scores of every seed by colour of the pair, curves, both of the blog's figures, and the failures."""
        limit = 12 if settings.scale == "smoke" else 2_000
        records = [self._record(trial, runs[trial.key], limit) for trial in trials]
        groups = list(dict.fromkeys(record["group"] for record in records))
        best = max(
            (group for group in groups if group in CANDIDATES),
            key=lambda group: _mean([_last(runs[trial.key]) for trial in trials if trial.group == group]),
        )
        sections = [
            self._scores(records, groups),
            Section("Over training", figures=[
                scenes.curve_figure(trials, runs, name, label)
                for name, label in (("foreground_ari", "foreground ARI, all pairs"), ("mse", "mean squared error"))
            ]),
        ]  # fmt: skip
        for group in (group for group in groups if group in CANDIDATES):
            first = next(trial for trial in trials if trial.group == group)
            sections.append(self._pictures(group, runs[first.key], scenes.images_shown(settings)))
        chosen = next(trial for trial in trials if trial.group == best)
        model, dataset = load(runs[chosen.key]), _dataset(runs[chosen.key])
        gallery = failure_section(model, dataset, "test", limit=limit, shown=scenes.images_shown(settings))
        sections.append(Section(f"Failures: {best}, first seed", figures=gallery.figures))
        reached = {
            name: [v is not None and v >= goal for v in _of(records, best, DIFFERENT, name)]
            for name, goal in GOAL.items()
        }
        side = dataset.image_shape[1]
        results = {
            "data": f"two_shapes, corrected, {side}x{side}, K = 3",
            "better_loss": best,
            "goal": GOAL,
            "same_colour_median": {
                group: scenes.middle(_of(records, group, SAME, "foreground_ari")) for group in groups
            },
            "seeds_that_reach": {name: f"{sum(seeds)} of {len(seeds)}" for name, seeds in reached.items()},
            "trials": records,
        }
        return Account(results, sections, summary=self._summary(records, best))

    def _record(self, trial: Trial, run: Path, limit: int) -> dict[str, Any]:
        found = scenes.scene_scores(load(run), _dataset(run), limit=limit, groups=_by_colour)
        return {
            **scenes.run_record(trial, run),
            "all": found.summary(),
            DIFFERENT: found.summary(DIFFERENT),
            SAME: found.summary(SAME),
        }

    def _summary(self, records: Sequence[Mapping[str, Any]], best: str) -> str:
        part = [record for record in records if record["group"] == best]
        ari, mbo, same = (
            ", ".join(shown(record[kind][name]) for record in part)
            for kind, name in ((DIFFERENT, "foreground_ari"), (DIFFERENT, "mbo"), (SAME, "foreground_ari"))
        )
        ideas = {r["group"]: None for r in records if r["group"] in IDEAS}
        told = ", ".join(f"{idea} {shown(scenes.middle(_of(records, idea, SAME, 'foreground_ari')))}" for idea in ideas)
        return (
            f"{best[0].upper()}{best[1:]}, a number per seed, on held-out pairs of different colours: foreground ARI {ari}; mBO "
            f"{mbo}. On pairs of one colour: foreground ARI {same}."
            + (f" Ideas for these, medians: {told}." if ideas else "")
        )

    def _scores(self, records: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> Section:
        header = [
            "",
            "seed",
            "pairs",
            "scored",
            "foreground ARI",
            "full ARI",
            "mBO",
            "foreground ARI, decoded masks",
            "MSE",
            "minutes",
        ]
        rows = [
            [
                record["group"],
                record["seed"],
                kind,
                record[kind]["scored"],
                *(shown(record[kind][name]) for name in ("foreground_ari", "ari", "mbo", "decoded_foreground_ari")),
                shown(record[kind]["mse"], 5),
                f"{record['training_minutes']:.1f}",
            ]
            for record in records
            for kind in (DIFFERENT, SAME)
        ]
        text = (
            f"Held-out images of two objects; attention masks unless said. The goal is foreground ARI {GOAL['foreground_ari']} "
            f"and mBO {GOAL['mbo']} on pairs of different colours. Full ARI proves nothing here: both objects in one slot score "
            "about 0.98. Pairs of one colour are MONet's known failure (it puts both objects into one slot) and are reported on "
            "their own. The blog post shows pictures and gives no score, so there is no published number to put beside these."
        )
        if any(group in IDEAS for group in groups):
            text += f"\n\nIdeas for pairs of one colour, with the mixture loss. {WHY}"
        drawn = []
        for name, label in (("foreground_ari", "foreground ARI"), ("mbo", "mBO")):
            scores = {
                group: {kind: scenes.numbers(_of(records, group, kind, name)) for kind in (DIFFERENT, SAME)}
                for group in groups
            }
            if any(value == value for kinds in scores.values() for values in kinds.values() for value in values):
                drawn.append(
                    (
                        figures.seed_scores_figure(scores, label, limits=scenes.UNIT),
                        f"{label}: a dot per seed, lines are medians",
                    )
                )
        return Section("Every seed", text=text, table=Table(header, rows), figures=drawn)

    def _pictures(self, group: str, run: Path, count: int) -> Section:
        """The blog's two figures, of the first seed and the first held-out images of either kind."""
        model: nn.Module = load(run)
        dataset = _dataset(run)
        drawn = []
        for kind, wanted in (
            (f"pairs of {DIFFERENT}", lambda batch: ~share_a_color(batch)),
            ("pairs of one colour: a known failure, MONet puts both into one slot", share_a_color),
        ):
            rows = scenes.first_rows(dataset, wanted, count)
            if len(rows) == 0:
                continue
            batch, out = scenes.decomposed(model, dataset, rows)
            drawn.append(
                (
                    figures.slots_figure(batch, out, heading=kind, notes=scenes.score_notes(batch, out)),
                    f"{kind}: the first {len(rows)} held-out images; foreground ARI below",
                )
            )
            if kind.startswith(f"pairs of {DIFFERENT}"):
                drawn.append(
                    (
                        figures.component_vae_figure(batch, out),
                        "the component VAE: each slot's picture, behind the attention mask, and behind its own decoded mask",
                    )
                )
                drawn.append((figures.masks_figure(batch, out, max_images=3), "masks and scopes, step by step"))
        return Section(f"What it finds: {group}, first seed", figures=drawn)


def _dataset(run: Path) -> Dataset:
    """Test scenes with colours drawn independently, whatever the trial was trained on."""
    dataset: Dataset = run_experiment(run).data.replaced(colors="independent").build()  # type: ignore[attr-defined]
    return dataset


def _by_colour(batch: Batch) -> dict[str, torch.Tensor]:
    same = share_a_color(batch)
    return {DIFFERENT: ~same, SAME: same}


def _last(run: Path) -> float | None:
    """Foreground ARI at the last look at validation scenes: what the better loss is chosen by."""
    values = validation_curve(run, "foreground_ari")[1]
    return float(values[-1]) if len(values) else None


def _mean(values: Sequence[float | None]) -> float:
    """Over seeds, a failed one included; what has no value counts as 0."""
    return sum(value or 0.0 for value in values) / len(values)


def _of(records: Sequence[Mapping[str, Any]], group: str, kind: str, name: str) -> list[float | None]:
    return [record[kind][name] for record in records if record["group"] == group]
