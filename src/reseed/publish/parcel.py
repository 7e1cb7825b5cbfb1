"""What goes along with a study: its SAEs, its table of latents, its report, a card."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from reseed.errors import SpecError, StoreError, nearest
from reseed.formats import own
from reseed.formats.read import write
from reseed.prediction.export import VERSION, VERSION_NAME, public
from reseed.publish.model_card import card
from reseed.runs import Group, run_name
from reseed.spec.summary import Summary, read_record
from reseed.study import SPEC_FILE, SUMMARY_FILE, Study

LAYOUTS = ("saelens", "sparsify", "reseed")
"""Formats that SAEs go along in."""

_REPORT = "report.html"
_SAES = "saes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One file."""

    name: str
    """where it goes, relative to the repository"""
    data: bytes

    @property
    def sha256(self) -> str:
        """Of its content, as large files are known on the hub."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def blob(self) -> str:
        """Name of its content in git, as small files are known on the hub."""
        head = f"blob {len(self.data)}\0".encode()
        return hashlib.sha1(head + self.data, usedforsecurity=False).hexdigest()


def parcels(study: Study, groups: list[Group], layout: str, repo: str) -> Iterator[list[Item]]:
    """Files that go together: those of each SAE, and at last what describes all.

    One parcel at a time is in memory; each is the same whenever it is asked for.

    Args:
        study: with results.
        groups: whose SAEs go.
        layout: of `LAYOUTS`.
        repo: owner and name, for the card.

    Raises:
        SpecError: if the layout is unknown, or cannot express an SAE: it names another.
        StoreError: if the study has no results yet, or is damaged.
    """
    if layout not in LAYOUTS:
        raise SpecError(f"layout {layout!r}: {nearest(layout, LAYOUTS)}")
    where = str(study.store.path(SUMMARY_FILE))
    if not Path(where).exists():
        raise StoreError(f"{study.folder} has no {SUMMARY_FILE} yet; `reseed run` makes it")
    summary = read_record(Summary, study.store.read_json(SUMMARY_FILE), where)
    saes: dict[str, str] = {}
    for group in groups:
        for run in group.runs:
            saes[run] = f"{_SAES}/{run}"
            yield _sae(study, run, saes[run], layout)
    yield _about(study, groups, summary, saes, layout, repo)


def _sae(study: Study, run: str, folder: str, layout: str) -> list[Item]:
    sae = own.read_run(study.store, run_name(run))
    with TemporaryDirectory() as place:
        base = Path(place) / "sae"
        try:
            write(base, sae, layout)
        except SpecError as error:
            raise SpecError(f"{run}: {error}; `--layout reseed` can hold every SAE") from error
        return [
            Item(name=f"{folder}/{path.relative_to(base).as_posix()}", data=path.read_bytes())
            for path in sorted(base.rglob("*"))
            if path.is_file()
        ]


def _about(
    study: Study,
    groups: list[Group],
    summary: Summary,
    saes: dict[str, str],
    layout: str,
    repo: str,
) -> list[Item]:
    names = {group.name for group in groups}
    chosen = [group for group in summary.groups if group.group in names]
    text = card(summary.model_copy(update={"groups": chosen}), saes, layout, repo)
    table, buffer = pl.concat([study.latents_of(g) for g in groups], how="diagonal"), io.BytesIO()
    public(table).write_parquet(buffer, metadata={VERSION_NAME: str(VERSION)})
    items = [
        Item(name="README.md", data=text.encode()),
        Item(name="latents.parquet", data=buffer.getvalue()),
    ]
    for name in (SUMMARY_FILE, _REPORT, SPEC_FILE):
        path = study.store.path(name)
        if path.exists():
            items.append(Item(name=name, data=path.read_bytes()))
    return items
