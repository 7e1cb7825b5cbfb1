"""Examples of a latent: read, chosen for a use, and kept apart. Needs no torch.

What an example may be used for was decided by its document when it was sampled
(`reseed.evidence.windows`); `ExampleSets` looks again before a model is asked anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.evidence.tables import COUNTS, EXAMPLES, WINDOWS, ExampleTables
from reseed.interpretation.records import Example, Item, Kind, Latent, Split
from reseed.runs import evidence_name
from reseed.seeds import generator
from reseed.spec.interpretation import InterpretationSpec
from reseed.store import Store

_NO_DOCUMENT = -1

_SHOWN = 8
"""Documents that a message names."""

USES: dict[Split, str] = {
    "explain": "to explain from",
    "score": "to score on",
    "judge": "to judge a refinement on",
}
"""What the examples of a split are for, in words."""


def read_examples(store: Store, run: str, latents: Iterable[int] | None = None) -> pl.DataFrame:
    """Examples of a run with their text.

    Args:
        store: of the study.
        run: its id.
        latents: only of these; None for all, which can be large.

    Returns:
        latent, split, kind, quantile, strength, document, block, position, tokens, activations.
    """
    files = EXAMPLES, WINDOWS, COUNTS
    tables = ExampleTables(*(store.table(evidence_name(run), file) for file in files))
    return tables.joined(latents)


def by_latent(table: pl.DataFrame) -> dict[int, tuple[Example, ...]]:
    """The examples of every latent in a table of `read_examples` or of a Delphi cache."""
    out: dict[int, list[Example]] = {}
    for row in table.iter_rows(named=True):
        example = Example(
            split=row["split"],
            kind=row["kind"],
            tokens=tuple(row["tokens"]),
            activations=tuple(row["activations"]),
            document=row["document"],
            block=row["block"],
            position=row["position"],
            quantile=row["quantile"],
        )
        out.setdefault(int(row["latent"]), []).append(example)
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
    """
    _check_choice(split, n, quantiles, kinds)
    out: list[Example] = []
    for kind in kinds:
        there = [example for example in examples if (example.split, example.kind) == (split, kind)]
        draw = generator("choose-examples", seed, split, kind)
        if kind == "firing":
            ranked = sorted(there, key=lambda example: -example.strength)
            out += [ranked[i] for i in _stratified(len(ranked), n, quantiles, draw)]
        else:
            out += [there[i] for i in draw.permutation(len(there))[:n]]
    return tuple(out)


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


def check_disjoint(
    first: Iterable[Example],
    second: Iterable[Example],
    uses: tuple[str, str] = (USES["explain"], USES["score"]),
) -> None:
    """Refuse examples for one use that share anything with those for another.

    Any document in common is a leak, whichever of its windows; so are tokens in common where
    documents are not known.

    Args:
        first: e.g. examples that an explainer was or will be shown.
        second: e.g. examples that its explanation is to be scored on.
        uses: of both, for the message.

    Raises:
        SpecError: naming the documents or places.
    """
    first, second = list(first), list(second)
    documents = [{example.document for example in examples} for examples in (first, second)]
    shared = sorted(set.intersection(*documents) - {_NO_DOCUMENT})
    if shared:
        raise SpecError(
            f"{_listed('document', shared)} among the examples {uses[0]} and among those "
            f"{uses[1]}, so the score would reward what was shown before. Take the examples of two "
            "splits (`choose(..., split)`), which never share a document."
        )
    if _NO_DOCUMENT not in set.union(*documents):
        return
    overlaps = np.isin(_tokens(second), _tokens(first))
    if overlaps.any():
        owner = np.repeat(np.arange(len(second)), [len(example.tokens) for example in second])
        leaks = sorted({(second[n].block, second[n].position) for n in owner[overlaps]})
        raise SpecError(
            f"{len(leaks)} examples {uses[1]} have tokens of examples {uses[0]}, the first in "
            f"block {leaks[0][0]} at position {leaks[0][1]}. Take the examples of two splits."
        )


def _tokens(examples: Sequence[Example]) -> NDArray[np.int64]:
    """A number for the place of each token of each window, in their order."""
    places: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    for example in examples:
        # a window was chosen for its first strongest token, or for its first
        strongest = np.argmax(example.activations) if example.activations else 0
        first = (example.block << 32) + example.position - int(strongest)
        places.append(np.arange(first, first + len(example.tokens)))
    return np.concatenate(places)


def _listed(what: str, numbers: Sequence[int]) -> str:
    """E.g. `document 3 is` or `documents 3, 4 and 7 more are`."""
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"{what} {shown} is" if len(numbers) == 1 else f"{what}s {shown}{more} are"


class ExampleSets:
    """The examples of some latents, read once and checked to keep their splits apart.

    Args:
        store: of the study.
        of: latents of its runs.

    Raises:
        SpecError: if a run has no examples of text, or two splits share a document or tokens.
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
            examples = by_latent(table)
            self._of |= {Latent(run=run, latent=n): examples.get(n, ()) for n in wanted}
        self._check_splits()

    def _check_splits(self) -> None:
        """Of all latents together, since a control is laid over the texts of others."""
        every = [example for examples in self._of.values() for example in examples]
        by_split = {split: [e for e in every if e.split == split] for split in USES}
        for first, second in combinations(USES, 2):
            check_disjoint(by_split[first], by_split[second], (USES[first], USES[second]))

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


def latents_in(table: pl.DataFrame) -> list[Latent]:
    """The latents that the columns run and latent name, in their order."""
    return [Latent(run=run, latent=n) for run, n in table.select("run", "latent").iter_rows()]
