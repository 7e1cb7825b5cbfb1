"""What explaining and scoring left in a study: read without asking anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from reseed.errors import SpecError, StoreError
from reseed.interpretation.spec import InterpretationSpec, explanations_name, scores_name
from reseed.products import groups_of
from reseed.stability.given import Group
from reseed.study import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """The explanations of a group."""

    group: str
    table: pl.DataFrame
    """columns of `reseed.interpretation.tables.EXPLANATIONS`"""
    says: str
    """which latents, and what their scores will be able to show"""
    gain: str | None
    """what refining gained, if it was asked for"""
    accounts: Mapping[str, Any]
    """calls, tokens and cost of each purpose, those before remembered"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The scores of a group."""

    group: str
    table: pl.DataFrame
    """columns of `reseed.interpretation.tables.SCORES`"""
    comparison: Mapping[str, Any]
    """see `reseed.interpretation.summary.comparison`"""
    functional: Mapping[str, Any]
    """see `reseed.dropping.functional_of`"""
    accounts: Mapping[str, Any]


def read_explained(study: Study, group: Group) -> Explained:
    """The explanations that are there.

    Raises:
        StoreError: if there are none.
    """
    name = explanations_name(group.name)
    if not study.store.has(name):
        raise StoreError(f"{group.label} has no explanations yet; `reseed explain` makes them")
    about = study.store.document(name, "about.json")
    table = study.store.table(name, "explanations.parquet")
    return Explained(group=group.label, table=table, **about)


def read_scored(study: Study, group: Group) -> Scored:
    """The scores that are there.

    Raises:
        StoreError: if there are none.
    """
    name = scores_name(group.name)
    if not study.store.has(name):
        raise StoreError(f"{group.label} has no scores yet; `reseed score` makes them")
    table = study.store.table(name, "scores.parquet")
    return Scored(group=group.label, table=table, **study.store.document(name, "about.json"))


def chosen_groups(study: Study, wanted: str | None) -> list[Group]:
    """The groups that can be compared, or the one named.

    Raises:
        SpecError: if there is no such group, or none with two runs.
        StoreError: if the study has no results.
    """
    found = [group for group in groups_of(study, wanted) if len(group.runs) > 1]
    if not found:
        raise SpecError(
            f"{study.folder} has no group of two finished runs or more, so which latents come back "
            "is not known; add seeds"
        )
    return found


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
