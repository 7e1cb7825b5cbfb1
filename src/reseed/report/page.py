"""The report of a study as one HTML file that works offline. Reads the store, computes nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs

from reseed.report import headline
from reseed.report.closing import glossary, left_out, provenance
from reseed.report.figures import script_data
from reseed.report.group import group_section
from reseed.report.markup import Html, join, tag
from reseed.report.reading import (
    GroupFacts,
    read_failures,
    read_group,
    read_spec_text,
    read_summary,
)
from reseed.store import Store

_SCRIPTS = ("draw.js", "plots.js", "page.js")
_TABS = 6
"""Up to so many groups are chosen by buttons; more by a list."""


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
    page = document(f"{summary['study']} · reseed", body, script_data(groups), _SCRIPTS)
    store.write_bytes(name, page.encode())


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
    parts = [headline.warnings(summary, failures), _headline(summary, groups), _details(groups)]
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
    return tag("div", _chooser(groups), *sections, id="details")


def _chooser(groups: Sequence[GroupFacts]) -> Html | None:
    if len(groups) < 2:
        return None
    if len(groups) <= _TABS:
        buttons = (
            tag("button", g.label, type="button", data_choose=n, aria_pressed=str(n == 0).lower())
            for n, g in enumerate(groups)
        )
        return tag("nav", *buttons, class_="tabs", aria_label="Which SAE")
    options = (tag("option", g.label, value=n) for n, g in enumerate(groups))
    return tag("nav", tag("label", "SAE ", tag("select", *options, id="choose")), class_="tabs")


def document(title: str, body: Html, data: Html, names: Sequence[str]) -> str:
    """The whole file. Its policy lets no byte in from outside and runs no script but its own.

    Args:
        title: of the window.
        body: what is read.
        data: what is drawn, as JSON fit for a script element.
        names: assets that draw it.
    """
    scripts = [get_plotlyjs(), "\n".join(_asset(name) for name in names)]
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(_asset("page.css"))),
    )
    inside = tag("script", data, type="application/json", id="data")
    ending = join(inside, *(tag("script", Html(script)) for script in scripts))
    return f"<!doctype html>\n{tag('html', head, tag('body', body, ending), lang='en')}\n"


def _asset(name: str) -> str:
    return resources.files("reseed.report").joinpath("assets", name).read_text("utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
