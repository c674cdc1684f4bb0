"""A plain variational autoencoder: one code for the whole image, the baseline that object-wise codes are compared with.

Kingma, Welling: "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114.

Symbols: B images of C×H×W pixels; z the code (D numbers); p(z) = N(0, I); p(x | z) = N(Dec(z), σ²); q(z | x) = N(mean, std²).

    ELBO = E_q(z|x)[ log p(x | z) ] − KL(q(z | x) || p(z))

Departures from the paper: convolutional networks (theirs have one hidden layer), and σ fixed as in AIR, so that the two see the
same likelihood and their bounds can be compared.

In the contract's words it has a single slot that is always present and owns every pixel.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from objectwise.core import Config, Decoded, Decomposition, Posterior, SceneModel, UserError, normal
from objectwise.nn.divergences import kl_normal
from objectwise.nn.doubling_convolution import DoublingConvTranspose2d
from objectwise.nn.float32 import float32_island

_HALVINGS = 3


class VAEConfig(Config):
    """Settings of the plain VAE."""

    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width) of the images; None: taken from the data."""
    latent_size: int = Field(50, ge=1)
    """D, the numbers that describe an image."""
    channels: int = Field(32, ge=1)
    """Feature maps of the convolutions; the encoder's last has twice as many."""
    hidden_size: int = Field(256, ge=1)
    """Width of the dense layer on either side of the code."""
    likelihood_std: float = Field(0.3, gt=0.0, le=1.0)
    """σ of the pixels, for images in [0, 1]."""


class VAE(SceneModel):
    """The plain VAE; its only slot is the code of the whole image."""

    Config = VAEConfig
    config: VAEConfig

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config)
        if config.image_shape is None:
            raise UserError(
                "the VAE needs image_shape (channels, height, width); it is taken from the data when training"
            )
        colours, height, width = config.image_shape
        rows, columns = (-(-side // 2**_HALVINGS) for side in (height, width))
        maps, wide, hidden = config.channels, 2 * config.channels, config.hidden_size
        # A kernel of 3 with padding 1 and stride 2 halves any side, rounded up.
        self.encoder = nn.Sequential(
            nn.Conv2d(colours, maps, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(maps, maps, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(maps, wide, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(wide * rows * columns, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * config.latent_size),
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.latent_size, hidden),
            nn.ReLU(),
            nn.Linear(hidden, wide * rows * columns),
            nn.ReLU(),
            nn.Unflatten(1, (wide, rows, columns)),
            DoublingConvTranspose2d(wide, maps),
            nn.ReLU(),
            DoublingConvTranspose2d(maps, maps),
            nn.ReLU(),
            DoublingConvTranspose2d(maps, colours),
            nn.Sigmoid(),
        )

    def forward(
        self,
        images: Tensor,
        *,
        generator: torch.Generator | None = None,
        step: int | None = None,
        trajectory: bool = False,
    ) -> Decomposition:
        """Encode and decode images.

        Args:
            images: (B, C, H, W) in [0, 1].
            generator: source of the posterior samples; None: posterior means.
            step: unused (no schedule).
            trajectory: unused (no steps).
        """
        del step, trajectory
        mean, spread = self.encoder(images).float().chunk(2, dim=1)
        std = nn.functional.softplus(spread) + 1e-3
        code = mean if generator is None else mean + std * normal(tuple(mean.shape), generator)
        decoded = self.decode(code.unsqueeze(1))
        with float32_island(images.device):
            log_likelihood = self._log_likelihood(images.float(), decoded.reconstruction)
            kl = kl_normal(mean, std).sum(dim=1)
        elbo = log_likelihood - kl
        return Decomposition(
            loss=-elbo,
            terms={"elbo": elbo, "log_likelihood": log_likelihood, "kl": kl},
            reconstruction=decoded.reconstruction,
            components=decoded.components,
            masks=decoded.masks,
            slots=code.unsqueeze(1),
            presence=code.new_ones(len(code), 1),
            posterior=Posterior(mean.unsqueeze(1), std.unsqueeze(1)),
        )

    def decode(self, slots: Tensor, presence: Tensor | None = None) -> Decoded:
        """What the code alone implies.

        Args:
            slots: (B, 1, D).
            presence: (B, 1) in [0, 1]; None: present.
        """
        _, height, width = self.config.image_shape or (0, 0, 0)
        # Sides that 8 does not divide come out a little too large.
        image = self.decoder(slots.squeeze(1))[..., :height, :width].float()
        shown = image if presence is None else image * presence[:, :, None, None]
        return Decoded(image.unsqueeze(1), image.new_ones(len(image), 1, height, width), shown)

    def _log_likelihood(self, images: Tensor, means: Tensor) -> Tensor:
        """Log N(x; means, σ²) summed over pixels: two (B, C, H, W) -> (B,)."""
        sigma = self.config.likelihood_std
        squares = (images - means).square().flatten(1).sum(dim=1)
        return -squares / (2.0 * sigma**2) - images[0].numel() * (math.log(sigma) + 0.5 * math.log(2.0 * math.pi))
