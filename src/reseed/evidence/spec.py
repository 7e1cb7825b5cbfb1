"""What a study says about evidence, and where it lies. Read without torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from reseed.records import Spec

Pair = tuple[str, str]
"""Ids of two runs."""


class EvidenceSpec(Spec):
    """What is kept of each latent's firing on held-out tokens."""

    contexts: Annotated[int, Field(ge=0)] = 6
    """Strongest contexts kept of each latent, each from another block."""
    before: Annotated[int, Field(ge=0)] = 20
    """Tokens shown before the strongest one."""
    after: Annotated[int, Field(ge=0)] = 8
    """Tokens shown after it."""
    through_tokens: Annotated[int, Field(ge=0)] = 0
    """Held-out tokens on which the subject predicts with each reconstruction in place; 0 for none,
    since a pass through the whole subject is needed for every run."""


def through_name(run: str) -> str:
    """Name of the piece with what a run's reconstructions do to the subject's predictions."""
    return f"through/{run}"


def evidence_name(run: str) -> str:
    """Name of the piece with the evidence of a run."""
    return f"evidence/{run}"


def cofiring_name(pair: Pair) -> str:
    """Name of the piece with how the matched latents of two runs fire together."""
    return f"cofiring/{pair[0]}--{pair[1]}"
