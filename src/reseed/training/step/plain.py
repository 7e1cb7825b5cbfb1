"""What all paths of a step have, and the plain one by torch, with its optimisers.

All paths give the same to float rounding, and keep the same state under the same names, so that a
run that was begun on one could go on on another. Within one path results are bit-identical.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from reseed.errors import SpecError
from reseed.sae.architecture import At, Batch, Objective, Parameters
from reseed.sae.architectures import architecture, topk
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.parts import falling_k
from reseed.sae.settings import ArchitectureSpec
from reseed.training.start import aligned

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of Adam; torch's defaults."""


class Look(NamedTuple):
    """What a batch says before anything is updated."""

    fvu: float
    l0: float
    fired: Tensor
    """[F] bool"""
    norm: float
    """of the gradient, before clipping"""
    rates: Tensor | None = None
    """[F] share of the rows in which each latent fired; where gradients are torch's"""


class Step(Protocol):
    """Gradients and optimiser of one run."""

    def look(self, batch: Batch, at: At, pull: Tensor | None = None) -> Look:
        """Find loss and gradients of a batch; nothing is updated.

        `pull` `[F, E]` is added to the gradient of W_dec, if it is trained.
        """
        ...

    def apply(self, rate: float) -> None:
        """Update the parameters, at a learning rate, by what `look` found."""
        ...

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state as named tensors."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave, and from the parameters as they are now."""
        ...


class Gradients(NamedTuple):
    """Gradients of a batch and what to report."""

    by_name: Mapping[str, Tensor]
    """of the trained parameters at least"""
    fvu: float
    l0: float
    fired: Tensor
    """[F] bool"""
    buffers: Mapping[str, Tensor] = {}
    """new values of parameters that are not trained"""
    rates: Tensor | None = None
    """[F] share of the rows in which each latent fired"""


Differentiate = Callable[[Parameters, Batch, At], Gradients]
"""From parameters, of which the trained ones want gradients."""


def topk_by_hand(spec: TopKSpec) -> Differentiate:
    """Gradients of TopK, written out: they touch few rows."""

    def differentiate(p: Parameters, batch: Batch, at: At) -> Gradients:
        with torch.no_grad():
            out = topk.step(p, batch.x, spec, at.dead)
        return Gradients(out.gradients, out.fvu, out.l0, out.fired)

    return differentiate


def by_autograd(spec: ArchitectureSpec) -> Differentiate:
    """Gradients of any architecture and all options that change the loss, by torch."""
    objective = architecture(spec.name).objective

    def differentiate(p: Parameters, batch: Batch, at: At) -> Gradients:
        trained = {name: value for name, value in p.items() if value.requires_grad}
        with torch.enable_grad():
            here = aligned(p) if spec.aligned else p
            out = objective(here, batch, settings_at(spec, at), at)
            loss = _loss(out, batch)
            if spec.weight_l2 > 0:
                squares = here["W_enc"].square().sum() + here["W_dec"].square().sum()
                loss = loss + spec.weight_l2 * squares
            gradients: tuple[Tensor, ...] = ()
            if trained:
                gradients = torch.autograd.grad(
                    loss, list(trained.values()), allow_unused=True, materialize_grads=True
                )
        fires = out.codes > 0
        return Gradients(
            dict(zip(trained, gradients, strict=True)),
            float(out.fvu),
            float(fires.sum() / len(fires)),
            fires.any(0),
            out.buffers,
            fires.float().mean(0),
        )

    return differentiate


def _loss(out: Objective, batch: Batch) -> Tensor:
    if batch.through is None:
        return out.loss
    assert out.reconstruction is not None, "an architecture that has no reconstruction"
    loss = batch.through(out.reconstruction)
    return loss if out.beside is None else loss + out.beside


def settings_at(spec: ArchitectureSpec, at: At) -> ArchitectureSpec:
    """The settings at this step: k may still be on its way down."""
    if spec.k_start is None:
        return spec
    over = round(spec.k_share * at.steps)
    k = falling_k(at.step, first=spec.k_start, k=getattr(spec, "k"), over=over)  # noqa: B009
    return spec.model_copy(update={"k": k})


class Signum(torch.optim.Optimizer):
    """Steps of the same size in every coordinate, by the sign of the momentum (arXiv 1802.04434).

        m <- momentum m + (1 - momentum) g,  p <- p - lr sign(m)

    The default of sparsify wraps the same in a schedule-free average; here the learning rate's
    schedule does that work.
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float = 1e-3, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in cast(list[torch.nn.Parameter], group["params"]):
                if parameter.grad is None:
                    continue
                state = cast(dict[str, Tensor], self.state[parameter])
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                average = state["momentum_buffer"].lerp_(parameter.grad, 1.0 - group["momentum"])
                parameter.sub_(average.sign(), alpha=group["lr"])
        return loss


def make_optimizers(
    trained: Mapping[str, torch.nn.Parameter], spec: ArchitectureSpec
) -> dict[str, torch.optim.Optimizer]:
    """Optimisers that together update every parameter once, by the name of their kind."""
    if spec.optimizer == "signum":
        return {"signum": Signum(trained.values())}
    if spec.optimizer == "muon":
        matrices = [p for p in trained.values() if p.ndim == 2]
        others = [p for p in trained.values() if p.ndim != 2]
        return {
            **({"muon": _muon(matrices)} if matrices else {}),
            **({"adam": torch.optim.Adam(others, fused=True)} if others else {}),
        }
    # betas .9 and .999, epsilon 1e-8: torch's defaults, which the recipe of 2501.16615 keeps
    return {"adam": torch.optim.Adam(trained.values(), fused=True)}


def _muon(matrices: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Momentum made orthogonal by Newton-Schulz, scaled to the size of Adam's steps (2502.16982).

    Without weight decay, which `weight_l2` is for.
    """
    kind: Any = getattr(torch.optim, "Muon", None)
    if kind is None:
        raise SpecError(
            f'optimizer = "muon" needs torch 2.9 or newer, this is {torch.__version__}; '
            'upgrade torch or take optimizer = "adam"'
        )
    return kind(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")


class PlainStep:
    """By torch's own optimisers, on any device, with the gradients that `differentiate` gives."""

    def __init__(
        self,
        parameters: Parameters,
        trained: frozenset[str],
        spec: ArchitectureSpec,
        clip: float,
        differentiate: Differentiate,
    ) -> None:
        self._trained = {n: torch.nn.Parameter(p) for n, p in parameters.items() if n in trained}
        self._all = {**parameters, **self._trained}
        self._clip, self._differentiate, self._spec = clip, differentiate, spec
        self._architecture = architecture(spec.name)
        self._unit = trained & {"W_dec"} if spec.unit_rows else frozenset[str]()
        self._optimizers = make_optimizers(self._trained, spec) if trained else {}
        self._buffers: Mapping[str, Tensor] = {}

    def look(self, batch: Batch, at: At, pull: Tensor | None = None) -> Look:
        out = self._differentiate(self._all, batch, at)
        for name, parameter in self._trained.items():
            gradient = out.by_name[name]
            if pull is not None and name == "W_dec":
                gradient = gradient + pull
            parameter.grad = gradient
        self._buffers = out.buffers
        norm = 0.0
        if self._trained:
            norm = float(torch.nn.utils.clip_grad_norm_(self._trained.values(), self._clip))
        return Look(out.fvu, out.l0, out.fired, norm, out.rates)

    @torch.no_grad()
    def apply(self, rate: float) -> None:
        for name in self._unit:
            rows, gradient = self._trained[name], self._trained[name].grad
            assert gradient is not None
            # what would only change a row's length
            gradient.sub_((gradient * rows).sum(1, keepdim=True) * rows)
        for optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        for name in self._unit:
            rows = self._trained[name]
            rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True))
        for name, value in self._buffers.items():
            self._all[name].copy_(value)
        if self._architecture.project is not None:
            self._architecture.project(self._all, self._spec)

    def state(self) -> dict[str, Tensor]:
        return {
            f"{kind}.{name}.{key}": value
            for kind, optimizer in self._optimizers.items()
            for name, parameter in self._trained.items()
            for key, value in optimizer.state.get(parameter, {}).items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for kind, optimizer in self._optimizers.items():
            known = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for name, parameter in self._trained.items():
                if id(parameter) in known:
                    prefix = f"{kind}.{name}."
                    optimizer.state[parameter] = {
                        key.removeprefix(prefix): value.clone()
                        for key, value in state.items()
                        if key.startswith(prefix)
                    }
