"""The headline numbers of a group, each with its interval, its nulls and its counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from reseed.matching import measures
from reseed.matching.measures import Measure
from reseed.stability import fdr, shares
from reseed.stability.intervals import Design, mean_over_pairs
from reseed.stability.nulls.names import chance_corrected
from reseed.stability.posterior import BetaBinomial
from reseed.stability.shares import Members, PairTable


def headline(
    curves: pl.DataFrame,
    tau: float,
    *,
    end: Sequence[PairTable],
    start: Sequence[PairTable],
    nulls: Sequence[PairTable],
    members: Members,
    design: Design | None = None,
) -> dict[str, Any]:
    """Every measure at tau on every stratum, and the means.

    Args:
        curves: from `share_table`.
        tau: the threshold.
        end: tables of all pairs at the end of training.
        start: the same at its start.
        nulls: covariance-matched draws.
        members: all latents of each run.
        design: seeds of the runs.
    """
    at = curves.filter((pl.col("tau") - tau).abs() < 0.005)
    out: dict[str, Any] = {"tau": tau}
    for row in at.iter_rows(named=True):
        null = None
        if row["null"] is not None:
            null = {"mean": row["null"], "lo": row["null_lo"], "hi": row["null_hi"]}
        one = number(row["share"], (row["lo"], row["hi"]), null, row["untrained"])
        out.setdefault(row["measure"], {})[row["stratum"]] = one
    for measure in measures.MEANS:
        each = np.array([shares.mean_score(t, measure, members) for t in end])
        mean, low, high = mean_over_pairs([t.pair for t in end], each, design)
        chance = shares.null_means(nulls, measure)
        before = np.mean([shares.mean_score(t, measure, members) for t in start])
        null = shares.null_range(chance)
        out[measure.id] = {"all": number(float(mean), (low, high), null, float(before))}
    return out


def found_at_fdr(
    end: Sequence[PairTable],
    start: Sequence[PairTable],
    nulls: Mapping[str, Sequence[PairTable]],
    strata: Mapping[str, Members],
    design: Design | None = None,
    measure: Measure = fdr.MATCHED,
) -> dict[str, Any]:
    """Share of latents with a match at a false discovery rate of 5 %, on every stratum.

    All and dead latents are held against the null of all latents, the other strata against that of
    the live ones, among which they are tested.

    Returns:
        stratum to a number as in `number`; strata without a null are left out.
    """
    out: dict[str, Any] = {}
    for base in ("all", "live"):
        by_pair = {t.pair: [d for d in nulls.get(base, ()) if d.pair == t.pair] for t in end}
        if not all(by_pair.values()):
            continue
        pairs = [t.pair for t in end]
        after = [fdr.examine(t, by_pair[t.pair], strata[base], measure) for t in end]
        before = [fdr.examine(t, by_pair[t.pair], strata[base], measure) for t in start]
        chance = np.concatenate([fdr.null_shares(by_pair[pair], measure) for pair in pairs])
        null = None
        if len(chance):
            null = shares.null_range(chance)
        for stratum, members in strata.items():
            if (stratum in ("all", "dead")) != (base == "all"):
                continue
            each = np.array([fdr.share_found(t, members) for t in after])
            mean, low, high = mean_over_pairs(pairs, each, design)
            untrained = np.mean([fdr.share_found(t, members) for t in before])
            out[stratum] = number(float(mean), (low, high), null, untrained, limits=(0.0, 1.0))
    return out


def latent_tests(
    end: Sequence[PairTable],
    nulls: Mapping[str, Sequence[PairTable]],
    strata: Mapping[str, Members],
) -> pl.DataFrame:
    """What the tests say of each latent: live ones against the null of live ones, dead of all.

    Args:
        end: tables of independent pairs.
        nulls: draws of the strata `all` and `live`.
        strata: which latents belong.

    Returns:
        run, latent, p_null, q_fdr, n_matched_fdr, null_id.
    """
    runs = list(strata["all"])
    sizes = {run: len(found) for run, found in strata["all"].items()}
    found: dict[str, pl.DataFrame] = {}
    for base in ("all", "live"):
        tests = [
            test
            for one in end
            for test in fdr.examine(
                one, [d for d in nulls.get(base, ()) if d.pair == one.pair], strata[base]
            )
        ]
        frame = fdr.by_latent(tests, sizes, runs)
        name = pl.when(pl.col("p_null").is_not_null()).then(pl.lit(f"N2 {base}"))
        found[base] = frame.with_columns(name.alias("null_id"))
    live = pl.Series(np.concatenate([strata["live"][run] for run in runs]))
    columns = ("p_null", "q_fdr", "n_matched_fdr", "null_id")
    return found["all"].with_columns(
        *(found["live"][name].zip_with(live, found["all"][name]) for name in columns)
    )


def number(
    value: float | None,
    interval: tuple[Any, Any],
    null: Mapping[str, Any] | None,
    untrained: Any,
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> dict[str, Any]:
    """One headline number; what could not be told is null (the interval of fewer than 3 runs)."""
    ends = [plain(x) for x in interval]
    return {
        "value": plain(value),
        "interval_95": None
        if ends[0] is None or ends[1] is None
        else [max(ends[0], limits[0]), min(ends[1], limits[1])],
        "null_covariance": None if null is None else {k: plain(v) for k, v in null.items()},
        "null_untrained": plain(untrained),
        "chance_corrected": None
        if null is None or plain(value) is None
        else plain(chance_corrected(float(value or 0.0), float(null["mean"]))),
    }


def plain(value: Any) -> float | None:
    """A number for JSON; NaN becomes None."""
    return None if value is None or np.isnan(value) else float(value)


def strata_table(headline: Mapping[str, Any], latents: pl.DataFrame, runs: int) -> pl.DataFrame:
    """One row for each stratum, for a picture by firing rate.

    Returns:
        stratum, rate_lo, rate_hi, latents (mean over runs), recurrence_mean, shared, shared_lo,
        shared_hi, found, found_lo, found_hi (at the false discovery rate), untrained.
    """
    rows: list[dict[str, Any]] = []
    for stratum, one in headline["shared"].items():
        part = latents.filter(_in(stratum))
        found = headline["match_at_fdr"].get(stratum)
        rows.append(
            {
                "stratum": stratum,
                "rate_lo": part["firing_rate"].min(),
                "rate_hi": part["firing_rate"].max(),
                "latents": len(part) / runs,
                "recurrence_mean": part["recurrence_mean"].mean(),
                **_named("shared", one),
                **_named("found", found),
                "untrained": one["null_untrained"],
            }
        )
    schema = {k: pl.String if k == "stratum" else pl.Float64 for k in rows[0]}
    return pl.DataFrame(rows, schema=schema)


def _in(stratum: str) -> pl.Expr:
    if stratum.startswith("rate"):
        return pl.col("rate_bin") == int(stratum.removeprefix("rate")) - 1
    known = {"all": pl.lit(True), "live": pl.col("alive"), "dead": ~pl.col("alive")}  # noqa: FBT003
    return known.get(stratum, pl.col("dense"))


def _named(name: str, one: Mapping[str, Any] | None) -> dict[str, float | None]:
    ends = (one or {}).get("interval_95") or (None, None)
    return {name: (one or {}).get("value"), f"{name}_lo": ends[0], f"{name}_hi": ends[1]}


def fits(found: Mapping[str, BetaBinomial]) -> dict[str, Any]:
    """The fits behind the posterior: `alpha`, `beta`, `mean`, `latents` by bin."""
    return {
        name: {"alpha": one.alpha, "beta": one.beta, "mean": one.mean, "latents": one.latents}
        for name, one in found.items()
    }


def reconstruction(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Held-out reconstruction of the runs of a group: mean and range over runs.

    What a run of an older version lacks, or what could not be told, is left out.
    """
    out: dict[str, Any] = {"held_out_tokens": runs[0]["rows"]}
    for name in ("fvu", "fvu_uncentred", "l0", "encoder_decoder_cosine"):
        values = [one[name] for one in runs if one.get(name) is not None]
        if len(values) < len(runs):
            continue
        out[name] = {"mean": float(np.mean(values)), "lo": min(values), "hi": max(values)}
    return out
