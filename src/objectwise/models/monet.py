"""MONet: a recurrent attention network splits the image, one variational auto-encoder explains every part.

Burgess, Matthey, Watters, Kabra, Higgins, Botvinick, Lerchner: "MONet: Unsupervised Scene Decomposition and Representation",
2019, arXiv:1901.11390.

Symbols: B images of C×H×W pixels x; K slots; s_k the scope, what is left to explain after k slots, s_0 = 1; α the attention
network; m_k the attention masks; z_k the codes (D numbers); μ_k and m̃_k the decoded means and masks.

    m_k = s_{k−1} α(x, s_{k−1})  and  s_k = s_{k−1} (1 − α)  for k < K;  m_K = s_{K−1}, so that masks sum to one;
    q(z_k | x, m_k) = N(mean, std²);  p(z_k) = N(0, I);  (μ_k, mask logits) = Dec(z_k);  m̃ = softmax over k;

    loss = − Σ_i log Σ_k m_ik N(x_i; μ_ik, σ_k²) + β Σ_k KL(q(z_k | x, m_k) || p(z_k)) + γ Σ_i KL(m_i || m̃_i).

This is not a bound on the evidence: the attention masks are deterministic, and nothing is paid for them but γ's part.

In the contract's words ``masks`` are the attention masks m, with which the reconstruction is Σ_k m_k μ_k and which papers score;
``decoded_masks`` are m̃, which is what ``decode`` gives from slots alone. A slot is present if it wins one pixel in a thousand. No
slot is the background by construction, although the first one's smaller σ draws it there: ``background`` is empty, and every
present slot counts as an object, unless ``background_slot`` says which one is none. The network sees one slot after the other: a
run with more slots has the same first K − 1 masks, and the last mask of the shorter one is shared among the rest.

Departures from the paper, which does not give all of its settings:

* widths of the attention network: not given; c, c, 2c, 2c, ... with c = 32 as in public ports, or ``unet_widths``;
* initial weights: truncated normal of variance 1/fan_in; the paper does not give the width;
* ``likelihood="per_channel"`` (public ports) and ``"simplified"`` (the MONet blog), ``rgb="sigmoid"`` and ``"abs"`` (the blog),
  ``mask_input="linear"`` (the blog) are choices beside the paper's;
* sizes, optimiser and number of steps are the recipe's (:mod:`objectwise.recipes.monet`).
"""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from objectwise.core import (
    Config,
    Decoded,
    Decomposition,
    Posterior,
    SceneModel,
    UserError,
    normal,
    presence_from_masks,
)
from objectwise.nn.broadcast_decoder import SpatialBroadcastDecoder
from objectwise.nn.divergences import kl_normal
from objectwise.nn.float32 import float32_island
from objectwise.nn.initialise import truncated_normal
from objectwise.nn.mixtures import joint_mixture, per_channel_mixture, weighted_squares
from objectwise.nn.unet import UNet, check_halvings, default_blocks

_LIKELIHOODS = {"joint": joint_mixture, "per_channel": per_channel_mixture, "simplified": weighted_squares}


class MONetConfig(Config):
    """Settings of MONet."""

    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width) of the images; None: taken from the data."""
    num_slots: int = Field(5, ge=2, le=64)
    """K, at least one more than an image can have objects; may differ between training and use."""
    likelihood: Literal["joint", "per_channel", "simplified"] = "joint"
    """joint: one mixture per pixel (paper); per_channel: one per pixel and channel; simplified: weighted squares (blog)."""
    rgb: Literal["identity", "sigmoid", "abs"] = "identity"
    """What turns the decoder's output into colours: nothing (paper), a sigmoid, or the absolute value (blog)."""
    mask_input: Literal["log", "linear"] = "log"
    """Whether the component encoder sees log m (paper) or m (blog)."""
    sigma_background: float = Field(0.09, gt=0.0, le=1.0)
    """σ of the first slot's pixels, for images in [0, 1]."""
    sigma_foreground: float = Field(0.11, gt=0.0, le=1.0)
    """σ of the other slots' pixels."""
    beta: float = Field(0.5, ge=0.0)
    """β, weight of the codes' KL."""
    gamma: float = Field(0.5, ge=0.0)
    """γ, weight of the masks' KL."""
    background_slot: int | None = Field(None, ge=0)
    """Which slot is the background by experience with these data, and thus no object; None: none is by construction."""
    latent_size: int = Field(16, ge=1)
    """D, numbers of a slot."""
    unet_width: int = Field(32, ge=1)
    """c, feature maps of the attention network's first two blocks; the others have twice as many."""
    unet_blocks: int | None = Field(None, ge=1, le=10)
    """Blocks of the attention network; None: log2 of the shorter side, minus one, or as many as fit."""
    unet_widths: tuple[int, ...] | None = None
    """Feature maps of each block, which then also gives the number of blocks; None: by unet_width and unet_blocks."""
    encoder_widths: tuple[int, ...] = (32, 32, 64, 64)
    """Feature maps of the component encoder's convolutions, each of which halves the sides."""
    encoder_hidden: int = Field(256, ge=1)
    """Width of the component encoder's dense layer."""
    decoder_width: int = Field(32, ge=1)
    """Feature maps of the four convolutions of the component decoder."""

    @property
    def max_objects(self) -> int:
        """Most objects the model has slots for: one slot is for the background."""
        return self.num_slots - 1

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name in ("unet_widths", "encoder_widths"):
            widths = getattr(self, name)
            if widths is not None and (not widths or min(widths) < 1):
                raise ValueError(f"{name} {widths} must be one or more positive numbers")
        if self.background_slot is not None and self.background_slot >= self.num_slots:
            raise ValueError(
                f"background_slot {self.background_slot} must be one of the slots 0 to {self.num_slots - 1}"
            )
        if self.unet_widths is not None and self.unet_blocks not in (None, len(self.unet_widths)):
            raise ValueError(
                f"unet_widths {self.unet_widths} has {len(self.unet_widths)} blocks, not {self.unet_blocks}"
            )
        if self.image_shape is not None:
            try:
                check_halvings(self.image_shape[1:], len(self.attention_widths))
            except UserError as error:
                raise ValueError(f"{error} (unet_blocks)") from None
        return self

    @property
    def attention_widths(self) -> tuple[int, ...]:
        """Feature maps of the attention network's blocks, defaults filled in; needs ``image_shape``."""
        if self.unet_widths is not None:
            return self.unet_widths
        assert self.image_shape is not None
        blocks = self.unet_blocks or default_blocks(self.image_shape[1:])
        return tuple(self.unet_width * (1 if block < 2 else 2) for block in range(blocks))


class MONet(SceneModel):
    """MONet; slot k of its decompositions is the k-th part that attention takes."""

    Config = MONetConfig
    config: MONetConfig

    def __init__(self, config: MONetConfig) -> None:
        super().__init__(config)
        if config.image_shape is None:
            raise UserError(
                "MONet needs image_shape (channels, height, width); it is taken from the data when training"
            )
        channels, height, width = config.image_shape
        self.attention = UNet(channels + 1, 1, (height, width), config.attention_widths)
        self.encoder = _encoder(config)
        self.decoder = SpatialBroadcastDecoder(
            config.latent_size, channels + 1, (height, width), (config.decoder_width,) * 4
        )
        truncated_normal(self)

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
            images: (B, C, H, W) in [0, 1].
            generator: source of the posterior samples; None: posterior means.
            step: unused (no schedule).
            trajectory: unused (nothing is refined).
        """
        del step, trajectory
        log_masks = self.attend(images)
        mean, std = self.encode(images, log_masks)
        slots = mean if generator is None else mean + std * normal(tuple(mean.shape), generator)
        means, logits = self._draw(slots)
        with float32_island(images.device):
            log_decoded = logits.log_softmax(dim=1)
            loss, terms = self.objective(images.float(), log_masks, mean, std, means, log_decoded)
            masks = log_masks.exp()
            return Decomposition(
                loss=loss,
                terms=terms,
                reconstruction=(masks.unsqueeze(2) * means).sum(dim=1),
                components=means,
                masks=masks,
                slots=slots,
                presence=presence_from_masks(masks),
                background=() if self.config.background_slot is None else (self.config.background_slot,),
                posterior=Posterior(mean, std),
                decoded_masks=log_decoded.exp(),
            )

    def attend(self, images: Tensor) -> Tensor:
        """Log m_1..log m_K, the attention masks: (B, C, H, W) -> (B, K, H, W) float32; exponentials sum to one."""
        log_scope = images.new_zeros(len(images), 1, *images.shape[2:], dtype=torch.float32)
        log_masks = []
        for _ in range(self.config.num_slots - 1):
            logit = self.attention(torch.cat([images, log_scope], dim=1)).float()
            log_masks.append(log_scope + nn.functional.logsigmoid(logit))
            log_scope = log_scope + nn.functional.logsigmoid(-logit)
        return torch.cat([*log_masks, log_scope], dim=1)

    def encode(self, images: Tensor, log_masks: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, K, D) of q(z_k | x, m_k).

        Args:
            images: (B, C, H, W).
            log_masks: (B, K, H, W), any masks: the true ones, for instance.
        """
        shown = log_masks if self.config.mask_input == "log" else log_masks.exp()
        batch, slots = shown.shape[:2]
        repeated = images.unsqueeze(1).expand(-1, slots, -1, -1, -1)
        seen = torch.cat([repeated, shown.unsqueeze(2)], dim=2).flatten(0, 1)
        mean, log_variance = self.encoder(seen).float().unflatten(0, (batch, slots)).chunk(2, dim=2)
        return mean, (0.5 * log_variance).exp()

    def decode(self, slots: Tensor, presence: Tensor | None = None) -> Decoded:
        """What slots alone imply: the masks are the decoded ones, m̃, not attention's.

        Args:
            slots: (B, K, D), any K.
            presence: (B, K) in [0, 1], by which the decoded masks are weighted before they share the pixels; None: all present.
        """
        means, logits = self._draw(slots)
        with float32_island(slots.device):
            if presence is not None:
                logits = logits + presence.clamp_min(1e-6).log()[:, :, None, None]
            masks = logits.softmax(dim=1)
            return Decoded(means, masks, (masks.unsqueeze(2) * means).sum(dim=1))

    def _draw(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, D) codes -> means (B, K, C, H, W) and mask logits (B, K, H, W), float32."""
        drawn = self.decoder(slots.flatten(0, 1)).float().unflatten(0, slots.shape[:2])
        colours, logits = drawn[:, :, :-1], drawn[:, :, -1]
        match self.config.rgb:
            case "sigmoid":
                colours = colours.sigmoid()
            case "abs":
                colours = colours.abs()
        return colours, logits

    def sigma(self, slots: int, device: torch.device) -> Tensor:
        """(K,) σ_k of so many slots."""
        config = self.config
        return torch.tensor([config.sigma_background] + [config.sigma_foreground] * (slots - 1), device=device)

    def objective(
        self, images: Tensor, log_masks: Tensor, mean: Tensor, std: Tensor, means: Tensor, log_decoded: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts, (B,) each, in nats; call in a float32 island.

        ``nll`` is −Σ_i log p(x_i) (with ``likelihood="simplified"`` no density: weighted squares), ``kl`` the codes' and
        ``mask_kl`` the masks' KL, both without their weights; ``bits_per_dim`` is the nll of images with 256 levels.

        Args:
            images: (B, C, H, W).
            log_masks: (B, K, H, W) log m.
            mean: (B, K, D) of q.
            std: (B, K, D) of q.
            means: (B, K, C, H, W) μ.
            log_decoded: (B, K, H, W) log m̃.
        """
        sigma = self.sigma(log_masks.shape[1], images.device)
        nll = -_LIKELIHOODS[self.config.likelihood](images, means, log_masks, sigma).flatten(1).sum(dim=1)
        kl = kl_normal(mean, std).flatten(1).sum(dim=1)
        mask_kl = (log_masks.exp() * (log_masks - log_decoded)).flatten(1).sum(dim=1)
        terms = {"nll": nll, "kl": kl, "mask_kl": mask_kl}
        if self.config.likelihood != "simplified":
            terms["bits_per_dim"] = nll / (images[0].numel() * math.log(2.0)) + 8.0
        return nll + self.config.beta * kl + self.config.gamma * mask_kl, terms


def _encoder(config: MONetConfig) -> nn.Sequential:
    """The component encoder: (M, C + 1, H, W) -> (M, 2 D), means and log variances."""
    channels, height, width = config.image_shape or (0, 0, 0)
    layers: list[nn.Module] = []
    for before, after in zip((channels + 1, *config.encoder_widths), config.encoder_widths, strict=False):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        height, width = -(-height // 2), -(-width // 2)
    flat = config.encoder_widths[-1] * height * width
    layers += [nn.Flatten(), nn.Linear(flat, config.encoder_hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(config.encoder_hidden, 2 * config.latent_size))
