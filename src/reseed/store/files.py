"""Single files: written whole or not at all, read with a message for a person.

JSON, Parquet and safetensors only; equal content gives equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reseed.errors import StoreError, explained
from reseed.store.temporary import fsync, locked_beside

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

PIECE = "piece.json"
"""File that makes a folder a piece: its name, what it was made from, sizes and checksums."""


def write_bytes(path: Path, data: bytes, *, parents: bool = True) -> None:
    """Write one file whole: temporary file, fsync, rename, fsync of the folder.

    Args:
        path: of the file.
        data: its content.
        parents: whether folders above are made if they are missing.

    Raises:
        StoreError: if the disk is full or the folder read-only; the older file is untouched.
    """
    with explained(path):
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        building, opened = locked_beside(path, lambda new: new.touch(exist_ok=False), os.O_WRONLY)
        try:
            with open(opened, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
                os.replace(building, path)
        except BaseException:
            building.unlink(missing_ok=True)
            raise
        fsync(path.parent)


def read_json(path: Path) -> Any:
    """Read one JSON file.

    Raises:
        StoreError: if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path} is missing; `reseed run` makes what is missing.") from None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}). Delete it and run again.") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def checked_sha256(path: Path) -> str:
    """`file_sha256`, computed once in this process for each state of a file."""
    state = path.stat()
    return _sha256_of_state(path, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_of_state(path: Path, inode: int, size: int, changed: int) -> str:
    return file_sha256(path)


def existing(path: Path) -> Path:
    """The nearest folder on the way up that exists."""
    return path if path.exists() else existing(path.absolute().parent)


def file_bytes(name: str, content: Any) -> bytes:
    """What is written into a file of this name, by its ending.

    Args:
        name: `.parquet` for a table, `.safetensors` for named arrays, `.json` for a JSON value;
            with any other ending the content is bytes already.
        content: to write.
    """
    if isinstance(content, bytes):
        return content
    makers = {".parquet": parquet_bytes, ".safetensors": safetensors_bytes, ".json": json_bytes}
    return makers[Path(name).suffix](content)


def json_bytes(value: Any) -> bytes:
    """Indented JSON. NaN is refused: failures are never values."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


_ROWS = 8192
"""In a group of a table, which is read whole: who looks at a latent wants a few rows of many."""


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    """A table as Parquet bytes; equal tables give equal bytes."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", statistics=True, row_group_size=_ROWS)
    return buffer.getvalue()


def safetensors_bytes(
    arrays: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Arrays as safetensors bytes; equal arrays give equal bytes."""
    import numpy as np
    from safetensors.numpy import save

    tight = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    return save(tight, dict(metadata) if metadata else None)


def seal(
    folder: Path,
    name: str,
    made_from: str,
    leave_out: Sequence[str] = (),
    arithmetic: Mapping[str, Any] | None = None,
) -> None:
    """Write `piece.json` into a folder that is about to become a piece, and sync its files.

    Args:
        folder: the folder.
        name: of the piece.
        made_from: digest of what it was made from.
        leave_out: names of files that are deleted before the folder moves into place.
        arithmetic: what the last bits of the content depend on beside that, if they do.
    """
    files: dict[str, dict[str, Any]] = {}
    skip = {PIECE, *leave_out}
    with explained(folder):
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in skip):
            fsync(path)
            files[path.relative_to(folder).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
            }
        for inner in (p for p in folder.rglob("*") if p.is_dir()):
            fsync(inner)
    card: dict[str, Any] = {"name": name, "made_from": made_from, "files": files}
    if arithmetic is not None:
        card["arithmetic"] = dict(arithmetic)
    write_bytes(folder / PIECE, json_bytes(card))
