"""Documents as blocks of tokens, kept in the store.

L tokens in a block. Of a language model's activations some are left out: what they stand for is the
place in a sequence, not the text. Which ones, `TextSpec` says; here it is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.events import Events, Task
from reseed.spec.subject import TextSpec
from reseed.store import Store, file_bytes
from reseed.subjects.language.documents import Document, mended_in_words, shuffled_documents
from reseed.subjects.language.ids import ids_of, unknown_in_words, unknown_share
from reseed.subjects.language.tokenizer import Tokenizer

NO_DOCUMENT = -1
"""Document number of BOS, separators and padding."""


class TextPositions(Protocol):
    """Where the rows of a block stand in the text."""

    @property
    def length(self) -> int:
        """L, positions in a block."""
        ...

    def positions(self, block: int) -> NDArray[np.int64]:
        """[rows] position in the block of each kept row."""
        ...

    def tokens(self, block: int, first: int, last: int) -> list[str]:
        """Text of the tokens at positions first..last-1."""
        ...

    def documents(self, block: int) -> NDArray[np.int64]:
        """[L] number of the document at each position; -1 where there is none."""
        ...


class TextPlaces:
    """`TextPositions` of tokenised text."""

    def __init__(self, text: TokenBlocks, tokenizer: Tokenizer) -> None:
        self._text, self._tokenizer = text, tokenizer

    @property
    def length(self) -> int:
        """L, positions in a block."""
        return self._text.ids.shape[1]

    def positions(self, block: int) -> NDArray[np.int64]:
        """[rows] position in the block of each kept row."""
        return self._text.positions(block)

    def tokens(self, block: int, first: int, last: int) -> list[str]:
        """Text of the tokens at positions first..last-1."""
        return self._tokenizer.pieces(self._text.ids[block, first:last].tolist())

    def documents(self, block: int) -> NDArray[np.int64]:
        """[L] number of the document at each position; -1 where there is none."""
        return self._text.document[block].astype(np.int64)


@dataclass(frozen=True, slots=True)
class TokenBlocks:
    """Blocks of tokens, as they go through a language model."""

    ids: NDArray[np.uint32]
    """[blocks, L]"""
    document: NDArray[np.int32]
    """[blocks, L] row of `documents`, or -1 for BOS, separators and padding"""
    keep: NDArray[np.bool_]
    """[blocks, L] whether activations of this position are used"""
    rows: NDArray[np.int64]
    """[blocks] kept positions"""
    documents: pl.DataFrame
    """document, origin, label, tokens (in the blocks)"""
    about: dict[str, Any]
    """tokenizer, layout and counts"""

    @classmethod
    def open(cls, store: Store, name: str) -> TokenBlocks:
        """Read what `make_tokens` wrote."""
        arrays = store.tensors(name, "tokens.safetensors")
        keep = arrays["keep"].astype(np.bool_)
        return cls(
            ids=arrays["ids"],
            document=arrays["document"],
            keep=keep,
            rows=keep.sum(axis=1, dtype=np.int64),
            documents=store.table(name, "documents.parquet"),
            about=store.document(name, "about.json"),
        )

    @property
    def padded(self) -> bool:
        """Whether blocks end in padding, so that a forward pass needs a mask."""
        return self.about["layout"] == "padded"

    def positions(self, block: int) -> NDArray[np.int64]:
        """Kept positions of a block, ascending: row i of the block is position i of these."""
        return np.flatnonzero(self.keep[block])

    def row_documents(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """[rows of these blocks] the document of each row, -1 for a separator."""
        return self.document[blocks][self.keep[blocks]].astype(np.int64)

    def without(self, rows: NDArray[np.bool_]) -> TokenBlocks:
        """The same where these of all rows, `[sum of rows]`, are not used."""
        keep = self.keep.copy()
        keep[self.keep] = ~rows
        return replace(self, keep=keep, rows=keep.sum(axis=1, dtype=np.int64))

    def first(self, blocks: NDArray[np.int64], tokens: int) -> list[int]:
        """The first of these blocks with at least so many kept positions, or all."""
        before = np.cumsum(self.rows[blocks]) < tokens
        return blocks[: 1 + int(before.sum())].tolist()

    def attention(self, blocks: Sequence[int]) -> NDArray[np.bool_]:
        """[n, L] what is no padding."""
        real = self.document[list(blocks)] != NO_DOCUMENT
        real[:, 0] = True  # of a padded block: BOS or text
        return real


def make_tokens(
    spec: TextSpec,
    tokenizer: Tokenizer,
    tokens: int,
    store: Store,
    name: str,
    made_from: str,
    events: Events,
) -> None:
    """Write `ceil(tokens / L)` blocks as a piece of the store, for `TokenBlocks.open`.

    BOS, separators and padding count as tokens.

    Raises:
        SpecError: if the text is too short or the tokenizer lacks what the spec asks for.
        SubjectError: if a document cannot be read, or has ids that the model does not have.
    """
    blocks = -(-tokens // spec.block)
    rules = _Rules.of(spec, tokenizer)
    chat = tokenizer.chat if spec.special_tokens == "parse" else None
    with events.task("tokenise", blocks * spec.block, "tokens") as task:
        documents = shuffled_documents(spec, blocks * spec.block, chat)
        encoded = ids_of(documents, spec, tokenizer, blocks * rules.room)
        used, stream = _filled(encoded, rules, blocks, task)
    if mended := mended_in_words(used):
        events.say(mended)
    if len(stream.ids) < blocks * rules.room:
        raise SpecError(
            f"the text {spec.source!r} has {len(stream.ids) // rules.room * spec.block:,} tokens "
            f"in full blocks of {spec.block}, {tokens:,} were asked for; ask for fewer or add text."
        )
    arrays = rules.blocks(stream, blocks)
    table = _documents(used, arrays["document"])
    about = _about(spec, tokenizer, arrays, table.height)
    if lost := unknown_in_words(about):
        events.say(lost)
    files = {"tokens.safetensors": arrays, "documents.parquet": table, "about.json": about}
    with store.piece(name, made_from) as folder:
        for file, content in files.items():
            (folder / file).write_bytes(file_bytes(file, content))


class _Chunk(NamedTuple):
    """A stretch of the text part of blocks (without BOS)."""

    ids: NDArray[np.uint32]
    document: NDArray[np.int32]
    starts: NDArray[np.bool_]
    """whether this is the first token of its document"""


class _Rules(NamedTuple):
    """Which token stands where, and which positions are kept."""

    spec: TextSpec
    bos: int | None
    separator: int | None
    padding: int
    marks: list[int]
    """BOS and EOS; in a document they occur where its special tokens were read as such"""

    @classmethod
    def of(cls, spec: TextSpec, tokenizer: Tokenizer) -> _Rules:
        bos = tokenizer.eos if tokenizer.bos is None else tokenizer.bos
        if spec.bos and bos is None:
            raise SpecError(f"text.bos: {tokenizer.name} has neither BOS nor EOS; set it to false")
        separated = spec.separator and spec.layout == "packed"
        if separated and tokenizer.eos is None:
            raise SpecError(f"text.separator: {tokenizer.name} has no EOS; set it to false")
        # What stands at padding never matters: it is masked and left out.
        padding = next((i for i in (tokenizer.pad, tokenizer.eos) if i is not None), 0)
        marks = [id_ for id_ in (tokenizer.bos, tokenizer.eos) if id_ is not None]
        separator = tokenizer.eos if separated else None
        return cls(spec, bos if spec.bos else None, separator, padding, marks)

    @property
    def room(self) -> int:
        """Positions of a block that BOS leaves."""
        return self.spec.block - (self.bos is not None)

    def chunk(self, ids: NDArray[np.int64], number: int) -> _Chunk:
        """A document with what stands before it (separator) or after it (padding)."""
        before = [self.separator] if self.separator is not None and number > 0 else []
        after = [self.padding] * (-len(ids) % self.room) if self.spec.layout == "padded" else []
        stretch = np.array([*before, *ids, *after], np.uint32)
        text = slice(len(before), len(before) + len(ids))
        document = np.full(len(stretch), NO_DOCUMENT, np.int32)
        starts = np.zeros(len(stretch), np.bool_)
        document[text], starts[text][:1] = number, True
        return _Chunk(stretch, document, starts)

    def blocks(self, stream: _Chunk, blocks: int) -> dict[str, NDArray[Any]]:
        """The arrays of the piece: ids, document, keep, each `[blocks, L]`."""
        ids = self._with_bos(stream.ids.reshape(blocks, -1), self.bos or 0)
        document = self._with_bos(stream.document.reshape(blocks, -1), NO_DOCUMENT)
        starts = self._with_bos(stream.starts.reshape(blocks, -1), 0)
        keep = np.ones(ids.shape, np.bool_)
        if "special" in self.spec.exclude:
            keep &= (document != NO_DOCUMENT) & ~np.isin(ids, self.marks)
        if "first" in self.spec.exclude:
            keep[:, 0] = False
        if "border" in self.spec.exclude:
            keep &= ~starts
        if self.spec.layout == "padded":
            padding = document == NO_DOCUMENT
            padding[:, 0] &= self.bos is None
            keep &= ~padding
        return {"ids": ids, "document": document, "keep": keep.astype(np.uint8)}

    def _with_bos(self, text: NDArray[Any], value: int) -> NDArray[Any]:
        if self.bos is None:
            return text
        return np.concatenate([np.full((len(text), 1), value, text.dtype), text], axis=1)


def _filled(
    encoded: Iterable[tuple[Document, NDArray[np.int64]]], rules: _Rules, blocks: int, task: Task
) -> tuple[list[Document], _Chunk]:
    """Documents until the blocks are full, and the stream that they make; shorter if they end."""
    used, chunks = list[Document](), [rules.chunk(np.zeros(0, np.int64), 0)]
    length, wanted = 0, blocks * rules.room
    for number, (document, ids) in enumerate(encoded):
        used.append(replace(document, text="", ids=None))  # what it was made of is not kept
        chunks.append(rules.chunk(ids, number))
        length += len(chunks[-1].ids)
        task.advance(len(chunks[-1].ids))
        if length >= wanted:
            break
    return used, _Chunk(*(np.concatenate(c)[:wanted] for c in zip(*chunks, strict=True)))


def _documents(used: Sequence[Document], numbers: NDArray[np.int32]) -> pl.DataFrame:
    counts = np.bincount(numbers[numbers != NO_DOCUMENT], minlength=len(used))
    table = pl.DataFrame(
        {
            "document": np.arange(len(used), dtype=np.int32),
            "origin": [document.origin for document in used],
            "label": [document.label for document in used],
            "tokens": counts.astype(np.int64),
        },
        schema_overrides={"label": pl.String},
    )
    # The last document may have lost all its tokens to the cut (only its separator is left).
    return table.filter(pl.col("tokens") > 0)


def _about(
    spec: TextSpec, tokenizer: Tokenizer, arrays: dict[str, NDArray[Any]], documents: int
) -> dict[str, Any]:
    keep, document = arrays["keep"], arrays["document"]
    return {
        "tokenizer": {
            key: getattr(tokenizer, key) for key in ("name", "digest", "bos", "eos", "pad")
        },
        "layout": spec.layout,
        "block": spec.block,
        "blocks": len(keep),
        "tokens": int(keep.size),
        "text_tokens": int((document != NO_DOCUMENT).sum()),
        "kept": int(keep.sum()),
        "documents": documents,
        "exclude": sorted(spec.exclude),
        **unknown_share(arrays["ids"][document != NO_DOCUMENT], tokenizer),
    }
