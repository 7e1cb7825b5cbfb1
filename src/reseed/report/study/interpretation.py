"""What the latents of a group were explained as, and how the explanations did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reseed.report.html import Html, Inside, join, table, tag
from reseed.report.numbers import NONE, count
from reseed.report.study.cards import texts
from reseed.report.study.reading import KINDS, InterpretationFacts, Said

_BESIDE = ("shuffled", "random")


def interpretation_section(facts: InterpretationFacts | None) -> Html | None:
    """Scores by how often latents came back, then the explanations themselves."""
    if facts is None:
        return None
    failed = f" {facts.failed} of them got no usable explanation." if facts.failed else ""
    parts: list[Inside] = [tag("p", facts.says, failed, class_="caption")]
    if facts.comparison is None:
        parts.append(tag("p", "Not scored yet: `reseed score` does it.", class_="empty"))
    else:
        parts += [_scores(facts.comparison), *_sentences(facts.comparison)]
        parts.append(tag("p", facts.functional))
    parts += [_explanations(facts, kind) for kind in KINDS]
    return tag("section", tag("h3", "Explanations"), *parts, class_="explanations")


def _scores(comparison: dict[str, Any]) -> Html:
    head: list[Inside] = ["scorer", *KINDS, "shuffled", "random latents", "chance", "failed"]
    rows = [_score_row(one) for one in comparison["scorers"]]
    return table(head, rows, caption="Mean score by kind of latent, 95 %", class_="numbers")


def _score_row(one: dict[str, Any]) -> list[Html]:
    kinds = {row["kind"]: row for row in one["kinds"]}
    cells = [_mean(kinds.get(kind)) for kind in KINDS]
    cells += [_three(one["controls"].get(name)) for name in _BESIDE]
    cells += [_three(one["chance"]), count(one["failed_questions"])]
    name = tag("th", one["scorer"].replace("_", " "), scope="row")
    return [name, *(tag("td", cell) for cell in cells)]


def _mean(row: dict[str, Any] | None) -> str:
    if row is None or row["mean"] is None:
        return NONE
    if row["lo"] is None:
        return _three(row["mean"])
    return f"{row['mean']:.3f} ({row['lo']:.3f} to {row['hi']:.3f})"


def _three(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _sentences(comparison: dict[str, Any]) -> list[Html]:
    said = [one["says"] for one in comparison["scorers"]] + comparison.get("unscored", [])
    if comparison["similarity"] is not None:
        said.append(comparison["similarity"]["says"])
    return [tag("p", one) for one in said]


def _explanations(facts: InterpretationFacts, kind: str) -> Html | None:
    mine = [one for one in facts.said if one.row["kind"] == kind]
    if not mine:
        return None
    title = tag("h4", {"partly": "Partly reproducible"}.get(kind, kind.capitalize()))
    return join(title, tag("div", *map(_card, mine), class_="cards"))


def _card(one: Said) -> Html:
    row = one.row
    said: Inside = row["explanation"]
    if said is None:
        said = tag("i", f"no explanation: {row['failure']}")
    title = tag("h4", f"Latent {row['latent']:,}", tag("small", row["run"]))
    words: list[Inside] = [tag("p", said, class_="said", dir="auto")]
    if one.partner is not None:
        words.append(tag("p", "in another run: ", one.partner, class_="said other", dir="auto"))
    return tag("article", title, *words, _facts(one.scores), texts(one.contexts), class_="card")


def _facts(scores: dict[str, dict[str, Any]]) -> Html | None:
    if not scores:
        return None
    shown: Sequence[Html] = [
        tag("div", tag("dt", name.replace("_", " ")), tag("dd", _three(row["value"])))
        for name, row in scores.items()
    ]
    return tag("dl", *shown)
