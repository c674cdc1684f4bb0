"""Gradients that are known before the backward pass, and forward passes that are done twice to save memory.

Iterative inference takes a gradient inside its forward pass. These three functions let it do so without hidden state and
without ever building a graph of second order; ``loss.mean().backward()`` remains the only interface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Score = Callable[..., tuple[Tensor, tuple[Tensor, ...]]]


def with_gradients(value: Tensor, tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """The value, whose gradient with respect to some tensors is known already.

    Args:
        value: (B,), one number per image; its own history is kept.
        tensors: (B, ...) each; number b of the value depends on row b alone.
        gradients: d value[b] / d tensor[b], of the shapes of the tensors.

    Returns:
        (B,).
    """
    pairs = [(t, g) for t, g in zip(tensors, gradients, strict=True) if t.requires_grad]
    if not pairs:
        return value
    out: Tensor = _WithGradients.apply(value, len(pairs), *(t for t, _ in pairs), *(g.detach() for _, g in pairs))
    return out


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        known = [_rows(upstream[0], gradient) * gradient for gradient in ctx.saved_tensors]
        return upstream[0], None, *known, *([None] * len(known))


def one_pass(
    decode: Callable[[Tensor], tuple[Tensor, ...]],
    score: Score,
    codes: Tensor,
    parameters: Sequence[Tensor],
    *,
    weighed: bool,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Decode, score, and go backward at once: the decoder's graph is gone when this returns.

    The value's gradients with respect to the codes and the parameters are computed here, by one backward pass through the
    decoder, and handed out when the loss is differentiated. That is exact as long as nothing else is differentiated through
    the pictures, which come back without history. Gradients of parameters are sums over images, which is all that is needed
    if every image weighs the same, as in the mean over a batch; if not, the decoder is run once more.

    Args:
        decode: codes -> pictures.
        score: pictures without history -> (value (B,), d value[b] / d picture[b] for each picture).
        codes: (B, ...).
        parameters: those of ``decode``.
        weighed: whether the value has a weight in the loss; if not, the parameters' gradients are not computed beforehand.

    Returns:
        the value (B,), with history; the pictures; d value[b] / d codes[b].
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    value, gradient, *pictures = _OnePass.apply(decode, score, weighed, codes, *trained)
    return value, tuple(pictures), gradient


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        decode: Callable[[Tensor], tuple[Tensor, ...]],
        score: Score,
        weighed: bool,
        codes: Tensor,
        *trained: Tensor,
    ) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaf = codes.detach().requires_grad_()
            pictures = decode(leaf)
        shown = tuple(picture.detach() for picture in pictures)
        value, cotangents = score(*shown)
        wanted = [leaf, *(trained if weighed else ())]
        gradient, *known = torch.autograd.grad(pictures, wanted, cotangents)
        ctx.again, ctx.autocast = (decode, score), _autocast_state(codes)
        ctx.weighed, ctx.trained = weighed, len(trained)
        ctx.save_for_backward(codes, gradient, *known, *trained)
        ctx.mark_non_differentiable(gradient, *shown)
        return value, gradient, *shown

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        codes, gradient, *rest = ctx.saved_tensors
        weights, trained = upstream[0], rest[len(rest) - ctx.trained :]
        alike = bool((weights == weights[0]).all())
        if alike and ctx.weighed:
            ours = [weights[0] * known for known in rest[: ctx.trained]]
        elif alike and not weights[0]:
            ours = [torch.zeros_like(parameter) for parameter in trained]
        else:
            decode, score = ctx.again
            with torch.enable_grad(), ctx.autocast():
                pictures = decode(codes.detach())
            _, cotangents = score(*(picture.detach() for picture in pictures))
            ours = list(torch.autograd.grad(pictures, trained, [_rows(weights, c) * c for c in cotangents]))
        return None, None, None, _rows(weights, gradient) * gradient, *ours


def recomputed(
    run: Callable[..., tuple[Tensor, ...]], tensors: Sequence[Tensor], parameters: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Run a function and forget its graph; the backward pass runs it again.

    PyTorch's own checkpointing does not let the function take gradients inside.

    Args:
        run: tensors -> tensors, deterministic; may call ``torch.autograd.grad``.
        tensors: its arguments.
        parameters: what else it depends on.

    Returns:
        what ``run`` returns.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    out: tuple[Tensor, ...] = _Recomputed.apply(run, len(tensors), *tensors, *trained)
    return out


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Callable[..., tuple[Tensor, ...]], count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.run, ctx.count, ctx.autocast = run, count, _autocast_state(tensors[0])
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        with torch.enable_grad():
            found = [(out.requires_grad, out.detach()) for out in run(*_fresh(tensors[:count]))]
        ctx.mark_non_differentiable(*(out for differentiable, out in found if not differentiable))
        return tuple(out for _, out in found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        arguments, trained = _fresh(tensors[: ctx.count]), tensors[ctx.count :]
        with torch.enable_grad(), ctx.autocast():
            outputs = ctx.run(*arguments)
        asked = [(out, g) for out, g in zip(outputs, upstream, strict=True) if g is not None and out.requires_grad]
        sources = [*arguments, *trained]
        wanted = [source for source in sources if source.requires_grad]
        found = iter(torch.autograd.grad([o for o, _ in asked], wanted, [g for _, g in asked], allow_unused=True))
        return None, None, *(next(found) if source.requires_grad else None for source in sources)


def _fresh(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same values as leaves."""
    return [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]


def _rows(weights: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1), to multiply with."""
    return weights.view(-1, *([1] * (like.ndim - 1)))


def _autocast_state(tensor: Tensor) -> Callable[[], torch.autocast]:
    """Makes a context in which autocast is what it is now: the backward pass runs outside the caller's."""
    kind = tensor.device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype=dtype, enabled=enabled)
