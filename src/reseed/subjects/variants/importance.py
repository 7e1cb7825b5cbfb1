"""How much each structure of a language model matters: from weights, gradients, or activations.

S structures of one kind in one layer. The score of a matrix is a sum over the rows (of those that
write) or columns (of the one that reads) that belong to a structure; the score of a structure is
the sum over its matrices. Biases are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reseed.events import Events
from reseed.spec.variants import PrunedSpec
from reseed.subjects.language.activations import blocks_of
from reseed.subjects.language.blocks import TokenBlocks
from reseed.subjects.language.model import model_inputs
from reseed.subjects.sites import read_sites
from reseed.subjects.variants.anatomy import Part, StructureSet, matrix

Scores = dict[str, NDArray[np.float64]]
"""Key of structures to `[S]`."""

Loss = Callable[[int], Tensor]
"""From the number of a block of text to its mean cross-entropy."""

_LEAST = 1e-30


def scaled(scores: Mapping[str, NDArray[np.float64]]) -> Scores:
    """Scores with mean 1 among the structures of one kind in one layer."""
    return {key: each / max(float(each.mean()), _LEAST) for key, each in scores.items()}


def fused(vector: Mapping[str, Any], element: Mapping[str, Any]) -> Scores:
    """SAAP-style (arXiv 2412.15127): both with mean 1 within a layer and kind, averaged.

    Uncertainty weights, `I_v / (2 s_v^2) + I_e / (2 s_e^2) + log s_v s_e` with s learned, have
    their optimum at `s^2 = mean I`; what is left of it is this average.
    """
    v, e = scaled(vector), scaled(element)
    return {key: (v[key] + e[key]) / 2 for key in v}


def by_magnitude(body: nn.Module, structures: Sequence[StructureSet]) -> Scores:
    """Root mean square of the weights of each structure."""
    return {
        there.key: np.sqrt(
            _summed(there, lambda part: matrix(body.get_submodule(part.path)).float() ** 2)
            / sum(_size(body, part) for part in there.parts)
        )
        for there in structures
    }


def _size(body: nn.Module, part: Part) -> int:
    shape = matrix(body.get_submodule(part.path)).shape
    return part.at.shape[1] * shape[0 if part.reads else 1]


def _summed(
    there: StructureSet, numbers: Callable[[Part], Tensor], inside: bool = False
) -> NDArray[np.float64]:
    """[S] of a number for each weight: summed over rows or columns, with `inside` in magnitude."""
    total = np.zeros(there.count)
    for part in there.parts:
        each = numbers(part).double().sum(0 if part.reads else 1)
        total += (each.abs() if inside else each).cpu().numpy()[part.at].sum(1)
    return total


class Taylor(NamedTuple):
    """What taking out a structure would change in the loss, by the first and second order."""

    vector: Scores
    """sum over rows or columns of |sum g w|"""
    element: Scores
    """sum over weights of |g w - h w^2 / 2|, h the mean of g^2 over blocks (diagonal Fisher)"""
    spread: Scores
    """standard deviation of the fused score of single blocks, as a share of its mean"""


def by_gradient(
    body: nn.Module,
    structures: Sequence[StructureSet],
    blocks: Sequence[int],
    loss: Loss,
    events: Events,
) -> Taylor:
    """Importances of LLM-Pruner (arXiv 2305.11627, equations 3 and 5) from gradients of blocks.

    Args:
        body: whose weights are differentiated; `loss` goes through it.
        structures: of the body.
        blocks: one at a time goes through.
        loss: see `Loss`.
        events: progress.
    """
    layers = {part.path: body.get_submodule(part.path) for s in structures for part in s.parts}
    weights: dict[str, Any] = {path: layer.weight for path, layer in layers.items()}
    values = {path: matrix(layer).float() for path, layer in layers.items()}
    first = {path: torch.zeros_like(value) for path, value in values.items()}
    second = {path: torch.zeros_like(value) for path, value in values.items()}
    single: list[Scores] = []
    with events.task("gradients", len(blocks), "blocks") as task, _differentiated(weights):
        for block in blocks:
            loss(block).backward()
            now = {path: _gradient(layer) for path, layer in layers.items()}
            single.append(fused(*_importances(structures, values, now, None)))
            for path, gradient in now.items():
                first[path] += gradient / len(blocks)
                second[path] += gradient**2 / len(blocks)
            task.advance(1)
    spread: Scores = {}
    for key in single[0]:
        each = np.array([one[key] for one in single])
        spread[key] = each.std(0) / np.maximum(each.mean(0), _LEAST)
    return Taylor(*_importances(structures, values, first, second), spread)


@contextmanager
def _differentiated(weights: Mapping[str, nn.Parameter]) -> Generator[None, None, None]:
    """Inside, gradients of these weights are kept; afterwards of none."""
    for weight in weights.values():
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
            weight.grad = None


def _gradient(layer: nn.Module) -> Tensor:
    """[outputs, inputs], taken from the layer."""
    weight: Any = layer.weight
    gradient, weight.grad = weight.grad.float(), None
    return gradient if isinstance(layer, nn.Linear) else gradient.T


def _importances(
    structures: Sequence[StructureSet],
    values: Mapping[str, Tensor],
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor] | None,
) -> tuple[Scores, Scores]:
    """Vector-wise and element-wise; without a mean of squares, those of the gradient itself."""

    def product(part: Part) -> Tensor:
        return first[part.path] * values[part.path]

    def change(part: Part) -> Tensor:
        linear = product(part)
        if second is None:
            return (linear - linear**2 / 2).abs()
        return (linear - second[part.path] * values[part.path] ** 2 / 2).abs()

    vector = {there.key: _summed(there, product, inside=True) for there in structures}
    return vector, {there.key: _summed(there, change) for there in structures}


def by_taylor(taylor: Taylor, variant: PrunedSpec) -> Scores:
    """The score that a variant names, with mean 1 within a layer and kind but for `fluctuation`."""
    if variant.method == "taylor_vector":
        return scaled(taylor.vector)
    if variant.method == "taylor_element":
        return scaled(taylor.element)
    score = fused(taylor.vector, taylor.element)
    if not variant.fluctuation:
        return score
    return {key: each / (1 + taylor.spread[key]) for key, each in score.items()}


class Given(NamedTuple):
    """What a matrix that reads structures is given, over the kept positions of some text."""

    mean: NDArray[np.float64]
    """[inputs]"""
    variance: NDArray[np.float64]
    """[inputs]"""


def inputs_of_readers(
    body: nn.Module,
    structures: Sequence[StructureSet],
    text: TokenBlocks,
    blocks: Sequence[int],
    events: Events,
) -> dict[str, Given]:
    """Key of structures to what their reader is given; forward passes, one block at a time."""
    sites = {there.key: f"{there.reader}:in" for there in structures}
    sums: dict[str, Any] = dict.fromkeys(sites, 0.0)
    squares: dict[str, Any] = dict.fromkeys(sites, 0.0)
    rows = 0
    with events.task("inputs of layers", len(blocks), "blocks") as task:
        for block in blocks:
            ids, keep, attention = blocks_of(text, [block])
            inputs = model_inputs(body, ids, attention)
            read = read_sites(body, list(sites.values()), partial(body, **inputs))
            rows += int(keep.sum())
            for key, site in sites.items():
                x = read[site].reshape(*keep.shape, -1)[keep.to(read[site].device)].double()
                sums[key] += x.sum(0).cpu().numpy()
                squares[key] += (x**2).sum(0).cpu().numpy()
            task.advance(1)
    out: dict[str, Given] = {}
    for key in sites:
        mean = sums[key] / rows
        out[key] = Given(mean, np.maximum(squares[key] / rows - mean**2, 0.0))
    return out


def by_fluctuation(
    body: nn.Module, structures: Sequence[StructureSet], given: Mapping[str, Given]
) -> Scores:
    """FLAP's measure (arXiv 2312.11983, "WIFV"): variance of an input times its squared weights.

    As in its authors' code: squared for attention, standardised among the inputs of a layer and
    kind, and then averaged over those of a structure. A mean of many standardised numbers is near
    0, so heads go later than the least channels.
    """
    out: Scores = {}
    for there in structures:
        weights = matrix(body.get_submodule(there.reader)).double().cpu()
        each = given[there.key].variance * (weights**2).sum(0).numpy()
        if there.kind == "attention":
            each = each**2
        standard = (each - each.mean()) / max(float(each.std(ddof=1)), _LEAST)
        out[there.key] = standard[there.parts[-1].at].mean(1)
    return out


def together(parts: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> Scores:
    """Named arrays of several parts as one mapping, fit for a file."""
    return {f"{part}/{key}": each for part, one in parts.items() for key, each in one.items()}


def apart(arrays: Mapping[str, NDArray[np.float64]]) -> dict[str, Scores]:
    """What was put `together`."""
    out: dict[str, Scores] = {}
    for name, each in arrays.items():
        part, _, key = name.partition("/")
        out.setdefault(part, {})[key] = each
    return out
