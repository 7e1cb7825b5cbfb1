"""The one pass over held-out rows: read a chunk of blocks, encode it, feed it to accumulators.

N rows of a chunk, K codes of a row, F latents, L positions of a block.

Pairs for co-firing and its null are chosen by all firing, so it comes after, from kept codes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from reseed.errors import SubjectError
from reseed.events import Events
from reseed.evidence.display.strengths import Strengths
from reseed.evidence.distance import ErrorByDistance
from reseed.formats import own
from reseed.matching import codes as sparse_codes
from reseed.records import is_transcoder
from reseed.sae import Tensor, torch
from reseed.sae.arithmetic import refuse_tf32
from reseed.sae.codes import Codes
from reseed.sae.model import SAE, from_arrays
from reseed.store import Store
from reseed.subjects.source import CHUNK, BlockSource, Chunk, read_over

Integers = NDArray[np.int64]


class Device:
    """Where the SAEs of a pass compute. Those that fit stay; others come again for each chunk.

    Args:
        name: as torch names it.
        room: bytes for those that stay; left out, half of what is free on a GPU.

    Raises:
        SpecError: if float32 products are rounded there.
    """

    def __init__(self, name: str, room: float | None = None) -> None:
        refuse_tf32(name)
        self.name, self._there = name, dict[int, tuple[SAE, SAE]]()
        if room is None:
            on_gpu = torch.device(name).type == "cuda"
            room = torch.cuda.mem_get_info(name)[0] / 2 if on_gpu else float("inf")
        self._room = room

    def copy(self, sae: SAE) -> SAE:
        """An SAE there."""
        if id(sae) in self._there:
            return self._there[id(sae)][1]
        copy, size = sae.to(self.name), sae.W_enc.nbytes + sae.W_dec.nbytes
        if size <= self._room:
            self._room -= size
            self._there[id(sae)] = sae, copy  # both, so that no other takes its place in memory
        return copy


class Reader(NamedTuple):
    """An SAE and where it reads."""

    sae: SAE
    """on the CPU"""
    site: str
    device: Device | None = None
    """where it computes, if not on the CPU; what comes back is there again"""

    def encode(self, rows: Tensor) -> Codes:
        """Codes of rows `[N, D]`."""
        if self.device is None:
            return self.sae.encode_sparse(rows)
        codes = self.device.copy(self.sae).encode_sparse(rows)
        return Codes(codes.values.cpu(), codes.latents.cpu())

    def rebuild(self, rows: Tensor, codes: Codes) -> Tensor:
        """What it makes of rows whose codes are there already, `[N, E]`."""
        if self.device is None:
            return self.sae.rebuild(rows, codes)
        sae = self.device.copy(self.sae)
        there = Codes(*(part.to(sae.W_dec.device) for part in codes))
        return sae.rebuild(rows, there).cpu()

    def reconstruct(self, rows: Tensor) -> Tensor:
        """The same of rows anywhere; where it computes."""
        sae = self.sae if self.device is None else self.device.copy(self.sae)
        return sae.reconstruct(rows)


def readers_of(sites: Mapping[str, str], store: Store, device: str = "cpu") -> dict[str, Reader]:
    """The SAEs of finished runs, given the site that each reads, for a device."""
    there = device_of(device)
    return {
        run: Reader(from_arrays(own.read_piece(store, f"runs/{run}")), site, there)
        for run, site in sites.items()
    }


def device_of(name: str) -> Device | None:
    """The device of this name; None for the CPU."""
    return None if name == "cpu" else Device(name)


class Encoded:
    """A chunk of rows as some SAEs encode it; each encodes it once, when it is first asked."""

    def __init__(self, chunk: Chunk, readers: Mapping[str, Reader]) -> None:
        self.chunk, self._readers = chunk, readers
        self._codes: dict[str, Codes] = {}
        self._sparse: dict[str, sparse_codes.Codes] = {}

    def rows(self, name: str) -> Tensor:
        """`[N, D]` what an SAE reads."""
        return self.chunk.rows[self._readers[name].site]

    def codes(self, name: str) -> Codes:
        """What an SAE makes of its rows."""
        if name not in self._codes:
            with torch.no_grad():
                self._codes[name] = self._readers[name].encode(self.rows(name))
        return self._codes[name]

    def sparse(self, name: str) -> sparse_codes.Codes:
        """The same as a sparse matrix `[N, F]` in float64."""
        if name not in self._sparse:
            codes, width = self.codes(name), self._readers[name].sae.latents
            self._sparse[name] = sparse_codes.from_entries(*codes, width, name)
        return self._sparse[name]

    def rebuilt(self, name: str) -> Tensor:
        """`[N, E]` what an SAE reconstructs."""
        with torch.no_grad():
            return self._readers[name].rebuild(self.rows(name), self.codes(name))


class KeptCodes:
    """Codes of the first chunks of a pass, for what can be counted only after it.

    Those of all these SAEs of a chunk or of none, and none after a chunk that had no room.

    Args:
        names: of the SAEs.
        room: bytes; an entry takes 8, a row 8.
    """

    def __init__(self, names: Collection[str] = (), room: float = 2.0**30) -> None:
        self._names, self._room, self.blocks = set(names), room, 0
        self._chunks: list[dict[str, sparse_codes.Codes]] = []

    def take(self, chunk: Encoded) -> None:
        """Keep what the SAEs made of the next chunk, if there is room."""
        if self._room <= 0 or not self._names:
            return
        codes = {n: _in(chunk.sparse(n), np.float32, np.int32) for n in self._names}
        self._room -= sum(8 * (part.nnz + part.shape[0]) for part in codes.values())
        if self._room > 0:
            self._chunks.append(codes)
            self.blocks += len(chunk.chunk.blocks)

    def of(self, names: Collection[str]) -> Iterator[dict[str, sparse_codes.Codes]]:
        """Chunk by chunk what these SAEs made; nothing if they are not among those."""
        if self._names.issuperset(names):
            for chunk in self._chunks:
                yield {name: _in(chunk[name], np.float64, np.int64) for name in names}


def _in(codes: sparse_codes.Codes, floats: Any, integers: Any) -> sparse_codes.Codes:
    parts = codes.data.astype(floats), codes.indices.astype(integers), codes.indptr
    return csr_array(parts, shape=codes.shape)


def feed(
    add: Callable[[Encoded], None],
    readers: Mapping[str, Reader],
    source: BlockSource,
    blocks: Sequence[int] | Integers,
    events: Events,
    name: str,
    *,
    unit: str = "tokens",
    size: int = CHUNK,
) -> None:
    """Read and encode these blocks once, chunk by chunk; see `read_over`."""
    read_over(
        source, blocks, lambda c: add(Encoded(c, readers)), events, name, unit=unit, size=size
    )


class Fired(NamedTuple):
    """What fires in some blocks: the active entries of their codes, by row."""

    place: Integers
    """place of the block among these blocks"""
    position: Integers
    """in the block"""
    latent: Integers
    value: NDArray[np.float32]
    """above 0"""

    def at(self, index: NDArray[np.bool_] | Integers | slice) -> Fired:
        """Some of the entries, by place or mask."""
        return Fired(self.place[index], self.position[index], self.latent[index], self.value[index])


def active_entries(codes: Codes) -> tuple[Integers, Integers, NDArray[np.float32]]:
    """Row, latent and value of all codes above 0, by row."""
    values = codes.values.float().numpy()
    fires = values > 0
    return np.nonzero(fires)[0], codes.latents.numpy()[fires], values[fires]


def entries_of(codes: Codes, blocks: Integers, kept: Callable[[int], Integers]) -> Fired:
    """What fires where, from the codes of all kept rows of these blocks, in order."""
    positions = [kept(int(block)) for block in blocks]
    place = np.repeat(np.arange(len(blocks)), [len(part) for part in positions])
    row, latents, values = active_entries(codes)
    return Fired(place[row], np.concatenate(positions)[row], latents, values)


class Firing:
    """How often and how strongly each latent fires, and how well the SAE reconstructs.

    Sums over rows; two of them over different rows add up to the whole.
    """

    def __init__(self, latents: int) -> None:
        self.rows = 0
        self.strengths = Strengths(latents)
        self._error = ErrorByDistance()

    def add(self, x: Tensor, codes: Codes, reconstruction: Tensor) -> None:
        """Take in more rows, `[N, D]`, their codes and what these reconstruct."""
        self.rows += len(x)
        self.strengths.add(codes.latents, codes.values)
        self._error.add(x, reconstruction)

    def table(self) -> pl.DataFrame:
        """Columns latent, fired (rows), rate, mean_act (when it fires), max_act."""
        fired = self.strengths.fired
        return pl.DataFrame(
            {
                "latent": np.arange(len(fired)),
                "fired": fired,
                "rate": fired / max(self.rows, 1),
                "mean_act": self.strengths.total / np.maximum(fired, 1),
                "max_act": self.strengths.largest,
            }
        )

    def reconstruction(
        self, of: str = "held-out rows", more: str = "raise activations.held_out"
    ) -> dict[str, float | int | None]:
        """rows, l0 (latents that fire in a row), what `ErrorByDistance` has; `more` if none has."""
        numbers = self._error.numbers() if self.rows else {"fvu": None}
        if numbers["fvu"] is None:
            raise SubjectError(
                f"the {self.rows:,} {of} are all alike, so there is no variance to explain; look "
                f"at the end of the data, or {more}"
            )
        l0 = float(self.strengths.fired.sum()) / max(self.rows, 1)
        return {"rows": self.rows, **numbers, "l0": l0}


def firing_of(
    readers: Mapping[str, Reader],
    source: BlockSource,
    blocks: Sequence[int] | Integers,
    events: Events,
    name: str,
    *,
    unit: str = "tokens",
    size: int = CHUNK,
) -> dict[str, Firing]:
    """The firing of each SAE over these blocks, in one pass; arguments as for `feed`.

    The error of a transcoder is NaN: it writes another site, whose rows are not read.
    """
    sums = {key: Firing(reader.sae.latents) for key, reader in readers.items()}

    def add(chunk: Encoded) -> None:
        for key, reader in readers.items():
            x, away = chunk.rows(key), is_transcoder(reader.sae)
            made = torch.full_like(x, torch.nan) if away else chunk.rebuilt(key)
            sums[key].add(x, chunk.codes(key), made)

    feed(add, readers, source, blocks, events, name, unit=unit, size=size)
    return sums
