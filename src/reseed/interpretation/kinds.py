"""Latents by how often they came back, and by how often they fire. Needs no torch."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl

from reseed.errors import SpecError

LatentKind = Literal["reproducible", "partly", "orphan"]
"""Found in all independent other runs; in some; in none."""
KINDS: tuple[LatentKind, ...] = ("reproducible", "partly", "orphan")

NEEDED = ("run", "latent", "alive", "firing_rate", "n_matched", "n_seeds", "family")
STRATA = 5


def live_kinds(latents: pl.DataFrame, strata: int = STRATA) -> pl.DataFrame:
    """The live latents of one group of runs with their kind and their stratum of firing rate.

    Dead latents are left out: they have no text that could be explained. Strata hold equal numbers
    of live latents; latents that fire equally often are in one stratum.

    Args:
        latents: the table of docs/latent_table.md, of one group.
        strata: of firing rate, at most.

    Returns:
        run, latent, kind, stratum (from 0, fires least), firing_rate, n_matched, n_seeds, family
        (null for an orphan), unit. Latents of one unit are one feature: a family, or one latent.

    Raises:
        SpecError: if a column is missing, there are several groups, only one run, or no live
            latent.
    """
    _check(latents)
    live = latents.filter(pl.col("alive") & pl.col("n_matched").is_not_null())
    if not len(live):
        raise SpecError(f"none of the {len(latents):,} latents fires on held-out text")
    trials = pl.col("n_seeds") - 1
    kind = (
        pl.when(pl.col("n_matched") == 0)
        .then(pl.lit("orphan"))
        .when(pl.col("n_matched") >= trials)
        .then(pl.lit("reproducible"))
        .otherwise(pl.lit("partly"))
    )
    own = pl.format("{}#{}", "run", "latent")
    family = pl.format("family {}", pl.col("family"))
    return live.select(
        "run",
        "latent",
        kind.alias("kind"),
        pl.Series("stratum", _stratum(live["firing_rate"], strata), dtype=pl.Int64),
        "firing_rate",
        "n_matched",
        "n_seeds",
        "family",
        pl.when(pl.col("family").is_null()).then(own).otherwise(family).alias("unit"),
    ).sort("run", "latent")


def _check(latents: pl.DataFrame) -> None:
    missing = [name for name in NEEDED if name not in latents.columns]
    if missing:
        raise SpecError(
            f"the table of latents lacks {', '.join(missing)}; make it anew with `reseed run`"
        )
    if "group" in latents.columns and latents["group"].n_unique() > 1:
        found = ", ".join(latents["group"].unique().sort().to_list())
        raise SpecError(
            f"the table has latents of several groups ({found}); how often a latent was found "
            "means something else in each. Filter one."
        )
    most = latents["n_seeds"].max()
    if most is None or int(most) < 2:  # pyright: ignore[reportArgumentType]
        raise SpecError(
            "there is one independent run, so nothing is known of what comes back; add seeds"
        )


def _stratum(rates: pl.Series, strata: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    found = rates.to_numpy()
    edges = np.unique(np.quantile(found, np.linspace(0, 1, strata + 1)))[1:-1]
    return np.searchsorted(edges, found, side="left").astype(np.int64)
