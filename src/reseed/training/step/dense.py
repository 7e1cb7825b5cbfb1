"""What a batch says to an SAE many of whose latents fire: products of whole matrices, by hand.

A penalty makes codes sparse only in the course of training. Before, entries one by one cost more
than five products: encode, decode, the gradient of the codes and of both matrices (gated: seven).
They are made piece by piece, each on one thread, so that results do not depend on the number of
threads.

B batch, D dimensions, F latents, C latents of a piece.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.loops import compiled
from reseed.loops import matrices as loops
from reseed.loops.step import Entries
from reseed.sae.arithmetic import add_product, product
from reseed.training.step.sparse import (
    LATENTS,
    NO_FLOW,
    ROWS,
    BatchGradients,
    CPUGradients,
    Floats,
    Matrices,
    ReadBatch,
)


class Rule(Protocol):
    """What fires in one batch, piece of latents by piece; sums over the batch are kept here."""

    @property
    def bias(self) -> str:
        """Name of what is added to the product."""
        ...

    @property
    def reconstructions(self) -> int:
        """How many there are; only the first teaches W_dec and b_dec."""
        ...

    @property
    def pull(self) -> Floats | None:
        """`[F]` times W_dec, in the gradient of its rows besides, once all are settled.

        None where decoder rows have length 1.
        """
        ...

    @property
    def fires(self) -> NDArray[np.int64]:
        """`[F]` how often each latent fired, once all are settled."""
        ...

    @property
    def flow(self) -> NDArray[np.float64]:
        """`[F]` summed gradients of pre-activations, once all are settled."""
        ...

    def fire(self, pre: Tensor, some: slice) -> tuple[Tensor, ...]:
        """Codes of each reconstruction, `[R, C]`, from pre-activations `[R, C]` of some latents."""
        ...

    def settle(self, pre: Tensor, flows: list[Tensor], some: slice) -> None:
        """Make codes of pre-activations `[B, C]`, and their gradient of the first flow, in place.

        `flows` has the residual of each reconstruction times W_decᵀ, `[B, C]`.
        """
        ...

    def vectors(self) -> Mapping[str, Floats]:
        """Gradients of what is neither a matrix nor b_dec, once all are settled."""
        ...


def find(g: ReadBatch, rule: Rule) -> CPUGradients:
    """Loss and gradients of a batch by a rule that was made for it."""
    latents, rows = len(g.p["W_enc"]), len(g.x)
    residuals = [np.empty_like(g.x) for _ in range(rule.reconstructions)]
    losses = np.empty((rule.reconstructions, rows))
    pre = [torch.empty(rows, min(LATENTS, latents - low)) for low in range(0, latents, LATENTS)]
    _forward(g, rule, pre, residuals, losses)
    matrices = torch.empty(2, latents, g.x.shape[1])
    squared, through = _backward(g, rule, pre, residuals, matrices)
    vectors = dict(rule.vectors()) | {"b_dec": residuals[0].sum(0) - through}
    squared_norm = sum(float(np.square(v, dtype=np.float64).sum()) for v in vectors.values())
    squared_norm += sum(
        s for s, name in zip(squared, ("W_enc", "W_dec"), strict=True) if name in g.trained
    )
    none = Entries(np.zeros(latents + 1, np.int64), np.empty(0, np.int32), NO_FLOW, NO_FLOW)
    return BatchGradients(
        x=g.x,
        residual=residuals[0],
        entries=none,
        vectors=vectors,
        norm=math.sqrt(squared_norm) if squared_norm >= 0 else math.nan,
        fvu=g.fvu(losses[0]),
        l0=int(rule.fires.sum()) / rows,
        fired=torch.from_numpy(rule.fires > 0),
        matrices=Matrices(matrices[0].numpy(), matrices[1].numpy()),
        pull=None if rule.pull is None else np.zeros(latents, np.float32),
    )


def _forward(
    g: ReadBatch,
    rule: Rule,
    pre: list[Tensor],
    residuals: list[Floats],
    losses: NDArray[np.float64],
) -> None:
    """Fill pre-activations, residuals and squared errors."""
    W_enc, bias, W_dec = (g.p[name] for name in ("W_enc", rule.bias, "W_dec"))

    def work(first: int, stop: int) -> None:
        x = torch.from_numpy(g.x[first:stop])
        errors = [torch.neg(x, out=torch.from_numpy(r[first:stop])) for r in residuals]
        for piece, piece_pre in enumerate(pre):
            some = slice(piece * LATENTS, piece * LATENTS + piece_pre.shape[1])
            part = product(x, W_enc[some], bias[some], piece_pre[first:stop])
            for error, codes in zip(errors, rule.fire(part, some), strict=True):
                add_product(error, codes, W_dec[some].T)
        for residual, loss in zip(residuals, losses, strict=True):
            loops.finish(residual[first:stop], g.step, loss[first:stop])

    compiled.stretches(work, len(g.x), ROWS, g.threads)


def _backward(
    g: ReadBatch, rule: Rule, pre: list[Tensor], residuals: list[Floats], matrices: Tensor
) -> tuple[list[float], Floats]:
    """Fill gradients of both matrices; squared norms, and what flows through W_enc to b_dec."""
    W_enc, W_dec = g.p["W_enc"], g.p["W_dec"]
    latents, dimensions = W_enc.shape
    left, x = [torch.from_numpy(r) for r in residuals], torch.from_numpy(g.x)
    squared, through = np.zeros((len(pre), 2)), torch.empty(len(pre), dimensions)

    def work(first: int, stop: int) -> None:
        piece, some = first // LATENTS, slice(first, stop)
        rooms = torch.empty(len(left), len(x), stop - first)
        pairs = zip(left, rooms, strict=True)
        flows = [product(residual, W_dec[some], None, room) for residual, room in pairs]
        rule.settle(pre[piece], flows, some)
        product(flows[0].T, x.T, None, matrices[0, some])
        product(pre[piece].T, left[0].T, None, matrices[1, some])
        if rule.pull is not None:
            matrices[1, some] += torch.from_numpy(rule.pull[some, None]) * W_dec[some]
        bias = torch.from_numpy(rule.flow[some].astype(np.float32))
        torch.mv(W_enc[some].T, bias, out=through[piece])
        squared[piece] = [loops.total(matrix[some].numpy()) for matrix in matrices]

    compiled.stretches(work, latents, LATENTS, g.threads)
    return [float(s) for s in squared.sum(0)], through.numpy().sum(0)
