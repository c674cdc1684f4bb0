"""Public checks of the contract: run them on your own classes; our tests run them on every member of the tables.

Each check raises :class:`ContractError`, an ``AssertionError`` whose message names the broken promise and what was found.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from objectwise.core.batch import Batch
from objectwise.core.dataset import Dataset
from objectwise.core.decomposition import Decomposition
from objectwise.core.model import DEFAULT_GROUP, is_batchwise, parameter_groups


class ContractError(AssertionError):
    """A promise of the contract is broken."""


def _promise(holds: Any, message: str) -> None:
    if not bool(holds):
        raise ContractError(message)


def check_model(model: nn.Module, images: Tensor | None = None, *, seed: int = 0) -> None:
    """Check every promise a model makes, whatever its paper.

    In training and in evaluation mode: forward leaves no trace; it runs under ``no_grad`` with the same loss; masks are
    non-negative and sum to one; the loss is one finite number per image; equal seeds give equal outputs; without a
    generator nothing is random; global random states stay as they were; a gradient reaches every trainable parameter;
    images do not see each other (unless ``batchwise``); shapes are those of the contract; ``decode`` gives the same shapes
    from slots alone.

    Args:
        model: built, with or without training.
        images: (B, C, H, W) in [0, 1], B ≥ 2; None: noise of the shape ``model.config.image_shape``.
        seed: for the noise.

    Raises:
        ContractError: naming the first broken promise.
    """
    if images is None:
        shape = getattr(getattr(model, "config", None), "image_shape", None)
        if shape is None:
            raise ContractError("model.config.image_shape is missing; pass images to check_model")
        images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed))
    _promise(len(images) >= 2, "check_model needs at least two images")
    for name in ("config", "decode"):
        _promise(hasattr(model, name), f"the model has no '{name}'")
    _check_signature(model)
    was_training = model.training
    try:
        for training in (True, False):
            model.train(training)
            _check_mode(model, images, seed)
    finally:
        model.train(was_training)


def _check_mode(model: nn.Module, images: Tensor, seed: int) -> None:
    """Every promise, in the mode (training or evaluation) that the model is in."""
    before = _snapshot(model)
    globals_before = _global_random_state()
    sampled = _forward(model, images, seed)
    _check_no_trace(model, before)
    _promise(_global_random_state() == globals_before, "forward draws from a global random generator")
    _check_shapes(sampled, images)
    _check_repeatable(model, images, sampled, seed)
    _check_no_grad(model, images, sampled, seed)
    _check_trajectory(model, images, sampled, seed)
    _check_decode(model, sampled)
    _check_gradients(model, sampled)
    if not is_batchwise(model):
        _check_independence(model, images, seed)
    # Once more: a trace may be left by decode, by a trajectory, or only under no_grad.
    _check_no_trace(model, before)
    _promise(_global_random_state() == globals_before, "decode or forward draws from a global random generator")


def _forward(model: nn.Module, images: Tensor, seed: int | None) -> Decomposition:
    generator = None if seed is None else torch.Generator(images.device).manual_seed(seed)
    out = model(images, generator=generator, step=0)
    _promise(isinstance(out, Decomposition), f"forward returned {type(out).__name__}, not a Decomposition")
    return out


def _check_signature(model: nn.Module) -> None:
    names = inspect.signature(model.forward).parameters
    for name in ("generator", "step", "trajectory"):
        _promise(name in names, f"forward has no keyword '{name}'")


def _snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything a forward pass could leave something on; the values themselves are kept, so that no id is reused."""
    return {
        "tensors": {
            name: value.detach().clone() for name, value in [*model.named_parameters(), *model.named_buffers()]
        },
        "gradients": {
            name: None if parameter.grad is None else parameter.grad.clone()
            for name, parameter in model.named_parameters()
        },
        "attributes": {
            ".".join(filter(None, (name, key))): (value, _content(value))
            for name, module in model.named_modules()
            for key, value in vars(module).items()
        },
        "training": [module.training for module in model.modules()],
    }


def _content(value: Any) -> Any:
    """What an in-place change of an attribute would change."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return list(value.items())
    return list(value) if isinstance(value, list | set) else None


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(a is b or _same(a, b) for a, b in zip(first, second, strict=True))
    return first is second


def _check_no_trace(model: nn.Module, before: dict[str, Any]) -> None:
    after = _snapshot(model)
    for name, gradient in after["gradients"].items():
        _promise(_same(gradient, before["gradients"].get(name)), f"forward leaves a gradient on {name}")
    for name, value in before["tensors"].items():
        _promise(_same(after["tensors"].get(name), value), f"forward changes '{name}'")
    _promise(after["training"] == before["training"], "forward switches between training and evaluation mode")
    for key in after["attributes"].keys() - before["attributes"].keys():
        raise ContractError(f"forward leaves an attribute '{key}' on the model")
    for key, (value, content) in before["attributes"].items():
        found, found_content = after["attributes"].get(key, (None, None))
        _promise(found is value and _same(found_content, content), f"forward changes the attribute '{key}'")


def _global_random_state() -> tuple[Any, ...]:
    numpy_state = np.random.get_state(legacy=False)
    return random.getstate(), str(numpy_state), bytes(torch.get_rng_state().tolist())


def _check_shapes(out: Decomposition, images: Tensor) -> None:
    batch, channels, height, width = images.shape
    slots = out.slots.shape[1] if out.slots.ndim == 3 else -1
    expected: dict[str, tuple[int, ...]] = {
        "loss": (batch,),
        "reconstruction": (batch, channels, height, width),
        "components": (batch, slots, channels, height, width),
        "masks": (batch, slots, height, width),
        "slots": (batch, slots, out.slots.shape[-1]),
        "presence": (batch, slots),
        "attention_masks": (batch, slots, height, width),
        "decoded_masks": (batch, slots, height, width),
        "boxes": (batch, slots, 4),
    }
    for name, shape in expected.items():
        value = getattr(out, name)
        if value is None and name in ("attention_masks", "decoded_masks", "boxes"):
            continue
        _promise(isinstance(value, Tensor), f"{name} is a {type(value).__name__}, not a tensor")
        _promise(tuple(value.shape) == shape, f"{name} has shape {tuple(value.shape)}, the contract says {shape}")
        _promise(torch.isfinite(value).all(), f"{name} is not finite")
    for name, value in {**out.terms, **out.auxiliary_losses}.items():
        _promise(tuple(value.shape) == (batch,), f"{name} has shape {tuple(value.shape)}, not one number per image")
        _promise(torch.isfinite(value).all(), f"{name} is not finite")
    for name, value in out.factors.items():
        _promise(
            tuple(value.shape[:2]) == (batch, slots),
            f"factor {name} has shape {tuple(value.shape)}, not one row per slot",
        )
        _promise(torch.isfinite(value).all(), f"factor {name} is not finite")
    for name in ("masks", "attention_masks", "decoded_masks"):
        masks = getattr(out, name)
        if masks is not None:
            _promise((masks >= 0).all(), f"{name} has negative values")
            off = (masks.float().sum(dim=1) - 1).abs().max().item()
            _promise(off < 1e-3, f"{name} do not sum to one over slots (off by up to {off:.2g})")
    _promise(((out.presence >= 0) & (out.presence <= 1 + 1e-5)).all(), "presence leaves [0, 1]")
    _promise(all(0 <= k < slots for k in out.background), f"background {out.background} names slots beyond {slots}")
    if out.count_probs is not None:
        _promise(out.count_probs.ndim == 2 and len(out.count_probs) == batch, "count_probs is not (B, N+1)")
        _promise((out.count_probs >= 0).all(), "count_probs has negative values")
        _promise((out.count_probs.sum(dim=1) - 1).abs().max() < 1e-3, "count_probs do not sum to one")
    if out.posterior is not None:
        _promise(out.posterior.mean.shape == out.slots.shape, "the posterior's mean does not have the slots' shape")
        _promise((out.posterior.std >= 0).all(), "the posterior has a negative standard deviation")


def _check_repeatable(model: nn.Module, images: Tensor, sampled: Decomposition, seed: int) -> None:
    again = _forward(model, images, seed)
    _promise(torch.equal(again.loss, sampled.loss), "equal seeds give different losses")
    _promise(torch.equal(again.slots, sampled.slots), "equal seeds give different slots")
    with torch.no_grad():
        first, second = _forward(model, images, None), _forward(model, images, None)
    _promise(torch.equal(first.slots, second.slots), "without a generator two runs give different slots")


def _check_no_grad(model: nn.Module, images: Tensor, sampled: Decomposition, seed: int) -> None:
    with torch.no_grad():
        silent = _forward(model, images, seed)
    _promise(torch.allclose(silent.loss, sampled.loss, rtol=1e-4, atol=1e-4), "the loss differs under no_grad")


def _check_trajectory(model: nn.Module, images: Tensor, sampled: Decomposition, seed: int) -> None:
    _promise(sampled.trajectory is None, "forward gives a trajectory without being asked for one")
    asked = model(images, generator=torch.Generator(images.device).manual_seed(seed), step=0, trajectory=True)
    _promise(torch.allclose(asked.loss, sampled.loss, rtol=1e-4, atol=1e-4), "asking for a trajectory changes the loss")
    attached: list[bool] = []

    def look(tensor: Tensor) -> Tensor:
        attached.append(tensor.requires_grad)
        return tensor

    for step in asked.trajectory or ():
        step.map(look)
    _promise(not any(attached), "the trajectory is not detached")


def _check_decode(model: nn.Module, sampled: Decomposition) -> None:
    slots, presence = sampled.slots.detach(), sampled.presence.detach()
    decode: Any = model.decode
    with torch.no_grad():
        for decoded in (decode(slots, presence), decode(slots)):
            for name in ("components", "masks", "reconstruction"):
                found, expected = getattr(decoded, name).shape, getattr(sampled, name).shape
                _promise(found == expected, f"decode gives {name} of shape {tuple(found)}, forward {tuple(expected)}")
            _promise((decoded.masks >= 0).all(), "decode's masks have negative values")
            off = (decoded.masks.float().sum(dim=1) - 1).abs().max()
            _promise(off < 1e-3, "decode's masks do not sum to one over slots")


def _check_gradients(model: nn.Module, sampled: Decomposition) -> None:
    groups = parameter_groups(model)
    names = {id(p): name for name, p in model.named_parameters()}
    members = [id(p) for parameters in groups.values() for p in parameters]
    _promise(len(members) == len(set(members)), "a parameter is in two parameter groups")
    for group in sampled.auxiliary_losses:
        _promise(group in groups and group != DEFAULT_GROUP, f"auxiliary loss '{group}' has no parameter group")
    for group, parameters in groups.items():
        # As in training: a group with an auxiliary loss learns from that alone.
        name = group if group in sampled.auxiliary_losses else "loss"
        loss = sampled.auxiliary_losses.get(group, sampled.loss)
        _promise(loss.requires_grad, f"'{name}' depends on no parameter")
        trained = [p for p in parameters if p.requires_grad]
        gradients = torch.autograd.grad(loss.mean(), trained, allow_unused=True, retain_graph=True) if trained else ()
        for parameter, gradient in zip(trained, gradients, strict=True):
            reached = gradient is not None and bool((gradient != 0).any())
            _promise(reached, f"no gradient reaches {names[id(parameter)]}")
            assert gradient is not None
            _promise(torch.isfinite(gradient).all(), f"the gradient of {names[id(parameter)]} is not finite")


def _check_independence(model: nn.Module, images: Tensor, seed: int) -> None:
    """Changing one image must not change another image's loss."""
    changed = images.clone()
    changed[1:] = 1.0 - changed[1:]
    with torch.no_grad():
        first, second = _forward(model, images, seed), _forward(model, changed, seed)
    _promise(
        torch.allclose(first.loss[0], second.loss[0], rtol=1e-5, atol=1e-5),
        "the loss of image 0 depends on the other images of its batch",
    )


def check_dataset(dataset: Dataset, *, samples: int = 12) -> None:
    """Check every promise a dataset makes.

    The same bytes for any batch size and order of access; images float32 in [0, 1] of the declared shape; labels consistent with
    each other; splits that differ; global random states untouched.

    Args:
        dataset: built.
        samples: how many samples of each split to look at.

    Raises:
        ContractError: naming the first broken promise.
    """
    states = _global_random_state()
    firsts = {}
    for split, size in dataset.splits.items():
        count = min(samples, size)
        whole = dataset.batch(split, list(range(count)))
        _check_batch(dataset, whole, list(range(count)))
        _check_same_bytes(dataset, split, whole, count)
        firsts[split] = whole
    _check_splits_differ(firsts)
    _promise(_global_random_state() == states, "the dataset draws from a global random generator")


def _check_batch(dataset: Dataset, batch: Batch, indices: Sequence[int]) -> None:
    images = batch.images
    _promise(images.dtype == torch.float32, f"images are {images.dtype}, not float32")
    _promise(
        tuple(images.shape[1:]) == tuple(dataset.image_shape),
        f"images have shape {tuple(images.shape[1:])}, image_shape says {tuple(dataset.image_shape)}",
    )
    _promise(((images >= 0) & (images <= 1)).all(), "images leave [0, 1]")
    _promise(batch.index.tolist() == list(indices), "index is not what was asked for")
    entities = None if batch.present is None else batch.present.shape[1]
    if batch.instances is not None:
        _promise(batch.instances.shape == (len(batch), *images.shape[2:]), "instances are not (B, H, W)")
        _promise((batch.instances >= 0).all(), "instances has negative ids")
        if entities is not None:
            _promise(batch.instances.max() < entities, "instances has ids without a row in present")
    if batch.present is not None:
        _promise(batch.present[:, list(batch.background_ids)].all(), "a background row is not present")
        counts = batch.counts
        if dataset.max_objects is not None and counts is not None:
            _promise(counts.max() <= dataset.max_objects, "more objects than max_objects")
    if batch.visible_pixels is not None and batch.instances is not None:
        ids = torch.arange(batch.visible_pixels.shape[1]).view(1, -1, 1, 1)
        counted = (batch.instances.unsqueeze(1) == ids).sum(dim=(2, 3))
        _promise(torch.equal(counted, batch.visible_pixels), "visible_pixels disagrees with instances")
        if batch.present is not None:
            _promise((batch.present | (counted == 0)).all(), "an absent entity has pixels")
    _check_factors(batch)


def _check_factors(batch: Batch) -> None:
    for name, values in batch.factors.items():
        _promise(name in batch.factor_specs, f"factor '{name}' has no unit (factor_specs)")
        spec = batch.factor_specs[name]
        rows = values if batch.object_present is None else values[batch.object_present]
        _promise(torch.isfinite(rows.float()).all(), f"factor '{name}' is not finite")
        if rows.numel() and spec.low is not None:
            _promise(rows.min() >= spec.low - 1e-5, f"factor '{name}' falls below its range")
        if rows.numel() and spec.high is not None:
            _promise(rows.max() <= spec.high + 1e-5, f"factor '{name}' exceeds its range")
        if rows.numel() and spec.categories:
            inside = ((rows >= 0) & (rows < len(spec.categories))).all()
            _promise(inside, f"factor '{name}' has a class without a name")


def _check_same_bytes(dataset: Dataset, split: str, whole: Batch, count: int) -> None:
    one_by_one = [dataset.batch(split, [index]) for index in reversed(range(count))][::-1]
    names = ("images", "instances", "present", "visible_pixels", "boxes")
    for name in names:
        expected = getattr(whole, name)
        if expected is not None:
            found = torch.cat([getattr(batch, name) for batch in one_by_one])
            _promise(torch.equal(found, expected), f"{name} of split '{split}' depends on the batch it is asked in")
    for name, expected in whole.factors.items():
        found = torch.cat([batch.factors[name] for batch in one_by_one])
        _promise(torch.equal(found, expected), f"factor '{name}' depends on the batch it is asked in")


def _check_splits_differ(firsts: dict[str, Batch]) -> None:
    """Images of one colour, and those without an object, may be the same in two splits."""
    names = list(firsts)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            count = min(len(firsts[first]), len(firsts[second]))
            images, others = firsts[first].images[:count], firsts[second].images[:count]
            varied = images.flatten(1).std(dim=1) > 0
            objects = firsts[first].counts
            varied &= torch.ones_like(varied) if objects is None else objects[:count] > 0
            same = (images == others).flatten(1).all(dim=1)
            _promise(not (same & varied).any(), f"splits '{first}' and '{second}' share a sample")


def check_metric(
    metric: Callable[[Tensor, Tensor], Any], *, best: float = 1.0, classes: int = 3, seed: int = 0
) -> None:
    """Check what every segmentation metric promises.

    Perfect is best; blind to the names and the order of the slots, to empty extra slots, to the order of the pixels and to the
    floating type of the masks; no NaN on an image that is all background; a batch gives the mean of its images.

    Args:
        metric: (true ids (B, H, W) int64, masks (B, K, H, W)) -> an object with ``value`` and ``per_image``.
        best: its value for a perfect prediction.
        classes: number of objects in the made-up scenes.
        seed: for the scenes.

    Raises:
        ContractError: naming the first broken promise.
    """
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, classes + 1, (4, 8, 8), generator=generator)
    perfect = nn.functional.one_hot(truth, classes + 1).movedim(-1, 1).float()
    value = metric(truth, perfect).value
    _promise(abs(value - best) < 1e-6, f"a perfect prediction scores {value}, not {best}")
    noisy = torch.rand(4, classes + 2, 8, 8, generator=generator)
    reference = metric(truth, noisy).value
    shuffled = metric(truth, noisy[:, torch.randperm(classes + 2, generator=generator)]).value
    _promise(abs(shuffled - reference) < 1e-6, "the order of the slots changes the score")
    padded = metric(truth, torch.cat([noisy, torch.zeros(4, 2, 8, 8)], dim=1)).value
    _promise(abs(padded - reference) < 1e-6, "empty extra slots change the score")
    order = torch.randperm(64, generator=generator)
    moved = metric(truth.flatten(1)[:, order].view(4, 8, 8), noisy.flatten(2)[:, :, order].view(4, -1, 8, 8)).value
    _promise(abs(moved - reference) < 1e-6, "the order of the pixels changes the score")
    _promise(abs(metric(truth, noisy.double()).value - reference) < 1e-6, "float64 masks score otherwise than float32")
    per_image = [metric(truth[i : i + 1], noisy[i : i + 1]).value for i in range(4)]
    _promise(abs(sum(per_image) / 4 - reference) < 1e-6, "the batch's score is not the mean over its images")
    empty = metric(torch.zeros(1, 8, 8, dtype=torch.int64), noisy[:1])
    scored = torch.as_tensor(empty.per_image).float()
    _promise(not torch.isnan(scored).any() or empty.n_scored == 0, "an image that is all background is scored as NaN")
