"""The door of evidence: firing statistics, held-out reconstruction and contexts of finished runs.

One pass over the held-out blocks for all runs at once; memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.events import Events
from reseed.evidence.contexts import Contexts, Places
from reseed.evidence.firing import Firing
from reseed.evidence.spec import EvidenceSpec, evidence_name
from reseed.files import json_bytes, parquet_bytes
from reseed.formats import own
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
        spec: how many contexts, how long.
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
            for one in work.values():
                one.add(rows[one.site], rows[one.target], chunk)
            task.advance(int(source.rows[chunk].sum()))
    for run, one in work.items():
        with store.piece(evidence_name(run), made_from[run]) as folder:
            (folder / "firing.parquet").write_bytes(parquet_bytes(one.firing.table()))
            (folder / "contexts.parquet").write_bytes(parquet_bytes(one.contexts.table()))
            (folder / "reconstruction.json").write_bytes(json_bytes(one.firing.reconstruction()))


class _Run:
    def __init__(
        self, sae: SAE, site: str, target: str, places: Places | None, spec: EvidenceSpec
    ) -> None:
        self.sae, self.site, self.target = sae, site, target
        self.firing = Firing(sae.latents, sae.W_dec.shape[1])
        self.contexts = Contexts(places, spec)

    def add(self, x: Tensor, y: Tensor, blocks: Sequence[int] | NDArray[np.int64]) -> None:
        with torch.no_grad():
            codes = self.sae.encode_sparse(x)
            self.firing.add(y, codes, self.sae.rebuild(x, codes))
            self.contexts.add(codes, np.asarray(blocks))


def _load(store: Store, run: str) -> SAE:
    return from_arrays(own.read_piece(store, f"runs/{run}"))
