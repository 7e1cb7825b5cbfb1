"""Whether activations go to disk once or through the subject at every pass."""

from __future__ import annotations

from typing import Literal, NamedTuple

from reseed.activations.spec import ActivationSpec

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_LARGEST_SHARE_OF_FREE_DISK = 0.5


class Choice(NamedTuple):
    """How activations are kept, and why."""

    keep: Literal["live", "shards"]
    reason: str
    passes: int
    """over the activations"""
    disk: int
    """bytes that shards take"""


def passes_over(training_rows: int, tokens: int, streams: int) -> int:
    """How often the activations are gone through: each stream's epochs, and once for evidence.

    Args:
        training_rows: rows that are not held out.
        tokens: that each run sees.
        streams: data seeds whose runs are missing; those of shuffled controls count by themselves.
    """
    return streams * -(-tokens // max(training_rows, 1)) + 1


def choose(
    spec: ActivationSpec, *, rows: int, dimensions: int, passes: int, free_disk: int
) -> Choice:
    """Decide by size and number of passes, unless the study says it.

    Args:
        spec: what the study says.
        rows: to harvest.
        dimensions: summed over sites.
        passes: from `passes_over`.
        free_disk: bytes.
    """
    disk = rows * dimensions * _BYTES[spec.dtype]
    size = f"{disk / 1e9:.2g} GB"
    if spec.keep != "auto":
        return Choice(spec.keep, "the study says so", passes, disk)
    if passes <= 1:
        return Choice("live", "they are needed once", passes, disk)
    if disk > free_disk * _LARGEST_SHARE_OF_FREE_DISK:
        free = f"{free_disk / 1e9:.2g} GB"
        return Choice("live", f"shards would take {size} of {free} free disk", passes, disk)
    return Choice("shards", f"{passes} passes are needed and shards take {size}", passes, disk)
