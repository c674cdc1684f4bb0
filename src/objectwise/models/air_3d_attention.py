"""Attention for AIR in 3D: every step looks at one place of the picture and says where and what relative to it.

Without it, a network must learn from nothing that an object moves with its picture, and before it has, the cheapest place for an
object is where it is hardly seen. Here position follows the picture from the first step on:

    m = softmax(s·d + query·f),  (column, row) = Σ_p m_p p,  (x, y) = where the ray through it meets the height of the middle of
    an object,

d being how much each cell differs from the empty table, f convolutional features, and the query a linear function of the LSTM's
state. A window about (column, row), read from the picture as in AIR (Eslami et al. 2016), tells the rest.

Attention that is the expectation of a place under a map: Levine et al., "End-to-End Training of Deep Visuomotor Policies", 2016.
A departure from the paper's 3D experiments, whose network is not described.

With ``residual`` a step looks at what the objects before it leave unexplained, x − R(z_<i, k_<i), as DAIR does in two dimensions
(the paper's appendix): d is how much of that is left, averaged over the size of an object's core, the map is kept to the
neighbourhood of its largest value, so that of two objects alike one is looked at and not the place between them, and the window
shows the residual beside the picture. The residual is not differentiated: its part of the gradient of earlier steps is left out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from objectwise.nn.float32 import float32_island
from objectwise.nn.spatial_transformer import read
from objectwise.rendering.tabletop import TabletopConfig, camera_frame

_STRIDE = 2
"""Pixels per cell of the map, along each side."""
_NEIGHBOURHOOD = 0.15
"""Standard deviation of the neighbourhood that a map of residuals is kept to, in sides of the window."""


class Seen(NamedTuple):
    """What the steps look at, made once per picture, or with residuals once per step.

    Attributes:
        picture: (B, C, H, W) the input, or (B, 2C, H, W) with the residual.
        features: (B, F, P) of the P cells.
        difference: (B, P) how much the cells differ from the empty table, ≥ 0.
        places: (P, 2) column and row of the cells' middles in pixels.
    """

    picture: Tensor
    features: Tensor
    difference: Tensor
    places: Tensor


class Attention(nn.Module):
    """Where to look, and what is seen there.

    Args:
        look: the renderer's settings.
        state: width of the state that asks.
        maps: F, features of the map.
        window: side of the window in pixels.
        size: width of what is said about the window.
        residual: whether pictures come with residuals.
    """

    def __init__(
        self, look: TabletopConfig, state: int, maps: int, window: int, size: int, residual: bool = False
    ) -> None:
        super().__init__()
        self.window, self.residual = window, residual
        channels = look.channels * (2 if residual else 1)
        # A last bias would shift all cells alike, which the map does not show.
        self.features = nn.Sequential(
            nn.Conv2d(channels, maps, 5, stride=_STRIDE, padding=2),
            nn.ReLU(),
            nn.Conv2d(maps, maps, 3, padding=1, bias=False),
        )
        self.query = nn.Linear(state, maps)
        self.strength = nn.Parameter(torch.tensor(2.0))
        cells = -(-window // 4)
        self.what = nn.Sequential(
            nn.Conv2d(channels, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * cells * cells, size),
            nn.ReLU(),
        )
        nn.init.normal_(self.query.weight, std=0.02)
        nn.init.zeros_(self.query.bias)

    def see(self, picture: Tensor, residual: Tensor | None = None) -> Seen:
        """What the steps share, or with residuals what one step sees.

        Args:
            picture: (B, C, H, W), zero where it is that of the empty table.
            residual: (B, C, H, W), zero where nothing is left to explain; None: without.
        """
        left = picture if residual is None else residual
        if residual is not None:
            picture = torch.cat([picture, residual], dim=1)
        features = self.features(picture)
        with float32_island(picture.device):
            difference = nn.functional.avg_pool2d(left.float().abs().sum(dim=1, keepdim=True), _STRIDE, ceil_mode=True)
            if residual is not None:
                difference = nn.functional.avg_pool2d(difference, 3, stride=1, padding=1)
            row, column = (
                (torch.arange(length, device=picture.device) + 0.5) * _STRIDE for length in features.shape[-2:]
            )
            places = torch.stack([column.repeat(len(row)), row.repeat_interleave(len(column))], dim=1)
            return Seen(picture.float(), features.float().flatten(2), difference.flatten(1), places)

    def weights(self, seen: Seen, state: Tensor) -> Tensor:
        """(B, P) the map: positive, sums to 1; ``state`` is (B, state)."""
        match = torch.einsum("bf,bfp->bp", self.query(state), seen.features) / math.sqrt(seen.features.shape[1])
        logits = self.strength * seen.difference + match
        if self.residual:
            peak = seen.places[logits.argmax(dim=1)]
            distance = (seen.places - peak.unsqueeze(1)).square().sum(dim=2)
            logits = logits - distance / (2.0 * (_NEIGHBOURHOOD * self.window) ** 2)
        return logits.softmax(dim=1)

    def forward(self, seen: Seen, state: Tensor) -> tuple[Tensor, Tensor]:
        """Column and row (B, 2) of the place that is looked at, in pixels, and (B, size) what is seen about it."""
        place = self.weights(seen, state) @ seen.places
        height, width = seen.picture.shape[-2:]
        extent = place.new_tensor([height, width])
        glimpse = read(
            seen.picture, (self.window / extent).expand(len(place), 2), 2.0 * place.flip(1) / extent - 1.0, self.window
        )
        return place, self.what(glimpse)


def on_table(place: Tensor, camera: Tensor, look: TabletopConfig, height: float) -> Tensor:
    """Where the rays through pixels meet a plane above the table: (B, 2) x and y in world units.

    Args:
        place: (B, 2) column and row in pixels.
        camera: (B, 2) azimuth and elevation, radians.
        look: the renderer's settings.
        height: of the plane, world units.
    """
    eye, right, up, forward = camera_frame(camera, look)
    scale = look.tangent / (min(look.height, look.width) / 2)
    across = (place[:, :1] - look.width / 2) * scale
    above = (look.height / 2 - place[:, 1:]) * scale
    ray = forward + across * right + above * up
    # Cameras look down; where a ray does not, the horizon is taken.
    far = (height - eye[:, 2:]) / ray[:, 2:].clamp_max(-1e-2)
    return (eye + far * ray)[:, :2]
