"""What models are shown of latents: chosen examples, and latents that mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from reseed.errors import SpecError
from reseed.interpretation import examples
from reseed.interpretation.controls import random_latents
from reseed.interpretation.records import Example, Item, Kind, Latent, Split
from reseed.interpretation.spec import InterpretationSpec
from reseed.store import Store


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
            table = examples.read_examples(store, run, wanted)
            if not len(table):
                raise SpecError(
                    f"run {run} has no examples of text to explain from: its subject reads none, "
                    "or evidence.examples is 0. Of the toy evidence.toy_text makes text."
                )
            found = examples.by_latent(table)
            self._of |= {Latent(run=run, latent=n): found.get(n, ()) for n in wanted}

    def __contains__(self, latent: object) -> bool:
        return latent in self._of

    def to_explain(self, latent: Latent, spec: InterpretationSpec) -> Item:
        """Firing windows of documents that no score will see."""
        shown = examples.choose(self._of[latent], "explain", spec.explain.examples, seed=spec.seed)
        return Item(of=latent, explanation=None, examples=shown)

    def to_score(self, latent: Latent, split: Split, spec: InterpretationSpec) -> Item:
        """Firing windows and as many silent ones, half of them hard if there are enough."""
        own_examples = self._of[latent]

        def some(kind: Kind, n: int) -> tuple[Example, ...]:
            return examples.choose(own_examples, split, n, seed=spec.seed, kinds=(kind,))

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
