"""Runs of one group that were made by different arithmetic: refused, or said."""

from __future__ import annotations

from reseed.errors import StoreError
from reseed.runs import Group, run_name
from reseed.store import Store


def differences(group: Group, store: Store) -> list[str]:
    """What the arithmetic of the runs of a group differs in, as `key: value, value`.

    Runs whose arithmetic was not recorded are left out.
    """
    cards = [card for run in group.runs if (card := store.arithmetic(run_name(run))) is not None]
    keys = dict.fromkeys(key for card in cards for key in card)
    values = {key: list(dict.fromkeys(str(card.get(key)) for card in cards)) for key in keys}
    return [f"{key}: {', '.join(each)}" for key, each in values.items() if len(each) > 1]


def refuse_mixed(groups: list[Group], store: Store) -> None:
    """Refuse groups whose runs were made by different arithmetic.

    Raises:
        StoreError: naming the group and what differs.
    """
    for group in groups:
        if different := differences(group, store):
            raise StoreError(
                f"{group.label}: its runs were made by different arithmetic ({'; '.join(different)}"
                "). The last bits depend on it, so that machine and seed cannot be told apart in "
                "what differs between runs. Train all of them on one kind of machine with the same "
                'versions (`--engine` with constraint or instructions = "avx2"), or accept it '
                "with --mixed; the page then says so."
            )


def note(group: Group, store: Store) -> list[str]:
    """A sentence for the page; none if all runs were made alike."""
    different = differences(group, store)
    if not different:
        return []
    return [
        f"its runs were made by different arithmetic ({'; '.join(different)}): what differs "
        "between them is not the seed alone."
    ]
