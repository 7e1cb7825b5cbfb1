"""What readers and writers of single formats share: strict names, options, refusals to write."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from reseed.errors import SpecError, StoreError, nearest
from reseed.formats.arrays import Arrays
from reseed.formats.checks import Weights, shown
from reseed.records import Floats, SAEArrays


def take(
    held: Arrays,
    shapes: Mapping[str, str],
    *,
    optional: Collection[str] = (),
    ignored: Collection[str] = (),
) -> dict[str, Floats]:
    """The arrays of a file that holds these and nothing else; matrices with latents as rows.

    Args:
        held: the file.
        shapes: name to a letter a dimension, e.g. `{"W_enc": "DF", "b_enc": "F"}`; letters as in
            `Weights`. A matrix whose second letter is F is transposed.
        optional: names that need not be there.
        ignored: names that may be there and say nothing about the reconstruction.

    Raises:
        StoreError: if one is missing, of another shape, not of numbers, or holds NaN or infinity.
        SpecError: if the file holds more; it would be dropped in silence.
    """
    unknown = {name: None for name in held if name not in shapes and name not in ignored}
    if unknown:
        raise SpecError(
            f"{held.path} also holds {shown(unknown)}, which this format does not have; is it a "
            "variant? What it reconstructs may depend on them, so it is not read."
        )
    check_shapes(held, shapes)
    weights = Weights(arrays=held, where=str(held.path))
    return {
        name: weights.take(name, dims, to=dims[::-1] if dims.endswith("F") else None)
        for name, dims in shapes.items()
        if name not in optional or name in held
    }


def check_shapes(held: Arrays, shapes: Mapping[str, str]) -> None:
    """Check that shapes fit each other, before anything is read.

    Raises:
        StoreError: if they do not, or a size is 0.
    """
    sizes: dict[str, int] = {}
    for name, letters in shapes.items():
        shape = held.shape(name)
        if shape is None:
            continue
        if len(shape) != len(letters) or any(
            size < 1 or sizes.setdefault(letter, size) != size
            for letter, size in zip(letters, shape, strict=True)
        ):
            raise StoreError(
                f"{held.path}: {name} has shape {list(shape)}, which does not fit "
                f"[{', '.join(letters)}] with {sizes}; is a matrix transposed, or the file damaged?"
            )


def closed(given: Mapping[str, Any], known: Collection[str], name: str) -> None:
    """Refuse options that a format does not have.

    Raises:
        SpecError: naming the nearest that it has.
    """
    for word in given:
        if word == "inner" and word not in known:
            raise SpecError(f"there is no {given[word]} in it: a file of {name} holds one SAE")
        if word not in known:
            hint = nearest(word, known) if known else "it has none"
            raise SpecError(f"{name} has no option {word!r}; {hint}")


def told(settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """What settings tell about the subject and the site.

    Args:
        settings: of the file.
        names: our name to theirs, e.g. `{"site": "hook_point_in"}`.
    """
    out = {ours: settings.get(theirs) for ours, theirs in names.items()}
    return {ours: value for ours, value in out.items() if isinstance(value, str) and value}


def refuse(
    name: str,
    sae: SAEArrays,
    *,
    kinds: Collection[str],
    skip: bool = False,
    normalised: bool = False,
    transcoder: bool = False,
) -> None:
    """Refuse to write what a format cannot express.

    Args:
        name: of the format.
        sae: to be written.
        kinds: activation kinds that it has.
        skip: whether it has skip connections.
        normalised: whether it has normalised rows.
        transcoder: whether it has output dimensions of its own.

    Raises:
        SpecError: with the reason.
    """
    kind = sae.activation["kind"]
    D, E = sae.W_enc.shape[1], sae.W_dec.shape[1]
    reason = None
    if kind not in kinds:
        reason = f"its activation is {kind}, and the format has {' and '.join(sorted(kinds))} only"
    elif sae.W_skip is not None and not skip:
        reason = "it has a skip connection, and the format has none"
    elif sae.normalised and not normalised:
        reason = "it normalises each row, which the format does not and no weights can stand for"
    elif D != E and not transcoder:
        reason = f"it reads {D} dimensions and writes {E}, and the format has one number for both"
    if reason:
        raise SpecError(f"this SAE cannot be written as {name}: {reason}")
