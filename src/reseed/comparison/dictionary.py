"""What is compared: an SAE or two matrices from anywhere, under a name, checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from reseed.errors import SpecError
from reseed.formats import plain, read
from reseed.formats.files import Files
from reseed.formats.hub import resolve
from reseed.formats.published import by_names, home_made
from reseed.formats.site_names import same_model, same_site
from reseed.matching.geometry import finite_rows
from reseed.matching.match import Views
from reseed.records import SAEArrays
from reseed.store import file_sha256

_MOST_FILES = 20

_UNIT = 0.02
"""How far from 1 the lengths of decoder rows may be to count as unit norm."""

_LABELS: Mapping[str, Callable[[str, str], bool | None]] = {
    "subject": same_model, "site": same_site
}  # fmt: skip
"""What two SAEs should have in common, and whether two names are of one; None: not known."""


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


def dictionaries(
    sources: Sequence[Any], names: Sequence[str] | None, read: Mapping[str, Any] | None = None
) -> list[Dictionary]:
    """All that is to be compared, under names that differ.

    Args:
        sources: each an `SAE`, `SAEArrays`, a `[F, D]` decoder, a pair (encoder, decoder) of such
            matrices, or a path or `hf:` reference in any format.
        names: of each; left out, paths are shortened and all else is A, B, C.
        read: settings for reading files, as of `reseed inspect --read`; for matrices without more,
            `decoder`, `encoder` and `rows` name the arrays.
    """
    if len(sources) < 2:
        raise SpecError(f"{len(sources)} SAE given; a comparison needs at least two")
    chosen = list(names) if names is not None else short_names(sources)
    if len(chosen) != len(sources) or len(set(chosen)) < len(chosen):
        raise SpecError(
            f"names = {chosen} must be {len(sources)} different names, one for each SAE"
        )
    for name in chosen:
        if not name or name.startswith(".") or "/" in name or "--" in name:
            raise SpecError(
                f"{name!r} cannot name an SAE: files are named after it, so no '/', no '--' and no "
                "'.' in front"
            )
    which = dict(read or {})
    return [_dictionary(source, name, which) for source, name in zip(sources, chosen, strict=True)]


def _dictionary(source: Any, name: str, which: Mapping[str, Any]) -> Dictionary:
    about: Mapping[str, Any] = {}
    if isinstance(source, str | os.PathLike):
        source, about = _read(os.fspath(source), which)
    sae = source.arrays() if hasattr(source, "arrays") else source
    if isinstance(sae, SAEArrays):
        encoder, decoder, about = sae.W_enc, sae.W_dec, {**sae.about, **about}
    else:
        sae, encoder, decoder = None, None, source
        if isinstance(source, tuple | list):
            if len(source) != 2:
                raise SpecError(
                    f"{name}: a pair (encoder, decoder) has two matrices, not {len(source)}"
                )
            encoder, decoder = source
    rows = finite_rows(decoder, f"{name}'s decoder")
    views = Views(rows if encoder is None else finite_rows(encoder, f"{name}'s encoder"), rows)
    if len(views.encoder) != len(views.decoder):
        raise SpecError(
            f"{name}: the encoder has {len(views.encoder)} rows and the decoder "
            f"{len(views.decoder)}; both need one row for each latent (is one transposed?)"
        )
    has_encoder, sha256 = encoder is not None, rows_sha256(views)
    return Dictionary(
        name=name, views=views, has_encoder=has_encoder, sae=sae, sha256=sha256, about=about
    )


def _read(path: str, which: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """In any format; matrices without settings are taken where no format fits."""
    place = resolve(path)
    files, which = Files(place.path), read.settings_for(place.path, which)
    about = {"path": path, "files": _files(files)}
    named = bool(which.keys() & {"decoder", "encoder"})
    formats = [] if named else read.recognise(place.path)
    if formats == [home_made.NAME] and not which:
        return _home_made(path, files, about)
    if formats or not (named or plain.recognise(files)):
        return read.read(path, **which), about
    bare = plain.read(files, **which)
    matrices = bare.W_dec if bare.W_enc is None else (bare.W_enc, bare.W_dec)
    return matrices, {**bare.about, **about}


def _home_made(path: str, files: Files, about: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """An SAE, or where its rule is not known, its two matrices: directions need no rule."""
    try:
        return read.read(path), about
    except SpecError:
        matrices = by_names.matrices(files)
    note = "how its codes are made is not known; its directions alone are compared"
    return matrices, {"format": home_made.NAME, "warnings": [note], **about}


def _files(files: Files) -> dict[str, str]:
    """SHA-256 of the files behind a reference; of a folder, of those that are not below others."""
    names = [name for name in files.names() if "/" not in name]
    return {name: file_sha256(files.folder / name) for name in names[:_MOST_FILES]}


def short_names(sources: Sequence[Any]) -> list[str]:
    """Letters, and for paths their last parts, as many as tell them apart."""
    count = len(sources)
    letters = [chr(ord("A") + n % 26) + ("" if n < 26 else str(n // 26)) for n in range(count)]
    parts = [_parts(os.fspath(s)) if isinstance(s, str | os.PathLike) else None for s in sources]
    for depth in range(1, 8):
        short = [
            letter if part is None else "-".join(part[-depth:])
            for letter, part in zip(letters, parts, strict=True)
        ]
        if len(set(short)) == len(short):
            return short
    return letters


def _parts(path: str) -> list[str]:
    parts = [part for part in path.replace(":", "/").split("/") if part not in ("", ".", "..")]
    return [part.replace("--", "-").lstrip(".") for part in parts] or ["sae"]


def rows_sha256(views: Views) -> str:
    """SHA-256 of encoder and decoder rows, in hex."""
    digest = hashlib.sha256()
    for array in views:
        tight = np.ascontiguousarray(array, np.float32)
        digest.update(f"{tight.shape}{tight.dtype}".encode())
        digest.update(tight.tobytes())
    return digest.hexdigest()


def check(compared: Sequence[Dictionary]) -> list[str]:
    """Refuse what cannot be compared; warn of what should not."""
    for a, b in combinations(compared, 2):
        _check_dimensions(a, b)
    out = [warning for dictionary in compared for warning in _alone(dictionary)]
    for a, b in combinations(compared, 2):
        out += _together(a, b)
    without = ", ".join(bare.name for bare in compared if not bare.has_encoder)
    if without:
        out.append(
            f"{without}: no encoder, so pairs with it are compared by their decoders only; "
            "`shared` then asks for one cosine, not for two."
        )
    return out


def _check_dimensions(a: Dictionary, b: Dictionary) -> None:
    if a.dimensions == b.dimensions:
        return
    sizes = f"{a.name} has {_size(a)}, {b.name} has {_size(b)}"
    if a.latents == b.dimensions[1] or b.latents == a.dimensions[1]:
        odd = a if a.latents == b.dimensions[1] else b
        raise SpecError(
            f"{sizes}. {odd.name} looks transposed: rows must be latents. Give its matrices "
            "transposed, or the file instead of the matrix, whose orientation is then known."
        )
    raise SpecError(
        f"{sizes}: they read or write different spaces, so cosines between them mean nothing. Are "
        "they of the same subject and site? Two subjects can be compared through activations of "
        "both on the same tokens; see docs/compare.md."
    )


def _size(dictionary: Dictionary) -> str:
    d, e = dictionary.dimensions
    return f"{dictionary.latents} latents on {d} dimensions" + ("" if d == e else f" (writing {e})")


def _alone(dictionary: Dictionary) -> list[str]:
    name, latents = dictionary.name, dictionary.latents
    of_file = dictionary.about.get("warnings")
    out = [f"{name}: {text}." for text in of_file] if isinstance(of_file, list | tuple) else []
    decoder = np.linalg.norm(dictionary.views.decoder, axis=1)
    encoder = np.linalg.norm(dictionary.views.encoder, axis=1)
    zero = int((decoder == 0).sum())
    left = int(((decoder > 0) & (encoder > 0)).sum())
    if left < 2:
        raise SpecError(
            f"{name} has {left} of {latents} latents whose rows are not zero, and a comparison "
            "needs two; nothing is left to compare"
            + (". Was it trained?" if left < latents else "")
        )
    if zero:
        out.append(
            f"{name}: {zero} of {latents} decoder rows are zero; they match nothing and "
            "count as not shared."
        )
    live = decoder[decoder > 0]
    if len(live) and np.abs(live - 1).max() > _UNIT:
        if dictionary.has_encoder and np.abs(encoder - 1).max() <= _UNIT:
            out.append(
                f"{name}: the encoder rows have length 1 and the decoder rows do not "
                f"({live.min():.3g} to {live.max():.3g}); are encoder and decoder swapped?"
            )
        else:
            out.append(
                f"{name}: decoder rows are not of length 1 ({live.min():.3g} to "
                f"{live.max():.3g}); only directions are compared, so this changes no number here."
            )
    if latents < min(dictionary.dimensions) and not dictionary.has_encoder:
        out.append(
            f"{name}: fewer rows ({latents}) than dimensions ({dictionary.dimensions[1]}); an "
            "over-complete dictionary that looks like this is transposed."
        )
    return out


def _together(a: Dictionary, b: Dictionary) -> list[str]:
    out: list[str] = []
    if a.sha256 == b.sha256:
        out.append(
            f"{a.name} and {b.name} are the same weights, so everything is shared; was one file "
            "given twice?"
        )
    for label, same in _LABELS.items():
        first, second = a.about.get(label), b.about.get(label)
        known = same(str(first), str(second)) if first and second else True
        if known is False:
            out.append(
                f"{a.name} was trained on {label} {first!r}, {b.name} on {second!r}; agreement "
                "across them is not about seeds."
            )
        elif known is None:
            out.append(
                f"{a.name} calls its {label} {first!r}, {b.name} calls it {second!r}; if these are "
                "not two names for one, agreement across them says nothing of seeds."
            )
    seeds = [{key: side.about.get(key) for key in ("init_seed", "data_seed")} for side in (a, b)]
    if a.sha256 != b.sha256 and None not in seeds[0].values() and seeds[0] == seeds[1]:
        out.append(
            f"{a.name} and {b.name} record the same init and data seed; what they share may come "
            "from the common start."
        )
    return out


def described(dictionary: Dictionary) -> dict[str, Any]:
    """What is recorded of a dictionary."""
    d, e = dictionary.dimensions
    rule = None if dictionary.sae is None else dict(dictionary.sae.activation)
    return {
        "name": dictionary.name,
        "latents": dictionary.latents,
        "dimensions": d,
        "output_dimensions": e,
        "encoder": dictionary.has_encoder,
        "activation": rule,
        "sha256_of_arrays": dictionary.sha256,
        "about": dict(dictionary.about),
    }
