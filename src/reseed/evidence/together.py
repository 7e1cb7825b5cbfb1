"""How the latents of pairs of runs fire together on held-out tokens: one pass for all pairs.

What is counted is handed in; this room only encodes. Memory does not grow with the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from reseed.events import Events
from reseed.evidence.spec import Pair, cofiring_name
from reseed.files import parquet_bytes
from reseed.formats import own
from reseed.sae.model import from_arrays
from reseed.store import Store
from reseed.subjects.source import BlockSource

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
