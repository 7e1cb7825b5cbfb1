"""When an exact assignment stops."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to stop."""

    tolerance: float = 1e-9
    """largest gap to be called optimal, relative to the objective (at least to 1)"""
    rounds: int = 50
    """solves of the sparse problem"""
    seconds: float = float("inf")
    """wall time"""
