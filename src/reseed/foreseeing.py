"""What explaining and scoring a study would ask, before anything is asked."""

from __future__ import annotations

from dataclasses import replace

from reseed.interpretation.cost_table import costs_of_a_latent
from reseed.interpretation.costs import Cost
from reseed.interpretation.explaining import RANDOM
from reseed.interpretation.items import Examples, latents_in
from reseed.interpretation.records import Explanation
from reseed.interpretation.sampling import sample_latents
from reseed.interpretation.spec import InterpretationSpec
from reseed.products import latents_of
from reseed.stability.given import Group
from reseed.study import Study


def foreseen(
    study: Study, spec: InterpretationSpec, group: Group
) -> tuple[dict[str, tuple[Cost, Cost | None]], str]:
    """What explaining and scoring a group would ask, counted on the prompts themselves.

    Returns:
        Name to cost and to what the released pipeline asks for the same question; which latents,
        and what their scores will be able to show.

    Raises:
        SpecError, StoreError: as `explain_group`.
    """
    plan = sample_latents(latents_of(study, group), spec.per_kind, spec.seed)
    of = latents_in(plan.latents)
    examples = Examples(study.store, of)
    latent = max(of, key=lambda one: len(examples.to_score(one, "score", spec).examples))
    shown = examples.to_explain(latent, spec)
    judged = examples.to_score(latent, "score", spec)
    said = Explanation(of=latent, text="words that say what the latent fires on", model="")
    settings = {
        "detection": spec.detection,
        "fuzzing": spec.fuzzing,
        "intruder": spec.intruder,
        "simulation": spec.simulation,
    }
    each = costs_of_a_latent(
        shown, replace(judged, explanation=said), explaining=spec.explain, settings=settings
    )
    names = {"explain", *(name.replace("_", " ") for name in spec.scorers)}
    sides = {"explain": len(of) * (2 if RANDOM in spec.controls else 1)}
    out: dict[str, tuple[Cost, Cost | None]] = {}
    for name, (ours, theirs) in each.items():
        if name in names:
            times = sides.get(name, len(of) * (1 + len(spec.controls)))
            out[name] = (ours.times(times), None if theirs is None else theirs.times(len(of)))
    return out, plan.says
