"""What the comparison of groups says, in the sentences of stability's sentences.toml."""

from __future__ import annotations

from collections.abc import Mapping

from reseed.spec.statistics import Estimate
from reseed.spec.summary import (
    AcrossGroups,
    Decomposition,
    Effect,
    Factors,
    LevelEstimate,
    Spread,
)
from reseed.stability.factors.effects import TOGETHER
from reseed.stability.notes import SENTENCES, say

NAMES: Mapping[str, str] = SENTENCES["factors"]

_SHARED, _MEAN = "shared", "pw_mcc"


def words(factors: Factors) -> list[str]:
    """What the comparison of groups says."""
    shared = factors.measures.get(_SHARED)
    if shared is None:
        return [say("no_pair")]
    effects = (_effect(factor, effect) for factor, effect in shared.effects.items())
    out = [sentence for sentence in effects if sentence is not None]
    out += _interaction(shared.interaction)
    out += _spread(shared.spread)
    out += _signs(factors.measures)
    labels = {group["group"]: group["label"] for group in factors.groups}
    out += [_across(two, labels) for two in factors.across if two.found is not None]
    return out + _limits(factors)


def change(number: Estimate, unit: str = "points") -> str:
    """A change of a share with its interval, e.g. `-3.1 points (-4.0 to -2.2)`."""
    scale, digits = (100.0, 1) if unit == "points" else (1.0, 3)
    value = f"{_signed(scale * _value(number), digits)} {unit}".strip()
    if number.interval_95 is None:
        return f"{value} (no interval: fewer than three seeds)"
    low, high = (_signed(scale * end, digits) for end in number.interval_95)
    return f"{value} ({low} to {high})"


def _signed(value: float, digits: int) -> str:
    """With its sign; what rounds to nothing has none below it."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


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
        return None
    if effect.changes_with is not None:
        others = " and ".join(NAMES[other] for other in effect.changes_with)
        return say("together", name=name, others=others)
    if effect.doubling is None:
        shares = ((max(100 * _value(level), 0.0), level.level) for level in levels)
        shown = ", ".join(f"{share:.1f} % at {level}" for share, level in shares)
        return say("levels", name=name.removeprefix("the "), levels=shown)
    return say(
        "doubling",
        name=name,
        first=_level(levels[0]),
        last=_level(levels[-1]),
        change=change(effect.doubling),
        tail=say("uncertain") if certain(effect.doubling) is False else ".",
    )


def _level(at: LevelEstimate) -> str:
    return f"{at.level:,}" if isinstance(at.level, int) else str(at.level)


def _interaction(number: Estimate | None) -> list[str]:
    if number is None:
        return []
    return [say("interaction" if certain(number) else "additive", change=change(number))]


def _spread(spread: Spread) -> list[str]:
    parts = {k: 100 * part.share for k, part in spread.parts.items() if part.share is not None}
    if not parts:
        return []
    rest = parts.pop(TOGETHER)
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{share:.0f} % goes with {NAMES[name]}" for name, share in ordered)
    alone = "" if spread.seeds is None else say("seeds_alone", seeds=100 * spread.seeds)
    sd = 100 * spread.sd
    return [say("spread", cells=spread.cells, sd=sd, parts=shown, rest=rest, alone=alone)]


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
                against.append(f"{SENTENCES['measures'][name]} ({change(other, unit)})")
        if against:
            out.append(say("other_way", name=NAMES[factor], measures=" and ".join(against)))
    return out


def _across(two: AcrossGroups, labels: Mapping[str, str]) -> str:
    back, number = two.found_back, two.found
    assert back is not None
    assert number is not None
    ends = number.interval_95
    return say(
        "across",
        small=labels[two.small],
        large=labels[two.large],
        found=100 * _value(number),
        interval="" if ends is None else f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})",
        chance="" if number.null is None else f", chance {100 * number.null:.1f} %",
        back=100 * _value(back),
    )


def _limits(factors: Factors) -> list[str]:
    out: list[str] = []
    if factors.also_differ:
        out.append(say("also_differ", keys=", ".join(factors.also_differ)))
    if factors.data_seeds < 2:
        out.append(say("one_data_seed"))
    if factors.init_seeds < 2:
        out.append(say("one_init_seed"))
    if "tokens" in factors.measures[_SHARED].effects:
        out.append(say("within_training"))
    return out
