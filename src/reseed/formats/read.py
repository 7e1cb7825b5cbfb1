"""From a reference to an SAE in raw units, whatever format it is in.

A format is recognised by what files hold, never by guessing: what fits several, or holds several
SAEs, is an error that names them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from reseed.errors import SpecError, nearest, needs_train
from reseed.formats import own, unknown
from reseed.formats.checks import Format, closed, complete
from reseed.formats.files import Files
from reseed.formats.hub import Place, resolve
from reseed.formats.published import (
    batchtopk,
    by_names,
    dictionary_learning,
    e2e_sae,
    gemma_scope,
    home_made,
    layer_files,
    llama_scope,
    openai,
    saelens,
    sparsify,
)
from reseed.formats.put_in_place import put_in_place
from reseed.records import SAEArrays
from reseed.store import json_bytes, read_json, write_bytes

if TYPE_CHECKING:
    from reseed.sae.model import SAE

FORMATS: tuple[Format, ...] = (
    *own.FORMATS,
    *sparsify.FORMATS,
    *saelens.FORMATS,
    *dictionary_learning.FORMATS,
    *batchtopk.FORMATS,
    *e2e_sae.FORMATS,
    *llama_scope.FORMATS,
    *gemma_scope.FORMATS,
    *openai.FORMATS,
    *layer_files.FORMATS,
    *home_made.FORMATS,
)

NOTES = "reseed"
"""Key in the settings of other formats of what a study measured of an SAE."""


def names() -> list[str]:
    """Names of all formats, as in `--format` and `--to`."""
    return [format.name for format in FORMATS]


def recognise(path: Path) -> list[str]:
    """Names of the formats that a file or folder can be in."""
    return [format.name for format in _matching(Files(path))]


def settings_for(path: Path, which: Mapping[str, Any]) -> dict[str, Any]:
    """Of settings for reading several files, those that are for this one.

    What its format has, if it is in one of a library; all of them if it is not. SpecError for those
    that no format has.
    """
    every = {choice for format in FORMATS for choice in format.choices}
    closed(which, sorted(every | {"decoder", "encoder", "inner"}), "reading")
    library = _of_a_library(Files(path))
    own = {choice for format in library for choice in format.choices}
    return {name: value for name, value in which.items() if name in own or not library}


def list_saes(path: Path) -> list[str]:
    """Names of the files and folders below a folder that hold an SAE, relative to it; sorted."""
    files = Files(path)
    if files.is_file:
        return []
    names = files.names()
    folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
    saes = {name for name in folders - {"."} if _matching(files.inside(name))}
    for name in names:
        parent = PurePosixPath(name).parent.as_posix()
        if name.endswith(unknown.WEIGHTS) and parent not in saes and _matching(files.inside(name)):
            saes.add(name)
    return sorted(saes, key=_natural)


def load(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    inner: str | None = None,
    **which: Any,
) -> SAE:
    """Load an SAE that reseed or anybody else wrote, in raw activation units. Needs torch.

    Args:
        path: file or folder in any format of `docs/formats.md`, or `hf:OWNER/REPO/PATH@REVISION`.
        format: its name, where several fit.
        inner: which one, where a folder or a file holds several.
        which: further choices of single formats, e.g. `rule="topk", k=32`, see docs/formats.md.

    Returns:
        The SAE; `about` says what was folded into its weights, and what to beware of.

    Raises:
        SpecError: if it is in no known format, or in several, or holds several SAEs.
        StoreError: if a file is damaged.
    """
    with needs_train("reseed.load"):
        from reseed.sae.model import from_arrays

    return from_arrays(read(os.fspath(path), format=format, inner=inner, **which))


def read(
    reference: str | Path, *, format: str | None = None, inner: str | None = None, **which: Any
) -> SAEArrays:
    """Read an SAE.

    Args:
        reference: a file or folder, or `hf:OWNER/REPO/PATH@REVISION`.
        format: its name, where several fit.
        inner: which one, where a folder or a file holds several.
        which: further choices of single formats, see docs/formats.md.

    Raises:
        SpecError: if there is nothing that can be read, or several things that fit.
        StoreError: if a file is damaged.
    """
    place = resolve(reference)
    files = Files(place.path)
    if inner is not None and files.inside(inner).path.exists() and not files.is_file:
        files, inner = files.inside(inner), None
    if format is None and which.keys() & by_names.NAMES.keys():
        format = home_made.NAME  # who says which array is what says that no settings do
    chosen = _chosen(files, format)
    closed(which, chosen.choices, chosen.name)
    if inner is not None:
        if not chosen.several:
            raise SpecError(f"{files.path} has no {inner} in it; {_listed(files)}")
        which["inner"] = inner
    with np.errstate(all="ignore"):  # what overflows is found below
        sae = complete(chosen.read(files, **which), str(files.path))
    about = sae.about
    if chosen.name == own.NAME:
        about = own.with_study(about, files.folder)
    if chosen.notes and (measured := _table(files.settings(chosen.notes[0]), chosen).get(NOTES)):
        about = {**about, "measured": measured}
    return replace(sae, about=_with_source(about, chosen.name, place))


def save(
    sae: SAE | SAEArrays,
    path: str | os.PathLike[str],
    *,
    format: str = own.NAME,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Write an SAE, to be read by `reseed.load` or by the library whose format it is.

    Args:
        sae: trained here, or read from anywhere.
        path: the folder to write into, or where the format is one file, that file.
        format: e.g. `"saelens"`, `"sparsify"`, `"dictionary_learning"`; see docs/formats.md.
        overwrite: whether an SAE that is there may be replaced; it is, whole or not at all.
        options: further choices of single formats, see docs/formats.md.

    Raises:
        SpecError: if the format is not known, or cannot express this SAE, or files are there;
            nothing was written.
        StoreError: if it cannot be written.

    Example:
        >>> reseed.save(runs[0].sae, "my_sae", format="saelens")  # doctest: +SKIP
    """
    arrays = sae if isinstance(sae, SAEArrays) else sae.arrays()
    write(Path(path), arrays, format, overwrite=overwrite, **options)


def write(
    path: Path, sae: SAEArrays, format: str, *, overwrite: bool = False, **options: Any
) -> None:
    """Write an SAE in a format; see `save`."""
    chosen = _named(format)
    closed(options, chosen.options, format)
    if path.is_dir() and (others := set(recognise(path)) - {format}):
        raise SpecError(
            f"{path} already holds an SAE as {', '.join(sorted(others))}; two formats in one "
            "folder cannot be told apart, choose another folder"
        )
    sae = complete(sae, "the SAE to write")
    chosen.refuse(sae)

    def written(to: Path) -> None:
        chosen.write(to, sae, **options)
        if chosen.notes and (measured := sae.about.get("measured")):
            file = (to if to.is_dir() else to.parent) / chosen.notes[0]
            settings = read_json(file)
            _table(settings, chosen)[NOTES] = measured
            write_bytes(file, json_bytes(settings))

    put_in_place(path, written, overwrite=overwrite)


def _table(settings: dict[str, Any], chosen: Format) -> dict[str, Any]:
    """The table of a format's settings that takes what a study measured."""
    for key in chosen.notes[1:]:
        inner = settings.get(key)
        settings = inner if isinstance(inner, dict) else {}
    return settings


def _with_source(about: Mapping[str, Any], name: str, place: Place) -> dict[str, Any]:
    """Where it was read from; our own format keeps where it came from before as `origin`."""
    where = {"format": name, "source": place.name, "revision": place.revision}
    now = {key: value for key, value in where.items() if value is not None}
    before = {key: about[key] for key in where if key in about}
    kept = {key: value for key, value in about.items() if key not in where}
    if "source" in before:
        kept.setdefault("origin", before)
    return {**now, **kept}


def _matching(files: Files) -> list[Format]:
    fits = _of_a_library(files)
    lone = None if fits or files.is_file or not files.path.is_dir() else by_names.lone_file(files)
    if fits or (lone and _of_a_library(files.inside(lone))):
        return fits
    return [format for format in FORMATS if format.last and format.recognise(files)]


def _of_a_library(files: Files) -> list[Format]:
    return [format for format in FORMATS if not format.last and format.recognise(files)]


def _named(name: str) -> Format:
    for format in FORMATS:
        if name == format.name:
            return format
    raise SpecError(f"there is no format {name!r}; {nearest(name, names())}")


def _chosen(files: Files, name: str | None) -> Format:
    if name is not None:
        return _named(name)
    if not files.path.exists():
        raise SpecError(f"{files.path} does not exist; is the path right?")
    matching = _matching(files)
    if len(matching) == 1:
        return matching[0]
    if matching:
        candidates = ", ".join(format.name for format in matching)
        raise SpecError(
            f"{files.path} can be read as {candidates}, and nothing in it tells which; choose one "
            f"with --format (format=...)"
        )
    unknown.refuse_damage(files)
    raise SpecError(f"{files.path} is no SAE in a format that is known. {_listed(files)}")


def _listed(files: Files) -> str:
    return unknown.explained(files, list_saes(files.path), names())


def _natural(name: str) -> str:
    """Sorts layers.2 before layers.10."""
    return re.sub(r"\d+", lambda number: number[0].zfill(12), name)
