"""Records of files, folders, packages and the datasets library, a few in memory at a time."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
from safetensors import SafetensorError, safe_open

from reseed.errors import SpecError, SubjectError, installing, nearest
from reseed.spec.subject import TextSpec, package_file

DATASETS = "datasets:"
"""How a text of the datasets library is named: `datasets:NAME[[:CONFIGURATION]:SPLIT]`."""

IDS = "ids"
"""Field in which records of arrays hold their token ids."""

Record = tuple[Mapping[str, Any] | str, str]
"""Fields of a record, or a text that is a document as it stands; and how people find it."""

_PLAIN = (".txt", ".md")
_ARRAYS = (".npy", ".safetensors")
_PARQUET_ROWS = 1024
_READ_CHARACTERS = 1 << 20


def records(spec: TextSpec) -> Iterator[Record]:
    """All records of a source, in the order of file names and of places."""
    if spec.source.startswith(DATASETS):
        yield from _dataset(spec.source)
        return
    for path, name in files_of(spec):
        if path.suffix in _PLAIN:
            yield _utf8(path), name
        else:
            yield from ((fields, name + where) for fields, where in _records(path, spec))


def files_of(spec: TextSpec) -> list[tuple[Path, str]]:
    """Files of a source with the names that people see, in the order of these names.

    Raises:
        SubjectError: if there is none.
        SpecError: if one is of another kind than those that can be read.
    """
    source, suffixes = spec.source, _readable(spec)
    package = source.startswith("package:")
    path = package_file(source) if package else Path(os.path.expanduser(source))
    if os.path.isfile(path):
        files, base = [path], path.parent
    elif os.path.isdir(path):
        files, base = [p for p in path.rglob("*") if p.suffix in suffixes and p.is_file()], path
    else:
        there = glob.iglob(_wildcards(path), recursive=True)
        files = [Path(p) for p in dict.fromkeys(there) if Path(p).is_file()]
        base = os.path.commonpath([file.parent for file in files]) if files else ""
    if not files:
        what = (
            f"no file that ends in {', '.join(suffixes)}" if os.path.isdir(path) else "no such file"
        )
        raise SubjectError(f"text {source!r}: {what}. Check text.source.")
    for file in files:
        if file.suffix in _ARRAYS and file.suffix not in suffixes:
            raise SpecError(
                f"text {source!r}: {file.name} holds an array. If it holds token ids, set text.ids "
                "to its name; activations that are already stored are a subject of kind 'arrays'."
            )
        if file.suffix not in suffixes:
            raise SpecError(
                f"text {source!r}: {file.name} is none of {', '.join(suffixes)}. "
                "Convert it, or name the files with a glob."
            )
    named = [(file, file.relative_to(base).as_posix()) for file in files]
    return sorted(named, key=lambda pair: (pair[1], pair[0]))


def _readable(spec: TextSpec) -> tuple[str, ...]:
    return (".jsonl", ".json", ".parquet", *(_ARRAYS if reads_ids(spec) else _PLAIN))


def _wildcards(path: Path) -> str:
    """A glob in which only `*` and `?` are special, and those not in folders that are there."""
    known, rest = Path(path.anchor), list(path.parts[1:] if path.anchor else path.parts)
    while rest and os.path.exists(known / rest[0]):
        known /= rest.pop(0)
    pattern = "/".join(part.replace("[", "[[]") for part in rest)
    # several ** in a row mean what one does, and take Python for ever
    return os.path.join(glob.escape(str(known)), re.sub(r"(\*\*/)+", "**/", pattern))


def _records(path: Path, spec: TextSpec) -> Iterator[Record]:
    """Records of a file, each with what is added to the file's name to find it again."""
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix in _ARRAYS:
        return _rows(path, spec.ids)
    return _json_lines(path) if path.suffix == ".jsonl" else _json(path)


@contextmanager
def _json_errors(where: str, step: str) -> Generator[None, None, None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from None
    except RecursionError:
        raise SubjectError(f"{where} is nested too deeply to be a record. Delete it.") from None
    except ValueError as error:
        raise SubjectError(f"{where} is not JSON ({error}). {step}") from None


def _json_lines(path: Path) -> Iterator[Record]:
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            with _json_errors(where, "Mend or delete the line; the file may be cut short."):
                value = json.loads(line.decode("utf-8-sig"))
            yield _record(value, where), f":{number}"


def _json(path: Path) -> Iterator[Record]:
    step = "It may be cut short; a file with one record a line ends in .jsonl."
    with open(path, encoding="utf-8-sig") as handle, _json_errors(str(path), step):
        scan = _Scanner(handle)
        kind = scan.peek()
        if kind not in ("[", "{"):
            held = type(scan.value()).__name__
            raise SubjectError(f"{path} holds {held}, not a list or mapping of records")
        for number, (key, value) in enumerate(scan.members()):
            where = f":{number}" if key is None else f"#{key}"
            yield _record(value, path.name + where), where


class _Scanner:
    """Values of a JSON text, read in parts: one member is in memory at a time."""

    def __init__(self, handle: Any) -> None:
        self._handle, self._text, self._at, self._before = handle, "", 0, 0
        self._decoder = json.JSONDecoder()

    def _more(self) -> bool:
        """Read at least as much again as what is there; whether there was anything."""
        kept = self._text[self._at :]
        read = self._handle.read(max(_READ_CHARACTERS, len(kept)))
        self._before += self._at
        self._text, self._at = kept + read, 0
        return bool(read)

    def _broken(self, what: str, at: int) -> ValueError:
        return ValueError(f"{what} at character {self._before + at}")

    def peek(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._more():
                    raise self._broken(error.msg, error.pos) from None
                continue
            # a number may go on in what was not read yet
            if end < len(self._text) or not self._more():
                self._at = min(end, len(self._text))
                return value

    def _take(self, wanted: str) -> str:
        character = self.peek()
        if not character or character not in wanted:
            raise self._broken(f"Expecting {' or '.join(wanted)}", self._at)
        self._at += 1
        return character

    def members(self) -> Iterator[tuple[str | None, Any]]:
        """Those of a list or of a mapping, with their keys."""
        closing = "]" if self._take("[{") == "[" else "}"
        more = self.peek() != closing
        if not more:
            self._take(closing)
        while more:
            key = None
            if closing == "}":
                key = self.value()
                if not isinstance(key, str):
                    raise self._broken("Expecting a text as key", self._at)
                self._take(":")
            yield key, self.value()
            more = self._take("," + closing) == ","
        if self.peek():
            raise self._broken("Extra data", self._at)


def _parquet(path: Path) -> Iterator[Record]:
    try:
        # without glob: Polars would take [ ] in a name for a choice, and read another file
        frame = pl.scan_parquet(path, glob=False)
        total = frame.select(pl.len()).collect().item()
        for first in range(0, total, _PARQUET_ROWS):
            part = frame.slice(first, _PARQUET_ROWS).collect()
            for number, record in enumerate(part.iter_rows(named=True), first):
                yield record, f":{number}"
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SubjectError(f"{path} cannot be read as Parquet ({error}). Write it again.") from None


def _rows(path: Path, key: str | None) -> Iterator[Record]:
    """Token ids of an array: `[N]` is one document, `[documents, L]` one for each row."""
    try:
        if path.suffix == ".npy":
            array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            file: Any = safe_open(path, "np")
            keys = list(file.keys())
            if key not in keys:
                hint = nearest(str(key), keys)
                raise SpecError(f"text.ids: {path} has no array {key!r}; {hint}")
            array = file.get_tensor(key)
    except (ValueError, EOFError, OSError, SafetensorError) as error:
        raise SubjectError(
            f"{path} is no array of token ids ({error}). Save integers with numpy.save."
        ) from None
    if array.ndim not in (1, 2):
        shape = list(array.shape)
        raise SubjectError(f"{path} holds {shape}; token ids are [N] or [documents, L]")
    for number, row in enumerate(array.reshape(1, -1) if array.ndim == 1 else array):
        yield {IDS: row}, f":{number}"


def _record(value: Any, where: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise SubjectError(
            f"{where} holds {type(value).__name__}; a record (a mapping of fields) or a text is "
            "needed. Choose another file, or bring it into that form."
        )
    return cast(Mapping[str, Any], value)


def _dataset(source: str) -> Iterator[Record]:
    name, *parts = source.removeprefix(DATASETS).split(":")
    if not name or len(parts) > 2:
        raise SpecError(f"text {source!r} is not datasets:NAME, :SPLIT or :CONFIGURATION:SPLIT")
    configuration, split = parts[0] if len(parts) == 2 else None, parts[-1] if parts else ""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SpecError(
            f"text {source!r} needs the datasets library: {installing('datasets')}. "
            "Files and folders are read without it."
        ) from None
    library: Any = datasets
    try:
        rows = library.load_dataset(name, configuration, split=split or "train", streaming=True)
        for index, record in enumerate(rows):
            yield record, f"{name}:{index}"
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise SubjectError(
            f"text {source!r} cannot be read ({error}). Check the name and the split, name the "
            "configuration where there are several (datasets:NAME:CONFIGURATION:SPLIT), and check "
            "whether this machine is offline."
        ) from error


def reads_ids(spec: TextSpec) -> bool:
    """Whether the source holds token ids in place of text."""
    return spec.ids is not None or spec.source.endswith(".npy")


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
