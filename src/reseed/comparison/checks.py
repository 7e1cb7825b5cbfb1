"""What makes a comparison nonsense, or weaker than it looks; said before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from reseed.comparison.dictionary import Dictionary
from reseed.errors import SpecError

_UNIT = 0.02
"""How far from 1 the lengths of decoder rows may be to count as unit norm."""
_LABELS = ("subject", "site")


def check(given: Sequence[Dictionary]) -> list[str]:
    """Refuse what cannot be compared; warn of what should not.

    Args:
        given: two or more.

    Returns:
        Warnings, each a sentence.

    Raises:
        SpecError: if dimensions differ, or an SAE has next to no rows that are not zero.
    """
    for a, b in combinations(given, 2):
        _check_dimensions(a, b)
    out = [warning for one in given for warning in _alone(one)]
    for a, b in combinations(given, 2):
        out += _together(a, b)
    if any(not one.has_encoder for one in given):
        without = ", ".join(one.name for one in given if not one.has_encoder)
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


def _size(one: Dictionary) -> str:
    d, e = one.dimensions
    return f"{one.latents} latents on {d} dimensions" + ("" if d == e else f" (writing {e})")


def _alone(one: Dictionary) -> list[str]:
    out: list[str] = []
    decoder = np.linalg.norm(one.views.decoder, axis=1)
    encoder = np.linalg.norm(one.views.encoder, axis=1)
    zero = int((decoder == 0).sum())
    if one.latents - zero < 2 or not encoder.any():
        raise SpecError(
            f"{one.name}: {zero} of {one.latents} decoder rows are zero and so are "
            f"{int((encoder == 0).sum())} encoder rows; nothing is left to compare. Was it trained?"
        )
    if zero:
        out.append(
            f"{one.name}: {zero} of {one.latents} decoder rows are zero; they match nothing and "
            "count as not shared."
        )
    live = decoder[decoder > 0]
    if len(live) and np.abs(live - 1).max() > _UNIT:
        if one.has_encoder and np.abs(encoder - 1).max() <= _UNIT:
            out.append(
                f"{one.name}: the encoder rows have length 1 and the decoder rows do not "
                f"({live.min():.3g} to {live.max():.3g}); are encoder and decoder swapped?"
            )
        else:
            out.append(
                f"{one.name}: decoder rows are not of length 1 ({live.min():.3g} to "
                f"{live.max():.3g}); only directions are compared, so this changes no number here."
            )
    if one.latents < min(one.dimensions) and one.has_encoder is False:
        out.append(
            f"{one.name}: fewer rows ({one.latents}) than dimensions ({one.dimensions[1]}); an "
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
    for label in _LABELS:
        first, second = a.about.get(label), b.about.get(label)
        if first and second and first != second:
            out.append(
                f"{a.name} was trained on {label} {first!r}, {b.name} on {second!r}; agreement "
                "across them is not about seeds."
            )
    seeds = [{key: one.about.get(key) for key in ("init_seed", "data_seed")} for one in (a, b)]
    if a.sha256 != b.sha256 and None not in seeds[0].values() and seeds[0] == seeds[1]:
        out.append(
            f"{a.name} and {b.name} record the same init and data seed; what they share may come "
            "from the common start."
        )
    return out
