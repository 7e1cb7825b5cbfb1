"""What a score is if there is nothing to find.

Other latents' explanations, and latents that mean nothing: both go through the same scorers as the
real ones and stand beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from reseed.errors import SpecError
from reseed.interpretation.prompts.windows import by_class, check_examples, name_of
from reseed.interpretation.records import Example, Item, Latent, Split
from reseed.seeds import generator
from reseed.spec.interpretation import InterpretationSpec

_DRAWS = 50


def shuffled_explanations(items: Sequence[Item], seed: int = 0) -> list[Item]:
    """Each latent with the explanation of another one; examples stay.

    The `of` of a swapped explanation names the latent that it was written for. Score the result as
    if it were real: what is above chance there was never said by the explanation.

    Args:
        items: latents with explanations; those without are left out.
        seed: of the exchange.

    Returns:
        items in the order given. Where explanations of the same words cannot be avoided
        (two latents that say the same) they stay.

    Raises:
        SpecError: with fewer than two explanations.
    """
    said_of = {i: item.explanation for i, item in enumerate(items) if item.explanation is not None}
    known = list(said_of)
    if len(known) < 2:
        raise SpecError(f"{len(known)} explanations: exchanging them needs two at least")
    draw = generator("shuffled-explanations", seed, 0, len(known))
    best, fewest = dict[int, int](), len(known) + 1
    # who gets whose: a random cycle, of several the one with the fewest equal texts
    for _ in range(_DRAWS):
        cycle = [known[int(i)] for i in draw.permutation(len(known))]
        giver = dict(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        same = sum(said_of[a].text == said_of[b].text for a, b in giver.items())
        if same < fewest:
            best, fewest = giver, same
        if not fewest:
            break
    return [replace(items[i], explanation=said_of[best[i]]) for i in known]


def random_latents(items: Sequence[Item], pool: Sequence[Example], seed: int = 0) -> list[Item]:
    """Latents that mean nothing: the firing patterns of real ones laid over other texts.

    To be explained and scored as the real ones are; call it once for the examples to explain from
    and once for those to score on, with one seed. What such latents score above chance comes from
    the way examples are drawn and shown, not from their text.

    Args:
        items: real latents with examples of one split.
        pool: texts to lay patterns over, of the same split: those in which none of the latents is
            known to fire, e.g. all examples of the kind `random`.
        seed: of the draw.

    Returns:
        for each item one under the run `random:RUN`, without explanation: as many firing windows,
        each with the activations of a real one over the tokens of a text from the pool; then the
        silent ones as they were. No text of the pool is used twice in one item, and none that is
        among its silent ones.
    """
    texts = [example for example in pool if example.kind == "random"]
    return [_random_latent(item, texts, seed) for item in items]


def _random_latent(item: Item, pool: Sequence[Example], seed: int) -> Item:
    check_examples(item, pool)
    firing, silent = by_class(item.examples)
    taken = {(example.block, example.position) for example in silent}
    free = [example for example in pool if (example.block, example.position) not in taken]
    if len(free) < len(firing):
        raise SpecError(
            f"{name_of(item.of)}: a random latent with {len(firing)} firing windows needs as many "
            f"texts, but the pool has {len(free)} beside its silent ones. Give it a larger pool."
        )
    draw = generator("random-latent", seed, item.of.run, item.of.latent)
    hosts = [free[int(i)] for i in draw.choice(len(free), len(firing), replace=False)]
    made = [_laid_over(model, host) for model, host in zip(firing, hosts, strict=True)]
    of = Latent(run=f"random:{item.of.run}", latent=item.of.latent)
    return Item(of=of, explanation=None, examples=(*made, *silent))


def _laid_over(model: Example, host: Example) -> Example:
    """The text of `host` with the activations of `model`, cut or filled with zeros at the end."""
    values = (*model.activations, *[0.0] * len(host.tokens))[: len(host.tokens)]
    if not any(values):
        # the host is shorter than the place at which the model fires
        values = (*values[:-1], model.strength)
    return replace(host, kind="firing", activations=values, quantile=model.quantile)


def random_items(items: Sequence[Item], split: Split, spec: InterpretationSpec) -> list[Item]:
    """Latents that mean nothing, made like some of these."""
    every = max(1, -(-len(items) // spec.random_latents))
    some = [item for item in items[::every] if item.examples]
    if split == "explain":
        # what is explained has no silent windows; the texts come from where latents fire too
        return [_laid_elsewhere(item, items, spec.seed) for item in some]
    pool = [example for item in items for example in item.examples if example.kind == "random"]
    return random_latents(some, pool, spec.seed)


def _laid_elsewhere(item: Item, items: Sequence[Item], seed: int) -> Item:
    """The firing patterns of a latent over windows of the other latents."""
    texts = {
        (example.block, example.position): replace(
            example, kind="random", activations=(0.0,) * len(example.tokens), quantile=None
        )
        for other in items
        if other.of != item.of
        for example in other.examples
    }
    few = item.examples[: len(texts)]
    return random_latents([replace(item, examples=few)], list(texts.values()), seed)[0]


def wrong_marks(
    item: Item,
    hosts: Sequence[Example],
    patterns: Sequence[Sequence[int]],
    how: Literal["random", "copied"],
) -> list[list[int]]:
    """Places to mark wrongly in each host, none of which fires; empty if there is no such place.

    Args:
        item: whose latent it is.
        hosts: windows in which tokens are marked.
        patterns: of each window that fires, the places marked there.
        how: see `FuzzingSpec.marks`.
    """
    count = math.ceil(np.mean([len(pattern) for pattern in patterns]))
    draw = generator("wrong-marks", item.of.run, item.of.latent)
    out: list[list[int]] = []
    for example in hosts:
        free = [i for i, value in enumerate(example.activations) if value == 0]
        kept, wanted = list[int](), count
        if how == "copied":
            pattern = patterns[int(draw.integers(len(patterns)))]
            kept = [i for i in pattern if i in free]
            wanted = len(pattern) - len(kept)
        rest = [i for i in free if i not in kept]
        more = draw.choice(len(rest), min(wanted, len(rest)), replace=False) if rest else []
        out.append(sorted(kept + [rest[int(i)] for i in more]))
    return out
