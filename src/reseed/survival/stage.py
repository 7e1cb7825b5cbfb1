"""The door: what survives of the features of a study in other versions of its subject.

Pieces, each made once: `survival/VARIANT/RUN` (every latent of a run on both versions),
`survival/VARIANT/_subject` and `survival/_subject` (cross-entropy of a version and of the whole, by
block), `survival/_summary` (tables over all of them). From these `survival.json` and the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from reseed.errors import SpecError, StoreError, nearest, needs_train
from reseed.events import Events, Stop, session
from reseed.runs import Group, run_name, stability_name
from reseed.sae.arithmetic import arithmetic
from reseed.seeds import digest
from reseed.spec.subject import LanguageModelSpec
from reseed.study import Study
from reseed.survival.page import write_survival
from reseed.survival.summary import (
    SUMMARY_PIECE,
    VERSION,
    Version,
    arms_of,
    latents_of,
    read_version,
    second_name,
    summarise,
    survival_name,
)
from reseed.training.device import chosen

if TYPE_CHECKING:
    from reseed.subjects.inputs import Inputs

SUMMARY, PAGE = "survival.json", "survival.html"

CROSS_ENTROPY_TOKENS = 6144
"""Held-out tokens on which the predictions of each version are measured."""

_DIRECTIONS = 4096
"""Most random directions of a site; else as many as an SAE has latents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survival:
    """What survives, and where it is shown."""

    page: Path
    """the HTML file"""
    summary: Mapping[str, Any]
    """`survival.json`; keys in docs/survive.md"""
    latents: pl.DataFrame
    """variant, group, run, latent, r and more, of every latent that fires in the whole"""
    curves: pl.DataFrame
    """variant, group, of, r, share, lo, hi: share with at least this r, of latents and of nulls"""


def survive(
    study: Study,
    *,
    group: str | None = None,
    retrain: Sequence[str] = (),
    crosscoders: Sequence[str] = (),
    progress: bool = True,
    device: str = "cpu",
) -> Survival:
    """Which features of the whole subject are still there in its `[[variant]]` versions?

    The SAEs of a finished study read the same held-out tokens from the whole and from each variant.
    A latent survives if its activations in both have a correlation of at least .7; shares stand
    beside shuffled tokens, untrained SAEs, raw dimensions and random directions, and beside how
    many runs found the latent. Described in docs/survive.md. What is there is not made again.

    Args:
        study: with results and with `[[variant]]` tables.
        group: label or name of a group; left out, all groups.
        retrain: names of variants on which SAEs and crosscoders are trained as a second opinion;
            as many trainings as the group has runs, twice.
        crosscoders: kinds beside the plain one, of `"auxk"`, `"exclusive"` and `"delta"`.
        progress: whether to show it.
        device: where to compute: `"cpu"`, `"cuda"`, `"cuda:1"` and so on, or `"auto"`.

    Raises:
        SpecError: if the study names no variant, or one cannot be as it is written.
        SubjectError: if a variant has another shape or gives other rows.
        StoreError: if the study has not come this far, or is busy, damaged or full.
        Interrupted: after a signal; the same call continues.
    """
    groups = check(study, group, retrain, crosscoders)
    place = chosen(device)
    with session(study.folder, progress) as (events, stop):
        return stage(study, events, groups, place, retrain, stop, crosscoders)


def check(
    study: Study,
    group: str | None = None,
    retrain: Sequence[str] = (),
    crosscoders: Sequence[str] = (),
) -> list[Group]:
    """The groups that are asked about, after what cannot be asked was refused."""
    if not study.spec.variant:
        raise SpecError(
            f"{study.folder.name} names no other version of its subject, so there is nothing to "
            'survive. Add e.g. [[variant]] with method = "random" and share = 0.1; `reseed keys '
            "variant` lists what there is. What is trained stays."
        )
    known = [variant.label for variant in study.spec.variant]
    for name in retrain:
        if name not in known:
            raise SpecError(f"no variant {name!r} to train on; {nearest(name, known)}")
    for name in crosscoders:
        if name not in (arms := list(arms_of(1, 1))) or not retrain:
            said = nearest(name, arms) if retrain else "name the variants for it in retrain"
            raise SpecError(f"no crosscoders {name!r} to train; {said}")
    groups = study.groups_named(group)
    for runs in groups:
        if not study.store.has(stability_name(runs.name)):
            raise StoreError(
                f"{study.folder} has no table of latents of {runs.label} yet; `reseed run` makes it"
            )
        study.latent_table(runs)
    return groups


def stage(
    study: Study,
    events: Events,
    groups: Sequence[Group],
    device: str = "cpu",
    retrain: Sequence[str] = (),
    stop: Stop | None = None,
    crosscoders: Sequence[str] = (),
) -> Survival:
    """Make the pieces that are missing, `survival.json` and the page; again, it only reads."""
    versions = [read_version(variant, study) for variant in study.spec.variant]
    with study.locked("reseed survive"):
        events.emit("session", command="reseed survive")
        with needs_train("reseed survive"):
            work = _Work(study, events, groups, device)
            missing = {version.label: work.missing(version) for version in versions}
            if any(missing.values()):
                work.check(versions)
            for version in versions:
                work.read(version, missing[version.label])
            work.predict([None, *versions])
            for version in (v for v in versions if v.label in retrain):
                work.train_again(version, crosscoders, stop or Stop())
        summarise(study, groups, versions)
        document = study.store.document(SUMMARY_PIECE, "survival.json")
        if not study.store.path(SUMMARY).exists() or study.store.read_json(SUMMARY) != document:
            study.store.write(SUMMARY, document)
        write_survival(study.store, PAGE)
    latents, curves = (
        study.store.table(SUMMARY_PIECE, f"{name}.parquet") for name in ("latents", "curves")
    )
    return Survival(page=study.folder / PAGE, summary=document, latents=latents, curves=curves)


class _Work:
    """What the steps share: activations are opened when the first piece turns out to be missing."""

    def __init__(self, study: Study, events: Events, groups: Sequence[Group], device: str) -> None:
        self._study, self._events, self._device = study, events, device
        self._groups = groups
        wanted = {run for group in groups for run in group.runs}
        self._runs = {run.id: run.spec for run in study.runs if run.id in wanted}
        self._inputs: Inputs | None = None

    @property
    def inputs(self) -> Inputs:
        """The activations of the whole."""
        from reseed.subjects.inputs import Inputs

        if self._inputs is None:
            self._inputs = Inputs(self._study, self._events, self._device)
        return self._inputs

    def missing(self, version: Version) -> dict[str, list[Any]]:
        """The runs without a piece of this version, and what it is to be made from."""
        store, held_out = self._study.store, self._study.spec.activations.held_out
        made_from = {
            run: [*version.made_from, held_out, store.checksum(run_name(run))] for run in self._runs
        }
        there = {
            run: store.has(survival_name(version.label, run), digest(made))
            for run, made in made_from.items()
        }
        return {run: made for run, made in made_from.items() if not there[run]}

    def check(self, versions: Sequence[Version]) -> None:
        """Refuse what cannot be, before anything is read."""
        from reseed.subjects.variants import check_variant

        for version in versions:
            check_variant(self._study, version.variant, self._events)

    def read(self, version: Version, missing: Mapping[str, list[Any]]) -> None:
        """Make `survival/VARIANT/RUN` of the runs that lack it, in one pass over both versions."""
        if not missing:
            return
        from reseed.subjects.variants import open_variant
        from reseed.survival.transfer import transfer

        saes = self._frozen(list(missing))
        whole, blocks = self.inputs.source, self.inputs.split[1]
        variant = open_variant(self._study, version.variant, self._events, self._device)
        passed = transfer(saes, whole, variant, blocks, self._events, version.label)
        for run, made_from in missing.items():
            site, files = self._runs[run].site, dict(passed.runs[run])
            count = min(_DIRECTIONS, saes[run].reader.sae.latents)
            moments = passed.sites[site]
            files["directions.parquet"] = moments.table(count, site)
            files["fit.json"] = files["fit.json"] | {"site": site, "distance": moments.distance()}
            name, write = survival_name(version.label, run), partial(dict[str, Any], files)
            card = partial(arithmetic, self._device)
            self._study.store.make(name, made_from, write, arithmetic=card)

    def _frozen(self, runs: Sequence[str]) -> dict[str, Any]:
        """The SAEs of these runs as they are and as they were before training."""
        from reseed.evidence.rows import Reader, readers_of
        from reseed.matching.stage import load_snapshot
        from reseed.sae.model import from_arrays
        from reseed.survival.transfer import Frozen

        store, specs = self._study.store, self._runs
        readers = readers_of({run: specs[run].site for run in runs}, store, self._device)
        out: dict[str, Any] = {}
        for run, reader in readers.items():
            before = from_arrays(load_snapshot(store, run, 0))
            start = Reader(before, reader.site, reader.device)
            out[run] = Frozen(reader, specs[run].target, start)
        return out

    def predict(self, versions: Sequence[Version | None]) -> None:
        """Make the cross-entropy of the whole (None) and of the variants, where there is one."""
        if not isinstance((study := self._study).spec.subject, LanguageModelSpec):
            return
        for version in versions:
            label, own = (None, []) if version is None else (version.label, version.made_from)
            held_out = study.spec.activations.held_out
            data = study.spec.data, study.spec.read, CROSS_ENTROPY_TOKENS
            made_from = [VERSION, *data, own, held_out]
            study.store.make(
                survival_name(label, "_subject"),
                made_from,
                partial(self._cross_entropy, version),
                arithmetic=partial(arithmetic, self._device),
            )

    @cached_property
    def _predicts(self) -> bool:
        from reseed.subjects.variants import predicts

        return predicts(self._study)

    def _cross_entropy(self, version: Version | None) -> dict[str, Any]:
        """A row for each block; none of a model that predicts no next token."""
        from reseed.subjects.variants import variant_cross_entropy

        blocks, values = list[int](), np.zeros(0)
        if self._predicts:
            blocks = self.inputs.text.first(self.inputs.split[1], CROSS_ENTROPY_TOKENS)
            asked = self._study, version and version.variant, blocks
            values = variant_cross_entropy(*asked, self._events, self._device)
        table = pl.DataFrame({"block": blocks, "cross_entropy": values})
        return {"cross_entropy.parquet": table}

    def train_again(self, version: Version, arms: Sequence[str], stop: Stop) -> None:
        """Make `survival/VARIANT/_second/GROUP`: SAEs of the variant itself, and crosscoders."""
        from reseed.evidence.rows import readers_of
        from reseed.survival.second import second_opinion

        study, store = self._study, self._study.store
        for group in self._groups:
            specs = {run: self._runs[run] for run in group.runs}
            sums = [store.checksum(run_name(run)) for run in group.runs]
            sums += [store.checksum(survival_name(version.label, run)) for run in group.runs]
            sums.append(store.checksum(stability_name(group.name)))
            name = second_name(version.label, group)
            made_from = [*version.made_from, study.spec.activations.held_out, sums]
            made_from += [list(arms)] if arms else []
            if store.has(name, digest(made_from)):
                continue
            whole = readers_of({r: s.site for r, s in specs.items()}, store, self._device)
            latents, over = latents_of(study, group, version)
            files = second_opinion(
                study, self.inputs, version, specs, whole, latents, over, arms, self._events, stop
            )
            card = partial(arithmetic, self._device)
            store.make(name, made_from, partial(dict[str, Any], files), arithmetic=card)
