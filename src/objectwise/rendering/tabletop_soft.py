"""The table-top scenes with silhouettes that are differentiable: for gradients by automatic differentiation.

One ray per pixel. An object covers a pixel by α = sigmoid(−d / softness), d being the distance in pixels from ray to solid,
negative by how deep it enters. That distance is the smallest value of the solid's signed distance along the ray: a convex
function of the ray's parameter, so that golden sections find where it is; the search need not be differentiated (envelope
theorem). Objects are blended from near to far. Colours are those of the hard pictures; only edges differ, by what a box filter of
one pixel does to them, about. Beyond an edge a colour is that of the solid's nearest point; how
that wanders is differentiated for spheres only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from objectwise.core import UserError
from objectwise.rendering.primitives3d import CUBE, SPHERE, TINY, Vector, _enter
from objectwise.rendering.tabletop import (
    Local,
    Sight,
    TableScene,
    TabletopConfig,
    brightness,
    kind_colors,
    local_rays,
    sight,
)

SECTIONS = 22
"""Golden sections of the search: its interval shrinks by 40,000."""
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class SoftTabletop:
    """A :class:`~objectwise.rendering.tabletop.Renderer` that is differentiable in poses and camera, on any device.

    Args:
        config: of the scenes; ``samples`` and ``backend`` are not used.
        softness: of edges in pixels; 0.25 has the slope of a box filter of one pixel.

    Raises:
        UserError: for tableware.
    """

    def __init__(self, config: TabletopConfig, softness: float = 0.25) -> None:
        if config.family != "primitives":
            raise UserError("soft silhouettes are for family 'primitives'; use another gradient for tableware")
        self.config, self.softness = config, softness

    def __call__(self, scene: TableScene) -> Tensor:
        """(B, C, H, W) images in [0, 1]."""
        return self._blend(*self.layers(scene), scene.kind.shape[1])

    def prefixes(self, scene: TableScene) -> Tensor:
        """(B, M + 1, C, H, W): the pictures of the first 0, 1, ..., M objects."""
        layers = self.layers(scene)
        return torch.stack([self._blend(*layers, number) for number in range(scene.kind.shape[1] + 1)], dim=1)

    def layers(self, scene: TableScene) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Colour (B, M, C, H, W), coverage α and depth (B, M, H, W) of every object alone, and the ground (B, C, H, W)."""
        seen = sight(scene.camera, self.config, 1)
        local = local_rays(scene, seen, self.config)
        low, high = _nearest(local)
        along = sum(o * d for o, d in zip(local.origin, local.direction, strict=True))
        middle = -along / sum(d * d for d in local.direction)
        nearest = torch.where(local.kind == SPHERE, middle, (low + high) / 2.0)
        pixel = 2.0 * self.config.tangent / min(self.config.height, self.config.width)
        distance = _miss(local, low, high) * local.size / (pixel * nearest.clamp_min(0.1))
        cover = torch.sigmoid(-distance / self.softness)
        cover = torch.where(scene.present[:, :, None, None] & (nearest > 0.0), cover, 0.0)
        enter = _enter(local.kind, local.origin, local.direction)
        hit = torch.isfinite(enter)
        depth = torch.where(hit, torch.where(hit, enter, 1.0), nearest)
        x, y, z = _along(local, depth)
        length = torch.where(local.kind == SPHERE, (x * x + y * y + z * z).clamp_min(TINY).sqrt(), 1.0)
        shade = brightness(local, (x / length, y / length, z / length))
        colors, _ = kind_colors(self.config)
        color = colors.to(shade)[scene.kind][..., None, None] * shade.unsqueeze(2)
        return color, cover, depth.detach(), self._ground(seen, pixel)

    def _ground(self, seen: Sight, pixel: float) -> Tensor:
        down = seen.rays[2].clamp_max(-TINY)
        t = -seen.eye[2] / down
        x, y = seen.eye[0] + t * seen.rays[0], seen.eye[1] + t * seen.rays[1]
        inside = torch.minimum(self.config.table - x.abs(), self.config.table - y.abs()) / (pixel * t)
        share = torch.where(seen.rays[2] < -TINY, torch.sigmoid(inside / self.softness), 0.0)
        _, ground = kind_colors(self.config)
        table, floor = ground.to(share)[:, None, :, None, None].unbind(0)
        return share * table + (1.0 - share) * floor

    def _blend(self, color: Tensor, cover: Tensor, depth: Tensor, ground: Tensor, number: int) -> Tensor:
        """The first objects over the ground, each seen through what is nearer."""
        picture, through = torch.zeros_like(ground), torch.ones_like(ground[:, 0])
        for m in range(number):
            seen = cover[:, m]
            for other in range(number):
                if other != m:
                    first = (depth[:, other] < depth[:, m]) | ((depth[:, other] == depth[:, m]) & (other < m))
                    seen = seen * torch.where(first, 1.0 - cover[:, other], 1.0)
            picture = picture + seen.unsqueeze(1) * color[:, m]
            through = through * (1.0 - cover[:, m])
        return picture + through.unsqueeze(1) * ground


def _along(local: Local, t: Tensor) -> Vector:
    x, y, z = (o + t * d for o, d in zip(local.origin, local.direction, strict=True))
    return x, y, z


@torch.no_grad()
def _nearest(local: Local) -> tuple[Tensor, Tensor]:
    """(B, M, h, w) ends of a short piece of the ray on which the solid is nearest, or entered deepest."""
    square = sum(d * d for d in local.direction)
    middle = -sum(o * d for o, d in zip(local.origin, local.direction, strict=True)) / square
    reach = 1.75 / torch.as_tensor(square).sqrt()
    low, high = middle - reach, middle + reach
    first, second = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_first, at_second = (_signed_distance(local.kind, _along(local, t)) for t in (first, second))
    for _ in range(SECTIONS):
        left = at_first < at_second
        low, high = torch.where(left, low, first), torch.where(left, second, high)
        probe = torch.where(left, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        value = _signed_distance(local.kind, _along(local, probe))
        first, second = torch.where(left, probe, second), torch.where(left, first, probe)
        at_first, at_second = torch.where(left, value, at_second), torch.where(left, at_first, value)
    return low, high


def _miss(local: Local, low: Tensor, high: Tensor) -> Tensor:
    """Smallest signed distance on a short piece of the ray, with its derivative.

    Inside a solid it may be where two faces are equally far: a kink, at which the derivative is that of both distances,
    weighted by
    the other's slope, so that they stay equal. Where the minimum is smooth, any weights do.
    """
    with torch.no_grad():
        piece = 4.0 * (high - low)
        ends = [_signed_distance(local.kind, _along(local, t)) for t in (low - piece, low, high, high + piece)]
        falling, rising = (ends[0] - ends[1]).clamp_min(0.0), (ends[3] - ends[2]).clamp_min(0.0)
        share = (rising + TINY) / (falling + rising + 2.0 * TINY)
        above = (
            share * falling / 4.0
        )  # how far the line between the ends is above a kink: slopes times the piece's length
    first, second = (_signed_distance(local.kind, _along(local, t)) for t in (low, high))
    return share * first + (1.0 - share) * second - above


def _signed_distance(kind: Tensor, point: Vector) -> Tensor:
    """Distance of points from the unit solids, negative inside."""
    x, y, z = point
    round_ = (x * x + y * y).clamp_min(TINY).sqrt() - 1.0
    sphere = (x * x + y * y + z * z).clamp_min(TINY).sqrt() - 1.0
    ax, ay, az = x.abs() - 1.0, y.abs() - 1.0, z.abs() - 1.0
    across = torch.where(kind == CUBE, ax, round_)
    other = torch.where(kind == CUBE, ay, round_)
    inside = torch.maximum(torch.maximum(across, other), az)
    a, b, c = across.clamp_min(0.0), torch.where(kind == CUBE, other.clamp_min(0.0), 0.0), az.clamp_min(0.0)
    beyond = (a * a + b * b + c * c).clamp_min(TINY * TINY).sqrt()
    convex = torch.where(inside > 0.0, beyond, inside)
    return torch.where(kind == SPHERE, sphere, convex)
