"""The penalty that brings L0 to a target: so that architectures are compared at the same L0.

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

MEMORY = 0.9
"""Share of the running mean of L0 that stays from step to step."""
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
    """The state after a batch.

    Args:
        held: the state before it.
        l0: mean latents that fired in its rows.
        target: what they should be at the end.
        step: of the batch, from 0.
        steps: all.
    """
    if step >= (1.0 - STILL) * steps:
        return held
    now = max(l0, LEAST)
    first = held.first or now
    mean = MEMORY * (held.l0 or now) + (1.0 - MEMORY) * now
    left = max(0.0, 1.0 - step / (DESCENT * steps))
    error = math.log(mean / target) - left * math.log(first / target)
    total = held.total + REACH / steps * max(-1.0, min(1.0, error))
    return Held(total + AT_ONCE * error, total, mean, first)


def factor(held: Held) -> float:
    """What the penalty is multiplied by."""
    return math.exp(held.log_factor)
