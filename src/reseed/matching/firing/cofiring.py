"""How all latents of two SAEs fire together: one pass over codes, mergeable, sparse.

Of the F_a x F_b pairs only those that fire together on some token are kept, with their exact
similarity (`chosen` has the formulas); the others have one in closed form, at or below 0.

Two ways to the pairs more similar than some value:

- `Cofiring` takes codes as they come and keeps the sums of all co-firing pairs, 24 bytes each.
- `edges_above` takes the codes of all tokens at once, finishes the pairs of some latents of A at a
  time and keeps what is above the value. It needs the memory of the codes and of what it returns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.matching.edges import Edges
from reseed.matching.firing.chosen import (
    Codes,
    Measure,
    Together,
    added,
    check_measure,
    check_same_tokens,
    no_sums,
    similarity,
    sums_of,
)
from reseed.matching.firing.counts import Kept, cofiring, merged

Floats = NDArray[np.float64]

Integers = NDArray[np.int64]

MOST_PAIRS = 2**27
"""Pairs that are kept, at most: 3 GiB, and as much again while they are added up."""

_NONE = Kept(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))


class Cofiring:
    """Sums over tokens of everything that two SAEs do together.

    Args:
        latents_a: F_a.
        latents_b: F_b.
    """

    def __init__(self, latents_a: int, latents_b: int) -> None:
        self.latents = (latents_a, latents_b)
        self.tokens = 0
        self._a, self._b = no_sums(latents_a), no_sums(latents_b)
        self._runs: list[Kept] = []
        """each less than half as long as the one before, so that each pair is merged few times"""

    def add(self, A: Codes, B: Codes) -> None:
        """Take in more tokens.

        Args:
            A: `[N, F_a]` codes from `codes.as_codes` or `codes.from_entries`.
            B: `[N, F_b]` of the same tokens.

        Raises:
            SpecError: if they do not belong together, or more than `MOST_PAIRS` pairs fire
                together.
        """
        check_same_tokens(A, B, self.latents)
        self.tokens += A.shape[0]
        self._a, self._b = added(self._a, sums_of(A)), added(self._b, sums_of(B))
        parts = [
            Kept(found.row * self.latents[1] + found.column, found.product, found.both)
            for found in cofiring(A, B)
        ]
        if parts:
            self._take(Kept(*(np.concatenate(part) for part in zip(*parts, strict=True))))

    def merge(self, other: Cofiring) -> None:
        """Take in what another one saw, of other tokens.

        Raises:
            SpecError: as `add`.
        """
        if self.latents != other.latents:
            raise SpecError(
                f"accumulators over {self.latents} and {other.latents} latents cannot be merged; "
                "both must be of the same two SAEs"
            )
        self.tokens += other.tokens
        self._a, self._b = added(self._a, other._a), added(self._b, other._b)
        self._take(other._pairs())

    def correlation(self, above: float = -np.inf) -> Edges:
        """The co-firing pairs with a correlation above a value."""
        return self.edges("correlation", above)

    def jaccard(self, above: float = -np.inf) -> Edges:
        """The co-firing pairs with a Jaccard index above a value."""
        return self.edges("jaccard", above)

    def edges(self, measure: Measure, above: float = -np.inf) -> Edges:
        """The co-firing pairs more similar than a value, by row, then by column."""
        check_measure(measure)
        number, product, both = self._pairs()
        row, column = np.divmod(number, self.latents[1])
        values = similarity(
            measure, Together(row, column, product, both), self._a, self._b, self.tokens
        )
        return _above(row, column, values, above)

    def at(self, measure: Measure, rows: Integers, columns: Integers) -> Floats:
        """`[E]` similarity of any pairs, whether they fire together or not.

        Args:
            measure: which.
            rows: `[E]` of A.
            columns: `[E]` of B.
        """
        check_measure(measure)
        kept, wanted = self._pairs(), rows * self.latents[1] + columns
        product, both = np.zeros(len(wanted)), np.zeros(len(wanted), np.int64)
        if len(kept.number):
            place = np.searchsorted(kept.number, wanted).clip(max=len(kept.number) - 1)
            hit = kept.number[place] == wanted
            product[hit], both[hit] = kept.product[place[hit]], kept.both[place[hit]]
        pairs = Together(rows, columns, product, both)
        return similarity(measure, pairs, self._a, self._b, self.tokens)

    def _take(self, run: Kept) -> None:
        self._check(len(run.number))
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2].number) < 2 * len(self._runs[-1].number):
            self._join()

    def _pairs(self) -> Kept:
        """All pairs so far."""
        while len(self._runs) > 1:
            self._join()
        return self._runs[0] if self._runs else _NONE

    def _join(self) -> None:
        """Make one run of the last two."""
        last = self._runs.pop()
        self._runs[-1] = merged(self._runs[-1], last)
        self._check(len(self._runs[-1].number))

    def _check(self, found: int) -> None:
        if found > MOST_PAIRS:
            raise SpecError(
                f"{found:,} pairs of latents fire together within {self.tokens:,} tokens; at most "
                f"{MOST_PAIRS:,} are kept. Give the codes of all tokens at once, as sparse "
                "matrices, with a reject threshold: then no more is kept than is above it. Or "
                "leave out dense latents, which fire together with nearly everything"
            )


def edges_above(A: Codes, B: Codes, measure: Measure, above: float) -> Edges:
    """The co-firing pairs more similar than a value, by row, then by column.

    Args:
        A: `[N, F_a]` codes of all tokens.
        B: `[N, F_b]` of the same tokens.
        measure: which.
        above: the value.

    Raises:
        SpecError: if the codes are of different tokens, or more than `MOST_PAIRS` pairs are above.
    """
    check_measure(measure)
    check_same_tokens(A, B, (A.shape[1], B.shape[1]))
    a, b, kept, total = sums_of(A), sums_of(B), list[Edges](), 0
    for found in cofiring(A, B):
        values = similarity(measure, found, a, b, A.shape[0])
        kept.append(_above(found.row, found.column, values, above))
        total += len(kept[-1].row)
        if total > MOST_PAIRS:
            raise SpecError(
                f"more than {MOST_PAIRS:,} pairs have a {measure} above {above:g}; a reject "
                "threshold this low rejects little: raise it"
            )
    none = Edges(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Edges(*(np.concatenate(parts) for parts in zip(*(kept or [none]), strict=True)))


def _above(row: Integers, column: Integers, values: Floats, above: float) -> Edges:
    keep = values > above
    return Edges(row[keep], column[keep], values[keep])
