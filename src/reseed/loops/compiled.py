"""Compiling by numba, and threads that run what was compiled side by side.

Machine code is kept beside the source, or in the user's cache where that cannot be written, so only
the first use on a machine takes the seconds to compile; where neither can be, every process does.

A product over all threads waits for whichever of them lost its core, and its threads stay awake
between products. Here every thread works alone: it takes the next piece of work, products of one
thread and compiled loops, when it is done with one.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

from numba import njit
from numba.core.caching import FunctionCache, NullCache

import reseed.loops as loops

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a loop; it runs without the interpreter's lock."""
    return _compiled(function)


def reordered(function: F) -> F:
    """The same, with sums in any order, so that several run at once."""
    return _compiled(function, fastmath=_ANY_ORDER)


def arithmetic(function: F) -> F:
    """The same, with division as in NumPy: checks for zero would keep several from running."""
    return _compiled(function, fastmath=_ANY_ORDER, error_model="numpy")


_ANY_ORDER = {"reassoc", "contract", "nsz"}


def _compiled(function: F, **settings: Any) -> F:
    loop: Any = njit(nogil=True, **settings)(function)
    try:
        loop._cache = _Kept(function)
    except (RuntimeError, OSError):  # no folder to keep it in: a container, another user's home
        loop._cache = _NotKept()
    return loop


class _Kept(FunctionCache):
    """Machine code on the disk; where that is full or read-only by now, code of this process."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The machine code for these types; None if it is to be made."""
        found = None
        with contextlib.suppress(OSError):
            found = super().load_overload(sig, target_context)
        if found is None:
            _tell("once on this machine")
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was made."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


class _NotKept(NullCache):
    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """There is none."""
        _tell("in every process, since no folder can keep them (NUMBA_CACHE_DIR names one)")


def _tell(how_often: str) -> None:
    """Say why nothing seems to happen, the first time that loops are compiled in a process."""
    if loops.says is not None and not _told:
        _told.append(how_often)
        loops.says(f"compiling loops for this processor: up to 20 seconds, {how_often}")


_told: list[str] = []


Stretch = Callable[[int, int], None]
"""Does a piece of work: from the first of some rows or latents to one past the last."""


def stretches(work: Stretch, count: int, size: int, threads: int) -> None:
    """Do a piece of work for each stretch of so many.

    Args:
        work: called once for each stretch.
        count: of all.
        size: of a stretch.
        threads: as `run`.
    """
    pieces = range(math.ceil(count / size))
    run(lambda piece: work(piece * size, min(count, (piece + 1) * size)), pieces, threads)


def run(work: Callable[[int], None], pieces: Sequence[int], threads: int) -> None:
    """Do a piece of work for each number; which thread does which must not matter.

    Args:
        work: called once for each.
        pieces: numbers.
        threads: at the most; torch's own products take one thread each inside.
    """
    if threads <= 1 or not pieces:
        for piece in pieces:
            work(piece)
        return
    left, lock = iter(pieces), threading.Lock()

    def take() -> None:
        while True:
            with lock:
                piece = next(left, None)
            if piece is None:
                return
            work(piece)

    tasks = [_pool(threads).submit(take) for _ in range(min(threads, len(pieces)))]
    for task in tasks:
        task.result()


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    import torch  # whose products run beside the loops; who compiles loops alone needs none

    before = torch.get_num_threads()
    ready = threading.Barrier(threads + 1)

    def alone() -> None:
        # torch's number belongs to the thread that sets it, once that thread has asked for it
        torch.get_num_threads()
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="reseed", initializer=alone)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)
    return pool
