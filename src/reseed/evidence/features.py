"""How strongly each latent fires in each document, for probing.

Documents that lie in training blocks and in held-out ones are of neither side, so that no text is
on both. Read without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from reseed.errors import SpecError
from reseed.events import Events
from reseed.evidence.rows import Encoded, Integers, active_entries, feed, readers_of
from reseed.sae.arithmetic import arithmetic
from reseed.store import Store, file_bytes
from reseed.subjects.source import BlockSource

Statistic = Literal["max", "mean"]
"""Of the activations over the kept tokens of a document, silent ones counted as 0."""

_ENTRY = {"key": pl.Int64, "max": pl.Float32, "sum": pl.Float64}


def features_name(run: str) -> str:
    """Name of the piece with the document features of a run."""
    return f"features/{run}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentFeatures:
    """Latents of one run over documents."""

    documents: pl.DataFrame
    """document, origin, label (null if unknown), rows (kept tokens), side: "training" or
    "held_out" as the SAE saw it, "both" where a document lies across the border"""
    max: csr_array
    """[documents, F] largest activation"""
    mean: csr_array
    """[documents, F] mean activation over the kept tokens"""

    def matrix(self, statistic: Statistic, latents: Sequence[int]) -> NDArray[np.float32]:
        """[documents, len(latents)] dense columns of some latents."""
        sparse = self.max if statistic == "max" else self.mean
        bad = [n for n in latents if not 0 <= n < sparse.shape[1]]
        if bad:
            raise SpecError(f"latent {bad[0]}: this run has latents 0 to {sparse.shape[1] - 1}")
        return sparse.tocsc()[:, list(latents)].toarray().astype(np.float32)


class Labelled(Protocol):
    """What rows belong to: documents of a text, samples of a module."""

    @property
    def rows(self) -> Integers:
        """[blocks] rows of each block."""
        ...

    @property
    def documents(self) -> pl.DataFrame:
        """One row for each: document (its number), origin, label."""
        ...

    def row_documents(self, blocks: Integers) -> Integers:
        """[rows of these blocks] number of the document of each row; -1 for none."""
        ...


class FeatureSums:
    """Largest activation and sum of each latent in each document; adds up in any order.

    Entries are merged whenever they have doubled, so memory follows the distinct pairs of document
    and latent, not the tokens.
    """

    def __init__(self, documents: int, latents: int) -> None:
        self._shape = (documents, latents)
        self._parts = [_grouped(pl.DataFrame(schema=_ENTRY))]
        self._merged = self._pending = 0

    def add(self, document: Integers, latent: Integers, value: NDArray[np.float32]) -> None:
        """Take in activations above 0, `[n]` each."""
        frame = pl.DataFrame({"key": document * self._shape[1] + latent, "max": value})
        grouped = frame.with_columns(pl.col("max").cast(pl.Float64).alias("sum"))
        self._parts.append(_grouped(grouped))
        self._pending += len(self._parts[-1])
        if self._pending > max(self._merged, 1 << 16):
            self._merge()

    def arrays(self) -> tuple[csr_array, csr_array]:
        """Largest and sum, `[documents, F]`, float32."""
        self._merge()
        entries = self._parts[0].sort("key")
        pair = np.divmod(entries["key"].to_numpy(), self._shape[1])
        values = entries["max"].to_numpy(), entries["sum"].to_numpy().astype(np.float32)
        largest, total = (csr_array((v, pair), shape=self._shape) for v in values)
        return largest, total

    def _merge(self) -> None:
        if len(self._parts) > 1:
            self._parts = [_grouped(pl.concat(self._parts))]
        self._merged, self._pending = sum(map(len, self._parts)), 0


def _grouped(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.group_by("key", maintain_order=True).agg(pl.col("max").max(), pl.col("sum").sum())


def _files(sums: FeatureSums, table: pl.DataFrame) -> dict[str, Any]:
    largest, total = sums.arrays()
    rows = np.repeat(np.maximum(table["rows"].to_numpy(), 1), np.diff(total.indptr))
    arrays = {
        "indptr": largest.indptr.astype(np.int64),
        "indices": largest.indices.astype(np.int32),
        "max": largest.data,
        "mean": total.data / rows.astype(np.float32),
        "latents": np.array([largest.shape[1]], dtype=np.int64),
    }
    return {"features.safetensors": arrays, "documents.parquet": table}


def read_features(store: Store, run: str) -> DocumentFeatures:
    """What `gather_features` wrote."""
    arrays = store.tensors(features_name(run), "features.safetensors")
    documents = store.table(features_name(run), "documents.parquet")
    shape = (len(documents), int(arrays["latents"][0]))
    pattern = (arrays["indices"], arrays["indptr"])
    largest, mean = (csr_array((arrays[n], *pattern), shape=shape) for n in ("max", "mean"))
    return DocumentFeatures(documents=documents, max=largest, mean=mean)


def gather_features(
    runs: Mapping[str, str],
    source: BlockSource,
    tokens: Labelled,
    training: Integers,
    held_out: Integers,
    store: Store,
    made_from: Mapping[str, str],
    events: Events,
) -> None:
    """Make the document features of these runs.

    Memory holds the SAEs, one chunk of rows and, for each run, its distinct pairs of document and
    latent.
    """
    blocks = np.concatenate([training, held_out])
    if not np.array_equal(source.rows[blocks], tokens.rows[blocks]):
        raise SpecError("the activations have other rows than the text keeps tokens; harvest again")
    readers = readers_of(runs, store)
    place, table = _documents(tokens, training, held_out)
    sums = {run: FeatureSums(len(table), reader.sae.latents) for run, reader in readers.items()}

    def add(chunk: Encoded) -> None:
        numbers = chunk.chunk.blocks
        document = place[tokens.row_documents(numbers)]
        for run in runs:
            row, latents, values = active_entries(chunk.codes(run))
            known = document[row] >= 0  # a separator that is kept is of no document
            sums[run].add(document[row][known], latents[known], values[known])

    feed(add, readers, source, blocks, events, "document features")
    for run in runs:
        with store.piece(features_name(run), made_from[run], arithmetic()) as folder:
            for file, content in _files(sums[run], table).items():
                (folder / file).write_bytes(file_bytes(file, content))


def _documents(
    tokens: Labelled, training: Integers, held_out: Integers
) -> tuple[Integers, pl.DataFrame]:
    """Document number to its place in the table, -1 for none (last entry too); and the table."""
    documents = tokens.documents.select("document", "origin", "label")
    numbers = documents["document"].to_numpy().astype(np.int64)
    place = np.full(int(numbers.max(initial=-1)) + 2, -1, dtype=np.int64)
    place[numbers] = np.arange(len(numbers))

    def rows(blocks: Integers) -> Integers:
        kept = place[tokens.row_documents(blocks)]
        return np.bincount(kept[kept >= 0], minlength=len(numbers))

    learned, unseen = rows(training), rows(held_out)
    side = np.where(learned > 0, np.where(unseen > 0, "both", "training"), "held_out")
    table = documents.with_columns(pl.Series("rows", learned + unseen), pl.Series("side", side))
    # what lies in the block between both sides, or has no row, was seen by nobody
    there = (learned + unseen) > 0
    place[numbers] = np.where(there, np.cumsum(there) - 1, -1)
    return place, table.filter(there)
