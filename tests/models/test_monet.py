from __future__ import annotations

from typing import Any

import pytest
import torch

from objectwise.core import check_model
from objectwise.models.monet import MONet, MONetConfig


def small(shape: tuple[int, int, int] = (3, 16, 16), **settings: Any) -> MONet:
    torch.manual_seed(0)
    sizes = {"unet_width": 4, "latent_size": 4, "decoder_width": 8, "encoder_hidden": 16, "encoder_widths": (8, 8)}
    return MONet(MONetConfig(image_shape=shape, **{"num_slots": 3, **sizes, **settings}))


@pytest.mark.parametrize("likelihood", ["joint", "per_channel", "simplified"])
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 8, 24), (3, 9, 14)], ids=["square", "grey, oblong", "odd"])
def test_keeps_the_contract(shape: tuple[int, int, int], likelihood: str) -> None:
    check_model(small(shape, likelihood=likelihood))
