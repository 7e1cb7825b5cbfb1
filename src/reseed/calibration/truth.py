"""What each latent is, by the truth: a feature, a part of a subspace or of a tree, a pair, none.

F latents, D dimensions. Rows are compared by cosine, signed: codes of an SAE are not negative, so a
latent that points the other way does not represent a feature.

Whether planted features of several dimensions come out as the same subspace in every run.

Single latents in a planted subspace need not recur: no direction in it is special. Its span can.
For every planted subspace of r dimensions and every run, the latents that lie in it (capture at
least the threshold) span something of at most r dimensions; two runs agree by the mean squared
cosine of the principal angles of their spans, dimensions that one of them lacks counted as 0. The
null gives the same number of random live latents to each run (rank-matched).

That latents of both runs lie in one subspace is selected for; what is measured is whether they
*span* it, in every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.calibration.detector import Recurrence
from reseed.errors import SpecError
from reseed.seeds import generator
from reseed.spec.analysis import CalibrationSpec
from reseed.subjects.toy_truth import Truth

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

Integers = NDArray[np.int64]

KINDS = ("feature", "subspace", "tree", "pair", "none")
"""What a latent can be, in the order in which it is asked."""

_BLOCK = 1024


def explain(W_dec: Any, truth: Truth, spec: CalibrationSpec) -> pl.DataFrame:
    """Compare every latent of one SAE, `[F, D]`, with the truth; a zero row is nothing.

    Returns:
        latent; feature (the most similar true feature of one dimension), feature_cos; second (the
        one most similar to what is left), pair_cos (length of the unit row inside the plane of
        both), tree_cos (inside the span of the tree of its nearest feature, null outside trees);
        subspace (the planted subspace that holds most of it, null without any), capture (how much,
        a length); kind, one of `KINDS`: the first whose cosine or length reaches its threshold.
    """
    rows = np.asarray(W_dec, np.float32)
    _check(rows, truth)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = (rows / np.where(length > 0, length, 1)).astype(np.float32)
    trees = _tree_bases(truth)
    parts = [_explain(rows[i : i + _BLOCK], truth, trees) for i in range(0, len(rows), _BLOCK)]
    table = pl.concat(parts).with_columns(latent=pl.int_range(len(rows), dtype=pl.Int64))
    kind = (
        pl.when(pl.col("feature_cos") >= spec.feature)
        .then(pl.lit("feature"))
        .when(pl.col("capture").fill_null(0) >= spec.capture)
        .then(pl.lit("subspace"))
        .when(pl.col("tree_cos").fill_null(0) >= spec.feature)
        .then(pl.lit("tree"))
        .when(pl.col("pair_cos") >= spec.feature)
        .then(pl.lit("pair"))
        .otherwise(pl.lit("none"))
    )
    return table.select("latent", pl.exclude("latent")).with_columns(kind=kind)


def _check(rows: Floats, truth: Truth) -> None:
    if rows.ndim != 2 or rows.shape[1] != truth.features.shape[1]:
        raise SpecError(
            f"decoder rows have shape {rows.shape}, true features {truth.features.shape}; "
            "these SAEs were not trained on this toy"
        )
    if not len(truth.single):
        raise SpecError("every feature of the toy lies in a subspace; there is none to be found")


def _explain(rows: Floats, truth: Truth, trees: Mapping[int, Floats]) -> pl.DataFrame:
    single = truth.single
    candidates = truth.features[single]
    similarity = rows @ candidates.T
    best = similarity.argmax(axis=1)
    cosine = similarity[np.arange(len(rows)), best]
    left = rows - cosine[:, None] * candidates[best]
    similarity = np.abs(left @ candidates.T, out=similarity)
    similarity[np.arange(len(rows)), best] = -1
    second = similarity.argmax(axis=1)
    subspace, capture = _captured(rows, truth.bases)
    first, other = single[best], single[second]
    columns: dict[str, Any] = {
        "feature": first,
        "feature_cos": cosine.astype(np.float64),
        "second": other,
        "pair_cos": _in_plane(rows, candidates[best], candidates[second]),
        "tree_cos": pl.Series(_in_tree(rows, truth.root[first], trees)).fill_nan(None),
        "subspace": pl.Series(subspace, dtype=pl.Int64).replace(-1, None),
        "capture": pl.Series(capture).fill_nan(None),
    }
    return pl.DataFrame(columns)


def _in_plane(rows: Floats, first: Floats, other: Floats) -> NDArray[np.float64]:
    """[n] length of each unit row inside the plane of two unit vectors."""
    a = np.einsum("nd,nd->n", rows, first, dtype=np.float64)
    b = np.einsum("nd,nd->n", rows, other, dtype=np.float64)
    c = np.einsum("nd,nd->n", first, other, dtype=np.float64)
    squared = (a**2 + b**2 - 2 * a * b * c) / np.maximum(1 - c**2, 1e-12)
    return np.sqrt(squared.clip(0, 1))


def _tree_bases(truth: Truth) -> dict[int, Floats]:
    """Root to `[T, D]` orthonormal basis of its tree; a tree has at least two features."""
    root = truth.root
    roots = np.unique(root[truth.parent >= 0])
    bases = {int(r): np.linalg.qr(truth.features[root == r].T)[0].T for r in roots}
    return {r: np.ascontiguousarray(basis) for r, basis in bases.items()}


def _in_tree(rows: Floats, root: Integers, trees: Mapping[int, Floats]) -> NDArray[np.float64]:
    """[n] length of each unit row inside the span of a tree; NaN without one."""
    out = np.full(len(rows), np.nan)
    for tree in np.intersect1d(root, list(trees)).tolist():
        at = np.flatnonzero(root == tree)
        out[at] = np.linalg.norm(rows[at] @ trees[tree].T, axis=1)
    return out


def _captured(rows: Floats, bases: Floats) -> tuple[Integers, NDArray[np.float64]]:
    """The planted subspace that holds most of each row and how much; -1 and NaN without any."""
    if not len(bases):
        return np.full(len(rows), -1), np.full(len(rows), np.nan)
    count, rank, _ = bases.shape
    inside = (rows @ bases.reshape(count * rank, -1).T).reshape(len(rows), count, rank)
    length = np.linalg.norm(inside, axis=2)
    best = length.argmax(axis=1)
    return best, length[np.arange(len(rows)), best].astype(np.float64)


_LEAST_SINGULAR = 0.3
"""Of the largest singular value of unit rows: below it a direction counts as not spanned."""

SCHEMA = {
    "subspace": pl.Int64,
    "rank": pl.Int64,
    "rate": pl.Float64,
    "latents": pl.Float64,
    "dimensions": pl.Float64,
    "runs_whole": pl.Int64,
    "agreement": pl.Float64,
    "null": pl.Float64,
    "null_hi": pl.Float64,
    "recurrence": pl.Float64,
    "verdict": pl.String,
}


def subspace_table(
    recurrence: Recurrence,
    decoders: Sequence[NDArray[np.float32]],
    explained: Iterable[pl.DataFrame],
    truth: Truth,
    spec: CalibrationSpec,
) -> pl.DataFrame:
    """One row for each planted subspace.

    Returns:
        subspace, rank, rate (true firing probability); latents, dimensions (that lie in it and that
        they span, a run); runs_whole (runs that span all of it); agreement (mean over pairs of
        runs), null, null_hi (mean and 95 % quantile of random latents); recurrence (mean share of
        the other runs in which its latents are found one by one; null without latents); verdict:
        `stable` (agreement at least `spec.stable` and above null_hi), `absent` (no run has a latent
        in it), else `partial`.
    """
    inside = pl.when(pl.col("kind") == "subspace").then("subspace").fill_null(-1)
    captured = [table.select(inside).to_series().to_numpy() for table in explained]
    rows = [
        _one(number, basis, recurrence, decoders, captured, truth, spec)
        for number, basis in enumerate(truth.bases)
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row").with_columns(
        pl.selectors.float().fill_nan(None)
    )


def _one(
    number: int,
    basis: NDArray[np.float32],
    recurrence: Recurrence,
    decoders: Sequence[NDArray[np.float32]],
    captured: Sequence[NDArray[np.int64]],
    truth: Truth,
    spec: CalibrationSpec,
) -> tuple[object, ...]:
    rank, runs = len(basis), len(decoders)
    members = [np.flatnonzero(subspaces == number) for subspaces in captured]
    spans = [span(W[at], rank) for W, at in zip(decoders, members, strict=True)]
    pairs = list(combinations(range(runs), 2))
    agreement = float(np.mean([agree(spans[a], spans[b], rank) for a, b in pairs]))
    null = _null(number, [len(at) for at in members], recurrence, decoders, rank, spec.draws)
    null_hi = float(np.quantile(null, 0.95))
    recurring = [recurrence.found[r, at].sum(axis=1) / (runs - 1) for r, at in enumerate(members)]
    together = np.concatenate(recurring)
    dimensions = [len(s) for s in spans]
    verdict = "stable" if agreement >= spec.stable and agreement > null_hi else "partial"
    return (
        number,
        rank,
        float(truth.firing[truth.subspace == number][0]),
        float(np.mean([len(at) for at in members])),
        float(np.mean(dimensions)),
        sum(d == rank for d in dimensions),
        agreement,
        float(null.mean()),
        null_hi,
        float(together.mean()) if len(together) else float("nan"),
        verdict if any(len(at) for at in members) else "absent",
    )


def span(rows: NDArray[np.float32], rank: int) -> Doubles:
    """`[d, D]` orthonormal basis of what rows span, the d <= rank strongest directions."""
    wide = rows.astype(np.float64)
    if not len(wide):
        return wide
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    _, strength, directions = np.linalg.svd(wide, full_matrices=False)
    return directions[: min(rank, int((strength >= _LEAST_SINGULAR * strength[0]).sum()))]


def agree(a: Doubles, b: Doubles, rank: int) -> float:
    """Mean squared cosine of `rank` principal angles; missing dimensions count 0."""
    return float(((a @ b.T) ** 2).sum() / rank) if len(a) and len(b) else 0.0


def _null(
    number: int,
    sizes: Sequence[int],
    recurrence: Recurrence,
    decoders: Sequence[NDArray[np.float32]],
    rank: int,
    draws: int,
) -> Doubles:
    """Agreement of as many random live latents in two runs chosen at random, `[draws]`."""
    draw = generator("calibration-subspace-null", number)
    live = [np.flatnonzero(rate > 0) for rate in recurrence.rate]
    out = np.zeros(draws)
    for at in range(draws):
        chosen = draw.permutation(len(decoders))[:2]
        picked = [draw.permutation(live[r])[: sizes[r]] for r in chosen]
        a, b = (span(decoders[r][i], rank) for r, i in zip(chosen, picked, strict=True))
        out[at] = agree(a, b, rank)
    return out
