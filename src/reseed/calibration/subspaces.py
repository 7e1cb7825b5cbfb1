"""Whether planted features of several dimensions come out as the same subspace in every run.

Single latents in a planted subspace need not recur: no direction in it is special. Its span can.
For every planted subspace of r dimensions and every run, the latents that lie in it (capture at
least the threshold) span something of at most r dimensions; two runs agree by the mean squared
cosine of the principal angles of their spans, dimensions that one of them lacks counted as 0. The
null gives the same number of random live latents to each run (rank-matched).

That latents of both runs lie in one subspace is selected for; what is measured is whether they
*span* it, in every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.calibration.detector import Recurrence
from reseed.seeds import generator
from reseed.spec.analysis import CalibrationSpec
from reseed.subjects.toy_truth import Truth

Floats = NDArray[np.float64]

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


def span(rows: NDArray[np.float32], rank: int) -> Floats:
    """`[d, D]` orthonormal basis of what rows span, the d <= rank strongest directions."""
    wide = rows.astype(np.float64)
    if not len(wide):
        return wide
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    _, strength, directions = np.linalg.svd(wide, full_matrices=False)
    return directions[: min(rank, int((strength >= _LEAST_SINGULAR * strength[0]).sum()))]


def agree(a: Floats, b: Floats, rank: int) -> float:
    """Mean squared cosine of `rank` principal angles; missing dimensions count 0."""
    return float(((a @ b.T) ** 2).sum() / rank) if len(a) and len(b) else 0.0


def _null(
    number: int,
    sizes: Sequence[int],
    recurrence: Recurrence,
    decoders: Sequence[NDArray[np.float32]],
    rank: int,
    draws: int,
) -> Floats:
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
