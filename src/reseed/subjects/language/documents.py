"""Documents from files, folders, packages and the datasets library."""

from __future__ import annotations

import glob
import json
import os
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from reseed.errors import SpecError, SubjectError, nearest
from reseed.seeds import generator
from reseed.spec.subject import TextSpec, package_file

DATASETS = "datasets:"
"""How a text of the datasets library is named: `datasets:NAME[:SPLIT]`."""

Records = Iterator[tuple[Mapping[str, Any], str]]

_SUFFIXES = (".txt", ".md", ".jsonl", ".json", ".parquet")


_MOST_CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Document:
    """One text that belongs together."""

    text: str
    label: str | None
    """what the field `TextSpec.label` says, for probing"""
    origin: str
    """file and record, e.g. `summaries.json#Amber` or `news.jsonl:17`"""


def read_documents(spec: TextSpec) -> Iterator[Document]:
    """All documents of a source, in the order of file names and of records.

    A field that is null counts as empty; documents without anything but white space are left out.
    """
    empty = True
    for document in _all(spec):
        if document.text.strip():
            empty = False
            yield document
    if empty:
        raise SubjectError(
            f"text {spec.source!r}: every document is empty. Check the source"
            f" and the template {spec.template!r}."
        )


def shuffled_documents(spec: TextSpec, tokens: int) -> list[Document]:
    """Documents for this many tokens at the least, in the order of the spec's seed."""
    documents: list[Document] = []
    characters = 0
    for document in read_documents(spec):
        documents.append(document)
        characters += len(document.text)
        # A data set of a hub may be larger than any machine: its beginning must do.
        long_enough = characters > tokens * _MOST_CHARACTERS_PER_TOKEN
        if spec.source.startswith(DATASETS) and long_enough:
            break
    order = generator("document-order", spec.seed).permutation(len(documents))
    return [documents[index] for index in order]


def _all(spec: TextSpec) -> Iterator[Document]:
    fill = _Template(spec)
    if spec.source.startswith(DATASETS):
        yield from (fill(*record) for record in _dataset(spec.source))
        return
    for path, origin in _files(spec.source):
        if path.suffix in (".txt", ".md"):
            yield Document(_utf8(path), None, origin)
        else:
            records = _READERS[path.suffix](path)
            yield from (fill(record, origin + where) for record, where in records)


class _Template:
    """Makes a document of a record; knows which fields it needs."""

    def __init__(self, spec: TextSpec) -> None:
        self.template, self.label = spec.template, spec.label
        try:
            parts = list(string.Formatter().parse(spec.template))
        except ValueError as error:
            raise SpecError(
                f"text.template = {spec.template!r} is not a template ({error}). "
                "Fields stand in braces, e.g. '{title}: {text}'; write '{{' for a brace."
            ) from None
        self.fields = [name for _, name, _, _ in parts if name is not None]
        odd = [name for name in self.fields if not name or set(name) & set(".[]")]
        if odd or not self.fields:
            raise SpecError(
                f"text.template = {spec.template!r} must name fields of a record in braces, "
                "e.g. '{title}: {text}', without dots or brackets."
            )

    def __call__(self, record: Mapping[str, Any], origin: str) -> Document:
        needed = [*self.fields, *([self.label] if self.label else [])]
        for name in needed:
            if name not in record:
                hint = nearest(name, map(str, record))
                place = "text.label" if name == self.label else "text.template"
                raise SpecError(f"{place}: record {origin} has no field {name!r}; {hint}")
        values = {name: "" if record[name] is None else record[name] for name in self.fields}
        label = record[self.label] if self.label else None
        label = None if label is None else str(label)
        return Document(self.template.format(**values), label, origin)


def _files(source: str) -> list[tuple[Path, str]]:
    """Files of a source with the names that people see, in the order of these names."""
    path = package_file(source) if source.startswith("package:") else Path(source).expanduser()
    if path.is_file():
        files, base = [path], path.parent
    elif path.is_dir():
        inside = [p for p in path.rglob("*") if p.is_file() and p.suffix in _SUFFIXES]
        files, base = inside, path
    else:
        files = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
        base = os.path.commonpath([file.parent for file in files]) if files else ""
    if not files:
        what = f"no file that ends in {', '.join(_SUFFIXES)}" if path.is_dir() else "no such file"
        raise SubjectError(f"text {source!r}: {what}. Check text.source.")
    for file in files:
        if file.suffix not in _SUFFIXES:
            raise SpecError(
                f"text {source!r}: {file.name} is none of {', '.join(_SUFFIXES)}. "
                "Convert it, or name the files with a glob."
            )
    named = [(file, file.relative_to(base).as_posix()) for file in files]
    return sorted(named, key=lambda pair: (pair[1], pair[0]))


# Each reader gives records with what is added to the name of the file to find them again.


def _json_lines(path: Path) -> Records:
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                raise _not_utf8(f"{path}, line {number}", error) from None
            except ValueError as error:
                raise SubjectError(
                    f"{path}, line {number} is not JSON ({error}). "
                    "Mend or delete the line; the file may be cut short."
                ) from None
            yield _record(value, f"{path}, line {number}"), f":{number}"


def _json(path: Path) -> Records:
    try:
        value = json.loads(_utf8(path))
    except ValueError as error:
        raise SubjectError(
            f"{path} is not JSON ({error}). It may be cut short; a file with one record a line "
            "ends in .jsonl."
        ) from None
    if isinstance(value, dict):
        named = [(f"#{key}", record) for key, record in value.items()]
    elif isinstance(value, list):
        named = [(f":{index}", record) for index, record in enumerate(value)]
    else:
        raise SubjectError(f"{path} holds {type(value).__name__}, not a list or mapping of records")
    for where, record in named:
        yield _record(record, path.name + where), where


def _parquet(path: Path) -> Records:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SubjectError(f"{path} cannot be read as Parquet ({error}). Write it again.") from None
    for index, record in enumerate(frame.iter_rows(named=True)):
        yield record, f":{index}"


def _record(value: Any, where: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise SubjectError(
            f"{where} holds {type(value).__name__}; a record (a mapping of fields) or a text is "
            "needed. Choose another file, or bring it into that form."
        )
    return value


_READERS = {".jsonl": _json_lines, ".json": _json, ".parquet": _parquet}


def _dataset(source: str) -> Records:
    name, _, split = source.removeprefix(DATASETS).partition(":")
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SpecError(
            f"text {source!r} needs the datasets library: pip install 'reseed[datasets]'. "
            "Files and folders are read without it."
        ) from None
    library: Any = datasets
    try:
        rows = library.load_dataset(name, split=split or "train", streaming=True)
        for index, record in enumerate(rows):
            yield record, f"{name}:{index}"
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise SubjectError(
            f"text {source!r} cannot be read ({error}). Check the name and the split, or whether "
            "this machine is offline."
        ) from error


def _utf8(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(str(path), error) from None


def _not_utf8(where: str, error: UnicodeDecodeError) -> SubjectError:
    return SubjectError(
        f"{where} is not UTF-8 (byte {error.start}: {error.reason}). "
        "Convert it, for example with `iconv -t utf-8`."
    )
