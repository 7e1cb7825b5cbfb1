"""Sparse autoencoders: what one is, and one file for each architecture that can be trained.

`torch`, `Tensor` and `np` are imported when they are first used: an architecture's settings and
formulas share a file, and settings are read where there is no torch and where seconds count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch as torch
    from torch import Tensor as Tensor

    __all__ = ["Tensor", "np", "torch"]
else:
    import importlib
    from types import ModuleType

    from reseed.errors import needs_train

    class _Lazy(ModuleType):
        """Attributes of a module, which is imported for the first of them."""

        def __getattr__(self, name: str) -> Any:
            with needs_train("an SAE's encoder and its training"):
                value = getattr(importlib.import_module(self.__name__), name)
            setattr(self, name, value)
            return value

    torch, np = _Lazy("torch"), _Lazy("numpy")
    Tensor = Any  # annotations are never evaluated
