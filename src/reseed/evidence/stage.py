"""The door of evidence: firing statistics, held-out reconstruction and contexts of finished runs.

One pass over the held-out blocks for all runs at once; memory does not grow with the tokens.

How the latents of pairs of runs fire together on held-out tokens: one pass for all pairs.

What is counted is handed in; this room only encodes. Memory does not grow with the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.events import Events
from reseed.evidence.contexts import Contexts
from reseed.evidence.examples.samples import Examples, Fired, nearest_decoders
from reseed.evidence.examples.tables import tables_of
from reseed.evidence.examples.windows import Windows, cut
from reseed.evidence.firing import Firing
from reseed.formats import own
from reseed.runs import Pair, cofiring_name, evidence_name
from reseed.sae.codes import Codes
from reseed.sae.model import SAE, from_arrays
from reseed.spec.analysis import EvidenceSpec
from reseed.store import Store, json_bytes, parquet_bytes
from reseed.subjects.source import BlockSource
from reseed.subjects.text.tokens import Places

_CHUNK = 32


class Counter(Protocol):
    """Takes the codes of two runs on the same tokens."""

    def add_entries(self, values_a: Any, latents_a: Any, values_b: Any, latents_b: Any) -> None:
        """Take in more tokens: K codes of each by A and by B, `[N, K]`; those of 0 are silent."""
        ...

    def table(self) -> pl.DataFrame:
        """What there is to say, a row for each pair of latents."""
        ...


def gather_together(
    counters: Mapping[Pair, Counter],
    sites: Mapping[str, str],
    source: BlockSource,
    blocks: NDArray[np.int64],
    store: Store,
    made_from: Mapping[Pair, str],
    events: Events,
) -> None:
    """Make the piece `cofiring/A--B` of each of these pairs.

    Args:
        counters: for each pair of runs.
        sites: id of each of the runs to its site.
        source: of the activations.
        blocks: held-out ones.
        store: of the study.
        made_from: digest for each pair.
        events: progress.

    Raises:
        StoreError: if a run or the activations are damaged.
    """
    runs = dict.fromkeys(run for pair in counters for run in pair)
    saes = {run: from_arrays(own.read_piece(store, f"runs/{run}")) for run in runs}
    with events.task("co-firing", int(source.rows[blocks].sum()), "tokens") as task:
        for first in range(0, len(blocks), _CHUNK):
            chunk = blocks[first : first + _CHUNK]
            rows = source.read(chunk.tolist())
            with torch.no_grad():
                codes = {run: sae.encode_sparse(rows[sites[run]]) for run, sae in saes.items()}
            for (a, b), counter in counters.items():
                counter.add_entries(*codes[a], *codes[b])
            task.advance(int(source.rows[chunk].sum()))
    for pair, counter in counters.items():
        with store.piece(cofiring_name(pair), made_from[pair]) as folder:
            (folder / "matched.parquet").write_bytes(parquet_bytes(counter.table()))


def gather(
    runs: Mapping[str, tuple[str, str]],
    source: BlockSource,
    blocks: NDArray[np.int64],
    places: Places | None,
    spec: EvidenceSpec,
    store: Store,
    made_from: Mapping[str, str],
    events: Events,
) -> None:
    """Make the evidence of these runs.

    Args:
        runs: id of each finished run to the site that it reads and the one that it reconstructs.
        source: of the activations.
        blocks: held-out ones.
        places: where each kept row stands in the text; None if the subject reads no text.
        spec: how many contexts and examples, how long.
        store: of the study.
        made_from: digest for each run.
        events: progress.

    Raises:
        StoreError: if a run or the activations are damaged.
    """
    work = {run: _Run(_load(store, run), *sites, places, spec) for run, sites in runs.items()}
    total = int(source.rows[blocks].sum())
    with events.task("evidence", total, "tokens") as task:
        for first in range(0, len(blocks), _CHUNK):
            chunk = blocks[first : first + _CHUNK]
            rows = source.read(chunk.tolist())
            here = _Chunk.of(chunk, places, spec)
            for one in work.values():
                one.add(rows[one.site], rows[one.target], here)
            task.advance(int(source.rows[chunk].sum()))
    for run, one in work.items():
        with store.piece(evidence_name(run), made_from[run]) as folder:
            (folder / "firing.parquet").write_bytes(parquet_bytes(one.firing.table()))
            (folder / "contexts.parquet").write_bytes(parquet_bytes(one.contexts.table()))
            (folder / "reconstruction.json").write_bytes(json_bytes(one.reconstruction()))
            tables_of(one.examples, places).write(folder)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some blocks, and where their rows stand; the same for all runs."""

    blocks: NDArray[np.int64]
    windows: Windows | None
    place: NDArray[np.int64]
    """[rows] place of the block of each row among the blocks"""
    position: NDArray[np.int64]
    """[rows] in its block"""

    @classmethod
    def of(cls, blocks: NDArray[np.int64], places: Places | None, spec: EvidenceSpec) -> _Chunk:
        if places is None or not spec.examples:
            nothing = np.empty(0, np.int64)
            return cls(blocks, None, nothing, nothing)
        positions = [places.positions(int(block)) for block in blocks]
        place = np.repeat(np.arange(len(blocks)), [len(one) for one in positions])
        windows = cut(places, blocks, spec.window, spec.seed)
        return cls(blocks, windows, place, np.concatenate(positions))

    def fired(self, codes: Codes) -> Fired:
        fires = (codes.values > 0).numpy()
        row = np.nonzero(fires)[0]
        latents, values = codes.latents.numpy()[fires], codes.values.numpy()[fires]
        return Fired(self.place[row], self.position[row], latents, values.astype(np.float32))


class _Run:
    def __init__(
        self, sae: SAE, site: str, target: str, places: Places | None, spec: EvidenceSpec
    ) -> None:
        self.sae, self.site, self.target = sae, site, target
        self.firing = Firing(sae.latents, sae.W_dec.shape[1])
        self.contexts = Contexts(places, spec)
        self.examples: Examples | None = None
        if places is not None and spec.examples:
            near = nearest_decoders(sae.W_dec, spec.neighbours) if spec.neighbours else None
            self.examples = Examples(sae.latents, spec, near)

    def add(self, x: Tensor, y: Tensor, chunk: _Chunk) -> None:
        with torch.no_grad():
            codes = self.sae.encode_sparse(x)
            self.firing.add(y, codes, self.sae.rebuild(x, codes))
            self.contexts.add(codes, chunk.blocks)
            if self.examples is not None and chunk.windows is not None:
                self.examples.add(chunk.windows, chunk.fired(codes))

    def reconstruction(self) -> dict[str, float | int | None]:
        """What the firing says, and how far the encoder of live latents points as the decoder."""
        live = torch.from_numpy((self.firing.table()["fired"] > 0).to_numpy())
        cosine = None
        if self.sae.W_enc.shape == self.sae.W_dec.shape and bool(live.any()):
            rows = self.sae.W_enc[live], self.sae.W_dec[live]
            cosine = float(torch.nn.functional.cosine_similarity(*rows).mean())
        return {**self.firing.reconstruction(), "encoder_decoder_cosine": cosine}


def _load(store: Store, run: str) -> SAE:
    return from_arrays(own.read_piece(store, f"runs/{run}"))
