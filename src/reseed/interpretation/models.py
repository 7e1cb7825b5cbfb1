"""The models that interpretation works with, opened when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from reseed.errors import SpecError, needs_train
from reseed.events import Events
from reseed.formats import own
from reseed.interpretation.accounts import Account
from reseed.interpretation.client_spec import BudgetSpec, ModelSpec
from reseed.interpretation.clients import open_asker
from reseed.interpretation.records import Asker, Latent
from reseed.records import Floats
from reseed.store import Store
from reseed.subjects.spec import LanguageModelSpec, SubjectSpec

if TYPE_CHECKING:
    from reseed.interpretation.instruments import Steerable
    from reseed.subjects.causal import CausalModel

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
        from reseed.subjects.causal import load_causal

    return load_causal(subject)


def steered(subject: SubjectSpec, sites: set[str]) -> dict[str, Steerable]:
    """Site to the subject steered there; one model in memory."""
    from reseed.interpretation.steering import SteeredModel

    model = causal(subject)
    return {site: SteeredModel(model.model, model.wrapped, site, ends=model.ends) for site in sites}


def directions(store: Store, of: Sequence[Latent]) -> dict[Latent, Floats]:
    """[D] decoder row of each latent."""
    saes = {run: own.read_piece(store, f"runs/{run}") for run in {one.run for one in of}}
    return {one: saes[one.run].W_dec[one.latent] for one in of}
