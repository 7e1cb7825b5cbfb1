"""The report of a study as one HTML file that works offline. Reads the store, computes nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from reseed.report.html import Html, Inside, chooser, document, table, tag
from reseed.report.study import headline
from reseed.report.study.factors import factors_data, factors_section
from reseed.report.study.figures import group_data
from reseed.report.study.group import group_section
from reseed.report.study.reading import (
    GroupFacts,
    read_cells,
    read_failures,
    read_group,
    read_spec_text,
    read_summary,
)
from reseed.store import Store

_WORDS = {
    "Latent": "one unit of a sparse autoencoder (SAE): an encoder row that decides when it fires "
    "and a decoder row that it writes.",
    "Shared": "a latent is shared with another run if the best one-to-one assignment of decoder "
    "rows and that of encoder rows give it the same partner, and both cosines reach tau.",
    "Tau": "the cosine that a partner must reach; the curve over tau shows all others.",
    "Chance (null)": "the same measurement on random dictionaries with the mean and covariance of "
    "the real ones: what their shared shape alone would give.",
    "Untrained pair": "the same measurement on the same SAEs before training.",
    "Chance-corrected": "the share above chance, as a part of what there is above chance.",
    "Live, dead, dense": "live fired at least once on the held-out tokens, dead never did, dense "
    "fired on more of them than the study's dense_rate (a tenth unless changed).",
    "N of M": "in how many of all M runs a latent is found, counting its own.",
    "Family": "latents of several runs, at most one of each, that are one feature.",
    "Orphan": "a latent without a family.",
    "FVU": "fraction of variance unexplained by the reconstruction: 0 is perfect, 1 is no better "
    "than the mean.",
    "L0": "latents that fire on a token, on average.",
}


def glossary() -> Html:
    """Each word of the page in one sentence."""
    words = (tag("div", tag("dt", word), tag("dd", meaning)) for word, meaning in _WORDS.items())
    return tag("section", tag("h2", "Words"), tag("dl", *words, class_="glossary"))


def left_out(summary: dict[str, Any], failures: list[tuple[str, str]]) -> Html | None:
    """The runs that failed or are missing, with the reason."""
    rows = [(run, "failed", reason) for run, reason in failures]
    rows += [(run, "missing", "not done yet") for run in summary["runs"]["missing"]]
    if not rows:
        return None
    cells = [
        [
            tag("th", tag("code", run), scope="row"),
            tag("td", state),
            tag("td", reason, class_="word"),
        ]
        for run, state, reason in rows
    ]
    head: list[Inside] = ["run", "state", "reason"]
    shown = table(head, cells, caption="Runs that the numbers lack")
    return tag("section", tag("h2", "Runs left out"), shown)


def provenance(summary: dict[str, Any], spec: str | None) -> Html:
    """Version, subject, sites, tokens, and the study's TOML."""
    activations = summary["activations"]
    subject = json.dumps(summary["subject"], ensure_ascii=False)
    sites = ", ".join(
        f"{site} ({width:,} dimensions)" for site, width in activations["sites"].items()
    )
    facts: list[tuple[str, Inside]] = [
        ("reseed", summary["reseed"]),
        ("study", summary["study"]),
        ("subject", tag("code", subject)),
        ("sites", sites),
        ("tokens to train on", f"{activations['training_tokens']:,}"),
        ("tokens held out", f"{activations['held_out_tokens']:,}"),
    ]
    if "change_from_float32" in activations:
        change = activations["change_from_float32"]
        errors = "; ".join(
            f"{site}: {one['relative_rmse']:.2%}, smallest cosine {one['smallest_cosine']:.4f}"
            for site, one in change["sites"].items()
        )
        facts.append((f"change by {change['dtype']} (relative RMSE)", errors))
    listed = tag("dl", *(tag("div", tag("dt", k), tag("dd", v)) for k, v in facts), class_="facts")
    toml = (
        tag("details", tag("summary", "The study's TOML"), tag("pre", spec, tabindex=0))
        if spec
        else tag("p", "The study was not made from a file.", class_="caption")
    )
    return tag("section", tag("h2", "Where this comes from"), listed, toml)


def write_report(store: Store, name: str) -> None:
    """Write the page of a study; equal stores give equal bytes.

    Args:
        store: of the study, which has come as far as `summary.json`.
        name: of the file to write.

    Raises:
        StoreError: if a piece is missing or damaged, or the disk is full.
    """
    summary = read_summary(store)
    groups = [read_group(store, one) for one in summary["groups"]]
    failures = read_failures(store, summary)
    body = _body(summary, groups, failures, read_spec_text(store))
    data = [group_data(group) for group in groups]
    if data:  # what concerns all groups travels with the first
        data[0] |= factors_data(summary, read_cells(store, summary))
    store.write_bytes(name, document(f"{summary['study']} · reseed", body, data).encode())


def _body(
    summary: dict[str, Any],
    groups: Sequence[GroupFacts],
    failures: list[tuple[str, str]],
    spec: str | None,
) -> Html:
    top = tag(
        "header",
        tag("p", "Which latents come back?", class_="kicker"),
        tag("h1", summary["study"]),
        headline.verdict(summary),
    )
    foot = tag("footer", glossary(), provenance(summary, spec))
    parts = [
        headline.warnings(summary, failures),
        _headline(summary, groups),
        factors_section(summary),
        _details(groups),
    ]
    return tag("main", top, *parts, left_out(summary, failures), foot)


def _headline(summary: dict[str, Any], groups: Sequence[GroupFacts]) -> Html | None:
    if not groups:
        return None
    forest = None
    if sum(group.paired for group in groups) > 1:
        caption = (
            "Dots are shares with their 95% interval; the diamond is chance, the cross the "
            "untrained pair. What lies to the right of both came back."
        )
        plot = tag("div", class_="plot", data_plot="forest", role="img", aria_label="Shared shares")
        legend = tag("div", class_="legend")
        forest = tag("figure", plot, legend, tag("figcaption", caption))
    found = summary["groups"]
    tables = [
        headline.shares_table(found),
        headline.training_table(found, summary["training"]),
        headline.reading(found),
    ]
    return tag("section", tag("h2", "Headline"), forest, *tables)


def _details(groups: Sequence[GroupFacts]) -> Html:
    sections = [group_section(group, number) for number, group in enumerate(groups)]
    return tag("div", chooser([group.label for group in groups], "SAE"), *sections, id="details")
