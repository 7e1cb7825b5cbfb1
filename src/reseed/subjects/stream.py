"""The order in which activations are learned from: a pure function of the data seed and the place.

An epoch is a random order of the blocks. `mix` blocks at a time are read and their rows shuffled;
batches are cut from that sequence. Batch number b needs no history, so a stopped training continues
exactly, and any source gives the same batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.sae.lazy import torch
from reseed.seeds import generator
from reseed.spec.activations import ActivationSpec
from reseed.subjects.source import BlockSource

if TYPE_CHECKING:
    from torch import Tensor


_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

_LARGEST_SHARE_OF_FREE_DISK = 0.5


class Choice(NamedTuple):
    """How activations are kept, and why."""

    keep: Literal["live", "shards"]
    reason: str
    passes: int
    """over the activations"""
    disk: int
    """bytes that shards take"""


def passes_over(training_rows: int, tokens: int, streams: int) -> int:
    """How often the activations are gone through: each stream's epochs, and once for evidence.

    Args:
        training_rows: rows that are not held out.
        tokens: that each run sees.
        streams: data seeds whose runs are missing; those of shuffled controls count by themselves.
    """
    return streams * -(-tokens // max(training_rows, 1)) + 1


def choose(
    spec: ActivationSpec, *, rows: int, dimensions: int, passes: int, free_disk: int
) -> Choice:
    """Decide by size and number of passes, unless the study says it.

    Args:
        spec: what the study says.
        rows: to harvest.
        dimensions: summed over sites.
        passes: from `passes_over`.
        free_disk: bytes.
    """
    disk = rows * dimensions * _BYTES[spec.dtype]
    size = f"{disk / 1e9:.2g} GB"
    if spec.keep != "auto":
        return Choice(spec.keep, "the study says so", passes, disk)
    if passes <= 1:
        return Choice("live", "they are needed once", passes, disk)
    if disk > free_disk * _LARGEST_SHARE_OF_FREE_DISK:
        free = f"{free_disk / 1e9:.2g} GB"
        return Choice("live", f"shards would take {size} of {free} free disk", passes, disk)
    return Choice("shards", f"{passes} passes are needed and shards take {size}", passes, disk)


class _Chunk(NamedTuple):
    """Blocks that are mixed row by row."""

    rows: Mapping[str, Tensor]
    """site to float32 `[n, D]`, as they were read"""
    order: Tensor
    """int64 `[n]`, in which they are used"""


class Stream:
    """Endless shuffled batches from some blocks of a source.

    Args:
        source: where the rows are.
        blocks: which of its blocks to use.
        data_seed: decides the order, and nothing else does.
        batch: B, rows in a batch.
        mix: blocks that are mixed row by row at a time.
        ahead: read the blocks that come next while batches of the present ones are used, in one
            other thread. The batches are the same. For a source that waits for a disk; one that
            computes would only take the processor from the training.

    Raises:
        SpecError: if the blocks hold no rows.
    """

    def __init__(
        self,
        source: BlockSource,
        blocks: NDArray[np.int64],
        *,
        data_seed: int,
        batch: int,
        mix: int,
        ahead: bool = False,
    ) -> None:
        self._source, self._blocks = source, np.asarray(blocks, dtype=np.int64)
        self._data_seed, self._batch, self._mix = data_seed, batch, mix
        self.epoch_rows = int(source.rows[self._blocks].sum())
        if self.epoch_rows == 0:
            raise SpecError("there are no rows to train on; every position is excluded or held out")
        # an instance's own caches: the last epoch's order, the two chunks a batch can span
        self._order = lru_cache(maxsize=2)(self._make_order)
        self._chunk = lru_cache(maxsize=2)(self._next_chunk)
        self._reader = ThreadPoolExecutor(1, "ahead") if ahead else None
        self._coming: tuple[tuple[int, int], Future[_Chunk]] | None = None

    def batch(self, index: int) -> dict[str, Tensor]:
        """Batch number `index`: site to float32 `[B, D]`; row r is the same token at every site.

        Raises:
            SubjectError, StoreError: from the source.
        """
        parts: list[Mapping[str, Tensor]] = []
        at, left = index * self._batch, self._batch
        while left:
            epoch, inside = divmod(at, self.epoch_rows)
            _, starts = self._order(epoch)
            chunk = int(np.searchsorted(starts, inside, side="right")) - 1
            first = inside - int(starts[chunk])
            take = min(left, int(starts[chunk + 1]) - inside)
            rows, shuffled = self._chunk(epoch, chunk)
            chosen = shuffled[first : first + take]
            parts.append({site: x[chosen] for site, x in rows.items()})
            at, left = at + take, left - take
        if len(parts) == 1:
            return dict(parts[0])
        return {site: torch.cat([part[site] for part in parts]) for site in parts[0]}

    def through(self, index: int) -> None:
        """Nothing: shuffled rows have no place in the subject from which it could go on."""

    def _make_order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The blocks of an epoch in order, and at which row each chunk of them starts."""
        order = generator("block-order", self._data_seed, epoch).permutation(self._blocks)
        rows = self._source.rows[order]
        sizes = [rows[i : i + self._mix].sum() for i in range(0, len(order), self._mix)]
        return order, np.concatenate([[0], np.cumsum(sizes)])

    def _next_chunk(self, epoch: int, chunk: int) -> _Chunk:
        """A chunk, if need be waited for; the one after it is begun."""
        if self._reader is None:
            return self._read_chunk(epoch, chunk)
        coming, self._coming = self._coming, None
        if coming is not None and coming[0] == (epoch, chunk):
            found = coming[1].result()
        else:
            found = self._read_chunk(epoch, chunk)
        chunks = len(self._order(epoch)[1]) - 1
        after = (epoch, chunk + 1) if chunk + 1 < chunks else (epoch + 1, 0)
        self._coming = after, self._reader.submit(self._read_chunk, *after)
        return found

    def _read_chunk(self, epoch: int, chunk: int) -> _Chunk:
        order = self._order(epoch)[0]
        blocks = np.sort(order[chunk * self._mix : (chunk + 1) * self._mix])
        rows = self._source.read(blocks.tolist())
        count = int(self._source.rows[blocks].sum())
        shuffle = generator("row-order", self._data_seed, epoch, chunk).permutation(count)
        return _Chunk(rows, torch.from_numpy(shuffle))


def split_blocks(blocks: int, held_out: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Blocks to train on and blocks held out: the last ones, with one block left out in between.

    Neighbouring blocks of text can share a document; the block between keeps the two sides apart.

    Args:
        blocks: how many there are.
        held_out: share of them to hold out.

    Raises:
        SpecError: if one side would be empty.
    """
    last = max(1, round(blocks * held_out))
    if blocks - last - 1 < 1:
        raise SpecError(
            f"{blocks} blocks cannot be split into training and held-out ones (held_out = "
            f"{held_out:g}); ask for more tokens or smaller blocks"
        )
    return np.arange(blocks - last - 1), np.arange(blocks - last, blocks)
