"""What random latents reach at best: the null of the test in `reseed.stability.fdr`.

A latent without a counterpart still has a best among the other dictionary's F latents, whatever
the other latents are matched with; matching one to one can only lower it. So a latent of one side
is held against the best of *decoys among as many candidates as that side really has*. Decoys are
made in several ways, each of which keeps something else of the real rows, and a latent counts by
the heaviest of them:

gaussian
    both dictionaries from `CovarianceNull`: the second moments of the unit rows of each.
mirrored, raw
    real rows of one dictionary, each coordinate with the sign of a random row: what each row has in
    which coordinate stays, so tails and sparsity in a privileged basis do.
mirrored, axes
    the same along the principal axes of the dictionary with more latents, of the *other* where
    both have as many (which so cannot have been fitted to these rows): a common direction and how
    unequally rows lie along it stay.
own rows
    real rows as they are, against the other rows of their own dictionary. Only where the test finds
    more than `TRUSTED` of them: then the dictionary has near-duplicates, or no decoy is heavy
    enough.

Mirrored and own rows are held against others of their own dictionary, where a feature that both
dictionaries have has no counterpart. The moments of <x, y> over independent x, y of two populations
are at most the geometric mean of those within each (Cauchy-Schwarz on the even moments), so the
decoys of both dictionaries, as many candidates each, bound what their cross similarities reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reseed.matching.entries import stretches
from reseed.matching.geometry import Floats32, Integers
from reseed.matching.geometry import rows as prepared
from reseed.matching.measures import MAX_COS_BOTH, Measure
from reseed.seeds import generator
from reseed.stability.nulls import CovarianceNull, Mirrored

Floats = NDArray[np.float64]

LEVEL = 0.05
"""False discovery rate of the headline."""

TRUSTED = 0.01
"""Share of a dictionary that the test may find among its own other latents."""

GAUSSIAN, RAW, AXES, OWN = "gaussian", "mirrored, raw", "mirrored, axes", "own rows"

_LEAST, _MOST = 2_000, 8_000
"""Decoys of a kind for one side; three for each latent between them."""

_QUERIES, _CANDIDATES = 1_024, 8_192


class Best(NamedTuple):
    """The best of each of n latents among candidates, `[n]` each."""

    both: Floats
    """with one candidate: the largest of the lesser of its cosines by encoder and decoder"""
    each: Floats
    """the lesser of the largest cosines, each view with a candidate of its own"""

    def of(self, measure: Measure) -> Floats:
        """What bounds the scores of a measure."""
        return self.each if measure is MAX_COS_BOTH else self.both


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoys:
    """What latents of the two sides of a pair reach when there is nothing to find."""

    sides: tuple[Mapping[str, Best], Mapping[str, Best]]
    """of A and of B: kind of decoy to what they reach"""
    itself: tuple[float, float]
    """share of A's latents that the test finds among A's own others, and of B's among B's"""

    def p_values(self, side: str, observed: Floats, measure: Measure) -> Floats:
        """`[F]` of the scores of a side (`"a"` or `"b"`): the largest over the kinds of decoys."""
        kinds = self.sides["ab".index(side)].values()
        return np.max([p_values(observed, kind.of(measure)) for kind in kinds], axis=0)

    def heaviest(self, tau: float) -> str:
        """The kind of random dictionaries to set shares at tau beside.

        Gaussian, unless mirrored rows reach tau more often by more than `TRUSTED`.
        """
        reach = {
            kind: max(
                float((best.both >= tau).mean())
                for side in self.sides
                for name, best in side.items()
                if name.startswith(kind)
            )
            for kind in (GAUSSIAN, RAW, AXES)
        }
        top = max(reach, key=lambda kind: reach[kind])
        return top if reach[top] > reach[GAUSSIAN] + TRUSTED else GAUSSIAN


def p_values(observed: Floats, null: Floats) -> Floats:
    """`[F]` (1 + decoys that reach it) / (1 + all); 1 without any."""
    ordered = np.sort(null)
    # cosines of equal rows differ in their last digits, so a hair below still reaches
    reached = len(ordered) - np.searchsorted(ordered, observed - _HAIR, side="left")
    return (1 + reached) / (1 + len(ordered))


_HAIR = 1e-6
"""More than products in float32 are off."""


def q_values(p: Floats) -> Floats:
    """Benjamini-Hochberg: the false discovery rate at which each latent is found."""
    return stats.false_discovery_control(p, method="bh") if len(p) else p


def in_place(kind: str, own: CovarianceNull, other: CovarianceNull) -> CovarianceNull | Mirrored:
    """What draws random dictionaries of a kind in place of one that is matched with another."""
    if kind == GAUSSIAN:
        return own
    return Mirrored(own, _with_axes(own, other) if kind == AXES else None)


def _with_axes(own: CovarianceNull, other: CovarianceNull) -> CovarianceNull:
    """Whose principal axes to mirror along: few rows do not show where a common direction lies.

    Turned out of it, the heaviest rows of the wider dictionary would be too little alike: of pairs
    of 64 and 1,024 latents of log-normal size along one direction a fifth had false discoveries.
    """
    return own if own.count > other.count else other


class _AsTheyAre:
    """Unit rows of latents of one dictionary, by kind."""

    def __init__(self, rows: Sequence[Floats32]) -> None:
        self.rows = rows

    def take(self, which: Integers, rng: np.random.Generator) -> list[Floats32]:
        """These rows, `[n, D]` by kind."""
        del rng
        return [rows[which] for rows in self.rows]


_Source = _AsTheyAre | Mirrored


def decoys_of(latents: int, each: int = 3) -> int:
    """Decoys of a kind for a side of so many latents, each held against all candidates."""
    return min(max(each * latents, _LEAST), _MOST)


def decoys(a: CovarianceNull, b: CovarianceNull, *key: int | str, each: int = 3) -> Decoys:
    """What latents of two dictionaries reach at best by chance.

    Args:
        a: the null of A, with the rows that it was made from.
        b: that of B.
        key: of the generators, e.g. the names of the two.
        each: decoys of a kind for each latent, within `_LEAST` and `_MOST` for a side.
    """
    mirrored: dict[str, Mirrored] = {}
    for name, own, other in (("A", a, b), ("B", b, a)):
        mirrored[f"{RAW}, of {name}"] = Mirrored(own)
        mirrored[f"{AXES}, of {name}"] = Mirrored(own, _with_axes(own, other))
    sides: list[dict[str, Best]] = []
    itself = [0.0, 0.0]
    for side, (own, other) in enumerate(((a, b), (b, a))):
        wanted = decoys_of(own.count, each)
        drawn = _gaussian(own, other, wanted, *key, "ab"[side])
        if side and a.count == b.count:
            # all but the Gaussian decoys are the same where widths are equal
            sides.append({**sides[0], GAUSSIAN: drawn})
            continue
        kinds = {GAUSSIAN: drawn}
        for name, source in mirrored.items():
            rng = generator("decoys", *key, "ab"[side], name)
            # a row of the wide side drawn twice is not two: p would fall below what rows can tell
            rows = len(source.rows[0])
            size = min(wanted, rows) if rows > own.count else wanted
            kinds[name] = _among_own(source, other.count, size, rng)
        crowded: dict[str, Best] = {}
        for at, null in enumerate((a, b)):
            # fewer rows than there are candidates would make it look rarer than it is
            if null.count < other.count:
                continue
            rng = generator("decoys", *key, "ab"[side], OWN, at)
            source, once = _AsTheyAre(null.rows), min(null.count, _MOST)
            as_they_are = _among_own(source, other.count, once, rng)
            share = _share_at_level(as_they_are, kinds)
            itself[at] = max(itself[at], share)
            if share > TRUSTED:
                crowded[f"{OWN}, of {'AB'[at]}"] = as_they_are
        kinds |= crowded
        sides.append(kinds)
    return Decoys(sides=(sides[0], sides[1]), itself=(itself[0], itself[1]))


def _share_at_level(tested: Best, kinds: Mapping[str, Best]) -> float:
    p = np.max([p_values(tested.both, kind.both) for kind in kinds.values()], axis=0)
    return float((q_values(p) <= LEVEL).mean())


def _gaussian(own: CovarianceNull, other: CovarianceNull, wanted: int, *key: int | str) -> Best:
    """Random latents of one dictionary against random ones of the other."""
    out: list[Best] = []
    for round_, size in enumerate(_rounds(wanted, own.count)):
        drawn: list[list[Floats32]] = []
        for at, null in enumerate((own, other)):
            views = null.draw("decoys", *key, round_, at)
            kinds = list(views)[-max(len(own.rows), len(other.rows)) :]
            drawn.append([prepared(kind, "random rows").screen for kind in kinds])
        rng = generator("decoys", *key, round_)
        queries = [rows[:size] for rows in drawn[0]]
        out.append(_best(queries, _AsTheyAre(drawn[1]), np.arange(other.count), rng))
    return _joined(out)


def _among_own(source: _Source, candidates: int, wanted: int, rng: np.random.Generator) -> Best:
    """Latents of one dictionary against others of the same, never against themselves."""
    count = len(source.rows[0])
    out: list[Best] = []
    for size in _rounds(wanted, count):
        which = rng.permutation(count)[:size]
        laps = -(-candidates // count)
        pool = np.concatenate([rng.permutation(count) for _ in range(laps)])[:candidates]
        out.append(_best(source.take(which, rng), source, pool, rng, which))
    return _joined(out)


def _rounds(wanted: int, count: int) -> list[int]:
    """How many decoys to take in each round from this many latents."""
    rounds = -(-wanted // count)
    return [-(-wanted // rounds)] * rounds


def _best(
    queries: Sequence[Floats32],
    source: _Source,
    pool: Integers,
    rng: np.random.Generator,
    but: Integers | None = None,
) -> Best:
    """The best of each query among the latents `pool` of a source, but for its own number."""
    count = len(queries[0])
    both, each = np.full(count, -1.0, np.float32), np.full((len(queries), count), -1.0, np.float32)
    place = np.full(len(source.rows[0]), -1)
    if but is not None:
        place[but] = np.arange(count)
    for part in stretches(len(pool), _CANDIDATES):
        candidates = source.take(pool[part], rng)
        owner = place[pool[part]]
        for some in stretches(count, _QUERIES):
            least: Floats32 | None = None
            same = np.flatnonzero((owner >= some.start) & (owner < some.stop))
            for view, (x, y) in enumerate(zip(queries, candidates, strict=True)):
                block = x[some] @ y.T
                block[owner[same] - some.start, same] = -1.0
                np.maximum(each[view, some], block.max(axis=1), out=each[view, some])
                least = block if least is None else np.minimum(least, block, out=least)
            assert least is not None
            np.maximum(both[some], least.max(axis=1), out=both[some])
    return Best(both.astype(np.float64), each.min(axis=0).astype(np.float64))


def _joined(parts: Sequence[Best]) -> Best:
    return Best(*(np.concatenate(values) for values in zip(*parts, strict=True)))
