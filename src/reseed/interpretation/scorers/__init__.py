"""The scorers of a study by name, each with the tools that it needs.

Every scorer gives one result for each item, in order, and raises `SpecError` if examples are of the
split `explain`, of two splits, or contradict themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reseed.interpretation.models import Embedder, Likelihood, Numbers, Steerable
from reseed.interpretation.records import Asker, Failure, Item, Latent, Score
from reseed.interpretation.scorers import classify, embedding, intruder, likelihood, simulation
from reseed.spec.interpretation import InterpretationSpec, Scorer

ASKING = ("detection", "fuzzing", "intruder", "simulation")
"""Scorers that ask a language model; the others compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What scorers work with; None for what the study has not named."""

    asker: Asker
    embedder: Embedder | None = None
    likelihood: Likelihood | None = None
    steered: Callable[[], Mapping[str, Steerable]] | None = None
    """site to the subject steered there; loaded when it is needed"""
    directions: Mapping[Latent, Numbers] | None = None
    sites: Mapping[str, str] | None = None
    """run to its site"""


def score_items(
    name: Scorer, tools: Tools, items: Sequence[Item], spec: InterpretationSpec
) -> Sequence[Score | Failure]:
    """Score items by one scorer.

    Returns:
        One result for each item, in order.
    """
    if not items:
        return []
    match name:
        case "detection":
            return classify.detect(tools.asker, items, spec.detection)
        case "fuzzing":
            return classify.fuzz(tools.asker, items, spec.fuzzing)
        case "intruder":
            return intruder.score(tools.asker, items, spec.intruder)
        case "simulation":
            return simulation.score(tools.asker, items, spec.simulation)
        case "embedding":
            assert tools.embedder is not None
            return embedding.score_explanations(tools.embedder, items)
        case "example_embedding":
            assert tools.embedder is not None
            return embedding.score_examples(tools.embedder, items)
        case "surprisal":
            assert tools.likelihood is not None
            return likelihood.surprisal(tools.likelihood, items)
        case "intervention":
            return _intervene(tools, items, spec)


def _intervene(
    tools: Tools, items: Sequence[Item], spec: InterpretationSpec
) -> Sequence[Score | Failure]:
    """Each latent at the site of its run; latents that mean nothing have no direction."""
    assert tools.likelihood is not None
    assert tools.steered is not None
    assert tools.sites is not None
    steered, directions = tools.steered(), tools.directions or {}
    out: list[Score | Failure] = []
    for item in items:
        site = tools.sites.get(item.of.run)
        if site is None or item.of not in directions:
            out.append(Failure(reason="it has no decoder row, so there is nothing to steer by"))
            continue
        out += likelihood.intervention(
            steered[site], tools.likelihood, [item], directions, spec.intervention
        )
    return out
