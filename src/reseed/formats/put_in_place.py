"""An SAE is put in its place whole: settings of one never lie beside weights of another.

A format writes its files into a folder beside the place. Where nothing of these names is there yet
they are moved in one by one, weights first: without settings there is no SAE. Where an SAE is
replaced its folder is swapped for the new one, and nothing but files of these names may lie in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from reseed.errors import SpecError, explained
from reseed.store import built_beside, fsync, move_into_place, sweep_beside

_SETTINGS = ".json"


def put_in_place(to: Path, write: Callable[[Path], None], *, overwrite: bool) -> None:
    """Let `write` write a file or a folder, and put it in its place.

    Args:
        to: the file or folder; for a file, settings may be written beside it.
        write: writes to the path it is given, a path of the same name in another folder.
        overwrite: whether files that are there may be replaced.

    Raises:
        SpecError: if files are there that may not be replaced; nothing was changed.
        StoreError: if it cannot be written.
    """
    to = to.absolute()
    with explained(to):
        with built_beside(to) as building:
            write(building / to.name)
            made = building / to.name
            # one file, perhaps with settings beside it, or a folder of files
            base, final = (made, to) if made.is_dir() else (building, to.parent)
            _move(base, final, overwrite=overwrite)
        sweep_beside(to)  # only now: what was replaced when a process was killed may lie there


def _move(base: Path, final: Path, *, overwrite: bool) -> None:
    """Move all files below `base` to the same places below `final`."""
    names = sorted(
        (path.relative_to(base) for path in base.rglob("*") if path.is_file()),
        key=lambda name: (name.suffix == _SETTINGS, name),
    )
    there = [name for name in names if os.path.lexists(final / name)]
    if there and not overwrite:
        raise SpecError(
            f"{final} already holds {', '.join(map(str, there))}; choose another place, or replace "
            "what is there by --overwrite (overwrite=True)"
        )
    if there and final.is_symlink():
        raise SpecError(f"{final} is a link, and nothing is replaced through one; give the folder")
    if there and len(names) > 1 and _only(final, names):
        move_into_place(base, final)
        return
    if there and len(names) > 1:
        others = sorted(path.name for path in final.iterdir() if Path(path.name) not in names)
        raise SpecError(
            f"{final} holds other files than those of the SAE that is to be replaced "
            f"({', '.join(others[:8])}), and nothing of these is touched; write to a new folder"
        )
    with explained(final):
        for name in names:
            (final / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(base / name, final / name)
            fsync((final / name).parent)


def _only(folder: Path, names: list[Path]) -> bool:
    """Whether a folder holds nothing but files of these names."""
    held = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    return {path.relative_to(folder) for path in held} <= set(names)
