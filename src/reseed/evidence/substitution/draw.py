"""Which latents are replaced by which, and on which stretches of held-out text.

A window is L tokens of a block, read by the subject as a text of its own. F latents.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array

from reseed.events import Events
from reseed.evidence.frequency import exchanged, frequency_bins
from reseed.evidence.rows import Encoded, Integers, Reader, entries_of, feed
from reseed.matching.measures import is_shared
from reseed.seeds import generator
from reseed.subjects.language.blocks import TokenBlocks
from reseed.subjects.source import BlockSource

MATCHED, ORPHAN, WRONG, COPY = "matched", "orphan", "wrong", "copy"
KINDS = {
    MATCHED: "counterpart by decoder rows, shared at tau",
    ORPHAN: "not shared at tau: the most similar latent of the other run",
    WRONG: "another latent of the other run that fires about as often",
    COPY: "the latent itself at four fifths of its size: a known answer",
}
"""Kinds of partners, in words."""

PAIR_SCHEMA = {
    "kind": pl.String,
    "run_a": pl.String,
    "latent_a": pl.Int64,
    "run_b": pl.String,
    "latent_b": pl.Int64,
    "rate": pl.Float64,
    "cosine": pl.Float64,
}

_SHARES = {MATCHED: 0.4, ORPHAN: 0.25, WRONG: 0.25, COPY: 0.1}
_COSINES = (0.5, 0.7, 0.9)
_RATES = 3
_LEAST = 4
"""Held-out tokens on which a latent fires to be looked at."""


def choose_pairs(
    run_a: str,
    run_b: str,
    table: pl.DataFrame,
    fired: tuple[Integers, Integers],
    tokens: int,
    tau: float,
    count: int,
) -> pl.DataFrame:
    """Latents of A with partners in B, about `count` of them, drawn by firing rate and by cosine.

    Args:
        run_a: name of A.
        run_b: name of B.
        table: of the two runs, see `reseed.matching.match`.
        fired: held-out tokens on which each latent fires.
        tokens: that there are.
        tau: at which a latent counts as shared.
        count: pairs, by kind about as `_SHARES`; the copies are of latents that are matched.

    Returns:
        Columns of `PAIR_SCHEMA`; `cosine` is that of the decoder rows at the counterpart.
    """
    side = table.filter(pl.col("side") == "a")
    live = fired[0] >= _LEAST
    partner = side["decoder_match"].fill_null(-1).to_numpy()
    nearest = side["decoder_nearest"].to_numpy()
    shared = is_shared(side, tau).to_numpy()
    cosine = side["decoder_cos"].fill_null(0.0).to_numpy()
    other = exchanged(frequency_bins(fired[1]), "substitution", run_a, run_b)
    fires_there = (partner >= 0) & (fired[1][partner] > 0)
    numbers = generator("substitution-pairs", run_a, run_b)
    frames = [pl.DataFrame(schema=PAIR_SCHEMA)]
    for kind, share in _SHARES.items():
        allowed = live & (~shared if kind == ORPHAN else shared)
        if kind == WRONG:
            allowed = live & fires_there
        chosen = _spread(allowed, fired[0], cosine, round(share * count), numbers)
        to = {ORPHAN: nearest, WRONG: other[partner], COPY: np.arange(len(side))}
        columns = {
            "kind": [kind] * len(chosen),
            "run_a": [run_a] * len(chosen),
            "latent_a": chosen,
            "run_b": [run_a if kind == COPY else run_b] * len(chosen),
            "latent_b": to.get(kind, partner)[chosen],
            "rate": fired[0][chosen] / max(tokens, 1),
            "cosine": cosine[chosen],
        }
        frames.append(pl.DataFrame(columns, schema=PAIR_SCHEMA))
    return pl.concat(frames)


def _spread(
    allowed: NDArray[np.bool_],
    fired: Integers,
    cosine: NDArray[np.float64],
    count: int,
    numbers: np.random.Generator,
) -> Integers:
    """So many latents, from each third of firing rate and stretch of cosine alike."""
    latents = np.flatnonzero(allowed)
    rank = fired[latents].argsort(kind="stable").argsort(kind="stable")
    cell = np.searchsorted(_COSINES, cosine[latents], side="right") * _RATES
    cell += rank * _RATES // max(len(latents), 1)
    order = numbers.permutation(len(latents))
    # the first of every cell, then the second of every cell, and so on
    turn = np.empty(len(latents), np.int64)
    for which in np.unique(cell):
        inside = order[cell[order] == which]
        turn[inside] = np.arange(len(inside))
    first = order[np.argsort(turn[order], kind="stable")][:count]
    return np.sort(latents[first])


class Windows:
    """Held-out text in windows of at most so many tokens, and which latents fire in which."""

    def __init__(self, text: TokenBlocks, blocks: Integers, length: int) -> None:
        self.length = min(length, text.ids.shape[1])
        self.blocks, self.text = np.asarray(blocks), text
        self.each = max(1, text.ids.shape[1] // self.length)
        self._fires: dict[str, csc_array] = {}
        self._order = generator("substitution-windows").permutation(len(self))

    def __len__(self) -> int:
        return len(self.blocks) * self.each

    def place(self, window: int) -> tuple[int, slice]:
        """Block of a window, and its positions."""
        at, part = divmod(window, self.each)
        return int(self.blocks[at]), slice(part * self.length, (part + 1) * self.length)

    def gather(self, readers: Mapping[str, Reader], source: BlockSource, events: Events) -> None:
        """Find out what fires where, in one pass over the held-out rows."""
        parts: dict[str, list[NDArray[np.int64]]] = {run: [] for run in readers}

        def add(chunk: Encoded) -> None:
            for run in readers:
                fired = entries_of(chunk.codes(run), chunk.chunk.blocks, self.text.positions)
                part = fired.position // self.length
                window = (chunk.chunk.first + fired.place) * self.each + part
                complete = part < self.each  # what is left of a block over is in no window
                parts[run].append(np.stack([window, fired.latent])[:, complete])

        feed(add, readers, source, self.blocks, events, "windows")
        for run, reader in readers.items():
            window, latent = np.unique(np.concatenate(parts[run], axis=1), axis=1)
            shape = (len(self), reader.sae.latents)
            ones = np.ones(len(window), np.int8)
            self._fires[run] = coo_array((ones, (window, latent)), shape=shape).tocsc()

    def where(self, run: str, latent: int) -> Integers:
        """Windows in which a latent fires."""
        fires = self._fires[run]
        return fires.indices[fires.indptr[latent] : fires.indptr[latent + 1]].astype(np.int64)

    def drawn(self, run_a: str, a: int, run_b: str, b: int, count: int) -> list[tuple[int, float]]:
        """Windows in which one of two latents fires, each with how many it stands for.

        Up to `count` of those in which a fires, the same whatever b is, and half as many of those
        in which b alone does: the first in an order of all windows that is drawn once, so that
        latents share windows where they can.
        """
        own = self.where(run_a, a)
        alone = np.setdiff1d(self.where(run_b, b), own)
        return self._first(own, count) + self._first(alone, count // 2)

    def _first(self, windows: Integers, count: int) -> list[tuple[int, float]]:
        taken: list[int] = windows[np.argsort(self._order[windows])][:count].tolist()
        return [(window, len(windows) / len(taken)) for window in taken]
