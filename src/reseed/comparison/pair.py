"""One pair of dictionaries: matched, and set beside chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.comparison.dictionary import Dictionary
from reseed.matching import measures
from reseed.matching.match import Views, compare, decoder_pairs
from reseed.matching.measures import Measure
from reseed.matching.stage import certificate_of
from reseed.stability import fdr, shares
from reseed.stability.nulls import COVARIANCE, CovarianceNull, chance_corrected
from reseed.stability.shares import TAUS, PairTable

Members = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFacts:
    """What two dictionaries have in common."""

    a: str
    b: str
    table: pl.DataFrame
    """a row for each latent of each side; columns of `reseed.matching.match`"""
    curve: pl.DataFrame
    """measure, stratum, tau, share_a, share_b, share, null, null_lo, null_hi"""
    cosines: pl.DataFrame
    """kind, view, bin, latents"""
    numbers: Mapping[str, Any]
    """measure to its number, its null, corrected for chance; JSON"""
    certificates: Mapping[str, Any]
    """of both assignments; JSON"""

    @property
    def matched(self) -> NDArray[np.int64]:
        """`[E, 2]` latents of A and B that the decoder assignment pairs."""
        return decoder_pairs(self.table)


def measure_pair(
    a: Dictionary,
    b: Dictionary,
    *,
    tau: float,
    draws: int,
    strata: Mapping[str, Members],
    show: Callable[[float], None] | None = None,
) -> PairFacts:
    """Match two dictionaries, and random ones of the same shape in the same way.

    `strata` has which latents of each belong; `"all"` is among them.
    """
    decoders_only = not (a.has_encoder and b.has_encoder)
    first, other = (_views(side.views, decoders_only) for side in (a, b))
    match = compare(first, other, show)
    observed = PairTable((a.name, b.name), match.table)
    chance: list[PairTable] = []
    nulls = [CovarianceNull(side.views) for side in (a, b)]
    for draw in range(draws):
        # keyed by the weights: the same two files give the same null under any names
        drawn = [
            null.draw("compare", side.sha256, letter, draw)
            for null, side, letter in zip(nulls, (a, b), "ab", strict=True)
        ]
        first, other = (_views(views, decoders_only) for views in drawn)
        chance.append(PairTable(observed.pair, compare(first, other, show).table))
    curves = [
        _curve(observed, chance if stratum == "all" else [], measure, stratum, members)
        for stratum, members in strata.items()
        for measure in measures.THRESHOLDED
    ]
    kinds = {"observed": [match.table], COVARIANCE: [draw.table for draw in chance]}
    tests = fdr.examine(observed, chance, strata["all"])
    return PairFacts(
        a=a.name,
        b=b.name,
        table=_tested(match.table, tests),
        curve=pl.concat(curves).with_columns(pl.selectors.float().fill_nan(None)),
        cosines=pl.concat([shares.histogram(kind, tables) for kind, tables in kinds.items()]),
        numbers=_numbers(observed, chance, strata["all"], tau) | _found_at_fdr(observed, chance),
        certificates={view: certificate_of(getattr(match, view)) for view in Views._fields},
    )


def _views(views: Views, decoders_only: bool) -> Views:
    """Decoders stand in for the encoders where one of the two has none."""
    return Views(views.decoder, views.decoder) if decoders_only else views


def _curve(
    observed: PairTable,
    chance: list[PairTable],
    measure: Measure,
    stratum: str,
    members: Members,
) -> pl.DataFrame:
    a, b = shares.sides(observed, measure, members)
    columns = {"tau": TAUS, "share_a": a, "share_b": b, "share": (a + b) / 2}
    columns |= shares.null_columns(chance, measure)
    head = [pl.lit(measure.id).alias("measure"), pl.lit(stratum).alias("stratum")]
    return pl.DataFrame(columns).select(*head, pl.all())


def _numbers(
    observed: PairTable, chance: list[PairTable], members: Members, tau: float
) -> dict[str, Any]:
    at = int(np.abs(TAUS - tau).argmin())
    out: dict[str, Any] = {}
    for measure in measures.THRESHOLDED:
        a, b = (float(side[at]) for side in shares.sides(observed, measure, members))
        null = shares.null_curves(chance, measure)[:, at]
        out[measure.id] = {"a": a, "b": b} | _number((a + b) / 2, null)
    for measure in measures.MEANS:
        value = shares.mean_score(observed, measure, members)
        out[measure.id] = _number(value, shares.null_means(chance, measure))
    return out


def _found_at_fdr(observed: PairTable, chance: list[PairTable]) -> dict[str, Any]:
    """Shares with a match that stands out from random latents; null of one draw is not known."""
    out: dict[str, Any] = {}
    everyone = shares.everyone(observed)
    for name, measure in (("match_at_fdr", fdr.MATCHED), ("nearest_at_fdr", fdr.NEAREST)):
        tests = fdr.examine(observed, chance, everyone, measure)
        a, b = (float((test.q <= fdr.LEVEL).mean()) for test in tests)
        number = _number((a + b) / 2, fdr.null_shares(chance, measure))
        out[name] = {"a": a, "b": b, "value": number["value"], "level": fdr.LEVEL} | number
    return out


def _tested(table: pl.DataFrame, tests: list[fdr.PairTest]) -> pl.DataFrame:
    """The table of a pair with p_null and q_fdr of each latent; rows are in the tests' order."""
    p, q = (np.concatenate([getattr(test, name) for test in tests]) for name in ("p", "q"))
    return table.with_columns(pl.Series("p_null", p), pl.Series("q_fdr", q))


def _number(value: float, null: NDArray[np.float64]) -> dict[str, Any]:
    """A number beside chance; null without draws."""
    if not len(null):
        return {"value": value, "null": None, "chance_corrected": None}
    chance = shares.null_range(null)
    corrected = chance_corrected(value, chance["mean"])
    return {"value": value, "null": chance, "chance_corrected": corrected}
