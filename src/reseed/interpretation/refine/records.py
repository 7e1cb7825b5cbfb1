"""How explanations are searched for, and what a search found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from reseed.interpretation.records import Explanation, Failure, Latent, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """An explanation in the tree."""

    number: int
    """in the order of scoring; 0 is where the search started"""
    parent: int | None
    depth: int
    explanation: Explanation
    score: Score | Failure
    calls: int
    """made for this latent when its score was known"""

    @property
    def value(self) -> float:
        """Its score; minus infinity if it has none, so that it is never chosen."""
        return self.score.value if isinstance(self.score, Score) else -np.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """The tree of one latent, its best explanation, and what the judge said."""

    of: Latent
    nodes: tuple[Node, ...]
    best: Node
    """with the best score on the examples of the search; the first of equals"""
    judged: dict[int, Score | Failure]
    """number of each node that was the best for a while to its score on the judge's examples"""
    calls: int
    """of the search, at most the budget"""
    judge_calls: int
    duplicates: int
    """refinements that said what another had said"""
    failures: tuple[Failure, ...]
    """of the refiner and the scorer"""
    ended: Literal["enough", "budget", "searched"]
    """what stopped it; `searched` if the tree has no more"""

    @property
    def gain(self) -> float:
        """On the examples of the search; too good, the more the larger the tree."""
        return self.best.value - self.nodes[0].value

    @property
    def judge_gain(self) -> float | None:
        """On examples that the search did not see; None if the judge failed."""
        start, best = self.judged[0], self.judged[self.best.number]
        if isinstance(start, Failure) or isinstance(best, Failure):
            return None
        return best.value - start.value
