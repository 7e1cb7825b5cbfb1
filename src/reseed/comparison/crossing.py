"""SAEs of two subjects: their rows turned into one basis, and what is lost by crossing over.

Needs torch. The map is fitted on one half of the rows and judged on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reseed.comparison.align import Alignment, Sums
from reseed.comparison.dictionary import Dictionary
from reseed.errors import SpecError
from reseed.matching.pairs import Views
from reseed.sae.model import from_arrays
from reseed.subjects.source import BlockSource

_CHUNK = 16


def aligned(
    first: Dictionary,
    other: Dictionary,
    source: BlockSource,
    sites: tuple[str, str],
    blocks: Sequence[int],
) -> tuple[Dictionary, dict[str, Any]]:
    """The other dictionary in the basis of the first, and how well crossing over reconstructs.

    Args:
        first: whose basis is kept.
        other: whose rows are turned.
        source: activations of both on the same tokens.
        sites: of the first and of the other.
        blocks: which; even ones fit the map, odd ones judge it.

    Returns:
        The turned dictionary, and `crossing`: fvu of the map alone (there and back) and of the
        other's activations through the first's SAE, beside the other SAE's own; null where there is
        no SAE to run.

    Raises:
        SpecError: if one is a transcoder, or there are too few rows.
    """
    for one in (first, other):
        if one.dimensions[0] != one.dimensions[1]:
            raise SpecError(f"{one.name} is a transcoder; only SAEs of one site can be turned")
    sums = Sums(other.dimensions[0], first.dimensions[0])
    for x, y in _rows(source, sites, blocks[::2]):
        sums.add(y, x)
    found = sums.alignment()
    views = Views(*(rows.astype(np.float64) @ found.R for rows in other.views))
    turned = replace(other, views=views)
    return turned, _judged(first, other, found, source, sites, blocks[1::2])


def _rows(source: BlockSource, sites: tuple[str, str], blocks: Sequence[int]) -> Any:
    for start in range(0, len(blocks), _CHUNK):
        rows = source.read(list(blocks[start : start + _CHUNK]))
        yield tuple(rows[site].numpy().astype(np.float64) for site in sites)


class _Fvu:
    """Fraction of variance unexplained, summed over parts."""

    def __init__(self) -> None:
        self.error, self.xx, self.x, self.rows = 0.0, 0.0, 0.0, 0

    def add(self, x: NDArray[Any], made: NDArray[Any]) -> None:
        self.error += float(((made - x) ** 2).sum())
        self.xx += float((x**2).sum())
        self.x = self.x + x.sum(0)
        self.rows += len(x)

    def value(self) -> float:
        return self.error / (self.xx - float(np.square(self.x).sum()) / self.rows)


def _judged(
    first: Dictionary,
    other: Dictionary,
    found: Alignment,
    source: BlockSource,
    sites: tuple[str, str],
    blocks: Sequence[int],
) -> dict[str, Any]:
    saes = [None if one.sae is None else from_arrays(one.sae) for one in (first, other)]
    sums = {name: _Fvu() for name in ("map_alone", "through_first", "own")}
    with torch.no_grad():
        for _, y in _rows(source, sites, blocks):
            there = found.to_b(y)
            sums["map_alone"].add(y, found.to_a(there))
            for name, sae, x in (("through_first", saes[0], there), ("own", saes[1], y)):
                if sae is not None:
                    made = sae.reconstruct(x.astype(np.float32)).numpy().astype(np.float64)
                    sums[name].add(y, found.to_a(made) if name == "through_first" else made)
    return {
        "from": other.name,
        "to": first.name,
        "rows": sums["map_alone"].rows,
        "scale": found.scale,
        "fvu": {name: one.value() if one.rows else None for name, one in sums.items()},
    }
