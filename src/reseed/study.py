"""A study: its TOML, the folder of its results, and which runs exist, are missing or failed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from reseed.activations.names import plain
from reseed.errors import SpecError, StoreError, needs_train
from reseed.evidence.spec import cofiring_name
from reseed.interpretation.spec import explanations_name, scores_name
from reseed.interpretation.tables import with_interpretation
from reseed.matching.stage import pair_name, pairs_of
from reseed.stability.given import Group
from reseed.stability.stage import stability_name
from reseed.store import Store
from reseed.study_spec import StudySpec, read_study
from reseed.training.spec import Control, RunSpec
from reseed.training.state import Done, RunState, run_name, run_state

if TYPE_CHECKING:
    from reseed.sae.model import SAE

SPEC_FILE = "study.toml"
DATA_FILE = "data.json"
SUBJECT = "subject"
_BEFORE_DATA = (".lock", SPEC_FILE, "events.jsonl", DATA_FILE + ".building")
"""What can lie in the folder of a study that was stopped before `DATA_FILE` was there."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training of a study."""

    spec: RunSpec
    state: RunState
    _store: Store

    @property
    def id(self) -> str:
        """Name, and name of its folder below `runs/`."""
        return self.spec.id

    def sae(self) -> SAE:
        """The trained SAE. Needs torch.

        Raises:
            StoreError: if the run is not done or damaged.
        """
        from reseed.formats import own

        with needs_train("Run.sae"):
            from reseed.sae.model import from_arrays

        return from_arrays(own.read_piece(self._store, run_name(self.spec)))

    def metrics(self) -> pl.DataFrame:
        """step, tokens, fvu, l0, dead of every step.

        Raises:
            StoreError: if the run is not done or damaged.
        """
        return self._store.table(run_name(self.spec), "metrics.parquet")


@dataclass(frozen=True, slots=True)
class PairMatch:
    """What two runs of a study have in common."""

    a: str
    b: str
    steps: tuple[int, ...]
    _store: Store

    def table(self, step: int | None = None) -> pl.DataFrame:
        """One row for each latent of each side; columns as in `reseed.matching.pairs`.

        Args:
            step: a snapshot; the end of training if left out.
        """
        at = self.steps[-1] if step is None else step
        return self._store.table(pair_name((self.a, self.b)), f"{at:08d}.parquet")

    def certificates(self) -> dict[str, Any]:
        """primal, dual, gap and whether optimal, of both assignments at every snapshot."""
        return self._store.document(pair_name((self.a, self.b)), "certificates.json")

    def activations(self) -> pl.DataFrame:
        """How the latents matched by decoder rows fire together on held-out tokens.

        latent_a, latent_b, act_corr, act_jaccard, null_corr, null_jaccard; docs/matching.md.

        Raises:
            StoreError: if the study has not come this far, or the piece is damaged.
        """
        return self._store.table(cofiring_name((self.a, self.b)), "matched.parquet")


class Study:
    """A spec and its folder.

    Args:
        spec: what is to be done.
        folder: where the results lie.
        source: the text of the spec, kept beside the results.
    """

    def __init__(self, spec: StudySpec, folder: Path, source: str | None = None) -> None:
        self.spec, self.folder, self.source = spec, folder, source
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
        given = Path(path)
        file = given / SPEC_FILE if given.is_dir() else given
        if not file.exists():
            what = (
                f"the folder {given} has no {SPEC_FILE}" if given.is_dir() else f"no file {given}"
            )
            raise SpecError(f"{what}; give the TOML file of a study or the folder of its results")
        spec, source = read_study(file)
        folder = Path(out) if out else (given if given.is_dir() else given.with_suffix(""))
        return cls(spec, folder, source)

    # -- sites and runs ---------------------------------------------------------------------------

    def sites(self) -> list[str]:
        """The sites, in the subject's order.

        Raises:
            StoreError: if patterns were not looked up yet; `reseed run` does it.
        """
        if self.store.has(SUBJECT):
            known: Mapping[str, int] = self.store.document(SUBJECT, "subject.json")["sites"]
            wanted = self.store.document(SUBJECT, "subject.json")["patterns"]
            if wanted == self.spec.activations.sites:
                return list(known)
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
        return [_group(runs) for runs in self._finished(None).values()]

    def control_groups(self) -> dict[str, dict[Control, Group]]:
        """The finished control runs in the same way.

        Returns:
            Name of the group that they are compared with, to kind of control, to their group.
        """
        partners = {
            (run.site, run.sae): run.group
            for run in self.spec.runs(self.sites())
            if run.control is None
        }
        out: dict[str, dict[Control, Group]] = {}
        for kind in self.spec.controls.kinds:
            for runs in self._finished(kind).values():
                partner = partners[runs[0].site, runs[0].sae]
                out.setdefault(partner, {})[kind] = _group(runs)
        return out

    def with_random_weights(self) -> Study:
        """The study of the subject with random weights; its activations lie in a folder of it."""
        folder = self.folder / "controls" / "random_subject"
        return Study(self.spec.with_random_weights(), folder)

    def _finished(self, control: Control | None) -> dict[str, list[RunSpec]]:
        names: dict[str, list[RunSpec]] = {}
        for run in self.runs:
            if run.spec.control == control and isinstance(run.state, Done):
                names.setdefault(run.spec.group, []).append(run.spec)
        return names

    # -- results ----------------------------------------------------------------------------------

    @property
    def matches(self) -> list[PairMatch]:
        """The matches that are there, one for each pair of runs of a group."""
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
        groups = self.groups()
        if not groups:
            raise StoreError(f"{self.folder} has no finished runs yet; `reseed run` makes them")
        return pl.concat([self.latents_of(group) for group in groups], how="diagonal")

    def latents_of(self, group: Group) -> pl.DataFrame:
        """The rows of `latents` of one group, with explanations and scores where there are some."""
        out = self.store.table(stability_name(group.name), "latents.parquet").select(
            pl.lit(group.label).alias("group"), pl.all()
        )
        said, scored = explanations_name(group.name), scores_name(group.name)
        if not self.store.has(said):
            return out
        there = self.store.has(scored)
        scores = self.store.table(scored, "scores.parquet") if there else None
        return with_interpretation(out, self.store.table(said, "explanations.parquet"), scores)

    @property
    def summary(self) -> dict[str, Any]:
        """The headline numbers; keys in docs/summary.md.

        Raises:
            StoreError: if the study has not come this far.
        """
        return self.store.read_json("summary.json")

    def check_folder(self) -> None:
        """Refuse a folder whose results come from other activations, or that is no study's.

        As long as nothing was harvested or trained there are no results, and all may change.

        Raises:
            StoreError: naming what differs.
        """
        if not self.store.path(DATA_FILE).exists():
            if (
                self.folder.is_dir()
                and not self.store.has(SUBJECT)
                and any(child.name not in _BEFORE_DATA for child in self.folder.iterdir())
            ):
                raise StoreError(
                    f"{self.folder} is not empty and is no study; choose another with `--out`"
                )
            return
        there = self.store.read_json(DATA_FILE)
        wanted = self.spec.data
        differences = list(_differences(there, wanted))
        results = any(self.store.path(name).exists() for name in ("activations", "runs"))
        if differences and results:
            raise StoreError(
                f"{self.folder} holds results of another spec:\n"
                + "\n".join(f"  {line}" for line in differences)
                + "\nNothing was changed. Give this study a folder of its own with `--out`, or put "
                "the old values back. (More seeds, widths or architectures may be added in place.)"
            )


def _group(runs: Sequence[RunSpec]) -> Group:
    first = runs[0]
    label = f"{first.site} · {first.sae.label}"
    if first.control is not None:
        label += f" · {first.control.replace('_', ' ')}"
    return Group(
        name=first.group,
        label=label,
        runs=[run.id for run in runs],
        steps=first.training.snapshot_steps,
        batch=first.training.batch,
    )


def _differences(there: Any, wanted: Any, at: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in sorted(there.keys() | wanted.keys()):
            yield from _differences(there.get(key), wanted.get(key), f"{at}.{key}".strip("."))
    elif there != wanted:
        yield f"{at}: there {there!r}, now {wanted!r}"
