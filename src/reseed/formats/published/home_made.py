"""Files that people made without a library: arrays by common names, settings beside or none.

Taken only where nothing else fits. Arrays are found by the names that are in use (`W_enc`,
`encoder.weight`, ...) or named by the caller, and lie the way in which the biases say. The rule is
that of settings in or beside the file, or given by the caller; it is never guessed, and an array
or a setting that nobody uses is an error. What no file of this kind says, whether b_dec is
subtracted from the input, is assumed with a warning, unless the caller says it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError
from reseed.formats.checks import Format, Weights, about, shown
from reseed.formats.files import Files
from reseed.formats.published.by_names import NAMES, Roles, described, find, matrix, recognise
from reseed.formats.settings_near import SettingsNear, settings_near
from reseed.formats.unknown import missing
from reseed.records import Floats, SAEArrays

NAME = "home_made"

_COUNTERS = re.compile(r"step|count|since_fired|last_nonzero|frequency|freq|usage|_ema|fired|stats")
"""Arrays of a training that say nothing of the reconstruction; they are left out with a word."""

_SCALES = frozenset(
    (
        "normalize_activations", "normalise_activations", "norm_activation",
        "input_unit_norm", "normalize_input", "input_normalization", "scale_activations",
        "scaling_factor", "norm_factor", "activation_scale", "input_scale", "tied_weights",
        "tied", "use_glu_encoder", "signed",
    )
)  # fmt: skip
"""Settings that change what is reconstructed, where they are not one of `_NOTHING`."""

_NOTHING = (None, False, 0, 1, "none", "None", "", "false", "False", "1.0")

_CENTRED = ("apply_b_dec_to_input", "centred", "centered", "subtract_b_dec", "pre_encoder_bias")

_AFTER = ("decoder.bias", "dec.bias", "decoder_linear.bias", "decoder.linear.bias")
"""Names of a bias that belongs to a linear layer, which adds it to the output and does no more."""


def _read(
    files: Files,
    *,
    rule: Any = None,
    k: Any = None,
    centred: Any = None,
    ignore: Any = "",
    **more: Any,
) -> SAEArrays:
    """Read one.

    Args:
        files: one file, or a folder with one.
        rule: `"relu"`, `"topk"`, `"batchtopk"` or `"jumprelu"`; left out, what settings say.
        k: of topk and batchtopk; left out, what settings say.
        centred: whether b_dec is subtracted from the input.
        ignore: names of arrays and settings that do not matter, separated by commas.
        more: names of the arrays by the field they are, and `rows`.
    """
    ignored = [name.strip() for name in str(ignore).split(",")]
    every = find(files, more)
    roles = replace(every, names={f: n for f, n in every.names.items() if n not in ignored})
    where, notes = str(roles.held.path), list[str]()
    weights = Weights(arrays=roles.held, where=where)
    fields: dict[str, Any] = {name: matrix(weights, roles, name) for name in ("W_enc", "W_dec")}
    (F, D), E = fields["W_enc"].shape, fields["W_dec"].shape[1]
    for bias, letter, size in (("b_enc", "F", F), ("b_dec", "E", E)):
        there = bias in roles.names
        fields[bias] = weights.take(roles.names[bias], letter) if there else np.zeros(size, "f4")
    settings = settings_near(files, roles.held)
    _refuse_scales(settings, ignored, where)
    activation = _rule(files, roles, settings, rule, k, notes)
    if activation["kind"] == "jumprelu":
        fields["threshold"] = _threshold(weights, roles, F)
    counters = [name for name in roles.held if _COUNTERS.search(name) and name not in weights.taken]
    plain = [name for name in roles.held if roles.held.shape(name) is None]
    weights.nothing_left(f"an SAE with {activation['kind']}", [*counters, *plain, "k", *ignored])
    if counters:
        notes.append(f"{shown(counters)} are left out, as counters of the training")
    names = {f"array of {field}": name for field, name in roles.names.items()}
    sae = SAEArrays(
        **fields,
        activation=activation,
        centred=D == E and _centred(roles, settings, centred, fields["b_dec"], notes),
        about=about([], notes, names),
    )
    if rule is None and k is None:
        settings.check(roles.held.path, sae, "as far as it says")
    return sae


def _refuse_scales(settings: SettingsNear, ignored: Collection[str], where: str) -> None:
    for name in sorted(_SCALES & settings.values.keys() - set(ignored)):
        value = settings.values[name]
        if value is True or value not in _NOTHING:
            raise SpecError(
                f"{where}: settings say {name} = {value!r}, which changes what is reconstructed, "
                "and how it does is not known of a home-made file. Fold it into the weights, or, "
                f"if they have it in them already, say --read ignore={name}."
            )


def _rule(
    files: Files, roles: Roles, settings: SettingsNear, kind: Any, k: Any, notes: list[str]
) -> dict[str, Any]:
    """The rule: the caller's, else that of settings, else that of a threshold for each latent."""
    named, stored = settings.rule() if kind is None else None, roles.held.get("k")
    if kind is None and k is not None and (named is None or named[0] == "topk"):
        kind = "topk"
        notes.append(f"the rule is taken to be topk, since k = {k} was given")
    if kind is None and named is not None:
        kind = named[0]
        notes.append(f"the rule is that of settings beside the weights: {settings.quoted()}")
    if kind is None and "threshold" in roles.names and stored is None:
        kind = "jumprelu"
        notes.append("the rule is taken to be jumprelu, since there is a threshold")
    if kind == "batchtopk" and "threshold" in roles.names:
        kind = "jumprelu"
    if kind not in ("relu", "topk", "batchtopk", "groupmax", "jumprelu"):
        what = (
            f"{kind!r}, which is not read" if kind else "not said in it, nor in settings beside it"
        )
        raise SpecError(
            f"{roles.held.path} holds {described(roles.held)}. {missing(files)}How codes are made "
            f"with these is {what}: say --read rule=relu, or rule=topk and k=32 (rule=..., k=...). "
            "To compare directions no rule is needed: `reseed compare` takes the file as it is."
        )
    if kind in ("relu", "jumprelu"):
        return {"kind": kind}
    k = k if k is not None else stored if stored is not None else named[1] if named else None
    number = np.asarray(k if k is not None else np.nan)
    if number.size != 1 or number.dtype.kind not in "fiu" or number != np.floor(number):
        raise SpecError(f"{roles.held.path}: the k of {kind} is not said; give it: --read k=32")
    return {"kind": kind, "k": int(number)}


def _threshold(weights: Weights, roles: Roles, F: int) -> Floats:
    name = roles.names.get("threshold")
    if name is None:
        raise SpecError(f"{weights.where}: jumprelu needs thresholds; which array holds them?")
    if roles.held.shape(name) in ((), (1,)):
        value = weights.number(name)
        if value < 0:
            raise SpecError(
                f"{weights.where}: {name} = {value:g} says that no threshold was ever set; give "
                "the rule of training: --read rule=batchtopk --read k=32 --read ignore=threshold"
            )
        return np.full(F, value, np.float32)
    return weights.take(name, "F")


def _centred(
    roles: Roles, settings: SettingsNear, chosen: Any, b_dec: Floats, notes: list[str]
) -> bool:
    named = next((settings.values[n] for n in _CENTRED if n in settings.values), None)
    value = named if chosen is None else chosen
    if value is not None:
        if not isinstance(value, bool):
            raise SpecError(f"centred is true or false, not {value!r}")
        return value
    subtracted = roles.names.get("b_dec") not in _AFTER
    if b_dec.any():
        notes.append(
            f"whether {roles.names.get('b_dec')} is subtracted from the input is not saved; it is "
            f"read as {'subtracted' if subtracted else 'only added to the output'}, as SAEs that "
            "call it so mostly do. If not: centred="
            f"{'false' if subtracted else 'true'}"
        )
    return subtracted


def _write(path: Path, sae: SAEArrays) -> None:
    raise SpecError(
        "home_made is no format to write; choose one that says how codes are made, e.g. saelens"
    )


FORMATS = (
    Format(
        name=NAME,
        recognise=recognise,
        read=_read,
        write=_write,
        choices=("rule", "k", "centred", "ignore", "rows", *NAMES),
        last=True,
    ),
)
