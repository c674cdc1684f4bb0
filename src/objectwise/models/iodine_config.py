"""Settings of IODINE: every choice in which the paper, its released code and the public ports differ, by name."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from objectwise.core import Config

SpatialInput = Literal[
    "capacity",
    "components",
    "coordinates",
    "counterfactual",
    "dcomponents",
    "dmask",
    "dzp",
    "image",
    "log_prob",
    "mask",
    "posterior",
    "pred_mask",
]
FlatInput = Literal["dzp", "flat_capacity", "zp"]

SHARED_INPUTS = frozenset({"capacity", "coordinates", "image", "log_prob"})
"""Spatial inputs that are the same for all slots."""
FIXED_INPUTS = frozenset({"capacity", "coordinates", "image"})
"""Those of them that are also the same at every step."""

PAPER_INPUTS: tuple[SpatialInput, ...] = tuple(n for n in get_args(SpatialInput) if n not in ("capacity", "dzp"))
"""The paper's list."""


class IODINELevers(Config):
    """What makes IODINE faster or smaller without changing what it computes; switched off, it is computed the plain way."""

    analytic_gradients: bool = True
    """The likelihood's gradients in closed form; off: by automatic differentiation."""
    fast_leave_one_out: bool = True
    """All K mixtures without one slot in K steps; off: one mixture after the other."""
    broadcast_convolution: bool = True
    """The decoder's first convolution without the broadcast picture; off: with it."""
    shared_channels: bool = True
    """Channels that all slots share are convolved once per image by the refinement network; off: once per slot."""
    one_pass: bool | None = None
    """One backward pass through the decoder per step, for the refinement and for training both; exact if no refinement
    input is differentiated (gradient_scope inputs or all). None: where it is exact."""
    checkpoint: bool = False
    """Forget each refinement step's graph and compute it again in the backward pass: less memory, more time."""


class IODINEConfig(Config):
    """Settings of IODINE."""

    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width) of the images; None: taken from the data."""
    num_slots: int = Field(7, ge=2, le=64)
    """K, at least one more than an image can have objects; may differ between training and use."""
    refinement_steps: int = Field(5, ge=0, le=1000)
    """T: the posterior is refined T times and decoded T + 1 times; may differ between training and use."""
    latent_size: int = Field(64, ge=1)
    """Z, numbers of a slot."""

    likelihood: Literal["joint", "per_channel"] = "joint"
    """joint: one mixture per pixel (paper); per_channel: one per pixel and channel (public ports)."""
    density: Literal["gaussian", "logistic"] = "gaussian"
    """Of a pixel under one slot: normal (paper) or logistic (released code)."""
    sigma: float = Field(0.1, gt=0.0, le=1.0)
    """σ of the normal density, or scale s of the logistic one, whose standard deviation is 1.81 s; images are in [0, 1]."""
    learned_sigma: bool = False
    """Learn σ, one number for everything, starting from sigma."""
    sigma_start: float | None = Field(None, gt=0.0, le=1.0)
    """σ at first, from which it falls exponentially to sigma; None: sigma throughout. Wide at first, it lets slots part early
    (docs/notes/0011-wide-sigma-first.md)."""
    sigma_hold: int = Field(0, ge=0)
    """Training steps before it falls."""
    sigma_steps: int = Field(5_000, ge=1)
    """Training steps in which it falls."""
    mask_floor: float = Field(0.0, ge=0.0, le=1e-3)
    """Added to the masks before their logarithm (the port: 1e-12)."""
    rgb: Literal["identity", "sigmoid"] = "identity"
    """What turns the decoder's output into colours."""
    prior_variance: float = Field(1.0, gt=0.0)
    """τ² of p(z_k) = N(0, τ² I): 1 (paper), ln 2 (released code)."""
    posterior_scale: Literal["softplus", "log_variance"] = "softplus"
    """What λ's second half is: softplus of it is the variance (released code), or it is the log variance (port)."""
    initial_posterior: Literal["glorot", "zeros", "fixed"] = "glorot"
    """λ before the first step, one vector for all slots: learned, from glorot-uniform or from zeros; or zeros that stay."""

    spatial_inputs: tuple[SpatialInput, ...] = PAPER_INPUTS
    """Pictures that the refinement network sees: image x; components μ; mask m (logits); pred_mask π; posterior, the slots'
    shares without π; dcomponents dL/dμ; dmask dL/dm; log_prob log p(x_i); counterfactual, what slot k adds to it; coordinates;
    capacity, a constant 0.5; dzp, dL/dλ laid on every pixel as a decoded z is (the port's first encoding)."""
    flat_inputs: tuple[FlatInput, ...] = ("dzp", "zp")
    """Vectors beside what it makes of the pictures: zp, λ; dzp, dL/dλ; flat_capacity, a constant 0.5."""
    layer_norm: Literal["learned", "plain", "off"] = "learned"
    """Layer normalisation of dcomponents, dmask, dzp, log_prob and counterfactual: with learned scale and shift; without, and
    of dzp's halves apart (port); or none."""
    gradient_scale: float = Field(1.0, gt=0.0)
    """What gradients of one image's loss are multiplied by before they are inputs; 1/batch imitates those of the batch's mean."""
    mask_gradient: Literal["logits", "masks"] = "logits"
    """dmask with respect to the mask logits (paper) or to the masks after the softmax (port)."""
    likelihood_inputs: Literal["log", "density"] = "log"
    """log_prob and counterfactual as log likelihoods (released code) or as densities (port)."""
    posterior_floor: float = Field(1e-6, ge=0.0, le=1.0)
    """Added to the sum of densities that posterior divides by, which fades outliers; 0: the shares sum to one."""
    gradient_scope: Literal["none", "partial", "inputs", "all"] = "partial"
    """What the training gradient does not go through: none: it goes everywhere (a graph of second order: slow); partial: the
    inputs that are gradients or likelihoods (released code); inputs: all refinement inputs; all: those, and λ from step to
    step (port)."""

    decoder_widths: tuple[int, ...] = (64, 64, 64, 64)
    """Feature maps of the decoder's hidden convolutions."""
    decoder_kernel: int = Field(3, ge=1, le=11)
    """Side of the decoder's convolutions, odd."""
    decoder_constant: float | None = None
    """One more input channel of the decoder with this value everywhere (released code: 5)."""
    decoder_doublings: int = Field(0, ge=0, le=6)
    """How many of the decoder's last convolutions double the sides (4×4, transposed, stride 2); z is laid on a grid coarser by as
    much. 0 (paper): all of them at full size."""
    encoder_widths: tuple[int, ...] = (64, 64, 64, 64)
    """Feature maps of the refinement network's convolutions, each of which halves the sides."""
    encoder_pooling: Literal["mean", "none"] = "mean"
    """What its dense layers see of the last maps: their mean over pixels (paper), or every pixel of them (our ``tuned``)."""
    encoder_kernel: int = Field(3, ge=1, le=11)
    """Side of the refinement network's convolutions, odd."""
    encoder_hidden: tuple[int, ...] = (256,)
    """Widths of its dense layers; the last one is linear."""
    padding: Literal["symmetric", "tensorflow"] = "symmetric"
    """Zeros around its convolutions' inputs: alike on both sides, or TensorFlow's SAME, more behind than in front."""
    coordinates: Literal["linear", "cosine"] = "linear"
    """Its coordinates: x and y in [−1, 1], or eight products of cosines."""
    recurrent_cell: Literal["lstm", "none"] = "lstm"
    """Whether it remembers earlier steps."""
    lstm_size: int = Field(256, ge=1)
    """Width of the LSTM."""
    readout: Literal["hidden", "cell"] = "hidden"
    """What the update is read from: the LSTM's hidden state, or its unbounded cell state (the port, by accident)."""
    update: Literal["additive", "gated"] = "additive"
    """λ + new, or g λ + (1 − g) new with a gate g in (0, 1) (iterative amortized inference)."""

    loss_weights: Literal["linspace", "port", "last", "uniform", "decreasing"] = "linspace"
    """w_t of the loss Σ_t w_t L_t, t = 0..T: t/T; (t + 1)/(T + 1); the last alone; 1; (T + 1 − t)/(T + 1)."""
    evaluation_seed: int = Field(0, ge=0)
    """Without a generator, of the noise that tells the slots apart; the last step decodes posterior means."""
    levers: IODINELevers = IODINELevers()
    """How it is computed."""

    @property
    def max_objects(self) -> int:
        """Most objects the model has slots for: one slot is for the background."""
        return self.num_slots - 1

    @property
    def step_weights(self) -> tuple[float, ...]:
        """w_0..w_T; with no refinement at all the only step counts."""
        steps = self.refinement_steps
        match self.loss_weights:
            case "linspace":
                return tuple(t / steps for t in range(steps + 1)) if steps else (1.0,)
            case "port":
                return tuple((t + 1) / (steps + 1) for t in range(steps + 1))
            case "last":
                return (*(0.0,) * steps, 1.0)
            case "uniform":
                return (1.0,) * (steps + 1)
            case "decreasing":
                return tuple((steps + 1 - t) / (steps + 1) for t in range(steps + 1))

    @property
    def all_inputs(self) -> tuple[str, ...]:
        """Names of the refinement network's inputs, pictures first."""
        return (*self.spatial_inputs, *self.flat_inputs)

    @property
    def detached_inputs(self) -> bool:
        """Whether no refinement input is differentiated."""
        return self.gradient_scope in ("inputs", "all")

    @property
    def goes_in_one_pass(self) -> bool:
        """Whether each step goes through the decoder once forward and once backward."""
        levers = self.levers
        if levers.one_pass is None:
            return self.detached_inputs and levers.analytic_gradients and not levers.checkpoint
        return levers.one_pass

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name in ("decoder_widths", "encoder_widths", "encoder_hidden"):
            widths = getattr(self, name)
            if not widths or min(widths) < 1:
                raise ValueError(f"{name} {widths} must be one or more positive numbers")
        for name in ("decoder_kernel", "encoder_kernel"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} {getattr(self, name)} must be odd")
        if self.decoder_doublings > len(self.decoder_widths):
            raise ValueError(
                f"decoder_doublings {self.decoder_doublings} is more than the decoder's {len(self.decoder_widths)} convolutions "
                "after the first; give it more decoder_widths"
            )
        self._check_inputs()
        self._check_training()
        return self

    def _check_inputs(self) -> None:
        for name in ("spatial_inputs", "flat_inputs"):
            given: tuple[str, ...] = getattr(self, name)
            twice = next((each for each in given if given.count(each) > 1), None)
            if twice is not None:
                raise ValueError(f"{name} names '{twice}' twice")
        if not self.spatial_inputs:
            raise ValueError("spatial_inputs must name at least one picture for the refinement network to see")
        if set(self.spatial_inputs) <= SHARED_INPUTS and not set(self.flat_inputs) - {"flat_capacity"}:
            raise ValueError(
                "the refinement network sees nothing that differs between slots, so all slots would change alike; "
                "add an input such as dmask to spatial_inputs, or dzp to flat_inputs"
            )
        if self.mask_gradient == "masks" and self.mask_floor == 0.0:
            raise ValueError(
                "mask_gradient masks is unbounded where a mask vanishes; give it a mask_floor (the port: 1e-12)"
            )
        if self.readout == "cell" and self.recurrent_cell == "none":
            raise ValueError("readout cell needs an LSTM to read from; set recurrent_cell lstm")

    def _check_training(self) -> None:
        if self.sigma_start is not None and self.learned_sigma:
            raise ValueError("a learned sigma has no schedule; switch learned_sigma off, or leave sigma_start out")
        untrained = self.gradient_scope == "all" and self.loss_weights in ("linspace", "last")
        if untrained and self.initial_posterior != "fixed":
            raise ValueError(
                f"with gradient_scope all and loss_weights {self.loss_weights} nothing trains the initial posterior; set "
                "initial_posterior fixed, or loss_weights that count the first step (port, uniform, decreasing)"
            )
        if self.levers.one_pass:
            if not self.detached_inputs:
                raise ValueError(
                    f"one_pass is exact only if no refinement input is differentiated; gradient_scope {self.gradient_scope} "
                    "differentiates some (use inputs or all)"
                )
            if not self.levers.analytic_gradients:
                raise ValueError("one_pass needs the analytic gradients; switch analytic_gradients on")
            if self.levers.checkpoint:
                raise ValueError("one_pass leaves no decoder graph for checkpoint to forget; choose one of the two")
