"""Where activations come from: blocks of rows, read in any order.

A block is a fixed bundle of neighbouring rows (the tokens of one block of text, a slice of an
array). How many rows each block gives is known before anything is computed, so the order of a whole
training is known too: a pure function of the data seed and the place. An epoch is a random order of
the blocks; `mix` of them at a time are read and their rows shuffled, and batches are cut from that
sequence. Batch number b needs no history, so a stopped training continues exactly, and any source
gives the same batches.

N rows, D dimensions of a site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.events import Events
from reseed.sae import Tensor, torch
from reseed.seeds import generator
from reseed.spec.analysis import parts_of

if TYPE_CHECKING:
    from reseed.subjects.language.blocks import TextPositions
    from reseed.subjects.networks.pictures import Pictures

CHUNK = 32
"""Blocks that are read together in a pass."""


class BlockSource(Protocol):
    """Activations of one or more sites, readable block by block."""

    @property
    def sites(self) -> Mapping[str, int]:
        """Site name to D."""
        ...

    @property
    def rows(self) -> NDArray[np.int64]:
        """[blocks] rows that each block gives; excluded positions are not counted."""
        ...

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks, one after the other in the order given.

        Args:
            blocks: block numbers.

        Returns:
            site to float32 `[sum of rows[blocks], D]`, on the CPU.
        """
        ...


@runtime_checkable
class WatchedSource(BlockSource, Protocol):
    """A `BlockSource` whose reading takes so long that it says how far it is."""

    def read_watched(
        self, blocks: Sequence[int], advance: Callable[[int], object]
    ) -> dict[str, Tensor]:
        """`read`, telling `advance` how many more rows are there."""
        ...


class Chunk(NamedTuple):
    """Some blocks of a source that were read together."""

    blocks: NDArray[np.int64]
    """[n] their numbers"""
    first: int
    """place of the first of them among all blocks of the pass"""
    counts: NDArray[np.int64]
    """[n] rows of each block"""
    rows: Mapping[str, Tensor]
    """site to float32 `[N, D]`, N = sum of counts"""


def read_over(
    source: BlockSource,
    blocks: Sequence[int] | NDArray[np.int64],
    take: Callable[[Chunk], None],
    events: Events,
    name: str,
    *,
    unit: str = "tokens",
    size: int = CHUNK,
) -> None:
    """Read blocks once, in their order, a chunk at a time; memory does not grow with the rows."""
    numbers = np.asarray(blocks, dtype=np.int64)
    with events.task(name, int(source.rows[numbers].sum()), unit) as task:
        for first in range(0, len(numbers), size):
            chunk = numbers[first : first + size]
            counts = source.rows[chunk]
            take(Chunk(chunk, first, counts, source.read(chunk.tolist())))
            task.advance(int(counts.sum()))


def first_bad_row(rows: Tensor) -> int | None:
    """The first row of `[n, D]` that has a NaN or an infinity, or None."""
    # A sum over a NaN or an infinity is never finite, and it reads the memory only once; a sum that
    # overflows is told apart by the exact test.
    if rows.numel() == 0 or torch.isfinite(rows.sum()):
        return None
    bad = ~torch.isfinite(rows).all(dim=1)
    return int(bad.to(torch.uint8).argmax()) if bool(bad.any()) else None


class DerivedSource:
    """Rows made from those of another source; implements `BlockSource`.

    `change` is given what was read, site to `[N, D]`, and the numbers of its blocks.
    """

    def __init__(
        self,
        source: BlockSource,
        change: Callable[[dict[str, Tensor], list[int]], dict[str, Tensor]],
        sites: Mapping[str, int] | None = None,
    ) -> None:
        self._source, self._change = source, change
        self.sites: Mapping[str, int] = source.sites if sites is None else sites
        self.rows: NDArray[np.int64] = source.rows

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks; see `BlockSource.read`."""
        numbers = [int(block) for block in blocks]
        return self._change(self._source.read(numbers), numbers)


def with_joined(source: BlockSource, joined: Sequence[str]) -> BlockSource:
    """A source with joined sites, named `"a+b"`, besides its own."""
    parts = {site: parts_of(site) for site in joined}

    def change(rows: dict[str, Tensor], _: list[int]) -> dict[str, Tensor]:
        return rows | {s: torch.cat([rows[p] for p in ps], 1) for s, ps in parts.items()}

    sums = {site: sum(source.sites[p] for p in ps) for site, ps in parts.items()}
    return DerivedSource(source, change, {**source.sites, **sums})


def one_after_other(
    sites: Mapping[str, int], parts: Iterable[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Rows that were read one after the other, `[N, D]` of each site; `[0, D]` of no parts."""
    read = list(parts)
    return {s: torch.cat([torch.empty(0, d), *(p[s] for p in read)]) for s, d in sites.items()}


class _Mixed(NamedTuple):
    """Blocks that are mixed row by row: their rows as they were read, and the order of use."""

    rows: Mapping[str, Tensor]
    order: Tensor


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
        self._coming: tuple[tuple[int, int], Future[_Mixed]] | None = None

    def batch(self, index: int) -> dict[str, Tensor]:
        """Batch number `index`: site to float32 `[B, D]`; row r is the same token at every site."""
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
        """None: shuffled rows have no place in the subject from which it could go on."""

    def _make_order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The blocks of an epoch in order, and at which row each chunk of them starts."""
        order = generator("block-order", self._data_seed, epoch).permutation(self._blocks)
        rows = self._source.rows[order]
        sizes = [rows[i : i + self._mix].sum() for i in range(0, len(order), self._mix)]
        return order, np.concatenate([[0], np.cumsum(sizes)])

    def _next_chunk(self, epoch: int, chunk: int) -> _Mixed:
        """A chunk, if need be waited for; the one after it is begun."""
        if self._reader is None:
            return self._read_chunk(epoch, chunk)
        coming, self._coming = self._coming, None
        if coming is not None and coming[0] == (epoch, chunk):
            mixed = coming[1].result()
        else:
            mixed = self._read_chunk(epoch, chunk)
        chunks = len(self._order(epoch)[1]) - 1
        after = (epoch, chunk + 1) if chunk + 1 < chunks else (epoch + 1, 0)
        self._coming = after, self._reader.submit(self._read_chunk, *after)
        return mixed

    def _read_chunk(self, epoch: int, chunk: int) -> _Mixed:
        order = self._order(epoch)[0]
        blocks = np.sort(order[chunk * self._mix : (chunk + 1) * self._mix])
        rows = self._source.read(blocks.tolist())
        count = int(self._source.rows[blocks].sum())
        shuffle = generator("row-order", self._data_seed, epoch, chunk).permutation(count)
        return _Mixed(rows, torch.from_numpy(shuffle))


def split_blocks(blocks: int, held_out: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Blocks to train on and blocks held out: the last ones, with one block left out in between.

    Neighbouring blocks of text can share a document; the block between keeps the two sides apart.
    """
    last = max(1, round(blocks * held_out))
    if blocks - last - 1 < 1:
        raise SpecError(
            f"{blocks} blocks cannot be split into training and held-out ones (held_out = "
            f"{held_out:g}); ask for more tokens or smaller blocks"
        )
    return np.arange(blocks - last - 1), np.arange(blocks - last, blocks)


def rows_of_split(
    rows: NDArray[np.int64], training: NDArray[np.int64], held_out: NDArray[np.int64]
) -> dict[str, int]:
    """How many rows are trained on and held out, of the rows of each block.

    Raises:
        SpecError: if none is, as of an expert that few rows are sent to.
    """
    counts = {
        "training_rows": int(rows[training].sum()),
        "held_out_rows": int(rows[held_out].sum()),
    }
    if 0 in counts.values():
        raise SpecError(
            f"the {len(training)} blocks to train on have {counts['training_rows']:,} rows and the "
            f"{len(held_out)} held out {counts['held_out_rows']:,}; both need some. Ask for more "
            "tokens, hold more out, or choose a site or positions with more rows."
        )
    return counts


class Data(NamedTuple):
    """What some runs learn from and are evaluated on."""

    source: BlockSource
    training: NDArray[np.int64]
    """blocks to train on"""
    held_out: NDArray[np.int64]
    places: Callable[[], TextPositions | None]
    """where held-out rows stand in the text; None if they stand in none"""
    on_disk: bool
    """whether its rows are read, so that reading ahead spares the training a wait"""
    pictures: Callable[[], Pictures | None] = lambda: None
    """where rows stand in pictures; None if they stand in none"""
