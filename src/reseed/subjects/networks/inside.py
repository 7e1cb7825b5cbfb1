"""The tensor in what passes a site, which may be a tuple, a dict or a record of them."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from reseed.errors import SubjectError

Step = int | str
"""Into a tuple, or into a dict or record."""


def steps_of(where: str) -> tuple[Step, ...]:
    """The way that `[1].logits` names."""
    return tuple(int(i) if i else name for i, name in re.findall(r"\[(\d+)\]|\.(\w+)", where))


def part_of(value: object, steps: Sequence[Step], site: str) -> object:
    """What lies at the end of a way.

    Raises:
        SubjectError: if the way leads nowhere; the message says what is there.
    """
    for step in steps:
        there = _parts(value)
        if step not in there:
            names = ", ".join(map(str, there)) or "no parts"
            raise SubjectError(
                f"site {site!r}: what passes there has no part {step!r}; it is a "
                f"{type(value).__name__} with {names}. Name one of these, as :out[1] or :out.name."
            )
        value = there[step]
    return value


def with_part(value: object, steps: Sequence[Step], new: object) -> object:
    """The same with another thing at the end of a way."""
    if not steps:
        return new
    step, part = steps[0], _parts(value)[steps[0]]
    inner = with_part(part, steps[1:], new)
    if isinstance(value, Mapping):
        known = cast(Mapping[Any, Any], value)
        out: Any = type(known)()  # an output class of transformers keeps its kind
        for key, old in known.items():
            out[key] = inner if key == step else old
        return out
    if isinstance(value, (tuple, list)):
        parts = list(cast(Sequence[object], value))
        parts[cast(int, step)] = inner
        if hasattr(value, "_make"):
            return cast(Any, value)._make(parts)
        return tuple(parts) if isinstance(value, tuple) else parts
    out = copy.copy(value)
    setattr(out, cast(str, step), inner)
    return out


def _parts(value: object) -> Mapping[Step, object]:
    if isinstance(value, Mapping):
        return cast(Mapping[Step, object], value)
    if isinstance(value, (tuple, list)):
        return dict(enumerate(cast(Iterable[object], value)))
    if isinstance(value, Tensor):
        return {}
    return {key: part for key, part in getattr(value, "__dict__", {}).items() if key[:1] != "_"}


def first_tensor(value: object) -> Tensor | None:
    """The first tensor of what passes a site; None if there is none."""
    key = _first(value)
    found = value if key is None else _parts(value)[key]
    return found if isinstance(found, Tensor) else None


def with_first_tensor(value: object, tensor: Tensor) -> object:
    """The same with its first tensor replaced."""
    key = _first(value)
    return with_part(value, () if key is None else (key,), tensor)


def _first(value: object) -> Step | None:
    """Where the first tensor of a tuple, list or dict lies; None if it is none of these."""
    if not isinstance(value, (Mapping, tuple, list)):
        return None
    parts = _parts(cast(object, value))
    return next((key for key, part in parts.items() if isinstance(part, Tensor)), None)
