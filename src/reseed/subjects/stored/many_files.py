"""A file of activations, or a folder or pattern of files whose rows follow each other."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reseed.errors import SpecError, SubjectError
from reseed.subjects.stored.files import StoredArray, open_npy, open_pt, open_safetensors
from reseed.subjects.stored.tables import in_order, open_table

_SUFFIXES = (".npy", ".safetensors", ".pt", ".parquet", ".arrow")
_NO_ROWS = ("cache-", "indices", ".")
"""How files begin that libraries leave beside the rows."""


def open_stored(site: str, where: str) -> StoredArray:
    """The rows that a path means, `[N, D]`.

    Raises:
        SpecError: if it is of no kind that can be read, or of several.
        SubjectError: if there is nothing, it is damaged, or files differ in D.
    """
    files, key = files_of(site, where)
    parts = [_open(site, path, key) for path in files]
    if len(parts) == 1 and not _of_many(where):
        return parts[0]
    for path, part in zip(files, parts, strict=True):
        if len(part.shape) != 2 or part.shape[1] != parts[0].shape[-1]:
            raise SubjectError(
                f"site {site!r}: {path} holds {list(part.shape)}, and {files[0]} "
                f"{list(parts[0].shape)}; all files of a site have the same dimensions"
            )
    return _joined(parts)


def files_of(site: str, where: str) -> tuple[list[Path], str]:
    """The files that a path means, in the order of their numbers, and what follows `#`.

    Raises:
        SpecError, SubjectError: as `open_stored`.
    """
    name, key = _split(where)
    path = Path(name)
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.suffix in _SUFFIXES and p.is_file()]
    elif path.is_file() or not _is_pattern(name):
        found = [path]
    else:
        found = [p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file()]
    if path.is_dir() or path not in found:
        found = [p for p in found if not p.name.startswith(_NO_ROWS)]
    kinds = sorted({p.suffix for p in found})
    if len(kinds) > 1 or any(kind not in _SUFFIXES for kind in kinds):
        raise SpecError(
            f"site {site!r}: {where} is of kind {', '.join(kinds) or 'none'}; files of one of "
            f"{', '.join(_SUFFIXES)} are read, or file.safetensors#key. Name them by a pattern, "
            "e.g. acts/*.npy, or save activations with numpy.save or safetensors."
        )
    if not found or not found[0].exists():
        what = f"file in {name}" if _of_many(where) else f"file {name}"
        raise SubjectError(f"site {site!r}: there is no {what}; check subject.paths")
    return sorted(found, key=lambda p: in_order(p.as_posix())), key


def _of_many(where: str) -> bool:
    name = _split(where)[0]
    return os.path.isdir(name) or (_is_pattern(name) and not os.path.exists(name))


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?")


def _split(where: str) -> tuple[str, str]:
    """A path and the name of an array in it; `#` may be part of a name of a file."""
    whole = os.path.expanduser(where)
    if os.path.exists(whole) or "#" not in where:
        return whole, ""
    name, _, key = whole.rpartition("#")
    return name, key


def _open(site: str, path: Path, key: str) -> StoredArray:
    if path.suffix == ".npy":
        return open_npy(site, path)
    if path.suffix == ".safetensors":
        return open_safetensors(site, path, key)
    return open_pt(site, path, key) if path.suffix == ".pt" else open_table(site, path, key)


def _joined(parts: Sequence[StoredArray]) -> StoredArray:
    """The rows of all parts one after the other."""
    ends = np.cumsum([part.shape[0] for part in parts])

    def rows(start: int, stop: int) -> Tensor:
        out = list[Tensor]()
        while start < stop:
            number = int(np.searchsorted(ends, start, side="right"))
            first = int(ends[number]) - parts[number].shape[0]
            last = min(stop, int(ends[number]))
            out.append(parts[number].rows(start - first, last - first))
            start = last
        return torch.cat(out)

    return StoredArray((int(ends[-1]), parts[0].shape[1]), rows)
