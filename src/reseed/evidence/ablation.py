"""What latents are worth to a reconstruction: drop sets of equal firing mass, measure what is lost.

On held-out rows, FVU = Σ‖x̂ - x‖² / Σ‖x - mean‖², and cross-entropy through the subject if somebody
hands in how to measure it. D input dimensions, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.errors import SpecError, SubjectError
from reseed.events import Events
from reseed.evidence.equal_mass import (
    TOLERANCE,
    Draw,
    FunctionalValue,
    equal_mass_draws,
    functional_result,
)
from reseed.sae import codes as kernels
from reseed.sae.codes import Codes
from reseed.sae.model import SAE
from reseed.subjects.source import BlockSource

Reconstruct = Callable[[Tensor], Tensor]
"""Rows `[N, D]` to what stands in their place, `[N, D]`."""

CrossEntropy = Callable[[Reconstruct], float]
"""Of the subject's next tokens, in nats, with reconstructions spliced in at the site."""

_CHUNK = 32


def without(sae: SAE, latents: Sequence[int]) -> Reconstruct:
    """The SAE's reconstruction with these latents silent; the others keep their codes.

    For TopK rules nothing takes the place of a dropped latent: it is the decoder that loses it.
    """
    dropped = _mask(sae, latents)

    def reconstruct(x: Tensor) -> Tensor:
        codes = sae.encode_sparse(x)
        return sae.reconstruct(x) - _share(sae, codes, dropped, x)

    return reconstruct


def functional_value(
    sae: SAE,
    site: str,
    source: BlockSource,
    blocks: NDArray[np.int64],
    firing: pl.DataFrame,
    sets: Mapping[str, Sequence[int]],
    events: Events,
    *,
    draws: int = 20,
    share: float = 0.5,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    cross_entropy: CrossEntropy | None = None,
) -> FunctionalValue:
    """Drop latents of each set at equal firing mass and measure what the reconstruction loses.

    Intervals of FVU are by bootstrap over draws and held-out blocks, those of cross-entropy over
    draws alone: they speak of other latents of these sets and (FVU) other text, not of other runs.

    Args:
        sae: the dictionary.
        site: where it reads.
        source: of the activations.
        blocks: held-out ones.
        firing: latent, rate, mean_act, as in `evidence/RUN/firing.parquet`.
        sets: name to latents, e.g. shared and orphans; add a random one as a control.
        events: progress.
        draws: from each set.
        share: of the mass of the lightest set that is dropped at a time.
        tolerance: see `equal_mass_draws`.
        seed: of the draws and the bootstrap.
        cross_entropy: takes a reconstruction; called once for each draw and once for the whole.

    Raises:
        SpecError: if the sets have no equal mass to drop, or the SAE is no map of a site to itself.
        SubjectError: if the held-out rows are all alike.
        StoreError: if the activations are damaged.
    """
    if sae.W_dec.shape[1] != sae.dimensions:
        raise SpecError("a transcoder reconstructs another site; its FVU is not measured here")
    mass = mass_of(sae, firing)
    chosen = equal_mass_draws(mass, sets, draws=draws, share=share, tolerance=tolerance, seed=seed)
    errors, scale = _errors(sae, chosen, site, source, blocks, events)
    entropies = None
    if cross_entropy is not None:
        made = [sae.reconstruct, *(without(sae, one.latents) for one in chosen)]
        with events.task("cross-entropy", len(made), "sets") as task:
            found: list[float] = []
            for reconstruct in made:
                found.append(cross_entropy(reconstruct))
                task.advance(1)
        entropies = np.array(found)
    rate = firing.sort("latent")["rate"].to_numpy()
    energy = mass**2 / np.where(rate > 0, rate, 1.0)
    return functional_result(chosen, energy, errors, scale, entropies, list(sets), seed)


def mass_of(sae: SAE, firing: pl.DataFrame) -> NDArray[np.float64]:
    """[F] firing rate x mean activation x length of the decoder row.

    Raises:
        SpecError: if the table has another number of latents.
    """
    table = firing.sort("latent")
    if len(table) != sae.latents:
        raise SpecError(f"firing of {len(table)} latents for an SAE of {sae.latents}")
    length = sae.W_dec.double().norm(dim=1).numpy()
    return table["rate"].to_numpy() * table["mean_act"].to_numpy() * length


def _mask(sae: SAE, latents: Sequence[int]) -> Tensor:
    dropped = torch.zeros(sae.latents, dtype=torch.bool)
    dropped[list(latents)] = True
    return dropped


def _share(sae: SAE, codes: Codes, dropped: Tensor, x: Tensor) -> Tensor:
    """What the dropped latents add to the reconstruction of rows `[N, D]`."""
    only = Codes(codes.values * dropped[codes.latents], codes.latents)
    out = kernels.decode(only, sae.W_dec)
    return out * x.std(dim=-1, keepdim=True) if sae.normalised else out


def _errors(
    sae: SAE,
    chosen: Sequence[Draw],
    site: str,
    source: BlockSource,
    blocks: NDArray[np.int64],
    events: Events,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[1 + draws, blocks] squared errors, the whole dictionary first; [blocks] Σ‖x - mean‖²."""
    masks = [_mask(sae, one.latents) for one in chosen]
    errors = np.zeros((1 + len(chosen), len(blocks)))
    squares, sums, rows = np.zeros(len(blocks)), np.zeros((len(blocks), sae.dimensions)), []
    with events.task("drop latents", int(source.rows[blocks].sum()), "tokens") as task:
        for first in range(0, len(blocks), _CHUNK):
            chunk = blocks[first : first + _CHUNK]
            x = source.read(chunk.tolist())[site]
            place = torch.from_numpy(np.repeat(np.arange(len(chunk)), source.rows[chunk]))
            here = slice(first, first + len(chunk))

            def by_block(values: Tensor, place: Tensor = place, n: int = len(chunk)) -> Tensor:
                out = torch.zeros(n, *values.shape[1:], dtype=torch.float64)
                return out.index_add_(0, place, values.double())

            squares[here] = by_block(x.double().square().sum(1)).numpy()
            sums[here] = by_block(x).numpy()
            rows += source.rows[chunk].tolist()
            with torch.no_grad():
                codes, left = sae.encode_sparse(x), sae.reconstruct(x) - x
                errors[0, here] = by_block(left.square().sum(1)).numpy()
                for n, mask in enumerate(masks, 1):
                    lost = left - _share(sae, codes, mask, x)
                    errors[n, here] = by_block(lost.square().sum(1)).numpy()
            task.advance(len(x))
    mean = sums.sum(axis=0) / max(sum(rows), 1)
    scale = squares - 2 * sums @ mean + np.array(rows) * float(mean @ mean)
    if scale.sum() <= 1e-12 * squares.sum():
        raise SubjectError(
            f"the {sum(rows):,} held-out rows are all alike, so there is no variance to explain; "
            "raise activations.held_out"
        )
    return errors, scale
