"""The structures of a language model that can be taken out, found among its own modules.

A structure is a channel of an MLP or a head of attention: some outputs of the matrices that write
it, and the inputs of the one matrix that reads it. Of grouped queries a structure is a key-value
head with its query heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reseed.errors import SpecError, SubjectError
from reseed.subjects.sites import read_sites

Kind = Literal["attention", "mlp"]

_ATTENTION = (
    (("q_proj", "k_proj", "v_proj"), ("o_proj", "out_proj", "dense")),
    (("c_attn",), ("c_proj",)),
    (("query_key_value",), ("dense",)),
)
_MLP = (
    (("gate_proj", "up_proj"), ("down_proj",)),
    (("up_proj",), ("down_proj",)),
    (("c_fc",), ("c_proj",)),
    (("dense_h_to_4h",), ("dense_4h_to_h",)),
    (("fc1",), ("fc2",)),
)
"""Names of the matrices that write, and names that the one that reads may have."""

_INSTEAD = "Prune it elsewhere and name the result as a checkpoint, or round its weights."


@dataclass(frozen=True, slots=True)
class Part:
    """What belongs to each structure of a layer in one matrix."""

    path: str
    """of the module, below the body"""
    at: NDArray[np.int64]
    """[structures, width] its outputs, or, of the matrix that reads, its inputs"""
    reads: bool


@dataclass(frozen=True, slots=True)
class StructureSet:
    """The structures of one kind in one layer, all of one size."""

    layer: int
    kind: Kind
    parts: tuple[Part, ...]
    """the last is the one that reads"""
    parameters: int
    """of each structure, biases of its outputs among them"""

    @property
    def key(self) -> str:
        """Name among the structures of a model."""
        return f"{self.layer}.{self.kind}"

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.parts[-1].at)

    @property
    def reader(self) -> str:
        """Path of the matrix that reads what they give."""
        return self.parts[-1].path


def matrix(layer: nn.Module) -> Tensor:
    """The weights of a linear layer as `[outputs, inputs]`; a view, not to be differentiated."""
    weight: Any = layer.weight
    return weight.data if isinstance(layer, nn.Linear) else weight.data.T


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer of torch, or the transposed one of GPT-2."""
    if isinstance(module, nn.Linear):
        return True
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def structures_of(body: nn.Module, name: str) -> list[StructureSet]:
    """All structures of a body, attention before MLP of each layer; weights are not looked at.

    Raises:
        SpecError: if a layer has weights that belong to no structure that is known.
    """
    path, blocks = _blocks(body, name)
    out: list[StructureSet] = []
    for layer, block in enumerate(blocks):
        where = f"{path}.{layer}"
        found: dict[Kind, tuple[Part, ...]] = {
            "attention": _attention(block, where),
            "mlp": _mlp(block, where),
        }
        _check_known(block, where, name, [p.path for parts in found.values() for p in parts])
        out += [StructureSet(layer, k, p, _parameters(body, p)) for k, p in found.items() if p]
    return out


def _blocks(body: nn.Module, name: str) -> tuple[str, nn.ModuleList]:
    lists = [(path, part) for path, part in body.named_modules() if type(part) is nn.ModuleList]
    config: Any = getattr(body, "config", None)
    if not lists or getattr(config, "is_encoder_decoder", False):
        raise SpecError(
            f"{name} ({type(body).__name__}) is no stack of layers, so it is not known what in it "
            f"belongs together. {_INSTEAD}"
        )
    sizes = [sum(p.numel() for p in part.parameters()) for _, part in lists]
    return lists[int(np.argmax(sizes))]


def _check_known(block: nn.Module, where: str, name: str, known: Sequence[str]) -> None:
    """Refuse a layer with matrices that are in no structure, such as those of experts."""
    every = [f"{where}.{path}" for path, weight in block.named_parameters() if weight.ndim > 1]
    unknown = [path for path in every if path.removesuffix(".weight") not in known]
    if unknown or not every:
        what = f"the weights {unknown[0]}" if unknown else "no weights"
        raise SpecError(
            f"{name}: {where} ({type(block).__name__}) has {what}, of which it is not known to "
            "which structure they belong. Heads of attention and channels of MLPs as in GPT-2, "
            f"GPT-NeoX, OPT, Phi, Llama, Mistral, Gemma and Qwen are known. {_INSTEAD}"
        )


class _Place(NamedTuple):
    owner: nn.Module
    writers: list[str]
    reader: str

    def layer(self, path: str) -> nn.Module:
        return self.owner.get_submodule(path.rpartition(".")[2])


def _place(block: nn.Module, where: str, known: Sequence[tuple[Any, Any]]) -> _Place | None:
    for path, part in block.named_modules(prefix=where):
        children = {child for child, layer in part.named_children() if is_linear(layer)}
        for writers, readers in known:
            reader = next((r for r in readers if r in children), None)
            if reader is not None and children.issuperset(writers):
                return _Place(part, [f"{path}.{w}" for w in writers], f"{path}.{reader}")
    return None


def _attention(block: nn.Module, where: str) -> tuple[Part, ...]:
    place = _place(block, where, _ATTENTION)
    if place is None:
        return ()
    owner: Any = place.owner
    size = getattr(owner, "head_dim", None) or getattr(owner, "head_size", None)
    given = matrix(place.layer(place.reader)).shape[1]
    writes = [matrix(place.layer(path)).shape[0] for path in place.writers]
    if size is None or given % size or (len(writes) == 1 and writes[0] != 3 * given):
        return ()  # another layout, which is refused as unknown
    if len(writes) == 3:
        heads = writes[1] // size
        ats = [np.arange(rows).reshape(heads, -1) for rows in writes]
    else:
        heads = given // size
        rows = np.arange(writes[0])
        if place.writers[0].endswith("c_attn"):  # all queries, all keys, all values
            ats = [rows.reshape(3, heads, size).transpose(1, 0, 2).reshape(heads, -1)]
        else:  # query, key and value of each head
            ats = [rows.reshape(heads, -1)]
    return _parts(place, ats, np.arange(given).reshape(heads, -1))


def _mlp(block: nn.Module, where: str) -> tuple[Part, ...]:
    place = _place(block, where, _MLP)
    if place is None:
        return ()
    given = matrix(place.layer(place.reader)).shape[1]
    if any(matrix(place.layer(path)).shape[0] != given for path in place.writers):
        return ()
    channels = np.arange(given)[:, None]
    return _parts(place, [channels] * len(place.writers), channels)


def _parts(
    place: _Place, written: Sequence[NDArray[np.int64]], read: NDArray[np.int64]
) -> tuple[Part, ...]:
    parts = [Part(path, at, False) for path, at in zip(place.writers, written, strict=True)]
    return (*parts, Part(place.reader, read, True))


def _parameters(body: nn.Module, parts: Sequence[Part]) -> int:
    total = 0
    for part in parts:
        layer: Any = body.get_submodule(part.path)
        outputs, inputs = matrix(layer).shape
        width = part.at.shape[1]
        total += width * (outputs if part.reads else inputs + (layer.bias is not None))
    return total


def take_out(body: nn.Module, structures: StructureSet, which: NDArray[np.int64]) -> None:
    """Set all weights of these structures to zero, in place."""
    for part in structures.parts:
        layer: Any = body.get_submodule(part.path)
        at = torch.from_numpy(part.at[which].ravel())
        if part.reads:
            matrix(layer)[:, at] = 0
        else:
            matrix(layer)[at] = 0
            if layer.bias is not None:
                layer.bias.data[at] = 0


def check_by_a_pass(body: nn.Module, structures: Sequence[StructureSet], name: str) -> None:
    """Hold the structures of the first and the last layer to what the model computes.

    Without what writes a structure its reader gets zeros in its place, and the same elsewhere.

    Raises:
        SubjectError: if not.
    """
    ids = torch.arange(2, 8, device=next(body.parameters()).device)[None]
    ends = {structures[0].layer, structures[-1].layer}
    for there in (some for some in structures if some.layer in ends):
        site, which = f"{there.reader}:in", there.count // 2
        layers = [body.get_submodule(part.path) for part in there.parts]
        kept = [{k: v.clone() for k, v in layer.state_dict().items()} for layer in layers]

        def given(site: str = site) -> Tensor:
            read = read_sites(body, [site], lambda: body(input_ids=ids))[site]
            return read.float().reshape(-1, read.shape[-1])

        whole = given()
        try:
            take_out(body, there, np.array([which]))
            without = given()
        finally:
            for layer, state in zip(layers, kept, strict=True):
                layer.load_state_dict(state)
        at = torch.from_numpy(there.parts[-1].at[which])
        rest = torch.ones(whole.shape[1], dtype=torch.bool)
        rest[at] = False
        same = torch.allclose(whole[:, rest], without[:, rest], rtol=1e-3, atol=1e-5)
        if without[:, at].any() or not whole[:, at].any() or not same:
            raise SubjectError(
                f"{name}: {there.reader} does not get the {there.kind} structures that its names "
                f"suggest, so nothing can be taken out safely. {_INSTEAD}"
            )
