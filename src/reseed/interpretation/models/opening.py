"""From what a study says about its models to something that can be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reseed.errors import SpecError, needs_train
from reseed.events import Events
from reseed.formats import own
from reseed.interpretation.models.accounts import Account
from reseed.interpretation.models.asking import JournaledAsker
from reseed.interpretation.models.embedding import HashedWords, SentenceModel, ServerEmbedder
from reseed.interpretation.models.http import HTTPModel
from reseed.interpretation.models.instruments import Embedder
from reseed.interpretation.models.journal import Journal
from reseed.interpretation.records import LLM, Asker, Latent
from reseed.records import Floats
from reseed.spec.llm import (
    BudgetSpec,
    EmbedderSpec,
    LocalSpec,
    ModelSpec,
    SentenceModelSpec,
    ServerEmbedderSpec,
)
from reseed.spec.subject import LanguageModelSpec, SubjectSpec
from reseed.store import Store

if TYPE_CHECKING:
    from reseed.interpretation.models.instruments import Steerable
    from reseed.subjects.language.model import CausalModel


def open_model(spec: ModelSpec) -> LLM:
    """The model that a spec names; a local one is loaded here.

    Raises:
        ImportError: naming the extra that is missing.
        SpecError: if a key or a package is missing.
        SubjectError: if a local model cannot be loaded.
    """
    if isinstance(spec, LocalSpec):
        from reseed.interpretation.models.local import LocalModel

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


JOURNALS = "journals"
"""Folder of a study with everything that models were asked and answered."""

AskerOf = Callable[[ModelSpec, str], Asker]
"""From a model and a purpose to what asks it; tests give a fake."""


def opener(store: Store, budget: BudgetSpec, events: Events, open_now: ExitStack) -> AskerOf:
    """What opens models behind journals of a study; closed with the stack."""

    def opened(model: ModelSpec, purpose: str) -> Asker:
        journal = store.path(JOURNALS) / f"{purpose}.jsonl"
        return open_now.enter_context(open_asker(model, journal, budget, events))

    return opened


def accounts(asker: Asker) -> dict[str, Any]:
    """Purpose to calls, tokens and cost, of an asker that counts them."""
    known: Callable[[], Mapping[str, Account]] | None = getattr(asker, "accounts", None)
    return {} if known is None else {name: asdict(one) for name, one in known().items()}


def causal(subject: SubjectSpec) -> CausalModel:
    """The subject with its head.

    Raises:
        SpecError: if it is no language model.
        SubjectError: if it cannot be loaded.
    """
    if not isinstance(subject, LanguageModelSpec):
        raise SpecError(
            f"a subject of kind {subject.kind!r} writes no text; take `intervention` out of the "
            "scorers and set top_logits to false"
        )
    with needs_train("steering the subject"):
        from reseed.subjects.language.model import load_causal

    return load_causal(subject)


def steered(subject: SubjectSpec, sites: set[str]) -> dict[str, Steerable]:
    """Site to the subject steered there; one model in memory."""
    from reseed.interpretation.models.steering import SteeredModel

    model = causal(subject)
    return {site: SteeredModel(model.model, model.wrapped, site, ends=model.ends) for site in sites}


def directions(store: Store, of: Sequence[Latent]) -> dict[Latent, Floats]:
    """[D] decoder row of each latent."""
    saes = {run: own.read_piece(store, f"runs/{run}") for run in {one.run for one in of}}
    return {one: saes[one.run].W_dec[one.latent] for one in of}
