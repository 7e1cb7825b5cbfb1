"""A group of runs whose weights were written, not trained, so that the answer is known."""

from types import SimpleNamespace

import numpy as np
import polars as pl

from reseed.events import Events
from reseed.formats import own
from reseed.matching.stage import stage as match
from reseed.records import SAEArrays
from reseed.runs import Group, evidence_name
from reseed.store import Store, parquet_bytes, snapshot_folder

STEPS = (0, 10)


def sae(rows):
    rows = np.ascontiguousarray(rows, np.float32)
    count, dimensions = rows.shape
    return SAEArrays(
        W_enc=rows,
        b_enc=np.zeros(count, np.float32),
        W_dec=rows,
        b_dec=np.zeros(dimensions, np.float32),
        activation={"kind": "topk", "k": 2},
        about={},
    )


def write_group(root, decoders, rates):
    """A matched group in a store.

    Args:
        root: of the store.
        decoders: `[F, D]` of each run.
        rates: `[F]` of each run.
    """
    store, names = Store(root), [f"run{n}" for n in range(len(decoders))]
    for name, rows, rate in zip(names, decoders, rates, strict=True):
        with store.piece(f"runs/{name}") as folder:
            for step in STEPS:
                own.write(folder / snapshot_folder(step), sae(rows))
        firing = {"latent": np.arange(len(rows)), "fired": (1000 * rate).astype(int), "rate": rate}
        with store.piece(evidence_name(name)) as folder:
            (folder / "firing.parquet").write_bytes(parquet_bytes(pl.DataFrame(firing)))
    group = Group(name="planted", label="planted", runs=names, steps=STEPS, batch=1)
    match(SimpleNamespace(store=store, all_groups=lambda: [group]), Events())
    return store, group


def noisy(rows, draw, size=0.02):
    """Rows a little off, by a cosine of about 1 - size^2 D / 2."""
    return rows + size * draw.standard_normal(rows.shape)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def study_of(store, group, toy, calibration):
    """What `calibration.stage` reads of a study that has this group only."""
    matching = SimpleNamespace(tau=0.7)
    spec = SimpleNamespace(subject=toy, matching=matching, calibration=calibration)
    return SimpleNamespace(spec=spec, store=store, groups=lambda: [group])
