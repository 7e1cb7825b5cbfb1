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
from reseed.records import SAEArrays
from reseed.runs import Failed, Group, evidence_name, run_name, run_state, stability_name
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.arithmetic import arithmetic
from reseed.seeds import digest
from reseed.spec.refusals import read_spec
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.study import Study
from reseed.subjects.inputs import Inputs
from reseed.training.device import chosen

if TYPE_CHECKING:
    from reseed.evidence.rows import Firing


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
    size, occasions (independent runs), reproducibility"""
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
    device: str = "cpu",
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
        device: where to compute: `"cpu"`, `"cuda"`, `"cuda:1"` and so on, or `"auto"`.

    Raises:
        SpecError: if too few families are left, or a setting cannot be, or there is no such device.
        StoreError: if the study has not come this far, or is busy, damaged or full.
        TrainingError: if the refit runs into NaN or infinity.
        Interrupted: after a signal; the same call starts the refit again and continues the SAE of
            the same width.
    """
    groups = study.groups_named(group)
    if len(groups) > 1:
        labels = ", ".join(repr(runs.label) for runs in groups)
        raise SpecError(f"{study.folder} has {len(groups)} groups; name one of {labels}")
    settings = ConsensusSettings(
        rule=Rule(least=least, found_in=found_in), k=k, tokens=tokens, same_width=same_width
    )
    place = chosen(device)
    with session(study.folder, progress) as (events, stop):
        return stage(study, events, stop, groups[0], settings, place)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusSettings:
    """What a consensus is to be made of."""

    rule: Rule
    k: int | None = None
    tokens: int | None = None
    same_width: bool = True


def stage(
    study: Study,
    events: Events,
    stop: Stop,
    group: Group,
    settings: ConsensusSettings,
    device: str = "cpu",
) -> Consensus:
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
    store = study.store
    families = store.table(stability_name(group.name), "families.parquet")
    every = reproducibility(families, study.latent_table(group))
    members = choose(every, settings.rule, runs=len(group.runs), k=k)
    piece = f"consensus/{group.name}-{settings.rule}-k{k}"
    sums = [store.checksum(f"runs/{run}") for run in group.runs]
    inputs = [sums, members.rows(), k, training.tokens, settings.same_width]
    if not store.has(piece, digest(inputs)):
        with study.locked("reseed consensus"), needs_train("reseed consensus"):
            width = members["latent"].n_unique()
            sae = TopKSpec(latents=width, k=k, lr=spec.sae.lr, dead_after=spec.sae.dead_after)
            if isinstance(spec.sae, TopKSpec):
                sae = spec.sae.model_copy(update={"latents": width, "k": k})
            seeds = study.spec.seeds
            same = spec.model_copy(
                update={"sae": sae, "init_seed": seeds.init[0], "data_seed": seeds.data[0]}
            )
            making = _Making(study, group, settings, members, spec, sae, same, training, device)
            files = partial(making.files, events, stop)
            store.make(piece, inputs, files, arithmetic=partial(arithmetic, device))
    return Consensus(
        path=store.path(piece),
        members=store.table(piece, "members.parquet"),
        evaluation=store.table(piece, "evaluation.parquet"),
        about=store.document(piece, "evaluation.json"),
    )


def _active(study: Study, group: Group, spec: RunSpec) -> int:
    """Latents that fire in a row of a member: its k, or the rounded mean where that is not set."""
    if isinstance(spec.sae, TopKSpec):
        return spec.sae.k
    return max(1, round(float(np.mean([run["l0"] for run in _reconstructions(study, group)]))))


def _reconstructions(study: Study, group: Group) -> list[dict[str, Any]]:
    """What the study's evidence says of the reconstruction of each member."""
    names = [evidence_name(run) for run in group.runs]
    return [study.store.document(name, "reconstruction.json") for name in names]


@dataclass(frozen=True, slots=True)
class _Making:
    """What the steps of making a consensus share."""

    study: Study
    group: Group
    settings: ConsensusSettings
    members: pl.DataFrame
    member: RunSpec
    """one of the runs"""
    sae: TopKSpec
    """of the consensus"""
    same: RunSpec
    """one SAE of the consensus's width, as the study trains"""
    training: TrainingSpec
    """of the refit"""
    device: str

    def files(self, events: Events, stop: Stop) -> dict[str, Any]:
        """Average, refit, train the SAE of the same width and evaluate: the files of the piece."""
        from reseed.consensus_sae.refit import refit
        from reseed.evidence.rows import Reader, device_of, firing_of
        from reseed.sae.model import from_arrays
        from reseed.training.stage import rows_of, train_missing

        inputs = Inputs(self.study, events, self.device)
        store, site = self.study.store, self.same.site
        streams = rows_of(self.study, inputs, events)
        mean = self._mean()
        stream = streams(self.same.data_seed)
        scale = stream.scales.get(site, 1.0)
        how = self.sae, self.training, events, scale, self.device
        refitted = refit(mean, lambda step: stream.batch(step)[site], *how)
        saes, missing = {"consensus": refitted, "not refitted": mean}, "not asked for"
        if self.settings.same_width:
            train_missing([self.same], streams, store, events, stop, self.device)
            state = run_state(self.same, store)
            missing = None
            if isinstance(state, Failed):
                missing = f"its training failed at step {state.step}: {state.reason}"
            else:
                saes["same width"] = own.read_piece(store, run_name(self.same))
        there = device_of(self.device)
        readers = {name: Reader(from_arrays(sae), site, there) for name, sae in saes.items()}
        held_out = firing_of(readers, inputs.source, inputs.split[1], events, "evaluate")
        about = self._about(missing, held_out)
        return {
            **own.contents(refitted),
            **{f"{MEAN}/{name}": content for name, content in own.contents(mean).items()},
            "members.parquet": self.members,
            "firing.parquet": held_out["consensus"].table(),
            "evaluation.parquet": pl.DataFrame(about["evaluation"], infer_schema_length=None),
            "evaluation.json": about,
        }

    def _mean(self) -> SAEArrays:
        runs = self.group.runs
        about = {
            "kind": "consensus",
            "site": self.same.site,
            "group": self.group.label,
            "rule": str(self.settings.rule),
            "runs": list(runs),
            **about_members(self.members, runs),
        }
        saes = {run: own.read_piece(self.study.store, f"runs/{run}") for run in runs}
        return average(saes, self.members, self.sae.k, about)

    def _about(self, missing: str | None, held_out: Mapping[str, Firing]) -> dict[str, Any]:
        trained = self.same.training.steps * self.same.training.batch
        refit = self.training.steps * self.training.batch
        tokens = {"consensus": refit, "not refitted": 0, "same width": trained}
        rows: list[dict[str, Any]] = []
        for name, firing in held_out.items():
            fired, sums = firing.table()["fired"], firing.reconstruction()
            fvu, l0 = (float(sums[name] or 0.0) for name in ("fvu", "l0"))
            head = {"sae": name, "latents": len(fired), "k": self.sae.k, "tokens": tokens[name]}
            dead = [float((fired == 0).mean())]  # pyright: ignore[reportArgumentType]
            rows.append(_row(head, {"fvu": [fvu], "l0": [l0], "dead": dead}))
        families = self.members.unique("latent")
        sizes = families["size"].value_counts().sort("size")
        return {
            "group": self.group.label,
            "rule": str(self.settings.rule),
            "runs": list(self.group.runs),
            "families": len(families),
            "families_by_size": {str(size): count for size, count in sizes.iter_rows()},
            "tokens": {"each member": trained, "refit": refit},
            "same_width": run_name(self.same) if missing is None else None,
            "same_width_missing": missing,
            "evaluation": [*rows, self._member_row(trained)],
        }

    def _member_row(self, tokens: int) -> dict[str, Any]:
        """Mean and range over the members, from the evidence that the study has of them."""
        each = _reconstructions(self.study, self.group)
        by_run = self.study.latent_table(self.group).group_by("run", maintain_order=True)
        alive = by_run.agg(pl.col("alive").mean())["alive"]
        k = _active(self.study, self.group, self.member)
        return _row(
            {"sae": "members", "latents": self.member.sae.latents, "k": k, "tokens": tokens},
            {
                "fvu": [run["fvu"] for run in each],
                "l0": [run["l0"] for run in each],
                "dead": (1 - alive).to_list(),
            },
        )


def _row(head: dict[str, Any], metrics: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """A row of the evaluation: mean of each metric, and its range where there are several."""
    for metric, values in metrics.items():
        low, high = (min(values), max(values)) if len(values) > 1 else (None, None)
        head |= {metric: float(np.mean(values)), f"{metric}_lo": low, f"{metric}_hi": high}
    return head
