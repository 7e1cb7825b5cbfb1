"""What trainings wrap around the arrays of an SAE: a dict one deeper, a prefix before each name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reseed.formats.containers.arrays import ArrayOnDisk, Arrays

_DEEPER = (
    "state_dict", "model_state_dict", "sae_state_dict", "autoencoder_state_dict", "model",
    "weights", "params", "parameters", "autoencoder", "net", "module",
)  # fmt: skip
"""Names of the dict that holds the arrays, with settings or an optimiser beside it."""

_PREFIXES = ("module", "_orig_mod", "model", "sae", "ae", "autoencoder", "net")
"""What DistributedDataParallel, torch.compile and a module around the SAE put before names."""


def unwrapped(held: Arrays) -> Arrays:
    """The arrays of an SAE without wrapping; what lay beside their dict stays in `beside`.

    Nothing is taken off where names would then be in doubt: not with arrays on both levels, nor
    with two dicts of arrays, nor a prefix that some names lack.
    """
    if not _has_arrays(held):
        inner = {
            name: value
            for name, value in held.held.items()
            if name in _DEEPER and isinstance(value, Arrays) and _has_arrays(unwrapped(value))
        }
        if len(inner) == 1:
            ((name, deeper),) = inner.items()
            rest = {key: value for key, value in held.held.items() if key != name}
            return unwrapped(replace(deeper, beside={**held.beside, **rest}))
    arrays = [name for name, value in held.held.items() if isinstance(value, ArrayOnDisk)]
    first = {name.partition(".")[0] for name in arrays if "." in name}
    if len(first) != 1 or not first <= set(_PREFIXES) or not all("." in name for name in arrays):
        return held
    (prefix,) = first
    return unwrapped(replace(held, held=_without(held.held, f"{prefix}.")))


def flattened(held: Arrays) -> Arrays:
    """With the arrays of dicts inside under `dict.array`."""
    names: dict[str, Any] = {}
    for name, value in held.held.items():
        if isinstance(value, Arrays):
            names |= {f"{name}.{key}": inner for key, inner in flattened(value).held.items()}
        else:
            names[name] = value
    return replace(held, held=names)


def _has_arrays(held: Arrays) -> bool:
    return any(isinstance(value, ArrayOnDisk) and value.shape for value in held.held.values())


def _without(held: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in held.items()}
