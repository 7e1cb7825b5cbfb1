"""What lm_saes and llamascopium have in common: files, settings, and scales to be folded.

They train on rows scaled to an average length of √D: by s_in = √D / norm_in on the way in and
s_out = √D / norm_out at the target, with norms measured once on the data ("dataset-wise").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats.checks import Layout, flag, natural, shown, take, texts
from reseed.formats.containers.arrays import Arrays
from reseed.formats.files import Files
from reseed.formats.folds import uncentred
from reseed.records import Floats, SAEArrays

_FILES = (
    "sae_weights.safetensors", "sae_weights.pt",
    "checkpoints/pruned.safetensors", "checkpoints/pruned.pt",
    "checkpoints/final.safetensors", "checkpoints/final.pt",
)  # fmt: skip

_NORMS = "dataset_average_activation_norm."

_LARGEST = float(np.finfo(np.float32).max)
"""The threshold of a latent that never fires."""


def weights_file(files: Files) -> str | None:
    """The weight file that their loader would take; one given by name is the one."""
    if not files.means("config.json", "hyperparams.json"):
        right = files.path.suffix in (".safetensors", ".pt")
        return files.path.name if right else None
    return next((name for name in _FILES if files.has(name)), None)


def weights(files: Files) -> Arrays:
    """What the weight file holds; of a `.pt`, what stands under "sae"."""
    name = weights_file(files)
    if name is None:
        raise _no_weights(files)
    if name.endswith(".safetensors"):
        return files.tensors(name)
    held = files.torch_dict(name)
    inner = held.get("sae")
    if not isinstance(inner, Arrays):
        raise StoreError(f"{held.path} should hold a dict under 'sae'; it has {shown(held)}")
    return inner


def _no_weights(files: Files) -> SpecError:
    for name in _FILES:
        scattered = files.folder / Path(name).with_suffix(".dcp")
        if scattered.exists():
            return SpecError(
                f"{scattered} is a distributed checkpoint in many files, which is not "
                "read. Load it with llamascopium and save it as one file: "
                "SparseDictionary.from_pretrained(FOLDER).save_checkpoint("
                "'FOLDER/sae_weights.safetensors')."
            )
    return SpecError(f"{files.folder} holds settings but none of {', '.join(_FILES)}")


def keys(files: Files) -> frozenset[str]:
    """Names of the arrays, of those under "sae" in a `.pt`; none if they cannot be read."""
    try:
        return frozenset(weights(files))
    except (SpecError, StoreError):
        return frozenset()


def norms_in(held: Arrays) -> dict[str, str]:
    """Hook points whose norm lies among the arrays, and under what name."""
    return {name.removeprefix(_NORMS): name for name in held if name.startswith(_NORMS)}


def facts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Where the SAE reads and writes, for the record."""
    return texts(settings, {"site": "hook_point_in", "site_out": "hook_point_out"})


def as_stored(held: Arrays, settings: Mapping[str, Any], layout: Layout, where: str) -> SAEArrays:
    """The SAE in the units of the file, without its k; thresholds are stored as logarithms."""
    if flag(settings, "use_glu_encoder", where, default=False):
        raise SpecError(
            f"{where}: use_glu_encoder multiplies each pre-activation by a sigmoid of another one; "
            "that is no encoder of one row a latent, so it cannot be compared as one"
        )
    bias = flag(settings, "use_decoder_bias", where, default=True)
    optional = ["threshold", *([] if bias else ["b_dec"])]
    if not bias and layout["b_dec"][0] in held:
        raise SpecError(
            f"{held.path} holds {layout['b_dec'][0]}, and {where} says use_decoder_bias = false: "
            "do they belong together?"
        )
    fields = take(held, layout, optional=optional, ignored=norms_in(held).values())
    D = fields["W_enc"].shape[1]
    if natural(settings, "d_model", where) != D:
        raise StoreError(f"{where} says d_model {settings['d_model']}, {held.path} has {D}")
    fields.setdefault("b_dec", np.zeros(D, np.float32))
    logarithm, kind = fields.pop("threshold", None), "relu"
    if logarithm is not None:
        if str(settings.get("act_fn")).lower() != "jumprelu":
            raise SpecError(
                f"{held.path} holds {layout['threshold'][0]}, and {where} says act_fn "
                f"{settings.get('act_fn')!r}, which uses no thresholds: do they belong together?"
            )
        kind, fields["threshold"] = "jumprelu", _exponentials(logarithm, str(held.path))
    centred = bias and flag(settings, "apply_decoder_bias_to_pre_encoder", where, default=False)
    return SAEArrays(**fields, activation={"kind": kind}, centred=centred, about={})


def _exponentials(logarithms: Floats, where: str) -> Floats:
    with np.errstate(over="ignore"):
        threshold = np.exp(logarithms.astype(np.float64)).astype(np.float32)
    if not np.isfinite(threshold).all():
        raise StoreError(f"{where}: a threshold of e^{logarithms.max():g} is no number to compare")
    return threshold


def with_logarithms(sae: SAEArrays, name: str) -> SAEArrays:
    """With the logarithms of its thresholds, for formats that hold these."""
    if sae.threshold is None:
        return sae
    if sae.threshold.min() <= 0:
        raise SpecError(
            f"this SAE cannot be written as {name}: the format holds the logarithm of each "
            f"threshold, and the least of this SAE is {sae.threshold.min():g}"
        )
    return replace(sae, threshold=np.log(sae.threshold.astype(np.float64)).astype(np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """What rows are multiplied by before encoding, and targets before they are compared."""

    into: float = 1.0
    out: float = 1.0

    @property
    def folded(self) -> list[str]:
        """For the record of what was folded."""
        if self.into == self.out == 1.0:
            return []
        return [
            f"dataset-wise norms: rows scaled by {self.into:.8g} on the way in, and the "
            f"reconstruction divided by {self.out:.8g}"
        ]


def scales(settings: Mapping[str, Any], norms: Mapping[str, Any], D: int, where: str) -> Scales:
    """The scales that the settings ask for.

    Norms, of the hook points or of "in" and "out", are looked at only if the settings ask for them:
    where they do not, files of llamascopium hold uninitialised memory there.
    """
    kind = settings.get("norm_activation")
    if kind in (None, "none", "inference"):
        return Scales()
    if kind != "dataset-wise":
        raise SpecError(
            f"{where}: norm_activation {kind!r} scales rows by their own length or that of their "
            "batch; that is no fixed SAE of raw activations, so it is not read"
        )
    into = _norm(norms, (settings.get("hook_point_in"), "in"), where)
    out = _norm(norms, (settings.get("hook_point_out"), "out"), where)
    return Scales(into=math.sqrt(D) / into, out=math.sqrt(D) / out)


def _norm(norms: Mapping[str, Any], names: tuple[Any, str], where: str) -> float:
    name = next((name for name in names if name in norms), None)
    if name is None:
        raise StoreError(
            f"{where} asks for dataset-wise norms, and there is none of {names[0]!r}; there are "
            f"those of {shown(norms) or 'nothing'}"
        )
    value = np.asarray(norms[name])
    if value.size != 1 or value.dtype.kind not in "fiu" or not 1e-12 < float(value.max()) < 1e12:
        raise StoreError(f"{where}: the average norm of {name} is {norms[name]!r}, no length")
    return float(value.max())


def unscaled(sae: SAEArrays, by: Scales) -> SAEArrays:
    """In raw units, of an SAE that reads rows scaled by `into` and writes rows scaled by `out`.

    A pre-activation of raw rows is that of scaled rows through s_in: so thresholds and `b_enc` are
    divided by s_in, decoder rows multiplied by s_in / s_out, and `b_dec` divided by s_out.
    """
    if by.into == by.out == 1.0:
        return sae
    # b_dec is subtracted in units of the input but added in those of the output
    sae = sae if by.into == by.out else uncentred(sae)

    def times(array: Floats, factor: float) -> Floats:
        scaled = array.astype(np.float64) * factor
        return np.clip(scaled, -_LARGEST, _LARGEST).astype(np.float32)

    return replace(
        sae,
        b_enc=times(sae.b_enc, 1 / by.into),
        W_dec=times(sae.W_dec, by.into / by.out),
        b_dec=times(sae.b_dec, 1 / by.out),
        threshold=None if sae.threshold is None else times(sae.threshold, 1 / by.into),
    )


def gate_by_length(sae: SAEArrays) -> SAEArrays:
    """Of an SAE whose rule looks at p times the length of the decoder row: one that looks at p.

    A threshold is divided by the length: p n > t is p > t / n. Rules that compare latents (topk,
    batchtopk) need the lengths in the encoder: its rows times n, those of the decoder through n.
    Rows of length 0 never win there; they never fire here.
    """
    length = np.linalg.norm(sae.W_dec.astype(np.float64), axis=1)
    divisor = np.where(length > 0, length, 1.0)
    if sae.threshold is not None:
        threshold = np.where(length > 0, sae.threshold.astype(np.float64) / divisor, _LARGEST)
        return replace(sae, threshold=np.minimum(threshold, _LARGEST).astype(np.float32))
    if sae.activation["kind"] == "relu":
        return sae
    return replace(
        sae,
        W_enc=(sae.W_enc.astype(np.float64) * length[:, None]).astype(np.float32),
        b_enc=(sae.b_enc.astype(np.float64) * length).astype(np.float32),
        W_dec=(sae.W_dec.astype(np.float64) / divisor[:, None]).astype(np.float32),
    )
