"""The public names are few and pinned: changing them is a decision."""

import importlib
from pathlib import Path

import pytest

import reseed

PUBLIC = [
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


def test_names_are_pinned():
    assert reseed.__all__ == PUBLIC
    in_order = sorted(PUBLIC, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert in_order == PUBLIC
    assert dir(reseed) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_loads_and_is_described(name):
    assert getattr(reseed, name).__doc__


def test_no_room_hides_a_public_name():
    """Once `reseed.NAME.x` is imported, `reseed.NAME` would be that room."""
    rooms = {path.parent.name for path in Path(reseed.__file__).parent.glob("*/__init__.py")}
    assert not rooms & set(PUBLIC)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="trian"):
        reseed.trian  # noqa: B018
    assert not hasattr(reseed, "__path_of_nothing__")


def test_star_import_gives_all():
    names = {}
    exec("from reseed import *", names)
    assert set(PUBLIC) <= names.keys()


def test_another_missing_module_is_not_blamed_on_the_extra(monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match="scipy"):
        reseed.__getattr__("match")
