"""From what a study says about its subject to a source of activations, and what became of it.

Whether it is the same as when the study was made, and what another format than float32 changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reseed.errors import SpecError, StoreError, nearest
from reseed.events import Events
from reseed.seeds import digest
from reseed.spec.analysis import fits
from reseed.spec.subject import (
    PRECISION,
    ArraysSpec,
    LanguageModelSpec,
    ModuleSpec,
    SubjectSpec,
    TextSpec,
    ToySpec,
    beside,
    subject_beside,
)
from reseed.store import Store, json_bytes
from reseed.subjects.arrays import ArraySource, check_files
from reseed.subjects.controls import randomise
from reseed.subjects.language.activations import TextSource
from reseed.subjects.language.blocks import TokenBlocks, make_tokens
from reseed.subjects.language.documents import check_text
from reseed.subjects.language.loading import opening
from reseed.subjects.language.model import (
    LanguageModel,
    body_without_weights,
    load_language_model,
)
from reseed.subjects.language.tokenizer import Tokenizer
from reseed.subjects.module import ModuleSource
from reseed.subjects.networks.factory import Network, open_factory
from reseed.subjects.shards import TOKENS
from reseed.subjects.sites import list_sites, resolve_sites
from reseed.subjects.source import BlockSource
from reseed.subjects.stored.order import in_words, neighbours
from reseed.subjects.toy import SITE, ToySource

if TYPE_CHECKING:
    from reseed.subjects.over_ranks.spread import ProcessGroup

_SAMPLED = 8
"""Rows and columns of a block that are compared."""

_SAME = {"float32": 0.005, "bfloat16": 0.05, "int8": 0.05}
"""Format of a subject to the difference, as a share of the root mean square, that is rounding."""


class Opened(NamedTuple):
    """A subject ready to be read."""

    source: BlockSource
    blocks: int
    """that are needed for the tokens asked for"""
    text: TokenBlocks | None
    tokenizer: Tokenizer | None


def open_subject(
    subject: SubjectSpec,
    text: TextSpec | None,
    sites: Sequence[str],
    tokens: int,
    store: Store,
    events: Events,
    device: str = "cpu",
    *,
    base: Path | None = None,
    ranks: ProcessGroup | None = None,
) -> Opened:
    """Open a subject; text is tokenised into the store if it is not there yet.

    Relative paths are looked for from `base` first, then from the current folder. Several `ranks`
    hold a language model together.
    """
    named, subject = subject, subject_beside(subject, base)
    if isinstance(subject, LanguageModelSpec):
        assert text is not None
        made_of = text.model_copy(update={"source": beside(text.source, base)})
        if not store.has(TOKENS):
            check_text(made_of)
        events.say(opening(subject))
        model = _open_model(subject, sites, device, ranks)
        model.check_block(text.block)
        made_from = digest([model.tokenizer.digest, text.model_dump(mode="json"), tokens])
        if not store.has(TOKENS, made_from):
            make_tokens(made_of, model.tokenizer, tokens, store, TOKENS, made_from, events)
        blocks = TokenBlocks.open(store, TOKENS)
        source = TextSource(model, blocks, subject.batch_blocks)
        return Opened(source, len(blocks.rows), blocks, model.tokenizer)
    if isinstance(subject, ToySpec):
        _chosen([SITE], sites)
        source = ToySource(subject, -(-tokens // subject.block))
    elif isinstance(subject, ArraysSpec):
        paths = {name: subject.paths[name] for name in _chosen(list(subject.paths), sites)}
        chosen = subject.model_copy(update={"paths": paths})
        source = ArraySource(chosen)
        check_files(chosen, store, digest(named.model_dump(mode="json")), events)
        for line in in_words(neighbours(source)):
            events.say(line)
    else:
        network = open_factory(subject)
        if subject.random_weights is not None:
            randomise(network.module, subject.random_weights)
        source = module_source(subject, network, sites, tokens, events)
        if source.padding:
            events.say(f"{source.padding:,} positions of padding are left out")
    return Opened(source, _blocks_for(source, tokens), None, None)


def module_source(
    subject: ModuleSpec, network: Network, sites: Sequence[str], tokens: int, events: Events
) -> ModuleSource:
    """The source that a spec makes of a network, whose module may have been altered."""
    ragged = subject.rows == "ragged"
    if ragged:
        events.say("rows = 'ragged': a pass over the inputs counts them")
    source = ModuleSource(
        network.module,
        sites,
        network.batches,
        layout=subject.layout,
        positions=subject.positions,
        ragged=ragged,
        enough=tokens if ragged else None,
    )
    source.show, source.labels = network.show, network.labels
    return source


def _open_model(
    subject: LanguageModelSpec, sites: Sequence[str], device: str, ranks: ProcessGroup | None
) -> LanguageModel:
    if ranks is None:
        return load_language_model(subject, sites, device)
    from reseed.subjects.over_ranks.spread import SpreadModel

    return SpreadModel.lead(subject, sites, device, ranks)


def _chosen(known: Sequence[str], patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not any(fits(name, pattern) for name in known):
            raise SpecError(f"activations.sites: no site {pattern!r}; {nearest(pattern, known)}")
    return [name for name in known if any(fits(name, p) for p in patterns)]


def _blocks_for(source: BlockSource, tokens: int) -> int:
    """How many blocks give at least this many rows."""
    ends = np.cumsum(source.rows)
    if not len(ends) or ends[-1] < tokens:
        there = int(ends[-1]) if len(ends) else 0
        raise SpecError(
            f"activations.tokens = {tokens:,}, but the subject has {there:,} rows; ask for fewer"
        )
    return int(np.searchsorted(ends, tokens)) + 1


def known_sites(
    subject: SubjectSpec, pattern: str, say: Callable[[str], object] = lambda _: None
) -> list[str]:
    """Sites that a subject has and that fit a pattern; `**` for all.

    Of a language model only the settings are read; `say` is told what takes a while.
    """
    if isinstance(subject, LanguageModelSpec):
        say(opening(subject))
        module = body_without_weights(subject)
    elif isinstance(subject, ModuleSpec):
        module = open_factory(subject).module
    else:
        names = [SITE] if isinstance(subject, ToySpec) else list(subject.paths)
        return names if pattern == "**" else _chosen(names, [pattern])
    return list_sites(module) if pattern == "**" else resolve_sites(module, [pattern])


def sample(opened: Opened) -> dict[str, list[float]]:
    """The root mean square of each site, and some numbers of its first and of its last block.

    Of those that have rows.
    """
    out: dict[str, list[float]] = {}
    there = np.flatnonzero(opened.source.rows[: opened.blocks])
    for block in there[[0, -1]].tolist():
        for site, x in opened.source.read([block]).items():
            rms = float(x.double().square().mean().sqrt())
            out.setdefault(site, [rms]).extend(x[:_SAMPLED, :_SAMPLED].flatten().tolist())
    return out


def check_same(
    before: Mapping[str, Sequence[float]],
    now: Mapping[str, Sequence[float]],
    folder: Path,
    dtype: str = "float32",
) -> None:
    """Refuse a subject that gives other activations than those that the runs learned from.

    The spec names the subject; what lies behind the name can change. Another number of threads
    only changes roundings, hence the tolerance.
    """
    for site, numbers in before.items():
        there = now.get(site, [])
        same = len(there) == len(numbers) and np.allclose(
            numbers, there, rtol=0, atol=_SAME[dtype] * numbers[0]
        )
        if not same:
            raise StoreError(
                f"{folder}: the subject or its data changed under the same name; {site} "
                "gives other activations than when this folder was made. Runs on both could not be "
                "compared: put the old data back, or give this study a folder of its own with "
                "`--out`."
            )


_COMPARED = 4
"""Blocks that are read in float32 too."""


def change_from_float32(
    spec: LanguageModelSpec, source: BlockSource, text: TokenBlocks
) -> dict[str, Any] | None:
    """Read a few blocks in float32 too; the second model is in memory only meanwhile.

    Returns:
        `dtype`, `rows` that were compared, and for each of `sites`: `relative_rmse`, the root of
        the summed squared difference over that of the float32 activations, and `smallest_cosine`
        of a row with its float32 twin. None if the subject computes in float32.
    """
    if spec.dtype == "float32":
        return None
    there = np.flatnonzero(text.rows)
    few = np.unique(there[np.linspace(0, len(there) - 1, _COMPARED).round().astype(np.int64)])
    sites = list(source.sites)
    twin = load_language_model(spec.model_copy(update={"dtype": "float32"}), sites)
    exact = TextSource(twin, text, 1).read(few.tolist())
    own = source.read(few.tolist())
    return {
        "dtype": spec.dtype,
        "rows": int(text.rows[few].sum()),
        "sites": {site: _compared(exact[site], own[site]) for site in sites},
    }


def kept_change(
    spec: SubjectSpec,
    source: BlockSource,
    text: TokenBlocks | None,
    store: Store,
    made_from: str,
    events: Events,
) -> dict[str, Any] | None:
    """`change_from_float32`, measured and said once, and kept in the piece `PRECISION`."""
    if text is None or not isinstance(spec, LanguageModelSpec):
        return None
    if store.has(PRECISION, made_from):
        return store.document(PRECISION, "change.json")
    change = change_from_float32(spec, source, text)
    if change is not None:
        events.say(change_in_words(change))
        with store.piece(PRECISION, made_from) as folder:
            (folder / "change.json").write_bytes(json_bytes(change))
    return change


def _compared(exact: Tensor, own: Tensor) -> dict[str, float]:
    scale = float(exact.square().sum())
    error = float((own - exact).square().sum())
    cosines = torch.nn.functional.cosine_similarity(exact, own, dim=1)
    cosines = cosines.masked_fill((exact == own).all(dim=1), 1.0)  # rows of zeros too
    return {
        "relative_rmse": (error / scale) ** 0.5 if scale else float(error > 0),
        "smallest_cosine": float(cosines.min()),
    }


def change_in_words(change: dict[str, Any]) -> str:
    """One line for people."""
    sites = "; ".join(
        f"{site} {by['relative_rmse']:.2%} (smallest cosine of a row {by['smallest_cosine']:.4f})"
        for site, by in change["sites"].items()
    )
    return (
        f"{change['dtype']} changes the activations, against float32 on {change['rows']:,} tokens, "
        f"by (relative root-mean-square error) {sites}"
    )
