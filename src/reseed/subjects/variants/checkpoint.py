"""Whether another checkpoint can be compared with a subject place by place."""

from __future__ import annotations

from reseed.errors import SpecError
from reseed.spec.subject import LanguageModelSpec
from reseed.subjects.language.loading import from_files
from reseed.subjects.language.model import body_without_weights


def check_same_shape(a: LanguageModelSpec, b: LanguageModelSpec, label: str) -> None:
    """Refuse a checkpoint with other shapes or other words, before weights are read.

    Special tokens may differ, since chat models add them.

    Raises:
        SpecError: with the first weight or token that differs.
        SubjectError: if one of the two cannot be found.
    """
    shapes: list[dict[str, tuple[int, ...]]] = [
        {name: tuple(value.shape) for name, value in body_without_weights(spec).named_parameters()}
        for spec in (a, b)
    ]
    differ = [n for n in {**shapes[0], **shapes[1]} if shapes[0].get(n) != shapes[1].get(n)]
    if differ:
        first = differ[0]
        there = " and ".join(str(list(s[first])) if first in s else "nothing" for s in shapes)
        raise SpecError(
            f"variant {label!r}: {b.model} is not of the shape of {a.model}; {len(differ)} weights "
            f"differ, the first is {first}: {there}. Its sites could not be compared place by "
            "place; make it a study of its own and use `reseed compare`."
        )
    words: list[dict[str, int]] = []
    special: set[str] = set()
    for spec in (a, b):
        wrapped = from_files(spec, "AutoTokenizer", "tokenizer")
        words.append(wrapped.get_vocab())
        special |= set(wrapped.all_special_tokens) | set(wrapped.get_added_vocab())
    other = [w for w, i in words[0].items() if w not in special and words[1].get(w) != i]
    if other:
        raise SpecError(
            f"variant {label!r}: {b.model} has another vocabulary than {a.model}; {len(other)} "
            f"tokens differ, the first is {other[0]!r}. It would read another text in the same "
            "ids; make it a study of its own."
        )
