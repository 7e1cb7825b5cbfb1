"""Folders of the Llama Scope family: which weight file, and the reading that formats share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats.arrays import Arrays
from reseed.formats.checks import about, complete, flag, shown, take, told, whole
from reseed.formats.files import Files
from reseed.formats.published.scopes import exponentials, gate_by_length, no_glu, scales, unscaled
from reseed.records import SAEArrays

CONFIG = "config.json"

_FILES = (
    "sae_weights.safetensors", "sae_weights.pt",
    "checkpoints/pruned.safetensors", "checkpoints/pruned.pt",
    "checkpoints/final.safetensors", "checkpoints/final.pt",
)  # fmt: skip

_NORMS = "dataset_average_activation_norm."

_TOLD = {"site": "hook_point_in", "site_out": "hook_point_out"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a format calls the arrays; the letters are their dimensions in the file."""

    format: str
    W_enc: tuple[str, str]
    b_enc: str
    W_dec: tuple[str, str]
    b_dec: str
    log_threshold: str = ""

    def shapes(self) -> dict[str, str]:
        """Name in the file to letters."""
        return dict([self.W_enc, (self.b_enc, "F"), self.W_dec, (self.b_dec, "D")])


def weights_file(found: Files) -> str | None:
    """The weight file that their loader would take; one given by name is the one."""
    if not found.means(CONFIG, "hyperparams.json"):
        right = found.path.suffix in (".safetensors", ".pt")
        return found.path.name if right else None
    return next((name for name in _FILES if found.has(name)), None)


def weights(found: Files) -> Arrays:
    """What the weight file holds.

    Raises:
        SpecError: if there is only a distributed checkpoint, or none.
        StoreError: if it is damaged.
    """
    name = weights_file(found)
    if name is None:
        raise _no_weights(found)
    if name.endswith(".safetensors"):
        return found.tensors(name)
    held = found.torch_dict(name)
    inner = held.get("sae")
    if not isinstance(inner, Arrays):
        raise StoreError(f"{held.path} should hold a dict under 'sae'; it has {shown(held)}")
    return inner


def _no_weights(found: Files) -> SpecError:
    scattered = [str(Path(name).with_suffix(".dcp")) for name in _FILES]
    for name in scattered:
        if (found.folder / name).exists():
            return SpecError(
                f"{found.folder / name} is a distributed checkpoint in many files, which is not "
                "read. Load it with llamascopium and save it as one file: "
                "SparseDictionary.from_pretrained(FOLDER).save_checkpoint("
                "'FOLDER/sae_weights.safetensors')."
            )
    return SpecError(f"{found.folder} holds settings but none of {', '.join(_FILES)}")


def keys(found: Files) -> frozenset[str]:
    """Names of the arrays, of those under "sae" in a `.pt`; none if they cannot be read."""
    try:
        return frozenset(weights(found))
    except (SpecError, StoreError):
        return frozenset()


def norms_of(held: Arrays) -> dict[str, str]:
    """Hook points whose norm lies among the arrays, and under what name."""
    return {name.removeprefix(_NORMS): name for name in held if name.startswith(_NORMS)}


def sites(settings: Mapping[str, Any]) -> dict[str, str]:
    """Where the SAE reads and writes, for the record."""
    return told(settings, _TOLD)


def weights_as_stored(
    held: Arrays, settings: Mapping[str, Any], names: Names, where: str
) -> SAEArrays:
    """The SAE with the numbers of the file, without its rule.

    Raises:
        SpecError: if it has a GLU encoder, or arrays that are not known.
        StoreError: if it is damaged, or the settings are of another SAE.
    """
    no_glu(settings, where)
    bias = flag(settings, "use_decoder_bias", where, default=True)
    optional = [] if bias else [names.b_dec]
    shapes = names.shapes()
    ignored = list(norms_of(held).values())
    if names.log_threshold in held:
        shapes[names.log_threshold] = "F"
    given = take(held, shapes, optional=optional, ignored=ignored)
    D = given[names.W_enc[0]].shape[1]
    if whole(settings, "d_model", where) != D:
        raise StoreError(f"{where} says d_model {settings['d_model']}, {held.path} has {D}")
    sae = SAEArrays(
        W_enc=given[names.W_enc[0]],
        W_dec=given[names.W_dec[0]],
        b_enc=given[names.b_enc],
        b_dec=given.get(names.b_dec, np.zeros(D, np.float32)),
        activation={"kind": "relu"},
        centred=bias and flag(settings, "apply_decoder_bias_to_pre_encoder", where, default=False),
        about={},
    )
    if names.log_threshold not in given or str(settings.get("act_fn")).lower() != "jumprelu":
        return sae
    threshold = exponentials(given[names.log_threshold], str(held.path))
    return replace(sae, activation={"kind": "jumprelu"}, threshold=threshold)


def read_scaled(found: Files, names: Names, kinds: Sequence[str]) -> SAEArrays:
    """Read an SAE whose numbers, thresholds included, are in units of the scaled rows.

    Raises:
        SpecError: if it is none that can be said in raw units.
        StoreError: if it is damaged.
    """
    settings, where = found.json(CONFIG), str(found.folder / CONFIG)
    held = weights(found)
    sae = _ruled(weights_as_stored(held, settings, names, where), settings, kinds, where)
    norms = {hook: held[name] for hook, name in norms_of(held).items()}
    by = scales(settings, norms, sae.W_enc.shape[1], where)
    folded: list[str] = []
    if flag(settings, "sparsity_include_decoder_norm", where, default=True):
        sae = gate_by_length(sae)
        folded.append("lengths of decoder rows, by which the rule scales pre-activations")
    record = about(names.format, [*by.said, *folded], [], sites(settings))
    return complete(replace(unscaled(sae, by), about=record), str(held.path))


def _ruled(
    sae: SAEArrays, settings: Mapping[str, Any], kinds: Sequence[str], where: str
) -> SAEArrays:
    rule = str(settings.get("act_fn")).lower()
    if rule not in kinds:
        raise SpecError(f"{where}: act_fn {rule!r} is not read; {', '.join(kinds)} are")
    if rule == "jumprelu" and sae.threshold is None:
        raise StoreError(f"{where} says jumprelu, and the weights have no thresholds")
    if rule not in ("topk", "batchtopk"):
        return sae
    return replace(sae, activation={"kind": rule, "k": whole(settings, "top_k", where)})
