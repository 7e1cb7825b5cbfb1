"""sparsify: a folder with `cfg.json` and `sae.safetensors`.

`encoder.weight [F, D]`, `encoder.bias [F]`, `W_dec [F, D]`, `b_dec [D]`, and `W_skip [D, D]` with
`skip_connection`. An SAE subtracts b_dec from its input, a transcoder (`transcode`) does not.
`num_latents` 0 stands for `d_in * expansion_factor`. Checked against eai-sparsify 1.3.3.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError
from reseed.formats.checks import Weights, about, flag, whole
from reseed.formats.files import Files
from reseed.records import SAEArrays
from reseed.store import json_bytes, safetensors_bytes, write_bytes

NAME = "sparsify"

_CFG, _WEIGHTS = "cfg.json", "sae.safetensors"


def recognise(found: Files) -> bool:
    """A folder whose settings have `d_in` and whose weights have sparsify's names."""
    return (
        found.means(_CFG, _WEIGHTS)
        and "d_in" in found.settings(_CFG)
        and {"encoder.weight", "b_dec"} <= found.keys(_WEIGHTS)
    )


def read(found: Files, **which: Any) -> SAEArrays:
    """Read an SAE or a (skip) transcoder.

    Raises:
        SpecError: if it is of a kind that has no counterpart here (`signed`).
        StoreError: if a file is damaged, or settings and weights do not fit.
    """
    cfg, where = found.json(_CFG), str(found.folder / _CFG)
    if cfg.get("signed"):
        raise SpecError(
            f"{where} says signed: its latents fire with both signs, which no other format has"
        )
    D, k = whole(cfg, "d_in", where), whole(cfg, "k", where)
    given = whole(cfg, "num_latents", where, least=0) if "num_latents" in cfg else 0
    F = given or D * whole(cfg, "expansion_factor", where)
    weights = Weights(
        arrays=found.tensors(_WEIGHTS),
        where=str(found.folder / _WEIGHTS),
        sizes={"D": D, "E": D, "F": F},
    )
    skip = flag(cfg, "skip_connection", where, default=False)
    return SAEArrays(
        W_enc=weights.take("encoder.weight", "FD"),
        b_enc=weights.take("encoder.bias", "F"),
        W_dec=weights.take("W_dec", "FD"),
        b_dec=weights.take("b_dec", "D"),
        W_skip=weights.take("W_skip", "ED") if skip else None,
        activation={"kind": str(cfg.get("activation", "topk")), "k": k},
        centred=not flag(cfg, "transcode", where, default=False),
        about=about(NAME, [], [], _facts(found.folder)),
    )


def _facts(folder: Path) -> dict[str, Any]:
    """Site and seed, which sparsify keeps in the names of folders: `layers.6.mlp/seed1`."""
    seed = re.fullmatch(r"seed(\d+)", folder.name)
    site = folder.parent.name if seed else folder.name
    facts: dict[str, Any] = {"init_seed": int(seed[1])} if seed else {}
    return facts | ({"site": site} if re.search(r"\.\d+(\.|$)", site) else {})


def write(folder_or_file: Path, sae: SAEArrays, **options: Any) -> None:
    """Write into a folder, as `SparseCoder.load_from_disk` reads it.

    Raises:
        SpecError: if sparsify cannot express it.
        StoreError: if the folder cannot be written.
    """
    (F, D), E = sae.W_enc.shape, sae.W_dec.shape[1]
    kind = sae.activation["kind"]
    if kind not in ("topk", "groupmax"):
        raise SpecError(f"sparsify has topk and groupmax only, not {kind}")
    if sae.normalised:
        raise SpecError("sparsify does not normalise its input, this SAE does")
    if D != E:
        raise SpecError(f"sparsify's transcoders map D to D dimensions, this one {D} to {E}")
    arrays = {
        "encoder.weight": sae.W_enc,
        "encoder.bias": sae.b_enc,
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
    }
    if sae.W_skip is not None:
        arrays["W_skip"] = sae.W_skip
    unit = bool(np.allclose(np.linalg.norm(sae.W_dec, axis=1), 1, atol=1e-4))
    cfg = {
        "activation": kind,
        "expansion_factor": max(F // D, 1),
        "normalize_decoder": unit and sae.centred,
        "num_latents": F,
        "k": sae.activation["k"],
        "multi_topk": False,
        "skip_connection": sae.W_skip is not None,
        "transcode": not sae.centred,
        "d_in": D,
    }
    write_bytes(folder_or_file / _WEIGHTS, safetensors_bytes(arrays))
    write_bytes(folder_or_file / _CFG, json_bytes(cfg))
