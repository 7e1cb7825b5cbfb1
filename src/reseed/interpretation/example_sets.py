"""What scorers are given is checked before any question is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from reseed.errors import SpecError
from reseed.interpretation.records import Example, Failure, Item, Latent, Split
from reseed.seeds import generator

T = TypeVar("T")


def name_of(latent: Latent) -> str:
    """The latent as messages name it."""
    return f"latent {latent.latent} of {latent.run}"


def check_items(items: Sequence[Item]) -> None:
    """Refuse examples that an explainer may have seen, and examples that contradict themselves.

    Raises:
        SpecError: if an example is of the split `explain`, if an item mixes splits, or if
            activations are not finite or do not fit the kind of the example.
    """
    for item in items:
        splits: set[Split] = {example.split for example in item.examples}
        if "explain" in splits:
            count = sum(example.split == "explain" for example in item.examples)
            raise SpecError(
                f"{name_of(item.of)}: {count} of {len(item.examples)} examples to score with are "
                "of the split 'explain', which the explainer has seen. Score on 'score' or 'judge'."
            )
        check_examples(item, splits)


def check_for_explaining(items: Sequence[Item]) -> None:
    """Refuse to show an explainer what scores are made from.

    Raises:
        SpecError: if an example is of another split than `explain`, or contradicts itself.
    """
    for item in items:
        splits: set[Split] = {example.split for example in item.examples}
        if splits - {"explain"}:
            raise SpecError(
                f"{name_of(item.of)}: examples of the split {sorted(splits - {'explain'})[0]!r} "
                "were given to the explainer; scores on them would be too good. "
                "Give it only 'explain'."
            )
        check_examples(item, splits)


def check_examples(item: Item, splits: set[Split]) -> None:
    """Refuse mixed splits and activations that cannot be right; see `check_items`."""
    if len(splits) > 1:
        raise SpecError(
            f"{name_of(item.of)}: examples of the splits {' and '.join(sorted(splits))} in one "
            "item; a refinement would then be judged on what it searched with. Use one split."
        )
    for example in item.examples:
        where = f"{name_of(item.of)}, document {example.document}, block {example.block}"
        if len(example.tokens) != len(example.activations):
            raise SpecError(
                f"{where}: {len(example.tokens)} tokens, but {len(example.activations)} activations"
            )
        if not all(math.isfinite(a) and a >= 0 for a in example.activations):
            raise SpecError(f"{where}: an activation is negative, NaN or infinite")
        if (example.kind == "firing") != (example.strength > 0):
            raise SpecError(
                f"{where}: an example of the kind {example.kind!r} has {example.strength} as "
                "largest activation"
            )


def fires(example: Example) -> bool:
    """Whether the latent fires in the window."""
    return example.kind == "firing"


def by_class(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Those in which the latent fires, and those in which it does not."""
    return [e for e in examples if fires(e)], [e for e in examples if not fires(e)]


def in_seeded_order(purpose: str, of: Latent, values: Sequence[T]) -> list[T]:
    """In an order that depends on nothing but the latent and what it is for."""
    order = generator(purpose, of.run, of.latent).permutation(len(values))
    return [values[int(i)] for i in order]


def spread(examples: Sequence[Example], count: int, of: Latent, purpose: str) -> list[Example]:
    """At most `count` examples, as evenly over the quantiles as they allow, in a seeded order."""
    ordered = in_seeded_order(purpose, of, examples)
    turn: dict[int | None, int] = {}
    ranked: list[tuple[int, int]] = []
    for place, example in enumerate(ordered):
        ranked.append((turn.get(example.quantile, 0), place))
        turn[example.quantile] = ranked[-1][0] + 1
    return [ordered[place] for place in sorted(place for _, place in sorted(ranked)[:count])]


def missing_class(item: Item) -> Failure | None:
    """A failure if there is nothing to tell apart."""
    positives, negatives = by_class(item.examples)
    if positives and negatives:
        return None
    return Failure(
        reason=f"{len(positives)} examples in which the latent fires and {len(negatives)} in which "
        "it does not; both are needed"
    )


def unexplained(item: Item) -> Failure | None:
    """A failure if there is no explanation to score."""
    if item.explanation is not None:
        return None
    return Failure(reason="no explanation; there is nothing to score")
