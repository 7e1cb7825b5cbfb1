"""Shorthands of records: `sae.save(...)` is `reseed.save(sae, ...)`.

A record stands below what can be done with it. Its method goes through the door by name, when it
is called, as the public names of `reseed` do; so importing a record imports nothing above it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

DOORS = {
    "SAEModule": "reseed.sae.torch_module",
    "plot_match": "reseed.report.notebook.plots",
    "plot_sae": "reseed.report.notebook.plots",
    "plot_study": "reseed.report.notebook.plots",
    "save": "reseed.formats.read",
    "spliced": "reseed.subjects.language.splice",
    "to_pandas": "reseed.records",
}
"""Function to the file it stands in: all that a method of a record may reach above it."""


def door(name: str) -> Callable[..., Any]:
    """The function behind a shorthand."""
    return getattr(import_module(DOORS[name]), name)
