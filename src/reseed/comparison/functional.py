"""How SAEs behave on activations: which latents fire, and what is reconstructed. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.comparison.dictionary import Dictionary
from reseed.errors import SpecError
from reseed.events import Events
from reseed.evidence.rows import Encoded, Reader, feed, firing_of
from reseed.matching.firing.chosen import ChosenPairs
from reseed.sae.model import from_arrays
from reseed.subjects.source import BlockSource

CHUNK = 16
"""Blocks that are read together; sums depend on it in their last bits."""

_MOSTLY = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class OnActivations:
    """An SAE on activations."""

    firing: pl.DataFrame
    """latent, fired, rate, mean_act, max_act"""
    reconstruction: Mapping[str, Any]
    """rows, fvu, l0"""

    @property
    def live(self) -> NDArray[np.bool_]:
        """[F] fired at least once."""
        return (self.firing["fired"] > 0).to_numpy()


def run_on(
    given: Sequence[Dictionary],
    source: BlockSource,
    sites: Mapping[str, str],
    blocks: Sequence[int],
    events: Events,
) -> dict[str, OnActivations]:
    """Encode and reconstruct rows with each SAE, in one pass.

    Args:
        given: SAEs; bare matrices are left out, they cannot be run.
        source: of the activations.
        sites: name of an SAE to the site that it reads.
        blocks: which.
        events: progress.

    Raises:
        SpecError: if a site has other dimensions than its SAE reads.
    """
    saes = {one.name: from_arrays(one.sae) for one in given if one.sae is not None}
    for name, sae in saes.items():
        if source.sites[sites[name]] != sae.dimensions:
            raise SpecError(
                f"{name} reads {sae.dimensions} dimensions, the activations {sites[name]!r} have "
                f"{source.sites[sites[name]]}; are they of this SAE's site?"
            )
    readers = {name: Reader(sae, sites[name]) for name, sae in saes.items()}
    firing = firing_of(readers, source, blocks, events, "activations", unit="rows", size=CHUNK)
    return {
        name: OnActivations(firing=one.table(), reconstruction=_finite(one.reconstruction()))
        for name, one in firing.items()
    }


def fire_together(
    given: Sequence[Dictionary],
    source: BlockSource,
    sites: Mapping[str, str],
    blocks: Sequence[int],
    pairs: Mapping[tuple[str, str], NDArray[np.int64]],
    events: Events,
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Correlation of the activations of matched latents, in one more pass.

    Args:
        given: SAEs; pairs with bare matrices are left out.
        source: of the activations.
        sites: name of an SAE to the site that it reads.
        blocks: which.
        pairs: names of two SAEs to their matched latents, `[E, 2]`.
        events: progress.

    Returns:
        `[E]` for each pair.
    """
    saes = {one.name: from_arrays(one.sae) for one in given if one.sae is not None}
    counters = {
        pair: ChosenPairs(
            matched[:, 0], matched[:, 1], (saes[pair[0]].latents, saes[pair[1]].latents)
        )
        for pair, matched in pairs.items()
        if all(name in saes for name in pair)
    }

    def add(chunk: Encoded) -> None:
        for (a, b), counter in counters.items():
            counter.add_entries(*chunk.codes(a), *chunk.codes(b))

    readers = {name: Reader(sae, sites[name]) for name, sae in saes.items()}
    feed([add], readers, source, blocks, events, "co-firing", unit="rows", size=CHUNK)
    return {pair: counter.values("correlation") for pair, counter in counters.items()}


def warnings(found: Mapping[str, OnActivations]) -> list[str]:
    """What the activations say against the comparison."""
    out: list[str] = []
    for name, one in found.items():
        dead = 1 - float(one.live.mean())
        fvu = one.reconstruction["fvu"]
        if dead > _MOSTLY:
            out.append(
                f"{name}: {dead:.0%} of the latents did not fire on "
                f"{one.reconstruction['rows']:,} rows; read the shares on live latents, dead ones "
                "keep where they started."
            )
        if fvu is not None and fvu > 1:
            out.append(
                f"{name}: reconstructs these activations worse than their mean does (FVU "
                f"{fvu:.3g}); is it the right site, layer and scaling?"
            )
    return out


def _finite(found: Mapping[str, float | int]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in found.items()}
