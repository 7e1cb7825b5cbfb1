"""What ablating latents that come back costs, beside ablating orphans of the same firing mass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from reseed.errors import SpecError
from reseed.events import Events
from reseed.formats import own
from reseed.interpretation.strata import KINDS, live_kinds
from reseed.runs import Group, evidence_name
from reseed.seeds import generator
from reseed.spec.subject import LanguageModelSpec
from reseed.study import Study
from reseed.subjects.inputs import Inputs

if TYPE_CHECKING:
    from reseed.evidence.function import CrossEntropy


ANY = "any live"
"""A random half of the live latents: what ablating costs whatever comes back."""


def functional_of(
    study: Study, group: Group, events: Events, seed: int = 0, *, tokens: int = 0
) -> dict[str, Any]:
    """Ablate latents of each kind of the first run of a group, at equal firing mass.

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
    """
    from reseed.evidence.function import functional_value
    from reseed.sae.model import from_arrays

    run = group.runs[0]
    live = live_kinds(study.latent_table(group)).filter(run=run)
    sets = {kind: live.filter(kind=kind)["latent"].to_list() for kind in KINDS}
    every = live["latent"].to_numpy()
    half = generator("functional-any", seed).permutation(every)[: max(1, len(every) // 2)]
    sets = {name: latents for name, latents in sets.items() if latents}
    sae = from_arrays(own.read_piece(study.store, f"runs/{run}"))
    inputs = Inputs(study, events)
    site = next(r.spec.site for r in study.runs if r.id == run)
    try:
        ablated = functional_value(
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
        "sets": ablated.sets.to_dicts(),
        "differences": ablated.differences.to_dicts(),
        "fvu": ablated.fvu,
        "ce": ablated.ce,
        "says": ablated.says,
    }


def _cross_entropy(inputs: Inputs, study: Study, site: str, tokens: int) -> CrossEntropy | None:
    """How the subject predicts with reconstructions at a site."""
    if not tokens:
        return None
    from reseed.evidence.function import spliced_cross_entropy

    if not isinstance(study.spec.subject, LanguageModelSpec):
        raise SpecError("interpretation.dropping_tokens needs a language model as subject")
    blocks = inputs.text.first(inputs.split[1], tokens)
    return spliced_cross_entropy(inputs.spliced, inputs.text, blocks, site)
