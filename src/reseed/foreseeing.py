"""What explaining and scoring a study would ask, before anything is asked."""

from __future__ import annotations

from dataclasses import replace

from reseed.interpretation.client_spec import ServerSpec
from reseed.interpretation.cost_table import costs_of_a_latent
from reseed.interpretation.costs import Cost
from reseed.interpretation.explaining import RANDOM
from reseed.interpretation.items import Examples, latents_in
from reseed.interpretation.records import Explanation
from reseed.interpretation.sampling import sample_latents
from reseed.interpretation.spec import InterpretationSpec
from reseed.products import latents_of
from reseed.stability.given import Group
from reseed.stability.stage import stability_name
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


def asks(study: Study) -> list[str]:
    """A sentence for each group on what explaining and scoring it would take; none if not wanted.

    Calls that are in a journal already are counted too. The time is that of the model.
    """
    spec = study.spec.interpretation
    if spec is None:
        return []
    ready = [one for one in study.groups() if study.store.has(stability_name(one.name))]
    if not ready:
        return ["after training, `reseed explain --dry` counts what [interpretation] would ask"]
    return [_sentence(study, spec, one) for one in ready if len(one.runs) > 1]


def _sentence(study: Study, spec: InterpretationSpec, group: Group) -> str:
    costs = [ours for ours, _ in foreseen(study, spec, group)[0].values()]
    prompt = sum(one.prompt_tokens for one in costs)
    reply = sum(one.reply_tokens for one in costs)
    prices = spec.explainer.prices if isinstance(spec.explainer, ServerSpec) else None
    money = "" if prices is None else f", cost {prices.cost(prompt, reply):.3g}"
    return (
        f"explaining and scoring {group.label}: {sum(one.calls for one in costs):,} calls, "
        f"{prompt:,} + {reply:,} tokens{money}"
    )
