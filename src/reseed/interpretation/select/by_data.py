"""Choosing latents by data, and how well chosen latents tell held-out documents apart.

What a choice by explanations is held against, and sparse probing: logistic regression on k latents
(as Gurnee et al., arXiv 2305.01610, probe with k neurons). Intervals are by bootstrap over held-out
documents, within classes; the fit is not repeated, so they speak of other documents, not of another
choice.

A choice takes the features of training documents `[n, c]`, scaled to mean 0 and deviation 1, and
their classes `[n]`, and gives places of candidates, best first. scikit-learn is imported inside, so
that what only reads a study needs none.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.interpretation.select import Choice, Task
from reseed.seeds import generator
from reseed.stability.intervals import auroc, bootstrap_counts, percentile_ends

Floats = NDArray[np.float64]

Integers = NDArray[np.int64]

_POOL = 100
"""Forward selection tries so many candidates: those with the largest F."""

_FOLDS = 3

_PENALTIES = 100
"""On the path of the LASSO, from the one at which the first candidate enters ..."""

_WEAKEST = 1e-2
"""... down to this share of it ..."""

_STEPS = 5
"""... so many at a time, until enough have entered."""


def lasso(x: Floats, y: Integers, k: int) -> Integers:
    """The order in which candidates enter the path of the LASSO.

    Squared loss on the indicator of the class, or of all classes with the group penalty over them
    (the multi-task LASSO). The path is followed until k have entered; the others come last, by
    their correlation.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lasso_path

    target = indicators(y)
    target = target - target.mean(axis=0)
    if target.shape[1] == 2:
        target = target[:, 1:]
    strongest = float(np.linalg.norm(x.T @ target, axis=1).max()) / len(x)
    if strongest <= 0:
        return np.arange(x.shape[1])
    single = target.shape[1] == 1
    grid = strongest * np.geomspace(1, _WEAKEST, _PENALTIES)
    enters = np.full(x.shape[1], _PENALTIES)
    size = np.zeros(x.shape[1])
    start: Any = None
    for first in range(0, _PENALTIES, _STEPS):
        penalties: Any = grid[first : first + _STEPS]
        with warnings.catch_warnings():
            # at the weak end, where candidates enter that matter least
            warnings.simplefilter("ignore", ConvergenceWarning)
            path: Any = lasso_path(
                x, target[:, 0] if single else target, alphas=penalties, coef_init=start
            )[1]
        start = path[..., -1]
        weights = np.abs(path) if single else np.sqrt((path**2).sum(axis=0))  # [c, steps]
        fresh = (enters == _PENALTIES) & weights.any(axis=1)
        at = (weights > 0).argmax(axis=1)
        enters[fresh], size[fresh] = first + at[fresh], weights[fresh, at[fresh]]
        if (enters < _PENALTIES).sum() >= k:
            break
    return np.lexsort((-_correlation(x, y), -size, enters)).astype(np.int64)


def mutual_information(x: Floats, y: Integers, seed: int = 0) -> Integers:
    """By mutual information with the class, one by one (Kraskov's estimate)."""
    from sklearn.feature_selection import mutual_info_classif

    state = int(generator("mutual-information", seed).integers(2**31))
    information: Any = mutual_info_classif(x, y, random_state=state)
    return np.argsort(-information, kind="stable").astype(np.int64)


def mrmr(x: Floats, y: Integers, k: int) -> Integers:
    """Minimum redundancy, maximum relevance: F over the mean correlation with what was chosen.

    The quotient form with the F statistic (FCQ) of Ding and Peng 2005, as LLM-Select's baseline.
    """
    relevance = _f_statistic(x, y)
    similar = np.abs(_correlations(x))
    chosen = [int(np.argmax(relevance))]
    while len(chosen) < min(k, x.shape[1]):
        redundancy = similar[:, chosen].mean(axis=1).clip(min=1e-3)
        score = np.where(np.isin(np.arange(x.shape[1]), chosen), -np.inf, relevance / redundancy)
        chosen.append(int(np.argmax(score)))
    return np.array(chosen, dtype=np.int64)


def forward(x: Floats, y: Integers, k: int) -> Integers:
    """Forward selection: the candidate that lowers the cross-validated log loss most, k times.

    Of the 100 candidates with the largest F, with logistic regression in three folds.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    pool = np.argsort(-_f_statistic(x, y), kind="stable")[:_POOL].tolist()
    folds = StratifiedKFold(_FOLDS)
    chosen: list[int] = []
    while len(chosen) < min(k, len(pool)):
        left = [c for c in pool if c not in chosen]

        def score(candidate: int) -> float:
            columns = x[:, [*chosen, candidate]]  # noqa: B023  (called in this turn only)
            scores: Any = cross_val_score(logistic(), columns, y, cv=folds, scoring="neg_log_loss")
            return float(scores.mean())

        chosen.append(left[int(np.argmax([score(c) for c in left]))])
    return np.array(chosen, dtype=np.int64)


def by_chance(candidates: int, seed: int, draw: int = 0) -> Integers:
    """Candidates in a random order."""
    return generator("select-random", seed, draw).permutation(candidates).astype(np.int64)


def logistic() -> Any:
    """The model of the probe: classes count alike, however common."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(class_weight="balanced", max_iter=5000)


def indicators(y: Integers) -> Floats:
    """[n, classes] 1 where a document is of a class."""
    return (y[:, None] == np.unique(y)).astype(np.float64)


def _f_statistic(x: Floats, y: Integers) -> Floats:
    from sklearn.feature_selection import f_classif

    varies = x.std(axis=0) > 0
    out = np.zeros(x.shape[1])
    if varies.any():
        with np.errstate(divide="ignore"):  # a candidate that tells classes apart without error
            statistic: Any = f_classif(x[:, varies], y)[0]
        out[varies] = np.nan_to_num(statistic, nan=0.0, posinf=1e12)
    return out


def _correlations(x: Floats) -> Floats:
    spread = x.std(axis=0)
    scaled = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return scaled.T @ scaled / len(x)


def _correlation(x: Floats, y: Integers) -> Floats:
    target = indicators(y)
    target = (target - target.mean(axis=0)) / target.std(axis=0)
    return np.abs(x.T @ target / len(x)).max(axis=1)


RANDOM_DRAWS = 20
"""Random choices that are averaged for the row `random`."""

_COLUMNS = ("balanced_accuracy", "auroc", "minus_random")


def sizes(k: int) -> list[int]:
    """1, 2, 5, 10, 20, ... up to k, and k itself."""
    steps = [m * 10**e for e in range(7) for m in (1, 2, 5)]
    return sorted({n for n in steps if n <= k} | {k})


def probe_table(
    task: Task, choices: Sequence[Choice], k: int, *, seed: int = 0, draws: int = 1000
) -> pl.DataFrame:
    """Evaluate choices on held-out documents.

    Args:
        task: the documents.
        choices: whose first latents are taken. One called `random` stands for 20 random choices, by
            whose means it is given.
        k: latents at the most.
        seed: of the bootstrap and of `random`.
        draws: of the bootstrap.

    Returns:
        method, k, balanced_accuracy, auroc (over classes: the mean, each against the rest) and
        minus_random (difference of balanced accuracy to random choices of as many latents), each
        with NAME_lo and NAME_hi (95 %), chance (of balanced accuracy). The last row, `all
        candidates`, has all of them.
    """
    weights = _document_weights(task.test_y, seed, draws)
    rows: list[dict[str, object]] = []
    for size in sizes(k):
        random = _random(task, size, seed, weights)
        for choice in choices:
            measured = random
            if choice.method != "random":
                measured = _measured(task, choice.order[:size], weights)
            rows.append(_row(task, choice.method, size, measured, random))
    size = len(task.candidates)
    every = _measured(task, range(size), weights)
    rows.append(_row(task, "all candidates", size, every, None))
    return pl.DataFrame(rows, infer_schema_length=None)


def _random(task: Task, size: int, seed: int, weights: Floats) -> Floats:
    """Means over random choices, for the documents as they are and for every bootstrap draw."""
    candidates = len(task.candidates)
    orders = [by_chance(candidates, seed, draw)[:size].tolist() for draw in range(RANDOM_DRAWS)]
    return np.mean([_measured(task, order, weights) for order in orders], axis=0)


def _measured(task: Task, chosen: Sequence[int], weights: Floats) -> Floats:
    """[1 + draws, 2] balanced accuracy and AUROC of a probe on these candidates."""
    columns = list(chosen)
    model = logistic().fit(task.train_x[:, columns], task.train_y)
    scores: Any = model.predict_proba(task.test_x[:, columns])
    y = task.test_y
    right = scores.argmax(axis=1) == y
    each = [weights[:, y == c] @ right[y == c] / (y == c).sum() for c in np.unique(y)]
    classes = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    areas = [auroc(scores[:, c], y == c, weights) for c in classes]
    return np.stack([np.mean(each, axis=0), np.mean(areas, axis=0)], axis=1)


def _row(
    task: Task, method: str, size: int, measured: Floats, random: Floats | None
) -> dict[str, object]:
    row: dict[str, object] = {"method": method, "k": size}
    extra = np.full(len(measured), np.nan) if random is None else measured[:, 0] - random[:, 0]
    for name, values in zip(_COLUMNS, (*measured.T, extra), strict=True):
        known = not np.isnan(values).any()
        low, high = percentile_ends(values[1:])
        row |= {
            name: float(values[0]) if known else None,
            f"{name}_lo": float(low) if known else None,
            f"{name}_hi": float(high) if known else None,
        }
    return row | {"chance": 1 / len(task.classes)}


def _document_weights(y: Integers, seed: int, draws: int) -> Floats:
    """[1 + draws, n] how often each document counts: once, then as drawn within its class."""
    out = np.ones((1 + draws, len(y)))
    rng = generator("probe-bootstrap", seed)
    for c in np.unique(y):
        size = int((y == c).sum())
        out[1:, y == c] = bootstrap_counts(size, draws, rng)
    return out
