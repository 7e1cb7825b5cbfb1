"""What one block of latents computes of a batch, by the loops of the single step.

All of it depends on the block and on what all ranks have in common, and on nothing that lies on
another rank: so it is the same bits wherever the block is. B batch, D dimensions, C latents of a
block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.loops import step as loops
from reseed.loops.step import ByRow
from reseed.sae import encode
from reseed.sae.above import BatchTop, above, where
from reseed.sae.architecture import Parameters
from reseed.sae.architectures.jumprelu import JumpReLUSpec
from reseed.sae.codes import Codes, count_of
from reseed.sae.encode import Reader, Screen
from reseed.sae.settings import ArchitectureSpec
from reseed.training.shards.ranks import RankGroup, largest
from reseed.training.step.fast import FastStep
from reseed.training.step.finding import slopes
from reseed.training.step.gates import OneGate
from reseed.training.step.sparse import (
    BatchGradients,
    CPUGradients,
    Floats,
    Part,
    ReadBatch,
    decoded,
    entries_of,
    norms_of,
    pulled,
)

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


class Sums(NamedTuple):
    """What the gradient of a block gives to sums over all blocks."""

    through: Floats
    """[D] what flows through the encoder to b_dec"""
    squared: float
    """squared norm of the gradients of its own parameters"""


class Near(NamedTuple):
    """Pre-activations of a block of JumpReLU that matter."""

    gate: OneGate
    listed: ByRow

    def fire(self) -> ByRow:
        """Those above the threshold of their latent."""
        return where(self.listed, self.listed.values > self.gate.threshold[self.listed.latents])

    def slopes(self, g: ReadBatch, residual: Floats) -> dict[str, Floats]:
        """Gradient of the thresholds, by the residual `[B, D]` of all blocks."""
        return slopes(g, self.gate, self.listed, residual)


class Block(FastStep):
    """One block of latents, with its optimizer; parameters are views that are updated in place."""

    def __init__(
        self, parameters: Parameters, trained: frozenset[str], spec: ArchitectureSpec, clip: float
    ) -> None:
        super().__init__(parameters, trained, spec, clip)
        self._top = BatchTop()

    @property
    def screen(self) -> Screen:
        """Of its encoder rows as they are now."""
        return self._screen

    def reads(self, batch: ReadBatch, dead: Tensor) -> ReadBatch:
        """The batch as this block reads it; `dead` `[C]`."""
        return replace(batch, p=self._all, screen=self._screen, dead=dead)

    def best(self, g: ReadBatch, k: int) -> Codes:
        """Its k best of each row, or all that it has."""
        return encode.codes(g.reader(), min(k, len(g.dead)))

    def largest(self, g: ReadBatch, k: float) -> ByRow:
        """Its k B largest of the batch."""
        return self._top.codes(g.reader(), k)

    def above(self, g: ReadBatch, spec: JumpReLUSpec, penalty: float) -> Near:
        """Its codes that may fire or are near the threshold of their latent."""
        gate = OneGate(spec, g, penalty)
        return Near(gate, above(g.reader(), gate.bars))

    def best_dead(self, g: ReadBatch, k: int) -> Codes:
        """Its k best dead latents of each row, or all that it has."""
        rows = g.dead.nonzero()[:, 0]
        if not len(rows):
            return Codes(torch.empty(len(g.x), 0), torch.empty(len(g.x), 0, dtype=torch.int64))
        W_enc, b_enc = g.p["W_enc"][rows].numpy(), g.p["b_enc"][rows].numpy()
        reader = Reader(g.x, W_enc, b_enc, g.screen.of(rows), g.threads)
        best = encode.codes(reader, min(k, len(rows)))
        return Codes(best.values, rows[best.latents])

    def learn(
        self, g: ReadBatch, parts: Sequence[Part], residual: Floats, slopes: Mapping[str, Floats]
    ) -> Sums:
        """Keep the gradients of codes that have theirs; `residual` `[P B, D]` is of all parts.

        `slopes` are of what is neither matrix nor bias, e.g. thresholds.
        """
        entries = entries_of(parts, len(g.dead))
        bias, through, squared = norms_of(g, entries, residual)
        vectors = {"b_enc": bias, **slopes}
        self._gradients = _gradients(g.x, residual, vectors, entries)
        squared += sum(float(np.square(v, dtype=np.float64).sum()) for v in vectors.values())
        return Sums(through, squared)

    def update(self, norm: float, rate: float) -> None:
        """An Adam step, by gradients whose norm over all blocks is known now."""
        self._gradients = replace(self._gradients, norm=norm)
        self.apply(rate)


class Common(FastStep):
    """b_dec with its optimizer, which every rank has and updates alike."""

    def _look_at_encoder(self) -> Any:
        return None

    def _update_matrices(self, gradients: CPUGradients, pace: Any) -> None:
        pass

    def update(self, gradient: Floats, norm: float, rate: float) -> None:
        """An Adam step by the gradient `[D]` of b_dec."""
        entries = loops.Entries(np.zeros(1, np.int64), np.empty(0, np.int32), gradient, gradient)
        self._gradients = replace(
            _gradients(gradient, gradient, {"b_dec": gradient}, entries), norm=norm
        )
        self.apply(rate)


def _gradients(
    x: Floats, residual: Floats, vectors: dict[str, Floats], entries: loops.Entries
) -> CPUGradients:
    """Those of a block; what is known of all blocks together is not in them yet."""
    fired = torch.empty(0, dtype=torch.bool)
    return BatchGradients(x, residual, entries, vectors, math.nan, math.nan, math.nan, fired)


def cut(lists: Sequence[Codes], k: int, ranks: RankGroup, what: str) -> list[ByRow]:
    """Of the best codes of each own block, those that are among the k best of all ranks.

    Exact; among equals the lowest latent is taken, and what is not positive is silent.
    """
    values = torch.cat([codes.values for codes in lists], 1)
    ordered, order = values.sort(dim=1, descending=True, stable=True)
    width = min(k, values.shape[1])
    best = torch.zeros(len(values), k)
    best[:, :width] = ordered[:, :width]
    taken = torch.arange(width) < ranks.prefixes(best, k, what)[:, None]
    chosen = torch.zeros_like(values, dtype=torch.bool).scatter_(1, order[:, :width], taken)
    parts = chosen.split([codes.values.shape[1] for codes in lists], 1)
    return [_listed(codes, part) for codes, part in zip(lists, parts, strict=True)]


def _listed(codes: Codes, chosen: Tensor) -> ByRow:
    starts = torch.zeros(len(chosen) + 1, dtype=torch.int64)
    torch.cumsum(chosen.sum(1), 0, out=starts[1:])
    return ByRow(starts.numpy(), codes.latents[chosen].numpy(), codes.values[chosen].numpy())


def cut_batch(lists: Sequence[ByRow], k: float, latents: int, ranks: RankGroup) -> list[ByRow]:
    """Of the largest codes of each own block, those that are among the k B largest of all ranks."""
    batch = len(lists[0].starts) - 1
    rows = [np.repeat(np.arange(batch), np.diff(entries.starts)) for entries in lists]
    values = torch.from_numpy(np.concatenate([entries.values for entries in lists]))
    wanted = count_of(k, batch, batch * latents)
    chosen = largest(values, torch.from_numpy(np.concatenate(rows)), wanted, batch, ranks)
    parts = np.split(chosen.numpy(), np.cumsum([len(entries.values) for entries in lists])[:-1])
    return [where(entries, part) for entries, part in zip(lists, parts, strict=True)]


def reconstruction(read: Sequence[ReadBatch], chosen: Sequence[ByRow], ranks: RankGroup) -> Floats:
    """Codes W_dec summed over all blocks in one tree, `[B, D]`."""
    nothing = np.zeros_like(read[0].x)

    def over(first: int, stop: int) -> Tensor:
        if stop - first > 1:
            middle = (first + stop) // 2
            return over(first, middle).add_(over(middle, stop))
        part = decoded(read[first], chosen[first], nothing, _ZERO, _ONE, flows=False)
        return torch.from_numpy(part.residual)

    return ranks.total(over(0, len(read)), "reconstruction").numpy()


def flows(
    read: Sequence[ReadBatch],
    chosen: Sequence[ByRow],
    residual: Floats,
    loss: NDArray[np.float64],
) -> list[Part]:
    """The codes of each own block with their gradients."""
    return [
        Part(codes, residual, pulled(g, codes.starts, codes.latents, residual), loss)
        for g, codes in zip(read, chosen, strict=True)
    ]
