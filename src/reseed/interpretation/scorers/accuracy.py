"""How well answers or grades tell two classes apart, with 95 % intervals.

Answers about one document depend on each other. Every interval is therefore that of an *effective*
number of answers: their number divided by how much the documents widen the variance (the design
effect, at least 1), put into an interval of the score kind, which stays honest near 0 and 1. It
reaches as many standard errors as Student's t of as many documents as count: few documents tell
little about how documents differ, and of very uneven ones the large count for nearly all.

m positives, n negatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from reseed.interpretation.records import Example, Interval, Latent, Score
from reseed.stability.intervals import jackknife_ends, t_quantile
from reseed.stability.proportions import wider_than_counts, wilson

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of right answers."""

    value: float
    interval: Interval
    answers: int
    effective: float
    """answers that were as good if they were independent"""


def rate(right: Sequence[bool], clusters: Sequence[int]) -> Rate:
    """Share of right answers, with the wider of Wilson's interval and Clopper-Pearson's.

    Both on the effective number of answers; the second where a few of few answers are wrong.
    """
    if not right:
        raise ValueError("a share of no answers")
    values = np.asarray(right, np.float64)
    effective = len(values) / design_effect(values, clusters)
    value = float(values.mean())
    of_score = wilson(values.mean(), effective, _reach(_even(clusters) - 1))
    low, high = wider_than_counts(of_score, values.mean(), effective)
    return Rate(
        value=value,
        interval=(float(low), float(high)),
        answers=len(values),
        effective=effective,
    )


def _even(clusters: Sequence[int]) -> float:
    """As many clusters of one size as tell as much about how clusters differ (Kish)."""
    sizes = np.unique(np.asarray(clusters), return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _reach(freedom: float) -> float:
    """Standard errors of a 95 % interval, by Student's t; at least one degree of freedom."""
    return t_quantile(max(freedom, 1.0))


def design_effect(values: Numbers, clusters: Sequence[int]) -> float:
    """Variance of a mean of clustered values against that of independent ones; at least 1."""
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    groups = int(place.max()) + 1
    spread = values - values.mean()
    alone = float((spread**2).sum()) / len(values) ** 2
    if groups < 2 or groups == len(values) or alone == 0:
        # one cluster is one answer; where all agree, the clusters are all that can be counted on
        return len(values) / groups
    sums = np.bincount(place, spread)
    together = groups / (groups - 1) * float((sums**2).sum()) / len(values) ** 2
    return max(1.0, together / alone)


def balanced(positives: Rate, negatives: Rate) -> tuple[float, Interval]:
    """Mean of two rates, with Newcombe's interval made of their two (MOVER, 1998)."""
    value = (positives.value + negatives.value) / 2
    low = math.hypot(*(rate.value - rate.interval[0] for rate in (positives, negatives))) / 2
    high = math.hypot(*(rate.interval[1] - rate.value for rate in (positives, negatives))) / 2
    return value, (max(0.0, value - low), min(1.0, value + high))


def auroc_with_interval(
    positives: Numbers,
    negatives: Numbers,
    positive_clusters: Sequence[int],
    negative_clusters: Sequence[int],
) -> tuple[float, Interval]:
    """AUROC and Newcombe's score-like interval (2006, method 5) on effective numbers of grades.

    The design effect of each class is that of its DeLong components (Obuchowski 1997). Where their
    variance is above the one that Newcombe's formula takes from the value alone, as of grades that
    spread more in one class than in the other, the numbers are lowered until both agree.

    Args:
        positives: [m] grades of examples in which the latent fires.
        negatives: [n] of those in which it does not.
        positive_clusters: [m] document of each.
        negative_clusters: [n] document of each.
    """
    above = _above(positives, negatives)
    value = float(above.mean())
    components = above.mean(axis=1), above.mean(axis=0)
    clusters = positive_clusters, negative_clusters
    sizes = [len(c) / design_effect(c, at) for c, at in zip(components, clusters, strict=True)]
    parts = [float(c.var()) / n for c, n in zip(components, sizes, strict=True)]
    free = [max(_even(at) - 1, 1.0) for at in clusters]
    freedom = min(free)
    if sum(parts) > 0:  # Satterthwaite's
        freedom = sum(parts) ** 2 / sum(p**2 / f for p, f in zip(parts, free, strict=True))
    m, n = sizes
    assumed = _hanley(value, m, n) ** 2
    wider = max(1.0, sum(parts) / assumed) if assumed > 0 else 1.0
    return value, _newcombe(value, m / wider, n / wider, _reach(freedom))


def score_of_grades(
    of: Latent,
    scorer: str,
    firing: Sequence[tuple[Example, float]],
    silent: Sequence[tuple[Example, float]],
    **more: Any,
) -> Score:
    """The AUROC of grades that should be higher where the latent fires, as a score."""
    grades = [np.array([grade for _, grade in side]) for side in (firing, silent)]
    documents = [[example.document for example, _ in side] for side in (firing, silent)]
    value, interval = auroc_with_interval(grades[0], grades[1], documents[0], documents[1])
    return Score(
        of=of,
        scorer=scorer,
        value=value,
        chance=0.5,
        interval=interval,
        auroc=value,
        auroc_interval=interval,
        positives=len(firing),
        negatives=len(silent),
        **more,
    )


def _above(positives: Numbers, negatives: Numbers) -> Numbers:
    """[m, n] 1 where the positive is graded higher, .5 at ties."""
    if not len(positives) or not len(negatives):
        raise ValueError(f"AUROC of {len(positives)} positives and {len(negatives)} negatives")
    if np.isnan(positives).any() or np.isnan(negatives).any():
        raise ValueError("AUROC of grades with NaN")
    high, low = np.asarray(positives)[:, None], np.asarray(negatives)[None, :]
    return (high > low) + 0.5 * (high == low)


def _hanley(truth: float, m: float, n: float) -> float:
    """Standard error of an AUROC by its value alone, as Newcombe averages Hanley & McNeil's."""
    half = max((m + n) / 2 - 1, 0.0)
    share = (1 - truth) / (2 - truth) + truth / (1 + truth)
    return float(np.sqrt(truth * (1 - truth) * (1 + half * share) / (m * n)))


def _newcombe(value: float, m: float, n: float, z: float) -> Interval:
    def end(edge: float, side: int) -> float:
        def gap(truth: float) -> float:
            return side * (truth - value) - z * _hanley(truth, m, n)

        if gap(edge) <= 0:
            return edge
        # at 0 and at 1 the gap is 0 as well, and that is not the end looked for
        inside = min(max(value, 1e-9), 1 - 1e-9)
        return float(optimize.brentq(gap, inside, edge))

    return end(0.0, -1), end(1.0, 1)


def correlation(
    predicted: Sequence[Numbers], true: Sequence[Numbers], clusters: Sequence[int]
) -> tuple[float, Interval | None]:
    """Pearson correlation over all values of all windows, with a jackknife interval over documents.

    The jackknife is on Fisher's scale, with Student's t of documents - 1 degrees of freedom.

    Args:
        predicted: of each window, one value a token; not all the same.
        true: likewise.
        clusters: document of each window.

    Returns:
        the correlation; its interval, None with fewer than three documents.
    """
    sums = np.array([_moments(x, y) for x, y in zip(predicted, true, strict=True)])
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    groups = int(place.max()) + 1
    by_group = np.zeros((groups, sums.shape[1]))
    np.add.at(by_group, place, sums)
    total = by_group.sum(axis=0)
    value = _pearson(total)
    if value is None:
        raise ValueError("correlation of values that are all the same")
    left_out = [_pearson(total - group) for group in by_group]
    if groups < 3 or None in left_out:
        return value, None
    scale = np.arctanh(np.clip(np.array([value, *left_out], np.float64), -1 + 1e-12, 1 - 1e-12))
    low, high = np.tanh(jackknife_ends(scale[0], scale[1:]))
    return value, (float(low), float(high))


def _moments(x: Numbers, y: Numbers) -> list[float]:
    return [len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]


def _pearson(moments: Numbers) -> float | None:
    n, x, y, xx, yy, xy = map(float, moments)
    spread_x, spread_y = n * xx - x * x, n * yy - y * y
    if spread_x <= 1e-9 * n * xx or spread_y <= 1e-9 * n * yy:
        return None
    return float(np.clip((n * xy - x * y) / np.sqrt(spread_x * spread_y), -1.0, 1.0))


def mean_with_interval(
    values: Sequence[float], clusters: Sequence[int]
) -> tuple[float, Interval | None]:
    """Mean and Student's t interval over the means of clusters; None with fewer than three."""
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    means = np.bincount(place, np.asarray(values, np.float64)) / np.bincount(place)
    value = float(means.mean())
    if len(means) < 3:
        return value, None
    reach = float(t_quantile(len(means) - 1) * stats.sem(means))
    return value, (value - reach, value + reach)
