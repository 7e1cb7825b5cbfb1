"""Token ids of documents, checked against what the model has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SubjectError
from reseed.spec.subject import TextSpec
from reseed.subjects.language.corpus import reads_ids
from reseed.subjects.language.documents import Document
from reseed.subjects.language.tokenizer import Tokenizer

_LOST = 0.1
"""Share of unknown tokens from which on that is said."""

_BATCH = 256
"""Documents that are tokenised together."""

_PIECE = 1 << 20
"""Characters that are tokenised together; a tokenizer takes sixty times as many bytes."""


def ids_of(
    documents: Iterable[Document], spec: TextSpec, tokenizer: Tokenizer, most: int
) -> Iterator[tuple[Document, NDArray[np.int64]]]:
    """Documents with their ids, at most this many; those without any token are left out."""
    parse = spec.special_tokens == "parse"
    own_bos = tokenizer.bos if spec.bos and (parse or reads_ids(spec)) else None
    for document, ids in _tokenised(documents, tokenizer, parse, most):
        if document.ids is not None:
            ids = _without_padding(ids, tokenizer)
        _check_ids(document, ids, tokenizer)
        if own_bos is not None and ids[:1].tolist() == [own_bos]:
            ids = ids[1:]  # blocks have theirs
        if len(ids):
            yield document, ids


def _without_padding(ids: NDArray[np.int64], tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Ids without the padding before and behind them."""
    if tokenizer.pad is None:
        return ids
    real = np.flatnonzero(ids != tokenizer.pad)
    return ids[real[0] : real[-1] + 1] if len(real) else ids[:0]


def _tokenised(
    documents: Iterable[Document], tokenizer: Tokenizer, parse: bool, most: int
) -> Iterator[tuple[Document, NDArray[np.int64]]]:
    batch, size = list[Document](), 0

    def encoded() -> Iterator[tuple[Document, NDArray[np.int64]]]:
        of_each = tokenizer.encode([document.text for document in batch], parse=parse)
        yield from ((d, np.array(ids, np.int64)) for d, ids in zip(batch, of_each, strict=True))

    for document in documents:
        if document.ids is not None:
            yield document, document.ids[:most].astype(np.int64)
            continue
        if len(document.text) > _PIECE:
            yield from encoded()
            batch, size = [], 0
            yield document, _long(document.text, tokenizer, parse, most)
            continue
        batch.append(document)
        size += len(document.text)
        if len(batch) == _BATCH or size > _PIECE:
            yield from encoded()
            batch, size = [], 0
    yield from encoded()


def _long(text: str, tokenizer: Tokenizer, parse: bool, most: int) -> NDArray[np.int64]:
    """Ids of a text that is tokenised in pieces; ids near a cut may be others than without it."""
    ids = list[int]()
    for piece in _pieces(text, _PIECE):
        ids += tokenizer.encode([piece], parse=parse)[0]
        if len(ids) >= most:
            break
    return np.array(ids[:most], np.int64)


def _check_ids(document: Document, ids: NDArray[np.int64], tokenizer: Tokenizer) -> None:
    known = tokenizer.vocabulary
    wrong = (ids < 0) | (ids >= known) if known is not None else ids < 0
    if not wrong.any():
        return
    raise SubjectError(
        f"{document.origin}: token id {int(ids[wrong][0])}, but {tokenizer.name} has ids 0 to "
        f"{(known or 0) - 1}. The text was tokenised for another model, or tokens were added to "
        "the tokenizer without making the embedding larger (resize_token_embeddings)."
    )


def _pieces(text: str, size: int) -> Iterator[str]:
    """A text in pieces of at most `size` characters, cut before white space where there is some."""
    first = 0
    while len(text) - first > size:
        last = first + size
        blank = text.rfind(" ", first + size // 2, last)
        while blank > first + 1 and text[blank - 1].isspace():
            blank -= 1
        cut = blank if blank > first + 1 else last
        yield text[first:cut]
        first = cut
    yield text[first:]


def unknown_share(ids: NDArray[Any], tokenizer: Tokenizer) -> dict[str, float]:
    """`unknown`, the share of ids that stand for what the tokenizer does not know, if any does."""
    unknown = tokenizer.unknown
    return {} if unknown is None or not len(ids) else {"unknown": float((ids == unknown).mean())}


def unknown_in_words(about: Mapping[str, Any]) -> str | None:
    """What to say where many tokens are unknown to the tokenizer; None where few are.

    Args:
        about: of the tokens: `unknown`, their share, and `tokenizer`.
    """
    share = about.get("unknown", 0.0)
    if share < _LOST:
        return None
    return (
        f"{share:.0%} of the tokens of the text are the one that the tokenizer of "
        f"{about['tokenizer']['name']} has for all that it does not know: latents then find what "
        "was lost, not words. Is it the tokenizer of this model, and is the text in its language "
        "and spelling?"
    )
