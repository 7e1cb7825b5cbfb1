"""The report of a study as one HTML file that works offline. Reads the store, computes nothing."""

from __future__ import annotations

from typing import Any

from reseed.report.factors import factors_section
from reseed.report.facts import GroupFacts, read_cells, read_failures, read_group, read_study
from reseed.report.figures import factors_data, group_data
from reseed.report.group import group_parts
from reseed.report.headline import next_steps, verdict, weaknesses
from reseed.report.html import Html, Inside, document, listed, tag
from reseed.report.latents.crops import pictures_once
from reseed.report.latents.listing import listing_data
from reseed.report.overview import overview
from reseed.report.parts import details, header, note, notes, plainly
from reseed.spec.summary import Summary
from reseed.store import Store
from reseed.study import SPEC_FILE


def write_report(store: Store, name: str) -> None:
    """Write the page of a study; equal stores give equal bytes.

    Args:
        store: of the study, which has come as far as `summary.json`.
        name: of the file to write.
    """
    summary = read_study(store)
    groups = [read_group(store, group) for group in summary.groups]
    spec = store.path(SPEC_FILE)
    body = tag(
        "main",
        header("Which latents come back?", summary.study, *verdict(summary, groups)),
        notes(weaknesses(summary.groups, read_failures(store, summary), summary.runs.missing)),
        next_steps(summary, groups),
        overview(summary),
        factors_section(summary),
        details(
            "SAE", [g.label for g in groups], [group_parts(g, summary.rows_are) for g in groups]
        ),
        tag("footer", _provenance(summary, spec.read_text("utf-8") if spec.exists() else None)),
    )
    body, pictures = pictures_once(body)
    data = [_drawn(group) | {"rows_are": summary.rows_are} for group in groups]
    if data:  # what concerns all groups travels with the first
        data[0] |= factors_data(summary, read_cells(store, summary)) | {"pictures": pictures}
    store.write(name, document(f"{summary.study} · reseed", body, data).encode())


def _drawn(group: GroupFacts) -> dict[str, Any]:
    """What the script draws of a group, and fills its table of latents with."""
    if group.listing is None:
        return group_data(group)
    runs = [run.id for run in group.runs]
    return group_data(group) | {
        "listing": listing_data(group.listing, group.tables["latents"], runs)
    }


# -- the end of the page -------------------------------------------------------------------------


def _provenance(summary: Summary, spec: str | None) -> Html:
    """Version, subject, sites, tokens, and the study's TOML."""
    activations, change = summary.activations, summary.activations.change_from_float32
    facts: dict[str, Inside] = {
        "reseed": summary.reseed,
        "study": summary.study,
        "subject": plainly(summary.subject),
        "sites": ", ".join(f"{name} ({d:,} dimensions)" for name, d in activations.sites.items()),
        "tokens to train on": f"{activations.training_tokens:,}",
        "tokens of a run": f"{summary.training.tokens:,} ({summary.training.epochs:.3g} epochs)",
        "tokens held out": f"{activations.held_out_tokens:,}",
    }
    if change is not None:
        facts[f"change by {change['dtype']} (relative RMSE)"] = "; ".join(
            f"{site}: {error['relative_rmse']:.2%}, smallest cosine {error['smallest_cosine']:.4f}"
            for site, error in change["sites"].items()
        )
    toml = (
        tag("details", tag("summary", "The study's TOML"), tag("pre", spec, tabindex=0))
        if spec
        else note("The study was not made from a file.")
    )
    return tag("section", tag("h2", "Where this comes from"), listed(facts, "facts"), toml)
