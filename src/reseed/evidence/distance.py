"""FVU, and a robust FVU that a few very long rows cannot decide.

FVU = Σ‖x̂ - x‖² / Σ‖x - mean‖² weighs a row by its squared distance from the mean: three rows in a
thousand that are 150 times as long as the others (attention sinks and other rows with massive
activations, arXiv 2402.17762) hold nearly all of it. The robust FVU is the same fraction over the
rows that are left when the far ones go: those at least about three times as far from the centre as
the median row (2^1.5 to 2^1.75 times), the farthest first, at most a tenth of all rows. Where there
are none it is the FVU itself.

The centre is the median of each coordinate in the first rows that come. Distances from it are kept
in classes half an octave of the squared distance wide, with the sums of each class: one pass,
memory O(classes x D), nothing drawn. N rows, D dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.loops.compiled import compiled, reordered
from reseed.sae import Tensor, torch

Floats = NDArray[np.float64]

Integers = NDArray[np.int64]

_CLASSES = 2
"""In an octave of the squared distance."""

_FAR = 7
"""Classes above that of the median row."""

_MOST = 0.1
"""Share of the rows that may be left out."""

_ROUNDING = 1e-12
"""Share of the squared rows below which their variance is rounding."""

_NO_DISTANCE = -(2**15)
"""Class of rows at the centre."""


class ErrorByDistance:
    """Sums over rows and what stands in their place, by distance from the centre."""

    def __init__(self) -> None:
        self.rows = 0
        self._centre: Tensor | None = None
        self._classes: dict[int, Tensor] = {}
        """class to float64 `[3 + D]`: rows, Σ‖x̂ - x‖², Σ‖x - c‖², Σ(x - c)"""

    def add(self, x: Tensor, reconstruction: Tensor) -> None:
        """Take in more rows, `[N, D]` each."""
        if not len(x):
            return
        rows, made = _array(x), _array(reconstruction)
        if self._centre is None:
            columns, middle = np.ascontiguousarray(rows.T), (len(rows) - 1) // 2
            # the median as torch has it, which takes six times as long
            median = np.partition(columns, middle, axis=1)[:, middle]
            self._centre = torch.from_numpy(median.astype(np.float64))
        self.rows += len(x)
        centre = self._centre.numpy()
        error, square = np.empty(len(x)), np.empty(len(x))
        _lengths(rows, made, centre, error, square)
        classes = (_CLASSES * torch.from_numpy(square).log2()).floor().clamp(min=_NO_DISTANCE)
        numbers, which = np.unique(classes.long().numpy(), return_inverse=True)
        sums = np.zeros((len(numbers), 3 + x.shape[1]))
        _add(rows, centre, error, square, which, sums)
        for number, added in zip(numbers.tolist(), torch.from_numpy(sums), strict=True):
            before = self._classes.get(number)
            self._classes[number] = added if before is None else before + added

    def numbers(self) -> dict[str, float | None]:
        """Of all rows so far.

        Returns:
            fvu; fvu_uncentred, Σ‖x̂ - x‖² / Σ‖x‖², 1 - the explained variance of arXiv 2410.20526;
            gamma, |mean| / |std| of the rows, |std|² being the summed variance of all coordinates
            (arXiv 2605.31518); fvu_robust; far_rows, the share of the rows that it leaves out;
            far_variance, the part of the variance that they hold. A fraction of nothing is None.
        """
        every, near = self._total(sorted(self._classes)), self._total(self._near())
        variance, error = _variation(every), float(every[1])
        squares = self._squares(every)
        return {
            "fvu": error / variance if variance > _ROUNDING * squares else None,
            "fvu_uncentred": error / squares if squares > 0 else None,
            "gamma": max(0.0, squares / variance - 1.0) ** 0.5 if variance > 0 else None,
            "fvu_robust": float(near[1]) / _variation(near)
            if _variation(near) > _ROUNDING * self._squares(near)
            else None,
            "far_rows": float(1 - near[0] / every[0]),
            "far_variance": 1 - _variation(near) / variance if variance > 0 else 0.0,
        }

    def _near(self) -> list[int]:
        """The classes that are not far, nearest first."""
        classes = sorted(self._classes)
        rows = torch.stack([self._classes[number][0] for number in classes])
        below = rows.cumsum(0) / self.rows
        median = classes[int((below < 0.5).sum())]
        return [
            number
            for number, up_to in zip(classes, (below - rows / self.rows).tolist(), strict=True)
            if number < median + _FAR or up_to < 1 - _MOST
        ]

    def _total(self, classes: list[int]) -> Tensor:
        return torch.stack([self._classes[number] for number in classes]).sum(0)

    def _squares(self, sums: Tensor) -> float:
        """Σ‖x‖² of the rows of these sums."""
        centre = self._centre
        assert centre is not None
        return float(sums[2] + 2 * centre @ sums[3:] + sums[0] * centre.square().sum())


def _variation(sums: Tensor) -> float:
    """Σ‖x - mean‖² of the rows of these sums."""
    return max(0.0, float(sums[2] - sums[3:].square().sum() / sums[0]))


def _array(part: Tensor) -> NDArray[Any]:
    whole = part.detach().cpu()
    return (whole if whole.dtype in (torch.float32, torch.float64) else whole.float()).numpy()


@reordered
def _lengths(rows: Any, made: Any, centre: Floats, error: Floats, square: Floats) -> None:
    """Fill in |made - row|² and |row - centre|² of each row."""
    for n in range(len(rows)):
        missed, far = 0.0, 0.0
        for d in range(len(centre)):
            gap = np.float64(rows[n, d] - made[n, d])
            left = np.float64(rows[n, d]) - centre[d]
            missed += gap * gap
            far += left * left
        error[n], square[n] = missed, far


@compiled
def _add(
    rows: Any, centre: Floats, error: Floats, square: Floats, which: Integers, sums: Floats
) -> None:
    """Add rows to the sums of their classes."""
    for n in range(len(rows)):
        line = sums[which[n]]
        line[0] += 1.0
        line[1] += error[n]
        line[2] += square[n]
        for d in range(len(centre)):
            line[3 + d] += np.float64(rows[n, d]) - centre[d]
