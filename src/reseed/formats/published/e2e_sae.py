"""e2e_sae: a file `samples_N.pt` with the SAEs of all positions of a training.

For each position P: `P.encoder.0.weight [F, D]`, `P.encoder.0.bias`, `P.decoder.weight [D, F]`,
`P.decoder.bias`. The decoder's columns are divided by their norms at run time, so what is stored is
not what decodes. Checked against e2e_sae 2.1.1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reseed.errors import SpecError
from reseed.formats import folds
from reseed.formats.checks import Format, Weights, about, stored
from reseed.formats.containers.torch_file import torch_bytes
from reseed.formats.files import Files
from reseed.formats.settings_near import settings_near
from reseed.records import SAEArrays
from reseed.store import write_bytes

_ENCODER = "encoder.0.weight"

_LEAST_NORM = 1e-12

_NO_POSITION = (
    "the names are those of e2e_sae, but for the position before each; if this file is of a "
    "class of your own that does not divide decoder rows by their norms, read it as home_made"
)


def _layout(position: str) -> dict[str, tuple[str, str]]:
    dot = f"{position}." if position else ""
    return {
        "W_enc": (dot + _ENCODER, "FD"),
        "b_enc": (f"{dot}encoder.0.bias", "F"),
        "W_dec": (f"{dot}decoder.weight", "DF"),
        "b_dec": (f"{dot}decoder.bias", "D"),
    }


def _file(files: Files) -> str | None:
    if files.is_file:
        return files.path.name
    names = [n for n in files.names() if n.startswith("samples_") and n.endswith(".pt")]
    return names[0] if len(names) == 1 else None


def _positions(keys: frozenset[str]) -> list[str]:
    """Positions in a file, e.g. `blocks-6-hook_resid_pre`."""
    named = {key.removesuffix(_ENCODER).removesuffix(".") for key in keys if key.endswith(_ENCODER)}
    return sorted(p for p in named if keys >= {key for key, _ in _layout(p).values()})


def _recognise(files: Files) -> bool:
    name = _file(files)
    return name is not None and bool(_positions(files.keys(name)))


def _read(files: Files, *, inner: str | None = None) -> SAEArrays:
    """Read the SAE of one position; `inner` may be left out where there is one only."""
    name = _file(files)
    if name is None:
        raise SpecError(f"{files.path} has not one samples_N.pt; give one of its files")
    arrays, where = files.torch_dict(name), str(files.folder / name)
    positions = _positions(frozenset(arrays))
    if inner is None and len(positions) == 1:
        inner = positions[0]
    if inner not in positions:
        raise SpecError(
            f"{where} holds SAEs of {len(positions)} positions, and {inner or 'none of them'} was "
            f"asked for; name one: {', '.join(positions)}"
        )
    weights = Weights(arrays=arrays, where=where)
    fields = weights.fields(_layout(inner))
    others = [key for key in arrays if inner and not key.startswith(f"{inner}.")]
    weights.nothing_left("this format", others)
    norms = np.linalg.norm(fields["W_dec"].astype(np.float64), axis=1, keepdims=True)
    fields["W_dec"] = (fields["W_dec"] / np.maximum(norms, _LEAST_NORM)).astype(np.float32)
    folded = ["decoder rows divided by their norms, as at run time"]
    notes = [] if inner else [_NO_POSITION]
    site = {"site": inner.replace("-", ".")} if inner else {}
    record, rule = about(folded, notes, site), {"kind": "relu"}
    sae = SAEArrays(**fields, activation=rule, centred=False, about=record)
    settings_near(files, arrays).check(arrays.path, sae, "as the SAEs of e2e_sae are")
    return sae


def _write(to: Path, sae: SAEArrays) -> None:
    """Write one position; decoder norms go into the codes."""
    sae = folds.rescaled(folds.uncentred(sae), folds.decoder_norms(sae))
    site = sae.about.get("site")
    position = site.replace(".", "-") if isinstance(site, str) and site else "sae"
    path = to if to.suffix == ".pt" else to / "samples_0.pt"
    write_bytes(path, torch_bytes(stored(sae, _layout(position))))


FORMATS = (
    Format(
        name="e2e_sae",
        recognise=_recognise,
        read=_read,
        write=_write,
        choices=("inner",),
        several=True,
        kinds=("relu",),
    ),
)
