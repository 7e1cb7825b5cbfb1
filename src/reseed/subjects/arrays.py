"""Activations that are already stored, as `BlockSource`: files that are memory-mapped, or memory.

N rows, D dimensions of a site.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reseed.errors import SpecError, StoreError, SubjectError, nearest
from reseed.events import Events
from reseed.spec.subject import ArraysSpec
from reseed.store import Store, file_sha256, json_bytes
from reseed.subjects.source import first_bad_row, one_after_other

_NUMPY_KINDS = ("float16", "float32", "float64")
_SAFETENSORS_KINDS = ("F16", "F32", "F64", "BF16")
_TORCH_KINDS = (torch.float16, torch.float32, torch.float64, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class _Array:
    """One array of any origin: its shape, and how to get some of its rows as float32."""

    shape: tuple[int, ...]
    rows: Callable[[int, int], Tensor]


class _RowsSource:
    """Arrays with the same number of rows, cut into blocks of neighbours."""

    def __init__(self, arrays: Mapping[str, _Array], block: int) -> None:
        self._arrays = dict(arrays)
        _check_shapes({site: array.shape for site, array in arrays.items()})
        self.sites: Mapping[str, int] = {site: array.shape[1] for site, array in arrays.items()}
        total = next(iter(arrays.values())).shape[0]
        self._block, self._total = block, total
        starts = np.arange(0, total, block, dtype=np.int64)
        self.rows: NDArray[np.int64] = np.minimum(starts + block, total) - starts

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks; see `BlockSource.read`."""
        parts = ({site: self._block_of(site, int(b)) for site in self.sites} for b in blocks)
        return one_after_other(self.sites, parts)

    def _block_of(self, site: str, block: int) -> Tensor:
        start = block * self._block
        rows = self._arrays[site].rows(start, min(start + self._block, self._total))
        bad = first_bad_row(rows)
        if bad is not None:
            raise SubjectError(
                f"site {site!r}: row {start + bad} (block {block}) has NaN or infinity as float32. "
                "Remove such rows from the stored activations, or find what made them."
            )
        return rows


class ArraySource(_RowsSource):
    """Stored arrays: `.npy`, or `file.safetensors#key`; memory-mapped, read row by row.

    float16, float32, float64 and (safetensors) bfloat16 are read; float32 comes out.
    """

    def __init__(self, spec: ArraysSpec) -> None:
        if not spec.paths:
            raise SpecError("subject.paths names no array; say e.g. paths = {site = 'acts.npy'}")
        super().__init__({s: _open(s, where) for s, where in spec.paths.items()}, spec.block)


class MemorySource(_RowsSource):
    """Arrays in memory, each `[N, D]`, copied when read; `block` neighbours stay together."""

    def __init__(self, arrays: Mapping[str, Tensor | NDArray[Any]], block: int = 256) -> None:
        if not arrays or block < 1:
            raise SpecError(f"{len(arrays)} arrays in blocks of {block} rows: nothing to read")
        super().__init__({site: _in_memory(site, a) for site, a in arrays.items()}, block)


FILES = "stored"
"""Piece that says what the files of a study were when they were first read."""


def check_files(spec: ArraysSpec, store: Store, made_from: str, events: Events) -> None:
    """Refuse files that are not what they were when this study first read them.

    Size and time of the last change are compared at each opening, the checksum where one of them is
    another, since a file that was only copied is the same. As long as nothing was trained files may
    change; what was harvested of them is dropped. `made_from` is another where the study names
    other files.

    Raises:
        StoreError: if the content is another.
        SubjectError: if a file is not there.
    """
    known: dict[str, dict[str, Any]] = (
        store.document(FILES, "files.json") if store.has(FILES, made_from) else {}
    )
    now, trained = dict(known), any(store.path("runs").glob("*"))
    for site, where in spec.paths.items():
        path = _split(where)[0]
        if not path.is_file():
            raise _missing(site, path)
        about, before = path.stat(), known.get(site)
        look = {"bytes": about.st_size, "changed": about.st_mtime_ns}
        if before is not None and look.items() <= before.items():
            continue
        if before is None and about.st_size > _LARGE:
            events.say(f"checksum of {path} ({about.st_size / 1e9:.1f} GB), once")
        now[site] = {**look, "sha256": file_sha256(path)}
        if before is None or now[site]["sha256"] == before["sha256"]:
            continue
        if trained:
            raise StoreError(
                f"{path} (site {site!r}) changed under the same name since {store.root} first read "
                "it: its checksum is another. Runs on both could not be compared: put the old file "
                "back, or give this study a folder of its own with `--out`."
            )
        shutil.rmtree(store.path("activations"), ignore_errors=True)
    if now != known:
        with store.piece(FILES, made_from) as folder:
            (folder / "files.json").write_bytes(json_bytes(now))


_LARGE = 10**9


def _split(where: str) -> tuple[Path, str]:
    """The file and the name of an array in it; `#` may be part of a name of a file."""
    path = Path(os.path.expanduser(where))
    if path.is_file() or "#" not in where:
        return path, ""
    name, _, key = where.rpartition("#")
    return Path(os.path.expanduser(name)), key


def _missing(site: str, path: Path) -> SubjectError:
    return SubjectError(f"site {site!r}: there is no file {path}; check subject.paths")


def _open(site: str, where: str) -> _Array:
    path, key = _split(where)
    if path.suffix not in (".npy", ".safetensors"):
        raise SpecError(
            f"site {site!r}: {where} is neither a .npy file nor file.safetensors#key. "
            "Save the activations with numpy.save or safetensors."
        )
    if not path.is_file():
        raise _missing(site, path)
    return _open_npy(site, path) if path.suffix == ".npy" else _open_safetensors(site, path, key)


def _open_npy(site: str, path: Path) -> _Array:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise SubjectError(
            f"site {site!r}: {path} cannot be read as a plain array ({error}). Arrays of Python "
            "objects are refused, since reading them runs code; save float32 with numpy.save."
        ) from error
    return _in_memory(site, array, f"{path} ")


def _in_memory(site: str, array: Tensor | NDArray[Any], where: str = "") -> _Array:
    known = _TORCH_KINDS if isinstance(array, Tensor) else _NUMPY_KINDS
    kind = array.dtype if isinstance(array, Tensor) else array.dtype.name
    if kind not in known:
        raise _wrong_kind(site, where, kind)

    def rows(start: int, stop: int) -> Tensor:
        if isinstance(array, Tensor):
            return array[start:stop].detach().to("cpu", torch.float32)
        # A value that is too large for float32 becomes infinite and is reported by the reader.
        with np.errstate(over="ignore"):
            return torch.from_numpy(np.array(array[start:stop], np.float32))

    return _Array(tuple(array.shape), rows)


def _open_safetensors(site: str, path: Path, key: str) -> _Array:
    try:
        handle: Any = safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise SubjectError(
            f"site {site!r}: {path} is not a whole safetensors file ({error}). Write it again."
        ) from error
    keys = list(handle.keys())
    if key not in keys:
        raise SpecError(
            f"site {site!r}: {path} has no array {key!r}; {nearest(key, keys)}. "
            "Name it after `#`, e.g. acts.safetensors#layer6."
        )
    piece = handle.get_slice(key)
    if piece.get_dtype() not in _SAFETENSORS_KINDS:
        raise _wrong_kind(site, f"{path}#{key} ", piece.get_dtype())

    def rows(start: int, stop: int) -> Tensor:
        return piece[start:stop].to(torch.float32)

    return _Array(tuple(piece.get_shape()), rows)


def _wrong_kind(site: str, where: str, kind: object) -> SubjectError:
    return SubjectError(
        f"site {site!r}: {where}holds {kind}; float16, float32, float64 or bfloat16 are read. "
        "Convert it before."
    )


def _check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    for site, shape in shapes.items():
        if len(shape) != 2 or 0 in shape:
            raise SubjectError(
                f"site {site!r}: the shape is {list(shape)}, but [rows, dimensions] with at least "
                "one of each is needed. Flatten leading dimensions with reshape(-1, D)."
            )
    counts = {site: shape[0] for site, shape in shapes.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{site}: {n}" for site, n in counts.items())
        raise SubjectError(
            f"the arrays have unequal numbers of rows ({shown}). Row i of every array must belong "
            "to the same token or sample; store them from one pass."
        )
