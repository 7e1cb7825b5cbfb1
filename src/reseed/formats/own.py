"""Our own format: a folder with `cfg.json` and `sae.safetensors`.

`sae.safetensors` holds float32 `W_enc [F, D]`, `W_dec [F, E]`, `b_enc [F]`, `b_dec [E]`, and where
they are used `threshold [F]` and `W_skip [E, D]`; `cfg.json` holds `format`, `version`,
`activation`, `centred`, `normalised` and `about`. What they mean is said at
`reseed.records.SAEArrays`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reseed.errors import SpecError, StoreError
from reseed.formats.checks import Format, Weights, complete, named, stored
from reseed.formats.files import Files
from reseed.records import SAEArrays
from reseed.store import Store, file_bytes, write_bytes

NAME, VERSION = "reseed", 1

_CFG, _WEIGHTS = "cfg.json", "sae.safetensors"

_UP = 4
"""Folders from an SAE up to its study: runs/RUN/snapshots/STEP."""

_LAYOUT = named(W_enc="FD", W_dec="FE", b_enc="F", b_dec="E")
_MORE = named(threshold="F", W_skip="ED")


def contents(sae: SAEArrays) -> dict[str, Any]:
    """The files of an SAE by name, as `Store.make` takes them."""
    cfg = {
        "format": NAME,
        "version": VERSION,
        "activation": dict(sae.activation),
        "centred": sae.centred,
        "normalised": sae.normalised,
        "about": dict(sae.about),
    }
    return {_WEIGHTS: stored(sae, _LAYOUT | _MORE), _CFG: cfg}


def write(folder: Path, sae: SAEArrays) -> None:
    """Write an SAE into a folder."""
    for name, content in contents(sae).items():
        write_bytes(folder / name, file_bytes(name, content))


def read_piece(store: Store, piece: str, inner: str = ".") -> SAEArrays:
    """Read an SAE from a piece of a store, or a folder in it, checked against its checksums."""
    for file in (_CFG, _WEIGHTS):
        store.checked(piece, (Path(inner) / file).as_posix())
    return read(store.path(piece) / inner)


def recognise(files: Files) -> bool:
    """A folder whose `cfg.json` says format `reseed`."""
    return files.means(_CFG, _WEIGHTS) and files.settings(_CFG).get("format") == NAME


def read(folder: Path | Files) -> SAEArrays:
    """Read an SAE from a folder.

    Raises:
        SpecError: if the folder is not in this format.
        StoreError: if a file is missing, damaged, holds NaN, or shapes do not fit each other.
    """
    files = folder if isinstance(folder, Files) else Files(folder)
    if not files.has(_CFG):
        raise SpecError(
            f"{files.path} holds no {_CFG}, so it is not an SAE that reseed wrote. Give the "
            f"folder with {_CFG} and {_WEIGHTS}, e.g. STUDY/runs/RUN."
        )
    cfg, where = files.json(_CFG), str(files.folder / _CFG)
    if cfg.get("format") != NAME or cfg.get("version") != VERSION:
        raise SpecError(f"{where} does not say format {NAME!r}, version {VERSION}")
    arrays = files.tensors(_WEIGHTS)
    try:
        rule, centred, about = cfg["activation"], cfg["centred"], cfg["about"]
    except KeyError as error:
        raise StoreError(f"{where} lacks {error}") from error
    if not isinstance(rule, dict):
        raise StoreError(f"{where}: the activation rule is {rule!r}, not a table")
    layout = _LAYOUT | {name: place for name, place in _MORE.items() if name in arrays}
    weights = Weights(arrays=arrays, where=str(files.folder / _WEIGHTS))
    fields = weights.fields(layout)
    weights.nothing_left(f"format {NAME!r}")
    sae = SAEArrays(
        **fields,
        activation=rule,
        centred=bool(centred),
        normalised=bool(cfg.get("normalised", False)),
        about=about if isinstance(about, dict) else {},
    )
    return complete(sae, where)


def subject_of(folder: Path) -> dict[str, str]:
    """The model that the study around a run reads, as its study.toml says; empty if there is none.

    A run's own files name its site alone: what they say decides its identity.
    """
    for above in list(folder.absolute().parents)[:_UP]:
        try:
            spec = tomllib.loads((above / "study.toml").read_text("utf-8-sig"))
        except (OSError, ValueError, RecursionError):
            continue
        subject = spec.get("subject")
        model = subject.get("model") if isinstance(subject, dict) else None
        return {"subject": model} if isinstance(model, str) else {}
    return {}


def read_run(store: Store, piece: str) -> SAEArrays:
    """Read the SAE of a finished run, with the model it reads and what its study measured of it."""
    sae = read_piece(store, piece)
    return replace(sae, about=with_study(sae.about, store.path(piece)))


def with_study(about: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What an SAE says of itself, and what the study says in which it lies, if it lies in one."""
    if "run" not in about or "subject" in about:
        return dict(about)
    measured = measured_of(folder)
    return {**about, **subject_of(folder), **({"measured": measured} if measured else {})}


def measured_of(folder: Path) -> dict[str, Any]:
    """Held-out numbers of a run and what its group shares, beside chance, as its study has them.

    Returns:
        study, held_out_tokens, fvu, fvu_robust, l0, dead_share (latents silent on held-out tokens);
        runs of the group; and of their latents `shared` at `tau` and `match_at_fdr`, each with
        _interval_95, _chance (mean over draws of the null) and _untrained, where there are two
        runs. Empty if the study has not come this far.
    """
    run, study = folder.absolute().name, folder.absolute().parent.parent
    try:
        summary = json.loads((study / "summary.json").read_text("utf-8"))
        fit = json.loads((study / "evidence" / run / "reconstruction.json").read_text("utf-8"))
        group = next(group for group in summary["groups"] if run in group["runs"])
        counts, headline = group["counts"], group.get("headline") or {}
        dead = counts["dead"][group["runs"].index(run)] / counts["latents"]
        out = {"study": summary["study"], "held_out_tokens": fit["rows"]}
        out |= {name: fit[name] for name in ("fvu", "fvu_robust", "l0") if name in fit}
        out |= {"dead_share": dead, "runs": counts["runs"], "latents": counts["latents"]}
        out |= {"tau": headline["tau"]} if headline else {}
        for name in ("shared", "match_at_fdr"):
            if share := headline.get(name, {}).get("all"):
                out[name] = share["value"]
                out[f"{name}_interval_95"] = share["interval_95"]
                out[f"{name}_chance"] = (share["null_covariance"] or {}).get("mean")
                out[f"{name}_untrained"] = share["null_untrained"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError, ArithmeticError,
            AttributeError, StopIteration):  # fmt: skip
        return {}
    return out


FORMATS = (
    Format(
        name=NAME,
        recognise=recognise,
        read=read,
        write=write,
        skip=True,
        normalised=True,
        transcoder=True,
    ),
)
