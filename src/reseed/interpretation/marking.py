r"""Windows of text as a prompt shows them: active tokens between `<<` and `>>`, strengths listed.

As in arXiv 2410.13928, with two differences: a window is one line (a line break is written `\n`,
so that no window can look like several), and delimiters that the text has of its own are replaced.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby

from reseed.interpretation.records import Example

LEFT, RIGHT = "<<", ">>"
_BREAKS = "\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_OWN = str.maketrans({"\r": "\\r", **dict.fromkeys(_BREAKS, "\\n")})


def one_line(text: str) -> str:
    r"""The text with its line breaks written as `\n`."""
    return text.translate(_OWN)


def active_tokens(example: Example, threshold: float = 0.3) -> list[int]:
    """Places of the tokens with more than a share of the largest activation in the window.

    Args:
        example: the window; one that does not fire has none.
        threshold: the share; 0.3 as in the released pipeline.
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
    """ceil(10 value / largest), from 0 to 10.

    Raises:
        ValueError: if `largest` is not positive or `value` is negative or above it.
    """
    if not (largest > 0 and 0 <= value <= largest):
        raise ValueError(f"activation {value} is not between 0 and the largest, {largest}")
    # 10 * (0.3 / 1) is 3.0000000000000004 in some orders of operations; that is 3, not 4
    return min(10, math.ceil(10 * value / largest - 1e-9))


def listing(example: Example, places: Sequence[int], largest: float, limit: int = 10) -> str:
    """Marked tokens with their strengths from 1 to 10, e.g. `("over", 5), (" moon", 9)`.

    Args:
        example: the window.
        places: of the tokens to list.
        largest: activation that is 10.
        limit: how many are listed; the strongest, in the order of the text.
    """
    strongest = sorted(places, key=lambda i: (-example.activations[i], i))[:limit]
    return ", ".join(
        f'("{one_line(example.tokens[i])}", {tenths(example.activations[i], largest)})'
        for i in sorted(strongest)
    )
