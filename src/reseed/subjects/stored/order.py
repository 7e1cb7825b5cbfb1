"""Whether stored rows are in the order they were made in, or shuffled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from reseed.seeds import generator
from reseed.subjects.source import BlockSource

_BLOCKS = 8
_ROWS = 512
_Z = 3.0


class Neighbours(NamedTuple):
    """How alike neighbouring rows of a site are."""

    pairs: int
    near: float
    """mean cosine of neighbouring rows, the mean of all that were read subtracted"""
    far: float
    """the same of as many pairs from different blocks"""
    error: float
    """standard error of their difference"""

    @property
    def shuffled(self) -> bool:
        """Whether neighbours are no more alike than any two rows."""
        return self.near - self.far < _Z * self.error


def neighbours(source: BlockSource) -> dict[str, Neighbours]:
    """Compare neighbouring rows of up to 8 blocks with rows of different blocks, site by site.

    Rows of a text, a picture or a recording are like those beside them. Where they are not, they
    were shuffled, or are single samples. Sites that have a single block are left out.
    """
    there = np.flatnonzero(source.rows > 1)
    if len(there) < 2:
        return {}
    few = there[np.linspace(0, len(there) - 1, min(_BLOCKS, len(there))).round().astype(np.int64)]
    counts, out = source.rows[few], dict[str, Neighbours]()
    block = np.repeat(np.arange(len(few)), counts)
    for site, rows in source.read(few.tolist()).items():
        unit = torch.nn.functional.normalize((rows - rows.mean(0)).double(), dim=1)
        first = np.flatnonzero(block[:-1] == block[1:])
        draw = generator("neighbours", site)
        first = np.sort(draw.permutation(first)[:_ROWS])
        other = draw.integers(len(rows), size=len(first))
        apart = block[first] != block[other]
        near = (unit[first] * unit[first + 1]).sum(1).numpy()
        far = (unit[first[apart]] * unit[other[apart]]).sum(1).numpy()
        if len(far) < 2:
            continue
        error = float(np.sqrt(near.var(ddof=1) / len(near) + far.var(ddof=1) / len(far)))
        out[site] = Neighbours(len(near), float(near.mean()), float(far.mean()), error)
    return out


def in_words(found: dict[str, Neighbours]) -> list[str]:
    """A line for each site."""
    return [
        f"{site}: neighbouring rows have a mean cosine of {by.near:.3f}, rows of different blocks "
        f"{by.far:.3f} (standard error of the difference {by.error:.3f}, {by.pairs} pairs): "
        + (
            "no order can be seen. If rows are tokens that were shuffled, held-out ones are of "
            "the same texts as those trained on, and look better than new texts would"
            if by.shuffled
            else "they are in the order they were made in"
        )
        for site, by in found.items()
    ]
