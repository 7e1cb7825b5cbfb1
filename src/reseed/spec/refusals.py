"""Why what a file says cannot be: Pydantic's errors as sentences for a person, all of them here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from reseed.errors import SpecError, nearest
from reseed.records import NOT_SHOWN, Spec

T = TypeVar("T", bound=Spec)


def read_spec(kind: type[T], data: Mapping[str, Any], where: str) -> T:
    """Make a spec from plain data, with messages that a person can act on.

    Args:
        kind: the record to make.
        data: what the file says.
        where: how to name this data in messages, e.g. `"study.toml"`.

    Raises:
        SpecError: naming every wrong key or value, and the nearest known key.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        items = error.errors()
        lines = [_explain(kind, item) for item in items if not _follows(item, items)]
    if len(lines) == 1:
        raise SpecError(f"{where}: {lines[0]}")
    raise SpecError(f"{where}:\n" + "\n".join(f"  {line}" for line in lines))


def _follows(item: Any, items: list[Any]) -> bool:
    """Whether it says only that a list is short of an entry that is wrong itself."""
    at = item["loc"]
    return item["type"] == "too_short" and any(
        other["loc"][: len(at)] == at and len(other["loc"]) > len(at) for other in items
    )


_MEANT = {
    "learning_rate": "lr",
    "batch_size": "batch",
    "width": "latents",
    "d_sae": "latents",
    "dict_size": "latents",
    "n_tokens": "tokens",
    "steps": "tokens",
    "seed": "init",
    "seeds": "init_seeds",
    "model_name": "model",
    "layers": "sites",
    "path": "paths",
}
"""What other libraries call a key."""

_ENGLISH = {
    "int_type": "a whole number is needed",
    "int_parsing": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "float_type": "a number is needed",
    "float_parsing": "a number is needed",
    "finite_number": "a number is needed, neither NaN nor infinite",
    "bool_type": "true or false is needed",
    "bool_parsing": "true or false is needed",
    "string_type": "a text in quotes is needed",
    "list_type": "a list in square brackets is needed",
    "tuple_type": "a list in square brackets is needed",
    "frozen_set_type": "a list in square brackets is needed",
    "dict_type": "a table is needed",
    "model_type": "a table is needed",
    "model_attributes_type": "a table is needed",
    "union_tag_not_found": "a table is needed that says which {discriminator}",
    "greater_than": "it must be greater than {gt}",
    "greater_than_equal": "it must be at least {ge}",
    "less_than": "it must be less than {lt}",
    "less_than_equal": "it must be at most {le}",
    "multiple_of": "it must be a multiple of {multiple_of}",
    "too_short": "it needs at least {min_length} entry",
    "literal_error": "it must be {expected}",
}
"""Type of an error of Pydantic's to what a person is told."""

_THOUSANDS = {"k": 3, "m": 6, "g": 9, "b": 9, "t": 12}


def _explain(kind: type[Spec], item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    sentence = _sentence(kind, item)
    return f"{place}: {sentence}" if place else sentence


def _sentence(kind: type[Spec], item: Any) -> str:
    context = item.get("ctx", {})
    if item["type"] == "extra_forbidden":
        word, owner = str(item["loc"][-1]), _owner(kind, item["loc"][:-1])
        fields = owner.model_fields if owner else {}
        meant = _MEANT.get(word)
        hint = f"did you mean {meant!r}?" if meant in fields else nearest(word, fields)
        return f"unknown key; {hint}" if owner else "unknown key"
    if item["type"] == "missing":
        return "missing"
    if item["type"] == "union_tag_invalid":
        known = [tag.strip("' ") for tag in context["expected_tags"].split(",")]
        tag, key = context["tag"], context["discriminator"].strip("_()'")
        return f"{key} {tag!r}: {nearest(tag, known)}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] in _ENGLISH:
        words = {key: str(value).strip("_()'") for key, value in context.items()}
        if item["type"] == "literal_error":
            words["expected"] = context["expected"]
        message = _ENGLISH[item["type"]].format(**words) + _as_number(item["input"])
    hidden = "context" in message or item["type"] == NOT_SHOWN or isinstance(item["input"], dict)
    return message if hidden or not item["loc"] else f"{message} (got {item['input']!r})"


def _as_number(value: Any) -> str:
    """How a number like "60k" is written in TOML."""
    hit = (
        re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgbt]?)", value.lower()) if type(value) is str else None
    )
    if hit is None:
        return ""
    number = round(float(hit[1]) * 10 ** _THOUSANDS.get(hit[2], 0))
    return f": {number:_}, without quotes"


def _owner(kind: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel] | None:
    """The record that holds the key at this path, through lists and unions."""
    for part in path:
        candidates = (
            _models_of(kind.model_fields[part].annotation) if part in kind.model_fields else [kind]
        )
        tagged = [c for c in candidates if _tags(c) & set(path)]
        tagged += [c for c in candidates if not _tags(c)]
        if not (tagged or candidates):
            return None
        kind = (tagged or candidates)[0]
    return kind


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation, *(m for kind in annotation.__subclasses__() for m in _models_of(kind))]
    return [m for a in getattr(annotation, "__args__", ()) for m in _models_of(a)]


def _tags(kind: type[BaseModel]) -> set[Any]:
    """The values by which a record is told from the others of its list."""
    for name in ("kind", "architecture", "method"):
        if name in kind.model_fields:
            return set(get_args(kind.model_fields[name].annotation))
    return set()
