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
all that is left random is reparameterised, so the paper's score-function estimator and its baselines are not needed; they and
others, chosen by ``estimator``, are in :mod:`objectwise.models.air_estimators`. Without a generator nothing is sampled and the
loss is −ELBO at the chain's means, whatever the estimator. With one, ``terms["elbo"]`` is the sum above for the chain that was
drawn, and ``terms["bound"]`` the estimator's own.

Departures from the paper:

* the count is marginalised as above; the paper samples it (``estimator="score", baselines="nvil"``);
* the score function takes KLs in closed form where it can; its baselines are one network of x and c_{i-1} for all steps, not an
  LSTM, and there is no moving average or variance normalisation of the signal, which would be state;
* ``concrete`` relaxes presence where layers are added and costs counted; the chain itself runs on at full presence, and the
  count's KL is the Bernoullis';
* the count prior is fixed at a small k; the paper anneals it over 100,000 steps (``count_prior_start``). The exact sum removes
  the variance, not the landscape: AIR can stay at "always N" or at "at most one", DAIR hardly (``docs/notes/0002``);
* scale and shift are s = scale_mean·exp(u), t = shift_scale·v with standard-normal-like u, v, so that scales stay positive
  without division; the paper does not give its parametrisation;
* all networks' sizes: the paper gives few; ours are those of public re-implementations where known;
* DAIR reads its glimpse from the difference image and passes gradients through the canvas; the paper's text leaves both open
  (``glimpse``, ``canvas_gradient``; detached, the gradient through the feedback is cut and biased);
* the paper's canvas is black and its layers add up; ``background="learned"`` starts it at a picture from a small variational
  auto-encoder, c_0, which is subtracted from what AIR's LSTM sees, and ``compose="over"`` lets each layer cover what is below
  it by a mask that its decoder also gives;
* Adam with a learning rate of 5e-4 for 1e-4: the lower variance allows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from objectwise.core import Config, Decoded, Decomposition, Posterior, SceneModel, UserError, normal
from objectwise.models import air_estimators
from objectwise.models.air_estimators import Draw, Estimate, log_count_weights
from objectwise.nn import spatial_transformer
from objectwise.nn.divergences import kl_bernoulli, kl_normal
from objectwise.nn.float32 import float32_island
from objectwise.nn.schedules import annealed


class AIRConfig(Config):
    """Settings of AIR and DAIR."""

    kind: Literal["air", "dair"] = "air"
    """air: an LSTM looks at the image at every step; dair: each step sees only what the steps before left unexplained."""
    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width) of the images; None: taken from the data."""
    estimator: Literal["marginal", "collapsed", "score", "vimco", "concrete"] = "marginal"
    """How the gradient deals with the count: summed exactly, summed inside the log, sampled, sampled K times, or relaxed."""
    baselines: Literal["none", "nvil"] = "none"
    """nvil: the score function's signal is reduced by a learned b_i(x, z_<i), of parameter group "baselines"."""
    samples: int = Field(5, ge=2, le=100)
    """K of vimco."""
    temperature: float = Field(1.0, gt=0.0)
    """Of concrete's relaxed presences."""
    temperature_start: float | None = Field(None, gt=0.0)
    """Temperature at step 0, from which it falls or rises exponentially; None: constant."""
    temperature_steps: int = Field(10_000, ge=1)
    """Steps until the temperature is reached."""
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
    """k in p(n) ∝ k^n: small values make each further object expensive."""
    count_prior_start: float | None = Field(None, gt=0.0, lt=1.0)
    """k at step 0, from which it falls or rises exponentially to count_prior; None: constant."""
    count_prior_steps: int = Field(100_000, ge=1)
    """Steps until count_prior is reached."""
    likelihood_std: float = Field(0.3, gt=0.0, le=1.0)
    """σ of the pixels, for images in [0, 1]."""
    pose: Literal["isotropic", "separate", "rotated"] = "isotropic"
    """A window's freedom besides its place: one scale, a vertical and a horizontal one, or those and a rotation."""
    rotation_std: float = Field(0.5, gt=0.0)
    """Prior standard deviation of a rotated window's angle in radians."""
    glimpse: Literal["image", "difference", "both"] | None = None
    """What the encoder reads: the image, what the steps before left of it, or both; None: image (AIR), difference (DAIR)."""
    canvas_gradient: bool = True
    """Whether gradients pass through the canvas into what later steps see."""
    compose: Literal["sum", "over"] = "sum"
    """sum: layers add up; over: each covers those before it by a decoded mask."""
    background: Literal["none", "learned"] = "none"
    """none: black; learned: a picture from a small variational auto-encoder, slot 0."""
    background_size: int = Field(8, ge=1)
    """Numbers that describe a learned background, at most what_size + 3."""
    background_hidden: int = Field(64, ge=1)
    """Hidden width of the background's encoder and decoder."""
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

    @property
    def where_size(self) -> int:
        """Numbers of a pose: scales, then the vertical and the horizontal shift, then the angle."""
        return {"isotropic": 3, "separate": 4, "rotated": 5}[self.pose]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.baselines != "none" and self.estimator != "score":
            raise ValueError(f'baselines "{self.baselines}" need estimator "score", not "{self.estimator}"')
        if self.background == "learned" and self.background_size > self.where_size + self.what_size:
            raise ValueError(
                f"background_size {self.background_size} must not exceed {self.where_size + self.what_size}, an object's "
                "numbers (where and what)"
            )
        return self


class Step(NamedTuple):
    """What one step of the chain found.

    Attributes:
        logit: (B,) logit of p_i.
        where_mean, where_std: (B, D_where) posterior of (log scales, vertical shift, horizontal shift, angle), in prior units.
        what_mean, what_std: (B, D_what).
        slot: (B, D_where + D_what) the sample (or mean) that was used, where first.
        layer: (B, C, H, W) y_i; with ``compose="over"`` (B, C+1, H, W), already multiplied with its mask, which comes last.
    """

    logit: Tensor
    where_mean: Tensor
    where_std: Tensor
    what_mean: Tensor
    what_std: Tensor
    slot: Tensor
    layer: Tensor


class Background(NamedTuple):
    """The start of the canvas.

    Attributes:
        mean, std: (B, D_background) posterior; empty for a black background.
        latent: (B, D_background) the sample (or mean) that was used.
        picture: (B, C, H, W) c_0.
    """

    mean: Tensor
    std: Tensor
    latent: Tensor
    picture: Tensor


class AIR(SceneModel):
    """AIR or, with ``kind="dair"``, Difference AIR.

    Slot 0 of its decompositions is the background, slots 1..N the steps; a slot is (u, v_y, v_x, what) for isotropic poses
    and the background's latent, filled up with zeros, for slot 0.
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
        self.head = nn.Linear(config.hidden_size, 1 + 2 * config.where_size)
        planes = channels + (config.compose == "over")
        self.encoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(glimpse * (1 + (config.glimpse == "both")), config.what_hidden),
            nn.ReLU(),
            nn.Linear(config.what_hidden, 2 * config.what_size),
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.what_size, config.what_hidden),
            nn.ReLU(),
            nn.Linear(config.what_hidden, planes * config.glimpse_size**2),
            nn.Sigmoid(),
            nn.Unflatten(1, (planes, config.glimpse_size, config.glimpse_size)),
        )
        if config.background == "learned":
            self.background_encoder = nn.Sequential(
                nn.Flatten(),
                nn.Linear(pixels, config.background_hidden),
                nn.ReLU(),
                nn.Linear(config.background_hidden, 2 * config.background_size),
            )
            self.background_decoder = nn.Sequential(
                nn.Linear(config.background_size, config.background_hidden),
                nn.ReLU(),
                nn.Linear(config.background_hidden, pixels),
                nn.Sigmoid(),
                nn.Unflatten(1, config.image_shape),
            )
        if config.baselines == "nvil":
            self.baseline = nn.Sequential(
                nn.Linear(2 * pixels + 1, config.embedding_size), nn.ReLU(), nn.Linear(config.embedding_size, 1)
            )
        self._initialise()

    @property
    def slot_size(self) -> int:
        """D = D_where + D_what."""
        return self.config.where_size + self.config.what_size

    def parameter_groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """The baselines apart from everything else."""
        return {"baselines": self.baseline.parameters()} if self.config.baselines == "nvil" else {}

    def _initialise(self) -> None:
        """The starting point at which counting is learned rather than 'always 0' or 'always N'."""
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.bias[0] = self.config.presence_bias
            self.head.bias[1 + self.config.where_size :] = -1.5
        last = self.decoder[2]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, self.config.decoder_bias)
        if (
            self.config.background == "learned"
        ):  # a bright start leaves no room for objects, which are then switched off
            ground = self.background_decoder[2]
            assert isinstance(ground, nn.Linear)
            nn.init.constant_(ground.bias, self.config.decoder_bias)
        if self.config.compose == "over":  # the faint part is the mask, not the colour
            nn.init.zeros_(last.bias[: -(self.config.glimpse_size**2)])

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
            step: of training, for annealing; None: the final priors.
            trajectory: also return the decomposition as it stood after each step.
        """
        samples = 1
        if generator is not None and self.config.estimator == "vimco":
            samples = self.config.samples
        repeated = images if samples == 1 else images.repeat_interleave(samples, dim=0)
        background = self.infer_background(repeated, generator)
        chain = self.infer(repeated, generator, background)
        estimate = None
        if generator is not None and self.config.estimator != "marginal":
            estimate = self._estimate(repeated, background, chain, generator, step)
        if samples > 1:  # the loss knows all samples, the decomposition shows the first
            background = Background(*(part[::samples] for part in background))
            chain = [Step(*(part[::samples] for part in found)) for found in chain]
        shown = self._decomposition(images, background, chain, step)
        if estimate is not None:
            shown = replace(shown, loss=estimate.loss, terms={**shown.terms, "bound": estimate.bound})
            if estimate.baseline_loss is not None:
                shown = replace(shown, auxiliary_losses={"baselines": estimate.baseline_loss})
        if not trajectory:
            return shown
        counts = range(1, self.config.num_steps + 1)
        return replace(
            shown, trajectory=tuple(self._decomposition(images, background, chain, step, n).detach() for n in counts)
        )

    def infer_background(self, images: Tensor, generator: torch.Generator | None) -> Background:
        """q(z_0 | x) and the canvas before the first step; arguments as in :meth:`forward`."""
        if self.config.background == "none":
            empty = images.new_zeros(images.shape[0], 0)
            return Background(empty, empty, empty, torch.zeros_like(images))
        mean, spread = self.background_encoder(images).float().chunk(2, dim=1)
        std = nn.functional.softplus(spread) + 1e-3
        latent = _sample(mean, std, generator)
        return Background(mean, std, latent, self.background_decoder(latent))

    def infer(
        self, images: Tensor, generator: torch.Generator | None, background: Background | None = None
    ) -> list[Step]:
        """The chain q(z_1:N | x) that never stops; arguments as in :meth:`forward`."""
        batch = images.shape[0]
        canvas = self.infer_background(images, generator).picture if background is None else background.picture
        previous = images.new_zeros(batch, self.slot_size)
        state = tuple(images.new_zeros(batch, self.config.hidden_size) for _ in range(2))
        embedding = self.embed(self._unexplained(images, canvas)) if self.config.kind == "air" else None
        chain = []
        for _ in range(self.config.num_steps):
            difference = self._unexplained(images, canvas)
            if embedding is None:
                hidden = self.hidden(self.embed(difference))
            else:
                with float32_island(images.device):
                    state = self.recurrent(torch.cat([embedding.float(), previous], dim=1), state)
                hidden = state[0]
            found = self._find(self._glimpsed(images, difference), hidden, generator)
            canvas, previous = self._added(canvas, found.layer), found.slot
            chain.append(found)
        return chain

    def _unexplained(self, images: Tensor, canvas: Tensor) -> Tensor:
        """What the canvas leaves of the images, x − c_{i-1}."""
        return images - (canvas if self.config.canvas_gradient else canvas.detach())

    def _glimpsed(self, images: Tensor, difference: Tensor) -> Tensor:
        """What the attention window is read from."""
        glimpse = self.config.glimpse or ("image" if self.config.kind == "air" else "difference")
        if glimpse == "both":
            return torch.cat([images, difference], dim=1)
        return images if glimpse == "image" else difference

    def _find(self, source: Tensor, hidden: Tensor, generator: torch.Generator | None) -> Step:
        """One step: whether, where, what."""
        pose = self.config.where_size
        logit, where_mean, where_spread = self.head(hidden).float().split([1, pose, pose], dim=1)
        logit = 8.0 * torch.tanh(logit.squeeze(1) / 8.0)
        where_std = nn.functional.softplus(where_spread) + 1e-3
        where = _sample(where_mean, where_std, generator)
        scale, shift, angle = self._pose(where)
        glimpse = spatial_transformer.read(source, scale, shift, self.config.glimpse_size, angle)
        what_mean, what_spread = self.encoder(glimpse).float().chunk(2, dim=1)
        what_std = nn.functional.softplus(what_spread) + 1e-3
        slot = torch.cat([where, _sample(what_mean, what_std, generator)], dim=1)
        return Step(logit, where_mean, where_std, what_mean, what_std, slot, self._draw(slot))

    def _pose(self, where: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(…, D_where) numbers in prior units -> scale (…, 2), shift (…, 2) and angle (…) or None."""
        scales = 1 if self.config.pose == "isotropic" else 2
        scale = self.config.scale_mean * torch.exp((self.config.scale_std * where[..., :scales]).clamp(-3.0, 1.5))
        shift = self.config.shift_scale * where[..., scales : scales + 2]
        angle = self.config.rotation_std * where[..., 4] if self.config.pose == "rotated" else None
        return scale.expand(*where.shape[:-1], 2), shift, angle

    def _draw(self, slots: Tensor) -> Tensor:
        """(M, D) slots -> (M, C, H, W) layers, or (M, C+1, H, W) as in :class:`Step`."""
        _, height, width = self.config.image_shape or (0, 0, 0)
        where, what = slots.split([self.config.where_size, self.config.what_size], dim=1)
        scale, shift, angle = self._pose(where)
        patch = self.decoder(what)
        if self.config.compose == "over":
            patch = torch.cat([patch[:, :-1] * patch[:, -1:], patch[:, -1:]], dim=1)
        return spatial_transformer.write(patch, scale, shift, height, width, angle)

    def _added(self, canvas: Tensor, layer: Tensor, strength: Tensor | None = None) -> Tensor:
        """The canvas (B, C, H, W) after one more layer, drawn with ``strength`` (B,) or fully."""
        if strength is not None:
            layer = layer * strength[:, None, None, None]
        if self.config.compose == "sum":
            return canvas + layer
        return canvas * (1.0 - layer[:, -1:]) + layer[:, :-1]

    # -- the objective ------------------------------------------------------------------------------------------

    def count_prior_logits(self, device: torch.device, step: int | None = None) -> Tensor:
        """(N,) logits of ρ_i = p(n ≥ i | n ≥ i−1) under p(n) ∝ k^n, n = 0..N, at a step of training."""
        config = self.config
        most, k = (
            config.num_steps,
            annealed(config.count_prior_start, config.count_prior, config.count_prior_steps, step),
        )
        odds = air_estimators.count_prior_logits(most, k)
        return torch.tensor(odds, device=device)

    def _decomposition(
        self,
        images: Tensor,
        background: Background,
        chain: list[Step],
        step: int | None = None,
        alive: int | None = None,
    ) -> Decomposition:
        """Put the parts together; ``alive`` keeps only the first steps (for trajectories)."""
        with float32_island(images.device):
            logits = torch.stack([found.logit for found in chain], dim=1)
            if alive is not None:
                stopped = torch.arange(len(chain), device=images.device) >= alive
                logits = logits.masked_fill(stopped, -30.0)
            layers = torch.stack([found.layer for found in chain], dim=1)
            terms, survival, count_probs = self._objective(images.float(), background, chain, logits, step)
            slots = torch.stack([found.slot for found in chain], dim=1)
            components, masks, reconstruction = self._compose(background.picture.float(), layers, survival)
        mean = torch.stack([torch.cat([s.where_mean, s.what_mean], dim=1) for s in chain], dim=1)
        std = torch.stack([torch.cat([s.where_std, s.what_std], dim=1) for s in chain], dim=1)
        return Decomposition(
            loss=-terms["elbo"],
            terms=terms,
            reconstruction=reconstruction,
            components=components,
            masks=masks,
            slots=_with_background(background.latent, slots),
            presence=torch.cat([torch.ones_like(survival[:, :1]), survival], dim=1),
            background=(0,),
            posterior=Posterior(_with_background(background.mean, mean), _with_background(background.std, std)),
            boxes=self._boxes(slots),
            count_probs=count_probs,
        )

    def _objective(
        self, images: Tensor, background: Background, chain: list[Step], logits: Tensor, step: int | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The ELBO's parts (B,), S_1..S_N (B, N) and w_0..w_N (B, N+1)."""
        log_count = log_count_weights(logits)
        weights = log_count.exp()
        survival = nn.functional.logsigmoid(logits).cumsum(dim=1).exp()
        reached = torch.cat([torch.ones_like(survival[:, :1]), survival[:, :-1]], dim=1)
        canvases = self._prefix_canvases(background, chain)
        log_likelihood = (weights * self._log_likelihood(images, canvases)).sum(dim=1)
        kl_count = (reached * kl_bernoulli(logits, self.count_prior_logits(logits.device, step))).sum(dim=1)
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
        if self.config.background == "learned":
            kl_background = kl_normal(background.mean, background.std).sum(dim=1)
            terms |= {"elbo": terms["elbo"] - kl_background, "kl_background": kl_background}
        return terms, survival, weights

    def _prefix_canvases(self, background: Background, chain: list[Step]) -> Tensor:
        """(B, N+1, C, H, W): c_0 .. c_N."""
        canvases = [background.picture.float()]
        for found in chain:
            canvases.append(self._added(canvases[-1], found.layer))
        return torch.stack(canvases, dim=1)

    def _estimate(
        self, images: Tensor, background: Background, chain: list[Step], generator: torch.Generator, step: int | None
    ) -> Estimate:
        """The loss of an estimator other than the exact sum."""
        config = self.config
        with float32_island(images.device):
            images = images.float()
            canvases = self._prefix_canvases(background, chain)
            means = [background.mean, *(torch.cat([s.where_mean, s.what_mean], dim=1) for s in chain)]
            stds = [background.std, *(torch.cat([s.where_std, s.what_std], dim=1) for s in chain)]
            used = [background.latent, *(s.slot for s in chain)]
            draw = Draw(
                logits=torch.stack([s.logit for s in chain], dim=1),
                prior_logits=self.count_prior_logits(images.device, step),
                log_likelihood=self._log_likelihood(images, canvases),
                kl=torch.stack([kl_normal(m, s).sum(dim=1) for m, s in zip(means, stds, strict=True)], dim=1),
                log_ratio=torch.stack([_log_ratio(z, m, s) for z, m, s in zip(used, means, stds, strict=True)], dim=1),
            )
            match config.estimator:
                case "collapsed":
                    return air_estimators.collapsed(draw)
                case "vimco":
                    return air_estimators.vimco(draw, generator, config.samples)
                case "score":
                    baselines = self._baselines(images, canvases) if config.baselines == "nvil" else None
                    return air_estimators.score(draw, generator, baselines, unit=self._baseline_unit)
                case "concrete":
                    heat = annealed(config.temperature_start, config.temperature, config.temperature_steps, step)
                    alive = air_estimators.relaxed_alive(draw.logits, heat, generator)
                    canvas = background.picture.float()
                    for found, strength in zip(chain, alive[:, 1:].unbind(dim=1), strict=True):
                        canvas = self._added(canvas, found.layer, strength)
                    likelihood = self._log_likelihood(images, canvas.unsqueeze(1)).squeeze(1)
                    return air_estimators.concrete(draw, alive, likelihood)
                case "marginal":
                    raise AssertionError("the exact sum needs no estimator")

    @property
    def _baseline_unit(self) -> float:
        """Nats per unit of the baselines' output: about the spread of the returns, so that Adam learns them quickly."""
        return 0.1 * math.prod(self.config.image_shape or ())

    def _baselines(self, images: Tensor, canvases: Tensor) -> Tensor:
        """(B, N) b_i(x, z_<i), z_<i by way of c_{i-1}."""
        before = canvases[:, :-1].detach().flatten(2)
        image = images.flatten(1).unsqueeze(1).expand_as(before)
        index = torch.arange(before.shape[1], device=images.device, dtype=images.dtype).view(1, -1, 1)
        features = torch.cat([image, image - before, index.expand(len(images), -1, -1)], dim=2)
        return self._baseline_unit * self.baseline(features).squeeze(2)

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
        if self.config.background == "learned":
            background = self.background_decoder(slots[:, 0, : self.config.background_size])
        else:
            background = torch.zeros(batch, *(self.config.image_shape or ()), device=slots.device)
        with float32_island(slots.device):
            return self._compose(background.float(), layers, presence[:, 1:])

    def _compose(self, background: Tensor, layers: Tensor, presence: Tensor) -> Decoded:
        """Background, layers (B, N, C or C+1, H, W), their presence (B, N) -> components, masks and reconstruction.

        With ``compose="over"`` masks are what can be seen of each layer. With sums a pixel's mask is shared in proportion to the
        layers' intensities, with ``mask_background`` as the background's.
        """
        weighted = layers * presence[:, :, None, None, None]
        if self.config.compose == "over":
            reconstruction, seen, masks = background, torch.ones_like(background[:, 0]), list[Tensor]()
            for layer in weighted.unbind(dim=1):
                reconstruction = self._added(reconstruction, layer)
            for cover in weighted[:, :, -1].flip(1).unbind(dim=1):
                masks.insert(0, seen * cover)
                seen = seen * (1.0 - cover)
            pictures = layers[:, :, :-1] / layers[:, :, -1:].clamp_min(1e-4)
            components = torch.cat([background.unsqueeze(1), pictures], dim=1)
            return Decoded(components, torch.stack([seen, *masks], dim=1), reconstruction)
        intensity = weighted.amax(dim=2)
        shares = torch.cat([torch.full_like(intensity[:, :1], self.config.mask_background), intensity], dim=1)
        components = torch.cat([background.unsqueeze(1), layers], dim=1)
        return Decoded(components, shares / shares.sum(dim=1, keepdim=True), background + weighted.sum(dim=1))

    def _boxes(self, slots: Tensor) -> Tensor:
        """(B, N, D) -> (B, N+1, 4) in pixels; the background's box is the whole image."""
        _, height, width = self.config.image_shape or (0, 0, 0)
        scale, shift, angle = self._pose(slots[..., : self.config.where_size])
        found = spatial_transformer.boxes(scale, shift, height, width, angle)
        whole = found.new_tensor([0.0, 0.0, width, height]).expand(len(found), 1, 4)
        return torch.cat([whole, found], dim=1)


def _sample(mean: Tensor, std: Tensor, generator: torch.Generator | None) -> Tensor:
    return mean if generator is None else mean + std * normal(tuple(mean.shape), generator)


def _log_ratio(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(B,) log N(z; mean, std²) − log N(z; 0, 1), summed over the last axis."""
    return (0.5 * z.square() - 0.5 * ((z - mean) / std).square() - std.log()).sum(dim=1)


def _with_background(latent: Tensor, slots: Tensor) -> Tensor:
    """(B, D_background), (B, N, D) -> (B, N+1, D), the background first and filled up with zeros."""
    first = nn.functional.pad(latent, (0, slots.shape[2] - latent.shape[1]))
    return torch.cat([first.unsqueeze(1), slots], dim=1)
