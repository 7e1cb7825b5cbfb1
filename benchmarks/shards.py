"""What a step of a run takes whose latents lie on several GPUs, by arithmetic: nothing is measured.

Bytes on the wire are those that `Ranks` counts; times come from rates that are assumed. Read
without torch. F latents, D dimensions, B batch, k active, P ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

from reseed.sae.parts import auxk_size

_A_WEIGHT = 26
"""Bytes a latent and dimension: both matrices with their moments, the encoder once more halved."""
_ROWS = 8
"""Arrays `[B, D]` float32 alive at a time: rows as read and centred, sums, their pieces, what is
left."""
_PASSES = 6
"""Times that the rows of active codes are read: decoded, pulled, and both gradients twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Of one GPU, in units a second; assumed."""

    product: float = 600e12
    """floating-point operations of a bfloat16 product"""
    memory: float = 2.5e12
    """bytes of its memory"""
    wire: float = 360e9
    """bytes that it sends to others; 45e9 between machines"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedRun:
    """A run of TopK, and the ranks that share it."""

    latents: int
    dimensions: int
    batch: int
    k: int
    ranks: int = 1

    def sent(self, dead: int = 0) -> dict[str, int]:
        """Bytes that the first rank sends in a step, where so many latents are dead and learn.

        The other ranks send as much, but no rows.
        """
        others = self.ranks - 1
        if not others:
            return {}
        rows = -(-self.batch // self.ranks) * self.ranks
        sums = 2 * (rows * self.dimensions * 4 * others // self.ranks)
        out = {
            "rows": self.batch * self.dimensions * 4,
            "candidates": self._candidates(rows, self.k),
            "reconstruction": sums,
            "vectors": self.dimensions * 4 * others,
        }
        if dead:
            active, _ = auxk_size(self.dimensions, dead)
            out["dead candidates"] = self._candidates(rows, active)
            out["reconstruction"] += sums
        return out

    def _candidates(self, rows: int, k: int) -> int:
        """Values of the k best of each row there, counts back."""
        return rows * 4 * (k + 1) * (self.ranks - 1) // self.ranks

    @property
    def memory(self) -> int:
        """Bytes on each GPU."""
        own = self.latents * self.dimensions * _A_WEIGHT // self.ranks
        return own + _ROWS * self.batch * self.dimensions * 4

    def seconds(self, rates: Rates, dead: int = 0) -> tuple[float, float]:
        """Of a step: in computing, and on the wire."""
        f, d, b = self.latents / self.ranks, self.dimensions, self.batch
        product = 2 * b * f * d / rates.product + 4 * b * f / rates.memory
        active = auxk_size(d, dead)[0] if dead else 0
        codes = _PASSES * 4 * b * (self.k + active) * d / self.ranks / rates.memory
        adam = 2 * 24 * f * d / rates.memory
        whole = _ROWS * 4 * b * d / rates.memory
        if dead:
            product += 2 * b * (dead / self.ranks) * d / rates.product
        return product + codes + adam + whole, sum(self.sent(dead).values()) / rates.wire
