"""Adam's moments of the fast ways to make a step, under the names that the plain way uses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from reseed.sae.architecture import Parameters


class Moments:
    """First and second moments of what is trained, and how many steps were made.

    Args:
        parameters: of the run.
        trained: names of those that are trained.
    """

    def __init__(self, parameters: Parameters, trained: frozenset[str]) -> None:
        self._of = {
            name: (torch.zeros_like(p), torch.zeros_like(p))
            for name, p in parameters.items()
            if name in trained
        }
        self.made = 0

    def __contains__(self, name: str) -> bool:
        return name in self._of

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        return self._of[name]

    def state(self) -> dict[str, Tensor]:
        """See `Step.state`."""
        out: dict[str, Tensor] = {}
        for name, (first, second) in self._of.items():
            out[f"adam.{name}.step"] = torch.tensor(float(self.made))
            out[f"adam.{name}.exp_avg"] = first
            out[f"adam.{name}.exp_avg_sq"] = second
        return out

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Step.restore`.

        Raises:
            KeyError: if it is the state of another run.
        """
        for name, (first, second) in self._of.items():
            self.made = int(state[f"adam.{name}.step"])
            first.copy_(state[f"adam.{name}.exp_avg"])
            second.copy_(state[f"adam.{name}.exp_avg_sq"])
