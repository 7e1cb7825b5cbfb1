"""Bytes of a file as `torch.save` writes it; the one part of the formats that needs torch."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from reseed.errors import SpecError


def torch_bytes(arrays: Mapping[str, Any]) -> bytes:
    """A state dict as `torch.save` writes it; entries that are no numbers stay as they are.

    Raises:
        SpecError: if torch is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise SpecError(
            "this format is a file of torch.save; to write it torch is needed: "
            "pip install 'reseed[train]'"
        ) from None
    values = {
        name: torch.from_numpy(np.array(value, order="C"))
        if isinstance(value, np.ndarray | np.generic)
        else value
        for name, value in arrays.items()
    }
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()
