"""SAEs that are already there, compared; each pair a piece, so that a stopped comparison continues.

There is no study here: `stage` takes dictionaries, and the store of a folder if there is one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from reseed.comparison.dictionary import Dictionary, check, dictionaries, rows_sha256
from reseed.comparison.pair import VERSION, Members, PairFacts, measure_pair
from reseed.comparison.summary import Comparison, assembled, formulas
from reseed.errors import SpecError, StoreError, needs_train
from reseed.events import EVENTS_FILE, Events, Task, events_of
from reseed.formats.site_names import differs_here
from reseed.matching.stage import shown
from reseed.report.comparison import write_comparison
from reseed.runs import COMPARED_TEXTS, compared_name
from reseed.store import BUILDING, Store, parquet_bytes
from reseed.study import DATA_FILE, SPEC_FILE

if TYPE_CHECKING:
    from reseed.comparison.activations import OnActivations


REPORT, SUMMARY = "report.html", "comparison.json"

_TABLES = ("table", "curve", "cosines")

_ROUNDING = 1e-6
"""How far tau may be from a hundredth: more than float32 is off."""

_DRAWS = 3

_WIDE = 4096
"""Latents from which on one null draw of each pair says enough."""


def compare(
    *saes: Any,
    names: Sequence[str] | None = None,
    tau: float = 0.7,
    null_draws: int | None = None,
    activations: Any = None,
    tokens: int | None = None,
    align: Literal["procrustes"] | None = None,
    read: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare two or more SAEs that anybody trained: which latents of one are in the other?

    Every two are matched one to one by decoder and by encoder rows, exactly, and set beside random
    dictionaries of the same covariance. Widths may differ.

    Args:
        saes: each an `SAE`, a `[F, D]` decoder, a pair (encoder, decoder), or a path or
            `hf:owner/repo/path` in any format that `reseed inspect` knows.
        names: of each, for tables and files.
        tau: cosine from which on a latent counts as shared, a multiple of .01.
        null_draws: random pairs for each pair; left out, 3, or 1 from 4,096 latents on.
        activations: `[N, D]` rows to run the SAEs on, an array or a path (`.npy`,
            `file.safetensors#key`, or the folder of a study with shards, `folder#site`); or a list
            with one for each SAE, on the same tokens in the same order. A mapping with `model`,
            `text`, `site` (and `tokens`, `template`, `block`) has a language model make them; that
            needs `out`, where its tokens are kept. Needs torch.
        tokens: of these the SAEs are run on the blocks with the first so many; left out, on all.
        align: `"procrustes"` turns all SAEs into the basis of the first by these activations; for
            SAEs of different subjects.
        read: settings for reading the files, e.g. `{"decoder": "D.weight"}` for matrices by other
            names; see docs/formats.md.
        out: folder for the report, `latents.parquet`, `curve.parquet` and `comparison.json`. The
            same call continues one that was stopped.
        progress: whether to show it.

    Raises:
        SpecError: if something given is no SAE, dimensions differ, or activations do not fit.
        StoreError: if a file is damaged, or the folder cannot be written.

    Example:
        comparison = reseed.compare("runs/seed0", "hf:owner/repo/layer_6")
        comparison.shared, comparison.share_fdr, comparison.warnings
    """
    at = round(float(tau), 2)
    if not (0 < at <= 1 and abs(tau - at) < _ROUNDING):
        raise SpecError(
            f"tau = {tau} must be above 0 and at most 1, since it is a cosine, and a multiple of "
            "0.01, since shares are counted at these"
        )
    if align not in (None, "procrustes"):
        raise SpecError(
            f"align = {align!r}: only 'procrustes' is known; left out, nothing is turned"
        )
    if null_draws is not None and null_draws < 1:
        raise SpecError(f"null_draws = {null_draws}; without a null a share cannot be read")
    if align is not None and activations is None:
        raise SpecError("aligning needs activations of all subjects on the same tokens")
    compared = dictionaries(saes, names, read)
    if tokens is not None and (tokens < 1 or activations is None):
        raise SpecError(f"tokens = {tokens} limits activations; give them, and at least one")
    settings: Any = {
        "tau": at, "null_draws": null_draws, "activations": activations, "align": align,
        "tokens": tokens,
    }  # fmt: skip
    if out is None:
        return stage(compared, Events(), None, **settings)
    store = Store(out)
    _check_folder(store)
    with store.lock("reseed compare"):
        store.open_for_writing()
        comparison = stage(compared, events_of(store.root, progress), store, **settings)
        store.write("latents.parquet", parquet_bytes(comparison.latents))
        store.write("curve.parquet", parquet_bytes(comparison.curve))
        store.write(SUMMARY, comparison.summary)
        write_comparison(store, REPORT, comparison.latents)
    return comparison


def _check_folder(store: Store) -> None:
    """Refuse a folder that holds something else; before its first pair a comparison has little."""
    names = [child.name for child in store.root.iterdir()] if store.root.is_dir() else []
    there = {name for name in names if not name.endswith(BUILDING)}
    begun = there & {"pairs", SUMMARY} or there <= {"tokens", EVENTS_FILE, ".lock"}
    if there & {SPEC_FILE, DATA_FILE} or not begun:
        raise StoreError(f"{store.root} is not empty and holds no comparison; choose another --out")


def stage(
    compared: Sequence[Dictionary],
    events: Events,
    store: Store | None,
    *,
    tau: float,
    null_draws: int | None,
    activations: Any,
    align: str | None,
    tokens: int | None = None,
) -> Comparison:
    """Compare every two of these dictionaries."""
    if activations is None:
        warnings = check(compared)
        pairs = _pairs(compared, {}, tau, null_draws, store, events)
        return assembled(compared, pairs, tau, warnings)
    with needs_train("reseed.compare with activations"):
        from reseed.comparison.activations import (
            fire_together,
            open_activations,
            run_on,
            warnings_of,
        )
        from reseed.comparison.align import aligned

    names = [dictionary.name for dictionary in compared]
    opened = open_activations(activations, names, store, events, tokens)
    behaviour = run_on(compared, opened, events)
    turned, crossing = list(compared), list[dict[str, Any]]()
    for at, other in enumerate(compared[1:] if align is not None else (), start=1):
        turned[at], lost = aligned(compared[0], other, opened, events)
        crossing.append(lost)
    unlike = [
        f"{dictionary.name}: {text}."
        for dictionary in compared
        for text in differs_here(dictionary.about)
    ]
    warnings = [*check(turned), *unlike, *warnings_of(behaviour)]
    pairs = _pairs(turned, behaviour, tau, null_draws, store, events)
    matched = {(pair.a, pair.b): pair.matched for pair in pairs}
    together, contexts = fire_together(turned, opened, behaviour, matched, events)
    if store is not None:  # for the page; empty where activations have no text
        texts = {"contexts.parquet": contexts}
        store.make(COMPARED_TEXTS, None, lambda: texts, again=True)
    return assembled(turned, pairs, tau, warnings, behaviour, together, crossing)


def _pairs(
    compared: Sequence[Dictionary],
    behaviour: Mapping[str, OnActivations],
    tau: float,
    null_draws: int | None,
    store: Store | None,
    events: Events,
) -> list[PairFacts]:
    """Every two, on all latents, and on live ones where activations showed which these are."""
    strata: dict[str, Members] = {"all": {d.name: np.ones(d.latents, bool) for d in compared}}
    if behaviour:
        strata["live"] = {**strata["all"], **{name: of.live for name, of in behaviour.items()}}
    pairs: list[PairFacts] = []
    couples = list(combinations(compared, 2))
    with events.task("compare", len(couples), "pairs") as task:
        for a, b in couples:
            draws = null_draws or (1 if min(a.latents, b.latents) >= _WIDE else _DRAWS)
            pairs.append(_pair(a, b, tau, draws, strata, store, task))
            task.advance(1)
    return pairs


def _pair(
    a: Dictionary,
    b: Dictionary,
    tau: float,
    draws: int,
    strata: Mapping[str, Members],
    store: Store | None,
    task: Task,
) -> PairFacts:
    show = shown(task, f"{a.name} with {b.name}", a.latents * b.latents)
    measure = partial(measure_pair, a, b, tau=tau, draws=draws, strata=strata, show=show)
    if store is None:
        return measure()

    def files() -> dict[str, Any]:
        pair = measure()
        rest = {key: getattr(pair, key) for key in ("a", "b", "numbers", "certificates")}
        return {f"{name}.parquet": getattr(pair, name) for name in _TABLES} | {"pair.json": rest}

    name = compared_name((a.name, b.name))
    live = [np.packbits(strata["live"][d.name]).tobytes().hex() for d in (a, b) if "live" in strata]
    ids = [measure["id"] for measure in formulas()]
    # aligned rows are not those of the file: of other activations they are others
    rows = [(rows_sha256(d.views), d.has_encoder) for d in (a, b)]
    store.make(name, [rows, tau, draws, live, ids, VERSION], files)
    tables = {table: store.table(name, f"{table}.parquet") for table in _TABLES}
    return PairFacts(**tables, **store.document(name, "pair.json"))
