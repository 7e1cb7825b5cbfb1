"""The answers at the top of a study's page, its first tables, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reseed.matching.measures import MATCH_AT_FDR, PW_MCC, SHARED
from reseed.report.facts import GroupFacts
from reseed.report.html import (
    Html,
    Inside,
    decimals,
    interval,
    join,
    marked,
    percent,
    table,
    tag,
    text,
)
from reseed.report.parts import answer, at_most, figure, note
from reseed.spec.statistics import Headline, Number
from reseed.spec.summary import StudyGroup, Summary, Training

Groups = Sequence[StudyGroup]

_NONE = 0.0005
"""A share below it is shown as none."""


# -- the answers ---------------------------------------------------------------------------------


def verdict(summary: Summary, facts: Sequence[GroupFacts]) -> list[Html | None]:
    """What the study found in one sentence, and which number to quote for which question."""
    groups = [g for g in summary.groups if g.headline is not None]
    if not groups:
        return [answer(None, marked(text("one-run-each" if summary.groups else "no-run")))]
    differs = _what_differs(summary.training, groups)
    return [answer(None, _lead(groups, facts, differs)), _seen(groups), _which(groups, differs)]


def _seen(groups: Groups) -> Html | None:
    """Where there is one group, the histogram that the answer is read off."""
    if len(groups) > 1:
        return None
    return tag("div", figure("cosines", data={"data_view": "decoder"}), data_group="0")


def _lead(groups: Groups, facts: Sequence[GroupFacts], differs: str) -> Html:
    """One sentence: what comes back, and what resembles something; near misses if nothing does."""
    related = _range(groups, MATCH_AT_FDR, brief=True)
    numbers = [number for group in groups if (number := _number(group, SHARED.id))]
    if any((number.value or 0.0) >= _NONE for number in numbers):
        words = text("lead", range=_range(groups, SHARED.id, brief=True), differs=differs)
    else:
        near = [fact.near_miss for fact in facts if fact.near_miss is not None]
        tau = f"{_headline_of(groups[0]).tau:g}"
        words = text("lead-none", differs=differs, near=_between(near), tau=tau)
    return join(words, text("lead-related", range=related) if related else None, ".")


def _between(values: Sequence[float]) -> Html:
    if not values:
        return tag("strong", "unknown")
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return tag("strong", low if low == high else f"{low} to {high}")


def _what_differs(training: Training, groups: Groups) -> str:
    init, data = len(training.init_seeds) > 1, len(training.data_seeds) > 1
    if init and data:
        apart = all(g.independent and g.independent.they == "share neither seed" for g in groups)
        return "another init seed and another order of its data" if apart else "other seeds"
    return "another order of its data" if data else "another init seed"


def _headline_of(group: StudyGroup) -> Headline:
    assert group.headline is not None
    return group.headline


def _number(group: StudyGroup, measure: str) -> Number | None:
    """A headline number on all latents; None where it has no value."""
    number = _headline_of(group).of(measure).get("all")
    return number if number and number.value is not None else None


def _range(groups: Groups, measure: str, *, brief: bool = False) -> Html | None:
    """The number of one SAE with its interval, or the range over several; None without any."""
    numbers = [(n, g.label) for g in groups if (n := _number(g, measure)) is not None]
    if not numbers:
        return None
    shown = decimals if measure == PW_MCC.id else percent
    ordered = sorted(numbers, key=lambda pair: pair[0].value or 0.0)
    ends = [tag("strong", shown(number.value)) for number, _ in ordered]
    if ends[0] == ends[-1] and (brief or len(ends) > 1):
        each = {1: None, 2: " in both SAEs"}.get(len(ends), f" in each of {len(ends)} SAEs")
        return join(ends[0], None if brief else each)
    if brief and (ordered[0][0].value or 0.0) < _NONE:
        return join("up to ", ends[-1])
    if brief:
        return join(ends[0], " to ", ends[-1])
    intervals = [interval(number.interval_95, shown) for number, _ in ordered]
    if len(numbers) == 1:
        few = "too few runs for an interval"
        return join(ends[0], f" ({few if intervals[0] == '–' else f'95% interval {intervals[0]}'})")
    about = [
        f" ({ordered[n][1]}{'' if intervals[n] == '–' else f'; 95% interval {intervals[n]}'})"
        for n in (0, -1)
    ]
    return join(ends[0], about[0], " to ", ends[-1], about[1])


def _which(groups: Groups, differs: str) -> Html:
    """Each question beside the number that answers it, and that number beside chance."""
    tau = f"{_headline_of(groups[0]).tau:g}"
    rows: list[dict[str, Inside]] = []
    for measure, name in ((SHARED.id, "shared"), (MATCH_AT_FDR, "fdr"), (PW_MCC.id, "mean")):
        if (range_ := _range(groups, measure)) is None:
            continue
        rows.append(
            {
                "question": text(f"question-{name}"),
                "quote": text(f"quote-{name}", range=range_, tau=tau, differs=differs),
                "chance": _chance(groups, measure),
            }
        )
    shown = table(
        rows, caption="Which number to quote", words=("quote", "chance"), class_="numbers which"
    )
    return tag("div", shown, note(text("why-two", tau=tau)), class_="first")


def _chance(groups: Groups, measure: str) -> Html:
    numbers = [number for group in groups if (number := _number(group, measure))]
    shown = decimals if measure == PW_MCC.id else percent
    nulls = [n.null_covariance.mean for n in numbers if n.null_covariance]
    known = [mean for mean in nulls if mean is not None]
    untrained = [n.null_untrained for n in numbers if n.null_untrained is not None]
    chance = at_most(known, shown) if known else "Chance was not measured"
    return join(chance, ", untrained ", at_most(untrained, shown)) if untrained else join(chance)


# -- what to do next -----------------------------------------------------------------------------


def next_steps(summary: Summary, facts: Sequence[GroupFacts]) -> Html | None:
    """Commands that go on from here; what the study lacks is in the notes, with its keys."""
    if not any(group.headline for group in summary.groups):
        return None
    steps = ["explore", "export"]
    steps += ["explain"] if any(card.contexts for fact in facts for card in fact.most) else []
    found = any(
        (number := _number(group, SHARED.id)) and (number.value or 0.0) >= _NONE
        for group in summary.groups
        if group.headline is not None
    )
    steps += ["predict", "consensus"] if found else []
    items = (tag("li", marked(text(f"next-{step}", study=summary.study))) for step in steps)
    return tag("section", tag("h2", "What to do next"), tag("ul", *items), class_="next")


# -- what weakens the numbers ---------------------------------------------------------------------


def weaknesses(groups: Groups, failures: Mapping[str, str], missing: Sequence[str]) -> list[Inside]:
    """Notes of the groups, each said once with the SAEs it is of, and the runs that are not there.

    Notes that begin alike and differ in numbers become one, with the numbers folded.
    """
    kinds: dict[str, dict[str, list[str]]] = {}
    for group in groups:
        for weakness in group.notes:
            what, dot, rest = weakness.partition(". ")
            kinds.setdefault(what + dot, {}).setdefault(rest, []).append(group.label)
    out: list[Inside] = []
    for what, numbers in kinds.items():
        named = list(dict.fromkeys(label for labels in numbers.values() for label in labels))
        of = f"{_named(named, len(groups))}: " if len(groups) > 1 else ""
        begin = of + what if of else what[:1].upper() + what[1:]
        if len(numbers) == 1:
            out.append(marked(begin + next(iter(numbers))))
            continue
        each = (tag("li", f"{', '.join(of)}: ", marked(r)) for r, of in numbers.items())
        out.append(
            join(marked(begin), tag("details", tag("summary", "in numbers"), tag("ul", *each)))
        )
    out += [text("failed", run=tag("code", r), reason=f", {why}") for r, why in failures.items()]
    return out + [text("missing", run=tag("code", run)) for run in missing]


def _named(labels: Sequence[str], groups: int) -> str:
    if len(labels) == groups:
        return "Both SAEs" if groups == 2 else f"All {groups} SAEs"
    return ", ".join(labels) if len(labels) <= 3 else f"{len(labels)} of {groups} SAEs"
