"""A study: its TOML, the folder of its results, and which runs exist, are missing or failed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reseed.errors import StoreError
from reseed.events import EVENTS_FILE, EVENTS_FOLDER
from reseed.notebook.of_study import StudyView
from reseed.records import in_order, with_interpretation
from reseed.runs import (
    Done,
    Group,
    PairMatch,
    Run,
    explanations_name,
    group_called,
    group_of,
    pair_name,
    pairs_of,
    run_state,
    scores_name,
    stability_name,
)
from reseed.spec.analysis import plain
from reseed.spec.made_with import BY_RUN, differences, edited, settings_of
from reseed.spec.study import StudySpec, read_study
from reseed.spec.training import Control, RunSpec
from reseed.store import BUILDING, Store
from reseed.store.study_paths import BASE_FILE, DATA_FILE, SPEC_FILE, paths_of

if TYPE_CHECKING:
    import polars as pl

SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"
MADE_WITH_FILE = "made_with.json"
SUBJECT = "subject"
_BEFORE_DATA = (".lock", SPEC_FILE, EVENTS_FILE, EVENTS_FOLDER, "work")
"""What can lie in the folder of a study that was stopped before `DATA_FILE` was there."""


class Study(StudyView):
    """A spec and its folder.

    Args:
        spec: what is to be done.
        folder: where the results lie.
        source: the text of the spec, kept beside the results.
        base: folder in which relative paths are looked for before the current one.
    """

    def __init__(
        self, spec: StudySpec, folder: Path, source: str | None = None, base: Path | None = None
    ) -> None:
        self.spec, self.folder, self.base = spec, folder, base
        self.beside: dict[str, Any] = {SPEC_FILE: source.encode()} if source is not None else {}
        self.store = Store(folder)

    @classmethod
    def load(cls, path: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Study:
        """Open a study by its TOML file, or by the folder of its results.

        Args:
            path: `NAME.toml`, whose results lie in the folder `NAME` beside it, or such a folder.
            out: another folder for the results.

        Raises:
            SpecError: if there is no such study, or its TOML has unknown keys or wrong values.

        Example:
            study = reseed.Study.load("studies/quickstart.toml")
            study.latents.filter(pl.col("n_matched") == 2)
        """
        file, folder, base = paths_of(path, out, EVENTS_FILE)
        spec, source = read_study(file)
        study = cls(spec, folder, source, base)
        if any(sae.published for sae in spec.sae):
            from reseed.formats.starts.checksums import STARTS_FILE, starts_of

            saes, starts = starts_of(spec.sae, base, folder)
            study.spec = spec.model_copy(update={"sae": saes})
            study.beside[STARTS_FILE] = starts
        if folder.absolute().parent != base:
            study.beside[BASE_FILE] = {"base": str(base)}
        return study

    # -- sites and runs ---------------------------------------------------------------------------

    def sites(self) -> list[str]:
        """The sites, in the subject's order.

        Raises:
            StoreError: if patterns were not looked up yet; `reseed run` does it.
        """
        if self.store.has(SUBJECT):
            about = self.store.document(SUBJECT, "subject.json")
            if about["patterns"] == self.spec.activations.sites:
                return list(about["sites"])
        if any("*" in site for site in self.spec.activations.sites):
            raise StoreError(
                f"which sites {self.spec.activations.sites} means is not known before the subject "
                "was opened once; `reseed run` or `reseed plan` does it"
            )
        return [plain(site) for site in self.spec.activations.sites]

    @property
    def runs(self) -> list[Run]:
        """All runs of the spec with their states, control runs among them."""
        return [Run(s, run_state(s, self.store), self.store) for s in self.spec.runs(self.sites())]

    def groups(self) -> list[Group]:
        """Finished runs, grouped by everything but their seeds; runs that failed are left out.

        Control runs are not among them, see `control_groups`.
        """
        return [group_of(runs, self.spec.sae) for runs in self._finished(None).values()]

    def groups_named(self, name: str | None) -> list[Group]:
        """The groups with results, or the one that `runs.group_called` finds.

        Raises:
            StoreError: if the study has not come this far.
            SpecError: if there is no such group.
        """
        self.check_folder()
        groups = self.groups()
        if not groups:
            raise StoreError(f"{self.folder} has no finished runs yet; `reseed run` makes them")
        return groups if name is None else [group_called(name, groups)]

    def control_groups(self) -> dict[str, dict[Control, Group]]:
        """The finished control runs in the same way.

        Returns:
            Name of the group that they are compared with, to kind of control, to their group.
        """
        asked = [run for run in self.spec.runs(self.sites()) if run.control is None]
        partners = {(run.site, run.sae): run.group for run in asked}
        out: dict[str, dict[Control, Group]] = {}
        for kind in self.spec.controls.kinds:
            for runs in self._finished(kind).values():
                partner = partners[runs[0].site, runs[0].sae]
                out.setdefault(partner, {})[kind] = group_of(runs, self.spec.sae)
        return out

    def all_groups(self) -> list[Group]:
        """Groups of the question, then those of the control runs."""
        controls = [group for kinds in self.control_groups().values() for group in kinds.values()]
        return self.groups() + controls

    def with_random_weights(self) -> Study:
        """The study of the subject with random weights; its activations lie in a folder of it."""
        folder = self.folder / "controls" / "random_subject"
        return Study(self.spec.with_random_weights(), folder, base=self.base)

    def _finished(self, control: Control | None) -> dict[str, list[RunSpec]]:
        names: dict[str, list[RunSpec]] = {}
        for run in self.runs:
            if run.spec.control == control and isinstance(run.state, Done):
                names.setdefault(run.spec.group, []).append(run.spec)
        return names

    @property
    def matches(self) -> list[PairMatch]:
        """The matches that are there, one for each pair of runs of a group."""
        self._warn()
        return [
            PairMatch(*pair, tuple(group.steps), self.store)
            for group in self.groups()
            for pair in pairs_of(group.runs)
            if self.store.has(pair_name(pair))
        ]

    @property
    def latents(self) -> pl.DataFrame:
        """One row for each latent of each run, with `group`; columns in docs/latent_table.md.

        Raises:
            StoreError: if the study has not come this far.
        """
        import polars as pl

        self._warn()
        tables = [self.latents_of(group) for group in self.groups_named(None)]
        return pl.concat(tables, how="diagonal")

    def latents_of(self, group: Group) -> pl.DataFrame:
        """The rows of `latents` of one group, with explanations and scores where there are some."""
        import polars as pl

        table = in_order(self.latent_table(group).with_columns(group=pl.lit(group.label)))
        explained, scored = explanations_name(group.name), scores_name(group.name)
        if not (store := self.store).has(explained):
            return table
        scores = store.table(scored, "scores.parquet") if store.has(scored) else None
        return with_interpretation(table, store.table(explained, "explanations.parquet"), scores)

    def latent_table(self, group: Group) -> pl.DataFrame:
        """One row for each latent of each run of a group, as the statistics left it.

        Raises:
            StoreError: if the study has not come this far, or it is damaged.
        """
        name = stability_name(group.name)
        ended = self._made_with.get("pieces", {}).get(name)
        if ended is not None and ended != self.store.checksum(name):
            raise StoreError(
                f"{self.store.path(name)} is not what the last `reseed run` ended with: a later "
                "one was stopped, or it was put in its place. `reseed run` makes it anew."
            )
        return self.store.table(name, "latents.parquet")

    @property
    def summary(self) -> dict[str, Any]:
        """The headline numbers; keys in docs/summary.md.

        Raises:
            StoreError: if the study has not come this far.
        """
        self._warn()
        return self.store.read_json(SUMMARY_FILE)

    def record(self, *tables: str) -> None:
        """Keep the settings that these results were made with; those of `run` if none is named."""
        settings = {name: settings_of(self.spec)[name] for name in tables or BY_RUN}
        pieces = (known := self._made_with).get("pieces", {})
        if not tables:
            names = [stability_name(group.name) for group in self.all_groups()]
            pieces = {name: self.store.checksum(name) for name in names}
        made_with = {"settings": known.get("settings", {}) | settings, "pieces": pieces}
        if made_with != known:
            self.store.write(MADE_WITH_FILE, made_with)

    def edited(self) -> list[str]:
        """Sentences about settings that were edited after the results were made."""
        return edited(self._made_with.get("settings", {}), self.spec)

    @property
    def _made_with(self) -> dict[str, Any]:
        name = MADE_WITH_FILE
        return self.store.read_json(name) if self.store.path(name).exists() else {}

    def _warn(self) -> None:
        for sentence in self.edited():
            warnings.warn(f"{self.folder}: {sentence}", stacklevel=3)

    @contextmanager
    def locked(self, command: str) -> Generator[None, None, None]:
        """Hold the folder, checked to be this study's; others are told what `command` holds it.

        Raises:
            StoreError: if it is busy, read-only or of another spec.
        """
        self.check_folder()
        with self.store.lock(command):
            self.check_folder()
            self.store.open_for_writing()
            known = self.store.path(DATA_FILE).exists()
            if not known or self.store.read_json(DATA_FILE) != self.spec.data:
                self.store.write(DATA_FILE, self.spec.data)
            for name, content in self.beside.items():
                self.store.write(name, content)
            yield

    def check_folder(self) -> None:
        """Refuse a folder whose results come from other activations, or that is no study's.

        As long as nothing was harvested or trained there are no results, and all may change.

        Raises:
            StoreError: naming what differs.
        """
        if not self.store.path(DATA_FILE).exists():
            there = [child.name for child in self.folder.iterdir()] if self.folder.is_dir() else []
            others = [n for n in there if n not in _BEFORE_DATA and not n.endswith(BUILDING)]
            if (
                SPEC_FILE in there
                and self.beside.get(SPEC_FILE) != self.store.path(SPEC_FILE).read_bytes()
            ):
                others.append(SPEC_FILE)  # somebody's own: ours comes after `DATA_FILE`
            if others and not self.store.has(SUBJECT):
                raise StoreError(
                    f"{self.folder} is not empty and is no study; choose another with `--out`"
                )
            return
        lines = list(differences(self.store.read_json(DATA_FILE), self.spec.data))
        results = any(self.store.path(name).exists() for name in ("activations", "runs"))
        if lines and results:
            raise StoreError(
                f"{self.folder} holds results of another spec:\n"
                + "\n".join(f"  {line}" for line in lines)
                + "\nNothing was changed. Give this study a folder of its own with `--out`, or put "
                "the old values back. (More seeds, widths or architectures may be added in place.)"
            )
