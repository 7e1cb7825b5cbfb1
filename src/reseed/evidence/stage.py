"""The door of evidence: firing statistics, held-out reconstruction and contexts of finished runs.

One pass over the held-out blocks for all runs at once; memory does not grow with the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.events import Events
from reseed.evidence.contexts import Contexts, Places
from reseed.evidence.example_tables import tables_of
from reseed.evidence.examples import Examples, Fired
from reseed.evidence.firing import Firing
from reseed.evidence.neighbours import nearest_decoders
from reseed.evidence.spec import EvidenceSpec, evidence_name
from reseed.evidence.windows import Windows, cut
from reseed.files import json_bytes, parquet_bytes
from reseed.formats import own
from reseed.sae.kernels import Codes
from reseed.sae.model import SAE, from_arrays
from reseed.store import Store
from reseed.subjects.source import BlockSource

_CHUNK = 32


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
