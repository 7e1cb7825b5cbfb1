"""Tree search over explanations under a scorer, judged on a split that the search never sees.

As SPaR refines responses (arXiv 2412.11605): expand = ask for a refinement given a critique, value
= the score, breadth first or depth first, the best few kept. There the search is judged by the
scores that it was steered by; of many noisy scores the best is too good. So the path of the best
explanation is scored again on other examples ("judge"), and both gains are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reseed.errors import SpecError
from reseed.interpretation.records import (
    Asker,
    Example,
    Failure,
    Item,
    Reply,
    Request,
    Score,
    Split,
)
from reseed.interpretation.refine.records import Refined
from reseed.interpretation.refine.tree import Asked, Mistakes, Search, Steps
from reseed.spec.interpretation import RefineSpec

Scorer = Callable[[list[Item]], list[Score | Failure]]


def refine(
    start: Item,
    judge: Sequence[Example],
    *,
    asker: Asker,
    scorer: Scorer,
    spec: RefineSpec | None = None,
    mistakes: Mistakes | None = None,
    calls_to_score: int = 1,
) -> Refined | Failure:
    """Refine the explanation of one latent; see `refine_all`."""
    return refine_all(
        [(start, judge)],
        asker=asker,
        scorer=scorer,
        spec=spec,
        mistakes=mistakes,
        calls_to_score=calls_to_score,
    )[0]


def refine_all(
    starts: Sequence[tuple[Item, Sequence[Example]]],
    *,
    asker: Asker,
    scorer: Scorer,
    spec: RefineSpec | None = None,
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
    spec = RefineSpec() if spec is None else spec
    least = 1 + 2 * calls_to_score
    if calls_to_score < 0 or spec.budget < least:
        raise SpecError(
            f"refine.budget = {spec.budget}: scoring takes {calls_to_score} calls, so one "
            f"refinement takes {least}; raise the budget"
        )
    for item, judge in starts:
        _check(item, judge)
    searches = [
        Search(item, judge, asker.name, spec, mistakes, calls_to_score) for item, judge in starts
    ]
    return _in_step([one.run() for one in searches], asker, scorer)


def _check(item: Item, judge: Sequence[Example]) -> None:
    name = f"latent {item.of.latent} of {item.of.run}"
    if item.explanation is None:
        raise SpecError(f"{name} has no explanation to start from; explain it first")

    def splits(examples: Sequence[Example]) -> set[Split]:
        return {one.split for one in examples}

    for what, examples, split in (("search", item.examples, "score"), ("judge", judge, "judge")):
        if splits(examples) != {split}:
            found = ", ".join(sorted(splits(examples))) or "none"
            raise SpecError(
                f"{name}: the {what} needs examples of the split {split!r}, these are of {found}; "
                "an explanation must not be judged by what it was fitted to"
            )
    both = {one.document for one in item.examples} & {one.document for one in judge}
    if both:
        raise SpecError(
            f"{name}: documents {sorted(both)[:5]} are in the examples of the search and in those "
            "of the judge; take them from different documents"
        )


def _in_step(searches: list[Steps], asker: Asker, scorer: Scorer) -> list[Refined | Failure]:
    """Run searches side by side: all that wait for replies are asked together, then all scores."""
    done: dict[int, Refined | Failure] = {}
    waiting: dict[int, Asked] = {n: next(one) for n, one in enumerate(searches)}
    while waiting:
        requests = {n: [r for r in w if isinstance(r, Request)] for n, w in waiting.items()}
        items = {n: [i for i in w if isinstance(i, Item)] for n, w in waiting.items()}
        questions = [r for some in requests.values() for r in some]
        unscored = [i for some in items.values() for i in some]
        replied = iter(asker.ask(questions) if questions else [])
        scored = iter(scorer(unscored) if unscored else [])
        for n in list(waiting):
            answer: list[Reply | Failure] | list[Score | Failure]
            answer = [next(replied) for _ in requests[n]] or [next(scored) for _ in items[n]]
            try:
                waiting[n] = searches[n].send(answer)
            except StopIteration as ended:
                done[n] = ended.value
                del waiting[n]
    return [done[n] for n in range(len(searches))]
