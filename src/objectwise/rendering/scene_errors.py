"""How far rendered scenes are from images: for every count of objects, and for scenes in which one object is changed.

The sum over counts and the gradients through a black box need the squared errors of many scenes that differ little from each
other. :func:`scene_errors` finds the cheapest way a renderer offers: ours draws a changed object alone and looks at its
window only;
of any other renderer (:class:`objectwise.rendering.tabletop.Renderer`) all those pictures are asked.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from objectwise.rendering.tabletop import Renderer, TableScene, Tabletop, rendered_prefixes, waves


class SceneErrors(Protocol):
    """Summed squared errors against images (B, C, H, W).

    ``blur`` is the share w in (1 − w)·(error of the pixels) + w·(error of the slowest waves, :func:`~.tabletop.waves` along rows
    and columns): an object that does not overlap its counterpart is drawn to it by the second term only.
    """

    def prefixes(self, images: Tensor, scene: TableScene, *, blur: float = 0.0) -> Tensor:
        """(B, M + 1): of the first 0, 1, ..., M objects."""
        ...

    def changed(
        self, images: Tensor, scene: TableScene, kind: Tensor, pose: Tensor, *, blur: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """The same, and (B, M, A, M + 1): of the prefixes with object m made alternative a.

        Args:
            images: (B, C, H, W).
            scene: B scenes of M objects.
            kind: (B, M, A) what object m is in alternative a.
            pose: (B, M, A, 3) where it is.
            blur: see the class.
        """
        ...


def scene_errors(renderer: Renderer) -> SceneErrors:
    """The cheapest way to the errors that a renderer offers."""
    return FastErrors(renderer) if isinstance(renderer, Tabletop) else RenderedErrors(renderer)


class RenderedErrors:
    """By rendering every picture; differentiable where the renderer is.

    Args:
        renderer: any.
    """

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer

    def pictures(self, scene: TableScene) -> Tensor:
        """(B, M + 1, C, H, W): the first 0, 1, ..., M objects."""
        own = getattr(self.renderer, "prefixes", None)
        found: Tensor = rendered_prefixes(self.renderer, scene) if own is None else own(scene)
        return found

    def prefixes(self, images: Tensor, scene: TableScene, *, blur: float = 0.0) -> Tensor:
        """See :class:`SceneErrors`."""
        pictures = self.pictures(scene)
        gap = images.unsqueeze(1).to(pictures) - pictures
        errors = gap.square().flatten(2).sum(dim=2)
        if blur == 0.0:
            return errors
        down, across = (waves(size).to(pictures) for size in pictures.shape[-2:])
        return (1.0 - blur) * errors + blur * (down @ gap @ across.mT).square().flatten(2).sum(dim=2)

    def changed(
        self, images: Tensor, scene: TableScene, kind: Tensor, pose: Tensor, *, blur: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """See :class:`SceneErrors`."""
        (batch, number, alternatives), base = kind.shape, self.prefixes(images, scene, blur=blur)
        rows = []
        for m in range(number):
            many = scene.repeated(alternatives)
            kinds, poses = many.kind.clone(), many.pose.clone()
            kinds[:, m], poses[:, m] = kind[:, m].reshape(-1), pose[:, m].reshape(-1, pose.shape[-1])
            used = many.present.clone()
            used[:, m] = True
            found = self.prefixes(
                images.repeat_interleave(alternatives, 0),
                many._replace(kind=kinds, pose=poses, present=used),
                blur=blur,
            )
            rows.append(found.view(batch, alternatives, number + 1))
        return base, torch.stack(rows, dim=1)


class FastErrors:
    """By drawing changed objects alone where numba can, else as :class:`RenderedErrors`.

    Args:
        renderer: ours.
    """

    def __init__(self, renderer: Tabletop) -> None:
        self.renderer = renderer
        self.slow = RenderedErrors(renderer)

    def prefixes(self, images: Tensor, scene: TableScene, *, blur: float = 0.0) -> Tensor:
        """See :class:`SceneErrors`."""
        if not self._fast(scene):
            return self.slow.prefixes(images, scene, blur=blur)
        from objectwise.rendering import tabletop_numba

        return tabletop_numba.errors(images, scene, self.renderer.config, blur=blur)[0].to(scene.pose)

    def changed(
        self, images: Tensor, scene: TableScene, kind: Tensor, pose: Tensor, *, blur: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """See :class:`SceneErrors`."""
        if not self._fast(scene):
            return self.slow.changed(images, scene, kind, pose, blur=blur)
        from objectwise.rendering import tabletop_numba

        base, changed = tabletop_numba.errors(images, scene, self.renderer.config, kind, pose, blur=blur)
        return base.to(scene.pose), changed.to(scene.pose)

    def _fast(self, scene: TableScene) -> bool:
        return self.renderer.config.backend != "moderngl" and self.renderer.fast(scene)
