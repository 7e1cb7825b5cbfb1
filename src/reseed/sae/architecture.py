"""What an architecture is to training: a record of functions, made at the end of its file.

B batch, D input and E output dimensions (E = D but for a transcoder), F latents. All functions are
functions of their arguments alone, so that a resumed training ends as one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from reseed.records import Floats
from reseed.sae import Tensor
from reseed.sae.settings import ArchitectureSpec

if TYPE_CHECKING:
    from reseed.sae.model import SAE


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


class BatchSource(Protocol):
    """The batches that a run learns from, for what one batch does not tell."""

    def first(self, rows: int) -> Iterator[Batch]:
        """From its first one on, until so many rows were given or training ends."""
        ...

    def last(self, rows: int) -> Iterator[Batch]:
        """From its last one backwards, until so many rows were given or training began."""
        ...


class OneBatch:
    """`BatchSource` where only one is known."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def first(self, rows: int) -> Iterator[Batch]:
        """That batch."""
        yield self._batch

    last = first


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
    batches: BatchSource | None = None
    """what the run will learn from, for starts that read the data"""


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


@dataclass(frozen=True, slots=True)
class Architecture:
    """An architecture: its settings, its start, its loss and its form at inference."""

    settings: type[ArchitectureSpec]
    initial: Callable[[Any, Start], Parameters]
    """from settings: parameters before training, float32 on the CPU"""
    objective: Callable[[Parameters, Batch, Any, At], Objective]
    """the loss of a batch, by differentiable operations"""
    freeze: Callable[[Parameters, Any, Mapping[str, Any]], SAE]
    """from parameters, settings and `about`: the SAE that they are at inference"""
    buffers: frozenset[str] = frozenset()
    """parameters that `Objective.buffers` moves, not the gradient"""
    fit: Callable[[Parameters, Any, int, BatchSource], Parameters] | None = None
    """from parameters, settings, init seed and batches: new values of some parameters, found once
    before the first step; of dictionaries that are found without steps, PCA and the like"""
    settle: Callable[[Parameters, Any, BatchSource], Parameters] | None = None
    """new values of some parameters, found once after the last step: a threshold that depends on
    all others as they are in the end"""
    project: Callable[[Parameters, Any], None] | None = None
    """brings parameters back to the set that they are held to, in place, after every step"""
    thaw: Callable[[SAE, Any, Start], Parameters] | None = None
    """the way back from `freeze`, to train on: parameters that are this SAE at inference, which is
    in units of training, has a rule of `thaws`, and as `unit_rows` says, decoder rows of length 1;
    None where there is no way back"""
    thaws: frozenset[str] = frozenset()
    """kinds of rules that `thaw` takes"""

    @property
    def name(self) -> str:
        """As in `[[sae]] architecture = "NAME"`."""
        return self.settings.model_fields["architecture"].default
