"""One dictionary out of the runs of a study: made, refitted, held beside what else there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from reseed.consensus_sae.average import Rule, about_members, average, choose, reproducibility
from reseed.errors import SpecError, needs_train
from reseed.events import Events, Stop, session
from reseed.formats import own
from reseed.records import SAEArrays, read_spec
from reseed.runs import Failed, Group, evidence_name, run_name, run_state, stability_name
from reseed.sae.architectures.topk import TopKSpec
from reseed.seeds import digest
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.store import json_bytes, parquet_bytes
from reseed.study import Study
from reseed.subjects.inputs import Inputs

if TYPE_CHECKING:
    from reseed.consensus_sae.refit import HeldOut
    from reseed.subjects.source import Stream


MEAN = "not_refitted"
"""Folder, in the piece of a consensus, of the mean before its encoder was refitted."""

REFIT_SHARE = 0.25
"""Tokens of a refit, as a share of those of a training, unless it is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consensus:
    """A consensus dictionary and what it is worth."""

    path: Path
    """its folder; `reseed.load` reads it"""
    members: pl.DataFrame
    """latent (of the consensus), family (null for an orphan), run, member (latent of that run),
    size, reproducibility"""
    evaluation: pl.DataFrame
    """on held-out tokens: sae, latents, k, tokens (that it was trained on), fvu, l0 and dead (share
    of its latents), each with NAME_lo and NAME_hi, the range over members"""
    about: Mapping[str, Any]
    """group, rule, families, tokens, and why a part is missing"""


def consensus(
    study: Study,
    *,
    group: str | None = None,
    least: float | None = None,
    found_in: int | None = None,
    k: int | None = None,
    tokens: int | None = None,
    same_width: bool = True,
    progress: bool = True,
) -> Consensus:
    """One SAE of the families that come back, its encoder refitted; needs the activations.

    Decoder rows are the means of the members' (unit) rows and stay as they are; the encoder starts
    at the members' mean and is trained. It is kept in the study as `consensus/...` and evaluated on
    held-out tokens beside the mean that was not refitted, one SAE of the same width trained as
    the study trains, and the members. Described in docs/consensus.md; arXiv 2606.12138 pools
    features in this way.

    Args:
        study: with results.
        group: label or name of a group; may be left out if there is one only.
        least: smallest reproducibility of a family, .5 if `found_in` is not given either.
        found_in: smallest number of runs that a family is found in; 1 takes orphans too.
        k: latents that fire at a time; left out, that of the group.
        tokens: of the refit; left out, a quarter of those of a training.
        same_width: whether the SAE of the same width is trained, which costs a whole training.
        progress: whether to show it.

    Raises:
        SpecError: if too few families are left, or a setting cannot be.
        StoreError: if the study has not come this far, or is busy, damaged or full.
        TrainingError: if the refit runs into NaN or infinity.
        Interrupted: after a signal; the same call starts the refit again and continues the SAE of
            the same width.
    """
    groups = study.groups_named(group)
    if len(groups) > 1:
        labels = ", ".join(repr(runs.label) for runs in groups)
        raise SpecError(f"{study.folder} has {len(groups)} groups; name one of {labels}")
    settings = Settings(
        rule=Rule(least=least, found_in=found_in), k=k, tokens=tokens, same_width=same_width
    )
    with session(study.folder, progress) as (events, stop):
        return stage(study, events, stop, groups[0], settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a consensus is to be made of."""

    rule: Rule
    k: int | None = None
    tokens: int | None = None
    same_width: bool = True


def stage(study: Study, events: Events, stop: Stop, group: Group, settings: Settings) -> Consensus:
    """Make a consensus SAE that is not there yet; calling it again only reads it."""
    spec = next(run.spec for run in study.runs if run.id == group.runs[0])
    if spec.target != spec.site:
        raise SpecError(
            f"{group.label}: the refit of a consensus learns to give back what it reads, and a "
            "transcoder gives another site; choose a group of SAEs with `group`"
        )
    k = _active(study, group, spec) if settings.k is None else settings.k
    if k < 1:
        raise SpecError(f"k = {k}: at least one latent fires at a time")
    share = max(spec.training.batch, round(REFIT_SHARE * spec.training.tokens))
    tokens = share if settings.tokens is None else settings.tokens
    refit = spec.training.model_dump() | {"tokens": tokens, "snapshots": (), "warmup_steps": None}
    training = read_spec(TrainingSpec, refit, "refit")
    members = _members(study, group, settings.rule, k)
    piece = f"consensus/{group.name}-{settings.rule}-k{k}"
    runs = [study.store.checksum(f"runs/{run}") for run in group.runs]
    made_from = digest([runs, members.rows(), k, training.tokens, settings.same_width])
    if not study.store.has(piece, made_from):
        with study.locked("reseed consensus"), needs_train("reseed consensus"):
            width = members["latent"].n_unique()
            sae = TopKSpec(latents=width, k=k, lr=spec.sae.lr, dead_after=spec.sae.dead_after)
            if isinstance(spec.sae, TopKSpec):
                sae = spec.sae.model_copy(update={"latents": width, "k": k})
            seeds = study.spec.seeds
            same = spec.model_copy(
                update={"sae": sae, "init_seed": seeds.init[0], "data_seed": seeds.data[0]}
            )
            work = _Work(study, group, members, spec, sae, same, training, events, stop)
            work.make(piece, made_from, settings)
    return Consensus(
        path=study.store.path(piece),
        members=study.store.table(piece, "members.parquet"),
        evaluation=study.store.table(piece, "evaluation.parquet"),
        about=study.store.document(piece, "evaluation.json"),
    )


def _active(study: Study, group: Group, spec: RunSpec) -> int:
    """Latents that fire in a row of a member: its k, or the rounded mean where that is not set."""
    if isinstance(spec.sae, TopKSpec):
        return spec.sae.k
    told = (study.store.document(evidence_name(run), "reconstruction.json") for run in group.runs)
    return max(1, round(float(np.mean([one["l0"] for one in told]))))


def _members(study: Study, group: Group, rule: Rule, k: int) -> pl.DataFrame:
    families = study.store.table(stability_name(group.name), "families.parquet")
    every = reproducibility(families, study.latent_table(group))
    return choose(every, rule, runs=len(group.runs), k=k)


@dataclass(frozen=True, slots=True)
class _Work:
    """What the steps of making a consensus share."""

    study: Study
    group: Group
    members: pl.DataFrame
    member: RunSpec
    """one of the runs"""
    sae: TopKSpec
    """of the consensus"""
    same: RunSpec
    """one SAE of the consensus's width, as the study trains"""
    training: TrainingSpec
    """of the refit"""
    events: Events
    stop: Stop

    def make(self, piece: str, made_from: str, settings: Settings) -> None:
        """Average, refit, train the SAE of the same width, evaluate, write."""
        from reseed.consensus_sae.refit import evaluate
        from reseed.sae.model import from_arrays

        inputs = Inputs(self.study, self.events)
        mean, refitted = self._refit(inputs, settings)
        beside, missing = (
            self._same_width(inputs) if settings.same_width else (None, "not asked for")
        )
        saes = {"consensus": refitted, "not refitted": mean}
        saes |= {} if beside is None else {"same width": beside}
        found = evaluate(
            {name: from_arrays(sae) for name, sae in saes.items()},
            self.same.site,
            inputs.source,
            inputs.split[1],
            self.events,
        )
        about = self._about(settings, missing, found)
        with self.study.store.piece(piece, made_from) as folder:
            own.write(folder, refitted)
            own.write(folder / MEAN, mean)
            (folder / "members.parquet").write_bytes(parquet_bytes(self.members))
            firing = found["consensus"].firing
            (folder / "firing.parquet").write_bytes(parquet_bytes(firing))
            table = pl.DataFrame(about["evaluation"], infer_schema_length=None)
            (folder / "evaluation.parquet").write_bytes(parquet_bytes(table))
            (folder / "evaluation.json").write_bytes(json_bytes(about))

    def _stream(self, inputs: Inputs, data_seed: int) -> Stream:
        from reseed.subjects.source import Stream

        return Stream(
            inputs.source,
            inputs.split[0],
            data_seed=data_seed,
            batch=self.same.training.batch,
            mix=self.study.spec.activations.mix_blocks,
        )

    def _refit(self, inputs: Inputs, settings: Settings) -> tuple[SAEArrays, SAEArrays]:
        from reseed.consensus_sae.refit import refit

        store, runs, k = self.study.store, self.group.runs, self.sae.k
        about = {
            "kind": "consensus",
            "site": self.same.site,
            "group": self.group.label,
            "rule": str(settings.rule),
            "runs": list(runs),
            **about_members(self.members, runs),
        }
        saes = {run: own.read_piece(store, f"runs/{run}") for run in runs}
        mean = average(saes, self.members, k, about)
        stream = self._stream(inputs, self.same.data_seed)
        fitted = refit(
            mean,
            lambda step: stream.batch(step)[self.same.site],
            self.sae,
            self.training,
            self.events,
        )
        return mean, fitted

    def _same_width(self, inputs: Inputs) -> tuple[SAEArrays | None, str | None]:
        """The SAE, or why there is none."""
        from reseed.training.stage import train_missing

        store = self.study.store
        streams = partial(self._stream, inputs)
        train_missing([self.same], streams, store, self.events, self.stop)
        state = run_state(self.same, store)
        if isinstance(state, Failed):
            return None, f"its training failed at step {state.step}: {state.reason}"
        return own.read_piece(store, run_name(self.same)), None

    def _about(
        self, settings: Settings, missing: str | None, found: Mapping[str, HeldOut]
    ) -> dict[str, Any]:
        seen = self.same.training.steps * self.same.training.batch
        refit = self.training.steps * self.training.batch
        tokens = {"consensus": refit, "not refitted": 0, "same width": seen}
        rows = [self._row(name, one, tokens[name]) for name, one in found.items()]
        first = self.members.unique("latent")
        return {
            "group": self.group.label,
            "rule": str(settings.rule),
            "runs": list(self.group.runs),
            "families": len(first),
            "families_by_size": {
                str(size): n for size, n in first["size"].value_counts().sort("size").iter_rows()
            },
            "tokens": {"each member": seen, "refit": refit},
            "same_width": run_name(self.same) if missing is None else None,
            "same_width_missing": missing,
            "evaluation": [*rows, self._member_row(seen)],
        }

    def _row(self, name: str, one: HeldOut, tokens: int) -> dict[str, Any]:
        latents, k = len(one.firing), self.sae.k
        row: dict[str, Any] = {"sae": name, "latents": latents, "k": k, "tokens": tokens}
        for metric in ("fvu", "l0", "dead"):
            row |= {metric: getattr(one, metric), f"{metric}_lo": None, f"{metric}_hi": None}
        return row

    def _member_row(self, tokens: int) -> dict[str, Any]:
        """Mean and range over the members, from the evidence that the study has of them."""
        store, table = self.study.store, self.study.latent_table(self.group)
        told = [
            store.document(evidence_name(run), "reconstruction.json") for run in self.group.runs
        ]
        alive = table.group_by("run", maintain_order=True).agg(pl.col("alive").mean())["alive"]
        values: dict[str, Sequence[float]] = {
            "fvu": [one["fvu"] for one in told],
            "l0": [one["l0"] for one in told],
            "dead": (1 - alive).to_list(),
        }
        latents, k = self.member.sae.latents, _active(self.study, self.group, self.member)
        row: dict[str, Any] = {"sae": "members", "latents": latents, "k": k, "tokens": tokens}
        for metric, each in values.items():
            low, high = min(each), max(each)
            row |= {metric: float(np.mean(each)), f"{metric}_lo": low, f"{metric}_hi": high}
        return row
