"""Pieces of one group that were made by different arithmetic: refused, or said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reseed.errors import StoreError
from reseed.runs import (
    Group,
    cofiring_name,
    evidence_name,
    pair_name,
    pairs_of,
    run_name,
    structure_name,
    through_name,
    weights_name,
)
from reseed.store import Store


def _kinds(group: Group) -> dict[str, list[str]]:
    """What a group is made of, to the names of its pieces; those of a kind stand side by side."""
    pairs = pairs_of(group.runs)
    return {
        "runs": [run_name(run) for run in group.runs],
        "matches": [pair_name(pair) for pair in pairs],
        "weights": [weights_name(run) for run in group.runs],
        "evidence": [evidence_name(run) for run in group.runs],
        "co-firing": [cofiring_name(pair) for pair in pairs],
        "effects on the subject": [through_name(run) for run in group.runs],
        "structure": [structure_name(pair) for pair in pairs],
    }


Card = Mapping[str, Any]


def differences(group: Group, store: Store, here: Card | None = None) -> dict[str, str]:
    """Kinds of pieces of a group, to what their arithmetic differs in, as `key: value, value`.

    Pieces, and entries of their cards, that were not recorded are left out. `here` is the card of
    the process that is to make more of each kind.
    """
    out: dict[str, str] = {}
    for kind, names in _kinds(group).items():
        there = [*(store.arithmetic(name) for name in names if store.has(name)), here]
        if different := _different(card for card in there if card is not None):
            out[kind] = "; ".join(different)
    return out


def _different(cards: Iterable[Card]) -> list[str]:
    values: dict[str, dict[str, None]] = {}
    for card in cards:
        for key, value in card.items():
            values.setdefault(key, {})[str(value)] = None
    return [f"{key}: {', '.join(each)}" for key, each in values.items() if len(each) > 1]


def refuse_mixed(groups: Iterable[Group], store: Store, here: Card | None = None) -> None:
    """Refuse groups with pieces of one kind that were, or would be, made by different arithmetic.

    Args:
        groups: that are looked at.
        store: where their pieces are.
        here: of this process, if it is to make what is missing.

    Raises:
        StoreError: naming the group, the kind and what differs.
    """
    were = "were" if here is None else "would be"
    for group in groups:
        for kind, different in differences(group, store, here).items():
            raise StoreError(
                f"{group.label}: its {kind} {were} made by different arithmetic ({different}"
                "). The last bits depend on it, so that machine and seed cannot be told apart in "
                "what differs between runs. Make all of them on one kind of machine with the same "
                'versions (`--engine` with constraint or instructions = "avx2"), or accept it '
                "with --mixed; the page then says so."
            )


def note(group: Group, store: Store) -> list[str]:
    """A sentence for the page; none if all was made alike."""
    each = differences(group, store)
    if not each:
        return []
    what = "; and ".join(f"its {kind} ({different})" for kind, different in each.items())
    return [
        f"{what} were made by different arithmetic: what differs between them is not the seed "
        "alone."
    ]
