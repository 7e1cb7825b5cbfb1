"""The fixed parts of prompts: `texts.toml`.

Whatever is the same for all latents comes first, so that a server which keeps the prefix of prompts
reads it once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

from reseed.interpretation.records import Message
from reseed.records import Spec


class ShotWindow(NamedTuple):
    """A text of a worked example: tokens, and strengths of the marked ones by their places."""

    tokens: tuple[str, ...]
    strengths: dict[int, int]


class Shot(NamedTuple):
    """An explanation, its windows, the likely next tokens and the reasoning."""

    explanation: str
    windows: tuple[ShotWindow, ...]
    likely: str
    reasoning: str


class Task(NamedTuple):
    """A description, and texts with the right answers."""

    description: str
    texts: tuple[tuple[str, int], ...]


class IntruderShot(NamedTuple):
    """Texts, and the place of the one that does not belong."""

    texts: tuple[str, ...]
    intruder: int


class SimulateShot(NamedTuple):
    """A description, tokens, and how strongly the unit responds to each."""

    description: str
    tokens: tuple[str, ...]
    activations: tuple[int, ...]


class Texts(Spec):
    """What `texts.toml` holds: instructions, and worked examples of each."""

    explain: str
    listed: str
    logits: str
    common: str
    think: str
    explain_shots: tuple[Shot, ...]
    detect: str
    detect_shots: tuple[Task, ...]
    fuzz: str
    fuzz_shots: tuple[Task, ...]
    intruder: str
    marked: str
    intruder_shots: tuple[IntruderShot, ...]
    simulate: str
    simulate_shots: tuple[SimulateShot, ...]


TEXTS = Texts.model_validate(
    tomllib.loads(files(__name__).joinpath("texts.toml").read_text("utf-8"))
)


def turns(system: str, shots: Sequence[tuple[str, str]], last: str) -> tuple[Message, ...]:
    """A conversation: instructions, questions with their answers, and the question asked."""
    out = [Message(role="system", content=system)]
    for question, answer in shots:
        out.append(Message(role="user", content=question))
        out.append(Message(role="assistant", content=answer))
    return (*out, Message(role="user", content=last))
