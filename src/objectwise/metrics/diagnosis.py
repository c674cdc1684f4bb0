"""Cheap numbers that each name one failure of a decomposition.

The formulas are ours. A slot *holds* the pixels at which its mask is the largest (the first one on ties), is *filled* if it holds
at least a thousandth of the image, and the largest slot of an image counts as its background, unless said otherwise.
:data:`DETECTORS` puts a threshold and a sentence of advice to each; the thresholds are rules of thumb.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from objectwise.core import MetricResult, UserError
from objectwise.metrics.overlap import Map, Overlaps, overlaps
from objectwise.metrics.segmentation import labels_from_masks, segment_labels

_FILLED = 0.001
_GREY = 0.05
"""Below this length of the colour vector there is no hue."""


# -- with the truth --------------------------------------------------------------------------------------------------


def background_split(
    true_ids: Map, masks: Map, *, share: float = 0.05, background_ids: Sequence[int] = (0,)
) -> MetricResult:
    """Number of slots that hold more than a share of the true background; 1 is right.

    Args:
        true_ids: (B, H, W) integer id of each pixel.
        masks: (B, K, H, W) masks or (B, H, W) integer labels.
        share: of the background's pixels, in [0, 1).
        background_ids: every id that is background, taken together.

    Raises:
        UserError: for shapes or types that cannot work.
    """
    shares = _background_shares(overlaps(true_ids, masks, background_ids))
    number = (shares > share).sum(axis=1)
    return _result("background_split", np.where(np.isnan(shares).any(axis=1), np.nan, number), share=share)


def background_perplexity(true_ids: Map, masks: Map, *, background_ids: Sequence[int] = (0,)) -> MetricResult:
    """Effective number of slots that share the background, exp of its entropy (nats) over the slots; at least 1.

    Arguments as :func:`background_split`.
    """
    shares = _background_shares(overlaps(true_ids, masks, background_ids))
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)
    return _result("background_perplexity", np.exp(entropy))


def object_split(
    true_ids: Map, masks: Map, *, share: float = 0.1, background_ids: Sequence[int] = (0,)
) -> MetricResult:
    """Mean over an image's objects of the number of slots that hold more than a share of the object; 1 is right.

    Arguments as :func:`background_split`, ``share`` of the object's pixels; images without objects are skipped.
    """
    found = overlaps(true_ids, masks, background_ids)
    pieces = (_object_shares(found) > share).sum(axis=2)
    return _result("object_split", _mean_where(pieces, found.objects), share=share)


def object_merge(
    true_ids: Map, masks: Map, *, share: float = 0.5, background_ids: Sequence[int] = (0,)
) -> MetricResult:
    """Mean, over the slots that hold more than a share of at least one object, of how many they hold; 1 is right.

    Arguments as :func:`background_split`, ``share`` of the object's pixels; images without such a slot are skipped.
    """
    found = overlaps(true_ids, masks, background_ids)
    held = (_object_shares(found) > share).sum(axis=1)
    return _result("object_merge", _mean_where(held, held > 0), share=share)


class ColourMerge(NamedTuple):
    """Shares of pairs of objects that lie in one slot, each skipping images without such a pair.

    Attributes:
        same: of pairs of one colour.
        other: of pairs of different colours.
    """

    same: MetricResult
    other: MetricResult


def colour_merge(
    images: Tensor | np.ndarray,
    true_ids: Map,
    masks: Map,
    *,
    tolerance: float = 0.1,
    background_ids: Sequence[int] = (0,),
) -> ColourMerge:
    """How often two objects are in one slot, for pairs of the same and of different colours.

    A pair is in one slot if that slot holds more than half of each. Two objects have one colour if the mean colours of
    their pixels differ by at most the tolerance (root mean square over channels).

    Args:
        images: (B, C, H, W) in [0, 1].
        true_ids: (B, H, W) integer id of each pixel.
        masks: (B, K, H, W) masks or (B, H, W) integer labels.
        tolerance: of the colour, in [0, 1].
        background_ids: every id that is background.

    Raises:
        UserError: for shapes or types that cannot work.
    """
    pictures, true_ids = torch.as_tensor(images).detach().double(), torch.as_tensor(true_ids)
    if pictures.ndim != 4 or pictures[:, 0].shape != true_ids.shape:
        raise UserError(
            f"images are {tuple(pictures.shape)}, true ids {tuple(true_ids.shape)}; their pixels must agree"
        )
    found = overlaps(true_ids, masks, background_ids)
    shares = _object_shares(found)
    holder = np.where(shares.max(axis=2, initial=0.0) > 0.5, shares.argmax(axis=2), -1)
    rows = torch.from_numpy(np.searchsorted(found.true_names, true_ids.numpy()))
    same, other = np.full(len(pictures), np.nan), np.full(len(pictures), np.nan)
    for image, (picture, row) in enumerate(zip(pictures.flatten(2), rows.flatten(1), strict=True)):
        seen = np.flatnonzero(found.objects[image])
        sums = torch.zeros(len(found.true_names), picture.shape[0], dtype=torch.float64).index_add_(0, row, picture.T)
        colours = sums.numpy()[seen] / found.true_sizes[image, seen, None]
        first, second = np.triu_indices(len(seen), 1)
        alike = np.sqrt(np.square(colours[first] - colours[second]).mean(axis=1)) <= tolerance
        holders = holder[image, seen]
        together = (holders[first] == holders[second]) & (holders[first] >= 0)
        if alike.any():
            same[image] = together[alike].mean()
        if (~alike).any():
            other[image] = together[~alike].mean()
    return ColourMerge(
        _result("same_colour_merge", same, tolerance=tolerance),
        _result("other_colour_merge", other, tolerance=tolerance),
    )


# -- from masks alone ------------------------------------------------------------------------------------------------


def filled_slots(masks: Tensor | np.ndarray, *, min_share: float = _FILLED) -> Tensor:
    """(B, K) bool: slots that hold at least a share of the image's pixels and whose mask is at least that on average.

    Args:
        masks: (B, K, H, W) summing to 1 over K.
        min_share: in [0, 1].

    Raises:
        UserError: for another number of axes, no slots, or a mask that is NaN.
    """
    masks = torch.as_tensor(masks).detach()
    held = _held(labels_from_masks(masks), masks.shape[1])
    return (held >= min_share) & (masks.float().mean(dim=(2, 3)) >= min_share)


def empty_slots(masks: Tensor | np.ndarray, *, min_share: float = _FILLED) -> MetricResult:
    """Share of an image's slots that are not filled (see :func:`filled_slots`); 1 − 1/K everywhere is a collapse."""
    return _result("empty_slots", 1.0 - filled_slots(masks, min_share=min_share).double().mean(dim=1).numpy())


def mask_entropy(masks: Tensor | np.ndarray) -> MetricResult:
    """Mean over pixels of the entropy of the masks (B, K, H, W) over log K: 0 hard, 1 undecided; 0 for one slot."""
    soft = _soft(masks)
    slots = soft.shape[1]
    entropy = torch.special.entr(soft).sum(dim=1).mean(dim=(1, 2)) / (np.log(slots) if slots > 1 else 1.0)
    return _result("mask_entropy", entropy.numpy())


def slot_overlap(masks: Tensor | np.ndarray) -> MetricResult:
    """Mean over pixels of 1 minus the largest mask (B, K, H, W): how much of a pixel other slots have."""
    return _result("slot_overlap", (1.0 - _soft(masks).amax(dim=1)).mean(dim=(1, 2)).numpy())


def stripes(masks: Tensor | np.ndarray) -> MetricResult:
    """How much of a mask's variance its column means, or its row means, explain; the mean over filled slots, in [0, 1].

    1 for slabs from edge to edge, which ignore the image (or follow a true horizon); 0.17 for a disc of radius 8 in 64×64.
    Slots whose mask is the same everywhere say nothing; images with no other are skipped.

    Args:
        masks: (B, K, H, W).
    """
    soft = _soft(masks)
    variance = soft.var(dim=(2, 3), correction=0)
    columns, rows = soft.mean(dim=2).var(dim=2, correction=0), soft.mean(dim=3).var(dim=2, correction=0)
    share = torch.maximum(columns, rows) / variance.clamp_min(1e-12)
    kept = filled_slots(masks) & (variance > 1e-6)
    return _result("stripes", _mean_where(share.numpy(), kept.numpy()))


def spread(masks: Tensor | np.ndarray) -> MetricResult:
    """How far a slot reaches: squared distance of its mask from its centre over that of the whole image, in [0, about 3].

    The mean over filled slots but the largest of each image; images without another are skipped. 1: all over the image; an
    object of a fifth of its width: 0.04.

    Args:
        masks: (B, K, H, W).
    """
    soft = _soft(masks)
    height, width = soft.shape[2:]
    mass = soft.sum(dim=(2, 3)).clamp_min(1e-12)
    total = torch.zeros_like(mass)
    for size, reduced in ((width, soft.sum(dim=2)), (height, soft.sum(dim=3))):
        places = torch.arange(size, dtype=torch.float64)
        centre = (reduced * places).sum(dim=2) / mass
        total = total + (reduced * (places - centre.unsqueeze(2)).square()).sum(dim=2) / mass
    whole = (height**2 + width**2 - 2) / 12.0
    kept = filled_slots(masks) & ~_largest(masks)
    return _result("spread", _mean_where((total / max(whole, 1e-12)).numpy(), kept.numpy()))


def position_only(masks: Tensor | np.ndarray, *, before: Tensor | None = None) -> MetricResult:
    """Mean IoU of what each slot holds in an image with what it holds in the image before; 1: a fixed grid.

    Slots filled in neither and the largest slot of either image are left out; pairs without another slot are skipped, and so
    is the first image.

    Args:
        masks: (B, K, H, W).
        before: (K, H, W) masks of the image before the first one.
    """
    masks = torch.as_tensor(masks).detach()
    if before is not None:
        masks = torch.cat([before.unsqueeze(0).to(masks), masks])
    labels, slots = labels_from_masks(masks), masks.shape[1]
    filled, largest = filled_slots(masks), _largest(masks)
    scores = np.full(len(labels), np.nan)
    for image in range(1, len(labels)):
        here, there = labels[image].flatten(), labels[image - 1].flatten()
        shared = torch.bincount(here[here == there], minlength=slots).double()
        union = torch.bincount(here, minlength=slots) + torch.bincount(there, minlength=slots) - shared
        kept = (filled[image] | filled[image - 1]) & ~(largest[image] | largest[image - 1])
        if kept.any():
            scores[image] = float((shared[kept] / union[kept]).mean())
    return _result("position_only", scores if before is None else scores[1:])


def first_step_attention(masks: Tensor | np.ndarray) -> MetricResult:
    """Share of the image that the first slot's mask takes (B, K, H, W); near 1 is a collapse of sequential attention."""
    return _result("first_step_attention", _soft(masks)[:, 0].mean(dim=(1, 2)).numpy())


def slot_hues(images: Tensor | np.ndarray, masks: Tensor | np.ndarray) -> np.ndarray:
    """Hue of what each slot holds, as a unit vector.

    Args:
        images: (B, 3, H, W) in [0, 1].
        masks: (B, K, H, W) of the same height and width.

    Returns:
        (B, K, 2) cosine and sine; NaN for slots that are not filled, for the largest slot, and for grey ones.

    Raises:
        UserError: for images that have no hue, or shapes that cannot work.
    """
    images, masks = torch.as_tensor(images).detach().double(), torch.as_tensor(masks).detach()
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2:] != masks.shape[2:]:
        raise UserError(f"hues need images (images, 3, height, width) of the masks' size, not {tuple(images.shape)}")
    red, green, blue = images.unbind(dim=1)
    plane = torch.stack([red - (green + blue) / 2.0, (green - blue) * 3**0.5 / 2.0], dim=1)
    slots = masks.shape[1]
    holder = labels_from_masks(masks).flatten(1) + slots * torch.arange(len(masks)).unsqueeze(1)
    sums = torch.zeros(len(masks) * slots, 2, dtype=torch.float64)
    sums.index_add_(0, holder.flatten(), plane.movedim(1, -1).reshape(-1, 2))
    pixels = torch.bincount(holder.flatten(), minlength=len(sums)).clamp_min(1)
    mean = (sums / pixels.unsqueeze(1)).view(len(masks), slots, 2)
    length = mean.norm(dim=2, keepdim=True)
    kept = (filled_slots(masks) & ~_largest(masks)).unsqueeze(2) & (length > _GREY)
    return torch.where(kept, mean / length.clamp_min(1e-12), torch.nan).numpy()


class ColourClusters(NamedTuple):
    """How much slots are tied to colours.

    Attributes:
        explained: share of the variance of the hue over all images that the slot's number explains; NaN with fewer than two
            hues.
        chance: the same after exchanging the slots within each image at random, averaged.
        lift: (explained − chance) / (1 − chance), at most 1; near 0 where slots are not tied to colours.
    """

    explained: float
    chance: float
    lift: float


def colour_clusters(hues: np.ndarray, *, generator: torch.Generator, draws: int = 20) -> ColourClusters:
    """Whether the same slot takes the same colour in image after image.

    Args:
        hues: (B, K, 2) from :func:`slot_hues`; NaN where there is none.
        generator: of the exchanges.
        draws: how many exchanges are averaged.
    """
    filled = ~np.isnan(hues[..., 0])
    image, slot = np.nonzero(filled)
    found = hues[filled]
    explained = _explained(found, slot)
    if np.isnan(explained):
        return ColourClusters(explained, explained, explained)
    drawn = []
    for _ in range(draws):
        keys = torch.rand(len(image), generator=generator, dtype=torch.float64).numpy()
        # Sorted by image as before, in random order within each.
        drawn.append(_explained(found[np.lexsort((keys, image))], slot))
    chance = float(np.mean(drawn))
    return ColourClusters(explained, chance, (explained - chance) / max(1.0 - chance, 1e-12))


def slot_kl(mean: Tensor, std: Tensor, filled: Tensor) -> MetricResult:
    """Nats that a filled slot's posterior says beyond the prior N(0, 1), averaged over an image's filled slots.

    For a model with another prior it is a rough guide.

    Args:
        mean: (B, K, D).
        std: (B, K, D); numbers without spread are no latents and count nothing.
        filled: (B, K) bool.
    """
    return _result("slot_kl", _mean_where(_nats(mean, std).sum(dim=2).numpy(), filled.numpy()))


def _nats(mean: Tensor, std: Tensor) -> Tensor:
    mean, std = mean.detach().double(), std.detach().double()
    nats = 0.5 * (mean.square() + std.square() - 1.0 - 2.0 * std.clamp_min(1e-300).log())
    return torch.where(std > 0.0, nats, 0.0)


# -- thresholds and advice -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """What detectors look at: B images and one kind of masks.

    Attributes:
        images: (B, C, H, W) in [0, 1].
        masks: (B, K, H, W).
        true_ids: (B, H, W), or None without truth.
        background_ids: ids that are background.
        posterior: (B, K, D) means and standard deviations, or None.
        before: (K, H, W) masks of the image before the first one, or None.
    """

    images: Tensor
    masks: Tensor
    true_ids: Tensor | None = None
    background_ids: tuple[int, ...] = (0,)
    posterior: tuple[Tensor, Tensor] | None = None
    before: Tensor | None = None

    @cached_property
    def aligned(self) -> tuple[Tensor, Tensor]:
        """True ids, and the slot that holds each of their pixels; (B, H, W) each."""
        assert self.true_ids is not None
        return self.true_ids, segment_labels(self.true_ids, self.masks)[0]

    @cached_property
    def merges(self) -> ColourMerge:
        """Pairs of objects in one slot, by colour."""
        return colour_merge(self.images, *self.aligned, background_ids=self.background_ids)


def _mean(rows: np.ndarray, generator: torch.Generator) -> float:
    return float(np.nanmean(rows)) if not np.isnan(rows).all() else float("nan")


@dataclass(frozen=True)
class Detector:
    """One failure, how it shows, and what to do about it.

    Attributes:
        collect: (scene) -> one row per image, NaN where it says nothing.
        advice: one sentence for when it fires.
        threshold: fires beyond this; None: never, the number only informs.
        above: beyond means above, else below.
        needs: what the scene must have: ``"truth"``, ``"colour"`` or ``"posterior"``.
        reduce: (all rows, generator) -> the number; by default the mean of what is not NaN.
    """

    collect: Callable[[Scene], np.ndarray]
    advice: str = ""
    threshold: float | None = None
    above: bool = True
    needs: tuple[str, ...] = ()
    reduce: Callable[[np.ndarray, torch.Generator], float] = _mean

    def fits(self, scene: Scene) -> bool:
        """Whether the scene has what is needed."""
        have = {
            "truth": scene.true_ids is not None,
            "colour": scene.images.shape[1] == 3 and scene.images.shape[2:] == scene.masks.shape[2:],
            "posterior": scene.posterior is not None,
        }
        return all(have[need] for need in self.needs)

    def fires(self, value: float, threshold: float | None) -> bool:
        """Whether the number is beyond the threshold; NaN never is."""
        if threshold is None or np.isnan(value):
            return False
        return value > threshold if self.above else value < threshold


def _with_truth(measure: Callable[..., MetricResult]) -> Callable[[Scene], np.ndarray]:
    return lambda scene: measure(*scene.aligned, background_ids=scene.background_ids).per_image


def _of_masks(measure: Callable[[Tensor], MetricResult]) -> Callable[[Scene], np.ndarray]:
    return lambda scene: measure(scene.masks).per_image


def _first_step_on_objects(scene: Scene) -> np.ndarray:
    """Share of the objects' pixels that the first slot holds."""
    found = overlaps(*scene.aligned, scene.background_ids)
    pixels = (found.objects * found.true_sizes).sum(axis=1)
    first = found.names == 0
    held = (found.objects[:, :, None] * found.shared[:, :, first]).sum(axis=(1, 2))
    return np.where(pixels > 0, held / np.maximum(pixels, 1), np.nan)


def _slot_kl(scene: Scene) -> np.ndarray:
    assert scene.posterior is not None
    return slot_kl(*scene.posterior, filled_slots(scene.masks)).per_image


def _dimension_nats(scene: Scene) -> np.ndarray:
    """(B, D) nats of each latent dimension, averaged over an image's filled slots."""
    assert scene.posterior is not None
    nats, filled = _nats(*scene.posterior), filled_slots(scene.masks).unsqueeze(2)
    number = filled.sum(dim=1)
    mean = (nats * filled).sum(dim=1) / number.clamp_min(1)
    return torch.where(number > 0, mean, torch.nan).numpy()


def _dead_dimensions(rows: np.ndarray, generator: torch.Generator) -> float:
    if np.isnan(rows).all():
        return float("nan")
    return float((np.nanmean(rows, axis=0) < 0.01).mean())


DETECTORS: dict[str, Detector] = {
    "background_split": Detector(
        _with_truth(background_split),
        "several slots share the background: give one slot a likelihood that prefers it (a smaller sigma), or use fewer slots",
        1.5,
        needs=("truth",),
    ),
    "background_perplexity": Detector(_with_truth(background_perplexity), needs=("truth",)),
    "object_split": Detector(
        _with_truth(object_split),
        "objects are cut into several slots: use fewer slots, or make each slot dearer (a larger weight of the KL)",
        1.2,
        needs=("truth",),
    ),
    "object_merge": Detector(
        _with_truth(object_merge),
        "one slot holds several objects: use more slots, a smaller latent, or train longer",
        1.2,
        needs=("truth",),
    ),
    "same_colour_merge": Detector(
        lambda scene: scene.merges.same.per_image,
        "objects of one colour share a slot: the model clusters colours, not objects; compare with other_colour_merge",
        0.5,
        needs=("truth", "colour"),
    ),
    "other_colour_merge": Detector(lambda scene: scene.merges.other.per_image, needs=("truth", "colour")),
    "colour_clusters": Detector(
        lambda scene: slot_hues(scene.images, scene.masks),
        "slots are tied to colours from image to image: the model may cluster colours instead of finding objects",
        0.5,
        needs=("colour",),
        reduce=lambda rows, generator: colour_clusters(rows, generator=generator).lift,
    ),
    "empty_slots": Detector(
        _of_masks(empty_slots),
        "most slots hold nothing: training collapsed into few of them, or there are far more slots than objects",
        0.6,
    ),
    "dead_slots": Detector(
        lambda scene: filled_slots(scene.masks).double().numpy(),
        "more than half of the slots hold nothing in any image: use fewer, or train again with another seed",
        0.5,
        reduce=lambda rows, generator: float((rows.max(axis=0) == 0).mean()),
    ),
    "mask_entropy": Detector(
        _of_masks(mask_entropy),
        "masks are undecided between slots: train longer, or use a smaller sigma",
        0.5,
    ),
    "slot_overlap": Detector(
        _of_masks(slot_overlap),
        "slots share pixels softly: the argmax that metrics score hides it; train longer, or use a smaller sigma",
        0.25,
    ),
    "spread": Detector(
        _of_masks(spread),
        "slots reach all over the image instead of covering one place: train longer, lower the learning rate, or try "
        "another seed",
        0.5,
    ),
    "stripes": Detector(
        _of_masks(stripes),
        "masks are slabs from edge to edge that ignore the image: try another seed, a lower learning rate or a longer warm-up",
        0.6,
    ),
    "position_only": Detector(
        lambda scene: position_only(scene.masks, before=scene.before).per_image,
        "slots hold the same place in every image: the attention is a fixed grid; weaken the position encoding or train longer",
        0.5,
    ),
    "first_step_attention": Detector(
        _of_masks(first_step_attention),
        "the first mask takes the whole image: attention collapsed in step 1; lower the learning rate or try another seed",
        0.99,
    ),
    "first_step_objects": Detector(
        _first_step_on_objects,
        "the first slot holds the objects too: attention collapsed in step 1; lower the learning rate or try another seed",
        0.9,
        needs=("truth",),
    ),
    "slot_kl": Detector(
        _slot_kl,
        "slots with pixels say nothing beyond the prior (posterior collapse): lower the weight of the KL, or warm it up",
        0.1,
        above=False,
        needs=("posterior",),
    ),
    "dead_dims": Detector(
        _dimension_nats,
        "nearly all latent dimensions carry less than 0.01 nats: use a smaller latent or a lower weight of the KL",
        0.9,
        needs=("posterior",),
        reduce=_dead_dimensions,
    ),
}
"""Failure -> how it is measured, its threshold and advice."""


# -- parts -----------------------------------------------------------------------------------------------------------


def _background_shares(found: Overlaps) -> np.ndarray:
    """(B, K) share of the true background that each slot holds; NaN without background."""
    held = found.shared[:, found.background].sum(axis=1)
    total = held.sum(axis=1, keepdims=True)
    return np.where(total > 0, held / np.maximum(total, 1), np.nan)


def _object_shares(found: Overlaps) -> np.ndarray:
    """(B, E, K) share of each object that each slot holds; 0 for what is no object."""
    shares = found.shared / np.maximum(found.true_sizes, 1)[:, :, None]
    return np.asarray(shares * found.objects[:, :, None])


def _mean_where(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(B, n) values -> (B,) mean over the kept ones, NaN without any."""
    number = kept.sum(axis=1)
    return np.where(number > 0, np.where(kept, values, 0).sum(axis=1) / np.maximum(number, 1), np.nan)


def _soft(masks: Tensor | np.ndarray) -> Tensor:
    tensor = torch.as_tensor(masks).detach().cpu().double()
    if tensor.ndim != 4 or tensor.shape[1] == 0:
        raise UserError(
            f"masks must be (images, slots, height, width) with at least one slot, not {tuple(tensor.shape)}"
        )
    return tensor


def _held(labels: Tensor, slots: int) -> Tensor:
    """(B, K) share of the pixels that each slot holds."""
    batch, flat = len(labels), labels.flatten(1)
    keys = flat + slots * torch.arange(batch, device=labels.device).unsqueeze(1)
    return torch.bincount(keys.flatten(), minlength=batch * slots).view(batch, slots).double() / max(flat.shape[1], 1)


def _largest(masks: Tensor | np.ndarray) -> Tensor:
    """(B, K) bool, the slot that holds most pixels of each image."""
    masks = torch.as_tensor(masks)
    held = _held(labels_from_masks(masks), masks.shape[1])
    return torch.nn.functional.one_hot(held.argmax(dim=1), masks.shape[1]).bool()


def _explained(vectors: np.ndarray, group: np.ndarray) -> float:
    """Share of the variance of vectors (n, d) that their group (n,) explains; NaN if there is none."""
    total = np.square(vectors - vectors.mean(axis=0)).sum() if len(vectors) else 0.0
    if total < 1e-9:
        return float("nan")
    within = sum(np.square(vectors[group == g] - vectors[group == g].mean(axis=0)).sum() for g in np.unique(group))
    return float(1.0 - within / total)


def _result(name: str, per_image: np.ndarray, **policy: object) -> MetricResult:
    return MetricResult.over_images(per_image, metric=name, **policy)
