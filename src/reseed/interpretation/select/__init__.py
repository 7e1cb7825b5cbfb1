"""A labelled task over documents, and what a choice of latents for it is. Read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError, nearest
from reseed.seeds import generator

ALL = "*"
"""The task to tell all labels apart."""

LEAST = 5
"""Documents of a class that each side must have."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """Documents with classes, some to choose and fit on and others to evaluate on.

    n documents, c candidates.
    """

    name: str
    classes: tuple[str, ...]
    candidates: tuple[int, ...]
    """[c] latents"""
    train_x: NDArray[np.float64]
    """[n, c] features, scaled to mean 0 and deviation 1 over these rows"""
    train_y: NDArray[np.int64]
    """[n] places in `classes`"""
    test_x: NDArray[np.float64]
    """in the same scale"""
    test_y: NDArray[np.int64]
    notes: tuple[str, ...] = ()
    """what was left out"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Candidates by one method, best first."""

    method: str
    order: tuple[int, ...]
    """places in `Task.candidates`; as many as were asked for, or all"""
    calls: int = 0
    """to a model"""
    failed: int = 0
    """of these without a usable reply; their part of the order is by chance"""
    note: str = ""


def make_task(
    features: NDArray[np.float32],
    labels: Sequence[str | None],
    side: Sequence[str],
    candidates: Sequence[int],
    label: str = ALL,
) -> Task:
    """Make a task of document features.

    Args:
        features: `[documents, c]` of the candidates.
        labels: of each document; those without one are left out.
        side: "training", "held_out" or another word for documents of neither side.
        candidates: `[c]` the latents.
        label: one label against all others, or `*` for all of them.

    Raises:
        SpecError: if there is no such label, or too few documents of a class on a side.
    """
    known = sorted({name for name in labels if name is not None})
    if len(known) < 2:
        raise SpecError(
            f"the documents have {len(known)} labels; a task needs two. Set text.label to a field "
            "that tells documents apart."
        )
    if label != ALL and label not in known:
        raise SpecError(f"no documents are labelled {label!r}; {nearest(label, known)}")
    names, sides = np.array([name or "" for name in labels]), np.array(list(side))
    labelled = np.array([name is not None for name in labels])
    train, test = (labelled & (sides == where) for where in ("training", "held_out"))
    notes: tuple[str, ...] = ()
    if label == ALL:
        classes, rare = _common(names, known, train, test)
        notes = (f"left out as too rare: {', '.join(rare)}",) if rare else ()
        place = {name: number for number, name in enumerate(classes)}
        y = np.array([place.get(str(name), -1) for name in names])
    else:
        classes, y = (f"not {label}", label), (names == label).astype(np.int64)
        _check_counts(label, y, train, test)
    train, test = train & (y >= 0), test & (y >= 0)
    x = np.asarray(features, dtype=np.float64)
    mean, spread = x[train].mean(axis=0), x[train].std(axis=0)
    scaled = (x - mean) / np.where(spread > 0, spread, 1.0)
    return Task(
        name="all labels" if label == ALL else label,
        classes=classes,
        candidates=tuple(candidates),
        train_x=scaled[train],
        train_y=y[train],
        test_x=scaled[test],
        test_y=y[test],
        notes=notes,
    )


def _common(
    names: NDArray[np.str_],
    known: Sequence[str],
    train: NDArray[np.bool_],
    test: NDArray[np.bool_],
) -> tuple[tuple[str, ...], list[str]]:
    """The labels with enough documents on both sides, and the others."""
    fewest = {
        label: min(int((names[rows] == label).sum()) for rows in (train, test)) for label in known
    }
    enough = tuple(label for label in known if fewest[label] >= LEAST)
    if len(enough) < 2:
        raise SpecError(
            f"{len(enough)} of {len(known)} labels have {LEAST} documents on both sides; two are "
            "needed. Hold more text out."
        )
    return enough, [label for label in known if fewest[label] < LEAST]


def _check_counts(
    label: str, y: NDArray[np.int64], train: NDArray[np.bool_], test: NDArray[np.bool_]
) -> None:
    for what, rows in (("training", train), ("held-out", test)):
        if min(int((y[rows] == c).sum()) for c in (0, 1)) < LEAST:
            raise SpecError(
                f"{label!r}: of the {what} documents {int(y[rows].sum())} of {rows.sum()} have "
                f"this label; at least {LEAST} with it and without it are needed. Take a "
                "commoner label, or hold more text out."
            )


def random_sides(labels: Sequence[str | None], share: float, seed: int) -> list[str]:
    """Sides by chance, the same share of each label held out, for texts with little held out."""
    out = ["training"] * len(labels)
    for label in sorted({str(name) for name in labels}):
        documents = [n for n, name in enumerate(labels) if str(name) == label]
        order = generator("selection-sides", seed, label).permutation(len(documents))
        for place in order[: round(share * len(documents))]:
            out[documents[place]] = "held_out"
    return out
