"""Cross-entropy of a language model on blocks of text, and random removal that has a given one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reseed.errors import SubjectError
from reseed.events import Events
from reseed.spec.variants import PrunedSpec
from reseed.subjects.language.activations import blocks_of
from reseed.subjects.language.blocks import TokenBlocks
from reseed.subjects.language.model import model_inputs
from reseed.subjects.variants.anatomy import StructureSet, take_out
from reseed.subjects.variants.removal import Taken, choose, most_share, random_order

_NEAR = 0.005
"""Nats of cross-entropy that count as the same."""

_TRIES = 12
_FIRST = 0.05
"""Share that is tried first."""


def followed(text: TokenBlocks, block: int) -> NDArray[np.bool_]:
    """[L - 1] kept positions that a token of the same document follows."""
    document = text.document[block]
    return text.keep[block, :-1] & (document[:-1] == document[1:])


def block_loss(model: nn.Module, text: TokenBlocks, block: int) -> Tensor:
    """Mean cross-entropy in nats of the tokens that follow kept positions; NaN where none does.

    Blocks go through one at a time, so that each has one value.
    """
    ids, _, attention = blocks_of(text, [block])
    logits = model(**model_inputs(model, ids, attention)).logits[0, :-1]
    there = torch.from_numpy(followed(text, block)).to(logits.device)
    return nn.functional.cross_entropy(logits[there].float(), ids[0, 1:].to(there.device)[there])


def cross_entropies(
    model: nn.Module, text: TokenBlocks, blocks: Sequence[int], events: Events
) -> NDArray[np.float64]:
    """[blocks] of `block_loss`."""
    out = np.full(len(blocks), np.nan)
    with events.task("cross-entropy", len(blocks), "blocks") as task, torch.no_grad():
        for place, block in enumerate(blocks):
            out[place] = float(block_loss(model, text, int(block)))
            task.advance(1)
    return out


class EqualPerplexity(NamedTuple):
    """Random structures without which a model predicts as well as another one."""

    taken: Taken
    share: float
    """that was asked of `choose`"""
    cross_entropy: float
    tried: list[tuple[float, float]]
    """shares and cross-entropies"""


def match_cross_entropy(
    body: nn.Module,
    structures: Sequence[StructureSet],
    variant: PrunedSpec,
    goal: float,
    measure: Callable[[], float],
) -> EqualPerplexity:
    """Find the share of random structures without which cross-entropy is `goal`, by bisection.

    Args:
        body: of which structures are taken out and put in again; it is left whole.
        structures: of the body.
        variant: its seed is that of the order, which is the same for every share.
        goal: nats.
        measure: cross-entropy with the body as it is.

    Raises:
        SubjectError: if it is below `goal` however much is taken out.
    """
    scores = random_order(structures, variant.seed)
    tried: dict[float, float] = {}

    def at(share: float) -> float:
        if share not in tried:
            taken = choose(structures, scores, share, variant)
            tried[share] = _measured_without(body, structures, taken, measure)
        return tried[share]

    most = most_share(structures, variant) * (1 - 1e-9)
    low, high = 0.0, min(_FIRST, most)
    if at(0.0) < goal:
        while at(high) < goal and high < most:
            low, high = high, min(2 * high, most)
        if at(high) < goal - _NEAR:
            raise SubjectError(
                f"variant {variant.label!r}: taking out {most:.3f} at random, the most, gives a "
                f"cross-entropy of {at(high):.3f} nats, below the {goal:.3f} of "
                f"{variant.equal_perplexity!r}. Protect fewer layers, or take more seeds."
            )
        for _ in range(_TRIES):
            if min(abs(there - goal) for there in tried.values()) <= _NEAR:
                break
            middle = (low + high) / 2
            low, high = (middle, high) if at(middle) < goal else (low, middle)
    share = min(tried, key=lambda one: abs(tried[one] - goal))
    taken = choose(structures, scores, share, variant)
    return EqualPerplexity(taken, share, tried[share], sorted(tried.items()))


def _measured_without(
    body: nn.Module, structures: Sequence[StructureSet], taken: Taken, measure: Callable[[], float]
) -> float:
    there = [some for some in structures if some.key in taken]
    layers: dict[str, Any] = {p.path: body.get_submodule(p.path) for s in there for p in s.parts}
    kept = {
        path: {name: value.clone() for name, value in layer.state_dict().items()}
        for path, layer in layers.items()
    }
    try:
        for some in there:
            take_out(body, some, taken[some.key])
        return measure()
    finally:
        for path, layer in layers.items():
            layer.load_state_dict(kept[path])
