"""Which latents have a match that chance does not explain, without a threshold on the cosine.

The statistic of a latent is the best that it reaches with *any* latent of the other SAE, so it is
held against the same maximum of random latents (null N2), never against one random pair. Draws of
the null are pooled: of n random latents, r reach the statistic, and p = (1 + r) / (1 + n). With the
defaults there are six random latents for each real one, so p is never below about 1 / (6 F), and
Benjamini-Hochberg over F latents finds something as soon as four stand above all random ones: no
tail has to be extrapolated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from reseed.matching import measures
from reseed.matching.measures import Measure
from reseed.runs import Pair
from reseed.stability import shares
from reseed.stability.intervals import Design, mean_over_pairs
from reseed.stability.shares import Members, PairTable

LEVEL = 0.05
"""False discovery rate of the headline."""

MATCHED, NEAREST = measures.SHARED, measures.MAX_COS_BOTH
"""Statistics: lesser cosine to the counterpart of both assignments; lesser of both cosines to the
nearest neighbour, not one to one."""

Floats = NDArray[np.float64]


def p_values(observed: Floats, null: Floats) -> Floats:
    """`[F]` (1 + random latents, of all draws, that reach it) / (1 + all); 1 without any."""
    ordered = np.sort(null)
    # cosines of equal rows differ in their last digits, so a hair below still reaches
    reached = len(ordered) - np.searchsorted(ordered, observed - 1e-9, side="left")
    return (1 + reached) / (1 + len(ordered))


def q_values(p: Floats) -> Floats:
    """Benjamini-Hochberg: the false discovery rate at which each latent is found."""
    return stats.false_discovery_control(p, method="bh") if len(p) else p


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTest:
    """The test of all latents of one side of a pair, in a stratum."""

    run: str
    other: str
    latent: NDArray[np.int64]
    p: Floats
    q: Floats


def examine(
    pair: PairTable, draws: Sequence[PairTable], members: Members, measure: Measure = MATCHED
) -> list[PairTest]:
    """Test the latents of both sides of a pair that belong to a stratum.

    Two tests, against draws of the null of this stratum for this pair; none without draws.
    """
    if not draws:
        return []
    null = np.concatenate([measures.scores(d.table, measure).to_numpy() for d in draws])
    out: list[PairTest] = []
    for side, run, other in (("a", *pair.pair), ("b", *pair.pair[::-1])):
        rows = shares.side_of(pair, side, members)
        p = p_values(measures.scores(rows, measure).to_numpy(), null)
        latent = rows["latent"].to_numpy()
        out.append(PairTest(run=run, other=other, latent=latent, p=p, q=q_values(p)))
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


def null_shares(draws: Sequence[PairTable], measure: Measure = MATCHED) -> Floats:
    """`[draws]` what the same test finds in each draw of a pair's null, against its other draws.

    Empty with fewer than two draws.
    """
    if len(draws) < 2:
        return np.zeros(0)
    out: list[float] = []
    for at, draw in enumerate(draws):
        others = [*draws[:at], *draws[at + 1 :]]
        null = np.concatenate([measures.scores(d.table, measure).to_numpy() for d in others])
        sides = (draw.table.filter(pl.col("side") == side) for side in "ab")
        each = [q_values(p_values(measures.scores(t, measure).to_numpy(), null)) for t in sides]
        out.append(float(np.mean([(q <= LEVEL).mean() if len(q) else 0.0 for q in each])))
    return np.array(out)


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


PAIRS_VERSION = 1
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
    end: Sequence[PairTable], nulls: Sequence[PairTable], live: Members, tau: float
) -> pl.DataFrame:
    """run_a, run_b, measure (`LIVE`, `FOUND`), value: what is known at the end of training only.

    NaN where it cannot be told. The nulls are covariance-matched draws for all latents.
    """
    rows: list[tuple[str, str, str, float]] = []
    for pair in end:
        draws = [draw for draw in nulls if draw.pair == pair.pair]
        tests = examine(pair, draws, shares.everyone(pair))
        rows.append((*pair.pair, FOUND, share_found(tests)))
        rows.append((*pair.pair, LIVE, shares.share_of(pair, measures.SHARED, live, tau)))
    columns = {name: kind for name, kind in _COLUMNS.items() if name != "tokens"}
    return pl.DataFrame(rows, schema=columns, orient="row")


def trend(values: pl.DataFrame, design: Design) -> pl.DataFrame:
    """tokens, measure, value, lo, hi: means over pairs, from `pair_values`, at every snapshot.

    Null where it cannot be told.
    """
    rows: list[tuple[int, str, float, float, float]] = []
    cells = values.partition_by("tokens", "measure", maintain_order=True, as_dict=True)
    signed = {measure.id for measure in measures.MEANS}
    for (tokens, measure), cell in cells.items():
        pairs: list[Pair] = list(cell.select("run_a", "run_b").iter_rows())
        value, *ends = mean_over_pairs(pairs, cell["value"].to_numpy(), design)
        lowest = -1.0 if measure in signed else 0.0
        low, high = (float(end.clip(lowest, 1.0)) for end in ends)
        rows.append((int(tokens), str(measure), float(value), low, high))
    names = ["tokens", "measure", "value", "lo", "hi"]
    frame = pl.DataFrame(rows, schema=names, orient="row")
    return frame.with_columns(pl.selectors.float().fill_nan(None))
