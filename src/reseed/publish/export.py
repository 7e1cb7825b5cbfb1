"""A study in the files of others: Neuronpedia, circuit-tracer, a record of consistency."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from reseed.errors import SpecError, nearest
from reseed.formats import own
from reseed.publish.circuit_tracer import circuit_tracer
from reseed.publish.neuronpedia import neuronpedia
from reseed.publish.pw_mcc import pw_mcc
from reseed.runs import Group, pairs_of, run_name
from reseed.store import write_bytes
from reseed.study import Study

File = tuple[str, Any]
"""Name, and content: bytes, a list of lines of JSON, or a JSON object."""


def export_to(
    study: Study,
    out: str | os.PathLike[str],
    to: str,
    *,
    group: str | None = None,
    model: str | None = None,
    overwrite: bool = False,
) -> tuple[list[Path], list[str]]:
    """Write a study in the files of others; docs/publish.md has what is in them.

    Args:
        study: with results.
        out: a folder.
        to: `"neuronpedia"`, `"circuit-tracer"`, or `"pw-mcc"` for a record of each pair of runs.
        group: label or name; this group only.
        model: how Neuronpedia calls the subject.
        overwrite: whether files that are there may be replaced.

    Returns:
        The files, and sentences about what is left out.

    Raises:
        SpecError: if the target, the group or a place is none, files exist, or the subject has
            nothing that the target shows.
        StoreError: if the study has no results or is damaged, or it cannot be written.
    """
    if to not in TARGETS:
        raise SpecError(f"--to {to!r}: {nearest(to, TARGETS)}")
    place = Path(out)
    if place.exists() and not place.is_dir():
        raise SpecError(f"{place} is a file and was left as it is; files are written into a folder")
    if place.is_dir() and any(place.iterdir()) and not overwrite:
        raise SpecError(
            f"{place} is there already and was left as it is; give --overwrite (overwrite=True) to "
            "write into it, or another folder"
        )
    written: list[Path] = []
    notes: list[str] = []
    for item in TARGETS[to](study, study.groups_named(group), model):
        if isinstance(item, str):
            notes.append(item)
            continue
        path = place / item[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, _bytes(item[1]))
        written.append(path)
    return written, notes


def _bytes(content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    lines = content if isinstance(content, list) else [content]
    texts = (json.dumps(line, ensure_ascii=False, allow_nan=False) for line in lines)
    return ("\n".join(texts) + "\n").encode()


def _records(study: Study, groups: list[Group], _: str | None) -> Iterator[File]:
    for group in groups:
        for a, b in pairs_of(group.runs):
            first, other = (own.read_run(study.store, run_name(run)) for run in (a, b))
            yield f"pw-mcc/{a}--{b}.json", pw_mcc(first, other, (a, b))


def _features(study: Study, groups: list[Group], _: str | None) -> Iterator[File | str]:
    return circuit_tracer(study, groups)


TARGETS: dict[str, Callable[[Study, list[Group], str | None], Iterable[File | str]]] = {
    "neuronpedia": neuronpedia,
    "circuit-tracer": _features,
    "pw-mcc": _records,
}
