"""Pieces that several studies share: a folder outside of them that each takes from and gives to.

A piece of a study and the one in the cache are hard links of the same files, so that it takes its
room once, and either can be deleted without the other. Where the cache lies on another file system
they are copies.
"""

from __future__ import annotations

import errno
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from reseed.errors import StoreError, explained
from reseed.store.files import PIECE, read_json, write_bytes
from reseed.store.pieces import Store
from reseed.store.temporary import built_beside, move_into_place

CARD = "cached.json"
"""Says of a folder that it is an entry of a cache, and what it holds."""


class Entry(NamedTuple):
    """The pieces of one key."""

    path: Path
    about: Any
    bytes: int
    used: datetime


class Cached(NamedTuple):
    """Pieces that a study has or wants, in a cache."""

    folder: Path
    """of the cache"""
    key: str
    """says all that the pieces were made from, by content"""
    names: list[str]
    about: Any
    """JSON value for people"""

    def fetch(self, store: Store) -> bool:
        """Put pieces that the cache has into a store that lacks them; whether there were any.

        A damaged one is deleted from the cache and not taken.
        """
        entry = Store(self.folder / self.key)
        wanted = [name for name in self.names if not store.has(name)]
        there = [name for name in wanted if _sound(entry, name)]
        if there:
            entry.write(CARD, self.about)  # its time says when the entry was used last
        for name in there:
            _share(entry, store, name)
        return bool(there)

    def give(self, store: Store) -> None:
        """Put pieces that a store has into the cache that lacks them."""
        entry = Store(self.folder / self.key)
        entry.write(CARD, self.about)  # first: what is cut short must be seen to be deleted
        for name in self.names:
            if store.has(name) and not entry.has(name):
                _share(store, entry, name)


def _sound(store: Store, name: str) -> bool:
    try:
        return store.has(name) and all(store.checked(name, file) for file in _files(store, name))
    except StoreError:
        shutil.rmtree(store.path(name), ignore_errors=True)
        return False


def entries(cache: Path) -> list[Entry]:
    """What a cache holds, used last first.

    Raises:
        StoreError: if there is no such folder.
    """
    if not cache.is_dir():
        raise StoreError(f"{cache} is no folder; it is what `activations.cache` of a study names")
    out: list[Entry] = []
    for card in cache.glob(f"*/{CARD}"):
        files = [path.stat() for path in card.parent.rglob("*") if path.is_file()]
        used = datetime.fromtimestamp(card.stat().st_mtime)
        size = sum(file.st_size for file in files)
        out.append(Entry(card.parent, read_json(card), size, used))
    return sorted(out, key=lambda entry: entry.used, reverse=True)


def trim(cache: Path, keep: float) -> list[Entry]:
    """Delete entries, the longest unused first, until a cache takes at most `keep` bytes.

    Only what an entry's card marks as ours goes; studies keep their own links.

    Args:
        cache: the folder.
        keep: bytes.

    Returns:
        What was deleted.
    """
    there = entries(cache)
    left, gone = sum(entry.bytes for entry in there), list[Entry]()
    for entry in reversed(there):
        if left <= keep:
            break
        if entry.path.is_symlink():
            continue
        with explained(entry.path):
            # the card last: what is left of a deletion that is cut short is still an entry
            for inner in [
                *(path for path in entry.path.iterdir() if path.name != CARD),
                entry.path,
            ]:
                shutil.rmtree(inner)
        left -= entry.bytes
        gone.append(entry)
    return gone


def _files(store: Store, name: str) -> list[str]:
    store.checksum(name)  # refuses a card that lacks its entries
    return list(read_json(store.path(name) / PIECE)["files"])


def _share(source: Store, target: Store, name: str) -> None:
    """The same piece in another store; of several that put it there at once the first one's."""
    files = [PIECE, *_files(source, name)]
    final = target.path(name)
    with explained(final), built_beside(final) as building:
        for file in files:
            (building / file).parent.mkdir(parents=True, exist_ok=True)
            _link(source.path(name) / file, building / file)
        move_into_place(building, final, lambda: target.has(name))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        # another file system, one without links, or a file with too many
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        write_bytes(target, source.read_bytes())
