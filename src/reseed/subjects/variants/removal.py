"""Which structures of a model are taken out, chosen once and kept; and taking them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reseed.errors import SpecError
from reseed.seeds import generator
from reseed.spec.variants import PrunedSpec
from reseed.subjects.variants.anatomy import StructureSet, matrix, take_out
from reseed.subjects.variants.importance import Given, Scores

Taken = dict[str, NDArray[np.int64]]
"""Key of structures to the numbers of those that are taken out."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What is taken out of a model, and what is put back for it."""

    taken: Taken
    bias: Mapping[str, NDArray[np.float32]]
    """key of structures to `[outputs]`, added to what their reader gives"""
    about: Mapping[str, Any]
    """share of the parameters of all structures, and how many parameters and structures"""


def choose(
    structures: Sequence[StructureSet], scores: Scores, share: float, variant: PrunedSpec
) -> Taken:
    """The structures of least importance that together have a share of all their parameters.

    They are taken in order; one that would go beyond the share is stepped over, so that heads and
    channels together come within the smallest of them. One structure of a layer and kind stays.

    Raises:
        SpecError: if a protected layer is not there, or too few structures may go.
    """
    left = _may_go(structures, variant)
    key = np.repeat(np.arange(len(structures)), [there.count for there in structures])
    number = np.concatenate([np.arange(there.count) for there in structures])
    score = np.concatenate([scores[there.key] for there in structures])
    sizes = np.array([there.parameters for there in structures])
    budget = round(share * sum(there.parameters * there.count for there in structures))
    if budget > (sizes * left).sum():
        raise SpecError(
            f"variant {variant.label!r}: share = {share:g} is not there to be taken: with protect "
            f"= {list(variant.protect)}, and one structure of each kind in each layer kept, "
            f"{most_share(structures, variant):.3f} is the most"
        )
    chosen: list[int] = []
    for place in np.argsort(score, kind="stable").tolist():
        of = key[place]
        if left[of] and sizes[of] <= budget:
            chosen.append(place)
            left[of] -= 1
            budget -= int(sizes[of])
    at = np.array(chosen, np.int64)
    return {
        there.key: np.sort(number[at[key[at] == n]])
        for n, there in enumerate(structures)
        if (key[at] == n).any()
    }


def most_share(structures: Sequence[StructureSet], variant: PrunedSpec) -> float:
    """Share of the parameters of all structures that may go at the most."""
    sizes = np.array([there.parameters for there in structures])
    counts = np.array([there.count for there in structures])
    return float((sizes * _may_go(structures, variant)).sum() / (sizes * counts).sum())


def _may_go(structures: Sequence[StructureSet], variant: PrunedSpec) -> NDArray[np.int64]:
    """How many of each kind in each layer may go."""
    layers = 1 + max(there.layer for there in structures)
    for layer in variant.protect:
        if not -layers <= layer < layers:
            raise SpecError(
                f"variant {variant.label!r}: protect has layer {layer}, but the model has {layers} "
                f"layers, 0 to {layers - 1}"
            )
    whole = {layer % layers for layer in variant.protect}
    return np.array([0 if s.layer in whole else s.count - 1 for s in structures])


def random_order(structures: Sequence[StructureSet], seed: int) -> Scores:
    """Scores in a random order; what a smaller share takes out, a larger one does nearly all."""
    draw = generator("random-structures", seed)
    order = iter(draw.permutation(sum(there.count for there in structures)).tolist())
    return {
        there.key: np.array([next(order) for _ in range(there.count)], np.float64)
        for there in structures
    }


def put_back(
    body: nn.Module, structures: Sequence[StructureSet], taken: Taken, given: Mapping[str, Given]
) -> dict[str, NDArray[np.float32]]:
    """What the readers lose on average, `W x mean` of what is taken out (FLAP, equation 5)."""
    out: dict[str, NDArray[np.float32]] = {}
    for there in structures:
        if there.key in taken:
            at = there.parts[-1].at[taken[there.key]].ravel()
            weights = matrix(body.get_submodule(there.reader)).double().cpu().numpy()
            lost: NDArray[np.float64] = weights[:, at] @ given[there.key].mean[at]
            out[there.key] = lost.astype(np.float32)
    return out


def apply_removal(body: nn.Module, structures: Sequence[StructureSet], removal: Removal) -> None:
    """Take structures out of a body, in place; where none is, no weight is touched."""
    for there in structures:
        if there.key not in removal.taken:
            continue
        take_out(body, there, removal.taken[there.key])
        if there.key in removal.bias:
            reader: Any = body.get_submodule(there.reader)
            more: Tensor = torch.from_numpy(removal.bias[there.key]).to(reader.weight)
            if reader.bias is None:
                reader.bias = nn.Parameter(more, requires_grad=False)
            else:
                reader.bias.data += more


def told(structures: Sequence[StructureSet], taken: Taken) -> dict[str, Any]:
    """`share` of the parameters of all structures, `parameters`, and `structures` of each kind."""
    total = sum(there.parameters * there.count for there in structures)
    gone = {there.key: len(taken.get(there.key, ())) for there in structures}
    parameters = sum(there.parameters * gone[there.key] for there in structures)
    kinds = {there.kind: 0 for there in structures}
    for there in structures:
        kinds[there.kind] += gone[there.key]
    return {"share": parameters / total, "parameters": parameters, "structures": kinds}


def files_of(removal: Removal) -> dict[str, Any]:
    """What a piece of the store holds of it."""
    taken = {key: which.tolist() for key, which in removal.taken.items()}
    return {
        "removed.json": {"taken": taken, **removal.about},
        "bias.safetensors": dict(removal.bias),
    }
