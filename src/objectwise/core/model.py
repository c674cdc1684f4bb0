"""The model's side of the contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from objectwise.core.config import Config
from objectwise.core.decomposition import Decoded, Decomposition
from objectwise.core.images import image_batch

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


class SceneModel(nn.Module):
    """What models share beyond the contract: running on pictures, and changing run-time settings.

    A class of one's own need not derive from it; :class:`Model` says what is needed.

    Args:
        config: frozen configuration, with a field ``image_shape``.
    """

    Config: ClassVar[type[Config]]
    batchwise: bool = False
    config: Any

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def reconfigured(self, **changes: object) -> Self:
        """A copy with the same weights and other run-time settings (numbers of slots or steps, ...).

        Raises:
            UserError: for an unknown setting.
            RuntimeError: if the setting changes the shape of the weights.
        """
        model = type(self)(self.config.replaced(**changes))
        model.load_state_dict(self.state_dict())
        return model.train(self.training).to(next(self.parameters()).device)

    def decompose(self, images: Tensor | np.ndarray | Sequence[Any], *, trajectory: bool = False) -> Decomposition:
        """Split pictures into objects, with posterior means and without gradients.

        Args:
            images: (B, C, H, W) float in [0, 1] of the model's shape, or pictures of any size as
                :func:`objectwise.core.image_batch` takes them.
            trajectory: also return the refinement steps.
        """
        batch = image_batch(images, self.config.image_shape).to(next(self.parameters()).device)
        was_training = self.training
        try:
            with torch.no_grad():
                found: Decomposition = self.eval()(batch, trajectory=trajectory)
                return found
        finally:
            self.train(was_training)


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
