"""Numbers that change in training."""

from __future__ import annotations


def annealed(start: float | None, end: float, steps: int, step: int | None) -> float:
    """Exponentially from ``start`` at step 0 to ``end`` from ``steps`` on; ``end`` without a start or a step."""
    if start is None or step is None:
        return end
    return start * (end / start) ** min(1.0, step / steps)
