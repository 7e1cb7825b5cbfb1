"""One pair of dictionaries: matched, and set beside chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from reseed.stability.decoys import Decoys, decoys
from reseed.stability.nulls import COVARIANCE, CovarianceNull, chance_corrected
from reseed.stability.shares import TAUS, PairTable

Members = Mapping[str, NDArray[np.bool_]]

VERSION = 2
"""Of what the numbers of a pair mean; another makes them anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFacts:
    """What two dictionaries have in common."""

    a: str
    b: str
    table: pl.DataFrame
    """a row for each latent of each side; columns of `reseed.matching.match`"""
    curve: pl.DataFrame
    """measure, stratum, tau, share_a, share_b, share, null, null_lo, null_hi, null_a, null_b"""
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
    nulls = {a.name: CovarianceNull(first), b.name: CovarianceNull(other)}
    # keyed by the weights: the same two files give the same null under any names
    key = ("compare", a.sha256, b.sha256)
    null = decoys(nulls[a.name], nulls[b.name], *key)
    kind = null.heaviest(tau)
    chance = shares.draw_nulls(observed.pair, nulls, draws, kind, key=key, show=show)
    curves = [
        _curve(observed, chance if stratum == "all" else [], measure, stratum, members)
        for stratum, members in strata.items()
        for measure in measures.THRESHOLDED
    ]
    kinds = {"observed": [match.table], COVARIANCE: [draw.table for draw in chance]}
    tests = fdr.examine(observed, null, strata["all"])
    return PairFacts(
        a=a.name,
        b=b.name,
        table=_tested(match.table, tests),
        curve=pl.concat(curves).with_columns(pl.selectors.float().fill_nan(None)),
        cosines=pl.concat([shares.histogram(kind, tables) for kind, tables in kinds.items()]),
        numbers=_numbers(observed, chance, kind, strata["all"], tau)
        | _found_at_fdr(observed, chance, null),
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
    a, b = shares.sides(shares.among(observed, members), measure, members)
    columns = {"tau": TAUS, "share_a": a, "share_b": b, "share": (a + b) / 2}
    columns |= shares.null_columns(chance, measure)
    null = [shares.sides(draw, measure, shares.everyone(draw)) for draw in chance]
    for at, side in enumerate("ab"):
        of_side = np.array([both[at] for both in null])
        columns[f"null_{side}"] = of_side.mean(axis=0) if null else np.full(len(TAUS), np.nan)
    head = [pl.lit(measure.id).alias("measure"), pl.lit(stratum).alias("stratum")]
    return pl.DataFrame(columns).select(*head, pl.all())


def _numbers(
    observed: PairTable, chance: Sequence[PairTable], kind: str, members: Members, tau: float
) -> dict[str, Any]:
    at = int(np.abs(TAUS - tau).argmin())
    out: dict[str, Any] = {}
    for measure in measures.THRESHOLDED:
        by_side = [side[at] for side in shares.sides(observed, measure, members)]
        # random dictionaries have no zero rows, so perhaps fewer latents
        null = [
            [side[at] for side in shares.sides(draw, measure, shares.everyone(draw))]
            for draw in chance
        ]
        out[measure.id] = _of_sides(by_side, np.array(null)) | {"null_kind": kind}
    for measure in measures.MEANS:
        value = shares.mean_score(observed, measure, members)
        out[measure.id] = _number(value, shares.null_means(chance, measure))
    return out


def _found_at_fdr(observed: PairTable, chance: Sequence[PairTable], null: Decoys) -> dict[str, Any]:
    """Shares with a match that stands out from what random latents reach at best."""
    out: dict[str, Any] = {}
    for name, measure in (
        (measures.MATCH_AT_FDR, fdr.MATCHED),
        (measures.NEAREST_AT_FDR, fdr.NEAREST),
    ):
        tests = (fdr.examine(t, null, shares.everyone(t), measure) for t in (observed, *chance))
        by_side, *drawn = ([float((t.q <= fdr.LEVEL).mean()) for t in both] for both in tests)
        out[name] = _of_sides(by_side, np.array(drawn)) | {"level": fdr.LEVEL}
        out[name]["itself"] = dict(zip("ab", null.itself, strict=True))
    return out


def _of_sides(values: Sequence[float], null: NDArray[np.float64]) -> dict[str, Any]:
    """A share of both sides and their mean, each beside its null, `[draws, 2]`."""
    a, b = (float(value) for value in values)
    null_a, null_b = (shares.null_range(null[:, side]) for side in (0, 1))
    number = _number((a + b) / 2, null.mean(axis=1))
    return {"a": a, "b": b, **number, "null_a": null_a, "null_b": null_b}


def _tested(table: pl.DataFrame, tests: list[fdr.PairTest]) -> pl.DataFrame:
    """The table of a pair with p_null and q_fdr of each latent; rows are in the tests' order."""
    p, q = (np.concatenate([getattr(test, name) for test in tests]) for name in ("p", "q"))
    return table.with_columns(pl.Series("p_null", p), pl.Series("q_fdr", q))


def _number(value: float, null: NDArray[np.float64]) -> dict[str, Any]:
    """A number beside chance."""
    chance = shares.null_range(null)
    corrected = chance_corrected(value, chance["mean"])
    return {"value": value, "null": chance, "chance_corrected": corrected}
