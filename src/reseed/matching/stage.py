"""The door of matching: one piece for each pair of runs of a group, and one for each run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.events import Events, Task
from reseed.formats import own
from reseed.matching.entries import nearest_in_itself
from reseed.matching.geometry import rows, unit
from reseed.matching.match import Views, compare
from reseed.records import Match, SAEArrays, is_transcoder
from reseed.runs import Pair, pair_name, pairs_of, run_name, sae_folder, weights_name
from reseed.sae.arithmetic import arithmetic_of_weights
from reseed.store import Store
from reseed.study import Study


def stage(study: Study, events: Events, only: Collection[str] | None = None) -> None:
    """Make the pieces `matches/A--B` and `weights/RUN` that are missing.

    Args:
        study: whose finished runs are matched inside their groups, controls among them, at every
            snapshot.
        events: progress.
        only: names of the pieces that may be made; all if left out.

    Raises:
        SpecError: if numba is missing and a dictionary is too large for dense matching.
        StoreError: if a run is damaged.
    """
    groups, store = study.all_groups(), study.store
    pairs = [(pair, group.steps) for group in groups for pair in pairs_of(group.runs)]
    runs = [(run, group.steps) for group in groups for run in group.runs]
    if only is not None:
        pairs = [(pair, steps) for pair, steps in pairs if pair_name(pair) in only]
        runs = [(run, steps) for run, steps in runs if weights_name(run) in only]
    with events.task("match", len(pairs) + len(runs), "pieces") as task:
        for run, steps in runs:
            _describe(run, steps, store)
            task.advance(1)
        for pair, steps in pairs:
            _match(pair, steps, store, task)
            task.advance(1)


def load_snapshot(store: Store, run: str, step: int) -> SAEArrays:
    """The SAE of a run after a step."""
    return own.read_piece(store, run_name(run), sae_folder(run, step, store))


def read_match(store: Store, pair: Pair, step: int) -> pl.DataFrame:
    """The table of two runs after a step, see `reseed.matching.match`."""
    return store.table(pair_name(pair), _table(step))


def _table(step: int) -> str:
    return f"{step:08d}.parquet"


def _match(pair: Pair, steps: Sequence[int], store: Store, task: Task) -> None:
    def write() -> dict[str, Any]:
        files: dict[str, Any] = {}
        certificates: dict[str, Any] = {}
        for step in steps:
            a, b = (load_snapshot(store, run, step) for run in pair)
            show = shown(task, f"{pair[0]} with {pair[1]} at {step}", len(a.W_dec) * len(b.W_dec))
            matches = compare(Views(a.W_enc, a.W_dec), Views(b.W_enc, b.W_dec), show)
            files[_table(step)] = matches.table
            certificates[str(step)] = {
                "decoder": certificate_of(matches.decoder),
                "encoder": certificate_of(matches.encoder),
            }
        return {**files, "certificates.json": certificates}

    made_from = [*(store.checksum(run_name(run)) for run in pair), *steps]
    store.make(pair_name(pair), made_from, write, arithmetic=arithmetic_of_weights)


def shown(task: Task, name: str, entries: int) -> Callable[[float], None]:
    """Shows the way through one comparison, of `entries` a pass, beside the bar of pairs."""
    done = 0.0

    def show(more: float) -> None:
        nonlocal done
        done += more
        task.advance(0, f"{name}: {done / entries:.2f} passes over the similarities")

    return show


def certificate_of(match: Match) -> dict[str, Any]:
    """The certificate of an assignment as JSON; equal assignments give equal ones."""
    names = ("primal", "dual", "gap", "tolerance", "optimal")
    out = {"pairs": len(match.pairs)} | {name: getattr(match, name) for name in names}
    more = {} if match.certificate is None else asdict(match.certificate)
    # what else the process held would make two equal studies differ
    more.pop("peak_memory", None)
    return out | more


def _describe(run: str, steps: Sequence[int], store: Store) -> None:
    def write() -> dict[str, Any]:
        start, end = (load_snapshot(store, run, step) for step in (steps[0], steps[-1]))
        return {"latents.parquet": describe(start, end)}

    made_from = store.checksum(run_name(run))
    store.make(weights_name(run), made_from, write, arithmetic=arithmetic_of_weights)


def describe(start: SAEArrays, end: SAEArrays) -> pl.DataFrame:
    """What the weights of one run alone show of each latent.

    Columns: latent; enc_dec_cos, cosine of its encoder and decoder row, null where they belong to
    different sites (`about` has a `target`); init_cos, cosine of its decoder row to where that row
    started; own_max_cos, cosine to the most similar other decoder row of the same SAE.
    """
    decoder, first, encoder = (
        unit(weights, name)
        for weights, name in ((end.W_dec, "W_dec"), (start.W_dec, "start"), (end.W_enc, "W_enc"))
    )
    return pl.DataFrame(
        {
            "latent": np.arange(len(decoder)),
            "enc_dec_cos": _own_cosine(encoder, decoder, end),
            "init_cos": (first * decoder).sum(axis=1),
            "own_max_cos": nearest_in_itself(rows(end.W_dec, "W_dec")).similarity,
        }
    )


def _own_cosine(encoder: NDArray[Any], decoder: NDArray[Any], sae: SAEArrays) -> pl.Series:
    if is_transcoder(sae):
        return pl.Series([None] * len(decoder), dtype=pl.Float64)
    return pl.Series((encoder * decoder).sum(axis=1))
