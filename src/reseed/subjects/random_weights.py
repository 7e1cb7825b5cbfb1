"""The same architecture with random weights, as it is before any training."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from reseed.errors import SpecError
from reseed.seeds import generator


@contextmanager
def seeded(seed: int, devices: Sequence[torch.device] = ()) -> Generator[None, None, None]:
    """Torch draws from this seed inside the block, and goes on as before after it.

    Args:
        seed: of the random weights.
        devices: that draw besides the CPU, e.g. graphics cards.
    """
    number = int(generator("random-weights", seed).integers(2**62))
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(number)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield


def randomise(module: nn.Module, seed: int) -> None:
    """Give every weight of a module a new random value, in place.

    Each submodule is reset by its `reset_parameters` (some of torch's own call it
    `_reset_parameters`), children before their parents, which so have the last word.

    Args:
        module: any.
        seed: decides the values, and nothing else does.

    Raises:
        SpecError: if some weights belong to a submodule that cannot reset them.
    """
    for path, part in module.named_modules():
        own = [name for name, _ in part.named_parameters(recurse=False)]
        if own and _reset(part) is None:
            where = f"{path or 'the module itself'} ({type(part).__name__})"
            raise SpecError(
                f"random weights: {where} has the weights {', '.join(own)} and no method "
                "reset_parameters(), so it is not known how they start. Give its class one, or do "
                "without random weights."
            )
    cards = {p.device for p in module.parameters() if p.device.type == "cuda"}
    with seeded(seed, sorted(cards, key=str)), torch.no_grad():
        for part in reversed(list(module.modules())):
            reset = _reset(part)
            if reset is not None:
                reset()


def _reset(part: nn.Module) -> Callable[[], None] | None:
    for name in ("reset_parameters", "_reset_parameters"):
        found: Any = getattr(part, name, None)
        if callable(found):
            return cast(Callable[[], None], found)
    return None
