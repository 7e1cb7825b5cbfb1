"""e2e_sae: a file `samples_N.pt` with the SAEs of all positions of a training.

For each position P: `P.encoder.0.weight [F, D]`, `P.encoder.0.bias`, `P.decoder.weight [D, F]`,
`P.decoder.bias`. The decoder's columns are divided by their norms at run time, so what is stored is
not what decodes. Checked against e2e_sae 2.1.1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError
from reseed.formats import folds
from reseed.formats.checks import Weights, about
from reseed.formats.files import Files
from reseed.formats.torch_file import torch_bytes
from reseed.records import SAEArrays
from reseed.store import write_bytes

NAME = "e2e_sae"

_ENCODER = "encoder.0.weight"

_LEAST_NORM = 1e-12


def recognise(found: Files) -> bool:
    """A `.pt` file with such tensors, or a folder with one `samples_N.pt`."""
    name = _file(found)
    return name is not None and bool(_positions(found.keys(name)))


def inside(found: Files) -> list[str]:
    """Positions in the file, e.g. `blocks-6-hook_resid_pre`."""
    name = _file(found)
    return _positions(found.keys(name)) if name else []


def read(found: Files, *, inner: str | None = None, **which: Any) -> SAEArrays:
    """Read the SAE of one position.

    Args:
        found: the file, or a folder with one.
        inner: the position; may be left out where there is one only.
        which: choices of other formats; not used.

    Raises:
        SpecError: if the file has several positions and none is named, or not this one.
        StoreError: if the file is damaged.
    """
    name = _file(found)
    if name is None:
        raise SpecError(f"{found.path} has not one samples_N.pt; give one of its files")
    arrays, where = found.torch_dict(name), str(found.folder / name)
    positions = _positions(frozenset(arrays))
    if inner is None and len(positions) == 1:
        inner = positions[0]
    if inner not in positions:
        raise SpecError(
            f"{where} holds SAEs of {len(positions)} positions, and {inner or 'none of them'} was "
            f"asked for; name one: {', '.join(positions)}"
        )
    weights, dot = Weights(arrays=arrays, where=where), f"{inner}." if inner else ""
    W_dec = weights.take(f"{dot}decoder.weight", "DF", to="FD")
    norms = np.linalg.norm(W_dec.astype(np.float64), axis=1, keepdims=True)
    return SAEArrays(
        W_enc=weights.take(dot + _ENCODER, "FD"),
        b_enc=weights.take(f"{dot}encoder.0.bias", "F"),
        W_dec=(W_dec / np.maximum(norms, _LEAST_NORM)).astype(np.float32),
        b_dec=weights.take(f"{dot}decoder.bias", "D"),
        activation={"kind": "relu"},
        centred=False,
        about=about(
            NAME,
            ["decoder rows divided by their norms, as at run time"],
            [],
            {"site": inner.replace("-", ".") if inner else None},
        ),
    )


def _file(found: Files) -> str | None:
    if found.is_file:
        return found.path.name
    names = [n for n in found.names() if n.startswith("samples_") and n.endswith(".pt")]
    return names[0] if len(names) == 1 else None


def _positions(keys: frozenset[str]) -> list[str]:
    ends = (_ENCODER, "encoder.0.bias", "decoder.weight", "decoder.bias")
    found = {key.removesuffix(_ENCODER).removesuffix(".") for key in keys if key.endswith(_ENCODER)}
    return sorted(p for p in found if all((f"{p}." if p else "") + end in keys for end in ends))


def write(folder_or_file: Path, sae: SAEArrays, **options: Any) -> None:
    """Write `samples_0.pt` into a folder, or a `.pt` file, with one position.

    Decoder norms go into the codes, and b_dec that is subtracted from the input into b_enc.

    Raises:
        SpecError: if e2e_sae cannot express it, or torch is missing.
        StoreError: if it cannot be written.
    """
    if sae.activation["kind"] != "relu":
        raise SpecError(f"e2e_sae has relu only, not {sae.activation['kind']}")
    if sae.W_skip is not None or sae.W_dec.shape[1] != sae.W_enc.shape[1]:
        raise SpecError("e2e_sae has no skip and no transcoders")
    if sae.normalised:
        raise SpecError("e2e_sae does not normalise its input, this SAE does")
    sae = folds.rescaled(folds.uncentred(sae), folds.decoder_norms(sae))
    site = sae.about.get("site")
    position = site.replace(".", "-") if isinstance(site, str) and site else "sae"
    path = folder_or_file if folder_or_file.suffix == ".pt" else folder_or_file / "samples_0.pt"
    tensors = {
        f"{position}.{_ENCODER}": sae.W_enc,
        f"{position}.encoder.0.bias": sae.b_enc,
        f"{position}.decoder.weight": sae.W_dec.T,
        f"{position}.decoder.bias": sae.b_dec,
    }
    write_bytes(path, torch_bytes(tensors))
