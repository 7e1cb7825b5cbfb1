"""Which features of a sparse autoencoder come back when it is trained again.

Names are loaded when they are first used, so that reading a study needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reseed.comparison.invariance import paired
    from reseed.comparison.stage import compare
    from reseed.comparison.summary import Comparison
    from reseed.consensus_sae.stage import consensus
    from reseed.errors import (
        BusyError,
        Interrupted,
        ReseedError,
        SpecError,
        StoreError,
        SubjectError,
        TrainingError,
    )
    from reseed.formats.read import load, save
    from reseed.matching.activations import match_activations
    from reseed.matching.match import match
    from reseed.pipeline.known_features import Calibration, calibrate
    from reseed.pipeline.plan import plan
    from reseed.pipeline.run import run
    from reseed.prediction.export import export
    from reseed.prediction.predict import predict
    from reseed.publish.export import export_to
    from reseed.publish.push import push
    from reseed.records import Match
    from reseed.sae.model import SAE
    from reseed.spec.study import StudySpec
    from reseed.stability.fdr import reject_threshold
    from reseed.study import Study
    from reseed.subjects.module import harvest
    from reseed.survival.stage import survive
    from reseed.training.arrays import train

_HOMES = {
    "reseed.consensus_sae.stage": ("consensus",),
    "reseed.formats.read": ("load", "save"),
    "reseed.pipeline.plan": ("plan",),
    "reseed.pipeline.run": ("run",),
    "reseed.prediction.predict": ("predict",),
    "reseed.prediction.export": ("export",),
    "reseed.publish.export": ("export_to",),
    "reseed.publish.push": ("push",),
    "reseed.subjects.module": ("harvest",),
    "reseed.comparison.invariance": ("paired",),
    "reseed.comparison.stage": ("compare",),
    "reseed.comparison.summary": ("Comparison",),
    "reseed.pipeline.known_features": ("Calibration", "calibrate"),
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
    "reseed.matching.match": ("match",),
    "reseed.records": ("Match",),
    "reseed.sae.model": ("SAE",),
    "reseed.stability.fdr": ("reject_threshold",),
    "reseed.study": ("Study",),
    "reseed.spec.study": ("StudySpec",),
    "reseed.survival.stage": ("survive",),
    "reseed.training.arrays": ("train",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "SAE",
    "BusyError",
    "Calibration",
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
    "calibrate",
    "compare",
    "consensus",
    "export",
    "export_to",
    "harvest",
    "load",
    "match",
    "match_activations",
    "paired",
    "plan",
    "predict",
    "push",
    "reject_threshold",
    "run",
    "save",
    "survive",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("reseed")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'reseed' has no attribute {name!r}")
    from reseed.errors import needs_train

    with needs_train(f"reseed.{name}"):
        if name == "SAE":  # can be imported without torch, and not be used
            importlib.import_module("torch")
        return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
