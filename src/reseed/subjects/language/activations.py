"""Activations of a language model on blocks of tokens, and what another format than float32 does.

L tokens in a block, D dimensions of a site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.errors import SubjectError
from reseed.events import Events
from reseed.spec.subject import PRECISION, LanguageModelSpec
from reseed.store import Store, json_bytes
from reseed.subjects.language.blocks import NO_DOCUMENT, TokenBlocks
from reseed.subjects.language.model import LanguageModel, load_language_model
from reseed.subjects.source import BlockSource, first_bad_row

_POSITIONS = 256
"""In one forward pass over short blocks; more are not faster on a processor."""

_READ_TOGETHER = 64
"""Blocks that are usually read together at the least."""

_COMPARED = 4
"""Blocks that are read in float32 too."""


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
    them go through in a pass. With `padded` padded blocks are read at full length under a mask, the
    plain way; the rows are equal up to rounding.
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
        self.sites: Mapping[str, int] = {s: t.shape[2] for s, t in model.forward(two).items()}
        self.rows: NDArray[np.int64] = tokens.rows

    def passes(self, blocks: Sequence[int]) -> list[Pass]:
        """The forward passes that read these blocks."""
        if self._lengths is None:
            return _passes(range(len(blocks)), self._batch, self._tokens.ids.shape[1])
        lengths, out = self._lengths[list(blocks)], list[Pass]()
        for length in np.unique(lengths).tolist():
            places = np.flatnonzero(lengths == length).tolist()
            out += _passes(places, self._together(length), length)
        return out

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks; see `BlockSource.read`."""
        numbers = [int(block) for block in blocks]
        ends = np.cumsum(self.rows[numbers]) if numbers else np.zeros(0, np.int64)
        total = int(ends[-1]) if numbers else 0
        out = {site: torch.empty(total, d) for site, d in self.sites.items()}
        for pass_ in self.passes(numbers):
            read = self._forward([numbers[place] for place in pass_.places], pass_)
            for site, activations in read.items():
                for sequence, place in zip(activations, pass_.places, strict=False):
                    block, end = numbers[place], int(ends[place])
                    keep = torch.from_numpy(self._tokens.keep[block, : pass_.length])
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

    def _forward(self, batch: Sequence[int], pass_: Pass) -> dict[str, Tensor]:
        # A smaller last batch would go through other kernels and round differently.
        filled = [*batch, *[batch[-1]] * (pass_.blocks - len(batch))]
        ids = torch.from_numpy(self._tokens.ids[filled, : pass_.length].astype(np.int64))
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


def change_from_float32(
    spec: LanguageModelSpec, source: BlockSource, text: TokenBlocks
) -> dict[str, Any] | None:
    """Read a few blocks in float32 too; the second model is in memory only meanwhile.

    Returns:
        `dtype`, `rows` that were compared, and for each of `sites`: `relative_rmse`, the root of
        the summed squared difference over that of the float32 activations, and `smallest_cosine`
        of a row with its float32 twin. None if the subject computes in float32.
    """
    if spec.dtype == "float32":
        return None
    there = np.flatnonzero(text.rows)
    few = np.unique(there[np.linspace(0, len(there) - 1, _COMPARED).round().astype(np.int64)])
    sites = list(source.sites)
    twin = load_language_model(spec.model_copy(update={"dtype": "float32"}), sites)
    exact = TextSource(twin, text, 1).read(few.tolist())
    own = source.read(few.tolist())
    return {
        "dtype": spec.dtype,
        "rows": int(text.rows[few].sum()),
        "sites": {site: _compared(exact[site], own[site]) for site in sites},
    }


def kept_change(
    spec: LanguageModelSpec,
    source: BlockSource,
    text: TokenBlocks,
    store: Store,
    made_from: str,
    events: Events,
) -> dict[str, Any] | None:
    """`change_from_float32`, measured and said once, and kept in the piece `PRECISION`."""
    if store.has(PRECISION, made_from):
        return store.document(PRECISION, "change.json")
    change = change_from_float32(spec, source, text)
    if change is not None:
        events.say(change_in_words(change))
        with store.piece(PRECISION, made_from) as folder:
            (folder / "change.json").write_bytes(json_bytes(change))
    return change


def _compared(exact: Tensor, own: Tensor) -> dict[str, float]:
    scale = float(exact.square().sum())
    error = float((own - exact).square().sum())
    cosines = torch.nn.functional.cosine_similarity(exact, own, dim=1)
    cosines = cosines.masked_fill((exact == own).all(dim=1), 1.0)  # rows of zeros too
    return {
        "relative_rmse": (error / scale) ** 0.5 if scale else float(error > 0),
        "smallest_cosine": float(cosines.min()),
    }


def change_in_words(change: dict[str, Any]) -> str:
    """One line for people."""
    sites = "; ".join(
        f"{site} {by['relative_rmse']:.2%} (smallest cosine of a row {by['smallest_cosine']:.4f})"
        for site, by in change["sites"].items()
    )
    return (
        f"{change['dtype']} changes the activations, against float32 on {change['rows']:,} tokens, "
        f"by (relative root-mean-square error) {sites}"
    )
