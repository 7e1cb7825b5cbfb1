"""Activations that are already stored, as `BlockSource`: files that are memory-mapped, or memory.

N rows, D dimensions of a site.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from reseed.errors import SpecError, StoreError, SubjectError
from reseed.events import Events
from reseed.spec.subject import ArraysSpec
from reseed.store import Store, file_sha256, json_bytes
from reseed.subjects.source import first_bad_row, one_after_other
from reseed.subjects.stored.files import StoredArray, in_memory
from reseed.subjects.stored.many_files import files_of, open_stored


class _RowsSource:
    """Arrays with the same number of rows, cut into blocks of neighbours."""

    def __init__(self, arrays: Mapping[str, StoredArray], block: int) -> None:
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
    """Stored arrays, one file or many a site; memory-mapped where they can be, read row by row.

    `.npy`, `file.safetensors#key`, Parquet, `.pt` and Arrow files, or a folder or pattern of one
    kind of them. float16, float32, float64 and bfloat16 are read; float32 comes out.
    """

    def __init__(self, spec: ArraysSpec) -> None:
        if not spec.paths:
            raise SpecError("subject.paths names no array; say e.g. paths = {site = 'acts.npy'}")
        super().__init__({s: open_stored(s, where) for s, where in spec.paths.items()}, spec.block)


class MemorySource(_RowsSource):
    """Arrays in memory, each `[N, D]`, copied when read; `block` neighbours stay together."""

    def __init__(self, arrays: Mapping[str, Tensor | NDArray[Any]], block: int = 256) -> None:
        if not arrays or block < 1:
            raise SpecError(f"{len(arrays)} arrays in blocks of {block} rows: nothing to read")
        super().__init__({site: in_memory(site, a) for site, a in arrays.items()}, block)


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
    for name, site, path in _files(spec, known if trained else {}, store):
        about, before = path.stat(), known.get(name)
        look = {"bytes": about.st_size, "changed": about.st_mtime_ns}
        if before is not None and look.items() <= before.items():
            continue
        if before is None and about.st_size > _LARGE:
            events.say(f"checksum of {path} ({about.st_size / 1e9:.1f} GB), once")
        now[name] = {**look, "sha256": file_sha256(path)}
        if before is None or now[name]["sha256"] == before["sha256"]:
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


def _files(
    spec: ArraysSpec, known: Mapping[str, Any], store: Store
) -> Generator[tuple[str, str, Path], None, None]:
    """All files by name: the site, and which of its files where it has several.

    Raises:
        StoreError: if a site has more or fewer than are known.
    """
    for site, where in spec.paths.items():
        files, _ = files_of(site, where)
        names = [site] if len(files) == 1 else [f"{site}#{n}" for n in range(len(files))]
        was = [name for name in known if name == site or name.startswith(f"{site}#")]
        if was and len(was) != len(names):
            raise StoreError(
                f"site {site!r}: {where} leads to {len(names)} files, and led to {len(was)} when "
                f"{store.root} first read them. Runs on both could not be compared: put the old "
                "files back, or give this study a folder of its own with `--out`."
            )
        yield from ((name, site, file) for name, file in zip(names, files, strict=True))


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
