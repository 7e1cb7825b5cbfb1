"""The one pass: held-out blocks from the whole and from a variant, through the same SAEs.

The SAEs are those of the whole, frozen. Memory holds one chunk of rows of both, the SAEs and their
sums (`BUNDLES` numbers of each kind for a latent), however many tokens there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SubjectError
from reseed.events import Events
from reseed.evidence.distance import ErrorByDistance
from reseed.evidence.rows import Encoded, Reader
from reseed.subjects.source import CHUNK, BlockSource, Chunk, read_over
from reseed.survival.agreement import BUNDLES, Agreement, Bundled, placed
from reseed.survival.directions import SiteMoments

WHOLE, VARIANT = "whole", "variant"


class Frozen(NamedTuple):
    """An SAE of the whole."""

    reader: Reader
    target: str
    """the site that it reconstructs"""
    start: Reader | None = None
    """the same before training: random latents that are as sparse"""


class Transferred(NamedTuple):
    """What a pass found."""

    runs: Mapping[str, dict[str, Any]]
    """run to the files of its piece: `latents.parquet`, `fit.json`"""
    sites: Mapping[str, SiteMoments]


def transfer(
    saes: Mapping[str, Frozen],
    whole: BlockSource,
    variant: BlockSource,
    blocks: Sequence[int] | NDArray[np.int64],
    events: Events,
    name: str,
) -> Transferred:
    """Read blocks once from both sources and hold what SAEs of the whole make of them together.

    Args:
        saes: run to its SAE.
        whole: where the SAEs come from.
        variant: the same rows of another version.
        blocks: `[n]` numbers of held-out blocks.
        events: progress.
        name: of the variant, for messages.

    Raises:
        SubjectError: if the variant lacks a site, or has it in another shape or with other rows.
    """
    numbers = np.asarray(blocks, dtype=np.int64)
    read = sorted({site for sae in saes.values() for site in (sae.reader.site, sae.target)})
    check_alike(whole, variant, read, name)
    bundles = max(1, min(BUNDLES, len(numbers)))
    runs = {run: _Run(run, sae, bundles) for run, sae in saes.items()}
    sites = {sae.reader.site: whole.sites[sae.reader.site] for sae in saes.values()}
    moments = {site: SiteMoments(dimensions) for site, dimensions in sites.items()}
    readers = {run: sae.reader for run, sae in saes.items()}
    readers |= {_start(run): sae.start for run, sae in saes.items() if sae.start is not None}

    def take(chunk: Chunk) -> None:
        there = variant.read(chunk.blocks.tolist())
        other = chunk._replace(rows=there)
        where = placed(chunk.blocks, chunk.counts, chunk.first, len(numbers))
        for site, sums in moments.items():
            sums.add(chunk.rows[site], there[site])
        encoded = Encoded(chunk, readers), Encoded(other, readers)
        for run in runs.values():
            run.add(*encoded, where)

    read_over(whole, numbers, take, events, f"survive {name}", size=CHUNK)
    return Transferred({name: run.files() for name, run in runs.items()}, moments)


def check_alike(whole: BlockSource, variant: BlockSource, sites: Sequence[str], name: str) -> None:
    """Refuse a variant whose rows are not those of the whole, one for one."""
    for site in sites:
        there, needed = variant.sites.get(site), whole.sites[site]
        if there != needed:
            what = "lacks it" if there is None else f"has {there} dimensions there"
            raise SubjectError(
                f"variant {name!r}: site {site!r} of the whole has {needed} dimensions, the "
                f"variant {what}. SAEs can only read versions of one shape: give a checkpoint of "
                "the same architecture and size."
            )
    if not np.array_equal(whole.rows, variant.rows):
        raise SubjectError(
            f"variant {name!r} gives {int(variant.rows.sum()):,} rows in {len(variant.rows):,} "
            f"blocks, the whole {int(whole.rows.sum()):,} in {len(whole.rows):,}: they are not the "
            "same tokens. Both must read one text with one tokenizer."
        )


def _start(run: str) -> str:
    return f"{run} before training"


class _Run:
    """What is gathered of one SAE."""

    def __init__(self, run: str, sae: Frozen, bundles: int) -> None:
        self._run, self._target = run, sae.target
        self._latents = Agreement(sae.reader.sae.latents, bundles)
        self._before = sae.start and Agreement(sae.start.sae.latents, bundles)
        self._errors = {side: ErrorByDistance() for side in (WHOLE, VARIANT)}
        self._active = dict.fromkeys(self._errors, 0)

    def add(self, whole: Encoded, variant: Encoded, where: Bundled) -> None:
        self._latents.add(whole.sparse(self._run), variant.sparse(self._run), where)
        if self._before is not None:
            name = _start(self._run)
            self._before.add(whole.sparse(name), variant.sparse(name), where)
        for side, chunk in ((WHOLE, whole), (VARIANT, variant)):
            self._errors[side].add(chunk.chunk.rows[self._target], chunk.rebuilt(self._run))
            self._active[side] += chunk.sparse(self._run).nnz

    def files(self) -> dict[str, Any]:
        rows = int(self._latents.rows.sum())
        fit = {
            side: {**errors.numbers(), "l0": self._active[side] / max(rows, 1)}
            for side, errors in self._errors.items()
        }
        table = self._latents.table()
        if self._before is not None:
            before = self._before.table().select(
                pl.when(pl.col("fired") > 0).then(pl.col("r")).alias("r_untrained")
            )
            table = pl.concat([table, before], how="horizontal")
        about = {"rows": rows, "bundles": int((self._latents.rows > 0).sum()), **fit}
        return {"latents.parquet": table, "fit.json": about}
