"""What an architecture is to training: a module of `reseed.sae.architectures`.

B batch, D input and E output dimensions (E = D but for a transcoder), F latents.

What an architecture may have besides `Architecture`: changes that no gradient makes.

A module that has a function of one of these names is such an architecture. All are functions of
their arguments alone, so that a resumed training ends as one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

from reseed.records import Floats
from reseed.sae.lazy import torch
from reseed.sae.model import SAE
from reseed.sae.start import encoder_rows

if TYPE_CHECKING:
    from torch import Tensor


Parameters: TypeAlias = "dict[str, Tensor]"
"""By name: W_enc [F, D], b_enc [F], W_dec [F, E], b_dec [E], and what else an architecture has"""


class Batch(NamedTuple):
    """What is read and what is to be reconstructed."""

    x: Tensor
    """[B, D]"""
    y: Tensor
    """[B, E]; x itself but for a transcoder"""
    through: Callable[[Tensor], Tensor] | None = None
    """from a reconstruction, [B, E], what it does to the subject, a scalar to be made small; then
    that is trained on, not the distance to y"""


class Batches(Protocol):
    """The batches that a run learns from, for what one batch does not tell."""

    def first(self, rows: int) -> Iterator[Batch]:
        """From its first one on, until so many rows were given or training ends."""
        ...

    def last(self, rows: int) -> Iterator[Batch]:
        """From its last one backwards, until so many rows were given or training began."""
        ...


class OneBatch:
    """`Batches` where only one is known."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def first(self, rows: int) -> Iterator[Batch]:
        """See `Batches`."""
        yield self._batch

    def last(self, rows: int) -> Iterator[Batch]:
        """See `Batches`."""
        yield self._batch


class Start(NamedTuple):
    """Where a training starts from."""

    rows: Floats
    """[F, D] encoder rows: a function of the init seed, and of the first batch if made of its
    rows"""
    x_centre: Floats
    """[D] geometric median of the first batch"""
    y_centre: Floats
    """[E] the same of what is reconstructed"""
    init_seed: int
    """for whatever else is random at the start"""
    x_length: float = 1.0
    """root mean square distance of the rows of the first batch to their mean"""
    batches: Batches | None = None
    """what the run will learn from, for starts that read the data"""


def start(
    latents: int,
    init_seed: int,
    x_centre: Floats,
    y_centre: Floats | None = None,
    x_length: float = 1.0,
    batches: Batches | None = None,
    rows: Floats | None = None,
) -> Start:
    """Where a training of this init seed starts from.

    Args:
        latents: F.
        init_seed: decides the rows.
        x_centre: `[D]`.
        y_centre: `[E]`; `x_centre` if left out.
        x_length: root mean square distance of the rows of the first batch to their mean.
        batches: what the run will learn from.
        rows: `[F, D]`; those of a linear layer if left out.
    """
    if rows is None:
        rows = encoder_rows(latents, len(x_centre), init_seed)
    y = x_centre if y_centre is None else y_centre
    return Start(rows, x_centre, y, init_seed, x_length, batches)


class At(NamedTuple):
    """Where in training a batch is."""

    step: int
    """from 0"""
    steps: int
    """all"""
    dead: Tensor
    """[F] bool, latents silent for longer than `dead_after`"""
    penalty: float = 1.0
    """factor on the sparsity penalty, moved by whatever holds L0 to a target"""


class Objective(NamedTuple):
    """What an architecture makes of a batch."""

    loss: Tensor
    """scalar, differentiable"""
    fvu: Tensor
    """scalar: Σ (ŷ - y)² / Σ (y - mean over the batch)², of the reconstruction alone"""
    codes: Tensor
    """[B, F], as they fire under the training rule"""
    buffers: Mapping[str, Tensor] = {}
    """new values of parameters that gradients do not train"""
    reconstruction: Tensor | None = None
    """[B, E], differentiable"""
    beside: Tensor | None = None
    """what `loss` has besides the reconstruction's error: penalties; None for nothing"""


class Architecture(Protocol):
    """The functions of such a module. None of them keeps state; all of it is in the parameters."""

    @property
    def UNIT_ROWS(self) -> frozenset[str]:  # noqa: N802
        """Parameters whose rows have length 1 after every step."""
        ...

    @property
    def BUFFERS(self) -> frozenset[str]:  # noqa: N802
        """Parameters that `Objective.buffers` moves, not the gradient."""
        ...

    def initial(self, spec: Any, start: Start) -> Parameters:
        """Parameters before training, float32 on the CPU."""
        ...

    def objective(self, p: Parameters, batch: Batch, spec: Any, at: At) -> Objective:
        """The loss of a batch, by differentiable operations."""
        ...

    def freeze(self, p: Parameters, spec: Any, about: Mapping[str, Any]) -> SAE:
        """The SAE that these parameters are at inference."""
        ...


def architecture(name: str) -> Architecture:
    """The architecture of this name, one of `reseed.sae.architectures.names.ARCHITECTURES`."""
    return cast(Architecture, import_module(f"reseed.sae.architectures.{name}"))


def squared_variation(y: Tensor) -> Tensor:
    """Σ (y - mean over the batch)²: what a reconstruction by the mean alone leaves."""
    return (y - y.mean(0)).square().sum()


def geometric_median(x: Tensor, rounds: int = 100, tolerance: float = 1e-6) -> Tensor:
    """The point with the least summed distance to the rows, by Weiszfeld's iteration.

    Args:
        x: `[B, D]`.
        rounds: iterations at the most.
        tolerance: relative change of the sum at which to stop.

    Returns:
        `[D]`.
    """
    median, last = x.mean(0), torch.inf
    for _ in range(rounds):
        distance = torch.linalg.vector_norm(x - median, dim=1).clamp_min(1e-12)
        total = float(distance.sum())
        if abs(last - total) <= tolerance * total:
            break
        weights = 1.0 / distance
        median, last = (weights[:, None] * x).sum(0) / weights.sum(), total
    return median


@runtime_checkable
class Fits(Protocol):
    """Parameters that are found from rows at once, without steps: PCA and the like."""

    def fit(self, p: Parameters, spec: Any, init_seed: int, batches: Batches) -> Parameters:
        """New values of some parameters, found once, before the first step."""
        ...


@runtime_checkable
class Settles(Protocol):
    """Parameters that depend on all others as they are in the end: a threshold."""

    def settle(self, p: Parameters, spec: Any, batches: Batches) -> Parameters:
        """New values of some parameters, found once, after the last step."""
        ...


@runtime_checkable
class Projects(Protocol):
    """Parameters that are held to a set."""

    def project(self, p: Parameters, spec: Any) -> None:
        """Bring parameters back, in place, after every step."""
        ...
