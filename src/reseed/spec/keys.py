"""Every key that a `study.toml` can have, from the specs themselves, as Markdown."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from copy import copy
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from reseed.errors import SpecError, nearest
from reseed.records import Spec
from reseed.sae.architectures import ARCHITECTURES
from reseed.sae.settings import ArchitectureSpec
from reseed.spec.study import StudySpec

_HEAD = """\
# Every key of `study.toml`

Made by `reseed keys` from the specs; `reseed keys training` prints one table.
`reseed init` writes a study to begin with. An unknown key is refused with the nearest known one.
"""


def keys(table: str | None = None) -> str:
    """Markdown with a section for each table, or of one table with all below it.

    Raises:
        SpecError: if there is no such table.
    """
    every = dict(_tables())
    if table is None:
        return "\n".join([_HEAD, *every.values()])
    name = table.strip("[] ")
    hits = [
        text for at, text in every.items() if at == name or at.startswith((f"{name}.", f"{name} "))
    ]
    if not hits:
        raise SpecError(f"no table {table!r} in a study; {nearest(name, every)}")
    return "\n".join(hits)


def _tables() -> Iterator[tuple[str, str]]:
    for name, field in _fields(StudySpec).items():
        if name == "sae":
            yield from _saes(field)
            continue
        yield from _of_field(name, field, name)


def _saes(field: FieldInfo) -> Iterator[tuple[str, str]]:
    """What all architectures have, its tables, then what each has besides or otherwise."""
    common = _fields(ArchitectureSpec)
    yield "sae", _section("[[sae]] of every architecture", ArchitectureSpec, field, common)
    yield from _below("sae", ArchitectureSpec, "sae")
    for name, architecture in ARCHITECTURES.items():
        spec = architecture.settings
        own = {
            key: inner
            for key, inner in _fields(spec).items()
            if key not in common or _row(key, inner) != _row(key, common[key])
        }
        yield f"sae {name}", _section(f'[[sae]] architecture = "{name}"', spec, None, own)
        extra = {key: inner for key, inner in own.items() if key not in common}
        yield from _tables_in(extra, f"sae {name}", "sae")


def _of_field(at: str, field: FieldInfo, title: str) -> Iterator[tuple[str, str]]:
    models = _models(field.annotation)
    if get_origin(field.annotation) is tuple:
        title = f"[{title}]"
    for model in models:
        tag = _tag(model) if len(models) > 1 else None
        shown = f"[{title}]" + (f' {tag[0]} = "{tag[1]}"' if tag else "")
        name = f"{at} {tag[1]}" if tag else at
        yield name, _section(shown, model, field, _fields(model))
        yield from _below(at, model, title)


def _below(at: str, model: type[BaseModel], title: str) -> Iterator[tuple[str, str]]:
    yield from _tables_in(_fields(model), at, title)


def _tables_in(fields: Mapping[str, FieldInfo], at: str, title: str) -> Iterator[tuple[str, str]]:
    for name, field in fields.items():
        if _models(field.annotation):
            yield from _of_field(f"{at}.{name}", field, f"{title}.{name}")


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a spec with the text below each; read here, since no other command needs it."""
    texts: dict[str, str] = {}
    for kind in reversed(model.__mro__[: model.__mro__.index(Spec)]):
        parsed = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        for field, text in pairwise(parsed.body if isinstance(parsed, ast.ClassDef) else ()):
            match field, text:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(words))):
                    texts[name] = words
                case _:
                    pass
    fields = {name: copy(field) for name, field in model.model_fields.items()}
    for name, field in fields.items():
        field.description = texts.get(name)
    return fields


def _section(
    title: str,
    model: type[BaseModel],
    table: FieldInfo | None,
    fields: Mapping[str, FieldInfo],
) -> str:
    about = [model.__doc__ or "", (table and table.description) or ""]
    lines = [f"## `{title}`", "", " ".join(" ".join(about).split()), ""]
    rows = [
        _row(name, field)
        for name, field in fields.items()
        if not _models(field.annotation) and not _fixed(field)
    ]
    if rows:
        lines += ["| key | what it takes | default | |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _fixed(field: FieldInfo) -> bool:
    """Whether there is one value only, which the title says."""
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def _row(name: str, field: FieldInfo) -> str:
    default = _value(field)
    limits = [*field.metadata, *_inner_limits(field.annotation)]
    bounds = ", ".join(filter(None, map(_limit, limits)))
    takes = _type(field.annotation) + (f", {bounds}" if bounds else "")
    words = " ".join((field.description or "").split())
    cells = (f"`{name}`", takes, default, words)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _value(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (tuple, frozenset, list)):
        return f"`{sorted(value) if isinstance(value, frozenset) else list(value)}`"
    return f"`{value!r}`".replace("'", '"')


def _limit(limit: Any) -> str:
    words = {
        annotated_types.Ge: ("at least", "ge"),
        annotated_types.Gt: ("above", "gt"),
        annotated_types.Le: ("at most", "le"),
        annotated_types.Lt: ("below", "lt"),
        annotated_types.MultipleOf: ("a multiple of", "multiple_of"),
    }
    for kind, (text, name) in words.items():
        if isinstance(limit, kind):
            return f"{text} {getattr(limit, name):g}"
    return ""


def _inner_limits(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, UnionType):
        return [limit for part in get_args(annotation) for limit in _inner_limits(part)]
    if get_origin(annotation) is Annotated:
        out: list[Any] = []
        for extra in get_args(annotation)[1:]:
            out += getattr(extra, "metadata", [extra])
        return out
    return []


_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false"}


def _type(annotation: Any) -> str:
    if annotation in _NAMES:
        return _NAMES[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin is Literal:
        return " or ".join(f'`"{part}"`' for part in parts)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in parts if part is not NoneType))
    if origin in (tuple, list, frozenset):
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return f"table of {_type(parts[1])}"
    return re.sub(r"Spec$", "", getattr(annotation, "__name__", str(annotation))).lower()


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        known = issubclass(annotation, BaseModel) and annotation is not ArchitectureSpec
        return [annotation] if known else []
    return [model for part in get_args(annotation) for model in _models(part)]


def _tag(model: type[BaseModel]) -> tuple[str, str] | None:
    """The key by which a table is told from others of its name, and its (first) value."""
    for key in ("kind", "method"):
        if key in model.model_fields:
            return key, str(get_args(model.model_fields[key].annotation)[0])
    return None
