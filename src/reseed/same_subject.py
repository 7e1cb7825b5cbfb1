"""Whether the subject behind a name still gives the activations that it gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reseed.errors import StoreError

if TYPE_CHECKING:
    from reseed.subjects.opening import Opened

_SAMPLED = 8
"""Rows and columns of a block that are compared."""
_SAME = 0.05
"""Difference, as a share of the root mean square, below which numbers count as the same."""


def sample(opened: Opened) -> dict[str, list[float]]:
    """The root mean square of each site, and some numbers of its first and of its last block."""
    out: dict[str, list[float]] = {}
    for block in (0, opened.blocks - 1):
        for site, x in opened.source.read([block]).items():
            rms = float(x.double().square().mean().sqrt())
            out.setdefault(site, [rms]).extend(x[:_SAMPLED, :_SAMPLED].flatten().tolist())
    return out


def check_same(
    before: Mapping[str, Sequence[float]], now: Mapping[str, Sequence[float]], folder: Path
) -> None:
    """Refuse a subject that gives other activations than those that the runs learned from.

    The spec names the subject; what lies behind the name can change. Another number of threads
    only changes roundings, hence the tolerance.

    Args:
        before: `sample` when the study was made.
        now: the same of the subject as it is.
        folder: of the study, for the message.

    Raises:
        StoreError: if they are not the same.
    """
    for site, numbers in before.items():
        there = now.get(site, [])
        same = len(there) == len(numbers) and np.allclose(
            numbers, there, rtol=0, atol=_SAME * numbers[0]
        )
        if not same:
            raise StoreError(
                f"{folder}: the subject or its data changed under the same name; {site} "
                "gives other activations than when this folder was made. Runs on both could not be "
                "compared: put the old data back, or give this study a folder of its own with "
                "`--out`."
            )
