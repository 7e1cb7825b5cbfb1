"""A language model that several ranks hold together, each a part of every layer (FSDP2).

Weights come together layer by layer as a pass goes through, whole, so that activations are those of
one process, bit for bit, and whole at every site; ranks that compute parts of a product (tensor
parallel) give neither. The first rank reads: each rank makes a pass of its own beside it and gives
back what passed the sites. A rank without one makes an empty pass, since all gather every layer.

B sequences, L tokens each, D dimensions of a site.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from reseed.errors import ReseedError, SpecError, SubjectError
from reseed.spec.subject import LanguageModelSpec
from reseed.subjects.language.linear import to_onednn
from reseed.subjects.language.loading import skeleton
from reseed.subjects.language.model import LanguageModel, load_body, load_tokenizer

TextInput = tuple[Tensor, Tensor | None]
"""Ids `[B, L]` and attention `[B, L]`, which is zero at padding; None without."""


class ProcessGroup(Protocol):
    """All processes that were started together, and what the first one says to them."""

    size: int
    rank: int

    def order(self, **order: Any) -> dict[str, Any]:
        """What the first asks of all, as JSON; the others give nothing and receive it."""
        ...

    def texts(self, own: str) -> list[tuple[str, str]]:
        """Of each rank what stands after 64 characters, and those before."""
        ...

    def leave(self) -> None:
        """Say nothing more to the others, which end when this process does."""
        ...


class SpreadModel(LanguageModel):
    """A language model on the first rank, whose other ranks hold the rest of it and `follow`."""

    def __init__(self, body: nn.Module, spec: LanguageModelSpec, sites: Sequence[str]) -> None:
        super().__init__(body, load_tokenizer(spec), sites, spec.model)
        self._ranks: ProcessGroup | None = None

    @classmethod
    def lead(
        cls, spec: LanguageModelSpec, sites: Sequence[str], device: str, ranks: ProcessGroup
    ) -> SpreadModel:
        """Let all ranks hold a model.

        Args:
            spec: which model.
            sites: patterns of those to read.
            device: `"cpu"`, or a GPU: then each rank takes its own.
            ranks: who they are.

        Raises:
            SpecError: if a site is unknown, or the format is one that is not spread.
            SubjectError: if it cannot be found or loaded on one of them.
        """
        if spec.dtype == "int8":
            raise SpecError(
                f"{spec.model}: int8 is for one processor, and {ranks.size} ranks are to hold the "
                "subject together; take bfloat16 or float32, or one rank"
            )
        model = spec.model_dump(mode="json")
        threads = torch.get_num_threads()
        ranks.order(do="hold", model=model, sites=list(sites), device=device, threads=threads)
        out = cls.held_by(spec, sites, device, ranks)
        out._ranks, out.together = ranks, ranks.size
        return out

    @classmethod
    def held_by(
        cls, spec: LanguageModelSpec, sites: Sequence[str], device: str, ranks: ProcessGroup
    ) -> SpreadModel:
        """The part of this rank. One loads after the other, so that one whole is in memory."""
        place = torch.device("cpu")
        if device != "cpu":
            place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", ranks.rank)))
            torch.cuda.set_device(place)
        mesh = init_device_mesh(place.type, (ranks.size,))
        out, problem = None, ""
        for turn in range(ranks.size):
            if turn == ranks.rank:
                try:
                    body = load_body(spec, sites)
                    to_onednn(body)  # as one process has it, so that bits are the same
                    out = cls(_cut(body, mesh), spec, sites)
                except ReseedError as error:
                    problem = str(error)
            texts = [text for text, _ in ranks.texts(f"{'':64}{problem}") if text]
            if texts:
                raise SubjectError(texts[0])
        assert out is not None
        return out

    def forward(self, ids: Tensor, attention: Tensor | None = None) -> dict[str, Tensor]:
        """See `LanguageModel.forward`; other ranks make an empty pass."""
        return self.forward_each([(ids, attention)])[0]

    def forward_each(self, batches: Sequence[TextInput]) -> list[dict[str, Tensor]]:
        """The same of several batches, as many at a time as there are ranks."""
        return [
            read
            for first in range(0, len(batches), self.together)
            for read in self._beside(batches[first : first + self.together])
        ]

    def check_causal(self) -> None:
        """See `LanguageModel.check_causal`."""
        assert self._ranks is not None
        self._ranks.order(do="causal")
        super().check_causal()

    def _beside(self, batches: Sequence[TextInput]) -> list[dict[str, Tensor]]:
        """Passes side by side, the first of them here."""
        assert self._ranks is not None
        shapes = [list(ids.shape) for ids, _ in batches]
        masked = batches[0][1] is not None
        self._ranks.order(do="pass", shapes=shapes, masked=masked)
        for rank, batch in enumerate(batches[1:], 1):
            for part in batch:
                if part is not None:
                    dist.send(part.to("cpu", torch.int64).contiguous(), rank)
        try:
            own = super().forward(*batches[0])
        except BaseException as error:
            self._ranks.leave()  # they wait for weights, and would not hear an order
            if any(name in str(error).lower() for name in ("gloo", "nccl")):
                raise SubjectError(
                    f"{self.name}: another of the {self.together} ranks that hold it has ended; "
                    "look at what it said (memory, mostly: then more GPUs a worker)"
                ) from error
            raise
        return [own, *(self._received(own, shapes[rank], rank) for rank in range(1, len(batches)))]

    def _received(
        self, own: Mapping[str, Tensor], shape: Sequence[int], rank: int
    ) -> dict[str, Tensor]:
        out = {site: torch.empty(*shape, x.shape[2]) for site, x in own.items()}
        for rows in out.values():
            dist.recv(rows, rank)
        return out

    def obey(self, order: Mapping[str, Any], rank: int) -> None:
        """On another rank: make the pass that the first one asks for."""
        if order["do"] == "causal":
            super().check_causal()
            return
        shapes = order["shapes"]
        if rank >= len(shapes):  # none is left for this rank
            super().forward(torch.zeros(1, 2, dtype=torch.int64))
            return
        parts = [torch.empty(shapes[rank], dtype=torch.int64) for _ in range(1 + order["masked"])]
        for part in parts:
            dist.recv(part, 0)
        for rows in super().forward(*parts).values():
            dist.send(rows.cpu().contiguous(), 0)


def follow(
    order: Mapping[str, Any], held: SpreadModel | None, ranks: ProcessGroup
) -> SpreadModel | None:
    """On another rank: hold a part of a model, or make a pass of one that is held.

    Returns:
        The model that is held from now on.
    """
    if order["do"] == "hold":
        torch.set_num_threads(order["threads"])
        spec = LanguageModelSpec.model_validate(order["model"])
        return SpreadModel.held_by(spec, order["sites"], order["device"], ranks)
    assert held is not None
    held.obey(order, ranks.rank)
    return held


_SHARE = 0.8
"""Of a GPU's memory that weights may take."""


def too_large(spec: LanguageModelSpec, memory: int | None, holders: int) -> str | None:
    """For people: what to do where a model does not fit on one GPU of so many bytes.

    Args:
        spec: which model; only its settings are read.
        memory: of a GPU; left out, that of the first one here, if there is one.
        holders: ranks that are to hold it together.

    Returns:
        A sentence; None where it fits, or where its size or the memory is not known.
    """
    if memory is None and torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
    body = None if memory is None else skeleton(spec)
    if body is None or memory is None:
        return None
    size = sum(part.numel() for part in body.parameters()) * (2 if spec.dtype == "bfloat16" else 4)
    least = math.ceil(size / (_SHARE * memory))
    if least <= 1:
        return None
    state = (
        f"{spec.model} takes {size / 1e9:.3g} GB in {spec.dtype}, more than a GPU of "
        f"{memory / 1e9:.3g} GB has to spare"
    )
    if holders >= least:
        return f"{state}: {holders} ranks hold it together in the harvest"
    return f"{state}: give each worker {least} GPUs, which then hold it together (docs/cluster.md)"


def _cut(body: nn.Module, mesh: Any) -> nn.Module:
    """The same with the part of this rank of every layer, on its device.

    What is a layer: the members of the outermost lists of modules. Those of inner lists, such as
    experts, are called by some ranks and not by others.
    """
    from torch.distributed.fsdp import fully_shard

    lists = [name for name, part in body.named_modules() if isinstance(part, nn.ModuleList)]
    outer = [n for n in lists if not any(n.startswith(f"{other}.") for other in lists)]
    for name in outer:
        for layer in body.get_submodule(name).children():
            fully_shard(layer, mesh=mesh)
    fully_shard(body, mesh=mesh)
    return body
