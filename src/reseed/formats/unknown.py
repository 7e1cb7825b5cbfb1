"""What to say of a path that is in no format that is known: what it is, and what to do next."""

from __future__ import annotations

from pathlib import PurePosixPath

from reseed.errors import SpecError, StoreError
from reseed.formats.files import OF_ARRAYS, Files
from reseed.formats.published.by_names import described, suggested

WEIGHTS = (*OF_ARRAYS, ".npy")

_SETTINGS = {
    "sae.safetensors": ("cfg.json", "sparsify and reseed"),
    "sae_weights.safetensors": ("cfg.json", "SAELens (and config.json, that of llamascopium)"),
    "sae.pt": ("config.json", "the BatchTopK repository"),
    "params.safetensors": ("config.json", "Gemma Scope 2"),
}
"""File of weights to the settings that lie beside it, and whose they are."""

_BY_NAMES = (
    "If it is an SAE, say which array is what, and the rule: {wanted} --read rule=topk --read k=32 "
    "(in Python W_enc=..., rule='topk', k=32); names are W_enc, W_dec, b_enc, b_dec, threshold, "
    "rows. To compare directions alone: --read decoder=NAME."
)


def refuse_damage(files: Files) -> None:
    """Name what is damaged, where that may be why nothing is recognised.

    Raises:
        SpecError: if a file of arrays is of a kind that is not read.
        StoreError: if one is damaged, or settings are.
    """
    top = [name for name in files.names() if "/" not in name]
    settings = ["cfg.json", "config.json", "hyperparams.json"] if top else []
    for name in [name for name in top if name.endswith(WEIGHTS)][:20]:
        files.arrays(name)
    for name in settings:
        try:
            if files.has(name):
                files.json(name)
        except StoreError as error:
            if error.__cause__ is not None:  # it is no JSON; a list in JSON is somebody else's
                raise


def explained(files: Files, saes: list[str], known: list[str]) -> str:
    """What there is and what may be missing; of a file its arrays and their shapes.

    Args:
        files: the file or folder.
        saes: names of SAEs below the folder.
        known: names of all formats.
    """
    if saes:
        more = f" and {len(saes) - 20} more" if len(saes) > 20 else ""
        return (
            f"It holds {len(saes)} SAEs; name one by a longer path or with --inner (inner=...): "
            f"{', '.join(saes[:20])}{more}"
        )
    held = files.names()
    parts = [missing(files), *(_arrays(files, name) for name in held[:20])]
    shown = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "")
    ending = f"It holds {shown or 'nothing'}; formats that are known: {', '.join(known)}"
    return " ".join([*filter(None, parts), ending])


def missing(files: Files) -> str:
    """A sentence about settings that should lie beside the weights; empty if none should."""
    held = files.names()
    for weights, (settings, whose) in _SETTINGS.items():
        if weights not in held:
            continue
        if not files.has(settings):
            return f"There is no {settings} beside {weights}, where {whose} keep their settings. "
        if keys := ", ".join(sorted(files.settings(settings))[:12]):
            return f"{settings} has {keys}, which are not the settings of {whose}. "
    return ""


def _arrays(files: Files, name: str) -> str:
    """The arrays of one file; nothing for what is no file of arrays."""
    if PurePosixPath(name).suffix not in WEIGHTS:
        return ""
    try:
        arrays = files.arrays(name)
    except (SpecError, StoreError):
        return ""
    if not arrays:
        return ""
    likely = suggested(arrays)
    likely = f"by their shapes perhaps {likely}" if likely else ""
    wanted = likely or "--read W_enc=NAME --read W_dec=NAME"
    return f"{name} holds {described(arrays)}. {_BY_NAMES.format(wanted=wanted)}"
