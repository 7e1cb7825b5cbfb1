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
from reseed.matching.measures import Measure
from reseed.matching.sides import Views, compare
from reseed.matching.stage import certificate_of
from reseed.stability import fdr, shares
from reseed.stability.nulls.names import COVARIANCE, chance_corrected
from reseed.stability.nulls.weights import CovarianceNull
from reseed.stability.shares import TAUS, PairTable

LARGE = 4096
"""Latents from which on one null draw of each pair says enough."""

Members = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFacts:
    """What two dictionaries have in common."""

    a: str
    b: str
    table: pl.DataFrame
    """a row for each latent of each side; columns of `reseed.matching.sides`"""
    curve: pl.DataFrame
    """measure, stratum, tau, share_a, share_b, share, null, null_lo, null_hi"""
    cosines: pl.DataFrame
    """kind, view, bin, latents"""
    numbers: Mapping[str, Any]
    """measure to its number, its null, corrected for chance; JSON"""
    certificates: Mapping[str, Any]
    """of both assignments; JSON"""


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

    Args:
        a: one.
        b: the other, of the same dimensions.
        tau: cosine that counts as shared.
        draws: of the covariance-matched null.
        strata: name to which latents of each belong; `"all"` among them.
        show: told how many similarities were computed, as they are.

    Raises:
        SpecError: if dimensions differ.
    """
    found = compare(*_compared_views(a, b), show)
    observed = PairTable((a.name, b.name), found.table)
    chance = _draws(a, b, draws, show)
    curves = [
        _curve(observed, chance if stratum == "all" else [], measure, stratum, members)
        for stratum, members in strata.items()
        for measure in measures.THRESHOLDED
    ]
    kinds = {"observed": [found.table], COVARIANCE: [one.table for one in chance]}
    tests = fdr.examine(observed, chance, strata["all"])
    return PairFacts(
        a=a.name,
        b=b.name,
        table=_tested(found.table, tests),
        curve=pl.concat(curves).with_columns(pl.selectors.float().fill_nan(None)),
        cosines=pl.concat([shares.histogram(kind, tables) for kind, tables in kinds.items()]),
        numbers=_numbers(observed, chance, strata["all"], tau) | _found_at_fdr(observed, chance),
        certificates={view: certificate_of(getattr(found, view)) for view in Views._fields},
    )


def _compared_views(a: Dictionary, b: Dictionary) -> tuple[Views, Views]:
    """Decoders stand in for the encoders where one of the two has none."""
    if a.has_encoder and b.has_encoder:
        return a.views, b.views
    return _decoder_only(a.views), _decoder_only(b.views)


def _decoder_only(views: Views) -> Views:
    return Views(views.decoder, views.decoder)


def _draws(
    a: Dictionary, b: Dictionary, draws: int, show: Callable[[float], None] | None
) -> list[PairTable]:
    nulls = [CovarianceNull(one.views) for one in (a, b)]
    out: list[PairTable] = []
    for draw in range(draws):
        # keyed by the weights: the same two files give the same null under any names
        rows = [
            null.draw("compare", one.sha256, side, draw)
            for null, one, side in zip(nulls, (a, b), "ab", strict=True)
        ]
        if not (a.has_encoder and b.has_encoder):
            rows = [_decoder_only(one) for one in rows]
        out.append(PairTable((a.name, b.name), compare(*rows, show).table))
    return out


def _sides(one: PairTable, measure: Measure, members: Members) -> list[NDArray[np.float64]]:
    """Share over `TAUS` of each side, `[T]` each."""
    out: list[NDArray[np.float64]] = []
    for side, name in zip("ab", one.pair, strict=True):
        mine = one.table.filter(pl.col("side") == side).filter(pl.Series(members[name]))
        out.append(measures.share_at(measures.scores(mine, measure), TAUS, strict=measure.strict))
    return out


def _curve(
    observed: PairTable,
    chance: list[PairTable],
    measure: Measure,
    stratum: str,
    members: Members,
) -> pl.DataFrame:
    a, b = _sides(observed, measure, members)
    columns = {"tau": TAUS, "share_a": a, "share_b": b, "share": (a + b) / 2}
    if chance:
        null = shares.null_curves(chance, measure)
        columns |= {"null": null.mean(0), "null_lo": null.min(0), "null_hi": null.max(0)}
    else:
        columns |= dict.fromkeys(("null", "null_lo", "null_hi"), np.full(len(TAUS), np.nan))
    head = [pl.lit(measure.id).alias("measure"), pl.lit(stratum).alias("stratum")]
    return pl.DataFrame(columns).select(*head, pl.all())


def _numbers(
    observed: PairTable, chance: list[PairTable], members: Members, tau: float
) -> dict[str, Any]:
    at = int(np.abs(TAUS - tau).argmin())
    out: dict[str, Any] = {}
    for measure in measures.THRESHOLDED:
        a, b = (float(side[at]) for side in _sides(observed, measure, members))
        null = shares.null_curves(chance, measure)[:, at]
        out[measure.id] = {"a": a, "b": b} | _beside((a + b) / 2, null)
    for measure in measures.MEANS:
        value = shares.mean_score(observed, measure, members)
        out[measure.id] = _beside(value, shares.null_means(chance, measure))
    return out


def _found_at_fdr(observed: PairTable, chance: list[PairTable]) -> dict[str, Any]:
    """Shares with a match that stands out from random latents; null of one draw is not known."""
    out: dict[str, Any] = {}
    everyone = shares.everyone(observed)
    for name, measure in (("match_at_fdr", fdr.MATCHED), ("nearest_at_fdr", fdr.NEAREST)):
        tests = fdr.examine(observed, chance, everyone, measure)
        sides = [float((one.q <= fdr.LEVEL).mean()) for one in tests]
        null = fdr.null_shares(chance, measure)
        value = float(np.mean(sides))
        beside = _beside(value, null) if len(null) else {"null": None, "chance_corrected": None}
        out[name] = {"a": sides[0], "b": sides[1], "value": value, "level": fdr.LEVEL} | beside
    return out


def _tested(table: pl.DataFrame, tests: list[fdr.PairTest]) -> pl.DataFrame:
    """The table of a pair with p_null and q_fdr of each latent; rows are in the tests' order."""
    p, q = (np.concatenate([getattr(one, name) for one in tests]) for name in ("p", "q"))
    return table.with_columns(pl.Series("p_null", p), pl.Series("q_fdr", q))


def _beside(value: float, null: NDArray[np.float64]) -> dict[str, Any]:
    mean = float(null.mean())
    return {
        "value": value,
        "null": {"mean": mean, "lo": float(null.min()), "hi": float(null.max())},
        "chance_corrected": chance_corrected(value, mean),
    }
