"""The report of a study as one HTML file that works offline. Reads the store, computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reseed.report import headline
from reseed.report.closing import glossary, left_out, provenance
from reseed.report.document import document
from reseed.report.factors import factors_data, factors_section
from reseed.report.figures import group_data
from reseed.report.group import group_section
from reseed.report.layout import chooser
from reseed.report.markup import Html, tag
from reseed.report.reading import (
    GroupFacts,
    read_cells,
    read_failures,
    read_group,
    read_spec_text,
    read_summary,
)
from reseed.store import Store


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
