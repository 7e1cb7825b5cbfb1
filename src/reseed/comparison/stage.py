"""Compare SAEs that are already there: what is given, opened; what is found, written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from reseed.comparison.dictionary import Dictionary, dictionaries
from reseed.comparison.pieces import compare_all, decoder_pairs, with_firing, write
from reseed.comparison.result import Comparison
from reseed.errors import SpecError, StoreError, needs_train
from reseed.events import Events, JsonlSink
from reseed.records import read_spec
from reseed.report.comparison import write_comparison
from reseed.spec.analysis import FromSubject
from reseed.store import Store

if TYPE_CHECKING:
    from reseed.subjects.source import BlockSource


REPORT = "report.html"

EVENTS_FILE = "events.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Where SAEs are run: rows by site, and the site of each SAE."""

    source: BlockSource
    sites: Sequence[str]
    """of each SAE in the order given"""
    blocks: Sequence[int]
    """which are read"""


def compare(
    *given: Any,
    names: Sequence[str] | None = None,
    tau: float = 0.7,
    null_draws: int | None = None,
    activations: Any = None,
    align: Literal["procrustes"] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare two or more SAEs that anybody trained: which latents of one are in the other?

    Every two are matched one to one by decoder and by encoder rows, exactly, and set beside random
    dictionaries of the same covariance. Widths may differ.

    Args:
        given: each an `SAE`, a `[F, D]` decoder, a pair (encoder, decoder), or a path or
            `hf:owner/repo/path` in any format that `reseed inspect` knows.
        names: of each, for tables and files.
        tau: cosine from which on a latent counts as shared.
        null_draws: random pairs for each pair; left out, 3, or 1 from 4,096 latents on.
        activations: `[N, D]` rows to run the SAEs on, an array or a path (`.npy`,
            `file.safetensors#key`, or the folder of a study with shards, `folder#site`); or a list
            with one for each SAE, on the same tokens in the same order. A mapping with `model`,
            `text`, `site` (and `tokens`, `template`, `block`) has a language model make them; that
            needs `out`, where its tokens are kept. Needs torch.
        align: `"procrustes"` turns all SAEs into the basis of the first by these activations; for
            SAEs of different subjects.
        out: folder for the report, `latents.parquet`, `curve.parquet` and `comparison.json`. The
            same call continues one that was stopped.
        progress: whether to show it.

    Raises:
        SpecError: if something given is no SAE, dimensions differ, or activations do not fit.
        StoreError: if a file is damaged, or the folder cannot be written.

    Example:
        found = reseed.compare("runs/seed0", "hf:owner/repo/layer_6")
        found.shared, found.share_fdr, found.warnings
    """
    if not 0 < tau <= 1:
        raise SpecError(f"tau = {tau} must be above 0 and at most 1; it is a cosine")
    if null_draws is not None and null_draws < 1:
        raise SpecError(f"null_draws = {null_draws}; without a null a share cannot be read")
    if align is not None and activations is None:
        raise SpecError("aligning needs activations of all subjects on the same tokens")
    found = dictionaries(given, names)
    store = None if out is None else Store(out)
    if store is None:
        return _compared(found, tau, null_draws, activations, align, None, Events())
    _check_folder(store)
    with store.lock("reseed compare"):
        store.open_for_writing()
        console = Console(stderr=True) if progress else None
        events = Events(JsonlSink(store.path(EVENTS_FILE)), console=console)
        result = _compared(found, tau, null_draws, activations, align, store, events)
        write(result, store)
        write_comparison(store, REPORT)
    return result


def _compared(
    found: list[Dictionary],
    tau: float,
    null_draws: int | None,
    activations: Any,
    align: str | None,
    store: Store | None,
    events: Events,
) -> Comparison:
    settings: Any = {"tau": tau, "null_draws": null_draws, "store": store, "events": events}
    if activations is None:
        return compare_all(found, functional={}, warnings=[], **settings)
    with needs_train("reseed.compare with activations"):
        from reseed.comparison.align import aligned
        from reseed.comparison.functional import fire_together, run_on, warnings

    opened = open_activations(activations, len(found), store, events)
    sites = dict(zip((one.name for one in found), opened.sites, strict=True))
    where = (opened.source, sites, opened.blocks)
    functional = run_on(found, *where, events)
    turned, crossing = [found[0]], list[dict[str, Any]]()
    for other in found[1:]:
        if align is not None:
            pair = (opened.sites[0], sites[other.name])
            other, lost = aligned(found[0], other, opened.source, pair, opened.blocks)  # noqa: PLW2901
            crossing.append(lost)
        turned.append(other)
    result = compare_all(turned, functional=functional, warnings=warnings(functional), **settings)
    matched = {(one.a, one.b): decoder_pairs(one.table) for one in result.pairs}
    return with_firing(result, fire_together(found, *where, matched, events), crossing)


def _check_folder(store: Store) -> None:
    """Refuse a folder that holds something else."""
    known = {"pairs", "comparison.json", "tokens", EVENTS_FILE, ".lock"}
    there = {child.name for child in store.root.iterdir()} if store.root.is_dir() else set[str]()
    if there and not there & known:
        raise StoreError(f"{store.root} is not empty and holds no comparison; choose another --out")


def open_activations(
    given: Any, count: int, store: Store | None = None, events: Events | None = None
) -> Activations:
    """Rows for all SAEs, or for each its own.

    Args:
        given: see `compare`.
        count: of SAEs.
        store: where a subject's tokens are kept.
        events: progress.

    Raises:
        SpecError: if there are not as many as SAEs, or their numbers of rows differ.
    """
    if isinstance(given, Mapping):
        spec = read_spec(FromSubject, given, "activations")
        return _from_subject(spec, count, store, events or Events())
    if not isinstance(given, list | tuple):
        source, site = _open_one(given)
        return Activations(source=source, sites=[site] * count, blocks=range(len(source.rows)))
    if len(given) != count:
        raise SpecError(
            f"{len(given)} activations for {count} SAEs; give one for all, or one for each"
        )
    opened = [_open_one(one) for one in given]
    source = _Beside([source for source, _ in opened], [site for _, site in opened])
    return Activations(source=source, sites=list(source.sites), blocks=range(len(source.rows)))


def _from_subject(
    spec: FromSubject, count: int, store: Store | None, events: Events
) -> Activations:
    if store is None:
        raise SpecError("activations from a subject need `out`, where its tokens are kept")
    from reseed.spec.subject import LanguageModelSpec, TextSpec
    from reseed.subjects.opening import open_subject

    text = TextSpec(source=spec.text, template=spec.template, block=spec.block)
    opened = open_subject(
        LanguageModelSpec(model=spec.model), text, [spec.site], spec.tokens, store, events
    )
    site = next(iter(opened.source.sites))
    return Activations(source=opened.source, sites=[site] * count, blocks=range(opened.blocks))


def _open_one(given: Any) -> tuple[BlockSource, str]:
    from reseed.spec.subject import ArraysSpec
    from reseed.subjects.arrays import ArraySource, MemorySource
    from reseed.subjects.shards import ShardSource

    if not isinstance(given, str | os.PathLike):
        return MemorySource({"x": given}), "x"
    text = os.fspath(given)
    folder, _, site = text.partition("#")
    if Path(folder).is_dir():
        source = ShardSource(Store(folder))
        if not site and len(source.sites) > 1:
            raise SpecError(
                f"{folder} has activations of {', '.join(source.sites)}; choose one: {folder}#SITE"
            )
        chosen = site or next(iter(source.sites))
        if chosen not in source.sites:
            raise SpecError(f"{folder} has no site {chosen!r}; it has {', '.join(source.sites)}")
        return source, chosen
    return ArraySource(ArraysSpec(kind="arrays", paths={"x": text})), "x"


class _Beside:
    """Sources of the same rows beside each other, as one `BlockSource`."""

    def __init__(self, sources: Sequence[BlockSource], sites: Sequence[str]) -> None:
        rows = [source.rows.tolist() for source in sources]
        if any(one != rows[0] for one in rows):
            totals = ", ".join(f"{sum(one):,}" for one in rows)
            raise SpecError(
                f"the activations have {totals} rows; they must be of the same tokens in the same "
                "order, in equal blocks"
            )
        self._sources, self._inner, self.rows = sources, sites, sources[0].rows

    @property
    def sites(self) -> dict[str, int]:
        """`0`, `1`, ... to D."""
        pairs = zip(self._sources, self._inner, strict=True)
        return {str(n): source.sites[site] for n, (source, site) in enumerate(pairs)}

    def read(self, blocks: Sequence[int]) -> dict[str, Any]:
        """Rows of these blocks; see `BlockSource.read`."""
        pairs = zip(self._sources, self._inner, strict=True)
        return {str(n): source.read(blocks)[site] for n, (source, site) in enumerate(pairs)}
