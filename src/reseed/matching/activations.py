"""Matching by what latents do: how alike they fire on the same tokens, whatever their weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import issparse

from reseed.errors import SpecError
from reseed.matching.assignment import assign_above, dense_is_chosen
from reseed.matching.codes import (
    Codes,
    Measure,
    as_codes,
    check_measure,
)
from reseed.matching.entries import cosines_of
from reseed.matching.geometry import Limits, cosine, products_on
from reseed.records import Match

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
    device: str = "cpu",
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
        measure: `"correlation"` (Pearson, over all tokens), `"jaccard"` (tokens on which both
            fire over those on which either does) or `"cosine"` (uncentred).
        reject: lambda, 0 or more; only pairs with a larger similarity are made, and those that
            maximise the sum of (similarity - lambda). Pairs that never fire together have a
            correlation at or below 0 and the others 0, so only pairs that do can be made, and what
            is found is exact. None, not with `"correlation"`, matches every latent of the smaller
            side; by correlation that would have to weigh all pairs that never fire together.
        tolerance: largest gap, relative to the objective, that counts as optimal.
        seconds: when the solver stops with the best found so far.
        device: where what fires together is summed; `"cuda"` needs torch.

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
    with products_on(device):
        edges, shape = _edges(codes_a, codes_b, measure, least)
    match = _solved(edges, shape, least, Limits(tolerance=tolerance, seconds=seconds))
    return _completed(match, shape, edges) if reject is None else match


def match_contributions(
    A: Any, B: Any, codes: tuple[Any, Any], reject: float, limits: Limits
) -> Match:
    """Match by the cosine of what latents add to reconstructions; see `codes` and `reseed.match`.

    `A` and `B` are decoder rows. Where two latents never fire together, or their rows are not on
    one side, the cosine is not above 0; so only pairs that do fire together can be made, and what
    is found is exact.
    """
    _check("cosine", reject)
    geometry = cosine(A, B, names=("A's decoder", "B's decoder"))
    # a cosine of decoder rows is at most 1, so what is above `reject` fires together more
    edges, shape = _edges(*codes, "cosine", reject)
    if shape != geometry.shape:
        raise SpecError(
            f"codes of {shape[0]} and {shape[1]} latents, decoder rows of {geometry.shape[0]} and "
            f"{geometry.shape[1]}; give the codes of these SAEs"
        )
    value = edges.value * cosines_of(geometry, edges.row, edges.column)
    above = value > reject
    kept = type(edges)(edges.row[above], edges.column[above], value[above])
    return _solved(kept, shape, reject, limits)


def _check(measure: str, reject: float | None) -> None:
    check_measure(measure)
    if reject is None and measure == "correlation":
        raise SpecError(
            "matching every latent by correlation would weigh all pairs that never fire together; "
            "give reject=0 or more, or another measure, where such pairs count 0"
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
