"""Float32 islands: the parts of a model that must not run in bfloat16 under autocast."""

from __future__ import annotations

import torch


def float32_island(device: torch.device) -> torch.autocast:
    """A context in which autocast is off, for likelihoods, log-sum-exp, KL, softmax over slots and sampling grids.

    Tensors made in bfloat16 before it must be converted by ``.float()`` inside.

    Args:
        device: where the tensors live.
    """
    return torch.autocast(device.type, enabled=False)
