"""Which latents have a match that chance does not explain, without a threshold on the cosine.

The statistic of a latent is the best that it reaches with *any* latent of the other SAE, so it is
held against the best of decoys among as many candidates (`reseed.stability.decoys`), never against
one random pair, and each side against decoys of its own. Of n decoys, r reach the statistic, and
p = (1 + r) / (1 + n). A match one to one is held against the same: it can only be worse than the
best, whatever the other latents are matched with. (Held against random latents *matched one to
one* it would not be: where half of the latents are shared, the others have each other.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.matching import measures
from reseed.matching.geometry import finite_rows, unit, whitened
from reseed.matching.match import View, Views, geometry_of, views_of
from reseed.matching.measures import Measure
from reseed.runs import Pair
from reseed.stability import shares
from reseed.stability.decoys import LEVEL, Decoys, decoys, q_values
from reseed.stability.intervals import Design, jackknife_over_pairs, mean_over_pairs
from reseed.stability.nulls import CovarianceNull, rows_left
from reseed.stability.shares import Members, PairTable

MATCHED, NEAREST = measures.SHARED, measures.MAX_COS_BOTH
"""Statistics: lesser cosine to the counterpart of both assignments; lesser of both cosines to the
nearest neighbour, not one to one."""

Floats = NDArray[np.float64]


def simes(p: Floats) -> Floats:
    """`[F]` p-values of a match in some of T other runs (Simes 1986), from `[F, T]`.

    NaN where a run cannot say, and where none can.
    """
    known = (~np.isnan(p)).sum(axis=1)
    ordered = np.sort(p, axis=1)  # NaN last
    rank = np.arange(1, p.shape[1] + 1)
    # without any other run there is nothing to take a minimum of
    scaled = np.concatenate([ordered * known[:, None] / rank, np.full((len(p), 1), np.inf)], axis=1)
    least = np.nanmin(scaled, axis=1)
    return np.where(known > 0, np.minimum(least, 1.0), np.nan)


def reject_threshold(
    A: Any,
    B: Any,
    *,
    view: View = "decoder",
    covariance: Any = None,
    quantile: float = 0.99,
    draws: int = 3,
    seed: int | str = 0,
) -> float:
    """A reject threshold for `reseed.match`: what latents of neither side often reach by chance.

    Lambda is a quantile of the best that a latent without a counterpart reaches among all latents
    of the other side, for the side and the kind of decoy for which it is largest. So at unequal
    widths it is that of the narrow side, whose latents have more candidates.

    Args:
        A: as in `reseed.match`: `[F_a, D]` rows, an SAE, `SAEArrays` or `Views`. A zero row is left
            out, as it is like nothing.
        B: the same, of F_b latents.
        view: which rows, as they will be matched.
        covariance: `[D, D]` of the SAEs' input, for `"whitened"` only.
        quantile: share of the decoys whose best is at or below the threshold.
        draws: decoys of a kind for each latent, at least 2,000 and at most 8,000 for a side.
        seed: of the decoys.

    Returns:
        The threshold, a cosine. Near 1 it says that the rows lie along so few directions that
        cosines cannot tell shared latents from random ones.

    Raises:
        SpecError: if an argument is out of range, or as `reseed.match`.

    Example:
        lam = reseed.reject_threshold(A, B)
        reseed.match(A, B, reject=lam)
    """
    if not (0 <= quantile <= 1 and draws >= 1):
        raise SpecError(f"quantile={quantile} must be within 0..1 and draws={draws} at least 1")
    # refuses what match would refuse, before anything is drawn
    geometry_of(A, B, view=view, covariance=covariance)
    views = [_compared(sae, view, covariance) for sae in (A, B)]
    if not all(rows_left(rows) for rows in views):
        return 0.0
    a, b = (CovarianceNull(rows) for rows in views)
    sides = decoys(a, b, seed, each=draws).sides
    return max(
        float(np.quantile(best.both, quantile)) for kinds in sides for best in kinds.values()
    )


def _compared(sae: Any, view: View, covariance: Any) -> Views:
    """The rows that are compared; a single kind of rows twice."""
    views = views_of(sae)
    if views is not None and view == "minimum":
        return views
    if views is not None and view == "mean":
        rows = np.concatenate([unit(rows, "rows") for rows in views], axis=1)
    else:
        if views is not None:
            sae = views.decoder if view == "decoder" else views.encoder
        rows = finite_rows(sae, "rows") if covariance is None else whitened(sae, covariance)
    return Views(rows, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTest:
    """The test of all latents of one side of a pair, in a stratum."""

    run: str
    other: str
    latent: NDArray[np.int64]
    p: Floats
    q: Floats


def examine(
    pair: PairTable, null: Decoys | None, members: Members, measure: Measure = MATCHED
) -> list[PairTest]:
    """Test the latents of both sides of a pair that belong to a stratum.

    Two tests, against decoys of this stratum for this pair; none without decoys. The pair is
    matched among the stratum (`reseed.stability.shares.among`), as the decoys are.
    """
    if null is None:
        return []
    out: list[PairTest] = []
    for side, run, other in (("a", *pair.pair), ("b", *pair.pair[::-1])):
        rows = shares.side_of(pair, side, members)
        p = null.p_values(side, measures.scores(rows, measure).to_numpy(), measure)
        out.append(
            PairTest(run=run, other=other, latent=rows["latent"].to_numpy(), p=p, q=q_values(p))
        )
    return out


def share_found(tests: Sequence[PairTest], members: Members | None = None) -> float:
    """Share of a pair (of its `members`) with a match at `LEVEL`, the mean of its sides.

    NaN without tests or where a side has no such latents.
    """
    sides: list[float] = []
    for test in tests:
        q = test.q if members is None else test.q[members[test.run][test.latent]]
        sides.append(float((q <= LEVEL).mean()) if len(q) else float("nan"))
    return float(np.mean(sides)) if sides else float("nan")


def null_shares(
    draws: Sequence[PairTable], null: Decoys | None, measure: Measure = MATCHED
) -> Floats:
    """`[draws]` what the same test finds in random dictionaries in place of a pair."""
    found = [share_found(examine(draw, null, shares.everyone(draw), measure)) for draw in draws]
    return np.array(found)


def by_latent(
    tests: Sequence[PairTest], sizes: Mapping[str, int], runs: Sequence[str]
) -> pl.DataFrame:
    """What the tests of all independent pairs in a stratum say of each latent.

    Returns:
        run, latent, p_null (some other run has a match, by Simes over the other runs), q_fdr
        (Benjamini-Hochberg over the tested latents of the run), n_matched_fdr (other runs with a
        match at `LEVEL` in the test of that pair); null for latents that were not tested.
    """
    frames: list[pl.DataFrame] = []
    for run in runs:
        of_run = [test for test in tests if test.run == run]
        p = np.full((sizes[run], len(of_run)), np.nan)
        matched = np.zeros(sizes[run], dtype=np.int64)
        for at, test in enumerate(of_run):
            p[test.latent, at] = test.p
            matched[test.latent] += test.q <= LEVEL
        p_any = simes(p)
        tested = ~np.isnan(p_any)
        q = np.full(sizes[run], np.nan)
        q[tested] = q_values(p_any[tested])
        columns = {"latent": np.arange(sizes[run]), "p_null": p_any, "q_fdr": q}
        frame = pl.DataFrame(columns).with_columns(
            pl.Series("n_matched_fdr", matched).zip_with(
                pl.Series(tested), pl.Series([None], dtype=pl.Int64)
            )
        )
        frames.append(frame.select(pl.lit(run).alias("run"), pl.all()))
    return pl.concat(frames).with_columns(pl.selectors.float().fill_nan(None))


PAIRS_VERSION = 2
"""Of what the table means."""

LIVE, FOUND = "shared_live", "match_at_fdr"
"""Measures of the end of training only, which need firing rates and nulls."""

_COLUMNS = {"run_a": pl.String, "run_b": pl.String, "tokens": pl.Int64, "measure": pl.String,
            "value": pl.Float64}  # fmt: skip


def pair_values(tables: Mapping[int, Sequence[PairTable]], tau: float) -> pl.DataFrame:
    """run_a, run_b, tokens, measure, value: every measure of every pair on all latents.

    `tables` are those of the pairs by tokens seen.
    """
    rows: list[tuple[str, str, int, str, float]] = []
    for tokens, of_step in tables.items():
        for pair in of_step:
            everyone = shares.everyone(pair)
            for measure in measures.ALL:
                if measure in measures.MEANS:
                    value = shares.mean_score(pair, measure, everyone)
                else:
                    value = shares.share_of(pair, measure, everyone, tau)
                rows.append((*pair.pair, tokens, measure.id, value))
    return pl.DataFrame(rows, schema=_COLUMNS, orient="row")


def at_the_end(
    end: Sequence[PairTable], nulls: Mapping[Pair, Decoys], live: Members, tau: float
) -> pl.DataFrame:
    """run_a, run_b, measure (`LIVE`, `FOUND`), value: what is known at the end of training only.

    NaN where it cannot be told. The nulls are decoys for all latents.
    """
    rows: list[tuple[str, str, str, float]] = []
    for pair in end:
        tests = examine(pair, nulls.get(pair.pair), shares.everyone(pair))
        rows.append((*pair.pair, FOUND, share_found(tests)))
        among = shares.among(pair, live)
        rows.append((*pair.pair, LIVE, shares.share_of(among, measures.SHARED, live, tau)))
    columns = {name: kind for name, kind in _COLUMNS.items() if name != "tokens"}
    return pl.DataFrame(rows, schema=columns, orient="row")


def trend(values: pl.DataFrame, design: Design, latents: float | None = None) -> pl.DataFrame:
    """tokens, measure, value, lo, hi: means over pairs, from `pair_values`, at every snapshot.

    Null where it cannot be told. `latents` of a run, as of `mean_over_pairs`.
    """
    rows: list[tuple[int, str, float, float, float]] = []
    cells = values.partition_by("tokens", "measure", maintain_order=True, as_dict=True)
    signed = {measure.id for measure in measures.MEANS}
    for (tokens, measure), cell in cells.items():
        pairs: list[Pair] = list(cell.select("run_a", "run_b").iter_rows())
        each, lowest = cell["value"].to_numpy(), -1.0 if measure in signed else 0.0
        if measure in signed:
            value, *ends = jackknife_over_pairs(pairs, each, design)
        else:
            value, *ends = mean_over_pairs(pairs, each, design, latents)
        low, high = (float(end.clip(lowest, 1.0)) for end in ends)
        rows.append((int(tokens), str(measure), float(value), low, high))
    names = ["tokens", "measure", "value", "lo", "hi"]
    frame = pl.DataFrame(rows, schema=names, orient="row")
    return frame.with_columns(pl.selectors.float().fill_nan(None))
