"""Which features of a sparse autoencoder come back when it is trained again.

Names are loaded when they are first used, so that reading a study needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reseed.api import harvest, load, plan, run
    from reseed.comparing import compare
    from reseed.comparison.result import Comparison
    from reseed.errors import (
        BusyError,
        Interrupted,
        ReseedError,
        SpecError,
        StoreError,
        SubjectError,
        TrainingError,
    )
    from reseed.matching.activations import match_activations
    from reseed.matching.assignment import match
    from reseed.records import Match
    from reseed.sae.model import SAE
    from reseed.stability.reject_null import reject_threshold
    from reseed.study import Study
    from reseed.study_spec import StudySpec
    from reseed.training.arrays import train

_HOMES = {
    "reseed.api": ("harvest", "load", "plan", "run"),
    "reseed.comparing": ("compare",),
    "reseed.comparison.result": ("Comparison",),
    "reseed.errors": (
        "BusyError",
        "Interrupted",
        "ReseedError",
        "SpecError",
        "StoreError",
        "SubjectError",
        "TrainingError",
    ),
    "reseed.matching.activations": ("match_activations",),
    "reseed.matching.assignment": ("match",),
    "reseed.records": ("Match",),
    "reseed.sae.model": ("SAE",),
    "reseed.stability.reject_null": ("reject_threshold",),
    "reseed.study": ("Study",),
    "reseed.study_spec": ("StudySpec",),
    "reseed.training.arrays": ("train",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "SAE",
    "BusyError",
    "Comparison",
    "Interrupted",
    "Match",
    "ReseedError",
    "SpecError",
    "StoreError",
    "Study",
    "StudySpec",
    "SubjectError",
    "TrainingError",
    "compare",
    "harvest",
    "load",
    "match",
    "match_activations",
    "plan",
    "reject_threshold",
    "run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'reseed' has no attribute {name!r}")
    from reseed.errors import needs_train

    with needs_train(f"reseed.{name}"):
        return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
