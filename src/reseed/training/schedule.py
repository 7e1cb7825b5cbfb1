"""Learning rates and sparsity as plain functions of the step.

The penalty that brings L0 to a target: so that architectures are compared at the same L0.

L0 answers a penalty slowly and by orders of magnitude, so both are steered by their logarithms:

    log factor = I + P e,  I ← I + G clip(e, ±1),  e = log(L0 / goal)

where L0 is a running mean over batches, P answers at once, and the sum I finds the penalty that is
needed. The goal goes from the L0 of the first batch to the target over the first part of training,
since a penalty that is strong before features are found keeps them from being found. In the last
steps the penalty is held still, where the learning rate goes to 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from reseed.sae.settings import LRSchedule


def learning_rate(schedule: LRSchedule, step: int, peak: float, warmup: int, steps: int) -> float:
    """Linear warm-up from 0 to `peak`, then what the schedule says.

    That is linear down to 0 (recipe of arXiv 2501.16615), half a cosine (1608.03983), or constant.
    `step` is the number of the one about to be made, from 0.

    Example:
        >>> learning_rate("linear", 100, 1.0, 100, 1100)
        1.0
        >>> learning_rate("cosine", 600, 1.0, 100, 1100)
        0.5
    """
    if schedule == "constant":
        return peak * min(1.0, step / warmup) if warmup else peak
    if step < warmup:
        return peak * step / warmup
    if schedule == "linear":
        return peak * max(0, steps - step) / max(1, steps - warmup)
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (1.0 - math.sin(math.pi * (done - 0.5))) / 2.0


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


def memory(steps: int) -> float:
    """Share of the running mean of L0 that stays from step to step.

    The mean reaches back a hundredth of a training, ten steps at the most: in a short one what is
    remembered for longer is answered after all latents have died of it.

    Example:
        >>> memory(50), memory(200), memory(100_000)
        (0.0, 0.5, 0.9)
    """
    return 1.0 - 1.0 / min(10.0, max(1.0, steps / 100))


AT_ONCE = 1.0
"""P, the answer to where L0 is now."""

REACH = 16.0
"""What I can move in a training while L0 is e times the goal or more: e^16, both ways."""

DESCENT = 0.3
"""Share of the steps in which the goal goes to the target."""

STILL = 0.05
"""Share of the steps at the end in which the penalty stands still."""

LEAST = 1e-3
"""L0 below which a batch counts as this much, so that its logarithm is finite."""


class Held(NamedTuple):
    """The state of the steering; part of a run's checkpoint."""

    log_factor: float
    """log of what the penalty is multiplied by"""
    total: float
    """I"""
    l0: float
    """running mean over batches; 0 before the first"""
    first: float
    """L0 of the first batch"""


UNMOVED = Held(0.0, 0.0, 0.0, 0.0)
"""Before the first batch."""


def moved(held: Held, l0: float, target: float, step: int, steps: int) -> Held:
    """The state after a batch, number `step`, in whose rows `l0` latents fired on average."""
    if step >= (1.0 - STILL) * steps:
        return held
    now = max(l0, LEAST)
    first = held.first or now
    mean = memory(steps) * (held.l0 or now) + (1.0 - memory(steps)) * now
    left = max(0.0, 1.0 - step / (DESCENT * steps))
    error = math.log(mean / target) - left * math.log(first / target)
    total = held.total + REACH / steps * max(-1.0, min(1.0, error))
    return Held(total + AT_ONCE * error, total, mean, first)


def factor(held: Held) -> float:
    """What the penalty is multiplied by."""
    return math.exp(held.log_factor)
