"""SAEs on activations: which latents fire, and what is reconstructed. Needs torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.comparison.dictionary import Dictionary
from reseed.errors import SpecError
from reseed.events import Events
from reseed.evidence.display.contexts import Contexts
from reseed.evidence.frequency import MatchedFiring
from reseed.evidence.rows import Encoded, Reader, entries_of, feed, firing_of
from reseed.sae.model import from_arrays
from reseed.spec.analysis import EvidenceSpec, FromSubject
from reseed.spec.refusals import read_spec
from reseed.spec.subject import ArraysSpec, LanguageModelSpec, TextSpec
from reseed.stability.notes import hidden_fvu
from reseed.store import Store
from reseed.subjects.arrays import ArraySource, MemorySource
from reseed.subjects.language.blocks import TextPlaces, TextPositions
from reseed.subjects.language.documents import check_text
from reseed.subjects.language.model import body_without_weights, context_of
from reseed.subjects.shards import ShardSource
from reseed.subjects.source import BlockSource
from reseed.subjects.subject import open_subject

CHUNK = 16
"""Blocks that are read together; sums depend on it in their last bits."""

_MOSTLY = 0.5

_CONTEXTS = 3
"""Strongest contexts kept of each latent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Where SAEs are run: rows by site, and the site of each SAE."""

    source: BlockSource
    sites: Mapping[str, str]
    """name of an SAE to the site that it reads"""
    blocks: Sequence[int]
    """which are read"""
    places: TextPositions | None = None
    """where the rows stand in a text; None where the activations are stored arrays"""


_BLOCK = 256
"""Tokens in a block where nothing is said and the model takes as many."""


def open_activations(
    rows: Any,
    names: Sequence[str],
    store: Store | None,
    events: Events,
    tokens: int | None = None,
) -> Activations:
    """Rows for all SAEs, or for each its own; of stored ones the blocks with the first `tokens`."""
    if isinstance(rows, Mapping):
        limit = {} if tokens is None else {"tokens": tokens}
        spec = read_spec(FromSubject, {**limit, **rows}, "activations")
        return _from_subject(spec, names, store, events)
    if isinstance(rows, list | tuple):
        if len(rows) != len(names):
            raise SpecError(
                f"{len(rows)} activations for {len(names)} SAEs; give one for all, or one for each"
            )
        beside = _Beside([_open(of_one) for of_one in rows])
        sites = dict(zip(names, beside.sites, strict=True))
        return Activations(source=beside, sites=sites, blocks=_first(beside, tokens))
    source, site = _open(rows)
    sites = dict.fromkeys(names, site)
    return Activations(source=source, sites=sites, blocks=_first(source, tokens))


def _first(source: BlockSource, tokens: int | None) -> range:
    """The first blocks with at least this many rows; all, where there are fewer."""
    ends = np.cumsum(source.rows)
    return range(len(ends) if tokens is None else int((ends < tokens).sum()) + 1)[: len(ends)]


def _from_subject(
    spec: FromSubject, names: Sequence[str], store: Store | None, events: Events
) -> Activations:
    if store is None:
        raise SpecError("activations from a subject need `out`, where its tokens are kept")
    subject = LanguageModelSpec(model=spec.model)
    text = TextSpec(source=spec.text, template=spec.template, block=spec.block or _BLOCK)
    if spec.block is None:
        check_text(text)
        context = context_of(body_without_weights(subject)) or _BLOCK
        text = text.model_copy(update={"block": min(_BLOCK, context)})
    opened = open_subject(subject, text, [spec.site], spec.tokens, store, events)
    site, kept, tokenizer = next(iter(opened.source.sites)), opened.text, opened.tokenizer
    return Activations(
        source=opened.source,
        sites=dict.fromkeys(names, site),
        blocks=range(opened.blocks),
        places=None if kept is None or tokenizer is None else TextPlaces(kept, tokenizer),
    )


def _open(rows: Any) -> tuple[BlockSource, str]:
    if not isinstance(rows, str | os.PathLike):
        return MemorySource({"x": rows}), "x"
    path = os.path.expanduser(os.fspath(rows))
    folder, site = (path, "") if os.path.isdir(path) else path.rpartition("#")[::2]
    if not os.path.isdir(folder):
        return ArraySource(ArraysSpec(kind="arrays", paths={"x": path})), "x"
    source = ShardSource(Store(folder))
    if not site and len(source.sites) > 1:
        raise SpecError(
            f"{folder} has activations of {', '.join(source.sites)}; choose one: {folder}#SITE"
        )
    chosen = site or next(iter(source.sites))
    if chosen not in source.sites:
        raise SpecError(f"{folder} has no site {chosen!r}; it has {', '.join(source.sites)}")
    return source, chosen


class _Beside:
    """Sources of the same rows beside each other, as one `BlockSource`; sites are 0, 1, ..."""

    def __init__(self, sources: Sequence[tuple[BlockSource, str]]) -> None:
        rows = [source.rows.tolist() for source, _ in sources]
        if any(of_source != rows[0] for of_source in rows):
            totals = ", ".join(f"{sum(of_source):,}" for of_source in rows)
            raise SpecError(
                f"the activations have {totals} rows; they must be of the same tokens in the same "
                "order, in equal blocks"
            )
        self._sources, self.rows = sources, sources[0][0].rows

    @property
    def sites(self) -> dict[str, int]:
        """Site to D."""
        return {str(n): source.sites[site] for n, (source, site) in enumerate(self._sources)}

    def read(self, blocks: Sequence[int]) -> dict[str, Any]:
        """Rows of these blocks; see `BlockSource.read`."""
        return {str(n): source.read(blocks)[site] for n, (source, site) in enumerate(self._sources)}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnActivations:
    """An SAE on activations."""

    firing: pl.DataFrame
    """latent, fired, rate, mean_act, max_act"""
    reconstruction: Mapping[str, Any]
    """rows, l0 and those of `reseed.evidence.distance`; None where it is not known"""

    @property
    def live(self) -> NDArray[np.bool_]:
        """[F] fired at least once."""
        return (self.firing["fired"] > 0).to_numpy()


def run_on(
    compared: Sequence[Dictionary], activations: Activations, events: Events
) -> dict[str, OnActivations]:
    """Encode and reconstruct rows with each SAE, in one pass; bare matrices are left out."""
    readers = _readers(compared, activations)
    for name, (sae, site, _) in readers.items():
        dimensions = activations.source.sites[site]
        if dimensions != sae.dimensions:
            raise SpecError(
                f"{name} reads {sae.dimensions} dimensions, the activations {site!r} have "
                f"{dimensions}; are they of this SAE's site?"
            )
    source, blocks = activations.source, activations.blocks
    sums = firing_of(readers, source, blocks, events, "activations", unit="rows", size=CHUNK)
    say = "rows of the activations", "give more of them"
    return {
        name: OnActivations(firing=of.table(), reconstruction=_finite(of.reconstruction(*say)))
        for name, of in sums.items()
    }


def fire_together(
    compared: Sequence[Dictionary],
    activations: Activations,
    behaviour: Mapping[str, OnActivations],
    pairs: Mapping[tuple[str, str], NDArray[np.int64]],
    events: Events,
) -> tuple[dict[tuple[str, str], pl.DataFrame], pl.DataFrame]:
    """How matched latents `[E, 2]` fire together and what they add, in one more pass.

    Pairs with bare matrices are left out. Columns are those of `MatchedFiring`; decoder rows are
    compared as they were matched, so turned ones in the basis of the first.

    Returns:
        The table of each pair; and the strongest contexts of all latents, with a column `sae`,
        empty where the activations have no text.
    """
    readers = _readers(compared, activations)
    decoders = {dictionary.name: dictionary.views.decoder for dictionary in compared}
    fired = {name: on.firing["fired"].to_numpy() for name, on in behaviour.items()}
    counters = {
        (a, b): MatchedFiring(matched, fired[a], fired[b], a, b, rows=(decoders[a], decoders[b]))
        for (a, b), matched in pairs.items()
        if a in readers and b in readers
    }

    places = activations.places
    shown = EvidenceSpec(contexts=_CONTEXTS)
    texts = {n: Contexts(read.sae.latents, places, shown) for n, read in readers.items()}

    def add(chunk: Encoded) -> None:
        for (a, b), counter in counters.items():
            counter.add(chunk.sparse(a), chunk.sparse(b))
        if places is None:
            return
        read = np.asarray(chunk.chunk.blocks)
        for name, text in texts.items():
            text.add(entries_of(chunk.codes(name), read, places.positions), read)

    source, blocks = activations.source, activations.blocks
    feed(add, readers, source, blocks, events, "co-firing", unit="rows", size=CHUNK)
    tables = (text.table().select(pl.lit(n).alias("sae"), pl.all()) for n, text in texts.items())
    contexts = pl.concat(tables) if texts else pl.DataFrame()
    return {pair: counter.table() for pair, counter in counters.items()}, contexts


def _readers(compared: Sequence[Dictionary], activations: Activations) -> dict[str, Reader]:
    return {
        dictionary.name: Reader(from_arrays(dictionary.sae), activations.sites[dictionary.name])
        for dictionary in compared
        if dictionary.sae is not None
    }


def warnings_of(behaviour: Mapping[str, OnActivations]) -> list[str]:
    """What the activations say against the comparison."""
    out: list[str] = []
    for name, on in behaviour.items():
        dead = 1 - float(on.live.mean())
        fvu = on.reconstruction["fvu"]
        if dead > _MOSTLY:
            out.append(
                f"{name}: {dead:.0%} of the latents did not fire on "
                f"{on.reconstruction['rows']:,} rows; read the shares on live latents, dead ones "
                "keep where they started."
            )
        if fvu is not None and fvu > 1:
            out.append(
                f"{name}: reconstructs these activations worse than their mean does (FVU "
                f"{fvu:.3g}); is it the right site, layer and scaling?"
            )
        out += [f"{name}: {sentence}" for sentence in hidden_fvu(on.reconstruction)]
    return out


def _finite(numbers: Mapping[str, float | int | None]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in numbers.items()
    }
