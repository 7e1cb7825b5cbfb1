"""The latents of two compared SAEs in one table: their partners, how sure, what they fire on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from reseed.report.figures import short
from reseed.report.html import Html, join, marked, text
from reseed.report.latents.listing import Columns, Filters, listing_section
from reseed.report.latents.partners import Place, shortened
from reseed.runs import COMPARED_TEXTS
from reseed.store import Store

KINDS = ("shared", "match at FDR 5%", "no better than chance", "no partner")
"""What a latent is, surest first."""

_FDR = 0.05

_TEXTS = 20_000
"""Rows up to which the page shows text."""

_COLUMNS: Columns = (
    ("latent", "latent", "latent"),
    ("kind", "what it is", "word"),
    ("partner", "partner", "partner"),
    ("encoder", "encoder cosine", "cosine"),
    ("p", "p", "p"),
    ("q", "q (FDR)", "p"),
)


def classes(table: pl.DataFrame, tau: float) -> pl.DataFrame:
    """The table of a pair with the place of each latent's kind in `KINDS`, as `kind`."""
    same = pl.col("decoder_match") == pl.col("encoder_match")
    both = pl.min_horizontal("decoder_cos", "encoder_cos") >= tau
    partner = pl.col("decoder_match") >= 0
    kind = (
        pl.when(partner & same & both)
        .then(0)
        .when(partner & (pl.col("q_fdr") <= _FDR))
        .then(1)
        .when(partner)
        .then(2)
        .otherwise(3)
    )
    return table.with_columns(kind.fill_null(3).alias("kind"))


def pair_data(
    table: pl.DataFrame, names: Sequence[str], places: Mapping[tuple[str, int], Sequence[Place]],
    firing: pl.DataFrame | None, tau: float
) -> dict[str, Any]:  # fmt: skip
    """Columns for the script; of both sides, A first.

    Args:
        table: of the pair, a row for each latent of each side.
        names: of A and B.
        places: SAE and latent to where it fires most.
        firing: sae, latent, firing_rate; None where the SAEs were not run.
        tau: from which on a cosine counts.
    """
    rows = classes(table, tau).with_columns(
        pl.when(pl.col("side").cast(pl.String) == "a").then(0).otherwise(1).alias("run")
    )
    matches = rows.select("run", "decoder_match", "decoder_cos").rows()
    keys = [(names[int(run)], int(latent)) for run, latent in rows.select("run", "latent").rows()]
    out: dict[str, Any] = {
        "columns": _columns(firing),
        "sort": ["partner"],
        "words": KINDS,
        "run": rows["run"].to_list(),
        "latent": rows["latent"].to_list(),
        "kind": rows["kind"].to_list(),
        "encoder": short(rows["encoder_cos_at_decoder"].to_list()),
        "p": short(rows["p_null"].to_list()),
        "q": short(rows["q_fdr"].to_list()),
        "partners": [
            [] if match is None or match < 0 else [1 - run, match, *short([cosine])]
            for run, match, cosine in matches
        ],
        "texts": [places.get(key, []) for key in keys] if places else [],
    }
    if firing is None:
        return out
    rates = {(sae, latent): rate for sae, latent, rate in firing.iter_rows()}
    shown = [rates.get(key) for key in keys]
    return out | {"firing_rate": short(shown), "state": [int((r or 0.0) > 0) for r in shown]}


def pair_entry(
    table: pl.DataFrame, names: Sequence[str], places: Mapping[tuple[str, int], Sequence[Place]],
    firing: pl.DataFrame | None, tau: float
) -> dict[str, Any]:  # fmt: skip
    """`pair_data` as the script finds it, beside what its two sides are called."""
    return {"runs": ["A", "B"], "listing": pair_data(table, names, places, firing, tau)}


def _columns(firing: pl.DataFrame | None) -> Columns:
    return _COLUMNS if firing is None else (*_COLUMNS, ("firing_rate", "fires on", "rate"))


def pair_section(
    table: pl.DataFrame, names: Sequence[str], firing: pl.DataFrame | None, *, texts: bool
) -> Html:
    """The table of a pair; its data are `pair_data`."""
    filters: Filters = {
        "run": ("SAE", {str(n): f"{letter}: {names[n]}" for n, letter in enumerate("AB")}),
        "kind": ("what it is", {str(n): kind for n, kind in enumerate(KINDS)}),
    }
    more = None if texts else join(" ", marked(text("pair-no-text")))
    words = join(text("pair-list", a=names[0], b=names[1]), more)
    return listing_section(len(table), _columns(firing), filters, words, texts=texts)


def firing_of(latents: pl.DataFrame) -> pl.DataFrame | None:
    """sae, latent, firing_rate; None where the SAEs were not run."""
    if "firing_rate" not in latents.columns:
        return None
    return latents.select("sae", "latent", "firing_rate").unique(maintain_order=True)


def places_of(store: Store, latents: int) -> dict[tuple[str, int], list[Place]]:
    """SAE and latent to where it fires most; empty without text, or too many for a page."""
    out: dict[tuple[str, int], list[Place]] = {}
    if not store.has(COMPARED_TEXTS) or latents > _TEXTS:
        return out
    contexts = store.table(COMPARED_TEXTS, "contexts.parquet")
    columns = contexts.select("sae", "latent", "tokens", "activations")
    for sae, latent, tokens, values in columns.iter_rows():
        out.setdefault((sae, latent), []).append(shortened(tokens, values))
    return out
