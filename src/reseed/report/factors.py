"""What width, k and tokens do, over all groups of a study."""

from __future__ import annotations

from collections.abc import Mapping

from reseed.matching.measures import PW_MCC
from reseed.report.figures import FACTORS, MEASURES
from reseed.report.html import (
    NONE,
    Html,
    Inside,
    decimals,
    interval,
    mean_and_range,
    percent,
    table,
    tag,
    text,
)
from reseed.report.parts import choices, figure, note, pair
from reseed.spec.statistics import Headline
from reseed.spec.summary import Effect, Factors, StudyGroup, Summary

_DOUBLED = ("latents", "k", "tokens")
"""Factors that are numbers."""


def factors_section(summary: Summary) -> Html | None:
    """Sentences, figures and tables; None where groups were not compared."""
    factors = summary.factors
    if factors is None:
        return None
    # Tokens vary within every run; only what differs between SAEs can be in the title.
    levels = _levels(factors)
    doubled = [FACTORS[name] for name in _DOUBLED if levels.get(name, 1) > 1]
    words = [tag("li", sentence[:1].upper() + sentence[1:]) for sentence in factors.words]
    parts: list[Html | None] = [tag("ul", *words)]
    if doubled:
        parts += [_figures(factors, doubled), _effects(factors, levels)]
    parts += [_beside(summary), _across(factors)]
    title = f"What {_and(doubled)} {'do' if len(doubled) > 1 else 'does'}"
    if doubled in ([], [FACTORS["tokens"]]):
        title = "How the SAEs differ"
    return tag("section", tag("h2", title), *parts, id="factors")


def _levels(factors: Factors) -> dict[str, int]:
    """Factor to the number of its levels."""
    if not factors.measures:
        return {}
    effects = next(iter(factors.measures.values())).effects
    return {name: len(effect.levels) for name, effect in effects.items() if name in FACTORS}


def _and(names: list[str]) -> str:
    *first, last = names or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _figures(factors: Factors, against: list[str]) -> Html:
    measure = ("measure", [MEASURES[name] for name in factors.measures])
    lists = choices(measure=measure, against=("against", against))
    return pair(
        figure("factors", lists, against=_and(against)),
        figure("factor-spread", choices(measure=measure)),
    )


def _effects(factors: Factors, levels: Mapping[str, int]) -> Html | None:
    """The change with each doubling, by factor and measure; factors that vary."""
    rows: list[dict[str, Inside]] = [
        {
            "change with": f"doubling {FACTORS[factor]}",
            **{
                MEASURES[name]: _change(numbers.effects.get(factor), mean=name == PW_MCC.id)
                for name, numbers in factors.measures.items()
            },
        }
        for factor in _DOUBLED
        if levels.get(factor, 1) > 1
    ]
    caption = "Change with each doubling, all else equal (95% interval); shares in points"
    return table(rows, caption=caption)


def _change(effect: Effect | None, *, mean: bool) -> str:
    number = None if effect is None else effect.doubling
    if number is None or number.value is None:
        return NONE
    scale, digits = (1.0, 3) if mean else (100.0, 1)
    value = f"{scale * number.value:+.{digits}f}"
    if number.interval_95 is None:
        return value
    low, high = (f"{scale * end:+.{digits}f}" for end in number.interval_95)
    return f"{value} ({low} to {high})"


def _beside(summary: Summary) -> Html:
    """Agreement of each group beside its untrained pair and how far it moved from its start."""
    rows = [_group_row(group, headline) for group in summary.groups if (headline := group.headline)]
    shown = table(rows, caption="Agreement beside distance from the start")
    return tag("div", shown, note(text("beside")))


def _group_row(group: StudyGroup, headline: Headline) -> dict[str, Inside]:
    shared = headline.shared["all"]
    return {
        "SAE": group.label,
        "shared": percent(shared.value),
        "95% interval": interval(shared.interval_95),
        "chance-corrected": percent(shared.chance_corrected),
        "mean cosine": decimals(headline.pw_mcc["all"].value),
        "untrained pair": percent(shared.null_untrained),
        "cosine to its start": mean_and_range(group.distance_from_init),
        "FVU, held out": mean_and_range(group.reconstruction.fvu),
    }


def _across(factors: Factors) -> Html | None:
    """Latents of one group that come back in another."""
    labels = {group["group"]: group["label"] for group in factors.groups}
    rows: list[dict[str, Inside]] = []
    for two in factors.across:
        if two.found and two.found_back and two.nearest and two.pw_mcc:
            rows.append(
                {
                    "latents of": labels[two.small],
                    "found in": labels[two.large],
                    "pairs": f"{two.pairs}",
                    "shared at tau": percent(two.found.value),
                    "95% interval": interval(two.found.interval_95),
                    "chance": percent(two.found.null),
                    "nearest, not one to one": percent(two.nearest.value),
                    "shared the other way": percent(two.found_back.value),
                    "mean cosine": decimals(two.pw_mcc.value),
                    "its 95% interval": interval(two.pw_mcc.interval_95, decimals),
                }
            )
    return table(rows, caption="SAEs matched with each other", words=("found in",))
