"""How reproducible a latent is, from what its own run shows.

The question: is there anything in one run, besides how often a latent fires, that says whether
other runs find it? Two models of the same kind are fitted, one on the firing rate alone, one on
everything in `FEATURES`, and judged on runs that they have not seen.

**Nothing of a held-out run is learned from**: its latents are left out, and the labels of the
others count matches among the training runs only. That is not enough. A feature that several runs
found has a latent in each, and what decides the label of its training latents (which runs found
it) decides that of its held-out latent too. So latents are also divided by feature (connected
groups of matched latents), and a latent is only predicted by a model that saw none of its feature.

**The unit is the run.** A score is taken for each ordered pair (run of the latents, run that finds
them or not), averaged, and its interval is the jackknife over runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from reseed.errors import SpecError
from reseed.matching.stage import load_snapshot
from reseed.prediction import logistic
from reseed.prediction.logistic import Floats, Model
from reseed.runs import Group, pair_name, pairs_of
from reseed.seeds import generator
from reseed.stability.group import independent_pairs, seeds_in
from reseed.stability.intervals import Design, is_crossed
from reseed.stability.latents import shared_edges
from reseed.stability.shares import PairTable
from reseed.study import Study

FREQUENCY = "firing_rate"

FEATURES: Mapping[str, pl.Expr] = {
    FREQUENCY: pl.col(FREQUENCY).log(),
    "mean_act": pl.col("mean_act").log(),
    "peak": (pl.col("max_act") / pl.col("mean_act")).log(),
    "enc_dec_cos": pl.col("enc_dec_cos"),
    "init_cos": pl.col("init_cos"),
    "own_max_cos": pl.col("own_max_cos"),
    "own_p95_cos": pl.col("own_p95_cos"),
}
"""What a model reads, from columns of the table of latents; defined for latents that fire."""

COUNTED = 32
"""Firings from which on a rate is known to a fifth of itself."""

FOLDS = 4
"""Parts that the features are divided into."""

_OTHERS = 1024
"""Rows that a latent is compared with, and rows of a block of that product."""


class Labelled(NamedTuple):
    """The latents of one group of runs, and which are shared."""

    name: str
    """of the group; tells groups apart that are pooled"""
    latents: pl.DataFrame
    """run, latent, alive, and the columns that `FEATURES` read; F rows a run"""
    edges: pl.DataFrame
    """run_a, latent_a, run_b, latent_b of shared pairs, one to one for each pair of runs"""
    design: Design | None = None
    """seeds of the runs; None where no two share one"""


def labelled(study: Study, group: Group, name: str) -> Labelled:
    """The latents of a group of a study, and which of them are shared at the study's threshold."""
    last = group.steps[-1]
    tables = [
        PairTable(pair, study.store.table(pair_name(pair), f"{last:08d}.parquet"))
        for pair in pairs_of(group.runs)
    ]
    spread = pl.concat(
        own_p95(load_snapshot(study.store, run, last).W_dec, run) for run in group.runs
    )
    ends = {"run_a": pl.String, "latent_a": pl.Int64, "run_b": pl.String, "latent_b": pl.Int64}
    shared = shared_edges(tables, study.spec.matching.tau) if tables else pl.DataFrame(schema=ends)
    latents = study.latent_table(group)
    joined = latents.join(spread, on=["run", "latent"], how="left", maintain_order="left")
    return Labelled(name, joined, shared, seeds_in(latents))


@dataclass(frozen=True)
class LiveLatents:
    """Live latents of a group as arrays: L latents of M runs."""

    runs: Sequence[str]
    key: pl.DataFrame
    """[L] group, run, latent"""
    rows: Floats
    """[L, features]"""
    run: NDArray[np.int64]
    """[L] place of its run in `runs`"""
    found: NDArray[np.bool_]
    """[L, M] whether each run has a latent that it is shared with; False where it is not tried"""
    feature: NDArray[np.int64]
    """[L] number of the connected group of shared latents that it is in"""
    firings: Floats
    """[L] how often it fired where its rate was measured"""
    design: Design
    """seeds of the runs; a pair of its own for each unless both seeds are crossed"""

    @cached_property
    def tried(self) -> NDArray[np.bool_]:
        """[M, M] which two runs say whether an independent run finds a latent."""
        place = {run: at for at, run in enumerate(self.runs)}
        out = np.zeros((len(place), len(place)), dtype=np.bool_)
        for a, b in independent_pairs(pairs_of(self.runs), self.design)[1]:
            out[place[a], place[b]] = out[place[b], place[a]] = True
        return out

    @cached_property
    def fold(self) -> NDArray[np.int64]:
        """[L] in which part of the features it is."""
        parts = generator("predict-folds", len(self.runs)).integers(
            0, FOLDS, int(self.feature.max(initial=-1)) + 1
        )
        return parts[self.feature]

    def labels(
        self, keep: NDArray[np.bool_], among: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """In how many of some runs the kept latents are found, of how many independent ones.

        `keep` is `[L]`; `among` is `[M]`, the runs that may be looked at.
        """
        hits = self.found[keep][:, among].sum(axis=1)
        trials = self.tried[self.run[keep]][:, among].sum(axis=1)
        return hits, trials


def arrays(labels: Labelled, features: Sequence[str]) -> LiveLatents:
    """A group as arrays; latents that never fired are left out."""
    runs = labels.latents["run"].unique(maintain_order=True).to_list()
    place = dict(zip(runs, range(len(runs)), strict=True))
    run = labels.latents["run"].replace_strict(place, return_dtype=pl.Int64).to_numpy()
    a, b = (_rows_at(labels, side) for side in "ab")
    partners = np.zeros((len(labels.latents), len(runs)), dtype=np.bool_)
    partners[a, run[b]] = True
    partners[b, run[a]] = True
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(len(partners), len(partners)))
    feature = connected_components(graph, directed=False)[1]
    alive = labels.latents["alive"].to_numpy()
    live = labels.latents.filter("alive")
    design, alone = labels.design or {}, {run: (at, at) for run, at in place.items()}
    group = LiveLatents(
        runs=runs,
        key=live.select(pl.lit(labels.name).alias("group"), "run", "latent"),
        rows=rows_of(live, features, labels.name),
        run=run[alive],
        found=partners[alive],
        feature=feature[alive].astype(np.int64),
        firings=_firings(live),
        design=design if is_crossed(design) else alone,
    )
    # which latents are one feature, runs that share a seed say as well
    return replace(group, found=group.found & group.tried[group.run])


def _firings(live: pl.DataFrame) -> Floats:
    """How often latents fired; without a column of it, their rate in units of its least step."""
    if "fired" in live.columns:
        return live["fired"].to_numpy().astype(np.float64)
    rates = live[FREQUENCY].to_numpy().astype(np.float64)
    steps = np.diff(np.unique(np.append(rates, 0.0)))
    return rates / steps.min() if len(steps) else rates


def well_counted(group: LiveLatents) -> LiveLatents:
    """The latents whose firing rate is known: those that fired at least `COUNTED` times.

    Of fewer firings the rate is mostly noise, and any column that follows the true rate, as nearly
    all do, would say more about it than the rate that was measured.
    """
    known = group.firings >= COUNTED
    return replace(
        group,
        key=group.key.filter(pl.Series(known)),
        rows=group.rows[known],
        run=group.run[known],
        found=group.found[known],
        feature=group.feature[known],
        firings=group.firings[known],
    )


def rows_of(live: pl.DataFrame, features: Sequence[str], name: str) -> Floats:
    """The features of latents that fire, `[L, features]`."""
    rows = live.select(FEATURES[name].cast(pl.Float64).alias(name) for name in features)
    for feature in features:
        wrong = int((~rows[feature].is_finite().fill_null(False)).sum())
        if wrong:
            raise SpecError(
                f"{name}: {feature} of {wrong} of {len(live)} latents that fire is missing, NaN or "
                "not positive where its logarithm is taken. The table is damaged or from another "
                "tool; `reseed run` makes it anew."
            )
    return rows.to_numpy().astype(np.float64)


def _rows_at(group: Labelled, side: str) -> NDArray[np.int64]:
    """Rows of the table at one end of each edge."""
    places = group.latents.select("run", "latent").with_row_index("at")
    ends = group.edges.select(
        pl.col(f"run_{side}").alias("run"), pl.col(f"latent_{side}").alias("latent")
    )
    joined = ends.join(places, on=["run", "latent"], how="left", maintain_order="left")
    if joined["at"].null_count():
        raise SpecError(f"{group.name}: a match names a latent that the table of latents lacks")
    return joined["at"].to_numpy().astype(np.int64)


def features_of(groups: Sequence[Labelled], table: pl.DataFrame | None = None) -> list[str]:
    """The features whose columns all tables have, with values in them."""
    tables = [group.latents for group in groups] + ([] if table is None else [table])
    # a column without a value is one that these latents cannot have
    every = [[c.name for c in frame if c.null_count() < len(frame)] for frame in tables]
    names = [
        name
        for name, value in FEATURES.items()
        if all(set(value.meta.root_names()) <= set(columns) for columns in every)
    ]
    if FREQUENCY not in names or len(names) < 2:
        raise SpecError(
            f"the tables share the columns for {names or 'nothing'}; a prediction needs "
            f"{FREQUENCY!r} and at least one of {', '.join(n for n in FEATURES if n != FREQUENCY)}"
        )
    return names


def own_p95(decoder: NDArray[np.float32], run: str) -> pl.DataFrame:
    """How near a row of a decoder `[F, D]` is to its others: 95th percentile of cosines.

    It is estimated from a thousand rows, drawn by the run's name, so that it costs little at any
    width.

    Returns:
        run, latent, own_p95_cos; null for a zero row, or with fewer than two rows.
    """
    lengths = np.linalg.norm(decoder, axis=1)
    rows = decoder / np.where(lengths > 0, lengths, 1.0)[:, None]
    count = min(_OTHERS, len(rows))
    others = np.sort(generator("predict-neighbours", run).choice(len(rows), count, replace=False))
    out = np.full(len(rows), np.nan)
    for first in range(0, len(rows) if len(rows) > 1 else 0, _OTHERS):
        part = slice(first, first + _OTHERS)
        cosines = (rows[part] @ rows[others].T).astype(np.float64)
        itself = np.arange(len(rows))[part, None] == others
        cosines[itself] = np.nan
        out[part] = np.nanquantile(cosines, 0.95, axis=1)
    out[lengths == 0] = np.nan
    return pl.DataFrame(
        {"run": [run] * len(rows), "latent": np.arange(len(rows)), "own_p95_cos": out}
    ).with_columns(pl.col("own_p95_cos").fill_nan(None))


def fit_both(
    groups: Sequence[LiveLatents],
    without: Collection[tuple[int, int]] = (),
    fold: int | None = None,
) -> tuple[Model, Model] | None:
    """The model on frequency alone and the one on everything.

    Of the runs `without` (number of its group, of the run in it) neither the latents nor what they
    find are looked at; `fold` is a part of the features of their groups that is left out too.

    Returns:
        None if there is nothing to learn from.
    """
    among = [np.ones(len(group.runs), dtype=np.bool_) for group in groups]
    keep = [np.ones(len(group.rows), dtype=np.bool_) for group in groups]
    for at, run in without:
        among[at][run] = False
        keep[at] &= groups[at].run != run
        if fold is not None:
            keep[at] &= groups[at].fold != fold
    labels = [g.labels(k, a) for g, k, a in zip(groups, keep, among, strict=True)]
    rows = np.concatenate([g.rows[k] for g, k in zip(groups, keep, strict=True)])
    hits, trials = (np.concatenate(part) for part in zip(*labels, strict=True))
    folds = np.concatenate([g.fold[k] for g, k in zip(groups, keep, strict=True)])
    use = trials > 0
    if not use.any():
        return None
    rows, hits, trials, folds = rows[use], hits[use], trials[use], folds[use]
    return logistic.fit(rows[:, :1], hits, trials, folds), logistic.fit(rows, hits, trials, folds)
