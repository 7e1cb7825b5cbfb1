"""The activations of a study: opened late, the same as before, live or from shards."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reseed.events import Events
from reseed.runs import Missing
from reseed.sae import torch
from reseed.seeds import digest
from reseed.spec.analysis import JOIN, plain, trained_at
from reseed.spec.subject import LanguageModelSpec, ModuleSpec, SubjectSpec, subject_beside
from reseed.spec.training import Control
from reseed.store import existing
from reseed.store.cache import Cached
from reseed.study import SUBJECT, Study
from reseed.subjects.places import places_in_samples, places_in_text
from reseed.subjects.shards import (
    INDEX,
    TOKENS,
    Choice,
    ShardSource,
    choose,
    harvest,
    harvested,
    passes_over,
    rounded_source,
    shard_names,
)
from reseed.subjects.source import BlockSource, Data, rows_of_split, split_blocks, with_joined

if TYPE_CHECKING:
    from reseed.subjects.language.activations import SplicedModel
    from reseed.subjects.language.blocks import TextPositions, TokenBlocks
    from reseed.subjects.networks.pictures import Pictures
    from reseed.subjects.norms import Kept
    from reseed.subjects.over_ranks.spread import ProcessGroup
    from reseed.subjects.subject import Opened

DECIDED = "decided.json"
"""What was settled once for all processes that work at a study."""


class Inputs:
    """The activations of a study: sites at once, the subject if something needs it."""

    hashed = True
    """whether shards are hashed when they are first read, beside when they are made"""

    def __init__(
        self, study: Study, events: Events, device: str = "cpu", ranks: ProcessGroup | None = None
    ) -> None:
        """Several `ranks`, of which this is the first, hold a language model together."""
        self._study, self._events, self.device, self._ranks = study, events, device, ranks
        study.store.make(SUBJECT, self._made_from, self._look_up_sites)

    # -- what runs learn from ----------------------------------------------------------------------

    def data(self, control: Control | None) -> Data:
        """The activations of the subject, or those of a control (`RunSpec.reads`)."""
        if control == "random_subject":
            return self.of_random_subject.data(None)
        on_disk = isinstance(self._read_source, ShardSource)
        if control is None:
            return Data(self.source, *self.split, self.places, on_disk, self.pictures)
        from reseed.subjects.controls import made_up

        where = self._study.store, self._study.spec.data, self._events
        source = made_up(control, self.source, self.split[0], *where)
        return Data(source, *self.split, lambda: None, on_disk and control == "shuffled")

    @cached_property
    def of_random_subject(self) -> Inputs:
        """The same for the subject with random weights, in a folder of its own in the study's."""
        self.check_random_subject()
        return Inputs(self._study.with_random_weights(), self._events, self.device, self._ranks)

    def check_random_subject(self) -> None:
        """Refuse a subject that cannot be given random weights; it is not kept in memory."""
        Inputs(self._study.with_random_weights(), self._events, self.device, self._ranks)

    @cached_property
    def source(self) -> BlockSource:
        """The activations, those of joined sites among them."""
        return self.as_used(self._read_source)

    def as_used(self, read: BlockSource) -> BlockSource:
        """The rows that are used of what the subject, or a variant of it, gives for its blocks."""
        joined = [plain(site) for site in self._study.spec.activations.sites if JOIN in site]
        if self._short is not None:
            from reseed.subjects.norms import ShortRows

            read = ShortRows(read, self._short)
        return with_joined(read, joined) if joined else read

    @cached_property
    def _short(self) -> Kept | None:
        """Which rows are used; None for all."""
        max_norm = self._study.spec.activations.max_norm
        if max_norm is None:
            return None
        from reseed.subjects.norms import short_rows

        where = self._study.store, self.shards_made_from, self._events
        return short_rows(self._read_source, self._about["blocks"], max_norm, *where)

    @cached_property
    def split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Blocks to train on, blocks held out."""
        return split_blocks(self._about["blocks"], self._study.spec.activations.held_out)

    @property
    def _subject(self) -> SubjectSpec:
        return subject_beside(self._study.spec.subject, self._study.base)

    # -- the subject and its text ------------------------------------------------------------------

    @cached_property
    def opened(self) -> Opened:
        """The subject, checked to give what it gave when the study was made."""
        self.set_threads()
        from reseed.subjects.language.activations import TextSource
        from reseed.subjects.subject import check_same, open_subject, sample

        study, spec = self._study, self._study.spec
        tokens, where = spec.activations.tokens, (study.store, self._events, self.device)
        with self._events.short("open"):
            named = spec.subject, spec.text, spec.read, tokens
            opened = open_subject(*named, *where, base=study.base, ranks=self._ranks)
        if study.store.has(SUBJECT, digest(self._made_from)):
            dtype = spec.subject.dtype if isinstance(spec.subject, LanguageModelSpec) else "float32"
            check_same(self._about["sample"], sample(opened), study.folder, dtype)
        predicts = spec.evidence.through_tokens or spec.evidence.substitution_pairs
        if predicts and isinstance(opened.source, TextSource):
            opened.source.check_causal()
        return opened

    @cached_property
    def text(self) -> TokenBlocks:
        """What a language model reads, and which positions are rows."""
        from reseed.subjects.language.blocks import TokenBlocks

        text = TokenBlocks.open(self._study.store, TOKENS)
        return text if self._short is None else text.without(~self._short.rows)

    def places(self) -> TextPositions | None:
        """Where held-out rows stand in the text; None if the subject reads none."""
        toy_text = self._study.spec.evidence.toy_text
        return places_in_text(self._subject, lambda: self.text, toy_text=toy_text)

    def pictures(self) -> Pictures | None:
        """Where rows stand in the samples of a module; None for other subjects."""
        if not isinstance(self._subject, ModuleSpec):
            return None
        return places_in_samples(self.opened.source, self._short)

    @cached_property
    def spliced(self) -> SplicedModel:
        """The whole subject, with its head; a language model."""
        from reseed.subjects.language.activations import SplicedModel

        subject = self._subject
        assert isinstance(subject, LanguageModelSpec)
        self.set_threads()
        self._events.say(f"opening {subject.model} with its head")
        return SplicedModel.load(subject, self.device)

    # -- live or from shards -----------------------------------------------------------------------

    def choice(self) -> Choice:
        """Live or shards."""
        study, about = self._study, self._about
        keep = study.spec.activations.keep
        missing = [run.spec for run in study.runs if isinstance(run.state, Missing)]
        streams = {(r.reads, r.data_seed) for r in missing if r.reads in (None, "shuffled")}
        return choose(
            study.spec.activations.model_copy(update={"keep": self._decided.get("keep", keep)}),
            rows=about["training_rows"] + about["held_out_rows"],
            dimensions=sum(about["read"].values()),
            passes=passes_over(about["training_rows"], study.spec.training.tokens, len(streams)),
            free_disk=shutil.disk_usage(existing(study.folder)).free,
        )

    def decide(self) -> None:
        """Settle once what many processes would each settle for themselves: threads, shards."""
        spec, store, base = self._study.spec, self._study.store, self._study.base
        if not store.path(DECIDED).exists():
            keep = "live" if spec.activations.keep == "live" else "shards"
            threads = spec.training.threads or torch.get_num_threads()
            store.write(DECIDED, {"keep": keep, "threads": threads, "base": base and str(base)})

    def shards(self) -> list[str]:
        """Names of the shards that `harvest` makes; none where activations come live."""
        if self.choice().keep == "live":
            return []
        return shard_names(self._about["blocks"], self._study.spec.activations)

    @property
    def shards_made_from(self) -> str:
        """Digest that belongs to the shards of this study."""
        spec = self._study.spec
        return digest([spec.data, list(self._about["read"]), spec.activations.shard_blocks])

    @cached_property
    def _read_source(self) -> BlockSource:
        """Of the sites that are read: shards, harvested if not there, or the subject itself."""
        store, spec = self._study.store, self._study.spec.activations
        choice, there = self.choice(), self.harvested()
        if choice.keep == "live" and not there:
            self._events.say(f"activations live from the subject: {choice.reason}")
            self._change_from_float32()
            return rounded_source(self.opened.source, spec.dtype)
        self.set_threads()
        if not there:
            self._events.say(f"activations to shards: {choice.reason}")
            self.harvest()
        return ShardSource(store, self.hashed)

    @cached_property
    def _cache(self) -> Cached | None:
        """These shards in a folder outside the study; None where it names none."""
        spec = self._study.spec
        if spec.activations.cache is None:
            return None
        # what paths led to, not the paths: the first and last activations, and all that was read
        of = [self.shards_made_from, self._about["sample"], self._study.store.checksum(TOKENS)]
        names = [*shard_names(self._about["blocks"], spec.activations), INDEX]
        folder, about = spec.activations.cache, spec.data | {"sites": self._about["read"]}
        return Cached(Path(folder).expanduser(), digest(of), names, about)

    def harvested(self) -> bool:
        """Whether all shards are there; those that the cache has are taken from it."""
        store, made_from = self._study.store, self.shards_made_from
        if self._cache and not harvested(store, made_from) and self._cache.fetch(store):
            self._events.say(f"activations from {self._cache.folder}")
        return harvested(store, made_from)

    def harvest(self, only: Collection[str] | None = None) -> None:
        """Write the shards that are missing, or those of them that are asked for."""
        if self.harvested():
            return
        study, change, made_from = self._study, self._change_from_float32(), self.shards_made_from
        where = study.spec.activations, study.store, made_from, self._events
        harvest(*self.opened[:2], *where, change, only, self.device)
        if self._cache:
            self._cache.give(study.store)

    def _change_from_float32(self) -> dict[str, Any] | None:
        """What it does to the activations that the subject computes in another format."""
        from reseed.subjects.subject import kept_change

        opened, where = self.opened, (self._study.store, self.shards_made_from, self._events)
        return kept_change(self._subject, opened.source, opened.text, *where)

    # -- what is known of the subject without opening it -------------------------------------------

    @property
    def _made_from(self) -> list[Any]:
        spec = self._study.spec
        return [spec.data, spec.activations.sites, spec.read]

    @cached_property
    def _about(self) -> dict[str, Any]:
        return self._study.store.document(SUBJECT, "subject.json")

    def _look_up_sites(self) -> dict[str, Any]:
        """Which sites the patterns mean, so that the subject need not be opened again."""
        from reseed.subjects.subject import sample

        spec = self._study.spec.activations
        read, rows = dict(self.opened.source.sites), self.opened.source.rows
        training, held_out = split_blocks(self.opened.blocks, spec.held_out)
        about = {
            "patterns": spec.sites,
            "sites": read if self._study.spec.read == spec.sites else trained_at(spec.sites, read),
            "read": read,
            "blocks": self.opened.blocks,
            **rows_of_split(rows, training, held_out),
            "sample": sample(self.opened),
        }
        return {"subject.json": about}

    def set_threads(self) -> None:
        """Compute with the study's number of processor threads."""
        if threads := self._study.spec.training.threads or self._decided.get("threads"):
            torch.set_num_threads(threads)

    @cached_property
    def _decided(self) -> dict[str, Any]:
        there = self._study.store.path(DECIDED).exists()
        return self._study.store.read_json(DECIDED) if there else {}
