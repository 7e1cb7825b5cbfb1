"""Activations with the structure taken out in place of the real ones (null N5); random weights.

D dimensions of a site.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reseed.errors import SpecError
from reseed.events import Events
from reseed.seeds import digest, generator
from reseed.spec.training import Control
from reseed.store import Store, safetensors_bytes
from reseed.subjects.source import BlockSource, Chunk, DerivedSource, one_after_other, read_over

_FILE = "moments.safetensors"


class Moments(NamedTuple):
    """Mean and covariance of the activations at a site."""

    mean: Tensor
    """float32 `[D]`"""
    root: Tensor
    """float32 `[D, D]`, symmetric; its square is the covariance"""
    rows: NDArray[np.int64]
    """`[blocks]` rows of each block of the real activations"""


def moments_name(site: str) -> str:
    """Name of the piece with the moments of a site."""
    return f"controls/moments-{digest(site, 8)}"


def estimate_moments(
    source: BlockSource,
    blocks: NDArray[np.int64],
    store: Store,
    made_from: Mapping[str, str],
    events: Events,
) -> None:
    """Write the mean and covariance of every site over training blocks, if they are not there yet.

    One pass, with sums in float64.
    """
    if all(store.has(moments_name(site), made) for site, made in made_from.items()):
        return
    sums = {s: torch.zeros(d, dtype=torch.float64) for s, d in source.sites.items()}
    squares = {s: torch.zeros(d, d, dtype=torch.float64) for s, d in source.sites.items()}

    def add(chunk: Chunk) -> None:
        for site, x in chunk.rows.items():
            exact = x.double()
            sums[site] += exact.sum(0)
            squares[site] += exact.T @ exact

    read_over(source, blocks, add, events, "moments")
    count = int(source.rows[blocks].sum())
    for site in source.sites:
        mean = sums[site] / count
        covariance = squares[site] / count - torch.outer(mean, mean)
        arrays = {
            "mean": mean.float().numpy(),
            "root": _root(covariance).float().numpy(),
            "rows": np.asarray(source.rows, dtype=np.int64),
        }
        with store.piece(moments_name(site), made_from[site]) as folder:
            (folder / _FILE).write_bytes(safetensors_bytes(arrays))


def read_moments(store: Store, site: str) -> Moments:
    """What `estimate_moments` wrote."""
    arrays = store.tensors(moments_name(site), _FILE)
    mean, root = (torch.from_numpy(arrays[name]) for name in ("mean", "root"))
    return Moments(mean, root, arrays["rows"])


def _root(covariance: Tensor) -> Tensor:
    """The symmetric root; what rounding made negative counts as 0."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T


def made_up(
    control: Control,
    source: BlockSource,
    training: NDArray[np.int64],
    store: Store,
    data: Any,
    events: Events,
) -> BlockSource:
    """The rows of a control that is made of the subject's own: shuffled, or Gaussian.

    Args:
        control: "shuffled", or one whose rows are Gaussian.
        source: the subject's activations.
        training: blocks whose moments the Gaussian rows have.
        store: where the moments lie.
        data: JSON value of what the activations depend on.
        events: progress.
    """
    if control == "shuffled":
        return shuffled(source)
    made_from = {site: digest([data, site]) for site in source.sites}
    estimate_moments(source, training, store, made_from, events)
    return GaussianSource({site: read_moments(store, site) for site in source.sites})


class GaussianSource:
    """Gaussian rows with the moments of real ones; implements `BlockSource`.

    The rows of a block depend on nothing but its number and the site, so there are as many
    different rows as real ones, held-out blocks hold rows that no run has seen, and an epoch brings
    the same rows again.
    """

    def __init__(self, moments: Mapping[str, Moments]) -> None:
        self._moments = dict(moments)
        self.sites: Mapping[str, int] = {site: len(m.mean) for site, m in moments.items()}
        self.rows: NDArray[np.int64] = next(iter(moments.values())).rows

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks; see `BlockSource.read`."""
        parts = ({site: self._draw(site, int(block)) for site in self.sites} for block in blocks)
        return one_after_other(self.sites, parts)

    def _draw(self, site: str, block: int) -> Tensor:
        moments, size = self._moments[site], (int(self.rows[block]), self.sites[site])
        numbers = generator("gaussian-rows", site, block).standard_normal(size, dtype=np.float32)
        return torch.addmm(moments.mean, torch.from_numpy(numbers), moments.root)


def shuffled(source: BlockSource) -> BlockSource:
    """A source's rows with every dimension permuted by itself.

    Each dimension keeps all its values; which of them meet in a row is random. The permutation is
    over all rows that are read together (the `mix_blocks` of a stream, so that no document stays
    together) and depends on nothing but the site and those blocks.
    """

    def mixed(x: Tensor, site: str, blocks: list[int]) -> Tensor:
        # a dimension at a time lies together in memory, which is several times as fast
        columns = np.ascontiguousarray(x.numpy().T)
        permuted = generator("shuffled-rows", site, *blocks).permuted(columns, axis=1)
        return torch.from_numpy(np.ascontiguousarray(permuted.T))

    return DerivedSource(
        source, lambda rows, blocks: {site: mixed(x, site, blocks) for site, x in rows.items()}
    )


@contextmanager
def seeded(seed: int, devices: Sequence[torch.device] = ()) -> Generator[None, None, None]:
    """Torch (and these cards) draws from this seed inside the block, and then as before."""
    number = int(generator("random-weights", seed).integers(2**62))
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(number)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield


def randomise(module: nn.Module, seed: int) -> None:
    """Give every weight of a module a new random value, in place.

    Each submodule is reset by its `reset_parameters` (some of torch's own call it
    `_reset_parameters`), children before their parents, which so have the last word.
    """
    for path, part in module.named_modules():
        own = [name for name, _ in part.named_parameters(recurse=False)]
        if own and _reset(part) is None:
            where = f"{path or 'the module itself'} ({type(part).__name__})"
            raise SpecError(
                f"random weights: {where} has the weights {', '.join(own)} and no method "
                "reset_parameters(), so it is not known how they start. Give its class one, or do "
                "without random weights."
            )
    cards = {p.device for p in module.parameters() if p.device.type == "cuda"}
    with seeded(seed, sorted(cards, key=str)), torch.no_grad():
        for part in reversed(list(module.modules())):
            reset = _reset(part)
            if reset is not None:
                reset()


def _reset(part: nn.Module) -> Callable[[], None] | None:
    for name in ("reset_parameters", "_reset_parameters"):
        method: Any = getattr(part, name, None)
        if callable(method):
            return cast(Callable[[], None], method)
    return None
