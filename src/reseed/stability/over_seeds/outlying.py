"""Runs that stand out: which, by how much, and what the others share without them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reseed.spec.statistics import OutlyingRun

Floats = NDArray[np.float64]

FAR = 4.0
"""Times what could be chance at which a run stands out."""


def outlying_runs(
    pairs: Sequence[tuple[str, str]], shares: Floats, latents: float
) -> list[OutlyingRun]:
    """Runs that stand out from the others, by shares `[pairs]` of so many latents.

    A run stands out if what it shares with the others differs from what they share among each other
    by a tenth of that and by `FAR` times what could be chance: how its own pairs differ, how the
    others differ from each other (by the median, so that a second such run does not hide it), and
    what so many latents leave open. Nothing with fewer than three runs.
    """
    out: list[OutlyingRun] = []
    for run in sorted({run for pair in pairs for run in pair}):
        its = np.array([run in pair for pair in pairs])
        if its.all() or not its.any():
            continue
        rest = [pair for pair, own in zip(pairs, its, strict=True) if not own]
        share, others = float(shares[its].mean()), float(shares[~its].mean())
        names = sorted({name for pair in rest for name in pair})
        each = np.array([shares[~its][[n in pair for pair in rest]].mean() for n in names])
        spread = float(np.median(np.abs(each - np.median(each)))) * 1.4826
        open_ = np.sqrt(max(others * (1 - others), 1 / latents) / latents)
        chance = max(float(shares[its].std(ddof=1)) if its.sum() > 1 else 0.0, spread, float(open_))
        if abs(share - others) > max(FAR * chance, 0.1 * others):
            out.append(OutlyingRun(run=run, share=share, others=others))
    return out
