"""Attend, Infer, Repeat (AIR) and Difference AIR: find objects one by one and count them.

Eslami, Heess, Weber, Tassa, Szepesvari, Kavukcuoglu, Hinton: "Attend, Infer, Repeat: Fast Scene Understanding
with Generative Models", NIPS 2016, arXiv:1603.08575. Difference AIR: its appendix.

Symbols: B images of C×H×W pixels; N steps; per step i a pose ``where`` (scale and shift, 3 numbers), an appearance ``what``
(D_what numbers), and whether the step is used at all, ``pres``; x the image; y_i the picture that step i adds;
c_n = y_1 + ... + y_n the canvas after n steps; p_i = q(step i is used | step i-1 was).

The model, in the paper's order:

* generation: n ~ p(n) ∝ k^n for n ≤ N; z_what ~ N(0, I), z_where ~ N(0, Σ); y_i = write(Dec(z_what_i), z_where_i);
  x ~ N(c_n, σ²);
* inference: h_i from x and z_{i-1} by an LSTM (AIR), or from x − c_{i-1} alone (DAIR); p_i and q(z_where_i | h_i);
  a glimpse read at z_where_i; q(z_what_i | glimpse).

**Training objective.** Every object is either in the first n steps or nowhere, so the N+1 possible counts are summed exactly
instead of sampled. With w_n = p_1 ... p_n (1 − p_{n+1}) and S_i = p_1 ... p_i,

    ELBO = E_z[ Σ_n w_n log p(x | c_n) − Σ_i S_{i-1} KL(Bern p_i || Bern ρ_i) − Σ_i S_i KL(q(z_i) || p(z_i)) ],

where z_1..z_N come from the chain that never stops and ρ_i = p(n ≥ i) / p(n ≥ i−1). This is exact (z_{>n} integrates out), and
all that is left random is reparameterised, so the paper's score-function estimator and its baselines are not needed.

Departures from the paper:

* the count is marginalised as above; the paper samples it (score function with NVIL baselines);
* the count prior is fixed at a small k (1e-5); the paper anneals it over 100,000 steps, which the exact sum makes
  unnecessary (with k = 0.01 and blurred digits AIR stays at "always N");
* scale and shift are s = scale_mean·exp(u), t = shift_scale·v with standard-normal-like u, v, so that scales stay positive
  without division; the paper does not give its parametrisation;
* all networks' sizes: the paper gives few; ours are those of public re-implementations where known;
* DAIR reads its glimpse from the difference image and passes gradients through the canvas; the paper's text leaves both open;
* Adam with a learning rate of 5e-4 for 1e-4: the lower variance allows it.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from objectwise.core import Config, Decoded, Decomposition, Posterior, SceneModel, UserError, normal
from objectwise.nn import spatial_transformer
from objectwise.nn.divergences import kl_bernoulli, kl_normal
from objectwise.nn.float32 import float32_island


class AIRConfig(Config):
    """Settings of AIR and DAIR."""

    kind: Literal["air", "dair"] = "air"
    """air: an LSTM looks at the image at every step; dair: each step sees only what the steps before left unexplained."""
    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width) of the images; None: taken from the data."""
    num_steps: int = Field(3, ge=1, le=32)
    """N, the largest number of objects; one more than the data has leaves a spare step."""
    what_size: int = Field(50, ge=1)
    """Numbers that describe an object's appearance."""
    glimpse_size: int = Field(24, ge=4)
    """Side of the attention window in pixels."""
    embedding_size: int = Field(256, ge=1)
    """Width of the image's (AIR) or the difference image's (DAIR) embedding."""
    hidden_size: int = Field(256, ge=1)
    """Width of the LSTM (AIR) or of the second layer (DAIR)."""
    what_hidden: int = Field(200, ge=1)
    """Hidden width of the glimpse encoder and decoder."""
    count_prior: float = Field(1e-5, gt=0.0, lt=1.0)
    """k in p(n) ∝ k^n: small values make each further object expensive and keep AIR from "always N"."""
    likelihood_std: float = Field(0.3, gt=0.0, le=1.0)
    """σ of the pixels, for images in [0, 1]."""
    scale_mean: float = Field(0.42, gt=0.0, le=2.0)
    """Prior mean of an object's window as a share of the image's side."""
    scale_std: float = Field(0.15, gt=0.0)
    """Prior standard deviation of the logarithm of that share."""
    shift_scale: float = Field(0.6, gt=0.0, le=2.0)
    """Prior standard deviation of a window's centre, in half image sides."""
    presence_bias: float = -1.0
    """Initial logit of p_i; about -1 for AIR (it sticks at 'always N' from above), +1 is fine for DAIR."""
    decoder_bias: float = -2.0
    """Initial logit of the decoder's pixels: faint first patches keep steps from being switched off early."""
    mask_background: float = Field(0.05, gt=0.0)
    """Intensity at which an object's layer and the background share a pixel's mask equally."""

    @property
    def max_objects(self) -> int:
        """Most objects the model can find."""
        return self.num_steps


class Step(NamedTuple):
    """What one step of the chain found.

    Attributes:
        logit: (B,) logit of p_i.
        where_mean, where_std: (B, 3) posterior of (log scale, vertical shift, horizontal shift), in prior units.
        what_mean, what_std: (B, D_what).
        slot: (B, 3 + D_what) the sample (or mean) that was used, where first.
        layer: (B, C, H, W) y_i.
    """

    logit: Tensor
    where_mean: Tensor
    where_std: Tensor
    what_mean: Tensor
    what_std: Tensor
    slot: Tensor
    layer: Tensor


class AIR(SceneModel):
    """AIR or, with ``kind="dair"``, Difference AIR.

    Slot 0 of its decompositions is the (black) background, slots 1..N the steps; a slot is (u, v_y, v_x, what).
    """

    Config = AIRConfig
    config: AIRConfig

    def __init__(self, config: AIRConfig) -> None:
        super().__init__(config)
        if config.image_shape is None:
            raise UserError("AIR needs image_shape (channels, height, width); it is taken from the data when training")
        channels, height, width = config.image_shape
        pixels, glimpse = channels * height * width, channels * config.glimpse_size**2
        self.embed = nn.Sequential(nn.Flatten(), nn.Linear(pixels, config.embedding_size), nn.ReLU())
        if config.kind == "air":
            self.recurrent = nn.LSTMCell(config.embedding_size + self.slot_size, config.hidden_size)
        else:
            self.hidden = nn.Sequential(nn.Linear(config.embedding_size, config.hidden_size), nn.ReLU())
        self.head = nn.Linear(config.hidden_size, 1 + 2 * 3)
        self.encoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(glimpse, config.what_hidden),
            nn.ReLU(),
            nn.Linear(config.what_hidden, 2 * config.what_size),
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.what_size, config.what_hidden),
            nn.ReLU(),
            nn.Linear(config.what_hidden, glimpse),
            nn.Sigmoid(),
            nn.Unflatten(1, (channels, config.glimpse_size, config.glimpse_size)),
        )
        self._initialise()

    @property
    def slot_size(self) -> int:
        """D = 3 + D_what."""
        return 3 + self.config.what_size

    def _initialise(self) -> None:
        """The starting point at which counting is learned rather than 'always 0' or 'always N'."""
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.bias[0] = self.config.presence_bias
            self.head.bias[4:] = -1.5
        last = self.decoder[2]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, self.config.decoder_bias)

    # -- forward ------------------------------------------------------------------------------------------------

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
            trajectory: also return the decomposition as it stood after each step.
        """
        del step
        chain = self.infer(images, generator)
        decomposition = self._decomposition(images, chain)
        if not trajectory:
            return decomposition
        steps = tuple(self._decomposition(images, chain, alive=n).detach() for n in range(1, self.config.num_steps + 1))
        return Decomposition(**{**vars(decomposition), "trajectory": steps})

    def infer(self, images: Tensor, generator: torch.Generator | None) -> list[Step]:
        """The chain q(z_1:N | x) that never stops; arguments as in :meth:`forward`."""
        batch = images.shape[0]
        canvas = torch.zeros_like(images)
        previous = images.new_zeros(batch, self.slot_size)
        state = tuple(images.new_zeros(batch, self.config.hidden_size) for _ in range(2))
        embedding = self.embed(images) if self.config.kind == "air" else None
        chain = []
        for _ in range(self.config.num_steps):
            if embedding is None:
                source = images - canvas
                hidden = self.hidden(self.embed(source))
            else:
                source = images
                with float32_island(images.device):
                    state = self.recurrent(torch.cat([embedding.float(), previous], dim=1), state)
                hidden = state[0]
            found = self._find(source, hidden, generator)
            canvas, previous = canvas + found.layer, found.slot
            chain.append(found)
        return chain

    def _find(self, source: Tensor, hidden: Tensor, generator: torch.Generator | None) -> Step:
        """One step: whether, where, what."""
        logit, where_mean, where_spread = self.head(hidden).float().split([1, 3, 3], dim=1)
        logit = 8.0 * torch.tanh(logit.squeeze(1) / 8.0)
        where_std = nn.functional.softplus(where_spread) + 1e-3
        where = _sample(where_mean, where_std, generator)
        scale, shift = self._pose(where)
        glimpse = spatial_transformer.read(source, scale, shift, self.config.glimpse_size)
        what_mean, what_spread = self.encoder(glimpse).float().chunk(2, dim=1)
        what_std = nn.functional.softplus(what_spread) + 1e-3
        slot = torch.cat([where, _sample(what_mean, what_std, generator)], dim=1)
        return Step(logit, where_mean, where_std, what_mean, what_std, slot, self._draw(slot))

    def _pose(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """(…, 3) numbers in prior units -> scale (…, 2) and shift (…, 2)."""
        scale = self.config.scale_mean * torch.exp((self.config.scale_std * where[..., :1]).clamp(-3.0, 1.5))
        return scale.expand(*where.shape[:-1], 2), self.config.shift_scale * where[..., 1:3]

    def _draw(self, slots: Tensor) -> Tensor:
        """(M, D) slots -> (M, C, H, W) layers."""
        _, height, width = self.config.image_shape or (0, 0, 0)
        scale, shift = self._pose(slots[:, :3])
        return spatial_transformer.write(self.decoder(slots[:, 3:]), scale, shift, height, width)

    # -- the objective ------------------------------------------------------------------------------------------

    def count_prior_logits(self, device: torch.device) -> Tensor:
        """(N,) logits of ρ_i = p(n ≥ i | n ≥ i−1) under p(n) ∝ k^n, n = 0..N."""
        k, most = self.config.count_prior, self.config.num_steps
        # p(n ≥ i) / p(n = i−1) = k + ... + k^{N−i+1}; factored, because k^N itself underflows for small k.
        odds = [math.log(k) + math.log(math.fsum(k**j for j in range(most - i + 1))) for i in range(1, most + 1)]
        return torch.tensor(odds, device=device)

    def _decomposition(self, images: Tensor, chain: list[Step], alive: int | None = None) -> Decomposition:
        """Put the parts together; ``alive`` keeps only the first steps (for trajectories)."""
        with float32_island(images.device):
            logits = torch.stack([found.logit for found in chain], dim=1)
            if alive is not None:
                stopped = torch.arange(len(chain), device=images.device) >= alive
                logits = logits.masked_fill(stopped, -30.0)
            layers = torch.stack([found.layer for found in chain], dim=1)
            terms, survival, count_probs = self._objective(images.float(), chain, logits, layers)
            slots = torch.stack([found.slot for found in chain], dim=1)
            components, masks, reconstruction = self._compose(layers, survival)
        empty = slots.new_zeros(slots.shape[0], 1, self.slot_size)
        mean = torch.stack([torch.cat([s.where_mean, s.what_mean], dim=1) for s in chain], dim=1)
        std = torch.stack([torch.cat([s.where_std, s.what_std], dim=1) for s in chain], dim=1)
        return Decomposition(
            loss=-terms["elbo"],
            terms=terms,
            reconstruction=reconstruction,
            components=components,
            masks=masks,
            slots=torch.cat([empty, slots], dim=1),
            presence=torch.cat([torch.ones_like(survival[:, :1]), survival], dim=1),
            background=(0,),
            posterior=Posterior(torch.cat([empty, mean], dim=1), torch.cat([empty, std], dim=1)),
            boxes=self._boxes(slots),
            count_probs=count_probs,
        )

    def _objective(
        self, images: Tensor, chain: list[Step], logits: Tensor, layers: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The ELBO's parts (B,), S_1..S_N (B, N) and w_0..w_N (B, N+1)."""
        log_count = log_count_weights(logits)
        weights = log_count.exp()
        survival = nn.functional.logsigmoid(logits).cumsum(dim=1).exp()
        reached = torch.cat([torch.ones_like(survival[:, :1]), survival[:, :-1]], dim=1)
        canvases = torch.cat([torch.zeros_like(layers[:, :1]), layers.cumsum(dim=1)], dim=1)
        log_likelihood = (weights * self._log_likelihood(images, canvases)).sum(dim=1)
        kl_count = (reached * kl_bernoulli(logits, self.count_prior_logits(logits.device))).sum(dim=1)
        kl_where = torch.stack([kl_normal(s.where_mean, s.where_std).sum(dim=1) for s in chain], dim=1)
        kl_what = torch.stack([kl_normal(s.what_mean, s.what_std).sum(dim=1) for s in chain], dim=1)
        kl_where, kl_what = (survival * kl_where).sum(dim=1), (survival * kl_what).sum(dim=1)
        terms = {
            "elbo": log_likelihood - kl_count - kl_where - kl_what,
            "log_likelihood": log_likelihood,
            "kl_count": kl_count,
            "kl_where": kl_where,
            "kl_what": kl_what,
        }
        return terms, survival, weights

    def _log_likelihood(self, images: Tensor, canvases: Tensor) -> Tensor:
        """Log N(x; c_n, σ²) for every prefix canvas: (B, C, H, W), (B, N+1, C, H, W) -> (B, N+1)."""
        sigma = self.config.likelihood_std
        squares = (images.unsqueeze(1) - canvases).square().flatten(2).sum(dim=2)
        pixels = images[0].numel()
        return -squares / (2.0 * sigma**2) - pixels * (math.log(sigma) + 0.5 * math.log(2.0 * math.pi))

    # -- from slots to pictures ---------------------------------------------------------------------------------

    def decode(self, slots: Tensor, presence: Tensor | None = None) -> Decoded:
        """What slots alone imply.

        Args:
            slots: (B, K, D), slot 0 the background.
            presence: (B, K) in [0, 1]; None: everything present.
        """
        batch, count, _ = slots.shape
        layers = self._draw(slots[:, 1:].reshape(batch * (count - 1), -1)).unflatten(0, (batch, count - 1))
        if presence is None:
            presence = slots.new_ones(batch, count)
        with float32_island(slots.device):
            return self._compose(layers, presence[:, 1:])

    def _compose(self, layers: Tensor, presence: Tensor) -> Decoded:
        """Layers (B, N, C, H, W) and their presence (B, N) -> components, masks and reconstruction.

        A pixel's mask is shared in proportion to the layers' intensities, with ``mask_background`` as the background's.
        """
        weighted = layers * presence[:, :, None, None, None]
        intensity = weighted.amax(dim=2)
        background = torch.full_like(intensity[:, :1], self.config.mask_background)
        shares = torch.cat([background, intensity], dim=1)
        components = torch.cat([torch.zeros_like(layers[:, :1]), layers], dim=1)
        return Decoded(components, shares / shares.sum(dim=1, keepdim=True), weighted.sum(dim=1))

    def _boxes(self, slots: Tensor) -> Tensor:
        """(B, N, D) -> (B, N+1, 4) in pixels; the background's box is the whole image."""
        _, height, width = self.config.image_shape or (0, 0, 0)
        scale, shift = self._pose(slots[..., :3])
        found = spatial_transformer.boxes(scale, shift, height, width)
        whole = found.new_tensor([0.0, 0.0, width, height]).expand(len(found), 1, 4)
        return torch.cat([whole, found], dim=1)


def log_count_weights(logits: Tensor) -> Tensor:
    """Log q(n | z) for n = 0..N from the logits of p_1..p_N: log w_n = Σ_{i≤n} log p_i + log(1 − p_{n+1}).

    Args:
        logits: (B, N).

    Returns:
        (B, N+1), whose exponentials sum to 1.
    """
    start = torch.zeros_like(logits[:, :1])
    go_on = torch.cat([start, nn.functional.logsigmoid(logits).cumsum(dim=1)], dim=1)
    stop = torch.cat([nn.functional.logsigmoid(-logits), start], dim=1)
    return go_on + stop


def _sample(mean: Tensor, std: Tensor, generator: torch.Generator | None) -> Tensor:
    return mean if generator is None else mean + std * normal(tuple(mean.shape), generator)
