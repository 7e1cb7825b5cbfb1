"""The comparison of groups in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reseed.stability.factors.effects import TOGETHER

NAMES = {
    "site": "the site",
    "architecture": "the architecture",
    "latents": "the width",
    "k": "k",
    "tokens": "the tokens seen",
}

_SHARED, _MEAN = "shared", "pw_mcc"

_MEASURES = {_SHARED: "the shared share", "chance_corrected": "the share above chance",
             "match_at_fdr": "the share with a match at FDR 5 %",
             "shared_live": "the shared share of live latents",
             _MEAN: "the mean matched cosine"}  # fmt: skip


def words(found: Mapping[str, Any]) -> list[str]:
    """What the numbers say, for people.

    Args:
        found: `stability/factors/summary.json` without its words.
    """
    one = found["measures"].get(_SHARED)
    if one is None:
        return ["some group has no pair of runs, so groups cannot be compared."]
    out = [
        sentence
        for factor, effect in one["effects"].items()
        if (sentence := _effect(factor, effect)) is not None
    ]
    out += _interaction(one["interaction"])
    out += _spread(one["spread"], found)
    out += _signs(found)
    out += [_across(two, found) for two in found["across"] if two["found"] is not None]
    return out + _limits(found)


def change(number: Mapping[str, Any], unit: str = "points") -> str:
    """A change of a share with its interval, e.g. `-3.1 points (-4.0 to -2.2)`."""
    scale = 100.0 if unit == "points" else 1.0
    digits = 1 if unit == "points" else 3
    value = f"{scale * number['value']:+.{digits}f} {unit}".strip()
    if number["interval_95"] is None:
        return f"{value} (no interval: fewer than three seeds)"
    low, high = (f"{scale * end:+.{digits}f}" for end in number["interval_95"])
    return f"{value} ({low} to {high})"


def certain(number: Mapping[str, Any]) -> bool | None:
    """Whether the interval leaves out 0; None without one."""
    ends = number["interval_95"]
    return None if ends is None else bool(ends[0] > 0 or ends[1] < 0)


def _effect(factor: str, effect: Mapping[str, Any]) -> str | None:
    name, levels = NAMES[factor], effect["levels"]
    if effect["changes_with"] == []:
        if factor in ("site", "architecture"):
            return None
        return f"what {name} does cannot be told: there is one level only ({_level(levels[0])})."
    if effect["changes_with"] is not None:
        held = " and ".join(NAMES[other] for other in effect["changes_with"])
        return f"what {name} does cannot be told: it changes together with {held}."
    if effect["doubling"] is None:
        shown = ", ".join(f"{100 * one['value']:.1f} % at {one['level']}" for one in levels)
        return f"by {name.removeprefix('the ')}, all else equal: {shown}."
    told = certain(effect["doubling"])
    tail = ". The interval holds 0, so the direction is not certain." if told is False else "."
    span = f"{_level(levels[0])} to {_level(levels[-1])}"
    return (
        f"doubling {name} ({span}) changes the shared share by {change(effect['doubling'])}{tail}"
    )


def _level(one: Mapping[str, Any]) -> str:
    level = one["level"]
    return f"{level:,}" if isinstance(level, int) else str(level)


def _interaction(number: Mapping[str, Any] | None) -> list[str]:
    if number is None:
        return []
    if certain(number):
        return [
            "width and k do not simply add: with each doubling of k the change by doubling the "
            f"width moves by {change(number)}."
        ]
    return [f"that width and k simply add is not ruled out ({change(number)} for both doubled)."]


def _spread(spread: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    parts = {k: v for k, v in spread["parts"].items() if v["share"] is not None}
    if not parts:
        return []
    ordered = sorted(parts.items(), key=lambda item: -item[1]["share"])
    shown = ", ".join(
        f"{100 * one['share']:.0f} % with {NAMES[name]}"
        for name, one in ordered
        if name != TOGETHER
    )
    alone = ""
    if spread["seeds"] is not None:
        alone = f"; other seeds alone would put {100 * spread['seeds']:.1f} % of it there"
    left = parts[TOGETHER]["share"]
    return [
        f"of the spread of the shared share over {spread['cells']} cells (standard deviation "
        f"{100 * spread['sd']:.1f} points) there go {shown}, and {100 * left:.0f} % with their "
        f"combination{alone}."
    ]


def _signs(found: Mapping[str, Any]) -> list[str]:
    """Factors whose effect on other measures points the other way, each with certainty."""
    out: list[str] = []
    shared = found["measures"][_SHARED]["effects"]
    for factor, effect in shared.items():
        one = effect["doubling"]
        if one is None or not certain(one):
            continue
        against = [
            f"{_MEASURES[name]} ({change(other, '' if name == _MEAN else 'points')})"
            for name, measure in found["measures"].items()
            if (other := measure["effects"].get(factor, {}).get("doubling")) is not None
            and certain(other)
            and other["value"] * one["value"] < 0
        ]
        if against:
            out.append(
                f"{NAMES[factor]} moves {' and '.join(against)} the other way: which of them is "
                "meant decides what may be said."
            )
    return out


def _across(two: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    label = {one["group"]: one["label"] for one in found["groups"]}
    back, number = two["found_back"], two["found"]
    ends = number["interval_95"]
    interval = "" if ends is None else f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"
    chance = "" if number["null"] is None else f", chance {100 * number['null']:.1f} %"
    return (
        f"of the latents of {label[two['small']]}, {100 * number['value']:.1f} %{interval} are "
        f"found in {label[two['large']]} under another init seed{chance}; the other way "
        f"{100 * back['value']:.1f} %."
    )


def _limits(found: Mapping[str, Any]) -> list[str]:
    out: list[str] = []
    if found["also_differ"]:
        shown = ", ".join(found["also_differ"])
        out.append(f"groups also differ in {shown}; what that does is inside the numbers above.")
    if found["data_seeds"] < 2:
        out.append(
            "one data seed: all groups saw the same tokens in the same order, so what another "
            "order would change is not in the intervals."
        )
    if found["init_seeds"] < 2:
        out.append(
            "one init seed: a narrow SAE starts from the first rows of a wider one, so what comes "
            "back can be what they started with."
        )
    if "tokens" in found["measures"][_SHARED]["effects"]:
        out.append(
            "tokens are those seen within one training, whose learning rate falls towards its end; "
            "a training of half the length is something else."
        )
    return out
