"""Float32 islands: the parts of a model that must not run in bfloat16 under autocast."""

from __future__ import annotations

import torch
from torch import Tensor


def float32_island(device: torch.device) -> torch.autocast:
    """A context in which autocast is off, for likelihoods, log-sum-exp, KL, softmax over slots and sampling grids.

    Tensors made in bfloat16 before it must be converted by ``.float()`` inside.

    Args:
        device: where the tensors live.
    """
    return torch.autocast(device.type, enabled=False)


def wide(values: Tensor) -> Tensor:
    """At least float32: bfloat16 and float16 become float32, float64 stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
