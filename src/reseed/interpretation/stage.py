"""The doors of interpretation: explain latents of a group of runs, score the explanations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import polars as pl

from reseed.errors import needs_train
from reseed.events import Events
from reseed.formats import own
from reseed.interpretation.ablation import functional_of
from reseed.interpretation.controls import random_items, shuffled_explanations
from reseed.interpretation.examples import ExampleSets, latents_in
from reseed.interpretation.explain import explain_items, top_logits
from reseed.interpretation.models import Steerable
from reseed.interpretation.models.asker import accounts, replies
from reseed.interpretation.models.embedding import open_embedder
from reseed.interpretation.models.of_study import AskerOf, Share, opener, share_opener
from reseed.interpretation.records import Asker, Item, Latent
from reseed.interpretation.refine import refined_explanations
from reseed.interpretation.results import (
    SCORES,
    GroupExplanations,
    GroupScores,
    answered_alike,
    explanation_rows,
    explanations_of,
    read_explained,
    read_scored,
    score_rows,
    spec_of,
    unanswered,
)
from reseed.interpretation.scorers import ASKING, Tools, score_items
from reseed.interpretation.similarity import comparison
from reseed.interpretation.strata import SamplePlan, partners, sample_latents
from reseed.records import Floats
from reseed.runs import Group, evidence_name, explanations_name, scores_name
from reseed.seeds import digest
from reseed.spec.interpretation import PARTNER, RANDOM, WITHOUT_EXPLANATION, InterpretationSpec
from reseed.spec.subject import subject_beside
from reseed.study import Study

VERSION = 2
"""Of what is asked; raised when the same settings would ask otherwise."""


def stage(
    study: Study,
    events: Events,
    group: Group,
    *,
    spec: InterpretationSpec | None = None,
    asker_of: AskerOf | None = None,
) -> tuple[GroupExplanations, GroupScores]:
    """Explain latents of a group and score what was said of them; see `explain` and `score`."""
    explained = explain(study, events, group, spec=spec, asker_of=asker_of)
    return explained, score(study, events, group, spec=spec, asker_of=asker_of)


def explain(
    study: Study,
    events: Events,
    group: Group,
    *,
    spec: InterpretationSpec | None = None,
    asker_of: AskerOf | None = None,
    command: str = "reseed explain",
) -> GroupExplanations:
    """Explain a sample of the live latents of a group; calling it again only reads the result.

    Questions that got no answer are asked again, and nothing else is.

    Args:
        study: with results and with text.
        events: progress.
        group: of runs.
        spec: which latents, by whom; left out, what the study says.
        asker_of: opens models; left out, those of the spec behind journals of the study.
        command: as shown to somebody who starts a second process.
    """
    spec = spec_of(study) if spec is None else spec
    latents = study.latent_table(group)
    plan = sample_latents(latents, spec.per_kind, spec.seed)
    name, inputs = explanations_name(group.name), _explained_from(study, spec, plan)

    def write() -> dict[str, Any]:
        with ExitStack() as open_now:
            askers = asker_of or opener(study.store, spec.budget, events, open_now)
            asker = askers(spec.explainer, "explain")
            events.say(f"{group.label}: {plan.says}")
            table, gain = _explain_sample(study, latents, plan, spec, asker)
            about = {"says": plan.says, "gain": gain, "accounts": accounts(asker)}
        return {"explanations.parquet": table, "cells.parquet": plan.cells, "about.json": about}

    _make(study, events, name, inputs, write, command)
    return read_explained(study, group)


def _make(
    study: Study,
    events: Events,
    name: str,
    inputs: Any,
    write: Callable[[], dict[str, Any]],
    command: str,
) -> None:
    """Make a piece that is not there, or in which questions are left without an answer.

    The journal has all answers, so only those questions are asked again. Until the new piece is
    whole the old one stays.
    """
    there = study.store.has(name, digest(inputs))
    failed = unanswered(study, name) if there else 0
    if there and not failed:
        return
    with study.locked(command):
        if failed:
            events.say(f"{failed} questions got no answer the last time; they are asked again")
        study.store.make(name, inputs, write, again=failed > 0)
        study.record("interpretation")


def _explained_from(study: Study, spec: InterpretationSpec, plan: SamplePlan) -> list[Any]:
    runs = plan.latents["run"].unique().sort()
    evidence = [study.store.checksum(evidence_name(run)) for run in runs]
    named = {"explainer", "seed", "explain", "top_logits", "refine", "controls", "random_latents"}
    named |= {"examples", "detection"} if spec.refine else set()
    settings = spec.model_dump(mode="json", include=named)
    rows = plan.latents.select("run", "latent").rows()
    return [VERSION, evidence, settings, [list(row) for row in rows]]


def _explain_sample(
    study: Study, latents: pl.DataFrame, plan: SamplePlan, spec: InterpretationSpec, asker: Asker
) -> tuple[pl.DataFrame, str | None]:
    """Explain a sample of latents, a second member of each family in it, and random latents.

    Returns:
        Columns of `EXPLANATIONS`; what refining gained, if asked for.
    """
    mates = partners(plan, latents, spec.seed)
    of = [*latents_in(plan.latents), *latents_in(mates)]
    kinds = [*plan.latents["kind"], *[PARTNER] * len(mates)]
    examples = ExampleSets(study.store, of)
    items = [examples.to_explain(latent, spec) for latent in of]
    if RANDOM in spec.controls:
        made = random_items(items[: len(plan.latents)], "explain", spec)
        items, kinds = [*items, *made], [*kinds, *[RANDOM] * len(made)]
    likely = None
    if spec.top_logits:
        with needs_train("interpretation.explain.top_logits"):
            from reseed.interpretation.models.causal import subject_with_head

        subject = subject_with_head(subject_beside(study.spec.subject, study.base))
        likely = top_logits(subject, _directions(study, of), ", ".join(study.sites()))
    results = explain_items(asker, items, spec.explain, top_logits=likely)
    gain = None
    if spec.refine is not None:
        results, gain = refined_explanations(examples, results, asker, spec, spec.refine)
    return explanation_rows([item.of for item in items], kinds, results), gain


def score(
    study: Study,
    events: Events,
    group: Group,
    *,
    spec: InterpretationSpec | None = None,
    asker_of: AskerOf | None = None,
    command: str = "reseed score",
) -> GroupScores:
    """Score the explanations of a group, and compare; calling it again only reads the result.

    Args and errors are those of `explain`.
    """
    spec = spec_of(study) if spec is None else spec
    explained = read_explained(study, group)
    before = study.store.checksum(explanations_name(group.name))
    settings = spec.model_dump(mode="json", exclude={"budget", "explain", "refine"})
    name, inputs = scores_name(group.name), [VERSION, before, settings]

    def write() -> dict[str, Any]:
        with ExitStack() as open_now:
            askers = asker_of or opener(study.store, spec.budget, events, open_now)
            asker = askers(spec.judge or spec.explainer, "score")
            of = latents_in(explained.table.filter(~pl.col("kind").is_in([RANDOM, PARTNER])))
            tools = _tools(study, spec, group, of, asker)
            table = _score_sample(study, spec, explained, of, tools, events)
            latents, ablated = study.latent_table(group), spec.dropping_tokens
            compared = comparison(latents, explained.table, table, tools.embedder)
            compared["unscored"] += answered_alike(replies(asker))
            dropped = functional_of(study, group, events, spec.seed, tokens=ablated)
            about = {"comparison": compared, "functional": dropped, "accounts": accounts(asker)}
        return {"scores.parquet": table, "about.json": about}

    _make(study, events, name, inputs, write, command)
    return read_scored(study, group)


def ask(
    study: Study, events: Events, group: Group, what: str, share: Share
) -> tuple[int, frozenset[str]]:
    """Have a share of the questions of `explain` or `score` answered, and make nothing of it.

    Whoever then calls `explain` or `score` (`what`) asks nothing that any share has an answer to.

    Returns:
        How many were answered now; keys of those that nobody has answered yet, as far as they can
        be known: some follow from answers.
    """
    spec = spec_of(study)
    with ExitStack() as open_now:
        askers = share_opener(study.store, spec.budget, events, open_now, share)
        if what == "explain":
            latents = study.latent_table(group)
            plan = sample_latents(latents, spec.per_kind, spec.seed)
            asker = askers(spec.explainer, what)
            _explain_sample(study, latents, plan, spec, asker)
        else:
            asking = [name for name in spec.scorers if name in ASKING]
            explained = read_explained(study, group)
            of = latents_in(explained.table.filter(~pl.col("kind").is_in([RANDOM, PARTNER])))
            asker = askers(spec.judge or spec.explainer, what)
            some = spec.model_copy(update={"scorers": asking})
            _score_sample(study, some, explained, of, Tools(asker=asker), events)
        return asker.answered, frozenset(asker.left)


def _tools(
    study: Study, spec: InterpretationSpec, group: Group, of: Sequence[Latent], asker: Asker
) -> Tools:
    likelihood = None
    if spec.likelihood is not None:
        with needs_train("interpretation.likelihood"):
            from reseed.interpretation.models.causal import LocalLikelihood

        likelihood = LocalLikelihood.load(spec.likelihood)
    tools = Tools(
        asker=asker,
        embedder=None if spec.embedder is None else open_embedder(spec.embedder),
        likelihood=likelihood,
    )
    if "intervention" not in spec.scorers:
        return tools
    sites = {run.id: run.spec.target for run in study.runs if run.id in group.runs}

    def steered() -> Mapping[str, Steerable]:
        with needs_train("steering the subject"):
            from reseed.interpretation.models import steering
        subject = subject_beside(study.spec.subject, study.base)
        return steering.steered(subject, set(sites.values()))

    return replace(tools, steered=steered, directions=_directions(study, of), sites=sites)


def _directions(study: Study, of: Sequence[Latent]) -> dict[Latent, Floats]:
    """[D] decoder row of each latent."""
    runs = {latent.run for latent in of}
    saes = {run: own.read_piece(study.store, f"runs/{run}") for run in runs}
    return {latent: saes[latent.run].W_dec[latent.latent] for latent in of}


def _score_sample(
    study: Study,
    spec: InterpretationSpec,
    explained: GroupExplanations,
    of: Sequence[Latent],
    tools: Tools,
    events: Events,
) -> pl.DataFrame:
    """Scores of the latents and of their controls, columns of `SCORES`."""
    explanations = explanations_of(explained.table)

    def with_explanations(bare: Sequence[Item]) -> list[Item]:
        return [replace(item, explanation=explanations.get(item.of)) for item in bare]

    examples = ExampleSets(study.store, of)
    bare = [examples.to_score(latent, "score", spec) for latent in of]
    items = with_explanations(bare)
    sides: list[tuple[str | None, list[Item]]] = [(None, items)]
    if "shuffled" in spec.controls and sum(item.explanation is not None for item in items) > 1:
        sides.append(("shuffled", shuffled_explanations(items, spec.seed)))
    if RANDOM in spec.controls:
        sides.append((RANDOM, with_explanations(random_items(bare, "score", spec))))
    rows: list[pl.DataFrame] = []
    with events.task("score", len(spec.scorers) * len(sides), "scorers") as task:
        for name in spec.scorers:
            for control, some in sides:
                if not (control == "shuffled" and name in WITHOUT_EXPLANATION):
                    results = score_items(name, tools, some, spec)
                    rows.append(score_rows(name, control, (item.of for item in some), results))
                task.advance(1, name)
    return pl.concat(rows) if rows else pl.DataFrame(schema=SCORES)
