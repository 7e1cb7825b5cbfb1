"""What a score is if there is nothing to find.

Other latents' explanations, and latents that mean nothing: both go through the same scorers as the
real ones and stand beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from reseed.errors import SpecError
from reseed.interpretation.prompts.marking import by_class, check_examples, name_of
from reseed.interpretation.records import Example, Item, Latent
from reseed.seeds import generator

_DRAWS = 50


def shuffled_explanations(
    items: Sequence[Item],
    seed: int = 0,
    rates: Mapping[Latent, float] | None = None,
    group: int = 10,
) -> list[Item]:
    """Each latent with the explanation of another one; examples stay.

    The `of` of a swapped explanation names the latent that it was written for. Score the result as
    if it were real: what is above chance there was never said by the explanation.

    Args:
        items: latents with explanations; those without are left out.
        seed: of the exchange.
        rates: firing rate of each latent; explanations then wander among `group` latents of
            neighbouring rates, so that "fires on most text" does not count as a wrong explanation.
            None: among all.
        group: how many latents of neighbouring rates exchange; at least 2.

    Returns:
        items in the order given. Where explanations of the same words cannot be avoided
        (two latents that say the same) they stay.

    Raises:
        SpecError: with fewer than two explanations, or if a rate is missing.
    """
    known = [item for item in items if item.explanation is not None]
    if len(known) < 2 or group < 2:
        raise SpecError(
            f"{len(known)} explanations in groups of {group}: exchanging them needs two at least"
        )
    order = list(range(len(known)))
    if rates is not None:
        absent = [item.of for item in known if item.of not in rates]
        if absent:
            raise SpecError(f"{name_of(absent[0])} has no firing rate, nor have {len(absent) - 1}")
        order.sort(key=lambda i: (rates[known[i].of], i))
    size = len(known) if rates is None else group
    giver: dict[int, int] = {}
    for number, some in enumerate(_groups(order, size)):
        draw = generator("shuffled-explanations", seed, number, len(known))
        giver |= _exchange(some, known, draw)
    return [replace(item, explanation=known[giver[i]].explanation) for i, item in enumerate(known)]


def _groups(order: Sequence[int], size: int) -> list[list[int]]:
    groups = [list(order[start : start + size]) for start in range(0, len(order), size)]
    if len(groups) > 1 and len(groups[-1]) < 2:
        last = groups.pop()
        groups[-1] += last
    return groups


def _exchange(
    some: Sequence[int], items: Sequence[Item], draw: np.random.Generator
) -> dict[int, int]:
    """Who gets whose: a random cycle, of several the one with the fewest equal texts."""
    best, fewest = dict[int, int](), len(some) + 1
    for _ in range(_DRAWS):
        cycle = [some[int(i)] for i in draw.permutation(len(some))]
        giver = dict(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        same = sum(_text(items[a]) == _text(items[b]) for a, b in giver.items())
        if same < fewest:
            best, fewest = giver, same
        if not fewest:
            break
    return best


def _text(item: Item) -> str:
    return item.explanation.text if item.explanation else ""


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

    Raises:
        SpecError: if the pool is too small or of another split.
    """
    texts = [example for example in pool if example.kind == "random"]
    return [_random_latent(item, texts, seed) for item in items]


def _random_latent(item: Item, pool: Sequence[Example], seed: int) -> Item:
    check_examples(item, {example.split for example in [*item.examples, *pool]})
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
