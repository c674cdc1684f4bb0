"""The β-VAE and its family: one code for the whole image, whose numbers are pressed to mean one thing each.

Higgins et al., "Early Visual Concept Learning with Unsupervised Deep Learning", 2016, arXiv:1606.05579, and "β-VAE", ICLR 2017;
Burgess et al., "Understanding disentangling in β-VAE", 2018, arXiv:1804.03599 (``capacity``); Chen et al., "Isolating Sources
of Disentanglement", 2018, arXiv:1802.04942 (``tcvae``); Kim, Mnih, "Disentangling by Factorising", 2018, arXiv:1802.05983
(``factor``).

Symbols: B images x of N = C·H·W numbers; z the code (M numbers); p(z) = N(0, I); p(x | z) = Bernoulli(sigmoid(Dec(z))), for
grey images too; q(z | x) = N(mean, std²); TC = KL(q(z) || Π_d q(z_d)), the total correlation. Minimised, in nats per image:

    beta      −E log p(x | z) + β KL(q(z | x) || p(z))
    capacity  −E log p(x | z) + γ |KL − C|, C rising linearly from 0
    tcvae     −E log p(x | z) + KL + (β − 1) TC, TC by weighting the codes of the batch
    factor    −E log p(x | z) + KL + γ TC, TC by a discriminator D(z) between q(z) and codes shuffled over the batch

Everything is summed over pixels and over latents, so that β and γ mean what they mean in the papers; :func:`converted_beta`
takes the weights of projects that average. **β_norm = β M / N** is the papers' scale for comparing sizes; give either.

Departures: log-probabilities come from logits (the recreation clips sigmoids at 1e-10); in ``tcvae`` the KL is exact, not
sampled, and log q(z) takes the batch for the whole data set (other sizes add a constant); in ``factor`` the discriminator sees
one batch, not two, and has one logit. |KL − C| is taken of the batch's mean KL, as everybody does; the paper's formula is of
each image's (``capacity_per``).

In the contract's words it has a single slot that is always present and owns every pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from objectwise.core import Config, Decoded, Decomposition, Posterior, SceneModel, UserError, normal, uniform
from objectwise.models.beta_vae_networks import (
    HALVINGS,
    LATENTS,
    Architecture,
    broadcast_decoder,
    cells,
    decoder,
    discriminator,
    encoder,
)
from objectwise.nn.bernoulli import bernoulli_log_likelihood, target_entropy
from objectwise.nn.float32 import float32_island
from objectwise.nn.initialise import truncated_normal

_GAMMA = {"capacity": 1000.0, "factor": 10.0}


class BetaVAEConfig(Config):
    """Settings of the β-VAE family."""

    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width) of the images; None: taken from the data."""
    architecture: Architecture = "fc"
    """fc, conv, all_conv: those of the ball recreation; paper_fc: 2016 paper; conv64: 2017 paper; burgess: 2018 paper."""
    latent_size: int | None = Field(None, ge=1)
    """M, the numbers that describe an image; None: as the architecture's source has it. all_conv: h per cell of 8x8 pixels."""
    decoder: Literal["mirrored", "broadcast"] = "mirrored"
    """mirrored: the architecture's own; broadcast: a spatial broadcast decoder."""
    broadcast_widths: tuple[int, ...] = (64, 64)
    """Feature maps of the broadcast decoder's convolutions."""
    init: Literal["source", "scaled"] = "source"
    """Initial weights. source: those of the architecture's source, where published; scaled: variance 1/fan-in, biases zero."""
    objective: Literal["beta", "capacity", "tcvae", "factor"] = "beta"
    """beta: weighted KL; capacity: KL held at a rising capacity; tcvae, factor: weighted total correlation."""
    beta: float | None = Field(None, ge=0.0)
    """Weight of the KL (beta) or of the total correlation (tcvae); None: from beta_norm, or 1."""
    beta_norm: float | None = Field(None, ge=0.0)
    """The same weight times latents over pixels, comparable between sizes; give beta or beta_norm, not both."""
    gamma: float | None = Field(None, ge=0.0)
    """Weight of |KL - C| (capacity; None: 1000) or of the total correlation (factor; None: 10)."""
    capacity: float = Field(25.0, ge=0.0)
    """C at the end, in nats."""
    capacity_steps: int = Field(100_000, ge=1)
    """Steps in which C rises from 0."""
    capacity_per: Literal["batch", "image"] = "batch"
    """Whether the mean KL of a batch or the KL of each image is held at C."""

    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = (("beta", "beta_norm"),)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.beta is not None and self.beta_norm is not None:
            raise ValueError(
                f"beta {self.beta:g} and beta_norm {self.beta_norm:g} are both given; they are two scales of one weight, "
                "so give one and set the other to None"
            )
        if self.objective in _GAMMA and (self.beta is not None or self.beta_norm is not None):
            raise ValueError(f"objective {self.objective} has no beta; its weight is gamma, so set beta to None")
        if self.objective not in _GAMMA and self.gamma is not None:
            raise ValueError(f"objective {self.objective} has no gamma; its weight is beta")
        if not self.broadcast_widths or min(self.broadcast_widths) < 1:
            raise ValueError(f"broadcast_widths {self.broadcast_widths} must be one or more positive numbers")
        if self.image_shape is not None:
            self._check_shape(self.image_shape)
        return self

    def _check_shape(self, shape: tuple[int, int, int]) -> None:
        unit = 2 ** HALVINGS[self.architecture]
        if any(side < 1 or side % unit for side in shape[1:]):
            raise ValueError(
                f"architecture {self.architecture} needs sides that are multiples of {unit}, not {shape[1]}x{shape[2]}"
            )
        count = cells(self.architecture, shape)
        if self.latent_size is not None and self.latent_size % count:
            raise ValueError(f"latent_size {self.latent_size} must be a multiple of all_conv's {count} cells")

    @property
    def latents(self) -> int:
        """M; needs ``image_shape`` for all_conv."""
        if self.latent_size is not None:
            return self.latent_size
        return LATENTS[self.architecture] * cells(self.architecture, self._shape())

    @property
    def kl_weight(self) -> float:
        """β, whichever way it was given; needs ``image_shape`` if as ``beta_norm``."""
        if self.beta_norm is not None:
            return beta_from_norm(self.beta_norm, self.latents, math.prod(self._shape()))
        return 1.0 if self.beta is None else self.beta

    @property
    def kl_weight_norm(self) -> float:
        """β_norm, whichever way it was given; needs ``image_shape``."""
        return norm_from_beta(self.kl_weight, self.latents, math.prod(self._shape()))

    @property
    def gamma_weight(self) -> float:
        """γ with its default filled in; 0 for objectives without."""
        return _GAMMA.get(self.objective, 0.0) if self.gamma is None else self.gamma

    def capacity_at(self, step: int | None) -> float:
        """C in nats at a training step; None: at the end."""
        return self.capacity if step is None else self.capacity * min(1.0, step / self.capacity_steps)

    def described(self) -> str:
        """The weights on both scales, in one line; needs ``image_shape``."""
        latents, pixels = self.latents, math.prod(self._shape())
        sizes = f"{latents} latents, {pixels} pixels"
        match self.objective:
            case "capacity":
                return f"gamma = {self.gamma_weight:g}, C from 0 to {self.capacity:g} nats ({sizes})"
            case "factor":
                return f"gamma = {self.gamma_weight:g}, beta = 1, beta_norm = {self.kl_weight_norm:.3g} ({sizes})"
        return f"beta = {self.kl_weight:g}, beta_norm = {self.kl_weight_norm:.3g} ({sizes})"

    def _shape(self) -> tuple[int, int, int]:
        if self.image_shape is None:
            raise UserError(
                "this needs image_shape (channels, height, width), which is taken from the data when training"
            )
        return self.image_shape


class BetaVAE(SceneModel):
    """The β-VAE and its family; its only slot is the code of the whole image.

    Attributes:
        batchwise: whether images of a batch see each other, which depends on the objective.
    """

    Config = BetaVAEConfig
    config: BetaVAEConfig

    def __init__(self, config: BetaVAEConfig) -> None:
        super().__init__(config)
        if config.image_shape is None:
            raise UserError(
                "the β-VAE needs image_shape (channels, height, width); it is taken from the data when training"
            )
        shape, latents = config.image_shape, config.latents
        self.batchwise = config.objective in ("tcvae", "factor") or (
            config.objective == "capacity" and config.capacity_per == "batch"
        )
        self.encoder = encoder(config.architecture, shape, latents)
        self.decoder: nn.Module = (
            broadcast_decoder(shape, latents, config.broadcast_widths)
            if config.decoder == "broadcast"
            else decoder(config.architecture, shape, latents)
        )
        if config.init == "scaled":
            truncated_normal(self)
        self.discriminator = discriminator(latents) if config.objective == "factor" else None

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """FactorVAE's discriminator learns from its own loss."""
        return {} if self.discriminator is None else {"discriminator": list(self.discriminator.parameters())}

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
            generator: source of the posterior samples and of shuffled codes; None: posterior means.
            step: sets the capacity; None: the last one.
            trajectory: unused (no steps).
        """
        del trajectory
        mean, log_variance = self.encode(images)
        std = (0.5 * log_variance).exp()
        code = mean if generator is None else mean + std * normal(tuple(mean.shape), generator)
        logits = self.decoder(code).float()
        with float32_island(images.device):
            log_likelihood = bernoulli_log_likelihood(images.float(), logits)
            kl = 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance).sum(dim=1)
            penalty, terms, auxiliary = self._penalty(code, mean, log_variance, kl, generator, step)
            picture = logits.sigmoid()
        return Decomposition(
            loss=penalty - log_likelihood,
            terms={
                "elbo": log_likelihood - kl,
                "log_likelihood": log_likelihood,
                "kl": kl,
                "excess_nats": -log_likelihood - target_entropy(images.float()),
                **terms,
            },
            reconstruction=picture,
            components=picture.unsqueeze(1),
            masks=_everything(picture),
            slots=code.unsqueeze(1),
            presence=code.new_ones(len(code), 1),
            posterior=Posterior(mean.unsqueeze(1), std.unsqueeze(1)),
            auxiliary_losses=auxiliary,
        )

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, (B, M) float32 each, of q(z | x) for images (B, C, H, W)."""
        mean, log_variance = self.encoder(images).float().chunk(2, dim=1)
        return mean, log_variance

    def decode(self, slots: Tensor, presence: Tensor | None = None) -> Decoded:
        """What the code alone implies: the probabilities of the pixels.

        Args:
            slots: (B, 1, M).
            presence: (B, 1) in [0, 1]; None: present.
        """
        picture = self.decoder(slots.squeeze(1)).float().sigmoid()
        shown = picture if presence is None else picture * presence[:, :, None, None]
        return Decoded(picture.unsqueeze(1), _everything(picture), shown)

    def _penalty(
        self,
        code: Tensor,
        mean: Tensor,
        log_variance: Tensor,
        kl: Tensor,
        generator: torch.Generator | None,
        step: int | None,
    ) -> tuple[Tensor, dict[str, Tensor], Mapping[str, Tensor]]:
        """What the objective adds to −log p(x | z), (B,); terms to report; losses of other parameter groups."""
        config = self.config
        match config.objective:
            case "beta":
                return config.kl_weight * kl, {}, {}
            case "capacity":
                aim = config.capacity_at(step)
                held = kl.mean().expand_as(kl) if config.capacity_per == "batch" else kl
                return config.gamma_weight * (held - aim).abs(), {"capacity": torch.full_like(kl, aim)}, {}
            case "tcvae":
                correlation = total_correlation(code, mean, log_variance)
                return kl + (config.kl_weight - 1.0) * correlation, {"total_correlation": correlation}, {}
            case "factor":
                correlation, loss = self._discriminated(code, generator)
                terms = {"total_correlation": correlation}
                return kl + config.gamma_weight * correlation, terms, {"discriminator": loss}

    def _discriminated(self, code: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Log D(z) / (1 − D(z)), which estimates log q(z) / Π q(z_d), and the discriminator's loss, (B,) each."""
        assert self.discriminator is not None
        with torch.autocast(code.device.type, enabled=False):
            of_codes = self.discriminator(code).squeeze(1)
            still = code.detach()
            kept, shuffled = (
                self.discriminator(torch.cat([still, shuffled_codes(still, generator)])).squeeze(1).chunk(2)
            )
            loss = 0.5 * (nn.functional.softplus(-kept) + nn.functional.softplus(shuffled))
        return of_codes, loss


def total_correlation(code: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log q(z_i) − Σ_d log q(z_id), where q is the mixture of the batch's posteriors (minibatch weighting; Chen et al., eq. 6).

    Args:
        code: (B, M) one sample of each posterior.
        mean: (B, M) of the posteriors.
        log_variance: (B, M) of the posteriors.

    Returns:
        (B,), whose mean estimates TC; at most (M − 1) log B.
    """
    squares = (code.unsqueeze(1) - mean).square() / log_variance.exp()
    densities = -0.5 * (squares + log_variance + math.log(2.0 * math.pi))  # (i, j, d): log q(z_id | x_j)
    joint = densities.sum(dim=2).logsumexp(dim=1)
    marginals = densities.logsumexp(dim=1).sum(dim=1)
    return joint - marginals + (code.shape[1] - 1) * math.log(len(code))


def shuffled_codes(code: Tensor, generator: torch.Generator | None) -> Tensor:
    """Every latent permuted over the batch on its own: samples of Π_d q(z_d), (B, M) -> (B, M).

    Without a generator latent d is moved on by d + 1 rows.
    """
    batch, latents = code.shape
    if generator is None:
        rows = torch.arange(batch, device=code.device).unsqueeze(1)
        return code.gather(0, (rows + torch.arange(1, latents + 1, device=code.device)) % batch)
    return code.gather(0, uniform((batch, latents), generator).argsort(dim=0))


def _everything(picture: Tensor) -> Tensor:
    batch, _, height, width = picture.shape
    return picture.new_ones(batch, 1, height, width)


def beta_from_norm(beta_norm: float, latents: int, pixels: int) -> float:
    """β = β_norm N / M (Higgins et al. 2016), N all numbers of an image, channels included."""
    return beta_norm * pixels / latents


def norm_from_beta(beta: float, latents: int, pixels: int) -> float:
    """β_norm = β M / N."""
    return beta * latents / pixels


def converted_beta(
    weight: float,
    *,
    latents: int,
    pixels: int,
    reconstruction: Literal["sum", "mean"] = "sum",
    kl: Literal["sum", "mean"] = "sum",
    squared_error_std: float | None = None,
) -> float:
    """The β of another project's loss "reconstruction + weight · KL".

    Both parts are taken to be averaged over the batch; what matters is whether they are summed or averaged over the numbers of
    one image. With both averaged, ``weight`` is β_norm.

    Args:
        weight: what stands before the KL there.
        latents: M.
        pixels: N, channels included.
        reconstruction: summed or averaged over the N numbers of an image.
        kl: summed or averaged over the M latents.
        squared_error_std: None for a cross-entropy; where the reconstruction is a squared error without factors, the σ of the
            Gaussian likelihood that β is to refer to: squares are 2σ² times its nats.
    """
    beta = weight * (pixels if reconstruction == "mean" else 1.0) / (latents if kl == "mean" else 1.0)
    return beta if squared_error_std is None else beta / (2.0 * squared_error_std**2)


def capacity_advice(capacity: Sequence[float], kl: Sequence[float], excess: Sequence[float]) -> str | None:
    """Whether a run with ``objective: capacity`` bought anything with its last nats; one sentence, or None.

    |KL − C| pushes the KL *up* to C whether or not the image needs it. It counts as pinned if over the last quarter of the run
    it stays within 5 % (or half a nat) of C, while over the last half the reconstruction gained less than half a nat per nat of
    KL; as collapsed if it stays below a tenth of C. Where the KL no longer rose there is nothing to tell.

    Args:
        capacity: (T,) C at T evenly spaced moments, at least 8.
        kl: (T,) mean KL in nats.
        excess: (T,) reconstruction error in nats, up to a constant.
    """
    aims, found, errors = (torch.tensor(values, dtype=torch.float64) for values in (capacity, kl, excess))
    if len(aims) < 8:
        raise UserError(f"capacity_advice needs at least 8 moments of a run, not {len(aims)}")
    late = slice(-(len(aims) // 4), None)
    aim, value = aims[late], found[late]
    if bool((value < 0.1 * aim).all()):
        return (
            f"the KL stays at {value.mean():.2f} nats below a capacity of {aim[-1]:g}: the code says nothing; a larger gamma"
            " or another learning rate may help"
        )
    if bool(((value - aim).abs() > torch.clamp(0.05 * aim, min=0.5)).any()):
        return None
    # Slope of the error over the KL since the run was half way.
    half = slice(-(len(aims) // 2), None)
    spent = found[half] - found[half].mean()
    gained = -(spent @ (errors[half] - errors[half].mean())) / (spent @ spent).clamp_min(1e-9)
    if float(found[half].max() - found[half].min()) < 0.5 or float(gained) >= 0.5:
        return None
    return (
        f"the KL is pinned at C = {aim[-1]:g}: the last nats of it buy {float(gained):.2f} nats of reconstruction each; a "
        "smaller capacity is enough"
    )
