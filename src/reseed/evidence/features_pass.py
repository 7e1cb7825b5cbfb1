"""One pass over all blocks of a text: the features of every document, for several runs at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from reseed.errors import SpecError
from reseed.events import Events
from reseed.evidence.features import (
    DocumentFeatures,
    FeatureSums,
    features_name,
    write_features,
)
from reseed.formats import own
from reseed.sae.kernels import Codes
from reseed.sae.model import from_arrays
from reseed.store import Store
from reseed.subjects.source import BlockSource
from reseed.subjects.tokens import TokenBlocks

_CHUNK = 32


def gather_features(
    runs: Mapping[str, str],
    source: BlockSource,
    tokens: TokenBlocks,
    training: NDArray[np.int64],
    held_out: NDArray[np.int64],
    store: Store,
    made_from: Mapping[str, str],
    events: Events,
) -> None:
    """Make the document features of these runs.

    Memory holds the SAEs, one chunk of rows and, for each run, its distinct pairs of document and
    latent (`features_bytes`).

    Args:
        runs: id of each finished run to its site.
        source: of the activations.
        tokens: which document each row belongs to.
        training: blocks that the runs learned from.
        held_out: blocks that they did not.
        store: of the study.
        made_from: digest for each run.
        events: progress.

    Raises:
        SpecError: if rows of the source are not those of the text.
        StoreError: if a run or the activations are damaged.
    """
    blocks = np.concatenate([training, held_out])
    if not np.array_equal(source.rows[blocks], tokens.rows[blocks]):
        raise SpecError("the activations have other rows than the text keeps tokens; harvest again")
    saes = {run: from_arrays(own.read_piece(store, f"runs/{run}")) for run in runs}
    place, table = _documents(tokens, training, held_out)
    sums = {run: FeatureSums(len(table), sae.latents) for run, sae in saes.items()}
    with events.task("document features", int(source.rows[blocks].sum()), "tokens") as task:
        for first in range(0, len(blocks), _CHUNK):
            chunk = blocks[first : first + _CHUNK]
            x = source.read(chunk.tolist())
            document = place[tokens.document[chunk][tokens.keep[chunk]]]
            for run, sae in saes.items():
                with torch.no_grad():
                    _add(sums[run], sae.encode_sparse(x[runs[run]]), document)
            task.advance(len(document))
    for run in runs:
        with store.piece(features_name(run), made_from[run]) as folder:
            write_features(folder, _features(sums[run], table))


def _add(sums: FeatureSums, codes: Codes, document: NDArray[np.int64]) -> None:
    """Rows of no document (a separator that is kept) count nowhere."""
    fires = codes.values > 0
    row = torch.nonzero(fires)[:, 0].numpy()
    of = document[row]
    latents, values = codes.latents[fires].numpy(), codes.values[fires].float().numpy()
    known = of >= 0
    sums.add(of[known], latents[known], values[known])


def _documents(
    tokens: TokenBlocks, training: NDArray[np.int64], held_out: NDArray[np.int64]
) -> tuple[NDArray[np.int64], pl.DataFrame]:
    """Document number to its place in the table, -1 for none (last entry too); and the table."""
    numbers = tokens.documents["document"].to_numpy().astype(np.int64)
    place = np.full(int(numbers.max(initial=-1)) + 2, -1, dtype=np.int64)
    place[numbers] = np.arange(len(numbers))

    def rows(blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        kept = place[tokens.document[blocks][tokens.keep[blocks]]]
        return np.bincount(kept[kept >= 0], minlength=len(numbers))

    learned, unseen = rows(training), rows(held_out)
    side = np.where(learned > 0, np.where(unseen > 0, "both", "training"), "held_out")
    table = tokens.documents.select("document", "origin", "label").with_columns(
        pl.Series("rows", learned + unseen), pl.Series("side", side)
    )
    return place, table


def _features(sums: FeatureSums, table: pl.DataFrame) -> DocumentFeatures:
    largest, total = sums.arrays()
    rows = np.repeat(np.maximum(table["rows"].to_numpy(), 1), np.diff(total.indptr))
    mean = csr_array(
        (total.data / rows.astype(np.float32), total.indices, total.indptr), total.shape
    )
    return DocumentFeatures(documents=table, max=largest, mean=mean)
