"""The doors of interpretation: explain latents of a study, score what was said, compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import polars as pl

from reseed.errors import SpecError, needs_train
from reseed.events import Events
from reseed.interpretation.ablation import functional_of
from reseed.interpretation.controls import shuffled_explanations
from reseed.interpretation.examples import Examples, latents_in, random_items
from reseed.interpretation.explain import PARTNER, RANDOM, explain_sample
from reseed.interpretation.models.opening import (
    AskerOf,
    accounts,
    causal,
    directions,
    open_embedder,
    opener,
    steered,
)
from reseed.interpretation.records import Asker, Item, Latent
from reseed.interpretation.results import (
    Explained,
    Scored,
    explanations_of,
    read_explained,
    read_scored,
    score_rows,
    spec_of,
)
from reseed.interpretation.sample import SamplePlan, sample_latents
from reseed.interpretation.scorers.stage import Tools, score
from reseed.interpretation.select.by_words import LLM_METHODS
from reseed.interpretation.select.stage import BASELINES, Selection, select_latents
from reseed.interpretation.similarity import comparison
from reseed.runs import Group, evidence_name, explanations_name, scores_name
from reseed.seeds import digest
from reseed.spec.interpretation import WITHOUT_EXPLANATION, InterpretationSpec
from reseed.store import json_bytes, parquet_bytes
from reseed.study import Study

VERSION = 2
"""Of what is asked; raised when the same settings would ask otherwise."""


def explain_group(
    study: Study,
    spec: InterpretationSpec,
    group: Group,
    events: Events,
    *,
    asker_of: AskerOf | None = None,
    command: str = "reseed explain",
) -> Explained:
    """Explain a sample of the live latents of a group; calling it again only reads the result.

    Args:
        study: with results and with text.
        spec: which latents, by whom.
        group: of runs.
        events: progress.
        asker_of: opens models; left out, those of the spec behind journals of the study.
        command: as shown to somebody who starts a second process.

    Raises:
        SpecError: if there is nothing to explain.
        BudgetError: if the budget does not suffice; what was answered is remembered.
        StoreError: if the study has not come this far, or is damaged, busy or full.
    """
    plan = sample_latents(study.latent_table(group), spec.per_kind, spec.seed)
    name, made_from = explanations_name(group.name), _explained_from(study, spec, plan)
    if not study.store.has(name, made_from):
        with study.locked(command), ExitStack() as open_now:
            askers = asker_of or opener(study.store, spec.budget, events, open_now)
            asker = askers(spec.explainer, "explain")
            events.say(f"{group.label}: {plan.says}")
            likely = partial(_top_logits, study) if spec.top_logits else None
            every = study.latent_table(group)
            table, gained = explain_sample(study.store, every, plan, spec, asker, likely)
            about = {"says": plan.says, "gain": gained, "accounts": accounts(asker)}
            with study.store.piece(name, made_from) as folder:
                (folder / "explanations.parquet").write_bytes(parquet_bytes(table))
                (folder / "cells.parquet").write_bytes(parquet_bytes(plan.cells))
                (folder / "about.json").write_bytes(json_bytes(about))
    return read_explained(study, group)


def score_group(
    study: Study,
    spec: InterpretationSpec,
    group: Group,
    events: Events,
    *,
    asker_of: AskerOf | None = None,
    command: str = "reseed score",
) -> Scored:
    """Score the explanations of a group, and compare; calling it again only reads the result.

    Args and errors are those of `explain_group`.

    Raises:
        StoreError: if nothing was explained yet.
    """
    explained = read_explained(study, group)
    name = scores_name(group.name)
    settings = spec.model_dump(mode="json", exclude={"budget", "explain", "refine"})
    before = study.store.checksum(explanations_name(group.name))
    made_from = digest([VERSION, before, settings])
    if not study.store.has(name, made_from):
        with study.locked(command), ExitStack() as open_now:
            askers = asker_of or opener(study.store, spec.budget, events, open_now)
            asker = askers(spec.judge or spec.explainer, "score")
            tools = _tools(study, spec, group, explained, asker)
            table = _scored(study, spec, explained, tools, events)
            about = {
                "comparison": comparison(
                    study.latent_table(group), explained.table, table, tools.embedder
                ),
                "functional": functional_of(
                    study, group, events, spec.seed, tokens=spec.dropping_tokens
                ),
                "accounts": accounts(asker),
            }
            with study.store.piece(name, made_from) as folder:
                (folder / "scores.parquet").write_bytes(parquet_bytes(table))
                (folder / "about.json").write_bytes(json_bytes(about))
    return read_scored(study, group)


def _explained_from(study: Study, spec: InterpretationSpec, plan: SamplePlan) -> str:
    runs = plan.latents["run"].unique().sort()
    evidence = [study.store.checksum(evidence_name(run)) for run in runs]
    named = {"explainer", "seed", "explain", "top_logits", "refine", "controls", "random_latents"}
    named |= {"examples", "detection"} if spec.refine else set()
    settings = spec.model_dump(mode="json", include=named)
    rows = plan.latents.select("run", "latent").rows()
    return digest([VERSION, evidence, settings, [list(row) for row in rows]])


def _top_logits(study: Study, of: Sequence[Latent]) -> Mapping[Latent, Sequence[str]]:
    from reseed.interpretation.ablation import top_logits

    return top_logits(
        causal(study.spec.subject), directions(study.store, of), ", ".join(study.sites())
    )


def _scored(
    study: Study, spec: InterpretationSpec, explained: Explained, tools: Tools, events: Events
) -> pl.DataFrame:
    said = explanations_of(explained.table)
    asked = explained.table.filter(~pl.col("kind").is_in([RANDOM, PARTNER]))
    of = latents_in(asked)
    examples = Examples(study.store, of)
    bare = [examples.to_score(latent, "score", spec) for latent in of]
    items = [replace(item, explanation=said.get(item.of)) for item in bare]
    sides: list[tuple[str | None, list[Item]]] = [(None, items)]
    if "shuffled" in spec.controls and sum(item.explanation is not None for item in items) > 1:
        sides.append(("shuffled", shuffled_explanations(items, spec.seed)))
    if RANDOM in spec.controls:
        made = random_items(bare, "score", spec)
        sides.append((RANDOM, [replace(item, explanation=said.get(item.of)) for item in made]))
    rows: list[pl.DataFrame] = []
    with events.task("score", len(spec.scorers) * len(sides), "scorers") as task:
        for name in spec.scorers:
            for control, some in sides:
                if not (control == "shuffled" and name in WITHOUT_EXPLANATION):
                    results = score(name, tools, some, spec)
                    rows.append(score_rows(name, control, (item.of for item in some), results))
                task.advance(1, name)
    return pl.concat(rows)


def _tools(
    study: Study, spec: InterpretationSpec, group: Group, explained: Explained, asker: Asker
) -> Tools:
    likelihood = None
    if spec.likelihood is not None:
        with needs_train("interpretation.likelihood"):
            from reseed.interpretation.models.likelihood import LocalLikelihood

        likelihood = LocalLikelihood.load(spec.likelihood)
    tools = Tools(
        asker=asker,
        embedder=None if spec.embedder is None else open_embedder(spec.embedder),
        likelihood=likelihood,
    )
    if "intervention" not in spec.scorers:
        return tools
    real = explained.table.filter(~pl.col("kind").is_in([RANDOM, PARTNER]))
    sites = {run.id: run.spec.target for run in study.runs if run.id in group.runs}
    return replace(
        tools,
        steered=lambda: steered(study.spec.subject, set(sites.values())),
        directions=directions(study.store, latents_in(real)),
        sites=sites,
    )


def select_for_task(
    study: Study, run: str, task: str, k: int, methods: Sequence[str] | None, events: Events
) -> Selection:
    """Choose latents of a run for a labelled task; methods that ask a model use the explanations.

    Args:
        study: with results and with labelled text.
        run: id of a finished run.
        task: a label, or `*` for all.
        k: latents at the most.
        methods: of `reseed.interpretation.select.by_words.METHODS`; None for those without a model.
        events: progress.

    Raises:
        SpecError, StoreError: as `reseed.interpretation.select.stage.select_latents`.
    """
    methods = list(BASELINES if methods is None else methods)
    if not any(name in LLM_METHODS for name in methods):
        return select_latents(study, run, task, k, methods, events=events)
    spec = spec_of(study)
    group = next((one for one in study.groups() if run in one.runs), None)
    if group is None:
        raise SpecError(f"run {run} is in no group of finished runs; its control runs are not")
    said = explanations_of(read_explained(study, group).table)
    mine = {of.latent: one for of, one in said.items() if of.run == run}
    if len(mine) < k:
        raise SpecError(
            f"{len(mine)} latents of {run} are explained and {k} are to be chosen; raise "
            "interpretation.per_kind, explain again, or lower --k"
        )
    with ExitStack() as open_now:
        asker = opener(study.store, spec.budget, events, open_now)(spec.explainer, "select")
        return select_latents(
            study, run, task, k, methods, events=events, explanations=mine, asker=asker
        )
