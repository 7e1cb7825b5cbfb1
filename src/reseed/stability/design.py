"""Which pairs of runs are independent trials of each other, by the seeds they share."""

from __future__ import annotations

from collections.abc import Sequence

from reseed.stability.intervals import Design, is_crossed

NEITHER, SAME_DATA, SAME_INIT = "share neither seed", "share the data seed", "share the init seed"
CLASSES = (NEITHER, SAME_DATA, SAME_INIT)
"""What two runs of a group can share, from the least to the most that could make them alike."""

Pair = tuple[str, str]


def class_of(pair: Pair, design: Design) -> str:
    """Which seed the two runs of a pair share; two runs of a group never share both."""
    (init_a, data_a), (init_b, data_b) = (design[run] for run in pair)
    if init_a == init_b:
        return SAME_INIT
    return SAME_DATA if data_a == data_b else NEITHER


def independent_pairs(pairs: Sequence[Pair], design: Design) -> tuple[str, list[Pair]]:
    """The pairs that say how often an independent run finds a latent.

    Two runs that start from the same weights can agree without having learnt anything, and two
    that read the same tokens in the same order share their accidents. So the pairs that share the
    least count: those that share neither seed; if there is none, those that share the data seed
    (the paper's design: only the init differs); if there is none either, those that share the init.

    Returns:
        What these pairs share, one of `CLASSES`, and the pairs.
    """
    for name in CLASSES:
        found = [pair for pair in pairs if class_of(pair, design) == name]
        if found:
            return name, found
    return NEITHER, []


def occasions(design: Design) -> list[str]:
    """Runs that can count as independent occasions of finding a feature.

    All runs, unless both seeds are crossed: then a set of runs of which no two share a seed, taken
    in the order given. Runs from equal weights find nearly the same and would make the features
    look few.
    """
    if not is_crossed(design):
        return list(design)
    chosen: list[str] = []
    for run, (init, data) in design.items():
        taken = [design[one] for one in chosen]
        if all(init != i and data != d for i, d in taken):
            chosen.append(run)
    return chosen
