"""What a batch says to an SAE, on a CPU, without one array of the size of the dense codes.

Gradients of the two matrices are kept as the entries that they are made of. The encoder product is
the only dense work left. Which entries fire is found by `finding`; this is what all rules have in
common, once it is known.

B batch, D dimensions, F latents, E active codes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.loops import compiled as workers
from reseed.loops import step as loops
from reseed.loops.encode import mark
from reseed.loops.step import ByRow, Entries
from reseed.sae import encode
from reseed.sae.architecture import Parameters
from reseed.sae.codes import Codes
from reseed.sae.encode import Reader, Screen
from reseed.sae.parts import auxk_size

Floats = NDArray[np.float32]

ROWS = 128
"""Batch rows of a piece of work."""

LATENTS = 512
"""Latents of a piece of work; sums are added piece by piece, so it decides how they are rounded."""

NO_FLOW = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class ReadBatch:
    """A batch as it is read, with what reads it."""

    p: Parameters
    """float32"""
    x: Floats
    """[B, D] what the encoder reads"""
    scale: float
    """squared distance of the rows to their mean"""
    screen: Screen
    """of W_enc as it is now"""
    dead: Tensor
    """[F] bool, latents silent for longer than `dead_after`"""
    trained: frozenset[str]
    """names of the parameters that the norm is of"""
    threads: int

    @property
    def step(self) -> np.float32:
        """From an error to the gradient of the FVU."""
        return np.float32(2.0 / self.scale) if self.scale > 0 else np.float32(np.nan)

    def reader(self, bias: str = "b_enc") -> Reader:
        """The rows and the encoder, with the bias of this name."""
        W_enc, b_enc = self.p["W_enc"].numpy(), self.p[bias].numpy()
        return Reader(self.x, W_enc, b_enc, self.screen, self.threads)

    def fvu(self, loss: NDArray[np.float64]) -> float:
        """Of squared errors, `[B]`."""
        return float(loss.sum()) / self.scale if self.scale > 0 else math.nan


def read_batch(
    p: Parameters,
    x: Tensor,
    dead: Tensor,
    screen: Screen,
    *,
    trained: frozenset[str],
    threads: int,
) -> ReadBatch:
    """Read rows `[B, D]` of a batch; the rest as `ReadBatch` keeps it."""
    rows = np.ascontiguousarray(x.numpy())
    centred = np.empty_like(rows)
    scale = loops.centre(rows, p["b_dec"].numpy(), rows.mean(0), centred)
    return ReadBatch(p, centred, scale, screen, dead, trained, threads)


class Matrices(NamedTuple):
    """Gradients of W_enc and W_dec, `[F, D]`, where they are made whole."""

    W_enc: Floats
    W_dec: Floats


A = TypeVar("A")
E = TypeVar("E")


@dataclass(frozen=True, slots=True, eq=False)
class BatchGradients(Generic[A, E]):
    """What one batch says, as arrays A and entries E of a device; see `topk.Step`."""

    x: A
    """[B, D] what the encoder read"""
    residual: A
    """[B, D], or [P B, D] where P reconstructions were made"""
    entries: E
    """active codes sorted by latent; none where there are `matrices`"""
    vectors: Mapping[str, A]
    """gradients of b_dec [D] and whatever else is no matrix"""
    norm: float
    """of the gradient of all that is trained"""
    fvu: float
    l0: float
    fired: Tensor
    """[F] bool"""
    matrices: Matrices | None = None
    pull: A | None = None
    """[F] times W_dec, in the gradient of its rows besides; None where these have length 1"""
    buffers: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """new values of parameters that are not trained"""


CPUGradients = BatchGradients[Floats, Entries]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Codes of a batch with what they leave."""

    codes: ByRow
    residual: Floats
    """[B, D] gradient of the loss by the reconstruction"""
    flow: Floats
    """[E] gradient of each code"""
    loss: NDArray[np.float64]
    """[B] squared errors"""


def by_row(codes: Codes) -> ByRow:
    """Codes of as many entries a row, as a list."""
    values, latents = codes.values.numpy(), codes.latents.numpy()
    starts = np.arange(len(values) + 1) * values.shape[1]
    return ByRow(starts, latents.reshape(-1), values.reshape(-1))


def decoded(
    g: ReadBatch,
    codes: ByRow,
    start: Floats,
    before: np.float32,
    after: np.float32,
    *,
    tolls: Floats = NO_FLOW,
    flows: bool = True,
) -> Part:
    """Reconstruct: the residual is after (before start + codes W_dec), start `[B, D]`.

    `tolls` `[F]` is what the loss has for each active code besides; without `flows` the gradients
    of codes are left out.
    """
    residual, loss = np.empty_like(start), np.empty(len(start))
    flow = np.empty_like(codes.values) if flows else NO_FLOW
    numbers = before, after, tolls

    def work(first: int, stop: int) -> None:
        loops.decode(
            first, stop, *codes, g.p["W_dec"].numpy(), start, *numbers, residual, flow, loss
        )

    workers.stretches(work, len(g.x), ROWS, g.threads)
    return Part(codes, residual, flow, loss)


def pulled(
    g: ReadBatch, starts: loops.Integers, latents: loops.Integers, residual: Floats
) -> Floats:
    """`residual W_decᵀ` at some latents of each row, `[E]`."""
    flow = np.empty(len(latents), np.float32)

    def work(first: int, stop: int) -> None:
        loops.pulls(first, stop, starts, latents, g.p["W_dec"].numpy(), residual, flow)

    workers.stretches(work, len(g.x), ROWS, g.threads)
    return flow


def auxiliary(g: ReadBatch, residual: Floats, alpha: float) -> list[Part]:
    """The auxiliary loss, by the same loops on the rows of dead latents; nothing if none is dead.

    `residual` `[B, D]` is 2 error / scale of the whole reconstruction, `alpha` weighs the loss.
    """
    if alpha <= 0 or not bool(g.dead.any()):
        return []
    rows = g.dead.nonzero()[:, 0]
    active, share = auxk_size(g.x.shape[1], len(rows))
    W_enc, b_enc = g.p["W_enc"][rows].numpy(), g.p["b_enc"][rows].numpy()
    best = encode.codes(Reader(g.x, W_enc, b_enc, g.screen.of(rows), g.threads), active)
    codes = by_row(Codes(best.values, rows[best.latents]))
    unit = np.float32(g.scale / 2.0)
    return [decoded(g, codes, residual, unit, np.float32(alpha * share / unit))]


def gathered(
    g: ReadBatch,
    parts: Sequence[Part],
    fvu: float,
    fired: ByRow,
    *,
    vectors: Mapping[str, Floats] | None = None,
    pull: Floats | None = None,
    buffers: Mapping[str, Tensor] | None = None,
) -> CPUGradients:
    """Gradients of all that is trained, from parts that each have codes of their own.

    b_dec learns from the residual of the first part. `fvu` is of the whole reconstruction, `fired`
    has all codes that fire, `vectors` other gradients, `pull` is in `BatchGradients`, `buffers` has
    new values of what is not trained.
    """
    latents = len(g.p["W_enc"])
    entries = entries_of(parts, latents)
    residual = parts[0].residual
    b_dec = residual.sum(0)
    if len(parts) > 1:
        residual = np.concatenate([part.residual for part in parts])
    bias, through, squared = norms_of(g, entries, residual, pull)
    b_dec -= through
    own = dict(vectors or {}) | {"b_dec": b_dec}
    if "b_enc" in g.p:
        own["b_enc"] = bias
    squared += sum(float(np.square(v, dtype=np.float64).sum()) for v in own.values())
    mask = np.zeros(latents, np.bool_)
    # not by torch: its threads stay awake for milliseconds and take the cores of the loops
    active = mark(fired.latents, fired.values, mask)
    return BatchGradients(
        x=g.x,
        residual=residual,
        entries=entries,
        vectors=own,
        norm=math.sqrt(squared) if squared >= 0 else math.nan,
        fvu=fvu,
        l0=active / len(g.x),
        fired=torch.from_numpy(mask),
        pull=pull,
        buffers=buffers or {},
    )


def entries_of(parts: Sequence[Part], latents: int) -> Entries:
    """The codes of all parts by latent; rows of part i begin at i B."""
    starts = np.zeros(latents + 1, np.int64)
    for part in parts:
        loops.count_entries(part.codes.latents, part.codes.values, part.flow, starts)
    starts = np.cumsum(starts)
    fill, count = starts[:-1].copy(), int(starts[-1])
    rows, both = np.empty(count, np.int32), np.empty((2, count), np.float32)
    for i, part in enumerate(parts):
        first = i * len(part.residual)
        loops.place_entries(*part.codes, part.flow, first, fill, rows, both[0], both[1])
    return Entries(starts, rows, both[0], both[1])


def norms_of(
    g: ReadBatch, entries: Entries, residual: Floats, pull: Floats | None = None
) -> tuple[Floats, Floats, float]:
    """Sums of the flow, what they send through the encoder to b_dec, and the squared norm."""
    W_enc, W_dec = (g.p[name].numpy() for name in ("W_enc", "W_dec"))
    latents, dimensions = W_enc.shape
    pieces = math.ceil(latents / LATENTS)
    bias, squared = np.empty(latents, np.float32), np.empty(pieces)
    through = np.empty((pieces, dimensions), np.float32)
    trained = "W_enc" in g.trained, "W_dec" in g.trained

    def work(first: int, stop: int) -> None:
        piece = first // LATENTS
        squared[piece] = loops.norms(
            first,
            stop,
            *entries,
            g.x,
            residual,
            W_enc,
            W_dec,
            NO_FLOW if pull is None else pull,
            *trained,
            bias,
            through[piece],
        )

    workers.stretches(work, latents, LATENTS, g.threads)
    return bias, cast("Floats", through.sum(0)), float(squared.sum())
