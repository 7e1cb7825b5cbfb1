"""The instrument itself against worlds whose truth is known, whatever was trained.

Three questions that no study can ask of itself: does the interval of a latent hold the truth at
every count, is the false discovery rate kept where rows are not Gaussian and widths differ
(`reseed.calibration.nulls_check`), and how many latents of one feature come into one family where
features crowd?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations, product
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.calibration.nulls_check import check_nulls
from reseed.matching.match import Views, compare
from reseed.seeds import generator
from reseed.stability.latents import shared_edges
from reseed.stability.over_seeds.families import families
from reseed.stability.over_seeds.posterior import reproducibility
from reseed.stability.shares import PairTable
from reseed.store import Store

Floats = NDArray[np.float64]

PIECE = "calibration/instrument"

TABLES = ("by_count", "by_distribution", "by_crowding")
"""Parquet files of the piece; columns in docs/calibration.md."""

VERSION = 3

POPULATIONS: Mapping[str, Callable[[np.random.Generator, int], Floats]] = {
    "the paper's": lambda rng, n: rng.beta(0.274, 0.396, n),
    "a hill": lambda rng, n: rng.beta(2.0, 2.0, n),
    "40 % at .05, 60 % at .9": lambda rng, n: np.where(rng.random(n) < 0.4, 0.05, 0.9),
    "90 % at .02, 10 % at .99": lambda rng, n: np.where(rng.random(n) < 0.9, 0.02, 0.99),
    "30 % at .01, a hill": lambda rng, n: np.where(rng.random(n) < 0.3, 0.01, rng.beta(5, 5, n)),
}
"""Probabilities with which runs find features."""

CROWDS = (0.0, 0.3, 0.5, 0.7)
"""Cosine of a feature to three others."""

NOISES = (0.4, 0.6)
"""Length of what a run adds at random to a feature's decoder row of length 1; half as much again
in variance to its encoder row."""


def make_instrument(store: Store) -> None:
    """Make the piece that is missing or of another version."""
    store.make(
        PIECE,
        ["instrument", VERSION],
        lambda: {
            "by_count.parquet": coverage_by_count(),
            "by_distribution.parquet": check_nulls(
                encoders=("tied",),
                widths=((128, 128), (32, 512)),
                planted=((0.25, 0.9),),
                repeats=8,
            ),
            "by_crowding.parquet": recall_by_crowding(),
        },
    )


def coverage_by_count(runs: tuple[int, ...] = (3, 5, 9), studies: int = 3) -> pl.DataFrame:
    """How often the interval of a latent holds the truth among latents of one count.

    Returns:
        population, runs, n (other runs that found it), share (of latents that have it), coverage
        (of the 95 % interval), said (posterior mean), true (mean probability).
    """
    rows: list[dict[str, Any]] = []
    for name, m in product(POPULATIONS, runs):
        draw = generator("calibration-by-count", name, m)
        sums = np.zeros((4, m))
        for _ in range(studies):
            p = POPULATIONS[name](draw, 1500)
            found = draw.random((m, len(p))) < p
            feature = np.nonzero(found)[1]
            count, truth = found[:, feature].sum(axis=0) - 1, p[feature]
            trials = np.full(len(count), m - 1)
            out = reproducibility(count, trials, np.zeros(len(count), np.int64), m)
            held = (out.low <= truth) & (truth <= out.high)
            parts = (np.ones(len(count)), held, out.mean, truth)
            sums += np.stack([np.bincount(count, part, m) for part in parts])
        with np.errstate(invalid="ignore"):
            coverage, said, true = sums[1:] / sums[0]
        share = sums[0] / sums[0].sum()
        rows += [
            {"population": name, "runs": m, "n": n, "share": share[n], "coverage": coverage[n],
             "said": said[n], "true": true[n]}
            for n in range(m)
        ]  # fmt: skip
    return pl.DataFrame(rows).with_columns(pl.selectors.float().fill_nan(None))


def recall_by_crowding(
    runs: tuple[int, ...] = (3, 5), features: int = 80, latents: int = 100, dimensions: int = 64
) -> pl.DataFrame:
    """How many pairs of latents of one feature come into one family where features crowd.

    Features are found by nine runs in ten; the latents beyond them are random directions.

    Returns:
        crowd (cosine of a feature to three others), noise, runs, recall (of pairs of latents of one
        feature), precision (of pairs inside families; null without any).
    """
    rows: list[dict[str, Any]] = []
    for crowd, noise, m in product(CROWDS, NOISES, runs):
        draw = generator("calibration-crowds", str(crowd), str(noise), m)
        centres = _unit(draw.normal(size=(features // 4, dimensions)))
        own = _unit(draw.normal(size=(features, dimensions)))
        true = _unit(np.sqrt(crowd) * np.repeat(centres, 4, axis=0) + np.sqrt(1 - crowd) * own)
        views: list[Views] = []
        feature = np.full((m, latents), -1)
        for run in range(m):
            has = np.flatnonzero(draw.random(features) < 0.9)
            feature[run, : len(has)] = has
            junk = _unit(draw.normal(size=(latents - len(has), dimensions)))
            rows_of = np.concatenate([true[has], junk])
            noisy = (
                _unit(rows_of + size * _unit(draw.normal(size=rows_of.shape)))
                for size in (noise * np.sqrt(1.5), noise)
            )
            views.append(Views(*noisy))
        tables = [
            PairTable((f"{a}", f"{b}"), compare(views[a], views[b]).table)
            for a, b in combinations(range(m), 2)
        ]
        members = families(shared_edges(tables, 0.7))
        family = np.full((m, latents), -1)
        family[members["run"].cast(pl.Int64).to_numpy(), members["latent"].to_numpy()] = members[
            "family"
        ].to_numpy()
        both, one_feature, right = _pairs(family, feature)
        rows.append({
            "crowd": crowd, "noise": noise, "runs": m, "recall": right / one_feature,
            "precision": right / both if both else None,
        })  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"precision": pl.Float64})


def _pairs(family: NDArray[np.int64], feature: NDArray[np.int64]) -> tuple[int, int, int]:
    """Pairs of latents of two runs: in one family, of one feature, both."""
    both = one_feature = right = 0
    for a, b in combinations(range(len(family)), 2):
        together = (family[a][:, None] == family[b]) & (family[a] >= 0)[:, None]
        same = (feature[a][:, None] == feature[b]) & (feature[a] >= 0)[:, None]
        both += int(together.sum())
        one_feature += int(same.sum())
        right += int((together & same).sum())
    return both, one_feature, right


def _unit(rows: Floats) -> Floats:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
