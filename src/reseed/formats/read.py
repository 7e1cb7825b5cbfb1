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

from reseed.errors import SpecError, StoreError, nearest, needs_train
from reseed.formats import own
from reseed.formats.checks import Format, closed, complete
from reseed.formats.files import Files
from reseed.formats.hub import Place, resolve
from reseed.formats.published import (
    batchtopk,
    dictionary_learning,
    e2e_sae,
    gemma_scope,
    layer_files,
    llama_scope,
    saelens,
    sparsify,
)
from reseed.records import SAEArrays

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
    *layer_files.FORMATS,
)

_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".npz", ".npy")


def names() -> list[str]:
    """Names of all formats, as in `--format` and `--to`."""
    return [format.name for format in FORMATS]


def recognise(path: Path) -> list[str]:
    """Names of the formats that a file or folder can be in."""
    return [format.name for format in _matching(Files(path))]


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
        if name.endswith(_WEIGHTS) and parent not in saes and _matching(files.inside(name)):
            saes.add(name)
    return sorted(saes, key=_natural)


def load(
    path: str | os.PathLike[str], *, format: str | None = None, inner: str | None = None
) -> SAE:
    """Load an SAE that reseed or anybody else wrote, in raw activation units. Needs torch.

    Args:
        path: file or folder in any format of `docs/formats.md`, or `hf:OWNER/REPO/PATH@REVISION`.
        format: its name, where several fit.
        inner: which one, where a folder or a file holds several.

    Returns:
        The SAE; `about` says what was folded into its weights, and what to beware of.

    Raises:
        SpecError: if it is in no known format, or in several, or holds several SAEs.
        StoreError: if a file is damaged.
    """
    with needs_train("reseed.load"):
        from reseed.sae.model import from_arrays

    return from_arrays(read(os.fspath(path), format=format, inner=inner))


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
    chosen = _chosen(files, format)
    closed(which, chosen.choices, chosen.name)
    if inner is not None:
        if not chosen.several:
            raise SpecError(f"{files.path} has no {inner} in it; {_listed(files)}")
        which["inner"] = inner
    with np.errstate(all="ignore"):  # what overflows is found below
        sae = complete(chosen.read(files, **which), str(files.path))
    return replace(sae, about=_with_source(sae.about, chosen.name, place))


def write(path: Path, sae: SAEArrays, format: str, **options: Any) -> None:
    """Write an SAE in a format.

    Args:
        path: the folder to write into, or where the format is one file, that file.
        sae: in raw units.
        format: its name.
        options: further choices of single formats, see docs/formats.md.

    Raises:
        SpecError: if the format is not known, or cannot express this SAE; nothing was written.
        StoreError: if it cannot be written.
    """
    chosen = _named(format)
    closed(options, chosen.options, format)
    if path.is_dir() and (others := set(recognise(path)) - {format}):
        raise SpecError(
            f"{path} already holds an SAE as {', '.join(sorted(others))}; two formats in one "
            "folder cannot be told apart, choose another folder"
        )
    sae = complete(sae, "the SAE to write")
    chosen.refuse(sae)
    chosen.write(path, sae, **options)


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
    return [format for format in FORMATS if format.recognise(files)]


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
    _refuse_damage(files)
    raise SpecError(f"{files.path} is no SAE in a format that is known. {_listed(files)}")


def _refuse_damage(files: Files) -> None:
    """Name what is damaged, where that may be why nothing is recognised."""
    near = [name for name in files.names() if "/" not in name and name.endswith(_WEIGHTS)]
    for name in near[:20]:
        if (damage := files.damage(name)) is not None:
            raise StoreError(damage)


def _listed(files: Files) -> str:
    """What to choose from, or what there is."""
    saes = list_saes(files.path)
    if saes:
        more = f" and {len(saes) - 20} more" if len(saes) > 20 else ""
        return (
            f"It holds {len(saes)} SAEs; name one with --inner (inner=...): "
            f"{', '.join(saes[:20])}{more}"
        )
    held = files.names()
    shown = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "")
    return f"It holds {shown or 'nothing'}; formats that are known: {', '.join(names())}"


def _natural(name: str) -> str:
    """Sorts layers.2 before layers.10."""
    return re.sub(r"\d+", lambda number: number[0].zfill(12), name)
