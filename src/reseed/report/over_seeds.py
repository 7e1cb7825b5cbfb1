"""What a group's runs have in common: by firing rate, by number of runs, by shared seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from reseed.report.html import Html, Inside, join, table, tag
from reseed.report.numbers import columns, count, decimals, percent, percent_range, rate, short
from reseed.report.parts import choices, figure, pair
from reseed.report.reading import GroupFacts
from reseed.spec.statistics import Components, FeatureCounts, OffsetPowerLaw
from reseed.spec.summary import StudyGroup

_RATES = (
    "latents", "shared", "shared_lo", "shared_hi", "found", "found_lo", "found_hi", "untrained",
)  # fmt: skip

_PARTS = {
    "feature": "found whatever the seeds",
    "init": "goes with the init seed",
    "data": "goes with the data seed",
    "both": "goes with neither alone",
}


def data(summary: StudyGroup, tables: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """What the figures of this file are drawn from."""
    counts = ("n", "m", "latents", "share", "binomial", "beta_binomial")
    laws, unseen = summary.only_in_one or {}, summary.unseen
    only = {
        stratum: columns(rows, "m", "share", "lo", "hi", "fitted")
        | {"c": short([laws[stratum].c])[0]}
        for stratum, rows in _by_stratum(tables["only_in_one"])
    }
    return {
        "strata": _strata(summary, tables["strata"]),
        "reproducibility": _reproducibility(tables["reproducibility"]),
        "n_of_m": {s: columns(rows, *counts) for s, rows in _by_stratum(tables["n_of_m"])},
        "only_in_one": only,
        "accumulation": columns(tables["accumulation"], "m", "features")
        | {"chao2": unseen and unseen.chao2, "ice": unseen and unseen.ice},
        "components": _components(summary.components),
    }


def _by_stratum(rows: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    parts = rows.group_by(["stratum"], maintain_order=True)
    return [(str(stratum), part) for (stratum,), part in parts]


def _strata(summary: StudyGroup, strata: pl.DataFrame) -> dict[str, Any]:
    live = summary.headline.shared.get("live") if summary.headline else None
    null = live and live.null_covariance
    rows = strata.drop_nulls("shared")
    names = [
        _bin(row) if str(row["stratum"]).startswith("rate") else row["stratum"]
        for row in rows.iter_rows(named=True)
    ]
    chance = null and short([null.mean])[0]
    return columns(rows, *_RATES) | {"name": names, "null": chance}


def _bin(row: Mapping[str, Any]) -> str:
    if row["rate_hi"] == 0:
        return "dead"
    low, high = rate(row["rate_lo"]), rate(row["rate_hi"])
    return high if low == high else f"{low.removesuffix('%')}–{high}"


def _reproducibility(latents: pl.DataFrame) -> dict[str, Any]:
    """By bin of firing rate, for the number of other runs that most latents have."""
    names = ("n_matched", "latents", "recurrence_mean", "recurrence_lo", "recurrence_hi")
    most = latents.filter(pl.col("n_seeds") == pl.col("n_seeds").max())
    parts = most.drop_nulls("recurrence_mean").partition_by("rate_bin", maintain_order=True)
    bins = [{"name": _bin(p.row(0, named=True)), **columns(p, *names)} for p in parts]
    return {"trials": int(most["n_seeds"][0]) - 1 if len(most) else 0, "bins": bins}


def _components(components: Components | None) -> dict[str, Any] | None:
    if components is None:
        return None
    parts = [components.parts[name] for name in _PARTS]
    ends = [part.interval_95 or (None, None) for part in parts]
    return {
        "name": list(_PARTS.values()),
        "value": short(part.value for part in parts),
        "lo": short(low for low, _ in ends),
        "hi": short(high for _, high in ends),
    }


def _which_pairs(group: GroupFacts) -> str:
    """How runs are counted where some share a seed; empty if all pairs count."""
    independent = group.summary.independent
    if independent is None or independent.pairs == group.summary.counts.pairs:
        return ""
    return f"; only runs that {independent.they} count"


def by_rate() -> Html:
    """Shares and reproducibility by firing rate."""
    shares = (
        "Shared at tau, and matched at a false discovery rate of 5%: all, live, dead and dense "
        "latents, and fifths of the live ones by firing rate; strata that some run lacks are left "
        "out. Whiskers: 95% interval over runs; dashed: chance at tau among live latents. What "
        "comes back most may be what fires most, so compare latents of equal firing rate."
    )
    reproducibility = (
        "Latents of all runs by the probability that an independent run finds them (posterior "
        "mean), stacked by firing rate."
    )
    counts = (
        "The same probability by the number of runs that found a latent and by its firing rate: "
        "posterior mean with its 95% interval. Larger dots stand for more latents. A wide interval "
        "means that so few runs say little about one latent."
    )
    return join(
        figure("strata", "Shares by firing rate", shares),
        pair(
            figure("recurrence", "Reproducibility of the latents", reproducibility),
            figure("posterior", "What a count says about a latent", counts),
        ),
    )


def n_of_m(group: GroupFacts) -> Html:
    """In how many runs latents are found."""
    caption = (
        "How many latents of a run are found in exactly n of all M runs, itself included"
        f"{_which_pairs(group)}. Diamonds: what independent luck gives if all latents are equally "
        "reproducible; circles: if their reproducibility follows a beta distribution. Bars above "
        "the diamonds at both ends mean that some latents nearly always come back and others never "
        "do."
    )
    strata = [stratum for stratum, _ in _by_stratum(group.tables["n_of_m"])]
    return figure("n-of-m", "Found in n of M runs", caption, choices(stratum=("latents", strata)))


def families(group: GroupFacts) -> Html | None:
    """Latents of several runs that are one feature."""
    summary = group.summary.families
    if summary is None:
        return None
    sizes = [
        tag("li", tag("b", count(number)), f" famil{'y' if number == 1 else 'ies'} of {size} runs")
        for size, number in sorted(summary.by_size.items(), key=lambda item: -int(item[0]))
    ]
    total = f" of {count(len(group.tables['latents']))} latents of all runs are orphans"
    orphans = tag("li", tag("b", count(summary.orphans)), total)
    words: Inside = "No chain of shared latents runs over three runs, so closure is not known."
    if summary.triangle_closure is not None:
        words = join(
            "If A is shared with B and B with C, then A is shared with C in ",
            tag("b", percent(summary.triangle_closure)),
            f" of {count(summary.triangle_chains)} chains over three runs. The higher, the less "
            "the pairwise matches contradict each other.",
        )
    if _which_pairs(group):
        words = join(
            words,
            " Families join all pairs of runs, also those that share a seed: a family can be one "
            "initialisation, trained several times.",
        )
    members = tag("ul", *sizes, orphans, class_="plain")
    return tag("div", tag("h3", "Families"), members, tag("p", words), class_="words")


def unseen(group: GroupFacts) -> Html:
    """Only in one run, and how many features there are to find."""
    features = group.summary.unseen
    caption = join(
        "Share of a run's latents that no other of M - 1 runs has, over all choices of runs"
        f"{_which_pairs(group)}. ",
        _law((group.summary.only_in_one or {}).get("all")),
    )
    return pair(
        figure("only-in-one", "Found in one run only", caption),
        figure("accumulation", "Features found by more runs", features and _estimates(features)),
    )


def _law(law: OffsetPowerLaw | None) -> Html:
    if law is None or law.c is None:
        return join("An offset power law cannot be fitted: too few runs, or too even a fall.")
    power = tag("sup", f"{law.b:.3g}")
    words = join(f"Dashed: {law.a:.3g} M", power, f" + {law.c:.3g} (all latents); ")
    if law.c_interval_95 is None:
        return join(words, "so few independent runs give no interval of the offset.")
    low, high = law.c_interval_95
    return join(words, f"95% interval of the offset {low:.3g} to {high:.3g}.")


def _estimates(unseen: FeatureCounts) -> Html:
    words = (
        f"Families and live orphans: {count(unseen.observed)} in {unseen.runs} runs, "
        f"{count(unseen.once)} of them found once, {count(unseen.twice)} twice. The dashed "
        f"line (Chao2, {count(unseen.chao2)}) is a lower bound on what there is to find, not "
        f"the number of features; ICE gives {count(unseen.ice)}. "
    )
    if not unseen.warnings:
        return join(words)
    items = " ".join(warning[:1].upper() + warning[1:] for warning in unseen.warnings)
    return join(words, tag("b", "Do not rely on it. "), items)


def origins(group: GroupFacts) -> Html | None:
    """Variance components; None unless both seeds vary."""
    components = group.summary.components
    if components is None:
        return None
    caption = (
        "Parts of the live latents that one run finds, which add to 100%: found whatever the "
        "seeds, what sharing the init seed adds, what sharing the data seed adds, and the rest. "
        "Below 0, sharing that seed did not help. Runs of one init seed start from equal weights: "
        "if their untrained pair is 100% and their matches join latents of the same number, they "
        "may agree because they started alike."
    )
    rows: list[dict[str, Inside]] = [
        {
            "two runs that": kind,
            "pairs": count(agreement.pairs),
            "shared": percent(agreement.shared.value),
            "95% interval": percent_range(agreement.shared.interval_95),
            "mean cosine": decimals(agreement.pw_mcc.value),
            "untrained pair": percent(agreement.untrained.value),
            "partner of the same number": percent(agreement.same_number.value),
        }
        for kind, agreement in components.classes.items()
    ]
    moved = group.summary.distance_from_init
    mean, low, high = (decimals(end) for end in (moved.mean, moved.lo, moved.hi))
    distance = (
        "Mean cosine of a live latent's decoder row to where it started: "
        f"{mean} ({low} to {high} over runs)."
    )
    return join(
        figure("components", "Where disagreement comes from", caption),
        table(rows, caption="Agreement by what two runs share, live latents"),
        None if moved.mean is None else tag("p", distance, class_="caption"),
    )
