"""What turns gradients into steps: Adam as the paper, Muon and signum as options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from reseed.errors import SpecError
from reseed.sae.settings import ArchitectureSpec


class Signum(torch.optim.Optimizer):
    """Steps of the same size in every coordinate, by the sign of the momentum (arXiv 1802.04434).

        m <- momentum m + (1 - momentum) g,  p <- p - lr sign(m)

    The default of sparsify wraps the same in a schedule-free average; here the learning rate's
    schedule does that work.

    Args:
        parameters: to be updated.
        lr: size of a step.
        momentum: in [0, 1).
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float = 1e-3, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in cast(list[torch.nn.Parameter], group["params"]):
                if parameter.grad is None:
                    continue
                state = cast(dict[str, Tensor], self.state[parameter])
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                average = state["momentum_buffer"].lerp_(parameter.grad, 1.0 - group["momentum"])
                parameter.sub_(average.sign(), alpha=group["lr"])
        return loss


def make_optimizers(
    trained: Mapping[str, torch.nn.Parameter], spec: ArchitectureSpec
) -> dict[str, torch.optim.Optimizer]:
    """Optimisers that together update every parameter once, by the name of their kind.

    Their learning rate is set before each step.

    Args:
        trained: parameters by name.
        spec: says which optimiser.

    Raises:
        SpecError: if this torch has no Muon.
    """
    if spec.optimizer == "signum":
        return {"signum": Signum(trained.values())}
    if spec.optimizer == "muon":
        matrices = [p for p in trained.values() if p.ndim == 2]
        others = [p for p in trained.values() if p.ndim != 2]
        return {
            **({"muon": _muon(matrices)} if matrices else {}),
            **({"adam": torch.optim.Adam(others, fused=True)} if others else {}),
        }
    # betas .9 and .999, epsilon 1e-8: torch's defaults, which the recipe of 2501.16615 keeps
    return {"adam": torch.optim.Adam(trained.values(), fused=True)}


def _muon(matrices: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Momentum made orthogonal by Newton-Schulz, scaled to the size of Adam's steps (2502.16982).

    Without weight decay, which `weight_l2` is for.
    """
    kind: Any = getattr(torch.optim, "Muon", None)
    if kind is None:
        raise SpecError(
            f'optimizer = "muon" needs torch 2.9 or newer, this is {torch.__version__}; '
            'upgrade torch or take optimizer = "adam"'
        )
    return kind(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
