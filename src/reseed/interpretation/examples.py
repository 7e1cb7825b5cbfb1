"""Examples of a latent: read, chosen for a use, and kept apart. Needs no torch.

What an example may be used for was decided by its document when it was sampled
(`reseed.evidence.examples.windows`); `check_disjoint` looks again before a model is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import polars as pl

from reseed.errors import SpecError
from reseed.evidence.examples.tables import COUNTS, EXAMPLES, WINDOWS, ExampleTables
from reseed.interpretation.controls import random_latents
from reseed.interpretation.records import Example, Item, Kind, Latent, Split
from reseed.runs import evidence_name
from reseed.seeds import generator
from reseed.spec.interpretation import InterpretationSpec
from reseed.store import Store

_NO_DOCUMENT = -1

_SHOWN = 8
"""Documents that a message names."""


def read_tables(store: Store, run: str) -> ExampleTables:
    """What the evidence of a run holds of examples.

    Raises:
        StoreError: if it is missing or damaged.
    """
    files = EXAMPLES, WINDOWS, COUNTS
    return ExampleTables(*(store.table(evidence_name(run), file) for file in files))


def read_examples(store: Store, run: str, latents: Iterable[int] | None = None) -> pl.DataFrame:
    """Examples of a run with their text.

    Args:
        store: of the study.
        run: its id.
        latents: only of these; None for all, which can be large.

    Returns:
        latent, split, kind, quantile, strength, document, block, position, tokens, activations.

    Raises:
        StoreError: if the evidence is missing or damaged.
    """
    return read_tables(store, run).joined(latents)


def examples_of(table: pl.DataFrame, latent: int) -> tuple[Example, ...]:
    """The examples of one latent as records, in the order of the table.

    Args:
        table: of `read_examples`, or of a Delphi cache.
        latent: its number.
    """
    rows = table.filter(pl.col("latent") == latent)
    return tuple(_example(row) for row in rows.iter_rows(named=True))


def by_latent(table: pl.DataFrame) -> dict[int, tuple[Example, ...]]:
    """The examples of every latent in a table, in one go."""
    out: dict[int, list[Example]] = {}
    for row in table.iter_rows(named=True):
        out.setdefault(int(row["latent"]), []).append(_example(row))
    return {latent: tuple(examples) for latent, examples in out.items()}


def choose(
    examples: Sequence[Example],
    split: Split,
    n: int,
    quantiles: int = 10,
    seed: int = 0,
    kinds: Sequence[Kind] = ("firing",),
) -> tuple[Example, ...]:
    """A seeded choice of n examples of each kind.

    Firing ones are ranked by strength and cut into `quantiles` parts of equal size, and the same
    number is drawn from each (as arXiv 2410.13928 does, with ten of them). What does not
    divide, and what a part lacks, is drawn from the others. Where there are fewer than n, all are
    given.

    Args:
        examples: of one latent.
        split: what they are for.
        n: of each kind.
        quantiles: parts; 1 for a plain random choice.
        seed: of the choice.
        kinds: which, in the order in which they are given back.

    Returns:
        firing ones strongest first, the others in random order. A latent that has none of a kind
        gives none of it: count them.

    Raises:
        SpecError: if n or quantiles is too small, or the split or a kind is not known.
    """
    _check_choice(split, n, quantiles, kinds)
    out: list[Example] = []
    for kind in kinds:
        there = [one for one in examples if one.split == split and one.kind == kind]
        draw = generator("choose-examples", seed, split, kind)
        if kind == "firing":
            ranked = sorted(there, key=lambda one: -one.strength)
            out += [ranked[i] for i in _stratified(len(ranked), n, quantiles, draw)]
        else:
            out += [there[i] for i in draw.permutation(len(there))[:n]]
    return tuple(out)


def strongest(examples: Sequence[Example], split: Split, n: int) -> tuple[Example, ...]:
    """The n examples of a split that fire most strongly, strongest first."""
    there = [one for one in examples if one.split == split and one.kind == "firing"]
    return tuple(sorted(there, key=lambda one: -one.strength)[:n])


def check_disjoint(explaining: Iterable[Example], scoring: Iterable[Example]) -> None:
    """Refuse examples for scoring that share anything with those that were explained from.

    Any document in common is a leak, whichever of its windows; so are tokens in common where
    documents are not known.

    Args:
        explaining: examples that an explainer was or will be shown.
        scoring: examples that its explanation is to be scored on.

    Raises:
        SpecError: naming the documents or places.
    """
    seen, asked = list(explaining), list(scoring)
    documents = {one.document for one in seen} & {one.document for one in asked}
    shared = sorted(documents - {_NO_DOCUMENT})
    if shared:
        raise SpecError(
            f"{_listed('document', shared)} among the examples to explain from and among those to "
            "score on, so the score would reward an explainer for what it was shown. Take the "
            "examples of two splits (`choose(..., split)`), which never share a document."
        )
    overlaps = sorted(_overlaps(seen, asked))
    if overlaps:
        block, position = overlaps[0]
        raise SpecError(
            f"{len(overlaps)} examples to score on have tokens that were explained from, the first "
            f"in block {block} at position {position}. Take the examples of two splits."
        )


def _example(row: Mapping[str, Any]) -> Example:
    return Example(
        split=row["split"],
        kind=row["kind"],
        tokens=tuple(row["tokens"]),
        activations=tuple(row["activations"]),
        document=row["document"],
        block=row["block"],
        position=row["position"],
        quantile=row["quantile"],
    )


def _check_choice(split: str, n: int, quantiles: int, kinds: Sequence[str]) -> None:
    if n < 0 or quantiles < 1:
        raise SpecError(f"choose: n = {n} should be at least 0, quantiles = {quantiles} at least 1")
    if split not in get_args(Split):
        raise SpecError(f"choose: no split {split!r}; known are {', '.join(get_args(Split))}")
    for kind in kinds:
        if kind not in get_args(Kind):
            raise SpecError(f"choose: no kind {kind!r}; known are {', '.join(get_args(Kind))}")


def _stratified(count: int, n: int, quantiles: int, draw: np.random.Generator) -> list[int]:
    """Draw n of `count` ranks, as evenly over the parts as they allow, ascending.

    Every rank stands at a random place of its part; the first of all parts go before the second of
    all, and so on. So every number n is spread as evenly as it can be.
    """
    parts = np.array_split(np.arange(count), min(quantiles, max(count, 1)))
    turn = np.concatenate([draw.permutation(len(part)) for part in parts])
    order = np.lexsort((draw.random(count), turn))
    return sorted(int(rank) for rank in order[:n])


def _overlaps(seen: Sequence[Example], asked: Sequence[Example]) -> set[tuple[int, int]]:
    """Block and position of the examples that share tokens with any of those seen."""
    taken = {(one.block, at) for one in seen for at in _places(one)}
    return {
        (one.block, one.position)
        for one in asked
        if any((one.block, at) in taken for at in _places(one))
    }


def _places(one: Example) -> range:
    """Positions of a window; it was chosen for its first strongest token, or for its first."""
    offset = one.activations.index(max(one.activations)) if one.activations else 0
    return range(one.position - offset, one.position - offset + len(one.tokens))


def _listed(what: str, numbers: Sequence[int]) -> str:
    """E.g. `document 3 is` or `documents 3, 4 and 7 more are`."""
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"{what} {shown} is" if len(numbers) == 1 else f"{what}s {shown}{more} are"


class Examples:
    """The examples of some latents, read once.

    Args:
        store: of the study.
        of: latents of its runs.

    Raises:
        SpecError: if a run has no examples of text.
        StoreError: if the evidence is missing or damaged.
    """

    def __init__(self, store: Store, of: Sequence[Latent]) -> None:
        self._of: dict[Latent, tuple[Example, ...]] = {}
        for run in sorted({latent.run for latent in of}):
            wanted = [latent.latent for latent in of if latent.run == run]
            table = read_examples(store, run, wanted)
            if not len(table):
                raise SpecError(
                    f"run {run} has no examples of text to explain from: its subject reads none, "
                    "or evidence.examples is 0. Of the toy evidence.toy_text makes text."
                )
            found = by_latent(table)
            self._of |= {Latent(run=run, latent=n): found.get(n, ()) for n in wanted}

    def __contains__(self, latent: object) -> bool:
        return latent in self._of

    def to_explain(self, latent: Latent, spec: InterpretationSpec) -> Item:
        """Firing windows of documents that no score will see."""
        shown = choose(self._of[latent], "explain", spec.explain.examples, seed=spec.seed)
        return Item(of=latent, explanation=None, examples=shown)

    def to_score(self, latent: Latent, split: Split, spec: InterpretationSpec) -> Item:
        """Firing windows and as many silent ones, half of them hard if there are enough."""
        own_examples = self._of[latent]

        def some(kind: Kind, n: int) -> tuple[Example, ...]:
            return choose(own_examples, split, n, seed=spec.seed, kinds=(kind,))

        hard = some("neighbour", spec.examples // 2)
        silent = (*hard, *some("random", spec.examples - len(hard)))
        return Item(of=latent, explanation=None, examples=(*some("firing", spec.examples), *silent))


def random_items(items: Sequence[Item], split: Split, spec: InterpretationSpec) -> list[Item]:
    """Latents that mean nothing, made like some of these."""
    every = max(1, -(-len(items) // spec.random_latents))
    some = items[::every]
    pool = [one for item in items for one in item.examples if one.kind == "random"]
    if split == "explain":
        # what is explained has no silent windows; the texts come from where latents fire too
        return [_laid_elsewhere(item, items, spec.seed) for item in some if item.examples]
    return random_latents([item for item in some if item.examples], pool, spec.seed)


def _laid_elsewhere(item: Item, items: Sequence[Item], seed: int) -> Item:
    """The firing patterns of a latent over windows of the other latents."""
    others = [
        replace(one, kind="random", activations=(0.0,) * len(one.tokens), quantile=None)
        for other in items
        if other.of != item.of
        for one in other.examples
    ]
    seen = {(one.block, one.position): one for one in others}
    few = item.examples[: len(seen)]
    return random_latents([replace(item, examples=few)], list(seen.values()), seed)[0]


def latents_in(table: pl.DataFrame) -> list[Latent]:
    """The latents that the columns run and latent name, in their order."""
    return [Latent(run=run, latent=n) for run, n in table.select("run", "latent").iter_rows()]
