"""Activations on disk: shards with checksums, written once, memory-mapped afterwards.

And whether it pays to keep them. Importable without torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from reseed.errors import SpecError, StoreError
from reseed.events import Events, Task
from reseed.sae import Tensor, torch
from reseed.sae.arithmetic import arithmetic
from reseed.spec.analysis import ActivationSpec
from reseed.store import Store, json_bytes
from reseed.subjects.source import BlockSource, DerivedSource, WatchedSource

FOLDER = "activations"
INDEX = f"{FOLDER}/index"
TOKENS = "tokens"
"""Piece with what a language model reads."""

_MAPPED = 64
"""Shards that are mapped at a time."""

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

    A stream is a data seed whose runs are missing; shuffled controls count by themselves.
    """
    return streams * -(-tokens // max(training_rows, 1)) + 1


def choose(
    spec: ActivationSpec, *, rows: int, dimensions: int, passes: int, free_disk: int
) -> Choice:
    """Decide by size (`dimensions` summed over sites) and passes, unless the study says it."""
    disk = rows * dimensions * _BYTES[spec.dtype]
    size = f"{disk / 1e9:.2g} GB"
    if spec.cache is not None:
        return Choice("shards", f"they are shared through {spec.cache}", passes, disk)
    if spec.keep != "auto":
        return Choice(spec.keep, "the study says so", passes, disk)
    if passes <= 1:
        return Choice("live", "they are needed once", passes, disk)
    if disk > free_disk * _LARGEST_SHARE_OF_FREE_DISK:
        free = f"{free_disk / 1e9:.2g} GB"
        return Choice("live", f"shards would take {size} of {free} free disk", passes, disk)
    return Choice("shards", f"{passes} passes are needed and shards take {size}", passes, disk)


def shard_name(number: int) -> str:
    """Name of the piece that holds this shard."""
    return f"{FOLDER}/shard-{number:05d}"


def shard_names(blocks: int, spec: ActivationSpec) -> list[str]:
    """Names of all shards that so many blocks make."""
    return [shard_name(number) for number in range(-(-blocks // spec.shard_blocks))]


def harvested(store: Store, made_from: str) -> bool:
    """Whether the index and all its shards are there and were made from this."""
    index = f"{FOLDER}/index"
    if not store.has(index, made_from):
        return False
    about = store.document(index, "index.json")
    shards = -(-len(about["rows"]) // about["shard_blocks"])
    return all(store.has(shard_name(number), made_from) for number in range(shards))


def harvest(
    source: BlockSource,
    blocks: int,
    spec: ActivationSpec,
    store: Store,
    made_from: str,
    events: Events,
    change: Mapping[str, Any] | None = None,
    only: Collection[str] | None = None,
    device: str = "cpu",
) -> None:
    """Write the first blocks of a source to shards; what is there already is not made again.

    With `only`, names of shards, no others are written, and the index when all are there.

    A shard is rounded and written while the next one is read, so the rows of two are in memory.
    When the reading stops, for whatever reason, the shard before is still written whole.
    """
    index = f"{FOLDER}/index"
    if harvested(store, made_from):
        return
    rows, error = source.rows[:blocks], dict.fromkeys(source.sites, 0.0)
    starts = range(0, len(rows), spec.shard_blocks)
    parts = {
        number: range(first, min(first + spec.shard_blocks, len(rows)))
        for number, first in enumerate(starts)
    }
    mine = [number for number in parts if only is None or shard_name(number) in only]
    total = sum(int(rows[list(parts[number])].sum()) for number in mine)
    with (
        events.task("harvest", total, "tokens") as task,
        ThreadPoolExecutor(1, "shards") as writer,
    ):

        def finish(number: int, written: Future[None]) -> None:
            written.result()
            if number in there:
                task.advance(int(rows[list(parts[number])].sum()))

        there = set[int]()
        under_way: tuple[int, Future[None]] | None = None
        for number in mine:
            exact: dict[str, Tensor] = {}
            try:
                if store.has(shard_name(number), made_from):
                    there.add(number)
                else:
                    exact = _read(source, list(parts[number]), task)
            finally:
                # also when the reading failed: the shard before it is whole and counts
                if under_way is not None:
                    finish(*under_way)
            where = store, number, made_from, device
            written = writer.submit(_write_shard, exact, spec.dtype, *where)
            under_way = number, written
        if under_way is not None:
            finish(*under_way)
    if not all(store.has(shard_name(number), made_from) for number in parts):
        return
    for number in parts:
        for site, value in store.document(shard_name(number), "rounding.json").items():
            error[site] = max(error[site], value)
    about = {
        "sites": dict(source.sites),
        "rows": rows.tolist(),
        "shard_blocks": spec.shard_blocks,
        "dtype": spec.dtype,
        "largest_relative_rounding_error": error,
        **({} if change is None else {"change_from_float32": dict(change)}),
    }
    with store.piece(index, made_from) as folder:
        (folder / "index.json").write_bytes(json_bytes(about))


def _read(source: BlockSource, blocks: list[int], task: Task) -> dict[str, Tensor]:
    """Rows of a shard; of a source that says how far it is, the task shows that."""
    if isinstance(source, WatchedSource):
        return source.read_watched(blocks, task.advance)
    read = source.read(blocks)
    task.advance(int(source.rows[blocks].sum()))
    return read


def _write_shard(
    exact: Mapping[str, Tensor],
    dtype: str,
    store: Store,
    number: int,
    made_from: str,
    device: str = "cpu",
) -> None:
    if not exact:
        return  # it was there
    from safetensors.torch import save

    kept = _rounded(exact, dtype)
    rounding = {site: _rounding_error(exact[site], kept[site]) for site in kept}
    with store.piece(shard_name(number), made_from, arithmetic(device)) as folder:
        (folder / "rows.safetensors").write_bytes(save(kept))
        (folder / "rounding.json").write_bytes(json_bytes(rounding))


def _rounded(exact: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    kept = {site: x.to(getattr(torch, dtype)).contiguous() for site, x in exact.items()}
    for site, x in kept.items():
        if not bool(torch.isfinite(x).all()):
            raise SpecError(
                f"{site}: activations up to {float(exact[site].abs().max()):.3g} do not fit "
                f"{dtype}; set activations.dtype to 'bfloat16' or 'float32'"
            )
    return kept


def _rounding_error(exact: Tensor, kept: Tensor) -> float:
    """Root of the summed squared error over that of the values."""
    scale = float(exact.square().sum())
    return float((kept.float() - exact).square().sum() / scale) ** 0.5 if scale else 0.0


def rounded_source(source: BlockSource, dtype: str) -> BlockSource:
    """A source's rows as shards would give them back, so that keeping them makes no difference."""

    def change(rows: dict[str, Tensor], _: list[int]) -> dict[str, Tensor]:
        return {site: x.float() for site, x in _rounded(rows, dtype).items()}

    return DerivedSource(source, change)


class ShardSource:
    """Harvested shards as a `BlockSource`.

    Each shard's checksum is verified when it is first touched, or, if `hashed` is false, its size
    alone: of many processes one has hashed it, when it was made. Shards are memory-mapped and no
    rows are held: their pages belong to the system, which takes them back when it needs them. At
    most `_MAPPED` shards are mapped at a time, whatever the size of the harvest.
    """

    def __init__(self, store: Store, hashed: bool = True) -> None:
        self._store, self._hashed = store, hashed
        self._index: dict[str, Any] = store.document(f"{FOLDER}/index", "index.json")
        self.sites: Mapping[str, int] = self._index["sites"]
        self.rows: NDArray[np.int64] = np.asarray(self._index["rows"], dtype=np.int64)
        self._sound: set[int] = set()
        self._shard = lru_cache(_MAPPED)(self._map)  # an instance's own

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """[blocks] at which row of its shard a block starts."""
        size = self._index["shard_blocks"]
        ends = np.cumsum(self.rows)
        shard_start = np.concatenate([[0], ends])[(np.arange(len(ends)) // size) * size]
        return ends - self.rows - shard_start

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks, float32, in the order given."""
        size, at = self._index["shard_blocks"], 0
        total = int(self.rows[list(blocks)].sum()) if len(blocks) else 0
        out = {site: torch.empty(total, d) for site, d in self.sites.items()}
        for block in blocks:
            shard, count = self._shard(int(block) // size), int(self.rows[block])
            first = int(self._starts[block])
            for site, x in out.items():
                x[at : at + count] = shard[site][first : first + count]
            at += count
        return out

    def _map(self, number: int) -> Mapping[str, Tensor]:
        path = self._store.path(shard_name(number)) / "rows.safetensors"
        if number not in self._sound:
            check = self._store.checked if self._hashed else self._store.sized
            path = check(shard_name(number), "rows.safetensors")
            self._sound.add(number)
        try:
            with safe_open(path, "pt") as file:  # pyright: ignore[reportUnknownVariableType]
                return {site: file.get_tensor(site) for site in self.sites}
        except Exception as error:
            raise StoreError(
                f"{path} cannot be read ({error}). Delete its folder and run again; only this "
                "shard is harvested again."
            ) from error
