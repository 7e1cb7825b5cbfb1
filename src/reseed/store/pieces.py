"""The study folder: pieces that are there whole or not at all.

A *piece* is a folder of files with a `piece.json` that names their sizes and SHA-256 and the
digest of what they were made from. It is built beside its place and renamed into it, so that a
crash at any moment leaves either the whole piece or a leftover that the next start sweeps away.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from reseed.errors import BusyError, StoreError, explained, no_link
from reseed.seeds import digest
from reseed.store.claims import called, owner_of, sweep, workers
from reseed.store.files import (
    PIECE,
    checked_sha256,
    file_bytes,
    read_json,
    seal,
    write_bytes,
)
from reseed.store.temporary import built_beside, move_into_place, taken

if TYPE_CHECKING:
    import numpy as np
    import polars as pl


class Store:
    """Reads and writes below one folder; every write is atomic, every failure says what to do.

    Args:
        root: the study folder.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def path(self, name: str) -> Path:
        """Where a piece or file of this name lies."""
        return self.root / name

    # -- the folder ------------------------------------------------------------------------------

    def open_for_writing(self) -> None:
        """Make the folder, check that it can be written, and sweep what dead processes left.

        Call it under `lock`.
        """
        with explained(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            sweep(self.root)

    @contextlib.contextmanager
    def lock(self, what: str) -> Generator[None, None, None]:
        """Hold the study for this process.

        Raises:
            BusyError: if another process holds it; the message names that process.
            StoreError: if the folder cannot be written.
        """
        with explained(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            # held for the whole block; without a buffer, so that nothing is left to fail at its end
            handle = open(self.root / ".lock", "ab+", buffering=0, opener=no_link)  # noqa: SIM115
            # the folder too: a person may delete the file while somebody works here
            folder = os.open(self.root, os.O_RDONLY)
        try:
            with handle:
                if not (taken(handle.fileno()) and taken(folder)):
                    raise BusyError(
                        f"{self.root} is in use by {_holder(handle) or 'another process'}. Wait "
                        "for it to end or stop it; two processes in one study would overwrite each "
                        "other."
                    )
                with explained(self.root):
                    handle.truncate(0)
                    about = f"`{what}` (process {os.getpid()} on {socket.gethostname()})"
                    handle.write(about.encode())
                try:
                    yield
                finally:
                    handle.truncate(0)
        finally:
            os.close(folder)

    def holder(self) -> str | None:
        """Who works in the study now, as it calls itself; None if nobody does."""
        try:
            handle = open(self.root / ".lock", "rb", opener=no_link)  # noqa: SIM115
        except OSError:
            return None
        with handle:
            about = _holder(handle)
            # empty unless somebody works or was killed, so that a look never keeps anybody out
            return about if about and not taken(handle.fileno(), fcntl.LOCK_SH) else None

    def owner_of(self, part: str) -> str | None:
        """What the process that has claimed a part of the work calls itself; None if none has."""
        owner = owner_of(self.root, part)
        return next((called(worker) for worker in workers(self.root) if worker.id == owner), None)

    # -- single files ----------------------------------------------------------------------------

    def write(self, name: str, content: Any) -> None:
        """Write one file whole; what its ending asks for is that of `file_bytes`."""
        write_bytes(self.path(name), file_bytes(name, content))

    def read_json(self, name: str) -> Any:
        """Read one JSON file."""
        return read_json(self.path(name))

    # -- pieces ----------------------------------------------------------------------------------

    def has(self, name: str, made_from: str | None = None) -> bool:
        """Whether a whole piece of this name is there (and was made from this digest)."""
        if not (self.path(name) / PIECE).exists():
            return False
        return made_from is None or self._card(name)["made_from"] == made_from

    @contextlib.contextmanager
    def piece(
        self, name: str, made_from: str = "", arithmetic: Mapping[str, Any] | None = None
    ) -> Generator[Path, None, None]:
        """Build a piece in a folder beside its place; when the block ends well it moves there.

        An older piece of the same name is replaced; of several processes that make the same piece
        from the same at once the first one's stays. Nothing remains of a block that fails.

        Raises:
            StoreError: if the disk is full or the folder read-only.
        """
        final, there = self.path(name), self._identity(name)
        with explained(self.root), built_beside(final) as building:
            yield building
            seal(building, name, made_from, arithmetic=arithmetic)
            move_into_place(building, final, lambda: self._made_since(name, made_from, there))

    def _identity(self, name: str) -> int | None:
        """What tells a piece from another that is put in its place later; None if none is there."""
        with contextlib.suppress(OSError):
            return (self.path(name) / PIECE).stat().st_ino
        return None

    def _made_since(self, name: str, made_from: str, before: int | None) -> bool:
        """Whether another process has made the same piece from the same in the meantime."""
        with contextlib.suppress(StoreError):
            return self._identity(name) != before and self.has(name, made_from)
        return False

    def make(
        self,
        name: str,
        inputs: Any,
        write: Callable[[], Mapping[str, Any]],
        *,
        again: bool = False,
        arithmetic: Callable[[], Mapping[str, Any]] | None = None,
    ) -> bool:
        """Make a piece, unless it is there and was made from the same inputs.

        Args:
            name: of the piece.
            inputs: JSON value of all that the content depends on: checksums of other pieces,
                settings.
            write: gives the content, file name to what `file_bytes` takes; asked only if needed.
            again: make it even if it is there.
            arithmetic: what the last bits of the content depend on beside that, if they do.

        Returns:
            Whether it was made now.
        """
        made_from = digest(inputs)
        if not again and self.has(name, made_from):
            return False
        files = write()
        with self.piece(name, made_from, arithmetic and arithmetic()) as folder:
            for file, content in files.items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(file_bytes(file, content))
        return True

    def table(self, name: str, file: str) -> pl.DataFrame:
        """A Parquet table of a piece, checked against its checksum."""
        import polars as pl

        path = self.checked(name, file)
        with self._readable(name, file, pl.exceptions.PolarsError):
            return pl.read_parquet(path, glob=False)

    def tensors(self, name: str, file: str) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays of a safetensors file of a piece, checked against its checksum."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self.checked(name, file)
        with self._readable(name, file, SafetensorError):
            return load(path.read_bytes())

    def document(self, name: str, file: str) -> Any:
        """A JSON file of a piece, checked against its checksum."""
        path = self.checked(name, file)
        with self._readable(name, file):
            return json.loads(path.read_text("utf-8"))

    def checked(self, name: str, file: str) -> Path:
        """The path of a file of a piece after its checksum was found right.

        Raises:
            StoreError: if the piece is missing or damaged.
        """
        path = self.sized(name, file)
        if checked_sha256(path) != self._card(name)["files"][file]["sha256"]:
            raise self._damaged(name, f"the checksum of {file} is wrong")
        return path

    def sized(self, name: str, file: str) -> Path:
        """The same after its size alone was found right, for files that others have hashed."""
        path, card = self.path(name) / file, self._card(name)["files"].get(file)
        if card is None or not path.exists():
            raise self._damaged(name, f"{file} is missing")
        size = path.stat().st_size
        if size != card["bytes"]:
            raise self._damaged(name, f"{file} has {size} bytes instead of {card['bytes']}")
        return path

    def holds(self, name: str, file: str) -> bool:
        """Whether a piece has a file, by its card."""
        return file in self._card(name)["files"]

    def lacks(self, name: str) -> str | None:
        """What is to be done about a piece that a file was taken from; None if all are there."""
        gone = [file for file in self._card(name)["files"] if not (self.path(name) / file).exists()]
        return str(self._damaged(name, f"{gone[0]} is missing")) if gone else None

    def arithmetic(self, name: str) -> dict[str, Any] | None:
        """What the last bits of a piece depended on where it was made; None if that is not known.

        Keys: torch, numba (versions), instructions, processor (of numba's code), device, threads.
        """
        return self._card(name).get("arithmetic")

    def checksum(self, name: str) -> str:
        """One digest over all files of a piece, as its `piece.json` states them."""
        card = self._card(name)["files"]
        joined = "".join(f"{f}:{card[f]['sha256']}\n" for f in sorted(card))
        return hashlib.sha256(joined.encode()).hexdigest()

    def _card(self, name: str) -> Any:
        if not (self.path(name) / PIECE).exists():
            raise StoreError(
                f"{self.path(name)} is not there or not whole; `reseed run` makes what is missing."
            )
        card = read_json(self.path(name) / PIECE)
        try:
            files = [{"bytes", "sha256"} <= set(entry) for entry in card["files"].values()]
            complete = isinstance(card["made_from"], str) and all(files)
        except (AttributeError, KeyError, TypeError):
            complete = False
        if not complete:
            raise self._damaged(name, f"{PIECE} lacks its entries")
        if card.get("name") != name:
            raise self._damaged(name, f"it is the piece {card.get('name')!r}, put in this place")
        return card

    @contextlib.contextmanager
    def _readable(
        self, name: str, file: str, *damage: type[Exception]
    ) -> Generator[None, None, None]:
        try:
            yield
        except (OSError, ValueError, *damage) as error:
            raise self._damaged(name, f"{file} cannot be read ({error})") from error

    def _damaged(self, name: str, what: str) -> StoreError:
        return StoreError(
            f"{self.path(name)} is damaged: {what}. Delete that folder and run `reseed run` again; "
            "only what was in it is made again."
        )


def snapshot_folder(step: int) -> str:
    """Folder, inside the piece of a run, of the SAE as it was after a step."""
    return f"snapshots/{step:08d}"


def _holder(handle: IO[bytes]) -> str:
    handle.seek(0)
    return handle.read(1000).decode(errors="replace").strip()
