"""Whether a latent fires on neighbouring positions of a map, or here and there.

Of the neighbours (up, down, left, right) of positions on which a latent fires, the share on which
it fires too: a join count (Cliff and Ord 1981). Chance is the mean over all ways to place as many
active positions among those of the same sample: with n positions, m of them active and E pairs of
neighbours, E m (m - 1) / (n (n - 1)) pairs are active on both sides. It needs no draws, and a
latent that fires everywhere, or in whole pictures only, is at chance. Sums over samples add up.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class Coherence:
    """Counts of neighbours that are active together, for each of F latents."""

    def __init__(self, latents: int) -> None:
        self._together, self._chance, self._ends = np.zeros((3, latents))

    def add(self, row: Integers, latent: Integers, places: NDArray[np.int32]) -> None:
        """Take in what fires in whole samples.

        Args:
            row: `[n]` row of each active entry.
            latent: `[n]`
            places: `[N, 3]` sample, y, x of each row; y and x -1 where it stands in no map.
        """
        mapped = np.flatnonzero(places[:, 1] >= 0)
        if not len(mapped):
            return
        at = places[mapped].astype(np.int64)
        sample = np.unique(at[:, 0], return_inverse=True)[1].reshape(-1)
        wide = int(at[:, 2].max()) + 2  # the last column is empty, so that no line meets the next
        tall = int(at[:, 1].max()) + 2
        key = (sample * tall + at[:, 1]) * wide + at[:, 2]
        steps = (1, -1, wide, -wide)
        degree = np.sum([np.isin(key + step, key) for step in steps], axis=0)
        n = np.bincount(sample)
        edges = np.bincount(sample, degree) / 2

        of_row = np.full(len(places), -1)
        of_row[mapped] = np.arange(len(mapped))
        inside = of_row[row] >= 0
        row, latent = of_row[row[inside]], latent[inside]
        room = len(n) * tall * wide
        active = latent * room + key[row]
        latents = len(self._ends)
        self._ends += np.bincount(latent, degree[row], latents)
        for step in steps:
            self._together += np.bincount(latent[np.isin(active + step, active)], None, latents)
        pair, m = np.unique(latent * len(n) + sample[row], return_counts=True)
        which, where = np.divmod(pair, len(n))
        expected = 2 * edges[where] * m * (m - 1) / np.maximum(n[where] * (n[where] - 1), 1)
        self._chance += np.bincount(which, expected, latents)

    def table(self) -> pl.DataFrame:
        """coherence, coherence_null `[F]`: the share and chance; null without any neighbour."""
        ends = np.where(self._ends > 0, self._ends, np.nan)
        shares = {"coherence": self._together / ends, "coherence_null": self._chance / ends}
        return pl.DataFrame(shares).fill_nan(None)
