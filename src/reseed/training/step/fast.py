"""The fast path on a CPU, and what it shares with that on a GPU: look, apply, Adam's moments.

Options that act on weights, not on codes, and other optimisers take their gradients from the same
loops and leave the rest to torch (`by_loops`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from reseed.loops import compiled as workers
from reseed.loops import matrices as loops
from reseed.loops.products import Whole
from reseed.sae import encode
from reseed.sae.architecture import At, Batch, Parameters
from reseed.sae.encode import Screen
from reseed.sae.settings import ArchitectureSpec
from reseed.training.start import aligned, through_aligned
from reseed.training.step.finding import finding
from reseed.training.step.plain import (
    BETAS,
    EPSILON,
    Differentiate,
    Gradients,
    Look,
    settings_at,
)
from reseed.training.step.sparse import (
    LATENTS,
    NO_FLOW,
    BatchGradients,
    CPUGradients,
    Matrices,
    read_batch,
)


class Moments:
    """First and second moments of what is trained, and how many steps were made."""

    def __init__(self, parameters: Parameters, trained: frozenset[str]) -> None:
        self._of = {
            name: (torch.zeros_like(p), torch.zeros_like(p))
            for name, p in parameters.items()
            if name in trained
        }
        self.made = 0

    def __contains__(self, name: str) -> bool:
        return name in self._of

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        return self._of[name]

    def state(self) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for name, (first, second) in self._of.items():
            out[f"adam.{name}.step"] = torch.tensor(float(self.made))
            out[f"adam.{name}.exp_avg"] = first
            out[f"adam.{name}.exp_avg_sq"] = second
        return out

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, (first, second) in self._of.items():
            self.made = int(state[f"adam.{name}.step"])
            first.copy_(state[f"adam.{name}.exp_avg"])
            second.copy_(state[f"adam.{name}.exp_avg_sq"])


Floats = NDArray[np.float32]

_Trained = tuple[Floats, Floats, Floats]
"""A parameter with its two moments."""

_NO_BITS, _NO_WHOLE = np.empty((0, 0), np.uint16), Whole.room(0, 0)
_NO_MATRICES = Matrices(*np.empty((2, 0, 0), np.float32))
"""Where gradients are made of entries."""


class EntryStep(ABC):
    """A step whose gradients are entries, from which rows of gradients are made as they are needed.

    `parameters` are float32 and contiguous and are updated in place.
    """

    def __init__(self, parameters: Parameters, trained: frozenset[str], clip: float) -> None:
        self._all, self._trained, self._clip = parameters, trained, clip
        self._moments = Moments(parameters, trained)
        self._gradients: Any = None
        self._screen: Any = self._look_at_encoder()

    @abstractmethod
    def _look_at_encoder(self) -> Any:
        """What the encoder's rounded product needs to know of W_enc as it is now."""

    @abstractmethod
    def _find(self, batch: Batch, at: At) -> BatchGradients[Any, Any] | None:
        """Loss and gradients of a batch; None if the encoder has NaN or infinity."""

    @abstractmethod
    def _update(self, gradients: Any, clip: float, rate: float, root: float) -> None:
        """An Adam step: `rate` and `root` have the bias corrections in them."""

    @torch.no_grad()
    def look(self, batch: Batch, at: At, pull: Tensor | None = None) -> Look:
        if pull is not None:
            raise RuntimeError("this path has no gradients to add to; take the plain one")
        self._gradients = gradients = self._find(batch, at)
        if gradients is None:  # what is not finite is never among the largest
            return Look(math.nan, 0.0, torch.zeros_like(at.dead), math.nan)
        return Look(gradients.fvu, gradients.l0, gradients.fired, gradients.norm)

    @torch.no_grad()
    def apply(self, rate: float) -> None:
        gradients, self._gradients = self._gradients, None
        if gradients is None:
            raise RuntimeError("apply needs a look before")
        self._moments.made += 1
        first, second = (1 - beta**self._moments.made for beta in BETAS)
        clip = min(1.0, self._clip / (gradients.norm + 1e-6))
        self._update(gradients, clip, rate / first, 1 / math.sqrt(second))
        for name, value in gradients.buffers.items():
            self._all[name].copy_(value)

    def state(self) -> dict[str, Tensor]:
        return self._moments.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._moments.restore(state)
        self._screen = self._look_at_encoder()


class FastStep(EntryStep):
    """By compiled loops, on a CPU, for settings that have them (`has_loops`); see docs/speed.md."""

    def __init__(
        self, parameters: Parameters, trained: frozenset[str], spec: ArchitectureSpec, clip: float
    ) -> None:
        self._rule = finding(spec)
        super().__init__(parameters, trained, clip)

    def _look_at_encoder(self) -> Screen:
        return encode.new_screen(self._all["W_enc"], torch.get_num_threads())

    def _find(self, batch: Batch, at: At) -> CPUGradients | None:
        if not self._screen.finite:
            return None
        threads = torch.get_num_threads()
        read = read_batch(
            self._all, batch.x, at.dead, self._screen, trained=self._trained, threads=threads
        )
        return self._rule(read, at)

    def _update(self, gradients: CPUGradients, clip: float, rate: float, root: float) -> None:
        first, second = BETAS
        numbers = (clip, first, second, 1 - first, 1 - second, rate, root, EPSILON)
        pace = loops.Pace(*np.array(numbers, np.float32))
        self._update_matrices(gradients, pace)
        for name, gradient in gradients.vectors.items():
            arrays = self._arrays(name)
            if arrays is not None:
                p, m, v = arrays
                loops.adam(p, gradient * pace.clip, m, v, pace)

    def _update_matrices(self, gradients: CPUGradients, pace: loops.Pace) -> None:
        encoder, decoder = self._arrays("W_enc"), self._arrays("W_dec")
        entries, screen, (bits, whole) = gradients.entries, self._screen, self._screen.rooms()
        dense, unused = gradients.matrices or _NO_MATRICES, np.empty((2, len(screen.length)))

        def work(first: int, stop: int) -> None:
            stretch = first, stop, entries.starts, entries.rows
            if encoder is not None:
                loops.update_free(
                    *stretch, entries.flow, gradients.x, dense.W_enc, NO_FLOW, pace, *encoder,
                    bits, whole, screen.length, screen.lost,
                )  # fmt: skip
            if decoder is not None and gradients.pull is not None:
                loops.update_free(
                    *stretch, entries.values, gradients.residual, dense.W_dec, gradients.pull,
                    pace, *decoder, _NO_BITS, _NO_WHOLE, *unused,
                )  # fmt: skip
            elif decoder is not None:
                loops.update_decoder(
                    *stretch, entries.values, gradients.residual, dense.W_dec, pace, *decoder
                )

        count, threads = len(entries.starts) - 1, torch.get_num_threads()
        # a row does not depend on its stretch; few latents are cut so that no thread is without one
        workers.stretches(work, count, min(LATENTS, math.ceil(count / (4 * threads))), threads)

    def _arrays(self, name: str) -> _Trained | None:
        """A parameter with its moments; None if it is not trained."""
        if name not in self._moments:
            return None
        first, second = self._moments[name]
        return self._all[name].numpy(), first.numpy(), second.numpy()


def by_loops(spec: ArchitectureSpec) -> Differentiate:
    """Gradients by the rule of an architecture; those of options that act on weights by torch."""
    rule = finding(spec)

    def differentiate(p: Parameters, batch: Batch, at: At) -> Gradients:
        p = {name: value.detach() for name, value in p.items()}
        here, threads = aligned(p) if spec.aligned else p, torch.get_num_threads()
        screen = encode.new_screen(here["W_enc"], threads)
        if not screen.finite:
            nothing = {name: torch.zeros_like(value) for name, value in p.items()}
            return Gradients(nothing, math.nan, 0.0, torch.zeros_like(at.dead))
        # the norm is torch's, so none is made here
        read = read_batch(here, batch.x, at.dead, screen, trained=frozenset(), threads=threads)
        find = rule if spec.k_start is None else finding(settings_at(spec, at))
        found = find(read, at)
        gradients = {name: torch.from_numpy(value) for name, value in found.vectors.items()}
        W_enc, W_dec = _matrices(found, here, threads)
        if spec.weight_l2 > 0:
            W_enc.add_(here["W_enc"], alpha=2 * spec.weight_l2)
            W_dec.add_(here["W_dec"], alpha=2 * spec.weight_l2)
        if spec.aligned:
            W_enc, besides = through_aligned(p, W_enc)
            W_dec.add_(besides)
        gradients |= {"W_enc": W_enc, "W_dec": W_dec}
        return Gradients(gradients, found.fvu, found.l0, found.fired, found.buffers)

    return differentiate


def _matrices(found: CPUGradients, p: Parameters, threads: int) -> tuple[Tensor, Tensor]:
    """Gradients of W_enc and W_dec, whole."""
    if found.matrices is not None:
        return torch.from_numpy(found.matrices.W_enc), torch.from_numpy(found.matrices.W_dec)
    entries, x, residual = found.entries, found.x, found.residual
    W_enc, W_dec = np.empty((2, *p["W_enc"].shape), np.float32)

    def work(first: int, stop: int) -> None:
        starts = entries.starts[first : stop + 1]
        some = slice(starts[0], starts[-1])
        for weights, source, rows in (
            (entries.flow, x, W_enc),
            (entries.values, residual, W_dec),
        ):
            where = entries.rows[some] % len(source), starts - starts[0]
            codes = sparse.csr_array((weights[some], *where), (stop - first, len(source)))
            rows[first:stop] = codes @ source

    workers.stretches(work, len(W_enc), LATENTS, threads)
    if found.pull is not None:
        W_dec += found.pull[:, None] * p["W_dec"].numpy()
    return torch.from_numpy(W_enc), torch.from_numpy(W_dec)
