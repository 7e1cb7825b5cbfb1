"""What a batch says to an SAE many of whose latents fire: products of whole matrices, by hand.

A penalty makes codes sparse only in the course of training. Before, entries one by one cost more
than five products: encode, decode, the gradient of the codes and of both matrices. They are made
piece by piece, each on one thread, so that results do not depend on the number of threads.

B batch, D dimensions, F latents.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.sae import dense_kernels as loops
from reseed.sae import workers
from reseed.sae.sparse_step import LATENTS, NO_FLOW, ROWS, Floats, Found, Given, Matrices
from reseed.sae.step_kernels import Entries


class Gate(NamedTuple):
    """What fires and what it costs: z = p where p > threshold, with a rectangle kernel around it.

    ReLU has thresholds of 0 and no kernel.
    """

    threshold: Floats
    """[F], not negative"""
    half: np.float32
    """half the width of the kernel; 0 without"""
    toll: np.float32
    """gradient of the penalty by a code that fires"""
    price: np.float32
    """what the loss has for a latent that fires in a row"""
    chain: NDArray[np.float64]
    """[F] from sums over the kernel to the gradient of what is trained; empty without"""

    @property
    def bars(self) -> Floats:
        """`[F]`; at or below them nothing fires and nothing is near a threshold."""
        if self.half == 0:
            return self.threshold
        return self.threshold - self.half - np.float32(2.0**-20) * (self.threshold + self.half)

    def slopes(self, sums: NDArray[np.float64]) -> Floats:
        """Gradient of what thresholds are trained as, `[F]`; see `dense_kernels.settle`."""
        return (sums * self.chain).astype(np.float32)


class _Sums(NamedTuple):
    """Over the batch, for each latent."""

    flow: NDArray[np.float64]
    kernel: NDArray[np.float64]
    fires: NDArray[np.int64]


def find(g: Given, gate: Gate) -> Found:
    """Loss and gradients of a batch.

    Args:
        g: the batch.
        gate: what fires.
    """
    latents = len(gate.threshold)
    residual, loss = np.empty_like(g.x), np.empty(len(g.x))
    pre = [torch.empty(len(g.x), min(LATENTS, latents - low)) for low in range(0, latents, LATENTS)]
    _forward(g, gate, pre, residual, loss)
    return _backward(g, gate, pre, residual, g.fvu(loss))


def _forward(
    g: Given, gate: Gate, pre: list[Tensor], residual: Floats, loss: NDArray[np.float64]
) -> None:
    W_enc, b_enc, W_dec = (g.p[name] for name in ("W_enc", "b_enc", "W_dec"))

    def work(first: int, stop: int) -> None:
        x, error = (torch.from_numpy(rows[first:stop]) for rows in (g.x, residual))
        torch.neg(x, out=error)
        for piece, mine in enumerate(pre):
            some = slice(piece * LATENTS, piece * LATENTS + mine.shape[1])
            out, codes = mine[first:stop], torch.empty(stop - first, mine.shape[1])
            torch.addmm(b_enc[some], x, W_enc[some].T, out=out)
            loops.gated(out.numpy(), gate.threshold[some], codes.numpy())
            error.addmm_(codes, W_dec[some])
        loops.finish(residual[first:stop], g.step, loss[first:stop])

    workers.stretches(work, len(g.x), ROWS, g.threads)


def _backward(g: Given, gate: Gate, pre: list[Tensor], residual: Floats, fvu: float) -> Found:
    W_enc, W_dec = g.p["W_enc"], g.p["W_dec"]
    latents, dimensions = W_enc.shape
    left, x = torch.from_numpy(residual), torch.from_numpy(g.x)
    matrices = torch.empty(2, latents, dimensions)
    sums = _Sums(*np.zeros((2, latents)), np.zeros(latents, np.int64))
    squared, through = np.zeros((len(pre), 2)), torch.empty(len(pre), dimensions)
    numbers = gate.half, gate.toll, gate.price

    def work(first: int, stop: int) -> None:
        piece, some = first // LATENTS, slice(first, stop)
        flow, mine = left @ W_dec[some].T, pre[piece]
        loops.settle(
            mine.numpy(), flow.numpy(), gate.threshold[some], *numbers,
            *(each[some] for each in sums),
        )  # fmt: skip
        torch.mm(flow.T, x, out=matrices[0, some])
        torch.mm(mine.T, left, out=matrices[1, some])
        bias = torch.from_numpy(sums.flow[some].astype(np.float32))
        torch.mv(W_enc[some].T, bias, out=through[piece])
        squared[piece] = [loops.total(matrix[some].numpy()) for matrix in matrices]

    workers.stretches(work, latents, LATENTS, g.threads)
    vectors = {"b_enc": sums.flow.astype(np.float32)}
    vectors["b_dec"] = residual.sum(0) - through.numpy().sum(0)
    if gate.half > 0:
        vectors["threshold"] = gate.slopes(sums.kernel)
    whole = sum(float(np.square(v, dtype=np.float64).sum()) for v in vectors.values())
    whole += sum(
        float(squared[:, i].sum()) for i, name in enumerate(("W_enc", "W_dec")) if name in g.trained
    )
    none = Entries(np.zeros(latents + 1, np.int64), np.empty(0, np.int32), NO_FLOW, NO_FLOW)
    return Found(
        x=g.x,
        residual=residual,
        entries=none,
        vectors=vectors,
        norm=math.sqrt(whole) if whole >= 0 else math.nan,
        fvu=fvu,
        l0=int(sums.fires.sum()) / len(g.x),
        fired=torch.from_numpy(sums.fires > 0),
        matrices=Matrices(matrices[0].numpy(), matrices[1].numpy()),
    )
