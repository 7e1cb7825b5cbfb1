"""Which array of a file is what: by the names that are in use, or named by the caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from reseed.errors import SpecError
from reseed.formats.checks import Weights, shown
from reseed.formats.containers.arrays import Arrays
from reseed.formats.containers.wrappings import flattened
from reseed.formats.files import OF_ARRAYS, Files
from reseed.records import Floats

NAMES: Mapping[str, tuple[str, ...]] = {
    "W_enc": (
        "W_enc", "w_enc", "W_e", "W_E", "encoder.weight", "enc.weight", "encoder_weight",
        "encoder.W", "encoder_linear.weight", "encoder.linear.weight", "encoder.0.weight",
        "encoder",
    ),
    "W_dec": (
        "W_dec", "w_dec", "W_d", "W_D", "decoder.weight", "dec.weight", "decoder_weight",
        "decoder.W", "decoder_linear.weight", "decoder.linear.weight", "decoder.0.weight",
        "decoder",
    ),
    "b_enc": (
        "b_enc", "b_e", "b_E", "encoder.bias", "enc.bias", "encoder_bias", "encoder.b",
        "encoder_linear.bias", "encoder.linear.bias", "encoder.0.bias", "latent_bias",
    ),
    "b_dec": (
        "b_dec", "b_d", "b_D", "decoder.bias", "dec.bias", "decoder_bias", "decoder.b", "bias",
        "decoder_linear.bias", "decoder.linear.bias", "decoder.0.bias", "pre_bias", "b_pre",
    ),
    "threshold": ("threshold", "thresholds", "jumprelu.threshold", "activation.threshold"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The file, and which array is what."""

    held: Arrays
    names: Mapping[str, str]
    letters: Mapping[str, str]
    """of the two matrices, e.g. "FD" """


def lone_file(files: Files) -> str | None:
    """The file itself, or the only one of a folder that holds arrays."""
    names = [n for n in files.names() if n.endswith(OF_ARRAYS) and "/" not in n]
    return names[0] if len(names) == 1 else None


def recognise(files: Files) -> bool:
    """Whether there is one file, with an encoder and a decoder by names that are in use."""
    name = lone_file(files)
    keys = files.keys(name) if name else frozenset[str]()
    return all(set(NAMES[matrix]) & keys for matrix in ("W_enc", "W_dec"))


def find(files: Files, chosen: Mapping[str, Any]) -> Roles:
    """The file and which array is what.

    Args:
        files: one file, or a folder with one.
        chosen: names of arrays by the field they are, and `rows`, where the caller says them; an
            array in a dict in the file is named as `dict.array`.

    Raises:
        SpecError: if it is not clear, or a matrix is none.
    """
    name = lone_file(files)
    held = files.arrays(name) if name else None
    if held is None:
        raise SpecError(f"{files.path} is not one file of arrays, nor a folder with one")
    if chosen.keys() & NAMES.keys():
        held = flattened(held)
    names = {field: _named(held, field, chosen.get(field)) for field in NAMES}
    known = {field: name for field, name in names.items() if name is not None}
    for matrix in ("W_enc", "W_dec"):
        shape = held.shape(known[matrix]) if matrix in known else None
        if shape is None:
            raise SpecError(
                f"{held.path}: which array is {matrix}? It has {described(held)}. Say it by "
                f"--read {matrix}=NAME ({matrix}=...)"
                + (f"; by their shapes perhaps {likely}." if (likely := suggested(held)) else ".")
            )
        if len(shape) != 2:
            raise SpecError(
                f"{held.path}: {known[matrix]} has shape {list(shape)}, and {matrix} is a matrix. "
                "With one dimension more it is a crosscoder, or several SAEs in one array: write "
                "the matrices of one into a file of their own."
            )
    letters = _lie(held, known, chosen.get("rows"))
    return Roles(held=held, names=known, letters=letters)


def _named(held: Arrays, field: str, chosen: Any) -> str | None:
    if chosen is not None:
        if not isinstance(chosen, str) or chosen not in held:
            raise SpecError(f"{held.path} has no array {chosen!r}; it has {described(held)}")
        return str(chosen)
    fits = [name for name in NAMES[field] if held.shape(name) is not None]
    if len(fits) > 1:
        raise SpecError(
            f"{held.path} holds {' and '.join(fits)}; which is {field}? Say it by "
            f"--read {field}=NAME ({field}=...)."
        )
    return fits[0] if fits else None


def _lie(held: Arrays, names: Mapping[str, str], rows: Any) -> dict[str, str]:
    """How the matrices lie: as the caller says, as linear layers do, or as the biases say."""
    if rows not in (None, "latents", "dimensions"):
        raise SpecError(f"rows are 'latents' or 'dimensions', not {rows!r}")
    out: dict[str, str] = {}
    sizes = [held.shape(names[bias]) for bias in ("b_enc", "threshold") if bias in names]
    latents = next((shape[0] for shape in sizes if shape and len(shape) == 1), None)
    for field, linear in (("W_enc", "FD"), ("W_dec", "DF")):
        shape = held.shape(names[field]) or (0, 0)
        if rows is not None:
            out[field] = "FD" if rows == "latents" else "DF"
        elif names[field].endswith(".weight"):
            out[field] = linear
        elif latents in shape and shape[0] != shape[1]:
            out[field] = "FD" if shape[0] == latents else "DF"
        else:
            raise SpecError(
                f"{held.path}: {names[field]} has shape {list(shape)}, and nothing in the file "
                "says whether its rows are latents. Say it: --read rows=latents or "
                "rows=dimensions (rows=...)."
            )
        out[field] = out[field].replace("D", "E") if field == "W_dec" else out[field]
    return out


def described(held: Arrays) -> str:
    """Names and shapes of the arrays, the first twelve; dicts inside by what they hold."""
    parts: list[str] = []
    for name, value in held.held.items():
        inner = value.held if isinstance(value, Arrays) else {}
        shape = held.shape(name)
        parts.append(
            name
            + (f" {list(shape)}" if shape is not None else f" {{{shown(inner)}}}" if inner else "")
        )
    return ", ".join(parts[:12]) + (f" and {len(parts) - 12} more" if len(parts) > 12 else "")


def suggested(held: Arrays) -> str:
    """The settings by which arrays would be an SAE, from their shapes alone; empty if unclear.

    Two matrices, of one shape or each other's transpose; of two linear layers the encoder gives the
    more numbers, of others it is the first. A vector is the bias of what it is as long as.
    """
    every = flattened(held)
    shapes = {name: every.shape(name) or () for name in every}
    wide = {name: shape for name, shape in shapes.items() if len(shape) == 2 and min(shape) > 1}
    pairs = [
        (a, b) for a, b in combinations(wide, 2) if wide[a] in (wide[b], wide[b][::-1])
    ]  # fmt: skip
    if len(pairs) != 1:
        return ""
    encoder, decoder = pairs[0]
    if encoder.endswith(".weight") and wide[encoder][0] < wide[encoder][1]:
        encoder, decoder = decoder, encoder
    out = {"W_enc": encoder, "W_dec": decoder}
    F, D = max(wide[encoder]), min(wide[encoder])
    for field, size in (("b_enc", F), ("b_dec", D), ("threshold", F)):
        fits = [n for n, shape in shapes.items() if shape == (size,) and n not in out.values()]
        if fits and D != F:
            out[field] = fits[0]
    return " ".join(f"--read {field}={name}" for field, name in out.items())


def matrices(files: Files) -> tuple[Floats, Floats]:
    """(W_enc `[F, D]`, W_dec `[F, E]`), for what needs no rule: comparing directions."""
    roles = find(files, {})
    weights = Weights(arrays=roles.held, where=str(roles.held.path))
    encoder, decoder = (matrix(weights, roles, field) for field in ("W_enc", "W_dec"))
    return encoder, decoder


def matrix(weights: Weights, roles: Roles, field: str) -> Floats:
    """One of the two matrices, latents as rows."""
    letters = roles.letters[field]
    return weights.take(roles.names[field], letters, to="FE" if "E" in letters else "FD")
