"""The headline numbers of a group, each with its interval, its nulls and its counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.matching import measures
from reseed.matching.measures import Measure
from reseed.runs import Pair, stability_name
from reseed.spec.statistics import (
    Contributions,
    Number,
    PosteriorFit,
    Range,
    Reconstruction,
)
from reseed.spec.summary import GroupSummary, read_record
from reseed.stability import fdr, shares
from reseed.stability.intervals import Design, jackknife_over_pairs, mean_over_pairs
from reseed.stability.nulls import chance_corrected
from reseed.stability.over_seeds.posterior import Mixture
from reseed.stability.proportions import inside
from reseed.stability.shares import Chance, Members, PairTable
from reseed.store import Store

Numbers = dict[str, Number]
"""stratum to its number"""

Nulls = Mapping[str, Chance]
"""stratum to what chance gives in it"""


def read_summary(store: Store, group: str) -> GroupSummary:
    """The numbers of a group."""
    name = stability_name(group)
    return read_record(GroupSummary, store.document(name, "summary.json"), f"{name}/summary.json")


def numbers_at(curves: pl.DataFrame, tau: float) -> dict[str, Numbers]:
    """Every thresholded measure at tau, on every stratum, from `share_table`."""
    out: dict[str, Numbers] = {}
    for row in curves.filter((pl.col("tau") - tau).abs() < 0.005).iter_rows(named=True):
        null = None
        if row["null"] is not None:
            null = Range(mean=row["null"], lo=row["null_lo"], hi=row["null_hi"])
        at_tau = number(row["share"], (row["lo"], row["hi"]), null, row["untrained"])
        out.setdefault(row["measure"], {})[row["stratum"]] = at_tau
    return out


def mean_numbers(
    end: Sequence[PairTable],
    start: Sequence[PairTable],
    nulls: Sequence[PairTable],
    members: Members,
    design: Design | None = None,
) -> dict[str, Numbers]:
    """The measures that are means, on all latents."""
    out: dict[str, Numbers] = {}
    for measure in measures.MEANS:
        values = np.array([shares.mean_score(t, measure, members) for t in end])
        mean, *ends = jackknife_over_pairs([t.pair for t in end], values, design)
        null = _range(shares.null_means(nulls, measure))
        before = np.mean([shares.mean_score(t, measure, members) for t in start])
        ends = inside((ends[0], ends[1]), lowest=-1.0)  # a cosine
        out[measure.id] = {"all": number(float(mean), ends, null, float(before))}
    return out


def found_at_fdr(
    end: Sequence[PairTable],
    start: Sequence[PairTable],
    nulls: Nulls,
    strata: Mapping[str, Members],
    design: Design | None = None,
    measure: Measure = fdr.MATCHED,
) -> Numbers:
    """Share of latents with a match at a false discovery rate of 5 %, on every stratum.

    All and dead latents are held against the null of all latents, the other strata against that of
    the live ones, among which they are tested. Strata without a null are left out.
    """
    out: Numbers = {}
    pairs = [t.pair for t in end]
    for base in ("all", "live"):
        null = nulls.get(base)
        if null is None or not set(pairs) <= set(null.decoys):
            continue
        after, before = (
            [
                fdr.examine(
                    shares.among(t, strata[base]), null.decoys[t.pair], strata[base], measure
                )
                for t in tables
            ]
            for tables in (end, start)
        )
        by_pair = [[d for d in null.draws if d.pair == pair] for pair in pairs]
        chance = [
            fdr.null_shares(draws, null.decoys[pair], measure)
            for pair, draws in zip(pairs, by_pair, strict=True)
        ]
        by_chance = _range(np.concatenate(chance))
        for stratum, members in strata.items():
            if shares.base_of(stratum) != base:
                continue
            values = np.array([fdr.share_found(tests, members) for tests in after])
            latents = shares.members_of_run(members)
            mean, low, high = mean_over_pairs(pairs, values, design, latents)
            untrained = np.mean([fdr.share_found(tests, members) for tests in before])
            out[stratum] = number(float(mean), (low, high), by_chance, untrained)
    return out


def in_itself(null: Chance) -> Range:
    """Share of a run's latents that the test finds among its own others, over runs and pairs."""
    return _range(np.array([share for decoys in null.decoys.values() for share in decoys.itself]))


def latent_tests(
    end: Sequence[PairTable], nulls: Nulls, strata: Mapping[str, Members]
) -> pl.DataFrame:
    """What the tests say of each latent: live ones against the null of live ones, dead of all.

    Returns:
        run, latent, p_null, q_fdr, n_matched_fdr, null_id.
    """
    runs = list(strata["all"])
    sizes = {run: len(members) for run, members in strata["all"].items()}
    by_base: dict[str, pl.DataFrame] = {}
    for base in ("all", "live"):
        known = nulls[base].decoys if base in nulls else {}
        tests = [
            test
            for pair in end
            for test in fdr.examine(
                shares.among(pair, strata[base]), known.get(pair.pair), strata[base]
            )
        ]
        frame = fdr.by_latent(tests, sizes, runs)
        name = pl.when(pl.col("p_null").is_not_null()).then(pl.lit(f"N2 {base}"))
        by_base[base] = frame.with_columns(name.alias("null_id"))
    live = pl.Series(np.concatenate([strata["live"][run] for run in runs]))
    columns = ("p_null", "q_fdr", "n_matched_fdr", "null_id")
    return by_base["all"].with_columns(
        *(by_base["live"][name].zip_with(live, by_base["all"][name]) for name in columns)
    )


def contributions(
    firing: Sequence[PairTable], pairs: Sequence[Pair], design: Design | None = None
) -> Contributions | None:
    """What latents matched by decoder rows add, beside the frequency-matched null (N8).

    None where it was not measured for every one of these pairs, or none of their latents fire.
    """
    known = [t for t in firing if t.pair in pairs and "contribution" in t.table.columns]
    fires = [t.table.drop_nulls(["explained_a", "explained_b"]) for t in known]
    if len(fires) < len(pairs) or not all(map(len, fires)):
        return None
    means = pl.concat(table.select("contribution", "null_contribution").mean() for table in fires)
    values = means["contribution"].to_numpy()
    mean, *ends = jackknife_over_pairs([t.pair for t in known], values, design)
    ends = inside((ends[0], ends[1]), lowest=-1.0)  # a correlation
    null = _range(means["null_contribution"].to_numpy())
    shown = number(float(mean), ends, None, None)
    explained = pl.concat(table.select("explained_a", "explained_b") for table in fires)
    return Contributions(
        value=shown.value,
        interval_95=shown.interval_95,
        null_frequency=null,
        explained=float(np.median(explained.to_numpy())),
    )


def number(
    value: float | None, interval: tuple[Any, Any], null: Range | None, untrained: Any
) -> Number:
    """One headline number; what could not be told is None (the interval of fewer than 3 runs)."""
    low, high = (_known(end) for end in interval)
    known = _known(value)
    chance = null.mean if null is not None else None
    return Number(
        value=known,
        interval_95=None if low is None or high is None else (low, high),
        null_covariance=null,
        null_untrained=_known(untrained),
        chance_corrected=None
        if chance is None or known is None
        else _known(chance_corrected(known, chance)),
    )


def _known(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def _range(values: NDArray[np.float64]) -> Range:
    return Range(mean=_known(values.mean()), lo=_known(values.min()), hi=_known(values.max()))


def strata_table(
    shared: Mapping[str, Number], matched: Mapping[str, Number], latents: pl.DataFrame, runs: int
) -> pl.DataFrame:
    """One row for each stratum, for a picture by firing rate.

    Returns:
        stratum, rate_lo, rate_hi, latents (mean over runs), recurrence_mean, shared, shared_lo,
        shared_hi, found, found_lo, found_hi (at the false discovery rate), untrained.
    """
    rows: list[dict[str, Any]] = []
    for stratum, share in shared.items():
        part = latents.filter(_in(stratum))
        rows.append(
            {
                "stratum": stratum,
                "rate_lo": part["firing_rate"].min(),
                "rate_hi": part["firing_rate"].max(),
                "latents": len(part) / runs,
                "recurrence_mean": part["recurrence_mean"].mean(),
                **_named("shared", share),
                **_named("found", matched.get(stratum)),
                "untrained": share.null_untrained,
            }
        )
    schema = {k: pl.String if k == "stratum" else pl.Float64 for k in rows[0]}
    return pl.DataFrame(rows, schema=schema)


def _in(stratum: str) -> pl.Expr:
    if stratum.startswith("rate"):
        return pl.col("rate_bin") == int(stratum.removeprefix("rate")) - 1
    known = {"all": pl.lit(True), "live": pl.col("alive"), "dead": ~pl.col("alive")}  # noqa: FBT003
    return known.get(stratum, pl.col("dense"))


def _named(name: str, share: Number | None) -> dict[str, float | None]:
    low, high = (share and share.interval_95) or (None, None)
    return {name: share and share.value, f"{name}_lo": low, f"{name}_hi": high}


def fits(posterior: Mapping[str, Mixture]) -> dict[str, PosteriorFit]:
    """The fits behind the posterior, by bin."""
    return {
        name: PosteriorFit(mean=fit.mean, sd=fit.sd, latents=fit.latents)
        for name, fit in posterior.items()
    }


def reconstruction(runs: Sequence[Mapping[str, Any]]) -> Reconstruction:
    """Held-out reconstruction of the runs of a group; what a run lacks is left out."""
    out: dict[str, Range] = {}
    for name in Reconstruction.model_fields:
        values = [run[name] for run in runs if run.get(name) is not None]
        if len(values) == len(runs):
            out[name] = Range(mean=float(np.mean(values)), lo=min(values), hi=max(values))
    return Reconstruction(held_out_tokens=runs[0]["rows"], **out)
