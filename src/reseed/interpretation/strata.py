"""Which latents to explain so that orphans can be compared with the rest. Needs no torch.

In each stratum of firing rate the same number of latents of each kind, no two of one family: what
orphans and others differ by is then not how often they fire, and every latent is a feature of its
own.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import optimize, stats

from reseed.errors import SpecError
from reseed.seeds import generator
from reseed.spec.interpretation import KINDS
from reseed.stability.shares import quantile_edges

_COLUMNS = ("run", "latent", "alive", "firing_rate", "n_matched", "n_seeds", "family")

STRATA = 5
"""Of firing rate, at most."""


def live_kinds(latents: pl.DataFrame) -> pl.DataFrame:
    """The live latents of one group of runs with their kind and their stratum of firing rate.

    Dead latents are left out: they have no text that could be explained. Strata hold equal numbers
    of live latents; latents that fire equally often are in one stratum.

    Args:
        latents: the table of docs/latent_table.md, of one group.

    Returns:
        run, latent, kind, stratum (from 0, fires least), firing_rate, n_matched, n_seeds, family
        (null for an orphan), unit. Latents of one unit are one feature: a family, or one latent.

    Raises:
        SpecError: if a column is missing, there are several groups, only one run, or no live
            latent.
    """
    _check(latents)
    live = latents.filter(pl.col("alive") & pl.col("n_matched").is_not_null())
    if not len(live):
        raise SpecError(f"none of the {len(latents):,} latents fires on held-out text")
    rates = live["firing_rate"].to_numpy()
    edges = quantile_edges(rates, STRATA)[1:-1]
    kind = (
        pl.when(pl.col("n_matched") == 0)
        .then(pl.lit("orphan"))
        .when(pl.col("n_matched") >= pl.col("n_seeds") - 1)
        .then(pl.lit("reproducible"))
        .otherwise(pl.lit("partly"))
    )
    own = pl.format("{}#{}", "run", "latent")
    family = pl.format("family {}", pl.col("family"))
    return live.select(
        "run",
        "latent",
        kind.alias("kind"),
        pl.Series("stratum", np.searchsorted(edges, rates, side="left"), dtype=pl.Int64),
        "firing_rate",
        "n_matched",
        "n_seeds",
        "family",
        pl.when(pl.col("family").is_null()).then(own).otherwise(family).alias("unit"),
    ).sort("run", "latent")


def _check(latents: pl.DataFrame) -> None:
    missing = [name for name in _COLUMNS if name not in latents.columns]
    if missing:
        raise SpecError(
            f"the table of latents lacks {', '.join(missing)}; make it anew with `reseed run`"
        )
    if "group" in latents.columns and latents["group"].n_unique() > 1:
        groups = ", ".join(latents["group"].unique().sort().to_list())
        raise SpecError(
            f"the table has latents of several groups ({groups}); how often a latent was found "
            "means something else in each. Filter one."
        )
    most = latents["n_seeds"].max()
    if most is None or int(most) < 2:  # pyright: ignore[reportArgumentType]
        raise SpecError(
            "there is one independent run, so nothing is known of what comes back; add seeds"
        )


DIFFERENCE = 0.08
"""In balanced accuracy: orphans .648, all others about .73 (arXiv 2501.16615)."""

SPREAD = 0.14
"""Standard deviation of balanced accuracy over latents; the quartiles .615, .71, .798 of 31,138
scored latents (arXiv 2501.16615) are those of a normal distribution of .136."""

_MOST = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePlan:
    """Which latents to explain, and what their scores will be able to show."""

    latents: pl.DataFrame
    """run, latent, kind, stratum, firing_rate, n_matched, n_seeds, family, unit"""
    cells: pl.DataFrame
    """kind, stratum, rate_lo, rate_hi, live (latents), features (families count once), sampled"""
    wanted: int
    """latents of each kind"""
    power: float
    """of seeing the difference at the 5 % level, two-sided, with the latents that there are"""
    detectable: float | None
    """smallest difference seen with a power of 80 %; None with fewer than two of a kind"""
    says: str


def power_of(first: int, second: int, difference: float, sd: float, alpha: float = 0.05) -> float:
    """Power of the two-sided t test of a difference between two groups of so many latents.

    Returns:
        0 with fewer than two in a group.
    """
    if min(first, second) < 2:
        return 0.0
    freedom = first + second - 2
    shift = abs(difference) / (sd * np.sqrt(1 / first + 1 / second))
    edge = stats.t.ppf(1 - alpha / 2, freedom)
    # SciPy's lower tail is NaN where it is far below 1e-16, from shifts of 8 or so
    lower = np.nan_to_num(stats.nct.cdf(-edge, freedom, shift))
    return float(stats.nct.sf(edge, freedom, shift) + lower)


def latents_needed(difference: float, sd: float, power: float = 0.8) -> int:
    """Latents of each kind with which a difference is seen with this power.

    Raises:
        SpecError: if a number is not positive, or more than 100,000 would be needed.
    """
    _check_numbers(difference, sd, power)
    high = 4
    while power_of(high, high, difference, sd) < power:
        high *= 2
        if high > _MOST:
            raise SpecError(
                f"a difference of {difference} at a deviation of {sd} takes more than {_MOST:,} "
                "latents of each kind; ask for a larger one"
            )
    numbers = range(high + 1)
    return bisect_left(numbers, power, lo=2, key=lambda n: power_of(n, n, difference, sd))


def _check_numbers(difference: float, sd: float, power: float) -> None:
    if not (0 < difference < np.inf and 0 < sd < np.inf and 0 < power < 1):
        raise SpecError(
            f"difference = {difference}, sd = {sd}, power = {power}: the first two must be above 0 "
            "and the power between 0 and 1"
        )


def sample_latents(
    latents: pl.DataFrame,
    per_group: int | None = None,
    seed: int = 0,
    *,
    difference: float = DIFFERENCE,
    sd: float = SPREAD,
    power: float = 0.8,
) -> SamplePlan:
    """Choose latents to explain: a sample stratified by firing rate, sized by power.

    A stratum gives each kind as many latents as orphans and the commoner other kind both have;
    what one stratum lacks the others make up for.

    Args:
        latents: the table of docs/latent_table.md, of one group of runs.
        per_group: latents of each kind; left out, as many as the power asks for.
        seed: of the choice.
        difference: that is to be seen.
        sd: of the score over latents, from a pilot if there is one.
        power: wanted.

    Raises:
        SpecError: if the table lacks a column, has several groups or one run, or a number is wrong.
    """
    _check_numbers(difference, sd, power)
    wanted = latents_needed(difference, sd, power) if per_group is None else per_group
    if wanted < 1:
        raise SpecError(f"{wanted} latents of each kind; at least 1 is needed")
    every = live_kinds(latents)
    order = generator("sample-latents", seed).permutation(len(every))
    features = every[order].unique("unit", keep="first", maintain_order=True)
    quotas = _quotas(features, wanted)
    chosen = pl.concat(
        features.filter((pl.col("kind") == kind) & (pl.col("stratum") == stratum)).head(quota)
        for stratum, quota in quotas.items()
        for kind in KINDS
    ).sort("run", "latent")
    count = {kind: int((chosen["kind"] == kind).sum()) for kind in KINDS}
    orphans, others = count["orphan"], count["reproducible"]
    named = ", ".join(f"{count[kind]} {kind}" for kind in KINDS)
    parts = [f"{sum(count.values())} latents to explain ({named}), equal in firing rate."]
    reached, detectable = power_of(orphans, others, difference, sd), None
    if min(orphans, others) < 2:
        parts.append(
            "Too few orphans or reproducible latents to compare them; add runs or latents."
        )
    else:
        high = sd
        while power_of(orphans, others, high, sd) < 0.8:
            high *= 2
        detectable = float(
            optimize.brentq(lambda d: power_of(orphans, others, d, sd) - 0.8, 0.0, high)
        )
        parts.append(
            f"If orphans score {difference:.2f} lower than reproducible latents and scores vary by "
            f"{sd:.2f}, that is seen with a power of {reached:.0%}; a power of 80 % reaches down "
            f"to {detectable:.3f}."
        )
        if min(orphans, others) < wanted:
            parts.append(
                f"{wanted} of each kind were wanted; there are no more at equal firing rates."
            )
    return SamplePlan(
        latents=chosen,
        cells=_cells(every, features, chosen),
        wanted=wanted,
        power=reached,
        detectable=detectable,
        says=" ".join(parts),
    )


def partners(plan: SamplePlan, latents: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """One more member of each family in the sample, of another run, to compare explanations with.

    Returns:
        The columns of `plan.latents`; no row for orphans.
    """
    every = live_kinds(latents)
    members = plan.latents.drop_nulls("family").select("family", pl.col("run").alias("not_run"))
    order = generator("sample-partners", seed).permutation(len(every))
    return (
        every[order]
        .join(members, on="family", how="inner", maintain_order="left")
        .filter(pl.col("run") != pl.col("not_run"))
        .unique("family", keep="first", maintain_order=True)
        .select(plan.latents.columns)
        .sort("run", "latent")
    )


def _quotas(features: pl.DataFrame, wanted: int) -> dict[int, int]:
    """Latents of each kind that each stratum gives."""
    there = {
        (kind, stratum): n
        for kind, stratum, n in features.group_by("kind", "stratum").len().iter_rows()
    }
    numbers = sorted(features["stratum"].unique().to_list())
    counts = {s: [there.get((kind, s), 0) for kind in KINDS] for s in numbers}
    room_of = {
        stratum: min(orphan, max(reproducible, partly))
        for stratum, (reproducible, partly, orphan) in counts.items()
    }
    if not any(room_of.values()):  # nothing to compare: then as many of each as there are
        room_of = {stratum: max(each) for stratum, each in counts.items()}
    quotas = dict.fromkeys(numbers, 0)
    left = wanted
    while left > 0 and (able := [s for s in numbers if quotas[s] < room_of[s]]):
        for stratum in able[:left]:
            quotas[stratum] += 1
        left -= len(able[:left])
    return quotas


def _cells(every: pl.DataFrame, features: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame:
    keys = ["kind", "stratum"]
    live, known, sampled = (
        table.group_by(keys).agg(pl.len().cast(pl.Int64).alias(name))
        for name, table in (("live", every), ("features", features), ("sampled", chosen))
    )
    rates = every.group_by("stratum").agg(
        pl.col("firing_rate").min().alias("rate_lo"), pl.col("firing_rate").max().alias("rate_hi")
    )
    return (
        live.join(known, on=keys, how="left")
        .join(sampled, on=keys, how="left")
        .join(rates, on="stratum")
        .with_columns(pl.col("features", "sampled").fill_null(0))
        .select(*keys, "rate_lo", "rate_hi", "live", "features", "sampled")
        .sort(pl.col("kind").replace_strict({k: n for n, k in enumerate(KINDS)}), "stratum")
    )
