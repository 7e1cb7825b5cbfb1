"""What an SAE that a training goes on from is known by, and whether it can be gone on from.

It is known by its numbers and its rule, not by its path or its format: the same SAE in another
place is the same start. Read without torch. F latents, D input and E output dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats import folds, own
from reseed.formats.read import read
from reseed.records import SAEArrays
from reseed.sae.architectures import ARCHITECTURES, SAESpec, architecture
from reseed.store import file_bytes, read_json

STARTS_FILE = "starts.json"
"""File of a study: where each SAE was that its trainings go on from, and its checksum."""

_UNIT = 1e-3
"""By which lengths of decoder rows may differ from 1."""


def checksum(sae: SAEArrays) -> str:
    """SHA-256 of the arrays and the rule of an SAE as `reseed convert --to reseed` writes them."""
    files = own.contents(replace(sae, about={}))
    parts = [file_bytes(name, files[name]) for name in sorted(files)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def with_checksums(
    saes: Sequence[SAESpec], base: Path | None, known: Mapping[str, str]
) -> tuple[SAESpec, ...]:
    """Settings in which each SAE to go on from has its checksum, and a path that leads there.

    Args:
        saes: of a study.
        base: the folder in which relative paths are looked for before the current one.
        known: checksums by what the study says, of when it began; what has none is read.

    Raises:
        SpecError: if there is no SAE to be read, or the settings cannot go on from it.
        StoreError: if it is damaged.
    """
    out: list[SAESpec] = []
    for sae in saes:
        change: dict[str, Any] = {}
        if sae.published is not None:
            near = None if base is None else base / sae.published
            change["init"] = str(near) if near is not None and near.exists() else sae.published
            change["init_sha256"] = sae.init_sha256 or known.get(sae.published)
        made = sae.model_copy(update=change)
        if sae.published is not None and made.init_sha256 is None:
            made = made.model_copy(update={"init_sha256": checksum(_checked(made))})
        out.append(made)
    return tuple(out)


def starts_of(
    saes: Sequence[SAESpec], base: Path, folder: Path
) -> tuple[tuple[SAESpec, ...], dict[str, str]]:
    """`with_checksums` for a study; and what each is called there, to its checksum.

    What the folder of its results has kept of them holds, whatever lies there now.
    """
    known = read_json(folder / STARTS_FILE) if (folder / STARTS_FILE).exists() else {}
    made = with_checksums(saes, base, known)
    identities = [sae.identity() for sae in made]
    for number, sae in enumerate(made):
        if sae.published is not None and identities[number] in identities[:number]:
            raise SpecError(
                f"sae.{number}: init = {sae.init!r} is the same SAE as that of another [[sae]] "
                "with these settings, in another place; they would be the same runs"
            )
    names = {a.published: b.init_sha256 for a, b in zip(saes, made, strict=True)}
    return made, {a: b for a, b in names.items() if a is not None and b is not None}


def read_start(sae: SAESpec, dimensions: tuple[int, int]) -> SAEArrays:
    """The SAE that a training with these settings goes on from, in the form that it trains.

    Args:
        sae: with `published`.
        dimensions: D and E, what the site and the target have.

    Raises:
        SpecError: if it cannot be read, or not be gone on from.
        StoreError: if it is damaged, or another one than its checksum says.
    """
    start = _checked(sae)
    there = start.W_enc.shape[1], start.W_dec.shape[1]
    if there != dimensions:
        raise SpecError(
            f"init = {sae.init!r}: it reads {there[0]:,} and writes {there[1]:,} dimensions, but "
            f"the site has {dimensions[0]:,} and {dimensions[1]:,}; it was trained at another site "
            "or on another model"
        )
    now = checksum(start)
    if sae.init_sha256 not in (None, now):
        raise StoreError(
            f"init = {sae.init!r}: the SAE there has the checksum {now}, and the study goes on "
            f"from {sae.init_sha256}: it was changed since, or another one is meant. Put it back, "
            "or give a study of the new one a folder of its own with `--out`."
        )
    start = folds.centred(start) if sae.subtracts else folds.uncentred(start)
    norms = folds.decoder_norms(start)
    if np.abs(norms - 1).max() <= _UNIT:
        return start
    if start.activation["kind"] not in ("relu", "jumprelu"):
        raise SpecError(
            f"init = {sae.init!r}: its decoder rows have lengths from {norms.min():.3g} to "
            f"{norms.max():.3g}. {sae.name} trains rows of length 1, and under a rule that "
            "compares latents others would then fire; it cannot be gone on from exactly."
        )
    return folds.rescaled(start, norms.astype(np.float32))


def _checked(sae: SAESpec) -> SAEArrays:
    assert sae.published is not None, "settings without an SAE to go on from"
    where, start = f"init = {sae.init!r}", read(sae.published)
    kind = start.activation["kind"]
    takes = architecture(sae.name).thaws
    if start.normalised:
        raise SpecError(
            f"{where}: it normalises each row, which no weights can stand for and no training here "
            "does; it cannot be gone on from"
        )
    if kind not in takes:
        others = [name for name, other in ARCHITECTURES.items() if kind in other.thaws]
        hint = f"with architecture = {' or '.join(map(repr, others))} it can" if others else ""
        raise SpecError(
            f"{where}: its rule is {kind}, and {sae.name} goes on from "
            f"{' or '.join(sorted(takes)) or 'no SAE that is there'}; "
            f"{hint or 'no architecture goes on from such a one'}"
        )
    if len(start.W_enc) != sae.latents:
        raise SpecError(
            f"{where}: it has {len(start.W_enc):,} latents, and latents = {sae.latents:,}; set "
            f"latents = {len(start.W_enc)}"
        )
    return start
