"""From what a study says about its subject to a source of activations."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from reseed.errors import SpecError, nearest
from reseed.events import Events
from reseed.seeds import digest
from reseed.store import Store
from reseed.subjects.arrays import ArraySource
from reseed.subjects.language_model import load_language_model
from reseed.subjects.module_source import ModuleSource, open_factory
from reseed.subjects.random_weights import randomise
from reseed.subjects.sites import list_sites, resolve_sites
from reseed.subjects.source import BlockSource
from reseed.subjects.spec import (
    ArraysSpec,
    LanguageModelSpec,
    ModuleSpec,
    SubjectSpec,
    TextSpec,
    ToySpec,
)
from reseed.subjects.text_source import TextSource
from reseed.subjects.tokenizer import Tokenizer
from reseed.subjects.tokens import TokenBlocks, make_tokens
from reseed.subjects.toy import ToySource

TOKENS = "tokens"


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
) -> Opened:
    """Open a subject; text is tokenised into the store if it is not there yet.

    Args:
        subject: what it is.
        text: what it reads, if it reads text.
        sites: patterns of sites.
        tokens: how many are wanted.
        store: of the study.
        events: progress.
        device: where a language model computes; other subjects stay where they are.

    Raises:
        SpecError: if a site is unknown or there is less data than asked for.
        SubjectError: if the subject or its text cannot be read.
    """
    if isinstance(subject, LanguageModelSpec):
        assert text is not None
        return _open_language_model(subject, text, sites, tokens, store, events, device)
    if isinstance(subject, ToySpec):
        _chosen(["toy"], sites)
        source: BlockSource = ToySource(subject, -(-tokens // subject.block))
    elif isinstance(subject, ArraysSpec):
        names = _chosen(list(subject.paths), sites)
        paths = {name: subject.paths[name] for name in names}
        source = ArraySource(subject.model_copy(update={"paths": paths}))
    else:
        source = _open_module(subject, sites)
    return Opened(source, _blocks_for(source, tokens), None, None)


def _open_language_model(
    subject: LanguageModelSpec,
    text: TextSpec,
    sites: Sequence[str],
    tokens: int,
    store: Store,
    events: Events,
    device: str,
) -> Opened:
    events.say(f"opening {subject.model}")
    model = load_language_model(subject, sites, device)
    model.check_block(text.block)
    made_from = digest([model.tokenizer.digest, text.model_dump(mode="json"), tokens])
    if not store.has(TOKENS, made_from):
        make_tokens(text, model.tokenizer, tokens, store, TOKENS, made_from, events)
    blocks = TokenBlocks.open(store, TOKENS)
    source = TextSource(model, blocks, subject.batch_blocks)
    return Opened(source, len(blocks.rows), blocks, model.tokenizer)


def _open_module(subject: ModuleSpec, sites: Sequence[str]) -> BlockSource:
    module, batches = open_factory(subject)
    if subject.random_weights is not None:
        randomise(module, subject.random_weights)
    return ModuleSource(module, sites, batches)


def _chosen(known: Sequence[str], patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise SpecError(f"activations.sites: no site {pattern!r}; {nearest(pattern, known)}")
    return [name for name in known if any(fnmatchcase(name, p) for p in patterns)]


def _blocks_for(source: BlockSource, tokens: int) -> int:
    """How many blocks give at least this many rows."""
    ends = np.cumsum(source.rows)
    if not len(ends) or ends[-1] < tokens:
        there = int(ends[-1]) if len(ends) else 0
        raise SpecError(
            f"activations.tokens = {tokens:,}, but the subject has {there:,} rows; ask for fewer"
        )
    return int(np.searchsorted(ends, tokens)) + 1


def known_sites(subject: SubjectSpec, pattern: str) -> list[str]:
    """Sites that a subject has and that fit a pattern; `**` for all.

    Raises:
        SpecError: if none fits.
        SubjectError: if the subject cannot be opened.
    """
    if isinstance(subject, LanguageModelSpec):
        module = load_language_model(subject, ()).body
    elif isinstance(subject, ModuleSpec):
        module = open_factory(subject)[0]
    else:
        names = ["toy"] if isinstance(subject, ToySpec) else list(subject.paths)
        return names if pattern == "**" else _chosen(names, [pattern])
    return list_sites(module) if pattern == "**" else resolve_sites(module, [pattern])
