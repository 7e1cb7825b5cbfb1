"""What others show of a latent: contexts, how strongly it fires, logits, and how it recurs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import ReseedError, SpecError
from reseed.formats import own
from reseed.records import Floats
from reseed.runs import Group, evidence_name, run_name
from reseed.spec.subject import LanguageModelSpec
from reseed.study import Study

_AT_A_TIME = 256
"""Latents whose logits are computed together."""

_TOKENS = 10
"""Tokens shown at each end of the logits."""

_BARS = 40

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
    """What a decoder row adds to the logits, by the head alone: no norm before it is applied."""

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
    """activations above 0 in the sample"""
    logits: Logits | None

    @property
    def recurrence(self) -> dict[str, Any]:
        """How it comes back in other runs, beside chance."""
        known = {name: self.row[name] for name in RECURRENCE if name in self.row}
        return {name: clean(value) for name, value in known.items()}


class Head:
    """The head of a subject and its tokenizer."""

    def __init__(self, subject: Any) -> None:
        weights = subject.model.get_output_embeddings().weight
        self.rows: Floats = weights.detach().float().cpu().numpy()
        self._pieces = subject.tokenizer.pieces

    def logits(self, decoder: Floats) -> Iterator[Logits]:
        """Of each decoder row, `[n, D]`."""
        for values in decoder @ self.rows.T:
            order = np.argsort(values)
            ends = [order[::-1][:_TOKENS], order[:_TOKENS]]
            top, bottom = (
                list(zip(self._pieces(end.tolist()), rounded(values[end]), strict=True))
                for end in ends
            )
            yield Logits(top=top, bottom=bottom, bars=histogram(values))


def head_of(study: Study) -> tuple[Head | None, str | None]:
    """The head of a study's subject; without one, why there are no logits."""
    spec = study.spec.subject
    if not isinstance(spec, LanguageModelSpec):
        return None, f"no logits: the subject is a {spec.kind}, which has no vocabulary"
    try:
        from reseed.subjects.language.model import load_causal

        return Head(load_causal(spec)), None
    except (ReseedError, ImportError) as error:
        return None, f"no logits: {error}"


def dashboards(study: Study, group: Group, run: str, head: Head | None) -> Iterator[Dashboard]:
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
    latents = study.latents_of(group).filter(run=run).sort("latent")
    decoder = own.read_piece(store, run_name(run)).W_dec
    if head is not None and head.rows.shape[1] != decoder.shape[1]:
        head = None
    by_latent = _parts(contexts), _parts(examples)
    for first in range(0, len(latents), _AT_A_TIME):
        part = latents[first : first + _AT_A_TIME]
        numbers = part["latent"].to_list()
        logits = head.logits(decoder[numbers]) if head else iter([None] * len(numbers))
        for row, own_logits in zip(part.iter_rows(named=True), logits, strict=True):
            strongest, sample = (_rows(parts, row["latent"]) for parts in by_latent)
            fired = [a for window in sample for a in window["activations"] if a]
            yield Dashboard(
                latent=row["latent"],
                row=row,
                strongest=strongest,
                sample=sample,
                bars=histogram(np.array(fired)),
                logits=own_logits,
            )


def _parts(table: pl.DataFrame) -> dict[Any, pl.DataFrame]:
    kept = [n for n in ("latent", "tokens", "activations", "quantile") if n in table.columns]
    return table.select(kept).partition_by("latent", as_dict=True, maintain_order=True)


def _rows(parts: Mapping[Any, pl.DataFrame], latent: int) -> list[Mapping[str, Any]]:
    part = parts.get((latent,))
    rows = [] if part is None else part.to_dicts()
    return [row | {"activations": [a or 0.0 for a in row["activations"]]} for row in rows]


def histogram(values: NDArray[Any]) -> Bars:
    """Bars of equal width from the least to the largest value; none without values."""
    if not len(values):
        return [], []
    heights, edges = np.histogram(values, bins=_BARS)
    return rounded((edges[:-1] + edges[1:]) / 2), [float(n) for n in heights]


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
