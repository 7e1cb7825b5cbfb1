"""How pairs of latents that are known beforehand fire together on the same tokens.

With n_i the tokens on which latent i fires, n_ij those on which i and j both do, and means and
deviations s over all N tokens, silent ones included:

| measure | formula | of a pair that never fires together |
|---|---|---|
| `"correlation"` | Pearson: (mean(ab) - mean(a) mean(b)) / (s_a s_b) | -mean(a) mean(b) / s_a s_b |
| `"jaccard"` | n_ij / (n_i + n_j - n_ij) | 0 |
| `"cosine"` | sum(ab) / sqrt(sum(a^2) sum(b^2)) | 0 |

A latent that never fires has all three 0 with all others; one that fires alike on every token has
correlation 0 with all others.

What latent i adds to the reconstructions, its **contribution**, is the rank-one field `a_i(t) d_i`
over tokens t and dimensions. Two such fields have the inner product `d_i . e_j sum(a_i b_j)`, so
their cosine is that of the decoder rows times `"cosine"`: from the sums that there are, exactly.
With c this cosine and r = |B_j| / |A_i| the ratio of their lengths, the share of i's contribution
that j explains when it is put in its place as it is, 1 - |A_i - B_j|^2 / |A_i|^2, is 2 r c - r^2.
It is 1 for the same field, 0 for no field, negative where j does more harm than silence. No
multiple of j explains more than c^2.

Everything is a sum over tokens, so accumulators over different tokens add up to the whole.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from reseed.errors import SpecError, nearest
from reseed.matching.geometry import Floats, Integers

Codes = Any
"""`csr_array` `[N, F]` of float64: entries above 0 only, columns ascending in each row."""

_SMALLEST, _LARGEST = 1e-100, 1e100
"""Codes up to the first count as silent, those from the second on as infinite: products of codes
between them, summed over any number of tokens, neither vanish nor overflow."""


def as_codes(codes: Any, name: str) -> Codes:
    """Codes `[N, F]` of N tokens, a NumPy array, torch tensor or SciPy sparse matrix, checked."""
    sparse = cast("Any", codes) if issparse(codes) else None
    array = _array(codes) if sparse is None else sparse
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise SpecError(
            f"{name} must be codes [tokens, latents] of numbers, not an array of shape "
            f"{array.shape} and type {array.dtype}"
        )
    if sparse is not None:
        entries = csr_array(sparse).tocoo()
        return _checked(entries.data, entries.row, entries.col, sparse.shape, name)
    rows, columns = np.nonzero(array)
    return _checked(array[rows, columns], rows, columns, array.shape, name)


def from_entries(values: Any, latents: Any, width: int, name: str) -> Codes:
    """Codes of F = `width` latents given as `[N, K]` values >= 0 and latents; 0 is silent.

    No latent fires twice in a row.
    """
    value, latent = _array(values), _array(latents)
    if value.ndim != 2 or value.shape != latent.shape or latent.dtype.kind not in "iu":
        raise SpecError(
            f"{name} must be values [tokens, K] with as many latent numbers, not {value.shape} of "
            f"type {value.dtype} with {latent.shape} of type {latent.dtype}"
        )
    rows, at = np.nonzero(value)  # silent entries pad a row and may repeat or lie outside
    columns = latent[rows, at]
    if len(columns) and not 0 <= columns.min() <= columns.max() < width:
        wrong = columns.min() if columns.min() < 0 else columns.max()
        raise SpecError(f"{name}: latent {wrong} fires, but there are {width}, numbered from 0")
    codes = _checked(value[rows, at], rows, columns, (len(value), width), name)
    if codes.nnz < (value > _SMALLEST).sum():
        raise SpecError(f"{name}: a latent has two entries in one row")
    return codes


def _checked(
    values: NDArray[Any],
    rows: NDArray[Any],
    columns: NDArray[Any],
    shape: tuple[int, int],
    name: str,
) -> Codes:
    if not shape[1]:
        raise SpecError(f"{name}: codes of shape {shape} have no latents")
    value = values.astype(np.float64)
    wrong = ~((value >= 0) & (value < _LARGEST))
    if wrong.any():
        first = np.flatnonzero(wrong)[0]
        raise SpecError(
            f"{name}: {wrong.sum()} codes are negative, NaN or infinite (first: {values[first]} of "
            f"latent {columns[first]} at token {rows[first]}); codes are >= 0, 0 where a latent is "
            "silent"
        )
    fires = value > _SMALLEST
    codes = csr_array((value[fires], (rows[fires], columns[fires])), shape=shape)
    codes.sum_duplicates()
    return codes


def _array(codes: Any) -> NDArray[Any]:
    if hasattr(codes, "detach"):
        codes = codes.detach().cpu()
        codes = codes.float() if str(codes.dtype) == "torch.bfloat16" else codes
    return np.asarray(codes)


Measure = Literal["correlation", "jaccard", "cosine"]

_ROUNDING = 1e-12
"""Share of the mean square below which a variance is rounding."""


class Sums(NamedTuple):
    """What each latent of one SAE does by itself."""

    fired: Integers
    """[F] tokens on which it fires"""
    total: Floats
    """[F] sum of its codes"""
    square: Floats
    """[F] sum of their squares"""


def no_sums(latents: int) -> Sums:
    """Of no tokens."""
    return Sums(np.zeros(latents, np.int64), np.zeros(latents), np.zeros(latents))


def sums_of(codes: Codes) -> Sums:
    """Of some tokens."""
    width, at = codes.shape[1], codes.indices
    return Sums(
        np.bincount(at, minlength=width),
        np.bincount(at, codes.data, width).astype(np.float64),
        np.bincount(at, codes.data**2, width).astype(np.float64),
    )


def added(first: Sums, second: Sums) -> Sums:
    """Of the tokens of both."""
    return Sums(
        first.fired + second.fired, first.total + second.total, first.square + second.square
    )


class Together(NamedTuple):
    """What pairs of latents do on the same tokens."""

    row: Integers
    """[E] latent of A"""
    column: Integers
    """[E] latent of B"""
    product: Floats
    """[E] sum over tokens of the product of their codes"""
    both: Integers
    """[E] tokens on which both fire"""


def similarity(measure: Measure, pairs: Together, a: Sums, b: Sums, tokens: int) -> Floats:
    """`[E]` similarity of pairs from sums over N tokens, see above; 0 where it is 0 / 0."""
    i, j = pairs.row, pairs.column
    if measure == "jaccard":
        either = a.fired[i] + b.fired[j] - pairs.both
        return pairs.both / np.maximum(either, 1)
    if measure == "cosine":
        length = np.sqrt(a.square[i]) * np.sqrt(b.square[j])
        out = np.divide(pairs.product, length, out=np.zeros(len(i)), where=length > 0)
        return out.clip(0.0, 1.0)
    n = max(tokens, 1)
    covariance = pairs.product / n - (a.total[i] / n) * (b.total[j] / n)
    scale = _deviation(a, n)[i] * _deviation(b, n)[j]
    out = np.divide(covariance, scale, out=np.zeros(len(i)), where=scale > 0)
    return out.clip(-1.0, 1.0)


def _deviation(sums: Sums, tokens: int) -> Floats:
    square = sums.square / tokens
    variance = square - (sums.total / tokens) ** 2
    return np.sqrt(np.where(variance > _ROUNDING * square, variance, 0.0))


def check_measure(measure: str) -> None:
    """Refuse an unknown measure."""
    if measure not in get_args(Measure):
        raise SpecError(
            f"no measure {measure!r} of activations; {nearest(measure, get_args(Measure))}"
        )


def explained(cosine: Floats, ratio: Floats) -> Floats:
    """Share of a contribution that another one explains in its place, see above."""
    return 2 * ratio * cosine - ratio**2


def check_same_tokens(A: Codes, B: Codes, latents: tuple[int, int]) -> None:
    """Refuse codes that do not belong together."""
    if A.shape[0] != B.shape[0]:
        raise SpecError(
            f"A has codes of {A.shape[0]} tokens and B of {B.shape[0]}; both must be of the same "
            "tokens in the same order"
        )
    if (A.shape[1], B.shape[1]) != latents:
        raise SpecError(
            f"codes of {A.shape[1]} and {B.shape[1]} latents where {latents[0]} and {latents[1]} "
            "were expected; all codes of one SAE have the same width"
        )


class ChosenPairs:
    """How given pairs of latents fire together: sums over tokens, memory O(F + E).

    Latents of A (`rows`) and of B (`columns`) are `[E]`; `latents` are F_a, F_b.
    """

    def __init__(self, rows: Integers, columns: Integers, latents: tuple[int, int]) -> None:
        for side, which, width in zip("AB", (rows, columns), latents, strict=True):
            if len(which) and not 0 <= which.min() <= which.max() < width:
                raise SpecError(f"a pair names a latent of {side} outside 0..{width - 1}")
        self.latents, self.tokens = latents, 0
        self._rows, self._columns = np.asarray(rows), np.asarray(columns)
        self._a, self._b = (no_sums(width) for width in latents)
        self._product, self._both = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
        self._order = np.argsort(self._rows, kind="stable")
        self._starts = np.searchsorted(self._rows[self._order], np.arange(latents[0] + 1))

    def add(self, A: Codes, B: Codes) -> None:
        """Take in more tokens, `[N, F_a]` and `[N, F_b]`."""
        check_same_tokens(A, B, self.latents)
        self.tokens += A.shape[0]
        self._a, self._b = added(self._a, sums_of(A)), added(self._b, sums_of(B))
        product, of_b = np.zeros(len(self._rows)), np.zeros(self.latents[1])
        a, b = ((codes.indptr, codes.indices, codes.data) for codes in (A, B))
        _compiled()(*a, *b, self._starts, self._order, self._columns, of_b, product, self._both)
        self._product += product

    def add_entries(self, values_a: Any, latents_a: Any, values_b: Any, latents_b: Any) -> None:
        """The same, with K entries for each token; see `codes.from_entries`."""
        A = from_entries(values_a, latents_a, self.latents[0], "A")
        self.add(A, from_entries(values_b, latents_b, self.latents[1], "B"))

    def values(self, measure: Measure) -> Floats:
        """`[E]` similarity of the pairs over all tokens so far."""
        check_measure(measure)
        pairs = Together(self._rows, self._columns, self._product, self._both)
        return similarity(measure, pairs, self._a, self._b, self.tokens)

    def lengths(self) -> tuple[Floats, Floats]:
        """`[E]` root of the summed squares of the activations, of the latents of A and of B."""
        return np.sqrt(self._a.square[self._rows]), np.sqrt(self._b.square[self._columns])


@lru_cache(maxsize=1)
def _compiled() -> Any:
    """`_meet`, compiled where it is needed: SAEs can be compared by weights without numba."""
    from reseed.loops.compiled import compiled

    return compiled(_meet)


def _meet(
    start_a: Integers,
    latent_a: Integers,
    value_a: Floats,
    start_b: Integers,
    latent_b: Integers,
    value_b: Floats,
    first: Integers,
    order: Integers,
    column: Integers,
    of_b: Floats,
    product: Floats,
    both: Integers,
) -> None:
    """Add up what pairs do on some tokens, one after the other.

    `first` `[F_a + 1]` and `order` `[E]` are the pairs by latent of A; `of_b` `[F_b]` is 0 before
    and after.
    """
    for t in range(len(start_a) - 1):
        for f in range(start_b[t], start_b[t + 1]):
            of_b[latent_b[f]] = value_b[f]
        for e in range(start_a[t], start_a[t + 1]):
            for q in range(first[latent_a[e]], first[latent_a[e] + 1]):
                p = order[q]
                value = of_b[column[p]]
                product[p] += value_a[e] * value
                both[p] += value > 0
        for f in range(start_b[t], start_b[t + 1]):
            of_b[latent_b[f]] = 0.0
