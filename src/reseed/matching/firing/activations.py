"""Matching by what latents do: how alike they fire on the same tokens, whatever their weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import issparse

from reseed.errors import SpecError
from reseed.matching.assignment import assign_above, dense_is_chosen
from reseed.matching.edges import Limits
from reseed.matching.firing.chosen import Codes, Measure, as_codes, check_measure
from reseed.records import Match

if TYPE_CHECKING:
    from reseed.matching.edges import Edges


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
    found = _solved(edges, shape, least, Limits(tolerance=tolerance, seconds=seconds))
    return _completed(found, shape, edges) if reject is None else found


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
    from reseed.matching.firing.cofiring import Cofiring, edges_above

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


def _is_matrix(given: Any) -> bool:
    return issparse(given) or hasattr(given, "shape")


def _chunks(codes_a: Any, codes_b: Any) -> Iterator[tuple[Codes, Codes]]:
    for number, (a, b) in enumerate(_pairs(codes_a, codes_b)):
        yield as_codes(a, f"chunk {number} of A"), as_codes(b, f"chunk {number} of B")


def _pairs(codes_a: Any, codes_b: Any) -> Iterator[tuple[Any, Any]]:
    given = [codes_a] if codes_b is None else [codes_a, codes_b]
    for side in given:
        if _is_matrix(side) or hasattr(side, "latents") or not isinstance(side, Iterable):
            raise SpecError(
                f"codes as a {type(side).__name__}: give codes [tokens, latents] of A and of B, or "
                "an iterable of such chunks of each, or one iterable of pairs of chunks"
            )
    if codes_b is not None:
        yield from _both(codes_a, codes_b)
        return
    for number, pair in enumerate(codes_a):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise SpecError(f"item {number} is no pair of chunks: (codes of A, codes of B)")
        yield pair[0], pair[1]


def _both(codes_a: Iterable[Any], codes_b: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    ended = object()
    a, b = iter(codes_a), iter(codes_b)
    while True:
        one, other = next(a, ended), next(b, ended)
        if one is ended and other is ended:
            return
        if one is ended or other is ended:
            side = "A" if one is ended else "B"
            raise SpecError(f"there are fewer chunks of {side} than of the other")
        yield one, other


def _solved(edges: Edges, shape: tuple[int, int], least: float, limits: Limits) -> Match:
    if dense_is_chosen(shape):
        # what is not among the edges is not above `least`, however far below
        S = np.full(shape, least)
        S[edges.row, edges.column] = edges.value
        return assign_above(S, least)
    from reseed.matching.reject import match_edges

    return match_edges(edges, shape, least, limits)


def _completed(found: Match, shape: tuple[int, int], edges: Edges) -> Match:
    """Pair what is left in order. Where `found` is the best, none of that fires together."""
    left = [
        np.setdiff1d(np.arange(size), found.pairs[:, side])[: min(shape) - len(found.pairs)]
        for side, size in enumerate(shape)
    ]
    partner = np.full(shape[0], -1)
    partner[left[0]] = left[1]
    made = np.flatnonzero(partner[edges.row] == edges.column)
    value = np.zeros(shape[0])
    value[edges.row[made]] = edges.value[made]
    similarity = np.concatenate([found.similarity, value[left[0]]])
    pairs = np.concatenate([found.pairs, np.stack(left, axis=1)])
    order = np.argsort(pairs[:, 0])
    primal = float(similarity.sum())
    assert found.certificate is not None
    return replace(
        found,
        pairs=pairs[order],
        similarity=similarity[order],
        primal=primal,
        gap=found.dual - primal,
        certificate=replace(found.certificate, reject=None),
    )
