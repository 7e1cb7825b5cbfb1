"""Learning rates, k and sparsity as plain functions of the step."""

from __future__ import annotations

import math
from typing import Literal


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


def warmup_then_cosine(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """Linear warm-up from 0 to `peak`, then half a cosine down to 0 (arXiv 1608.03983).

    Args:
        step: number of the step about to be made, from 0.
        peak: the rate after warm-up.
        warmup: steps of warm-up.
        steps: all steps.

    Example:
        >>> warmup_then_cosine(600, peak=1.0, warmup=100, steps=1100)
        0.5
    """
    if step < warmup:
        return peak * step / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (1.0 - math.sin(math.pi * (done - 0.5))) / 2.0


def learning_rate(
    schedule: Literal["linear", "cosine", "constant"],
    step: int,
    *,
    peak: float,
    warmup: int,
    steps: int,
) -> float:
    """The learning rate of the step about to be made, by the name of its schedule."""
    if schedule == "linear":
        return warmup_then_linear(step, peak=peak, warmup=warmup, steps=steps)
    if schedule == "cosine":
        return warmup_then_cosine(step, peak=peak, warmup=warmup, steps=steps)
    return peak * min(1.0, step / warmup) if warmup else peak


def falling_k(step: int, *, first: int, k: int, over: int) -> int:
    """K that falls linearly from `first` to `k` (K annealing of arXiv 2410.20526).

    Args:
        step: number of the step about to be made, from 0.
        first: at step 0.
        k: from step `over` on.
        over: steps.

    Example:
        >>> falling_k(50, first=100, k=20, over=100)
        60
    """
    if step >= over:
        return k
    return round(first + (k - first) * step / over)


def rising(step: int, *, over: int) -> float:
    """A factor that rises linearly from 0 at step 0 to 1 at step `over`; 1 where `over` is 0."""
    return 1.0 if step >= over else step / over


def mutual_weight(step: int, *, over: int) -> float:
    """w(t) = (1 + cos(pi (T - t) / T)) / 2 for T = `over` steps, then 1 (arXiv 2411.01220).

    Example:
        >>> mutual_weight(0, over=100), mutual_weight(100, over=100)
        (0.0, 1.0)
    """
    return 1.0 if step >= over else (1.0 + math.cos(math.pi * (over - step) / over)) / 2.0
