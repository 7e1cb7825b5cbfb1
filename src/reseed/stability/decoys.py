"""What random latents reach at best: the null of the test in `reseed.stability.fdr`.

A latent without a counterpart still has a best among the other dictionary's F latents, whatever
the other latents are matched with; matching one to one can only lower it. So a latent of one side
is held against the best of *decoys among as many candidates as that side really has*. Decoys are
made in several ways, each of which keeps something else of the real rows, and a latent counts by
the heaviest of them:

gaussian
    rows of both dictionaries from `CovarianceNull`: the second moments of the unit rows of each.
mirrored, raw
    real rows of one dictionary, each coordinate with the sign of a random row: what each row has in
    which coordinate stays, so tails and sparsity in a privileged basis do.
mirrored, axes
    the same along the principal axes of the dictionary with more latents, of the *other* where
    both have as many (which so cannot have been fitted to these rows): a common direction and how
    unequally rows lie along it stay.
own rows
    real rows as they are, against the others. Only where the test finds more than `TRUSTED` of
    them: then the dictionary has near-duplicates, or no decoy is heavy enough.

Mirrored and own rows are held against others of their own dictionary, where a feature that both
dictionaries have has no counterpart. The moments of <x, y> over independent x, y of two populations
are at most the geometric mean of those within each (Cauchy-Schwarz on the even moments), so the
decoys of both dictionaries, as many candidates each, bound what their cross similarities reach.

In a group of runs decoys are made once a run: Gaussian ones are held against those of all others
together, axes are of all others' rows, and one pass tells the best among as many as each has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reseed.matching.blocks.multiplier import few_threads
from reseed.matching.blocks.nearest import raise_best
from reseed.matching.geometry import Floats32, Integers, stretches
from reseed.matching.geometry import rows as prepared
from reseed.matching.measures import MAX_COS_BOTH, Measure
from reseed.runs import Pair
from reseed.seeds import generator
from reseed.stability.nulls import AXES, GAUSSIAN, RAW, CovarianceNull, Mirrored, axes_beside

Floats = NDArray[np.float64]

LEVEL = 0.05
"""False discovery rate of the headline."""

TRUSTED = 0.01
"""Share of a dictionary that the test may find among its own other latents."""

OWN = "own rows"
"""A kind of decoy besides those that random dictionaries are made by."""

_LEAST, _MOST = 2_000, 8_000
"""Decoys of a kind for one side; three for each latent between them."""

_CANDIDATES = 8_192


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


def decoys_of(latents: int, each: int = 3) -> int:
    """Decoys of a kind for a side of so many latents, each held against all candidates."""
    return min(max(each * latents, _LEAST), _MOST)


class Reached(NamedTuple):
    """What stands in for the latents of one dictionary, and what it reaches at best."""

    latents: int
    """of the dictionary"""
    best: Mapping[str, Mapping[int, Best]]
    """kind of decoy to number of candidates to the best of each; every row once before any twice"""
    itself: float
    """share of its latents that the test finds among its own others"""


def decoys(a: CovarianceNull, b: CovarianceNull, *key: int | str, each: int = 3) -> Decoys:
    """What latents of two dictionaries reach at best by chance.

    Args:
        a: the null of A, with the rows that it was made from.
        b: that of B.
        key: of the generators, e.g. the names of the two.
        each: decoys of a kind for each latent, within `_LEAST` and `_MOST` for a side.
    """
    first = reached(a, [b], *key, "a", each=each)
    return together(first, reached(b, [a], *key, "b", each=each), each=each)


def decoys_in_group(
    nulls: Mapping[str, CovarianceNull], pairs: Sequence[Pair], *key: int | str
) -> dict[Pair, Decoys]:
    """`decoys` of the pairs of a group: each run is held against all that it is paired with."""
    both = [*pairs, *((b, a) for a, b in pairs)]
    others = {run: [nulls[b] for a, b in both if a == run] for run in nulls}
    of_run = {run: reached(nulls[run], them, *key, run) for run, them in others.items() if them}
    return {(a, b): together(of_run[a], of_run[b]) for a, b in pairs}


def together(a: Reached, b: Reached, each: int = 3) -> Decoys:
    """Decoys of a pair from what was reached in place of each of the two."""
    sides: list[dict[str, Best]] = []
    for own, other in ((a, b), (b, a)):
        sides.append({GAUSSIAN: own.best[GAUSSIAN][other.latents]})
        for name, of in zip("AB", (a, b), strict=True):
            size = _size(of.latents, own.latents, each)
            for kind in (RAW, AXES, OWN):
                if other.latents in of.best[kind]:
                    both, each_view = of.best[kind][other.latents]
                    sides[-1][f"{kind}, of {name}"] = Best(both[:size], each_view[:size])
    return Decoys(sides=(sides[0], sides[1]), itself=(a.itself, b.itself))


def reached(
    own: CovarianceNull, others: Sequence[CovarianceNull], *key: int | str, each: int = 3
) -> Reached:
    """What stands in for latents of one dictionary reaches, whichever it is compared with.

    Args:
        own: the null of the dictionary.
        others: of those that it is compared with, one or more, as good as each other: random
            latents are held against random ones of all of them, axes are those of all their rows.
        key: of the generators, e.g. the name of the dictionary.
        each: as of `decoys`.
    """
    counts = sorted({own.count, *(other.count for other in others)})
    with few_threads(counts[-1]):
        best = {GAUSSIAN: _gaussian(own, others, counts, decoys_of(own.count, each), *key)}
        wanted = max(_size(own.count, count, each) for count in counts)
        axes = {RAW: None, AXES: axes_beside(own, others)}
        for kind, along in axes.items():
            rng = generator("decoys", *key, kind)
            best[kind] = _among_own(Mirrored(own, along).take, own.count, counts, wanted, rng)
        # fewer rows than there are candidates would make it look rarer than it is
        enough = [count for count in counts if count <= own.count]
        rng, once = generator("decoys", *key, OWN), min(own.count, wanted)
        as_they_are = _among_own(_as_they_are(own.rows), own.count, enough, once, rng)
        tested = as_they_are[own.count].both
        p = np.max([p_values(tested, kind[own.count].both) for kind in best.values()], axis=0)
    itself = float((q_values(p) <= LEVEL).mean())
    best[OWN] = as_they_are if itself > TRUSTED else {}
    return Reached(own.count, best, itself)


def _size(rows: int, latents: int, each: int) -> int:
    """How many decoys so many rows are for a side of so many latents."""
    wanted = decoys_of(latents, each)
    # a row of the wide side drawn twice is not two: p would fall below what rows can tell
    return min(wanted, rows) if rows > latents else wanted


def _gaussian(
    own: CovarianceNull,
    others: Sequence[CovarianceNull],
    counts: Sequence[int],
    wanted: int,
    *key: int | str,
) -> dict[int, Best]:
    """Random latents of one dictionary against random ones of the others, as many of each."""
    rounds: list[dict[int, Best]] = []
    kinds = max(len(null.rows) for null in (own, *others))
    part = -(-counts[-1] // len(others))
    for round_, size in enumerate(_rounds(wanted, own.count)):
        queries, *candidates = (
            [prepared(kind, "random rows").screen for kind in views[-kinds:]]
            for at, null in enumerate((own, *others))
            for views in [null.draw("decoys", *key, round_, at, rows=part if at else size)]
        )
        taken = _as_they_are([np.concatenate(rows) for rows in zip(*candidates, strict=True)])
        rng = generator("decoys", *key, round_)
        pool = rng.permutation(part * len(others))
        rounds.append(_best(queries, taken, pool, counts, rng))
    return _joined(rounds)


_Take = Callable[[Integers, np.random.Generator], list[Floats32]]
"""Gives the rows of some latents, `[n, D]` by kind."""


def _as_they_are(rows: Sequence[Floats32]) -> _Take:
    return lambda which, _: [kind[which] for kind in rows]


def _among_own(
    take: _Take, rows: int, counts: Sequence[int], wanted: int, rng: np.random.Generator
) -> dict[int, Best]:
    """Latents of one dictionary against others of the same, never against themselves."""
    rounds: list[dict[int, Best]] = []
    for size in _rounds(wanted, rows):
        which = rng.permutation(rows)[:size]
        laps = -(-counts[-1] // rows)
        pool = np.concatenate([rng.permutation(rows) for _ in range(laps)])
        rounds.append(_best(take(which, rng), take, pool, counts, rng, which))
    return _joined(rounds)


def _rounds(wanted: int, rows: int) -> list[int]:
    """How many decoys to take in each round from so many rows; each row once before any twice."""
    return [min(rows, wanted - before) for before in range(0, wanted, rows)]


def _best(
    queries: Sequence[Floats32],
    take: _Take,
    pool: Integers,
    counts: Sequence[int],
    rng: np.random.Generator,
    but: Integers | None = None,
) -> dict[int, Best]:
    """The best among the first `counts`, which rise, of a pool, never a query's own number."""
    found: dict[int, Best] = {}
    both = np.full(len(queries[0]), -1.0, np.float32)
    each = np.full((len(queries), len(both)), -1.0, np.float32)
    place = np.full(len(pool), -1)
    if but is not None:
        place[but] = np.arange(len(but))
    for low, high in pairwise((0, *counts)):
        for part in stretches(high - low, _CANDIDATES):
            which = pool[low:high][part]
            raise_best(both, each, queries, take(which, rng), place[which])
        found[high] = Best(both.astype(np.float64), each.min(axis=0).astype(np.float64))
    return found


def _joined(rounds: Sequence[Mapping[int, Best]]) -> dict[int, Best]:
    return {
        count: Best(*map(np.concatenate, zip(*(best[count] for best in rounds), strict=True)))
        for count in rounds[0]
    }
