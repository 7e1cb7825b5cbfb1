"""How well chosen latents tell held-out documents apart: sparse probing. Needs scikit-learn.

Logistic regression on k latents (as Gurnee et al., arXiv 2305.01610, probe with k neurons).
Intervals are by bootstrap over held-out documents, within classes; the fit is not repeated, so they
speak of other documents, not of another choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.interpretation.selection_baselines import by_chance, logistic
from reseed.interpretation.selection_task import Choice, Task
from reseed.seeds import generator

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

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
            mine = random
            if choice.method != "random":
                mine = _measured(task, choice.order[:size], weights)
            rows.append(_row(task, choice.method, size, mine, random))
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
    task: Task, method: str, size: int, mine: Floats, random: Floats | None
) -> dict[str, object]:
    row: dict[str, object] = {"method": method, "k": size}
    extra = np.full(len(mine), np.nan) if random is None else mine[:, 0] - random[:, 0]
    for name, values in zip(_COLUMNS, (*mine.T, extra), strict=True):
        known = not np.isnan(values).any()
        low, high = np.quantile(values[1:], [0.025, 0.975])
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
        out[1:, y == c] = rng.multinomial(size, np.full(size, 1 / size), size=draws)
    return out


def auroc(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Area under the ROC curve for each row of weights; ties count half.

    Args:
        scores: `[n]`.
        positive: `[n]`.
        weights: `[draws, n]` how often each counts.

    Returns:
        `[draws]`.
    """
    _, place = np.unique(scores, return_inverse=True)
    levels = int(place.max()) + 1
    at = np.zeros((len(scores), levels))
    at[np.arange(len(scores)), place] = 1.0
    hits, misses = (weights * positive) @ at, (weights * ~positive) @ at
    below = np.cumsum(misses, axis=1) - misses
    area = (hits * (below + misses / 2)).sum(axis=1)
    return area / (hits.sum(axis=1) * misses.sum(axis=1))
