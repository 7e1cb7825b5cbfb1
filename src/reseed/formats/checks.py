"""What every reader checks: that arrays are there, fit each other and are finite."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError, nearest
from reseed.formats.arrays import Arrays
from reseed.records import Floats, SAEArrays, check_rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The arrays of one SAE in a file, taken out one by one and checked on the way.

    Dimensions have letters: F latents, D input, E output. What the first array or the settings say
    of a letter holds for all that come after.
    """

    arrays: Mapping[str, Any]
    where: str
    """names the file in messages"""
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    """letter to size, as far as known"""

    def take(self, key: str, dims: str, *, to: str | None = None) -> Floats:
        """An array in float32.

        Args:
            key: its name in the file.
            dims: its dimensions there, e.g. `"DF"`.
            to: the order they are wanted in, e.g. `"FD"`.

        Raises:
            StoreError: if it is missing, no array of numbers, has NaN, or does not fit.
        """
        if key not in self.arrays:
            raise StoreError(f"{self.where} lacks {key}; it has {shown(self.arrays)}")
        array = self.arrays[key]
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
            raise StoreError(f"{self.where}: {key} is no array of numbers")
        if array.ndim != len(dims) or any(
            self.sizes.setdefault(d, n) != n for d, n in zip(dims, array.shape, strict=True)
        ):
            raise StoreError(
                f"{self.where}: {key} has shape {list(array.shape)}, which does not fit "
                f"[{', '.join(dims)}] with {self.sizes}; settings and weights of different SAEs "
                "were mixed, or a matrix is transposed"
            )
        with np.errstate(over="ignore"):
            out = array.astype(np.float32, copy=False)
        if not np.isfinite(out).all():
            raise StoreError(
                f"{self.where}: {key} has NaN or infinity; a training that ended in NaN wrote it, "
                "or the file is damaged"
            )
        return np.ascontiguousarray(out if to in (None, dims) else out.T)

    def number(self, key: str) -> float:
        """A single finite number, stored as such or as an array of one.

        Raises:
            StoreError: if it is anything else.
        """
        value = np.asarray(self.arrays.get(key))
        if value.size != 1 or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            raise StoreError(f"{self.where}: {key} is not one finite number")
        return float(value.reshape(()))


def whole(settings: Mapping[str, Any], key: str, where: str, *, least: int = 1) -> int:
    """A whole number from settings.

    Raises:
        StoreError: if it is missing, no whole number, or too small.
    """
    value = settings.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not least <= value < 2**31:
        raise StoreError(f"{where}: {key} should be a whole number from {least}, not {value!r}")
    return value


def flag(settings: Mapping[str, Any], key: str, where: str, *, default: bool) -> bool:
    """A yes or no from settings.

    Raises:
        StoreError: if it is anything else.
    """
    value = settings.get(key, default)
    if not isinstance(value, bool):
        raise StoreError(f"{where}: {key} should be true or false, not {value!r}")
    return value


def about(name: str, folded: list[str], warnings: list[str], facts: Mapping[str, Any]) -> Any:
    """The record of where an SAE comes from: plain facts that are known, and what was done.

    Args:
        name: of the format.
        folded: what was folded into the weights, in sentences.
        warnings: what a user should know, in sentences.
        facts: of the file; only text and finite numbers are kept.
    """
    plain = {
        key: value
        for key, value in facts.items()
        if isinstance(value, str | bool | int) or (isinstance(value, float) and np.isfinite(value))
    }
    return {"format": name, **plain, "folded": folded, "warnings": warnings}


def complete(sae: SAEArrays, where: str) -> SAEArrays:
    """The same SAE in float32, if shapes fit, numbers are finite and its rule can be applied.

    Raises:
        SpecError: if the rule cannot be applied, e.g. k above the width.
        StoreError: if arrays do not fit.
    """
    names = {"W_enc": "FD", "b_enc": "F", "W_dec": "FE", "b_dec": "E"}
    names |= {"threshold": "F", "W_skip": "ED"}
    arrays = {name: getattr(sae, name) for name in names}
    weights = Weights(
        arrays={name: array for name, array in arrays.items() if array is not None}, where=where
    )
    checked = {
        name: weights.take(name, dims)
        for name, dims in names.items()
        if arrays[name] is not None or name in ("W_enc", "b_enc", "W_dec", "b_dec")
    }
    sizes = weights.sizes
    if min(sizes.values()) < 1:
        raise StoreError(f"{where} holds an SAE without latents or dimensions: {sizes}")
    if sae.centred and sizes["D"] != sizes["E"]:
        raise StoreError(
            f"{where}: b_dec of {sizes['E']} dimensions cannot be subtracted from an input of "
            f"{sizes['D']}"
        )
    check_rule(sae.activation, sizes["F"], sae.threshold, where)
    return replace(sae, **checked)


def shown(names: Mapping[str, Any]) -> str:
    """Names for a message, the first twelve of them."""
    listed = sorted(map(str, names))
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")


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
