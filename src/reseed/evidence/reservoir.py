"""The entries with the smallest keys of each group, whatever the order in which they come."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Entries = NDArray[Any]
"""Records of `kind_of`."""

_NONE = np.iinfo(np.uint64).max
LEAST = 1 << 13
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

    def candidates(
        self,
        group: NDArray[np.int64],
        key: NDArray[np.uint64],
        window: NDArray[np.int64],
        among: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int64]:
        """Which of some entries could be kept, so that the others need not be made.

        Args:
            group: of each.
            key: of each.
            window: of each.
            among: those that count at all; None for all.
        """
        could = key <= self._highest[group]
        left = np.flatnonzero(could if among is None else could & among)
        order, _ = _ranked(group[left], key[left], window[left], self._size)
        return left[order]

    def highest(self, group: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The largest key that could still be kept in these groups."""
        return self._highest[group]

    def add(self, entries: Entries) -> None:
        """Take in more; only `candidates`, so that memory is bounded."""
        self._waiting.append(entries)
        if sum(map(len, self._waiting)) > max(len(self._kept), LEAST):
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
        order, last = _ranked(every["group"], every["key"], every["window"], self._size)
        self._kept = every[order]
        self._highest[every["group"][last]] = every["key"][last]


def _ranked(
    group: NDArray[np.int64], key: NDArray[np.uint64], window: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first `size` of each group, in order, and the last of these where there are so many."""
    if not size or not len(group):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = np.lexsort((window, key, group))
    new = np.append(True, np.diff(group[order]) != 0)
    start = np.flatnonzero(new)
    rank = np.arange(len(order)) - start[np.cumsum(new) - 1]
    return order[rank < size], order[rank == size - 1]
