"""What latents are worth to a reconstruction: drop sets of equal firing mass, measure what is lost.

On held-out rows, FVU = Σ‖x̂ - x‖² / Σ‖x - mean‖², and cross-entropy through the subject if somebody
hands in how to measure it. D input dimensions, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.errors import SpecError, SubjectError
from reseed.events import Events
from reseed.evidence.equal_mass import TOLERANCE, Draw, equal_mass_draws
from reseed.sae import kernels
from reseed.sae.kernels import Codes
from reseed.sae.model import SAE
from reseed.seeds import generator
from reseed.subjects.source import BlockSource

Reconstruct = Callable[[Tensor], Tensor]
"""Rows `[N, D]` to what stands in their place, `[N, D]`."""
CrossEntropy = Callable[[Reconstruct], float]
"""Of the subject's next tokens, in nats, with reconstructions spliced in at the site."""

_CHUNK = 32
_BOOTSTRAP = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionalValue:
    """What dropping sets of latents costs, at equal firing mass."""

    draws: pl.DataFrame
    """set, draw, latents (dropped), mass, energy, fvu, fvu_rise, ce, ce_rise (null if not measured)

    `energy` is Σ rate (mean activation x length of decoder row)² of the dropped latents: what FVU
    would rise by, up to a factor, if they added at right angles. Equal mass does not make it equal.
    """
    sets: pl.DataFrame
    """set, latents (mean number dropped), mass, energy, fvu_rise, fvu_rise_lo, fvu_rise_hi,
    ce_rise, ce_rise_lo, ce_rise_hi: means over draws with 95 % intervals"""
    differences: pl.DataFrame
    """contrast (`a - b`) and the difference of the rises, with the same endings"""
    fvu: float
    """with all latents"""
    ce: float | None
    says: str


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
        whole = cross_entropy(sae.reconstruct)
        found = [cross_entropy(without(sae, one.latents)) for one in chosen]
        entropies = np.array([whole, *found])
    rate = firing.sort("latent")["rate"].to_numpy()
    energy = mass**2 / np.where(rate > 0, rate, 1.0)
    return _result(chosen, energy, errors, scale, entropies, list(sets), seed)


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


def _result(
    chosen: Sequence[Draw],
    energy: NDArray[np.float64],
    errors: NDArray[np.float64],
    scale: NDArray[np.float64],
    entropies: NDArray[np.float64] | None,
    names: Sequence[str],
    seed: int,
) -> FunctionalValue:
    whole = float(errors[0].sum() / scale.sum())
    rise = errors[1:] - errors[0]
    fvu = errors[1:].sum(axis=1) / scale.sum()
    ce = None if entropies is None else entropies[1:]
    table = pl.DataFrame(
        {
            "set": [one.name for one in chosen],
            "draw": [one.number for one in chosen],
            "latents": [len(one.latents) for one in chosen],
            "mass": [one.mass for one in chosen],
            "energy": [float(energy[list(one.latents)].sum()) for one in chosen],
            "fvu": fvu,
            "fvu_rise": fvu - whole,
            "ce": pl.Series(ce, dtype=pl.Float64) if ce is not None else None,
            "ce_rise": pl.Series(ce - entropies[0]) if ce is not None and entropies is not None
            else None,
        },
        schema_overrides={"ce": pl.Float64, "ce_rise": pl.Float64},
    )  # fmt: skip
    of = np.array([one.name for one in chosen])
    samples = {n: _resampled(rise[of == n], scale, seed) for n in names}
    extra = {
        n: None if entropies is None else _over_draws(entropies[1:][of == n] - entropies[0], seed)
        for n in names
    }
    sets = pl.DataFrame(
        [
            {"set": n, **_means(table.filter(pl.col("set") == n))}
            | _ends("fvu_rise", samples[n])
            | _ends("ce_rise", extra[n])
            for n in names
        ],
        schema_overrides=_FLOATS,
    )
    rows: list[dict[str, object]] = []
    for a, b in combinations(names, 2):
        row: dict[str, object] = {"contrast": f"{a} - {b}"}
        row |= _ends("fvu_rise", samples[a] - samples[b])
        first, second = extra[a], extra[b]
        row |= _ends("ce_rise", None if first is None or second is None else first - second)
        rows.append(row)
    differences = pl.DataFrame(rows, schema={"contrast": pl.String, **_FLOATS})
    return FunctionalValue(
        draws=table,
        sets=sets,
        differences=differences,
        fvu=whole,
        ce=None if entropies is None else float(entropies[0]),
        says=_sentence(whole, sets, differences),
    )


_FLOATS: dict[str, type[pl.DataType]] = dict.fromkeys(
    (f"{name}{end}" for name in ("fvu_rise", "ce_rise") for end in ("", "_lo", "_hi")), pl.Float64
)


def _resampled(
    rise: NDArray[np.float64], scale: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """[1 + bootstrap] mean rise of FVU over draws: as it is, then over resampled draws and blocks.

    Every set is resampled with the same blocks, so that differences are paired in them.
    """
    draws, blocks = rise.shape
    texts = generator("functional-blocks", seed)
    sets = generator("functional-draws", seed, draws)
    n = texts.multinomial(blocks, np.full(blocks, 1 / blocks), size=_BOOTSTRAP)
    m = sets.multinomial(draws, np.full(draws, 1 / draws), size=_BOOTSTRAP) / draws
    again = np.einsum("sd,db,sb->s", m, rise, n, optimize=True) / (n @ scale).clip(min=1e-300)
    return np.concatenate([[rise.mean(axis=0).sum() / scale.sum()], again])


def _over_draws(rises: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    draws = len(rises)
    m = generator("functional-entropy", seed, draws).multinomial(
        draws, np.full(draws, 1 / draws), size=_BOOTSTRAP
    )
    return np.concatenate([[rises.mean()], m @ rises / draws])


def _ends(name: str, samples: NDArray[np.float64] | None) -> dict[str, float | None]:
    if samples is None:
        return {name: None, f"{name}_lo": None, f"{name}_hi": None}
    low, high = np.quantile(samples[1:], [0.025, 0.975])
    return {name: float(samples[0]), f"{name}_lo": float(low), f"{name}_hi": float(high)}


def _means(rows: pl.DataFrame) -> dict[str, float]:
    return {name: float(rows[name].to_numpy().mean()) for name in ("latents", "mass", "energy")}


def _sentence(fvu: float, sets: pl.DataFrame, differences: pl.DataFrame) -> str:
    parts = [
        f"{row['set']} {row['fvu_rise']:+.4f} [{row['fvu_rise_lo']:+.4f}, "
        f"{row['fvu_rise_hi']:+.4f}] ({row['latents']:.0f} latents)"
        for row in sets.iter_rows(named=True)
    ]
    told = f"FVU {fvu:.4f}; without latents of equal firing mass: {', '.join(parts)}"
    for row in differences.iter_rows(named=True):
        told += (
            f"; {row['contrast']} {row['fvu_rise']:+.4f} [{row['fvu_rise_lo']:+.4f}, "
            f"{row['fvu_rise_hi']:+.4f}]"
        )
    return told
