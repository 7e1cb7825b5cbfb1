"""From what a study says about its models to something that can be asked."""

from __future__ import annotations

from pathlib import Path

from reseed.events import Events
from reseed.interpretation.asking import JournaledAsker
from reseed.interpretation.client_spec import (
    BudgetSpec,
    EmbedderSpec,
    LocalSpec,
    ModelSpec,
    SentenceModelSpec,
    ServerEmbedderSpec,
)
from reseed.interpretation.embedding import HashedWords, SentenceModel, ServerEmbedder
from reseed.interpretation.http import HTTPModel
from reseed.interpretation.instruments import Embedder
from reseed.interpretation.journal import Journal
from reseed.interpretation.records import LLM


def open_model(spec: ModelSpec) -> LLM:
    """The model that a spec names; a local one is loaded here.

    Raises:
        ImportError: naming the extra that is missing.
        SpecError: if a key or a package is missing.
        SubjectError: if a local model cannot be loaded.
    """
    if isinstance(spec, LocalSpec):
        from reseed.interpretation.local import LocalModel

        return LocalModel.load(spec)
    return HTTPModel(spec)


def open_asker(
    spec: ModelSpec,
    journal: Path,
    budget: BudgetSpec | None = None,
    events: Events | None = None,
) -> JournaledAsker:
    """The model of a spec behind a journal; use it in a `with` block.

    Args:
        spec: which model.
        journal: file, e.g. `STUDY/journal/explain.jsonl`; made if it is missing.
        budget: what may be spent on this model over the life of the journal.
        events: shows progress.

    Raises:
        BusyError: if another process has the journal open.
        ImportError: naming the extra that is missing.
        SpecError: if a key or a package is missing.
        SubjectError: if a local model cannot be loaded.
    """
    model = open_model(spec)
    server = not isinstance(spec, LocalSpec)
    return JournaledAsker(
        model,
        Journal(journal),
        concurrency=spec.concurrency if server else 1,
        prices=spec.prices if server else None,
        budget=budget,
        events=events,
    )


def open_embedder(spec: EmbedderSpec) -> Embedder:
    """What a spec names to embed texts with; a local model is loaded here.

    Raises:
        ImportError: naming the extra that is missing.
        SpecError: if a key or a package is missing.
        SubjectError: if a local model cannot be loaded.
    """
    if isinstance(spec, ServerEmbedderSpec):
        return ServerEmbedder(spec)
    if isinstance(spec, SentenceModelSpec):
        return SentenceModel(spec)
    return HashedWords(spec.dimensions)
