"""How far partners stand in for latents: R = 1 - effect of replacing / effect of ablating.

Both effects are summed before they are divided, so pairs and windows that matter little to the
subject weigh little. R is 1 where the partner does what the latent did, 0 where it is worth no more
than silence, negative where it does more harm.

Intervals are by a bootstrap that draws documents, pairs and, where there are three or more, runs at
the same time and weighs each window by the product of its counts (arXiv 0710.5224, the pigeonhole
bootstrap): each source of variation is in them, and they are rather too wide than too narrow.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.seeds import generator
from reseed.spec.statistics import Estimate, SubstitutionPart

_DRAWS = 1_000
_LEAST_RUNS = 3

Counts = NDArray[np.float64]


def of_pairs(pairs: pl.DataFrame, effects: pl.DataFrame) -> pl.DataFrame:
    """The pairs with windows, kl_ablate, kl_replace, ce_ablate, ce_replace (weighted sums) and R.

    r_kl is null where ablating does nothing in the windows that were read.
    """
    names = [name for name in effects.columns if name[:3] in ("kl_", "ce_")]
    sums = effects.group_by("pair").agg(
        pl.len().alias("windows"), *((pl.col(name) * pl.col("weight")).sum() for name in names)
    )
    ratio = 1 - pl.col("kl_replace") / pl.col("kl_ablate")
    return (
        pairs.with_row_index("pair")
        .with_columns(pl.col("pair").cast(pl.Int64))
        .join(sums, on="pair", how="left", maintain_order="left")
        .with_columns(pl.when(pl.col("kl_ablate") > 0).then(ratio).alias("r_kl"))
    )


def part_of(pairs: pl.DataFrame, effects: pl.DataFrame, seed: str) -> SubstitutionPart | None:
    """R over some pairs; None where they have no effect at all.

    Args:
        pairs: `pair`, run_a and run_b, of those that count.
        effects: of all, see `swap.EFFECT_SCHEMA`.
        seed: what the draws are for.
    """
    rows = effects.join(pairs.select("pair", "run_a", "run_b"), on="pair", maintain_order="left")
    if not len(rows) or not rows["kl_ablate"].sum() > 0:
        return None
    weight = rows["weight"].to_numpy()
    values = rows.select("kl_ablate", "kl_replace", "ce_ablate", "ce_replace").to_numpy()
    values = values * weight[:, None]
    draws = _drawn(rows, seed) @ values
    total = values.sum(axis=0)
    return SubstitutionPart(
        pairs=rows["pair"].n_unique(),
        documents=rows["document"].n_unique(),
        kl=_estimate(total[:2], draws[:, :2]),
        cross_entropy=_estimate(total[2:], draws[:, 2:]),
    )


def _drawn(rows: pl.DataFrame, seed: str) -> Counts:
    """[draws, rows] how often each row counts."""
    numbers = generator("substitution-bootstrap", seed)
    out = np.ones((_DRAWS, len(rows)))
    runs = sorted({*rows["run_a"], *rows["run_b"]})
    for name in ("document", "pair"):
        _, at = np.unique(rows[name].to_numpy(), return_inverse=True)
        out *= _counts(numbers, int(at.max()) + 1)[:, at]
    if len(runs) >= _LEAST_RUNS:
        counts = _counts(numbers, len(runs))
        a, b = (np.searchsorted(runs, rows[name].to_numpy()) for name in ("run_a", "run_b"))
        out *= np.where(a == b, counts[:, a], counts[:, a] * counts[:, b])
    return out


def _counts(numbers: np.random.Generator, size: int) -> Counts:
    """[draws, size] how often each of so many is drawn with replacement."""
    return numbers.multinomial(size, np.full(size, 1 / size), _DRAWS).astype(np.float64)


def _estimate(total: Counts, draws: Counts) -> Estimate:
    """1 - the second sum over the first; no interval where draws leave too little to divide by."""
    if not total[0] > 0:
        return Estimate(value=None, interval_95=None)
    known = draws[draws[:, 0] > 0]
    ratios = 1 - known[:, 1] / known[:, 0]
    ends = None
    if len(known) >= _DRAWS // 2:
        low, high = np.quantile(ratios, [0.025, 0.975])
        ends = (float(low), float(high))
    return Estimate(value=float(1 - total[1] / total[0]), interval_95=ends)
