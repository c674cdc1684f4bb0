"""AIR in 3D: infer what stands where on a table through a renderer that is given, not learned.

Eslami, Heess, Weber, Tassa, Szepesvari, Kavukcuoglu, Hinton: "Attend, Infer, Repeat: Fast Scene Understanding with Generative
Models", NIPS 2016, arXiv:1603.08575, section on 3D scenes. Only the inference network is learned.

Symbols: B images; N steps; K kinds of objects; per step i a pose z_i (x, y, yaw), a kind k_i, and whether the step is used;
c the camera; R the renderer; x_n = R(z_1:n, k_1:n, c) the picture of the first n objects; p_i = q(step i is used | step i-1 was).

* generation: n ~ p(n) ∝ k^n for n ≤ N; k_i uniform; z_i uniform on the table; x ~ N(x_n, σ²);
* inference: an LSTM sees a convolutional embedding of x less the empty table and, at step i, the pose and the kinds'
  probabilities of step i−1; it gives
  p_i, q(z_i) and q(k_i). A camera, where it is inferred, comes from the embedding.

**Objective.** That of :mod:`objectwise.models.air`, whose estimators of the count it shares: the sum over counts is exact, and a
renderer that composites by depth gives all N+1 pictures for the price of one. Kinds do not feed back as samples, so that given
the poses they are independent, q(k) = Π q(k_i), and ``identity`` chooses how E_k[log p(x | x_n)] is differentiated:

* ``enumeration``: the sum over all K^N combinations; exact;
* ``collapsed``: kinds are summed out of the model instead, as the count is by ``estimator="collapsed"``:
  log p(x | z, n) = log Σ_k Π p(k_i) p(x | x_n) takes the place of E_k[log p(x | x_n)] − KL(q(k) || p(k)), which is never
  more, and q(k_i) learns from its cross-entropy to r = p(k | x, z, n) alone. No q(k) enters the bound, so that a kind of
  which q has despaired still gets its share of the poses' gradient and can come back;
* ``local-expectation``: for every i the sum over k_i, the other kinds at a sample (Titsias & Lázaro-Gredilla, "Local Expectation
  Gradients for Black Box Variational Inference", 2015);
* ``score``: the plain score function at a sample; the paper's.

``gradient`` chooses how the likelihood is differentiated in poses and camera: through the renderer as a black box
(:mod:`objectwise.nn.black_box`: ``finite-difference``, the paper's, ``spsa``, ``evolution``) or by ``autograd`` through
soft silhouettes (:mod:`objectwise.rendering.tabletop_soft`), whose pictures then also give the likelihood.

A renderer of one's own: a subclass that overrides :meth:`AIR3D.build_renderer`; nothing is asked of it but pictures.

Departures from the paper, which says little about this part: the count is summed, not sampled (``estimator="score"`` samples it);
objects stand upright on the table, so that a rotation is one angle; kinds have fixed sizes and colours; a position is
extent · erf(u / √2) and u ~ N(0, 1), which makes it uniform; positions may come from attention, also to what the objects before
leave unexplained (:mod:`objectwise.models.air_3d_attention`); the yaw is an unwrapped real number with a wide normal prior, whose
posterior mean is the direction of a vector that the network gives; networks, sizes, σ and p(n) are ours.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Self

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
    boxes_from_instances,
    normal,
    uniform,
)
from objectwise.models import air_estimators
from objectwise.models.air_3d_attention import Attention, on_table
from objectwise.models.air_estimators import Draw, log_count_weights
from objectwise.nn import black_box
from objectwise.nn.divergences import kl_normal
from objectwise.nn.float32 import float32_island
from objectwise.nn.schedules import annealed
from objectwise.rendering.scene_errors import RenderedErrors, scene_errors
from objectwise.rendering.tabletop import CAMERA, POSE, Renderer, TableScene, Tabletop, TabletopConfig, TableView
from objectwise.rendering.tabletop_soft import SoftTabletop

_COMBINATIONS = 81
"""Most combinations of kinds that are enumerated."""
_EXACT = 9
"""Most combinations of which each is differentiated in its poses; of more, one per count is drawn from r."""
_EDGE = 0.95
"""Attention places objects within this share of the table."""
_CONTRAST = 0.2
"""About the spread of an object's colours about the table's."""
_LARGEST = 3.0
"""Positions and cameras are cut at this many prior standard deviations, 0.3 % from the edge."""


class AIR3DConfig(Config):
    """Settings of AIR in 3D."""

    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width) of the images; None: taken from the data."""
    scene: TabletopConfig = TabletopConfig()
    """The renderer; its picture size and channels are taken from image_shape."""
    num_steps: int = Field(3, ge=1, le=16)
    """N, the largest number of objects."""
    estimator: Literal["marginal", "collapsed", "score"] = "marginal"
    """How the gradient deals with the count: summed exactly, summed inside the log, or sampled."""
    identity: Literal["enumeration", "collapsed", "local-expectation", "score"] = "local-expectation"
    """How it deals with the kinds: summed over all combinations, the same inside the log, over one object's at a time, or
    sampled."""
    gradient: Literal["finite-difference", "spsa", "evolution", "autograd"] = "finite-difference"
    """How it passes the renderer."""
    step_pixels: float = Field(0.4, gt=0.0, le=5.0)
    """h of finite differences, SPSA and evolution strategies: how far an object's outline moves, in pixels."""
    pairs: int = Field(2, ge=1, le=100)
    """Pairs of renderings per object for SPSA and evolution strategies."""
    softness: float = Field(0.25, gt=0.0, le=10.0)
    """Width of autograd's edges in pixels."""
    camera: Literal["fixed", "inferred"] = "fixed"
    """Whether the camera is known."""
    azimuth_spread: float = Field(20.0, gt=0, lt=45)
    """Degrees by which an inferred camera goes round, to either side; uniform a priori."""
    elevation_spread: float = Field(6.0, gt=0, lt=45)
    """Degrees by which it goes up and down."""
    extent: float = Field(1.5, gt=0.0)
    """Positions are uniform on [-extent, extent] a priori."""
    rotation_std: float = Field(1.8, gt=0.0)
    """Prior standard deviation of the yaw, radians."""
    rotation_spread: float | None = Field(None, gt=0.0)
    """Largest posterior standard deviation of the yaw, radians; None: none. A yaw that is spread over more than the symmetry of
    its object leaves no gradient to its mean, and the prior spreads it while it is still wrong."""
    rotation_fold: int = Field(1, ge=1, le=8)
    """A yaw's posterior mean lies within π / rotation_fold; 4 if only cubes can be seen to turn."""
    count_prior: float = Field(1e-3, gt=0.0, le=1e300)
    """k in p(n) ∝ k^n: small values make each further object expensive, huge ones demand all N."""
    count_prior_start: float | None = Field(None, gt=0.0, le=1e300)
    """k at step 0, from which it falls or rises exponentially to count_prior; None: constant. Huge: no object is switched off
    before the network knows where to put it."""
    count_prior_steps: int = Field(10_000, ge=1)
    """Steps until count_prior is reached."""
    likelihood_std: float = Field(0.15, gt=0.0, le=1.0)
    """σ of the pixels, for images in [0, 1]."""
    likelihood_std_start: float | None = Field(None, gt=0.0, le=2.0)
    """σ at step 0, from which it falls or rises exponentially; None: constant."""
    likelihood_std_steps: int = Field(5_000, ge=1)
    """Steps until likelihood_std is reached."""
    blur_start: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the slowest waves' error in the likelihood at step 0, falling linearly; it draws objects to where they are
    from afar,
    and the likelihood is not normalised until it has gone."""
    blur_steps: int = Field(3_000, ge=1)
    """Steps until it has gone."""
    widths: tuple[int, ...] = (32, 64, 64)
    """Feature maps of the trunk's convolutions, each of which halves the sides."""
    embedding_size: int = Field(256, ge=1)
    """Width of the trunk's output."""
    hidden_size: int = Field(256, ge=1)
    """Width of the LSTM."""
    attention: bool = False
    """Whether positions are relative to a place that each step looks at."""
    residual: bool = False
    """Whether attention looks at what the objects before leave unexplained, as DAIR does; needs attention."""
    attention_maps: int = Field(16, ge=1)
    """Features of attention's map."""
    window: int = Field(12, ge=4, le=1024)
    """Side, in pixels, of what is seen about that place."""
    window_size: int = Field(128, ge=1)
    """Numbers that are read from it."""
    presence_bias: float = 1.0
    """Initial logit of p_i."""
    pose_std: float = Field(0.7, gt=0.0)
    """Initial posterior standard deviation of poses, in prior units: wide, so that first scenes overlap the objects."""

    @property
    def max_objects(self) -> int:
        """Most objects the model can find."""
        return self.num_steps

    @model_validator(mode="after")
    def _possible(self) -> Self:
        kinds = len(self.scene.kinds)
        if self.identity in ("enumeration", "collapsed") and kinds**self.num_steps > _COMBINATIONS:
            raise ValueError(
                f"enumeration of {kinds}^{self.num_steps} combinations of kinds is too much; use identity local-expectation"
            )
        if self.residual and not self.attention:
            raise ValueError("residual needs attention")
        if self.estimator == "collapsed" and self.identity == "score":
            raise ValueError(
                "estimator collapsed needs identity local-expectation, enumeration or collapsed, not score"
            )
        if self.gradient == "autograd" and self.scene.family != "primitives":
            raise ValueError("gradient autograd needs family primitives; use finite-difference")
        return self


class Step(NamedTuple):
    """What one step of the chain found.

    Attributes:
        logit: (B,) logit of p_i.
        mean, std: (B, 3) posterior of the pose, in prior units.
        latent: (B, 3) the sample (or mean) that was used.
        kinds: (B, K) log q(k_i).
    """

    logit: Tensor
    mean: Tensor
    std: Tensor
    latent: Tensor
    kinds: Tensor


class Fit(NamedTuple):
    """How well the scenes of a chain explain the images.

    Attributes:
        log_likelihood: (B, N+1) E_k[log p(x | x_n)], or an estimate of it; log p(x | z, n) where kinds are collapsed.
        cross_entropy: (B, N+1) of q(k_1..k_n) to r, where kinds are collapsed.
        chosen: (B, N) the sampled kinds, and
        alternatives: (B, N, K, N+1) log p(x | x_n) with object i made every kind, where these are still to be summed.
    """

    log_likelihood: Tensor
    cross_entropy: Tensor | None = None
    chosen: Tensor | None = None
    alternatives: Tensor | None = None


class View(NamedTuple):
    """The camera's posterior; the columns are empty for a fixed camera.

    Attributes:
        mean, std: (B, 2 or 0), in prior units.
        latent: (B, 2 or 0) the sample (or mean) that was used.
        camera: (B, 2) azimuth and elevation, radians.
    """

    mean: Tensor
    std: Tensor
    latent: Tensor
    camera: Tensor


class AIR3D(SceneModel):
    """AIR in 3D.

    Slot 0 of its decompositions is the table with the camera's latents, slots 1..N the steps: pose in prior units, then the
    kinds' probabilities. Objects of presence above one half are drawn.
    """

    Config = AIR3DConfig
    config: AIR3DConfig

    def __init__(self, config: AIR3DConfig) -> None:
        super().__init__(config)
        if config.image_shape is None:
            raise UserError(
                "AIR3D needs image_shape (channels, height, width); it is taken from the data when training"
            )
        channels, height, width = config.image_shape
        if channels not in (1, 3):
            raise UserError(f"AIR3D renders images of 1 or 3 channels, not {channels}")
        self.look = config.scene.replaced(channels=channels, height=height, width=width)
        self.renderer = self.build_renderer(self.look)
        trained: Renderer = self.renderer
        if config.gradient == "autograd" and isinstance(trained, Tabletop):
            trained = SoftTabletop(self.look, config.softness)
        self.errors = RenderedErrors(trained) if config.gradient == "autograd" else scene_errors(trained)
        layers: list[nn.Module] = []
        before = channels
        for after in config.widths:
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
            before, height, width = after, -(-height // 2), -(-width // 2)
        self.trunk = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(before * height * width, config.embedding_size), nn.ReLU()
        )
        nothing = torch.zeros(1, 0, dtype=torch.int64)
        table = TableScene(nothing, torch.zeros(1, 0, 3), nothing.bool(), torch.tensor([self.look.fixed_camera]))
        self.empty: Tensor
        self.register_buffer("empty", self.renderer(table).float(), persistent=False)
        kinds = len(self.look.kinds)
        self.recurrent = nn.LSTMCell(config.embedding_size + 4 + kinds, config.hidden_size)
        # A single step has no past: nothing would ever reach these weights.
        self.recurrent.weight_hh.requires_grad_(config.num_steps > 1)
        self.attention = (
            Attention(
                self.look, config.hidden_size, config.attention_maps, config.window, config.window_size, config.residual
            )
            if config.attention
            else None
        )
        told = config.hidden_size + (config.window_size if config.attention else 0)
        self.head = nn.Linear(told, 1 + 4 + 3 + kinds)
        if config.camera == "inferred":
            self.camera_head = nn.Linear(config.embedding_size, 4)
        self._initialise()

    def build_renderer(self, look: TabletopConfig) -> Renderer:
        """The renderer; a subclass may give another, of which nothing is asked but images.

        Args:
            look: the settings, with the images' size and channels.
        """
        return Tabletop(look)

    def _initialise(self) -> None:
        spread = math.log(math.expm1(self.config.pose_std))
        with torch.no_grad():
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)
            self.head.bias[0], self.head.bias[3] = self.config.presence_bias, 1.0
            self.head.bias[5:8] = spread
            if self.config.camera == "inferred":
                nn.init.normal_(self.camera_head.weight, std=0.02)
                nn.init.constant_(self.camera_head.bias, 0.0)
                self.camera_head.bias[2:] = spread

    # -- forward ------------------------------------------------------------------------------------------------

    def forward(
        self,
        images: Tensor,
        *,
        generator: torch.Generator | None = None,
        step: int | None = None,
        trajectory: bool = False,
    ) -> Decomposition:
        """Infer scenes.

        Args:
            images: (B, C, H, W) in [0, 1].
            generator: source of the posterior samples; None: posterior means and the most probable kinds.
            step: of training, for annealing; None: the final values.
            trajectory: also return the decomposition as it stood after each step.
        """
        view, chain = self.infer(images, generator)
        with float32_island(images.device):
            draw, imitation = self._draw(images.float(), view, chain, generator, step)
            terms = air_estimators.marginal(draw)
            loss = -terms["elbo"]
            if generator is not None and self.config.estimator != "marginal":
                collapsed = self.config.estimator == "collapsed"
                estimate = air_estimators.collapsed(draw) if collapsed else air_estimators.score(draw, generator)
                loss, terms = estimate.loss, {**terms, "bound": estimate.bound}
            if imitation is not None:
                loss, terms = loss + imitation, {**terms, "kinds": imitation}
            shown = self._decomposition(view, chain, loss, terms)
            if not trajectory:
                return shown
            counts = range(1, self.config.num_steps + 1)
            parts = tuple(self._decomposition(view, chain, loss, terms, n).detach() for n in counts)
        return replace(shown, trajectory=parts)

    def infer(self, images: Tensor, generator: torch.Generator | None) -> tuple[View, list[Step]]:
        """The camera and the chain that never stops; arguments as in :meth:`forward`."""
        # Less the empty table, so that the network depends on the objects from the start and does not learn to hide its
        # own first.
        picture = (images - self.empty) / _CONTRAST
        embedding = self.trunk(picture)
        seen = None if self.attention is None or self.config.residual else self.attention.see(picture)
        with float32_island(images.device):
            embedding = embedding.float()
            view = self._see(embedding, generator)
            state = tuple(embedding.new_zeros(len(images), self.config.hidden_size) for _ in range(2))
            previous = embedding.new_zeros(len(images), 4 + len(self.look.kinds))
            chain = list[Step]()
            for _ in range(self.config.num_steps):
                state = self.recurrent(torch.cat([embedding, previous], dim=1), state)
                hidden, place = state[0], None
                if self.attention is not None and self.config.residual:
                    seen = self.attention.see(picture, self._unexplained(images, view, chain) / _CONTRAST)
                if self.attention is not None and seen is not None:
                    where, what = self.attention(seen, hidden)
                    hidden, place = torch.cat([hidden, what], dim=1), self._placed(where, view.camera)
                found = self._find(hidden, place, generator)
                pose = self.pose(found.latent)
                yaw = pose[:, 2:]
                place = pose[:, :2] / self.config.extent
                previous = torch.cat([place, yaw.cos(), yaw.sin(), found.kinds.exp()], dim=1)
                chain.append(found)
        return view, chain

    @torch.no_grad()
    def _unexplained(self, images: Tensor, view: View, chain: list[Step]) -> Tensor:
        """(B, C, H, W) the images less the scene that was found so far, each object as its most probable kind."""
        if not chain and self.config.camera == "fixed":
            return images - self.empty
        latents = [found.latent for found in chain] or [images.new_zeros(len(images), 3)]
        kinds = [found.kinds.argmax(dim=1) for found in chain] or [torch.zeros(len(images), dtype=torch.int64)]
        kind = torch.stack(kinds, dim=1).to(images.device)
        present = torch.full_like(kind, bool(chain), dtype=torch.bool)
        scene = TableScene(kind, self.pose(torch.stack(latents, dim=1)), present, view.camera)
        return images - self.renderer(scene).to(images)

    def _see(self, embedding: Tensor, generator: torch.Generator | None) -> View:
        if self.config.camera == "fixed":
            empty = embedding.new_zeros(len(embedding), 0)
            return View(empty, empty, empty, self.camera(empty))
        mean, spread = self.camera_head(embedding).chunk(2, dim=1)
        std = nn.functional.softplus(spread) + 1e-3
        latent = _sample(mean, std, generator)
        return View(mean, std, latent, self.camera(latent))

    def _placed(self, where: Tensor, camera: Tensor) -> Tensor:
        """(B, 2) column and row -> position in prior units of an object whose middle is seen there."""
        sizes = [kind.size for kind in self.look.kinds]
        share = on_table(where, camera, self.look, sum(sizes) / len(sizes)) / self.config.extent
        return math.sqrt(2.0) * torch.erfinv(share.clamp(-_EDGE, _EDGE))

    def _find(self, hidden: Tensor, start: Tensor | None, generator: torch.Generator | None) -> Step:
        """One step: whether, where (relative to ``start``), what."""
        logit, place, vector, spread, kinds = self.head(hidden).split([1, 2, 2, 3, len(self.look.kinds)], dim=1)
        logit = 8.0 * torch.tanh(logit.squeeze(1) / 8.0)
        if start is not None:
            place = start + place
        cosine, sine = vector.unbind(1)
        # A vector of no length has no direction; this keeps its gradient finite.
        short = cosine.square() + sine.square() < 1e-8
        yaw = torch.atan2(sine, torch.where(short, cosine + 1e-3, cosine)) / self.config.rotation_fold
        mean = torch.cat([place, yaw.unsqueeze(1) / self.config.rotation_std], dim=1)
        std = nn.functional.softplus(spread) + 1e-3
        if self.config.rotation_spread is not None:
            most = self.config.rotation_spread / self.config.rotation_std
            std = torch.cat([std[:, :2], most * torch.tanh(std[:, 2:] / most)], dim=1)
        return Step(logit, mean, std, _sample(mean, std, generator), kinds.log_softmax(dim=1))

    def pose(self, latent: Tensor) -> Tensor:
        """(…, 3) numbers in prior units -> (…, 3) x, y (world units) and yaw (radians)."""
        place = self.config.extent * torch.erf(latent[..., :2].clamp(-_LARGEST, _LARGEST) / math.sqrt(2.0))
        return torch.cat([place, self.config.rotation_std * latent[..., 2:3]], dim=-1)

    def camera(self, latent: Tensor) -> Tensor:
        """(B, 2 or 0) numbers in prior units -> (B, 2) azimuth and elevation in radians."""
        middle = latent.new_tensor(self.look.fixed_camera).expand(len(latent), 2)
        if latent.shape[1] == 0:
            return middle
        spread = latent.new_tensor(
            [math.radians(self.config.azimuth_spread), math.radians(self.config.elevation_spread)]
        )
        return middle + spread * torch.erf(latent.clamp(-_LARGEST, _LARGEST) / math.sqrt(2.0))

    # -- the objective ------------------------------------------------------------------------------------------

    def _draw(
        self, images: Tensor, view: View, chain: list[Step], generator: torch.Generator | None, step: int | None
    ) -> tuple[Draw, Tensor | None]:
        """What the estimators of the count need, and q(k)'s cross-entropy, if kinds are collapsed.

        Entry 0 of the costs is the camera's.
        """
        config = self.config
        k = annealed(config.count_prior_start, config.count_prior, config.count_prior_steps, step)
        prior = torch.tensor(air_estimators.count_prior_logits(config.num_steps, k), device=images.device)
        kinds = torch.stack([found.kinds for found in chain], dim=1)
        collapsed = config.identity == "collapsed"
        kl_kinds = (kinds.exp() * kinds).sum(dim=2) + math.log(kinds.shape[2])
        if collapsed:
            kl_kinds = torch.zeros_like(kl_kinds)
        latents = [(view.latent, view.mean, view.std), *((found.latent, found.mean, found.std) for found in chain)]
        kl = [kl_normal(mean, std).sum(dim=1) for _, mean, std in latents]
        ratio = [_log_ratio(latent, mean, std) for latent, mean, std in latents]
        kl_kinds = nn.functional.pad(kl_kinds, (1, 0))
        logits = torch.stack([found.logit for found in chain], dim=1)
        fit = self._fit(images, view, chain, kinds, generator, step)
        draw = Draw(
            logits=logits,
            prior_logits=prior,
            log_likelihood=fit.log_likelihood,
            kl=torch.stack(kl, dim=1) + kl_kinds,
            log_ratio=torch.stack(ratio, dim=1) + kl_kinds,
        )
        if fit.chosen is not None and fit.alternatives is not None:
            return _with_sampled_kinds(draw, torch.stack(ratio, dim=1), kinds, fit.chosen, fit.alternatives), None
        if fit.cross_entropy is None:
            return draw, None
        return draw, (log_count_weights(logits.detach()).exp() * fit.cross_entropy).sum(dim=1)

    def _fit(
        self,
        images: Tensor,
        view: View,
        chain: list[Step],
        kinds: Tensor,
        generator: torch.Generator | None,
        step: int | None,
    ) -> Fit:
        """Likelihoods with the gradient that the settings ask for."""
        config = self.config
        sigma = annealed(config.likelihood_std_start, config.likelihood_std, config.likelihood_std_steps, step)
        constant = images[0].numel() * (math.log(sigma) + 0.5 * math.log(2.0 * math.pi))

        blur = 0.0 if step is None else config.blur_start * max(0.0, 1.0 - step / config.blur_steps)

        def log_density(errors: Tensor) -> Tensor:
            return -errors.float() / (2.0 * sigma**2) - constant

        pose = self.pose(torch.stack([found.latent for found in chain], dim=1))
        if config.identity in ("enumeration", "collapsed"):
            every = torch.tensor(
                list(itertools.product(range(kinds.shape[2]), repeat=len(chain))), device=images.device
            )
            times, collapsed = len(every), config.identity == "collapsed"
            everywhere = torch.ones(len(images), len(chain), dtype=torch.bool, device=images.device)
            scene = TableScene(everywhere.long(), pose, everywhere, view.camera)
            whole = scene.repeated(times)._replace(kind=every.repeat(len(images), 1))
            rows = images.repeat_interleave(times, 0)
            each = kinds.gather(2, every.T.expand(len(images), -1, -1))
            if not collapsed:
                errors, _ = self._errors(rows, whole, False, blur, generator)
                density = log_density(errors).view(len(images), times, -1)
                return Fit((each.sum(dim=1).exp().unsqueeze(2) * density).sum(dim=1))
            exact = times <= _EXACT
            with torch.set_grad_enabled(exact and torch.is_grad_enabled()):
                errors, _ = self._errors(rows, whole, False, blur, generator)
            density = log_density(errors).view(len(images), times, -1)
            # Combinations that differ only beyond n give prefix n alike, so that this is right for every n.
            value = density.logsumexp(dim=1) - math.log(times)
            posterior = density.detach().log_softmax(dim=1)
            before = nn.functional.pad(each.cumsum(dim=1), (0, 0, 1, 0)).mT
            cross_entropy = -(posterior.exp() * before).sum(dim=1)
            if exact:
                return Fit(value, cross_entropy)
            # ∇ log Σ_k p(k) p(x | k) = E_r[∇ log p(x | k)]: one combination per count.
            drawn = _choose(posterior.mT, generator)
            counts = drawn.shape[1]
            some = scene.repeated(counts)._replace(kind=every[drawn].flatten(0, 1))
            errors, _ = self._errors(images.repeat_interleave(counts, 0), some, False, blur, generator)
            slope = log_density(errors).view(len(images), counts, counts).diagonal(dim1=1, dim2=2)
            return Fit(value + (slope - slope.detach()), cross_entropy)
        chosen = _choose(kinds, generator)
        scene = TableScene(chosen, pose, torch.ones_like(chosen, dtype=torch.bool), view.camera)
        local = config.identity == "local-expectation"
        errors, others = self._errors(images, scene, local, blur, generator)
        value = log_density(errors)
        if others is not None:
            if config.estimator == "collapsed" and generator is not None:
                return Fit(value, chosen=chosen, alternatives=log_density(others))
            # Σ_k ∇q(k_i) log p(x | k_i = k, the others): a term of value zero for every object.
            q = kinds.exp()
            return Fit(value + torch.einsum("bik,bikn->bn", q - q.detach(), log_density(others)))
        if local:
            return Fit(value)
        log_q = kinds.gather(2, chosen.unsqueeze(2)).squeeze(2)
        before = nn.functional.pad(log_q.cumsum(dim=1), (1, 0))
        return Fit(value + (before - before.detach()) * value.detach())

    def _errors(
        self, images: Tensor, scene: TableScene, alternatives: bool, blur: float, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """Squared errors of the prefixes (R, N+1), differentiable; and (R, N, K, N+1) with each object made every kind."""
        config, number = self.config, len(self.look.kinds)
        # Drawn also where no gradient is wanted, so that what is drawn later does not depend on that.
        moves = self._moves(scene.pose, generator)
        turns = self._moves(scene.camera.unsqueeze(1), generator) if config.camera == "inferred" else None
        if not torch.is_grad_enabled():
            return self.errors.prefixes(images, scene, blur=blur), None
        kinds = torch.arange(number, device=images.device).expand(*scene.kind.shape, -1)
        poses = scene.pose.detach().unsqueeze(2)
        if moves is None:
            base = self.errors.prefixes(images, scene, blur=blur)
            if not alternatives:
                return base, None
            with torch.no_grad():
                return base, self.errors.changed(images, scene, kinds, poses.expand(-1, -1, number, -1), blur=blur)[1]
        offsets, factors = moves
        moved = black_box.two_sided(scene.pose, offsets)
        same = scene.kind.unsqueeze(2).expand(-1, -1, moved.shape[2])
        if alternatives:
            moved = torch.cat([moved, poses.expand(-1, -1, number, -1)], dim=2)
            same = torch.cat([same, kinds], dim=2)
        with torch.no_grad():
            base, changed = self.errors.changed(images, scene, same, moved, blur=blur)
        pairs = 2 * offsets.shape[2]
        errors = black_box.with_gradient(base, scene.pose, black_box.from_differences(changed[:, :, :pairs], factors))
        if turns is not None:
            errors = self._with_camera(errors, images, scene, blur, turns)
        return errors, changed[:, :, pairs:] if alternatives else None

    def _moves(self, points: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor] | None:
        """Perturbations of poses (R, N, 3) or of cameras (R, 1, 2) and their factors; None for automatic differentiation."""
        method = self.config.gradient
        if method == "autograd":
            return None
        shape = (points.shape[0], points.shape[1], points.shape[2])
        return black_box.perturbations(shape, self.steps(points), method, self.config.pairs, generator)

    def _with_camera(
        self, errors: Tensor, images: Tensor, scene: TableScene, blur: float, turns: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The errors with their derivative in the camera, for which everything is drawn anew."""
        offsets, factors = turns
        points = scene.camera.unsqueeze(1)
        cameras = black_box.two_sided(points, offsets)
        times = cameras.shape[2]
        with torch.no_grad():
            many = scene.repeated(times)._replace(camera=cameras.reshape(-1, 2))
            found = self.errors.prefixes(images.repeat_interleave(times, 0), many, blur=blur)
        slopes = black_box.from_differences(found.view(len(images), 1, times, -1), factors)
        return black_box.with_gradient(errors, points, slopes)

    def steps(self, like: Tensor) -> Tensor:
        """(3,) h of x, y and yaw for poses, (2,) of azimuth and elevation for cameras: what moves outlines by ``step_pixels``."""
        h = self.config.step_pixels * self.look.pixel
        sizes = [kind.size for kind in self.look.kinds]
        turn = h / (sum(sizes) / len(sizes))
        return like.new_tensor([h, h, turn] if like.shape[-1] == 3 else [h / self.config.extent] * 2)

    # -- from slots to pictures ---------------------------------------------------------------------------------

    def decode(self, slots: Tensor, presence: Tensor | None = None) -> Decoded:
        """What slots alone imply.

        Args:
            slots: (B, N+1, D), slot 0 the table.
            presence: (B, N+1) in [0, 1]; objects above one half are drawn; None: all.
        """
        return self._pictures(self.scene(slots, presence))[0]

    @torch.no_grad()
    def scene(self, slots: Tensor, presence: Tensor | None = None) -> TableScene:
        """The scene that slots describe; arguments as in :meth:`decode`."""
        slots = slots.detach().float()
        kind = slots[:, 1:, 3 : 3 + len(self.look.kinds)].argmax(dim=2)
        present = torch.ones_like(kind, dtype=torch.bool) if presence is None else presence[:, 1:] > 0.5
        used = 2 if self.config.camera == "inferred" else 0
        return TableScene(kind, self.pose(slots[:, 1:, :3]), present, self.camera(slots[:, 0, :used]))

    def describe(self, found: Decomposition) -> list[dict[str, Any]]:
        """Inferred scenes as plain values: the camera, the count, and the kind, place and turn of every object.

        Args:
            found: of this model.

        Returns:
            one mapping per image; ``x`` and ``y`` in world units, angles in degrees, ``probability`` of the kind.
        """
        scene = self.scene(found.slots)
        rows = list[dict[str, Any]]()
        for b, slots in enumerate(found.found_slots()):
            objects = []
            for slot in slots:
                kind, (x, y, yaw) = int(scene.kind[b, slot - 1]), scene.pose[b, slot - 1].tolist()
                objects.append(
                    {
                        "kind": self.look.kinds[kind].name,
                        "probability": round(float(found.slots[b, slot, 3 + kind]), 4),
                        "presence": round(float(found.presence[b, slot]), 4),
                        "x": round(x, 4),
                        "y": round(y, 4),
                        "yaw_degrees": round(math.degrees(yaw) % 360.0, 2),
                    }
                )
            angles = dict(
                zip(CAMERA, [round(math.degrees(angle), 2) for angle in scene.camera[b].tolist()], strict=True)
            )
            rows.append({"count": len(objects), "objects": objects, "camera_degrees": angles})
        return rows

    @torch.no_grad()
    def other_views(
        self, found: Decomposition, turns: tuple[float, ...] = (0.0, 60.0, 120.0, 180.0, 240.0, 300.0)
    ) -> Tensor:
        """(B, V, C, H, W): the inferred scenes from cameras that have gone round by these degrees."""
        scene = self.scene(found.slots)
        present = torch.zeros_like(scene.present)
        for b, slots in enumerate(found.found_slots()):
            present[b, [slot - 1 for slot in slots]] = True
        many = scene._replace(present=present).repeated(len(turns))
        angle = torch.deg2rad(many.camera.new_tensor(turns)).repeat(len(scene.kind))
        around = torch.stack([many.camera[:, 0] + angle, many.camera[:, 1]], dim=1)
        return self.renderer(many._replace(camera=around)).unflatten(0, (len(scene.kind), len(turns)))

    def _decomposition(
        self, view: View, chain: list[Step], loss: Tensor, terms: dict[str, Tensor], alive: int | None = None
    ) -> Decomposition:
        """Put the parts together; ``alive`` keeps only the first steps (for trajectories)."""
        logits = torch.stack([found.logit for found in chain], dim=1)
        if alive is not None:
            logits = logits.masked_fill(torch.arange(len(chain), device=logits.device) >= alive, -30.0)
        survival = nn.functional.logsigmoid(logits).cumsum(dim=1).exp()
        presence = torch.cat([torch.ones_like(survival[:, :1]), survival], dim=1)
        slots, mean, std = (
            torch.stack([_slot(getattr(found, name), found.kinds.exp()) for found in chain], dim=1)
            for name in ("latent", "mean", "std")
        )
        std = torch.cat([std[..., :3], torch.zeros_like(std[..., 3:])], dim=2)
        slots, mean, std = (
            torch.cat([_padded(first, rest).unsqueeze(1), rest], dim=1)
            for first, rest in ((view.latent, slots), (view.mean, mean), (view.std, std))
        )
        scene = self.scene(slots, presence)
        pictures, boxes = self._pictures(scene)
        return Decomposition(
            loss=loss,
            terms=terms,
            reconstruction=pictures.reconstruction,
            components=pictures.components,
            masks=pictures.masks,
            slots=slots,
            presence=presence,
            background=(0,),
            posterior=Posterior(mean, std),
            boxes=boxes,
            count_probs=log_count_weights(logits).exp(),
            factors=_factors(scene),
        )

    @torch.no_grad()
    def _pictures(self, scene: TableScene) -> tuple[Decoded, Tensor]:
        """Components, masks, reconstruction, and boxes (B, N+1, 4) of whole objects; zeros for what is not in the picture."""
        batch, number = scene.kind.shape
        alone = scene.repeated(number + 1)
        index = torch.arange(number + 1, device=scene.kind.device).repeat(batch)
        order = torch.arange(1, number + 1, device=scene.kind.device)
        alone = alone._replace(present=index.unsqueeze(1) == order)
        if isinstance(self.renderer, Tabletop) and self.look.backend != "moderngl":
            whole, each = self.renderer.view(scene), self.renderer.view(alone)
        else:  # a black box
            whole, each = _guessed_view(self.renderer, scene), _guessed_view(self.renderer, alone)
        components = each.images.unflatten(0, (batch, number + 1)).float()
        boxes, _ = boxes_from_instances((each.ids > 0).long(), 2)
        boxes = boxes[:, 1].unflatten(0, (batch, number + 1)).float()
        boxes[:, 0] = boxes.new_tensor([0.0, 0.0, self.look.width, self.look.height])
        return Decoded(components, whole.coverage.float(), whole.images.float()), boxes


def _with_sampled_kinds(draw: Draw, ratio: Tensor, kinds: Tensor, chosen: Tensor, alternatives: Tensor) -> Draw:
    """A draw whose kinds are samples, so that log Σ_n exp a_n is an unbiased estimate of its mean over them, gradient included.

    With f(k) = log Σ_n exp a_n(z, k), whose a_n has −log q(k_i) / p(k_i) for every object i ≤ n, ∇ E_k f is the mean of
    Σ_i Σ_k ∇q(k_i = k) f(k_i = k, the others as sampled) + ∇f. The first sum is added to every a_n as a term of value zero.

    Args:
        draw: with expected divergences of kinds.
        ratio: (B, N+1) log ratios of camera and poses alone.
        kinds: (B, N, K) log q(k_i).
        chosen: (B, N) the sample.
        alternatives: (B, N, K, N+1) log p(x | x_n) with object i made every kind.
    """
    log_q = kinds.gather(2, chosen.unsqueeze(2)).squeeze(2)
    own = nn.functional.pad(log_q + math.log(kinds.shape[2]), (1, 0))
    sampled = draw._replace(log_ratio=ratio + own)
    rest = (air_estimators.log_joint(sampled) - sampled.log_likelihood).detach()
    steps = torch.arange(1, chosen.shape[1] + 1, device=kinds.device)
    included = torch.arange(rest.shape[1], device=kinds.device) >= steps.unsqueeze(1)
    change = (kinds - log_q.unsqueeze(2)).detach().unsqueeze(3) * included.unsqueeze(1)
    bound = (rest[:, None, None] + alternatives.detach() - change).logsumexp(dim=3)
    q = kinds.exp()
    surrogate = ((q - q.detach()) * bound).sum(dim=(1, 2))
    return sampled._replace(log_likelihood=sampled.log_likelihood + surrogate.unsqueeze(1))


def _guessed_view(renderer: Renderer, scene: TableScene) -> TableView:
    """A view by a renderer that gives no masks: a pixel belongs to the last object that changes it, in the scene's order."""
    batch, number = scene.kind.shape
    pictures = RenderedErrors(renderer).pictures(scene)
    ids = torch.zeros(batch, *pictures.shape[-2:], dtype=torch.int64, device=pictures.device)
    for m in range(number):
        differs = (pictures[:, m + 1] - pictures[:, m]).abs().amax(dim=1) > 1e-3
        ids = torch.where(differs, m + 1, ids)
    coverage = nn.functional.one_hot(ids, number + 1).movedim(-1, 1).to(pictures)
    return TableView(pictures[:, -1], ids, torch.full_like(pictures[:, -1, 0], math.inf), coverage)


def _factors(scene: TableScene) -> dict[str, Tensor]:
    """Kinds and poses as the data name them, a row of zeros for the table first."""
    named = {"kind": scene.kind, **{name: scene.pose[..., column] for column, name in enumerate(POSE)}}
    return {name: nn.functional.pad(values, (1, 0)) for name, values in named.items()}


def _choose(kinds: Tensor, generator: torch.Generator | None) -> Tensor:
    """(B, N) a sample of q(k), or its mode, from log q (B, N, K)."""
    if generator is None:
        return kinds.argmax(dim=2)
    noise = uniform(tuple(kinds.shape), generator).clamp(1e-6, 1.0 - 1e-6)
    return (kinds.detach() - torch.log(-torch.log(noise))).argmax(dim=2)


def _slot(pose: Tensor, kinds: Tensor) -> Tensor:
    return torch.cat([pose, kinds], dim=1)


def _padded(first: Tensor, rest: Tensor) -> Tensor:
    """The camera's numbers, filled up to a slot with zeros."""
    return nn.functional.pad(first, (0, rest.shape[2] - first.shape[1]))


def _sample(mean: Tensor, std: Tensor, generator: torch.Generator | None) -> Tensor:
    return mean if generator is None else mean + std * normal(tuple(mean.shape), generator)


def _log_ratio(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(B,) log N(z; mean, std²) − log N(z; 0, 1), summed over the last axis."""
    return (0.5 * z.square() - 0.5 * ((z - mean) / std).square() - std.log()).sum(dim=1)
