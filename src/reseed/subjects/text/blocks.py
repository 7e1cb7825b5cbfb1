"""Activations of a language model on blocks of tokens.

L tokens in a block, D dimensions of a site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.errors import SubjectError
from reseed.subjects.models.language_model import LanguageModel
from reseed.subjects.source import first_bad_row
from reseed.subjects.text.tokens import NO_DOCUMENT, TokenBlocks

_POSITIONS = 256
"""In one forward pass over short blocks; more are not faster on a processor."""

_READ_TOGETHER = 64
"""Blocks that are usually read together at the least."""


class Pass(NamedTuple):
    """One forward pass."""

    places: list[int]
    """which of the blocks asked for"""
    blocks: int
    """in the pass; where it is more than `places`, the last is repeated"""
    length: int
    """positions of each"""


class TextSource:
    """A language model reading text, as a `BlockSource`; kept positions are rows.

    Padding is never computed: a padded block is read at its own length, together with blocks of
    that length only. Every pass over blocks of one length has the same shape, which length and text
    decide, so the rows of a block do not depend on which blocks are read with it (on one machine
    with one number of threads). Blocks without padding have one length, L, and `batch_blocks` of
    them go through in a pass.

    Args:
        model: with its sites.
        tokens: what it reads.
        batch_blocks: blocks in one forward pass at the most.
        padded: read padded blocks at full length under a mask, the plain way; the rows are equal up
            to rounding.

    Raises:
        SpecError: if blocks are longer than the model's context.
        SubjectError: if a site gives no vector for each token.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokens: TokenBlocks,
        batch_blocks: int,
        *,
        padded: bool = False,
    ) -> None:
        model.check_block(tokens.ids.shape[1])
        self._model, self._tokens, self._batch = model, tokens, batch_blocks
        self._masked = padded and tokens.padded
        self._lengths = _lengths(tokens) if tokens.padded and not padded else None
        self._blocks_of_length = None if self._lengths is None else np.bincount(self._lengths)
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

    def passes(self, blocks: Sequence[int]) -> list[Pass]:
        """The forward passes that read these blocks."""
        whole = self._tokens.ids.shape[1]
        if self._lengths is None:
            return _passes(range(len(blocks)), self._batch, whole)
        lengths = self._lengths[list(blocks)]
        return [
            one
            for length in np.unique(lengths).tolist()
            for one in _passes(
                np.flatnonzero(lengths == length).tolist(), self._together(length), length
            )
        ]

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks; see `BlockSource.read`."""
        numbers = [int(block) for block in blocks]
        ends = np.cumsum(self.rows[numbers]) if numbers else np.zeros(0, np.int64)
        total = int(ends[-1]) if numbers else 0
        out = {site: torch.empty(total, d) for site, d in self._sites.items()}
        for one in self.passes(numbers):
            read = self._forward([numbers[place] for place in one.places], one)
            for site, activations in read.items():
                for sequence, place in zip(activations, one.places, strict=False):
                    block, end = numbers[place], int(ends[place])
                    keep = torch.from_numpy(self._tokens.keep[block, : one.length])
                    rows = sequence[keep.to(sequence.device)]
                    self._check(site, rows, block)
                    out[site][end - len(rows) : end] = rows
        return out

    def _together(self, length: int) -> int:
        """Blocks of this length in one pass: no more than usually meet, and at least one."""
        assert self._blocks_of_length is not None
        share = self._blocks_of_length[length] / len(self.rows)
        expected = int(share * _READ_TOGETHER / 2)
        return max(1, min(self._batch, _POSITIONS // length, expected))

    def _forward(self, batch: Sequence[int], one: Pass) -> dict[str, Tensor]:
        # A smaller last batch would go through other kernels and round differently.
        filled = [*batch, *[batch[-1]] * (one.blocks - len(batch))]
        ids = torch.from_numpy(self._tokens.ids[filled, : one.length].astype(np.int64))
        if not self._masked:
            return self._model.forward(ids)
        return self._model.forward(ids, torch.from_numpy(self._tokens.attention(filled)))

    def _check(self, site: str, rows: Tensor, block: int) -> None:
        bad = first_bad_row(rows)
        if bad is None:
            return
        position = self._tokens.positions(block)[bad]
        number = int(self._tokens.document[block, position])
        origin = "no document (a special token)"
        if number != NO_DOCUMENT:
            origin = f"document {self._tokens.documents['origin'][number]}"
        raise SubjectError(
            f"site {site!r} of {self._model.name}: NaN or infinity in block {block} at position "
            f"{position}, {origin}. The weights may be damaged, or the numbers too large for the "
            "dtype of the subject; with bfloat16, try float32."
        )


def _lengths(tokens: TokenBlocks) -> NDArray[np.int64]:
    """[blocks] positions before the padding; it only stands at the end."""
    real = tokens.attention(range(len(tokens.rows)))
    return real.shape[1] - real[:, ::-1].argmax(axis=1)


def _passes(places: Sequence[int], size: int, length: int) -> list[Pass]:
    return [
        Pass(list(places[first : first + size]), size, length)
        for first in range(0, len(places), size)
    ]
