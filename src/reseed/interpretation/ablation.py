"""What dropping latents that come back costs, beside dropping orphans of the same firing mass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reseed.errors import SpecError
from reseed.events import Events
from reseed.formats import own
from reseed.interpretation.records import Latent
from reseed.interpretation.sample import KINDS, live_kinds
from reseed.records import Floats
from reseed.runs import Group, evidence_name
from reseed.seeds import generator
from reseed.spec.subject import LanguageModelSpec
from reseed.study import Study
from reseed.subjects.inputs import Inputs
from reseed.subjects.models.causal import CausalModel

if TYPE_CHECKING:
    from reseed.evidence.ablation import CrossEntropy


ANY = "any live"
"""A random half of the live latents: what dropping costs whatever comes back."""


def functional_of(
    study: Study, group: Group, events: Events, seed: int = 0, *, tokens: int = 0
) -> dict[str, Any]:
    """Drop latents of each kind of the first run of a group at equal firing mass, on held-out rows.

    Args:
        study: with results.
        group: of runs.
        events: progress.
        seed: of the draws.
        tokens: held-out ones on which cross-entropy is measured too, if the subject is a language
            model; 0 for none.

    Returns:
        `run`; `sets` and `differences` (tables of docs/orphans.md as rows), `fvu`, `ce`, `says`;
        only `says` where it could not be measured.

    Raises:
        StoreError: if the activations or a run are damaged.
    """
    from reseed.evidence.ablation import functional_value
    from reseed.sae.model import from_arrays

    run = group.runs[0]
    mine = live_kinds(study.latent_table(group)).filter(run=run)
    sets = {kind: mine.filter(kind=kind)["latent"].to_list() for kind in KINDS}
    every = mine["latent"].to_numpy()
    half = generator("functional-any", seed).permutation(every)[: max(1, len(every) // 2)]
    sets = {name: latents for name, latents in sets.items() if latents}
    sae = from_arrays(own.read_piece(study.store, f"runs/{run}"))
    inputs = Inputs(study, events)
    inputs.look_up_sites()
    site = next(one.spec.site for one in study.runs if one.id == run)
    try:
        found = functional_value(
            sae,
            site,
            inputs.source,
            inputs.split[1],
            study.store.table(evidence_name(run), "firing.parquet"),
            {**sets, ANY: np.sort(half).tolist()},
            events,
            seed=seed,
            cross_entropy=_cross_entropy(inputs, study, site, tokens),
        )
    except SpecError as error:
        return {"run": run, "says": f"not measured: {error}"}
    return {
        "run": run,
        "sets": found.sets.to_dicts(),
        "differences": found.differences.to_dicts(),
        "fvu": found.fvu,
        "ce": found.ce,
        "says": found.says,
    }


def _cross_entropy(inputs: Inputs, study: Study, site: str, tokens: int) -> CrossEntropy | None:
    """How the subject predicts with reconstructions at a site.

    Raises:
        SpecError: if the subject predicts no tokens.
    """
    if not tokens:
        return None
    from reseed.evidence.through import spliced_cross_entropy

    if not isinstance(study.spec.subject, LanguageModelSpec):
        raise SpecError("interpretation.dropping_tokens needs a language model as subject")
    blocks = inputs.held_out_blocks(tokens)
    return spliced_cross_entropy(inputs.spliced, inputs.text, blocks, site)


_TOKENS = 20
"""Kept of each latent; the explainer is shown as many as its settings say."""


def top_logits(
    subject: CausalModel, rows: Mapping[Latent, Floats], site: str
) -> dict[Latent, Sequence[str]]:
    """The tokens that each decoder row raises most, most first.

    Args:
        subject: with its head.
        rows: `[D]` of each latent.
        site: they write to, for messages.

    Raises:
        SpecError: if the site is not as wide as what the head reads.
    """
    model: Any = subject.model
    head = model.get_output_embeddings().weight.detach().float()
    out: dict[Latent, Sequence[str]] = {}
    for latent, row in rows.items():
        if len(row) != head.shape[1]:
            raise SpecError(
                f"interpretation.top_logits: {site} has {len(row)} dimensions, but the head of "
                f"{subject.name} reads {head.shape[1]}; only sites that write to the residual "
                "stream make tokens likely in this way, so set it to false"
            )
        # constants are not taken out: only the order of the tokens counts
        best = torch.topk(head @ torch.from_numpy(row.copy()).float(), _TOKENS).indices
        out[latent] = subject.tokenizer.pieces(best.tolist())
    return out
