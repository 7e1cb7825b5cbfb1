"""The activations of a study: opened late, the same as before, live or from shards."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from reseed.events import Events
from reseed.runs import Missing
from reseed.seeds import digest
from reseed.spec.activations import JOIN, plain, trained_at
from reseed.spec.subject import LanguageModelSpec, ToySpec
from reseed.spec.training import Control, RunSpec
from reseed.store import existing, json_bytes
from reseed.study import SUBJECT, Study
from reseed.subjects.stream import Choice, choose, passes_over

if TYPE_CHECKING:
    from reseed.subjects.models.spliced import SplicedModel
    from reseed.subjects.opening import Opened
    from reseed.subjects.source import BlockSource
    from reseed.subjects.text.tokens import Places, TokenBlocks


class Data(NamedTuple):
    """What some runs learn from and are evaluated on."""

    source: BlockSource
    training: np.ndarray[Any, Any]
    """blocks to train on"""
    held_out: np.ndarray[Any, Any]
    places: Callable[[], Places | None]
    """where held-out rows stand in the text; None if they stand in none"""
    on_disk: bool
    """whether its rows are read, so that reading ahead spares the training a wait"""


class Inputs:
    """The activations of a study and what belongs to them; opened only if something needs them.

    Args:
        study: whose.
        events: progress.
        device: where a language model computes; its activations come to the CPU.
    """

    def __init__(self, study: Study, events: Events, device: str = "cpu") -> None:
        self._study, self._events, self._device = study, events, device

    def data(self, control: Control | None) -> Data:
        """The activations of the subject, or those of a control (`RunSpec.reads`)."""
        if control == "random_subject":
            return self.of_random_subject.data(None)
        if control is None:
            return Data(self.source, *self.split, self.places, self._on_disk)
        from reseed.subjects.altered import GaussianSource, ShuffledSource, read_moments

        if control == "shuffled":
            return Data(ShuffledSource(self.source), *self.split, _nowhere, self._on_disk)
        self._estimate_moments()
        moments = {site: read_moments(self._study.store, site) for site in self.source.sites}
        return Data(GaussianSource(moments), *self.split, _nowhere, on_disk=False)

    @cached_property
    def of_random_subject(self) -> Inputs:
        """The same for the subject with random weights, in a folder of its own in the study's."""
        self.check_random_subject()
        return Inputs(self._study.with_random_weights(), self._events, self._device)

    def check_random_subject(self) -> None:
        """Refuse a subject that cannot be given random weights; it is not kept in memory.

        Raises:
            SpecError, SubjectError: if it cannot, or cannot be read then.
        """
        Inputs(self._study.with_random_weights(), self._events, self._device).look_up_sites()

    def _estimate_moments(self) -> None:
        from reseed.subjects.altered import estimate_moments, moments_name

        study = self._study
        made_from = {site: digest([study.spec.data, site]) for site in self.source.sites}
        if not all(study.store.has(moments_name(site), made_from[site]) for site in made_from):
            estimate_moments(self.source, self.split[0], study.store, made_from, self._events)

    @cached_property
    def opened(self) -> Opened:
        """The subject."""
        _set_threads(self._study)
        from reseed.subjects.opening import check_same, open_subject, sample

        study, spec = self._study, self._study.spec
        opened = open_subject(
            spec.subject,
            spec.text,
            spec.read,
            spec.activations.tokens,
            study.store,
            self._events,
            self._device,
        )
        if study.store.has(SUBJECT, self._made_from):
            before = study.store.document(SUBJECT, "subject.json")["sample"]
            check_same(before, sample(opened), study.folder)
        return opened

    @property
    def _made_from(self) -> str:
        spec = self._study.spec
        more = [site for site in spec.read if site not in spec.activations.sites]
        return digest([spec.data, spec.activations.sites, *([more] if more else [])])

    @cached_property
    def split(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Blocks to train on, blocks held out."""
        from reseed.subjects.stream import split_blocks

        blocks = self._study.store.document(SUBJECT, "subject.json")["blocks"]
        return split_blocks(blocks, self._study.spec.activations.held_out)

    def places(self) -> Places | None:
        """Where held-out rows stand in the text; None if the subject reads none."""
        subject = self._study.spec.subject
        if isinstance(subject, ToySpec) and self._study.spec.evidence.toy_text:
            from reseed.subjects.toy import ToyText

            return ToyText(subject)
        if not isinstance(subject, LanguageModelSpec):
            return None
        from reseed.subjects.models.language_model import load_tokenizer
        from reseed.subjects.text.tokens import TextPlaces

        return TextPlaces(self.text, load_tokenizer(subject))

    @cached_property
    def spliced(self) -> SplicedModel:
        """The whole subject, with its head; a language model."""
        from reseed.subjects.models.spliced import SplicedModel

        subject = self._study.spec.subject
        assert isinstance(subject, LanguageModelSpec)
        _set_threads(self._study)
        self._events.say(f"opening {subject.model} with its head")
        return SplicedModel.load(subject, self._device)

    @cached_property
    def text(self) -> TokenBlocks:
        """What a language model reads."""
        from reseed.subjects.opening import TOKENS
        from reseed.subjects.text.tokens import TokenBlocks

        return TokenBlocks.open(self._study.store, TOKENS)

    def check_end_to_end(self, runs: Sequence[RunSpec]) -> None:
        """Refuse sites that cannot be trained through.

        Raises:
            SpecError: if a later site is not there or does not come after the one replaced.
        """
        from reseed.subjects.models.spliced import blocks_of

        ids = blocks_of(self.text, [0]).ids[:, :8]
        for target, later in dict.fromkeys((run.target, _later(run)) for run in runs):
            self.spliced.check_sites(target, later, ids)

    def held_out_blocks(self, tokens: int) -> list[int]:
        """The first held-out blocks with at least this many rows, or all."""
        blocks = self.split[1]
        enough = np.cumsum(self.text.rows[blocks]) >= tokens
        return blocks[: int(enough.argmax()) + 1 if enough.any() else len(blocks)].tolist()

    def look_up_sites(self) -> None:
        """Write which sites the patterns mean, so that the subject need not be opened again."""
        study = self._study
        if study.store.has(SUBJECT, self._made_from):
            return
        from reseed.subjects.stream import split_blocks

        read, rows = dict(self.opened.source.sites), self.opened.source.rows
        from reseed.subjects.opening import sample

        asked = study.spec.activations.sites
        alone = study.spec.read == asked
        training, held_out = split_blocks(self.opened.blocks, study.spec.activations.held_out)
        about = {
            "patterns": asked,
            "sites": read if alone else trained_at(asked, read),
            "read": read,
            "blocks": self.opened.blocks,
            "training_rows": int(rows[training].sum()),
            "held_out_rows": int(rows[held_out].sum()),
            "sample": sample(self.opened),
        }
        with study.store.piece(SUBJECT, self._made_from) as folder:
            (folder / "subject.json").write_bytes(json_bytes(about))

    def choice(self) -> Choice:
        """Live or shards."""
        study = self._study
        about = study.store.document(SUBJECT, "subject.json")
        missing = [run.spec for run in study.runs if isinstance(run.state, Missing)]
        streams = {(r.reads, r.data_seed) for r in missing if r.reads in (None, "shuffled")}
        return choose(
            study.spec.activations,
            rows=about["training_rows"] + about["held_out_rows"],
            dimensions=sum(_read(about).values()),
            passes=passes_over(about["training_rows"], study.spec.training.tokens, len(streams)),
            free_disk=shutil.disk_usage(existing(study.folder)).free,
        )

    @property
    def shards_made_from(self) -> str:
        """Digest that belongs to the shards of this study."""
        spec, about = self._study.spec, self._study.store.document(SUBJECT, "subject.json")
        return digest([spec.data, list(_read(about)), spec.activations.shard_blocks])

    @cached_property
    def source(self) -> BlockSource:
        """The activations, those of joined sites among them."""
        joined = [plain(site) for site in self._study.spec.activations.sites if JOIN in site]
        if not joined:
            return self._source
        from reseed.subjects.source import JoinedSource

        return JoinedSource(self._source, joined)

    @property
    def _on_disk(self) -> bool:
        from reseed.subjects.shards import ShardSource

        return isinstance(self._source, ShardSource)

    @cached_property
    def _source(self) -> BlockSource:
        """Of the sites that are read: shards, harvested if not there, or the subject itself."""
        from reseed.subjects.shards import RoundedSource, ShardSource, harvest, harvested

        study, spec = self._study, self._study.spec.activations
        choice = self.choice()
        made_from = self.shards_made_from
        whole = harvested(study.store, made_from)
        if choice.keep == "live" and not whole:
            self._events.say(f"activations live from the subject: {choice.reason}")
            self._change()
            return RoundedSource(self.opened.source, spec.dtype)
        _set_threads(study)
        if not whole:
            self._events.say(f"activations to shards: {choice.reason}")
            opened, events = self.opened, self._events
            change = self._change()
            harvest(opened.source, opened.blocks, spec, study.store, made_from, events, change)
        return ShardSource(study.store)

    def _change(self) -> dict[str, Any] | None:
        """What it does to the activations that the subject computes in another format."""
        subject, text = self._study.spec.subject, self.opened.text
        if not isinstance(subject, LanguageModelSpec) or text is None:
            return None
        from reseed.subjects.models.precision import kept_change

        source, store, made_from = self.opened.source, self._study.store, self.shards_made_from
        return kept_change(subject, source, text, store, made_from, self._events)


def _later(run: RunSpec) -> tuple[str, ...]:
    return run.sae.end_to_end.sites if run.sae.end_to_end else ()


def _read(about: dict[str, Any]) -> dict[str, int]:
    """Sites that are read, with their dimensions; folders made before joined sites lack `read`."""
    return about.get("read", about["sites"])


def _nowhere() -> None:
    """Rows that were made up stand nowhere in a text."""


def _set_threads(study: Study) -> None:
    if study.spec.training.threads:
        import torch

        torch.set_num_threads(study.spec.training.threads)
