"""The batches of a run by number, for architectures that read more than one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from reseed.sae.architecture import Batch
from reseed.training.spec import RunSpec


class RunBatches:
    """What a run learns from; implements `reseed.sae.architecture.Batches`.

    Args:
        run: the run.
        batch: its batches by number: site to `[B, D]`.
    """

    def __init__(self, run: RunSpec, batch: Callable[[int], Mapping[str, Tensor]]) -> None:
        self._run, self._batch = run, batch

    def first(self, rows: int) -> Iterator[Batch]:
        """See `Batches`."""
        return map(self._at, range(self._count(rows)))

    def last(self, rows: int) -> Iterator[Batch]:
        """See `Batches`."""
        steps = self._run.training.steps
        return map(self._at, range(steps - 1, steps - 1 - self._count(rows), -1))

    def _count(self, rows: int) -> int:
        training = self._run.training
        return min(training.steps, -(-rows // training.batch))

    def _at(self, number: int) -> Batch:
        rows = self._batch(number)
        return Batch(rows[self._run.site], rows[self._run.target])
