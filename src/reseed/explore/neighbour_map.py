"""A map by UMAP (arXiv 1802.03426): decoder rows laid out so that near ones stay near, kept.

What it shows of distances that are not small means little. Needs `reseed[map]`.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.events import Events
from reseed.explore.weights import Matrix
from reseed.runs import Group, map_name, run_name
from reseed.seeds import digest
from reseed.study import Study

FILE, ABOUT = "map.parquet", "about.json"

POINTS = 6000
"""Latents of a group at the most, equally many of each run."""

_NEIGHBOURS, _LEAST_DISTANCE, _SEED = 15, 0.1, 0


def sampled(width: int, runs: int) -> NDArray[np.int64]:
    """The same latents of each run: all, or so many at random."""
    count = max(1, POINTS // runs)
    if width <= count:
        return np.arange(width)
    return np.sort(np.random.default_rng(0).choice(width, count, replace=False))


def make_map(study: Study, group: Group, events: Events) -> bool:
    """Make the piece `maps/GROUP` if it is missing; whether it was.

    Raises:
        SpecError: if umap-learn is not installed, or there are too few latents.
        StoreError: if a run is damaged.
    """
    settings = {
        "method": "umap", "umap_learn": _version(), "neighbours": _NEIGHBOURS,
        "least_distance": _LEAST_DISTANCE, "metric": "cosine", "seed": _SEED, "points": POINTS,
    }  # fmt: skip
    made_from = [settings, [study.store.checksum(run_name(run)) for run in group.runs]]
    if study.store.has(map_name(group.name), digest(made_from)):
        return False
    matrices = [Matrix(study.store, run, "W_dec") for run in group.runs]
    chosen = sampled(min(matrix.shape[0] for matrix in matrices), len(group.runs))
    rows = np.concatenate([matrix.unit_rows(chosen) for matrix in matrices])
    if len(rows) < 4:
        raise SpecError(f"{group.label} has {len(rows)} latents, too few for a map")
    with events.short("map"):
        places = _laid_out(rows)
    table = pl.DataFrame(
        {
            "run": np.repeat(np.array(group.runs), len(chosen)),
            "latent": np.tile(chosen, len(group.runs)),
            "x": places[:, 0],
            "y": places[:, 1],
        }
    )
    files = {FILE: table, ABOUT: settings}
    study.store.make(map_name(group.name), made_from, partial(dict[str, Any], files))
    return True


def _version() -> str:
    try:
        import umap  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
    except ModuleNotFoundError as error:
        from reseed.errors import extra_missing

        message = extra_missing(error, "`reseed umap`")
        if message is None:
            raise
        raise SpecError(f"{message}. The map of principal components needs nothing more.") from None
    return version("umap-learn")


def _laid_out(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """`[N, 2]` places; one thread, so that the seed decides them."""
    from umap import UMAP  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

    made: Any = UMAP(
        n_neighbors=min(_NEIGHBOURS, len(rows) - 1),
        min_dist=_LEAST_DISTANCE,
        metric="cosine",
        init="pca",
        random_state=_SEED,
        n_jobs=1,
    )
    return made.fit_transform(rows)
