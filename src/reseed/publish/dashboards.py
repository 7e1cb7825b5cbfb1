"""What others show of a latent: contexts, how strongly it fires, logits, and how it recurs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.evidence.display.logits import ABOUT
from reseed.evidence.display.logits import FILE as LOGITS
from reseed.evidence.display.strengths import FILE as STRENGTHS
from reseed.evidence.display.strengths import bin_edges
from reseed.runs import Group, evidence_name, logits_name
from reseed.spec.subject import LanguageModelSpec
from reseed.study import Study

_FIRING, _UNIFORM = "firing", ("score", "judge")
"""Examples that are a uniform sample of the windows in which a latent fires."""

RECURRENCE = (
    "verdict", "n_matched", "n_seeds", "recurrence_mean", "recurrence_lo", "recurrence_hi",
    "max_decoder_cos", "max_encoder_cos", "p_null", "q_fdr", "n_matched_fdr", "family",
    "family_size", "explanation",
)  # fmt: skip
"""Columns of the table of latents that go along, where it has them; docs/latent_table.md."""

Bars = tuple[list[float], list[float]]
"""Middle and height of each bar of a histogram."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """What a decoder row adds to the logits; `reseed.evidence.display.logits` has how."""

    top: list[tuple[str, float]]
    """largest first"""
    bottom: list[tuple[str, float]]
    """smallest first"""
    bars: Bars


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """A latent of a run, on held-out text."""

    latent: int
    row: Mapping[str, Any]
    """of the table of latents; what could not be told is None"""
    strongest: list[Mapping[str, Any]]
    """contexts: tokens, activations; strongest first"""
    sample: list[Mapping[str, Any]]
    """a uniform sample of the windows in which it fires: tokens, activations, quantile"""
    bars: Bars
    """activations above 0 on all held-out tokens, in bins of two an octave"""
    logits: Logits | None

    @property
    def recurrence(self) -> dict[str, Any]:
        """How it comes back in other runs, beside chance."""
        known = {name: self.row[name] for name in RECURRENCE if name in self.row}
        return {name: clean(value) for name, value in known.items()}


def left_out(study: Study, runs: Iterable[str]) -> list[str]:
    """Sentences about what the dashboards of these runs lack."""
    store, sentences = study.store, list[str]()
    kind = study.spec.subject.kind
    for run in runs:
        why = "`reseed run` makes them"
        if store.has(logits_name(run)):
            why = store.document(logits_name(run), ABOUT)["why"]
        elif not isinstance(study.spec.subject, LanguageModelSpec):
            why = f"the subject is a {kind}, which has no vocabulary"
        sentences += [f"no logits: {why}"] if why else []
        if not store.holds(evidence_name(run), STRENGTHS):
            sentences.append("no histograms of activations: `reseed run` makes them")
    return list(dict.fromkeys(sentences))


def dashboards(study: Study, group: Group, run: str) -> Iterator[Dashboard]:
    """All latents of a run, in order.

    Raises:
        SpecError: if the subject read no text.
        StoreError: if the study has not come this far, or is damaged.
    """
    store, piece = study.store, evidence_name(run)
    contexts = store.table(piece, "contexts.parquet")
    if not len(contexts):
        raise SpecError(
            f"{study.folder}: no latent of {run} has a context, so there is nothing to show; the "
            f"subject is a {study.spec.subject.kind}, and others show features on text"
        )
    windows = store.table(piece, "example_windows.parquet").select("window", "tokens")
    examples = store.table(piece, "examples.parquet").filter(
        pl.col("kind") == _FIRING, pl.col("split").is_in(_UNIFORM)
    )
    examples = examples.join(windows, on="window", how="inner", maintain_order="left")
    parts = _parts(contexts), _parts(examples)
    logits, strengths = _logits(study, run), _strengths(study, run)
    for row in study.latents_of(group).filter(run=run).sort("latent").iter_rows(named=True):
        latent = row["latent"]
        strongest, sample = (_rows(part, latent) for part in parts)
        yield Dashboard(
            latent=latent,
            row=row,
            strongest=strongest,
            sample=sample,
            bars=strengths.get(latent, ([], [])),
            logits=logits.get(latent),
        )


def _logits(study: Study, run: str) -> dict[int, Logits]:
    if not study.store.has(logits_name(run)):
        return {}
    out: dict[int, Logits] = {}
    for row in study.store.table(logits_name(run), LOGITS).iter_rows(named=True):
        top, bottom = (
            list(zip(row[end], rounded(row[f"{end}_logits"]), strict=True))
            for end in ("top", "bottom")
        )
        edges = np.linspace(row["bottom_logits"][0], row["top_logits"][0], len(row["counts"]) + 1)
        out[row["latent"]] = Logits(top=top, bottom=bottom, bars=_bars(edges, row["counts"]))
    return out


def _strengths(study: Study, run: str) -> dict[int, Bars]:
    if not study.store.holds(evidence_name(run), STRENGTHS):
        return {}
    table = study.store.table(evidence_name(run), STRENGTHS)
    return {
        latent: _bars(bin_edges(first, len(counts)), counts)
        for latent, first, counts in table.iter_rows()
    }


def _bars(edges: NDArray[np.float64], heights: Sequence[int]) -> Bars:
    return rounded((edges[:-1] + edges[1:]) / 2), [float(height) for height in heights]


def _parts(table: pl.DataFrame) -> dict[Any, pl.DataFrame]:
    kept = [n for n in ("latent", "tokens", "activations", "quantile") if n in table.columns]
    return table.select(kept).partition_by("latent", as_dict=True, maintain_order=True)


def _rows(parts: Mapping[Any, pl.DataFrame], latent: int) -> list[Mapping[str, Any]]:
    part = parts.get((latent,))
    rows = [] if part is None else part.to_dicts()
    return [row | {"activations": [a or 0.0 for a in row["activations"]]} for row in rows]


def rounded(values: NDArray[Any] | Sequence[float]) -> list[float]:
    """Numbers with five significant digits, as JSON takes them."""
    return [float(f"{value:.5g}") for value in values]


def clean(value: Any) -> Any:
    """What could not be told (NaN) as None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def layer_of(site: str) -> int:
    """The layer that a site names, e.g. 6 of `layers.6.mlp`.

    Raises:
        SpecError: if it names none.
    """
    match = re.search(r"(?:^|\.)(\d+)(?:\.|:|$)", site)
    if match is None:
        raise SpecError(f"site {site!r} names no layer, and others file features by layer")
    return int(match[1])
