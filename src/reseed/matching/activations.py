"""Matching by what latents do: how alike they fire on the same tokens, whatever their weights.

How alike latents fire by chance at their firing rate: the frequency-matched permutation (N8).

Two latents that fire on a third of all tokens each fire together often, whatever they mean. The
null keeps who is paired with whom but exchanges B's latents with others that fire about as often.

It is a null for pairs that something else chose, such as decoder rows. For pairs chosen by
activations themselves it is none: renaming B's latents and matching again gives the same
similarities.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import issparse

from reseed.errors import SpecError
from reseed.matching.assignment import assign_above, dense_is_chosen
from reseed.matching.codes import ChosenPairs, Codes, Measure, as_codes, check_measure
from reseed.matching.geometry import Integers, Limits
from reseed.records import Match
from reseed.seeds import generator

if TYPE_CHECKING:
    from reseed.matching.sparse import Edges


def match_activations(
    codes_a: Any,
    codes_b: Any = None,
    *,
    measure: Measure = "correlation",
    reject: float | None = 0.0,
    tolerance: float = 1e-9,
    seconds: float = float("inf"),
) -> Match:
    """Match the latents of two SAEs one to one by how they fire on the same tokens, exactly.

    Weights play no part, so the SAEs may read other sites or other models, as long as tokens
    correspond. Latents that fire on few tokens agree easily by chance; see docs/matching.md.

    Args:
        codes_a: `[N, F_a]` codes of A, >= 0, 0 where a latent is silent; NumPy array, torch tensor
            or SciPy sparse matrix. Or an iterable of such chunks, taken as they come: then the sums
            of all co-firing pairs are kept, where a single sparse matrix needs less. Or, with
            `codes_b` left out, an iterable of pairs of chunks.
        codes_b: `[N, F_b]` codes of B on the same tokens, or chunks of them.
        measure: `"correlation"` (Pearson, over all tokens) or `"jaccard"` (tokens on which both
            fire over those on which either does).
        reject: lambda, 0 or more; only pairs with a larger similarity are made, and those that
            maximise the sum of (similarity - lambda). Pairs that never fire together have a
            correlation at or below 0 and Jaccard 0, so only pairs that do can be made, and what is
            found is exact. None, with `"jaccard"` only, matches every latent of the smaller side; a
            full matching by correlation would have to weigh all pairs that never fire together.
        tolerance: largest gap, relative to the objective, that counts as optimal.
        seconds: when the solver stops with the best found so far.

    Returns:
        The pairs, their similarity, and the certificate of `reseed.match`.

    Raises:
        SpecError: if codes are negative, NaN, of other tokens or of changing width; if there are
            none; if too many pairs fire together; or without numba.

    Example:
        >>> import numpy as np, reseed
        >>> codes = np.eye(3)
        >>> reseed.match_activations(codes, codes[:, [2, 0, 1]]).pairs.tolist()
        [[0, 1], [1, 2], [2, 0]]
    """
    _check(measure, reject)
    least = 0.0 if reject is None else reject
    edges, shape = _edges(codes_a, codes_b, measure, least)
    match = _solved(edges, shape, least, Limits(tolerance=tolerance, seconds=seconds))
    return _completed(match, shape, edges) if reject is None else match


def _check(measure: str, reject: float | None) -> None:
    check_measure(measure)
    if reject is None and measure == "correlation":
        raise SpecError(
            "matching every latent by correlation would weigh all pairs that never fire together; "
            "give reject=0 or more, or measure='jaccard', where such pairs count 0"
        )
    if reject is not None and not reject >= 0:
        raise SpecError(
            f"reject={reject} by activations: pairs that never fire together are at or below 0, so "
            "that a threshold below 0 rejects little; give 0 or more"
        )
    if importlib.util.find_spec("numba") is None:
        raise SpecError("matching by activations needs numba: pip install numba")


def _edges(
    codes_a: Any, codes_b: Any, measure: Measure, least: float
) -> tuple[Edges, tuple[int, int]]:
    """All pairs above a similarity, and F_a x F_b."""
    from reseed.matching.cofiring import Cofiring, edges_above

    if codes_b is not None and _is_matrix(codes_a) and _is_matrix(codes_b):
        A, B = as_codes(codes_a, "A"), as_codes(codes_b, "B")
        return edges_above(A, B, measure, least), (A.shape[1], B.shape[1])
    sums: Cofiring | None = None
    for a, b in _chunks(codes_a, codes_b):
        sums = Cofiring(a.shape[1], b.shape[1]) if sums is None else sums
        sums.add(a, b)
    if sums is None:
        raise SpecError("there are no codes: the iterable is empty")
    return sums.edges(measure, least), sums.latents


def _is_matrix(codes: Any) -> bool:
    return issparse(codes) or hasattr(codes, "shape")


def _chunks(codes_a: Any, codes_b: Any) -> Iterator[tuple[Codes, Codes]]:
    for number, (a, b) in enumerate(_pairs(codes_a, codes_b)):
        yield as_codes(a, f"chunk {number} of A"), as_codes(b, f"chunk {number} of B")


def _pairs(codes_a: Any, codes_b: Any) -> Iterator[tuple[Any, Any]]:
    sides = [codes_a] if codes_b is None else [codes_a, codes_b]
    for side in sides:
        if _is_matrix(side) or hasattr(side, "latents") or not isinstance(side, Iterable):
            raise SpecError(
                f"codes as a {type(side).__name__}: give codes [tokens, latents] of A and of B, or "
                "an iterable of such chunks of each, or one iterable of pairs of chunks"
            )
    if codes_b is not None:
        ended = object()
        for a, b in zip_longest(codes_a, codes_b, fillvalue=ended):
            if a is ended or b is ended:
                side = "A" if a is ended else "B"
                raise SpecError(f"there are fewer chunks of {side} than of the other")
            yield a, b
        return
    for number, pair in enumerate(codes_a):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise SpecError(f"item {number} is no pair of chunks: (codes of A, codes of B)")
        yield pair[0], pair[1]


def _solved(edges: Edges, shape: tuple[int, int], least: float, limits: Limits) -> Match:
    if dense_is_chosen(shape):
        # what is not among the edges is not above `least`, however far below
        S = np.full(shape, least)
        S[edges.row, edges.column] = edges.value
        return assign_above(S, least)
    from reseed.matching.sparse import match_edges

    return match_edges(edges, shape, least, limits)


def _completed(match: Match, shape: tuple[int, int], edges: Edges) -> Match:
    """Pair what is left in order. Where `found` is the best, none of that fires together."""
    left = [
        np.setdiff1d(np.arange(size), match.pairs[:, side])[: min(shape) - len(match.pairs)]
        for side, size in enumerate(shape)
    ]
    partner = np.full(shape[0], -1)
    partner[left[0]] = left[1]
    made = np.flatnonzero(partner[edges.row] == edges.column)
    value = np.zeros(shape[0])
    value[edges.row[made]] = edges.value[made]
    similarity = np.concatenate([match.similarity, value[left[0]]])
    pairs = np.concatenate([match.pairs, np.stack(left, axis=1)])
    order = np.argsort(pairs[:, 0])
    primal = float(similarity.sum())
    assert match.certificate is not None
    return replace(
        match,
        pairs=pairs[order],
        similarity=similarity[order],
        primal=primal,
        gap=match.dual - primal,
        certificate=replace(match.certificate, reject=None),
    )


FREQUENCY = "N8 frequency-matched permutation"

SIZE = 20
"""Latents in a bin of firing rate, at least; fewer where fewer fire."""


def frequency_bins(rate: NDArray[Any], size: int = SIZE) -> Integers:
    """`[F]` bin of each latent, from the rarest up; -1 for those that never fire.

    Bins hold latents that fire about as often, equally many, at least `size`.
    """
    live = np.flatnonzero(rate > 0)
    order = live[np.argsort(rate[live], kind="stable")]
    bins = np.full(len(rate), -1)
    parts = np.array_split(order, max(1, len(order) // size))
    for number, part in enumerate(parts):
        bins[part] = number
    return bins


def exchanged(bins: Integers, *key: int | str) -> Integers:
    """Another latent of the same bin for each, at random, each used once.

    No latent stays where it is unless it is alone in its bin: one that did would put what was
    observed into the null. The key of the generator is e.g. the pair of runs and the draw.
    """
    numbers = generator("null-frequency", *key)
    out = np.arange(len(bins))
    for bin_ in np.unique(bins):
        circle = numbers.permutation(np.flatnonzero(bins == bin_))
        out[circle] = np.roll(circle, 1)
    return out


class MatchedFiring:
    """How matched latents of two runs fire together, beside one draw of the null.

    Args:
        pairs: `[E, 2]` latent of A, latent of B.
        fired_a: `[F_a]` tokens on which each latent of A fires; only its length counts.
        fired_b: `[F_b]` of B, for the null.
        key: of the draw, e.g. the names of the two runs.
    """

    def __init__(
        self, pairs: Integers, fired_a: Integers, fired_b: Integers, *key: int | str
    ) -> None:
        self._pairs = pairs
        a, b = pairs.T
        null = exchanged(frequency_bins(fired_b), *key)[b]
        shape = (len(fired_a), len(fired_b))
        self._sums = ChosenPairs(np.concatenate([a, a]), np.concatenate([b, null]), shape)

    def add_entries(self, values_a: Any, latents_a: Any, values_b: Any, latents_b: Any) -> None:
        """Take in more tokens: K codes of each by A and by B, `[N, K]`; those of 0 are silent."""
        self._sums.add_entries(values_a, latents_a, values_b, latents_b)

    def table(self) -> pl.DataFrame:
        """latent_a, latent_b, act_corr, act_jaccard, null_corr, null_jaccard."""
        columns: dict[str, NDArray[Any]] = {
            "latent_a": self._pairs[:, 0],
            "latent_b": self._pairs[:, 1],
        }
        size = len(self._pairs)
        both = {"corr": self._sums.values("correlation"), "jaccard": self._sums.values("jaccard")}
        columns |= {f"act_{name}": values[:size] for name, values in both.items()}
        columns |= {f"null_{name}": values[size:] for name, values in both.items()}
        return pl.DataFrame(columns)
