"""The entries with the smallest keys of each group, whatever the order in which they come."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Entries = NDArray[Any]
"""Records of `kind_of`."""

_NONE = np.iinfo(np.uint64).max
_LEAST = 1 << 16
"""Entries that wait at least before they are sorted in."""


def kind_of(width: int) -> np.dtype[Any]:
    """The record of an entry; `width` activations, 0 for windows in which a latent is silent."""
    return np.dtype(
        [
            ("group", np.int64),
            ("key", np.uint64),
            ("window", np.int64),
            ("note", np.int32),
            ("activations", np.float32, (width,)),
        ]
    )


class Reservoir:
    """Keeps the `size` entries with the smallest keys of each group.

    What is kept depends on the entries alone: parts may come in any order and be merged. Equal
    keys are told apart by the window; no window may come twice to one group.

    Args:
        groups: numbered from 0.
        size: entries kept of each.
        width: activations of an entry.
    """

    def __init__(self, groups: int, size: int, width: int) -> None:
        self._size = size
        self._kept = np.empty(0, kind_of(width))
        self._waiting: list[Entries] = []
        self._highest = np.full(groups, _NONE, np.uint64)

    def open(self, group: NDArray[np.int64], key: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether an entry could still be kept; those that could not need not be made."""
        return (key <= self._highest[group]) & (self._size > 0)

    def highest(self, group: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The largest key that could still be kept in these groups."""
        return self._highest[group]

    def add(self, entries: Entries) -> None:
        """Take in more."""
        self._waiting.append(entries)
        if sum(map(len, self._waiting)) > max(len(self._kept), _LEAST):
            self._settle()

    def entries(self) -> Entries:
        """What is kept, by group, then key, then window."""
        self._settle()
        return self._kept

    def _settle(self) -> None:
        if not self._waiting:
            return
        every = np.concatenate([self._kept, *self._waiting])
        self._waiting = []
        if not self._size:
            every = every[:0]
        order = np.lexsort((every["window"], every["key"], every["group"]))
        group = every["group"][order]
        starts = np.flatnonzero(np.append(True, group[1:] != group[:-1]))[: len(group)]
        counts = np.diff(np.append(starts, len(group)))
        rank = np.arange(len(group)) - np.repeat(starts, counts)
        self._kept = every[order[rank < self._size]]
        full = starts[counts >= self._size]
        self._highest[group[full]] = every["key"][order[full + self._size - 1]]

