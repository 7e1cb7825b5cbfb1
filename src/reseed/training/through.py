"""Training through the subject (arXiv 2405.12241): whole blocks, and what a reconstruction does.

    e2e              kl · KL(original || spliced)
    e2e + downstream         ... + downstream · mean over later sites of FVU there

with `spliced` the subject's predictions when the kept positions of the site are replaced by their
reconstruction. KL is the mean over kept positions in nats. The paper weighs squared errors
themselves; parts of the variance mean the same at every site, so one weight serves all.

n blocks of L tokens, B kept positions in them, D dimensions, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.sae.options import EndToEndSpec
from reseed.sae.parts import squared_variation
from reseed.seeds import generator
from reseed.subjects.language.activations import (
    Outputs,
    SplicedModel,
    TextBatch,
    blocks_of,
    divergence,
    put_rows,
)
from reseed.subjects.language.blocks import TokenBlocks

if TYPE_CHECKING:
    from reseed.spec.training import RunSpec
    from reseed.subjects.inputs import Inputs


class Downstream:
    """A batch of blocks, what the subject made of them, and how it goes on otherwise."""

    def __init__(self, model: SplicedModel, blocks: TextBatch, passed: Outputs) -> None:
        self._model, self._blocks, self._passed = model, blocks, passed

    def rows(self) -> dict[str, Tensor]:
        """Site to `[B, D]` on the CPU, the kept positions."""
        return {site: x[self._blocks.keep].cpu() for site, x in self._passed.at.items()}

    def loss(self, site: str, reconstruction: Tensor, weights: EndToEndSpec) -> Tensor:
        """What a reconstruction `[B, D]` of rows of a site does to the subject; differentiable."""
        ids, keep, attention = self._blocks
        replace = put_rows(keep, reconstruction)
        new = self._model.run_with(ids, site, replace, weights.sites, attention)
        loss = reconstruction.new_zeros(())
        if weights.kl > 0:
            loss = loss + weights.kl * divergence(self._passed.logits[keep], new.logits[keep])
        if weights.sites:
            parts = [_fvu(new.at[s][keep], self._passed.at[s][keep]) for s in weights.sites]
            loss = loss + weights.downstream * torch.stack(parts).mean()
        return loss


def _fvu(new: Tensor, old: Tensor) -> Tensor:
    return (new - old).square().sum() / squared_variation(old)


class BlockStream:
    """Endless seeded batches of whole blocks; see `subjects.source.Stream` for those of rows.

    An epoch is a random order of the blocks, which the data seed alone decides, cut into batches of
    about `batch` rows, whole blocks; what is left of it over is left out. `sites` are those that
    runs read or reconstruct, and later ones that losses look at.
    """

    def __init__(
        self,
        model: SplicedModel,
        tokens: TokenBlocks,
        blocks: NDArray[np.int64],
        sites: Sequence[str],
        *,
        data_seed: int,
        batch: int,
    ) -> None:
        self._model, self._tokens, self._blocks = model, tokens, blocks
        self._sites, self._data_seed = sites, data_seed
        each = max(1.0, float(tokens.rows[blocks].mean()))
        self.blocks = min(max(1, round(batch / each)), len(blocks))
        self._read = lru_cache(maxsize=1)(self._pass)

    def batch(self, index: int) -> dict[str, Tensor]:
        """Batch number `index`: site to float32 `[B, D]`, about as many rows as asked for."""
        return self._read(index).rows()

    def through(self, index: int) -> Downstream:
        """The same batch with the subject behind it."""
        return self._read(index)

    def _pass(self, index: int) -> Downstream:
        epoch, place = divmod(index, len(self._blocks) // self.blocks)
        order = generator("block-order", self._data_seed, epoch).permutation(self._blocks)
        chosen = order[place * self.blocks : (place + 1) * self.blocks]
        blocks = blocks_of(self._tokens, chosen.tolist())
        passed = self._model.run(blocks.ids, self._sites, blocks.attention)
        return Downstream(self._model, blocks, passed)


def check_sites(inputs: Inputs, runs: Sequence[RunSpec]) -> None:
    """Refuse sites that cannot be trained through.

    Raises:
        SpecError: if a later site does not come after the one that is replaced.
    """
    ids = blocks_of(inputs.text, [0]).ids[:, :8]
    replaced = [(run.target, run.sae.end_to_end) for run in runs]
    later = [(target, spec.sites if spec else ()) for target, spec in replaced]
    for target, sites in dict.fromkeys(later):
        inputs.spliced.check_sites(target, sites, ids)


def block_streams(
    inputs: Inputs, runs: Sequence[RunSpec], batch: int
) -> Callable[[int], BlockStream]:
    """From a data seed to the batches that these runs learn from, through the subject."""
    later = (run.sae.end_to_end.sites for run in runs if run.sae.end_to_end)
    sites = {site for run in runs for site in (run.site, run.target)} | set().union(*later)

    def stream_of(data_seed: int) -> BlockStream:
        return BlockStream(
            inputs.spliced,
            inputs.text,
            inputs.split[0],
            sorted(sites),
            data_seed=data_seed,
            batch=batch,
        )

    return stream_of
