"""Single files of arrays that carry their own checksum and say what they belong to.

For what is replaced often and lies in no piece yet: the state of a training in work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from reseed.errors import StoreError
from reseed.store.files import write_bytes

if TYPE_CHECKING:
    import numpy as np

Arrays: TypeAlias = "Mapping[str, np.ndarray[Any, Any]]"

_ABOUT, _SUM = "about", "sha256"


def write_sealed(path: Path, arrays: Arrays, about: Mapping[str, Any]) -> None:
    """Write arrays whole, with `about` (JSON) and a checksum over both."""
    import numpy as np
    from safetensors.numpy import save

    text = json.dumps(about, sort_keys=True)
    tight = {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}
    write_bytes(path, save(tight, {_ABOUT: text, _SUM: _sum(tight, text)}))


def read_sealed(path: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """The arrays and `about` of `write_sealed`.

    Raises:
        StoreError: if the file cannot be read, or a bit of it is another than was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as handle:  # pyright: ignore[reportUnknownVariableType]
            held: Any = handle
            told = held.metadata() or {}
            arrays = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
        text = told[_ABOUT]
        right = told[_SUM] == _sum(arrays, text)
        about = json.loads(text) if right else {}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({error})") from error
    if not right:
        raise StoreError(f"{path} is damaged: its checksum is wrong")
    return arrays, about


def _sum(arrays: Arrays, about: str) -> str:
    import numpy as np

    out = hashlib.sha256(about.encode())
    for name in sorted(arrays):
        array = arrays[name]
        out.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        out.update(array.reshape(-1).view(np.uint8).data)
    return out.hexdigest()
