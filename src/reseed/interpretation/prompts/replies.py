"""From what a model replied to what was asked for, or to a failure that keeps the text.

One pydantic model for each kind of reply is both the JSON schema that a server gets and the reader
of what comes back. Code fences, prose and `<think>` blocks around the JSON are passed over. Nothing
is guessed or filled in: a list of the wrong length, a number in quotes, NaN, a key that comes twice
or two answers in one reply are failures.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, islice
from typing import Annotated, Any, TypeVar, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model

from reseed.interpretation.records import Failure, Reply

LONGEST = 20_000
"""Characters of a reply that are looked at; what is longer answers no question asked here."""

LONGEST_EXPLANATION = 2_000
_STARTS = 64
"""Brackets at which JSON is looked for in a reply."""

_FENCE = re.compile(r"\A\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
_TAGGED = re.compile(r"\A(.*?)(\**)\[EXPLANATION\]\**\s*:\s*\**(.*)\Z", re.DOTALL | re.IGNORECASE)
"""The tag may be set in bold, alone or with what follows."""

_NAMED = re.compile(r'["[]explanation["\]]', re.IGNORECASE)

_NUMBER = re.compile(r"\d+")


class Form(BaseModel):
    """A kind of reply. What a reply has besides these fields is ignored."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


F = TypeVar("F", bound=BaseModel)


def schema_of(form: type[BaseModel], *, closed: bool = True) -> dict[str, Any]:
    """JSON schema of a kind of reply, without the titles and defaults that pydantic adds.

    All fields are plain numbers, texts, or lists of them; a closed schema forbids further keys.
    """
    schema = form.model_json_schema()
    properties = {
        name: {key: value for key, value in part.items() if key not in ("title", "default")}
        for name, part in schema["properties"].items()
    }
    end: dict[str, Any] = {"additionalProperties": False} if closed else {}
    required = schema.get("required", [])
    return {"type": "object", "properties": properties, "required": required, **end}


def parse(reply: Reply | Failure | str, form: type[F]) -> F | Failure:
    """What a reply says; a failure is passed on.

    The reply is JSON, in a code fence or not, or prose around one JSON object. If the form has one
    field and that is no text, its bare value will do: `[0, 1]` for `{"answers": [0, 1]}`; a list
    also inside prose without other square brackets.
    """
    if isinstance(reply, Failure):
        return reply
    text = reply if isinstance(reply, str) else reply.text
    try:
        return form.model_validate(_value(text, form))
    except _Unusable as why:
        return Failure(reason=str(why), text=text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return Failure(reason=f"{where}: {first['msg'].removeprefix('Value error, ')}", text=text)


# -- kinds of replies that several questions share -------------------------------------------------


def whole_characters(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs, which JSON may hold but no file can."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _phrase(text: str) -> str:
    """A text on one line that is neither empty nor endless, nor broken."""
    words = " ".join(text.split())
    if not words:
        raise ValueError("the explanation is empty")
    if len(words) > LONGEST_EXPLANATION:
        raise ValueError(f"the explanation has {len(words):,} characters")
    if words != whole_characters(words):
        raise ValueError("the explanation is no valid Unicode")
    return words


Phrase = Annotated[str, AfterValidator(_phrase)]


class Explained(Form):
    """What a latent fires on, in words."""

    explanation: Phrase


class Reasoned(Form):
    """The same with the reasoning first, so that it can guide the explanation."""

    reasoning: Annotated[str, AfterValidator(whole_characters)]
    explanation: Phrase


def read_explanation(text: str) -> tuple[str, str | None] | Failure:
    """The explanation and the reasoning before it, if any.

    The reply is JSON as `parse` takes it, or a text that ends in one `[EXPLANATION]: ...`.
    """
    reasoned = parse(text, Reasoned)
    if not isinstance(reasoned, Failure):
        return reasoned.explanation, reasoned.reasoning.strip() or None
    explained = parse(text, Explained)
    if not isinstance(explained, Failure):
        return explained.explanation, None
    tagged = _TAGGED.match(text) if len(text) <= LONGEST else None
    if tagged is not None and len(_NAMED.findall(text)) == 1:
        phrase = tagged[3].strip().removesuffix("**") if tagged[2] else tagged[3]
        explained = parse(json.dumps({"explanation": phrase}), Explained)
        if not isinstance(explained, Failure):
            return explained.explanation, whole_characters(tagged[1]).strip() or None
    return Failure(reason=explained.reason, text=text)


@lru_cache(maxsize=256)
def numbers(key: str, count: int | None, low: int, high: int) -> type[Form]:
    """The form `{key: [...]}` of whole numbers from `low` to `high`; `{key: n}` for None."""
    kind: Any = Annotated[int, Field(ge=low, le=high)]
    if count is not None:
        kind = Annotated[list[kind], Field(min_length=count, max_length=count)]
    fields: Any = {key: (kind, ...)}
    return create_model("Numbers", __base__=Form, **fields)


def read_numbers(
    reply: Reply | Failure | str, key: str, count: int | None, low: int, high: int
) -> tuple[int, ...] | Failure:
    """What a reply of the form `numbers` says; one number for None."""
    read = parse(reply, numbers(key, count, low, high))
    if isinstance(read, Failure):
        return read
    value = getattr(read, key)
    return (value,) if count is None else tuple(value)


# -- JSON in a reply -------------------------------------------------------------------------------


class _Unusable(Exception):  # noqa: N818  (never leaves this file)
    """Why a reply is no answer."""


def _value(text: str, form: type[BaseModel]) -> object:
    """The JSON of a reply, as an object."""
    plain = _plain(text)
    fields = form.model_fields
    required = [name for name, field in fields.items() if field.is_required()]
    kind = fields[required[0]].annotation if len(fields) == 1 else str
    value = _json(plain)
    if value is None and get_origin(kind) is list:
        value = _only_list(plain)
    if value is None:
        value = _only_object(plain, required)
    if value is None:
        raise _Unusable(f"no JSON with {' and '.join(map(repr, required))} in the reply")
    return value if isinstance(value, dict) or kind is str else {required[0]: value}


def _plain(text: str) -> str:
    """The reply without what the model thought before it, and without a code fence."""
    if not text.strip():
        raise _Unusable("empty reply")
    if len(text) > LONGEST:
        raise _Unusable(f"the reply has {len(text):,} characters")
    plain = text[_thought(text) :]
    if not plain.strip():
        raise _Unusable("nothing comes after <think>")
    fenced = _FENCE.match(plain)
    return (fenced[1] if fenced else plain).strip()


def _thought(text: str) -> int:
    """Where a reply begins after a block of thoughts, whose first tag some templates swallow."""
    end = text.find("</think>")
    opened = text.lstrip().startswith("<think>")
    if end < 0:
        return len(text) if opened else 0  # cut off in the middle, or there are none
    # within JSON the tag is a piece of the text that is spoken about
    return end + len("</think>") if opened or "{" not in text[:end] else 0


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        raise _Unusable("a key comes twice")
    return out


def _no_constant(word: str) -> float:
    raise _Unusable(f"{word} is no number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_once,
    parse_constant=_no_constant,
    strict=False,  # models break lines inside a string
)


def _json(text: str) -> object:
    """What the text says if all of it is JSON, else None."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _only_object(text: str, required: Sequence[str]) -> object:
    """The first JSON object that stands whole in a text, if nothing around it answers as well."""
    for match in islice(re.finditer(r"\{", text), _STARTS):
        try:
            value, end = _DECODER.raw_decode(text, match.start())
        except (RecursionError, _Unusable):
            return None  # brackets without end: the next ones would take as long
        except ValueError:
            continue
        names = "|".join(map(re.escape, required))
        quoted = rf'["\[](?:{names})["\]]'
        before = re.search(quoted, text[: match.start()], re.IGNORECASE)
        after = re.search(rf"{quoted}|\b(?:{names})\s*:", text[end:], re.IGNORECASE)
        return None if before or after else value
    return None


def _only_list(text: str) -> object:
    """The list in a text with exactly one opening and one closing square bracket."""
    if text.count("[") != 1 or text.count("]") != 1:
        return None
    return _json(text[text.index("[") : text.index("]") + 1])


# -- probabilities ---------------------------------------------------------------------------------


def number_weights(
    reply: Reply, count: int, options: Sequence[str]
) -> Sequence[Mapping[str, float]] | None:
    """Of each number of a list reply, how probable each option was, normalised over the options.

    The numbers are those after the first `[`, or after the first `:` if there is none; None if the
    tokens of the reply and their alternatives do not give the probabilities of `count` numbers.
    """
    text = "".join(choice.token for choice in reply.choices)
    if not reply.choices or text.strip() != reply.text.strip():
        return None
    start = max(text.find("[", _thought(text)), 0 if "[" in text else text.find(":"), 0)
    places = [match.start() for match in _NUMBER.finditer(text, start)]
    weights = [_weights(reply, place, options) for place in places]
    return weights if len(places) == count and all(weights) else None


def _weights(reply: Reply, place: int, options: Sequence[str]) -> dict[str, float]:
    """Weights of the options in the token that holds the character at `place`; empty if unknown."""
    ends = list(accumulate(len(choice.token) for choice in reply.choices))
    index = bisect_right(ends, place)
    choice = reply.choices[index]
    before = choice.token[: place - ends[index] + len(choice.token)].strip()
    mass = dict.fromkeys(options, 0.0)
    for token, logprob in {**choice.alternatives, choice.token: choice.logprob}.items():
        digits = _NUMBER.match(token.strip().removeprefix(before).strip())
        if digits and digits[0] in mass and not math.isnan(logprob):
            mass[digits[0]] += math.exp(min(logprob, 0.0))
    total = sum(mass.values())
    return {key: value / total for key, value in mass.items()} if total > 0 else {}
