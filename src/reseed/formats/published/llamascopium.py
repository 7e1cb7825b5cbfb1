"""llamascopium 2 (OpenMOSS): `config.json` beside `sae_weights.safetensors` or `sae_weights.pt`.

Arrays: `W_E [D, F]`, `b_E [F]`, `W_D [F, D]`, `b_D [D]`, for JumpReLU
`activation_function.log_jumprelu_threshold [F]`, and the norms
`dataset_average_activation_norm.HOOK`, uninitialised memory where none were measured. All numbers
are in units of the scaled rows, the thresholds too. `p = x @ W_E + b_E`; with
`sparsity_include_decoder_norm` the rule looks at p times the length of the decoder row and lets p
through; decoded by `@ W_D + b_D`.

Their own folding (`standardize_parameters_of_dataset_norm`) leaves thresholds as they are, so for
JumpReLU it gives another SAE than the one trained; here they are folded with the rest.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from reseed.errors import SpecError, StoreError
from reseed.formats.checks import closed, refuse
from reseed.formats.files import Files
from reseed.formats.folds import uncentred
from reseed.formats.published.scope_folder import CONFIG, Names, keys, read_scaled, weights_file
from reseed.formats.published.scopes import logarithms
from reseed.records import SAEArrays
from reseed.store import json_bytes, safetensors_bytes, write_bytes

NAME = "llamascopium"

_NAMES = Names(
    format=NAME,
    W_enc=("W_E", "DF"),
    b_enc="b_E",
    W_dec=("W_D", "FD"),
    b_dec="b_D",
    log_threshold="activation_function.log_jumprelu_threshold",
)


def recognise(found: Files) -> bool:
    """Whether there are such settings, and weights by these names or a distributed checkpoint."""
    settings = found.settings(CONFIG)
    if not {"sae_type", "d_model", "act_fn"} <= set(settings):
        return False
    return weights_file(found) is None or {"W_E", "W_D"} <= keys(found)


def read(found: Files, **which: Any) -> SAEArrays:
    """Read one.

    Raises:
        SpecError: if it is no SAE or transcoder of one layer, has a GLU encoder, scales rows one by
            one, or is a distributed checkpoint.
        StoreError: if it is damaged.
    """
    closed(which, (), NAME)
    settings, where = found.json(CONFIG), found.folder / CONFIG
    if settings.get("sae_type") != "sae":
        raise SpecError(
            f"{where}: a {settings.get('sae_type')!r} has no one encoder and decoder row a latent, "
            "as SAEs and transcoders (sae_type 'sae') have"
        )
    sae = read_scaled(found, _NAMES, ("relu", "jumprelu", "topk", "batchtopk"))
    F, D = sae.W_enc.shape
    factor = settings.get("expansion_factor")
    if not isinstance(factor, int | float) or not 0 < factor < 1e9 or int(D * factor) != F:
        raise StoreError(f"{where}: expansion_factor {factor!r} times {D} is not {F} latents")
    return sae


def write(to: Path, sae: SAEArrays, **options: Any) -> None:
    """Write the folder, for rows as they are.

    Raises:
        SpecError: if the format cannot express it.
        StoreError: if the disk is full or the folder read-only.
    """
    closed(options, (), NAME)
    refuse(NAME, sae, kinds=("jumprelu", "topk", "relu", "batchtopk"))
    flat = uncentred(sae)
    F, D = sae.W_enc.shape
    given = {"W_E": flat.W_enc.T, "b_E": flat.b_enc, "W_D": flat.W_dec, "b_D": flat.b_dec}
    if sae.threshold is not None:
        given[_NAMES.log_threshold] = logarithms(sae.threshold, NAME)
    site = str(sae.about.get("site", "unknown"))
    settings = {
        "sae_type": "sae",
        "d_model": D,
        "expansion_factor": expansion(F, D),
        "use_decoder_bias": True,
        "act_fn": sae.activation["kind"],
        "norm_activation": "inference",
        "sparsity_include_decoder_norm": False,
        "top_k": sae.activation.get("k", 50),
        "hook_point_in": site,
        "hook_point_out": str(sae.about.get("site_out", site)),
        "use_glu_encoder": False,
    }
    write_bytes(to / "sae_weights.safetensors", safetensors_bytes(given))
    write_bytes(to / CONFIG, json_bytes(settings))


def expansion(F: int, D: int) -> float:
    """The expansion factor e with int(D e) = F, which is not always F / D in floating point."""
    factor = F / D
    while int(D * factor) < F:
        factor = math.nextafter(factor, math.inf)
    return factor
