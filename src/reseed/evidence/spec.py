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
    examples: Annotated[int, Field(ge=0)] = 20
    """Windows kept of each latent for each use (explain, score, judge) and of each kind (firing,
    random, neighbour); 0 for none."""
    window: Annotated[int, Field(ge=2, le=4096)] = 32
    """Tokens in a window at the most."""
    strongest: Annotated[int, Field(ge=0)] = 5
    """Strongest windows kept for explaining besides the sample; at most `examples`."""
    neighbours: Annotated[int, Field(ge=0)] = 4
    """Nearest latents, by cosine of decoder rows, whose firing makes hard negatives."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides which documents are for which use, and which windows are drawn."""
    toy_text: bool = False
    """Show samples of the toy as text that names the features that fire; it has none otherwise."""


def through_name(run: str) -> str:
    """Name of the piece with what a run's reconstructions do to the subject's predictions."""
    return f"through/{run}"


def evidence_name(run: str) -> str:
    """Name of the piece with the evidence of a run."""
    return f"evidence/{run}"


def cofiring_name(pair: Pair) -> str:
    """Name of the piece with how the matched latents of two runs fire together."""
    return f"cofiring/{pair[0]}--{pair[1]}"
