"""The comparison of groups in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from reseed.spec.statistics import Estimate
from reseed.spec.summary import AcrossGroups, Decomposition, Effect, Factors, LevelEstimate, Spread
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


def words(factors: Factors) -> list[str]:
    """What the numbers say, for people."""
    shared = factors.measures.get(_SHARED)
    if shared is None:
        return ["some group has no pair of runs, so groups cannot be compared."]
    out = [
        sentence
        for factor, effect in shared.effects.items()
        if (sentence := _effect(factor, effect)) is not None
    ]
    out += _interaction(shared.interaction)
    out += _spread(shared.spread)
    out += _signs(factors.measures)
    labels = {group["group"]: group["label"] for group in factors.groups}
    out += [_across(two, labels) for two in factors.across if two.found is not None]
    return out + _limits(factors)


def change(number: Estimate, unit: str = "points") -> str:
    """A change of a share with its interval, e.g. `-3.1 points (-4.0 to -2.2)`."""
    scale, digits = (100.0, 1) if unit == "points" else (1.0, 3)
    value = f"{scale * _value(number):+.{digits}f} {unit}".strip()
    if number.interval_95 is None:
        return f"{value} (no interval: fewer than three seeds)"
    low, high = (f"{scale * end:+.{digits}f}" for end in number.interval_95)
    return f"{value} ({low} to {high})"


def certain(number: Estimate) -> bool | None:
    """Whether the interval leaves out 0; None without one."""
    ends = number.interval_95
    return None if ends is None else bool(ends[0] > 0 or ends[1] < 0)


def _value(number: Estimate) -> float:
    assert number.value is not None
    return number.value


def _effect(factor: str, effect: Effect) -> str | None:
    name, levels = NAMES[factor], effect.levels
    if effect.changes_with == []:
        if factor in ("site", "architecture"):
            return None
        return f"what {name} does cannot be told: there is one level only ({_level(levels[0])})."
    if effect.changes_with is not None:
        held = " and ".join(NAMES[other] for other in effect.changes_with)
        return f"what {name} does cannot be told: it changes together with {held}."
    if effect.doubling is None:
        shown = ", ".join(f"{100 * _value(level):.1f} % at {level.level}" for level in levels)
        return f"by {name.removeprefix('the ')}, all else equal: {shown}."
    tail = "."
    if certain(effect.doubling) is False:
        tail = ". The interval holds 0, so the direction is not certain."
    span = f"{_level(levels[0])} to {_level(levels[-1])}"
    return f"doubling {name} ({span}) changes the shared share by {change(effect.doubling)}{tail}"


def _level(at: LevelEstimate) -> str:
    return f"{at.level:,}" if isinstance(at.level, int) else str(at.level)


def _interaction(number: Estimate | None) -> list[str]:
    if number is None:
        return []
    if certain(number):
        return [
            "width and k do not simply add: with each doubling of k the change by doubling the "
            f"width moves by {change(number)}."
        ]
    return [f"that width and k simply add is not ruled out ({change(number)} for both doubled)."]


def _spread(spread: Spread) -> list[str]:
    parts = {k: part.share for k, part in spread.parts.items() if part.share is not None}
    if not parts:
        return []
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    shown = ", ".join(
        f"{100 * share:.0f} % with {NAMES[name]}" for name, share in ordered if name != TOGETHER
    )
    alone = ""
    if spread.seeds is not None:
        alone = f"; other seeds alone would put {100 * spread.seeds:.1f} % of it there"
    return [
        f"of the spread of the shared share over {spread.cells} cells (standard deviation "
        f"{100 * spread.sd:.1f} points) there go {shown}, and {100 * parts[TOGETHER]:.0f} % with "
        f"their combination{alone}."
    ]


def _signs(measures: Mapping[str, Decomposition]) -> list[str]:
    """Factors whose effect on other measures points the other way, each with certainty."""
    out: list[str] = []
    for factor, effect in measures[_SHARED].effects.items():
        shared = effect.doubling
        if shared is None or not certain(shared):
            continue
        against: list[str] = []
        for name, measure in measures.items():
            other = measure.effects[factor].doubling if factor in measure.effects else None
            if other is not None and certain(other) and _value(other) * _value(shared) < 0:
                unit = "" if name == _MEAN else "points"
                against.append(f"{_MEASURES[name]} ({change(other, unit)})")
        if against:
            out.append(
                f"{NAMES[factor]} moves {' and '.join(against)} the other way: which of them is "
                "meant decides what may be said."
            )
    return out


def _across(two: AcrossGroups, labels: Mapping[str, str]) -> str:
    back, number = two.found_back, two.found
    assert back is not None
    assert number is not None
    ends = number.interval_95
    interval = "" if ends is None else f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"
    chance = "" if number.null is None else f", chance {100 * number.null:.1f} %"
    return (
        f"of the latents of {labels[two.small]}, {100 * _value(number):.1f} %{interval} are "
        f"found in {labels[two.large]} under another init seed{chance}; the other way "
        f"{100 * _value(back):.1f} %."
    )


def _limits(factors: Factors) -> list[str]:
    out: list[str] = []
    if factors.also_differ:
        shown = ", ".join(factors.also_differ)
        out.append(f"groups also differ in {shown}; what that does is inside the numbers above.")
    if factors.data_seeds < 2:
        out.append(
            "one data seed: all groups saw the same tokens in the same order, so what another "
            "order would change is not in the intervals."
        )
    if factors.init_seeds < 2:
        out.append(
            "one init seed: a narrow SAE starts from the first rows of a wider one, so what comes "
            "back can be what they started with."
        )
    if "tokens" in factors.measures[_SHARED].effects:
        out.append(
            "tokens are those seen within one training, whose learning rate falls towards its end; "
            "a training of half the length is something else."
        )
    return out
