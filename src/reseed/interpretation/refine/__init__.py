"""Tree search over explanations under a scorer, judged on a split that the search never sees.

As SPaR refines responses (arXiv 2412.11605): expand = ask for a refinement given a critique, value
= the score, breadth first or depth first, the best few kept. There the search is judged by the
scores that it was steered by; of many noisy scores the best is too good. So the path of the best
explanation is scored again on other examples ("judge"), and both gains are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reseed.errors import SpecError
from reseed.interpretation.examples import ExampleSets, check_disjoint
from reseed.interpretation.prompts.windows import name_of
from reseed.interpretation.records import (
    Asker,
    Example,
    Explanation,
    Failure,
    Interval,
    Item,
    Latent,
    Score,
    ask_about,
)
from reseed.interpretation.refine.search import Mistake, Mistakes, Node, Refined, TreeSearch
from reseed.interpretation.scorers.classify import judged
from reseed.seeds import generator
from reseed.spec.interpretation import DetectionSpec, InterpretationSpec, RefineSpec
from reseed.stability.intervals import bootstrap_mean

Scorer = Callable[[list[Item]], list[Score | Failure]]


def refine_all(
    starts: Sequence[tuple[Item, Sequence[Example]]],
    *,
    asker: Asker,
    scorer: Scorer,
    spec: RefineSpec,
    mistakes: Mistakes | None = None,
    calls_to_score: int = 1,
) -> list[Refined | Failure]:
    """Refine explanations of several latents, in step, so that questions are asked together.

    What is asked depends on nothing but the arguments and the replies, so a rerun through an asker
    that remembers costs nothing.

    Args:
        starts: for each latent the item to start from, with examples of the split "score", and
            examples of the split "judge".
        asker: refines.
        scorer: scores; the search sees what it says of "score" examples only.
        spec: the search.
        mistakes: what an item's explanation got wrong; left out, a critique shows examples of both
            kinds without saying which were wrong.
        calls_to_score: calls to models that scoring one item takes; 0 for scorers without a model.

    Returns:
        A failure where the explanation to start from got no score.

    Raises:
        SpecError: if splits are mixed or share documents, an explanation is missing, or the budget
            does not allow one refinement.
    """
    least = 1 + 2 * calls_to_score
    if calls_to_score < 0 or spec.budget < least:
        raise SpecError(
            f"refine.budget = {spec.budget}: scoring takes {calls_to_score} calls, so one "
            f"refinement takes {least}; raise the budget"
        )
    for item, judge in starts:
        _check(item, judge)
    searches = [TreeSearch(item, asker.name, spec, mistakes, calls_to_score) for item, _ in starts]
    active = searches
    while active:
        scores = _score_each(scorer, [search.items() for search in active])
        for search, of_items in zip(active, scores, strict=True):
            search.add(of_items)
        turns = {search: wanted for search in active if (wanted := search.turns())}
        active = list(turns)
        ask_about(
            asker,
            active,
            lambda search: [search.request(parent, n) for parent, n in turns[search]],  # noqa: B023
            lambda search, replies: search.grow(turns[search], replies),  # noqa: B023
        )
    paths = [search.path() for search in searches]
    items = [
        [replace(item, explanation=n.explanation, examples=tuple(judge)) for n in path]
        for (item, judge), path in zip(starts, paths, strict=True)
    ]
    return [
        _refined(search, path, scores, calls_to_score)
        for search, path, scores in zip(searches, paths, _score_each(scorer, items), strict=True)
    ]


def _score_each(scorer: Scorer, items: Sequence[Sequence[Item]]) -> list[list[Score | Failure]]:
    every = [item for some in items for item in some]
    scores = iter(scorer(every) if every else [])
    return [[next(scores) for _ in some] for some in items]


def _refined(
    search: TreeSearch, path: Sequence[Node], scores: Sequence[Score | Failure], calls_to_score: int
) -> Refined | Failure:
    root = search.nodes[0]
    if isinstance(root.score, Failure):
        reason = f"the explanation to start from has no score: {root.score.reason}"
        return Failure(reason=reason, text=root.score.text)
    return Refined(
        of=root.explanation.of,
        nodes=tuple(search.nodes),
        best=path[-1],
        judged={node.number: score for node, score in zip(path, scores, strict=True)},
        calls=search.calls,
        judge_calls=len(path) * calls_to_score,
        duplicates=search.duplicates,
        failures=tuple(search.failures),
        ended=search.ended,
    )


def _check(item: Item, judge: Sequence[Example]) -> None:
    name = name_of(item.of)
    if item.explanation is None:
        raise SpecError(f"{name} has no explanation to start from; explain it first")
    for what, examples, split in (("search", item.examples, "score"), ("judge", judge, "judge")):
        splits = {example.split for example in examples}
        if splits != {split}:
            raise SpecError(
                f"{name}: the {what} needs examples of the split {split!r}, these are of "
                f"{', '.join(sorted(splits)) or 'none'}; an explanation must not be judged by what "
                "it was fitted to"
            )
    check_disjoint(item.examples, judge, ("to search with", "to judge on"))


class Detector:
    """Scores explanations by detection and remembers which answers were wrong."""

    def __init__(self, asker: Asker, settings: DetectionSpec) -> None:
        self._asker, self._settings = asker, settings
        self._wrong: dict[tuple[Latent, str, Sequence[Example]], list[Mistake]] = {}

    def score(self, items: list[Item]) -> list[Score | Failure]:
        """A score for each item; see `reseed.interpretation.scorers.classify.detect`."""
        results = judged(self._asker, items, self._settings)
        for item, result in zip(items, results, strict=True):
            wrong = [a for a in result.answers if a.yes is not a.case.fires]
            self._wrong[_key(item)] = [Mistake(a.case.example, a.yes) for a in wrong]
        return [result.score for result in results]

    def mistakes(self, item: Item) -> list[Mistake]:
        """Examples of an item that was scored about which its explanation was wrong."""
        return self._wrong.get(_key(item), [])


def _key(item: Item) -> tuple[Latent, str, Sequence[Example]]:
    assert item.explanation is not None
    return item.of, item.explanation.text, tuple(item.examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Mean gain over latents, with 95 % intervals by bootstrap over latents."""

    latents: int
    """in the means"""
    left_out: int
    """latents without a search, or on which the judge failed"""
    search: float | None = None
    """on the examples of the search: too good, the more the larger the tree"""
    search_interval: Interval | None = None
    judge: float | None = None
    """on examples that the search did not see"""
    judge_interval: Interval | None = None
    says: str = "no latent was refined and judged"


def gain(results: Sequence[Refined | Failure], *, seed: int = 0, draws: int = 2000) -> Gain:
    """What refining many latents brought, of the search's examples and of the judge's."""
    refined = [r for r in results if isinstance(r, Refined) and not _unjudged(r)]
    left_out = len(results) - len(refined)
    if not refined:
        return Gain(latents=0, left_out=left_out)
    values = np.array([_gains(search) for search in refined])
    means = values.mean(axis=0)
    intervals: list[Interval | None] = [None, None]
    if len(refined) > 1:
        low, high = bootstrap_mean(values, draws, generator("refine-gain", seed))
        intervals = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    shown = [
        f"{mean:+.3f}" + ("" if ends is None else f" [{ends[0]:+.3f}, {ends[1]:+.3f}]")
        for mean, ends in zip(means, intervals, strict=True)
    ]
    calls = np.mean([search.calls for search in refined])
    changed = sum(search.best.number != 0 for search in refined)
    return Gain(
        latents=len(refined),
        left_out=left_out,
        search=float(means[0]),
        search_interval=intervals[0],
        judge=float(means[1]),
        judge_interval=intervals[1],
        says=(
            f"refining {len(refined)} explanations, {calls:.0f} calls each: {shown[0]} on the "
            f"examples of the search, {shown[1]} on examples that it did not see; {changed} changed"
        ),
    )


def _unjudged(search: Refined) -> bool:
    return any(isinstance(score, Failure) for score in search.judged.values())


def _gains(search: Refined) -> tuple[float, float]:
    """Of the best over the first: on the examples of the search, on those of the judge."""
    values = {n: s.value for n, s in search.judged.items() if isinstance(s, Score)}
    judge = values[search.best.number] - values[0]
    return search.best.value - search.nodes[0].value, judge


def refined_explanations(
    examples: ExampleSets,
    explained: Sequence[Explanation | Failure],
    asker: Asker,
    spec: InterpretationSpec,
    settings: RefineSpec,
) -> tuple[list[Explanation | Failure], str]:
    """The best explanations that a search found, judged on examples that it did not see.

    Returns:
        The explanations in their order, and what refining gained in a sentence.
    """
    known = {
        n: result
        for n, result in enumerate(explained)
        if isinstance(result, Explanation) and result.of in examples
    }
    starts = [
        (
            replace(examples.to_score(start.of, "score", spec), explanation=start),
            examples.to_score(start.of, "judge", spec).examples,
        )
        for start in known.values()
    ]
    detector = Detector(asker, spec.detection)
    results = refine_all(
        starts,
        asker=asker,
        scorer=detector.score,
        mistakes=detector.mistakes,
        spec=settings,
        calls_to_score=-(-2 * spec.examples // spec.detection.batch),
    )
    out = list(explained)
    for n, result in zip(known, results, strict=True):
        if isinstance(result, Refined):
            out[n] = result.best.explanation
    return out, gain(results).says
