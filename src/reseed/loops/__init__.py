"""Compiled and Triton kernels: arrays in, arrays out. They know no SAE and no study."""

from collections.abc import Callable

says: Callable[[str], object] | None = None
"""Shows a line to the person who waits while loops are compiled, if somebody does."""
