"""Where a study's TOML and its results lie, and what its relative paths start from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from reseed.errors import SpecError
from reseed.store.files import read_json

SPEC_FILE, DATA_FILE, BASE_FILE = "study.toml", "data.json", "base.json"
"""Of the folder of results: the TOML, what decides the activations, where the TOML was."""


class StudyPaths(NamedTuple):
    """Of a study."""

    file: Path
    """its TOML"""
    folder: Path
    """its results"""
    base: Path
    """what relative paths are looked for in before the current folder"""


def paths_of(
    path: str | os.PathLike[str], out: str | os.PathLike[str] | None, log: str
) -> StudyPaths:
    """The paths of a study that is named by its TOML, or by the folder of its results.

    `log` is the name of a file that a folder of results has from the first command on.

    Raises:
        SpecError: if there is no study, or nothing says where its results are to lie.
    """
    place = Path(path)
    beside = place.parent / DATA_FILE, place.parent / log
    if place.name == SPEC_FILE and all(file.exists() for file in beside):
        place = place.parent  # the copy that lies with the results
    if place.is_dir():
        if not (place / SPEC_FILE).exists():
            raise SpecError(f"{place} has no {SPEC_FILE}; {_GIVE}")
        return StudyPaths(place / SPEC_FILE, Path(out or place), _base(place))
    if not place.exists():
        raise SpecError(f"no file {place}; {_GIVE}")
    if out is None and place.suffix != ".toml":
        raise SpecError(
            f"{place}: results lie beside a study, in a folder of its name without .toml, and this "
            "name has no such ending; rename the file, or say with `--out` where they are to lie"
        )
    return StudyPaths(place, Path(out or place.with_suffix("")), place.absolute().parent)


def _base(folder: Path) -> Path:
    """Where the TOML of these results was; beside them if it was there, or has moved."""
    known = folder / BASE_FILE
    if known.exists() and (base := Path(read_json(known)["base"])).is_dir():
        return base
    return folder.absolute().parent


_GIVE = "give the TOML file of a study or the folder of its results"
