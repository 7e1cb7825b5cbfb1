"""The fast path on a GPU: Triton kernels around one product (docs/speed.md).

Loss and gradients are those of `topk.step` and `batchtopk.objective`, the plain twins, with the
gradients of the two matrices kept as the entries that they are made of.

B batch, D dimensions, F latents, K active, E entries.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reseed.loops import gpu_step as loops
from reseed.sae.architecture import At, Batch, Parameters
from reseed.sae.architectures.batchtopk import BatchTopKSpec
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.gpu import EXACT, Screen, Strongest, new_screen, strongest, strongest_of_batch
from reseed.sae.parts import auxk_size
from reseed.training.step.fast import EntryStep
from reseed.training.step.plain import BETAS, EPSILON
from reseed.training.step.sparse import BatchGradients

_AT_A_TIME = 4096
"""Numbers of source rows that a program holds at a time."""


class Entries(NamedTuple):
    """The active codes of a batch, sorted by latent; within one by row."""

    starts: Tensor
    """[F + 1] int32 where those of each latent begin"""
    rows: Tensor
    """[E] int32 batch row, B more for those of the auxiliary loss"""
    values: Tensor
    """[E] code"""
    flow: Tensor
    """[E] gradient of the code"""


GPUGradients = BatchGradients[Tensor, Entries]


class _Part(NamedTuple):
    """Codes of a batch with what they leave."""

    codes: Strongest
    residual: Tensor
    flow: Tensor
    loss: Tensor


def find(
    p: Parameters,
    x: Tensor,
    spec: TopKSpec | BatchTopKSpec,
    dead: Tensor,
    screen: Screen,
    *,
    trained: frozenset[str],
) -> GPUGradients:
    """Loss and gradients of a batch x `[B, D]`; `dead` `[F]` latents are silent for too long.

    The norm is of the `trained` parameters; `screen` is of W_enc as it is now.
    """
    W_enc, b_enc = p["W_enc"], p["b_enc"]
    centred = (x - p["b_dec"]).contiguous()
    scale = x.sub(x.mean(0)).square_().sum()
    read = centred, W_enc, b_enc, screen
    if isinstance(spec, BatchTopKSpec):
        codes = strongest_of_batch(*read, spec.k)
    else:
        codes = strongest(*read, spec.k)
    main = _decoded(codes, p["W_dec"], centred, -torch.ones_like(scale), 2.0 / scale)
    parts = [main]
    rows = dead.nonzero()[:, 0] if spec.auxk_alpha > 0 else dead.new_empty(0)
    if len(rows):
        parts.append(_auxiliary(p, centred, main.residual, scale, spec, rows, screen))
    entries = _by_latent(parts, len(W_enc))
    residual = main.residual if len(parts) == 1 else torch.cat([q.residual for q in parts])
    bias, squares = _norms(entries, centred, residual, trained)
    b_dec = main.residual.sum(0) - bias @ W_enc
    active = codes.values > 0
    fired = torch.zeros(len(W_enc) + 1, dtype=torch.bool, device=x.device)
    fired.scatter_(0, codes.latents.flatten(), True)  # all write the same
    squared = squares.double().sum() + b_dec.double().square().sum()
    finite = torch.isfinite(screen.length).all() & torch.isfinite(b_enc).all()
    fvu = torch.where(finite, main.loss.double().sum() / scale, math.nan)  # never among the best
    # the one place that waits for the GPU
    fvu, l0, norm = torch.stack([fvu, active.sum() / len(x), squared.sqrt()]).tolist()
    buffers = {}
    if isinstance(spec, BatchTopKSpec):
        buffers["threshold"] = _threshold(p["threshold"], codes.values, spec)
    return BatchGradients(
        x=centred,
        residual=residual,
        entries=entries,
        vectors={"b_enc": bias, "b_dec": b_dec},
        norm=norm,
        fvu=fvu,
        l0=l0,
        fired=fired[:-1],
        buffers=buffers,
    )


def sizes(dimensions: int) -> dict[str, Any]:
    """Sizes that kernels working on whole rows of D dimensions are compiled for."""
    width = 1 << max(4, (dimensions - 1).bit_length())
    entries = max(1, _AT_A_TIME // width)
    warps = 8 if width > 1024 else 4
    return {"WIDTH": width, "ENTRIES": min(16, entries), "num_warps": warps, **EXACT}


def _decoded(
    codes: Strongest, W_dec: Tensor, start: Tensor, before: Tensor, after: Tensor
) -> _Part:
    rows, active = codes.values.shape
    residual, flow = torch.empty_like(start), torch.empty_like(codes.values)
    loss, how = start.new_empty(rows), sizes(start.shape[1])
    del how["ENTRIES"]
    loops.decode[(rows,)](
        *codes, W_dec, start, torch.stack([before, after]), residual, flow, loss,
        active, len(W_dec), start.shape[1], **how,
    )  # fmt: skip
    return _Part(codes, residual, flow, loss)


def _auxiliary(
    p: Parameters,
    x: Tensor,
    residual: Tensor,
    scale: Tensor,
    spec: TopKSpec | BatchTopKSpec,
    rows: Tensor,
    screen: Screen,
) -> _Part:
    """The same for the auxiliary loss, by the same kernels on the rows of dead latents."""
    active, share = auxk_size(x.shape[1], len(rows))
    gradients = strongest(x, p["W_enc"][rows], p["b_enc"][rows], screen.of(rows), active)
    names = torch.cat([rows, rows.new_tensor([len(p["W_enc"])])])  # the last is for silent ones
    codes = Strongest(gradients.values, names[gradients.latents])
    weight = spec.auxk_alpha * share * 2.0 / scale
    return _decoded(codes, p["W_dec"], residual, scale / 2.0, weight)


def _threshold(before: Tensor, values: Tensor, spec: BatchTopKSpec) -> Tensor:
    """`parts.running_threshold`, without waiting for the GPU."""
    smallest = torch.where(values > 0, values, math.inf).amin()
    share = spec.threshold_momentum
    moved = torch.where(before < 0, smallest, share * before + (1 - share) * smallest)
    return torch.where(torch.isinf(smallest), before, moved)


def _by_latent(parts: list[_Part], latents: int) -> Entries:
    named = torch.cat([q.codes.latents.flatten() for q in parts]).to(torch.int32)
    there, order = named.sort(stable=True)
    each = [torch.arange(len(q.flow), device=named.device) + i * len(q.flow)
            for i, q in enumerate(parts)]  # fmt: skip
    rows = [r[:, None].expand(q.flow.shape).flatten() for r, q in zip(each, parts, strict=True)]
    edges = torch.arange(latents + 1, dtype=torch.int32, device=named.device)
    return Entries(
        torch.searchsorted(there, edges, out_int32=True),
        torch.cat(rows)[order].to(torch.int32),
        torch.cat([q.codes.values.flatten() for q in parts])[order],
        torch.cat([q.flow.flatten() for q in parts])[order],
    )


def _norms(
    entries: Entries, x: Tensor, residual: Tensor, trained: frozenset[str]
) -> tuple[Tensor, Tensor]:
    """Gradient of b_enc, and of each latent the squared norm of its part of the gradient."""
    latents = len(entries.starts) - 1
    bias, squares = x.new_empty((2, latents))
    count: dict[str, Any] = {"ENCODER": "W_enc" in trained, "DECODER": "W_dec" in trained}
    loops.norms[(latents,)](
        *entries, x, residual, bias, squares, len(x), len(residual), x.shape[1],
        **count, **sizes(x.shape[1]),
    )  # fmt: skip
    return bias, squares


class TritonStep(EntryStep):
    """By Triton kernels, on a GPU: float32 weights, the product in bfloat16 if `halves`.

    The type of the product decides the time that codes take, never the codes.
    """

    def __init__(
        self,
        parameters: Parameters,
        trained: frozenset[str],
        spec: TopKSpec | BatchTopKSpec,
        clip: float,
        *,
        halves: bool = True,
    ) -> None:
        self._spec, self._halves = spec, halves
        super().__init__(parameters, trained, clip)

    def _look_at_encoder(self) -> Screen:
        return new_screen(self._all["W_enc"], halves=self._halves)

    def _find(self, batch: Batch, at: At) -> GPUGradients:
        with torch.cuda.device_of(batch.x):  # where Triton launches
            return find(
                self._all, batch.x, self._spec, at.dead, self._screen, trained=self._trained
            )

    def _update(self, gradients: GPUGradients, clip: float, rate: float, root: float) -> None:
        with torch.cuda.device_of(gradients.x):
            self._update_rows(gradients, (clip, rate, root))
        for name, gradient in gradients.vectors.items():
            if name in self._moments:
                _adam(*self._with_moments(name), gradient, clip, rate, root)

    def _update_rows(self, gradients: GPUGradients, pace: tuple[float, float, float]) -> None:
        constants: dict[str, Any] = {
            "FIRST": BETAS[0],
            "SECOND": BETAS[1],
            "EPSILON": EPSILON,
            **sizes(gradients.x.shape[1]),
        }
        starts, rows, values, flow = gradients.entries
        latents, dimensions = self._all["W_enc"].shape
        if "W_enc" in self._moments:
            screen = self._screen
            of_encoder: dict[str, Any] = {**constants, "HALVES": self._halves}
            loops.update_encoder[(latents,)](
                starts, rows, flow, gradients.x, *self._with_moments("W_enc"),
                screen.rows, screen.length, screen.lost, *pace, len(gradients.x), dimensions,
                **of_encoder,
            )  # fmt: skip
        if "W_dec" in self._moments:
            loops.update_decoder[(latents,)](
                starts, rows, values, gradients.residual, *self._with_moments("W_dec"),
                *pace, len(gradients.residual), dimensions, **constants,
            )  # fmt: skip

    def _with_moments(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        return self._all[name], *self._moments[name]


def _adam(
    p: Tensor, m: Tensor, v: Tensor, gradient: Tensor, clip: float, rate: float, root: float
) -> None:
    """Adam on a bias, as the kernels have it for rows."""
    g = gradient * clip
    m.mul_(BETAS[0]).add_(g, alpha=1 - BETAS[0])
    v.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
    p.addcdiv_(m, v.sqrt().mul_(root).add_(EPSILON), value=-rate)
