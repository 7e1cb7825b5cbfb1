"""A step whose latents lie on several ranks: the same bits for any number of them.

Of TopK, BatchTopK and JumpReLU. A block of JumpReLU has thresholds of its own, and nothing is cut.

Latents are cut into S blocks, each of which computes what it can alone. What is left is a sum over
blocks, made in one binary tree whatever rank has which block, or an exact cut of candidates:

    each block's best codes -> the best of all (values alone travel: ranks are in order of latent)
    each block's codes W_dec -> their sum; the residual -> gradients of own rows
    squared norms and what flows to b_dec -> their sums -> clipping, Adam

With one rank it computes all blocks. F latents, B batch, D dimensions, n latents of this rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from reseed.errors import SpecError
from reseed.loops import compiled as workers
from reseed.loops import matrices as loops
from reseed.sae.architecture import At, Batch, Parameters
from reseed.sae.architectures.batchtopk import BatchTopKSpec
from reseed.sae.architectures.jumprelu import JumpReLUSpec
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.parts import auxk_size, running_threshold
from reseed.sae.settings import ArchitectureSpec
from reseed.training.shards.own_latents import (
    Block,
    Common,
    Near,
    Sums,
    cut,
    cut_batch,
    flows,
    reconstruction,
)
from reseed.training.shards.ranks import RankGroup, tree
from reseed.training.step.plain import Look
from reseed.training.step.sparse import ROWS, ByRow, Floats, ReadBatch, read_batch

Spec = TopKSpec | BatchTopKSpec | JumpReLUSpec
"""Of the architectures that have a step in blocks."""


def by_latent(spec: ArchitectureSpec) -> tuple[str, ...]:
    """Parameters of which a rank has its own rows; the others are alike on all."""
    return ("W_enc", "b_enc", "W_dec", *(["threshold"] if isinstance(spec, JumpReLUSpec) else []))


class ShardedStep:
    """Gradients and optimizer of the latents of one rank; see `reseed.training.step.plain.Step`.

    Args:
        parameters: own rows of those `by_latent`, the others whole; updated in place.
        trained: names of those that are trained.
        spec: of the SAE; `blocks` is a multiple of the number of ranks.
        clip: largest norm of the gradient of all ranks together.
        ranks: that share the run.

    Raises:
        SpecError: if the blocks cannot be dealt out evenly.
    """

    def __init__(
        self,
        parameters: Parameters,
        trained: frozenset[str],
        spec: Spec,
        clip: float,
        ranks: RankGroup,
    ) -> None:
        self._all, self._spec, self._ranks, self._trained = parameters, spec, ranks, trained
        own = own_blocks(spec.blocks, ranks)
        size = spec.latents // spec.blocks
        self._alpha = 0.0 if isinstance(spec, JumpReLUSpec) else spec.auxk_alpha
        self._rows = by_latent(spec)
        common = {name: value for name, value in parameters.items() if name not in self._rows}
        cuts = [slice(b * size, (b + 1) * size) for b in range(len(own))]
        self.blocks = {
            number: Block(
                {name: parameters[name][part] for name in self._rows} | common,
                trained & set(self._rows), spec, clip,
            )
            for number, part in zip(own, cuts, strict=True)
        }  # fmt: skip
        self.common = Common(common, trained & {"b_dec"}, spec, clip)
        self.dead = 0
        """latents of all ranks that were dead at the last look"""
        self._found: tuple[Floats, float, Mapping[str, Tensor]] | None = None

    @torch.no_grad()
    def look(self, batch: Batch, at: At, pull: Tensor | None = None) -> Look:
        """Loss and gradients; `at.dead` and `Look.fired` are of this rank's latents."""
        if pull is not None:
            raise RuntimeError("a sharded step has no gradients to add to")
        blocks, ranks = list(self.blocks.values()), self._ranks
        threads = torch.get_num_threads()
        g = read_batch(
            self._all, batch.x, at.dead, blocks[0].screen, trained=self._trained, threads=threads
        )
        dead = at.dead.chunk(len(blocks))
        read = [block.reads(g, part) for block, part in zip(blocks, dead, strict=True)]
        self.dead = int(ranks.count(at.dead.sum(), "numbers"))
        near = self._near(read, at)
        chosen = [codes.fire() for codes in near] or self._codes(read)
        residual, loss = _errors(g, reconstruction(read, chosen, ranks), g.x, -1.0, float(g.step))
        parts, both = [flows(read, chosen, residual, loss)], residual
        if self._alpha > 0 and self.dead > 0:
            codes, rest = self._auxiliary(g, read, residual)
            parts.append(flows(read, codes, rest, loss))
            both = np.concatenate([residual, rest])
        thresholds = [of.slopes(own, residual) for of, own in zip(near, read, strict=bool(near))]
        learnt = zip(
            blocks, read, zip(*parts, strict=True), thresholds or [{}] * len(read), strict=True
        )
        sums = [block.learn(own, codes, both, slopes) for block, own, codes, slopes in learnt]
        return self._summed(g, sums, chosen, residual, loss)

    def _near(self, read: Sequence[ReadBatch], at: At) -> list[Near]:
        spec = self._spec
        if not isinstance(spec, JumpReLUSpec):
            return []
        penalty, blocks = at.penalty * spec.penalty, self.blocks.values()
        return [block.above(own, spec, penalty) for block, own in zip(blocks, read, strict=True)]

    def _codes(self, read: Sequence[ReadBatch]) -> list[ByRow]:
        spec, blocks = self._spec, self.blocks.values()
        assert not isinstance(spec, JumpReLUSpec), "no code of JumpReLU is cut"
        if isinstance(spec, TopKSpec):
            best = [block.best(g, spec.k) for block, g in zip(blocks, read, strict=True)]
            return cut(best, spec.k, self._ranks, "candidates")
        most = [block.largest(g, spec.k) for block, g in zip(blocks, read, strict=True)]
        return cut_batch(most, spec.k, spec.latents, self._ranks)

    def _auxiliary(
        self, g: ReadBatch, read: Sequence[ReadBatch], residual: Floats
    ) -> tuple[list[ByRow], Floats]:
        """Codes of dead latents, and what they leave of the residual `[B, D]`."""
        active, share = auxk_size(g.x.shape[1], self.dead)
        best = [b.best_dead(own, active) for b, own in zip(self.blocks.values(), read, strict=True)]
        codes = cut(best, active, self._ranks, "dead candidates")
        total, unit = reconstruction(read, codes, self._ranks), g.scale / 2.0
        weight = self._alpha * share / unit if unit > 0 else math.nan
        return codes, _errors(g, total, residual, unit, weight)[0]

    def _summed(
        self,
        g: ReadBatch,
        sums: Sequence[Sums],
        chosen: Sequence[ByRow],
        residual: Floats,
        loss: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    ) -> Look:
        """The sums over all blocks, and what is left to do when they are known."""
        finite = [float(block.screen.finite) for block in self.blocks.values()]
        counts = [float(len(codes.values)) for codes in chosen]
        squares = [s.squared for s in sums]
        own = tree(torch.tensor([squares, counts, finite], dtype=torch.float64).unbind(1))
        squared, count, sound = tree(self._ranks.gather(own, "numbers")).tolist()
        through = tree([torch.from_numpy(s.through) for s in sums])
        gradient: Floats = residual.sum(0) - tree(self._ranks.gather(through, "vectors")).numpy()
        squared += float(np.square(gradient, dtype=np.float64).sum())
        norm = math.sqrt(squared) if squared >= 0 else math.nan
        self._found = gradient, norm, self._threshold(chosen)
        fired = torch.zeros(len(g.dead), dtype=torch.bool)
        for number, codes in enumerate(chosen):
            fired.chunk(len(chosen))[number][torch.from_numpy(codes.latents)] = True
        fvu = g.fvu(loss) if sound == self._spec.blocks else math.nan
        return Look(fvu, count / len(g.x), fired, norm)

    def _threshold(self, chosen: Sequence[ByRow]) -> dict[str, Tensor]:
        """The next running threshold of BatchTopK, by the smallest code of all ranks."""
        spec = self._spec
        if not isinstance(spec, BatchTopKSpec):
            return {}
        least = min(float(codes.values.min(initial=np.inf)) for codes in chosen)
        every = torch.cat(self._ranks.gather(torch.tensor([least]), "numbers"))
        fires, before = every[torch.isfinite(every)], self._all["threshold"]
        return {"threshold": running_threshold(before, fires, spec.threshold_momentum)}

    @torch.no_grad()
    def apply(self, rate: float) -> None:
        found, self._found = self._found, None
        if found is None:
            raise RuntimeError("apply needs a look before")
        gradient, norm, buffers = found
        for block in self.blocks.values():
            block.update(norm, rate)
        self.common.update(gradient, norm, rate)
        for name, value in buffers.items():
            self._all[name].copy_(value)

    def rows_of(self, block: int) -> Parameters:
        """Own parameters of one of the blocks, as views."""
        place, count = list(self.blocks).index(block), len(self.blocks)
        return {name: self._all[name].chunk(count)[place] for name in self._rows}

    def state(self) -> dict[str, Tensor]:
        """Nothing: each block has its own (`blocks`, `common`)."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        pass


def own_blocks(blocks: int, ranks: RankGroup) -> range:
    """Numbers of the blocks that this rank has.

    Raises:
        SpecError: if they cannot be dealt out evenly.
    """
    if blocks % ranks.size:
        raise SpecError(
            f"blocks = {blocks} cannot be dealt out to {ranks.size} ranks; start as many ranks as "
            "there are blocks, or half, a quarter ... as many"
        )
    each = blocks // ranks.size
    return range(ranks.rank * each, (ranks.rank + 1) * each)


def _errors(
    g: ReadBatch, total: Floats, start: Floats, before: float, after: float
) -> tuple[Floats, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """After (before start + total) `[B, D]`, and the squared lengths of the sum, `[B]`."""
    out, loss = np.multiply(start, np.float32(before)), np.empty(len(start))
    np.add(out, total, out=out)

    def work(first: int, stop: int) -> None:
        loops.finish(out[first:stop], np.float32(after), loss[first:stop])

    workers.stretches(work, len(out), ROWS, g.threads)
    return out, loss
