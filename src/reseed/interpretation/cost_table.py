"""What each score of one latent costs, measured on its prompts, as one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from reseed.interpretation import (
    detection,
    embedding_scores,
    fuzzing,
    intruder,
    simulation,
    surprisal,
)
from reseed.interpretation.costs import (
    Cost,
    Counter,
    DryInstrument,
    DryRun,
    delphi_cost,
    quarter,
)
from reseed.interpretation.example_sets import by_class, fires
from reseed.interpretation.explain import ExplainSpec, explain
from reseed.interpretation.marking import active_tokens
from reseed.interpretation.records import Item


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
    five = [text for text in marked[:questions] for _ in range(intruder.SHOWN)]
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
    embedding_scores.score_explanations(tool, [judged])
    rows["embedding"] = (tool.cost(), None)
    tool = DryInstrument(count)
    embedding_scores.score_examples(tool, [judged])
    rows["example embedding"] = (tool.cost(), None)
    tool = DryInstrument(count)
    surprisal.score(tool, [judged])
    rows["surprisal"] = (tool.cost(), None)
    return rows
