"""Compiling by numba, with the types kept.

Machine code is kept beside the source, or in the user's cache where that cannot be written, so only
the first use on a machine takes the seconds to compile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a loop; it runs without the interpreter's lock."""
    return njit(cache=True, nogil=True)(function)  # pyright: ignore[reportReturnType, reportCallIssue]


def reordered(function: F) -> F:
    """The same, with sums in any order, so that several run at once."""
    return njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})(function)  # pyright: ignore[reportReturnType, reportCallIssue]


def arithmetic(function: F) -> F:
    """The same, with division as in NumPy: checks for zero would keep several from running."""
    flags = {"reassoc", "contract", "nsz"}
    return njit(cache=True, nogil=True, error_model="numpy", fastmath=flags)(function)  # pyright: ignore[reportReturnType, reportCallIssue]
