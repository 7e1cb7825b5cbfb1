"""All latents of a group in one table, filled by the script: filter, search, sort, pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from reseed.report.figures import short
from reseed.report.html import Html, count, join, tag, text
from reseed.report.latents.partners import Catalogue
from reseed.report.parts import note


def listing_data(listing: Catalogue, latents: pl.DataFrame, runs: Sequence[str]) -> dict[str, Any]:
    """Columns of the table, in the order of the table of latents; runs by their place."""
    place = {run: at for at, run in enumerate(runs)}
    by_latent: dict[tuple[str, int], list[float | int | None]] = {}
    for run, latent, other, partner, cosine in listing.partners.iter_rows():
        by_latent.setdefault((run, latent), []).extend([place[other], partner, *short([cosine])])
    keys = latents.select("run", "latent").rows()
    state = latents.select(
        pl.when(~pl.col("alive")).then(0).when("dense").then(2).otherwise(1).alias("state")
    )["state"]
    names = ("firing_rate", "recurrence_mean", "recurrence_lo", "recurrence_hi", "max_decoder_cos")
    return {
        "columns": COLUMNS,
        "sort": ["found", "max_decoder_cos"],
        "ids": list(runs),
        "run": [place[run] for run, _ in keys],
        "steps": ["latent", "family"],
        "latent": steps(latents["latent"].to_list()),
        "found": latents["n_matched"].to_list(),
        "others": [n and n - 1 for n in latents["n_seeds"].to_list()],
        "state": state.to_list(),
        "family": steps(latents["family"].to_list()),
        **{name: short(latents[name].to_list()) for name in names},
        "partners": [by_latent.get(key, []) for key in keys],
        "texts": [listing.places.get(key, []) for key in keys] if listing.places else [],
    }


def steps(numbers: Sequence[int | None]) -> list[int | None]:
    """How much each is more than the number before it: of numbers in order next to nothing."""
    before, out = 0, list[int | None]()
    for number in numbers:
        out.append(None if number is None else number - before)
        before = before if number is None else number
    return out


# -- on the page ---------------------------------------------------------------------------------

Columns = Sequence[tuple[str, str, str]]
"""Key in the data, title, and how the script writes it."""

Filters = Mapping[str, tuple[str, Mapping[str, str]]]
"""Key in the data, to a label and what can be chosen: value to words."""

COLUMNS: Columns = (
    ("latent", "latent", "latent"),
    ("found", "found in", "found"),
    ("recurrence_mean", "reproducibility", "share"),
    ("max_decoder_cos", "mean cosine", "cosine"),
    ("firing_rate", "fires on", "rate"),
    ("partner", "nearest elsewhere", "partner"),
)
"""Of a study."""


def latents_of(latents: pl.DataFrame, runs: Sequence[str], *, texts: bool) -> Html:
    """The table of a group; its data are `listing_data`."""
    found = sorted(latents["n_matched"].drop_nulls().unique().to_list(), reverse=True)
    filters: Filters = {
        "found": ("found in so many other runs", {str(n): f"{n}" for n in found}),
        "run": ("run", {str(n): name for n, name in enumerate(runs)}),
        "state": ("latents", {"live": "live", "0": "dead", "2": "dense"}),
    }
    words = join(text("list"), None if texts else join(" ", text("list-no-text")))
    return listing_section(len(latents), COLUMNS, filters, words, texts=texts)


def listing_section(
    latents: int, columns: Columns, filters: Filters, words: Html, *, texts: bool
) -> Html:
    """A table, filled by the script: filters, search, sorting, pages, a card for each row."""
    hint = "number, or words of the text" if texts else "number"
    search = tag("input", type="search", data_list="search", placeholder=hint)
    chosen = (_select(label, name, values) for name, (label, values) in filters.items())
    controls = tag("div", tag("label", "find ", search), *chosen, class_="controls")
    titles = [
        tag("th", tag("button", title, type="button", data_sort=name), scope="col", class_=name)
        for name, title, _ in columns
    ]
    if texts:
        titles.append(tag("th", "fires most on", scope="col", class_="text"))
    body = (tag("thead", tag("tr", *titles)), tag("tbody"))
    inside = tag("table", *body, class_="numbers list")
    box = tag("div", inside, class_="scroll", tabindex=0, role="region", aria_label="All latents")
    turn = tag(
        "div",
        tag("button", "‹ back", type="button", data_page=-1),
        tag("span", aria_live="polite", class_="shown"),
        tag("button", "next ›", type="button", data_page=1),
        class_="pages",
    )
    title = tag("h3", f"All {count(latents)} latents")
    parts = (title, note(words), controls, box, turn)
    return tag("section", *parts, class_="latents", data_latents=True)


def _select(label: str, name: str, values: Mapping[str, str]) -> Html:
    options = (tag("option", shown, value=value) for value, shown in {"": "all", **values}.items())
    return tag("label", label, " ", tag("select", *options, data_list=name))
