"""The strongest contexts of each latent: those of a plain twin that sees everything at once."""

import numpy as np
import pytest

from reseed.evidence.display.contexts import Contexts
from reseed.evidence.rows import Fired
from reseed.spec.analysis import EvidenceSpec

L, BLOCKS = 40, 30


class Text:
    length = L

    def positions(self, block):
        return np.flatnonzero(np.random.default_rng(block).random(L) < 0.9)

    def tokens(self, block, first, last):
        return [f"{block}.{at}" for at in range(first, last)]

    def documents(self, block):
        return np.arange(L) // 15 + 3 * block - 1


def activations(latents, seed):
    """[BLOCKS, L, F], with many equals."""
    rng = np.random.default_rng(seed)
    out = (rng.integers(1, 9, (BLOCKS, L, latents)) / 4).astype(np.float32)
    out[rng.random(out.shape) > 0.05] = 0
    for block in range(BLOCKS):
        out[block, np.setdiff1d(np.arange(L), Text().positions(block))] = 0
    return out


def plain(dense, spec):
    """A row for each context, from all activations."""
    text, rows = Text(), []
    for latent in range(dense.shape[2]):
        best = [(-dense[b, :, latent].max(), b) for b in range(BLOCKS)]
        for value, block in sorted(pair for pair in best if pair[0] < 0)[: spec.contexts]:
            line = dense[block, :, latent]
            at = int(line.argmax())
            span = range(max(0, at - spec.before), min(L, at + spec.after + 1))
            kept = text.positions(block)
            around = [float(line[p]) if p in kept else None for p in span]
            document = int(text.documents(block)[at])
            tokens = text.tokens(block, span.start, span.stop)
            rows.append((latent, -float(value), block, at, document, tokens, around))
    return rows


@pytest.mark.parametrize("size", [1, 7, BLOCKS])
@pytest.mark.parametrize(
    ("latents", "spec"), [(1, (1, 20, 8)), (12, (6, 3, 2)), (7, (4, 0, 0)), (5, (40, 9, 60))]
)
def test_contexts_are_those_of_the_plain_way_in_any_chunks(latents, spec, size):
    settings = EvidenceSpec(**dict(zip(("contexts", "before", "after"), spec, strict=True)))
    dense, found = activations(latents, 3), Contexts(latents, Text(), settings)
    for first in range(0, BLOCKS, size):
        part = dense[first : first + size]
        place, position, latent = np.nonzero(part)
        found.add(
            Fired(place, position, latent, part[place, position, latent]),
            np.arange(first, first + len(part)),
        )
    assert found.table().rows() == plain(dense, settings)


def test_without_text_there_are_none():
    for found in (Contexts(3, None, EvidenceSpec()), Contexts(3, Text(), EvidenceSpec(contexts=0))):
        none = np.zeros(0, np.int64)
        found.add(Fired(none, none, none, none.astype(np.float32)), np.arange(2))
        assert found.table().is_empty()
        assert found.table().width == 7
