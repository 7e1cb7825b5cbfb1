"""What each score of one latent costs, measured on its prompts, as one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from reseed.interpretation.costs import Cost, Counter, DryInstrument, DryRun, delphi_cost, quarter
from reseed.interpretation.examples import Examples, latents_in
from reseed.interpretation.explain import RANDOM, explain
from reseed.interpretation.prompts.marking import active_tokens, by_class, fires
from reseed.interpretation.records import Explanation, Item
from reseed.interpretation.sample import sample_latents
from reseed.interpretation.scorers import (
    detection,
    embedding,
    fuzzing,
    intruder,
    simulation,
    surprisal,
)
from reseed.runs import Group, stability_name
from reseed.spec import interpretation
from reseed.spec.interpretation import ExplainSpec, InterpretationSpec
from reseed.spec.llm import ServerSpec
from reseed.study import Study


def costs_of_a_latent(
    shown: Item,
    judged: Item,
    count: Counter = quarter,
    explaining: ExplainSpec = ExplainSpec(),  # noqa: B008  (frozen)
    settings: Mapping[str, Any] | None = None,
) -> Mapping[str, tuple[Cost, Cost | None]]:
    """Cost of explaining a latent and of each of its scores, beside the released pipeline's.

    Args:
        shown: with the examples of the split `explain`.
        judged: the same latent with its explanation and the examples to score on.
        count: tokens of a text.
        explaining: how it is explained.
        settings: of the scorers, by name; those left out ask as they do by default.

    Returns:
        name to cost and to that of the same question put as Delphi's defaults put it, None where it
        needs no model that answers. A latent's share of what many share is not taken off.

    Raises:
        SpecError: as the scorers.
    """
    firing = [example for example in shown.examples if fires(example)]
    texts = [example.text for example in firing[: explaining.examples]]
    marks = [len(active_tokens(example)) for example in firing[: explaining.examples]]
    judged_texts = [example.text for example in judged.examples]
    none = [0] * len(judged_texts)
    dry = DryRun()
    explain(dry, [shown], explaining)
    rows: dict[str, tuple[Cost, Cost | None]] = {
        "explain": (dry.cost(count), delphi_cost("explain", texts, marks, count))
    }
    questions_of: dict[str, Callable[..., object]] = {
        "detection": detection.score,
        "fuzzing": fuzzing.score,
        "intruder": intruder.score,
        "simulation": simulation.score,
    }
    for name, ask in questions_of.items():
        dry = DryRun()
        ask(dry, [judged], *([settings[name]] if settings and name in settings else []))
        rows[name] = (dry.cost(count), None)
    marked = [f"<<{text}>>" for text in judged_texts]
    for name, shown_texts in (("detection", judged_texts), ("fuzzing", marked)):
        rows[name] = (rows[name][0], delphi_cost(name, shown_texts, none, count))
    # it asks one question for each window in which the latent is silent
    questions = len(by_class(judged.examples)[1])
    five = [text for text in marked[:questions] for _ in range(interpretation.SHOWN)]
    rows["intruder"] = (
        rows["intruder"][0],
        delphi_cost("intruder", five, [0] * len(five), count),
    )
    return {**rows, **_without_asking(judged, count)}


def _without_asking(judged: Item, count: Counter) -> dict[str, tuple[Cost, Cost | None]]:
    rows: dict[str, tuple[Cost, Cost | None]] = {}
    tool = DryInstrument(count)
    simulation.score_in_one_pass(tool, [judged])
    rows["simulation in one pass"] = (tool.cost(), None)
    tool = DryInstrument(count)
    embedding.score_explanations(tool, [judged])
    rows["embedding"] = (tool.cost(), None)
    tool = DryInstrument(count)
    embedding.score_examples(tool, [judged])
    rows["example embedding"] = (tool.cost(), None)
    tool = DryInstrument(count)
    surprisal.score(tool, [judged])
    rows["surprisal"] = (tool.cost(), None)
    return rows


def foreseen(
    study: Study, spec: InterpretationSpec, group: Group
) -> tuple[dict[str, tuple[Cost, Cost | None]], str]:
    """What explaining and scoring a group would ask, counted on the prompts themselves.

    Returns:
        Name to cost and to what the released pipeline asks for the same question; which latents,
        and what their scores will be able to show.

    Raises:
        SpecError, StoreError: as `explain_group`.
    """
    plan = sample_latents(study.latent_table(group), spec.per_kind, spec.seed)
    of = latents_in(plan.latents)
    examples = Examples(study.store, of)
    latent = max(of, key=lambda one: len(examples.to_score(one, "score", spec).examples))
    shown = examples.to_explain(latent, spec)
    judged = examples.to_score(latent, "score", spec)
    said = Explanation(of=latent, text="words that say what the latent fires on", model="")
    settings = {
        "detection": spec.detection,
        "fuzzing": spec.fuzzing,
        "intruder": spec.intruder,
        "simulation": spec.simulation,
    }
    each = costs_of_a_latent(
        shown, replace(judged, explanation=said), explaining=spec.explain, settings=settings
    )
    names = {"explain", *(name.replace("_", " ") for name in spec.scorers)}
    sides = {"explain": len(of) * (2 if RANDOM in spec.controls else 1)}
    out: dict[str, tuple[Cost, Cost | None]] = {}
    for name, (ours, theirs) in each.items():
        if name in names:
            times = sides.get(name, len(of) * (1 + len(spec.controls)))
            out[name] = (ours.times(times), None if theirs is None else theirs.times(len(of)))
    return out, plan.says


def asks(study: Study) -> list[str]:
    """A sentence for each group on what explaining and scoring it would take; none if not wanted.

    Calls that are in a journal already are counted too. The time is that of the model.
    """
    spec = study.spec.interpretation
    if spec is None:
        return []
    ready = [one for one in study.groups() if study.store.has(stability_name(one.name))]
    if not ready:
        return ["after training, `reseed explain --dry` counts what [interpretation] would ask"]
    return [_sentence(study, spec, one) for one in ready if len(one.runs) > 1]


def _sentence(study: Study, spec: InterpretationSpec, group: Group) -> str:
    costs = [ours for ours, _ in foreseen(study, spec, group)[0].values()]
    prompt = sum(one.prompt_tokens for one in costs)
    reply = sum(one.reply_tokens for one in costs)
    prices = spec.explainer.prices if isinstance(spec.explainer, ServerSpec) else None
    money = "" if prices is None else f", cost {prices.cost(prompt, reply):.3g}"
    return (
        f"explaining and scoring {group.label}: {sum(one.calls for one in costs):,} calls, "
        f"{prompt:,} + {reply:,} tokens{money}"
    )
