"""Which settings the results of a study depend on, and what was edited since."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reseed.spec.study import StudySpec

BY_RUN = (
    "activations", "sae", "seeds", "training", "matching", "evidence", "stability", "controls",
)  # fmt: skip
"""Tables that `reseed run` reads, beside those that decide the activations."""

MADE_BY = dict.fromkeys(BY_RUN, "reseed run") | {
    "interpretation": "reseed explain` and `reseed score",
    "calibration": "reseed calibrate",
}
"""Table to the command that makes results of it."""

_ELSEWHERE = {
    "activations": {"tokens", "held_out", "dtype", "mix_blocks", "keep", "cache", "shard_blocks"},
    "training": {"checkpoint_tokens", "threads"},
    "interpretation": {"budget"},
}
"""Keys that decide no result, or that the study's `data.json` holds already."""


_NEWER = {"init_noise": 0.0, "init_sha256": None, "center": False}
"""Keys of `[[sae]]` that results from before there were these do not name."""


def settings_of(spec: StudySpec) -> dict[str, Any]:
    """Table to its settings, of all in `MADE_BY`."""
    every = spec.model_dump(mode="json")
    for table, keys in _ELSEWHERE.items():
        if every[table] is not None:
            every[table] = {key: value for key, value in every[table].items() if key not in keys}
    for table, sae in zip(every["sae"], spec.sae, strict=True):
        unset = [name for name, value in _NEWER.items() if table[name] == value]
        for name in [*unset, *(["init"] if sae.published else [])]:  # a path may change
            del table[name]
    return {table: every[table] for table in MADE_BY}


def differences(there: Any, wanted: Any, at: str = "") -> Iterator[str]:
    """A line for each value that differs, with its place."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in sorted(there.keys() | wanted.keys()):
            yield from differences(there.get(key), wanted.get(key), f"{at}.{key}".strip("."))
    elif _tables(there) and _tables(wanted) and len(there) == len(wanted):
        for number, (old, new) in enumerate(zip(there, wanted, strict=True)):
            yield from differences(old, new, f"{at}[{number}]")
    elif there != wanted:
        yield f"{at}: there {there!r}, now {wanted!r}"


def _tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def edited(made_with: dict[str, Any], spec: StudySpec) -> list[str]:
    """Sentences about settings that results were made with and that the spec has otherwise."""
    now, out = settings_of(spec), list[str]()
    for table, settings in made_with.items():
        lines = list(differences(settings, now.get(table), table))
        if lines:
            out.append(
                f"[{table}] was edited after these results were made ({'; '.join(lines)}). What is "
                f"shown is still of the old settings; `{MADE_BY.get(table, 'reseed run')}` makes "
                "what is new."
            )
    return out
