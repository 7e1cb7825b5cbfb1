"""What a reader must know before believing a number, in the sentences of sentences.toml."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from reseed.spec.statistics import (
    FeatureCounts,
    Headline,
    Range,
    Reconstruction,
)
from reseed.spec.summary import (
    ControlSummary,
    GroupSummary,
)
from reseed.stability.decoys import TRUSTED
from reseed.stability.group import SAME_INIT

SENTENCES: dict[str, Any] = tomllib.loads(
    files(__package__ or "").joinpath("sentences.toml").read_text("utf-8")
)

_HARDLY_MOVED = 0.8
"""Cosine of the rows that a soft-frozen decoder is held at, arXiv 2602.14111."""
_NONE = 0.005
"""Shared share below which nothing is said to have come back."""
_DOUBLINGS = 7.0
"""Doublings of the tokens up to which a trend is drawn on."""
_WIDE, _MANY = 0.1, 6
"""Width of an interval that more runs should narrow, and runs from which on they are many."""
_MISSED = 0.1
"""Share of the promised L0 by which a run may be off."""
_HIDDEN = 0.02
"""FVU by which a few far rows may move it, or a fifth of it if that is more."""
_EXCESS = 1.05
"""Times the bound without singletons that cannot be told from junk, from which on that is said."""
HIGH_GAMMA = 0.5
"""|mean| / |std| from which on many latents of a rule that subtracts nothing are dead from the
start (docs/training_methods.md)."""
_CLOSED = 0.9
"""Triangle closure below which single matches are called unreliable."""


def say(about: str, **numbers: Any) -> str:
    """A sentence of the file with its numbers."""
    return SENTENCES[about].format(**numbers)


def notes(
    group: GroupSummary,
    controls: Mapping[str, ControlSummary],
    trend: Mapping[int, float],
    epochs: float,
    promised_l0: float | None = None,
    *,
    nearest: Mapping[int, float] = MappingProxyType({}),
    pulled: bool = False,
    subtracts: bool = True,
    goes_on: str | None = None,
) -> list[str]:
    """Plain sentences about what weakens the numbers of a group.

    Args:
        group: its summary.
        controls: kind to what the control runs gave.
        trend: tokens seen to shared share.
        epochs: how often each training token was seen.
        promised_l0: latents that should fire in a row; None if nothing says so.
        nearest: tokens seen to the mean cosine to the nearest decoder row of another run.
        pulled: whether runs were trained towards each other (`mutual`).
        subtracts: whether anything is taken out of the rows, by the rule or by `center`.
        goes_on: the SAE that all runs started from, if there is one.
    """
    counts, proofs, moved = group.counts, group.certificates, group.distance_from_init.mean
    out = _missed(group.reconstruction.l0, promised_l0) + _far_rows(group.reconstruction)
    out += _worse(group.reconstruction.fvu)
    gamma = group.reconstruction.gamma
    if not subtracts and gamma is not None and gamma.mean is not None and gamma.mean >= HIGH_GAMMA:
        out.append(say("off_centre", gamma=gamma.mean, dead=counts.dead_share))
    if counts.runs < 2:
        return [*out, say("one_run")]
    if counts.runs == 2:
        out.append(say("two_runs"))
    out += _shared_seeds(group)
    if pulled:
        out.append(say("pulled"))
    assert group.headline is not None
    if goes_on is not None:
        before = group.headline.shared["all"].null_untrained or 0.0
        out.append(say("goes_on", source=goes_on, before=before))
    out += _too_short(trend, nearest, group.headline.tau)
    out += _crowded(group.headline)
    ends = group.headline.shared["all"].interval_95
    if ends is not None and ends[1] - ends[0] > _WIDE and counts.runs < _MANY:
        more = ", ".join(str(seed) for seed in range(2 * counts.runs))
        out.append(say("wide", points=100 * (ends[1] - ends[0]), runs=counts.runs, more=more))
    if epochs > 1.5:
        out.append(say("epochs", epochs=epochs))
    out += _outlying(group)
    out += _controls(group, controls)
    if moved is not None and moved > _HARDLY_MOVED:
        out.append(say("hardly_moved", moved=moved))
    if counts.dead_share > 0.1:
        out.append(say("dead", share=counts.dead_share))
    if proofs is not None and proofs.optimal < proofs.assignments:
        out.append(say("not_proven", open=proofs.assignments - proofs.optimal, proofs=proofs))
    return out


def _outlying(group: GroupSummary) -> list[str]:
    """Runs that stand out: which, by how much, and the share without them."""
    out: list[str] = []
    for each in group.outlying or ():
        way = "less" if each.share < each.others else "more"
        out.append(say("outlying", run=each.run, way=way, share=each.share, others=each.others))
    return out


def _crowded(headline: Headline) -> list[str]:
    """Whether the test finds latents of a run among the run's own others."""
    shares = [share.hi for share in headline.in_itself.values() if share.hi is not None]
    return [say("crowded", share=max(shares))] if max(shares, default=0.0) > TRUSTED else []


def _too_short(trend: Mapping[int, float], nearest: Mapping[int, float], tau: float) -> list[str]:
    """Whether more tokens would give another answer, and how many, from the snapshots."""
    points = sorted(trend.items())
    if not points:
        return []
    last, high = points[-1]
    if high < _NONE:
        return [_none_yet(sorted(nearest.items()), last, tau)]
    if len(points) < 3:
        return []
    before, low = points[-2]
    if high - low <= 0.1 * high:
        return []
    rise = {"low": low, "before": before, "high": high, "last": last}
    return [say("still_rising", **rise, more=_key(2 * last))]


def _none_yet(nearest: Sequence[tuple[int, float]], last: int, tau: float) -> str:
    """Where nothing came back: how far the nearest are, and when they would be near enough."""
    inner = [(tokens, cosine) for tokens, cosine in nearest if tokens > 0][-2:]
    if len(inner) < 2:
        return say("no_snapshots", more=_key(4 * last))
    (before, low), (_, high) = inner
    a_doubling = (high - low) / math.log2(last / before)
    rise = {"low": low, "before": before, "high": high, "last": last, "tau": tau}
    doublings = (tau - high) / a_doubling if a_doubling > 0 else math.inf
    if not 0 < doublings < _DOUBLINGS:
        return say("none_yet_far", **rise)
    return say("none_yet", **rise, more=_key(last * 2 ** max(doublings, 1.0)))


def _key(tokens: float) -> str:
    """A number of tokens as TOML writes it, two digits that count."""
    return f"{int(float(f'{tokens:.2g}')):_}"


def _worse(fvu: Range | None) -> list[str]:
    """Some run reconstructs worse than the mean of the rows would."""
    high = None if fvu is None else fvu.hi
    return [] if high is None or high <= 1 else [say("worse_than_mean", fvu=high)]


def _missed(l0: Range | None, promised: float | None) -> list[str]:
    """An L0 that is not what was asked for, by more than a tenth, in some run."""
    if promised is None or l0 is None or l0.lo is None or l0.hi is None:
        return []
    if max(abs(end - promised) for end in (l0.lo, l0.hi)) <= _MISSED * promised:
        return []
    return [say("missed_l0", l0=l0, promised=promised)]


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
    return [say("far_rows", **numbers)]


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
            out.append(say("control", kind=name, share=share, real=real.value, rules_out=rules_out))
    return out


def _shared_seeds(group: GroupSummary) -> list[str]:
    """What the seeds that runs share mean for the numbers."""
    independent, counts = group.independent, group.counts
    assert independent is not None
    assert group.headline is not None
    if independent.they == SAME_INIT:
        return [say("same_init")]
    left_out = counts.pairs - independent.pairs
    if not left_out:
        return []
    out = [say("left_out", left_out=left_out, pairs=counts.pairs)]
    return out if group.headline.shared["all"].interval_95 else [*out, say("crossed")]


def feature_warnings(features: FeatureCounts, closure: float | None, runs: int) -> list[str]:
    """Why estimates of the number of features should not be believed; empty if nothing says so.

    `closure` is the triangle closure of the group's matches, `runs` are those of the group: more
    than counted where some share a seed.
    """
    out: list[str] = []
    if closure is not None and closure < _CLOSED:
        out.append(say("not_closed", closure=closure))
    if features.at_least is not None and features.chao2 > _EXCESS * features.at_least:
        out.append(
            say("excess", **features.model_dump(include={"once", "once_implied", "at_least"}))
        )
    if features.runs < 5:
        out.append(say("few_runs", runs=features.runs))
    once = features.once / features.observed if features.observed else 0.0
    if once > 0.5:
        out.append(say("found_once", once=once))
    if runs > features.runs:
        out.append(say("occasions", occasions=features.runs, runs=runs))
    return out
