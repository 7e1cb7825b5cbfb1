"""How well SAEs reconstruct rows that none of them was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from reseed.events import Events
from reseed.evidence.firing import Firing
from reseed.sae.model import SAE
from reseed.subjects.source import BlockSource

_CHUNK = 32


class HeldOut(NamedTuple):
    """What held-out rows say of one SAE."""

    fvu: float
    """of all rows together"""
    l0: float
    """latents that fire in a row"""
    dead: float
    """share of the latents that fire in none"""
    firing: pl.DataFrame
    """latent, fired, rate, mean_act, max_act"""


def evaluate(
    saes: Mapping[str, SAE],
    site: str,
    source: BlockSource,
    blocks: NDArray[np.int64],
    events: Events,
) -> dict[str, HeldOut]:
    """One pass over held-out blocks for all SAEs; the numbers are those of `reseed.evidence.stage`.

    Args:
        saes: by name; all of one site.
        site: where they read.
        source: of the activations.
        blocks: held-out ones.
        events: progress.

    Raises:
        SubjectError: if the rows are all alike.
        StoreError: if the activations are damaged.
    """
    sums = {name: Firing(sae.latents, sae.dimensions) for name, sae in saes.items()}
    with events.task("evaluate", int(source.rows[blocks].sum()), "tokens") as task:
        for first in range(0, len(blocks), _CHUNK):
            chunk = blocks[first : first + _CHUNK]
            x = source.read(chunk.tolist())[site]
            with torch.no_grad():
                for name, sae in saes.items():
                    codes = sae.encode_sparse(x)
                    sums[name].add(x, codes, sae.decode_sparse(codes))
            task.advance(len(x))
    return {name: _result(one) for name, one in sums.items()}


def _result(sums: Firing) -> HeldOut:
    whole, table = sums.reconstruction(), sums.table()
    dead = float((table["fired"] == 0).mean())  # pyright: ignore[reportArgumentType]
    return HeldOut(float(whole["fvu"]), float(whole["l0"]), dead, table)
