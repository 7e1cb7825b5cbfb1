"""What counterparts do, on a group's page: what they add, and whether they stand in."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from reseed.report.html import Html, Inside, count, decimals, interval, join, table, tag, text
from reseed.report.parts import note
from reseed.spec.statistics import Contributions, Estimate, Substitution, SubstitutionPart

KINDS = {
    "matched": "counterpart, shared",
    "orphan": "best of an unshared latent",
    "wrong": "another that fires as often",
    "copy": "itself at four fifths",
}
"""Kinds of partners, as a table names them."""


def what_they_do(
    contributions: Contributions | None, substitution: Substitution | None
) -> Html | None:
    """What counterparts add to reconstructions, and what they do in each other's place."""
    if contributions is None and substitution is None:
        return None
    inside: list[Inside] = [tag("h3", "What counterparts do")]
    if contributions is not None:
        inside.append(
            note(
                text(
                    "contributions",
                    value=_told(contributions),
                    null=decimals(contributions.null_frequency.mean),
                    explained=decimals(contributions.explained),
                )
            )
        )
    if substitution is not None:
        inside += [_replaced(substitution), note(text("substitution"))]
    return tag("section", *inside)


def _replaced(of: Substitution) -> Html | None:
    rows = [*_rows(of.kinds, KINDS), *_rows(of.by_cosine), *_rows(of.by_rate)]
    return table(rows, caption="Partners in the place of latents")


def _rows(
    parts: Mapping[str, SubstitutionPart], names: Mapping[str, str] | None = None
) -> list[dict[str, Inside]]:
    return [
        {
            "partner": (names or {}).get(key, key),
            "pairs": count(part.pairs),
            "R, by KL": _told(part.kl),
            "R, by cross-entropy": _told(part.cross_entropy),
        }
        for key, part in parts.items()
    ]


def _told(number: Estimate) -> Html:
    if number.interval_95 is None:
        return join(decimals(number.value))
    return join(f"{decimals(number.value)} ({interval(number.interval_95, decimals)})")


def what_pairs_add(pairs: Mapping[str, pl.DataFrame]) -> Html | None:
    """What matched latents add to reconstructions; None where the SAEs were not run.

    Args:
        pairs: label to the latents of A, with contribution, null_contribution and act_corr.
    """
    rows: list[dict[str, Inside]] = []
    for label, latents in pairs.items():
        if "contribution" not in latents.columns:
            continue
        matched = latents.drop_nulls("contribution")
        columns = ("contribution", "null_contribution", "act_corr")
        means = (matched[column].mean() for column in columns)
        value, chance, together = (m if isinstance(m, float) else None for m in means)
        row: dict[str, Inside] = {"A and B": label, "latents of A that fire": count(len(matched))}
        row |= {"cosine of contributions": decimals(value), "chance": decimals(chance)}
        rows.append(row | {"correlation of activations": decimals(together)})
    shown = table(rows, caption="What matched latents add to reconstructions")
    return join(shown, note(text("added"))) if rows else None
