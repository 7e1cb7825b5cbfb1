"""The part of a study's page about one group of runs: figures, their data, tables."""

from __future__ import annotations

from typing import Any

import polars as pl

from reseed.matching.measures import EQUAL, SHARED
from reseed.report import over_seeds
from reseed.report.html import Html, Inside, join, table, tag
from reseed.report.latents import cards, explanations
from reseed.report.numbers import NONE, columns, count, short, span
from reseed.report.parts import (
    agreement_data,
    cosine_figures,
    figure,
    pair,
    share_figure,
    shown_measures,
)
from reseed.report.reading import GroupFacts, RunFacts
from reseed.spec.statistics import Headline
from reseed.spec.summary import StudyGroup

POINTS = 6000
"""Most points of a scatter plot."""

STEPS = 400
"""Most points of a training curve."""


def stride(rows: int, most: int) -> int:
    """Every how-many-th row is kept so that no more than `most` remain."""
    return max(1, -(-rows // most))


def group_parts(group: GroupFacts) -> list[Html | None]:
    """All figures, tables and cards of a group."""
    headline = group.summary.headline
    if headline is None:
        alone = "One run only: there is nothing to compare. What was trained is below."
        return [tag("p", alone, class_="empty"), _training(group), _runs(group)]
    return [
        cosine_figures(
            "How similar each latent is to its partner in another run, in bins of 0.02, mean over "
            "pairs of runs. What came back is the hill near 1 that neither chance nor the "
            "untrained pair has. Cosines below -0.5 are counted at -0.5."
        ),
        share_figure(
            group.tables["shares"],
            "Share of latents that come back if the cosine must reach this value; the dotted mark "
            "is the study's tau. Trust the blue line where it lies clear of chance. Bands: 95% "
            "interval over runs (blue), range of the draws (chance). Dead and dense latents are "
            "too few for a null.",
        ),
        over_seeds.by_rate(),
        pair(over_seeds.n_of_m(group), over_seeds.families(group)),
        over_seeds.unseen(group),
        over_seeds.origins(group),
        _frequency(group),
        _trend(group),
        _training(group),
        _measures(headline),
        _runs(group),
        explanations(group.interpretation),
        cards(group),
    ]


def group_data(group: GroupFacts) -> dict[str, Any]:
    """Everything that is drawn of a group."""
    out: dict[str, Any] = {
        "label": group.label,
        "runs": [run.seeds for run in group.runs],
        "training": [_training_data(run) for run in group.runs],
    }
    tables, headline = group.tables, group.summary.headline
    if headline is None:
        return out
    share = headline.shared["all"]
    null = share.null_covariance
    shared = {
        "value": share.value,
        "interval": share.interval_95,
        "null": null and short([null.mean, null.lo, null.hi]),
        "untrained": share.null_untrained,
    }
    names = ("rate_lo", "rate_hi", "latents", "recurrence", "max_decoder_cos")
    trend = tables["trend"].filter(measure=SHARED.id)
    return out | {
        **agreement_data(shared, headline.tau, tables["cosines"], tables["shares"]),
        **over_seeds.data(group.summary, tables),
        "frequency": columns(tables["frequency"], *names),
        "latents": _latents_data(tables["latents"], group.summary),
        "trend": columns(trend, "tokens", "value", "lo", "hi"),
    }


def _latents_data(latents: pl.DataFrame, summary: StudyGroup) -> dict[str, Any]:
    """Live latents by how many other runs they are found in; every stride-th of them."""
    live = latents.filter("alive")
    place = {run: number for number, run in enumerate(summary.runs)}
    kept = live.gather_every(stride(len(live), POINTS)).with_columns(
        pl.col("run").replace_strict(place, return_dtype=pl.Int64)
    )
    names = ("firing_rate", "max_decoder_cos", "run", "latent")
    parts = kept.sort("n_matched", maintain_order=True).partition_by(
        "n_matched", maintain_order=True
    )
    return {
        "others": summary.independent.trials if summary.independent else 0,
        "parts": [{"n": int(p["n_matched"][0]), **columns(p, *names)} for p in parts],
    }


def _training_data(run: RunFacts) -> dict[str, list[Any]]:
    last = run.metrics.tail(1)
    kept = run.metrics.gather_every(stride(len(run.metrics), STEPS))
    if len(kept) and kept["step"][-1] != last["step"][0]:
        kept = pl.concat([kept, last])
    return columns(kept, "tokens", "fvu", "dead")


def _frequency(group: GroupFacts) -> Html:
    live = len(group.tables["latents"].filter("alive"))
    every = stride(live, POINTS)
    which = f"one in {every} of the {live:,} live ones" if every > 1 else f"{live:,} live ones"
    caption = (
        f"Each point is a latent ({which}, all runs): how often it fires against its best decoder "
        "cosine in the other runs, averaged over them. Lines are means over tenths of the latents "
        "by firing rate; where they rise, what fires more comes back more."
    )
    return figure("frequency", "Firing rate and reproducibility", caption, height="tall")


def _trend(group: GroupFacts) -> Html:
    points = len(group.tables["trend"].filter(measure=SHARED.id))
    caption = (
        "The share at tau at every snapshot. While this line still rises, longer training would "
        "give a higher share."
    )
    if points < 3:
        caption += (
            " Only the start and the end were kept; `training.snapshots` adds points in between."
        )
    return figure("trend", "Shared at tau over training", caption)


def _training(group: GroupFacts) -> Html:
    every = stride(max(len(run.metrics) for run in group.runs), STEPS)
    thinned = f" One step in {every} is drawn." if every > 1 else ""
    silent = sorted({run.spec["sae"].get("dead_after") for run in group.runs} - {None})
    after = f"{span(silent)} tokens" if silent else "a number of tokens"
    fvu = (
        "FVU of each training batch; lower is better. Runs whose lines lie on each other learnt "
        f"equally well.{thinned}"
    )
    dead = (
        f"Share of latents that have not fired for {after} of training; it is 0 until that many "
        "were seen. The dead counts of the table come from held-out tokens and can differ."
        f"{thinned}"
    )
    return pair(
        figure("training", "Training: unexplained variance", fvu, data_metric="fvu"),
        figure("training", "Training: dead share", dead, data_metric="dead"),
    )


def _measures(headline: Headline) -> Html:
    """One row for each measure: value, interval and chance, on all and on live latents."""
    rows: list[dict[str, Inside]] = []
    for measure in shown_measures():
        strata = headline.of(measure.id)
        if "all" not in strata:
            continue
        number, live = strata["all"], strata.get("live")
        nulls = [part and part.null_covariance for part in (number, live)]
        chance, chance_live = (measure.number(n.mean) if n else NONE for n in nulls)
        rows.append(
            {
                **measure.row(),
                "value": measure.number(number.value),
                "95% interval": measure.interval(number.interval_95),
                "chance": chance,
                "untrained pair": measure.number(number.null_untrained),
                "chance-corrected": measure.number(number.chance_corrected),
                "live latents": measure.number(live.value) if live else NONE,
                "chance, live": chance_live,
            }
        )
    shown = table(
        rows,
        caption="The same runs under every measure",
        words=("what counts",),
        class_="numbers measures",
    )
    title = tag("h3", "Other measures of agreement")
    return tag("section", title, shown, _about_equal(headline))


def _about_equal(headline: Headline) -> Html | None:
    """Why a measure without a threshold can be perfect before anything was learnt."""
    untrained = headline.equal["all"].null_untrained
    if untrained is None or untrained < 0.9995:
        return None
    name = tag("code", EQUAL.id)
    words = join(
        "Why ", name, " is 100% for an untrained pair: in this recipe encoder and decoder of a "
        "latent start parallel, so both assignments see the same cosines and choose the same "
        "partners. That is no agreement about features, and a high ", name, " alone shows "
        "nothing.",
    )  # fmt: skip
    return tag("p", words, class_="caption")


def _runs(group: GroupFacts) -> Html:
    live = group.summary.counts.live
    rows: list[dict[str, Inside]] = [
        {
            "run": tag("code", run.id),
            "init seed": count(run.spec["init_seed"]),
            "data seed": count(run.spec["data_seed"]),
            "tokens": count(run.metrics["tokens"][-1]) if len(run.metrics) else NONE,
            "FVU, held out": f"{run.reconstruction['fvu']:.4g}",
            "L0": f"{run.reconstruction['l0']:.4g}",
            "live latents": count(live[place]),
        }
        for place, run in enumerate(group.runs)
    ]
    return tag("section", tag("h3", "Runs"), table(rows, caption="Runs of this group"))
