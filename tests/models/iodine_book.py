"""IODINE by the book: the released code's and the port's loops in plain float64, slot by slot, step by step.

Written from the description of either, with sums, products and automatic differentiation alone; shares nothing with the model
but the names of its weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, elu, pad, softplus


@dataclass(frozen=True)
class Book:
    """Which book: the released code's, or the port's; and what the gradient does not go through."""

    port: bool
    sigma: float
    prior_variance: float
    latent: int
    weights: dict[str, Tensor]
    step_weights: tuple[float, ...]
    scope: str
    lstm: bool
    gradient_scale: float = 1.0
    constant: float | None = None
    doublings: int = 0
    pooled: bool = True

    def decode(self, code: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """(B, Z) -> colours (B, 3, H, W) and logit (B, H, W)."""
        grid = [math.ceil(side / 2**self.doublings) for side in (height, width)]
        rows, columns = (torch.linspace(-1, 1, side).double() for side in grid)
        planes = [code[:, d].view(-1, 1, 1).expand(-1, *grid) for d in range(self.latent)]
        if self.constant is not None:
            planes.append(torch.full_like(planes[0], self.constant))
        planes.append(rows.view(1, -1, 1).expand_as(planes[0]))
        planes.append(columns.view(1, 1, -1).expand_as(planes[0]))
        x, number = torch.stack(planes, dim=1), 0
        names = ["decoder.first.convolution"]
        while f"decoder.rest.{number}.weight" in self.weights:
            names.append(f"decoder.rest.{number}")
            number += 1
        for place, name in enumerate(names):
            weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
            if place >= len(names) - self.doublings:
                x = conv_transpose2d(x, weight, bias, stride=2, padding=1)
            else:
                x = conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
            x = x if place == len(names) - 1 else elu(x)
        x = x[:, :, :height, :width]
        return (x[:, 1:].sigmoid() if self.port else x[:, 1:]), x[:, 0]

    def density(self, x: Tensor, mean: Tensor) -> Tensor:
        if self.port:
            return torch.exp(-((x - mean) ** 2) / (2 * self.sigma**2)) / (self.sigma * math.sqrt(2 * math.pi))
        u = (x - mean) / self.sigma
        return torch.exp(-u) / (self.sigma * (1 + torch.exp(-u)) ** 2)

    def log_prob(self, x: Tensor, means: list[Tensor], masks: list[Tensor]) -> Tensor:
        """(B, H, W): one mixture per pixel, or, in the port, one per channel, with 1e-12 added to the masks."""
        parts = [self.density(x, mean) for mean in means]
        if self.port:
            by_channel = sum((m + 1e-12).unsqueeze(1) * p for m, p in zip(masks, parts, strict=True))
            return torch.log(by_channel).sum(dim=1)
        return torch.log(sum(m * p.prod(dim=1) for m, p in zip(masks, parts, strict=True)))

    def normalised(self, name: str, x: Tensor) -> Tensor:
        """(B, c, H, W) over all but the batch; the released code has a scale and a shift per channel."""
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        out = (x - mean) / torch.sqrt(((x - mean) ** 2).mean(dim=(1, 2, 3), keepdim=True) + 1e-5)
        if self.port:
            return out
        gain, shift = (self.weights[f"refinement.norms.{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
        return out * gain + shift

    def normalised_flat(self, x: Tensor) -> Tensor:
        """(B, 2 Z): all of it, or, in the port, means and log variances apart."""
        parts = [x[:, : self.latent], x[:, self.latent :]] if self.port else [x]
        done = []
        for part in parts:
            centred = part - part.mean(dim=1, keepdim=True)
            done.append(centred / torch.sqrt((centred**2).mean(dim=1, keepdim=True) + 1e-5))
        out = torch.cat(done, dim=1)
        if self.port:
            return out
        return out * self.weights["refinement.norms.dzp.weight"] + self.weights["refinement.norms.dzp.bias"]

    def coordinates(self, height: int, width: int) -> Tensor:
        low, high = (-1.0, 1.0) if self.port else (0.0, math.pi)
        y = torch.linspace(low, high, height).view(-1, 1).expand(height, width)
        x = torch.linspace(low, high, width).view(1, -1).expand(height, width)
        if self.port:
            return torch.stack([x, y]).double()
        waves = [torch.cos(i * x) * torch.cos(j * y) for i in range(3) for j in range(3) if i + j > 0]
        return torch.stack(waves).double()

    def encode(self, x: Tensor) -> Tensor:
        """(B, c, H, W) -> (B, h)."""
        names, number = ["refinement.first"], 0
        while f"refinement.rest.{number}.weight" in self.weights:
            names.append(f"refinement.rest.{number}")
            number += 1
        for name in names:
            weight = self.weights[f"{name}.weight"]
            kernel = weight.shape[-1]
            if self.port:
                margins = [kernel // 2] * 4
            else:
                total = [max((math.ceil(side / 2) - 1) * 2 + kernel - side, 0) for side in (x.shape[3], x.shape[2])]
                margins = [m for t in total for m in (t // 2, t - t // 2)]
            x = elu(conv2d(pad(x, margins), weight, self.weights[f"{name}.bias"], stride=2))
        x, number = x.mean(dim=(2, 3)) if self.pooled else x.flatten(1), 0
        while f"refinement.dense.{number}.weight" in self.weights:
            x = elu(x) if number else x
            x = (
                x @ self.weights[f"refinement.dense.{number}.weight"].T
                + self.weights[f"refinement.dense.{number}.bias"]
            )
            number += 1
        return x

    def remember(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        gates = torch.cat([x, hidden], dim=1) @ self.weights["refinement.gates.weight"].T
        i, j, f, o = (gates + self.weights["refinement.gates.bias"]).chunk(4, dim=1)
        cell = cell * torch.sigmoid(f + 1.0) + torch.sigmoid(i) * torch.tanh(j)
        return torch.tanh(cell) * torch.sigmoid(o), cell

    def loss(self, x: Tensor, noise: Tensor, slots: int) -> dict[str, Any]:
        """The loss of each image, and what the last step says.

        ``x``: (B, 3, H, W); ``noise``: (T + 1, B, K, Z).
        """
        batch, _, height, width = x.shape
        size = self.weights["refinement.gates.bias"].numel() // 4 if self.lstm else 0
        posteriors = [self.weights["initial"].expand(batch, -1) for _ in range(slots)]
        hidden = [x.new_zeros(batch, size) for _ in range(slots)]
        cells = [x.new_zeros(batch, size) for _ in range(slots)]
        total, told = x.new_zeros(batch), []
        second = self.scope == "none"
        for t, weight in enumerate(self.step_weights):
            locs = [p[:, : self.latent] for p in posteriors]
            raws = [p[:, self.latent :] for p in posteriors]
            variances = [torch.exp(raw) if self.port else softplus(raw) for raw in raws]
            codes = [m + torch.sqrt(v) * noise[t][:, k] for k, (m, v) in enumerate(zip(locs, variances, strict=True))]
            drawn = [self.decode(code, height, width) for code in codes]
            means, logits = [each[0] for each in drawn], [each[1] for each in drawn]
            exps = [torch.exp(logit) for logit in logits]
            masks = [e / sum(exps) for e in exps]
            log_prob = self.log_prob(x, means, masks)
            tau2 = self.prior_variance
            kl = sum(
                (0.5 * ((v + m**2) / tau2 - 1 - torch.log(v / tau2))).sum(dim=1)
                for m, v in zip(locs, variances, strict=True)
            )
            bound = -log_prob.sum(dim=(1, 2)) + kl
            total = total + weight * bound
            told.append(
                {"bound": bound, "kl": kl, "masks": torch.stack(masks, dim=1), "codes": torch.stack(codes, dim=1)}
            )
            if t == len(self.step_weights) - 1:
                break
            wanted = [*posteriors, *means, *(masks if self.port else logits)]
            slopes = torch.autograd.grad(bound.sum(), wanted, retain_graph=True, create_graph=second)
            if not second:
                slopes = tuple(slope.detach() for slope in slopes)
            slopes = tuple(self.gradient_scale * slope for slope in slopes)
            of_posteriors, of_means, of_masks = slopes[:slots], slopes[slots : 2 * slots], slopes[2 * slots :]
            refined = []
            for k in range(slots):
                inputs = self.inputs(x, k, means, logits, masks, log_prob, of_means[k], of_masks[k], second)
                stack = torch.cat([inputs[name] for name in sorted(inputs)], dim=1)
                dzp, zp = self.normalised_flat(of_posteriors[k]), posteriors[k]
                if self.scope in ("inputs", "all"):
                    zp = zp.detach()
                vectors = [self.encode(stack), dzp, *([] if self.port else [x.new_full((batch, 1), 0.5)]), zp]
                features = torch.cat(vectors, dim=1)
                if self.lstm:
                    features, cells[k] = self.remember(features, hidden[k], cells[k])
                    hidden[k] = features
                change = features @ self.weights["refinement.head.weight"].T + self.weights["refinement.head.bias"]
                refined.append((posteriors[k].detach() if self.scope == "all" else posteriors[k]) + change)
            posteriors = refined
        return {"loss": total, "steps": told}

    def inputs(
        self,
        x: Tensor,
        k: int,
        means: list[Tensor],
        logits: list[Tensor],
        masks: list[Tensor],
        log_prob: Tensor,
        of_mean: Tensor,
        of_mask: Tensor,
        second: bool,
    ) -> dict[str, Tensor]:
        """Slot k's pictures, (B, c, H, W) each, stopped as the scope has it."""
        batch, _, height, width = x.shape
        products = [self.density(x, mean).prod(dim=1) for mean in means]
        others = [j for j in range(len(means)) if j != k]
        if self.port:
            without = sum((masks[j] + 1e-12) * products[j] for j in others) / (1 - masks[k] + 1e-5)
            evidence, counterfactual = torch.exp(log_prob), without
            share = products[k] / sum(products)
        else:
            rest = [torch.exp(logits[j]) for j in others]
            renewed = [r / sum(rest) for r in rest]
            without = sum(m * products[j] for m, j in zip(renewed, others, strict=True))
            evidence, counterfactual = log_prob, log_prob - torch.log(without)
            share = products[k] / (sum(products) + 1e-6)
        if not second:
            evidence, counterfactual = evidence.detach(), counterfactual.detach()
        free = {"components": means[k], "mask": logits[k].unsqueeze(1)}
        free |= {"posterior": share.unsqueeze(1), "pred_mask": masks[k].unsqueeze(1)}
        if self.scope in ("inputs", "all"):
            free = {name: value.detach() for name, value in free.items()}
        fixed = {"image": x, "coordinates": self.coordinates(height, width).unsqueeze(0).expand(batch, -1, -1, -1)}
        if not self.port:
            fixed["capacity"] = x.new_full((batch, 1, height, width), 0.5)
        return {
            **fixed,
            **free,
            "log_prob": self.normalised("log_prob", evidence.unsqueeze(1)),
            "counterfactual": self.normalised("counterfactual", counterfactual.unsqueeze(1)),
            "dcomponents": self.normalised("dcomponents", of_mean),
            "dmask": self.normalised("dmask", of_mask.unsqueeze(1)),
        }
