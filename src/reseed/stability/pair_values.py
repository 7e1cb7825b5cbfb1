"""What every measure gives for each pair of runs: what means, trends and factors are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from reseed.matching import measures
from reseed.stability import fdr, shares
from reseed.stability.intervals import Design, mean_over_pairs
from reseed.stability.shares import Pair, PairTable
from reseed.stability.strata import Members

PAIRS_VERSION = 1
"""Of what the table means."""
LIVE, FOUND = "shared_live", "match_at_fdr"
"""Measures of the end of training only, which need firing rates and nulls."""
_COLUMNS = {"run_a": pl.String, "run_b": pl.String, "tokens": pl.Int64, "measure": pl.String,
            "value": pl.Float64}  # fmt: skip


def pair_values(tables: Mapping[int, Sequence[PairTable]], tau: float) -> pl.DataFrame:
    """Every measure of every pair on all latents.

    Args:
        tables: tokens seen to the tables of pairs.
        tau: the threshold of the measures that have one.

    Returns:
        run_a, run_b, tokens, measure, value.
    """
    at = _place(tau)
    rows: list[tuple[str, str, int, str, float]] = []
    for tokens, found in tables.items():
        for one in found:
            everyone = shares.everyone(one)
            for measure in measures.ALL:
                if measure in measures.MEANS:
                    value = shares.mean_score(one, measure, everyone)
                else:
                    value = float(shares.curve(one, measure, everyone)[at])
                rows.append((*one.pair, tokens, measure.id, value))
    return pl.DataFrame(rows, schema=_COLUMNS, orient="row")


def at_the_end(
    end: Sequence[PairTable], nulls: Sequence[PairTable], live: Members, tau: float
) -> pl.DataFrame:
    """Measures that are known at the end of training only.

    Args:
        end: tables of pairs.
        nulls: covariance-matched draws for all latents.
        live: which latents fire.
        tau: the threshold.

    Returns:
        run_a, run_b, measure (`LIVE`, `FOUND`), value; NaN where it cannot be told.
    """
    rows: list[tuple[str, str, str, float]] = []
    for one in end:
        draws = [draw for draw in nulls if draw.pair == one.pair]
        tests = fdr.examine(one, draws, shares.everyone(one))
        rows.append((*one.pair, FOUND, fdr.share_found(tests)))
        share = float(shares.curve(one, measures.SHARED, live)[_place(tau)])
        rows.append((*one.pair, LIVE, share))
    columns = {name: kind for name, kind in _COLUMNS.items() if name != "tokens"}
    return pl.DataFrame(rows, schema=columns, orient="row")


def trend(values: pl.DataFrame, design: Design) -> pl.DataFrame:
    """Means over pairs at every snapshot.

    Args:
        values: from `pair_values`.
        design: seeds of the runs.

    Returns:
        tokens, measure, value, lo, hi; null where it cannot be told.
    """
    rows: list[tuple[int, str, float, float, float]] = []
    cells = values.partition_by("tokens", "measure", maintain_order=True, as_dict=True)
    for (tokens, measure), found in cells.items():
        pairs: list[Pair] = list(found.select("run_a", "run_b").iter_rows())
        value, *ends = mean_over_pairs(pairs, found["value"].to_numpy(), design)
        lowest = -1.0 if measure in {one.id for one in measures.MEANS} else 0.0
        low, high = (float(end.clip(lowest, 1.0)) for end in ends)
        rows.append((int(tokens), str(measure), float(value), low, high))
    names = ["tokens", "measure", "value", "lo", "hi"]
    frame = pl.DataFrame(rows, schema=names, orient="row")
    return frame.with_columns(pl.selectors.float().fill_nan(None))


def _place(tau: float) -> int:
    """Where tau is among `TAUS`."""
    return int(np.abs(shares.TAUS - tau).argmin())
