"""Intervals whose unit of replication is the run, not the pair and not the latent.

The one jackknife, bootstrap, quantile of Student's t and area under the ROC curve of the project.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reseed.runs import Pair
from reseed.spec.statistics import Estimate
from reseed.stability.proportions import wider_than_counts

Floats = NDArray[np.float64]

Ends = tuple[Floats, Floats, Floats]
"""Value, lower and upper end."""

Design = Mapping[str, tuple[int, int]]
"""Run to its init seed and its data seed."""


MANY = 30
"""Latents of a pair, shared or not, from which on runs say more than counts do."""


def t_quantile(freedom: float) -> float:
    """How many standard errors a 95 % interval reaches, by Student's t."""
    return float(stats.t.ppf(0.975, freedom))


def jackknife_error(without: Floats) -> Floats:
    """Standard error of a statistic from its values `[units, ...]` with one unit left out."""
    spread = ((without - without.mean(axis=0)) ** 2).sum(axis=0)
    return np.asarray(np.sqrt((len(without) - 1) / len(without) * spread))


def jackknife_ends(value: Floats, without: Floats) -> tuple[Floats, Floats]:
    """95 % interval `[...]` of a statistic from its values `[units, ...]` with one unit left out.

    NaN with fewer than three units, or where a value is NaN.
    """
    error = jackknife_error(without) if len(without) > 2 else None
    return _ends(np.asarray(value, dtype=np.float64), error, len(without) - 1)[1:]


def bootstrap_counts(size: int, draws: int, numbers: np.random.Generator) -> NDArray[np.int64]:
    """`[draws, size]` how often each of some units is drawn, as many as there are in each draw.

    Counts and not the units themselves, since weights serve any statistic of weighted units.
    """
    return numbers.multinomial(size, np.full(size, 1 / size), size=draws)


def bootstrap_mean(
    values: Floats, draws: int, numbers: np.random.Generator
) -> tuple[Floats, Floats]:
    """95 % percentile interval `[...]` of the mean over units of `[units, ...]`."""
    counts = bootstrap_counts(len(values), draws, numbers)
    return percentile_ends(np.tensordot(counts, values, axes=1) / len(values))


def percentile_ends(samples: Floats) -> tuple[Floats, Floats]:
    """The middle 95 % of samples `[draws, ...]`: lower and upper end, `[...]`."""
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    return low, high


def auroc(
    scores: NDArray[Any], positive: NDArray[np.bool_], weights: NDArray[Any] | None = None
) -> Floats:
    """`[...]` probability that a positive scores above a negative; ties count half.

    Scores and classes are `[n]`; weights, `[..., n]`, say how often each counts. NaN where a class
    is missing.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    order = np.argsort(scores, kind="stable")
    # scores of one value make one level, so that ties are seen as such
    start = np.flatnonzero(np.concatenate([[True], np.diff(scores[order]) > 0])[: len(order)])
    levels = [
        np.add.reduceat((weights * which)[..., order], start, axis=-1)
        for which in (~positive, positive)
    ]
    return area_under(*levels)


def area_under(negatives: NDArray[Any], positives: NDArray[Any]) -> Floats:
    """`[...]` area under the ROC curve from how many have each score, `[..., levels]`, ascending.

    NaN where a class is missing.
    """
    false, true = negatives.astype(np.float64), positives.astype(np.float64)
    below = np.cumsum(false, axis=-1) - false
    wins = (true * (below + 0.5 * false)).sum(axis=-1)
    possible = false.sum(axis=-1) * true.sum(axis=-1)
    return np.where(possible > 0, wins / np.where(possible > 0, possible, 1.0), np.nan)


def mean_over_pairs(
    pairs: Sequence[Pair],
    values: Floats,
    design: Design | None = None,
    latents: float | None = None,
) -> Ends:
    """Mean of a share over pairs of runs with a 95 % interval that never has width zero.

    The wider of two. The jackknife of `jackknife_over_pairs`, on the scale asin(sqrt(share)), on
    which a spread does not shrink towards 0 and 1; it knows how runs differ. And Clopper-Pearson's
    on counts of latents, which knows what few latents can tell: pairs that share a run count as if
    all latents were alike, the case in which they depend on each other the most, and where many
    latents are shared, so that runs speak for themselves, it steps back.

    Args:
        pairs: of runs.
        values: `[pairs, ...]` shares; those outside [0, 1] are no shares and get the jackknife.
        design: seeds of the runs; left out, no two share a seed.
        latents: that a share is taken of (families where latents come in groups). Left out, the
            least number of which all values are whole parts; values that are parts of no number up
            to 10,000 get the jackknife alone.

    Returns:
        Mean, lower and upper end, each `[...]`; NaN ends with fewer than three runs.
    """
    inside = np.isfinite(values) & (values >= 0) & (values <= 1)
    if not (inside | np.isnan(values)).all():
        return jackknife_over_pairs(pairs, values, design)
    mean = values.mean(axis=0)
    _, *ends = jackknife_over_pairs(pairs, values, design, through=_asin_root)
    low, high = (np.sin(end.clip(0, np.pi / 2)) ** 2 for end in ends)
    latents = _least_whole(values) if latents is None else latents
    if latents is None or not latents:
        return mean, low, high
    trials = _independent_trials(mean, latents, _units(pairs, design))
    return mean, *wider_than_counts((low, high), mean, trials)


def share_over_pairs(
    pairs: Sequence[Pair], values: Floats, design: Design, latents: float | None = None
) -> Estimate:
    """`mean_over_pairs` of one share, `[pairs]`; no value where a pair has none."""
    value, low, high = (float(number) for number in mean_over_pairs(pairs, values, design, latents))
    known = None if np.isnan(value) else value
    return Estimate(value=known, interval_95=None if np.isnan(low) else (low, high))


def _asin_root(share: Floats) -> Floats:
    return np.arcsin(np.sqrt(share.clip(0.0, 1.0)))


def _least_whole(values: Floats, most: int = 10_000) -> int | None:
    """Least number of latents of which all values, known to six digits, are whole parts."""
    numbers = np.arange(1, most + 1)
    fits = np.ones(most, dtype=bool)
    for value in np.unique(values[np.isfinite(values)]):
        parts = value * numbers
        fits &= np.abs(parts - np.rint(parts)) < np.minimum(2e-6 * numbers, 2e-3)
    return int(numbers[fits][0]) if fits.any() else None


def _units(pairs: Sequence[Pair], design: Design | None) -> int:
    """Runs that can differ: of crossed seeds, levels of the seed that has fewer."""
    runs = {run for pair in pairs for run in pair}
    if design is None or not is_crossed(design):
        return len(runs)
    return min(len({design[run][axis] for run in runs}) for axis in (0, 1))


def _independent_trials(share: Floats, latents: float, runs: int) -> Floats:
    """How many independent trials a mean share over all pairs of some runs is worth.

    Of latents that runs find with one probability p the mean over pairs, a U-statistic of p^2, has
    the variance of 1 / (1 + 2 (runs - 2) p / (1 + p)) times as many trials (Hoeffding 1948). Above
    `MANY` latents the trials grow: there the runs show what they differ by.
    """
    p = np.sqrt(share)
    pairs = runs * (runs - 1) / 2
    resolved = latents * np.minimum(share, 1 - share) / MANY
    return latents * pairs / (1 + 2 * (runs - 2) * p / (1 + p)) * np.maximum(1.0, resolved)


def jackknife_over_pairs(
    pairs: Sequence[Pair],
    values: Floats,
    design: Design | None = None,
    through: Callable[[Floats], Floats] = np.asarray,
) -> Ends:
    """Mean over pairs of runs with a 95 % interval by the delete-one jackknife.

    Pairs that share a run are dependent, so whole runs are left out one at a time; the quantile is
    Student's with runs - 1 degrees of freedom. Where runs are crossed over several init and several
    data seeds, runs that share a seed are dependent too: then whole seeds are left out, see
    `crossed_error`. Without a design runs share no seed.

    Returns:
        Of `[pairs, ...]` mean, lower and upper end, each `[...]`, of `through` of the mean; NaN
        ends with fewer than three runs, since one pair says nothing about how much pairs differ.
    """
    runs = sorted({run for pair in pairs for run in pair})

    def without(left: set[str]) -> Floats | None:
        kept = [not left & set(pair) for pair in pairs]
        return through(values[kept].mean(axis=0)) if any(kept) else None

    seeds = {run: (at, 0) if design is None else design[run] for at, run in enumerate(runs)}
    return seed_ends(np.asarray(through(values.mean(axis=0))), without, seeds)


def seed_error(
    without: Callable[[set[str]], Floats | None], design: Design
) -> tuple[Floats | None, int]:
    """Standard error by the jackknife over seeds: whole seeds where both vary, else single runs.

    `without` is the statistic of all runs but those named; None if it cannot be told.

    Returns:
        Error and degrees of freedom; None with fewer than three runs, or levels of a seed.
    """
    if is_crossed(design):
        return crossed_error(without, design)
    if len(design) < 3:
        return None, 0
    return _error([without({run}) for run in design]), len(design) - 1


def seed_ends(value: Floats, without: Callable[[set[str]], Floats | None], design: Design) -> Ends:
    """Value of all runs with its 95 % interval; NaN where leaving one out leaves nothing to tell.

    Arguments as of `seed_error`.
    """
    return _ends(value, *seed_error(without, design))


def is_crossed(design: Design) -> bool:
    """Whether there are at least two init seeds and two data seeds."""
    return all(len({seeds[axis] for seeds in design.values()}) > 1 for axis in (0, 1))


def crossed_error(
    without: Callable[[set[str]], Floats | None], design: Design
) -> tuple[Floats | None, int]:
    """Standard error where both seeds are crossed, by leaving out whole seeds.

    The variance is that of leaving out init seeds plus that of leaving out data seeds, less that of
    single runs, which both count (two-way clustering, Cameron, Gelbach & Miller 2011), but never
    less than the larger of the first two. Degrees of freedom: of the seed that has fewer levels.

    Returns:
        Error and degrees of freedom; None where a seed has fewer than three levels.
    """
    levels = [sorted({seeds[axis] for seeds in design.values()}) for axis in (0, 1)]
    freedom = min(map(len, levels)) - 1
    if freedom < 2:
        return None, 0
    by_seed = [
        _error([without({r for r, s in design.items() if s[axis] == level}) for level in of_axis])
        for axis, of_axis in enumerate(levels)
    ]
    single = _error([without({run}) for run in design])
    init, data = by_seed
    if init is None or data is None or single is None:
        return None, 0
    larger = np.maximum(init**2, data**2)
    return np.sqrt(np.maximum(init**2 + data**2 - single**2, larger)), freedom


def _error(left_out: Sequence[Floats | None]) -> Floats | None:
    """Jackknife standard error; None where a statistic could not be told, or of fewer than 3."""
    values = [np.asarray(value, dtype=np.float64) for value in left_out if value is not None]
    if len(values) < len(left_out) or len(values) < 3:
        return None
    return jackknife_error(np.stack(values))


def _ends(value: Floats, error: Floats | None, freedom: int) -> Ends:
    if error is None:
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    reach = t_quantile(freedom) * error
    return value, value - reach, value + reach


def in_a_circle(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs in which each run meets the next one of those that it is compared with.

    So that each is drawn for as often, in as many pairs as there are runs.
    """
    runs = list(dict.fromkeys(run for pair in pairs for run in pair))
    found = [
        next(p for b in (*runs[at:], *runs[:at]) for p in ((a, b), (b, a)) if p in pairs)
        for at, a in enumerate(runs)
    ]
    return list(dict.fromkeys(found))
