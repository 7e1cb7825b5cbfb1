"""What a piece of each stage takes on this machine, measured on random arrays of the real sizes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.matching.assignment import DENSE_BELOW
from reseed.matching.beyond.structure import Settings, Side, structure
from reseed.matching.match import Views, compare
from reseed.pipeline.power import trials_of
from reseed.pipeline.progress import names_of
from reseed.seeds import generator
from reseed.stability.decoys import decoys_of, reached
from reseed.stability.factors.across import PARTNERS
from reseed.stability.nulls import CovarianceNull
from reseed.stability.structure import decoder_null, null_decoders
from reseed.study import Study

if TYPE_CHECKING:
    from reseed.sae import Tensor
    from reseed.sae.architecture import Batch
    from reseed.spec.training import RunSpec
    from reseed.subjects.source import BlockSource
    from reseed.training.learner import Learner

_PROBE, _EXPLAINED = 1024, 512
"""Latents at the most in dictionaries that are matched, and explained, to see what it takes."""

_FITS = 20.0
"""Time of looking through all latents for what explains one, in bare products of their size: three
rounds for both sides and as many for their null, with what is done to the products."""

_PRODUCTS = 2.2
"""Time of a match without the matrix, in bare products of its size (docs/matching.md)."""

_POWER = 2.5
"""Of the latents, by which a dense match grows: products by 2, assignments by up to 3."""

_SECONDS_A_GROUP = 1.0
"""Of its curves, families and posterior."""


class PairSeconds(NamedTuple):
    """Of two dictionaries of one size."""

    match: float
    """both assignments and the table"""
    structure: float
    """what becomes of what is left over, with decoys and nulls of its own"""
    prepare: float
    """the null of one dictionary, once"""
    decoys: float
    """what stands in for the latents of one dictionary reaches at best, once"""
    draw: float
    """two random dictionaries drawn and matched"""


def pair_seconds(latents: int, dimensions: int) -> PairSeconds:
    """What is made of each pair of runs with so many latents; each thing is done once."""
    warm_up()
    probe = min(latents, _PROBE)
    a, b, c, d = (_rows(name, probe, dimensions) for name in "abcd")
    started = time.perf_counter()
    null = CovarianceNull(Views(a, b))
    prepare = time.perf_counter() - started
    # decoys are capped, and each has all latents as candidates
    best = decoys_of(latents) / decoys_of(probe) * latents / probe
    product = timed(lambda: a @ c.T) * (latents / probe) ** 2
    if latents**2 <= DENSE_BELOW:
        match = timed_once(lambda: compare(Views(a, b), Views(c, d)))
        match *= (latents / probe) ** _POWER
    else:
        match = 2 * _PRODUCTS * product
    best *= timed_once(lambda: reached(null, [null], "a"))
    few = min(latents, _EXPLAINED)
    return PairSeconds(
        match=match,
        # fewer decoys of both, of decoder rows alone; all else about a latent grows with their
        # number; measured at 2,048 and 4,096
        structure=best * decoys_of(latents, each=0) / decoys_of(latents)
        + _explain_seconds(few, dimensions) * latents / few
        + _FITS * product,
        prepare=prepare,
        decoys=best,
        draw=match + 2 * timed_once(lambda: null.draw("plan")) * latents / probe,
    )


@lru_cache(maxsize=16)
def _explain_seconds(latents: int, dimensions: int) -> float:
    """What becomes of what is left over, for several widths that are tried at the same one."""
    a, c = (_rows(name, latents, dimensions) for name in "ac")
    settings, left = Settings(), np.full(latents, -1, dtype=np.int64)
    nulls, *others = null_decoders(("a", "c"), decoder_null(a), decoder_null(c), settings.tau)
    return timed_once(
        lambda: structure(Side(a, left), Side(c, left), nulls, settings, others=others)
    )


@lru_cache(maxsize=1)
def warm_up() -> None:
    """Do everything of a pair on a few latents, so that compiling is in no measurement."""
    a, b = (_rows(name, 24, 16) for name in "ab")
    compare(Views(a, b), Views(b, a))
    null = CovarianceNull(Views(a, b))
    reached(null, [null], "a")
    _explain_seconds(24, 16)
    _explain_seconds.cache_clear()


def seconds_of_pairs(study: Study, sites: dict[str, int]) -> dict[str, float]:
    """Stage to the seconds of all its pieces, there or not; each size of SAE is measured once."""
    sizes = {run.spec.group: (run.spec.sae.latents, sites[run.spec.site]) for run in study.runs}
    measured = {size: pair_seconds(*size) for size in dict.fromkeys(sizes.values())}
    groups = [measured[size] for size in sizes.values()]
    init, data = len(study.spec.seeds.init), len(study.spec.seeds.data)
    runs, draws = init * data, study.spec.stability.null_draws
    pairs, independent = runs * (runs - 1) // 2, runs * trials_of(init, data) // 2
    snapshots = len(study.spec.training.snapshot_steps)
    across = len(names_of(study).get("across", ())) * runs * min(PARTNERS, trials_of(init, 1))
    widest = max((seconds.draw for seconds in groups), default=0.0)
    return {
        "match": sum(pairs * snapshots * seconds.match for seconds in groups),
        "structure": sum(pairs * seconds.structure for seconds in groups),
        "stability": sum(
            _SECONDS_A_GROUP
            + seconds.match
            + runs * (seconds.prepare + seconds.decoys)
            + min(runs, independent) * draws * seconds.draw
            for seconds in groups
        ),
        "across": 2 * across * widest,  # a pair is matched, and so is one draw of its null
    }


def _rows(name: str, latents: int, dimensions: int) -> NDArray[np.float32]:
    rows = generator("plan", name).standard_normal((latents, dimensions)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def step_seconds(runs: Sequence[RunSpec], sites: dict[str, int]) -> float:
    """Of one step of all these runs; each kind of SAE is timed once for each size of site."""
    total = 0.0
    for learner, x, alike in _learners(runs, sites, runs[0].training.batch):
        total += alike * timed(lambda learner=learner, x=x: learner.update(x), times=3)
    return total


def encode_seconds(runs: Sequence[RunSpec], sites: dict[str, int]) -> float:
    """Of one row by all these runs, codes and reconstruction; timed as `step_seconds` are."""
    from reseed.sae.model import from_arrays

    rows, total = 1024, 0.0
    for learner, x, alike in _learners(runs, sites, rows):
        sae = from_arrays(learner.sae().arrays())
        total += alike * timed(lambda sae=sae, x=x: sae.reconstruct(x)) / rows
    return total


def _learners(
    runs: Sequence[RunSpec], sites: dict[str, int], batch: int
) -> Iterator[tuple[Learner, Tensor, int]]:
    """A learner of each kind of SAE and size of site, rows for it, and how many runs are so."""
    import torch

    from reseed.spec.training import RunSpec, TrainingSpec
    from reseed.training.learner import Learner

    training = TrainingSpec(tokens=100 * batch, batch=batch)
    for (sae, dimensions), alike in Counter((run.sae, sites[run.site]) for run in runs).items():
        x = torch.from_numpy(generator("plan", "x").normal(size=(batch, dimensions))).float()
        spec = RunSpec(data="", site="probe", sae=sae, training=training, init_seed=0, data_seed=0)
        yield Learner(spec, x, batches=_Random(batch, dimensions, sae.latents)), x, alike


class _Random:
    """Batches for architectures that read several at the start; as few as they can do with."""

    def __init__(self, batch: int, dimensions: int, latents: int) -> None:
        self._shape, self._most = (batch, dimensions), latents + batch

    def first(self, rows: int) -> Iterator[Batch]:
        import torch

        from reseed.sae.architecture import Batch

        numbers = generator("plan", "batches")
        for _ in range(-(-min(rows, self._most) // self._shape[0])):
            x = torch.from_numpy(numbers.normal(size=self._shape)).float()
            yield Batch(x, x)

    last = first


def timed_once(work: Callable[[], object]) -> float:
    """Seconds of a call that needs no other to warm it up."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class ReadRows(NamedTuple):
    """What a few blocks of a subject say."""

    seconds: float
    """of one row through the subject"""
    rows: int
    gamma: Mapping[str, float]
    """site to |mean| / |std| of these rows (arXiv 2605.31518)"""


NOTHING_READ = ReadRows(seconds=0.0, rows=0, gamma={})


def read_rows(source: BlockSource, blocks: int) -> ReadRows:
    """Read the first of so many blocks to warm up, then a few of them once."""
    chosen, gamma = list(range(min(8, blocks))), dict[str, float]()
    source.read(chosen[:1])
    started = time.perf_counter()
    read = source.read(chosen)
    seconds = time.perf_counter() - started
    for site, x in read.items():
        variance, mean = x.double().var(0, correction=0).sum(), x.double().mean(0)
        if float(variance) > 0:
            gamma[site] = float(mean.norm() / variance.sqrt())
    rows = int(source.rows[chosen].sum())
    return ReadRows(seconds=seconds / max(rows, 1), rows=rows, gamma=gamma)


def timed(work: Callable[[], object], times: int = 2) -> float:
    """Seconds of a call: the fastest of several after one that warms up."""
    work()
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best
