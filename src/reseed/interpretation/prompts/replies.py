"""From what a model said to what was asked for, or to a failure that keeps the text.

Nothing is guessed or filled in: a list of the wrong length, a number in quotes, NaN or two answers
in one reply are failures.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar, cast

from reseed.interpretation.records import Failure, Reply

LONGEST = 20_000
"""Characters of a reply that are looked at; what is longer answers no question asked here."""

LONGEST_EXPLANATION = 2_000

_STARTS = 64
"""Brackets at which JSON is looked for in a reply."""

_FENCE = re.compile(r"\A\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)

_TAGGED = re.compile(r"\[EXPLANATION\]\s*:[ \t]*(.*)", re.DOTALL | re.IGNORECASE)

_NUMBER = re.compile(r"\d+")

T = TypeVar("T")


class _Unusable(Exception):  # noqa: N818  (never leaves this file)
    """Why a reply is no answer."""


def numbers_schema(key: str, count: int, low: int, high: int) -> dict[str, Any]:
    """JSON schema of `{key: [...]}` with `count` integers from `low` to `high`."""
    one = {"type": "integer", "minimum": low, "maximum": high}
    many = {"type": "array", "items": one, "minItems": count, "maxItems": count}
    return {
        "type": "object",
        "properties": {key: many},
        "required": [key],
        "additionalProperties": False,
    }


def read_numbers(text: str, key: str, count: int, low: int, high: int) -> tuple[int, ...] | Failure:
    """Exactly `count` integers from `low` to `high`.

    Args:
        text: the reply: `{key: [...]}`, a bare list, either in a code fence, or prose with one list
            and no other square bracket.
        key: name of the list.
        count: how many were asked for.
        low: least allowed.
        high: largest allowed.
    """
    try:
        return _numbers(text, key, count, low, high)
    except _Unusable as why:
        return Failure(reason=str(why), text=text)


def _numbers(text: str, key: str, count: int, low: int, high: int) -> tuple[int, ...]:
    found = _json(_plain(text))
    if isinstance(found, dict):
        found = cast(dict[str, Any], found).get(key)
    elif found is None:
        found = _only_list(text)
    if not isinstance(found, list):
        raise _Unusable(f"no list {key!r} in the reply")
    values = cast(list[Any], found)
    if len(values) != count:
        raise _Unusable(f"{len(values)} answers to {count} questions")
    for value in values:
        # bool is an int in Python; true is no number
        if type(value) is not int or not low <= value <= high:
            raise _Unusable(f"{str(value)[:40]!r} is no whole number from {low} to {high}")
    return tuple(cast(list[int], values))


def read_number(text: str, key: str, low: int, high: int) -> int | Failure:
    """One integer from `low` to `high`: `{key: n}` or the bare number, nothing else."""
    try:
        found = _json(_plain(text))
        if isinstance(found, dict):
            found = cast(dict[str, Any], found).get(key)
        if type(found) is not int or not low <= found <= high:
            raise _Unusable(f"no whole number from {low} to {high} under {key!r}")
    except _Unusable as why:
        return Failure(reason=str(why), text=text)
    return found


def read_explanation(text: str) -> tuple[str, str | None] | Failure:
    """The explanation and the reasoning before it, if any.

    Args:
        text: the reply: JSON with `explanation` (and `reasoning`), in a code fence or not, or a
            text whose last part is `[EXPLANATION]: ...`. What a model says around its JSON is
            ignored if it does not explain again.
    """
    try:
        plain = _plain(text)
        found = _json(plain) or _only_object(plain)
        if isinstance(found, dict):
            fields = cast(dict[str, Any], found)
            reasoning = fields.get("reasoning")
            spoken = reasoning.strip() or None if isinstance(reasoning, str) else None
            return _words(fields.get("explanation")), spoken
        tagged = _TAGGED.search(plain)
        if tagged is None or found is not None:
            raise _Unusable("neither JSON with 'explanation' nor a line [EXPLANATION]: ...")
        if "[EXPLANATION]" in tagged[1].upper():
            raise _Unusable("more than one [EXPLANATION]")
        return _words(tagged[1]), plain[: tagged.start()].strip() or None
    except _Unusable as why:
        return Failure(reason=str(why), text=text)


def _words(value: object) -> str:
    """A text that can be kept: neither empty nor endless, and valid Unicode."""
    if not isinstance(value, str):
        raise _Unusable("'explanation' is missing or no text")
    words = " ".join(value.split())
    if not words:
        raise _Unusable("the explanation is empty")
    if len(words) > LONGEST_EXPLANATION:
        raise _Unusable(f"the explanation has {len(words):,} characters")
    try:
        words.encode()
    except UnicodeEncodeError:
        raise _Unusable("the explanation is no valid Unicode") from None
    return words


def _plain(text: str) -> str:
    if not text.strip():
        raise _Unusable("empty reply")
    if len(text) > LONGEST:
        raise _Unusable(f"the reply has {len(text):,} characters")
    fenced = _FENCE.match(text)
    return (fenced[1] if fenced else text).strip()


def _json(text: str) -> object:
    """What the text says if all of it is JSON, else None."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None


def first_object(text: str) -> tuple[dict[str, Any], int, int] | None:
    """The first JSON object that stands whole in a text, with where it begins and ends.

    Models put fences and prose around what they were asked for; what they mean is the JSON. A key
    that comes twice, or NaN, makes it none.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)
    for match in islice(re.finditer(r"\{", text), _STARTS):
        try:
            found, end = decoder.raw_decode(text, match.start())
        except (RecursionError, _Unusable):
            return None  # brackets without end: the next ones would take as long
        except ValueError:
            continue
        return found, match.start(), end
    return None


def _only_object(text: str) -> object:
    """The JSON object inside a text, if nothing around it explains as well."""
    one = first_object(text)
    if one is None:
        return None
    found, start, end = one
    before, after = text[:start].lower(), text[end:].lower()
    twice = '"explanation"' in before or "[explanation]" in before or "explanation" in after
    return None if twice else found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        raise _Unusable("a key comes twice")
    return out


def _no_constant(word: str) -> float:
    raise _Unusable(f"{word} is no number")


def _only_list(text: str) -> object:
    """The list in a text with exactly one opening and one closing square bracket."""
    if text.count("[") != 1 or text.count("]") != 1 or text.index("[") > text.index("]"):
        raise _Unusable("no single list in the reply")
    return _json(text[text.index("[") : text.index("]") + 1])


def number_weights(
    reply: Reply, count: int, options: Sequence[str]
) -> list[dict[str, float]] | None:
    """Of each number of a list reply, how probable each option was, normalised over the options.

    Args:
        reply: with its tokens and their alternatives; the numbers are those after the first `[`, or
            after the first `:` if there is none.
        count: how many numbers.
        options: written out, e.g. `("0", "1")`.

    Returns:
        for each number option to probability; None if the tokens do not give them for all numbers.
    """
    text = "".join(choice.token for choice in reply.choices)
    if not reply.choices or text.strip() != reply.text.strip():
        return None
    start = max(text.find("["), text.find(":") if "[" not in text else 0)
    spans = [match.start() for match in _NUMBER.finditer(text, max(start, 0))]
    if len(spans) != count:
        return None
    out = [_weights_at(reply, place, options) for place in spans]
    return None if any(one is None for one in out) else cast(list[dict[str, float]], out)


def _weights_at(reply: Reply, place: int, options: Sequence[str]) -> dict[str, float] | None:
    """Weights of the options in the token that holds the character at `place`."""
    first = 0
    for choice in reply.choices:
        if place < first + len(choice.token):
            before = choice.token[: place - first].strip()
            known = {**choice.alternatives, choice.token: choice.logprob}
            return _weights(known, before, options)
        first += len(choice.token)
    return None


def _weights(
    known: Mapping[str, float], before: str, options: Sequence[str]
) -> dict[str, float] | None:
    mass = dict.fromkeys(options, 0.0)
    for token, logprob in known.items():
        word = token.strip().removeprefix(before).strip()
        number = _NUMBER.match(word)
        if number and number[0] in mass and not math.isnan(logprob):
            mass[number[0]] += math.exp(min(logprob, 0.0))
    total = sum(mass.values())
    return {key: value / total for key, value in mass.items()} if total > 0 else None
