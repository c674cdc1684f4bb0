"""IODINE: slots that a network refines step by step, from the gradients of its own loss.

Greff, Lopez Kaufman, Kabra, Watters, Burgess, Zoran, Matthey, Botvinick, Lerchner: "Multi-Object Representation Learning with
Iterative Variational Inference", ICML 2019, arXiv:1903.00450.

Symbols: B images of C×H×W pixels x; K slots z_k of Z numbers; T refinement steps; λ_k the numbers that give q(z_k) its mean and
variance; μ_k and m_k the decoded colours and mask logits, π = softmax over k of m; p(x_c | μ_kc) normal or logistic with scale σ.

    q(z_k; λ_k) = N(mean, variance);  p(z_k) = N(0, τ² I);  (μ_k, m_k) = Dec(z_k), the same decoder for every slot;
    L = − Σ_i log Σ_k π_ik Π_c p(x_ic | μ_ikc) + Σ_k KL(q(z_k; λ_k) || p(z_k)),  with one sample of z;

    λ_0 is one learned vector, the same for all slots;  λ_{t+1} = λ_t + network(x, μ, m, dL/dμ, dL/dm, λ_t, dL/dλ_t, ...);
    loss = Σ_{t=0..T} w_t L_t,  w_t = t/T.

Nothing but the noise of z_0 tells the slots apart. So without a generator the steps before the last use noise that is fixed, the
same for every image (``evaluation_seed``), and the last step decodes posterior means. Gradients inside the forward pass are taken
of each image's own loss, so that images do not see each other; nothing is left on the model or on its parameters.

No slot is the background by construction, but one of them may be in every image: the one that wins most pixels, if they are more
than a third (``floating_background``). A slot is present if it wins one pixel in a thousand. ``trajectory`` has T + 1
decompositions, before the first and after every step; the loss of each is its own L_t.

Departures from the paper: its text and its released code differ in places, and public ports in more; every difference is a
setting (:mod:`objectwise.models.iodine_config`), and the presets of :mod:`objectwise.recipes.iodine` put them together. Beside
that, gradients are of each image's loss, not of the batch's mean (``gradient_scale``), and no factor regression is trained
along. Ours, and off but in the preset ``tuned``: a σ that is wide at first (``sigma_start``), with which slots part early; a
decoder that draws on a coarse grid (``decoder_doublings``); dense layers that see where features are (``encoder_pooling none``).

How it is computed fast is said in ``docs/notes/0008-iodine-levers.md``; each shortcut can be switched off (``levers``).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from objectwise.core import (
    Decoded,
    Decomposition,
    Posterior,
    SceneModel,
    UserError,
    fixed_normals,
    normal,
    presence_from_masks,
)
from objectwise.models.iodine_config import FIXED_INPUTS, IODINEConfig
from objectwise.models.iodine_refinement import Refinement, State
from objectwise.nn.broadcast_convolution import PaddedBroadcastDecoder
from objectwise.nn.divergences import kl_normal
from objectwise.nn.float32 import float32_island, wide
from objectwise.nn.initialise import truncated_normal
from objectwise.nn.known_gradients import one_pass, recomputed, with_gradients
from objectwise.nn.mixtures import (
    LogDensity,
    MixtureTerms,
    joint_mixture,
    leave_one_out,
    log_mask_weights,
    log_prob_without,
    logistic_log_density,
    mixture_terms,
    normal_log_density,
    per_channel_mixture,
)
from objectwise.nn.schedules import annealed

_EVALUATION_STREAM = (1_000, 0)
"""Of the fixed noise."""


class Guess(NamedTuple):
    """What one step says: one sample of the posterior, decoded and scored.

    Attributes:
        slots: (B, K, Z) z.
        mean: (B, K, Z) of q.
        std: (B, K, Z) of q.
        means: (B, K, C, H, W) μ.
        logits: (B, K, H, W) m.
        nll: (B,) −log p(x | z) in nats.
        kl: (B,) summed over slots, in nats.
    """

    slots: Tensor
    mean: Tensor
    std: Tensor
    means: Tensor
    logits: Tensor
    nll: Tensor
    kl: Tensor

    def detach(self) -> Guess:
        """The same without history."""
        return Guess(*(tensor.detach() for tensor in self))


class Slopes(NamedTuple):
    """Gradients of each image's own L: the refinement network's inputs.

    Attributes:
        means: (B, K, C, H, W) dL/dμ.
        masks: (B, K, H, W) dL/dm, or dL/dπ.
        posterior: (B, K, 2 Z) dL/dλ.
        log_prob: (B, H, W) log p(x_i).
    """

    means: Tensor
    masks: Tensor
    posterior: Tensor
    log_prob: Tensor


class IODINE(SceneModel):
    """IODINE; slots are exchangeable."""

    Config = IODINEConfig
    config: IODINEConfig
    annealed_sigma: Tensor | None

    def __init__(self, config: IODINEConfig) -> None:
        super().__init__(config)
        if config.image_shape is None:
            raise UserError(
                "IODINE needs image_shape (channels, height, width); it is taken from the data when training"
            )
        channels, *size = config.image_shape
        self.decoder = PaddedBroadcastDecoder(
            config.latent_size,
            channels + 1,
            (size[0], size[1]),
            config.decoder_widths,
            config.decoder_kernel,
            config.decoder_constant,
            config.decoder_doublings,
        )
        self.refinement = Refinement(config)
        truncated_normal(self)
        start = torch.zeros(2 * config.latent_size)
        if config.initial_posterior == "glorot":
            limit = (1.5 / config.latent_size) ** 0.5
            nn.init.uniform_(start, -limit, limit)
        self.initial = nn.Parameter(start, requires_grad=config.initial_posterior != "fixed")
        self.log_sigma = nn.Parameter(torch.tensor(math.log(config.sigma))) if config.learned_sigma else None
        self.register_buffer("annealed_sigma", None if config.sigma_start is None else torch.tensor(config.sigma_start))

    # -- the two loops --------------------------------------------------------------------------------------------------

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
            generator: source of the posterior samples; None: fixed noise before the last step, posterior means at the last.
            step: of training, sets σ where it falls; None: σ as the last training step left it.
            trajectory: also return what every step says.
        """
        if step is not None and self.annealed_sigma is not None:
            fallen = max(0, step - self.config.sigma_hold)
            falling = annealed(self.config.sigma_start, self.config.sigma, self.config.sigma_steps, fallen)
            self.annealed_sigma = torch.full_like(self.annealed_sigma, falling)
        learning = torch.is_grad_enabled()
        config, last = self.config, self.config.refinement_steps
        # The inner gradients need grad mode whatever the caller's; what inference mode made cannot take part in it.
        with torch.inference_mode(False), torch.enable_grad():
            images = _plain(images)
            noise = self._noise(images, generator)
            fixed = self.refinement.fixed(images)
            state = self._start(images)
            bounds: list[Tensor] = []
            guesses: list[Guess] = []
            for t, weight in enumerate(config.step_weights):
                if config.levers.checkpoint and learning and not trajectory and t < last:
                    bound, state = self._forgetful_step(images, fixed, state, noise[t], weight != 0.0)
                else:
                    weighed = learning and weight != 0.0
                    guess, state = self._step(images, fixed, state, noise[t], learning, weighed, t == last)
                    bound = guess.nll + guess.kl
                    guesses = [*guesses, guess.detach()] if trajectory else []
                state = state if learning else state.detach()
                bounds.append(bound)
            weights = bounds[0].new_tensor(config.step_weights)
            loss = (weights.unsqueeze(1) * torch.stack(bounds)).sum(dim=0)
            found = self._decomposition(guess, loss, bounds[0])
            found = found if learning else found.detach()
            steps = tuple(self._decomposition(g, b, bounds[0]).detach() for g, b in zip(guesses, bounds, strict=False))
            return replace(found, trajectory=steps) if trajectory else found

    def refinement_inputs(
        self, images: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[dict[str, Tensor], ...]:
        """What the refinement network is given at each of the T steps, by name, before its layer normalisation, detached.

        Pictures are (B, K, c, H, W), or (B, c, H, W) where all slots share them; ``zp`` and ``dzp`` are (B, K, 2 Z), also where
        ``dzp`` is laid on every pixel. The constant ``flat_capacity`` is left out.

        Args:
            images: as for :meth:`forward`.
            generator: as for :meth:`forward`, whose steps these are.
        """
        found: list[dict[str, Tensor]] = []
        with torch.inference_mode(False), torch.enable_grad():
            images = _plain(images)
            noise, fixed, state = self._noise(images, generator), self.refinement.fixed(images), self._start(images)
            for t in range(self.config.refinement_steps):
                _, after = self._step(images, fixed, state, noise[t], False, False, False, found)
                state = after.detach()
        unchanged = {
            name: self.refinement.fixed_input(name, images).detach()
            for name in self.config.spatial_inputs
            if name in FIXED_INPUTS
        }
        return tuple(unchanged | step for step in found)

    def _step(
        self,
        images: Tensor,
        fixed: Tensor | None,
        state: State,
        noise: Tensor,
        learning: bool,
        weighed: bool,
        last: bool,
        seen: list[dict[str, Tensor]] | None = None,
    ) -> tuple[Guess, State]:
        """Decode and score a sample of the posterior; unless it is the last one, refine the posterior.

        Args:
            images: (B, C, H, W).
            fixed: what :meth:`Refinement.fixed` made of them.
            state: of the step before.
            noise: (B, K, Z).
            learning: whether the loss will be differentiated.
            weighed: whether this step has a weight in it.
            last: whether it is the last one.
            seen: if given, what the refinement network is shown is added to it.
        """
        posterior = state.posterior
        if not posterior.requires_grad:
            posterior = posterior.detach().requires_grad_()
        mean, std = self.moments(posterior)
        slots = mean + std * noise
        kl = kl_normal(mean, std, self.config.prior_variance**0.5).flatten(1).sum(dim=1)
        slopes: Slopes | None = None
        if self.config.goes_in_one_pass and (learning or not last):
            nll, means, logits, terms, of_slots = self._score_in_one_pass(images, slots, weighed)
            slopes = self._slopes(terms, posterior, mean, std, noise, of_slots)
        elif self.config.levers.analytic_gradients:
            means, logits = self._draw(slots)
            nll, terms = self._score(images, means, logits)
            if not last:
                towards = (terms.of_means, terms.of_logits)
                (of_slots,) = self._inner((means, logits), (slots,), towards, learning)
                slopes = self._slopes(terms, posterior, mean, std, noise, of_slots)
        else:
            means, logits = self._draw(slots)
            nll, log_prob, masks = self._plain_score(images, means, logits)
            if not last:
                wanted = (posterior, means, logits if self.config.mask_gradient == "logits" else masks)
                of_posterior, of_means, of_masks = self._inner(((nll + kl).sum(),), wanted, None, learning)
                slopes = self._scaled(Slopes(of_means, of_masks, of_posterior, log_prob))
        guess = Guess(slots, mean, std, means, logits, nll, kl)
        if last:
            return guess, state
        assert slopes is not None
        pictures, vectors = self._inputs(images, guess, slopes, posterior)
        if seen is not None:
            flat = {name: vector for name, vector in vectors.items() if name in self.config.all_inputs}
            seen.append({name: value.detach() for name, value in (pictures | flat).items()})
        base = posterior.detach() if self.config.gradient_scope == "all" else posterior
        return guess, self.refinement(images, fixed, pictures, vectors, state, base)

    def _forgetful_step(
        self, images: Tensor, fixed: Tensor | None, state: State, noise: Tensor, weighed: bool
    ) -> tuple[Tensor, State]:
        """A refinement step whose graph is made again in the backward pass: its L and the state after it."""

        def run(images: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
            before, others = State(*rest[:3]), rest[3:]
            guess, after = self._step(images, others[0] if others else None, before, noise, True, weighed, False)
            return guess.nll + guess.kl, *after

        tensors = [images, *state, *(() if fixed is None else (fixed,))]
        bound, *after = recomputed(run, tensors, list(self.parameters()))
        return bound, State(*after)

    # -- posterior ------------------------------------------------------------------------------------------------------

    def moments(self, posterior: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, K, Z) of q from λ (B, K, 2 Z)."""
        mean, raw = posterior.chunk(2, dim=2)
        if self.config.posterior_scale == "log_variance":
            return mean, (0.5 * raw).exp()
        return mean, nn.functional.softplus(raw).sqrt()

    def _start(self, images: Tensor) -> State:
        batch, slots, width = len(images), self.config.num_slots, self.refinement.memory
        nothing = self.initial.new_zeros(batch, slots, width)
        return State(self.initial.expand(batch, slots, -1), nothing, nothing)

    def _noise(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """(T + 1, B, K, Z) standard normal noise: the generator's, or the fixed one, which ends in zeros."""
        config = self.config
        steps, shape = config.refinement_steps, (config.num_slots, config.latent_size)
        if generator is not None:
            return torch.stack([normal((len(images), *shape), generator) for _ in range(steps + 1)]).to(self.initial)
        # One row per slot and the steps in order, so that more slots or steps keep the noise of the first ones.
        drawn = fixed_normals(config.evaluation_seed, _EVALUATION_STREAM, range(shape[0]), steps * shape[1])
        fixed = drawn.view(shape[0], steps, shape[1]).transpose(0, 1)
        whole = torch.cat([fixed, fixed.new_zeros(1, *shape)])
        return whole.to(self.initial).unsqueeze(1).expand(-1, len(images), -1, -1)

    # -- likelihood -----------------------------------------------------------------------------------------------------

    def sigma(self) -> Tensor:
        """σ (or the logistic density's s), a scalar; where it falls, that of the last training step."""
        if self.annealed_sigma is not None:
            return self.annealed_sigma
        return self.initial.new_tensor(self.config.sigma) if self.log_sigma is None else self.log_sigma.exp()

    def _draw(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, Z) -> colours (B, K, C, H, W) and mask logits (B, K, H, W), at least float32."""
        drawn = self.decoder(slots.flatten(0, 1), tiled=not self.config.levers.broadcast_convolution)
        drawn = wide(drawn).contiguous().unflatten(0, slots.shape[:2])
        logits, colours = drawn[:, :, 0], drawn[:, :, 1:]
        return colours.sigmoid() if self.config.rgb == "sigmoid" else colours, logits

    def _terms(self, images: Tensor, means: Tensor, logits: Tensor) -> MixtureTerms:
        config = self.config
        joint, logistic = config.likelihood == "joint", config.density == "logistic"
        with float32_island(images.device):
            return mixture_terms(
                images, means, logits, self.sigma(), joint=joint, logistic=logistic, floor=config.mask_floor
            )

    def _score(self, images: Tensor, means: Tensor, logits: Tensor) -> tuple[Tensor, MixtureTerms]:
        """−log p(x | z), (B,), whose gradient is known in closed form; and that gradient."""
        if self.config.gradient_scope == "none":
            terms = self._terms(images, means, logits)
            return -terms.log_prob.flatten(1).sum(dim=1), terms
        with torch.no_grad():
            terms = self._terms(images, means, logits)
        sources, slopes = self._surroundings(images, terms)
        nll = -terms.log_prob.flatten(1).sum(dim=1)
        return with_gradients(nll, (means, logits, *sources), (terms.of_means, terms.of_logits, *slopes)), terms

    def _surroundings(self, images: Tensor, terms: MixtureTerms) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What the likelihood depends on beside the decoder: images and σ; and its gradients there."""
        return (images, self.sigma().expand(len(images))), (-terms.of_means.sum(dim=1), terms.of_scale)

    def _score_in_one_pass(
        self, images: Tensor, slots: Tensor, weighed: bool
    ) -> tuple[Tensor, Tensor, Tensor, MixtureTerms, Tensor]:
        """Decode, score, and go back through the decoder once: −log p(x | z), μ, m, the likelihood's gradients, dNLL/dz."""
        kept: list[MixtureTerms] = []

        def score(means: Tensor, logits: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            kept.append(self._terms(images.detach(), means, logits))
            return -kept[-1].log_prob.flatten(1).sum(dim=1), (kept[-1].of_means, kept[-1].of_logits)

        parameters = list(self.decoder.parameters())
        nll, (means, logits), of_slots = one_pass(self._draw, score, slots, parameters, weighed=weighed)
        terms = kept.pop()  # not kept: the function lives on until the backward pass
        return with_gradients(nll, *self._surroundings(images, terms)), means, logits, terms, of_slots

    def _slopes(
        self, terms: MixtureTerms, posterior: Tensor, mean: Tensor, std: Tensor, noise: Tensor, of_slots: Tensor
    ) -> Slopes:
        """Inputs from gradients in closed form: through z = mean + std·noise, and of the KL."""
        precision = 1.0 / self.config.prior_variance
        if self.config.posterior_scale == "log_variance":
            of_raw = 0.5 * (of_slots * noise * std + precision * std.square() - 1.0)
        else:
            of_variance = 0.5 * (of_slots * noise / std + precision - 1.0 / std.square())
            of_raw = posterior.chunk(2, dim=2)[1].sigmoid() * of_variance
        of_masks = terms.of_logits if self.config.mask_gradient == "logits" else terms.of_masks
        of_posterior = torch.cat([of_slots + precision * mean, of_raw], dim=2)
        return self._scaled(Slopes(terms.of_means, of_masks, of_posterior, terms.log_prob))

    def _plain_score(self, images: Tensor, means: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As it is written, to be differentiated automatically: −log p(x | z), (B,); log p(x_i); the masks on the way there."""
        masks = logits.softmax(dim=1)
        log_weights = (masks + self.config.mask_floor).log() if self.config.mask_floor else logits.log_softmax(dim=1)
        mixture = joint_mixture if self.config.likelihood == "joint" else per_channel_mixture
        with float32_island(images.device):
            log_prob = mixture(images, means, log_weights, self.sigma().expand(means.shape[1]), self._log_density)
        return -log_prob.flatten(1).sum(dim=1), log_prob, masks

    def _inner(
        self,
        outputs: tuple[Tensor, ...],
        wanted: tuple[Tensor, ...],
        towards: tuple[Tensor, ...] | None,
        learning: bool,
    ) -> tuple[Tensor, ...]:
        """The inner gradient: of no parameter, and of second order only where the scope asks for it."""
        second = self.config.gradient_scope == "none" and learning
        return torch.autograd.grad(outputs, wanted, towards, retain_graph=learning, create_graph=second)

    def _scaled(self, slopes: Slopes) -> Slopes:
        scale = self.config.gradient_scale
        if scale == 1.0:
            return slopes
        return Slopes(scale * slopes.means, scale * slopes.masks, scale * slopes.posterior, slopes.log_prob)

    @property
    def _log_density(self) -> LogDensity:
        return logistic_log_density if self.config.density == "logistic" else normal_log_density

    # -- refinement inputs ----------------------------------------------------------------------------------------------

    def _inputs(
        self, images: Tensor, guess: Guess, slopes: Slopes, posterior: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The refinement network's pictures and vectors that change from step to step, detached as the scope has it."""
        config = self.config
        with float32_island(images.device):
            pictures = self.pictures(images, guess.means, guess.logits, slopes)
        vectors = {"zp": posterior}
        if "dzp" in config.all_inputs:
            vectors["dzp"] = slopes.posterior
        stopped: set[str] = set()
        if config.gradient_scope != "none":
            stopped = {"counterfactual", "dcomponents", "dmask", "dzp", "log_prob"}
        if config.detached_inputs:
            stopped |= {*pictures, *vectors}
        for values in (pictures, vectors):
            values |= {name: value.detach() for name, value in values.items() if name in stopped}
        return pictures, vectors

    def pictures(self, images: Tensor, means: Tensor, logits: Tensor, slopes: Slopes) -> dict[str, Tensor]:
        """Those of the chosen spatial inputs that change from step to step, by name: (B, K, c, H, W), log_prob (B, 1, H, W).

        Args:
            images: (B, C, H, W).
            means: (B, K, C, H, W) μ.
            logits: (B, K, H, W) m.
            slopes: what else is known of this step.
        """
        config, wanted = self.config, self.config.spatial_inputs
        found = {"components": means, "mask": logits.unsqueeze(2), "pred_mask": logits.softmax(dim=1).unsqueeze(2)}
        found |= {"dcomponents": slopes.means, "dmask": slopes.masks.unsqueeze(2)}
        log_prob = slopes.log_prob.unsqueeze(1)
        found["log_prob"] = log_prob if config.likelihood_inputs == "log" else log_prob.exp()
        if "posterior" in wanted or "counterfactual" in wanted:
            density = self._log_density(images, means, self.sigma().expand(means.shape[1]))
            if "posterior" in wanted:
                found["posterior"] = self._shares(density.sum(dim=2)).unsqueeze(2)
            if "counterfactual" in wanted:
                found["counterfactual"] = self._counterfactual(slopes.log_prob, logits, density).unsqueeze(2)
        return {name: picture for name, picture in found.items() if name in wanted}

    def _shares(self, log_density: Tensor) -> Tensor:
        """p_k / (Σ_j p_j + floor) from log p (B, K, H, W), which may be far below what floats can hold."""
        shares = log_density.softmax(dim=1)
        if self.config.posterior_floor == 0.0:
            return shares
        total = torch.logsumexp(log_density, dim=1, keepdim=True)
        return shares * (total - math.log(self.config.posterior_floor)).sigmoid()

    def _counterfactual(self, log_prob: Tensor, logits: Tensor, density: Tensor) -> Tensor:
        """(B, K, H, W) log p(x_i) minus its value without slot k; or, as densities, the latter as the port has it."""
        config = self.config
        log_weights = log_mask_weights(logits, config.mask_floor)
        leave_out = leave_one_out if config.levers.fast_leave_one_out else _leave_one_out_plainly
        if config.likelihood_inputs == "density":
            rest = leave_out(log_weights + density.sum(dim=2)).exp()
            return rest / (1.0 - log_weights.exp() + 1e-5)
        without = log_prob_without(log_weights, density, leave_out, joint=config.likelihood == "joint")
        return log_prob.unsqueeze(1) - without

    # -- results --------------------------------------------------------------------------------------------------------

    def _decomposition(self, guess: Guess, loss: Tensor, first: Tensor) -> Decomposition:
        """The contract's words for a guess; ``first`` is L_0, from which ``gain`` is counted."""
        with float32_island(loss.device):
            masks = guess.logits.softmax(dim=1)
            bound = guess.nll + guess.kl
            return Decomposition(
                loss=loss,
                terms={
                    "elbo": -bound,
                    "nll": guess.nll,
                    "kl": guess.kl,
                    "gain": (first - bound).detach(),
                    "bits_per_dim": guess.nll / (guess.means[0, 0].numel() * math.log(2.0)) + 8.0,
                },
                reconstruction=(masks.unsqueeze(2) * guess.means).sum(dim=1),
                components=guess.means,
                masks=masks,
                slots=guess.slots,
                presence=presence_from_masks(masks),
                floating_background=True,
                posterior=Posterior(guess.mean, guess.std),
            )

    def decode(self, slots: Tensor, presence: Tensor | None = None) -> Decoded:
        """What slots alone imply.

        Args:
            slots: (B, K, Z), any K.
            presence: (B, K) in [0, 1], by which masks are weighted before they share the pixels; None: all present.
        """
        means, logits = self._draw(slots)
        with float32_island(slots.device):
            if presence is not None:
                logits = logits + presence.clamp_min(1e-6).log()[:, :, None, None]
            masks = logits.softmax(dim=1)
            return Decoded(means, masks, (masks.unsqueeze(2) * means).sum(dim=1))


def _plain(images: Tensor) -> Tensor:
    """The images as tensors that can take part in gradients, channels first.

    Channels-last images give channels-last gradients of the likelihood, and PyTorch 2.13's bfloat16 convolutions crash in their
    backward pass on those.
    """
    return (images.clone() if images.is_inference() else images).contiguous()


def _leave_one_out_plainly(values: Tensor) -> Tensor:
    """Log Σ_{j≠k} exp v_j over axis 1, one k after the other."""
    slots = range(values.shape[1])
    return torch.stack([torch.logsumexp(values[:, [j for j in slots if j != k]], dim=1) for k in slots], dim=1)
