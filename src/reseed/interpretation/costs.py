"""Cost estimates: calls and tokens of explaining and scoring, counted on the prompts themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.interpretation.examples import ExampleSets, latents_in
from reseed.interpretation.explain import explain_items
from reseed.interpretation.records import Explanation, Failure, Item, Reply, Request
from reseed.interpretation.refine.search import Mistake, refine_request
from reseed.interpretation.scorers import Tools, score_items
from reseed.interpretation.strata import partners, sample_latents
from reseed.runs import Group, stability_name
from reseed.spec.interpretation import RANDOM, WITHOUT_EXPLANATION, InterpretationSpec, RefineSpec
from reseed.spec.llm import ServerSpec
from reseed.study import Study

Counter = Callable[[str], int]
"""Tokens of a text."""

EACH_MESSAGE = 4
"""Tokens that a chat template puts around a message, about."""

_REFINE = "refine, at most"

_PHRASE = "words that say what the latent fires on"


def quarter(text: str) -> int:
    """A quarter of the characters, rounded up: about the tokens of English text."""
    return -(-len(text) // 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of some questions together."""

    calls: int = 0
    prompt_tokens: int = 0
    repeated_tokens: int = 0
    """of `prompt_tokens`: those that begin a prompt as they began the one before; a server that
    keeps prefixes does not read them again"""
    reply_tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})

    def times(self, latents: int) -> Cost:
        """Of so many latents like these."""
        return Cost(**{name: getattr(self, name) * latents for name in self.__slots__})


class DryRun:
    """An `Asker` that asks nobody: it keeps the requests and answers that it did not ask."""

    name = "dry run"

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def ask(self, requests: list[Request]) -> list[Reply | Failure]:
        """Keep the requests."""
        self.requests += requests
        return [Failure(reason="dry run; nothing was asked") for _ in requests]

    def cost(self, count: Counter = quarter) -> Cost:
        """Of everything that would have been asked."""
        return cost_of(self.requests, count)


class DryInstrument:
    """An `Embedder` and `Likelihood` in one that computes nothing and counts.

    One embedded text, and one text whose log-probabilities are wanted, are a call each.
    """

    name = "dry run"

    def __init__(self, count: Counter = quarter) -> None:
        self._count = count
        self.calls = 0
        self.tokens = 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.floating]:
        """[N, 1] ones."""
        self._read(*texts)
        return np.ones((len(texts), 1))

    def logprobs(self, prefix: str, text: str) -> NDArray[np.floating]:
        """[1] zero."""
        self._read(prefix + text)
        return np.zeros(1)

    def many(self, pairs: Sequence[tuple[str, str]]) -> list[NDArray[np.floating]]:
        """[1] zero for each."""
        return [self.logprobs(prefix, text) for prefix, text in pairs]

    def cost(self) -> Cost:
        """Of everything that would have been computed; nothing is generated."""
        return Cost(calls=self.calls, prompt_tokens=self.tokens)

    def _read(self, *texts: str) -> None:
        self.calls += len(texts)
        self.tokens += sum(map(self._count, texts))


def cost_of(requests: Sequence[Request], count: Counter = quarter) -> Cost:
    """Calls and tokens of requests; replies are taken to have the form asked for."""
    prompts = ["\n".join(message.content for message in request.messages) for request in requests]
    around = sum(EACH_MESSAGE * len(request.messages) for request in requests)
    same = [commonprefix([a, b]) for a, b in zip(prompts, prompts[1:], strict=False)]
    return Cost(
        calls=len(requests),
        prompt_tokens=around + sum(map(count, prompts)),
        repeated_tokens=sum(map(count, filter(None, same))),
        reply_tokens=sum(count(made_up(request)) for request in requests),
    )


def made_up(request: Request) -> str:
    """A reply of the form asked for and of usual length, without sense."""
    value = _made_up(request.schema or {"type": "string"})
    return value if isinstance(value, str) else json.dumps(value)


def _made_up(schema: Mapping[str, Any]) -> Any:
    match schema.get("type"):
        case "object":
            return {name: _made_up(part) for name, part in schema["properties"].items()}
        case "array":
            return [_made_up(schema["items"])] * int(schema.get("minItems", 1))
        case "integer":
            return int(schema.get("minimum", 0))
        case "string":
            return "words that together say in one short phrase what the unit responds to"
        case _:
            return None


def costs_of_a_latent(
    shown: Item, judged: Item, spec: InterpretationSpec, count: Counter = quarter
) -> dict[str, Cost]:
    """Cost of explaining a latent and of each of its scores.

    Returns:
        Name to cost, without `intervention`, whose texts are not known before they are written. A
        latent's share of what many share is not taken off, and refining takes as many calls as its
        settings allow.
    """
    dry = DryRun()
    explain_items(dry, [shown], spec.explain)
    costs = {"explain": dry.cost(count)}
    for name in spec.scorers:
        if name != "intervention":
            asker, instrument = DryRun(), DryInstrument(count)
            tools = Tools(asker=asker, embedder=instrument, likelihood=instrument)
            score_items(name, tools, [judged], spec)
            costs[name.replace("_", " ")] = asker.cost(count) + instrument.cost()
    if spec.refine is not None:
        costs[_REFINE] = _refining(judged, spec, spec.refine, count)
    return costs


def _refining(judged: Item, spec: InterpretationSpec, refine: RefineSpec, count: Counter) -> Cost:
    """Of the largest search for one explanation, all of whose explanations go to the judge."""
    asker = DryRun()
    score_items("detection", Tools(asker=asker), [judged], spec)
    scoring = asker.cost(count)
    wrong = [Mistake(example, False) for example in judged.examples[: refine.shown]]
    asked = cost_of([refine_request(_PHRASE, wrong, 0, refine)], count)
    along = refine.order == "depth"  # then each of the best is followed to its end
    tree = sum(refine.branch * refine.keep ** (n if along else n > 0) for n in range(refine.depth))
    allowed = (refine.budget - scoring.calls) // (1 + scoring.calls)
    found = max(0, min(tree, allowed))
    return asked.times(found) + scoring.times(2 * (1 + found))


def times_asked(name: str, spec: InterpretationSpec, sampled: int, mates: int) -> int:
    """About how many items a question is asked, of a sample and of second members of families."""
    every = -(-sampled // spec.random_latents)
    made = -(-sampled // every) if RANDOM in spec.controls and sampled else 0
    if name == _REFINE:
        return sampled + mates
    if name == "explain":
        return sampled + mates + made
    blind = name.replace(" ", "_") in WITHOUT_EXPLANATION
    return sampled * (2 if "shuffled" in spec.controls and not blind else 1) + made


def estimate_costs(
    study: Study, group: Group, spec: InterpretationSpec
) -> tuple[dict[str, Cost], str]:
    """What explaining and scoring a group would ask, counted on the prompts themselves.

    Returns:
        Name to cost; which latents, and what their scores will be able to show.
    """
    latents = study.latent_table(group)
    plan = sample_latents(latents, spec.per_kind, spec.seed)
    of = latents_in(plan.latents)
    examples = ExampleSets(study.store, of)
    # the dearest of them stands for all
    items = [examples.to_score(latent, "score", spec) for latent in of]
    judged = max(items, key=lambda item: len(item.examples))
    shown = examples.to_explain(judged.of, spec)
    phrase = Explanation(of=judged.of, text=_PHRASE, model="")
    costs = costs_of_a_latent(shown, replace(judged, explanation=phrase), spec)
    mates = len(partners(plan, latents, spec.seed))
    return {
        name: cost.times(times_asked(name, spec, len(of), mates)) for name, cost in costs.items()
    }, plan.says


def cost_sentences(study: Study) -> list[str]:
    """A sentence for each group on what explaining and scoring it would take; none if not wanted.

    Calls that are in a journal already are counted too. The time is that of the model.
    """
    spec = study.spec.interpretation
    if spec is None:
        return []
    ready = [group for group in study.groups() if study.store.has(stability_name(group.name))]
    if not ready:
        return ["after training, `reseed explain --dry` counts what [interpretation] would ask"]
    return [_sentence(study, spec, group) for group in ready if len(group.runs) > 1]


def _sentence(study: Study, spec: InterpretationSpec, group: Group) -> str:
    total = sum(estimate_costs(study, group, spec)[0].values(), Cost())
    prices = spec.explainer.prices if isinstance(spec.explainer, ServerSpec) else None
    cost = None if prices is None else prices.cost(total.prompt_tokens, total.reply_tokens)
    return (
        f"explaining and scoring {group.label}: {total.calls:,} calls, "
        f"{total.prompt_tokens:,} + {total.reply_tokens:,} tokens"
        + ("" if cost is None else f", cost {cost:.3g}")
    )


def table(costs: Mapping[str, Cost]) -> str:
    """Cost estimates as a Markdown table."""
    lines = ["| | calls | prompt | of it repeated | reply |", "|---|---|---|---|---|"]
    for name, cost in costs.items():
        cells = (cost.calls, cost.prompt_tokens, cost.repeated_tokens, cost.reply_tokens)
        lines.append(f"| {' | '.join([name, *(f'{n:,}' for n in cells)])} |")
    return "\n".join(lines)
