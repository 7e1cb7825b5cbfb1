"""Explaining a sample of latents of a study, and searching for better explanations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import polars as pl

from reseed.interpretation.explain import explain
from reseed.interpretation.items import Examples, latents_in, random_items
from reseed.interpretation.records import Asker, Example, Explanation, Failure, Item, Latent
from reseed.interpretation.refine import refine_all
from reseed.interpretation.refine_detection import Detector
from reseed.interpretation.refine_gain import gain
from reseed.interpretation.refined import Refined, RefineSpec
from reseed.interpretation.sampling import SamplePlan, partners
from reseed.interpretation.spec import InterpretationSpec
from reseed.interpretation.tables import explanation_rows
from reseed.store import Store

RANDOM, PARTNER = "random", "partner"
"""Kinds of explained latents that are not in the sample: see `explain_sample`."""


def explain_sample(
    store: Store,
    latents: pl.DataFrame,
    plan: SamplePlan,
    spec: InterpretationSpec,
    asker: Asker,
    likely: Callable[[Sequence[Latent]], Mapping[Latent, Sequence[str]]] | None = None,
) -> tuple[pl.DataFrame, str | None]:
    """Explain a sample of latents, a second member of each family in it, and random latents.

    Args:
        store: of the study.
        latents: of the group, see docs/latent_table.md.
        plan: the sample.
        spec: how.
        asker: explains.
        likely: from latents to the tokens that each makes likely; None to show none.

    Returns:
        Columns of `reseed.interpretation.tables.EXPLANATIONS`; what refining gained, if asked for.

    Raises:
        SpecError: if there are no examples of text.
        StoreError: if the evidence is missing or damaged.
    """
    mates = partners(plan, latents, spec.seed)
    of = [*latents_in(plan.latents), *latents_in(mates)]
    kinds = [*plan.latents["kind"], *[PARTNER] * len(mates)]
    examples = Examples(store, of)
    items = [examples.to_explain(latent, spec) for latent in of]
    if RANDOM in spec.controls:
        made = random_items(items[: len(plan.latents)], "explain", spec)
        items, kinds = [*items, *made], [*kinds, *[RANDOM] * len(made)]
    shown = None if likely is None else likely(of)
    found = explain(asker, items, spec.explain, top_logits=shown)
    gained = None
    if spec.refine is not None:
        found, gained = _refined(examples, found, asker, spec, spec.refine)
    return explanation_rows([item.of for item in items], kinds, found), gained


def _refined(
    examples: Examples,
    found: Sequence[Explanation | Failure],
    asker: Asker,
    spec: InterpretationSpec,
    asked: RefineSpec,
) -> tuple[list[Explanation | Failure], str]:
    """The best explanations that the search found, judged on examples that it did not see."""
    places = [n for n, one in enumerate(found) if isinstance(one, Explanation)]
    places = [n for n in places if found[n].of in examples]  # pyright: ignore[reportAttributeAccessIssue]
    starts: list[tuple[Item, Sequence[Example]]] = []
    for place in places:
        explanation = found[place]
        assert isinstance(explanation, Explanation)
        item = examples.to_score(explanation.of, "score", spec)
        judge = examples.to_score(explanation.of, "judge", spec).examples
        starts.append((replace(item, explanation=explanation), judge))
    detector = Detector(asker, spec.detection)
    results = refine_all(
        starts,
        asker=asker,
        scorer=detector.score,
        mistakes=detector.mistakes,
        spec=asked,
        calls_to_score=-(-2 * spec.examples // spec.detection.batch),
    )
    out = list(found)
    for place, one in zip(places, results, strict=True):
        if isinstance(one, Refined):
            out[place] = one.best.explanation
    return out, gain(results).says
