"""Recurrence as a detector: a latent found by at least N of M runs is called a feature.

The score of a latent of run r in a set of M runs is the number of those runs that have it, its own
included. Truth: whether it is a true feature (cosine at least `feature`); or that or a part of a
planted subspace; or that or a merger inside one tree. Everything is averaged over all sets of M of
the R runs there are (a U-statistic; of very many sets a seeded sample). Intervals leave out one run
at a time, as row and as judge; for M = R there is nothing to leave out and no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.matching.measures import shared_pairs
from reseed.runs import Pair
from reseed.seeds import generator
from reseed.stability.intervals import area_under, jackknife_ends
from reseed.stability.proportions import inside
from reseed.stability.shares import quantile_edges

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MOST = 300
"""Subsets of one size that are looked at; of more, a seeded sample."""


def subsets(runs: int, size: int) -> NDArray[np.int64]:
    """`[n, size]` choices of `size` of `runs` runs: all of them, or `MOST` drawn by a seed."""
    if comb(runs, size) <= MOST:
        return np.array(list(combinations(range(runs), size)), np.int64).reshape(-1, size)
    draw = generator("calibration-subsets", runs, size)
    drawn = {tuple(sorted(draw.permutation(runs)[:size].tolist())) for _ in range(MOST)}
    return np.array(sorted(drawn), np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """Matches and truth of R runs of F latents each."""

    partner: NDArray[np.int64]
    """[R, F, R] the latent of run s with which a latent of run r is shared; -1 for none"""
    kind: NDArray[np.str_]
    """[R, F] what each latent is, see `truth.KINDS`"""
    feature: NDArray[np.int64]
    """[R, F] its nearest true feature"""
    rate: NDArray[np.float64]
    """[R, F] its firing rate on held-out samples; 0 is dead"""

    @property
    def found(self) -> Bools:
        """[R, F, R] whether a latent of run r is found in run s; False in its own."""
        return self.partner >= 0


def gather(
    runs: Sequence[str],
    tables: Mapping[Pair, pl.DataFrame],
    explained: Mapping[str, pl.DataFrame],
    rates: Mapping[str, NDArray[np.float64]],
    tau: float,
) -> Recurrence:
    """Collect what was measured about the runs of a group; their firing rates are `[F]`."""
    place = {run: number for number, run in enumerate(runs)}
    latents = len(explained[runs[0]])
    partner = np.full((len(runs), latents, len(runs)), -1)
    for (a, b), table in tables.items():
        shared = shared_pairs(table, tau)
        of_a, of_b = shared["latent_a"].to_numpy(), shared["latent_b"].to_numpy()
        partner[place[a], of_a, place[b]] = of_b
        partner[place[b], of_b, place[a]] = of_a
    return Recurrence(
        partner=partner,
        kind=np.stack([explained[run]["kind"].to_numpy().astype(np.str_) for run in runs]),
        feature=np.stack([explained[run]["feature"].to_numpy() for run in runs]),
        rate=np.stack([rates[run] for run in runs]),
    )


LABELS = {
    "feature": ("feature",),
    "feature or subspace": ("feature", "subspace"),
    "anything planted": ("feature", "subspace", "tree"),
}
"""What counts as existing, by the kinds of `truth.KINDS`."""


class Stratum(NamedTuple):
    """Some of the latents."""

    name: str
    lo: float | None
    """least firing rate, for a bin"""
    hi: float | None
    members: Bools
    """[R, F]"""


class Detected(NamedTuple):
    """The two tables of `detect`."""

    curve: pl.DataFrame
    """label, stratum, rate_lo, rate_hi, m, n; called (latents a run found by at least n of m);
    recall, false_alarm and precision, each with _lo and _hi; null where undefined"""
    area: pl.DataFrame
    """label, stratum, rate_lo, rate_hi, m; latents and positives (a run), base (their ratio: the
    precision of calling everything), auc, auc_lo, auc_hi"""


def strata(rate: Floats, bins: int) -> list[Stratum]:
    """All latents, live ones, and live ones in bins of firing rate `[R, F]` of equal size."""
    live = rate > 0
    out = [
        Stratum("all", None, None, np.ones_like(live)),
        Stratum("live", None, None, live),
    ]
    if not live.any():
        return out
    edges = quantile_edges(rate[live], bins)
    if len(edges) < 2:
        return out
    at = np.searchsorted(edges, rate, side="right").clip(1, len(edges) - 1)
    for number in range(1, len(edges)):
        ends = float(edges[number - 1]), float(edges[number])
        out.append(Stratum(f"rate {number}", *ends, live & (at == number)))
    return out


def detect(recurrence: Recurrence, bins: int) -> Detected:
    """ROC, area under it, precision and recall of recurrence, for every M from 2 to R."""
    curves: list[pl.DataFrame] = []
    areas: list[pl.DataFrame] = []
    groups = strata(recurrence.rate, bins)
    for size in range(2, len(recurrence.rate) + 1):
        chosen = subsets(len(recurrence.rate), size)
        score = scores(recurrence.found, chosen)
        for label, kinds in LABELS.items():
            positive = np.isin(recurrence.kind, kinds)
            for stratum in groups:
                counts = histogram(score, positive, stratum.members, chosen)
                curve, area = _summaries(counts, chosen, len(recurrence.rate))
                head = {
                    "label": label,
                    "stratum": stratum.name,
                    "rate_lo": stratum.lo,
                    "rate_hi": stratum.hi,
                    "m": size,
                }
                curves.append(_with(curve, head))
                areas.append(_with(area, head))
    return Detected(pl.concat(curves), pl.concat(areas))


def scores(found: Bools, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """In how many others of each set `[n, M]` of runs each latent is found.

    Returns:
        `[n, M, F]`, from 0 to M - 1.
    """
    return np.stack([found[runs][:, :, runs].sum(axis=2) for runs in chosen])


def histogram(
    score: NDArray[np.int64], positive: Bools, members: Bools, chosen: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many latents have each score, apart by truth.

    Args:
        score: `[n, M, F]` of `scores`.
        positive: `[R, F]` whether each latent exists.
        members: `[R, F]` which ones count.
        chosen: `[n, M]` sets of runs.

    Returns:
        `[n, 2, M]`: set, false or true, found by 1 to M of M.
    """
    size = chosen.shape[1]
    out = np.zeros((len(chosen), 2, size), np.int64)
    for number, runs in enumerate(chosen):
        index = (positive[runs] * size + score[number])[members[runs]]
        out[number] = np.bincount(index, minlength=2 * size).reshape(2, size)
    return out


def rates(counts: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """Recall (true positive rate), false positive rate and precision from counts `[..., 2, M]`.

    Returns:
        `[..., M]` each, for "found by at least 1 ... M"; NaN where undefined.
    """
    called = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]
    false, true = called[..., 0, :], called[..., 1, :]
    return _ratio(true, true[..., :1]), _ratio(false, false[..., :1]), _ratio(true, true + false)


def _summaries(
    counts: NDArray[np.int64], chosen: NDArray[np.int64], runs: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    total, size = counts.sum(axis=0), counts.shape[2]
    left = np.stack([counts[(chosen != run).all(axis=1)].sum(axis=0) for run in range(runs)])
    per_run = len(chosen) * size
    columns: dict[str, Floats] = {
        "n": np.arange(1, size + 1),
        "called": np.cumsum(total.sum(axis=0)[::-1])[::-1] / per_run,
    }
    names = ("recall", "false_alarm", "precision")
    for name, value, without in zip(names, rates(total), rates(left), strict=True):
        low, high = jackknife_ends(value, without)
        columns |= {name: value, f"{name}_lo": low.clip(0, 1), f"{name}_hi": high.clip(0, 1)}
    auc = area_under(*total)
    low, high = inside(jackknife_ends(auc, area_under(left[:, 0], left[:, 1])))
    false, true = total.sum(axis=1)
    area = {
        "latents": np.array([(false + true) / per_run]),
        "positives": np.array([true / per_run]),
        "base": _ratio(np.array([true]), np.array([false + true])),
        "auc": np.array([auc]),
        "auc_lo": np.array([low]).clip(0, 1),
        "auc_hi": np.array([high]).clip(0, 1),
    }
    return pl.DataFrame(columns), pl.DataFrame(area)


def _with(frame: pl.DataFrame, head: dict[str, str | float | int | None]) -> pl.DataFrame:
    types = {"label": pl.String, "stratum": pl.String, "m": pl.Int64}
    first = [
        pl.lit(value, dtype=types.get(name, pl.Float64)).alias(name) for name, value in head.items()
    ]
    return frame.select(*first, pl.all()).with_columns(pl.selectors.float().fill_nan(None))


def _ratio(part: NDArray[np.generic], total: NDArray[np.generic]) -> Floats:
    a, b = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(total, np.float64))
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)
