"""The door of matching: one piece for each pair of runs of a group, at each snapshot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from reseed.records import Match, SAEArrays
from reseed.runs import Pair, pair_name, pairs_of, sae_folder, weights_name
from reseed.seeds import digest
from reseed.store import Store, json_bytes, parquet_bytes


def load_snapshot(store: Store, run: str, step: int) -> SAEArrays:
    """The SAE of a run after a step.

    Raises:
        StoreError: if it is missing or damaged.
    """
    return own.read_piece(store, f"runs/{run}", sae_folder(run, step, store))


def decoder_pairs(pair: Pair, step: int, store: Store) -> NDArray[np.int64]:
    """`[E, 2]` latents of two runs that are matched by decoder rows after a step."""
    table = store.table(pair_name(pair), f"{step:08d}.parquet")
    mine = table.filter(pl.col("side") == "a").drop_nulls("decoder_match")
    return mine.select("latent", "decoder_match").to_numpy().astype(np.int64)


def match_groups(
    groups: Sequence[Sequence[str]], steps: Sequence[int], store: Store, events: Events
) -> None:
    """Make the matches that are missing.

    Args:
        groups: finished runs that differ in nothing but their seeds; pairs are made inside a group.
        steps: snapshots at which to match; the first is the start of training, the last its end.
        store: of the study.
        events: progress.
    """
    pairs = [pair for group in groups for pair in pairs_of(group)]
    runs = [run for group in groups for run in group]
    with events.task("match", len(pairs) + len(runs), "pieces") as task:
        for run in runs:
            _describe(run, steps, store)
            task.advance(1)
        for pair in pairs:
            _match(pair, steps, store, task)
            task.advance(1)


def _match(pair: Pair, steps: Sequence[int], store: Store, task: Task) -> None:
    made_from = digest([store.checksum(f"runs/{run}") for run in pair] + list(steps))
    if store.has(pair_name(pair), made_from):
        return
    with store.piece(pair_name(pair), made_from) as folder:
        certificates: dict[str, Any] = {}
        for step in steps:
            a, b = (load_snapshot(store, run, step) for run in pair)
            show = shown(task, f"{pair[0]} with {pair[1]} at {step}", len(a.W_dec) * len(b.W_dec))
            found = compare(Views(a.W_enc, a.W_dec), Views(b.W_enc, b.W_dec), show)
            (folder / f"{step:08d}.parquet").write_bytes(parquet_bytes(found.table))
            certificates[str(step)] = {
                "decoder": certificate_of(found.decoder),
                "encoder": certificate_of(found.encoder),
            }
        (folder / "certificates.json").write_bytes(json_bytes(certificates))


def shown(task: Task, name: str, entries: int) -> Callable[[float], None]:
    """Shows the way through one long comparison beside the bar, which counts pairs.

    Args:
        task: whose note it is.
        name: of the pair.
        entries: similarities of one pass.
    """
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
    made_from = store.checksum(f"runs/{run}")
    if store.has(weights_name(run), made_from):
        return
    start, end = (load_snapshot(store, run, step) for step in (steps[0], steps[-1]))
    table = describe(start, end)
    with store.piece(weights_name(run), made_from) as folder:
        (folder / "latents.parquet").write_bytes(parquet_bytes(table))


def describe(start: SAEArrays, end: SAEArrays) -> pl.DataFrame:
    """What the weights of one run alone show of each latent.

    Columns: latent; enc_dec_cos, cosine of its encoder and decoder row, null where they belong to
    different sites (`about` has a `target`); init_cos, cosine of its
    decoder row to where that row started; own_max_cos, cosine to the most similar other decoder row
    of the same SAE.
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
    if encoder.shape != decoder.shape or "target" in sae.about:
        return pl.Series([None] * len(decoder), dtype=pl.Float64)
    return pl.Series((encoder * decoder).sum(axis=1))
