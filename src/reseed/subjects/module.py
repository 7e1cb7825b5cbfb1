"""Activations of any torch module on batches of inputs.

D dimensions of a site; one batch of inputs is one block.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reseed.errors import SpecError, SubjectError, nearest
from reseed.spec.subject import ModuleSpec
from reseed.subjects.sites import read_sites, resolve_sites
from reseed.subjects.source import first_bad_row, one_after_other

Batch: TypeAlias = Tensor | Sequence[Any] | Mapping[str, Any]
"""Inputs of one call: a tensor, positional arguments, or keyword arguments."""


class ModuleSource:
    """A torch module as a `BlockSource`: each batch is a block, whatever shape its outputs have.

    Outputs `[..., D]` are flattened to rows. How many rows a batch gives is taken from the first
    batch: each of its samples (leading index of its first tensor) gives the same number. The
    module is put into eval mode, since in training mode its outputs would depend on the order of
    reading, and stays on its device.

    Padding is left out: where a batch of keyword arguments says which positions are none
    (`attention_mask`; `key_padding_mask` of torch), a site with a row for each position gives those
    alone, and batches may differ in length.

    Args:
        module: the subject.
        sites: patterns, see `resolve_sites`.
        batches: inputs; must have a length and be indexable again and again.

    Raises:
        SpecError: if a site is unknown or there is no batch.
        SubjectError: if a site gives no rows, or the sites give unequal numbers of them.
    """

    def __init__(self, module: nn.Module, sites: Sequence[str], batches: Sequence[Batch]) -> None:
        if not hasattr(batches, "__len__") or not hasattr(batches, "__getitem__"):
            kind = type(batches).__name__
            raise SpecError(
                f"batches is a {kind}, but a sequence with a length is needed, since blocks are "
                "read several times and in any order; for example list(batches)."
            )
        if len(batches) == 0:
            raise SpecError("batches is empty: there is nothing to read")
        self._module, self._batches = module.eval(), batches
        self._names = resolve_sites(module, sites)
        self.padding = 0
        """positions of all batches that are left out"""
        first = self._run(0)
        self.sites: Mapping[str, int] = {site: rows.shape[1] for site, rows in first.items()}
        self.rows: NDArray[np.int64] = self._expected(
            {site: len(rows) for site, rows in first.items()}
        )

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks; see `BlockSource.read`."""
        return one_after_other(self.sites, (self._checked(int(block)) for block in blocks))

    def _checked(self, block: int) -> dict[str, Tensor]:
        read = self._run(block)
        for site, rows in read.items():
            want = (int(self.rows[block]), self.sites[site])
            if tuple(rows.shape) != want:
                raise SubjectError(
                    f"site {site!r}: batch {block} gives {list(rows.shape)} rows and dimensions, "
                    f"{list(want)} were expected from the first batch. Every sample must give as "
                    "many rows as any other; pad or cut them to one shape, and name padding in an "
                    "attention_mask."
                )
            bad = first_bad_row(rows)
            if bad is not None:
                raise SubjectError(
                    f"site {site!r}: NaN or infinity in row {bad} of batch (block) {block}. "
                    "Look at the inputs of this batch and at the weights of the module."
                )
        return read

    def _run(self, block: int) -> dict[str, Tensor]:
        batch = self._batches[block]
        args, kwargs = _arguments(batch, _device(self._module))
        read = read_sites(self._module, self._names, lambda: self._module(*args, **kwargs))
        return {
            site: _kept(_flat(site, tensor), tensor.shape[:-1], _positions(batch, site))
            for site, tensor in read.items()
        }

    def _expected(self, counts: Mapping[str, int]) -> NDArray[np.int64]:
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{site}: {n}" for site, n in counts.items())
            raise SubjectError(
                f"the sites give unequal numbers of rows for the first batch ({shown}). Study them "
                "one at a time, or choose sites with the same leading shape."
            )
        # Not `iter`: a Dataset without __iter__ raises its own errors at the end.
        real = _positions(self._batches[0], self._names[0])
        if real is not None and next(iter(counts.values())) == int(real.sum()):
            return self._real_positions()
        samples = [_samples(self._batches[i], i) for i in range(len(self._batches))]
        total = next(iter(counts.values()))
        if total == 0 or total % samples[0]:
            raise SubjectError(
                f"site {self._names[0]!r}: {total} rows for the {samples[0]} samples of the first "
                "batch; each sample must give the same number of rows, at least one."
            )
        return np.array(samples, np.int64) * (total // samples[0])

    def _real_positions(self) -> NDArray[np.int64]:
        """[batches] positions that are no padding."""
        masks = (_positions(self._batches[i], self._names[0]) for i in range(len(self._batches)))
        counts = list[int]()
        for index, mask in enumerate(masks):
            if mask is None:
                raise SubjectError(
                    f"batch {index} has no mask of padding, but the first one has; give each its "
                    "attention_mask"
                )
            counts.append(int(mask.sum()))
            self.padding += mask.numel() - counts[-1]
        return np.array(counts, np.int64)


def open_factory(spec: ModuleSpec) -> tuple[nn.Module, Sequence[Batch]]:
    """Call the function that a `ModuleSpec` names."""
    name, colon, function = spec.factory.partition(":")
    if not (name and colon and function):
        raise SpecError(
            f"subject.factory = {spec.factory!r} is not of the form package.module:name"
        )
    try:
        imported = importlib.import_module(name)
    except ImportError as error:
        raise SpecError(
            f"subject.factory: {name} cannot be imported ({error}). "
            "Install it, or name the folder it lies in: `PYTHONPATH=FOLDER reseed ...`."
        ) from error
    factory = getattr(imported, function, None)
    if not callable(factory):
        hint = nearest(function, [key for key in vars(imported) if not key.startswith("_")])
        raise SpecError(f"subject.factory: {name} has no function {function!r}; {hint}")
    made = cast(Callable[[], object], factory)()
    if isinstance(made, tuple):
        parts = cast(tuple[Any, ...], made)
        if len(parts) == 2 and isinstance(parts[0], nn.Module):
            return parts[0], parts[1]
    raise SpecError(
        f"subject.factory: {spec.factory} gave {type(made).__name__}, but (module, batches) is "
        "needed: a torch.nn.Module and a sequence of inputs."
    )


def _device(module: nn.Module) -> torch.device:
    some = next(module.parameters(), None)
    return torch.device("cpu") if some is None else some.device


def _arguments(batch: Batch, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
    def there(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    if isinstance(batch, Tensor):
        return [there(batch)], {}
    if isinstance(batch, Mapping):
        return [], {key: there(value) for key, value in batch.items()}
    return [there(value) for value in batch], {}


def _samples(batch: Batch, index: int) -> int:
    args, kwargs = _arguments(batch, torch.device("cpu"))
    for value in [*args, *kwargs.values()]:
        if isinstance(value, Tensor) and value.ndim > 0 and len(value) > 0:
            return len(value)
    raise SubjectError(
        f"batch {index} has no tensor with a leading dimension, so it is unknown how many samples "
        "it has. Give tensors, tuples of tensors, or dicts of tensors."
    )


def _flat(site: str, tensor: Tensor) -> Tensor:
    if tensor.ndim < 2 or not tensor.is_floating_point():
        raise SubjectError(
            f"site {site!r} gives {tensor.dtype} {list(tensor.shape)}; floats [..., D] are needed"
        )
    return tensor.reshape(-1, tensor.shape[-1]).to("cpu", torch.float32)


_PADDED = ("key_padding_mask", "src_key_padding_mask")
"""Masks of torch's own attention: true at padding."""


def _positions(batch: Batch, site: str) -> Tensor | None:
    """[B, L] which positions of a batch are no padding for a site; None if it does not say."""
    if not isinstance(batch, Mapping):
        return None
    of_decoder = "decoder" in site.split(".") and "decoder_input_ids" in batch
    mask = batch.get("decoder_attention_mask" if of_decoder else "attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return mask.cpu() != 0
    masks = [batch.get(name) for name in _PADDED]
    padded = [m for m in masks if isinstance(m, Tensor) and m.ndim == 2 and m.dtype == torch.bool]
    return ~padded[0].cpu() if padded else None


def _kept(rows: Tensor, shape: Sequence[int], real: Tensor | None) -> Tensor:
    """Rows of positions that are no padding, of a site of this leading shape."""
    if real is None or tuple(shape) not in (tuple(real.shape), (real.numel(),)):
        return rows
    return rows[real.flatten()]


def harvest(
    module: nn.Module, sites: Sequence[str], batches: Sequence[Batch]
) -> dict[str, NDArray[np.float32]]:
    """Read activations of any torch module into memory.

    Args:
        module: in the mode it is to be read in.
        sites: module paths or patterns, `:in` behind for the input.
        batches: inputs; each a tensor, a tuple or a dict of keyword arguments.

    Returns:
        Site to `[N, D]`, one row for each vector that the site gives; without those of padding,
        where a batch has an `attention_mask` (see `ModuleSource`).

    Raises:
        SpecError: if a site is unknown.
        SubjectError: if activations are NaN or infinite.
    """
    source = ModuleSource(module, sites, batches)
    return {site: x.numpy() for site, x in source.read(range(len(batches))).items()}
