"""Activations of a language model on blocks of tokens.

L tokens in a block, D dimensions of a site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.errors import SubjectError
from reseed.subjects.finite import first_bad_row
from reseed.subjects.language_model import LanguageModel
from reseed.subjects.tokens import NO_DOCUMENT, TokenBlocks


class TextSource:
    """A language model reading text, as a `BlockSource`; kept positions are rows.

    Every forward pass has the same shape, `[batch_blocks, L]`, so the rows of a block do not depend
    on which blocks are read with it (on one machine with one number of threads).

    Args:
        model: with its sites.
        tokens: what it reads.
        batch_blocks: blocks in one forward pass.

    Raises:
        SpecError: if blocks are longer than the model's context.
        SubjectError: if a site gives no vector for each token.
    """

    def __init__(self, model: LanguageModel, tokens: TokenBlocks, batch_blocks: int) -> None:
        model.check_block(tokens.ids.shape[1])
        self._model, self._tokens, self._batch = model, tokens, batch_blocks
        two = torch.from_numpy(tokens.ids[:1, :2].astype(np.int64))
        self._sites = {site: t.shape[2] for site, t in model.forward(two).items()}

    @property
    def sites(self) -> Mapping[str, int]:
        """Site name to D."""
        return self._sites

    @property
    def rows(self) -> NDArray[np.int64]:
        """[blocks] kept positions of each block."""
        return self._tokens.rows

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks; see `BlockSource.read`."""
        total = int(self.rows[list(blocks)].sum()) if len(blocks) else 0
        out = {site: torch.empty(total, d) for site, d in self._sites.items()}
        done = 0
        for start in range(0, len(blocks), self._batch):
            batch = [int(block) for block in blocks[start : start + self._batch]]
            keep = torch.from_numpy(self._tokens.keep[batch])
            stop = done + int(keep.sum())
            for site, activations in self._forward(batch).items():
                rows = activations[: len(batch)][keep.to(activations.device)]
                out[site][done:stop] = rows
                self._check(site, out[site][done:stop], batch)
            done = stop
        return out

    def _forward(self, batch: Sequence[int]) -> dict[str, Tensor]:
        # A smaller last batch would go through other kernels and round differently.
        filled = [*batch, *[batch[-1]] * (self._batch - len(batch))]
        ids = torch.from_numpy(self._tokens.ids[filled].astype(np.int64))
        if not self._tokens.padded:
            return self._model.forward(ids)
        return self._model.forward(ids, torch.from_numpy(self._tokens.attention(filled)))

    def _check(self, site: str, rows: Tensor, batch: Sequence[int]) -> None:
        bad = first_bad_row(rows)
        if bad is None:
            return
        ends = np.cumsum(self.rows[list(batch)])
        place = int(np.searchsorted(ends, bad, side="right"))
        block = batch[place]
        position = self._tokens.positions(block)[bad - int(ends[place] - self.rows[block])]
        number = int(self._tokens.document[block, position])
        origin = "no document (a special token)"
        if number != NO_DOCUMENT:
            origin = f"document {self._tokens.documents['origin'][number]}"
        raise SubjectError(
            f"site {site!r} of {self._model.name}: NaN or infinity in block {block} at position "
            f"{position}, {origin}. The weights may be damaged, or the numbers too large for the "
            "dtype of the subject; with bfloat16, try float32."
        )
