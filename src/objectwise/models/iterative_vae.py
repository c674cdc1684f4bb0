"""Iterative amortized inference: an encoder that looks at how wrong its last answer was, and corrects it.

Marino, Yue, Mandt: "Iterative Amortized Inference", ICML 2018, arXiv:1807.09356.

Symbols: B images x of N numbers in [0, 1]; z the code (D numbers); p(z) = N(0, I); p(x | z) = Bernoulli(sigmoid(Dec(z))), for
grey images too; q(z) = N(mean, variance), with λ = (mean, log variance) for each image; L(λ) = −ELBO, from S samples:

    λ_0 = the prior
    λ_t = update(λ_{t−1}, f(x, ∇L(λ_{t−1}), λ_{t−1})),    t = 1 .. T

where ``update`` replaces (direct), adds, or mixes: g λ_{t−1} + (1 − g) new, with a gate g. The inference network f learns from
the mean of L(λ_1) .. L(λ_T), the decoder from L(λ_T) alone. One step that sees only the image and answers directly is the
ordinary VAE (recipe ``standard-vae-mnist``).

Nothing is differentiated twice: gradients, and estimates that enter the next step, are inputs like any other.

Without a generator the answer is judged at its posterior mean; on the way there, gradients are of samples as in training, with
noise that is the same for every image (``evaluation_seed``). Gradients at means are not those the network has learnt from.

Departures from the authors' code: normalised gradients are normalised over features (theirs, called layer norm, over the
batch: ``gradient_encoding: batch_norm``); the learning rate is constant or follows the trainer's schedule. Estimates hold the
log variance, clamped to [−15, 15] as there. Judging at posterior means without a generator is the contract's.

In the contract's words it has a single slot that is always present and owns every pixel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from objectwise.core import Config, Decoded, Decomposition, Posterior, SceneModel, UserError, fixed_normals, normal
from objectwise.nn.bernoulli import bernoulli_log_likelihood, target_entropy
from objectwise.nn.float32 import float32_island

_LIMIT = 15.0
_EVALUATION_STREAM = (1_000, 1)
_TINY = 1e-5


class IterativeVAEConfig(Config):
    """Settings of the iterative VAE."""

    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width) of the images; None: taken from the data."""
    latent_size: int = Field(64, ge=1)
    """D, the numbers that describe an image."""
    iterations: int = Field(5, ge=1)
    """T; may be changed after training."""
    samples: int = Field(10, ge=1)
    """S, samples of the code per estimate."""
    widths: tuple[int, ...] = (512, 512)
    """Hidden layers of the inference network, and of the decoder."""
    activation: Literal["elu", "relu"] = "elu"
    """Of both networks; relu loses the signs of what it sees."""
    highway: bool = True
    """Whether gates in the inference network's hidden layers let their input through."""
    encode_data: bool = True
    """Whether the inference network sees the image."""
    encode_estimate: bool = True
    """Whether it sees λ."""
    gradient_encoding: Literal["log_sign", "log", "layer_norm", "batch_norm", "raw", "none"] = "log_sign"
    """How it sees ∇L: log(|g| + 1e-5) with or without the sign; normalised over D or over the batch; as it is; not at all."""
    update: Literal["gated", "additive", "direct"] = "gated"
    """What becomes of the last estimate: mixed by a gate, added to, or replaced."""
    decoder_learns: Literal["last", "all"] = "last"
    """From which estimates the decoder learns: the last one, or all, as the inference network does."""
    weights: Literal["uniform", "linspace", "last"] = "uniform"
    """Share of each estimate in the inference network's loss: equal, proportional to t, or the last one's alone."""
    evaluation_seed: int = Field(0, ge=0)
    """Without a generator, of the samples on the way to the answer."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths {self.widths} must be one or more positive numbers")
        seen = self.encode_data or self.encode_estimate or self.gradient_encoding != "none"
        if not seen:
            raise ValueError(
                "the inference network sees nothing: switch encode_data, encode_estimate or gradient_encoding on"
            )
        if not self.encode_data and self.gradient_encoding == "none":
            raise ValueError("the inference network never learns which image it is: encode the data or its gradients")
        if (
            self.gradient_encoding == "none"
            and self.update == "direct"
            and self.iterations > 1
            and not self.encode_estimate
        ):
            raise ValueError(
                f"{self.iterations} direct updates that see neither estimates nor gradients all give the same: use 1 iteration"
            )
        return self


class Estimate(NamedTuple):
    """λ: mean and log variance of q(z), (B, D) float32 each."""

    mean: Tensor
    log_variance: Tensor


class Judged(NamedTuple):
    """An estimate, and what it is worth.

    Attributes:
        estimate: λ.
        log_likelihood: (B,) mean over the samples.
        kl: (B,).
        gradient: ∇L of each image's own L by λ, (B, 2 D) detached; None if nobody asked.
    """

    estimate: Estimate
    log_likelihood: Tensor
    kl: Tensor
    gradient: Tensor | None

    @property
    def loss(self) -> Tensor:
        """L = −ELBO, (B,) nats."""
        return self.kl - self.log_likelihood


class IterativeVAE(SceneModel):
    """A VAE whose inference network refines its answer; its only slot is the code of the whole image.

    Attributes:
        batchwise: whether images of a batch see each other, which they do if gradients are normalised over the batch.
    """

    Config = IterativeVAEConfig
    config: IterativeVAEConfig

    def __init__(self, config: IterativeVAEConfig) -> None:
        super().__init__(config)
        if config.image_shape is None:
            raise UserError(
                "the iterative VAE needs image_shape (channels, height, width); it is taken from the data when training"
            )
        pixels, latents = math.prod(config.image_shape), config.latent_size
        self.batchwise = config.gradient_encoding == "batch_norm"
        activation = nn.ELU if config.activation == "elu" else nn.ReLU
        inputs = pixels * config.encode_data + 2 * latents * config.encode_estimate
        inputs += {"none": 0, "log_sign": 4 * latents}.get(config.gradient_encoding, 2 * latents)
        self.inference = nn.ModuleDict(
            {
                "features": _features((inputs, *config.widths), activation, highway=config.highway),
                "new": nn.Linear(config.widths[-1], 2 * latents),
            }
        )
        if config.update == "gated":
            self.inference["gate"] = nn.Linear(config.widths[-1], 2 * latents)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((latents, *config.widths)):
            layers += [nn.Linear(before, after), activation()]
        self.decoder = nn.Sequential(*layers, nn.Linear(config.widths[-1], pixels))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The inference network has a loss of its own where the decoder learns from the last estimate alone."""
        return {"inference": list(self.inference.parameters())} if self._apart else {}

    @property
    def _apart(self) -> bool:
        return self.config.decoder_learns == "last"

    def forward(
        self,
        images: Tensor,
        *,
        generator: torch.Generator | None = None,
        step: int | None = None,
        trajectory: bool = False,
    ) -> Decomposition:
        """Refine an estimate of each image's code.

        Args:
            images: (B, C, H, W) in [0, 1].
            generator: source of the posterior samples; None: fixed samples, and the posterior mean at last.
            step: unused (no schedule).
            trajectory: also return what each estimate decodes to, λ_0 included.
        """
        del step
        config, flat = self.config, images.float().flatten(1)
        noise = self._noise(flat, generator)
        nothing = flat.new_zeros(len(flat), config.latent_size)
        estimate, judged = Estimate(nothing, nothing), []
        for t in range(config.iterations + 1):
            judged.append(self._judge(flat, estimate, noise[t], gradient=t < config.iterations))
            if t < config.iterations:
                estimate = self._updated(flat, judged[-1])
        losses = torch.stack([found.loss for found in judged[1:]])
        refined = (losses * self._weights(losses).unsqueeze(1)).sum(dim=0)
        shown = self._decomposition(images, judged[-1], noise[-1])
        extra = {"elbo_first": -losses[0], "excess_nats": -judged[-1].log_likelihood - target_entropy(flat)}
        steps = None
        if trajectory:
            shown_at = noise if generator is not None else (None,) * len(judged)
            steps = tuple(self._decomposition(images, *pair).detach() for pair in zip(judged, shown_at, strict=True))
        return Decomposition(
            loss=losses[-1] if self._apart else refined,
            terms={**shown.terms, **extra},
            reconstruction=shown.reconstruction,
            components=shown.components,
            masks=shown.masks,
            slots=shown.slots,
            presence=shown.presence,
            posterior=shown.posterior,
            trajectory=steps,
            auxiliary_losses={"inference": refined} if self._apart else {},
        )

    def decode(self, slots: Tensor, presence: Tensor | None = None) -> Decoded:
        """What the code alone implies: the probabilities of the pixels.

        Args:
            slots: (B, 1, D).
            presence: (B, 1) in [0, 1]; None: present.
        """
        picture = self._picture(self.decoder(slots.squeeze(1)))
        shown = picture if presence is None else picture * presence[:, :, None, None]
        return Decoded(picture.unsqueeze(1), _everything(picture), shown)

    def _noise(self, flat: Tensor, generator: torch.Generator | None) -> Sequence[Tensor | None]:
        """(B, S, D) of λ_0 .. λ_T; without a generator fixed ones, and None for the posterior mean at last."""
        steps, shape = self.config.iterations, (self.config.samples, self.config.latent_size)
        if generator is not None:
            return normal((len(flat), steps + 1, *shape), generator).unbind(dim=1)
        fixed = fixed_normals(self.config.evaluation_seed, _EVALUATION_STREAM, range(steps), shape[0] * shape[1])
        return (*fixed.to(flat).view(steps, 1, *shape).expand(-1, len(flat), -1, -1), None)

    def _judge(self, flat: Tensor, estimate: Estimate, noise: Tensor | None, *, gradient: bool) -> Judged:
        """What an estimate is worth, with samples noise (B, S, D), and by what it would get better."""
        if not gradient or self.config.gradient_encoding == "none":
            return Judged(estimate, *self._bound(flat, estimate, noise), None)
        with torch.enable_grad():
            # The estimate may have a history: this asks for its gradient only, and leaves no trace on parameters.
            tracked = Estimate(*(part if part.requires_grad else part.detach().requires_grad_() for part in estimate))
            log_likelihood, kl = self._bound(flat, tracked, noise)
            slopes = torch.autograd.grad((kl - log_likelihood).sum(), tracked, retain_graph=estimate.mean.requires_grad)
        if not estimate.mean.requires_grad:
            log_likelihood, kl = log_likelihood.detach(), kl.detach()
        return Judged(estimate, log_likelihood, kl, torch.cat(slopes, dim=1))

    def _bound(self, flat: Tensor, estimate: Estimate, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """E log p(x | z) over the samples, and KL(q(z) || p(z)), (B,) each."""
        mean, log_variance = estimate
        codes = _codes(estimate, noise)
        logits = self.decoder(codes.flatten(0, 1)).float()
        with float32_island(flat.device):
            images = flat.unsqueeze(1).expand(-1, codes.shape[1], -1).flatten(0, 1)
            log_likelihood = bernoulli_log_likelihood(images, logits).unflatten(0, codes.shape[:2]).mean(dim=1)
            kl = 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance).sum(dim=1)
        return log_likelihood, kl

    def _updated(self, flat: Tensor, judged: Judged) -> Estimate:
        """The next estimate; the last one enters it without its history."""
        config, last = self.config, torch.cat(judged.estimate, dim=1).detach()
        seen = [flat - 0.5] if config.encode_data else []
        if config.encode_estimate:
            seen.append(last)
        if judged.gradient is not None:
            seen.append(encoded_gradient(judged.gradient, config.gradient_encoding))
        features = self.inference["features"](torch.cat(seen, dim=1))
        new = self.inference["new"](features).float()
        if config.update == "additive":
            new = last + new
        elif config.update == "gated":
            gate = self.inference["gate"](features).float().sigmoid()
            new = gate * last + (1.0 - gate) * new
        mean, log_variance = new.chunk(2, dim=1)
        return Estimate(mean, log_variance.clamp(-_LIMIT, _LIMIT))

    def _weights(self, losses: Tensor) -> Tensor:
        """(T,) shares of the estimates, summing to 1."""
        count = len(losses)
        numbers = torch.arange(1, count + 1, device=losses.device, dtype=losses.dtype)
        match self.config.weights:
            case "uniform":
                return torch.full_like(numbers, 1.0 / count)
            case "linspace":
                return numbers / numbers.sum()
            case "last":
                return (numbers == count).to(losses.dtype)

    def _decomposition(self, images: Tensor, judged: Judged, noise: Tensor | None) -> Decomposition:
        """One estimate in the contract's words; its code is the first sample's."""
        code = _codes(judged.estimate, noise)[:, 0]
        picture = self._picture(self.decoder(code))
        mean, log_variance = judged.estimate
        return Decomposition(
            loss=judged.loss,
            terms={"elbo": -judged.loss, "log_likelihood": judged.log_likelihood, "kl": judged.kl},
            reconstruction=picture,
            components=picture.unsqueeze(1),
            masks=_everything(picture),
            slots=code.unsqueeze(1),
            presence=code.new_ones(len(code), 1),
            posterior=Posterior(mean.unsqueeze(1), (0.5 * log_variance).exp().unsqueeze(1)),
        )

    def _picture(self, logits: Tensor) -> Tensor:
        assert self.config.image_shape is not None
        return logits.float().sigmoid().unflatten(1, self.config.image_shape)


def encoded_gradient(
    gradient: Tensor, encoding: Literal["log_sign", "log", "layer_norm", "batch_norm", "raw", "none"]
) -> Tensor:
    """What an inference network sees of gradients, whose sizes differ by orders of magnitude.

    Args:
        gradient: (B, 2 D), of the mean and of the log variance.
        encoding: log_sign: log(|g| + 1e-5) and the sign, (B, 4 D); log: without the sign; layer_norm: mean 0 and variance 1 over
            the D numbers of either half; batch_norm: over the batch; raw.

    Raises:
        UserError: for encoding "none".
    """
    match encoding:
        case "log_sign":
            return torch.cat([(gradient.abs() + _TINY).log(), gradient.sign()], dim=1)
        case "log":
            return (gradient.abs() + _TINY).log()
        case "layer_norm":
            return torch.cat([_normalised(half, 1) for half in gradient.chunk(2, dim=1)], dim=1)
        case "batch_norm":
            return _normalised(gradient, 0)
        case "raw":
            return gradient
    raise UserError("there is nothing to encode where the encoding is 'none'")


class _HighwayLayer(nn.Module):
    """gate · through + (1 − gate) · activation(linear): ``through`` is the input, or a projection where the width changes."""

    def __init__(self, before: int, after: int, activation: Callable[[], nn.Module], *, first: bool) -> None:
        super().__init__()
        self.dense = nn.Sequential(nn.Linear(before, after), activation())
        self.gate = nn.Linear(before, after)
        self.through = nn.Linear(before, after) if first or before != after else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """(B, before) -> (B, after)."""
        gate = self.gate(features).sigmoid()
        mixed: Tensor = gate * self.through(features) + (1.0 - gate) * self.dense(features)
        return mixed


def _features(sizes: tuple[int, ...], activation: Callable[[], nn.Module], *, highway: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(sizes)):
        if highway:
            layers.append(_HighwayLayer(before, after, activation, first=number == 0))
        else:
            layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers)


def _codes(estimate: Estimate, noise: Tensor | None) -> Tensor:
    """(B, S, D) samples, or (B, 1, D) the mean without noise."""
    mean, log_variance = (part.unsqueeze(1) for part in estimate)
    return mean if noise is None else mean + (0.5 * log_variance).exp() * noise


def _normalised(values: Tensor, dim: int) -> Tensor:
    centred = values - values.mean(dim=dim, keepdim=True)
    return centred / (centred.square().mean(dim=dim, keepdim=True) + _TINY**2).sqrt()


def _everything(picture: Tensor) -> Tensor:
    batch, _, height, width = picture.shape
    return picture.new_ones(batch, 1, height, width)


def importance_log_likelihood(
    model: SceneModel, images: Tensor, samples: int, generator: torch.Generator, *, chunk: int = 100
) -> Tensor:
    """Log p(x) by importance sampling from a model's posterior: log 1/S Σ p(x | z) p(z) / q(z), a lower bound in mean.

    Args:
        model: a Bernoulli VAE with one slot and a posterior.
        images: (B, C, H, W) in [0, 1]; a log probability where they are binary.
        samples: S, in the field 5,000.
        generator: source of the samples.
        chunk: samples decoded at a time.

    Returns:
        (B,) nats.
    """
    with torch.no_grad():
        found = model(images)
        assert found.posterior is not None
        mean, std = (part[:, 0] for part in found.posterior)
        parts = []
        for start in range(0, samples, chunk):
            size = min(chunk, samples - start)
            noise = normal((len(images), size, mean.shape[1]), generator)
            codes = mean.unsqueeze(1) + std.unsqueeze(1) * noise
            pictures = model.decode(codes.flatten(0, 1).unsqueeze(1)).reconstruction.double()  # type: ignore[operator]
            pictures = pictures.clamp(1e-12, 1.0 - 1e-12).unflatten(0, codes.shape[:2])
            target = images.double().unsqueeze(1)
            fits = (target * pictures.log() + (1.0 - target) * (-pictures).log1p()).flatten(2).sum(dim=2)
            ratio = 0.5 * (noise.double().square() - codes.double().square()) + std.double().log().unsqueeze(1)
            parts.append(fits + ratio.sum(dim=2))
        return torch.cat(parts, dim=1).logsumexp(dim=1) - math.log(samples)
