"""Label efficiency: what small supervised heads can read from codes, or from pixels, with few labels.

The downstream test of AIR (Eslami et al. 2016, section 3.1): from images with two digits predict a question that needs both.
The paper's heads and label budgets are not published; the heads and budgets here are ours.

Symbols: n labelled codes of width D; L budgets; S seeds; T test codes.

Protocol, the same for every representation. Seed s draws one order of the labelled examples; budget b uses its first b, so that
budgets are nested. A fifth of them is held out: Adam trains on the rest, with a rate that rises and falls once over a
fixed number of looks at the held-out part, and the weights with the best held-out accuracy (smaller loss on ties) are kept.
Inputs are standardised by the mean and spread of the part trained on. Nothing of the test set but its codes reaches a head, and
its labels are first looked at when the answers are scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from objectwise.core import Decomposition, UserError, seed_for

BUDGETS = (100, 300, 1_000, 3_000, 10_000, 30_000)
"""Numbers of labels the project compares representations at."""

_HELD_OUT = 0.2
_CHUNK = 2_048
_STEPS_PER_LOOK = 20
_ORDER, _WEIGHTS, _BATCHES, _DROPOUT = 0, 1, 2, 3


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy of one kind of head at L label budgets with S seeds.

    Attributes:
        budgets: (L,) numbers of labels, ascending; a fifth of them served for early stopping.
        accuracy: (L, S) share of right answers on the test set.
        predictions: (L, S, T) int64 answers on the test set.
        chance: accuracy on the test set of always giving the most frequent training label.
        policy: the settings that produced it, by name.
    """

    budgets: tuple[int, ...]
    accuracy: np.ndarray
    predictions: np.ndarray
    chance: float
    policy: Mapping[str, object] = field(default_factory=dict)

    @property
    def mean(self) -> np.ndarray:
        """(L,) mean accuracy over the seeds."""
        return self.accuracy.mean(axis=1)

    @property
    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """(L,) accuracy of the worst and (L,) of the best seed."""
        return self.accuracy.min(axis=1), self.accuracy.max(axis=1)


def probe(
    train_codes: Tensor | np.ndarray,
    train_labels: Tensor | np.ndarray,
    test_codes: Tensor | np.ndarray,
    test_labels: Tensor | np.ndarray,
    *,
    budgets: Sequence[int] = BUDGETS,
    seeds: int = 5,
    head: Literal["mlp2x256", "shared2x256", "linear"] = "mlp2x256",
    objects: int = 1,
    dropout: float = 0.3,
    learning_rate: float = 3e-3,
    looks: int = 40,
) -> ProbeResult:
    """Train heads on codes with several numbers of labels, and score them on test codes.

    Args:
        train_codes: (n, D) codes that may be used with their labels.
        train_labels: (n,) classes 0, 1, ...
        test_codes: (T, D).
        test_labels: (T,).
        budgets: numbers of labels, each at least 10 and at most n.
        seeds: S, each with its own labelled subset, initial weights and order of the batches.
        head: two hidden layers of 256 units; the same two layers for each object's part of the code, and one hidden layer over
            what they say of all of them, so that a digit is learnt once and not once per place; or logistic regression.
        objects: M, of shared2x256: codes are (slot_1, ..., slot_M, rest) with slots of equal width, as
            :func:`codes_for_probe` makes them.
        dropout: share of the hidden units left out at each training step. Without it the heads learn the training codes by
            heart: the sum of two digits from AIR's codes fell from 50 % to 40 % right (10,000 labels, one seed).
        learning_rate: the largest, of Adam.
        looks: at the held-out part, each after a pass over the labels (or several: at least 20 steps).

    Raises:
        UserError: for shapes that do not fit, labels that are no classes, values that are not finite, or a budget out of range.
    """
    width = int(np.prod(np.shape(train_codes)[1:]))
    hidden = 256

    def build(classes: int) -> nn.Module:
        if head == "linear":
            return nn.Linear(width, classes)
        if head == "shared2x256":
            return _SharedHead(width, objects, classes, hidden, dropout)
        return nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(),
            _Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            _Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    if head not in ("mlp2x256", "shared2x256", "linear"):
        raise UserError(f"there is no head '{head}'; there are mlp2x256, shared2x256, linear")
    if head == "shared2x256" and not 1 <= objects <= width:
        raise UserError(f"codes of {width} numbers cannot hold objects={objects} slots")
    if not 0.0 <= dropout < 1.0:
        raise UserError(f"dropout = {dropout} must be a share in [0, 1)")
    examples = _examples(train_codes, train_labels, test_codes, test_labels, axes=2, what="codes")
    training = _Training(dropout, learning_rate, looks, per_feature=True)
    return _curve(build, examples, budgets, seeds, training, head)


def probe_images(
    train_images: Tensor | np.ndarray,
    train_labels: Tensor | np.ndarray,
    test_images: Tensor | np.ndarray,
    test_labels: Tensor | np.ndarray,
    *,
    budgets: Sequence[int] = BUDGETS,
    seeds: int = 5,
    channels: tuple[int, int, int] = (16, 32, 64),
    dropout: float = 0.3,
    learning_rate: float = 2e-3,
    looks: int = 15,
    bf16: bool = False,
) -> ProbeResult:
    """The same as :func:`probe` for a convolutional network on pixels: what labels alone achieve.

    Three 3×3 convolutions, each followed by 2×2 maximum pooling, and two dense layers.

    Args:
        train_images: (n, C, H, W), at least 8×8 pixels.
        train_labels: (n,) classes 0, 1, ...
        test_images: (T, C, H, W).
        test_labels: (T,).
        budgets: as in :func:`probe`.
        seeds: as in :func:`probe`.
        channels: feature maps of the convolutions.
        dropout: as in :func:`probe`, before the last layer.
        learning_rate: as in :func:`probe`.
        looks: as in :func:`probe`.
        bf16: convolutions in bfloat16 and channels last: about three times as fast on CPUs that have it.

    Raises:
        UserError: as :func:`probe`.
    """
    if not 0.0 <= dropout < 1.0:
        raise UserError(f"dropout = {dropout} must be a share in [0, 1)")
    examples = _examples(train_images, train_labels, test_images, test_labels, axes=4, what="images")
    colours, height, width = examples.inputs.shape[1:]
    if min(height, width) < 8:
        raise UserError(f"images of {height}x{width} pixels are too small to be halved three times")
    first, second, third = channels
    flat = third * (height // 8) * (width // 8)

    def build(classes: int) -> nn.Module:
        stages = [(colours, first), (first, second), (second, third)]
        layers = [layer for a, b in stages for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))]
        return nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(flat, 256), nn.ReLU(), _Dropout(dropout), nn.Linear(256, classes)
        )

    training = _Training(dropout, learning_rate, looks, per_feature=False, bf16=bf16)
    return _curve(build, examples, budgets, seeds, training, "conv3+dense2")


def catches_up_at(late: ProbeResult, early: ProbeResult) -> int | None:
    """The smallest budget from which on ``late`` is at least as good as ``early`` on average; None if it never is.

    Only budgets that both have count, and it must stay as good at all the larger ones.

    Raises:
        UserError: if they share no budget.
    """
    shared = [budget for budget in late.budgets if budget in early.budgets]
    if not shared:
        raise UserError(f"results at budgets {late.budgets} and {early.budgets} share none to compare at")
    reached = None
    for budget in reversed(shared):
        if late.mean[late.budgets.index(budget)] < early.mean[early.budgets.index(budget)]:
            break
        reached = budget
    return reached


def codes_for_probe(
    decomposition: Decomposition, objects: int = 2, *, order: Literal["model", "left-to-right"] = "model"
) -> Tensor:
    """One vector per image from whatever a model found: concat(slot_1, ..., slot_M, n).

    The slots are the M = ``objects`` most present ones that are not background (the first ones on ties: for AIR simply the first
    M steps), without regard to whether they are present: n, the number of objects found, tells. A model with fewer slots, such
    as a VAE with its one code, gives all it has.

    Args:
        decomposition: of B images, with posterior means.
        objects: M.
        order: of the slots in the vector: the model's own, or by the x of their box's centre (of their mask's centre of mass
            where there are no boxes).

    Returns:
        (B, M·D + 1) float32, without gradients.

    Raises:
        UserError: if every slot is background.
    """
    slots = torch.tensor(decomposition.object_slots, dtype=torch.int64, device=decomposition.slots.device)
    if len(slots) == 0 or objects < 1:
        raise UserError(f"there is no code to take from {len(slots)} object slots and objects={objects}")
    ranked = decomposition.presence[:, slots].argsort(dim=1, descending=True, stable=True)[:, :objects]
    chosen = slots[ranked.sort(dim=1).values]
    if order == "left-to-right":
        chosen = chosen.gather(1, _centres_x(decomposition).gather(1, chosen).argsort(dim=1, stable=True))
    rows = torch.arange(len(chosen), device=chosen.device).unsqueeze(1)
    vectors = decomposition.slots.detach().float()[rows, chosen]
    counts = decomposition.counts().to(vectors).unsqueeze(1)
    return torch.cat([vectors.flatten(1), counts], dim=1)


def _centres_x(decomposition: Decomposition) -> Tensor:
    """(B, K) where each slot is, left to right."""
    if decomposition.boxes is not None:
        return decomposition.boxes[..., [0, 2]].detach().float().mean(dim=-1)
    columns = decomposition.masks.detach().float().sum(dim=2)
    positions = torch.arange(columns.shape[2], device=columns.device, dtype=columns.dtype)
    return (columns * positions).sum(dim=2) / columns.sum(dim=2).clamp_min(1e-12)


# -- training a head --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Examples:
    """Labelled inputs and the test set, checked."""

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class _Training:
    """How heads are trained; ``per_feature`` standardises each feature by itself, else all by one mean and spread."""

    dropout: float
    learning_rate: float
    looks: int
    per_feature: bool
    bf16: bool = False


class _Dropout(nn.Module):
    """Dropout that draws from its own generator, and only while training."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.generator = torch.Generator()

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, ...) -> the same shape."""
        if not self.training or self.share == 0.0:
            return hidden
        kept = torch.rand(hidden.shape, generator=self.generator) >= self.share
        return hidden * kept / (1.0 - self.share)


class _SharedHead(nn.Module):
    """The same small network reads every object's slot; another one draws the conclusion."""

    SUMMARY = 64

    def __init__(self, width: int, objects: int, classes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.objects, self.slot = objects, width // objects
        rest = width - self.objects * self.slot
        self.read = nn.Sequential(
            nn.Linear(self.slot, hidden),
            nn.ReLU(),
            _Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            _Dropout(dropout),
            nn.Linear(hidden, self.SUMMARY),
            nn.ReLU(),
        )
        self.conclude = nn.Sequential(
            nn.Linear(objects * self.SUMMARY + rest, hidden), nn.ReLU(), _Dropout(dropout), nn.Linear(hidden, classes)
        )

    def forward(self, codes: Tensor) -> Tensor:
        """(B, M·D + rest) -> (B, classes)."""
        slots, rest = codes.split([self.objects * self.slot, codes.shape[1] - self.objects * self.slot], dim=1)
        read = self.read(slots.unflatten(1, (self.objects, self.slot)))
        return self.conclude(torch.cat([read.flatten(1), rest], dim=1))


def _curve(
    build: Callable[[int], nn.Module],
    examples: _Examples,
    budgets: Sequence[int],
    seeds: int,
    training: _Training,
    head: str,
) -> ProbeResult:
    budgets = tuple(sorted(set(budgets)))
    total = len(examples.labels)
    if not budgets or seeds < 1:
        raise UserError(f"a probe needs at least one budget and one seed, not budgets={budgets} and seeds={seeds}")
    if budgets[0] < 10 or budgets[-1] > total:
        raise UserError(f"budgets {budgets} must lie between 10 and the number of labelled examples, {total}")
    classes = int(examples.labels.max()) + 1
    predictions = np.empty((len(budgets), seeds, len(examples.test_labels)), dtype=np.int64)
    for column in range(seeds):
        drawn = torch.randperm(total, generator=_generator(column, _ORDER))
        for row, budget in enumerate(budgets):
            chosen = drawn[:budget]
            answer = _fit(build, examples.inputs[chosen], examples.labels[chosen], classes, training, column)
            predictions[row, column] = answer(examples.test_inputs).numpy()
    right = predictions == examples.test_labels.numpy()
    most_frequent = torch.bincount(examples.labels).argmax()
    return ProbeResult(
        budgets,
        right.mean(axis=2),
        predictions,
        float((examples.test_labels == most_frequent).double().mean()),
        {
            "head": head,
            "held_out": _HELD_OUT,
            "dropout": training.dropout,
            "learning_rate": training.learning_rate,
            "looks": training.looks,
            "bf16": training.bf16,
        },
    )


def _fit(
    build: Callable[[int], nn.Module], inputs: Tensor, labels: Tensor, classes: int, training: _Training, seed: int
) -> Callable[[Tensor], Tensor]:
    """Train one head on labelled inputs (n, ...) and (n,); returns what maps inputs to classes."""
    held = max(1, round(_HELD_OUT * len(labels)))
    mean, spread = _statistics(inputs[held:], per_feature=training.per_feature)
    inputs = (inputs - mean) / spread
    if training.bf16:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    seen, seen_labels = inputs[held:], labels[held:]
    unseen, unseen_labels = inputs[:held], labels[:held]
    network = _initialised(build, classes, seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=training.learning_rate, fused=True)
    batches = _generator(seed, _BATCHES)
    size = min(256, max(16, len(seen) // 8))
    batches_per_epoch = math.ceil(len(seen) / size)
    epochs_per_look = max(1, math.ceil(_STEPS_PER_LOOK / batches_per_epoch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, training.learning_rate, total_steps=training.looks * epochs_per_look * batches_per_epoch
    )
    best_accuracy, best_loss, best_weights = -1.0, math.inf, _copy(network)
    for _ in range(training.looks):
        network.train()
        for _ in range(epochs_per_look):
            for rows in torch.randperm(len(seen), generator=batches).split(size):
                with torch.autocast("cpu", torch.bfloat16, enabled=training.bf16):
                    logits = network(seen[rows])
                loss = nn.functional.cross_entropy(logits.float(), seen_labels[rows])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
        logits = _logits(network, unseen)
        accuracy = (logits.argmax(dim=1) == unseen_labels).double().mean().item()
        held_loss = nn.functional.cross_entropy(logits, unseen_labels).item()
        if (accuracy, -held_loss) > (best_accuracy, -best_loss):
            best_accuracy, best_loss, best_weights = accuracy, held_loss, _copy(network)
    network.load_state_dict(best_weights)
    return lambda new: _logits(network, new, mean, spread).argmax(dim=1)


def _logits(network: nn.Module, inputs: Tensor, mean: Tensor | float = 0.0, spread: Tensor | float = 1.0) -> Tensor:
    network.eval()
    with torch.no_grad():
        return torch.cat([network((part - mean) / spread) for part in inputs.split(_CHUNK)])


def _statistics(inputs: Tensor, *, per_feature: bool) -> tuple[Tensor, Tensor]:
    """Mean and spread to standardise with; a feature that never changes is only centred."""
    axes = (0,) if per_feature else tuple(range(inputs.ndim))
    spread, mean = torch.std_mean(inputs.double(), dim=axes, keepdim=True, correction=0)
    spread = torch.where(spread > 1e-6 * (1.0 + mean.abs()), spread, 1.0)
    return mean.float(), spread.float()


def _initialised(build: Callable[[int], nn.Module], classes: int, seed: int) -> nn.Module:
    """A network with PyTorch's usual initial weights, drawn from the seed and not from the global generator."""
    with torch.device("meta"):
        network = build(classes)
    network = network.to_empty(device="cpu")
    generator = _generator(seed, _WEIGHTS)
    for position, module in enumerate(network.modules()):
        if isinstance(module, _Dropout):
            module.generator = _generator(seed, _DROPOUT + position)
        if isinstance(module, nn.Linear | nn.Conv2d):
            bound = 1.0 / math.sqrt(module.weight[0].numel())
            assert module.bias is not None
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    return network


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _generator(seed: int, purpose: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_for(seed, purpose))


def _examples(
    train: Tensor | np.ndarray,
    train_labels: Tensor | np.ndarray,
    test: Tensor | np.ndarray,
    test_labels: Tensor | np.ndarray,
    *,
    axes: int,
    what: str,
) -> _Examples:
    inputs, test_inputs = _inputs(train, axes, f"training {what}"), _inputs(test, axes, f"test {what}")
    labels, truth = _labels(train_labels, len(inputs), "training"), _labels(test_labels, len(test_inputs), "test")
    if inputs.shape[1:] != test_inputs.shape[1:]:
        raise UserError(
            f"training {what} have shape {tuple(inputs.shape[1:])} but test {what} {tuple(test_inputs.shape[1:])}"
        )
    return _Examples(inputs, labels, test_inputs, truth)


def _inputs(values: Tensor | np.ndarray, axes: int, name: str) -> Tensor:
    tensor = torch.as_tensor(values).detach().cpu().float()
    if tensor.ndim != axes or len(tensor) == 0:
        raise UserError(f"{name} must have {axes} axes and at least one row, not shape {tuple(tensor.shape)}")
    if not torch.isfinite(tensor).all():
        raise UserError(f"{name} hold values that are not finite")
    return tensor


def _labels(values: Tensor | np.ndarray, count: int, name: str) -> Tensor:
    tensor = torch.as_tensor(values).detach().cpu()
    if tuple(tensor.shape) != (count,):
        raise UserError(f"{count} {name} examples need as many labels, not shape {tuple(tensor.shape)}")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.min() < 0:
        raise UserError(f"{name} labels must be classes 0, 1, 2, ... (integers)")
    return tensor.to(torch.int64)
