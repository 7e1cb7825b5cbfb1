"""What an architecture may have besides `Architecture`: changes that no gradient makes.

A module that has a function of one of these names is such an architecture. All are functions of
their arguments alone, so that a resumed training ends as one that was never stopped.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from reseed.sae.architecture import Batches, Parameters


@runtime_checkable
class Fits(Protocol):
    """Parameters that are found from rows at once, without steps: PCA and the like."""

    def fit(self, p: Parameters, spec: Any, init_seed: int, batches: Batches) -> Parameters:
        """New values of some parameters, found once, before the first step."""
        ...


@runtime_checkable
class Settles(Protocol):
    """Parameters that depend on all others as they are in the end: a threshold."""

    def settle(self, p: Parameters, spec: Any, batches: Batches) -> Parameters:
        """New values of some parameters, found once, after the last step."""
        ...


@runtime_checkable
class Projects(Protocol):
    """Parameters that are held to a set."""

    def project(self, p: Parameters, spec: Any) -> None:
        """Bring parameters back, in place, after every step."""
        ...
