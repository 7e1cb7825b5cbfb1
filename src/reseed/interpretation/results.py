"""Explanations and scores as tables, as they lie in a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from reseed.errors import SpecError, StoreError
from reseed.interpretation.records import Explanation, Failure, Latent, Score
from reseed.runs import Group, explanations_name, scores_name
from reseed.spec.interpretation import InterpretationSpec
from reseed.study import Study

EXPLANATIONS = {
    "run": pl.String,
    "latent": pl.Int64,
    "kind": pl.String,
    "explanation": pl.String,
    "reasoning": pl.String,
    "model": pl.String,
    "settings": pl.String,
    "failure": pl.String,
    "reply": pl.String,
}
"""`kind`: reproducible, partly, orphan, or random for a latent that means nothing; `explanation` is
null where there is a `failure`, and `reply` is what came instead."""

SCORES = {
    "run": pl.String,
    "latent": pl.Int64,
    "control": pl.String,
    "scorer": pl.String,
    "value": pl.Float64,
    "lo": pl.Float64,
    "hi": pl.Float64,
    "chance": pl.Float64,
    "balanced_accuracy": pl.Float64,
    "auroc": pl.Float64,
    "auroc_lo": pl.Float64,
    "auroc_hi": pl.Float64,
    "positives": pl.Int64,
    "negatives": pl.Int64,
    "failed": pl.Int64,
    "failure": pl.String,
}
"""`control`: null for the latents asked about, else `shuffled` or `random`; `value` is null where
there is a `failure`."""

_NUMBERS = (
    "scorer", "value", "chance", "balanced_accuracy", "auroc", "positives", "negatives", "failed",
)  # fmt: skip


def explanation_rows(
    of: Sequence[Latent], kinds: Sequence[str], results: Sequence[Explanation | Failure]
) -> pl.DataFrame:
    """A row for each latent, failures among them."""
    rows: list[dict[str, Any]] = []
    for latent, kind, result in zip(of, kinds, results, strict=True):
        row: dict[str, Any] = {"run": latent.run, "latent": latent.latent, "kind": kind}
        if isinstance(result, Failure):
            row |= {"failure": result.reason, "reply": result.text}
        else:
            row |= {name: getattr(result, name) for name in ("reasoning", "model", "settings")}
            row["explanation"] = result.text
        rows.append(row)
    return pl.DataFrame(rows, schema=EXPLANATIONS)


def explanations_of(table: pl.DataFrame) -> dict[Latent, Explanation]:
    """The explanations in a table; failures are left out."""
    out: dict[Latent, Explanation] = {}
    for row in table.filter(pl.col("explanation").is_not_null()).iter_rows(named=True):
        of = Latent(run=row["run"], latent=row["latent"])
        kept = {name: row[name] for name in ("model", "reasoning", "settings")}
        out[of] = Explanation(of=of, text=row["explanation"], **kept)
    return out


def score_rows(
    scorer: str, control: str | None, of: Iterable[Latent], results: Iterable[Score | Failure]
) -> pl.DataFrame:
    """A row for each latent, failures among them."""
    rows: list[dict[str, Any]] = []
    for latent, result in zip(of, results, strict=True):
        row: dict[str, Any] = {"run": latent.run, "latent": latent.latent, "control": control}
        if isinstance(result, Failure):
            row |= {"scorer": scorer, "failure": result.reason}
        else:
            row["lo"], row["hi"] = result.interval or (None, None)
            row["auroc_lo"], row["auroc_hi"] = result.auroc_interval or (None, None)
            row |= {name: getattr(result, name) for name in _NUMBERS}
        rows.append(row)
    return pl.DataFrame(rows, schema=SCORES)


_ALIKE, _ENOUGH = 0.75, 20
"""Share of the replies to so many questions from which a judge seems not to read them: right
answers about intruders are spread over five places, those of detection over two classes."""


def answered_alike(replies: Mapping[str, Counter[str]]) -> list[str]:
    """A sentence for each purpose whose questions nearly all got the same reply."""
    return [
        f"{purpose}: {count:,} of {said.total():,} replies are {text[:60]!r}; a judge that answers "
        "alike does not read what it is asked, so its scores tell nothing, whatever their "
        "intervals: take another model"
        for purpose, said in replies.items()
        for text, count in said.most_common(1)
        if said.total() >= _ENOUGH and count >= _ALIKE * said.total()
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupExplanations:
    """The explanations of a group."""

    group: str
    table: pl.DataFrame
    """columns of `reseed.interpretation.results.EXPLANATIONS`"""
    says: str
    """which latents, and what their scores will be able to show"""
    gain: str | None
    """what refining gained, if it was asked for"""
    accounts: Mapping[str, Any]
    """calls, tokens and cost of each purpose, those before remembered"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScores:
    """The scores of a group."""

    group: str
    table: pl.DataFrame
    """columns of `reseed.interpretation.results.SCORES`"""
    comparison: Mapping[str, Any]
    """see `reseed.interpretation.similarity.comparison`"""
    functional: Mapping[str, Any]
    """see `reseed.interpretation.ablation.functional_of`"""
    accounts: Mapping[str, Any]


def unanswered(study: Study, name: str) -> int:
    """Questions behind a piece that no model answered; a reply without sense is an answer."""
    accounts = study.store.document(name, "about.json").get("accounts", {})
    return sum(int(account.get("failed", 0)) for account in accounts.values())


def read_explained(study: Study, group: Group) -> GroupExplanations:
    """The explanations that are there."""
    name = explanations_name(group.name)
    if not study.store.has(name):
        raise StoreError(f"{group.label} has no explanations yet; `reseed explain` makes them")
    about = study.store.document(name, "about.json")
    table = study.store.table(name, "explanations.parquet")
    return GroupExplanations(group=group.label, table=table, **about)


def read_scored(study: Study, group: Group) -> GroupScores:
    """The scores that are there."""
    name = scores_name(group.name)
    if not study.store.has(name):
        raise StoreError(f"{group.label} has no scores yet; `reseed score` makes them")
    table = study.store.table(name, "scores.parquet")
    return GroupScores(group=group.label, table=table, **study.store.document(name, "about.json"))


def chosen_groups(study: Study, wanted: str | None) -> list[Group]:
    """The groups that can be compared, or the one named.

    Raises:
        SpecError: if there is no such group, or none with two runs.
        StoreError: if the study has no results.
    """
    groups = [group for group in study.groups_named(wanted) if len(group.runs) > 1]
    if not groups:
        raise SpecError(
            f"{study.folder} has no group of two finished runs or more, so which latents come back "
            "is not known; add seeds"
        )
    return groups


def spec_of(study: Study) -> InterpretationSpec:
    """What the study says about interpretation.

    Raises:
        SpecError: if it says nothing.
    """
    if study.spec.interpretation is None:
        raise SpecError(
            f"{study.folder} names no model to ask. Add a table to its study.toml, e.g.\n"
            '  [interpretation.explainer]\n  model = "qwen2.5-7b-instruct"\n'
            '  base_url = "http://127.0.0.1:8000/v1"\n'
            "docs/models.md has all that can be said there."
        )
    return study.spec.interpretation
