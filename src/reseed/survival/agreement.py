"""How one latent's activations agree in two versions of a subject, on the same tokens.

Pearson's correlation r over all tokens, silent ones included, from sums that are kept for bundles
of neighbouring blocks. Its interval is the delete-one jackknife over bundles on Fisher's scale
atanh(r): tokens of a block, and neighbouring blocks of one document, depend on each other, so they
are no units; r is skewed, atanh(r) is not; and unlike a bootstrap nothing is drawn.

The null has B's tokens shuffled inside each block: what two latents that fire as often and as
strongly in the same texts agree by. A latent that is silent in one of the versions has r = 0.

F latents, N tokens, U bundles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from reseed.matching.codes import Codes
from reseed.seeds import generator
from reseed.stability.intervals import jackknife_ends

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BUNDLES = 32
"""Of blocks, at most; with the latents they decide the memory of a pass."""

LEAST = 5
"""Bundles in which a latent has to fire for its r to have an interval."""

_ROUNDING = 1e-12
"""Share of the mean square below which a variance is rounding."""


class Bundled(NamedTuple):
    """Where the tokens of a chunk stand."""

    bundle: Integers
    """[N] bundle of the block of each token"""
    shuffled: Integers
    """[N] the token of the same block that takes its place in the null"""


def placed(blocks: Integers, counts: Integers, first: int, every: int) -> Bundled:
    """Bundles and shuffles of the tokens of some blocks.

    Args:
        blocks: `[n]` their numbers, which decide the shuffle.
        counts: `[n]` tokens of each.
        first: place of the first among all blocks of the pass.
        every: how many blocks the pass has.
    """
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    orders = [
        start + generator("survival-shuffle", int(block)).permutation(int(count))
        for block, start, count in zip(blocks, starts, counts, strict=True)
    ]
    bundle = (first + np.arange(len(blocks))) * min(BUNDLES, every) // max(every, 1)
    return Bundled(np.repeat(bundle, counts), np.concatenate([np.zeros(0, np.int64), *orders]))


class Agreement:
    """Sums over tokens of what latents do in version A and in version B."""

    def __init__(self, latents: int, bundles: int) -> None:
        self.rows = np.zeros(bundles, np.int64)
        self._sums = np.zeros((5, bundles, latents))
        """a, a², b, b², ab, for each bundle"""
        self._bundles = np.zeros((bundles, latents), bool)
        """where it fires in either"""
        self._fired = np.zeros((2, latents), np.int64)
        self._shuffled = np.zeros(latents)

    def add(self, A: Codes, B: Codes, where: Bundled) -> None:
        """Take in more tokens, codes `[N, F]` of both versions."""
        bundles, tokens = self._sums.shape[1], A.shape[0]
        at = where.bundle, np.arange(tokens)
        into: Any = csr_array((np.ones(tokens), at), shape=(bundles, tokens))
        self.rows += np.bincount(where.bundle, minlength=bundles)
        for place, part in enumerate((A, A.multiply(A), B, B.multiply(B), A.multiply(B))):
            self._sums[place] += (into @ csr_array(part)).toarray()
        self._shuffled += np.asarray(A.multiply(B[where.shuffled]).sum(axis=0)).ravel()
        for side, codes in enumerate((A, B)):
            self._fired[side] += np.bincount(codes.indices, minlength=codes.shape[1])
        self._bundles |= (self._sums[0] > 0) | (self._sums[2] > 0)

    def shuffled(self) -> Floats:
        """`[F]` r with B's tokens shuffled inside each block."""
        a, aa, b, bb, _ = self._sums.sum(axis=1)
        return correlation(int(self.rows.sum()), np.stack([a, aa, b, bb, self._shuffled]))

    def correlations(self) -> tuple[Floats, Floats, Floats]:
        """`[F]` r and both ends of its 95 % interval, NaN where it fires in too few bundles."""
        total, rows = self._sums.sum(axis=1), int(self.rows.sum())
        r = correlation(rows, total)
        used = np.flatnonzero(self.rows)
        without = np.stack(
            [correlation(rows - int(self.rows[u]), total - self._sums[:, u]) for u in used] or [r]
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = (np.tanh(end) for end in jackknife_ends(np.arctanh(r), np.arctanh(without)))
        same = (without == r).all(axis=0)  # also where r is 1 and its atanh infinite
        low, high = np.where(same, r, low), np.where(same, r, high)
        known = self._bundles.sum(axis=0) >= LEAST
        return r, np.where(known, low, np.nan), np.where(known, high, np.nan)

    def table(self) -> pl.DataFrame:
        """A row for each latent.

        latent, r, r_lo, r_hi, r_shuffled, fired, fired_variant (tokens), rate, rate_variant,
        rate_ratio (variant / whole; null where the whole never fires it), mean_act and
        mean_act_variant (when it fires).
        """
        r, low, high = self.correlations()
        rows, (fired, there) = max(int(self.rows.sum()), 1), self._fired
        a, b = self._sums[0].sum(axis=0), self._sums[2].sum(axis=0)
        ratio = np.divide(there, fired, out=np.full(len(r), np.nan), where=fired > 0)
        columns = {
            "latent": np.arange(len(r)),
            "r": r,
            "r_lo": low,
            "r_hi": high,
            "r_shuffled": self.shuffled(),
            "fired": fired,
            "fired_variant": there,
            "rate": fired / rows,
            "rate_variant": there / rows,
            "rate_ratio": ratio,
            "mean_act": a / np.maximum(fired, 1),
            "mean_act_variant": b / np.maximum(there, 1),
        }
        return pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None))


def correlation(rows: int, sums: Floats) -> Floats:
    """`[...]` Pearson's r from the sums `[5, ...]` of a, a², b, b², ab over rows; 0 for 0 / 0.

    Exactly 1 where a and b are the same numbers: the root of a square is exact.
    """
    a, aa, b, bb, ab = sums / max(rows, 1)
    first, second = (
        np.where((v := square - mean**2) > _ROUNDING * square, v, 0.0)
        for mean, square in ((a, aa), (b, bb))
    )
    scale = np.sqrt(first * second)
    out = np.divide(ab - a * b, scale, out=np.zeros_like(scale), where=scale > 0)
    return out.clip(-1.0, 1.0)
