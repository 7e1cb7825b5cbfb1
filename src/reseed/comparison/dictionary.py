"""What is compared: an SAE, or two matrices, from anywhere, under a name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reseed.errors import SpecError
from reseed.formats import plain, read
from reseed.formats.files import Files
from reseed.formats.place import resolve
from reseed.matching.rows import finite_rows
from reseed.matching.sides import Views
from reseed.records import SAEArrays
from reseed.store import file_sha256

_MOST_FILES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Dictionary:
    """Encoder and decoder rows under a name, and where they come from."""

    name: str
    views: Views
    """[F, D] encoder and [F, E] decoder rows; the decoder twice if there is no encoder"""
    has_encoder: bool
    sae: SAEArrays | None
    """None for bare matrices, which cannot be run"""
    sha256: str
    """of encoder and decoder rows, whatever file they lie in"""
    about: Mapping[str, Any]
    """format, path, subject, site, what was folded; as far as known"""

    @property
    def latents(self) -> int:
        """F."""
        return len(self.views.decoder)

    @property
    def dimensions(self) -> tuple[int, int]:
        """(D, E): what the encoder reads and the decoder writes."""
        return self.views.encoder.shape[1], self.views.decoder.shape[1]


def dictionaries(given: Sequence[Any], names: Sequence[str] | None) -> list[Dictionary]:
    """All that is to be compared, under names that differ.

    Args:
        given: each an `SAE`, `SAEArrays`, a `[F, D]` decoder, a pair (encoder, decoder) of such
            matrices, or a path or `hf:` reference in any format.
        names: of each; left out, paths are shortened and all else is A, B, C.

    Raises:
        SpecError: if there are fewer than two, or one is none of these, or names repeat.
    """
    if len(given) < 2:
        raise SpecError(f"{len(given)} SAE given; a comparison needs at least two")
    chosen = list(names) if names is not None else short_names(given)
    if len(chosen) != len(given) or len(set(chosen)) < len(chosen):
        raise SpecError(f"names = {chosen} must be {len(given)} different names, one for each SAE")
    for name in chosen:
        if not name or name.startswith(".") or "/" in name or "--" in name:
            raise SpecError(
                f"{name!r} cannot name an SAE: files are named after it, so no '/', no '--' and no "
                "'.' in front"
            )
    return [_dictionary(one, name) for one, name in zip(given, chosen, strict=True)]


def _dictionary(given: Any, name: str) -> Dictionary:
    if isinstance(given, str | os.PathLike):
        return _of_path(os.fspath(given), name)
    if hasattr(given, "arrays"):
        return _of_arrays(given.arrays(), name, {})
    if isinstance(given, SAEArrays):
        return _of_arrays(given, name, {})
    if isinstance(given, tuple | list):
        if len(given) != 2:
            raise SpecError(f"{name}: a pair (encoder, decoder) has two matrices, not {len(given)}")
        encoder = finite_rows(given[0], f"{name}'s encoder")
        decoder = finite_rows(given[1], f"{name}'s decoder")
        return _of_views(Views(encoder, decoder), name, has_encoder=True)
    decoder = finite_rows(given, f"{name}'s decoder")
    return _of_views(Views(decoder, decoder), name, has_encoder=False)


def _of_path(given: str, name: str) -> Dictionary:
    """In any format; matrices without settings are taken where no format fits."""
    place = resolve(given)
    found = Files(place.path)
    if read.recognise(place.path) or not plain.recognise(found):
        return _of_arrays(read.read(given), name, {"path": given, "files": _files(found)})
    bare = plain.read(found)
    encoder = bare.W_dec if bare.W_enc is None else bare.W_enc
    made = _of_views(Views(encoder, bare.W_dec), name, has_encoder=bare.W_enc is not None)
    return replace(made, about={**bare.about, "path": given, "files": _files(found)})


def _files(found: Files) -> dict[str, str]:
    """SHA-256 of the files behind a reference; of a folder, of those that are not below others."""
    names = [name for name in found.names() if "/" not in name]
    return {name: file_sha256(found.folder / name) for name in names[:_MOST_FILES]}


def _of_arrays(sae: SAEArrays, name: str, about: Mapping[str, Any]) -> Dictionary:
    views = Views(
        finite_rows(sae.W_enc, f"{name}'s encoder"), finite_rows(sae.W_dec, f"{name}'s decoder")
    )
    return Dictionary(
        name=name,
        views=views,
        has_encoder=True,
        sae=sae,
        sha256=_sha256(views),
        about={**sae.about, **about},
    )


def _of_views(views: Views, name: str, *, has_encoder: bool) -> Dictionary:
    if len(views.encoder) != len(views.decoder):
        raise SpecError(
            f"{name}: the encoder has {len(views.encoder)} rows and the decoder "
            f"{len(views.decoder)}; both need one row for each latent (is one transposed?)"
        )
    return Dictionary(
        name=name,
        views=views,
        has_encoder=has_encoder,
        sae=None,
        sha256=_sha256(views),
        about={},
    )


def short_names(given: Sequence[Any]) -> list[str]:
    """Letters, and for paths their last parts, as many as tell them apart."""
    letters = [chr(ord("A") + n % 26) + ("" if n < 26 else str(n // 26)) for n in range(len(given))]
    paths = [os.fspath(one) if isinstance(one, str | os.PathLike) else None for one in given]
    parts = [None if path is None else _parts(path) for path in paths]
    for depth in range(1, 8):
        short = [
            letter if part is None else "-".join(part[-depth:])
            for letter, part in zip(letters, parts, strict=True)
        ]
        if len(set(short)) == len(short):
            return short
    return letters


def _parts(path: str) -> list[str]:
    found = [part for part in path.replace(":", "/").split("/") if part not in ("", ".", "..")]
    return [part.replace("--", "-").lstrip(".") for part in found] or ["sae"]


def _sha256(views: Views) -> str:
    found = hashlib.sha256()
    for array in views:
        tight = np.ascontiguousarray(array, np.float32)
        found.update(f"{tight.shape}{tight.dtype}".encode())
        found.update(tight.tobytes())
    return found.hexdigest()
