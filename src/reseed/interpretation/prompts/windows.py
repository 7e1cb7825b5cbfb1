r"""Windows of text as a prompt shows them: active tokens between `<<` and `>>`, strengths listed.

As in arXiv 2410.13928, with two differences: a window is one line (a line break is written `\n`,
so that no window can look like several), and delimiters that the text has of its own are replaced.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import TypeVar

from reseed.errors import SpecError
from reseed.interpretation.records import Example, Failure, Item, Latent
from reseed.seeds import generator

LEFT, RIGHT = "<<", ">>"

_BREAKS = "\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"

_OWN = str.maketrans({"\r": "\\r", **dict.fromkeys(_BREAKS, "\\n")})


def one_line(text: str) -> str:
    r"""The text with its line breaks written as `\n`."""
    return text.translate(_OWN)


def active_tokens(example: Example, threshold: float = 0.3) -> list[int]:
    """Places of the tokens with more than a share of the largest activation in the window.

    The share is 0.3 in the released pipeline; a window that does not fire has no such token.
    """
    floor = threshold * example.strength
    return [i for i, value in enumerate(example.activations) if value > floor and value > 0]


def mark(tokens: Sequence[str], places: Collection[int]) -> str:
    """The tokens as one line, runs of those at `places` between `<<` and `>>`.

    What the text itself has of `<<` and `>>` is shown as `‹‹` and `››`.
    """
    return "".join(f"{LEFT}{text}{RIGHT}" if on else text for on, text in _runs(tokens, places))


def marked(tokens: Sequence[str], places: Collection[int]) -> list[str]:
    """What `mark` puts between `<<` and `>>`, without the spaces around it."""
    return [text.strip(" ") for on, text in _runs(tokens, places) if on]


def _runs(tokens: Sequence[str], places: Collection[int]) -> Iterator[tuple[bool, str]]:
    """Stretches of tokens at `places` and between them, as one line each."""
    wanted = set(places)
    for on, run in groupby(range(len(tokens)), key=wanted.__contains__):
        text = "".join(tokens[i] for i in run)
        yield on, one_line(text.replace(LEFT, "‹‹").replace(RIGHT, "››"))


def tenths(value: float, largest: float) -> int:
    """ceil(10 value / largest), from 0 to 10; a `ValueError` outside of that."""
    if not (largest > 0 and 0 <= value <= largest):
        raise ValueError(f"activation {value} is not between 0 and the largest, {largest}")
    # 10 * (0.3 / 1) is 3.0000000000000004 in some orders of operations; that is 3, not 4
    return min(10, math.ceil(10 * value / largest - 1e-9))


def listing(example: Example, places: Sequence[int], largest: float, limit: int = 10) -> str:
    """Marked tokens with their strengths from 1 to 10, e.g. `("over", 5), (" moon", 9)`.

    The strongest at `places` are listed, in the order of the text; `largest` is 10.
    """
    strongest = sorted(places, key=lambda i: (-example.activations[i], i))[:limit]
    return ", ".join(
        f'("{one_line(example.tokens[i])}", {tenths(example.activations[i], largest)})'
        for i in sorted(strongest)
    )


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
        count = sum(example.split == "explain" for example in item.examples)
        if count:
            raise SpecError(
                f"{name_of(item.of)}: {count} of {len(item.examples)} examples to score with are "
                "of the split 'explain', which the explainer has seen. Score on 'score' or 'judge'."
            )
        check_examples(item)


def check_for_explaining(items: Sequence[Item]) -> None:
    """Refuse to show an explainer what scores are made from, or what contradicts itself."""
    for item in items:
        others = sorted({example.split for example in item.examples} - {"explain"})
        if others:
            raise SpecError(
                f"{name_of(item.of)}: examples of the split {others[0]!r} were given to the "
                "explainer; scores on them would be too good. Give it only 'explain'."
            )
        check_examples(item)


def check_examples(item: Item, others: Sequence[Example] = ()) -> None:
    """Refuse mixed splits, with other examples too, and activations that cannot be right."""
    splits = sorted({example.split for example in (*item.examples, *others)})
    if len(splits) > 1:
        raise SpecError(
            f"{name_of(item.of)}: examples of the splits {' and '.join(splits)} in one "
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
