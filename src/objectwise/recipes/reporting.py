"""A run's pictures: for TensorBoard while it trains, and as figures and a report when it is done."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from torch import nn

from objectwise import figures
from objectwise.core import Batch, Dataset, Decomposition, UserError
from objectwise.core.files import atomic_path
from objectwise.metrics.counting import collapse
from objectwise.metrics.groups import GroupScores
from objectwise.metrics.reconstruction import mse
from objectwise.metrics.segmentation import foreground_ari
from objectwise.recipes.experiment import Experiment
from objectwise.recipes.latents import VALUES, latents_of, traversals
from objectwise.recipes.sliders import write_slider_page
from objectwise.training.callbacks import read_metrics
from objectwise.training.evaluation import Evaluation, decompositions

_SHOWN = 12
"""Images in the figures: the first of the split, never picked."""
_SEARCHED = 512
"""Images looked through for wrong counts, and for the worst ones."""
_GALLERY = 8
"""Images in each part of the failure gallery."""
_TURNS = (60.0, 120.0, 180.0, 240.0, 300.0)
"""Degrees by which the cameras of inferred scenes have gone round."""


def training_picture(batch: Batch, out: Decomposition) -> np.ndarray:
    """(H, W, 3) uint8 picture of some decompositions, for TensorBoard."""
    return figures.figure_rgb(figures.decomposition_figure(batch, out))


def write_figures(
    model: nn.Module, dataset: Dataset, run: Path, experiment: Experiment, found: Evaluation, *, command: str
) -> Path:
    """Draw everything a run has to show into ``figures/`` and ``report.html``.

    Args:
        model: trained.
        dataset: its data.
        run: the run folder.
        experiment: what was done.
        found: the scores on the held-out split.
        command: the command line that made the run.

    Returns:
        the report's path.
    """
    batch, out = next(decompositions(model, dataset, found.split, np.arange(min(_SHOWN, dataset.splits[found.split]))))
    left_out = found.details.get("count_accuracy", {}).get("left_out", "")
    sections = [_decomposition_section(batch, out, f"Counts are not scored: {left_out}." if left_out else "")]
    sections += _scene_sections(model, batch, out)
    if out.slots.shape[1] == 1 and out.posterior is not None:
        sections.append(_latents_section(model, dataset, run, experiment, found, batch, out))
    if _has_slots(out):
        sections += _refinement_sections(model, dataset, found.split)
        sections.append(failure_section(model, dataset, found.split))
    if found.counts is not None:
        sections.append(_counting_section(model, dataset, found))
    sections += [section for name, group in found.groups.items() for section in _group_sections(name, group)]
    rows = read_metrics(run / "metrics.jsonl")
    if rows:
        curves = (figures.curves_figure(rows), "training (batch averages) and validation (held-out scenes)")
        sections.append(figures.Section("Training", figures=[curves]))
    _save_figures(run, sections)
    return figures.write_report(
        run / "report.html",
        f"{experiment.name}: what it found",
        sections,
        summary=f"{experiment.model_name} trained without labels on {experiment.data_name}; every picture and number below is "
        f"of the {found.split} split, which training never saw. Pictures show its first images or, where it is "
        "said, the worst by a score; none was picked.",
        notices=_notices(found),
        numbers=_numbers(found),
        config=yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        command=command,
    )


def _decomposition_section(batch: Batch, out: Decomposition, text: str) -> figures.Section:
    drawn: list[tuple[Figure | bytes, str]] = []
    if out.boxes is not None:
        drawn.append((figures.boxes_figure(batch, out), "found boxes, one colour per step"))
        drawn.append((figures.steps_figure(batch, out), "the reconstruction after each step"))
    if _has_slots(out):
        drawn += slot_figures(batch, out)
    else:
        drawn.append((figures.decomposition_figure(batch, out), "segmentation and what each slot draws"))
    return figures.Section("Objects", text=text, figures=drawn)


def _scene_sections(model: Any, batch: Batch, out: Decomposition) -> list[figures.Section]:
    """The inferred scenes from elsewhere, of models that infer scenes."""
    if not hasattr(model, "other_views"):
        return []
    drawn = figures.views_figure(batch, out.reconstruction, model.other_views(out, _TURNS), _TURNS, max_images=_GALLERY)
    caption = "the scene that was inferred from each image, and the same scene from cameras that have gone round"
    return [figures.Section("Scenes", figures=[(drawn, caption)])]


def _latents_section(
    model: Any, dataset: Dataset, run: Path, experiment: Experiment, found: Evaluation, batch: Batch, out: Decomposition
) -> figures.Section:
    """What single latents draw, and the page with a slider for each."""
    assert out.posterior is not None
    used = latents_of(model, dataset, found.split, _SEARCHED)
    origin = out.posterior.mean[0, 0].to(next(model.parameters()).device)
    moved = figures.traversal_figure(
        traversals(model, origin), VALUES, used.spread, dead=used.dead, origin=batch.images[0]
    )
    drawn: list[tuple[Figure | bytes, str]] = [
        (
            moved,
            "each latent from −3 to 3 while the others stay at the code of the first image, the surest latent first",
        ),
        (figures.posterior_std_figure({experiment.name: [used.spread]}), "how sure the encoder is of each latent"),
    ]
    latents = len(used.spread)
    text = f"{latents - len(used.dead)} of {latents} latents are in use."
    page = write_slider_page(
        model,
        batch.images,
        run / "sliders.html",
        f"{experiment.name}: what each latent draws",
        summary=f"{experiment.model_name} trained on {experiment.data_name}. {text} Move a slider to see what it alone changes.",
        stds=used.stds,
        means=used.means,
    )
    if page is not None:
        text += f" {page.name} beside this page has a slider for each."
    return figures.Section("Latents", text=text, figures=drawn)


def _refinement_sections(model: nn.Module, dataset: Dataset, split: str) -> list[figures.Section]:
    """The first images' refinement step by step, for models that refine."""
    shown = np.arange(min(2, dataset.splits[split]))
    batch, out = next(decompositions(model, dataset, split, shown, trajectory=True))
    if out.trajectory is None:
        return []
    caption = "before the first and after each refinement step; slots behind their masks, grey frames: nothing there"
    drawn = [(figures.refinement_figure(batch, out, image=int(row)), caption) for row in shown]
    return [figures.Section("Refinement", figures=[*drawn, *refinement_inputs(model, batch, out)])]


def refinement_inputs(model: Any, batch: Batch, out: Decomposition) -> list[tuple[Figure, str]]:
    """What a refining model's network is given about one slot of the first image, with a caption; empty for other models.

    The slot is the one that wins the second most pixels: the first one is most often the background.

    Args:
        model: with ``refinement_inputs(images)``, or without.
        batch: images.
        out: of the same images.
    """
    if not hasattr(model, "refinement_inputs"):
        return []
    images = batch.images[:1].to(next(model.parameters()).device)
    steps = model.refinement_inputs(images)
    if not steps:
        return []
    pixels = torch.bincount(out.segmentation()[0].flatten(), minlength=out.num_slots)
    slot = int(pixels.argsort(descending=True, stable=True)[1])
    caption = (
        f"what the refinement network is given about slot {slot} of the first image, the one with the second most pixels, before "
        "layer normalisation; blue: below zero, red: above, with the ends of the scale below; bars: means in blue, what scales "
        "are made of in orange"
    )
    return [(figures.refinement_inputs_figure(steps, slot=slot), caption)]


def _has_slots(out: Decomposition) -> bool:
    """Whether the model splits images by masks alone: several slots, no boxes."""
    return out.boxes is None and out.num_slots > 1


def slot_figures(batch: Batch, out: Decomposition) -> list[tuple[Figure | bytes, str]]:
    """The figures of a slot model, with captions, by what its decomposition has.

    Args:
        batch: images.
        out: of the same images.
    """
    truth = " and, where a slot has it to itself, of the true segment" if batch.instances is not None else ""
    drawn: list[tuple[Figure | bytes, str]] = [
        (
            figures.slots_figure(batch, out),
            f"each slot's unmasked picture below; a slot's colour is that of its segment{truth}; a grey frame: the slot is empty",
        )
    ]
    kinds = out.mask_kinds()
    if "attention" in kinds and "decoded" in kinds:
        caption = (
            "each slot's picture, unmasked, behind the attention mask, and behind the mask that is decoded from the slots, on "
            "white; where the last two differ, the slots do not hold the segmentation"
        )
        drawn.append((figures.component_vae_figure(batch, out), caption))
    one_by_one = out.decoded_masks is not None
    scope = ", and the scope each was cut from" if one_by_one else ""
    drawn.append(
        (
            figures.masks_figure(batch, out, scopes=one_by_one),
            f"masks in the order of the slots{scope}; undecided: entropy of the masks over log K",
        )
    )
    return drawn


def failure_section(
    model: nn.Module, dataset: Dataset, split: str, *, limit: int = _SEARCHED, shown: int = _GALLERY
) -> figures.Section:
    """The worst images by foreground ARI, or by squared error without true segments, and the first ones; none is picked.

    Args:
        model: keeps the contract.
        dataset: its data.
        split: which split.
        limit: images looked through.
        shown: images in each part.
    """
    searched = min(limit, dataset.splits[split])
    errors: list[np.ndarray] = []
    agreement: list[np.ndarray] = []
    for batch, out in decompositions(model, dataset, split, np.arange(searched)):
        errors.append(mse(batch.images, out.reconstruction).per_image)
        if batch.instances is not None:
            scored = foreground_ari(batch.instances, out.masks, background_ids=batch.background_ids)
            agreement.append(scored.per_image)
    name, scores, high_is_bad, digits = "squared error", np.concatenate(errors), True, 4
    if agreement and np.isfinite(np.concatenate(agreement)).any():
        name, scores, high_is_bad, digits = "foreground ARI", np.concatenate(agreement), False, 2
    worst = figures.worst_rows(scores, shown, high_is_bad=high_is_bad)
    first = np.arange(min(shown, searched))
    panels = []
    known = int(np.isfinite(scores).sum())
    headings = (f"the {len(worst)} worst of {known} images by {name}", f"the first {len(first)} images")
    for heading, rows in zip(headings, (worst, first), strict=True):
        if len(rows) == 0:  # no score is finite
            continue
        batch, out = next(decompositions(model, dataset, split, rows))
        notes = [figures.style.score_text(scores[row], digits) for row in rows]
        panels.append(figures.GalleryPanel(heading, batch, out, notes))
    caption = figures.gallery_caption(name, shown=len(worst), scored=known, searched=searched)
    return figures.Section("Failures", figures=[(figures.failures_figure(panels), caption)])


def _counting_section(model: nn.Module, dataset: Dataset, found: Evaluation) -> figures.Section:
    assert found.counts is not None
    drawn: list[tuple[Figure | bytes, str]] = [
        (figures.confusion_figure(found.counts), f"true and found counts of {found.images} held-out scenes")
    ]
    wrong = _first_wrong(model, dataset, found)
    text = ""
    if wrong is not None:
        drawn.append((figures.boxes_figure(*wrong, max_images=8), "the first scenes that were counted wrong"))
    elif found.counts.accuracy < 1.0:
        text = f"None of the first {_SEARCHED} scenes was counted wrong."
    return figures.Section("Counting", text=text, figures=drawn)


def _group_sections(name: str, group: GroupScores) -> list[figures.Section]:
    """One table per part of a metric group."""
    sections = []
    for part, rows in group.sections.items():
        counts = sorted({count for row in rows.values() for count in row.by_count})
        header = ["", "value", "95 % interval", "scored", "skipped", *(f"{count} objects" for count in counts), "note"]
        table = [
            [
                label,
                _shown(row.value),
                "" if row.interval is None or math.isnan(row.interval[0]) else "{:.4f} to {:.4f}".format(*row.interval),
                row.n_scored,
                row.n_skipped,
                *(_shown(row.by_count[count].value) if count in row.by_count else "" for count in counts),
                row.advice or row.note,
            ]
            for label, row in rows.items()
        ]
        sections.append(
            figures.Section(f"{name.capitalize()}: {part.replace('_', ' ')}", table=figures.Table(header, table))
        )
    matrices = _matrices(group)
    if matrices:
        sections.append(figures.Section("What each latent says about each factor", figures=matrices))
    return sections


def _matrices(group: GroupScores) -> list[tuple[Figure | bytes, str]]:
    """The matrices behind the disentanglement scores."""
    if "names" not in group.arrays:
        return []
    dead: Any = group.policy.get("dead_dimensions", ())
    names = [str(name) for name in group.arrays["names"]]
    shown = {
        "mig": "mutual information / entropy",
        "dci_disentanglement": "importance (trees)",
        "sap_r2": "squared correlation",
    }
    return [
        (figures.code_matrix_figure(group.arrays[f"matrix {label}"], names, quantity=quantity, dead=dead), quantity)
        for label, quantity in shown.items()
        if f"matrix {label}" in group.arrays and group.arrays[f"matrix {label}"].shape[1] == len(names)
    ]


def _shown(value: float) -> object:
    return "-" if math.isnan(value) else value


def _first_wrong(model: nn.Module, dataset: Dataset, found: Evaluation) -> tuple[Batch, Decomposition] | None:
    """The first few wrongly counted scenes; None if there is none among the first."""
    indices = np.arange(min(_SEARCHED, found.images))
    wrong: list[int] = []
    for batch, out in decompositions(model, dataset, found.split, indices):
        if batch.counts is not None:
            wrong += batch.index[batch.counts != out.counts()].tolist()
    if not wrong:
        return None
    return next(decompositions(model, dataset, found.split, np.array(wrong[:8])))


def _save_figures(run: Path, sections: list[figures.Section]) -> None:
    folder = run / "figures"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder}: {error.strerror or error}") from None
    for section in sections:
        for number, (figure, _) in enumerate(section.figures, 1):
            with atomic_path(folder / f"{section.heading.lower()}-{number}.png") as temporary:
                temporary.write_bytes(figure if isinstance(figure, bytes) else figures.figure_png(figure))


def _notices(found: Evaluation) -> list[str]:
    advice = None if found.counts is None else collapse(found.counts.confusion)
    told = [sentence for group in found.groups.values() for sentence in group.advice]
    return [advice, *told] if advice else told


def _numbers(found: Evaluation) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    if found.counts is not None:
        low, high = found.counts.accuracy_interval
        numbers["count accuracy"] = (
            found.counts.accuracy,
            f"95 % interval {low:.3f} to {high:.3f}; always answering the most frequent count scores "
            f"{found.counts.base_rate:.3f}",
        )
    if "foreground_ari" in found.scores:
        detail = found.details["foreground_ari"]
        numbers["foreground ARI"] = (
            found.scores["foreground_ari"],
            f"mean of {detail['n_scored']} images with at least two objects; {detail['n_skipped']} have fewer",
        )
    explained = {
        "mse": "mean over pixels and channels, images in [0, 1]",
        "elbo": "nats per image, at posterior means",
    }
    for name, text in explained.items():
        if name in found.scores:
            numbers[name] = (found.scores[name], text)
    return numbers
