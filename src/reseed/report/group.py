"""The part of a study's page about one group of runs: figures, tables, cards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from reseed.matching.measures import EQUAL, SHARED
from reseed.report.facts import GroupFacts
from reseed.report.figures import POINTS, STEPS, stride
from reseed.report.function import what_they_do
from reseed.report.html import (
    Html,
    Inside,
    count,
    decimals,
    interval,
    join,
    percent,
    span,
    table,
    tag,
    text,
)
from reseed.report.latents.cards import cards, explanations
from reseed.report.latents.listing import latents_of
from reseed.report.parts import agreement_figures, choices, figure, measures_table, note, pair
from reseed.spec.statistics import FeatureCounts, Headline, OffsetPowerLaw

_CURVE = 4
"""Runs from which on a curve over runs says something; with the start, three snapshots do."""


def group_parts(group: GroupFacts, rows_are: str) -> list[Html | None]:
    """All figures, tables and cards of a group; `rows_are` tokens, or what its subject has."""
    headline = group.summary.headline
    if headline is None:
        return [tag("p", text("one-run"), class_="empty"), _training(group), _runs(group)]
    seeds = [run.seeds for run in group.runs]
    places = group.listing is not None and bool(group.listing.places)
    return [
        latents_of(group.tables["latents"], seeds, texts=places),
        cards(group, rows_are),
        _coherence(group),
        explanations(group.interpretation),
        *agreement_figures(group.tables["shares"]),
        figure("strata"),
        *_counts(group),
        _unseen(group),
        _origins(group),
        what_they_do(group.summary.contributions, group.summary.substitution),
        _frequency(group),
        _trend(group),
        _training(group),
        _measures(headline, dead=any(group.summary.counts.dead)),
        _runs(group),
    ]


def _coherence(group: GroupFacts) -> Html | None:
    """Whether latents fire on neighbouring places; None where rows stand in no map."""
    latents = group.tables["latents"]
    if "coherence" not in latents.columns:
        return None
    known = latents.filter("alive").drop_nulls("coherence")
    if not len(known):
        return None
    shares = [percent(float(np.median(known[name]))) for name in ("coherence", "coherence_null")]
    above = known.filter(pl.col("coherence") > pl.col("coherence_null"))
    words = {"share": shares[0], "chance": shares[1], "above": percent(len(above) / len(known))}
    return note(text("coherence", **words))


def _counts(group: GroupFacts) -> list[Html | None]:
    """What counts of runs say: nothing that the share does not, where there is one other run."""
    independent = group.summary.independent
    if independent is None or independent.trials < 2:
        return [_families(group)]
    reproducibility = pair(figure("recurrence"), figure("posterior"))
    return [reproducibility, pair(_n_of_m(group), _families(group))]


# -- what all runs have in common ----------------------------------------------------------------


def _which_pairs(group: GroupFacts) -> str:
    """How runs are counted where some share a seed; empty if all pairs count."""
    independent = group.summary.independent
    if independent is None or independent.pairs == group.summary.counts.pairs:
        return ""
    return f"; only runs that {independent.they} count"


def _n_of_m(group: GroupFacts) -> Html:
    strata = group.tables["n_of_m"]["stratum"].unique(maintain_order=True).to_list()
    lists = choices(stratum=("latents", strata))
    return figure("n-of-m", lists, pairs=_which_pairs(group))


def _families(group: GroupFacts) -> Html | None:
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
    words = text("no-chains")
    if summary.triangle_closure is not None:
        closure = tag("b", percent(summary.triangle_closure))
        words = text("chains", closure=closure, chains=count(summary.triangle_chains))
    if _which_pairs(group):
        words = join(words, " ", text("families-of-all"))
    members = tag("ul", *sizes, orphans, class_="plain")
    return tag("div", tag("h3", "Families"), members, tag("p", words), class_="words")


def _unseen(group: GroupFacts) -> Html | None:
    """Only in one run, and how many features there are to find; too few runs are no curve."""
    features, law = group.summary.unseen, (group.summary.only_in_one or {}).get("all")
    if features is None or features.runs < _CURVE:
        return None
    return pair(
        figure("only-in-one", pairs=_which_pairs(group), law=_law(law)),
        figure("accumulation", estimates=_estimates(features)),
    )


def _law(law: OffsetPowerLaw | None) -> Html:
    if law is None or law.c is None:
        return text("no-law")
    ends = ""
    if law.error is not None and law.error_beta_binomial is not None:
        ends = text("foretold", law=percent(law.error), smooth=percent(law.error_beta_binomial))
    power = tag("sup", f"{law.b:.3g}")
    return text("law", a=f"{law.a:.3g}", b=power, c=f"{law.c:.3g}", foretold=ends)


def _estimates(unseen: FeatureCounts) -> Html:
    names = ("observed", "runs", "once", "twice", "chao2", "ice")
    words = text("unseen", **{name: count(getattr(unseen, name)) for name in names})
    if unseen.at_least is not None:
        words = join(words, " ", text("at-least", least=count(unseen.at_least)))
    if not unseen.warnings:
        return words
    items = " ".join(warning[:1].upper() + warning[1:] for warning in unseen.warnings)
    return join(words, " ", tag("b", "Do not rely on it. "), items)


def _origins(group: GroupFacts) -> Html | None:
    """Variance components; None unless both seeds vary."""
    components = group.summary.components
    if components is None:
        return None
    rows: list[dict[str, Inside]] = [
        {
            "two runs that": kind,
            "pairs": count(agreement.pairs),
            "shared": percent(agreement.shared.value),
            "95% interval": interval(agreement.shared.interval_95),
            "mean cosine": decimals(agreement.pw_mcc.value),
            "untrained pair": percent(agreement.untrained.value),
            "partner of the same number": percent(agreement.same_number.value),
        }
        for kind, agreement in components.classes.items()
    ]
    moved = group.summary.distance_from_init
    mean, low, high = (decimals(end) for end in (moved.mean, moved.lo, moved.hi))
    return join(
        figure("components"),
        table(rows, caption="Agreement by what two runs share, live latents"),
        None if moved.mean is None else note(text("distance", mean=mean, lo=low, hi=high)),
    )


# -- latents, training, measures, runs -----------------------------------------------------------


def _frequency(group: GroupFacts) -> Html:
    live = len(group.tables["latents"].filter("alive"))
    every = stride(live, POINTS)
    which = f"one in {every} of the {live:,} live ones" if every > 1 else f"{live:,} live ones"
    return figure("frequency", height="tall", which=which)


def _trend(group: GroupFacts) -> Html | None:
    snapshots = len(group.tables["trend"].filter(measure=SHARED.id))
    return figure("trend") if snapshots >= _CURVE - 1 else None


def _training(group: GroupFacts) -> Html:
    every = stride(max(len(run.metrics) for run in group.runs), STEPS)
    thinned = f" One step in {every} is drawn." if every > 1 else ""
    silent = sorted({run.spec["sae"].get("dead_after") for run in group.runs} - {None})
    after = f"{span(silent)} tokens" if silent else "a number of tokens"
    died = any((run.metrics["dead"] > 0).any() for run in group.runs)
    # in a shorter training no latent can have been silent for so long, so that says nothing
    long = any((run.metrics["tokens"] >= max(silent, default=0)).any() for run in group.runs)
    none = join(" ", text("none-died", after=after)) if long and not died else None
    fvu = figure("training", key="fvu", data={"data_metric": "fvu"}, thinned=thinned, none=none)
    data = {"data_metric": "dead"}
    dead = figure("training", key="dead", data=data, thinned=thinned, after=after)
    return pair(fvu, dead) if died else fvu


def _measures(headline: Headline, *, dead: bool) -> Html:
    """Every measure with its interval and chance; on live latents too if some are dead."""

    def cells(measure: str, shown: Callable[[float | None], str]) -> dict[str, Inside] | None:
        strata = headline.of(measure)
        if "all" not in strata:
            return None
        number, live = strata["all"], strata.get("live")
        nulls = [part and part.null_covariance for part in (number, live)]
        chance, chance_live = (null and shown(null.mean) for null in nulls)
        return {
            "value": shown(number.value),
            "95% interval": interval(number.interval_95, shown),
            "chance": chance,
            "untrained pair": shown(number.null_untrained),
            "chance-corrected": shown(number.chance_corrected),
        } | (
            {"live latents": live and shown(live.value), "chance, live": chance_live}
            if dead
            else {}
        )

    # A measure without a threshold can be perfect before anything was learnt.
    untrained = headline.equal["all"].null_untrained
    perfect = untrained is not None and untrained >= 0.9995
    equal = note(text("equal", equal=tag("code", EQUAL.id))) if perfect else None
    return measures_table("The same runs under every measure", cells, equal)


def _runs(group: GroupFacts) -> Html:
    live = group.summary.counts.live
    rows: list[dict[str, Inside]] = [
        {
            "run": tag("code", run.id),
            "init seed": count(run.spec["init_seed"]),
            "data seed": count(run.spec["data_seed"]),
            "tokens": count(run.metrics["tokens"][-1]) if len(run.metrics) else None,
            "FVU, held out": f"{run.reconstruction['fvu']:.4g}",
            "robust FVU": decimals(run.reconstruction.get("fvu_robust")),
            "L0": f"{run.reconstruction['l0']:.4g}",
            "live latents": count(live[place]),
        }
        for place, run in enumerate(group.runs)
    ]
    return tag("section", tag("h3", "Runs"), table(rows, caption="Runs of this group"))
