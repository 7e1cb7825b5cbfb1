"""Weights of linear layers rounded to a few levels, in place; the model computes as before."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reseed.errors import SpecError, SubjectError, extra_missing
from reseed.events import Events
from reseed.spec.variants import GGUFSpec, Int4Spec, Int8Spec
from reseed.subjects.language.linear import to_int8
from reseed.subjects.variants.anatomy import is_linear, matrix

_LEVELS = 15
_GROUP = 32
"""Weights in a group of every GGUF level that is here."""


def to_int4(weights: Tensor, group: int) -> Tensor:
    """Weights `[outputs, inputs]` at the nearest of 16 levels of their group of inputs.

    Round-to-nearest with a scale and a whole zero point for each group (the baseline "RTN" of
    GPTQ, arXiv 2210.17323): levels are `scale * (q - zero)`, q from 0 to 15, over a range that is
    widened to hold 0.
    """
    outputs, inputs = weights.shape
    more = -inputs % group
    rows = torch.nn.functional.pad(weights.float(), (0, more)).view(outputs, -1, group)
    low = rows.amin(-1, keepdim=True).clamp_max(0)
    scale = (rows.amax(-1, keepdim=True).clamp_min(0) - low) / _LEVELS
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = (-low / scale).round()
    levels = (rows / scale + zero).round().clamp(0, _LEVELS)
    return ((levels - zero) * scale).view(outputs, -1)[:, :inputs].to(weights)


def to_gguf(weights: Tensor, level: str) -> Tensor:
    """Weights `[outputs, inputs]` as they come back from a level of GGUF; inputs in groups of 32.

    Raises:
        SubjectError: if the package gguf is not installed.
    """
    try:
        from gguf import GGMLQuantizationType, quants
    except ModuleNotFoundError as error:
        raise SubjectError(extra_missing(error, f"a variant of level {level}") or error) from error
    kind, quantised = GGMLQuantizationType[level], quants
    exact = np.ascontiguousarray(weights.float().cpu().numpy())
    back: Any = quantised.dequantize(quantised.quantize(exact, kind), kind)
    return torch.from_numpy(np.asarray(back, np.float32)).to(weights)


def round_weights(
    body: nn.Module, variant: Int8Spec | Int4Spec | GGUFSpec, name: str, events: Events
) -> None:
    """Round every linear layer of a body, in place, and say what was left as it is.

    Raises:
        SpecError: if there is no layer to be rounded.
    """
    layers = [layer for layer in body.modules() if is_linear(layer)]
    if isinstance(variant, Int8Spec):
        if not any(type(layer) is nn.Linear for layer in layers):
            raise _nothing(variant.label, name, "torch.nn.Linear")
        to_int8(body, name)
        return
    rounded = layers
    if isinstance(variant, GGUFSpec):
        rounded = [layer for layer in layers if matrix(layer).shape[1] % _GROUP == 0]
    if not rounded:
        raise _nothing(variant.label, name, f"linear layer with a multiple of {_GROUP} inputs")
    if len(rounded) < len(layers):
        events.say(
            f"{variant.label}: {len(layers) - len(rounded)} of {len(layers)} linear layers stay as "
            f"they are, since their inputs are no multiple of {_GROUP}"
        )
    for layer in rounded:
        weights = matrix(layer)
        if isinstance(variant, GGUFSpec):
            weights.copy_(to_gguf(weights, variant.level))
        else:
            weights.copy_(to_int4(weights, variant.group))


def _nothing(label: str, name: str, what: str) -> SpecError:
    return SpecError(
        f"variant {label!r}: {name} has no {what} whose weights could be rounded; take another "
        "method"
    )
