"""Documents of records, in the order of a seed.

No more of a text is held than the tokens asked for need: where it is large, it is read once to
count its documents, and again for those that come first in the order.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError, SubjectError, nearest
from reseed.seeds import generator
from reseed.spec.subject import TextSpec
from reseed.subjects.language.corpus import (
    DATASETS,
    IDS,
    files_of,
    reads_ids,
    records,
)

Chat = Callable[[list[dict[str, Any]]], str]
"""From messages, each with role and content, to the text that a model reads."""

_MOST_CHARACTERS_PER_TOKEN = 16
_USUAL_CHARACTERS_PER_TOKEN = 6

_MASK = "attention_mask"
"""Field that says which token ids beside it are no padding."""

_HELD = 1 << 24
"""Characters of documents that are kept when they are counted."""


_NO_TEXT = (list, tuple, Mapping, bytes, set)


@dataclass(frozen=True, slots=True)
class Document:
    """One text that belongs together."""

    text: str
    label: str | None
    """what the field `TextSpec.label` says, for probing"""
    origin: str
    """file and record, e.g. `summaries.json#Amber` or `news.jsonl:17`"""
    ids: NDArray[np.int64] | None = None
    """[n] token ids of a text that is tokenised already"""
    mended: bool = False
    """whether halves of surrogate pairs became U+FFFD"""

    @property
    def size(self) -> int:
        """About how many characters it has."""
        usual = _USUAL_CHARACTERS_PER_TOKEN
        return len(self.text) if self.ids is None else usual * len(self.ids)


def read_documents(spec: TextSpec, chat: Chat | None = None) -> Iterator[Document]:
    """All documents of a source, in the order of file names and of records.

    A field that is missing (null, NaN) counts as empty. Documents without anything but white space
    are left out, and so are records without anything in the fields of the template.

    Args:
        spec: the text.
        chat: makes a text of a field that holds messages; None if that is refused.
    """
    empty = True
    for document in _all(spec, chat):
        if document is not None:
            empty = False
            yield document
    if empty:
        raise SubjectError(
            f"text {spec.source!r}: every document is empty. Check the source"
            f" and the template {spec.template!r}."
        )


def check_text(spec: TextSpec) -> None:
    """Refuse a text whose files, template or first record are wrong; of the rest nothing is read.

    Raises:
        SpecError, SubjectError: as `read_documents` would.
    """
    _Maker(spec, None)
    if not spec.source.startswith(DATASETS):
        files_of(spec)
        next(_all(spec, lambda _: ""), None)


def shuffled_documents(
    spec: TextSpec, tokens: int, chat: Chat | None = None, held: int = _HELD
) -> Iterator[Document]:
    """Documents in the order of the spec's seed; ends after the last.

    Args:
        spec: the text.
        tokens: that are wanted; about their text is in memory at a time.
        chat: see `read_documents`.
        held: characters of documents that may be held while they are counted.
    """
    sizes, kept = list[int](), list[Document]()
    total, whole = 0, True
    of_library = spec.source.startswith(DATASETS)
    for document in read_documents(spec, chat):
        sizes.append(document.size)
        total += document.size
        if whole:
            kept.append(document)
        # A data set of a hub may be larger than any disk: its beginning must do.
        if of_library and total > tokens * _MOST_CHARACTERS_PER_TOKEN:
            break
        if whole and not of_library and total > held:
            whole = False
            kept.clear()
    order = generator("document-order", spec.seed).permutation(len(sizes))
    if whole:
        yield from (kept[index] for index in order)
        return
    ends, first = np.cumsum(np.array(sizes)[order]), 0
    together = max(held // 16, tokens * _USUAL_CHARACTERS_PER_TOKEN)
    while first < len(order):
        last = int(np.searchsorted(ends, (ends[first - 1] if first else 0) + together)) + 1
        yield from _picked(spec, order[first:last], chat)
        first = last


def _picked(spec: TextSpec, numbers: NDArray[np.int64], chat: Chat | None) -> Iterator[Document]:
    """The documents of these numbers, in this order, by one reading."""
    wanted = set(numbers.tolist())
    picked: dict[int, Document] = {}
    for number, document in enumerate(read_documents(spec, chat)):
        if number in wanted:
            picked[number] = document
            if len(picked) == len(wanted):
                break
    if len(picked) < len(wanted):
        raise SubjectError(f"text {spec.source!r} became shorter while it was read; try again")
    yield from (picked.pop(number) for number in numbers.tolist())


def _all(spec: TextSpec, chat: Chat | None) -> Iterator[Document | None]:
    make = _Maker(spec, chat)
    for record, origin in records(spec):
        yield make(record, origin)


class _Maker:
    """Makes a document of a record, None of an empty one; knows which fields it needs."""

    def __init__(self, spec: TextSpec, chat: Chat | None) -> None:
        self._spec, self._chat, self._ids = spec, chat, reads_ids(spec)
        self._fields = [] if self._ids else _fields(spec.template)

    def __call__(self, record: Mapping[str, Any] | str, origin: str) -> Document | None:
        clean, _ = _whole_characters(origin)
        if isinstance(record, str):
            text, mended = _whole_characters(record)
            return Document(text, None, clean, None, mended) if text.strip() else None
        name = self._spec.label
        label = None if name is None else self._field(record, name, "text.label", origin)
        if isinstance(label, _NO_TEXT):
            raise SubjectError(
                f"text.label: field {name!r} of record {origin} holds {type(label).__name__}; a "
                "label is a text or a number"
            )
        label = None if label is None else _whole_characters(str(label))[0]
        if self._ids:
            ids = self._token_ids(record, origin)
            return Document("", label, clean, ids) if len(ids) else None
        values = {name: self._text(record, name, origin) for name in self._fields}
        text, mended = _whole_characters(self._spec.template.format(**values))
        if not any(value.strip() for value in values.values()):
            return None
        return Document(text, label, clean, None, mended)

    def _field(self, record: Mapping[str, Any], name: str, place: str, origin: str) -> Any:
        if name not in record:
            hint = nearest(name, map(str, record))
            raise SpecError(f"{place}: record {origin} has no field {name!r}; {hint}")
        value = record[name]
        return None if isinstance(value, float) and math.isnan(value) else value

    def _text(self, record: Mapping[str, Any], name: str, origin: str) -> str:
        value = self._field(record, name, "text.template", origin)
        if isinstance(value, list | tuple):
            return self._messages(list(value), name, origin)
        if isinstance(value, _NO_TEXT):
            raise SubjectError(
                f"record {origin}: field {name!r} holds {type(value).__name__}, not a text. Name "
                "another field in text.template, or write the text that is meant into one."
            )
        return "" if value is None else str(value)

    def _messages(self, value: list[Any], name: str, origin: str) -> str:
        there = f"record {origin}: field {name!r} holds a list"
        if not value:
            return ""
        if not all(
            isinstance(part, Mapping) and {"role", "content"} <= set(part) for part in value
        ):
            step = "bring chat messages into the form {role, content}"
            if all(isinstance(part, int) for part in value):
                step = f"if these are token ids, set text.ids = {name!r}"
            kinds = ", ".join(sorted({type(part).__name__ for part in value}))
            raise SubjectError(f"{there} of {kinds}, not a text; join it before, or {step}.")
        if self._chat is None:
            raise SubjectError(
                f"{there} of chat messages. Set text.special_tokens = 'parse' to read it through "
                "the chat template of the model, whose special tokens it needs, or join the "
                "messages to a text before."
            )
        return self._chat([dict(part) for part in value])

    def _token_ids(self, record: Mapping[str, Any], origin: str) -> NDArray[np.int64]:
        name = IDS if isinstance(record.get(IDS), np.ndarray) else str(self._spec.ids)
        value = self._field(record, name, "text.ids", origin)
        ids = np.asarray([] if value is None else value)
        if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
            raise SubjectError(
                f"record {origin}: field {name!r} holds {ids.dtype} {list(ids.shape)}; token ids "
                "are a list of whole numbers"
            )
        real = record.get(_MASK)
        if real is None:
            return ids  # of a file that is mapped: nothing is read yet
        if np.shape(real) != ids.shape:
            shapes = f"{list(np.shape(real))} and {list(ids.shape)}"
            raise SubjectError(f"record {origin}: {_MASK} and {name!r} have the shapes {shapes}")
        return ids[np.asarray(real) != 0]


def _fields(template: str) -> list[str]:
    """The fields that a template names.

    Raises:
        SpecError: if it is no template, or more than fields in braces.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise SpecError(
            f"text.template = {template!r} is not a template ({error}). "
            "Fields stand in braces, e.g. '{title}: {text}'; write '{{' for a brace."
        ) from None
    fields = [name for _, name, _, _ in parts if name is not None]
    formats = [sign for _, _, *rest in parts for sign in rest if sign]
    odd = [name for name in fields if not name or set(name) & set(".[]{}")]
    if odd or formats or not fields:
        raise SpecError(
            f"text.template = {template!r} must name fields of a record in braces, e.g. "
            "'{title}: {text}', without dots, brackets, '!' or ':' inside."
        )
    return fields


def _whole_characters(text: str) -> tuple[str, bool]:
    """The text with U+FFFD for halves of surrogate pairs, and whether there were any."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), True
    return text, False


def mended_in_words(documents: Sequence[Document]) -> str | None:
    """What was changed in the text, for people; None if nothing was."""
    mended = [document for document in documents if document.mended]
    if not mended:
        return None
    return (
        f"{len(mended):,} documents have halves of surrogate pairs, which are no characters; they "
        f"are read as U+FFFD (the first in {mended[0].origin})"
    )
