"""What a module is called with, how many samples that is, and which positions are padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from reseed.errors import SubjectError

Batch: TypeAlias = Tensor | Sequence[Any] | Mapping[str, Any]
"""Inputs of one call: a tensor, positional arguments, or keyword arguments."""


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes."""
    some = next(module.parameters(), None)
    return torch.device("cpu") if some is None else some.device


def arguments(batch: Batch, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments of a call, on a device."""

    def there(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    if isinstance(batch, Tensor):
        return [there(batch)], {}
    if isinstance(batch, Mapping):
        return [], {key: there(value) for key, value in batch.items()}
    return [there(value) for value in batch], {}


def samples_in(batch: Batch, index: int) -> int:
    """B, the leading size of the first tensor of a batch.

    Raises:
        SubjectError: if there is none.
    """
    args, kwargs = arguments(batch, torch.device("cpu"))
    for value in [*args, *kwargs.values()]:
        if isinstance(value, Tensor) and value.ndim > 0 and len(value) > 0:
            return len(value)
    raise SubjectError(
        f"batch {index} has no tensor with a leading dimension, so it is unknown how many samples "
        "it has. Give tensors, tuples of tensors, or dicts of tensors."
    )


_PADDED = ("key_padding_mask", "src_key_padding_mask")
"""Masks of torch's own attention: true at padding."""


def real_positions(batch: Batch, site: str) -> Tensor | None:
    """[B, L] which positions of a batch are no padding for a site; None if it does not say."""
    if not isinstance(batch, Mapping):
        return None
    of_decoder = "decoder" in site.partition(":")[0].split(".") and "decoder_input_ids" in batch
    mask = batch.get("decoder_attention_mask" if of_decoder else "attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return mask.cpu() != 0
    masks = [batch.get(name) for name in _PADDED]
    padded = [m for m in masks if isinstance(m, Tensor) and m.ndim == 2 and m.dtype == torch.bool]
    return ~padded[0].cpu() if padded else None


def speaks_of(real: Tensor, shape: Sequence[int]) -> bool:
    """Whether a mask of padding `[B, L]` is of the places of a site."""
    return tuple(shape) in (tuple(real.shape), (real.numel(),))
