"""What firing, contexts, examples and co-firing of all runs cost beside encoding their rows.

    python -m benchmarks.evidence --latents 16384 --runs 4 --blocks 128

Made-up TopK SAEs whose latents are the same directions in another order, on rows that are sparse
sums of these; everything goes through what a study's stage uses, chunk by chunk. Times are
processor seconds of this process, so that other work on the machine counts little; the bare encode
is that of the same pass. With --relu also what a screened ReLU SAE costs beside its product.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks.bars import told
from reseed.evidence.display.contexts import Contexts
from reseed.evidence.frequency import MatchedFiring
from reseed.evidence.rows import Encoded, Firing, KeptCodes, Reader, entries_of
from reseed.evidence.sampler import WindowSampler, nearest_decoders
from reseed.evidence.tables import tables_of
from reseed.evidence.windows import cut
from reseed.matching.match import match
from reseed.sae.codes import apply, codes_of
from reseed.sae.model import SAE
from reseed.spec.analysis import EvidenceSpec
from reseed.subjects.source import CHUNK, Chunk

T = TypeVar("T")


class Text:
    """Documents of a hundred tokens."""

    length = 256

    def positions(self, block: int) -> np.ndarray[Any, Any]:
        """All of them."""
        return np.arange(self.length)

    def tokens(self, block: int, first: int, last: int) -> list[str]:
        """Any."""
        return [" token"] * (last - first)

    def documents(self, block: int) -> np.ndarray[Any, Any]:
        """Three in a block."""
        return 3 * block + np.arange(self.length) // 100


class Clock:
    """Adds up processor seconds by name."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        """Do a piece of work."""
        before = time.process_time()
        out = work()
        self.seconds[name] += time.process_time() - before
        return out


def chunks(true: torch.Tensor, k: int, blocks: int) -> list[Chunk]:
    """Rows that are sums of k of the true directions, rarer ones further down."""
    draw = torch.Generator().manual_seed(0)
    popular = torch.arange(1, len(true) + 1).float().pow(-0.7)
    out: list[Chunk] = []
    for first in range(0, blocks, CHUNK):
        numbers = np.arange(first, min(blocks, first + CHUNK))
        rows = len(numbers) * Text.length
        which = torch.multinomial(popular, rows * k, replacement=True, generator=draw)
        x = torch.nn.functional.embedding_bag(
            which.view(rows, k), true, mode="sum",
            per_sample_weights=0.5 + torch.rand(rows, k, generator=draw),
        )  # fmt: skip
        out.append(Chunk(numbers, first, np.full(len(numbers), Text.length), {"site": x}))
    return out


def measure(latents: int, dimensions: int, k: int, runs: int, blocks: int) -> dict[str, float]:
    """Processor seconds of each part."""
    seeds = [torch.Generator().manual_seed(seed) for seed in range(runs + 1)]
    normal = [torch.randn(latents, dimensions, generator=seed) for seed in seeds]
    true = torch.nn.functional.normalize(normal[-1], dim=1)
    orders = [torch.randperm(latents, generator=seed) for seed in seeds[:-1]]
    readers: dict[str, Reader] = {}
    for run, (order, noise) in enumerate(zip(orders, normal, strict=False)):
        rows = torch.nn.functional.normalize(true[order] + 0.002 * noise, dim=1)
        zeros = torch.zeros(latents), torch.zeros(dimensions)
        readers[str(run)] = Reader(SAE(rows, rows, *zeros, {"kind": "topk", "k": k}), "site")
    text, spec, clock, parts = Text(), EvidenceSpec(), Clock(), chunks(true, k, blocks)
    kept = KeptCodes(list(readers))
    warm = next(iter(readers.values())).sae
    warm.encode_sparse(parts[0].rows["site"][:64])

    firing = {name: Firing(latents) for name in readers}
    contexts = {name: Contexts(latents, text, spec) for name in readers}
    near = {
        name: clock("neighbours", lambda r=reader: nearest_decoders(r.sae.W_dec, spec.neighbours))
        for name, reader in readers.items()
    }
    examples = {name: WindowSampler(latents, spec, near[name]) for name in readers}
    for part in parts:
        chunk = Encoded(part, readers)
        windows = clock("examples", lambda c=part: cut(text, c.blocks, spec.window, spec.seed))
        for name in readers:
            codes = clock("encode", lambda c=chunk, n=name: c.codes(n))
            made = clock("firing", lambda c=chunk, n=name: c.rebuilt(n))
            clock(
                "firing",
                lambda f=firing[name], p=part, c=codes, m=made: f.add(p.rows["site"], c, m),
            )
            fired = clock(
                "contexts", lambda c=codes, p=part: entries_of(c, p.blocks, text.positions)
            )
            clock("contexts", lambda t=contexts[name], f=fired, p=part: t.add(f, p.blocks))
            clock("examples", lambda e=examples[name], w=windows, f=fired: e.add(w, f))
        clock("co-firing", lambda c=chunk: kept.take(c))
    clock("contexts", lambda: [found.table() for found in contexts.values()])
    clock("tables of examples", lambda: [len(tables_of(e, text)) for e in examples.values()])
    often = {name: found.table()["fired"].to_numpy() for name, found in firing.items()}
    back = [torch.argsort(order) for order in orders]
    counters: dict[tuple[str, str], MatchedFiring] = {}
    for a, b in combinations(range(runs), 2):
        pairs = np.stack([np.arange(latents), back[b][orders[a]].numpy()], axis=1)
        rows = readers[str(a)].sae.W_dec.numpy(), readers[str(b)].sae.W_dec.numpy()
        counters[str(a), str(b)] = clock(
            "co-firing",
            lambda p=pairs, a=str(a), b=str(b), r=rows: MatchedFiring(
                p, often[a], often[b], a, b, rows=r
            ),
        )

    def count() -> None:
        for sparse in kept.of(list(readers)):
            for (a, b), counter in counters.items():
                counter.add(sparse[a], sparse[b])
        for counter in counters.values():
            counter.table()

    clock("co-firing", count)
    if runs > 1:
        first, second = (readers[str(run)].sae.W_dec.numpy() for run in (0, 1))
        clock("one match", lambda: match(first, second))
    return dict(clock.seconds)


def relu(latents: int, dimensions: int, l0: int, rounds: int) -> dict[str, float]:
    """Medians of the ratios of both ways to encode by ReLU to the product alone."""
    draw = torch.Generator().manual_seed(0)
    W = torch.nn.functional.normalize(torch.randn(latents, dimensions, generator=draw), dim=1)
    x = torch.randn(2048, dimensions, generator=draw)
    some = (x[:64] @ W.T).flatten()
    bias = -float(some.kthvalue(len(some) - 64 * l0).values)
    sae = SAE(W, W, torch.full((latents,), bias), torch.zeros(dimensions), {"kind": "relu"})
    out = torch.empty(len(x), latents)
    ways: dict[str, Callable[[], object]] = {
        "product": lambda: torch.mm(x, W.T, out=out),
        "dense": lambda: codes_of(apply(sae.pre_activations(x), sae.activation, None)),
        "screened": lambda: sae.encode_sparse(x),
    }
    ratios: dict[str, list[float]] = {"dense": [], "screened": []}
    for number in range(rounds + 1):
        clock = Clock()
        for name, way in ways.items():
            clock(name, way)
        if number:  # the first compiles
            for name, each in ratios.items():
                each.append(clock.seconds[name] / clock.seconds["product"])
    return {name: statistics.median(each) for name, each in ratios.items()}


def main() -> None:
    """Print a table and, in the last line, JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--relu", type=int, default=0, help="rounds; 0 for none")
    given = vars(parser.parse_args())
    rounds = given.pop("relu")
    if rounds:
        ratios = relu(given["latents"], given["dimensions"], given["k"], rounds)
        print(", ".join(f"ReLU, {name}: {ratio:.2f} products" for name, ratio in ratios.items()))
    measure(256, 64, 4, 2, 4)  # compiles
    seconds = measure(**given)
    for name, spent in seconds.items():
        print(f"{name:<18} {spent:8.2f} s {spent / seconds['encode']:6.2f} x encode")
    tables = seconds["tables of examples"] / seconds["encode"]
    every = sum(spent for name, spent in seconds.items() if name != "one match")
    every = every / seconds["encode"] - tables
    print(f"with the tables of examples: {every + tables:.2f} times the bare encode")
    bars = {128: "evidence", 512: "evidence long"}
    if given | {"blocks": 128} == SIZES and given["blocks"] in bars:
        told(bars[given["blocks"]], every)
    print(json.dumps(seconds))


SIZES = {"latents": 16384, "dimensions": 576, "k": 32, "runs": 4, "blocks": 128}

if __name__ == "__main__":
    main()
