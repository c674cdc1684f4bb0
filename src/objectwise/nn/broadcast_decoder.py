"""The spatial broadcast decoder: a code is laid on every pixel, beside the pixel's coordinates, and convolved.

Watters, Matthey, Burgess, Lerchner: "Spatial Broadcast Decoder: A Simple Architecture for Learning Disentangled Representations
in VAEs", 2019, arXiv:1901.07017; used by MONet and IODINE.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from objectwise.nn.float32 import float32_island


class SpatialBroadcastDecoder(nn.Module):
    """Convolutions without padding over a canvas that is larger by what they cut off; a 1×1 convolution comes last.

    The code is the same on every pixel of the first convolution, so that its part there is a matrix product per image, and the
    coordinates' part is the same for every image: the sum of the two is exactly the convolution of the broadcast canvas.

    Args:
        latent_size: D, numbers of a code.
        out_channels: channels of the pictures.
        image_size: (H, W) of the pictures.
        widths: feature maps of the convolutions.
        kernel: their side in pixels.
    """

    coordinates: Tensor

    def __init__(
        self, latent_size: int, out_channels: int, image_size: tuple[int, int], widths: Sequence[int], kernel: int = 3
    ) -> None:
        super().__init__()
        self.latent_size = latent_size
        margin = len(widths) * (kernel - 1)
        height, width = (side + margin for side in image_size)
        self.first = nn.Conv2d(latent_size + 2, widths[0], kernel)
        self.rest = nn.Sequential()
        for before, after in itertools.pairwise(widths):
            self.rest.extend([nn.Conv2d(before, after, kernel), nn.ReLU(inplace=True)])
        self.head = nn.Conv2d(widths[-1], out_channels, 1)
        self.register_buffer("coordinates", coordinates(height, width).unsqueeze(0), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """(M, D) codes -> (M, out_channels, H, W)."""
        weight, bias = self.first.weight, self.first.bias
        with float32_island(codes.device):
            of_code = nn.functional.linear(codes.to(weight.dtype), weight[:, : self.latent_size].sum(dim=(2, 3)), bias)
            of_place = nn.functional.conv2d(self.coordinates, weight[:, self.latent_size :])
        if torch.is_autocast_enabled(codes.device.type):
            dtype = torch.get_autocast_dtype(codes.device.type)
            of_code, of_place = of_code.to(dtype), of_place.to(dtype)
        _, channels, height, width = of_place.shape
        # Channels innermost, a whole row at a time: sums of short pieces are slow.
        rows = of_place.permute(0, 2, 3, 1).reshape(1, height, width * channels)
        hidden = nn.functional.relu(rows + of_code.repeat(1, width).unsqueeze(1), inplace=True)
        hidden = hidden.unflatten(2, (width, channels)).permute(0, 3, 1, 2)
        out: Tensor = self.head(self.rest(hidden))
        return out


def coordinates(height: int, width: int) -> Tensor:
    """(2, H, W): columns, then rows, from −1 at the first to 1 at the last pixel."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.stack([columns, rows])
