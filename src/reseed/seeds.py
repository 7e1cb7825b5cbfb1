"""Every random number comes from a generator that is made from what it is for.

No generator is shared and none is global, so adding, removing or reordering work changes no other
number, and a restart needs no saved state.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def digest(value: Any, length: int = 64) -> str:
    """First `length` hex digits of the SHA-256 of a JSON value, with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def generator(purpose: str, *key: int | str) -> np.random.Generator:
    """A NumPy generator that depends on nothing but its purpose and key.

    Args:
        purpose: what the numbers are for, e.g. `"block-order"`.
        key: seeds and indices, e.g. the data seed and the epoch.
    """
    import numpy as np

    return np.random.Generator(np.random.PCG64(int(digest([purpose, *key], 32), 16)))
