"""Rows that are far longer than others, left out: attention sinks that stand anywhere in a text.

N rows, D dimensions of a site. A row is the same token at every site, so it is left out of all
where its norm at any of them is above a multiple of that site's median norm (massive activations,
arXiv 2402.17762).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.events import Events
from reseed.sae import Tensor, torch
from reseed.store import Store
from reseed.subjects.source import BlockSource, Chunk, read_over

NORMS = "activations/norms"
"""Piece that says which rows are used; only where a study leaves long ones out."""

_ARRAYS, _ABOUT = "keep.safetensors", "about.json"


class Kept(NamedTuple):
    """Which rows of the first blocks of a source are used."""

    rows: NDArray[np.bool_]
    """[N]"""
    counts: NDArray[np.int64]
    """[blocks] rows of each block before"""

    @property
    def by_block(self) -> NDArray[np.int64]:
        """[blocks] rows of each that are used."""
        ends = np.concatenate([[0], np.cumsum(self.counts)])
        return np.diff(np.concatenate([[0], np.cumsum(self.rows)])[ends])


def short_rows(
    source: BlockSource,
    blocks: int,
    max_norm: float,
    store: Store,
    made_from: str,
    events: Events,
) -> Kept:
    """Find, say and keep which rows are at most `max_norm` times the median norm; one pass.

    Raises:
        SpecError: if nothing is left.
    """
    counts = source.rows[:blocks]

    def write() -> dict[str, object]:
        keep, about = _measured(source, blocks, max_norm, events)
        return {_ARRAYS: {"keep": keep.astype(np.uint8)}, _ABOUT: about}

    if store.make(NORMS, made_from, write):
        about = store.document(NORMS, _ABOUT)
        events.say(
            f"{about['left_out']:,} of {about['rows']:,} rows are left out: they are more than "
            f"{max_norm:g} times as long as the median at a site"
        )
    return Kept(store.tensors(NORMS, _ARRAYS)["keep"].astype(np.bool_), counts)


def _measured(
    source: BlockSource, blocks: int, max_norm: float, events: Events
) -> tuple[NDArray[np.bool_], dict[str, object]]:
    norms: dict[str, list[NDArray[np.float32]]] = {site: [] for site in source.sites}

    def add(chunk: Chunk) -> None:
        for site, x in chunk.rows.items():
            norms[site].append(x.norm(dim=1).numpy())

    read_over(source, range(blocks), add, events, "norms of rows")
    lengths = {site: np.concatenate(parts) for site, parts in norms.items()}
    medians = {site: float(np.median(length)) for site, length in lengths.items()}
    # where most rows are zeros there is no usual length
    limits = {site: max_norm * m if m > 0 else np.inf for site, m in medians.items()}
    long = np.logical_or.reduce([lengths[site] > limit for site, limit in limits.items()])
    if long.all():
        raise SpecError(f"activations.max_norm = {max_norm:g} leaves no row; take a larger one")
    numbers = {"rows": len(long), "left_out": int(long.sum())}
    return ~long, {"max_norm": max_norm, "median": medians, **numbers}


class ShortRows:
    """The rows of a source that are used, as a `BlockSource`."""

    def __init__(self, source: BlockSource, kept: Kept) -> None:
        self._source, self._kept = source, kept
        self.sites = source.sites
        self.rows: NDArray[np.int64] = kept.by_block
        self._ends = np.cumsum(kept.counts)

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks; see `BlockSource.read`."""
        keep = [np.zeros(0, np.bool_)]
        for block in blocks:
            end = int(self._ends[block])
            keep.append(self._kept.rows[end - int(self._kept.counts[block]) : end])
        used = torch.from_numpy(np.concatenate(keep))
        return {site: x[used] for site, x in self._source.read(blocks).items()}
