"""The ranks that share a run, and what they say to each other: plain torch.distributed collectives.

Every answer is the same bits for any number of ranks: whole numbers are added, floats are added in
one tree, candidates are cut exactly. B batch, D dimensions, P ranks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_ORDER, _LENGTH = 64, 8
"""Bytes of short orders, and of the whole number before them that says how long they are."""
_TEXT = 1024
"""Bytes of a text that ranks give each other."""


def tree(parts: Sequence[Tensor]) -> Tensor:
    """The sum of 2^n tensors: neighbours first, then neighbouring sums."""
    while len(parts) > 1:
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


class RankGroup:
    """All ranks of the process group, or this process alone where there is none."""

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized()
        self.size = dist.get_world_size() if several else 1
        self.rank = dist.get_rank() if several else 0
        self.sent: Counter[str] = Counter()
        """bytes that left this rank, by what they were for"""

    def gather(self, own: Tensor, what: str) -> list[Tensor]:
        """What each rank has, in their order; all of one shape."""
        if self.size == 1:
            return [own]
        out = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(out, own.contiguous())
        self.sent[what] += own.nbytes * (self.size - 1)
        return out

    def count(self, own: Tensor, what: str) -> Tensor:
        """The sum of whole numbers, int64, over all ranks."""
        if self.size == 1:
            return own
        out = own.clone()
        dist.all_reduce(out)
        self.sent[what] += 2 * own.nbytes * (self.size - 1) // self.size
        return out

    def total(self, own: Tensor, what: str) -> Tensor:
        """The sum of rows `[B, D]` over all ranks in one tree; what a ring's all-reduce sends."""
        if self.size == 1:
            return own
        pieces = self._exchanged(self._by_rank(own), what)
        piece = tree(pieces.unbind())
        out = torch.empty_like(pieces)
        dist.all_gather(list(out.unbind()), piece)
        self.sent[what] += piece.nbytes * (self.size - 1)
        return out.flatten(0, 1)[: len(own)]

    def prefixes(self, best: Tensor, k: int, what: str) -> Tensor:
        """How many of a rank's best codes are among the k best positive ones of a row, `[B]`.

        `best` `[B, k]` has this rank's in falling order, among equals the lowest latent first.
        Lower ranks hold lower latents, so that of equal codes those of lower ranks are taken first.
        Each rank cuts some of the rows.
        """
        if self.size == 1:
            return (best > 0).sum(1)
        lists = self._exchanged(self._by_rank(best), what)
        taken = self._exchanged(prefixes(lists, k).to(torch.int32), what)
        return taken.flatten()[: len(best)].long()

    def send(self, own: Tensor, what: str) -> None:
        """Give all ranks, in place, what the first one has."""
        if self.size > 1:
            dist.broadcast(own, 0)
            self.sent[what] += own.nbytes if self.rank == 0 else 0

    def deal(self, every: Tensor | None, shape: Sequence[int], by_latent: bool) -> Tensor:
        """A rank's part of the rows of a parameter that the first one has, or all of another."""
        if self.size == 1:
            assert every is not None
            return every
        if not by_latent:
            own = torch.empty(list(shape)) if every is None else every.clone()
            dist.broadcast(own, 0)
            return own
        own = torch.empty(shape[0] // self.size, *shape[1:])
        dist.scatter(own, None if every is None else list(every.contiguous().chunk(self.size)))
        return own

    def collect(self, own: Tensor) -> Tensor:
        """The rows of all ranks on the first one; the others get their own back."""
        if self.size == 1:
            return own
        out = torch.empty(self.size, *own.shape) if self.rank == 0 else None
        dist.gather(own.contiguous(), None if out is None else list(out.unbind()))
        return own if out is None else out.flatten(0, 1)

    def order(self, **order: Any) -> dict[str, Any]:
        """What the first rank asks of all, as JSON; the others give nothing and receive it."""
        if self.size == 1:
            return order
        text = json.dumps(order).encode() if self.rank == 0 else b""
        head = _padded(len(text).to_bytes(_LENGTH, "little") + text, _ORDER)
        dist.broadcast(head, 0)
        received = bytes(head.tolist())
        length = int.from_bytes(received[:_LENGTH], "little")
        if length <= _ORDER - _LENGTH:
            return json.loads(received[_LENGTH : _LENGTH + length])
        body = _padded(text, length)
        dist.broadcast(body, 0)
        return json.loads(bytes(body.tolist()))

    def leave(self) -> None:
        """Say nothing more to the others, which end when this process does."""
        self.size = 1

    def texts(self, own: str) -> list[tuple[str, str]]:
        """Of each rank what stands after 64 characters, cut at some length, and those before."""
        if self.size == 1:
            return [(own[64:], own[:64])]
        room = _padded(own.encode("ascii", "replace"), _TEXT)
        every = [bytes(text.tolist()).decode() for text in self.gather(room, "numbers")]
        return [(text[64:].rstrip("\0"), text[:64]) for text in every]

    def _by_rank(self, rows: Tensor) -> Tensor:
        """Rows in as many pieces as there are ranks, `[P, R, ...]`, filled up with zeros."""
        each = -(-len(rows) // self.size)
        if each * self.size > len(rows):
            rows = torch.cat([rows, rows.new_zeros(each * self.size - len(rows), *rows.shape[1:])])
        return rows.reshape(self.size, each, *rows.shape[1:])

    def _exchanged(self, pieces: Tensor, what: str) -> Tensor:
        """The piece that each rank has for this one, `[P, ...]`."""
        out = torch.empty_like(pieces)
        dist.all_to_all_single(out, pieces.contiguous())
        self.sent[what] += pieces.nbytes * (self.size - 1) // self.size
        return out


def _padded(text: bytes, length: int) -> Tensor:
    """Bytes cut or filled up with zeros to a length."""
    return torch.frombuffer(bytearray(text[:length].ljust(length, b"\0")), dtype=torch.uint8)


def prefixes(lists: Tensor, k: int) -> Tensor:
    """How many of each list `[P, R, k]` are among the k best of a row: `[P, R]`."""
    ranks, rows, width = lists.shape
    every = lists.transpose(0, 1).reshape(rows, ranks * width)
    least = every.topk(k, dim=1).values[:, -1]
    above = ((lists > least[:, None]) & (lists > 0)).sum(2)
    equal = ((lists == least[:, None]) & (lists > 0)).sum(2)
    room = k - above.sum(0) - (equal.cumsum(0) - equal)
    return above + room.clamp_min(0).minimum(equal)


def largest(values: Tensor, rows: Tensor, wanted: int, batch: int, ranks: RankGroup) -> Tensor:
    """Which of a rank's positive codes are among the `wanted` largest of all ranks: `[E]` bool.

    Among equals the lowest rows are taken, in a row the lowest latents (`BatchTop`). The least code
    that is taken is found byte by byte: bits of positive floats are in the order of the floats.

    Args:
        values: `[E]` float32.
        rows: `[E]` of the codes; those of a row in order of latent.
        wanted: how many.
        batch: B.
        ranks: that take part.
    """
    bits, least = values.view(torch.int32).long(), 0
    for shift in (24, 16, 8, 0):
        inside = bits[(bits >> (shift + 8)) == (least >> (shift + 8))] >> shift & 255
        counts = ranks.count(torch.bincount(inside, minlength=256), "candidates")
        at_least = counts.flip(0).cumsum(0).flip(0)  # of this byte or a larger one
        if shift == 24 and int(at_least[0]) <= wanted:
            return torch.ones_like(bits, dtype=torch.bool)
        byte = int((at_least >= wanted).sum()) - 1
        wanted -= int(at_least[byte] - counts[byte])
        least |= byte << shift
    equal = bits == least
    own = torch.bincount(rows[equal], minlength=batch)
    each = torch.stack(ranks.gather(own, "candidates"), 1)
    before = (each.flatten().cumsum(0) - each.flatten()).view_as(each)
    taken = (wanted - before[:, ranks.rank]).clamp_min(0).minimum(own)
    chosen = bits > least
    order = equal.nonzero()[:, 0]
    order = order[rows[order].argsort(stable=True)]
    place = torch.arange(len(order), device=rows.device) - (own.cumsum(0) - own)[rows[order]]
    chosen[order] = place < taken[rows[order]]
    return chosen
