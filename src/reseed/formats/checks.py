"""What a format is, and what every reader and writer checks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError, nearest
from reseed.formats.containers.arrays import Array, Arrays
from reseed.formats.files import Files
from reseed.records import ACTIVATIONS, Floats, SAEArrays, check_rule, is_transcoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How SAEs of one format are recognised, read and written, and what it can hold."""

    name: str
    recognise: Callable[[Files], bool]
    """by what files hold; cheap, and never fails on foreign files"""
    read: Callable[..., SAEArrays]
    """(files, **choices): in raw units; SpecError without a counterpart, StoreError if damaged"""
    write: Callable[..., None]
    """(path, sae, **options): of an SAE that `refuse` let through"""
    choices: tuple[str, ...] = ()
    """names of what can be chosen when reading"""
    options: tuple[str, ...] = ()
    """names of what can be chosen when writing"""
    last: bool = False
    """whether it is only taken where no other format fits"""
    several: bool = False
    """whether a file can hold several SAEs, of which `inner` chooses one"""
    kinds: Collection[str] = ACTIVATIONS
    """activation kinds that can be written"""
    skip: bool = False
    """whether it has skip connections"""
    normalised: bool = False
    """whether it has normalised rows"""
    transcoder: bool = False
    """whether it has output dimensions of its own"""
    notes: tuple[str, ...] = ()
    """file of settings, and keys of its table that takes what a study measured, if one can"""

    def refuse(self, sae: SAEArrays) -> None:
        """Refuse to write what the format cannot express.

        Raises:
            SpecError: with the reason.
        """
        kind, (D, E) = sae.activation["kind"], (sae.W_enc.shape[1], sae.W_dec.shape[1])
        reason = None
        if kind not in self.kinds:
            kinds = " and ".join(sorted(self.kinds))
            reason = f"its activation is {kind}, and the format has {kinds} only"
            if kind == "batchtopk" and "jumprelu" in self.kinds:
                reason += "; a batch rule needs a threshold first"
        elif sae.W_skip is not None and not self.skip:
            reason = "it has a skip connection, and the format has none"
        elif sae.normalised and not self.normalised:
            reason = (
                "it normalises each row, which the format does not and no weights can stand for"
            )
        elif D != E and not self.transcoder:
            reason = f"it reads {D} dimensions and writes {E}; the format has one number for both"
        elif is_transcoder(sae) and not self.transcoder and not self.skip:
            reason = "it writes another site than it reads, and the format has none of these"
        if reason:
            raise SpecError(f"this SAE cannot be written as {self.name}: {reason}")


Layout = Mapping[str, tuple[str, str]]
"""Field of an SAE to its array's name in a file, and the letters of its dimensions: F, D, E."""


def named(**dims: str) -> dict[str, tuple[str, str]]:
    """A layout in which arrays are called as the fields."""
    return {name: (name, letters) for name, letters in dims.items()}


_OURS = {"W_enc": "FD", "b_enc": "F", "W_dec": "FE", "b_dec": "E", "threshold": "F", "W_skip": "ED"}
"""The same letters, as an SAE has them."""


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
    taken: set[str] = field(default_factory=set[str])
    """names of arrays that were used"""

    def take(self, key: str, dims: str, *, to: str | None = None) -> Floats:
        """An array in float32 of dimensions `dims`, e.g. `"DF"`, turned into `to`, e.g. `"FD"`."""
        if key not in self.arrays:
            raise StoreError(f"{self.where} lacks {key}; it has {shown(self.arrays)}")
        self.taken.add(key)
        array = self.arrays[key]
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
            raise StoreError(f"{self.where}: {key} is no array of numbers")
        if array.ndim != len(dims) or any(
            self.sizes.setdefault(d, n) != n for d, n in zip(dims, array.shape, strict=True)
        ):
            raise StoreError(
                f"{self.where}: {key} has shape {list(array.shape)}, which does not fit "
                f"[{', '.join(dims)}] with {self.sizes}; {_misfit(array.ndim, dims)}"
            )
        with np.errstate(over="ignore"):
            out = array.astype(np.float32, copy=False)
        if not np.isfinite(out).all():
            raise StoreError(
                f"{self.where}: {key} has NaN or infinity; a training that ended in NaN wrote it, "
                "or the file is damaged"
            )
        return np.ascontiguousarray(out if to in (None, dims) else out.T)

    def fields(self, layout: Layout) -> dict[str, Any]:
        """The fields of an SAE, latents as rows."""
        return {
            name: self.take(key, dims, to=dims[::-1] if _lies(name, dims) else None)
            for name, (key, dims) in layout.items()
        }

    def number(self, key: str) -> float:
        """A single finite number, stored as such or as an array of one."""
        self.taken.add(key)
        value = np.asarray(self.arrays.get(key))
        if value.size != 1 or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            raise StoreError(f"{self.where}: {key} is not one finite number")
        return float(value.reshape(()))

    def nothing_left(self, why: str, ignored: Collection[str] = ()) -> None:
        """Refuse arrays that nobody took: what the SAE reconstructs may depend on them.

        Args:
            why: what the settings make of the file, for the message.
            ignored: arrays that say nothing about the reconstruction.

        Raises:
            SpecError: naming them.
        """
        left = [name for name in self.arrays if name not in self.taken and name not in ignored]
        if left:
            raise SpecError(
                f"{self.where} also holds {shown(left)}, which {why} does not use. What it "
                "reconstructs may depend on them, so it is not read: do settings and weights "
                "belong together?"
            )


def _misfit(dimensions: int, dims: str) -> str:
    if dimensions > len(dims):
        return (
            "one dimension more is that of a crosscoder, or of several SAEs in one array: there is "
            "no one decoder row for each latent. Write the matrices of one layer, or of one SAE, "
            "into a file of their own"
        )
    return "settings and weights of different SAEs were mixed, or a matrix is transposed"


def natural(settings: Mapping[str, Any], key: str, where: str, *, least: int = 1) -> int:
    """A whole number from settings; StoreError if it is missing, another thing, or too small."""
    value = settings.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not least <= value < 2**31:
        raise StoreError(f"{where}: {key} should be a whole number from {least}, not {value!r}")
    return value


def flag(settings: Mapping[str, Any], key: str, where: str, *, default: bool) -> bool:
    """A yes or no from settings; StoreError if it is anything else."""
    value = settings.get(key, default)
    if not isinstance(value, bool):
        raise StoreError(f"{where}: {key} should be true or false, not {value!r}")
    return value


def about(folded: Collection[str], notes: Collection[str], facts: Mapping[str, Any]) -> Any:
    """The record of where an SAE comes from: plain facts that are known, and what was done.

    Args:
        folded: what was folded into the weights, in sentences.
        notes: what a user should know, in sentences.
        facts: of the file; only text and finite numbers are kept.
    """
    plain = {
        key: value
        for key, value in facts.items()
        if isinstance(value, str | bool | int) or (isinstance(value, float) and np.isfinite(value))
    }
    return {**plain, "folded": list(folded), "warnings": list(notes)}


def complete(sae: SAEArrays, where: str) -> SAEArrays:
    """The same SAE in float32, if shapes fit, numbers are finite and its rule can be applied.

    Raises:
        SpecError: if the rule cannot be applied, e.g. k above the width.
        StoreError: if arrays do not fit.
    """
    arrays = {name: getattr(sae, name) for name in _OURS if getattr(sae, name) is not None}
    weights = Weights(arrays=arrays, where=where)
    checked = {name: weights.take(name, _OURS[name]) for name in arrays}
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


def shown(names: Collection[Any]) -> str:
    """Names for a message, the first twelve of them."""
    listed = sorted(map(str, names))
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")


def take(
    held: Arrays, layout: Layout, *, optional: Collection[str] = (), ignored: Collection[str] = ()
) -> dict[str, Any]:
    """The fields of an SAE, of a file that holds these and nothing else; latents as rows.

    Args:
        held: the file.
        layout: of the file.
        optional: fields that need not be there.
        ignored: arrays that may be there and say nothing about the reconstruction.

    Raises:
        StoreError: if one is missing, of another shape, not of numbers, or holds NaN or infinity.
        SpecError: if the file holds more; it would be dropped in silence.
    """
    known = {key for key, _ in layout.values()}
    Weights(arrays=held, where=str(held.path), taken=known).nothing_left("this format", ignored)
    check_shapes(held, layout)
    there = {
        name: place for name, place in layout.items() if name not in optional or place[0] in held
    }
    return Weights(arrays=held, where=str(held.path)).fields(there)


def stored(sae: SAEArrays, layout: Layout) -> dict[str, Array]:
    """The arrays of a file by their names there; what an SAE lacks is left out."""
    arrays = {name: getattr(sae, name) for name in layout}
    return {
        key: arrays[name].T if _lies(name, dims) else arrays[name]
        for name, (key, dims) in layout.items()
        if arrays[name] is not None
    }


def _lies(name: str, dims: str) -> bool:
    """Whether a matrix lies the other way round than ours."""
    return len(dims) == 2 and dims[0] != _OURS[name][0]


def check_shapes(held: Arrays, layout: Layout) -> None:
    """Check that shapes fit each other, before anything is read; StoreError if not."""
    sizes: dict[str, int] = {}
    for name, letters in layout.values():
        shape = held.shape(name)
        if shape is None:
            continue
        if len(shape) != len(letters) or any(
            size < 1 or sizes.setdefault(letter, size) != size
            for letter, size in zip(letters, shape, strict=True)
        ):
            raise StoreError(
                f"{held.path}: {name} has shape {list(shape)}, which does not fit "
                f"[{', '.join(letters)}] with {sizes}; {_misfit(len(shape), letters)}"
            )


def closed(options: Collection[str], known: Collection[str], name: str) -> None:
    """Refuse options that a format does not have, by a SpecError that names the nearest."""
    for word in options:
        if word not in known:
            hint = nearest(word, known) if known else "it has none"
            raise SpecError(f"{name} has no option {word!r}; {hint}")


def texts(settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """The texts among settings, under other names, e.g. `{"site": "hook_point_in"}`."""
    out = {name: settings.get(key) for name, key in names.items()}
    return {name: value for name, value in out.items() if isinstance(value, str) and value}
