"""What a reader must know before believing a number, in the sentences of sentences.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from reseed.spec.statistics import (
    Estimate,
    FeatureCounts,
    GroupSummary,
    Range,
    Reconstruction,
)
from reseed.spec.summary import (
    AcrossGroups,
    ControlSummary,
    Decomposition,
    Effect,
    Factors,
    LevelEstimate,
    Spread,
)
from reseed.stability.factors.effects import TOGETHER
from reseed.stability.group import SAME_INIT

_TEXTS: dict[str, Any] = tomllib.loads(
    files(__package__ or "").joinpath("sentences.toml").read_text("utf-8")
)

NAMES: Mapping[str, str] = _TEXTS["factors"]

_HARDLY_MOVED = 0.8
"""Cosine of the rows that a soft-frozen decoder is held at, arXiv 2602.14111."""
_MISSED = 0.1
"""Share of the promised L0 by which a run may be off."""
_HIDDEN = 0.02
"""FVU by which a few far rows may move it, or a fifth of it if that is more."""
_CLOSED = 0.9
"""Triangle closure below which single matches are called unreliable."""

_SHARED, _MEAN = "shared", "pw_mcc"


def _say(about: str, **numbers: Any) -> str:
    return _TEXTS[about].format(**numbers)


def notes(
    group: GroupSummary,
    controls: Mapping[str, ControlSummary],
    trend: Mapping[int, float],
    epochs: float,
    promised_l0: float | None = None,
    *,
    pulled: bool = False,
) -> list[str]:
    """Plain sentences about what weakens the numbers of a group.

    Args:
        group: its summary.
        controls: kind to what the control runs gave.
        trend: tokens seen to shared share.
        epochs: how often each training token was seen.
        promised_l0: latents that should fire in a row; None if nothing says so.
        pulled: whether runs were trained towards each other (`mutual`).
    """
    counts, proofs, moved = group.counts, group.certificates, group.distance_from_init.mean
    out = _missed(group.reconstruction.l0, promised_l0) + _far_rows(group.reconstruction)
    if counts.runs < 2:
        return [*out, _say("one_run")]
    if counts.runs == 2:
        out.append(_say("two_runs"))
    out += _shared_seeds(group)
    if pulled:
        out.append(_say("pulled"))
    points = sorted(trend.items())
    if len(points) >= 3 and points[-1][1] - points[-2][1] > 0.1 * max(points[-1][1], 1e-9):
        (before, low), (last, high) = points[-2:]
        out.append(_say("still_rising", low=low, before=before, high=high, last=last))
    if epochs > 1.5:
        out.append(_say("epochs", epochs=epochs))
    out += _controls(group, controls)
    if moved is not None and moved > _HARDLY_MOVED:
        out.append(_say("hardly_moved", moved=moved))
    if counts.dead_share > 0.1:
        out.append(_say("dead", share=counts.dead_share))
    if proofs is not None and proofs.optimal < proofs.assignments:
        out.append(_say("not_proven", open=proofs.assignments - proofs.optimal, proofs=proofs))
    return out


def _missed(l0: Range | None, promised: float | None) -> list[str]:
    """An L0 that is not what was asked for, by more than a tenth, in some run."""
    if promised is None or l0 is None or l0.lo is None or l0.hi is None:
        return []
    if max(abs(end - promised) for end in (l0.lo, l0.hi)) <= _MISSED * promised:
        return []
    return [_say("missed_l0", l0=l0, promised=promised)]


def _far_rows(fit: Reconstruction) -> list[str]:
    parts = {name: getattr(fit, name) for name in ("fvu", "fvu_robust", "far_rows", "far_variance")}
    return hidden_fvu({name: part and part.mean for name, part in parts.items()})


def hidden_fvu(fit: Mapping[str, float | None]) -> list[str]:
    """What to say where a few very long rows decide the FVU; see `reseed.evidence.distance`."""
    fvu, robust = fit.get("fvu"), fit.get("fvu_robust")
    if fvu is None or robust is None or not fit.get("far_rows"):
        return []
    if abs(robust - fvu) <= max(_HIDDEN, 0.2 * max(fvu, robust)):
        return []
    numbers = {name: fit[name] for name in ("fvu", "fvu_robust", "far_rows", "far_variance")}
    return [_say("far_rows", **numbers)]


def _controls(group: GroupSummary, controls: Mapping[str, ControlSummary]) -> list[str]:
    """Controls that share as much as the runs of the question do."""
    assert group.headline is not None
    real = group.headline.shared["all"]
    low = real.value if real.interval_95 is None else real.interval_95[0]
    out: list[str] = []
    for kind, control in controls.items():
        share = None if control.shared is None else control.shared["all"].value
        if share is not None and share > 0 and low is not None and share >= low:
            name, rules_out = kind.replace("_", " "), control.rules_out
            out.append(
                _say("control", kind=name, share=share, real=real.value, rules_out=rules_out)
            )
    return out


def _shared_seeds(group: GroupSummary) -> list[str]:
    """What the seeds that runs share mean for the numbers."""
    independent, counts = group.independent, group.counts
    assert independent is not None
    assert group.headline is not None
    if independent.they == SAME_INIT:
        return [_say("same_init")]
    left_out = counts.pairs - independent.pairs
    if not left_out:
        return []
    out = [_say("left_out", left_out=left_out, pairs=counts.pairs)]
    return out if group.headline.shared["all"].interval_95 else [*out, _say("crossed")]


def feature_warnings(features: FeatureCounts, closure: float | None, runs: int) -> list[str]:
    """Why estimates of the number of features should not be believed; empty if nothing says so.

    `closure` is the triangle closure of the group's matches, `runs` are those of the group: more
    than counted where some share a seed.
    """
    out: list[str] = []
    if closure is not None and closure < _CLOSED:
        out.append(_say("not_closed", closure=closure))
    if features.runs < 5:
        out.append(_say("few_runs", runs=features.runs))
    once = features.once / features.observed if features.observed else 0.0
    if once > 0.5:
        out.append(_say("found_once", once=once))
    if runs > features.runs:
        out.append(_say("occasions", occasions=features.runs, runs=runs))
    return out


def words(factors: Factors) -> list[str]:
    """What the comparison of groups says."""
    shared = factors.measures.get(_SHARED)
    if shared is None:
        return [_say("no_pair")]
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
        return _say("one_level", name=name, level=_level(levels[0]))
    if effect.changes_with is not None:
        others = " and ".join(NAMES[other] for other in effect.changes_with)
        return _say("together", name=name, others=others)
    if effect.doubling is None:
        shown = ", ".join(f"{100 * _value(level):.1f} % at {level.level}" for level in levels)
        return _say("levels", name=name.removeprefix("the "), levels=shown)
    return _say(
        "doubling",
        name=name,
        first=_level(levels[0]),
        last=_level(levels[-1]),
        change=change(effect.doubling),
        tail=_say("uncertain") if certain(effect.doubling) is False else ".",
    )


def _level(at: LevelEstimate) -> str:
    return f"{at.level:,}" if isinstance(at.level, int) else str(at.level)


def _interaction(number: Estimate | None) -> list[str]:
    if number is None:
        return []
    return [_say("interaction" if certain(number) else "additive", change=change(number))]


def _spread(spread: Spread) -> list[str]:
    parts = {k: 100 * part.share for k, part in spread.parts.items() if part.share is not None}
    if not parts:
        return []
    rest = parts.pop(TOGETHER)
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{share:.0f} % with {NAMES[name]}" for name, share in ordered)
    alone = "" if spread.seeds is None else _say("seeds_alone", seeds=100 * spread.seeds)
    sd = 100 * spread.sd
    return [_say("spread", cells=spread.cells, sd=sd, parts=shown, rest=rest, alone=alone)]


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
                against.append(f"{_TEXTS['measures'][name]} ({change(other, unit)})")
        if against:
            out.append(_say("other_way", name=NAMES[factor], measures=" and ".join(against)))
    return out


def _across(two: AcrossGroups, labels: Mapping[str, str]) -> str:
    back, number = two.found_back, two.found
    assert back is not None
    assert number is not None
    ends = number.interval_95
    return _say(
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
        out.append(_say("also_differ", keys=", ".join(factors.also_differ)))
    if factors.data_seeds < 2:
        out.append(_say("one_data_seed"))
    if factors.init_seeds < 2:
        out.append(_say("one_init_seed"))
    if "tokens" in factors.measures[_SHARED].effects:
        out.append(_say("within_training"))
    return out
