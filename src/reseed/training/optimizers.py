"""What turns gradients into steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from reseed.sae.specs.common import ArchitectureSpec


def make_optimizers(
    trained: Mapping[str, torch.nn.Parameter], spec: ArchitectureSpec
) -> dict[str, torch.optim.Optimizer]:
    """Optimisers that together update every parameter once, by the name of their kind.

    Their learning rate is set before each step.

    Args:
        trained: parameters by name.
        spec: says which optimiser.
    """
    # betas .9 and .999, epsilon 1e-8: torch's defaults, which the recipe of 2501.16615 keeps
    return {"adam": torch.optim.Adam(trained.values(), fused=True)}
