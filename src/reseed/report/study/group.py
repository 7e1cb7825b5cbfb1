"""The part of the page about one group of runs."""

from __future__ import annotations

from typing import Any

from reseed.report.html import Html, Inside, choice, figure, join, pair, table, tag
from reseed.report.numbers import NONE, count, percent, span
from reseed.report.study import over_seeds
from reseed.report.study.cards import cards, measures_table
from reseed.report.study.figures import POINTS, STEPS, stride
from reseed.report.study.interpretation import interpretation_section
from reseed.report.study.reading import GroupFacts

_STRATA = ("all", "live", "dead", "dense")


def group_section(group: GroupFacts, number: int) -> Html:
    """All figures, tables and cards of a group; figures are drawn when the section is shown."""
    if group.paired:
        parts = [
            _cosines(),
            _shares(group),
            over_seeds.by_rate(group),
            _n_of_m(group),
            over_seeds.unseen(group),
            over_seeds.origins(group),
            _frequency(group),
            _trend(group),
            _training(group),
            _measures(group),
            _runs(group),
            interpretation_section(group.interpretation),
            cards(group),
        ]
    else:
        alone = "One run only: there is nothing to compare. What was trained is below."
        parts = [tag("p", alone, class_="empty"), _training(group), _runs(group)]
    title = tag("h2", group.label)
    return tag("section", title, *parts, class_="group", data_group=number, hidden=number > 0)


def _cosines() -> Html:
    caption = (
        "How similar each latent is to its partner in another run. A hill near 1 that neither "
        "chance nor the untrained pair has is what comes back; bins are 0.02 wide, counts are "
        "means over pairs of runs, cosines below -0.5 stand at -0.5."
    )
    return pair(
        figure("cosines", "Matched cosines, decoder", caption, data_view="decoder"),
        figure(
            "cosines",
            "Matched cosines, encoder",
            "The same for encoder rows under their own assignment.",
            data_view="encoder",
        ),
    )


def _shares(group: GroupFacts) -> Html:
    table_ = group.tables["shares"]
    measures = table_["measure"].unique(maintain_order=True).to_list()
    strata = [s for s in _STRATA if s in set(table_["stratum"])]
    controls = tag(
        "div",
        choice("measure", "measure", measures),
        choice("stratum", "latents", strata),
        class_="controls",
    )
    caption = (
        "Share of latents that come back if at least this cosine is asked for; the dotted mark is "
        "tau. Believe the part of the blue line that lies clear of chance. Bands: 95% interval "
        "over runs (blue), range of the draws (chance). Dead and dense latents are too few for a "
        "null."
    )
    return figure("shares", "Share over tau", caption, controls)


def _n_of_m(group: GroupFacts) -> Html:
    strata = [s for s in _STRATA if s in set(group.tables["n_of_m"]["stratum"])]
    controls = tag("div", choice("stratum", "latents", strata), class_="controls")
    caption = (
        "Seen from a run: how many latents are found in exactly n of all runs, itself included"
        f"{over_seeds.of_independent(group)}. Bars above the diamonds at both ends mean that some "
        "latents nearly always come back and others never do; the diamonds are what independent "
        "luck gives if all latents are equally reproducible, the circles if their reproducibility "
        "follows a beta distribution."
    )
    shown = figure("n-of-m", "Found in n of M runs", caption, controls)
    return pair(shown, _families(group))


def _families(group: GroupFacts) -> Html:
    found = group.summary["families"]
    sizes = [
        tag("li", tag("b", count(number)), f" famil{'y' if number == 1 else 'ies'} of {size} runs")
        for size, number in sorted(found["by_size"].items(), key=lambda item: -int(item[0]))
    ]
    total = f" of {count(len(group.tables['latents']))} latents of all runs are orphans"
    orphans = tag("li", tag("b", count(found["orphans"])), total)
    words: Inside = "No three runs share a chain of latents, so closure cannot be told."
    if found["triangle_closure"] is not None:
        words = join(
            "If A is shared with B and B with C, then A is shared with C in ",
            tag("b", percent(found["triangle_closure"])),
            f" of {count(found['triangle_chains'])} chains over three runs: the higher, the less "
            "the pairwise matches contradict each other.",
        )
    if over_seeds.of_independent(group):
        words = join(
            words,
            " Families join all pairs of runs, those that share a seed too: a family can be one "
            "start, trained several times.",
        )
    return tag(
        "div", tag("h3", "Families"), tag("ul", *sizes, orphans, class_="plain"), tag("p", words),
        class_="words",
    )  # fmt: skip


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
    points = len(group.tables["trend"].filter(measure="shared"))
    caption = (
        "The shared share at every snapshot. While this line still rises, the headline number "
        "is a point on a curve and not a property of the SAE."
    )
    if points < 3:
        caption += " Only start and end were kept; `training.snapshots` adds points between."
    return figure("trend", "Shared share over training", caption)


def _training(group: GroupFacts) -> Html:
    steps = max(len(run.metrics) for run in group.runs)
    every = stride(steps, STEPS)
    thinned = f" One step in {every} is drawn." if every > 1 else ""
    silent = sorted({run.spec["sae"].get("dead_after") for run in group.runs} - {None})
    after = f" for {span(silent)} tokens" if silent else ""
    return pair(
        figure(
            "training",
            "Training: unexplained variance",
            "FVU of each training batch, lower is better; runs that lie on each other learnt "
            "equally well." + thinned,
            data_metric="fvu",
        ),
        figure(
            "training",
            "Training: dead share",
            f"Share of latents that have not fired{after} of training; it stays 0 until that many "
            "were seen, so the dead counts in the table, from held-out tokens, can differ."
            + thinned,
            data_metric="dead",
        ),
    )


def _measures(group: GroupFacts) -> Html:
    title = tag("h3", "Other measures of agreement")
    return tag("section", title, measures_table(group.summary["headline"]))


def _runs(group: GroupFacts) -> Html:
    live = dict(zip(group.summary["runs"], group.summary["counts"]["live"], strict=True))
    rows = [_run_row(group, place, live) for place in range(len(group.runs))]
    head: list[Inside] = [
        "run", "init seed", "data seed", "tokens", "FVU, held out", "L0", "live latents", "state",
    ]  # fmt: skip
    shown = table(head, rows, caption="Runs of this group", class_="numbers")
    return tag("section", tag("h3", "Runs"), shown)


def _run_row(group: GroupFacts, place: int, live: dict[str, Any]) -> list[Html]:
    run = group.runs[place]
    tokens = run.metrics["tokens"]
    cells = [
        count(run.spec["init_seed"]),
        count(run.spec["data_seed"]),
        count(tokens[-1]) if len(tokens) else NONE,
        f"{run.reconstruction['fvu']:.4g}",
        f"{run.reconstruction['l0']:.4g}",
        count(live[run.id]),
        "done",
    ]
    name = tag("th", tag("code", run.id), scope="row")
    return [name, *(tag("td", cell) for cell in cells)]
