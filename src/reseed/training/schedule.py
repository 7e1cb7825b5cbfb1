"""Learning rates as plain functions of the step."""

from __future__ import annotations


def warmup_then_linear(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """Linear warm-up from 0 to `peak`, then linear decay to 0 (recipe of arXiv 2501.16615).

    Args:
        step: number of the step about to be made, from 0.
        peak: the rate after warm-up.
        warmup: steps of warm-up.
        steps: all steps.

    Example:
        >>> warmup_then_linear(100, peak=1.0, warmup=100, steps=1100)
        1.0
    """
    if step < warmup:
        return peak * step / warmup
    return peak * max(0, steps - step) / max(1, steps - warmup)
