"""The model's side of the contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from objectwise.core.config import Config
from objectwise.core.decomposition import Decoded, Decomposition

DEFAULT_GROUP = "default"
"""Parameter group of everything a model does not put elsewhere."""


@runtime_checkable
class Model(Protocol):
    """What training, evaluation, figures and the command line ask of a model; a ``torch.nn.Module`` that also has these.

    ``forward`` writes nothing to ``self``, logs nothing, prints nothing, and works under ``torch.no_grad()``. With a
    ``generator`` it samples its posterior; without one it uses posterior means, as evaluation always does.

    Three things have defaults and may be left out: ``parameter_groups()`` -> {name: parameters} for learning-rate groups (see
    :func:`parameter_groups`), ``Decomposition.auxiliary_losses``, and ``batchwise``.

    Attributes:
        config: the frozen configuration the model was built from; building from it again gives the same architecture. It
            must have a field ``image_shape``, which training fills in from the data, and may have a property
            ``max_objects``, which is checked against the data.
    """

    config: Any

    def forward(
        self,
        images: Tensor,
        *,
        generator: torch.Generator | None = None,
        step: int | None = None,
        trajectory: bool = False,
    ) -> Decomposition:
        """Decompose images.

        Args:
            images: (B, C, H, W) float32 in [0, 1].
            generator: the only source of randomness; None: posterior means.
            step: training step, for annealing and constraint schedules.
            trajectory: also return detached decompositions over refinement steps.
        """
        ...

    def decode(self, slots: Tensor, presence: Tensor | None = None) -> Decoded:
        """What slots (B, K, D) alone imply; ``presence`` (B, K) in [0, 1] switches slots off."""
        ...


class HasConfig(Protocol):
    """A class that is built from a configuration, as models are."""

    Config: ClassVar[type[Config]]

    def __init__(self, config: Any) -> None:
        """Build from the configuration."""


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The model's learning-rate groups; parameters it does not mention are in ``"default"``.

    Args:
        model: with or without a ``parameter_groups()`` method.

    Returns:
        group name -> trainable parameters; every trainable parameter is in exactly one group.
    """
    declared: Mapping[str, Iterable[nn.Parameter]] = getattr(model, "parameter_groups", dict)()
    groups = {name: list(parameters) for name, parameters in declared.items()}
    taken = {id(parameter) for parameters in groups.values() for parameter in parameters}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    if rest:
        groups[DEFAULT_GROUP] = [*groups.get(DEFAULT_GROUP, []), *rest]
    return groups


def is_batchwise(model: nn.Module) -> bool:
    """Whether the model's objective lets images of a batch see each other."""
    return bool(getattr(model, "batchwise", False))
