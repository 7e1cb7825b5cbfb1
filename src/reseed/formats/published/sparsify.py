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
from reseed.formats.checks import Format, Weights, about, flag, natural, stored
from reseed.formats.files import Files
from reseed.records import SAEArrays
from reseed.store import json_bytes, safetensors_bytes, write_bytes

_CFG, _WEIGHTS = "cfg.json", "sae.safetensors"

_LAYOUT = {
    "W_enc": ("encoder.weight", "FD"),
    "b_enc": ("encoder.bias", "F"),
    "W_dec": ("W_dec", "FD"),
    "b_dec": ("b_dec", "D"),
}

_SKIP = {"W_skip": ("W_skip", "ED")}


def _recognise(files: Files) -> bool:
    return (
        files.means(_CFG, _WEIGHTS)
        and "d_in" in files.settings(_CFG)
        and {"encoder.weight", "b_dec"} <= files.keys(_WEIGHTS)
    )


def _read(files: Files) -> SAEArrays:
    cfg, where = files.json(_CFG), str(files.folder / _CFG)
    if cfg.get("signed"):
        raise SpecError(
            f"{where} says signed: its latents fire with both signs, which no other format has"
        )
    D, k = natural(cfg, "d_in", where), natural(cfg, "k", where)
    latents = natural(cfg, "num_latents", where, least=0) if "num_latents" in cfg else 0
    F = latents or D * natural(cfg, "expansion_factor", where)
    weights = Weights(
        arrays=files.tensors(_WEIGHTS),
        where=str(files.folder / _WEIGHTS),
        sizes={"D": D, "E": D, "F": F},
    )
    skip = flag(cfg, "skip_connection", where, default=False)
    fields = weights.fields(_LAYOUT | _SKIP if skip else _LAYOUT)
    weights.nothing_left(f"an SAE with skip_connection = {str(skip).lower()}")
    return SAEArrays(
        **fields,
        activation={"kind": str(cfg.get("activation", "topk")), "k": k},
        centred=not flag(cfg, "transcode", where, default=False),
        about=about([], [], _facts(files.folder)),
    )


def _facts(folder: Path) -> dict[str, Any]:
    """Site and seed, which sparsify keeps in the names of folders: `layers.6.mlp/seed1`."""
    seed = re.fullmatch(r"seed(\d+)", folder.name)
    site = folder.parent.name if seed else folder.name
    facts: dict[str, Any] = {"init_seed": int(seed[1])} if seed else {}
    return facts | ({"site": site} if re.search(r"\.\d+(\.|$)", site) else {})


def _write(folder: Path, sae: SAEArrays) -> None:
    """Write as `SparseCoder.load_from_disk` reads it."""
    F, D = sae.W_enc.shape
    unit = bool(np.allclose(np.linalg.norm(sae.W_dec, axis=1), 1, atol=1e-4))
    cfg = {
        "activation": sae.activation["kind"],
        "expansion_factor": max(F // D, 1),
        "normalize_decoder": unit and sae.centred,
        "num_latents": F,
        "k": sae.activation["k"],
        "multi_topk": False,
        "skip_connection": sae.W_skip is not None,
        "transcode": not sae.centred,
        "d_in": D,
    }
    write_bytes(folder / _WEIGHTS, safetensors_bytes(stored(sae, _LAYOUT | _SKIP)))
    write_bytes(folder / _CFG, json_bytes(cfg))


FORMATS = (
    Format(
        name="sparsify",
        recognise=_recognise,
        read=_read,
        write=_write,
        kinds=("topk", "groupmax"),
        skip=True,
        notes=("cfg.json",),
    ),
)
